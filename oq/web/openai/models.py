"""GET /v1/models: what the hosts have, in OpenAI's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from oq.dropin.openai_errors import openai_error
from oq.errors import InvalidTask
from oq.web.exchange import Exchange
from oq.web.ollama.hosts import models_of
from oq.wire import parse_time

if TYPE_CHECKING:
    from oq.web.house import House

JSON = {"Content-Type": "application/json"}


async def every_model(house: House, exchange: Exchange, **_: str) -> None:
    """Every model of every host."""
    data = [_model(model) for model in await models_of(house)]
    await exchange.whole(200, msgspec.json.encode({"object": "list", "data": data}), JSON)


async def one_model(house: House, exchange: Exchange, id: str) -> None:
    """One model; ``:latest`` may be left out, as everywhere."""
    for model in await models_of(house):
        if model.get("name") in (id, f"{id}:latest"):
            await exchange.whole(200, msgspec.json.encode(_model(model) | {"id": id}), JSON)
            return
    await exchange.whole(404, openai_error(404, f"model '{id}' not found", code="model_not_found"), JSON)


def _model(model: dict[str, Any]) -> dict[str, Any]:
    name = str(model.get("name", ""))
    owner, slash, _ = name.rpartition("/")
    try:
        created = int(parse_time(str(model.get("modified_at", "")), "modified_at"))
    except InvalidTask:
        created = 0
    return {"id": name, "object": "model", "created": created, "owned_by": owner if slash else "library"}
