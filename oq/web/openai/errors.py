"""Our errors as OpenAI's clients expect them."""

from __future__ import annotations

from oq.dropin.openai_errors import openai_error
from oq.errors import InvalidTask, OqError
from oq.web.errors import answer_of
from oq.wire import NotJson


def openai_answer_of(error: OqError) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers. Wrong content is 400 here, as OpenAI has it, not 422."""
    status, _, headers = answer_of(error)
    if isinstance(error, InvalidTask) and not isinstance(error, NotJson):
        status = 400
    param = getattr(error, "field", None)
    return status, openai_error(status, error.message, param=param, code=error.code), headers
