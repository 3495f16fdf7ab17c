"""What a result must carry so that it can be traced: versions, revision of this project, hashes, settings."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("lighteval", "transformers", "torch", "datasets", "tokenizers")


def versions() -> dict[str, str | None]:
    """Versions of this project, Python and the packages that numbers depend on (None: not installed)."""
    found: dict[str, str | None] = {"project": None, "python": platform.python_version()}
    for name, package in {"project": "smol-evals", **{one: one for one in PACKAGES}}.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_state() -> dict[str, Any]:
    """This project's commit and whether its files differ from it; nulls outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed: a repository around the environment is another's
        return {"commit": None, "dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def joint_hash(digests: Sequence[str]) -> str:
    """One digest over an ordered list of digests: a task's prompts."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
