"""Every way a model server misbehaves, and what becomes of a task with the settings as they are.

The table in docs/reference/faults.md is made of these rows (`test_the_page_has_this_table`), and each is driven
through a real queue, store and sockets (`test_faults`).
"""

from __future__ import annotations

import dataclasses

from tests.fake_ollama import (
    Exchange,
    Reply,
    error_line,
    falls_silent,
    hangs_up,
    lines,
    resets,
    says,
    sends,
    status,
    stops_without_done,
)

STOPPED = "model runner has unexpectedly stopped, this may be due to resource limitations"
MODEL = "model 'llama3.2' not found"


@dataclasses.dataclass(frozen=True)
class Row:
    """*attempts* are requests that reached the server; *seconds* from the submission to the end, jitter left out."""

    fault: str
    reply: Reply
    ends: str
    code: str
    attempts: int
    seconds: float
    says: str  # a part of the message

    @property
    def line(self) -> str:
        code = f"`{self.code}`" if self.code else ""
        text = f'"{self.says}"' if self.says else ""
        return f"| {self.fault} | {self.ends} | {code} | {self.attempts} | {self.seconds:g} s | {text} |"


def dribbles() -> Reply:
    """An answer that comes and comes and does not end."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        for byte in b'{"model":"llama3.2","response":"' + b"x" * 10_000:
            await exchange.data(bytes([byte]))
            await exchange.pause(10.0)

    return reply


def one_line(text_bytes: int) -> Reply:
    """A good answer in one line of a bit more than that."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.line(exchange.last_line("x" * text_bytes))
        await exchange.end()

    return reply


def typed(content_type: str, body: bytes | None = None) -> Reply:
    """A 200 that calls itself something else; the right answer when there is no *body*."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin(200, content_type)
        if body is None:
            await exchange.line(exchange.last_line("Hello world"))
        else:
            await exchange.data(body)
        await exchange.end()

    return reply


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
ROWS = (
    Row("answers well", says("Hello", " world"), "completed", "", 1, 0, ""),
    Row("accepts the request and hangs, but answers /api/version", falls_silent(), "failed", "idle_timeout", 4, 487,
        "was silent for 120 s"),
    Row("sends a head, then nothing", sends(HEAD, close=False), "failed", "idle_timeout", 4, 487, "was silent for 120 s"),
    Row("stops in the middle of the text", falls_silent("Hel"), "failed", "idle_timeout", 4, 487, "was silent for 120 s"),
    Row("sends one byte every ten seconds", dribbles(), "failed", "timeout", 2, 601, "no complete answer within 300 s"),
    Row("resets the connection before it answers", resets(), "failed", "connection_lost", 4, 7,
        "lost before an answer came"),
    Row("resets or closes it in the middle of the text", hangs_up("Hel"), "failed", "connection_lost", 4, 7,
        "lost in the middle of the answer"),
    Row("does not speak HTTP", sends(b"220 mail.example ESMTP\r\n\r\n"), "failed", "connection_lost", 4, 7,
        "lost before an answer came"),
    Row("sends an error line in the stream", error_line(STOPPED, "Hel"), "failed", "runner_failed", 4, 7,
        "model runner has unexpectedly stopped"),
    Row("ends a 200 without `done`", stops_without_done("Hel"), "failed", "incomplete", 3, 3, "ended before it was done"),
    Row("ends a 200 without a word", lines(), "failed", "incomplete", 3, 3, "ended before it was done"),
    Row("sends broken JSON", typed("application/x-ndjson", b'{"response": nonsense}\n'), "failed", "bad_answer", 3, 3,
        "not what Ollama sends"),
    Row("sends a web page with a 200", typed("text/html", b"<html>\n<body>Welcome</body>\n"), "failed", "bad_answer", 3, 3,
        "not what Ollama sends"),
    Row("sends text that is not UTF-8", typed("application/x-ndjson", b'{"response":"\xff","done":true}\n'), "failed",
        "bad_answer", 3, 3, "not what Ollama sends"),
    Row("gives a good answer the wrong content type", typed("text/plain"), "completed", "", 1, 0, ""),
    Row("sends a line of 50 MB", one_line(50_000_000), "completed", "", 1, 0, ""),
    Row("sends a line past `queue.max_result_bytes`", one_line(68_000_000), "failed", "result_too_large", 1, 0,
        "queue.max_result_bytes"),
    Row("answers 503 to everything", status(503, "server busy, please try again"), "failed", "busy", 4, 7, "answered 503"),
    Row("answers 429 to everything", status(429, "too many requests"), "failed", "busy", 4, 7, "answered 429"),
    Row("answers 429 and asks for a pause of 20 s (`Retry-After`)", status(429, "too many requests", Retry_After="20"), "failed",
        "busy", 4, 60, "answered 429"),
    Row("is behind a gateway that answers 502", status(502, "bad gateway", plain=True), "failed", "bad_gateway", 4, 7,
        "answered 502"),
    Row("answers 500 to everything", status(500, "something new"), "failed", "server_failed", 4, 7, "answered 500"),
    Row("answers 404: no such model", status(404, MODEL), "failed", "model_not_found", 1, 0, "ollama pull llama3.2"),
    Row("answers 404: no such page", status(404, "404 page not found", plain=True), "failed", "not_found", 1, 0,
        "answered 404"),
    Row("redirects elsewhere", status(302, "", plain=True, Location="http://elsewhere/"), "failed", "unexpected_status",
        1, 0, "moved to http://elsewhere/"),
)  # fmt: skip
