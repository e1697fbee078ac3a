"""What the command line is made of: values people write, exit codes, tables, usage errors."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys

import pytest

from oq import errors
from oq.cli import control, exits, inputs
from oq.cli.output import TASK_COLUMNS, plain, print_table, task_row
from oq.cli.session import Session
from oq.cli.words import one_line, printable, seconds
from oq.wire import RemoteEvent, RemoteTask
from tests.cli.conftest import Oq
from tests.cli.live import ROOT, environment


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TaskNotFound("x"), 3),
        (errors.TaskFailed("x"), 4),
        (errors.TaskCancelled("x"), 4),
        (errors.ServerUnreachable("x"), 5),
        (errors.IdempotencyConflict("x"), 6),
        (errors.WaitTimeout("x"), 124),
        (errors.InvalidTask("x"), 1),
        (errors.QueueFull("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error, code):
    assert exits.exit_code(error) == code


def test_messages_split_only_where_a_role_follows_a_comma():
    said = inputs.parse_messages(["user:One, two, user: three,assistant:four"])
    assert [message["content"] for message in said] == ["One, two, user: three", "four"]


def test_a_message_may_hold_colons():
    assert inputs.parse_messages(["user:at 10:30: go"]) == [{"role": "user", "content": "at 10:30: go"}]


@pytest.mark.parametrize("arguments", [
    ("submit", "chat", "-m", "m", "--messages", "Hello"),
    ("submit", "chat", "-m", "m", "--messages", "usr:Hello"),
    ("submit", "chat", "Hello"),
    ("submit", "generate", "-m", "m", "--prompt", "a", "b"),
    ("submit", "generate", "-m", "m", "--prompt", "@no-such-file"),
    ("submit", "generate", "-m", "m", "--option", "temperature", "x"),
    ("submit", "generate", "-m", "m", "--format", "{", "x"),
    ("submit", "generate", "-m", "m", "--priority", "urgent", "x"),
    ("submit", "generate", "-m", "m", "--delay", "soon", "x"),
    ("submit", "generate", "-m", "m", "--delay", "1h", "--at", "2030-01-31T08:00:00Z", "x"),
    ("submit", "generate", "-m", "", "x"),
    ("submit", "generate", "-m", "m", "--at", "tomorrow", "x"),
    ("submit", "generate", "-m", "m", "--max-retries", "-1", "x"),
    ("submit", "embed", "-m", "m", "--dimensions", "0", "x"),
    ("list", "--status", "done"),
    ("--timeout", "nan", "status"),
    ("--timeout", "-1", "status"),
    ("--timeout", "1e300", "status"),
    ("list", "--limit", "1001"),
    ("cancel",),
    ("cancel", "abc", "--all"),
    ("wait",),
    ("wait", "abc", "--timeout", "soon"),
    ("priority", "abc", "urgent"),
    ("completion", "tcsh"),
    ("serve", "--port", "99999"),
    ("nonsense",),
    ("status", "-o", "xml"),
    ("export", "-o", "id"),
    ("-o", "table", "export"),
    ("export", "--data-dir", "x"),
    ("import", "--data-dir", "x"),
    ("events", "--after", "-1"),
    ("events", "--after", "soon"),
])  # fmt: skip
def test_wrong_usage_exits_with_2_and_a_sentence(bare: Oq, arguments):
    found = bare(*arguments, input="")
    assert found.exit_code == 2
    assert "Error: " in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("arguments", [
    ("list", "--search", "\udcff"),
    ("list", "--tag", "\udcff"),
    ("show", "\udcff"),
    ("submit", "generate", "-m", "m", "--tag", "\udcff", "a"),
    ("submit", "generate", "-m", "\udcff", "a"),
    ("submit", "generate", "-m", "m", "\udcff"),
    ("submit", "chat", "-m", "m", "--option", "stop=\udcff", "a"),
    ("cancel", "--tag", "\udcff", "-y"),
])  # fmt: skip
def test_an_argument_that_is_no_text_is_wrong_usage(bare: Oq, arguments):
    found = bare(*arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr == "error: an argument is not UTF-8 text: '\\udcff'; see LC_ALL\n"


def test_a_path_may_be_of_any_bytes(bare: Oq, tmp_path):
    (tmp_path / "\udcff").write_text("[]")
    assert "there is no task in" in bare("batch", "\udcff").stderr


def test_a_token_that_is_no_text_is_named(bare: Oq, monkeypatch):
    monkeypatch.setenv("OQ_TOKEN", "b\udcff")
    found = bare("list")
    assert (found.exit_code, found.stderr.partition(" is ")[0]) == (1, "error: OQ_TOKEN")


def test_an_output_that_cannot_hold_a_character_is_a_sentence():
    env = environment(PYTHONIOENCODING="latin-1", OQ_OLLAMA__HOST="http://世:1")
    command = [sys.executable, "-m", "oq", "config", "show"]
    found = subprocess.run(command, capture_output=True, text=True, env=env, timeout=30)
    assert (found.returncode, "PYTHONIOENCODING" in found.stderr) == (1, True), found.stderr


def test_wrong_input_that_the_builders_find_names_the_field(bare: Oq):
    found = bare("submit", "generate", "-m", "m", "--tag", "a,b", "x")
    assert (found.exit_code, found.stderr.partition(":")[0]) == (1, "error")
    assert "tag" in found.stderr


@pytest.mark.parametrize("words", [("hi",), ("-m", "smollm2", "hi"), ("chatt", "hi"), ("--stream", "hi")])
def test_a_submission_of_no_kind_is_told_the_kinds(bare: Oq, words):
    found = bare("submit", *words)
    assert found.exit_code == 2
    assert "Error: say what kind of task it is: oq submit chat|generate|embed …" in found.stderr


def test_an_option_before_the_kind_is_told_its_place(bare: Oq):
    assert "-m stands after the kind: oq submit chat -m …" in bare("submit", "-m", "m", "chat", "hi").stderr


def test_a_near_miss_of_a_command_is_suggested(bare: Oq):
    assert "'submit'" in bare("sumbit").stderr


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        (("list", "--config", "x"), "oq --config … list"),
        (("list", "--timeout=5"), "oq --timeout … list"),
        (("list", "-v"), "oq -v list"),
        (("doctor", "--no-color"), "oq --no-color doctor"),
        (("token", "list", "--data-dir", "x"), "oq --data-dir … token list"),
        (("token", "--data-dir", "x", "list"), "oq --data-dir … token"),
    ],
)
def test_where_an_option_of_the_program_stands_is_said(bare: Oq, arguments, example):
    found = bare(*arguments)
    assert found.exit_code == 2
    name = next(word for word in example.split() if word.startswith("-"))
    assert found.stderr.splitlines()[-1] == f"Error: {name} stands before the command: {example}"


def test_an_option_that_is_nowhere_is_none(bare: Oq):
    assert "No such option '--nonsense'" in bare("list", "--nonsense").stderr


def test_events_that_are_lost_are_told_with_what_to_do(capsys):
    control._print_event(Session(), RemoteEvent(17, "resync"))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("events up to number 17 may be missing here: begin again from what is now")


def test_text_that_begins_with_an_at_sign_can_be_given():
    assert inputs.read_text("@@home") == "@home"


def test_a_file_that_is_not_text_is_refused(bare: Oq, tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    assert "UTF-8" in bare("submit", "generate", "-m", "m", "--prompt", "@x").stderr


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfHello")
    assert inputs.read_text(f"@{tmp_path}/x") == "Hello"


def test_terminal_control_is_taken_out():
    assert printable("a\x1b]0;title\x07b\r\u009bc\n\t") == "a]0;titlebc\n\t"
    assert printable("to \u202egnp.exe\u2069, \u05d0\u200d") == "to gnp.exe, \u05d0\u200d"
    assert one_line("a\n  b\x1b[31m c", 6) == "a b[3…"


def test_a_table_lines_up_with_wide_characters(capsys):
    print_table(Session(), ("NAME", "N"), [("你好", "1"), ("ab", "22")])
    assert capsys.readouterr().out == "NAME  N\n你好  1\nab    22\n"


def test_a_narrow_terminal_hides_no_column(capsys):
    session = Session()
    session.color, columns = True, ("ID", "TYPE", "MODEL", "PROMPT")
    print_table(session, columns, [("0sazve0nzfg00", "embed", "a-model-" * 9, "a prompt " * 9)])
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert said.splitlines()[0].split() == list(columns)
    assert said.splitlines()[1].split()[:2] == ["0sazve0nzfg00", "embed"]


def drawn(capsys, columns, *rows) -> list[str]:
    """Return the lines of a table on a terminal of 60 columns."""
    session = Session()
    session.color = True
    print_table(session, columns, rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


def test_on_a_narrow_terminal_advice_goes_on_in_the_next_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    advice = "/data/Data.fs is missing, though /data was in use: restore a backup, or remove " + "x" * 70
    head, *lines = drawn(capsys, ("STATE", "WHAT", "FINDING"), ("fail", "store", advice), ("ok", "disk", "y"))
    column = head.index("FINDING")
    assert lines[0].split()[:2] == ["fail", "store"]
    assert "".join(line[column:] for line in lines[:-1]).replace(" ", "") == advice.replace(" ", "")
    assert all(len(line) <= 60 for line in lines)


def test_a_task_of_a_list_is_one_line_of_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    task = RemoteTask("0sazve0nzfg00", "generate", "m", prompt="a prompt " * 9)
    head, *lines = drawn(capsys, TASK_COLUMNS, task_row(task), task_row(task))
    assert head.split() == list(TASK_COLUMNS)
    assert len(lines) == 2


@pytest.mark.parametrize(("status", "error"), [("failed", "no such model"), ("cancelled", "cancelled")])
def test_the_line_of_a_task_that_did_not_succeed_has_its_prompt(status, error):
    task = RemoteTask("a", status=status, error=error, prompt="Why is the sky blue?")
    assert task_row(task)[-3:] == (status, "", "Why is the sky blue?")


def test_times_are_spelled_but_the_users_own_json_is_left_alone():
    task = RemoteTask("a", created_at=0.0, payload={"run_at": 1.5, "empty": ""}, attempts=())
    assert plain(task)["created_at"] == "1970-01-01T00:00:00.000000Z"
    assert plain(task)["payload"] == {"run_at": 1.5, "empty": ""}
    assert plain(RemoteEvent(1, "x", task=task))["task"]["created_at"].endswith("Z")


def test_what_an_event_or_a_change_does_not_tell_is_not_made_up():
    changed = RemoteTask("a", priority=10, retry_count=2)
    assert not {"guard", "max_retries"} & plain(changed).keys()
    assert not {"guard", "max_retries"} & plain(RemoteEvent(1, "x", task=changed))["task"].keys()
    assert plain(RemoteTask("a", prompt="x"))["max_retries"] == 0


def test_durations_are_short():
    assert [seconds(n) for n in (None, 0.0, 59.94, 60, 3600)] == ["", "0.00s", "59.9s", "1m00s", "1h00m"]


def test_version_is_told_both_ways(bare: Oq):
    from oq.version import VERSION

    assert bare("--version").stdout == f"oq {VERSION}\n"
    assert bare("version", "-o", "id").stdout == f"{VERSION}\n"


INTERRUPTED = """
import os, runpy, signal, sys

module = sys.argv.pop(1)

class Interrupting:
    def find_spec(self, name, *rest):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
runpy.run_module("oq", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["oq.cli", "click", "oq.errors", "oq.cli.tasks", "msgspec"])
def test_ctrl_c_during_the_imports_is_no_traceback(module: str):
    command = [sys.executable, "-c", INTERRUPTED, module, "list"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=30)
    assert (found.returncode, found.stderr.strip()) == (130, "interrupted")


def test_the_installed_commands_start_as_the_module_does():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    assert scripts == ["", "oq = oq.__main__:main", "ollama-queue = oq.__main__:main"]
