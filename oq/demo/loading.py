"""Which models are loaded, who uses them, and which one makes room for the next, as Ollama's scheduler does it.

Rule 1: models load one at a time, in the order of asking; only requests that wait for a load are counted against
`Knobs.max_queue`. Rule 2: a model in use is never ended. Where another must load in its place, that waits until it
is idle, and requests for the loaded one go on jumping in. Rule 3: an engine that died is started again by the next
request, once those it died under have left.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf

from oq.demo.caller import POLL_SECONDS, Caller
from oq.demo.knobs import Knobs
from oq.demo.models import CONTEXT_LENGTH, Json, Model
from oq.demo.places import Places
from oq.demo.refusals import BUSY, ApiError, Gone
from oq.demo.runner import Runner

CONTEXT_MIN = 4  # tokens
# A model is loaded anew when one of these (or num_ctx) is another than the one it was loaded with.
_LOAD_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap")
_EXPIRY_MAX = 2.0**35  # Unix seconds, some time in the year 3058: how "for ever" is shown

Key = tuple[object, ...]


class Loaded:
    """A loaded model. All but `runner` and `places` belongs to `LoadedModels` and is read under its lock."""

    def __init__(self, runner: Runner, key: Key, parallel: int) -> None:
        self.runner = runner
        self.places = Places(parallel)
        self.key = key
        self.users = 0
        self.keep_alive = 0.0  # seconds, as the last request wanted
        self.expires_at = inf  # time.monotonic()


class LoadedModels:
    """The models by name, and those of them that are loaded. `close` it."""

    def __init__(self, models: Mapping[str, Model], knobs: Knobs) -> None:
        self.models = models
        self._knobs = knobs
        self._loading = Places(1)
        self._changed = threading.Condition()  # its lock guards all that follows
        self._loaded: dict[str, Loaded] = {}
        self._waiting = 0  # requests that wait for a load, or do it
        self._closed = False
        threading.Thread(target=self._expire, daemon=True).start()

    @contextmanager
    def use(self, name: str, options: Json, keep_alive: float | None, caller: Caller) -> Iterator[Loaded]:
        """Keep the model *name* loaded during the block; load it first if need be. Raises `ApiError`, `Gone`."""
        loaded = self._acquire(
            name, options, self._knobs.keep_alive if keep_alive is None else keep_alive, caller
        )
        try:
            yield loaded
        finally:
            self._release(loaded)

    def unload(self, name: str) -> None:
        """End the model, at once or when its last user has left."""
        with self._changed:
            loaded = self._loaded.get(name)
            if loaded is not None:
                loaded.keep_alive = 0.0
                if not loaded.users:
                    self._drop(loaded)

    def listing(self) -> list[Json]:
        """Return what /api/ps says."""
        with self._changed:
            return [
                loaded.runner.model.card()
                | {
                    "expires_at": _shown_expiry(loaded),
                    "size_vram": 0,
                    "context_length": loaded.runner.context,
                }
                for loaded in self._loaded.values()
            ]

    def close(self) -> None:
        """End all models, in use or not, and load none any more."""
        with self._changed:
            self._closed = True
            for loaded in list(self._loaded.values()):
                self._drop(loaded)

    def _acquire(self, name: str, options: Json, keep_alive: float, caller: Caller) -> Loaded:
        context = max(CONTEXT_MIN, min(options.get("num_ctx", self._knobs.context_length), CONTEXT_LENGTH))
        key = (context, *(options.get(option) for option in _LOAD_OPTIONS))
        with self._changed:
            if loaded := self._usable(name, key):
                return _take(loaded, keep_alive)
            if self._waiting > self._knobs.max_queue:
                raise ApiError(503, BUSY)
            self._waiting += 1
        try:
            with self._loading.taken(caller):
                if loaded := self._make_room(name, key, keep_alive, caller):
                    return loaded
                return self._load(name, key, context, keep_alive, caller)
        finally:
            with self._changed:
                self._waiting -= 1

    def _make_room(self, name: str, key: Key, keep_alive: float, caller: Caller) -> Loaded | None:
        """Return the model if it is there meanwhile; else None, when there is room to load it."""
        with self._changed:
            while True:
                if loaded := self._usable(name, key):
                    return _take(loaded, keep_alive)
                in_the_way = self._in_the_way(name)
                if not in_the_way:
                    return None
                idle = next((loaded for loaded in in_the_way if not loaded.users), None)
                if idle is not None:
                    self._drop(idle)
                    continue
                if caller.gone():
                    raise Gone
                self._changed.wait(POLL_SECONDS)

    def _load(self, name: str, key: Key, context: int, keep_alive: float, caller: Caller) -> Loaded:
        model = self.models[name]
        parallel = 1 if model.embeds else self._knobs.parallel
        loaded = Loaded(Runner(model, context, parallel, caller), key, parallel)
        with self._changed:
            if self._closed:
                loaded.runner.close()
                raise Gone
            self._loaded[name] = loaded
            return _take(loaded, keep_alive)

    def _in_the_way(self, name: str) -> list[Loaded]:
        """Return the models of which one must go before *name* can load; the one to go first is first."""
        if name in self._loaded:
            return [self._loaded[name]]
        if len(self._loaded) < self._knobs.max_loaded:
            return []
        return sorted(self._loaded.values(), key=lambda loaded: loaded.expires_at)

    def _usable(self, name: str, key: Key) -> Loaded | None:
        loaded = self._loaded.get(name)
        if loaded is None or loaded.key != key:
            return None
        if loaded.runner.is_alive():
            return loaded
        if not loaded.users:
            self._drop(loaded)
        return None

    def _release(self, loaded: Loaded) -> None:
        with self._changed:
            loaded.users -= 1
            if not loaded.users:
                loaded.expires_at = time.monotonic() + loaded.keep_alive
                if loaded.keep_alive <= 0 or not loaded.runner.is_alive():
                    self._drop(loaded)
            self._changed.notify_all()

    def _drop(self, loaded: Loaded) -> None:
        name = loaded.runner.model.name
        if self._loaded.get(name) is loaded:
            del self._loaded[name]
        loaded.runner.close()
        self._changed.notify_all()

    def _expire(self) -> None:
        """End what was not used for as long as it was to stay; runs in a thread of its own."""
        with self._changed:
            while not self._closed:
                idle = [loaded for loaded in self._loaded.values() if not loaded.users]
                for loaded in idle:
                    if loaded.expires_at <= time.monotonic():
                        self._drop(loaded)
                soonest = min((loaded.expires_at for loaded in idle), default=inf)
                self._changed.wait(max(0.0, min(soonest - time.monotonic(), threading.TIMEOUT_MAX)))


def _take(loaded: Loaded, keep_alive: float) -> Loaded:
    loaded.users += 1
    loaded.expires_at = inf
    loaded.keep_alive = keep_alive
    return loaded


def _shown_expiry(loaded: Loaded) -> str:
    now = time.time()
    left = loaded.keep_alive if loaded.users else loaded.expires_at - time.monotonic()
    at = datetime.datetime.fromtimestamp(min(now + left, _EXPIRY_MAX), datetime.UTC)
    return at.isoformat()
