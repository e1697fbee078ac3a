"""Settings: what there is (`settings`), how values are written (`values`), where they come from (`loading`)."""

from oq.config.loading import Loaded, load_settings, nearest, refuse_itself, rows, settings_from
from oq.config.settings import (
    FIELDS,
    SECTIONS,
    ClientSettings,
    DropinSettings,
    HostSettings,
    LoggingSettings,
    OllamaSettings,
    QueueSettings,
    RetrySettings,
    SchedulerSettings,
    ServerSettings,
    Settings,
)
from oq.config.values import parse_duration, parse_host_url, parse_size, without_password

__all__ = [
    "FIELDS",
    "SECTIONS",
    "ClientSettings",
    "DropinSettings",
    "HostSettings",
    "Loaded",
    "LoggingSettings",
    "OllamaSettings",
    "QueueSettings",
    "RetrySettings",
    "SchedulerSettings",
    "ServerSettings",
    "Settings",
    "load_settings",
    "nearest",
    "parse_duration",
    "parse_host_url",
    "parse_size",
    "refuse_itself",
    "rows",
    "settings_from",
    "without_password",
]
