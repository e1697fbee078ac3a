"""The decision table: what went wrong at a model server, and whether the same request is worth another try.

One row a cause. The texts and statuses are those of Ollama 0.32 (server/routes.go, llm/server.go). Rule 1:
the text makes a 500 more precise, since Ollama answers 500 to some bad requests too. Rule 2: otherwise the
status decides. Rule 3: `unreachable` is only for a server nobody can reach; such a task is not to blame and
spends no retry. Rule 4: `elsewhere` is for what this server lacks and another one may have: the model.
"""

from __future__ import annotations

import dataclasses
import re

from oq.errors import BackendError

FEW = 3  # retries for a fault that may pass by itself, such as a crashed model runner
ONCE_MORE = 2  # retries for a fault that rarely passes, such as too little memory
TYPE_MAX = 100  # characters of a content type
BODY_MAX = 4096  # bytes of an error answer that are kept for those who want it as it was
TEXT_MAX = 500  # characters of the server's own words in a message


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about one cause; see `oq.errors.BackendError` for the fields. *advice* ends the message."""

    code: str
    retryable: bool = False
    retry_limit: int | None = None
    advice: str = ""


_INVALID = "Correct the task; the same request cannot succeed."
_PULL = "Pull it on that server: ollama pull {model}"
_NO_MODEL = Verdict("model_not_found", advice=_PULL)
_RUNNER = Verdict("runner_failed", True, FEW, "See the log of the model server.")
_MEMORY = Verdict(
    "out_of_memory", True, ONCE_MORE, "Use a smaller model or num_ctx, or unload other models there."
)

# First match wins; searched in the lower-cased text of an {"error": ...}, whatever the status was.
BY_TEXT: tuple[tuple[re.Pattern[str], Verdict], ...] = tuple(
    (re.compile(pattern), verdict)
    for pattern, verdict in (
        (r'^option "[^"]*" must be of type', Verdict("invalid_request", advice=_INVALID)),
        (r"^invalid format:", Verdict("invalid_request", advice=_INVALID)),
        (r"^template: ", Verdict("invalid_request", advice=_INVALID)),
        (r"tensor .*exceeds file size", Verdict("model_damaged", advice=_PULL)),
        (r"^model (['\"][^'\"]*['\"] )?not found", _NO_MODEL),
        (r"out of memory|requires more system memory|failed to allocate|cudamalloc failed", _MEMORY),
        (r"timed out waiting for llama-server to start", Verdict("load_failed", True, ONCE_MORE,
            "The model took too long to load; see the log of the model server.")),
        (r"process has terminated", Verdict("load_failed", True, ONCE_MORE,
            "The model's process ended while loading; see the log of the model server.")),
        (r"model runner has unexpectedly stopped", _RUNNER),
        (r"an error was encountered while running the model", _RUNNER),
        (r"unexpected eof", _RUNNER),
    )
)  # fmt: skip

BY_STATUS: dict[int, Verdict] = {
    400: Verdict("invalid_request", advice=_INVALID),
    401: Verdict("unauthorized", advice="Give the credentials in ollama.host (https://user:password@host)."),
    403: Verdict(
        "forbidden", advice="That server refuses this address or Host header: see OLLAMA_ORIGINS there."
    ),
    404: Verdict("not_found", advice="Is ollama.host the address of an Ollama server?"),
    405: Verdict("unsupported", advice="Is ollama.host the address of an Ollama server?"),
    408: Verdict("timeout", True, FEW),
    413: Verdict("invalid_request", advice="The request is too large for that server."),
    429: Verdict("busy", True, advice="The server limits its rate; it is tried again later."),
    499: Verdict("closed", True, advice="The server gave the request up."),
    500: Verdict("server_failed", True, FEW, "See the log of the model server."),
    501: Verdict("unsupported", advice="This model or server cannot do that."),
    502: Verdict("bad_gateway", True, advice="Something between here and the model server cannot reach it."),
    503: Verdict("busy", True, advice="The server has too many requests; it is tried again later."),
    504: Verdict("bad_gateway", True, advice="Something between here and the model server cannot reach it."),
}

_OTHER_5XX = Verdict("server_failed", True, FEW, "See the log of the model server.")
_OTHER = Verdict("unexpected_status", advice="Is ollama.host the address of an Ollama server?")

INCOMPLETE = Verdict("incomplete", True, ONCE_MORE, "The model repeated itself, or the server stopped.")
LOST_EARLY = Verdict("connection_lost", True)
LOST_LATE = Verdict("connection_lost", True, FEW, "See the log of the model server.")
SILENCE = Verdict("idle_timeout", True, advice="Raise ollama.idle_timeout if the model needs longer.")
UNREADABLE = Verdict("bad_answer", True, ONCE_MORE, "Is ollama.host the address of an Ollama server?")
PACKED = Verdict(
    UNREADABLE.code,
    True,
    ONCE_MORE,
    "Let what stands between here and that server leave answers as they are.",
)
TOO_LARGE = Verdict(
    "result_too_large", advice="Bound the answer with num_predict, or raise queue.max_result_bytes."
)
UNREACHABLE = Verdict("unreachable", True, advice="Is the model server running? Start it with: ollama serve")


def judge(status: int | None, text: str) -> Verdict:
    """Return the row for an answer's *status* (None: an error line inside a 200) and its error *text*.

    >>> judge(500, "model runner has unexpectedly stopped").retry_limit
    3
    >>> judge(500, 'option "seed" must be of type integer').retryable
    False
    """
    if status is None:
        status = 500
    lowered = text.lower()
    for pattern, verdict in BY_TEXT:
        # A text makes a 500 more precise in either direction; a 400 or 404 stays permanent; others are plain.
        if (status == 500 or (status in (400, 404) and not verdict.retryable)) and pattern.search(lowered):
            return verdict
    return BY_STATUS.get(status) or (_OTHER_5XX if status >= 500 else _OTHER)


def failure(
    verdict: Verdict,
    what: str,
    *,
    model: str = "",
    status: int | None = None,
    retry_after: float = 0.0,
    body: bytes = b"",
    content_type: str = "",
) -> BackendError:
    """Return the error for *verdict*; *what* says what happened, without a full stop.

    *status*, *retry_after*, *body* and *content_type* are the model server's own answer, if it gave one.
    """
    if len(what) > TEXT_MAX:
        what = what[:TEXT_MAX] + "…"
    advice = verdict.advice.format(model=model) if "{model}" in verdict.advice else verdict.advice
    return BackendError(
        f"{what}. {advice}" if advice else what,
        verdict.code,
        retryable=verdict.retryable,
        retry_limit=verdict.retry_limit,
        unreachable=verdict is UNREACHABLE,
        elsewhere=verdict is _NO_MODEL,
        status=status,
        retry_after=retry_after,
        body=body[:BODY_MAX],
        content_type=content_type[:TYPE_MAX],
    )
