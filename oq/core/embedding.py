"""Embed tasks that are sent as one call: which may go together, the call, and its answer taken apart again. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from oq.core.model import Entry, TaskSpec, TaskState, affinity

SMALL_BYTES = 8192  # of a payload; a larger one fills a call by itself

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.encode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Mismatch(Exception):
    """An answer that is not one vector for each input."""


def group_of(spec: TaskSpec) -> bytes | None:
    """Return what is equal of tasks that may share a call; None for one that goes alone.

    Those are embed tasks with one text for input, small, that differ in nothing else. A field in several spellings, or
    one that is unknown, is compared by its bytes.
    """
    if spec.type != "embed" or len(spec.payload) > SMALL_BYTES:
        return None
    try:
        fields = _decode_object(spec.payload)
        given = fields.pop("input", None)
        if given is None or not _decode_text(given):
            return None
    except _UNREADABLE:
        return None
    if any(
        name.lower() in ("input", "prompt") for name in fields
    ):  # the older kind, or one that is for Go to read
        return None
    rest = sorted((name, bytes(value)) for name, value in fields.items())
    parts = repr((spec.model, spec.options, spec.keep_alive, rest)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(parts, digest_size=8).digest()


def entry_of(key: int, spec: TaskSpec, state: TaskState) -> Entry:
    """Return what the schedule needs of a task."""
    return Entry(
        key, spec.type, spec.model, affinity(spec), spec.max_retries, spec.timeout, spec.tags, state,
        spec.idempotency_key, group_of(spec),
    )  # fmt: skip


class Joint(msgspec.Struct, frozen=True):
    """One call for several tasks: equal inputs are computed once. *places* are the tasks' inputs in the call."""

    spec: TaskSpec
    places: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def inputs(self) -> int:
        return max(self.places) + 1

    def split(self, result: bytes) -> list[bytes]:
        """Return each task's own answer; `Mismatch` if *result* does not have one vector for each input.

        Times are those of the call, which all of them took. The tokens of each are its share of the call's by length:
        the model server counts them together; the sum of the shares is its count.
        """
        try:
            answer = _decode_object(result)
            vectors = msgspec.json.decode(answer["embeddings"], type=list[msgspec.Raw])
            tokens = msgspec.json.decode(answer.get("prompt_eval_count", b"0"), type=int)
        except (*_UNREADABLE, KeyError) as exc:
            raise Mismatch(str(exc)) from exc
        if len(vectors) != self.inputs:
            raise Mismatch(f"{len(vectors)} vectors for {self.inputs} inputs")
        found = []
        for place, share in zip(self.places, _shares(tokens, self.sizes), strict=True):
            answer["embeddings"] = msgspec.Raw(b"[" + bytes(vectors[place]) + b"]")
            if "prompt_eval_count" in answer:
                answer["prompt_eval_count"] = msgspec.Raw(b"%d" % share)
            found.append(_encode(answer))
        return found


def join(specs: Sequence[TaskSpec]) -> Joint:
    """Return one call for tasks of one group."""
    inputs: dict[bytes, int] = {}
    places, sizes = [], []
    for spec in specs:
        given = bytes(_decode_object(spec.payload)["input"])
        places.append(inputs.setdefault(given, len(inputs)))
        sizes.append(len(given))
    fields = _decode_object(specs[0].payload)
    fields["input"] = msgspec.Raw(b"[" + b",".join(inputs) + b"]")
    spec = msgspec.structs.replace(specs[0], payload=_encode(fields))
    return Joint(spec, tuple(places), tuple(sizes))


def parts_of(sizes: Sequence[int], most: int) -> list[range]:
    """Cut tasks with payloads of these *sizes* into calls of at most *most* bytes, one task at least.

    >>> parts_of([40, 40, 40, 200, 1], 100)
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    parts, first, size = [], 0, 0
    for index, one in enumerate(sizes):
        if index > first and size + one > most:
            parts.append(range(first, index))
            first, size = index, 0
        size += one
    return [*parts, range(first, len(sizes))]


def _shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Return whole shares of *total* in proportion to *sizes*, with *total* as their sum."""
    whole, given, seen, shares = sum(sizes), 0, 0, []
    for size in sizes:
        seen += size
        upto = total * seen // whole
        shares.append(upto - given)
        given = upto
    return shares
