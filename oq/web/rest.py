"""The routes of the REST API. Each parses, calls the queue and renders; errors are mapped in one place."""

from __future__ import annotations

from functools import partial
from typing import Any, cast
from urllib.parse import urlencode

import msgspec
import trio
from quart import Response, request

from oq.bulk import run_bulk
from oq.core.ids import format_id
from oq.core.model import TaskState
from oq.core.task import Task
from oq.errors import Busy, InvalidTask, OqError, QueueFull, StorageError, TooLarge, WaitTimeout
from oq.ports import Query
from oq.web.app import OqApp, queue, settings, this_app
from oq.web.asked import arguments, body, flag, reply
from oq.web.errors import UnsupportedMediaType, answer_of
from oq.web.metrics import render_metrics
from oq.web.openapi import openapi_json
from oq.web.packing import pack
from oq.web.shared_lists import ListAnswer
from oq.web.submit import check_json, submit_one
from oq.wire import (
    VIEWS,
    LineParser,
    batch_json,
    bulk_json,
    changed_json,
    hosts_json,
    optional_time,
    parse_bulk,
    parse_duration,
    parse_priority_body,
    parse_query,
    parse_tasks,
    query_parameters,
    status_json,
    summary_json,
    task_json,
    tasks_json,
    waiting_dict,
)

NDJSON = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines"}
)
WAIT_MAX = 300.0  # seconds of one long poll
GROUP = 1000  # tasks of a streamed batch that are submitted together: one commit, and bounded memory


def add_routes(app: OqApp) -> None:
    """Register every route."""
    for path, method, view in (
        ("/api/tasks", "GET", list_tasks),
        ("/api/tasks", "POST", submit),
        ("/api/tasks/batch", "POST", submit_batch),
        ("/api/tasks/bulk", "POST", bulk),
        ("/api/tasks/<id>", "GET", get_task),
        ("/api/tasks/<id>", "DELETE", delete_task),
        ("/api/tasks/<id>/result", "GET", result),
        ("/api/tasks/<id>/cancel", "POST", cancel),
        ("/api/tasks/<id>/retry", "POST", retry),
        ("/api/tasks/<id>/priority", "POST", priority),
        ("/api/status", "GET", status),
        ("/api/hosts", "GET", hosts),
        ("/api/queue/pause", "POST", pause),
        ("/api/queue/resume", "POST", resume),
        ("/api/queue/drain", "POST", drain),
        ("/health", "GET", health),
        ("/metrics", "GET", metrics),
        ("/openapi.json", "GET", openapi),
    ):
        app.add_url_rule(path, f"{method} {path}", view, methods=[method])


def one(outcomes: list[Any]) -> Any:
    """Return the only outcome, or raise it."""
    (outcome,) = outcomes
    if isinstance(outcome, OqError):
        raise outcome
    return outcome


# --- submit
async def submit() -> Response:
    """As `oq.web.submit.FastSubmit` answers it."""
    status, text, headers = await submit_one(
        queue(), request.content_type, request.headers.get("Idempotency-Key"), await body()
    )
    return Response(text, status, headers)


async def submit_batch() -> Response:
    """A JSON array, or NDJSON that is taken as it comes."""
    given = arguments("atomic")
    atomic = flag(given.get("atomic", "false"), "atomic")
    key = request.headers.get("Idempotency-Key")
    kind = (request.content_type or "").partition(";")[0].strip().lower()
    if kind in NDJSON:
        return await _submit_lines(atomic, key)
    try:
        check_json(request.content_type)
    except UnsupportedMediaType as error:
        raise UnsupportedMediaType(f"{error.message}; or NDJSON as application/x-ndjson") from None
    items = parse_tasks(await body(), settings(), idempotency_key=key)
    return await _submit_items(cast("list[Any]", items), atomic)


