"""The HTTP client: `Client` for threads and scripts, `AsyncClient` for Trio and asyncio."""

from __future__ import annotations

from oq.client.aio import AsyncClient, AsyncSubscription, AsyncTaskHandle
from oq.client.flows import Patience
from oq.client.sync import Client, Subscription, TaskHandle
from oq.client.verbs import Page

__all__ = [
    "AsyncClient", "AsyncSubscription", "AsyncTaskHandle", "Client", "Page", "Patience", "Subscription",
    "TaskHandle",
]  # fmt: skip
