"""What all routes of the drop-in APIs work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from oq.web.openai.library import Library
from oq.web.openai.running import BatchRunner

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.queue import Queue


class House:
    """The queue, its settings, the files and batches, and what runs these; *stopping* is set when the server is to stop."""

    def __init__(self, queue: Queue, settings: Settings, stopping: trio.Event) -> None:
        self.queue, self.settings, self.stopping = queue, settings, stopping
        self._library = Library(queue, settings)
        self.runner = BatchRunner(self._library)

    async def open_library(self) -> Library:
        """Return the files and batches, once they are read from disk."""
        await self._library.loaded.wait()
        return self._library
