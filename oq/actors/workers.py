"""Workers: own the running attempts and their cancel scopes, one child of the nursery each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import assert_never

import trio

from oq.actors.channels import put
from oq.actors.crew import failed, run_crew
from oq.core import guard
from oq.core.ids import format_id
from oq.core.messages import Chunk, Finished, Inbound, Interrupt, Probe, Probed, Run, Start, Stop
from oq.core.model import Failed, Interrupted, Outcome, Succeeded, TaskSpec
from oq.core.output import gist
from oq.errors import BackendError
from oq.payloads import Payloads
from oq.ports import Backend, Journal, Offload

log = logging.getLogger(__name__)

TIMEOUT_RETRIES = 1  # an answer that ran out of time once will do so again, unless the time went into loading


class Workers:
    """What an attempt needs. *validate* checks JSON schemas; *embed_bytes* bounds a call for several tasks. *timeout* bounds a whole attempt in seconds, unless the task says otherwise; 0: none."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        payloads: Payloads,
        journal: Journal,
        offload: Offload,
        timeout: float,
        validate: guard.Validate,
        embed_bytes: int,
    ) -> None:
        self._backends = backends
        self._payloads = payloads
        self._journal = journal
        self._offload = offload
        self._timeout = timeout
        self._validate = validate
        self._embed_bytes = embed_bytes

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
                if run.riders:
                    specs = await self._specs([run.key, *(key for key, _ in run.riders)])
                    await run_crew(partial(self._embed, run.host), specs, self._embed_bytes, outcomes)
                else:
                    (spec,) = await self._specs([run.key])
                    outcomes[0] = await self._converse(run, guard.after(spec, run.refused), events)
                return
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
            failure = Failed(f"internal error: {type(error).__name__}: {error}", "internal_error")
        outcomes[:] = [outcome or failure for outcome in outcomes]

    async def _specs(self, keys: list[int]) -> list[TaskSpec]:
        found = {key: self._payloads.get(key) for key in keys}
        missing = [key for key, spec in found.items() if spec is None]
        if missing:
            found.update(zip(missing, await self._offload(self._journal.specs, missing), strict=True))
        specs = [spec for key in keys if (spec := found[key]) is not None]
        if len(specs) < len(keys):
            raise BackendError("the task's request is missing from the store", "internal_error")
        return specs

    async def _embed(self, host: str, spec: TaskSpec) -> bytes:
        result = b""
        async with aclosing(self._backends[host].run(spec)) as pieces:
            async for piece in pieces:
                if isinstance(piece, bytes):
                    result = piece
        return result

    async def _converse(self, run: Run, spec: TaskSpec, events: trio.MemorySendChannel[Chunk]) -> Outcome:
        result: bytes | None = None
        async with aclosing(self._backends[run.host].run(spec)) as pieces:
            async for piece in pieces:
                if isinstance(piece, bytes):
                    result = piece
                else:
                    await put(events, Chunk(run.key, run.attempt, piece.text, piece.kind, piece.line))
        if result is None:
            return Failed("the model server's answer has no end", "incomplete", retryable=True, retry_limit=2)
        if run.type == "embed":
            return Succeeded(result)  # it may be large, and has neither text nor end
        if guard.asks_for_json(spec):  # a schema may take its time
            judgement = await self._offload(guard.judge, spec, result, self._validate)
        else:
            judgement = guard.judge(spec, result, self._validate)
        if judgement.findings and spec.guard != "report":
            again = spec.guard == "retry" and judgement.may_help and not run.refused
            return Failed(guard.words_of(judgement.findings), judgement.findings[0], retryable=again)
        return Succeeded(result, *gist(result), judgement.findings)


async def _report(inbox: trio.MemorySendChannel[Inbound | Stop], message: Finished | Probed) -> None:
    try:
        await put(inbox, message)
    except trio.BrokenResourceError:
        pass  # the queue has stopped: recovery runs the attempt again
