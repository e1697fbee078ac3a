"""Ollama's API on the port of oq: what computes is queued (`tasks`), the rest is answered by the hosts (`hosts`)."""
