"""Every error oq raises on purpose.

::

    OqError
    ├── InvalidTask            a task (or filter, or argument) that cannot be accepted; `field` says where
    ├── TaskNotFound
    ├── TaskConflict           the task's state does not allow it
    │   └── IdempotencyConflict
    ├── QueueFull              max_pending tasks wait already
    ├── QueueBusy              the intake channel stayed full
    ├── QueueClosed            draining or stopped
    ├── TooLarge               a request, a batch or a result past its limit
    ├── TooMany                too many subscribers, connections, or requests in a second
    ├── SubscriberLagged       a subscriber that fell behind and was cut off
    ├── TaskFailed             raised by `result()` of a task that failed
    ├── TaskCancelled          raised by `result()` of a task that was cancelled
    ├── WaitTimeout            a wait ended before the task did
    ├── StorageError           the disk or the store refused; nothing acknowledged is lost
    │   ├── StorageFull
    │   ├── StorageLocked      another process has the store, or has taken it over
    │   └── StorageDamaged     missing or unreadable: never replaced by an empty store
    ├── ConfigError            a setting that does not parse; names the key and where it came from
    ├── BackendError           a model server's failure, with what to do about it
    ├── ServerUnreachable      the oq server does not answer (client)
    └── ServerError            the oq server answered something the client has no better class for

Each class has a stable `code`, which REST, the command line and stored tasks use. HTTP status and exit
code are mapped in `oq.web.errors` and `oq.cli.exits`, once each.
"""

from __future__ import annotations


class OqError(Exception):
    """Base of all errors that oq raises on purpose; the message says what happened and what to do."""

    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidTask(OqError):
    """Bad input. *field* is a dotted path into it, such as ``payload.prompt``."""

    code = "invalid_task"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class TaskNotFound(OqError):
    code = "not_found"


class TaskConflict(OqError):
    code = "conflict"


class IdempotencyConflict(TaskConflict):
    code = "idempotency_conflict"


class Busy(OqError):
    """Base of refusals that pass by themselves; try again after `retry_after` seconds."""

    retry_after = 1.0


class QueueFull(Busy):
    code = "queue_full"
    retry_after = 5.0


class QueueBusy(Busy):
    code = "queue_busy"


class QueueClosed(Busy):
    code = "queue_closed"
    retry_after = 10.0


class TooLarge(OqError):
    code = "too_large"


class TooMany(Busy):
    code = "too_many"


class SubscriberLagged(OqError):
    code = "lagged"


class TaskFailed(OqError):
    """The awaited task failed; *task_code* is the failure's own code."""

    code = "task_failed"

    def __init__(self, message: str, task_code: str | None = None) -> None:
        super().__init__(message)
        self.task_code = task_code


class TaskCancelled(OqError):
    code = "task_cancelled"


class WaitTimeout(OqError):
    code = "timeout"


class StorageError(OqError):
    code = "storage_error"
    retry_after = 5.0


class StorageFull(StorageError):
    code = "storage_full"


class StorageLocked(StorageError):
    code = "storage_locked"


class StorageDamaged(StorageError):
    code = "storage_damaged"


class ConfigError(OqError):
    """A wrong setting: *key* is its dotted name, *origin* the file, variable or flag it came from."""

    code = "config_error"

    def __init__(self, message: str, key: str | None = None, origin: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.origin = origin


class BackendError(OqError):
    """What went wrong at a model server and whether trying again makes sense.

    Attributes:
        code: a stable word for the cause, e.g. ``model_not_found``, ``busy``, ``timeout``.
        retryable: whether the same request may succeed later.
        retry_limit: at most this many retries for this cause, whatever the task allows; None: no extra bound.
        unreachable: the server as a whole could not be reached; the task is not to blame.
        elsewhere: this server does not have the model; another may.
        status: the HTTP status, when there was one; 500 for an error line in the middle of an answer.
        retry_after: seconds that the server asked to be left alone for; 0: it did not say.
        body: the error answer as it came, cut where it is longer than anybody reads; of the kind `content_type`.
    """

    def __init__(
        self,
        message: str,
        code: str = "backend_error",
        *,
        retryable: bool = False,
        retry_limit: int | None = None,
        unreachable: bool = False,
        elsewhere: bool = False,
        status: int | None = None,
        retry_after: float = 0.0,
        body: bytes = b"",
        content_type: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.retry_limit = retry_limit
        self.unreachable = unreachable
        self.elsewhere = elsewhere
        self.status = status
        self.retry_after = retry_after
        self.body = body
        self.content_type = content_type


class ServerUnreachable(OqError):
    code = "server_unreachable"


class ServerError(OqError):
    """An answer of the oq server that no other class describes."""

    code = "server_error"

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
