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
from unittest import mock

_ABSENT = ("is_accelerate_available", "is_scipy_available", "is_torch_distributed_available")
_MARKS = (
    "allow_in_graph",
    "assume_constant_result",
    "disable",
)  # marks for the compiler, made while importing
_lru_cache: Any = functools.lru_cache
_own_process = False


def allow() -> None:
    """Says that this process is this program's own."""
    global _own_process
    _own_process = True


def import_transformers() -> None:
    """Imports what loading needs of transformers, lean where that is allowed and nobody has imported it before."""
    if not _own_process or "transformers.modeling_utils" in sys.modules:
        return
    with mock.patch.object(functools, "lru_cache", _keeping_all):
        from transformers import utils
        from transformers.utils import import_utils
    for name in _ABSENT:
        for module in (utils, import_utils):
            setattr(module, name, lambda *_, **__: False)
    with without_compiler():
        # all that the models' own files import
        from transformers import AutoTokenizer, masking_utils, modeling_layers  # noqa: F401
        from transformers.generation import utils as _  # noqa: F401


def _keeping_all(maxsize: Any = 128, *others: Any, **named: Any) -> Any:
    """`lru_cache`, but a plain one forgets nothing: transformers keeps 128 of its 550 folders, and reads them again."""
    return _lru_cache(None)(maxsize) if callable(maxsize) else _lru_cache(maxsize, *others, **named)


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

    stand_in: Any = ModuleType("torch._dynamo")
    stand_in.__path__ = [str(Path(str(torch.__file__)).with_name("_dynamo"))]
    vars(stand_in).update(dict.fromkeys(_MARKS, _as_it_is))
    sys.modules["torch._dynamo"] = torch._dynamo = stand_in
    try:
        with mock.patch.object(torch.compiler, "disable", _as_it_is):
            yield
    finally:
        del sys.modules["torch._dynamo"], torch._dynamo  # whoever needs the compiler imports the real one
