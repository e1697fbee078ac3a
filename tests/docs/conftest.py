from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_ollama import unused_port

from tests.docs.session import Reader


@pytest.fixture
def reader(tmp_path: Path, model_server: str) -> Iterator[Reader]:
    """Someone who does what a page says, with the real model."""
    reader = Reader(tmp_path, model_server, unused_port())
    yield reader
    reader.close()
