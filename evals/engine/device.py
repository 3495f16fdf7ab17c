"""Small things about devices: copies that do not wait, free memory, and whether an error means that none was left."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

# the functions of a forward pass and of log-probabilities that MKL computes
_VECTOR_MATH = ("cos", "sin", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "erf", "sigmoid")
_CONTAINER = Path("/sys/fs/cgroup")
_NUMPY = {torch.long: np.int64, torch.int32: np.int32, torch.float32: np.float32, torch.float64: np.float64}


def on_device(values: Any, device: torch.device, dtype: torch.dtype = torch.long) -> Tensor:
    """A tensor of ``values`` on ``device``.

    Through pinned memory to a GPU: an ordinary copy waits until the GPU has done all that it was given.
    """
    if isinstance(values, list):
        values = np.array(values, dtype=_NUMPY[dtype])  # several times faster than torch does it
    tensor = torch.as_tensor(values).to(dtype)
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
    """Bytes of a GPU's memory, or of the host's, that nobody has taken yet."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # a container's limit, where there is one
        limit = int((_CONTAINER / "memory.max").read_text())
        used = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        free = min(free, limit - int(used.get("anon", 0)))
    return max(0, free)


class HostCopy:
    """A tensor's numbers on their way to the host; asked for later, so that the device is not waited for now."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor.clone()

    def numpy(self) -> np.ndarray:
        """The numbers; waits until they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


def kernels_for(q: Tensor) -> bool:
    """Whether the Triton kernels (kernels.py) take heads like those of ``q`` [..., size], where it is."""
    size = q.shape[-1]
    return size >= 16 and size & (size - 1) == 0 and use_kernels(q.device)


@functools.cache
def use_kernels(device: torch.device) -> bool:
    """Whether layers on Triton's kernels are worth a try; PyTorch for CUDA brings Triton on Linux."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator failed, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "DefaultCPUAllocator" in text or "allocate memory" in text or "out of memory" in text


def device_name(device: Any) -> str:
    """A device as a person would name it: "cpu", "cuda (NVIDIA H100 80GB HBM3)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device.type)


def peak_memory(device: Any) -> dict[str, int | None]:
    """The most memory this process has held so far, in bytes: of the host, and of the GPU as PyTorch counts it."""
    host: int | None = None
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "host": host,
        "device": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }
