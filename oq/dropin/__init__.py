"""Other APIs' requests as tasks, and results as those APIs answer. Pure: JSON in, values out; no I/O here.

- `terms`: what a call says of itself in headers and fields: priority, client, idempotency.
- `native`: Ollama's own API.
- `openai_chat`, `openai_completions`, `openai_embeddings`: OpenAI's; `openai_fields` are the checks they share, and
  `openai_errors` its errors.
- `batches`: the lines and the life of an OpenAI batch.
"""
