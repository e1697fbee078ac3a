"""A web app with the queue inside: no oq server, one process.

    pip install .                       # in a clone of oq
    python examples/embedded_quart.py --model llama3.2 --ollama-host http://localhost:11434

    curl -N localhost:8000/ask -d 'question=Why is the sky blue?'

The answer comes as the model writes it. Its task is on disk before the first word: `X-Task-Id` names it, and
`GET /tasks/ID` still has the answer when the caller hung up, or when the app was killed and started again, and
`GET /tasks/ID/text` streams it from its beginning.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio

import oq

BOUND = {"num_predict": 200}  # tokens at most: a small model does not always find an end


def make_app(model: str, **settings: Any) -> QuartTrio:
    """Return the app; *settings* are those of `oq.open_queue`."""
    app = QuartTrio(__name__)
    app.config["RESPONSE_TIMEOUT"] = None  # Quart would cut an answer after a minute; a task may wait longer
    queues: list[oq.Queue] = []

    # The queue's actors run as long as the app does. At its end what runs is interrupted and stays in the store.
    @app.while_serving
    async def queue_beside_the_app() -> AsyncGenerator[None, None]:
        async with oq.open_queue(**settings) as queue:
            queues.append(queue)
            yield

    @app.errorhandler(oq.errors.OqError)
    async def explain(error: oq.errors.OqError) -> tuple[dict[str, str], int]:
        kind = {oq.errors.InvalidTask: 422, oq.errors.TaskNotFound: 404}
        return {"error": error.message, "code": error.code}, kind.get(type(error), 503)

    @app.post("/ask")
    async def ask() -> Response:
        question = (await request.form)["question"]
        handle = await queues[0].submit(oq.chat(model, question, options=BOUND, priority=oq.HIGH))
        return Response(words(handle), content_type="text/plain", headers={"X-Task-Id": handle.id})

    @app.get("/tasks/<id>")
    async def task(id: str) -> dict[str, Any]:
        found = await queues[0].get(id)
        return {"id": found.id, "status": found.status, "answer": found.output, "error": found.state.error}

    @app.get("/tasks/<id>/text")
    async def text(id: str) -> Response:
        queue = queues[0]
        return Response(words(oq.TaskHandle(queue, queue.resolve(id))), content_type="text/plain")

    return app


async def words(handle: oq.TaskHandle) -> AsyncGenerator[bytes, None]:
    """Yield the answer as it comes. The head of the response is out by then, so a failure can only be told in words."""
    try:
        async for text in handle.stream():
            yield text.encode()
    except oq.errors.OqError as error:
        yield f"\n[{error.message}]\n".encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="A web app with a queue inside.")
    parser.add_argument("--model", default="llama3.2")
    parser.add_argument("--ollama-host", default="http://localhost:11434")
    parser.add_argument("--data-dir", default="./oq-data")
    parser.add_argument("--bind", default="127.0.0.1:8000")
    given = parser.parse_args()
    config = Config()
    config.bind = [given.bind]
    app = make_app(given.model, storage_path=given.data_dir, ollama_host=given.ollama_host)
    trio.run(partial(serve, app, config))


if __name__ == "__main__":
    main()
