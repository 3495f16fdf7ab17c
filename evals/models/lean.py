"""Imports transformers without what this program never uses: seconds of every start.

To load a causal language model, transformers imports the compiler (torch._dynamo), distributed tensors and checkpoints,
accelerate (and boto3 with it), and scipy.optimize for the losses of object detectors; and it reads its 1,650 model
files twice for the names in them. Here it is told that these are absent. That stays so for the whole process, so only
a process of this program's own does it, never `evals.evaluate` in somebody's notebook.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ABSENT = ("is_accelerate_available", "is_scipy_available", "is_torch_distributed_available")
_MARKS = (
    "allow_in_graph",
    "assume_constant_result",
    "disable",
)  # what is marked for the compiler while importing

_own_process = False


def allow() -> None:
    """Says that this process is this program's own."""
    global _own_process
    _own_process = True


def import_transformers() -> None:
    """Imports what loading needs of transformers, lean where that is allowed and nobody has imported it before."""
    if not _own_process or "transformers.modeling_utils" in sys.modules:
        return
    with _large_caches():
        from transformers import utils
        from transformers.utils import import_utils
    for name in ABSENT:
        for module in (utils, import_utils):
            setattr(module, name, _no)
    with without_compiler():
        # all that the models' own files import
        from transformers import AutoTokenizer, masking_utils, modeling_layers  # noqa: F401
        from transformers.generation import utils as _  # noqa: F401


def _no(*_: Any, **__: Any) -> bool:
    return False


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with or without arguments, that changes nothing."""
    return function if function is not None else _as_it_is


@contextmanager
def without_compiler() -> Iterator[None]:
    """Inside, where allowed, torch._dynamo is a package whose modules can be imported, but which does nothing itself.

    What is marked for it inside stays unmarked: nothing of this program is compiled. Making a model on the device
    "meta" would import the real one, too.
    """
    if not _own_process or "torch._dynamo" in sys.modules:
        yield
        return
    import torch

    compiler: Any = torch.compiler
    stand_in: Any = ModuleType("torch._dynamo")
    stand_in.__path__ = [str(Path(str(torch.__file__)).with_name("_dynamo"))]
    for name in _MARKS:
        setattr(stand_in, name, _as_it_is)
    disable = compiler.disable
    sys.modules["torch._dynamo"], compiler.disable = stand_in, _as_it_is
    torch._dynamo = stand_in
    try:
        yield
    finally:
        compiler.disable = disable
        del sys.modules["torch._dynamo"], torch._dynamo  # whoever needs the compiler imports the real one


@contextmanager
def _large_caches() -> Iterator[None]:
    """Inside, a plain `lru_cache` keeps everything.

    Transformers reads its model files for the names in them, keeps 128 of 550 folders, and reads all of them again.
    """
    small = functools.lru_cache

    def cache(maxsize: Any = 128, *others: Any, **named: Any) -> Any:
        return small(None)(maxsize) if callable(maxsize) else small(maxsize, *others, **named)

    functools.lru_cache = cache  # type: ignore[assignment]
    try:
        yield
    finally:
        functools.lru_cache = small
