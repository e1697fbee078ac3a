"""JSON that nobody should send, whole and as the value of a field."""

from __future__ import annotations

DEEP = 100_000
HOSTILE = [
    b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"NaN", b"[NaN, Infinity, -Infinity]",
    b"1e400", b"1" + b"0" * 400, b"-1" + b"0" * 5000, b'"\\ud800"', b'"\xed\xa0\x80"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"",
    b"null", b'"', b"{", b"[]", b"[null]", b"{}" * 1000, b"\0" * 100, b"tru", b"/* a */ {}", b'{"a":1,}',
]  # fmt: skip
VALUES = [
    "1e400", "1" + "0" * 400, "NaN", "-Infinity", "1e-400", "-0", "18446744073709551616", "0.1", "-1", "true",
    "1", "null", '""', '"\\ud800"', '"\\u0000"', '"x' + "y" * 100_000 + '"', "[]", "{}", "[[[[]]]]",
    "[" * 500 + "]" * 500, '{"a":1,"a":2}', '["a",1,null]', '"2026-99-99"', '"9999999999999999"',
]  # fmt: skip
