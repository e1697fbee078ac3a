from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from oq.config import FIELDS, SECTIONS, load_settings, refuse_itself, rows, settings_from
from oq.errors import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/settings.md"


def load(folder: Path, text: str = "", environ: dict[str, str] | None = None, **overrides: object):
    file = folder / "config.yaml"
    file.write_text(text)
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_settings(file, environ=environ or {}, overrides=given)


def refused(
    folder: Path, text: str = "", environ: dict[str, str] | None = None, **overrides: object
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ, **overrides)
    return caught.value


def test_without_any_source_all_is_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    loaded = load_settings(environ={})

    assert loaded.settings == settings_from()
    assert set(loaded.origins.values()) == {"default"}
    assert [host.url for host in loaded.settings.hosts] == ["http://localhost:11434"]


def test_a_flag_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    text = "queue:\n  max_workers: 1\n  max_pending: 1\n  max_completed_tasks: 1\n"
    environ = {"QUEUE_MAX_WORKERS": "2", "OQ_QUEUE__MAX_PENDING": "2"}

    loaded = load(tmp_path, text, environ, queue__max_workers=3)

    queue = loaded.settings.queue
    assert (queue.max_workers, queue.max_pending, queue.max_completed_tasks) == (3, 2, 1)
    assert loaded.origins["queue.max_workers"] == "flag --workers"
    assert loaded.origins["queue.max_pending"] == "environment OQ_QUEUE__MAX_PENDING"
    assert loaded.origins["queue.max_completed_tasks"] == f"file {tmp_path / 'config.yaml'}"


def test_every_environment_name_of_the_original_is_read(tmp_path: Path) -> None:
    names = {field.metadata["env"]: key for key, field in FIELDS.items() if field.metadata["env"]}
    assert len(names) == 14
    values = {"OLLAMA_HOST": "gpu", "LOG_LEVEL": "debug", "LOG_FILE": "x.log", "QUEUE_STORAGE_PATH": "/d"}

    for name, key in names.items():
        loaded = load(tmp_path, "", {name: values.get(name, "50")})
        assert loaded.origins[key] == f"environment {name}"


