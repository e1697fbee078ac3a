"""The journal on ZODB: the only place that knows how tasks lie on disk.

- `records`: the persistent classes. Their import paths are part of the disk format.
- `journal`: the one writer. `reader`: consistent snapshots for everybody else.
- `storages`: opens a file or a zodburi, and refuses what looks damaged.
- `lock`: one process a data folder. `migrations`: numbered changes of the layout.
"""

from oq.store.journal import ZodbJournal, open_journal

__all__ = ["ZodbJournal", "open_journal"]
