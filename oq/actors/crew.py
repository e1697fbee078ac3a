"""One call for several embed tasks, and which of them is to blame when it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from oq.core.embedding import Mismatch, check_count, join
from oq.core.model import Failed, Outcome, Refusal, Succeeded, TaskSpec
from oq.errors import BackendError

Call = Callable[[TaskSpec], Awaitable[bytes]]
"""Ask the model server for a whole answer; raises `BackendError`."""

# What one input among others may cause. All else, such as a model that is missing, is the fate of all of them.
ONES_OWN = frozenset(
    {"invalid_request", "unsupported", "runner_failed", "server_failed", "bad_answer", "result_too_large"}
)

MISMATCH_RETRIES = 2  # as of any other answer that is not what Ollama sends


async def run_crew(
    call: Call, specs: Mapping[int, TaskSpec], places: Sequence[int], outcomes: list[Outcome | None]
) -> None:
    """Run the tasks of one group at *places*; each one's outcome is put in its place as soon as it is known.

    A call that fails by the fault of some is made again for each half, so that in the end only those fail: at most two
    calls for each task.
    """
    try:
        if len(places) == 1:
            spec = specs[places[0]]
            answers = [await call(spec)]
            check_count(spec, answers[0])
        else:
            joint = join([specs[place] for place in places])
            answers = joint.split(await call(joint.spec))
    except Mismatch as exc:
        what = f"the model server's answer is not what was asked for: {exc}"
        failure = BackendError(what, "bad_answer", retryable=True, retry_limit=MISMATCH_RETRIES)
    except BackendError as exc:
        failure = exc
    else:
        for place, answer in zip(places, answers, strict=True):
            outcomes[place] = Succeeded(answer)
        return
    if len(places) > 1 and failure.code in ONES_OWN:
        middle = len(places) // 2
        await run_crew(call, specs, places[:middle], outcomes)
        await run_crew(call, specs, places[middle:], outcomes)
        return
    for place in places:
        outcomes[place] = failed(failure)


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
        error.retry_after,
    )
