"""One call for several embed tasks, and which of them is to blame when it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from oq.core.embedding import Mismatch, join, parts_of
from oq.core.model import Failed, Outcome, Refusal, Succeeded, TaskSpec
from oq.errors import BackendError

Call = Callable[[TaskSpec], Awaitable[bytes]]
"""Ask the model server for a whole answer; raises `BackendError`."""

# What one input among others may cause. All else, such as a model that is missing, is the fate of all of them.
ONES_OWN = frozenset(
    {"invalid_request", "unsupported", "runner_failed", "server_failed", "bad_answer", "result_too_large"}
)


async def run_crew(
    call: Call, specs: Sequence[TaskSpec], most_bytes: int, outcomes: list[Outcome | None]
) -> None:
    """Run tasks of one group; each one's outcome is put in its place as soon as it is known.

    A call that fails by the fault of some is made again for each half, so that in the end only those fail: at most two
    calls for each task.
    """
    for part in parts_of([len(spec.payload) for spec in specs], most_bytes):
        await _run_part(call, specs, part, outcomes)


async def _run_part(
    call: Call, specs: Sequence[TaskSpec], part: range, outcomes: list[Outcome | None]
) -> None:
    joint = join([specs[index] for index in part])
    try:
        if len(part) == 1:
            answers = [await call(specs[part[0]])]
        else:
            answers = joint.split(await call(joint.spec))
    except Mismatch as exc:
        failure = BackendError(f"the model server's answer is not what was asked for: {exc}", "bad_answer")
    except BackendError as exc:
        failure = exc
    else:
        for index, answer in zip(part, answers, strict=True):
            outcomes[index] = Succeeded(answer)
        return
    if joint.inputs > 1 and failure.code in ONES_OWN:
        middle = len(part) // 2
        await _run_part(call, specs, part[:middle], outcomes)
        await _run_part(call, specs, part[middle:], outcomes)
        return
    for index in part:
        outcomes[index] = failed(failure)


def failed(error: BackendError) -> Failed:
    """Return a model server's failure as the outcome of an attempt."""
    refusal = None if error.status is None else Refusal(error.status, error.body, error.content_type)
    return Failed(
        error.message,
        error.code,
        error.retryable,
        error.retry_limit,
        error.unreachable,
        refusal,
        error.elsewhere,
    )
