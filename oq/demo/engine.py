"""The process that runs one loaded model: llama.cpp's own server, with continuous batching.

``python -m oq.demo.engine WEIGHTS CONTEXT PARALLEL EMBEDS THREADS`` (EMBEDS is 0 or 1) prints its URL when the
model is loaded, and lives until its standard input ends. So it cannot outlive the process that started it,
whatever killed that one. While it loads it cannot look: then it ends when the model is loaded.
"""

from __future__ import annotations

import os
import signal
import sys

import xllamacpp

EMBED_BATCH = 512  # tokens of one input; llama.cpp embeds an input in one go


def main(arguments: list[str]) -> None:
    weights, context, parallel, embeds, threads = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the server, which ends this
    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.n_ctx = int(context) * int(parallel)  # llama.cpp shares it out
    params.n_parallel = int(parallel)
    params.verbosity = 1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.fit_params = False
    params.n_gpu_layers = 0
    params.ctx_shift = True
    params.cpuparams.n_threads = int(threads)
    if embeds == "1":
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_batch = params.n_ubatch = EMBED_BATCH
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads what llama.cpp may say later
    sys.stdin.read()
    os._exit(0)  # llama.cpp's threads may be at work: nothing of theirs is worth waiting for


if __name__ == "__main__":
    main(sys.argv[1:])
