"""The memory index over all stored tasks, for readers: counts, filters, order, ids. Never touches the disk.

Tasks that agree in status, priority, type, model and host form a group: a sorted set of their keys. There are
few groups, so a filter picks groups, a count adds up lengths, and a page merges the groups' keys in order.
Tags have their own sets. A waiting task costs about 50 bytes here.

Owner: the event loop. `apply` is called after each commit, so readers see what is on disk, never more.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from BTrees.LLBTree import LLBTree

from oq.core.ids import ID_LENGTH, KEY_MAX, format_id, parse_id
from oq.core.keyset import KeySet, locate
from oq.core.messages import Step
from oq.core.model import Recovered, Status, TaskType
from oq.errors import InvalidTask, TaskConflict, TaskNotFound
from oq.ports import Query

DEEP_OFFSET = 2000  # beyond this many keys to skip, look the place up instead of walking there
SORTS = ("-created", "created", "-priority", "priority")
_Traits = tuple[Status, int, TaskType, str, str | None]


class _Group:
    """The keys of the tasks that agree in their traits."""

    __slots__ = ("host", "keys", "model", "number", "priority", "status", "traits", "type")

    def __init__(self, number: int, traits: _Traits) -> None:
        self.number = number
        self.traits = traits
        self.status, self.priority, self.type, self.model, self.host = traits
        self.keys = KeySet()


class Catalog:
    """See the module."""

    def __init__(self) -> None:
        self._group_of = LLBTree()  # key → group number
        self._groups: dict[int, _Group] = {}
        self._by_traits: dict[_Traits, _Group] = {}
        self._next_number = 0
        self._counts = dict.fromkeys(Status, 0)
        self.revision = 0  # grows with every step
        self._sieve: tuple[int, Query, dict[int, int]] = (-1, Query(), {})
        self._tags: dict[str, KeySet] = {}
        self._tags_of: dict[int, tuple[str, ...]] = {}  # only tasks that have tags
        self._tag_tuples: dict[tuple[str, ...], tuple[str, ...]] = {}  # equal ones are one object

    # --- keeping up
    def load(self, recovered: Recovered) -> None:
        """Take over what was on disk at start."""
        for entry in recovered.unfinished:
            state = entry.state
            self._add(
                entry.key, (state.status, state.priority, entry.type, entry.model, state.host), entry.tags
            )
        for head in recovered.heads:
            self._add(head.key, (head.status, head.priority, head.type, head.model, head.host), head.tags)

    def apply(self, step: Step) -> None:
        """Follow a step that has been committed."""
        groups, group_of = self._groups, self._group_of
        self.revision += 1
        for write in step.writes:
            key, state, spec = write.key, write.state, write.spec
            number = group_of.get(key)
            if number is None:
                if spec is not None:
                    traits = (state.status, state.priority, spec.type, spec.model, state.host)
                    self._add(key, traits, spec.tags)
                continue  # without spec: deleted by a later step that was applied already
            before = groups[number]
            after = (state.status, state.priority, before.type, before.model, state.host)
            if after != before.traits:
                self._leave(before, key)
                self._enter(key, after)
        for key in step.deletes:
            number = group_of.pop(key, None)
            if number is not None:
                self._leave(groups[number], key)
                self._untag(key)

    def _add(self, key: int, traits: _Traits, tags: tuple[str, ...]) -> None:
        self._enter(key, traits)
        if tags:
            self._tags_of[key] = self._tag_tuples.setdefault(tags, tags)
            for tag in tags:
                keys = self._tags.get(tag)
                if keys is None:
                    keys = self._tags[tag] = KeySet()
                keys.add(key)

    def _enter(self, key: int, traits: _Traits) -> None:
        group = self._by_traits.get(traits)
        if group is None:
            group = _Group(self._next_number, traits)
            self._groups[group.number] = self._by_traits[traits] = group
            self._next_number += 1
        group.keys.add(key)
        self._counts[group.status] += 1
        self._group_of[key] = group.number

    def _leave(self, group: _Group, key: int) -> None:
        group.keys.discard(key)
        self._counts[group.status] -= 1
        if not group.keys:
            del self._groups[group.number], self._by_traits[group.traits]

    def _untag(self, key: int) -> None:
        for tag in self._tags_of.pop(key, ()):
            keys = self._tags.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._tags[tag]
        if not self._tags_of:
            self._tag_tuples.clear()

    # --- counts
    def __len__(self) -> int:
        return sum(self._counts.values())

    def __contains__(self, key: int) -> bool:
        return key in self._group_of

    @property
    def counts(self) -> dict[Status, int]:
        """How many tasks are in each status."""
        return dict(self._counts)

    def pending_by_priority(self) -> dict[int, int]:
        """Return how many are pending at each priority that has some, highest first."""
        found: dict[int, int] = {}
        for group in self._groups.values():
            if group.status is Status.PENDING:
                found[group.priority] = found.get(group.priority, 0) + len(group.keys)
        return dict(sorted(found.items(), reverse=True))

    def unfinished_by_type(self) -> dict[str, int]:
        return self._unfinished_by("type")

    def unfinished_by_model(self) -> dict[str, int]:
        return self._unfinished_by("model")

    def _unfinished_by(self, trait: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for group in self._groups.values():
            if not group.status.finished:
                name: str = getattr(group, trait)
                found[name] = found.get(name, 0) + len(group.keys)
        return found

    def status(self, key: int) -> Status | None:
        """Return the status of a task, None if there is no such task."""
        number = self._group_of.get(key)
        return None if number is None else self._groups[number].status

    def oldest_pending(self) -> int | None:
        """Return the pending task that was submitted first."""
        return min(
            (g.keys.first() for g in self._groups.values() if g.status is Status.PENDING), default=None
        )

    def place(self, key: int) -> int | None:
        """Return the place of a pending task in the order of priority and age, 1 for the first; None if it waits not."""
        number = self._group_of.get(key)
        if number is None or (own := self._groups[number]).status is not Status.PENDING:
            return None
        ahead = 0
        for group in self._groups.values():
            if group.status is Status.PENDING:
                if group.priority > own.priority:
                    ahead += len(group.keys)
                elif group.priority == own.priority:
                    ahead += group.keys.rank(key)
        return ahead + 1

    # --- lists
    def find(self, query: Query) -> tuple[int, list[int]]:
        """Return how many tasks match (`text` aside; see `oq.search`), and the keys of the page that *query* asks for.

        The total ignores limit, offset and cursor. Raises `InvalidTask` for a sort it does not know, or a
        cursor whose task is gone where the order depends on the task.
        """
        total, classes = self._match(query)
        return total, list(self._page(query, classes, query.offset, query.limit))

    def keys_from(self, key: int, count: int) -> list[int]:
        """Return the first *count* keys from *key* on, ascending, whatever their tasks are."""
        return list(islice(self._group_of.keys(key), count))

    def sift(self, query: Query, keys: Iterable[int], into: dict[int, list[int]], by_priority: bool) -> None:
        """Append those of *keys* that match (`text` aside) to the list of their priority in *into*, else to 0's."""
        revision, sifted, fits = self._sieve
        if revision != self.revision or sifted != query:
            fits = {group.number: group.priority for group in self._groups.values() if _fits(query, group)}
            self._sieve = (self.revision, query, fits)
        number_of = self._group_of.get
        found = [key for key in keys if number_of(key, -1) in fits]
        if query.tag is not None:
            sets = [self._tags[tag] for tag in query.tag if tag in self._tags]
            found = [key for key in found if any(key in tagged for tagged in sets)]
        if not by_priority:
            into.setdefault(0, []).extend(found)
        else:
            for key in found:
                into.setdefault(fits[number_of(key)], []).append(key)

    def newer(self, query: Query) -> int:
        """Return how many of the matches (`text` aside) are newer than the anchor of *query*."""
        if query.anchor is None:
            return 0
        _, classes = self._match(query)
        return sum(len(keys) - keys.rank(query.anchor + 1) for sets in classes.values() for keys in sets)

    def _match(self, query: Query) -> tuple[int, dict[int, list[KeySet]]]:
        """Return the number of matches, and their sets of keys by priority (0: one class, by key alone)."""
        if query.sort not in SORTS:
            raise InvalidTask(f"cannot sort by {query.sort!r}; use one of {', '.join(SORTS)}", "sort")
        groups = [group for group in self._groups.values() if _fits(query, group)]
        by_priority = query.sort.endswith("priority")
        classes: dict[int, list[KeySet]] = {}
        if query.tag is None:
            for group in groups:
                classes.setdefault(group.priority if by_priority else 0, []).append(group.keys)
        else:
            self._match_tags(query.tag, groups, by_priority, classes)
        return sum(len(keys) for sets in classes.values() for keys in sets), classes

    def _match_tags(
        self, tags: Iterable[str], groups: list[_Group], by_priority: bool, classes: dict[int, list[KeySet]]
    ) -> None:
        sets = [self._tags[tag] for tag in tags if tag in self._tags]
        if len(sets) == 1 and not by_priority and len(groups) == len(self._groups):
            classes[0] = sets
            return
        priority_of = {group.number: group.priority if by_priority else 0 for group in groups}
        group_of = self._group_of
        keys: Iterable[int] = sets[0] if len(sets) == 1 else sorted(set(chain.from_iterable(sets)))
        for key in keys:
            priority = priority_of.get(group_of[key])
            if priority is not None:
                found = classes.get(priority)
                if found is None:
                    found = classes[priority] = [KeySet()]
                found[0].add(key)

    def _page(
        self, query: Query, classes: dict[int, list[KeySet]], offset: int, limit: int | None
    ) -> Iterator[int]:
        newest_first = query.sort == "-created"
        order = sorted(classes, reverse=query.sort == "-priority")
        cursor, place = query.before, 0
        if cursor is not None and query.sort.endswith("priority"):
            number = self._group_of.get(cursor)
            if number is None:
                raise InvalidTask(
                    f"the task {format_id(cursor)} of the cursor is gone; start from the top", "before"
                )
            place = self._groups[number].priority
            order = [p for p in order if (p <= place if query.sort == "-priority" else p >= place)]
        starts = [cursor if priority == place else None for priority in order]
        return islice(_walk([classes[p] for p in order], starts, newest_first, offset), limit)

    # --- ids
    def resolve(self, text: str) -> int:
        """Return the key of a full id, or of the only id that begins or ends with *text*.

        Raises `TaskNotFound`, or `TaskConflict` when several fit.
        """
        text = text.strip().lower()
        try:
            value = parse_id(text.rjust(ID_LENGTH, "0"))
        except ValueError:
            value = -1
        fits: list[int] = []
        if len(text) == ID_LENGTH:
            fits = [value] if value in self._group_of else []
        elif text and value >= 0:
            fits = self._starting(value, len(text)) + self._ending(value, len(text))
        different = sorted(set(fits))
        if not different:
            raise TaskNotFound(f"there is no task {text!r}; it may have been deleted or cleaned up")
        if len(different) > 1:
            some = ", ".join(format_id(key) for key in different[:3])
            raise TaskConflict(f"{text!r} fits more than one task ({some}, ...); give more characters")
        return different[0]

    def _starting(self, value: int, length: int) -> list[int]:
        shift = 5 * (ID_LENGTH - length)
        low = value << shift
        if low > KEY_MAX:
            return []
        return list(islice(self._group_of.keys(low, min(low + (1 << shift) - 1, KEY_MAX)), 3))

    def _ending(self, value: int, length: int) -> list[int]:
        mask = (1 << 5 * length) - 1
        return list(islice((key for key in self._group_of if key & mask == value), 3))


