"""Small things about devices: moving numbers to one without waiting for it, and telling when its memory ran out."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from evals.run.parallel import processes_here

# what a forward pass and log-probabilities are made of, as far as MKL's vector functions compute it
_VECTOR_MATH = ("cos", "sin", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "erf", "sigmoid")
_CONTAINER = Path("/sys/fs/cgroup")
_NUMPY = {torch.long: np.int64, torch.int32: np.int32, torch.float32: np.float32, torch.float64: np.float64}


def on_device(values: Any, device: torch.device, dtype: torch.dtype = torch.long) -> torch.Tensor:
    """A tensor of ``values`` on ``device``.

    Through pinned memory to a GPU: an ordinary copy waits until all that the GPU has to do is done.
    """
    if isinstance(values, list):
        values = np.array(values, dtype=_NUMPY[dtype])  # several times faster than torch does it
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def settle_vector_math() -> None:
    """Call each of MKL's vector functions once from one thread, before several threads do.

    A function's first call chooses its implementation; when several threads make that call at once, one of them may
    compute its part with a far less exact one, without a word (pytorch/pytorch#188792).
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for name in _VECTOR_MATH:
            getattr(torch, name)(one)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take of a GPU's memory, or of the host's: what it and its like leave free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # a container's limit, where there is one
        limit = int((_CONTAINER / "memory.max").read_text())
        used = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        free = min(free, limit - int(used.get("anon", 0)))
    return max(0, free) // processes_here()


class Arriving:
    """A tensor's numbers on their way to the host, asked for once the device has come so far."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor.clone()

    def tolist(self) -> list[Any]:
        """The numbers; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()


def kernels_for(q: torch.Tensor) -> bool:
    """Whether the Triton kernels (kernels.py) take heads like those of ``q`` [..., size], where it is."""
    size = q.shape[-1]
    return q.device.type == "cuda" and size >= 16 and size & (size - 1) == 0 and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; PyTorch for CUDA brings it on Linux."""
    return importlib.util.find_spec("triton") is not None


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator failed, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "DefaultCPUAllocator" in text or "allocate memory" in text or "out of memory" in text
