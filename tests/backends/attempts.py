"""Running one attempt, for the tests of this folder and of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from oq.backends import OllamaBackend
from oq.core.model import TaskSpec, TaskType
from oq.errors import BackendError
from oq.ports import Backend, Piece

MakeBackend = Callable[..., OllamaBackend]


def spec(
    task_type: TaskType = "generate",
    payload: dict[str, Any] | bytes | None = None,
    *,
    model: str = "llama3.2",
    options: dict[str, Any] | None = None,
    keep_alive: object = None,
) -> TaskSpec:
    plain: dict[TaskType, dict[str, Any]] = {
        "chat": {"messages": [{"role": "user", "content": "Hi"}]},
        "generate": {"prompt": "Hi"},
        "embed": {"input": "Hi"},
    }
    given = plain[task_type] if payload is None else payload
    return TaskSpec(
        type=task_type,
        model=model,
        payload=given if isinstance(given, bytes) else json.dumps(given).encode(),
        options=None if options is None else json.dumps(options).encode(),
        keep_alive=None if keep_alive is None else json.dumps(keep_alive).encode(),
    )


async def attempt(backend: Backend, task: TaskSpec) -> tuple[list[Piece], dict[str, Any]]:
    """Return the pieces and the decoded result; checks that the result is the one and last item."""
    items = [item async for item in backend.run(task)]
    *pieces, result = items
    assert isinstance(result, bytes)
    assert all(isinstance(piece, Piece) for piece in pieces)
    return [piece for piece in pieces if isinstance(piece, Piece)], json.loads(result)


async def failed_attempt(backend: Backend, task: TaskSpec) -> tuple[list[Piece], BackendError]:
    """Return the pieces and the error of an attempt that must fail."""
    pieces: list[Piece] = []
    try:
        async for item in backend.run(task):
            assert isinstance(item, Piece), f"a result after all: {item!r}"
            pieces.append(item)
    except BackendError as error:
        return pieces, error
    pytest.fail("the attempt ended without a result and without an error")


def text(pieces: list[Piece], kind: str = "content") -> str:
    return "".join(piece.text for piece in pieces if piece.kind == kind)
