"""The table ``clients:`` of the settings: who calls the Ollama and OpenAI APIs, and what is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oq.config.settings import ClientSettings
from oq.config.values import parse_duration, parse_level, parse_text, parse_whole, show_duration
from oq.errors import ConfigError

NAME_MAX = 100  # characters: a name becomes part of a tag
_KEYS = {
    "token": parse_text,
    "priority": parse_level,
    "batch_priority": parse_level,
    "max_unfinished": parse_whole,
    "timeout": parse_duration,
}


def read_clients(value: Any, origin: str) -> tuple[ClientSettings, ...]:
    """Return the clients in *value*, a mapping of names to mappings; `ConfigError` says what is wrong."""
    if not value:
        return ()
    if isinstance(value, tuple) and all(isinstance(item, ClientSettings) for item in value):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{origin}: clients must map names to their settings, not {value!r}", "clients", origin
        )
    made = [_client(str(name), given or {}, origin) for name, given in value.items()]
    tokens = [client.token for client in made if client.token]
    if len(set(tokens)) < len(tokens):
        raise ConfigError(f"{origin}: two clients have the same token; each needs its own", "clients", origin)
    return tuple(made)


def _client(name: str, given: Any, origin: str) -> ClientSettings:
    key = f"clients.{name}"
    if not name.strip() or len(name) > NAME_MAX or "," in name:
        raise ConfigError(
            f"{origin}: clients: {name!r} is no name; it has 1 to {NAME_MAX} characters and no comma",
            key,
            origin,
        )
    if not isinstance(given, Mapping):
        raise ConfigError(f"{origin}: {key} must hold settings, not {given!r}", key, origin)
    fields: dict[str, Any] = {}
    for word, value in given.items():
        if word not in _KEYS:
            raise ConfigError(
                f"{origin}: {key}: no such key {word!r}; known are {', '.join(_KEYS)}", key, origin
            )
        try:
            fields[word] = _KEYS[word](value)
        except ValueError as error:
            raise ConfigError(f"{origin}: {key}.{word}: {error}", key, origin) from None
    if fields.get("max_unfinished", 0) < 0:
        raise ConfigError(f"{origin}: {key}.max_unfinished must be 0 (no limit) or more", key, origin)
    return ClientSettings(name, **fields)


def shown_client(client: ClientSettings) -> str:
    """Return a client as text for a person; its token is not shown."""
    parts = ["token=(set)"] if client.token else []
    parts += [
        f"{word}={value}"
        for word in ("priority", "batch_priority")
        if (value := getattr(client, word)) is not None
    ]
    if client.timeout is not None:
        parts.append(f"timeout={show_duration(client.timeout)}")
    if client.max_unfinished:
        parts.append(f"max_unfinished={client.max_unfinished}")
    return " ".join(parts)
