"""A small real language model behind Ollama's protocol, for the demo and for tests; `python -m oq.demo` runs it alone.

It speaks the protocol as Ollama 0.32.15 does (docs/decisions/demo-model.md says how that was checked): chat,
generate, embed, tags, ps, show, version; streaming, errors, loading, keep_alive, eviction, parallel requests, a bounded queue. It has no
tools, no thinking, no images, no templates of the request's own. Each loaded model is one process, as in Ollama, so
that kills, swaps and cancellation are real. The models: `smollm2` and `smollm2-b` (the same weights) write,
`smollm2-embed` makes vectors of 576 dimensions.

Importing this raises ImportError where the extra ``demo`` is not installed.
"""

from __future__ import annotations

import xllamacpp as _engine  # noqa: F401 - loads the native library: what is wrong with it shows here

from oq.demo.process import RunningServer, start_model_server

__all__ = ["RunningServer", "start_model_server"]
