"""Workers: own the running attempts and their cancel scopes, one child of the nursery each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import assert_never

import trio

from oq.core import guard
from oq.core.ids import format_id
from oq.core.messages import Chunk, Finished, Inbound, Interrupt, Probe, Probed, Run, Start, Stop
from oq.core.model import Failed, Interrupted, Outcome, Refusal, Succeeded, TaskSpec, gist
from oq.errors import BackendError
from oq.payloads import Payloads
from oq.ports import Backend, Journal, Offload

log = logging.getLogger(__name__)

TIMEOUT_RETRIES = 1  # an answer that ran out of time once will do so again, unless the time went into loading


class Workers:
    """What an attempt needs. *validate* checks JSON schemas. *timeout* bounds a whole attempt in seconds, unless the task says otherwise; 0: none."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        payloads: Payloads,
        journal: Journal,
        offload: Offload,
        timeout: float,
        validate: guard.Validate,
    ) -> None:
        self._backends = backends
        self._payloads = payloads
        self._journal = journal
        self._offload = offload
        self._timeout = timeout
        self._validate = validate

    async def run(
        self,
        jobs: trio.MemoryReceiveChannel[Start],
        inbox: trio.MemorySendChannel[Inbound | Stop],
        events: trio.MemorySendChannel[Chunk],
    ) -> None:
        """Run what the scheduler starts, and stop what it interrupts. Ends with `jobs`; what still runs is cancelled."""
        scopes: dict[tuple[int, int], trio.CancelScope] = {}

        async def attempt(run: Run, scope: trio.CancelScope) -> None:
            outcome: Outcome = Interrupted()
            with scope:
                outcome = await self._attempt(run, events)
            del scopes[run.key, run.attempt]
            await _report(inbox, Finished(run.key, run.attempt, outcome))

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

    async def _attempt(self, run: Run, events: trio.MemorySendChannel[Chunk]) -> Outcome:
        timeout = self._timeout if run.timeout is None else run.timeout
        try:
            with trio.fail_after(timeout or float("inf")):
                spec = self._payloads.get(run.key) or await self._load(run.key)
                return await self._converse(run, guard.after(spec, run.refused), events)
        except trio.TooSlowError:
            return Failed(
                f"no complete answer within {timeout:g} s (ollama.timeout, or the task's own timeout)",
                "timeout", retryable=True, retry_limit=TIMEOUT_RETRIES,
            )  # fmt: skip
        except BackendError as error:
            return Failed(
                error.message, error.code, error.retryable, error.retry_limit, error.unreachable,
                None if error.status is None else Refusal(error.status, error.body, error.content_type),
                error.elsewhere,
            )  # fmt: skip
        except Exception as error:
            # One attempt's accident, a bug of ours included, must not end the queue for all the others, nor end it
            # again at each restart.
            log.exception("task %s: attempt %d broke", format_id(run.key), run.attempt)
            return Failed(f"internal error: {type(error).__name__}: {error}", "internal_error")

    async def _load(self, key: int) -> TaskSpec:
        (spec,) = await self._offload(self._journal.specs, [key])
        if spec is None:
            raise BackendError("the task's request is missing from the store", "internal_error")
        return spec

    async def _converse(self, run: Run, spec: TaskSpec, events: trio.MemorySendChannel[Chunk]) -> Outcome:
        result: bytes | None = None
        async with aclosing(self._backends[run.host].run(spec)) as pieces:
            async for piece in pieces:
                if isinstance(piece, bytes):
                    result = piece
                else:
                    await events.send(Chunk(run.key, run.attempt, piece.text, piece.kind, piece.line))
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
        await inbox.send(message)
    except trio.BrokenResourceError:
        pass  # the queue has stopped: recovery runs the attempt again