def _fits(query: Query, group: _Group) -> bool:
    return (
        (query.status is None or group.status in query.status)
        and (query.priority is None or group.priority in query.priority)
        and (query.type is None or group.type in query.type)
        and (query.model is None or group.model in query.model)
        and (query.host is None or group.host in query.host)
    )


def _walk(
    classes: list[list[KeySet]], starts: list[int | None], newest_first: bool, offset: int
) -> Iterator[int]:
    """Yield the keys of *classes*, one class after the other, without the first *offset*."""
    for sets, start in zip(classes, starts, strict=True):
        size = sum(map(len, sets))
        if start is not None and offset > DEEP_OFFSET:
            # A deep page under an anchor: those on the other side of it only make it deeper.
            below = sum(keys.rank(start if newest_first else start + 1) for keys in sets)
            offset, start = offset + (size - below if newest_first else below), None
        if start is None:
            if offset >= size:
                offset -= size
                continue
            if offset > DEEP_OFFSET:
                start, offset = locate(sets, offset, newest_first), 0
        for key in _merged(sets, start, newest_first):
            if offset:
                offset -= 1
            else:
                yield key


def _merged(sets: list[KeySet], start: int | None, newest_first: bool) -> Iterator[int]:
    walks = [keys.descending(start) if newest_first else keys.ascending(start) for keys in sets]
    return walks[0] if len(walks) == 1 else heapq.merge(*walks, reverse=newest_first)
