"""All settings. Each is one field: its type, default, bounds, old environment name and one sentence on what it does.

Parsing, error messages, ``OQ_<SECTION>__<KEY>`` variables and docs/reference/settings.md follow from that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from oq.config.values import (
    parse_duration,
    parse_host_url,
    parse_level,
    parse_names,
    parse_number,
    parse_optional_text,
    parse_size,
    parse_switch,
    parse_text,
    parse_whole,
    show_duration,
    show_size,
    without_password,
)


def _as_text(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a setting is read and shown, and what its docs and errors call it."""

    parse: Any
    words: str
    show: Callable[[Any], str] = _as_text


DURATION = Kind(parse_duration, 'a duration such as "30s" or "5m"', show_duration)
SIZE = Kind(parse_size, 'a size such as "64MiB"', show_size)
WHOLE = Kind(parse_whole, "a whole number")
NUMBER = Kind(parse_number, "a number")
SWITCH = Kind(parse_switch, "true or false", lambda value: str(value).lower())
TEXT = Kind(parse_text, "text")
OPTIONAL = Kind(parse_optional_text, "text, or nothing")
NAMES = Kind(parse_names, "a list of names")
LEVEL = Kind(parse_level, "low, normal, high, critical, or 0 to 1000")
HOST_URL = Kind(parse_host_url, "an address such as http://localhost:11434")


def _one_of(*words: str) -> Kind:
    def parse(value: object) -> str:
        if str(value).lower() not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return str(value).lower()

    return Kind(parse, "one of " + ", ".join(words))


