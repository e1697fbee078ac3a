"""The commands against a real `oq serve` process and a fake model server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_ollama import FakeOllama, lines, says, status

from oq.builders import generate
from oq.client import Client
from tests.cli.conftest import Oq
from tests.cli.live import ROOT, Served, environment

NEVER = says("x", first_after=600.0)


def asked(model_server: FakeOllama) -> dict[str, object]:
    """Return what the model server was asked last."""
    body: dict[str, object] = next(r for r in reversed(model_server.requests) if r.body).json()
    return body


def submit(oq: Oq, *arguments: str) -> str:
    found = oq("submit", "generate", "-m", "m", "-o", "id", *arguments)
    assert found.exit_code == 0, found.stderr
    return found.stdout.strip()


# --- submit


def test_a_submission_prints_the_id(oq: Oq, queue: Client):
    found = oq("submit", "chat", "--model", "llama3.2", "--messages", "user:Hello", "--priority", "high")
    id = re.fullmatch(r"Task submitted with ID: (\w{13})\n", found.stdout)
    assert id is not None
    assert queue.get(id[1]).priority == 10


def test_messages_keep_their_commas(oq: Oq, model_server: FakeOllama):
    oq(
        "submit",
        "chat",
        "-m",
        "m",
        "--messages",
        "system:Be brief.",
        "--messages",
        "user:Hello, world",
        "--wait",
    )
    assert asked(model_server)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello, world"},
    ]


def test_a_chat_without_a_role_is_the_users(oq: Oq, model_server: FakeOllama):
    assert oq("submit", "chat", "-m", "m", "What", "is", "it?", "--wait").stdout == "Hello world\n"
    assert asked(model_server)["messages"] == [{"role": "user", "content": "What is it?"}]


def test_a_prompt_comes_through_a_pipe(oq: Oq, model_server: FakeOllama):
    found = oq("submit", "generate", "-m", "m", "--wait", "-q", input="from the pipe")
    assert (found.exit_code, found.stdout, found.stderr) == (0, "Hello world\n", "")
    assert asked(model_server)["prompt"] == "from the pipe"


def test_a_prompt_comes_from_a_file(oq: Oq, model_server: FakeOllama, tmp_path):
    (tmp_path / "prompt.txt").write_text("from the file")
    oq("submit", "generate", "-m", "m", "--prompt", "@prompt.txt", "--wait")
    assert asked(model_server)["prompt"] == "from the file"


def test_all_flags_reach_the_model_server(oq: Oq, model_server: FakeOllama, tmp_path):
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    found = oq(
        "submit", "generate", "-m", "m", "--prompt", "p", "--system", "s", "--suffix", "e", "--template", "t", "--raw",
        "--option", "temperature=0.5", "--option", "stop=END", "--format", "@schema.json", "--keep-alive", "-1",
        "--think", "false", "--image", "a.png", "--truncate", "--wait",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    wanted = {
        "prompt": "p", "system": "s", "suffix": "e", "template": "t", "raw": True, "keep_alive": -1, "think": False,
        "options": {"temperature": 0.5, "stop": "END"}, "format": {"type": "object"}, "images": ["iVBORw=="],
        "truncate": True,
    }  # fmt: skip
    assert asked(model_server).items() >= wanted.items()


def test_a_picture_that_is_not_there_is_wrong_usage(oq: Oq):
    found = oq("submit", "generate", "-m", "m", "--prompt", "p", "--image", "none.png")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "'none.png' does not exist" in found.stderr


def test_an_embedding_says_what_came_and_json_has_it_all(oq: Oq):
    said = oq("submit", "embed", "-m", "m", "--input", "a", "b", "--wait").stdout
    assert said == "2 vectors of 2 dimensions; -o json prints them\n"
    found = oq("submit", "embed", "-m", "m", "--lines", "--wait", "-o", "json", input="a\n\nb\n")
    assert json.loads(found.stdout)["result"]["embeddings"] == [[0.5, 0.25], [0.5, 0.25]]


def test_stream_prints_the_text_as_it_comes(oq: Oq):
    found = oq("submit", "chat", "-m", "m", "Hi", "--stream")
    assert (found.exit_code, found.stdout) == (0, "Hello world\n")


def test_what_would_steer_the_terminal_is_taken_out_of_a_models_text(oq: Oq, model_server: FakeOllama):
    model_server.default = says("a\x1b[2J", "\x07b\n")
    assert oq("submit", "chat", "-m", "m", "Hi", "--stream").stdout == "a[2Jb\n\n"


def test_a_task_that_fails_exits_with_4(oq: Oq, model_server: FakeOllama):
    model_server.default = status(404, "model 'nope' not found")
    found = oq("submit", "generate", "-m", "nope", "x", "--wait")
    assert found.exit_code == 4
    assert "nope" in found.stderr
    assert found.stdout == ""


def test_the_same_idempotency_key_is_the_same_task(oq: Oq):
    first = submit(oq, "x", "--idempotency-key", "k1")
    assert submit(oq, "x", "--idempotency-key", "k1") == first
    other = oq("submit", "generate", "-m", "m", "other", "--idempotency-key", "k1")
    assert other.exit_code == 6


def test_a_delayed_task_is_scheduled(oq: Oq, queue: Client):
    task = queue.get(
        submit(oq, "x", "--delay", "1h", "--tag", "later", "--max-retries", "0", "--timeout", "5m")
    )
    assert (task.status, task.tags, task.max_retries, task.timeout) == ("scheduled", ("later",), 0, 300.0)


# --- looking


def test_list_filters_and_limits(oq: Oq):
    ids = [submit(oq, "x", "--delay", "1h", "--priority", level) for level in ("low", "high", "high")]
    found = oq("list", "--status", "scheduled", "--priority", "high", "--limit", "1", "-o", "id")
    assert found.stdout.split() == [ids[2]]
    table = oq("list", "--status", "scheduled", "--type", "generate", "--output", "table")
    assert table.stdout.splitlines()[0].split()[:5] == ["ID", "TYPE", "MODEL", "PRIORITY", "STATUS"]
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == ids[::-1]


def test_jsonl_is_one_object_a_line(oq: Oq):
    ids = [submit(oq, "x", "--delay", "1h") for _ in range(2)]
    found = [json.loads(line) for line in oq("-o", "jsonl", "list", "--sort", "created").stdout.splitlines()]
    assert [task["id"] for task in found] == ids
    assert found[0]["created_at"].endswith("Z")


def test_status_shows_the_numbers(oq: Oq):
    submit(oq, "x", "--delay", "1h")
    assert "scheduled     1" in oq("status").stdout
    assert json.loads(oq("status", "-o", "json").stdout)["scheduled_tasks"] == 1


def test_ids_may_be_shortened(oq: Oq):
    id = submit(oq, "x", "--delay", "1h")
    assert json.loads(oq("status", id[4:], "-o", "json").stdout)["id"] == id


def test_show_tells_all_of_a_task(oq: Oq):
    id = submit(oq, "tell me", "--option", "seed=7")
    oq("wait", id)
    found = oq("show", id).stdout
    for part in ("tell me", '{"seed":7}', "succeeded", "Hello world"):
        assert part in found


def test_show_tells_what_was_asked_for_beside_the_prompt(oq: Oq):
    id = submit(oq, "x", "--timeout", "90", "--keep-alive", "5m", "--guard", "fail", "--delay", "1h")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in oq("show", id).stdout.splitlines()[1:])
    assert rows["timeout"] == "1m30s"
    assert rows["keep alive"] == "5m"
    assert rows["guard"] == "fail"
    assert rows["waits"] == "it is not to start before its time"


@pytest.mark.parametrize("value", ["banana", "5 minutes", "1d", "1h30", "-", "٥m", ""])
def test_a_keep_alive_that_no_model_server_reads_is_refused_at_once(oq: Oq, value: str):
    found = oq("submit", "generate", "-m", "m", "x", "--keep-alive", value)
    assert (found.exit_code, "a duration, such as 5m" in found.stderr) == (2, True)


@pytest.mark.parametrize("value", ["0", "-1", "300", "1h30m", "-1m", "1.5h", "250ms"])
def test_a_keep_alive_that_model_servers_read_is_passed_on(oq: Oq, value: str):
    id = submit(oq, "x", "--keep-alive", value, "--delay", "1h")
    kept = json.loads(oq("show", id, "-o", "json").stdout)["keep_alive"]
    assert str(kept) == value


def test_an_answer_that_was_cut_says_so_wherever_it_is_printed(oq: Oq, model_server: FakeOllama):
    cut = {
        "model": "m",
        "created_at": "2026-01-01T00:00:00Z",
        "response": "",
        "done": True,
        "done_reason": "length",
    }
    model_server.default = lines({**cut, "response": "Hel", "done": False}, cut)
    note = "note: the answer was cut at its end: a larger num_predict, or a larger num_ctx\n"
    for how in ("--wait", "--stream"):
        found = oq("submit", "generate", "-m", "m", "x", how)
        assert found.stdout == "Hel\n"
        assert found.stderr.endswith(note)
    id = found.stderr.split()[1]
    assert oq("attach", id).stderr == note
    assert oq("attach", id, "-q").stderr == ""
    assert "warning   the answer was cut at its end" in oq("show", id).stdout


def test_wait_exits_with_4_when_one_of_them_failed(oq: Oq, model_server: FakeOllama):
    model_server.script(says("a"), status(400, "bad"))
    ids = [submit(oq, "x") for _ in range(2)]
    found = oq("wait", "-", "-o", "id", input="\n".join(ids))
    assert (found.exit_code, found.stdout.split()) == (4, ids)


def test_beside_the_lines_of_tasks_it_is_told_why_one_failed(oq: Oq, model_server: FakeOllama):
    model_server.script(status(400, "this prompt is bad"))
    id = submit(oq, "tell me")
    for command in ("wait", "status"):
        found = oq(command, id)
        assert found.stdout.splitlines()[1].endswith("tell me")
        assert found.stderr.startswith(f"task {id} failed: ")
        assert "this prompt is bad" in found.stderr
    assert oq("delete", "--all", "--dry-run").stdout.splitlines()[1].endswith("tell me")


def test_wait_exits_with_124_when_it_takes_too_long(oq: Oq):
    assert oq("wait", submit(oq, "x", "--delay", "1h"), "--timeout", "50ms").exit_code == 124


def test_a_missing_task_exits_with_3_and_no_traceback(oq: Oq):
    found = oq("show", "0000000000000")
    assert found.exit_code == 3
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr


def test_attach_shows_the_text_of_a_finished_task(oq: Oq):
    id = submit(oq, "x")
    oq("wait", id)
    assert oq("attach", id).stdout == "Hello world\n"
    assert oq("stream", id, "--offset", "6").stdout == "world\n"
    text, end = [json.loads(line) for line in oq("attach", id, "-o", "jsonl").stdout.splitlines()]
    assert text == {"type": "text", "kind": "content", "attempt": 1, "offset": 0, "text": "Hello world"}
    assert (end.keys(), end["type"], end["task"]["id"]) == ({"type", "task"}, "end", id)


def test_top_shows_the_queue_once_without_a_terminal(oq: Oq):
    id = submit(oq, "x", "--delay", "1h")
    found = oq("top").stdout
    assert id in found
    assert "default" in found


def test_hosts_and_models_tell_what_the_model_server_has(oq: Oq, model_server: FakeOllama):
    (host,) = json.loads(oq("hosts", "-o", "json").stdout)
    assert (host["name"], host["version"], host["up"]) == ("default", "0.32.15", True)
    assert oq("models", "-o", "id").stdout == "llama3.2\n"


def test_events_are_shown_from_the_beginning_on(oq: Oq):
    id = submit(oq, "x", "--delay", "1h")
    lines = oq("events", "--after", "0", "--type", "task_submitted", "--limit", "1").stdout.splitlines()
    assert len(lines) == 1
    assert "task_submitted" in lines[0]
    assert id


def test_events_that_nobody_knows_are_said_to_be_missing(oq: Oq):
    found = oq("events", "--after", "999999", "--limit", "1")
    assert (found.exit_code, found.stdout) == (0, "")
    assert "may be missing here" in found.stderr
    assert '"resync"' in oq("events", "--after", "999999", "--limit", "1", "-o", "jsonl").stdout


# --- changing


def test_a_cancelled_running_task_stops_at_the_model_server(oq: Oq, queue: Client, model_server: FakeOllama):
    model_server.default = NEVER
    id = submit(oq, "x")
    with queue.subscribe(["task_started"], after=0) as events:
        next(event for event in events if event.task_id == id)
    assert oq("cancel", id).stdout == f"Task {id} cancelled\n"
    assert queue.wait(id, 5).status == "cancelled"
    assert oq("cancel", id).exit_code == 6


def test_a_filter_needs_y_without_a_terminal(oq: Oq, queue: Client):
    id = submit(oq, "x", "--delay", "1h")
    found = oq("cancel", "--status", "scheduled")
    assert found.exit_code == 2
    assert "-y" in found.stderr
    assert queue.get(id).status == "scheduled"
    assert oq("cancel", "--status", "scheduled", "-y").stdout == "1 of 1 tasks cancelled\n"
    assert queue.get(id).status == "cancelled"


def test_a_dry_run_changes_nothing(oq: Oq, queue: Client):
    id = submit(oq, "x", "--delay", "1h")
    assert oq("cancel", "--all", "--dry-run", "-o", "id").stdout.split() == [id]
    assert queue.get(id).status == "scheduled"


def test_several_ids_are_done_and_each_failure_is_told(oq: Oq):
    id = submit(oq, "x", "--delay", "1h")
    found = oq("cancel", id, "0000000000000")
    assert found.exit_code == 3
    assert "1 of 2 tasks cancelled" in found.stdout
    assert "0000000000000" in found.stderr


def test_cancel_without_anything_named_is_a_usage_error(oq: Oq):
    assert oq("cancel").exit_code == 2


def test_retry_runs_a_task_again_and_delete_forgets_it(oq: Oq, queue: Client):
    id = submit(oq, "x")
    oq("wait", id)
    assert oq("retry", id).exit_code == 0
    assert len(queue.wait(id, 5).attempts) == 2
    assert oq("delete", id).exit_code == 0
    assert oq("show", id).exit_code == 3


def test_priority_takes_names_and_numbers(oq: Oq, queue: Client):
    oq("pause")
    id = submit(oq, "x")
    assert oq("priority", id, "critical").stdout == f"Task {id} has priority critical\n"
    oq("priority", id, "20")
    assert queue.get(id).priority == 20
    assert oq("priority", id, "1001").exit_code == 2


def test_quiet_says_nothing_of_what_went_well(oq: Oq, queue: Client):
    assert "paused" in oq("pause").stdout
    quiet = oq("-q", "resume")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    assert not queue.status().paused


def test_pause_resume_and_drain_switch_the_queue(oq: Oq, queue: Client):
    assert oq("pause").exit_code == 0
    assert queue.status().paused
    assert oq("resume").exit_code == 0
    assert not queue.status().paused
    assert oq("drain", "--grace", "1s").exit_code == 0
    assert queue.status().draining
    refused = oq("submit", "generate", "-m", "m", "x", "--timeout", "1")
    assert refused.exit_code == 1
    assert "`oq resume`" in refused.stderr


def test_an_output_that_cannot_be_written_is_a_sentence(queue: Client, served: Served):
    queue.submit(generate("m", "x"))
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "oq", "list"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment(OQ_URL=served.url), timeout=60,
        )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr == "error: the output cannot be written: No space left on device\n"


# --- many


def test_a_batch_is_submitted_and_each_wrong_task_is_told(oq: Oq):
    good = '{"type": "generate", "model": "m", "payload": {"prompt": "x"}}'
    found = oq("batch", "-", "-o", "id", input=f'{good}\n\n{{"type": "generate", "model": "m"}}\n{good}\n')
    assert (found.exit_code, len(found.stdout.split())) == (1, 2)
    assert "task 2" in found.stderr


def test_a_batch_can_be_waited_for(oq: Oq, tmp_path):
    tasks = [{"type": "generate", "model": "m", "payload": {"prompt": str(n)}} for n in range(3)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    found = oq("batch", "tasks.json", "--wait", "-o", "jsonl")
    assert found.exit_code == 0
    assert [json.loads(line)["status"] for line in found.stdout.splitlines()] == ["completed"] * 3


def test_an_atomic_batch_takes_all_or_none(oq: Oq, queue: Client):
    found = oq(
        "batch", "--atomic", "-", input='[{"type": "generate", "model": "m", "payload": {"prompt": "x"}}, {}]'
    )
    assert (found.exit_code, found.stderr) == (1, "error: task 2: type is missing\n")
    assert queue.status().total_tasks == 0


def test_one_line_that_is_no_json_is_named_and_the_others_are_submitted(oq: Oq, queue: Client):
    good = ['{"type": "generate", "model": "m", "payload": {"prompt": "x"}}'] * 999
    found = oq("batch", "-", "-o", "id", input="\n".join([*good[:500], "nonsense", *good[500:]]))
    assert (found.exit_code, len(found.stdout.split())) == (1, 999)
    assert "task 501: line 501" in found.stderr
    assert queue.status().total_tasks == 999


@pytest.mark.parametrize("arguments", [("--atomic",), ()])
def test_a_file_that_is_no_json_is_said_once(oq: Oq, queue: Client, arguments: tuple[str, ...]):
    found = oq("batch", *arguments, "-", input="dear sir\nnonsense\n")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: line 1")
    assert len(found.stderr.splitlines()) == 1
    assert queue.status().total_tasks == 0


@pytest.mark.parametrize("command", ["batch", "import"])
def test_a_pipe_without_a_task_is_called_by_its_name(bare: Oq, command: str):
    assert bare(command, input="\n").stderr == "error: there is no task in the standard input\n"
    assert bare(command, input="[}").stderr.startswith(
        "error: the standard input is not a JSON array of tasks"
    )


def test_a_batch_keeps_the_numbers_of_its_file(oq: Oq, queue: Client, model_server: FakeOllama):
    payload = '{"prompt": "x", "big": 123456789012345678901234567890, "small": 1.10, "huge": 1e400}'
    found = oq("batch", "-", "--wait", input=f'[{{"type": "generate", "model": "m", "payload": {payload}}}]')
    assert found.exit_code == 0, found.stderr
    sent = next(request.body for request in reversed(model_server.requests) if request.body)
    assert payload[1:-1].encode() in sent


def test_what_is_exported_can_be_imported(oq: Oq, queue: Client, tmp_path):
    submit(oq, "first", "--tag", "a", "--option", "seed=1")
    oq("wait", submit(oq, "second"))
    assert oq("export", "--file", "tasks.jsonl").exit_code == 0
    exported = [json.loads(line) for line in (tmp_path / "tasks.jsonl").read_text().splitlines()]
    assert [task["payload"]["prompt"] for task in exported] == ["first", "second"]
    assert exported[1]["output"] == "Hello world"
    ids = oq("import", "tasks.jsonl", "-o", "id").stdout.split()
    assert (queue.get(ids[0]).tags, queue.get(ids[0]).options) == (("a",), {"seed": 1})


# --- as a process


def run(served: Served, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oq", "--server", served.url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=30, **more)  # type: ignore[call-overload, no-any-return]


def test_a_pipe_between_two_commands_works(oq: Oq, served: Served, queue: Client):
    ids = [submit(oq, "x", "--delay", "1h") for _ in range(3)]
    found = run(served, "cancel", "-", "-y", input="\n".join(ids))
    assert (found.returncode, found.stdout, found.stderr) == (0, "3 of 3 tasks cancelled\n", "")


def test_top_is_live_until_ctrl_c(oq: Oq, served: Served):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "oq", "--server", served.url, "top", "--interval", "0.1"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment()) as process:
        os.close(theirs)
        seen = b""
        id = ""
        while not id or id.encode() not in seen:
            seen += os.read(ours, 4096)
            if not id and b"pending" in seen:  # it comes after the first look
                id = submit(oq, "x", "--delay", "1h")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    os.close(ours)


def test_ctrl_c_in_attach_detaches_and_the_task_runs_on(
    oq: Oq, served: Served, queue: Client, model_server: FakeOllama
):
    model_server.default = says("Hel", "lo", pause=600.0)
    id = submit(oq, "x")
    command = [sys.executable, "-m", "oq", "--server", served.url, "attach", id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 3) == b"Hel"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert b"detached" in process.stderr.read()
    assert queue.get(id).status == "running"


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("-q", "export"),
        ("config", "show"),
        ("events", "--after", "0"),
        ("status", "--watch"),
        ("--color", "list"),
        ("--help",),
        ("version",),
    ],
)
def test_a_reader_that_stops_reading_is_no_error(oq: Oq, served: Served, arguments: tuple[str, ...]):
    for _ in range(3):
        submit(oq, "x" * 100, "--delay", "1h")
    # The pipe has no reader from the start, so that nothing depends on which of two processes is faster.
    command = [sys.executable, "-m", "oq", "--server", served.url, *arguments]
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb") as stdout:
        found = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment(), timeout=30
        )
    assert (found.returncode, found.stderr) == (0, "")


def test_a_server_that_is_not_there_exits_with_5(bare: Oq):
    found = bare("--server", "http://127.0.0.1:9", "status")
    assert found.exit_code == 5
    assert "oq serve" in found.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_shell(bare: Oq, shell: str):
    assert "_OQ_COMPLETE" in bare("completion", shell).stdout


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".local/share/bash-completion/completions/oq"),
        ("zsh", ".zfunc/_oq"),
        ("fish", ".config/fish/completions/oq.fish"),
    ],
)
def test_the_command_that_installs_a_completion_works_as_it_is_typed(
    bare: Oq, tmp_path: Path, shell: str, file: str
):
    command = bare("completion", shell).stderr.strip().removeprefix("to install it: ")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "oq").write_text(f'#!/bin/sh\nexec {sys.executable} -m oq "$@"\n')
    (tmp_path / "bin" / "oq").chmod(0o755)
    env = environment(HOME=str(tmp_path), PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    subprocess.run(["bash", "-c", command], env=env, check=True, stderr=subprocess.DEVNULL, timeout=30)
    assert "_OQ_COMPLETE" in (tmp_path / file).read_text()
    assert command in (ROOT / "docs/reference/cli.md").read_text()


def test_completion_offers_commands():
    env = environment(_OQ_COMPLETE="bash_complete", COMP_WORDS="oq su", COMP_CWORD="1")
    code = "from oq.cli import cli; cli(prog_name='oq')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=30)
    assert found.stdout == "plain,submit\n"


def test_generated_tasks_of_the_library_are_what_the_command_line_shows(oq: Oq, queue: Client):
    handle = queue.submit(generate("m", "x", run_at=4e9))
    assert oq("list", "-o", "id").stdout.split() == [handle.id]


# --- completion


def offered(*words: str, shell: str = "bash", url: str) -> list[str]:
    """Return what the shell offers for the last word, as its script asks for it."""
    typed = {"COMP_WORDS": " ".join(("oq", *words)), "COMP_CWORD": str(len(words))}
    if shell == "fish":
        typed = {"COMP_WORDS": " ".join(("oq", *words)), "COMP_CWORD": words[-1]}
    env = environment(OQ_URL=url, _OQ_COMPLETE=f"{shell}_complete", **typed)
    found = subprocess.run(
        [sys.executable, "-m", "oq"], capture_output=True, text=True, env=env, timeout=30, check=True
    )
    assert found.stderr == ""
    return found.stdout.splitlines()


@pytest.mark.slow
def test_the_shell_offers_tasks_models_and_priorities(oq: Oq, served: Served):
    id = submit(oq, "x", "--delay", "1h")
    assert offered("cancel", "", url=served.url) == [f"plain,{id}"]
    assert offered("show", id[:9], url=served.url) == [f"plain,{id}"]
    assert offered("submit", "chat", "--model", "ll", url=served.url) == ["plain,llama3.2"]
    assert offered("list", "--priority", "h", url=served.url) == ["plain,high"]
    assert offered("batch", "ta", url=served.url) == ["file,ta"]
    assert offered("show", "", shell="fish", url=served.url) == [f"plain,{id}\tscheduled generate m: x"]


@pytest.mark.slow
def test_the_shell_offers_nothing_of_a_server_that_is_not_there():
    assert offered("show", "", url="http://127.0.0.1:9") == [""]


def test_a_comma_cuts_no_description_short_in_fish(bare: Oq):
    assert 'string split -m 1 ","' in bare("completion", "fish").stdout
