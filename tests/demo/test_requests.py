from __future__ import annotations

import json

import pytest

from oq.demo import requests
from oq.demo.refusals import ApiError
from oq.demo.requests import parse_request


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b"{", "invalid JSON: "),
        (b'{"options": {"seed": NaN}}', "invalid JSON: NaN is not JSON"),
        (b'{"options": {"seed": 1e999}}', "invalid JSON: 1e999 is too large"),
        (b"[" * 100_000, "invalid JSON: "),
        (b"\xff\xfe{}", "invalid JSON: "),
        (b"[]", "json: cannot unmarshal request into Go value"),
        (b'{"top_logprobs": 21}', "top_logprobs must be between 0 and 20"),
        (b'{"top_logprobs": -1}', "top_logprobs must be between 0 and 20"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, text: str):
    with pytest.raises(ApiError) as found:
        parse_request("/api/chat", body)
    assert found.value.status == 400
    assert found.value.message.startswith(text)


@pytest.mark.parametrize(
    ("path", "request_", "text"),
    [
        ("/api/chat", {"messages": "x"}, "string into Go struct field ChatRequest.messages of type []api.Message"),
        ("/api/chat", {"messages": [5]}, "number into Go struct field ChatRequest.messages of type []api.Message"),
        ("/api/chat", {"messages": [None]}, "null into Go struct field ChatRequest.messages of type []api.Message"),
        ("/api/chat", {"messages": [{"content": 5}]}, "number into Go struct field Alias.content of type string"),
        ("/api/chat", {"model": 5}, "number into Go struct field ChatRequest.model of type string"),
        ("/api/generate", {"stream": "no"}, "string into Go struct field GenerateRequest.stream of type bool"),
        (
            "/api/generate",
            {"options": []},
            "array into Go struct field GenerateRequest.options of type map[string]interface {}",
        ),
        ("/api/generate", {"prompt": {}}, "object into Go struct field GenerateRequest.prompt of type string"),
        ("/api/generate", {"raw": 1}, "number into Go struct field GenerateRequest.raw of type bool"),
        ("/api/embed", {"dimensions": 1.5}, "number into Go struct field EmbedRequest.dimensions of type int"),
        ("/api/embed", {"dimensions": True}, "bool into Go struct field EmbedRequest.dimensions of type int"),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_type_is_named(path: str, request_: object, text: str):
    with pytest.raises(ApiError) as found:
        parse_request(path, json.dumps(request_).encode())
    assert (found.value.status, found.value.message) == (400, f"json: cannot unmarshal {text}")


def test_null_is_as_if_the_field_were_not_there():
    body = b'{"model": null, "messages": null, "options": null, "top_logprobs": null, "keep_alive": null}'
    request = parse_request("/api/chat", body)
    assert requests.options_of(request) == {}
    assert requests.keep_alive_of(request) is None


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("temperature", "hot", "float32"),
        ("temperature", True, "float32"),
        ("num_predict", "x", "integer"),
        ("seed", False, "integer"),
        ("num_ctx", {}, "integer"),
        ("use_mmap", 1, "boolean"),
        ("stop", "x", "array"),
        ("stop", ["x", 1], "array"),
    ],
)
def test_an_option_of_the_wrong_type_is_an_error_of_the_server_as_in_ollama(
    name: str, value: object, kind: str
):
    with pytest.raises(ApiError) as found:
        requests.options_of({"options": {name: value}})
    assert (found.value.status, found.value.message) == (500, f'option "{name}" must be of type {kind}')


def test_options_are_taken_as_they_are_and_whole_ones_are_cut():
    options = {"temperature": 1, "top_k": 3.7, "unknown": "x", "top_p": None, "use_mmap": False}
    assert requests.options_of({"options": options}) == {
        "temperature": 1, "top_k": 3, "unknown": "x", "use_mmap": False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("5x", 'time: invalid duration "5x"'),
        ("5", 'time: missing unit in duration "5"'),
        ("", 'time: invalid duration ""'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
    ],
)
def test_a_keep_alive_that_is_none_is_refused(value: object, text: str):
    with pytest.raises(ApiError) as found:
        requests.keep_alive_of({"keep_alive": value})
    assert (found.value.status, found.value.message) == (400, text)


@pytest.mark.parametrize(
    ("value", "texts"), [("one", ["one"]), (["one", ""], ["one", ""]), ("", []), ([], []), (None, [])]
)
def test_what_to_embed_is_a_text_or_a_list(value: object, texts: list[str]):
    assert requests.texts_of({"input": value}) == texts


@pytest.mark.parametrize("value", [5, 0, False, {}, ["a", 5]])
def test_nothing_else_can_be_embedded(value: object):
    with pytest.raises(ApiError, match="invalid input type"):
        requests.texts_of({"input": value})
