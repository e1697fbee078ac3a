"""Embed tasks that are sent as one call: which may go together, the call, and its answer taken apart again. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from oq.core.model import Entry, TaskSpec, TaskState, affinity
from oq.core.output import NOT_JSON

SMALL_BYTES = 8192  # of a payload; a larger one fills a call by itself

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_inputs = msgspec.json.Decoder(str | list[str]).decode
_decode_vectors = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.encode


class Mismatch(Exception):
    """An answer that is not one vector for each input."""


class Likeness(msgspec.Struct, frozen=True, gc=False):
    """What an embed task has in common with others.

    Attributes:
        group: equal of tasks that differ in their text alone and may share a call; None for one that goes alone.
        text: equal of tasks that ask for the same, so that one answer is that of all; None if it is no embed task.
        size: bytes of its payload, for the bound of a shared call.
    """

    group: bytes | None = None
    text: bytes | None = None
    size: int = 0


NOTHING_ALIKE = Likeness()


def likeness(spec: TaskSpec) -> Likeness:
    """Return what may be equal of *spec* and another task.

    Those that share calls are embed tasks with one text for input, and small. A field in several spellings, or one
    that is unknown, is compared by its bytes.
    """
    if spec.type != "embed":
        return NOTHING_ALIKE
    size = len(spec.payload)
    given, rest = _parted(spec.payload) if size <= SMALL_BYTES else (None, [])
    if given is None:
        text = _digest(16, (spec.model, spec.options, spec.keep_alive, spec.timeout), spec.payload)
        return Likeness(None, text, size)
    group = _digest(8, (spec.model, spec.options, spec.keep_alive, rest))
    text = _digest(16, (spec.model, spec.options, spec.keep_alive, spec.timeout, rest, given))
    return Likeness(group, text, size)


def _parted(payload: bytes) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """Return the one text of a payload, as JSON, and the other fields; None if it is not one text."""
    try:
        fields = _decode_object(payload)
        given = fields.pop("input", None)
        if given is None or not _decode_text(given):
            return None, []
    except NOT_JSON:
        return None, []
    if any(
        name.lower() in ("input", "prompt") for name in fields
    ):  # the older kind, or one that is for Go to read
        return None, []
    return bytes(given), sorted((name, bytes(value)) for name, value in fields.items())


def _digest(size: int, parts: object, payload: bytes = b"") -> bytes:
    """Return so many bytes that stand for small values and a payload, which may be large."""
    found = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=size)
    found.update(payload)  # after the last bracket: whatever it is, it cannot be taken for one of the parts
    return found.digest()


def answer_key(spec: TaskSpec, digest: str) -> bytes:
    """Return what the answer to an embed task depends on: the model, by the *digest* of what it is now, and the request.

    Also on the name by which the model was asked for, since the answer repeats it.
    """
    given, rest = _parted(spec.payload) if len(spec.payload) <= SMALL_BYTES else (None, [])
    asked = (digest, spec.model, spec.options, rest, given)
    return _digest(32, asked, spec.payload if given is None else b"")


def entry_of(key: int, spec: TaskSpec, state: TaskState) -> Entry:
    """Return what the schedule needs of a task."""
    alike = likeness(spec)
    return Entry(
        key, spec.type, spec.model, affinity(spec), spec.max_retries, spec.timeout, spec.tags, state,
        spec.idempotency_key, alike.group, alike.text, alike.size,
    )  # fmt: skip


class Joint(msgspec.Struct, frozen=True):
    """One call for several tasks; *sizes* are the bytes of each one's text."""

    spec: TaskSpec
    sizes: tuple[int, ...]

    def split(self, result: bytes) -> list[bytes]:
        """Return each task's own answer; `Mismatch` if *result* does not have one vector for each input.

        Times are those of the call, which all of them took. The tokens of each are its share of the call's by length:
        the model server counts them together; the sum of the shares is its count.
        """
        try:
            answer = _decode_object(result)
            vectors = _decode_vectors(answer["embeddings"])
            tokens = msgspec.json.decode(answer.get("prompt_eval_count", b"0"), type=int)
        except (*NOT_JSON, KeyError) as exc:
            raise Mismatch(str(exc)) from exc
        if len(vectors) != len(self.sizes):
            raise Mismatch(f"{len(vectors)} vectors for {len(self.sizes)} inputs")
        found = []
        for vector, share in zip(vectors, _shares(tokens, self.sizes), strict=True):
            answer["embeddings"] = msgspec.Raw(b"[" + bytes(vector) + b"]")
            if "prompt_eval_count" in answer:
                answer["prompt_eval_count"] = msgspec.Raw(b"%d" % share)
            found.append(_encode(answer))
        return found


def check_count(spec: TaskSpec, result: bytes) -> None:
    """Raise `Mismatch` if the *result* of a task that went alone does not have one vector for each of its texts."""
    wanted = _texts(spec.payload)
    if not wanted:
        return
    try:
        vectors = _decode_object(result).get("embeddings")
        found = wanted if vectors is None else len(_decode_vectors(vectors))
    except NOT_JSON as exc:
        raise Mismatch(str(exc)) from exc
    if found != wanted:
        raise Mismatch(f"{found} vectors for {wanted} inputs")


def _texts(payload: bytes) -> int:
    """Return how many texts a payload gives; 0 for the older kind and for what is for Go to read.

    >>> _texts(b'{"input": "a"}'), _texts(b'{"input": ["a", "b"]}'), _texts(b'{"input": ""}'), _texts(b'{"Input": "a"}')
    (1, 2, 0, 0)
    """
    try:
        fields = _decode_object(payload)
        if [name for name in fields if name.lower() == "input"] != ["input"]:
            return 0
        given = _decode_inputs(fields["input"])
    except NOT_JSON:
        return 0
    return min(1, len(given)) if isinstance(given, str) else len(given)


def join(specs: Sequence[TaskSpec]) -> Joint:
    """Return one call for tasks of one group."""
    inputs = [bytes(_decode_object(spec.payload)["input"]) for spec in specs]
    fields = _decode_object(specs[0].payload)
    fields["input"] = msgspec.Raw(b"[" + b",".join(inputs) + b"]")
    spec = msgspec.structs.replace(specs[0], payload=_encode(fields))
    return Joint(spec, tuple(map(len, inputs)))


def _shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Return whole shares of *total* in proportion to *sizes*, with *total* as their sum."""
    whole, given, seen, shares = sum(sizes), 0, 0, []
    for size in sizes:
        seen += size
        upto = total * seen // whole
        shares.append(upto - given)
        given = upto
    return shares
