"""Statuses and texts as Ollama 0.32.15 has them: clients, oq's backend among them, tell failures apart by these."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest
from waiting import DEADLINE

from oq.demo.models import models_of
from oq.demo.weights import find_weights
from tests.demo.asking import SHORT, generate, loaded, post

HI = [{"role": "user", "content": "Hi"}]
JSON, PLAIN_JSON, LINES = "application/json; charset=utf-8", "application/json", "application/x-ndjson"

# path, body, status, content type, the error's text
REFUSED = [
    ("/api/chat", b"", 400, JSON, "missing request body"),
    ("/api/chat", {}, 400, JSON, "model is required"),
    ("/api/generate", {}, 404, JSON, "model '' not found"),
    ("/api/embed", {}, 404, JSON, "model '' not found"),
    ("/api/chat", {"model": "a b"}, 400, JSON, "invalid model name"),
    ("/api/chat", {"model": "nope", "messages": HI}, 404, JSON, "model 'nope' not found"),
    ("/api/generate", {"model": "nope", "prompt": "Hi"}, 404, JSON, "model 'nope' not found"),
    ("/api/embeddings", {"prompt": "Hi"}, 400, JSON, "model is required"),
    ("/api/embed", {"model": "nope", "input": "Hi"}, 404, JSON, 'model "nope" not found, try pulling it first'),
    ("/api/show", {"model": "nope"}, 404, JSON, "model 'nope' not found"),
    (
        "/api/generate", {"model": "smollm2", "prompt": "Hi", "options": {"temperature": "hot"}},
        500, JSON, 'option "temperature" must be of type float32',
    ),
    (
        "/api/generate", {"model": "smollm2", "prompt": "Hi", "keep_alive": "5"},
        400, JSON, 'time: missing unit in duration "5"',
    ),
    (
        "/api/generate", {"model": "smollm2", "prompt": "Hi", "raw": True, "system": "x"},
        400, JSON, "raw mode does not support template, system, or context",
    ),
    (
        "/api/generate", {"model": "smollm2", "prompt": "Hi", "suffix": "x"},
        400, JSON, "registry.ollama.ai/library/smollm2:latest does not support insert",
    ),
    (
        "/api/chat", {"model": "smollm2", "messages": HI, "tools": [{}]},
        400, JSON, "registry.ollama.ai/library/smollm2:latest does not support tools",
    ),
    (
        "/api/chat", {"model": "smollm2", "messages": HI, "think": True},
        400, JSON, '"smollm2" does not support thinking',
    ),
    (
        "/api/chat", {"model": "smollm2", "messages": HI, "think": "odd"},
        400, JSON, 'invalid think value: "odd" (must be "high", "medium", "low", "max", true, or false)',
    ),
    (
        "/api/chat", {"model": "smollm2-embed", "messages": HI},
        400, JSON, '"smollm2-embed" does not support chat',
    ),
    (
        "/api/generate", {"model": "smollm2-embed", "prompt": "Hi"},
        400, JSON, '"smollm2-embed" does not support generate',
    ),
]  # fmt: skip
# These are told only once the model is loaded.
REFUSED_LATE = [
    (
        "/api/chat", {"model": "smollm2", "messages": HI, "format": "xml"},
        500, PLAIN_JSON, 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
    ),
    (
        "/api/chat", {"model": "smollm2", "messages": HI, "format": 5, "stream": False},
        500, JSON, 'invalid format: "5"; expected "json" or a valid JSON Schema object',
    ),
    (
        "/api/chat", {"model": "smollm2", "messages": [HI[0] | {"images": ["aa"]}]},
        400, JSON, "Multimodal data provided, but model does not support multimodal requests.",
    ),
    (
        "/api/embed", {"model": "smollm2", "input": "Hi"},
        501, JSON, "This server does not support embeddings. Start it with `--embeddings`",
    ),
    (
        "/api/embed", {"model": "smollm2-embed", "input": "word " * 600, "truncate": False},
        400, JSON, "the input length exceeds the context length",
    ),
    (
        "/api/generate", {"model": "smollm2", "prompt": "word " * 2100, "shift": False},
        400, PLAIN_JSON, "the prompt is longer than the context length currently available to the model; shorten "
        "the prompt, adjust the context length in settings, or use a model with a longer context length",
    ),
]  # fmt: skip


def check_refusal(url: str, path: str, body: object, status: int, content_type: str, text: str) -> None:
    found = post(url, path, body)
    assert (found.status_code, found.headers["Content-Type"]) == (status, content_type)
    assert found.json() == {"error": text}


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: f"{row[0]}-{row[4][:40]}")
def test_a_request_that_cannot_be_served_is_refused_at_once(
    model_server: str, row: tuple[str, object, int, str, str]
):
    check_refusal(model_server, *row)


@pytest.mark.slow
@pytest.mark.parametrize("row", REFUSED_LATE, ids=lambda row: f"{row[0]}-{row[4][:40]}")
def test_some_are_refused_when_the_model_is_loaded(model_server: str, row: tuple[str, object, int, str, str]):
    check_refusal(model_server, *row)


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/", 200, "Ollama is running"),
        ("HEAD", "/", 200, ""),
        ("GET", "/api/nope", 404, "404 page not found"),
        ("POST", "/api/nope", 404, "404 page not found"),
        ("GET", "/api/chat", 405, "405 method not allowed"),
        ("POST", "/api/tags", 405, "405 method not allowed"),
        ("DELETE", "/api/chat", 405, "405 method not allowed"),
    ],
)
def test_paths_and_methods_are_answered_in_plain_text(
    model_server: str, method: str, path: str, status: int, text: str
):
    found = httpx.request(method, model_server + path, timeout=DEADLINE)
    assert (found.status_code, found.text) == (status, text)
    assert found.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("head", ["Content-Length: -5", "Content-Length: x", "Transfer-Encoding: chunked"])
def test_a_body_of_unknown_length_is_refused_and_the_connection_closed(model_server: str, head: str):
    with socket.create_connection(("127.0.0.1", urlsplit(model_server).port), DEADLINE) as connection:
        connection.sendall(f"POST /api/chat HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 411 ")


def test_it_says_what_it_has(model_server: str):
    tags = httpx.get(f"{model_server}/api/tags?x=1", timeout=DEADLINE).json()["models"]
    assert [model["name"] for model in tags] == ["smollm2:latest", "smollm2-b:latest", "smollm2-embed:latest"]
    assert [model["capabilities"] for model in tags] == [["completion"], ["completion"], ["embedding"]]
    assert tags[0]["size"] == models_of(find_weights())["smollm2"].size
    assert httpx.get(f"{model_server}/api/version", timeout=DEADLINE).json() == {"version": "0.32.15"}


def test_it_shows_a_model(model_server: str):
    shown = post(model_server, "/api/show", {"model": "smollm2:latest"}).json()
    assert shown["model_info"] == {"general.architecture": "llama", "llama.context_length": 8192}
    assert shown["capabilities"] == ["completion"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "prompt"), [("/api/chat", {"messages": HI}), ("/api/generate", {"prompt": "Hi"})]
)
def test_lines_and_the_whole_answer_say_the_same(model_server: str, path: str, prompt: dict[str, object]):
    body = {"model": "smollm2", "options": SHORT} | prompt
    streamed = post(model_server, path, body)
    assert streamed.headers["Content-Type"] == LINES
    lines = [json.loads(line) for line in streamed.text.splitlines()]
    whole = post(model_server, path, body | {"stream": False}).json()

    def text(line: dict[str, object]) -> str:
        return line["response"] if path == "/api/generate" else line["message"]["content"]  # type: ignore[index,return-value]

    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "".join(map(text, lines)) == text(whole) != ""
    assert set(lines[-1]) == set(whole)
    assert (whole["done_reason"], whole["eval_count"]) == ("length", 8)
    assert whole["total_duration"] >= whole["eval_duration"] > 0


@pytest.mark.slow
def test_generate_gives_a_context_but_not_in_raw_mode(model_server: str):
    assert "context" in generate(model_server).json()
    assert "context" not in generate(model_server, raw=True).json()


@pytest.mark.slow
def test_an_answer_stops_before_a_stop_text(model_server: str):
    counted = generate(
        model_server, raw=True, prompt="1, 2, 3,", options=SHORT | {"num_predict": 60, "stop": ["7"]}
    ).json()
    assert counted["done_reason"] == "stop"
    assert "6" in counted["response"]
    assert "7" not in counted["response"]


@pytest.mark.slow
def test_an_answer_keeps_to_a_schema(model_server: str):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    options = SHORT | {"num_predict": 60}
    whole = post(
        model_server,
        "/api/chat",
        {"model": "smollm2", "messages": HI, "stream": False, "format": schema, "options": options},
    ).json()
    assert json.loads(whole["message"]["content"])["city"] in ("Paris", "Rome")


@pytest.mark.slow
def test_format_json_makes_an_object(model_server: str):
    whole = generate(model_server, format="json", options=SHORT | {"num_predict": 1}).json()
    assert whole["response"].startswith("{")


@pytest.mark.slow
def test_a_prompt_longer_than_the_context_loses_its_middle(model_server: str):
    whole = generate(model_server, prompt="word " * 600, options=SHORT | {"num_ctx": 128, "num_predict": 2})
    assert whole.status_code == 200
    assert whole.json()["prompt_eval_count"] < 128


@pytest.mark.slow
def test_vectors_have_length_one_and_as_many_dimensions_as_asked_for(model_server: str):
    def embed(**more: object) -> dict[str, object]:
        return post(
            model_server, "/api/embed", {"model": "smollm2-embed", "input": ["one", "two"]} | more
        ).json()  # type: ignore[no-any-return]

    whole, short = embed(), embed(dimensions=64)
    assert [len(vector) for vector in whole["embeddings"]] == [576, 576]
    assert [len(vector) for vector in short["embeddings"]] == [64, 64]
    for vector in whole["embeddings"] + short["embeddings"]:
        assert sum(number * number for number in vector) == pytest.approx(1)
    assert whole["prompt_eval_count"] > 0
    assert embed(input="one")["embeddings"][0] == pytest.approx(whole["embeddings"][0], abs=1e-3)
    assert embed(input=[])["embeddings"] == []
    older = post(model_server, "/api/embeddings", {"model": "smollm2-embed", "prompt": "one"}).json()
    assert older == {"embedding": pytest.approx(whole["embeddings"][0], abs=1e-3)}
    assert post(model_server, "/api/embeddings", {"model": "smollm2-embed"}).json() == {"embedding": []}


@pytest.mark.slow
def test_a_text_too_long_to_embed_is_cut(model_server: str):
    body = {"model": "smollm2-embed", "input": "word " * 600, "options": {"num_ctx": 128}}
    found = post(model_server, "/api/embed", body)
    assert found.status_code == 200
    assert 120 <= found.json()["prompt_eval_count"] <= 128


@pytest.mark.slow
def test_a_request_without_a_prompt_loads_the_model_and_with_keep_alive_0_unloads_it(model_server: str):
    for path, empty in (("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})):
        body = {"model": "smollm2-b"} | empty
        assert post(model_server, path, body).json()["done_reason"] == "load"
        assert "smollm2-b:latest" in loaded(model_server)
        assert post(model_server, path, body | {"keep_alive": 0}).json()["done_reason"] == "unload"
        assert "smollm2-b:latest" not in loaded(model_server)


@pytest.mark.slow
def test_half_a_character_is_answered_and_not_a_crash(model_server: str):
    found = post(
        model_server, "/api/generate", b'{"model": "smollm2", "prompt": "Hi", "keep_alive": "\\ud800"}'
    )
    assert (found.status_code, found.json()) == (400, {"error": 'time: invalid duration "?"'})