def test_every_setting_can_come_from_its_oq_variable(tmp_path: Path) -> None:
    values = {"ollama.host": "gpu", "server.insecure": "true", "server.host": "::1", "logging.level": "error",
              "logging.format": "json", "server.access_log": "on", "retry_config.jitter": "0.5",
              "retry_config.max_delay": "80", "dropin.on_disconnect": "keep"}  # fmt: skip
    for key in FIELDS:
        name = "OQ_" + key.replace(".", "__").upper()
        loaded = load(tmp_path, "", {name: values.get(key, "1024" if "bytes" in key else "50")})
        assert loaded.origins[key] == f"environment {name}", key


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("queue:\n  max_wokers: 1", "queue.max_wokers", "did you mean queue.max_workers?"),
        ("quue: {}", "quue", "did you mean queue?"),
        ("queue: 5", "queue", "must hold settings"),
        ("queue:\n  max_workers: many", "queue.max_workers", "a whole number"),
        ("queue:\n  max_workers: 0", "queue.max_workers", "between 1 and 1024"),
        ("queue:\n  max_workers: 1.5", "queue.max_workers", "a whole number"),
        ("ollama:\n  timeout: soon", "ollama.timeout", "a duration"),
        ("ollama:\n  host: 'ftp://x'", "ollama.host", "an address"),
        ("logging:\n  level: loud", "logging.level", "one of debug"),
        ("server:\n  access_log: maybe", "server.access_log", "true or false"),
        ("retry_config:\n  max_delay: 10ms", "retry_config.max_delay", "must not be below"),
        ("hosts: 5", "hosts", "must be a list"),
        ("hosts: [{name: a}]", "hosts", "must be an address"),
        ("hosts: [{url: a, name: x}, {url: b, name: x}]", "hosts", "the same name"),
        ("hosts: [{url: a, slotz: 1}]", "hosts", "slotz"),
        ("hosts: [{url: a, slots: 0}]", "hosts", "1 to 1024"),
        ("dropin: {priority: urgent}", "dropin.priority", "low, normal, high"),
        ("dropin: {batch_priority: 1001}", "dropin.batch_priority", "0 to 1000"),
        ("dropin: {on_disconnect: cry}", "dropin.on_disconnect", "one of cancel, keep"),
        ("clients: 5", "clients", "must map names"),
        ("clients: {a: 5}", "clients.a", "must hold settings"),
        ("clients: {a: {prio: 5}}", "clients.a", "known are token, priority"),
        ("clients: {a: {priority: urgent}}", "clients.a", "not a whole number"),
        ("clients: {a: {max_unfinished: -1}}", "clients.a", "0 (no limit) or more"),
        ("clients: {a: {token: x}, b: {token: x}}", "clients", "the same token"),
        ("clients: {'a,b': {}}", "clients.a,b", "no comma"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_what_it_should_be(
    tmp_path: Path, text: str, key: str, says: str
) -> None:
    error = refused(tmp_path, text)

    assert error.key == key
    assert error.origin == f"file {tmp_path / 'config.yaml'}"
    assert key.split(".")[0] in error.message
    assert says in error.message
    assert str(tmp_path / "config.yaml") in error.message


@pytest.mark.parametrize("text", ["queue: [", "- a\n- b", "just text"])
def test_a_file_of_the_wrong_form_is_refused(tmp_path: Path, text: str) -> None:
    assert str(tmp_path / "config.yaml") in refused(tmp_path, text).message


def test_a_setting_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("queue:\n  max_workers: 3\n  max_workers: 4\n")
    with pytest.raises(ConfigError, match="max_workers is there twice"):
        load_settings(config=tmp_path / "c.yaml", environ={})


def test_a_wrong_flag_is_named_as_it_was_typed() -> None:
    with pytest.raises(ConfigError, match="flag --ollama-host"):
        load_settings(overrides={"ollama.host": "ftp://gpu"}, environ={})


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    assert "environment OLLAMA_TIMEOUT" in refused(tmp_path, "", {"OLLAMA_TIMEOUT": "x"}).message
    assert "environment OQ_QUEUE__NOPE" in refused(tmp_path, "", {"OQ_QUEUE__NOPE": "x"}).message


def test_a_missing_file_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_settings(tmp_path / "none.yaml", environ={})
    with pytest.raises(ConfigError, match="there is no folder"):
        load_settings(config_dir=tmp_path / "none", environ={})


def test_a_folder_may_hold_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server:\n  port: 99\n")

    assert load_settings(config_dir=tmp_path, environ={}).settings.server.port == 99


def test_several_hosts_each_have_their_slots(tmp_path: Path) -> None:
    loaded = load(tmp_path, "hosts:\n- {name: big, url: a, slots: 8}\n- url: b\nqueue:\n  max_workers: 3\n")

    assert [(host.name, host.slots) for host in loaded.settings.hosts] == [("big", 8), ("host-2", 3)]


def test_by_default_only_this_machine_can_connect(tmp_path: Path) -> None:
    server = load(tmp_path, "").settings.server
    assert (server.host, server.insecure) == ("127.0.0.1", False)


def test_a_token_allows_another_address_and_is_not_shown(tmp_path: Path) -> None:
    loaded = load(tmp_path, "server:\n  host: 0.0.0.0\n  token: secret\n")

    assert loaded.settings.server.host == "0.0.0.0"
    assert "secret" not in str(rows(loaded))


def test_clients_are_read_and_their_tokens_are_not_shown(tmp_path: Path) -> None:
    text = "clients:\n  app: {token: secret, priority: high, timeout: 2m}\n  crawler:\n"
    loaded = load(tmp_path, text)
    app, crawler = loaded.settings.clients
    assert (app.name, app.token, app.priority, app.timeout) == ("app", "secret", 10, 120.0)
    assert (crawler.name, crawler.priority, crawler.max_unfinished) == ("crawler", None, 0)
    assert ("clients.app", "token=(set) priority=10 timeout=2m") in [row[:2] for row in rows(loaded)]


def test_a_program_names_settings_shortly() -> None:
    settings = settings_from(ollama_host="gpu", max_workers=2, retry_config__max_retries=0, storage_path="/x")

    assert settings.ollama.host == "http://gpu:11434"
    assert (settings.queue.max_workers, settings.retry_config.max_retries) == (2, 0)
    with pytest.raises(ConfigError, match=r"it could be any of ollama\.host, server\.host"):
        settings_from(host="x")
    with pytest.raises(ConfigError, match="no such setting"):
        settings_from(max_wokers=1)


def test_every_setting_has_a_row_in_the_docs_and_every_row_a_setting() -> None:
    rows_of_page = set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", PAGE.read_text(), re.MULTILINE))

    assert rows_of_page == set(FIELDS)


def test_the_docs_say_what_the_code_says() -> None:
    lines = {line.split("`")[1]: line for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    for key, field in FIELDS.items():
        assert field.metadata["doc"] in lines[key], key
        shown = field.metadata["kind"].show(field.default)
        assert lines[key].split("|")[2].strip() == (f"`{shown}`" if shown else ""), key
        if field.metadata["env"]:
            assert f"`{field.metadata['env']}`" in lines[key], key


def test_settings_are_frozen() -> None:
    settings = settings_from()
    for section in SECTIONS:
        part = getattr(settings, section)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, 1)


def test_a_host_named_at_the_start_wins_over_the_list_in_the_file(tmp_path: Path) -> None:
    text = "hosts:\n- {name: big, url: a}\n- url: b\n"
    assert [h.url for h in load(tmp_path, text, {"OLLAMA_HOST": "c"}).settings.hosts] == [
        "http://a:11434", "http://b:11434",
    ]  # fmt: skip
    loaded = load(tmp_path, text, ollama__host="c")
    assert [h.url for h in loaded.settings.hosts] == ["http://c:11434"]
    assert loaded.origins["hosts"].startswith("flag")


@pytest.mark.parametrize("address", ["localhost:7125", "http://127.0.0.1:7125"])
def test_the_server_is_not_its_own_model_server(tmp_path: Path, address: str) -> None:
    environ = {"OLLAMA_HOST": address}
    with pytest.raises(ConfigError, match="this server itself") as caught:
        refuse_itself(load(tmp_path, "", environ))
    assert caught.value.origin == "environment OLLAMA_HOST"
    refuse_itself(load(tmp_path, "", environ, server__port=7200))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("queue: {max_workers: x}", "queue.max_workers: 'x' is not a whole number, between 1 and 1024"),
        ("queue: {max_workers: 0}", "queue.max_workers: 0 is out of range; it must be between 1 and 1024"),
        (
            "queue: {max_workers: }",
            "queue.max_workers has no value; it must be a whole number, between 1 and 1024",
        ),
        (
            "logging: {level: loud}",
            "logging.level: 'loud' is none of debug, info, warning, warn, error, critical",
        ),
    ],
)
def test_a_wrong_value_is_told_once(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(str(tmp_path / "config.yaml"), environ={})
    assert caught.value.message == f"file {tmp_path / 'config.yaml'}: {said}"


def test_a_setting_with_one_underscore_too_few_is_told_its_name(tmp_path: Path) -> None:
    error = refused(tmp_path, "", {"OQ_QUEUE_MAX_WORKERS": "2"})
    assert "write OQ_QUEUE__MAX_WORKERS, with two underscores" in str(error)

    load(
        tmp_path, "", {"OQ_URL": "http://x", "OQ_QUEUE": "mine"}
    )  # none of a setting's: other programs may use them
