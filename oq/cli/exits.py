"""What the exit codes of the command line mean. Documented in docs/reference/cli.md."""

from __future__ import annotations

from oq import errors

OK = 0
ERROR = 1
USAGE = 2
NOT_FOUND = 3
TASK_FAILED = 4  # failed or cancelled
UNREACHABLE = 5
CONFLICT = 6
TIMEOUT = 124  # as timeout(1)
INTERRUPTED = 130  # as a shell: 128 + SIGINT

_BY_ERROR: tuple[tuple[type[errors.OqError], int], ...] = (
    (errors.TaskNotFound, NOT_FOUND),
    (errors.TaskFailed, TASK_FAILED),
    (errors.TaskCancelled, TASK_FAILED),
    (errors.ServerUnreachable, UNREACHABLE),
    (errors.TaskConflict, CONFLICT),
    (errors.WaitTimeout, TIMEOUT),
)


def exit_code(error: errors.OqError) -> int:
    """Return the exit code of an error.

    >>> exit_code(errors.IdempotencyConflict("x")), exit_code(errors.QueueFull("x"))
    (6, 1)
    """
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ERROR)


def code_of(code: str) -> int:
    """Return the exit code of an error that is only known by its `code`."""
    return next((number for kind, number in _BY_ERROR if kind.code == code), ERROR)
