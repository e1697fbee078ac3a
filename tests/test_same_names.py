"""A queue in the program and a client of one elsewhere have the same verbs and give values with the same names."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from oq.client import AsyncClient, Client, TaskHandle
from oq.client.aio import AsyncTaskHandle
from oq.core.events import Event
from oq.core.model import Attempt
from oq.core.task import Task
from oq.following import StreamEnd, StreamRestart, StreamText
from oq.queue import Queue
from oq.queue import TaskHandle as OwnHandle
from oq.stats import HostStatus, Stats
from oq.wire import RemoteEvent, RemoteLine, RemoteStats, RemoteTask
from oq.wire.remote import RemoteAttempt

# What only a server has: connections to close, its own readiness to tell, and routes beyond the queue's verbs.
OF_HTTP = {"close", "health", "request"}


def names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def parameters(verb: Any) -> list[str]:
    return [name for name in inspect.signature(verb).parameters if name not in ("self", "filters", "which")]


def test_every_verb_of_the_clients_is_one_of_the_queue():
    assert names(Client) == names(AsyncClient)
    assert names(AsyncClient) - OF_HTTP <= names(Queue)


@pytest.mark.parametrize("verb", sorted(names(AsyncClient) - OF_HTTP - {"list", "page", "subscribe", "bulk"}))
def test_a_verb_takes_the_same_arguments_in_the_same_places(verb: str):
    ours, theirs = parameters(getattr(Queue, verb)), parameters(getattr(AsyncClient, verb))
    assert len(ours) == len(theirs)
    assert [name for name in ours if name != "key"] == [
        name for name in theirs if name != "id" or "id" in ours
    ]


def test_handles_have_the_same_verbs():
    assert names(TaskHandle) == names(AsyncTaskHandle) <= names(OwnHandle)


@pytest.mark.parametrize(("ours", "theirs", "only_theirs"), [
    # A server adds what it knows beside the task: its place, why it waits, its prompt cut short for a list.
    (Task, RemoteTask, {"prompt", "queue_position", "expected_start_at", "waiting"}),
    (Stats, RemoteStats, set()),
    (Attempt, RemoteAttempt, set()),
    (Event, RemoteEvent, set()),
])  # fmt: skip
def test_values_have_the_same_names(ours: type, theirs: type, only_theirs: set[str]):
    assert names(theirs) - names(ours) <= only_theirs
    assert not only_theirs & names(ours)


def test_pieces_of_text_name_their_kind_as_the_clients_do():
    assert (StreamText.type, StreamRestart.type, StreamEnd.type) == ("text", "restart", "end")
    assert {"attempt", "offset", "text", "kind", "task"} <= names(RemoteLine)
    assert "models" in names(HostStatus)
