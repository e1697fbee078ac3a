"""Which HTTP status each error is, once, for Quart's routes and for the plain-ASGI parts alike."""

from __future__ import annotations

import math

from oq import errors
from oq.errors import OqError
from oq.wire import NotJson, error_json


class HttpError(OqError):
    """Base of what only HTTP can get wrong."""

    status = 400
    code = "bad_request"


class Unauthorized(HttpError):
    status = 401
    code = "unauthorized"


class Forbidden(HttpError):
    status = 403
    code = "forbidden"


class TooManyFailures(HttpError):
    """Wrong tokens, one after the other; another try makes sense after *retry_after* seconds."""

    status = 429
    code = "too_many_failures"

    def __init__(self, message: str, retry_after: float = 60.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoSuchRoute(HttpError):
    status = 404
    code = "no_such_route"


class MethodNotAllowed(HttpError):
    status = 405
    code = "method_not_allowed"


class TooSlow(HttpError):
    """A request that did not arrive in time."""

    status = 408
    code = "request_timeout"


class UnsupportedMediaType(HttpError):
    status = 415
    code = "unsupported_media_type"


class InternalError(HttpError):
    """A bug of ours; the log has the traceback."""

    status = 500
    code = "internal_error"


# Looked up along the class's ancestors, so a subclass without a row of its own answers as its base does.
STATUS: dict[type[OqError], int] = {
    NotJson: 400,
    errors.InvalidTask: 422,
    errors.TaskNotFound: 404,
    errors.TaskConflict: 409,
    errors.IdempotencyConflict: 409,
    errors.QueueFull: 429,
    errors.TooMany: 429,
    errors.Busy: 503,
    errors.QueueBusy: 503,
    errors.QueueClosed: 503,
    errors.TooLarge: 413,
    errors.SubscriberLagged: 503,
    errors.TaskFailed: 409,
    errors.TaskCancelled: 409,
    errors.WaitTimeout: 504,
    errors.StorageError: 503,
    errors.StorageFull: 507,
    errors.ConfigError: 422,
    errors.BackendError: 502,
    errors.ServerUnreachable: 502,
    errors.ServerError: 502,
    OqError: 500,
}

JSON = "application/json"


def status_of(error: OqError) -> int:
    """Return the HTTP status of *error*."""
    if isinstance(error, HttpError):
        return error.status
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    raise AssertionError("OqError itself has a row")


def answer_of(error: OqError) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers."""
    headers = {"Content-Type": JSON}
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(math.ceil(retry_after))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return status_of(error), error_json(error), headers
