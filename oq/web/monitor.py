"""Routes that the monitor needs beside the API's: charts, models, and the exact bytes of what a task carries."""

from __future__ import annotations

import msgspec
from quart import Response

from oq.errors import InvalidTask, TaskNotFound
from oq.web.app import OqApp, queue, this_app
from oq.web.asked import arguments, reply
from oq.web.series import WINDOWS
from oq.wire import models_json


def add_routes(app: OqApp) -> None:
    for path, view in (
        ("/api/series", series),
        ("/api/models", models),
        ("/api/tasks/<id>/payload", payload),
        ("/api/tasks/<id>/result.json", result_json),
    ):
        app.add_url_rule(path, f"GET {path}", view, methods=["GET"])


async def series() -> Response:
    window = arguments("window").get("window", "5m")
    if window not in WINDOWS:
        raise InvalidTask(f"window must be one of {', '.join(WINDOWS)}, not {window[:60]!r}", "window")
    return reply(msgspec.json.encode(this_app().hub.series.rings[window].columns()))


async def models() -> Response:
    arguments()
    return reply(models_json(await queue().host_info()))


async def payload(id: str) -> Response:
    arguments()
    task = await queue().get_light(queue().resolve(id))
    return reply(task.spec.payload)


async def result_json(id: str) -> Response:
    arguments()
    task = await queue().get_task(queue().resolve(id))
    if task.result_json is None:
        raise TaskNotFound(f"task {task.id} has no result: it is {task.status}")
    return reply(task.result_json)
