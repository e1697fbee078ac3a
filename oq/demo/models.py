"""The models that the server has: the same weights under three names, each for one purpose."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

Json = dict[str, Any]

FAMILY = "llama"
PARAMETERS = "134.52M"
QUANTIZATION = "Q4_1"
CONTEXT_LENGTH = 8192  # tokens it was trained for
MODIFIED_AT = "2025-02-07T07:02:00Z"  # when the weights were published

# smollm2-b is there to see one model make room for another.
NAMES = {"smollm2": False, "smollm2-b": False, "smollm2-embed": True}


class Model(msgspec.Struct, frozen=True):
    """One name. *embeds*: it makes vectors and no text; *size* in bytes."""

    name: str
    weights: Path
    size: int
    embeds: bool

    @property
    def capability(self) -> str:
        return "embedding" if self.embeds else "completion"

    def details(self) -> Json:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": FAMILY,
            "families": [FAMILY],
            "parameter_size": PARAMETERS,
            "quantization_level": QUANTIZATION,
        }

    def card(self) -> Json:
        """Return what /api/tags and /api/ps both say of it."""
        full = f"{self.name}:latest"
        return {
            "name": full,
            "model": full,
            "size": self.size,
            "digest": hashlib.sha256(self.name.encode()).hexdigest(),
            "details": self.details(),
        }

    def tag(self) -> Json:
        return self.card() | {"modified_at": MODIFIED_AT, "capabilities": [self.capability]}

    def description(self) -> Json:
        """Return the answer of /api/show."""
        return {
            "details": self.details(),
            "model_info": {"general.architecture": FAMILY, f"{FAMILY}.context_length": CONTEXT_LENGTH},
            "capabilities": [self.capability],
            "modified_at": MODIFIED_AT,
        }


def models_of(weights: Path) -> dict[str, Model]:
    """Return the models by name; *weights* is the GGUF file."""
    size = weights.stat().st_size
    return {name: Model(name, weights, size, embeds) for name, embeds in NAMES.items()}
