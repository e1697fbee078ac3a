"""Whether an answer is what was asked for: not cut at either end, and JSON where JSON was asked for. No I/O.

Findings are codes, in order of weight:

- ``prompt_cut``: the model server counts exactly as many tokens of the prompt as stay when one is cut: all that the
  context (`num_ctx`) holds, or, as Ollama does it now, `num_keep` and half of the rest. Known only when the task names the
  context; of a chat, whole messages may be dropped unseen. A whole prompt has just that length once in some thousand.
- ``length``: the answer ended because there was no more room for it (`num_predict`, or the context).
- ``invalid_json``: the task's `format` asks for JSON, and the answer is none.
- ``schema_mismatch``: it is JSON, but not as the schema in `format` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from oq.core.model import TaskSpec

Guard = Literal["report", "retry", "fail"]
GUARDS: tuple[Guard, ...] = ("report", "retry", "fail")
FINDINGS = ("prompt_cut", "length", "invalid_json", "schema_mismatch")
NUM_KEEP = 4  # Ollama's own, where the task names none
CONTEXT_MAX = 1 << 20  # tokens that a context is enlarged to at most
_NO_ROOM = ("prompt_cut", "length")
_WORDS = {
    "prompt_cut": "the prompt did not fit into the context and was cut: a larger num_ctx, or a shorter prompt",
    "length": "the answer was cut at its end: a larger num_predict, or a larger num_ctx",
    "invalid_json": "the answer is not the JSON that was asked for",
    "schema_mismatch": "the answer does not validate against the schema that was asked for",
}

Validate = Callable[[bytes, str], bool | None]
"""Whether a text that is JSON validates against a schema; None if that cannot be said."""


class _Said(msgspec.Struct):
    content: str | None = None
    tool_calls: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct):
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    message: _Said | None = None
    response: str | None = None


class _Asked(msgspec.Struct):
    format: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_answer = msgspec.json.Decoder(_Answer, strict=False).decode
_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Judgement(msgspec.Struct, frozen=True):
    """*findings* in order of weight; *may_help*: another attempt, with a larger context if that was it, may do better."""

    findings: tuple[str, ...] = ()
    may_help: bool = False


def asks_for_json(spec: TaskSpec) -> bool:
    return spec.type != "embed" and b'"format"' in spec.payload and _format(spec) is not None


def judge(spec: TaskSpec, result: bytes, validate: Validate) -> Judgement:
    """Return what is wrong with *result*, the model server's final JSON."""
    if spec.type == "embed":
        return Judgement()
    try:
        answer = _decode_answer(result)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Judgement()
    context = context_of(spec)
    prompt, written = answer.prompt_eval_count or 0, answer.eval_count or 0
    findings = []
    if context and (prompt >= context or prompt == _left_when_cut(spec, context)):
        findings.append("prompt_cut")
    if answer.done_reason == "length":
        findings.append("length")
    findings += _json_findings(spec, answer, validate)
    no_room = "prompt_cut" in findings or (bool(context) and prompt + written >= context)
    may_help = bool(findings) and (findings[0] not in _NO_ROOM or (no_room and context < CONTEXT_MAX))
    return Judgement(tuple(findings), may_help)


def words_of(findings: Sequence[str]) -> str:
    """Return a sentence on the gravest of *findings*."""
    return _WORDS[findings[0]]


def _json_findings(spec: TaskSpec, answer: _Answer, validate: Validate) -> list[str]:
    wanted = _format(spec) if b'"format"' in spec.payload else None
    if wanted is None:
        return []
    said = answer.message
    text = (said.content if said is not None else answer.response) or ""
    if said is not None and said.tool_calls is not msgspec.UNSET and not text.strip():
        return []  # it called tools in place of an answer
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        return ["invalid_json"]
    if wanted[:1] == b"{" and validate(wanted, text) is False:
        return ["schema_mismatch"]
    return []


def _format(spec: TaskSpec) -> bytes | None:
    """Return ``"json"`` or the schema that was asked for, as JSON; None if neither was."""
    try:
        found = _decode_asked(spec.payload).format
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    wanted = b"" if found is msgspec.UNSET else bytes(found).strip()
    return wanted if wanted == b'"json"' or wanted[:1] == b"{" else None


def context_of(spec: TaskSpec) -> int:
    """Return the `num_ctx` that the task names; 0 if it names none.

    >>> context_of(TaskSpec(type="chat", model="m", payload=b"{}", options=b'{"num_ctx": 4096}'))
    4096
    """
    return max(0, _option(spec, "num_ctx", 0))


def _left_when_cut(spec: TaskSpec, context: int) -> int:
    """Return the tokens of a prompt that stay when its middle is cut out, which leaves room for the answer."""
    keep = max(0, min(_option(spec, "num_keep", NUM_KEEP), context - 1))
    return context - max((context - keep) // 2, 1)


def _option(spec: TaskSpec, name: str, default: int) -> int:
    if spec.options is None or name.encode() not in spec.options:
        return default
    try:
        return msgspec.json.decode(_decode_object(spec.options)[name], type=int, strict=False)
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return default


def after(spec: TaskSpec, causes: Sequence[str]) -> TaskSpec:
    """Return the task as it is asked again after attempts that a guard refused for *causes*: with twice the context.

    >>> spec = TaskSpec(type="chat", model="m", payload=b"{}", options=b'{"seed":1,"num_ctx":8}')
    >>> after(spec, ["length"]).options
    b'{"seed":1,"num_ctx":16}'
    """
    context = context_of(spec)
    if not context or spec.options is None or not any(cause in _NO_ROOM for cause in causes):
        return spec
    options = _decode_object(spec.options)
    options["num_ctx"] = msgspec.Raw(b"%d" % min(2 * context, CONTEXT_MAX))
    return msgspec.structs.replace(spec, options=msgspec.json.encode(options))
