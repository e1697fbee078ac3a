"""Small named records beside the tasks, such as those of OpenAI files and batches: text → bytes, in one tree.

The tree is made when the first one is written, so a store without any is as it always was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from BTrees.OOBTree import OOBTree

NAME = "documents"  # in the root


def put_documents(root: MutableMapping[str, Any], documents: Iterable[tuple[str, bytes | None]]) -> None:
    """Write each, or forget it where it is None."""
    tree = root.get(NAME)
    if tree is None:
        tree = root[NAME] = OOBTree()
    for name, value in documents:
        if value is None:
            tree.pop(name, None)
        else:
            tree[name] = value


def read_documents(root: Mapping[str, Any], prefix: str) -> list[tuple[str, bytes]]:
    """Return those whose name begins with *prefix*, by name."""
    tree = root.get(NAME)
    if tree is None:
        return []
    return [(name, value) for name, value in tree.items(min=prefix, max=prefix + "\U0010ffff")]
