"""Reading the settings: defaults < file < environment < flags. Once, at the edge; passed down whole."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from oq.config.clients import read_clients, shown_client
from oq.config.settings import FIELDS, SECTIONS, HostSettings, Kind, Settings
from oq.config.values import parse_host_url, parse_text, parse_whole, without_password
from oq.errors import ConfigError

SEARCHED = ("./config.yaml", "~/.ollama-queue/config.yaml", "/etc/ollama-queue/config.yaml")
LISTED = ("hosts", "clients")  # parts that are lists or tables, not settings with a name each


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Settings, and where each came from: dotted key → "default", "file config.yaml", "environment X", "flag"."""

    settings: Settings
    origins: dict[str, str]


def load_settings(
    config: str | os.PathLike[str] | None = None,
    config_dir: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read all sources.

    Args:
        config: the file to read; one that is missing is an error then.
        config_dir: a folder with config.yaml, in place of the searched ones.
        environ: by default `os.environ`.
        overrides: dotted key → value; they win. ``hosts`` takes a list of addresses or of mappings.

    Raises `ConfigError` with the key and the origin of the first wrong value.
    """
    found: dict[str, tuple[Any, str]] = {}
    path = _find_file(config, config_dir)
    if path is not None:
        found.update(_from_file(path))
    found.update(_from_environment(os.environ if environ is None else environ))
    for key, value in (overrides or {}).items():
        if key == "hosts":
            found[key] = (value, "flag --ollama-host")
        else:
            _known(key, "argument")
            found[key] = (value, f"flag --{_flag(key)}")
    return _build(found)


def settings_from(**values: Any) -> Settings:
    """Return settings with some changed, for programs; names are ``section__key``, or a key that is unambiguous.

    >>> settings_from(max_workers=2, ollama_host="gpu", retry_config__max_retries=0).queue.max_workers
    2
    """
    found: dict[str, tuple[Any, str]] = {}
    for name, value in values.items():
        found[_argument(name)] = (value, f"argument {name}")
    return _build(found).settings


def _argument(name: str) -> str:
    if name in LISTED:
        return name
    for candidate in (name.replace("__", ".", 1), name.replace("_", ".", 1)):
        if candidate in FIELDS:
            return candidate
    fits = [key for key in FIELDS if key.endswith(f".{name}")]
    if len(fits) != 1:
        hint = f"it could be any of {', '.join(fits)}; write section__key" if fits else nearest(name)
        raise ConfigError(f"argument {name}: no such setting; {hint}", name, "argument")
    return fits[0]


def _flag(key: str) -> str:
    names = {
        "queue.storage_path": "data-dir", "queue.max_workers": "workers", "logging.format": "log-format",
        "ollama.host": "ollama-host",
    }  # fmt: skip
    return names.get(key) or key.partition(".")[2].replace("_", "-")


def _find_file(
    config: str | os.PathLike[str] | None, config_dir: str | os.PathLike[str] | None
) -> Path | None:
    if config is not None:
        path = Path(config).expanduser()
        if not path.is_file():
            raise ConfigError(f"there is no configuration file {path}; check --config", None, "--config")
        return path
    if config_dir is not None:
        folder = Path(config_dir).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}; check --config-dir", None, "--config-dir")
        path = folder / "config.yaml"
        return path if path.is_file() else None
    return next((path for path in (Path(name).expanduser() for name in SEARCHED) if path.is_file()), None)


def _read_yaml(file: IO[str], origin: str) -> Any:
    """Return what YAML says; a key that is there twice is refused, of which YAML would drop one in silence."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(f"{origin}: {twice} is there twice; keep one", twice, origin)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return yaml.load(file, Loader)


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    import yaml

    origin = f"file {path}"
    try:
        with path.open(encoding="utf-8") as file:
            content = _read_yaml(file, origin)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not YAML: {' '.join(str(error).split())}", None, origin) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin} cannot be read: {error}", None, origin) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{origin} must hold sections such as 'queue:', not {type(content).__name__}", None, origin
        )
    found: dict[str, tuple[Any, str]] = {}
    for section, values in content.items():
        if section in LISTED:
            found[section] = (values, origin)
        elif section not in SECTIONS:
            raise ConfigError(
                f"{origin}: no such section {section!r}; {nearest(str(section))}", str(section), origin
            )
        elif values is not None:
            if not isinstance(values, dict):
                raise ConfigError(f"{origin}: {section} must hold settings, not {values!r}", section, origin)
            for name, value in values.items():
                _known(f"{section}.{name}", origin)
                found[f"{section}.{name}"] = (value, origin)
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for key, field in FIELDS.items():
        name = field.metadata["env"]
        if name is not None and environ.get(name):
            found[key] = (environ[name], f"environment {name}")
    slips = {f"OQ_{key.replace('.', '_').upper()}": key for key in FIELDS}
    for name in sorted(environ):
        if name in slips:
            section, _, key = slips[name].upper().partition(".")
            raise ConfigError(
                f"environment {name}: no such setting; write OQ_{section}__{key}, with two underscores",
                slips[name],
                name,
            )
        if name.startswith("OQ_") and "__" in name:
            section, _, key = name[3:].lower().partition("__")
            _known(f"{section}.{key}", f"environment {name}")
            found[f"{section}.{key}"] = (environ[name], f"environment {name}")
    return found