async def _submit_items(items: list[Any], atomic: bool) -> Response:
    """Submit the good ones, or none if *atomic* and one is not good."""
    good = [item for item in items if not isinstance(item, OqError)]
    if atomic and len(good) < len(items):
        return reply(batch_json(items, submitted=False), 422)
    keys = await queue().submit_keys(good, atomic=atomic) if good else []
    if len(good) == len(items):
        outcomes: list[Any] = list(keys)
    else:
        left = iter(keys)
        outcomes = [item if isinstance(item, OqError) else next(left) for item in items]
    if atomic and any(isinstance(outcome, OqError) for outcome in outcomes):
        return reply(batch_json(outcomes, submitted=False), 422)
    return _taken(outcomes)


def _taken(outcomes: list[Any]) -> Response:
    """Answer with what became of each task, and when to come back with those that a full queue did not take."""
    found = reply(batch_json(outcomes))
    full = next((outcome for outcome in outcomes if isinstance(outcome, QueueFull)), None)
    if full is not None:
        found.headers["Retry-After"] = answer_of(full)[2]["Retry-After"]
    return found


async def _submit_lines(atomic: bool, key: str | None) -> Response:
    parser = LineParser(settings(), idempotency_key=key)
    waiting: list[Any] = []
    outcomes: list[Any] = []

    async def flush() -> None:
        nonlocal waiting
        items, waiting = waiting, []
        good = [item for item in items if not isinstance(item, OqError)]
        left = iter(await queue().submit_keys(good) if good else ())
        outcomes.extend(item if isinstance(item, OqError) else next(left) for item in items)

    try:
        async for piece in request.body:
            waiting += parser.feed(piece)
            if not atomic and len(waiting) >= GROUP:
                await flush()
        waiting += parser.close()
        if atomic:
            return await _submit_items(waiting, True)
        await flush()
    except (TooLarge, Busy, StorageError) as error:
        if not outcomes:
            raise
        # A part is on disk already: say which, beside why the rest is not.
        code, _, headers = answer_of(error)
        return Response(batch_json(outcomes, error=error), code, headers)
    return _taken(outcomes)


# --- read
async def list_tasks() -> Response:
    query = parse_query(request.args.to_dict(flat=False))
    epoch, _, least = request.headers.get("X-Event-Id", "").rpartition("-")
    if (
        epoch == queue().epoch and least.isdecimal() and len(least) < 20
    ):  # a monitor, which reads a screenful a second
        found = await this_app().lists.answer(request.query_string, int(least), partial(_read_list, query))
    else:
        found = await _read_list(query)
    answer = reply(found.body)
    answer.headers.update(found.headers)
    return pack(answer, found.body)


async def _read_list(query: Query) -> ListAnswer:
    at, seen = trio.current_time(), queue().last_event  # before reading: the answer contains at least this
    page = await queue().find(query)
    headers = {"X-Total-Count": str(page.total), "X-Event-Id": f"{queue().epoch}-{seen}"}
    if query.anchor is not None:
        headers["X-Newer-Count"] = str(page.newer)
    if query.text is not None:
        headers["X-Search-Complete"] = "true" if page.complete else "false"
    if query.limit and len(page.tasks) == query.limit:
        following = msgspec.structs.replace(query, before=page.tasks[-1].key, offset=0)
        headers["Link"] = f'<{_link(following)}>; rel="next"'
    return ListAnswer(seen, at, tasks_json(page.tasks, queue().progress), headers)


def _link(query: Query) -> str:
    return f"/api/tasks?{urlencode(query_parameters(query))}"


def _facts(key: int) -> dict[str, object]:
    """Return what is known of an unfinished task beyond its record: its place, and why it waits."""
    position, start = queue().position(key) or (None, None)
    return {
        "queue_position": position,
        "expected_start_at": optional_time(start),
        "waiting": waiting_dict(queue().waiting(key)),
    }


def _whole(task: Task) -> bytes:
    return task_json(task, queue().progress(task.key), **_facts(task.key))


