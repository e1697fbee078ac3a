"""POST /v1/chat/completions, /v1/completions and /v1/embeddings: tasks, answered as OpenAI does."""

from __future__ import annotations

from oq.dropin.terms import task_of, terms_of
from oq.web.exchange import Exchange
from oq.web.house import House
from oq.web.openai.forms import READERS, OpenAiForm
from oq.web.relay import answer_task


async def run_openai(house: House, exchange: Exchange, **_: str) -> None:
    """Queue the request as the model server's own and answer in OpenAI's form."""
    call = READERS[exchange.path](await exchange.body())
    terms = terms_of(exchange.headers, call.ours, house.settings, "openai")
    spec = task_of(
        call.type, call.model, call.payload, call.options, call.keep_alive, terms, relay=call.stream
    )
    await answer_task(exchange, house.queue, house.settings, house.stopping, spec, terms, OpenAiForm(call))