def _known(key: str, origin: str) -> None:
    if key not in FIELDS:
        raise ConfigError(f"{origin}: no such setting {key!r}; {nearest(key)}", key, origin)


def nearest(key: str) -> str:
    """Return a hint at the setting or section that *key* may have meant."""
    close = difflib.get_close_matches(key, [*FIELDS, *SECTIONS, *LISTED], 1, 0.5)
    return f"did you mean {close[0]}?" if close else "see docs/reference/settings.md"


def _build(found: dict[str, tuple[Any, str]]) -> Loaded:
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    origins = dict.fromkeys(FIELDS, "default")
    for key, (value, origin) in found.items():
        if key not in LISTED:
            section, _, name = key.partition(".")
            sections[section][name] = _parse(key, value, origin)
            origins[key] = origin
    made = {section: cls(**sections[section]) for section, cls in SECTIONS.items()}
    settings = Settings(**made)
    hosts, origin = found.get("hosts", (None, "default"))
    if origins["ollama.host"].startswith(("flag", "argument")) and origin.startswith("file"):
        hosts, origin = (
            None,
            origins["ollama.host"],
        )  # what is said at the start wins over what is written down
    origins["hosts"] = origin
    settings = dataclasses.replace(settings, hosts=_hosts(hosts, origin, settings))
    clients, origin = found.get("clients", (None, "default"))
    origins["clients"] = origin
    settings = dataclasses.replace(settings, clients=read_clients(clients, origin))
    _check(settings, origins)
    return Loaded(settings, origins)


def _parse(key: str, value: Any, origin: str) -> Any:
    meta = FIELDS[key].metadata
    kind: Kind = meta["kind"]
    low, high = meta["low"], meta["high"]
    bounds = (
        ""
        if low is None and high is None
        else f"at least {low:g}"
        if high is None
        else f"between {low or 0:g} and {high:g}"
    )
    try:
        parsed = kind.parse(value)
    except ValueError as error:
        told = kind.words.removeprefix("one of ").partition(" such as ")[0]
        if value is None:
            wrong = f"{key} has no value; it must be {kind.words}"
        else:
            wrong = f"{key}: {error}" if told in str(error) else f"{key}: {error}; it must be {kind.words}"
        raise ConfigError(f"{origin}: {wrong}{bounds and f', {bounds}'}", key, origin) from None
    if (low is not None and parsed < low) or (high is not None and parsed > high):
        raise ConfigError(f"{origin}: {key}: {value!r} is out of range; it must be {bounds}", key, origin)
    return parsed


