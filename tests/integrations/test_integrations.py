"""Programs that know Ollama, unchanged in front of oq and the small real model: one call each at least.

They are large, so they have an extra and a tox environment of their own: ``tox -e integrations``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oq.client import Client
from tests.cli.live import Served, environment

MODEL = "smollm2:latest"
SHORT = {"num_predict": 8, "temperature": 0}


@pytest.fixture(scope="module")
def served(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served") / "data", "--ollama-host", model_server)
    yield served
    served.stop()


@pytest.fixture
def tasks(served: Served) -> Iterator[Client]:
    """A client of oq; after the test there must be a completed task of an Ollama call that was not there before."""
    with Client(served.url) as client:
        before = client.page(status="completed", tag="via:ollama").total
        yield client
        assert client.page(status="completed", tag="via:ollama").total > before


def test_llm(served: Served, tasks: Client, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "llm", "-m", f"ollama/{MODEL}", "-o", "num_predict", "8", "Say hello"],
        env=environment(OLLAMA_HOST=served.url, LLM_USER_PATH=str(tmp_path)), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (found.returncode, found.stdout.strip() != "") == (0, True), found.stderr


def test_litellm(served: Served, tasks: Client) -> None:
    import litellm

    said = [{"role": "user", "content": "Say hello"}]
    whole = litellm.completion(f"ollama_chat/{MODEL}", said, api_base=served.url, max_tokens=8)
    assert whole.choices[0].message.content
    pieces = litellm.completion(f"ollama_chat/{MODEL}", said, api_base=served.url, max_tokens=8, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces)
    vectors = litellm.embedding("ollama/smollm2-embed", ["a", "b"], api_base=served.url)
    assert len(vectors.data) == 2


def test_langchain(served: Served, tasks: Client) -> None:
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    chat = ChatOllama(model=MODEL, base_url=served.url, **SHORT)
    assert chat.invoke("Say hello").content
    assert "".join(str(piece.content) for piece in chat.stream("Say hello"))
    assert len(OllamaEmbeddings(model="smollm2-embed", base_url=served.url).embed_documents(["a", "b"])) == 2


def test_llama_index(served: Served, tasks: Client) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.ollama import Ollama

    llm = Ollama(
        model=MODEL, base_url=served.url, request_timeout=120, additional_kwargs=SHORT, context_window=2048
    )
    assert llm.complete("Say hello").text
    assert [piece.delta for piece in llm.stream_chat([ChatMessage(role="user", content="Say hello")])]


def test_each_call_names_its_model(served: Served) -> None:
    with Client(served.url) as client:
        names = {task.model for task in client.list(tag="via:ollama")}
    assert names <= {MODEL, "smollm2-embed"}, json.dumps(sorted(names))
