"""What a result must carry so that it can be traced: versions, revision of this project, hashes, settings."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from evals import __version__

PACKAGES = ("lighteval", "transformers", "torch", "datasets", "tokenizers")


def versions() -> dict[str, str | None]:
    """Versions of this project, Python and the packages that numbers depend on (None: not installed)."""
    found: dict[str, str | None] = {"project": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, Any]:
    """This project's commit and whether its files differ from it; nulls outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def text_hash(text: str | None) -> str | None:
    """sha256 of a text, such as a chat template."""
    return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def joint_hash(digests: Sequence[str]) -> str:
    """One digest over an ordered list of digests: a task's prompts."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def device_name(device: Any) -> str:
    """A device as a person would name it: "cpu", "cuda (NVIDIA H100 80GB HBM3)"."""
    if device.type == "cuda":
        import torch

        return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device.type)


def peak_memory(device: Any) -> dict[str, int | None]:
    """The most memory this process has held so far, in bytes: of the host, and of the GPU as PyTorch counts it."""
    import torch

    host: int | None = None
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "host": host,
        "device": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }
