"""A web app that leaves its models to an oq server, on this machine or another.

    oq serve &
    pip install .                       # in a clone of oq
    python examples/web_app.py --model llama3.2 --server http://localhost:7125

Open http://localhost:8001 for a form, or ask by hand:

    curl -N localhost:8001/ask -d 'question=Why is the sky blue?'

`oq.AsyncClient` runs on Trio and on asyncio; this app is plain Quart, on asyncio.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Response, request

import oq

BOUND = {"num_predict": 200}  # tokens at most: a small model does not always find an end

PAGE = """<!doctype html><title>Ask</title>
<form><input name=question size=60 autofocus aria-label=Question> <button>Ask</button></form><p id=answer></p>
<script>
document.forms[0].onsubmit = async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  answer.textContent = "waiting …";
  const body = new URLSearchParams(new FormData(event.target));
  const response = await fetch("/ask", {method: "POST", body});
  answer.textContent = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done; ) answer.textContent += part.value;
};
</script>
"""
STATUS = {"invalid_task": 422, "not_found": 404, "queue_full": 429, "server_unreachable": 502}


def make_app(model: str, server: str | None = None, token: str | None = None) -> Quart:
    """Return the app; without *server* the address and the token are those of OQ_URL and OQ_TOKEN."""
    app = Quart(__name__)
    app.config["RESPONSE_TIMEOUT"] = None  # Quart would cut an answer after a minute; a task may wait longer
    clients: list[oq.AsyncClient] = []

    # One client for all requests: it keeps connections open.
    @app.while_serving
    async def one_client() -> AsyncGenerator[None, None]:
        async with oq.AsyncClient(server, token=token) as client:
            clients.append(client)
            yield

    @app.errorhandler(oq.errors.OqError)
    async def explain(error: oq.errors.OqError) -> tuple[dict[str, str], int]:
        return {"error": error.message, "code": error.code}, STATUS.get(error.code, 503)

    @app.get("/")
    async def page() -> str:
        return PAGE

    @app.post("/ask")
    async def ask() -> Response:
        question = (await request.form)["question"]
        # Somebody waits for this one: it goes before what batches left in the queue.
        handle = await clients[0].submit(
            oq.chat(model, question, options=BOUND, priority=oq.HIGH, tags=["web"])
        )
        return Response(
            words(clients[0], handle.id), content_type="text/plain", headers={"X-Task-Id": handle.id}
        )

    @app.get("/tasks/<id>")
    async def task(id: str) -> dict[str, Any]:
        found = await clients[0].get(id)
        return {"id": found.id, "status": found.status, "answer": found.output, "error": found.error}

    @app.get("/queue")
    async def queue() -> dict[str, Any]:
        stats = await clients[0].status()
        return {"waiting": stats.pending_tasks, "running": stats.running_tasks}

    return app


async def words(client: oq.AsyncClient, id: str) -> AsyncGenerator[bytes, None]:
    """Yield the answer as it comes. The head of the response is out by then, so a failure can only be told in words."""
    try:
        # Closed at once when the reader leaves: the connection to the oq server ends with it, the task goes on.
        async with aclosing(client.follow(id)) as lines:
            async for line in lines:
                if line.type == "text" and line.kind == "content":
                    yield line.text.encode()
                elif line.type == "restart":
                    yield b"\n[the model server failed; once more]\n"
                elif line.task is not None and line.task.status != "completed":
                    yield f"\n[{line.task.error or line.task.status}]\n".encode()
    except oq.errors.OqError as error:
        yield f"\n[{error.message}]\n".encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="A web app in front of an oq server.")
    parser.add_argument("--model", default="llama3.2")
    parser.add_argument("--server", help="the oq server [default: OQ_URL, else http://localhost:7125]")
    parser.add_argument("--bind", default="127.0.0.1:8001")
    given = parser.parse_args()
    config = Config()
    config.bind = [given.bind]
    asyncio.run(serve(make_app(given.model, given.server), config))


if __name__ == "__main__":
    main()
