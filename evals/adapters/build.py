"""Adapters for a model spec: weights loaded once, or a server asked, one adapter for each suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evals.core.errors import UserError
from evals.models.known import ModelSpec
from evals.run.progress import Progress
from evals.run.provenance import device_name, peak_memory, text_hash

if TYPE_CHECKING:
    from evals.adapters.endpoints import ServerOptions


@dataclass(frozen=True)
class LocalOptions:
    """How this machine computes. `device`, `dtype`: None is the best there is; `engine`: "shared" or "plain"."""

    device: str | None = None
    dtype: str | None = None
    engine: str = "shared"


@dataclass(frozen=True)
class Built:
    """`describe(adapter)`: what run.json says of the model ("model") and of the machine ("machine").

    `on_cpu`: whether this machine's processor does the computing.
    """

    adapters: list[Any]
    spec: ModelSpec
    describe: Callable[[Any], dict[str, Any]]
    on_cpu: bool = False


def build(
    spec: ModelSpec,
    chats: Sequence[bool],
    local: LocalOptions | None = None,
    server: ServerOptions | None = None,
    offline: bool = False,
) -> Built:
    """One adapter for each of `chats` on the same weights, or the same server. Raises UserError.

    A model behind a server needs `server`; `offline`: nothing is fetched.
    """
    if spec.source != "endpoint":
        return _local(spec, chats, local or LocalOptions(), offline)
    from evals.adapters.endpoints import endpoint_adapters

    if server is None:
        raise UserError(f"'{spec.name}' is behind a server: say where it is")
    adapters, describe = endpoint_adapters(server, spec, chats, offline, Progress().note)
    return Built(list(adapters), spec, describe)


def _local(spec: ModelSpec, chats: Sequence[bool], options: LocalOptions, offline: bool) -> Built:
    import torch

    from evals.adapters.local import PrefixModel
    from evals.models import loading
    from evals.run import parallel

    device = loading.pick_device(parallel.own_device(options.device))
    if device.type == "cpu":
        parallel.share_cores()
    path = loading.local_path(spec, offline)
    if spec.source == "hub":
        spec = replace(spec, revision=path.name)
    loaded = loading.load(path, device, loading.pick_dtype(options.dtype, device))
    adapters = [PrefixModel(loaded, chat, spec.name, options.engine) for chat in chats]

    def describe(adapter: Any) -> dict[str, Any]:
        return {
            "model": {
                "fingerprint": loaded.fingerprint,
                "dtype": loaded.dtype,
                "quantization": loaded.quantization,
                "parameters": loaded.parameters,
            },
            "machine": {
                "chat_template_sha256": text_hash(loaded.tokenizer.chat_template if adapter.chat else None),
                "device": parallel.every_device(device_name(device)),
                "threads": torch.get_num_threads(),
                "engine": options.engine,
                "peak_memory_bytes": peak_memory(device),
            },
        }

    return Built(adapters, spec, describe, on_cpu=device.type == "cpu")
