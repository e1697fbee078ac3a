"""OpenAI's requests and answers by path: what reads a body, and the forms of an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from oq.core.task import Task
from oq.dropin.openai_chat import ChatAnswer, read_chat
from oq.dropin.openai_completions import CompletionAnswer, read_completion
from oq.dropin.openai_embeddings import embeddings_answer, read_embedding
from oq.dropin.openai_errors import openai_error
from oq.dropin.openai_fields import OpenAiCall
from oq.dropin.refusals import Refused
from oq.web.bodies import sse

READERS: dict[str, Callable[[bytes], OpenAiCall]] = {
    "/v1/chat/completions": read_chat,
    "/v1/completions": read_completion,
    "/v1/embeddings": read_embedding,
}
DONE = b"data: [DONE]\n\n"
WAITING = b": waiting\n\n"  # a comment, which every reader of server-sent events skips


class _Answer(Protocol):
    def chunks(self, line: bytes) -> list[bytes]: ...

    def whole(self, result: bytes) -> bytes: ...


class OpenAiForm:
    """See `oq.web.relay.Form`. The answer's ids come from the task's, so its translator is made when that is known."""

    def __init__(self, call: OpenAiCall) -> None:
        self.streams = call.stream
        self._call = call
        self._answer: _Answer | None = None

    def began(self, id: str, created_at: float) -> None:
        make = ChatAnswer if self._call.type == "chat" else CompletionAnswer
        usage = bool(self._call.asked.get("include_usage"))
        self._answer = make(id, int(created_at), self._call.model, include_usage=usage)

    def content_type(self, first: bytes) -> str:
        return "text/event-stream; charset=utf-8"

    def lines(self, lines: list[bytes]) -> bytes:
        assert self._answer is not None
        return b"".join(sse(chunk) for line in lines for chunk in self._answer.chunks(line))

    def end(self, task: Task) -> bytes:
        return DONE

    def whole(self, task: Task) -> bytes:
        return answer_body(self._call, task.id, task.created_at, task.result_json or b"{}")

    def refused(self, why: Refused) -> tuple[bytes, str]:
        return openai_error(why.status, why.words, code=why.code), "application/json"

    def broken(self, why: Refused) -> bytes:
        return sse(self.refused(why)[0])

    def waiting(self, now: str) -> bytes:
        return WAITING


def answer_body(call: OpenAiCall, id: str, created_at: float, result: bytes) -> bytes:
    """Return the body of an answer that is not streamed, from the model server's *result*."""
    if call.type == "embed":
        return embeddings_answer(result, call.model, as_base64=bool(call.asked.get("base64")))
    make = ChatAnswer if call.type == "chat" else CompletionAnswer
    return make(id, int(created_at), call.model).whole(result)
