"""Whether the disk takes writes. The writer sets it; the intake, /health and the statistics read it."""

from __future__ import annotations

from oq.errors import StorageError


class Health:
    def __init__(self) -> None:
        self.storage_error: StorageError | None = None

    @property
    def storage_ok(self) -> bool:
        return self.storage_error is None
