"""POST /api/chat, /api/generate, /api/embed and /api/embeddings: tasks, answered in the model server's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from oq.core.model import TaskType
from oq.core.task import Task
from oq.dropin.native import TYPES, only_loads, read_call, waiting_line
from oq.dropin.refusals import Refused, error_line
from oq.dropin.terms import task_of, terms_of
from oq.web.exchange import Exchange
from oq.web.ollama.hosts import pass_on
from oq.web.relay import answer_task

if TYPE_CHECKING:
    from oq.web.house import House

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class NativeForm:
    """See `oq.web.relay.Form`."""

    def __init__(self, type: TaskType, model: str, *, streams: bool) -> None:
        self.streams = streams
        self._type = type
        self._model = model
        self._loads = False

    def began(self, id: str, created_at: float) -> None:
        pass

    def content_type(self, first: bytes) -> str:
        self._loads = only_loads(first)
        return JSON if self._loads else NDJSON

    def lines(self, lines: list[bytes]) -> bytes:
        return lines[0] if self._loads else b"\n".join(lines) + b"\n"

    def end(self, task: Task) -> bytes:
        return b""

    def whole(self, task: Task) -> bytes:
        return task.result_json or b"{}"

    def refused(self, why: Refused) -> tuple[bytes, str]:
        if why.body or why.status == 403:  # a foreign Host is refused with an empty body
            return why.body, why.content_type or JSON
        return error_line(why), JSON

    def broken(self, why: Refused) -> bytes:
        return error_line(why) + b"\n"

    def waiting(self, now: str) -> bytes:
        return waiting_line(self._type, self._model, now) + b"\n"


async def run_native(house: House, exchange: Exchange, **_: str) -> None:
    """Queue the request and answer as the model server does."""
    body = await exchange.body()
    call = read_call(exchange.path, body)
    if call is None:
        await pass_on(house, exchange, body)
        return
    terms = terms_of(exchange.headers, call.ours, house.settings, "ollama")
    streams = call.stream and call.type != "embed"
    spec = task_of(
        call.type, call.model, call.payload, call.options, call.keep_alive, terms, relay=streams
    )  # fmt: skip
    form = NativeForm(call.type, call.model, streams=streams)
    await answer_task(exchange, house.queue, house.settings, house.stopping, spec, terms, form)


TASK_PATHS = tuple(TYPES)
