"""OpenAI's (older) completions as generate requests of the model server, and back."""

from __future__ import annotations

from typing import Any

import msgspec

from oq.dropin.openai_chat import TOKENS_MAX, finish_reason, usage_of
from oq.dropin.openai_fields import Fields, OpenAiCall
from oq.errors import InvalidTask

_encode = msgspec.json.encode


def read_completion(body: bytes) -> OpenAiCall:
    """Return the completion in *body*; `InvalidTask` names what is wrong or cannot be mapped."""
    fields = Fields(body)
    model = fields.model()
    payload: dict[str, Any] = {"prompt": _prompt(fields.take("prompt"))}
    suffix = fields.text("suffix")
    if suffix:
        payload["suffix"] = suffix
    most = fields.whole("max_tokens", 1, TOKENS_MAX)
    if most is not None:
        fields.options["num_predict"] = most
    top = fields.whole("logprobs", 0, 20)
    if top is not None:
        payload |= {"logprobs": True, "top_logprobs": top}
    fields.only("echo", False)
    fields.only("best_of", 1)
    fields.sampling()
    stream, asked = fields.stream()
    options, keep_alive = fields.native()
    fields.finish()
    return OpenAiCall("generate", model, _encode(payload), options, keep_alive, stream, fields.ours, asked)


def _prompt(given: Any) -> str:
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        raise InvalidTask("prompt can only be one text here; send one request for each", "prompt")
    if not isinstance(given, str):
        raise InvalidTask("prompt must be text: tokens cannot be mapped", "prompt")
    return given


class _Line(msgspec.Struct):
    response: str | None = None
    thinking: str | None = None
    logprobs: list[dict[str, Any]] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None


_decode = msgspec.json.Decoder(_Line).decode


class CompletionAnswer:
    """As `oq.dropin.openai_chat.ChatAnswer`, for completions."""

    def __init__(self, id: str, created: int, model: str, *, include_usage: bool = False) -> None:
        self._head = {
            "id": f"cmpl-{id}", "object": "text_completion", "created": created, "model": model,
            "system_fingerprint": "fp_ollama",
        }  # fmt: skip
        self._include_usage = include_usage
        self._length = 0  # characters so far: where the next token begins

    def chunks(self, line: bytes) -> list[bytes]:
        """Return the chunks, as JSON, that *line* becomes."""
        found = _decode(line)
        chunks = []
        if found.response or found.logprobs or not found.done:
            chunks.append(self._body(found.response or "", None, found.logprobs))
        if found.done:
            chunks.append(self._body("", finish_reason(found.done_reason), None))
            if self._include_usage:
                chunks.append(_encode({**self._head, "choices": [], "usage": usage_of(found)}))
        return chunks

    def whole(self, result: bytes) -> bytes:
        """Return the completion."""
        found = _decode(result)
        return self._body(
            found.response or "", finish_reason(found.done_reason), found.logprobs, usage=usage_of(found)
        )

    def _body(
        self, text: str, finish: str | None, logprobs: list[dict[str, Any]] | None, **more: Any
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
        if logprobs:
            choice["logprobs"] = self._logprobs(logprobs)
        if self._include_usage and not more:
            more["usage"] = None
        return _encode({**self._head, "choices": [choice], **more})

    def _logprobs(self, given: list[dict[str, Any]]) -> dict[str, Any]:
        offsets = []
        for one in given:
            offsets.append(self._length)
            self._length += len(one.get("token", ""))
        return {
            "tokens": [one.get("token") for one in given],
            "token_logprobs": [one.get("logprob") for one in given],
            "top_logprobs": [
                {top.get("token"): top.get("logprob") for top in one.get("top_logprobs") or ()}
                for one in given
            ],
            "text_offset": offsets,
        }
