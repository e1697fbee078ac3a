"""OpenAI's chat completions as chats of the model server, and back."""

from __future__ import annotations

from typing import Any

import msgspec

from oq.dropin.openai_fields import Fields, OpenAiCall, text_parts
from oq.errors import InvalidTask

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_MESSAGE_FIELDS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning", "reasoning_content", "audio",
     "function_call", "annotations"}
)  # fmt: skip
TOKENS_MAX = 2**31 - 1
_encode = msgspec.json.encode


def read_chat(body: bytes) -> OpenAiCall:
    """Return the chat in *body*; `InvalidTask` names what is wrong or cannot be mapped."""
    fields = Fields(body)
    model = fields.model()
    payload: dict[str, Any] = {"messages": _messages(fields.array("messages"))}
    tools = fields.array("tools")
    choice = fields.take("tool_choice")
    if choice not in (None, "auto", "none"):
        raise InvalidTask(
            'tool_choice can only be "auto" or "none" here: no model can be made to call a tool',
            "tool_choice",
        )
    if tools and choice != "none":
        payload["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    fields.only("parallel_tool_calls", True)
    form = fields.mapping("response_format")
    if form is not None:
        _format(form, payload)
    effort = fields.text("reasoning_effort")
    if effort is not None:
        if effort not in ("none", "minimal", "low", "medium", "high"):
            raise InvalidTask(
                "reasoning_effort must be none, minimal, low, medium or high", "reasoning_effort"
            )
        payload["think"] = {"none": False, "minimal": "low"}.get(effort, effort)
    think = fields.take("think")
    if think is not None:
        payload["think"] = think
    if fields.flag("logprobs"):
        payload["logprobs"] = True
    top = fields.whole("top_logprobs", 0, 20)
    if top and not payload.get("logprobs"):
        raise InvalidTask("top_logprobs needs logprobs: true", "top_logprobs")
    if top is not None and payload.get("logprobs"):
        payload["top_logprobs"] = top
    most = fields.whole("max_tokens", 1, TOKENS_MAX)
    most = fields.whole("max_completion_tokens", 1, TOKENS_MAX) or most
    if most is not None:
        fields.options["num_predict"] = most
    fields.only("modalities", ["text"])
    fields.only("verbosity", "medium")
    fields.sampling()
    stream, asked = fields.stream()
    options, keep_alive = fields.native()
    fields.finish()
    return OpenAiCall("chat", model, _encode(payload), options, keep_alive, stream, fields.ours, asked)


def _messages(given: list[Any] | None) -> list[dict[str, Any]]:
    if not given:
        raise InvalidTask("messages must hold at least one message", "messages")
    called: dict[str, str] = {}  # a tool call's id → the tool's name, which the model server's template wants
    return [_message(message, f"messages[{index}]", called) for index, message in enumerate(given)]


def _message(given: Any, where: str, called: dict[str, str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidTask(f"{where} must be an object", where)
    role = _ROLES.get(str(given.get("role")))
    if role is None:
        raise InvalidTask(f"{where}.role must be one of {', '.join(_ROLES)}", f"{where}.role")
    for name, value in given.items():
        if value is not None and (name not in _MESSAGE_FIELDS or name in ("audio", "function_call")):
            raise InvalidTask(
                f"{where}.{name[:60]} cannot be mapped onto the model server", f"{where}.{name[:60]}"
            )
    parts = text_parts(given.get("content"), f"{where}.content", ("image_url", "refusal"))
    message: dict[str, Any] = {
        "role": role, "content": "\n".join(part["text"] for part in parts if part["type"] == "text"),
    }  # fmt: skip
    images = [
        _image(part, f"{where}.content[{index}]") for index, part in enumerate(parts) if part["type"] == "image_url"
    ]  # fmt: skip
    if images:
        message["images"] = images
    thinking = given.get("reasoning") or given.get("reasoning_content")
    if thinking:
        message["thinking"] = thinking
    calls = given.get("tool_calls")
    if calls:
        message["tool_calls"] = _calls(calls, f"{where}.tool_calls", called)
    if role == "tool":
        id = given.get("tool_call_id")
        if not isinstance(id, str):
            raise InvalidTask(f"{where}.tool_call_id must name the call", f"{where}.tool_call_id")
        message["tool_call_id"] = id
        name = given.get("name") or called.get(id)
        if name:
            message["tool_name"] = name
    return message


def _image(part: dict[str, Any], where: str) -> str:
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not comma or not head.startswith("data:") or not head.lower().endswith(";base64"):
        raise InvalidTask(
            f"{where}.image_url must be a data URL (data:image/png;base64,…): no picture is fetched from elsewhere",
            f"{where}.image_url",
        )
    return data


def _calls(given: Any, where: str, called: dict[str, str]) -> list[dict[str, Any]]:
    found = []
    for index, call in enumerate(given if isinstance(given, list) else [None]):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidTask(f"{where}[{index}] must have a function with a name", f"{where}[{index}]")
        try:
            arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
        except (msgspec.MsgspecError, TypeError):
            raise InvalidTask(
                f"{where}[{index}].function.arguments must be the text of a JSON object",
                f"{where}[{index}].function.arguments",
            ) from None
        made: dict[str, Any] = {
            "function": {"index": index, "name": function["name"], "arguments": arguments}
        }
        id = call.get("id")
        if isinstance(id, str):
            made["id"] = id
            called[id] = function["name"]
        found.append(made)
    return found


def _tool(given: Any, where: str) -> dict[str, Any]:
    if (
        not isinstance(given, dict)
        or given.get("type") != "function"
        or not isinstance(given.get("function"), dict)
    ):
        raise InvalidTask(f"{where} must be a tool of the type function", where)
    function = {name: value for name, value in given["function"].items() if name != "strict"}
    return {"type": "function", "function": function}


def _format(form: dict[str, Any], payload: dict[str, Any]) -> None:
    match form.get("type"):
        case "text":
            pass
        case "json_object":
            payload["format"] = "json"
        case "json_schema":
            schema = form.get("json_schema")
            inner = schema.get("schema") if isinstance(schema, dict) else None
            if not isinstance(inner, dict):
                raise InvalidTask(
                    "response_format.json_schema.schema must be a JSON schema", "response_format"
                )
            payload["format"] = inner
        case other:
            raise InvalidTask(f"response_format.type {str(other)[:60]!r} cannot be mapped", "response_format")


# --- answers
class _Said(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Line(msgspec.Struct):
    message: _Said | None = None
    logprobs: list[dict[str, Any]] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None


_decode = msgspec.json.Decoder(_Line).decode


class ChatAnswer:
    """Turns the model server's lines into OpenAI's chunks, and its result into a completion.

    Args:
        id: the task's id, from which the answer's ids are made.
        created: Unix seconds.
    """

    def __init__(self, id: str, created: int, model: str, *, include_usage: bool = False) -> None:
        self._head = {
            "id": f"chatcmpl-{id}", "created": created, "model": model, "system_fingerprint": "fp_ollama",
        }  # fmt: skip
        self._id = id
        self._include_usage = include_usage
        self._calls = 0

    def chunks(self, line: bytes) -> list[bytes]:
        """Return the chunks, as JSON, that *line* becomes."""
        found = _decode(line)
        said = found.message or _Said()
        delta: dict[str, Any] = {"role": "assistant", "content": said.content or ""}
        if said.thinking:
            delta["reasoning"] = said.thinking
        if said.tool_calls:
            delta["tool_calls"] = self._tool_calls(said.tool_calls, indexed=True)
        chunks = []
        if said.content or said.thinking or said.tool_calls or found.logprobs or not found.done:
            chunks.append(self._chunk(delta, None, found.logprobs))
        if found.done:
            chunks.append(self._chunk({}, self._finish(found)))
            if self._include_usage:
                body = {
                    **self._head,
                    "object": "chat.completion.chunk",
                    "choices": [],
                    "usage": usage_of(found),
                }
                chunks.append(_encode(body))
        return chunks

    def _chunk(
        self, delta: dict[str, Any], finish: str | None, logprobs: list[dict[str, Any]] | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if logprobs:
            choice["logprobs"] = {"content": logprobs}
        body: dict[str, Any] = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._include_usage:
            body["usage"] = None
        return _encode(body)

    def whole(self, result: bytes) -> bytes:
        """Return the completion."""
        found = _decode(result)
        said = found.message or _Said()
        message: dict[str, Any] = {"role": "assistant", "content": said.content or ""}
        if said.thinking:
            message["reasoning"] = said.thinking
        if said.tool_calls:
            message["tool_calls"] = self._tool_calls(said.tool_calls, indexed=False)
            message["content"] = said.content or None
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self._finish(found)}
        if found.logprobs:
            choice["logprobs"] = {"content": found.logprobs}
        return _encode(
            {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage_of(found)}
        )

    def _tool_calls(self, calls: list[dict[str, Any]], *, indexed: bool) -> list[dict[str, Any]]:
        found = []
        for call in calls:
            function = call.get("function") or {}
            made: dict[str, Any] = {"index": self._calls} if indexed else {}
            made |= {
                "id": call.get("id") or f"call_{self._id}_{self._calls}",
                "type": "function",
                "function": {
                    "name": function.get("name", ""),
                    "arguments": _encode(function.get("arguments") or {}).decode(),
                },
            }
            self._calls += 1
            found.append(made)
        return found

    def _finish(self, found: _Line) -> str:
        return "tool_calls" if self._calls else finish_reason(found.done_reason)


def usage_of(found: Any) -> dict[str, int]:
    """Return the usage from the model server's counts."""
    prompt, answer = found.prompt_eval_count or 0, found.eval_count or 0
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def finish_reason(done_reason: str | None) -> str:
    """Return OpenAI's word for why an answer ended."""
    return "length" if done_reason == "length" else "stop"
