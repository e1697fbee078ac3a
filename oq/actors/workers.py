"""Workers: own the running attempts and their cancel scopes, one child of the nursery each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import assert_never

import trio

from oq.actors.channels import put
from oq.actors.crew import failed, run_crew
from oq.core import guard
from oq.core.embedding import answer_key
from oq.core.ids import format_id
from oq.core.memo import Memo
from oq.core.messages import Chunk, Finished, Inbound, Interrupt, Probe, Probed, Run, Start, Stop
from oq.core.model import Failed, Interrupted, Outcome, Succeeded, TaskSpec
from oq.core.output import gist
from oq.errors import BackendError
from oq.payloads import Payloads
from oq.ports import Backend, Journal, Offload

log = logging.getLogger(__name__)

NO_END = "the model server's answer has no end"
TIMEOUT_RETRIES = 1  # an answer that ran out of time once will do so again, unless the time went into loading


class Workers:
    """What an attempt needs. *validate* checks JSON schemas; *memo* keeps answers of embed tasks. *timeout* bounds a whole attempt in seconds, unless the task says otherwise; 0: none."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        payloads: Payloads,
        journal: Journal,
        offload: Offload,
        timeout: float,
        validate: guard.Validate,
        memo: Memo,
    ) -> None:
        self._backends = backends
        self._payloads = payloads
        self._journal = journal
        self._offload = offload
        self._timeout = timeout
        self._validate = validate
        self._memo = memo

    async def run(
        self,
        jobs: trio.MemoryReceiveChannel[Start],
        inbox: trio.MemorySendChannel[Inbound | Stop],
        events: trio.MemorySendChannel[Chunk],
    ) -> None:
        """Run what the scheduler starts, and stop what it interrupts. Ends with `jobs`; what still runs is cancelled."""
        scopes: dict[tuple[int, int], trio.CancelScope] = {}

        async def attempt(run: Run, scope: trio.CancelScope) -> None:
            outcomes: list[Outcome | None] = [None] * (1 + len(run.riders))
            with scope:
                await self._attempt(run, events, outcomes)
            del scopes[run.key, run.attempt]
            first, *others = [outcome or Interrupted() for outcome in outcomes]
            riders = tuple((*rider, outcome) for rider, outcome in zip(run.riders, others, strict=True))
            await _report(inbox, Finished(run.key, run.attempt, first, riders))

        async def probe(host: str) -> None:
            await _report(inbox, Probed(host, await self._backends[host].probe()))

        async with jobs, inbox, events, trio.open_nursery() as nursery:
            async for job in jobs:
                match job:
                    case Run():
                        scope = scopes[job.key, job.attempt] = trio.CancelScope()
                        nursery.start_soon(attempt, job, scope)
                    case Interrupt():
                        running = scopes.get((job.key, job.attempt))
                        if running is not None:  # else it has just ended by itself
                            running.cancel()
                    case Probe():
                        nursery.start_soon(probe, job.host)
                    case _:
                        assert_never(job)
            nursery.cancel_scope.cancel()

    async def _attempt(
        self, run: Run, events: trio.MemorySendChannel[Chunk], outcomes: list[Outcome | None]
    ) -> None:
        """Put the outcome of each task of *run* in its place; whatever ends it early is that of all the others."""
        timeout = self._timeout if run.timeout is None else run.timeout
        failure: Failed
        try:
            with trio.fail_after(timeout or float("inf")):
                specs = await self._specs([run.key, *(key for key, _ in run.riders)])
                if run.type == "embed":
                    await self._embed(run, specs, outcomes)
                elif (spec := specs[0]) is not None:
                    outcomes[0] = await self._converse(run, guard.after(spec, run.refused), events)
            failure = _accident("the task's request is missing from the store")
        except trio.TooSlowError:
            failure = Failed(
                f"no complete answer within {timeout:g} s (ollama.timeout, or the task's own timeout)",
                "timeout", retryable=True, retry_limit=TIMEOUT_RETRIES,
            )  # fmt: skip
        except BackendError as error:
            failure = failed(error)
        except Exception as error:
            # One attempt's accident, a bug of ours included, must not end the queue for all the others, nor end it
            # again at each restart.
            log.exception("task %s: attempt %d broke", format_id(run.key), run.attempt)
            failure = _accident(f"internal error: {type(error).__name__}: {error}")
        outcomes[:] = [outcome or failure for outcome in outcomes]

    async def _specs(self, keys: Sequence[int]) -> list[TaskSpec | None]:
        """Return the requests of tasks; None for one that is gone: cancelled and deleted since its start."""
        found = {key: self._payloads.get(key) for key in keys}
        absent = [key for key, spec in found.items() if spec is None]
        if absent:
            found.update(zip(absent, await self._offload(self._journal.specs, absent), strict=True))
        return [found[key] for key in keys]

    async def _embed(
        self, run: Run, specs: Sequence[TaskSpec | None], outcomes: list[Outcome | None]
    ) -> None:
        """Answer from memory what this very model was asked before, and ask it for the rest, in one call."""
        given = {place: spec for place, spec in enumerate(specs) if spec is not None}
        backend = self._backends[run.host]
        digest = await backend.digest(run.model) if self._memo.keeps else None
        keys = {} if digest is None else {place: answer_key(spec, digest) for place, spec in given.items()}
        for place, key in keys.items():
            answer = self._memo.get(key)
            if answer is not None:
                outcomes[place] = Succeeded(answer)
                del given[place]
        if given:
            await run_crew(partial(_whole_answer, backend), given, list(given), outcomes)
        for place in given:
            outcome = outcomes[place]
            if place in keys and isinstance(outcome, Succeeded):
                self._memo.put(keys[place], outcome.result)

    async def _converse(self, run: Run, spec: TaskSpec, events: trio.MemorySendChannel[Chunk]) -> Outcome:
        result: bytes | None = None
        async with aclosing(self._backends[run.host].run(spec)) as pieces:
            async for piece in pieces:
                if isinstance(piece, bytes):
                    result = piece
                else:
                    await put(events, Chunk(run.key, run.attempt, piece.text, piece.kind, piece.line))
        if result is None:
            return Failed(NO_END, "incomplete", retryable=True, retry_limit=2)
        if guard.asks_for_json(spec):  # a schema may take its time
            judgement = await self._offload(guard.judge, spec, result, self._validate)
        else:
            judgement = guard.judge(spec, result, self._validate)
        if judgement.findings and spec.guard != "report":
            again = spec.guard == "retry" and judgement.may_help and not run.refused
            return Failed(guard.words_of(judgement.findings), judgement.findings[0], retryable=again)
        return Succeeded(result, *gist(result), judgement.findings)


async def _whole_answer(backend: Backend, spec: TaskSpec) -> bytes:
    async with aclosing(backend.run(spec)) as pieces:
        async for piece in pieces:
            if isinstance(piece, bytes):
                return piece
    raise BackendError(NO_END, "incomplete", retryable=True, retry_limit=2)


def _accident(what: str) -> Failed:
    """Return a failure of our own making: no retry for its task; those that shared its call have one by themselves."""
    return Failed(what, "internal_error", retryable=True, retry_limit=0)


async def _report(inbox: trio.MemorySendChannel[Inbound | Stop], message: Finished | Probed) -> None:
    try:
        await put(inbox, message)
    except trio.BrokenResourceError:
        pass  # the queue has stopped: recovery runs the attempt again
