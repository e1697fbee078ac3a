"""What people write as a value, and what it means: durations, sizes, addresses. ValueError says what is wrong."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from oq.core.model import PRIORITIES, PRIORITY_MAX

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "k": 2**10,
    "m": 2**20, "g": 2**30,
}  # fmt: skip


def parse_duration(value: object) -> float:
    """Return seconds: a number, or text such as "250ms", "5m", "1h30m"; ValueError otherwise.

    >>> parse_duration("1h30m"), parse_duration("250ms"), parse_duration(2)
    (5400.0, 0.25, 2.0)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
        if re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        elif parts and "".join(number + unit for number, unit in parts) == text.replace(" ", ""):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            raise ValueError(f'{value!r} is not a duration such as "250ms", "30s", "5m" or "1h30m"')
    if not 0 <= seconds < 1e12:
        raise ValueError(f"{value!r} is not a duration: it must be positive and finite")
    return seconds


def parse_size(value: object) -> int:
    """Return bytes: a whole number, or text such as "64MiB" or "10MB"; ValueError otherwise.

    >>> parse_size("64MiB"), parse_size("1kB"), parse_size(10)
    (67108864, 1000, 10)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
    if found is None or found[2] not in _SIZES:
        raise ValueError(f'{value!r} is not a size such as "64MiB" or "10MB"')
    return int(float(found[1]) * _SIZES[found[2]])


def show_duration(seconds: float) -> str:
    """Return *seconds* as people write them; `parse_duration` reads the same from it.

    >>> show_duration(300), show_duration(5400), show_duration(0.25), show_duration(0), show_duration(1e-05)
    ('5m', '1h30m', '250ms', '0', '0.00001')
    """
    thousandths = round(seconds * 1000)
    if not seconds or thousandths / 1000 != seconds:
        return f"{seconds:.15f}".rstrip("0").rstrip(".")
    if thousandths % 1000:
        return f"{thousandths}ms" if seconds < 1 else f"{seconds!r}s"
    left, text = thousandths // 1000, ""
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, int(_UNITS[unit]))
        text += f"{count}{unit}" if count else ""
    return text


def show_size(count: int) -> str:
    """Return a number of bytes as people write it; `parse_size` reads the same from it.

    >>> show_size(64 * 2**20), show_size(65_536), show_size(1000)
    ('64MiB', '64KiB', '1000')
    """
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % _SIZES[unit.lower()] == 0:
            return f"{count // _SIZES[unit.lower()]}{unit}"
    return str(count)


def parse_whole(value: object) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} is not a whole number")
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a whole number") from None


def parse_level(value: object) -> int:
    """Return a priority: a name, or a number from 0 to 1000.

    >>> parse_level("high"), parse_level("7")
    (10, 7)
    """
    known = PRIORITIES.get(str(value).strip().lower())
    level = parse_whole(value) if known is None else known
    if not 0 <= level <= PRIORITY_MAX:
        raise ValueError(f"{value!r} is not a priority")
    return level


def parse_number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a number") from None
    if isinstance(value, bool) or not abs(number) < 1e15:
        raise ValueError(f"{value!r} is not a number")
    return number


def parse_switch(value: object) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    known = words.get(str(value).strip().lower())
    if known is None:
        raise ValueError(f"{value!r} is not true or false")
    return known


def parse_text(value: object) -> str:
    if not isinstance(value, (str, int, float, Path)) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not text")
    return str(value)


def parse_optional_text(value: object) -> str | None:
    return None if value is None or value == "" else parse_text(value)


def parse_names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise ValueError(f"{value!r} is not a list of names")


def parse_host_url(value: object) -> str:
    """Return the URL of a model server from what Ollama accepts as OLLAMA_HOST.

    >>> parse_host_url("gpu"), parse_host_url("0.0.0.0:8080"), parse_host_url("https://x.org/")
    ('http://gpu:11434', 'http://127.0.0.1:8080', 'https://x.org:443')
    >>> parse_host_url("https://user:secret@x.org")  # for a proxy that asks for them
    'https://user:secret@x.org:443'
    """
    text = parse_text(value).strip().strip("\"'")
    problem = f"{without_password(repr(value))} is not an address such as http://localhost:11434"
    scheme, _, rest = text.partition("://") if "://" in text else ("http", "", text)
    if scheme not in ("http", "https") or not rest.strip("/") or any(c.isspace() for c in text):
        raise ValueError(problem)
    if _is_ipv6(rest):
        rest = f"[{rest}]"
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port
        text.encode()  # an argument or a variable may hold bytes that are no text
    except ValueError:
        raise ValueError(problem) from None
    if parts.query or parts.fragment or ("@" in parts.netloc and not parts.username):
        raise ValueError(problem)
    default = 11434 if "://" not in text else {"http": 80, "https": 443}[scheme]
    host = parts.hostname or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # a bind address is not one to connect to
    host = f"[{host}]" if ":" in host else host
    login, at, _ = parts.netloc.rpartition("@")
    return f"{scheme}://{login}{at}{host}:{default if port is None else port}{parts.path.rstrip('/')}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def without_password(uri: str) -> str:
    """Return an address or a storage URI as it may be shown.

    >>> without_password("postgresql://oq:s%40ret@db/oq?connect_timeout=5&sslpassword=x")
    'postgresql://oq:***@db/oq?connect_timeout=5&sslpassword=***'
    """
    return re.sub(r"(\b\w*password=)[^&#]*", r"\1***", re.sub(r"(://[^/?#@]*?:)[^/?#]*@", r"\1***@", uri))
