"""The actors: one file each, none imports another; `oq.engine` wires them.

::

             requests          inbox             steps
    Queue ──────────▶ intake ───────▶ scheduler ───────▶ writer ── group commit ──▶ journal (ZODB)
                                      ▲   ▲   │             │
                             Finished │   │   │ Run,        │ after the commit, in order:
                                      │ Tick  │ Interrupt   ├─ Respond ──────▶ the caller (the durable ack)
                              workers─┘   │   │ (at once)   ├─ WakeAt ───────▶ timer
                               ▲  │     timer │             └─ Announce ─────▶ bus
                               │  └── Chunk ──┼──────────────────────────────▶ bus ──▶ event log, transcripts
                               └──────────────┘

Each is one async function that owns one thing and reads one channel. A crash of one takes the queue down; a
start recovers. They end one after the other: the intake when its channel is closed, with a `Stop` for the
scheduler; the others when theirs ends.
"""
