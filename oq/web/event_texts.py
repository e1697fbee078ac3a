"""Events as they are sent, each rendered once for all who read them."""

from __future__ import annotations

from oq.core.events import Event
from oq.web.bodies import sse
from oq.wire import event_json

TEXTS_KEPT = 2000


class EventTexts:
    """The texts of the latest events of one run of the server."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._known: dict[int, bytes] = {}

    def __call__(self, event: Event) -> bytes:
        text = self._known.get(event.seq)
        if text is None:
            if len(self._known) >= TEXTS_KEPT:
                self._known.clear()
            text = sse(event_json(event), str(event.type), f"{self._epoch}-{event.seq}")
            self._known[event.seq] = text
        return text
