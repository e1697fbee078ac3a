"""What a server has acknowledged while it was fuzzed, held against what it has at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import requests

SECONDS_MOST = 60.0
PAGE = 1000


class Account:
    """Ids that were answered, and deletions; every id counts once, however often it was answered.

    Attributes:
        taken: ids of tasks that an answer named as submitted.
        deleted: of these, those deleted by their id.
        deleted_in_bulk: how many more went by a filter, which does not tell their ids.
        shelved: paths of files and batches that were made.
    """

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.deleted: set[str] = set()
        self.deleted_in_bulk = 0
        self.shelved: set[str] = set()

    def note(
        self, method: str, path: str, asked: bytes, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Note what one answer says; *body* may be cut off where it is a stream."""
        if id := headers.get("X-Task-ID"):
            self.taken.add(id)
        if method == "GET" or "json" not in (headers.get("Content-Type") or ""):
            return
        try:
            said: Any = json.loads(body)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if path == "/api/tasks" and status == 201:
            self.taken.add(said["task_id"])
        elif path == "/api/tasks/batch":
            self.taken |= {item["task_id"] for item in said.get("items", ()) if "task_id" in item}
        elif path in ("/v1/files", "/v1/batches") and status == 200:
            self.shelved.add(f"{path}/{said['id']}")
        elif method == "DELETE" and status == 200 and path.startswith("/api/tasks/"):
            self.deleted.add(said["id"])
        elif path == "/api/tasks/bulk" and status == 200 and json.loads(asked)["action"] == "delete":
            self.deleted_in_bulk += said["done"]

    def assert_kept(self, url: str) -> None:
        """Every task that was taken is there once and can be read, those that were deleted are not, and there is no other."""
        there = ids_of(url)
        assert len(there) == len(set(there))
        assert not self.deleted & set(there)
        lost = self.taken - self.deleted - set(there)
        assert len(lost) == self.deleted_in_bulk, sorted(lost)[:10]
        assert set(there) <= self.taken, sorted(set(there) - self.taken)[:10]
        for id in there:
            assert requests.get(f"{url}/api/tasks/{id}", timeout=SECONDS_MOST).status_code == 200, id
        for path in self.shelved:
            assert requests.get(url + path, timeout=SECONDS_MOST).status_code == 200, path


def ids_of(url: str) -> list[str]:
    """Return the ids of all tasks, as the lists' pages have them."""
    found: list[str] = []
    path: str | None = f"/api/tasks?limit={PAGE}"
    while path is not None:
        answer = requests.get(url + path, timeout=SECONDS_MOST)
        answer.raise_for_status()
        found += [row["id"] for row in answer.json()]
        path = answer.links["next"]["url"] if "next" in answer.links else None
    return found
