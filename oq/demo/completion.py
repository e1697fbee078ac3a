"""Text from a model: the prompt cut to fit, the options in llama.cpp's words, the pieces as they come."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable

import msgspec

from oq.demo.engine_call import EngineCall, EngineLost
from oq.demo.exchange import Exchange
from oq.demo.loading import Loaded
from oq.demo.models import Json
from oq.demo.refusals import PROMPT_TOO_LONG, UNEXPECTED_EOF, ApiError
from oq.demo.requests import schema_of

REPEATS_MAX = 30  # Ollama gives up on a token repeated more often in a row
CONTEXTS_PER_ANSWER = 10  # an answer is never longer than so many contexts
NUM_KEEP = 4  # tokens at the start of a prompt that stay when its middle is cut out

# Ollama's defaults (api/types.go); each goes to llama.cpp under its own name.
_DEFAULTS: Json = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0,
    "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": -1,
    "stop": ["<|im_start|>", "<|im_end|>"],
}  # fmt: skip


class Completion(msgspec.Struct, frozen=True):
    """A prompt to complete.

    Attributes:
        shape: makes a line, or the whole answer, of a text and of whether it is done.
        more: makes further fields of the last line of the whole text.
        ready_at: when the model was loaded, `time.perf_counter_ns()`.
    """

    prompt: str
    options: Json
    shape: Callable[[str, bool], Json]
    more: Callable[[str], Json]
    ready_at: int


def chat_prompt(messages: list[Json]) -> str:
    """Return SmolLM2's own chat format, with no system message but what *messages* has, as Ollama renders it."""
    turns = [
        f"<|im_start|>{str(message.get('role', 'user')).lower()}\n{message.get('content') or ''}<|im_end|>\n"
        for message in messages
    ]
    return "".join(turns) + "<|im_start|>assistant\n"


def timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def complete(exchange: Exchange, loaded: Loaded, work: Completion) -> None:
    """Generate and answer, in lines or whole."""
    exchange.generating = True
    body: Json = {"prompt": _fitting(exchange, loaded, work), "stream": True, "cache_prompt": True}
    body |= _sampling(work.options, loaded.runner.context)
    schema = schema_of(exchange.request)
    if schema is not None:
        body["json_schema"] = schema
    with loaded.places.taken(exchange.caller):
        with loaded.runner.open("/completion", body, exchange.caller) as call:
            text, final = _read(exchange, call, work)
    if final is None:  # cut off for its repetitions: no last line, and no error
        if exchange.streams:
            exchange.end()
        else:
            exchange.answer(work.shape(text, False))
        return
    tail = final.get("content", "")
    last = work.shape(tail if exchange.streams else text + tail, True)
    last["done_reason"] = "length" if final.get("stop_type") == "limit" else "stop"
    last |= work.more(text + tail) | _figures(exchange, final, work.ready_at)
    if exchange.streams:
        exchange.line(last)
        exchange.end()
    else:
        exchange.answer(last)


def _fitting(exchange: Exchange, loaded: Loaded, work: Completion) -> str | list[int]:
    """Return the prompt, or its tokens with the middle left out where it is longer than the context."""
    request, context = exchange.request, loaded.runner.context
    tokens = loaded.runner.tokens(work.prompt, exchange.caller)
    if len(tokens) < context or request.get("truncate") is False:
        return work.prompt
    if request.get("shift") is False:
        raise ApiError(400, PROMPT_TOO_LONG)
    keep = max(0, min(work.options.get("num_keep", NUM_KEEP), context - 1))
    room = context - max((context - keep) // 2, 1)  # half of what is not kept stays free for the answer
    return tokens[:keep] + tokens[keep - room :]


def _sampling(options: Json, context: int) -> Json:
    most = CONTEXTS_PER_ANSWER * context
    wanted = options.get("num_predict", -1)
    chosen = {name: options.get(name, default) for name, default in _DEFAULTS.items()}
    return chosen | {
        "n_predict": wanted if 0 < wanted <= most else most,
        "n_keep": options.get("num_keep", NUM_KEEP),
    }


def _read(exchange: Exchange, call: EngineCall, work: Completion) -> tuple[str, Json | None]:
    """Pass the pieces on; return the text and llama.cpp's last event, None if it was cut off for repetitions."""
    pieces: list[str] = []
    repeats, previous = 0, None
    try:
        for line in call.lines():
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event: Json = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise ApiError(event["error"].get("code", 500), event["error"].get("message", "error"))
            piece: str = event.get("content", "")
            repeats = repeats + 1 if piece.strip() == previous else 0
            previous = piece.strip()
            if repeats > REPEATS_MAX:
                return "".join(pieces), None
            if event.get("stop"):
                return "".join(pieces), event
            if piece:
                pieces.append(piece)
                if exchange.streams:
                    exchange.line(work.shape(piece, False))
    except EngineLost:
        pass
    raise ApiError(500, UNEXPECTED_EOF)


def _figures(exchange: Exchange, final: Json, ready_at: int) -> Json:
    """Return counts, and durations in nanoseconds."""
    timings = final.get("timings", {})
    return {
        "total_duration": time.perf_counter_ns() - exchange.arrived_at,
        "load_duration": ready_at - exchange.arrived_at,
        "prompt_eval_count": timings.get("cache_n", 0) + timings.get("prompt_n", 0),
        "prompt_eval_duration": int(timings.get("prompt_ms", 0) * 1e6),
        "eval_count": timings.get("predicted_n", 0),
        "eval_duration": int(timings.get("predicted_ms", 0) * 1e6),
    }
