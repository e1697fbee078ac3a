"""What Ollama's endpoints do, each from a parsed request to its answer. They raise `ApiError` and `Gone`."""

from __future__ import annotations

import time
from collections.abc import Callable

from oq.demo.completion import Completion, chat_prompt, complete, timestamp
from oq.demo.engine import EMBED_BATCH
from oq.demo.exchange import Exchange
from oq.demo.loading import Loaded, LoadedModels
from oq.demo.models import Json
from oq.demo.refusals import ApiError
from oq.demo.requests import keep_alive_of, model_name, options_of, refuse_thinking, texts_of

NORM_MIN = 1e-12  # a vector of zeros is not divided by its length

_NAME_REQUIRED = ApiError(400, "model is required")
_NO_NAME = ApiError(404, "model '' not found")


def chat(exchange: Exchange, models: LoadedModels) -> None:
    request = exchange.request
    exchange.streams = request.get("stream") is not False
    messages: list[Json] = request.get("messages") or []
    refuse_thinking(request)
    name, base = model_name(request, models.models, _NAME_REQUIRED)
    keep_alive = keep_alive_of(request)

    def shape(text: str, done: bool) -> Json:
        message = {"role": "assistant", "content": text}
        return {"model": name, "created_at": timestamp(), "message": message, "done": done}

    if not messages and keep_alive == 0:
        models.unload(base)
        return exchange.answer(shape("", True) | {"done_reason": "unload"})
    _require_text(models, name, base, "chat")
    if request.get("tools"):
        raise ApiError(400, f"registry.ollama.ai/library/{base}:latest does not support tools")
    options = options_of(request)
    with models.use(base, options, keep_alive, exchange.caller) as loaded:
        if not messages:
            return exchange.answer(shape("", True) | {"done_reason": "load"})
        if any(message.get("images") for message in messages):
            raise ApiError(400, "Multimodal data provided, but model does not support multimodal requests.")
        work = Completion(chat_prompt(messages), options, shape, lambda text: {}, time.perf_counter_ns())
        return complete(exchange, loaded, work)


def generate(exchange: Exchange, models: LoadedModels) -> None:
    request = exchange.request
    exchange.streams = request.get("stream") is not False
    refuse_thinking(request)
    name, base = model_name(request, models.models, _NO_NAME)
    keep_alive = keep_alive_of(request)
    text: str = request.get("prompt") or ""

    def shape(text: str, done: bool) -> Json:
        return {"model": name, "created_at": timestamp(), "response": text, "done": done}

    if not text and keep_alive == 0:
        models.unload(base)
        return exchange.answer(shape("", True) | {"done_reason": "unload"})
    if request.get("raw") and (request.get("template") or request.get("system") or request.get("context")):
        raise ApiError(400, "raw mode does not support template, system, or context")
    _require_text(models, name, base, "generate")
    if request.get("suffix"):
        raise ApiError(400, f"registry.ollama.ai/library/{base}:latest does not support insert")
    options = options_of(request)
    with models.use(base, options, keep_alive, exchange.caller) as loaded:
        if not text:
            return exchange.answer(shape("", True) | {"done_reason": "load"})
        raw = bool(request.get("raw"))
        system = [{"role": "system", "content": request["system"]}] if request.get("system") else []
        prompt = text if raw else chat_prompt([*system, {"role": "user", "content": text}])

        def more(whole: str) -> Json:
            """Return `context`: the tokens of prompt and answer, with which a later prompt can go on."""
            return {} if raw else {"context": loaded.runner.tokens(prompt + whole, exchange.caller)}

        return complete(exchange, loaded, Completion(prompt, options, shape, more, time.perf_counter_ns()))


def embed(exchange: Exchange, models: LoadedModels) -> None:
    request = exchange.request
    name, base = model_name(request, models.models, _NO_NAME, pull=True)
    texts = texts_of(request)
    with models.use(base, options_of(request), keep_alive_of(request), exchange.caller) as loaded:
        ready_at = time.perf_counter_ns()
        if not texts:
            return exchange.answer({"model": name, "embeddings": []})
        vectors, count = [], 0
        for text in texts:
            vector, tokens = _vector(exchange, loaded, text)
            vectors.append(vector)
            count += tokens
        return exchange.answer(
            {
                "model": name,
                "embeddings": vectors,
                "total_duration": time.perf_counter_ns() - exchange.arrived_at,
                "load_duration": ready_at - exchange.arrived_at,
                "prompt_eval_count": count,
            }
        )


def embeddings(exchange: Exchange, models: LoadedModels) -> None:
    """Answer as before /api/embed came: one text, one vector."""
    request = exchange.request
    _, base = model_name(request, models.models, _NAME_REQUIRED, pull=True)
    with models.use(base, options_of(request), keep_alive_of(request), exchange.caller) as loaded:
        text = request.get("prompt") or ""
        if not text:
            return exchange.answer({"embedding": []})
        return exchange.answer({"embedding": _vector(exchange, loaded, text)[0]})


def show(exchange: Exchange, models: LoadedModels) -> None:
    _, base = model_name(exchange.request, models.models, _NAME_REQUIRED)
    exchange.answer(models.models[base].description())


ENDPOINTS: dict[str, Callable[[Exchange, LoadedModels], None]] = {
    "/api/chat": chat,
    "/api/generate": generate,
    "/api/embed": embed,
    "/api/embeddings": embeddings,
    "/api/show": show,
}


def _require_text(models: LoadedModels, name: str, base: str, what: str) -> None:
    if models.models[base].embeds:
        raise ApiError(400, f'"{name}" does not support {what}')


def _vector(exchange: Exchange, loaded: Loaded, text: str) -> tuple[list[float], int]:
    """Return the vector of *text* and the number of its tokens."""
    if not loaded.runner.model.embeds:
        raise ApiError(501, "This server does not support embeddings. Start it with `--embeddings`")
    text = _short_enough(exchange, loaded, text)
    with loaded.places.taken(exchange.caller):
        found = loaded.runner.call("/v1/embeddings", {"input": text}, exchange.caller)
    vector = _normalised(found["data"][0]["embedding"], exchange.request.get("dimensions") or 0)
    return vector, found["usage"]["prompt_tokens"]


def _short_enough(exchange: Exchange, loaded: Loaded, text: str) -> str:
    """Return *text*, cut where it is longer than the model can embed at once."""
    tokens = loaded.runner.tokens(text, exchange.caller, special=False)
    most = min(loaded.runner.context, EMBED_BATCH) - 2  # a token before and one after
    if len(tokens) <= most:
        return text
    if exchange.request.get("truncate") is False:
        raise ApiError(400, "the input length exceeds the context length")
    cut: str = loaded.runner.call("/detokenize", {"tokens": tokens[:most]}, exchange.caller)["content"]
    return cut


def _normalised(vector: list[float], dimensions: int) -> list[float]:
    """Return the first *dimensions* numbers (0: all) as a vector of length 1."""
    kept = vector[:dimensions] if 0 < dimensions < len(vector) else vector
    length = max(sum(number * number for number in kept) ** 0.5, NORM_MIN)
    return [number / length for number in kept]
