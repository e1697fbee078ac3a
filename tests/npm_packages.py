"""The npm packages that check the monitor: installed in tests/frontend on first use, and never shipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent / "frontend"
FRONTEND = HERE.parents[1] / "frontend"


def installed() -> Path:
    """Return node_modules/, filled as package.json says."""
    folder, pins = HERE / "node_modules", HERE / "package.json"
    mark = folder / ".installed"
    if not mark.exists() or mark.read_text() != pins.read_text():
        npm = shutil.which("npm")
        assert npm is not None, "no npm: apt-get install nodejs npm (Node 20 or newer)"
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=HERE,
            check=True,
            timeout=300,
        )
        mark.write_text(pins.read_text())
    return folder
