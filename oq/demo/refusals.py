"""How a request ends early: refused, with a status and a text of Ollama's, or left alone by its client."""

from __future__ import annotations

# Texts of Ollama 0.32.15, which clients (oq too) tell apart by their words.
RUNNER_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
UNEXPECTED_EOF = "an error was encountered while running the model: unexpected EOF"
BUSY = "server busy, please try again.  maximum pending requests exceeded"
LOAD_TIMED_OUT = "timed out waiting for llama-server to start"
PROMPT_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust "
    "the context length in settings, or use a model with a longer context length"
)


class ApiError(Exception):
    """The request is refused, or failed: HTTP *status* and Ollama's *message*."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Gone(Exception):
    """The client closed its connection: there is nobody to answer."""
