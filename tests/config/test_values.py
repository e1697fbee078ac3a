from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oq.config import parse_duration, parse_host_url, parse_size


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_reads_back_as_it_was_written(minutes: int, seconds: int, milliseconds: int) -> None:
    written = f"{minutes}m{seconds}s{milliseconds}ms"

    assert parse_duration(written) == pytest.approx(minutes * 60 + seconds + milliseconds / 1000)


@pytest.mark.parametrize(
    "wrong",
    ["", "5 parsecs", "s", "-1s", -1, "1e3", "nan", float("nan"), float("inf"), True, None, "5m!", []],
)
def test_what_is_no_duration_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(wrong)


@pytest.mark.parametrize(
    ("text", "size"), [("1kb", 1000), ("1KiB", 1024), ("1.5 MiB", 1572864), ("0", 0), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("wrong", ["", "MiB", "-1", -1, "10 bananas", True, None])
def test_what_is_no_size_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(wrong)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:11434", "http://localhost:11434"),
        ("gpu", "http://gpu:11434"),
        ("gpu:80", "http://gpu:80"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("https://models.example/", "https://models.example:443"),
        ("http://models.example", "http://models.example:80"),
        ("[::1]:5", "http://[::1]:5"),
        ("::1", "http://[::1]:11434"),
        ('"gpu"', "http://gpu:11434"),
        ("http://gpu/prefix/", "http://gpu:80/prefix"),
        ("https://me:pa%40ss@gpu/", "https://me:pa%40ss@gpu:443"),
    ],
)
def test_a_model_server_is_named_as_ollama_names_it(text: str, url: str) -> None:
    assert parse_host_url(text) == url


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "ftp://gpu",
        "http://",
        "a b",
        "http://gpu:port",
        "http://gpu:99999",
        "http://g?x=1",
        "http://@gpu",
        "\udcff",
    ],
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not an address such as"):
        parse_host_url(wrong)
