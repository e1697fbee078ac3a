"""What a client of either drop-in is told of a model server's refusal."""

from __future__ import annotations

from oq.dropin.refusals import said_in


def test_words_nested_too_deep_are_told_as_they_are() -> None:
    deep = b"[" * 2048 + b"]" * 2048
    assert said_in(deep) == deep.decode()
