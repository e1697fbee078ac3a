"""The app that Quart serves, and how a route finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
from quart import current_app
from quart_trio import QuartTrio

from oq.web.event_texts import EventTexts
from oq.web.gate import Gate
from oq.web.shared_lists import SharedLists

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.queue import Queue
    from oq.web.hub import Hub


class OqApp(QuartTrio):
    """The ASGI app for one queue.

    Attributes:
        hub: what all monitors are told; there while the app is served.
        event_texts: what all readers of events are told.
        gate: who may ask for what.
        lists: what several monitors ask for in the same moment.
        stopping: set by the server that wants to stop: endless answers end, long polls answer at once.
    """

    hub: Hub

    def __init__(self, queue: Queue, settings: Settings) -> None:
        super().__init__("oq.web", static_folder=None)
        self.queue = queue
        self.oq_settings = settings
        self.gate = Gate(settings)
        self.lists = SharedLists()
        self.event_texts = EventTexts(queue.epoch)
        self.stopping = trio.Event()


def this_app() -> OqApp:
    return cast("OqApp", current_app)


def queue() -> Queue:
    return this_app().queue


def settings() -> Settings:
    return this_app().oq_settings
