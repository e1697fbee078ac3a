"""The environment variables of Ollama that this server knows."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from oq.demo.durations import parse_keep_alive
from oq.demo.refusals import ApiError
from oq.errors import ConfigError


class Knobs(msgspec.Struct, frozen=True):
    """What can be set; the defaults are Ollama's (but a context of 2048 tokens, which is enough to show it).

    Attributes:
        parallel: requests that one chat model answers at once; embedding models answer one.
        max_queue: requests that may wait for a model to load.
        max_loaded: models loaded at once.
        keep_alive: seconds an unused model stays loaded, unless the request says otherwise; inf: for ever.
        context_length: tokens.
    """

    parallel: int = 1
    max_queue: int = 512
    max_loaded: int = 3
    keep_alive: float = 300.0
    context_length: int = 2048


def knobs_from(environment: Mapping[str, str]) -> Knobs:
    """Read OLLAMA_…; 0 or nothing means the default. `ConfigError` names what does not parse.

    >>> knobs_from({"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_KEEP_ALIVE": "1m30s"})
    Knobs(parallel=4, max_queue=512, max_loaded=3, keep_alive=90.0, context_length=2048)
    """
    default = Knobs()
    return Knobs(
        parallel=_whole(environment, "OLLAMA_NUM_PARALLEL", 0) or default.parallel,
        max_queue=_whole(environment, "OLLAMA_MAX_QUEUE", default.max_queue),
        max_loaded=_whole(environment, "OLLAMA_MAX_LOADED_MODELS", 0) or default.max_loaded,
        keep_alive=_keep_alive(environment.get("OLLAMA_KEEP_ALIVE") or "5m"),
        context_length=_whole(environment, "OLLAMA_CONTEXT_LENGTH", 0) or default.context_length,
    )


def _whole(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch(r"\d{1,9}", text):
        raise ConfigError(f"{name} is {text!r}: it must be a whole number, 0 or more", key=name)
    return int(text)


def _keep_alive(text: str) -> float:
    try:
        return parse_keep_alive(float(text) if re.fullmatch(r"-?\d+", text) else text)
    except ApiError as error:
        raise ConfigError(
            f'OLLAMA_KEEP_ALIVE is {text!r}: it must be seconds or a duration such as "5m" ({error})',
            key="OLLAMA_KEEP_ALIVE",
        ) from error
