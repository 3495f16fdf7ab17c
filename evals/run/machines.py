"""Where workers run: Ray started on this machine for one run, or a cluster that runs already; what each worker gets.

Ray is imported here only, after its settings stand in the environment: it reads them once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.core.errors import UserError

STORE_BYTES = 128 << 20  # Ray's shared memory: requests on their way; more goes to disk for a moment
CONNECT_SECONDS = 10.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning about a change in some later release
}
# For Ray on this machine alone. The first is what the name does not say: all listens on the loopback address only.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


@dataclass(frozen=True)
class Share:
    """What each of `workers` gets: `threads` of a node's cores, `gpus` (0 or 1), `memory`, a part of the node's."""

    workers: int
    threads: int
    gpus: int
    memory: float


@contextlib.contextmanager
def connected(workers: int | None, address: str | None, device: str | None) -> Iterator[tuple[Any, Share]]:
    """The module ray, ready for actors, and each worker's share of the machines; lets go of them at the end.

    `address`: of a cluster; None starts Ray on this machine. Raises UserError.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    if address is None:
        os.environ.update(ALONE, RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise UserError("--workers and --cluster need Ray: pip install 'smol-evals[ray]'") from error
    with contextlib.ExitStack() as stack:
        if address is None:
            # the paths of Ray's sockets must be short, whatever TMPDIR is
            short = "/tmp" if Path("/tmp").is_dir() else None
            folder = tempfile.TemporaryDirectory(prefix="evals-", dir=short, ignore_cleanup_errors=True)
            start = functools.partial(_start, ray, workers or 1, device, stack.enter_context(folder))
        else:
            start = functools.partial(_connect, ray, address)
        stack.callback(ray.shutdown)
        with _own_signals():
            start()
        yield ray, _share(ray, workers, device)


def _start(ray: Any, workers: int, device: str | None, folder: str) -> None:
    import torch

    gpus = torch.cuda.device_count() if device in (None, "cuda") else 0
    if 0 < gpus < workers:
        raise UserError(
            f"--workers {workers}: this machine has {gpus} GPUs, one a worker; or give --device cpu"
        )
    cores = torch.get_num_threads()  # as many as one process would use: a single worker must have the same
    try:
        ray.init(
            address="local", num_cpus=max(cores, workers), num_gpus=gpus, object_store_memory=STORE_BYTES,
            include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=folder,
        )  # fmt: skip
    except Exception as error:  # Ray raises whatever it likes
        raise UserError(f"Ray cannot start on this machine: {_first_line(error)}") from error


def _connect(ray: Any, address: str) -> None:
    given = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    host, _, port = given.rpartition(":")
    try:
        if host:  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(address=given, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises whatever it likes
        raise UserError(
            f"no Ray cluster can be reached at '{given}' (--cluster): {_first_line(error)}"
        ) from error


def _share(ray: Any, workers: int | None, device: str | None) -> Share:
    """Workers are spread over all nodes that have what they need, as many on each as on the fullest."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = "CPU" if device not in (None, "cuda") or not any(node.get("GPU") for node in nodes) else "GPU"
    if device == "cuda" and kind == "CPU":
        raise UserError("--device cuda: no GPU is there for the workers")
    nodes = [node for node in nodes if node.get(kind) and node.get("CPU")]
    if not nodes:
        raise UserError(f"the cluster has no node with a {kind} for a worker")
    workers = workers or (sum(int(node["GPU"]) for node in nodes) if kind == "GPU" else len(nodes))
    each = -(-workers // len(nodes))
    threads = max(1, int(min(node["CPU"] for node in nodes)) // each)
    room = sum(
        int(min(node["CPU"] // threads, node.get("GPU", each) if kind == "GPU" else each)) for node in nodes
    )
    if workers > room:
        raise UserError(f"--workers {workers}: the cluster has room for {room}")
    return Share(workers, threads, int(kind == "GPU"), 1 / each)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; here it ends a run as Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread: Ray has left it alone too
            signal.signal(signal.SIGTERM, before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
