"""oq (Ollama Queue): a durable queue in front of Ollama.

This module lists the public names, and nothing else; docs/reference/library.md describes them. What is imported
here is loaded on first use, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oq.version import VERSION as __version__

if TYPE_CHECKING:
    from oq.builders import assistant, chat, embed, generate, system, tool, user
    from oq.client import AsyncClient, Client
    from oq.config import Settings, load_settings, settings_from
    from oq.core.events import Event, EventType
    from oq.core.model import CRITICAL, HIGH, LOW, NORMAL, Status, TaskSpec
    from oq.core.task import Task
    from oq.engine import open_queue
    from oq.queue import Queue, TaskHandle

_WHERE = {
    "AsyncClient": "oq.client",
    "CRITICAL": "oq.core.model",
    "Client": "oq.client",
    "Event": "oq.core.events",
    "EventType": "oq.core.events",
    "HIGH": "oq.core.model",
    "LOW": "oq.core.model",
    "NORMAL": "oq.core.model",
    "Queue": "oq.queue",
    "Settings": "oq.config",
    "Status": "oq.core.model",
    "Task": "oq.core.task",
    "TaskHandle": "oq.queue",
    "TaskSpec": "oq.core.model",
    "assistant": "oq.builders",
    "chat": "oq.builders",
    "embed": "oq.builders",
    "generate": "oq.builders",
    "load_settings": "oq.config",
    "open_queue": "oq.engine",
    "settings_from": "oq.config",
    "system": "oq.builders",
    "tool": "oq.builders",
    "user": "oq.builders",
}
__all__ = [
    "AsyncClient", "CRITICAL", "Client", "Event", "EventType", "HIGH", "LOW", "NORMAL", "Queue", "Settings",
    "Status", "Task", "TaskHandle", "TaskSpec", "__version__", "assistant", "chat", "embed", "errors", "generate",
    "load_settings", "open_queue", "settings_from", "system", "tool", "user",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("oq.errors")
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'oq' has no attribute {name!r}")
    return getattr(importlib.import_module(where), name)


def __dir__() -> list[str]:
    return __all__
