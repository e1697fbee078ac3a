"""Ollama as a `oq.ports.Backend`: one attempt is one streamed request."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime

import msgspec
import trio

from oq.backends.answers import AnswerReader, error_text
from oq.backends.connections import Answer, ConnectFailed, ConnectionLost, Server, Silence
from oq.backends.request_body import path_of, request_body
from oq.backends.verdicts import LOST_EARLY, LOST_LATE, PACKED, SILENCE, TYPE_MAX, UNREACHABLE, failure, judge
from oq.core.model import TaskSpec
from oq.core.output import NOT_JSON
from oq.errors import BackendError
from oq.ports import BackendInfo, Forwarded, Headers, Piece

PROBE_SECONDS = 2.0
PROBE_AGAIN_SECONDS = 0.5  # so at most 4 such requests at a time
INFO_SECONDS = 5.0
TAIL_SECONDS = (
    1.0  # how long the end of an answer may take after its last line; then the connection is closed
)
ERROR_BYTES = 65_536  # of an error's body; the rest is not read
DIGEST_SECONDS = 1.0  # what looking for an answer in memory may cost a call
DIGITS_MAX = 15  # of a Retry-After
INFO_BYTES = 16 << 20  # of a list of models
MAX_RESULT_BYTES = 64 << 20


class OllamaBackend:
    """One Ollama server, or whatever speaks its protocol.

    Args:
        name: what the host is called in settings; used in messages.
        url: its address as in OLLAMA_HOST: ``gpu1``, ``http://host:11434``, ``https://user:pass@host/path``.
        connect_timeout: seconds for the name, the connection and TLS together.
        idle_timeout: seconds of silence, before the answer begins or within it, after which it is given up; 0 for no
            bound. When the server then answers no probe either, it counts as unreachable.
        max_result_bytes: a larger answer is refused and its connection closed.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        connect_timeout: float = 5.0,
        idle_timeout: float = 120.0,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> None:
        idle_timeout = idle_timeout or math.inf
        self.name = name
        self._server = Server(url, connect_timeout=connect_timeout, idle_timeout=idle_timeout)
        self.url = self._server.address.url
        self._idle_timeout = idle_timeout
        self._max_result_bytes = max_result_bytes

    async def run(self, spec: TaskSpec) -> AsyncGenerator[Piece | bytes, None]:
        """Run one attempt; see `oq.ports.Backend.run`. Leaving early closes the connection at once."""
        body = request_body(spec)
        reader = AnswerReader(
            streams=spec.type != "embed", model=spec.model, max_bytes=self._max_result_bytes, relay=spec.relay
        )
        silence: Silence | None = None
        try:
            answer = await self._server.request("POST", path_of(spec), body)
            try:
                if answer.status != 200:
                    raise await self._refusal(answer, spec.model)
                if packing := _packing(answer):
                    raise failure(PACKED, f"{self._who} packed its answer unasked ({packing})")
                while not reader.done and (data := await answer.receive()):
                    for piece in reader.feed(data):
                        yield piece
                for piece in reader.end():
                    yield piece
                if not answer.ended:
                    await _read_tail(answer)
            finally:
                answer.release()
        except ConnectFailed as exc:
            raise failure(UNREACHABLE, f"cannot reach {self._who}: {exc}") from exc
        except ConnectionLost as exc:
            raise failure(LOST_LATE if exc.begun else LOST_EARLY, f"{self._who}: {exc}") from exc
        except Silence as exc:
            silence = exc
        if silence is not None:
            what = f"timeout: {self._who} was silent for {self._idle_timeout:g} s"
            if not await self.probe():  # not this task is slow: the server hangs, and that is an outage
                raise failure(UNREACHABLE, f"{what} and does not answer /api/version either") from silence
            raise failure(SILENCE, what) from silence
        yield reader.result()

    async def probe(self) -> bool:
        """Return whether it answers anything at all; never raises.

        While it is silent it is asked again, beside: a server that comes back may answer only who asks then.
        """
        answers = False

        async def ask() -> None:
            nonlocal answers
            try:
                await self._get("/api/version")
                answers = True
            except BackendError:
                pass
            nursery.cancel_scope.cancel()

        with trio.move_on_after(PROBE_SECONDS):
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(ask)
                    await trio.sleep(PROBE_AGAIN_SECONDS)
        return answers

    async def info(self) -> BackendInfo:
        """Return what it says of itself; never raises. Fields it does not answer stay empty."""
        version: str | None = None
        models: tuple[str, ...] = ()
        loaded: tuple[str, ...] = ()
        up = False
        with trio.move_on_after(INFO_SECONDS):
            try:
                found = await self._get("/api/version")
                up = True
                version = _text(found, "version")
                models = _names(await self._get("/api/tags"))
                loaded = _names(await self._get("/api/ps"))
            except BackendError as exc:
                return BackendInfo(up, version, models, loaded, exc.message)
            return BackendInfo(up, version, models, loaded)
        error = f"{self._who} did not answer within {INFO_SECONDS:g} s"
        return BackendInfo(up, version, models, loaded, error)

    async def digest(self, model: str) -> str | None:
        """Return what /api/tags says of a model, by its name as given or with ":latest"; None if nothing. Never raises."""
        with trio.move_on_after(DIGEST_SECONDS):
            try:
                models = _models(await self._get("/api/tags"))
            except BackendError:
                return None
            for name in (model, f"{model}:latest"):
                for one in models:
                    if _text(one, "name") == name:
                        return _text(one, "digest") or None
        return None

    @asynccontextmanager
    async def forward(
        self, method: str, target: str, headers: Headers, parts: AsyncIterator[bytes]
    ) -> AsyncIterator[Forwarded]:
        """Pass a request on as it is; see `oq.ports.Backend.forward`. It may be silent for as long as it likes."""
        try:
            answer = await self._server.send_parts(method, target, headers, parts, idle_timeout=float("inf"))
        except (ConnectFailed, ConnectionLost) as exc:
            raise failure(UNREACHABLE, f"cannot reach {self._who}: {exc}") from exc
        try:
            yield _Passed(answer, self._who)
        finally:
            answer.release()

    async def aclose(self) -> None:
        """Close the idle connections. Attempts still running close theirs when they end."""
        self._server.close()
        await trio.lowlevel.checkpoint()

    @property
    def _who(self) -> str:
        return f'model server "{self.name}" ({self.url})'

    async def _refusal(self, answer: Answer, model: str) -> BackendError:
        body = bytearray()
        try:
            while len(body) < ERROR_BYTES and (data := await answer.receive()):
                body += data
        except (ConnectionLost, Silence):
            pass  # the status says enough
        if packing := _packing(answer):
            text = f"(packed unasked: {packing})"
            body.clear()  # nobody is told how to unpack it
        else:
            text = error_text(bytes(body)) if body else ""
        if answer.location:
            text = f"moved to {answer.location}"
        what = f"{self._who} answered {answer.status}" + (f": {text}" if text else "")
        return failure(
            judge(answer.status, text),
            what,
            model=model,
            status=answer.status,
            retry_after=asked_pause(_header(answer, b"retry-after"), time.time()),
            body=bytes(body),
            content_type=_header(answer, b"content-type"),
        )

    async def _get(self, path: str) -> object:
        """Return the decoded answer, None if it is no JSON; `BackendError` if there is no answer."""
        try:
            answer = await self._server.request("GET", path, idle_timeout=INFO_SECONDS)
            try:
                body = bytearray()
                while len(body) < INFO_BYTES and (data := await answer.receive()):
                    body += data
            finally:
                answer.release()
        except (ConnectFailed, ConnectionLost, Silence) as exc:
            raise failure(UNREACHABLE, f"cannot reach {self._who}: {exc or 'it is silent'}") from exc
        try:
            found: object = msgspec.json.decode(body)
        except NOT_JSON:
            return None
        return found


