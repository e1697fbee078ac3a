"""JSON schemas as strangers write them: whether a model's answer validates, at a bounded cost."""

from __future__ import annotations

from typing import Any

import msgspec
from jsonschema import exceptions, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

SCHEMA_BYTES = 64 << 10
TEXT_BYTES = 1 << 20


def _not_checked(*_: Any) -> None:
    return None


# Regular expressions can take for ever on a text made for it, so what needs them counts as valid.
_PATTERNS = ("pattern", "patternProperties", "additionalProperties", "unevaluatedProperties")


def _without_patterns(kind: Any) -> Any:
    own_additional = kind.VALIDATORS.get("additionalProperties", _not_checked)

    def additional(validator: Any, allowed: Any, instance: Any, schema: Any) -> Any:
        if "patternProperties" not in schema:
            yield from own_additional(validator, allowed, instance, schema) or ()

    replaced = {name: _not_checked for name in _PATTERNS if name in kind.VALIDATORS}
    return validators.extend(kind, {**replaced, "additionalProperties": additional})  # type: ignore[no-untyped-call]


def validates(schema: bytes, text: str) -> bool | None:
    """Return whether *text*, which is JSON, validates against *schema*; None if that cannot be said.

    That is so for a schema that is none, that refers to another document (nothing is fetched), or past the limits.
    """
    if len(schema) > SCHEMA_BYTES or len(text) > TEXT_BYTES:
        return None
    try:
        wanted = msgspec.json.decode(schema)
        kind = validators.validator_for(wanted, default=validators.validator_for(True))
        kind.check_schema(wanted)
        # With a registry of our own jsonschema fetches nothing.
        return bool(_without_patterns(kind)(wanted, registry=Registry()).is_valid(msgspec.json.decode(text)))
    except (exceptions.SchemaError, exceptions.UnknownType, Unresolvable, ValueError, RecursionError):
        return None
