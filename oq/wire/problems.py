"""msgspec's complaints, said so that the sender can act: which field, what it should be, what was meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

import msgspec

from oq.errors import InvalidTask


class NotJson(InvalidTask):
    """The body is not JSON at all, as opposed to JSON with the wrong content."""

    code = "not_json"


_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]*)`(?: of length (?P<length>.*?))?, got `(?P<got>[^`]*)`")
_FIELD = re.compile(r"Object (?P<fault>missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)
_WORDS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list",
    "object": "an object", "null": "null",
}  # fmt: skip


def as_problem(
    error: Exception, root: str = "", known: Iterable[str] = (), text: bytes = b"", whole: str = "the task"
) -> InvalidTask:
    """Return what to tell about *error*, raised by msgspec while it read *root* (a dotted path, or "") in *text*.

    *whole* is what the sentence calls all of it.
    """
    if isinstance(error, RecursionError):
        return InvalidTask(f"{root or whole} is nested too deeply", root or None)
    if not isinstance(error, msgspec.ValidationError):
        if _has_half_character(text):
            what = "half a character (an escape from \\ud800 to \\udfff alone): send whole characters"
            return NotJson(f"{root or 'the body'} has {what}", root or None)
        return NotJson(f"the body is not valid JSON: {error}", root or None)
    found = _AT.match(str(error))
    assert found is not None  # the pattern fits every text
    what, field = found["what"], _join(root, (found["path"] or "").removeprefix("$").lstrip("."))
    if fault := _FIELD.match(what):
        name = fault["name"][:100]
        here = _join(field, name)
        if fault["fault"].startswith("missing"):
            return InvalidTask(f"{here} is missing", here)
        near = difflib.get_close_matches(name, list(known), 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}" if known else ""
        return InvalidTask(f"there is no field {here}{hint}", here)
    if expected := _EXPECTED.match(what):
        wanted = [_WORDS.get(w, w) for w in expected["wanted"].split(" | ") if w != "null"]
        got = _WORDS.get(expected["got"], expected["got"])
        what = f"must be {' or '.join(wanted)}, not {got}"
        return InvalidTask(f"{field or whole} {what}", field or None)
    return InvalidTask(f"{field or whole}: {what}", field or None)


def _has_half_character(text: bytes) -> bool:
    """Return whether *text* is JSON but for a surrogate without its partner, as a cut in two characters leaves it.

    JSON's grammar allows it, and msgspec says of it that the input is truncated.
    """
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        pass
    return False


def _join(root: str, path: str) -> str:
    if not root or not path:
        return root or path
    return f"{root}{path}" if path.startswith("[") else f"{root}.{path}"