def _hosts(value: Any, origin: str, settings: Settings) -> tuple[HostSettings, ...]:
    slots = settings.queue.max_workers
    if not value:
        return (HostSettings("default", settings.ollama.host, slots),)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(f"{origin}: hosts must be a list, not {value!r}", "hosts", origin)
    made = []
    for number, item in enumerate(value, 1):
        if isinstance(item, HostSettings):
            made.append(item)
            continue
        item = {"url": item} if isinstance(item, str) else item
        if not isinstance(item, dict) or "url" not in item:
            raise ConfigError(
                f"{origin}: hosts: number {number} must be an address, or have a url", "hosts", origin
            )
        unknown = set(item) - {"name", "url", "slots", "max_loaded_models"}
        if unknown:
            raise ConfigError(
                f"{origin}: hosts: number {number}: no such key {sorted(map(str, unknown))[0]!r}; "
                "known are name, url, slots, max_loaded_models", "hosts", origin,
            )  # fmt: skip
        default = "default" if len(value) == 1 else f"host-{number}"
        try:
            host = HostSettings(
                parse_text(item.get("name", default)), parse_host_url(item["url"]), parse_whole(item.get("slots", slots)),
                parse_whole(item.get("max_loaded_models", 0)),
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"{origin}: hosts: number {number}: {error}", "hosts", origin) from None
        if not 1 <= host.slots <= 1024 or host.max_loaded_models < 0:
            raise ConfigError(f"{origin}: hosts: number {number}: slots must be 1 to 1024", "hosts", origin)
        made.append(host)
    if len({host.name for host in made}) < len(made):
        raise ConfigError(f"{origin}: two hosts have the same name; each needs its own", "hosts", origin)
    return tuple(made)


def _check(settings: Settings, origins: Mapping[str, str]) -> None:
    if settings.retry_config.max_delay < settings.retry_config.initial_delay:
        origin = origins["retry_config.max_delay"]
        raise ConfigError(
            f"{origin}: retry_config.max_delay must not be below retry_config.initial_delay "
            f"({settings.retry_config.initial_delay:g} s)", "retry_config.max_delay", origin,
        )  # fmt: skip


def refuse_itself(loaded: Loaded) -> None:
    """Refuse a model server that is where the server itself would listen: it would ask itself for ever.

    For who is about to serve: a client with OLLAMA_HOST pointed at oq is right to have it so.
    """
    own = f"127.0.0.1:{loaded.settings.server.port}"
    for host in loaded.settings.hosts:
        if urlsplit(host.url.replace("localhost", "127.0.0.1")).netloc.rpartition("@")[2] == own:
            origin = loaded.origins["hosts"]
            origin = loaded.origins["ollama.host"] if origin == "default" else origin
            raise ConfigError(
                f"{origin}: ollama.host: {host.shown} is where this server itself listens; say where the model server is, "
                "with --ollama-host or OQ_OLLAMA__HOST (OLLAMA_HOST may be set for clients of this server)",
                "ollama.host", origin,
            )  # fmt: skip


def rows(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return (key, value as text, origin) of every setting; a token or password is not shown."""
    found = []
    for key in FIELDS:
        section, _, name = key.partition(".")
        value = getattr(getattr(loaded.settings, section), name)
        if key == "server.token" and value:
            value = "(set)"
        if key in ("queue.storage", "ollama.host") and value:
            value = without_password(value)
        found.append((key, FIELDS[key].metadata["kind"].show(value), loaded.origins[key]))
    for host in loaded.settings.hosts:
        found.append((f"hosts.{host.name}", f"{host.shown} slots={host.slots}", loaded.origins["hosts"]))
    for client in loaded.settings.clients:
        found.append((f"clients.{client.name}", shown_client(client), loaded.origins["clients"]))
    return found
