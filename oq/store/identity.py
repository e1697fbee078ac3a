"""Which store a folder holds, or holds backups of: a random id, in ``oq.json`` there and in ``store.json`` beside the backups.

It lies outside of the data file, so that a backup can give one, beside its server, to a store of before there were ids.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from oq.durable import replace_file

MARKER_NAME = "oq.json"  # in a data folder
RECORD_NAME = "store.json"  # in a folder of backups


def new_id() -> str:
    return secrets.token_hex(16)


def read_facts(path: Path) -> dict[str, object]:
    """Return what the file at *path* says; nothing when there is none, or it is none of ours."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_facts(path: Path, facts: Mapping[str, object]) -> None:
    """Replace the file at *path* at once, on disk and for its owner alone."""
    replace_file(path, json.dumps(facts).encode() + b"\n")


def id_in(path: Path) -> str | None:
    """Return the id that the file at *path* holds."""
    found = read_facts(path).get("store")
    return found if isinstance(found, str) else None


def name_store(folder: Path, lost: str | None = None) -> str:
    """Return the id of the store in *folder*; one of before there were ids, or whose marker was damaged, is given one: *lost*, or a new one."""
    marker = folder / MARKER_NAME
    if id_in(marker) is None:
        write_facts(marker, {"program": "oq", **read_facts(marker), "store": lost or new_id()})
    found = id_in(marker)  # of two that gave one, the last has it
    assert found is not None
    return found
