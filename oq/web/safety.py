"""The headers that forbid a browser to do more with an answer than to show it to who asked."""

from __future__ import annotations

# Of an answer that has no other. No Strict-Transport-Security: it would hold for all ports of the name, and on
# localhost break whatever else is there.
SAFE_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),  # prompts and answers are not for a browser's disk
)