def _setting(
    default: Any,
    kind: Kind,
    doc: str,
    *,
    env: str | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    meta = {"kind": kind, "doc": doc, "env": env, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=meta)


@dataclasses.dataclass(frozen=True, slots=True)
class OllamaSettings:
    host: str = _setting(
        "http://localhost:11434",
        HOST_URL,
        "The model server; with `user:password@` before the name where a proxy in front of it wants a login.",
        env="OLLAMA_HOST",
    )
    timeout: float = _setting(
        300.0,
        DURATION,
        "Bound on one attempt as a whole; 0 for none. A task can set its own.",
        env="OLLAMA_TIMEOUT",
    )
    idle_timeout: float = _setting(
        120.0, DURATION, "Longest silence of the model server before and within an answer; 0 for no bound."
    )
    connect_timeout: float = _setting(5.0, DURATION, "Bound on connecting to the model server.", low=0.001)


@dataclasses.dataclass(frozen=True, slots=True)
class HostSettings:
    """One model server of several; `slots` are the tasks it runs at a time."""

    name: str
    url: str
    slots: int = 4
    max_loaded_models: int = 0

    @property
    def shown(self) -> str:
        """The address as it may be shown: without the password."""
        return without_password(self.url) if "@" in self.url else self.url


@dataclasses.dataclass(frozen=True, slots=True)
class QueueSettings:
    max_workers: int = _setting(
        4,
        WHOLE,
        "Tasks that run at a time: the slots of the model server.",
        env="QUEUE_MAX_WORKERS",
        low=1,
        high=1024,
    )
    storage_path: str = _setting(
        "~/.ollama-queue/data", TEXT, "The data folder; made with mode 0700.", env="QUEUE_STORAGE_PATH"
    )
    storage: str | None = _setting(
        None, OPTIONAL, "A storage URI (zeo://…, postgresql://…) in place of a file in the data folder."
    )
    storage_lease: float = _setting(
        15.0,
        DURATION,
        "How long the owner of a storage URI may be silent before another oq may take it over.",
        low=1.0,
        high=3600.0,
    )
    cleanup_interval: float = _setting(
        3600.0,
        DURATION,
        "How often finished tasks are cleaned up by age.",
        env="QUEUE_CLEANUP_INTERVAL",
        low=0.1,
    )
    max_completed_tasks: int = _setting(
        10_000, WHOLE, "Finished tasks (completed, failed, cancelled) to keep; 0 for all.",
        env="QUEUE_MAX_COMPLETED_TASKS", low=0,
    )  # fmt: skip
    max_completed_age: float = _setting(
        0.0, DURATION, "Finished tasks older than this are forgotten; 0 for never."
    )
    max_pending: int = _setting(
        1_000_000, WHOLE, "Unfinished tasks at most; more are refused with 429 queue_full.", low=1
    )
    max_result_bytes: int = _setting(
        64 * 2**20, SIZE, "Largest answer of a model server that is kept.", low=1024
    )
    max_answer_memory: int = _setting(
        256 * 2**20,
        SIZE,
        "Results of 1 MiB and more in memory at a time that readers have not taken yet, all together; more is 503. One "
        "is always sent, however large.",
        low=0,
    )
    pack_interval: float = _setting(
        600.0, DURATION, "How often the data file is looked at, and packed if it has grown; 0 for never."
    )
    search_memory: int = _setting(
        64 * 2**20,
        SIZE,
        "Text of tasks kept in memory once somebody watches or searches; older tasks are searched on disk.",
        low=0,
    )
    search_time: float = _setting(
        2.0, DURATION, "How long a search may take before it answers with what it has found.", low=0.001
    )
    request_timeout: float = _setting(
        10.0, DURATION, "How long a request waits for its turn before 503 queue_busy.", low=0.001
    )


@dataclasses.dataclass(frozen=True, slots=True)
class SchedulerSettings:
    batch_size: int = _setting(
        10, WHOLE, "Accepted and without effect: dispatch is by event.", env="SCHEDULER_BATCH_SIZE"
    )
    scheduling_interval: float = _setting(
        1.0, DURATION, "Accepted and without effect: dispatch is by event.", env="SCHEDULER_INTERVAL"
    )
    affinity_limit: int = _setting(
        16, WHOLE, "How often a task may be overtaken by equals whose model is loaded; 0 for never.", low=0
    )
    affinity_wait: float = _setting(10.0, DURATION, "How long a task may be overtaken that way.")
    starvation_after: float = _setting(
        600.0, DURATION, "Waiting longer than this, the oldest task gets a share of the starts; 0 for never."
    )
    starvation_share: int = _setting(10, WHOLE, "That share: one start in this many.", low=0)
    embed_batch: int = _setting(
        32, WHOLE, "Most small embed tasks that are sent as one call; 1: each alone.", low=1, high=1024
    )
    embed_batch_bytes: int = _setting(64 * 1024, SIZE, "Most bytes of their payloads in one call.", low=1024)
    embed_wait: float = _setting(
        0.0,
        DURATION,
        "How long a call that has room waits for more of them while nothing else waits; 0: not.",
    )
    embed_cache_bytes: int = _setting(
        0,
        SIZE,
        "Memory for answers of embed tasks, given again to the same request while the model is the same; 0: none.",
        low=0,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class RetrySettings:
    max_retries: int = _setting(
        3,
        WHOLE,
        "Retries of a task that does not say; 0 for none.",
        env="RETRY_MAX_RETRIES",
        low=0,
        high=1000,
    )
    initial_delay: float = _setting(1.0, DURATION, "Pause before the first retry.", env="RETRY_INITIAL_DELAY")
    max_delay: float = _setting(60.0, DURATION, "No pause is longer.", env="RETRY_MAX_DELAY")
    backoff_factor: float = _setting(
        2.0,
        NUMBER,
        "Each pause is this many times the one before.",
        env="RETRY_BACKOFF_FACTOR",
        low=1,
        high=100,
    )
    jitter: float = _setting(0.1, NUMBER, "Pauses vary by up to this fraction, up or down.", low=0, high=1)


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSettings:
    host: str = _setting("127.0.0.1", TEXT, "Address to listen on.")
    port: int = _setting(7125, WHOLE, "Port to listen on; 0 for any free one.", low=0, high=65535)
    shutdown_grace: float = _setting(
        10.0, DURATION, "How long running tasks may go on when the server stops."
    )
    max_body_bytes: int = _setting(64 * 2**20, SIZE, "Largest request body; more is 413.", low=1024)
    max_batch: int = _setting(100_000, WHOLE, "Most tasks in one batch; more is 413.", low=1)
    max_subscribers: int = _setting(
        1000, WHOLE, "Most event and WebSocket subscribers at a time; more are refused with 429.", low=1
    )
    max_connections: int = _setting(
        16_384,
        WHOLE,
        "Most connections at a time, and no more than the limit of open files allows; then the longest idle one is "
        "closed for a new one, and if none is idle the new one is refused with 429.",
        low=8,
    )
    header_timeout: float = _setting(
        30.0, DURATION, "How long the head of a request may take to arrive; more is 408.", low=0.05
    )
    body_timeout: float = _setting(
        120.0, DURATION, "How long the body of a request may take to arrive; more is 408.", low=0.05
    )
    keep_alive_timeout: float = _setting(
        75.0,  # longer than the 60 s that clients and proxies keep an idle connection
        DURATION,
        "How long a connection may be idle between two requests; it is closed after that, or up to twice as long.",
        low=0.05,
    )
    max_body_memory: int = _setting(
        256 * 2**20,
        SIZE,
        "Bodies in memory at a time, all together, where they come in more than one piece; more is 503. At least "
        "server.max_body_bytes.",
        low=0,
    )
    rate_limit: float = _setting(
        0.0,
        NUMBER,
        "Requests a second from one address (of IPv6: one /64 network), or with one token; more is 429 after a second's worth. 0: no bound.",
        low=0,
    )
    send_timeout: float = _setting(
        10.0, DURATION, "A client that takes no byte for this long is disconnected.", low=0.1
    )
    event_history: int = _setting(
        10_000,
        WHOLE,
        "Recent events kept in memory, for subscribers that resume or are slow.",
        low=1,
        high=1_000_000,
    )
    token: str | None = _setting(
        None, OPTIONAL, "A token for everything, beside those of `oq token`; with neither, none is asked for."
    )
    auth_failures: int = _setting(
        10,
        WHOLE,
        "Wrong tokens from one address in a minute before it is refused with 429; 0 for no bound.",
        low=0,
    )
    insecure: bool = _setting(False, SWITCH, "Allow an address other machines can reach without a token.")
    tls_cert: str | None = _setting(
        None, OPTIONAL, "Certificate chain (PEM): serve https in place of http. With server.tls_key."
    )
    tls_key: str | None = _setting(None, OPTIONAL, "Its private key (PEM, without a password).")
    allowed_hosts: tuple[str, ...] = _setting(
        (), NAMES, "Further Host names to answer to, besides the local ones."
    )
    allowed_origins: tuple[str, ...] = _setting(
        (), NAMES, "Web origins, besides the server's own, that may call."
    )
    access_log: bool = _setting(False, SWITCH, "One log line per request; costs 35 to 330 µs each.")


@dataclasses.dataclass(frozen=True, slots=True)
class DropinSettings:
    priority: int = _setting(
        10, LEVEL, "Priority of a call through the Ollama or OpenAI API that names none."
    )
    on_disconnect: str = _setting(
        "cancel",
        _one_of("cancel", "keep"),
        "What becomes of the task when the client of such a call goes away.",
    )
    heartbeat_after: float = _setting(
        25.0, DURATION,
        "How long a streaming call waits in silence; then its answer begins, with an empty piece now and then; "
        "0 for never.",
    )  # fmt: skip
    batch_priority: int = _setting(1, LEVEL, "Priority of the lines of an OpenAI batch.")
    batch_window: int = _setting(
        500, WHOLE, "Lines of one OpenAI batch that are in the queue at a time.", low=1, high=100_000
    )
    max_batch_lines: int = _setting(50_000, WHOLE, "Most lines of an OpenAI batch.", low=1)
    max_batches: int = _setting(
        100, WHOLE, "OpenAI batches that are not finished; more are refused with 429.", low=1
    )
    max_file_bytes: int = _setting(
        200 * 2**20, SIZE, "Largest file for OpenAI batches; more is 413.", low=1024
    )
    max_files: int = _setting(
        1000, WHOLE, "Files kept for OpenAI batches; more are refused with 429 until some are deleted.", low=1
    )


@dataclasses.dataclass(frozen=True, slots=True)
class ClientSettings:
    """A client of the Ollama and OpenAI APIs, known by its token or by the name it gives.

    Attributes:
        token: a bearer token of its own; None: it is known by its name alone.
        priority: of its calls that name none; None: `dropin.priority`.
        batch_priority: of its batches' lines; None: `dropin.batch_priority`.
        max_unfinished: its tasks that are not finished; more are refused with 429. 0: no limit.
        timeout: seconds for one attempt of its tasks; None: `ollama.timeout`.
    """

    name: str
    token: str | None = None
    priority: int | None = None
    batch_priority: int | None = None
    max_unfinished: int = 0
    timeout: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LoggingSettings:
    level: str = _setting(
        "info", _one_of("debug", "info", "warning", "warn", "error", "critical"), "Least severe level that is logged.",
        env="LOG_LEVEL",
    )  # fmt: skip
    file: str | None = _setting(None, OPTIONAL, "Log file; it rotates. None: stderr.", env="LOG_FILE")
    format: str = _setting("text", _one_of("text", "json"), "Form of a log line.")
    max_bytes: int = _setting(10 * 2**20, SIZE, "Size at which the log file rotates; 0 for never.")
    backups: int = _setting(5, WHOLE, "Rotated log files to keep.", low=0, high=1000)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set.

    `hosts` are the model servers; one made from `ollama` unless a file lists them. `clients` are those that a file
    lists.
    """

    ollama: OllamaSettings = OllamaSettings()
    queue: QueueSettings = QueueSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    retry_config: RetrySettings = RetrySettings()
    server: ServerSettings = ServerSettings()
    dropin: DropinSettings = DropinSettings()
    logging: LoggingSettings = LoggingSettings()
    hosts: tuple[HostSettings, ...] = ()
    clients: tuple[ClientSettings, ...] = ()


SECTIONS: dict[str, Any] = {
    "ollama": OllamaSettings, "queue": QueueSettings, "scheduler": SchedulerSettings, "retry_config": RetrySettings,
    "server": ServerSettings, "dropin": DropinSettings, "logging": LoggingSettings,
}  # fmt: skip
FIELDS: dict[str, dataclasses.Field[Any]] = {
    f"{section}.{field.name}": field for section, cls in SECTIONS.items() for field in dataclasses.fields(cls)
}