class _Passed:
    """`oq.ports.Forwarded`."""

    def __init__(self, answer: Answer, who: str) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._who = who

    async def receive(self) -> bytes:
        try:
            return await self._answer.receive()
        except ConnectionLost as exc:
            raise failure(LOST_LATE, f"{self._who}: {exc}") from exc


async def _read_tail(answer: Answer) -> None:
    """Read to the end of an answer whose result is complete, so that its connection can be used again."""
    with trio.move_on_after(TAIL_SECONDS):
        try:
            while await answer.receive():
                pass
        except (ConnectionLost, Silence):
            pass  # nothing of the result can be missing


def _header(answer: Answer, name: bytes) -> str:
    """Return the value of a header; "" if it is not there."""
    return next((value.decode("latin-1") for key, value in answer.headers if key == name), "")


def asked_pause(value: str, now: float) -> float:
    """Return the seconds that a ``Retry-After`` asks for: it is a number of them, or a date; 0 for anything else.

    >>> asked_pause("30", 0.0), asked_pause("Thu, 01 Jan 1970 00:01:00 GMT", 50.0), asked_pause("soon", 0.0)
    (30.0, 10.0, 0.0)
    """
    if value.isascii() and value.isdigit():
        return float(value[:DIGITS_MAX])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _packing(answer: Answer) -> str:
    """Return how the body is packed, "" if it is not: nothing here asks for that, nor can unpack it."""
    coding = _header(answer, b"content-encoding").strip().lower()
    return "" if coding == "identity" else coding[:TYPE_MAX]


def _text(found: object, name: str) -> str | None:
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def _models(found: object) -> list[object]:
    models = found.get("models") if isinstance(found, dict) else None
    return models if isinstance(models, list) else []


def _names(found: object) -> tuple[str, ...]:
    return tuple(name for model in _models(found) if (name := _text(model, "name")) is not None)
