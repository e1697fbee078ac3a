"""OpenAI's API on the port of oq, mapped onto the model server's own: `tasks`, `models`, `files`, `batches`."""
