"""Evaluation of small language models by the protocols of their cards.

The public surface; everything is imported when it is first asked for, so that `import evals` is light:

    import evals
    log = evals.evaluate("SmolLM2-135M-Instruct", data="smoke", tasks=["piqa"])
    log.to_pandas()
"""

from __future__ import annotations

import contextlib
import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.commands.api import evaluate, load_run
    from evals.core.card import Card
    from evals.core.errors import UserError
    from evals.core.metric import Metric
    from evals.core.runlog import RunLog
    from evals.models.known import ModelSpec

__all__ = ["Card", "Metric", "ModelSpec", "RunLog", "UserError", "__version__", "evaluate", "load_run"]

_HOME = {
    "evaluate": "evals.commands.api",
    "load_run": "evals.commands.api",
    "Card": "evals.core.card",
    "Metric": "evals.core.metric",
    "ModelSpec": "evals.models.known",
    "RunLog": "evals.core.runlog",
    "UserError": "evals.core.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version("smol-evals")
        return "(not installed)"
    if name not in _HOME:
        raise AttributeError(f"module 'evals' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