async def get_task(id: str) -> Response:
    """The whole task, or with `view=summary` what a page shows of it."""
    view = arguments("view").get("view", "whole")
    if view not in VIEWS:
        raise InvalidTask(f"view must be one of {', '.join(VIEWS)}, not {view[:60]!r}", "view")
    key = queue().resolve(id)
    if view == "whole":
        return reply(_whole(await queue().get_task(key)))
    progress, facts = queue().progress(key), _facts(key)
    return reply(await queue().summary(key, lambda task: summary_json(task, progress, **facts)))


async def result(id: str) -> Response:
    """Wait for the end, at most *wait* seconds."""
    given = arguments("wait")
    seconds = min(WAIT_MAX, parse_duration(given.get("wait", "0"), "wait"))
    key = queue().resolve(id)
    task = await queue().get_task(key)
    if not task.status.finished and seconds > 0:
        task = await _wait(key, seconds) or await queue().get_task(key)
    return reply(_whole(task), 200 if task.status.finished else 202)


async def _wait(key: int, seconds: float) -> Task | None:
    """Return the finished task; None if it was not finished in time, or the server stops."""
    found: Task | None = None
    failure: OqError | None = None
    async with trio.open_nursery() as nursery:

        async def end_on_stop() -> None:
            await this_app().stopping.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(end_on_stop)
        try:
            found = await queue().wait(key, seconds)
        except WaitTimeout:
            pass
        except OqError as error:  # kept out of the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found


# --- change
async def cancel(id: str) -> Response:
    key = queue().resolve(id)
    state: TaskState = one(await queue().cancel_many([key]))
    return reply(changed_json(key, state))


async def retry(id: str) -> Response:
    key = queue().resolve(id)
    state: TaskState = one(await queue().retry_many([key]))
    return reply(changed_json(key, state))


async def priority(id: str) -> Response:
    check_json(request.content_type)
    level = parse_priority_body(await body())
    key = queue().resolve(id)
    state: TaskState = one(await queue().reprioritize_many([key], level))
    return reply(changed_json(key, state))


async def delete_task(id: str) -> Response:
    key = queue().resolve(id)
    one(await queue().delete_many([key]))
    return reply(msgspec.json.encode({"id": format_id(key), "deleted": True}))


async def bulk() -> Response:
    check_json(request.content_type)
    asked = parse_bulk(await body())
    if asked.ids is not None and len(asked.ids) > settings().server.max_batch:
        raise TooLarge(f"at most {settings().server.max_batch} ids in one request; send them in parts")
    return reply(bulk_json(*await run_bulk(queue(), asked)))


# --- the queue as a whole
async def status() -> Response:
    return reply(status_json(queue().stats()))


async def hosts() -> Response:
    return reply(hosts_json(queue().stats().hosts, await queue().host_info()))


async def pause() -> Response:
    await queue().pause()
    return reply(b'{"paused":true}')


async def resume() -> Response:
    await queue().resume()
    return reply(b'{"paused":false}')


async def drain() -> Response:
    """Answered when nothing runs any more, `grace` at the latest."""
    grace = parse_duration(arguments("grace").get("grace", settings().server.shutdown_grace), "grace")
    await queue().drain(grace)
    return reply(b'{"draining":true}')


# --- for machines
async def health() -> Response:
    stats = queue().stats()
    ready = stats.storage_ok and not stats.draining
    said = {
        "status": "ok" if ready else "draining" if stats.storage_ok else "storage refuses writes",
        "live": True,
        "ready": ready,
        "storage_ok": stats.storage_ok,
        "draining": stats.draining,
        "paused": stats.paused,
    }
    return reply(msgspec.json.encode(said), 200 if ready else 503)


async def metrics() -> Response:
    text, content_type = render_metrics(queue())
    return Response(text, content_type=content_type)


async def openapi() -> Response:
    return reply(openapi_json())
