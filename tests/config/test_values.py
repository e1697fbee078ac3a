from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oq.config import parse_duration, parse_host_url, parse_size
from oq.config.values import show_duration, show_size


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


@given(st.one_of(st.integers(0, 10**7), st.floats(0, 1e11), st.decimals(0, 10**6, places=3).map(float)))
@example(86_399.999)
@example(5e-324)
def test_a_duration_is_shown_as_it_can_be_written(seconds: float) -> None:
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0"),
        (0.001, "1ms"),
        (1.5, "1.5s"),
        (60, "1m"),
        (5400, "1h30m"),
        (90_061, "1d1h1m1s"),
        (1e-05, "0.00001"),
    ],
)
def test_durations_are_shown_in_the_units_of_people(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@given(st.one_of(st.integers(0, 2**45), st.integers(0, 4096).map(lambda count: count * 2**20)))
def test_a_size_is_shown_as_it_can_be_written(count: int) -> None:
    assert parse_size(show_size(count)) == count


def test_sizes_are_shown_in_whole_units() -> None:
    assert [show_size(count) for count in (0, 1000, 65_536, 64 * 2**20, 2**30 + 2**20)] == [
        "0", "1000", "64KiB", "64MiB", "1025MiB",
    ]  # fmt: skip


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
