"""How a conversation with the server goes, as generators that do no I/O.

A flow yields what it needs (`Send` this, `Pause` so long, `Read` the next piece …) and is sent the outcome.
`oq.client.sync` and `oq.client.aio` each have one small loop that does what is asked. So retries, long polls
and resumed streams are written once.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

from oq.client.calls import Answer, Call, Lost, error_of, retry_after
from oq.errors import OqError, ServerUnreachable

T = TypeVar("T")


class Send(msgspec.Struct, frozen=True):
    """Answered with `Answer` or `Lost`."""

    call: Call


class Open(msgspec.Struct, frozen=True):
    """As `Send`, but a good answer's body stays open for `Read`. Closes what was open before."""

    call: Call


class Read(msgspec.Struct, frozen=True):
    """Answered with the next bytes of the open body, None at its end, or `Lost`."""


class Pause(msgspec.Struct, frozen=True):
    seconds: float


class Now(msgspec.Struct, frozen=True):
    """Answered with a clock in seconds that only moves forward."""


class Emit(msgspec.Struct, frozen=True):
    """Hand *item* to whoever iterates."""

    item: Any


Step = Send | Open | Read | Pause | Now | Emit
Flow = Generator[Step, Any, T]

LATER = frozenset({429, 502, 503})  # answers that say "not now"


class Patience(msgspec.Struct, frozen=True):
    """How long a client keeps trying: at most *retries* times and *total* seconds of pauses.

    >>> [Patience(jitter=0).pause(n) for n in range(6)]
    [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    """

    retries: int = 5
    first: float = 0.2
    longest: float = 5.0
    total: float = 30.0
    jitter: float = 0.25

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures before this one."""
        base: float = min(self.longest, self.first * 2.0**failures)
        return base * (1 + self.jitter * (2 * random.random() - 1))


class Tries:
    """Counts the failures of one request and says whether to go on."""

    def __init__(self, patience: Patience, url: str) -> None:
        self._patience = patience
        self._url = url
        self.failures = 0
        self._paused = 0.0

    def failed(self, call: Call, outcome: Answer | Lost) -> float:
        """Return the seconds to wait before the next try; raise when there is to be none."""
        error, asked, again = self._judge(call, outcome)
        pause = max(asked, self._patience.pause(self.failures))
        self.failures += 1
        self._paused += pause
        if not again or self.failures > self._patience.retries or self._paused > self._patience.total:
            raise error
        return pause

    def progress(self) -> None:
        """Something arrived: the next failure is a first one again."""
        self.failures, self._paused = 0, 0.0

    def _judge(self, call: Call, outcome: Answer | Lost) -> tuple[OqError, float, bool]:
        if isinstance(outcome, Lost):
            return unreachable(self._url, outcome.reason), 0.0, call.repeatable or not outcome.sent
        # 502 is a proxy's: the request may have reached the server. 429 and 503 say that nothing was done.
        again = call.patient and outcome.status in LATER and (call.repeatable or outcome.status != 502)
        return error_of(outcome), retry_after(outcome) or 0.0, again


def unreachable(url: str, reason: str) -> ServerUnreachable:
    """Return the error for a server that does not answer."""
    return ServerUnreachable(
        f"no oq server answers at {url} ({reason}). Start one with `oq serve`, or say where it is (--server)."
    )


def exchange(call: Call, patience: Patience, url: str) -> Flow[Answer]:
    """Send *call* until it is answered well; raises the answer's error, or `ServerUnreachable`."""
    tries = Tries(patience, url)
    while True:
        outcome = yield Send(call)
        if isinstance(outcome, Answer) and outcome.status < 300:
            return outcome
        yield Pause(tries.failed(call, outcome))


class Lines:
    """Cuts bytes into lines, whatever the pieces they come in.

    >>> lines = Lines()
    >>> lines.feed(b"a\\nb"), lines.feed(b"c\\r\\n\\n")
    ([b'a'], [b'bc', b''])
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # joined once, so that a long line takes no time of its square

    def feed(self, data: bytes) -> list[bytes]:
        if b"\n" not in data:
            self._rest.append(data)
            return []
        *whole, rest = b"".join([*self._rest, data]).split(b"\n")
        self._rest = [rest]
        return [line.rstrip(b"\r") for line in whole]


class ServerEvent(msgspec.Struct, frozen=True):
    """One server-sent event as it stood on the wire."""

    id: str
    event: str
    data: bytes


class EventParser:
    """Server-sent events from bytes (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    >>> EventParser().feed(b": hello\\nid: 7\\nevent: task_started\\ndata: {}\\n\\n")
    [ServerEvent(id='7', event='task_started', data=b'{}')]
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id  # of the last whole event; one that breaks off is asked for again
        self._id = last_id
        self._lines = Lines()
        self._event, self._data = "", list[bytes]()

    def feed(self, data: bytes) -> list[ServerEvent]:
        found = []
        for line in self._lines.feed(data):
            if not line:
                self.last_id = self._id
                if self._data:
                    found.append(ServerEvent(self.last_id, self._event or "message", b"\n".join(self._data)))
                self._event, self._data = "", []
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            match name:
                case b"id":
                    self._id = value.decode(errors="replace")
                case b"event":
                    self._event = value.decode(errors="replace")
                case b"data":
                    self._data.append(value)
        return found
