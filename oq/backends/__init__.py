"""Model servers. Each file that implements `oq.ports.Backend` is one kind; `ollama` is the first."""

from __future__ import annotations

from oq.backends.ollama import OllamaBackend

__all__ = ["OllamaBackend"]
