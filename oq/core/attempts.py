"""Attempts: who starts on which slot, with whom, and what becomes of the outcome."""

from __future__ import annotations

import math
from typing import assert_never

from oq.core.draft import Draft
from oq.core.events import EventType, Notice
from oq.core.guard import FINDINGS
from oq.core.hosts import Host, Hosts
from oq.core.messages import Finished, Interrupt, Run
from oq.core.model import Entry, Failed, Interrupted, Outcome, Status, Succeeded
from oq.core.retry import RetryPolicy
from oq.core.rules import Chooser, Rules, gathers_until, next_rider
from oq.core.table import Table
from oq.core.twins import COPIES


class Attempts:
    """See the module."""

    def __init__(self, table: Table, hosts: Hosts, retry: RetryPolicy, rules: Rules) -> None:
        self._table, self._hosts, self._retry, self._rules = table, hosts, retry, rules
        self._chooser = Chooser(rules, table.waiting, table.entries)

    # --- starts -----------------------------------------------------------------------------------------------
    def assign(self, draft: Draft, now: float) -> float:
        """Fill free slots. Only here do tasks start. Return when what gathers is to start (rule 8); infinity if nothing does."""
        if not self._table.waiting.count:
            return math.inf
        for text in self._table.twins.take_wanted():
            self._copy(draft, text, now)
        hosts = [host for host in self._hosts.values() if host.up]
        started = True
        while started:  # each host again: a start on one may lift what held another back (rule 4)
            started = False
            for host in sorted(hosts, key=lambda host: -host.free):
                if host.free <= 0 or not self._table.waiting.count:
                    continue
                until = gathers_until(self._rules, self._table.waiting, self._table.entries, now)
                if until > now:
                    return until
                key = self._chooser.choose(host, now)
                if key is not None:
                    self._start(draft, self._table.entries[key], host, now)
                    started = True
        return math.inf

    def _start(self, draft: Draft, entry: Entry, host: Host, now: float) -> None:
        refused = tuple(attempt.code for attempt in entry.state.attempts if attempt.code in FINDINGS)
        slots = sum(one.free for one in self._hosts.values() if one.up and one.free > 0)
        if self._rules.embed_wait:
            slots = 1  # what waited to be one call is not split
        number = self._table.begin(draft, entry, host.name, now)
        leader = entry.key, number
        host.begin(*leader, entry.affinity)
        self._compute(draft, entry, host, leader, leader, now)
        riders: list[tuple[int, int]] = []
        most = min(self._rules.embed_batch - 1, self._table.waiting.count // slots)
        room = self._rules.embed_batch_bytes - entry.size
        while len(riders) < most:
            rider = next_rider(self._table.waiting, self._table.entries, entry, room)
            if rider is None:
                break
            room -= rider.size
            riders.append((rider.key, self._table.begin(draft, rider, host.name, now)))
            host.ride(leader, riders[-1])
            self._compute(draft, rider, host, leader, riders[-1], now)
        run = Run(
            entry.key, number, host.name, entry.type, entry.model, entry.timeout, refused, tuple(riders)
        )
        draft.starts.append(run)

    def _compute(
        self,
        draft: Draft,
        entry: Entry,
        host: Host,
        leader: tuple[int, int],
        attempt: tuple[int, int],
        now: float,
    ) -> None:
        """An attempt has started: who asks for the same starts with it (rule 7). One that failed before is left alone."""
        if entry.text is not None and not entry.state.retry_count:
            self._table.twins.begin(entry.text, host.name, leader, attempt)
            self._copy(draft, entry.text, now)

    def _copy(self, draft: Draft, text: bytes, now: float) -> None:
        """Start those that ask for what is being computed (rule 7)."""
        for key in self._table.waiting.alike(text, COPIES):
            found = self._table.twins.find(text)
            if found is None:
                return
            call, attempt = found
            host = self._hosts[call.host]
            if call.leader in host.stopping:
                return
            twin = key, self._table.begin(draft, self._table.entries[key], host.name, now)
            host.ride(call.leader, twin)
            self._table.twins.copy(call, attempt, twin)

    # --- ends -------------------------------------------------------------------------------------------------
    def finished(self, draft: Draft, message: Finished, now: float, luck: float) -> None:
        host = next(h for h in self._hosts.values() if (message.key, message.attempt) in h.running)
        host.end(message.key, message.attempt)
        copies = self._table.twins.end((message.key, message.attempt))
        shared = bool(message.riders or copies)
        for key, attempt, outcome in ((message.key, message.attempt, message.outcome), *message.riders):
            if (
                isinstance(outcome, Failed)
                and outcome.unreachable
                and self._hosts.down(host, outcome.error, now)
            ):
                draft.announce(Notice(EventType.HOST_DOWN, host.name, outcome.error))
            for one, number in ((key, attempt), *copies.get((key, attempt), ())):
                entry = self._table.entries.get(one)
                # Else cancelled in the meantime, perhaps even run again: only the slot was left to free.
                if entry is not None and self._table.runs(entry, number):
                    self._settle(draft, entry, outcome, now, luck, shared)

    def _settle(
        self, draft: Draft, entry: Entry, outcome: Outcome, now: float, luck: float, shared: bool
    ) -> None:
        match outcome:
            case Succeeded():
                self._table.end(
                    draft, entry, Status.COMPLETED, now, "succeeded", result=outcome.result,
                    tokens=outcome.tokens, output_start=outcome.output_start, warnings=outcome.warnings,
                )  # fmt: skip
            case Interrupted():
                self._table.requeue(draft, entry, now, "interrupted", None, None)
            case Failed(unreachable=True):
                self._table.requeue(draft, entry, now, "unreachable", outcome.error, outcome.code)
            case Failed(elsewhere=True) if len(self._hosts) > 1:
                if self._hosts.may_be_elsewhere(entry, now):
                    self._table.requeue(draft, entry, now, "not_here", outcome.error, outcome.code)
                else:
                    error = f"{outcome.error} (no other model server has it either)"
                    self._table.end(draft, entry, Status.FAILED, now, "failed", error, outcome.code)
            case Failed():
                allowed = entry.max_retries
                if outcome.retry_limit is not None:
                    allowed = min(allowed, outcome.retry_limit)
                if shared:  # perhaps by another's fault: it has a try by itself
                    allowed = max(allowed, 1)
                if outcome.retryable and entry.state.retry_count < allowed:
                    due = now + self._retry.delay(entry.state.retry_count + 1, luck, outcome.retry_after)
                    self._table.retry_later(draft, entry, outcome, now, due)
                else:
                    self._table.end(
                        draft, entry, Status.FAILED, now, "failed", outcome.error, outcome.code,
                        refusal=outcome.refusal,
                    )  # fmt: skip
            case _:
                assert_never(outcome)

    def leave(self, draft: Draft, entry: Entry) -> None:
        """A task that runs is no longer wanted: its call is given up when nobody else waits for it."""
        attempt = entry.state.attempts[-1]
        host = self._hosts[attempt.host]
        stop = host.leave(entry.key, attempt.number)
        if stop is not None:
            self._interrupt(draft, host, *stop)

    def interrupt(self, draft: Draft) -> None:
        """Stop whatever runs."""
        for host in self._hosts.values():
            for key, attempt in host.running:
                self._interrupt(draft, host, key, attempt)

    @staticmethod
    def _interrupt(draft: Draft, host: Host, key: int, attempt: int) -> None:
        """Stop an attempt, once: what workers have not read yet stays within three messages a slot."""
        if (key, attempt) not in host.stopping:
            host.stopping.add((key, attempt))
            draft.starts.append(Interrupt(key, attempt))
