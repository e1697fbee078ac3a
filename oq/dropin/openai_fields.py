"""The fields of an OpenAI request, taken out one by one; what is left over in the end cannot be mapped, and is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from oq.core.model import TaskType
from oq.dropin.terms import OURS
from oq.errors import InvalidTask
from oq.wire.problems import NotJson
from oq.wire.requests import MODEL_MAX

# They ask for nothing that changes an answer, or name who asks; OpenAI's clients send them of their own accord.
WITHOUT_EFFECT = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
)  # fmt: skip
T = TypeVar("T")
_WORDS: dict[type, str] = {str: "text", bool: "true or false", dict: "an object", list: "a list"}


class OpenAiCall(msgspec.Struct, frozen=True):
    """A request as the model server's own. JSON bytes as in `TaskSpec`; *ours* are the fields of `OURS`.

    *asked* is what only the answer's form needs, such as ``include_usage``.
    """

    type: TaskType
    model: str
    payload: bytes
    options: bytes | None
    keep_alive: bytes | None
    stream: bool
    ours: dict[str, Any]
    asked: dict[str, Any] = {}


class Fields:
    """A request's fields. Each is taken once; `finish` refuses what nobody took. Raises `InvalidTask`, `NotJson`."""

    def __init__(self, body: bytes) -> None:
        try:
            found = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise NotJson(f"the body is not valid JSON: {exc}") from None
        if not isinstance(found, dict):
            raise InvalidTask("the body must be a JSON object")
        self._left: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        self.ours = {name: self._left.pop(name) for name in OURS if name in self._left}
        self.options: dict[str, Any] = {}

    def take(self, name: str) -> Any:
        """Return a field, whatever it is; None if it is not there or null."""
        return self._left.pop(name, None)

    def model(self) -> str:
        model = self.take("model")
        if not isinstance(model, str) or not model.strip() or len(model) > MODEL_MAX or "\0" in model:
            raise InvalidTask(f"model must be a name of 1 to {MODEL_MAX} characters", "model")
        return model

    def flag(self, name: str) -> bool | None:
        return self._kind(name, bool)

    def text(self, name: str) -> str | None:
        return self._kind(name, str)

    def mapping(self, name: str) -> dict[str, Any] | None:
        return self._kind(name, dict)

    def array(self, name: str) -> list[Any] | None:
        return self._kind(name, list)

    def _kind(self, name: str, kind: type[T]) -> T | None:
        value = self.take(name)
        if value is not None and not isinstance(value, kind):
            raise InvalidTask(f"{name} must be {_WORDS[kind]}", name)
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise InvalidTask(f"{name} must be a number from {low:g} to {high:g}", name)
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidTask(f"{name} must be a whole number from {low} to {high}", name)
        return value

    def only(self, name: str, *allowed: object) -> None:
        """Take a field of which only these values can be mapped."""
        value = self.take(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in allowed):
            shown = " or ".join(msgspec.json.encode(one).decode() for one in allowed)
            raise InvalidTask(
                f"{name} can only be {shown} here: the model server knows nothing like it", name
            )

    def sampling(self) -> None:
        """Take what OpenAI's chat and completions share into `options`, with the defaults of OpenAI's API."""
        options = self.options
        temperature, top_p = self.number("temperature", 0, 2), self.number("top_p", 0, 1)
        options["temperature"] = 1.0 if temperature is None else temperature
        options["top_p"] = 1.0 if top_p is None else top_p
        for name in ("frequency_penalty", "presence_penalty"):
            self._option(name, self.number(name, -2, 2))
        self._option("seed", self.whole("seed", -(2**63), 2**63 - 1))
        for name in ("top_k",):
            self._option(name, self.whole(name, 0, 2**31 - 1))
        self._option("min_p", self.number("min_p", 0, 1))
        stop = self.take("stop")
        if stop is not None:
            stops = [stop] if isinstance(stop, str) else stop
            if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
                raise InvalidTask("stop must be text or a list of texts", "stop")
            options["stop"] = stops
        self.only("n", 1)
        self.only("logit_bias", {})
        for name in WITHOUT_EFFECT:
            self.take(name)

    def _option(self, name: str, value: float | None) -> None:
        if value is not None:
            self.options[name] = value

    def native(self) -> tuple[bytes | None, bytes | None]:
        """Take the model server's own ``options`` and ``keep_alive``, which stand above OpenAI's; return both as JSON."""
        self.options |= self.mapping("options") or {}
        keep_alive = self.take("keep_alive")
        return (
            msgspec.json.encode(self.options) if self.options else None,
            None if keep_alive is None else msgspec.json.encode(keep_alive),
        )

    def stream(self) -> tuple[bool, dict[str, Any]]:
        """Take ``stream`` and what belongs to it."""
        stream = bool(self.flag("stream"))
        options = self.mapping("stream_options") or {}
        if options and not stream:
            raise InvalidTask("stream_options needs stream: true", "stream_options")
        for name in options:
            if name not in ("include_usage", "include_obfuscation"):
                raise InvalidTask(f"there is no stream_options.{name[:60]}", f"stream_options.{name[:60]}")
        usage = options.get("include_usage")
        if usage not in (None, True, False):
            raise InvalidTask(
                "stream_options.include_usage must be true or false", "stream_options.include_usage"
            )
        return stream, {"include_usage": bool(usage)}

    def finish(self) -> None:
        """Refuse what was not taken."""
        if self._left:
            name = next(iter(self._left))[:100]
            raise InvalidTask(f"{name} cannot be mapped onto the model server; leave it out", name)


def text_parts(value: Any, where: str, also: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the parts of a message's content, a text as one part; only texts and the kinds *also*."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise InvalidTask(f"{where} must be text or a list of parts", where)
    for index, part in enumerate(value):
        place = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            continue
        if kind not in also:
            raise InvalidTask(f"{place}: a part of the type {str(kind)[:60]!r} cannot be mapped", place)
    return value
