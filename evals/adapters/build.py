"""Adapters for a model spec: weights loaded once, or a server asked, one adapter for each suite."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.models import ModelSpec
from evals.progress import Progress
from evals.provenance import device_name, peak_memory, text_hash


@dataclass(frozen=True)
class Built:
    """`describe(adapter)`: what run.json says of the model ("model") and of the machine ("machine").

    `on_cpu`: whether this machine's processor does the computing.
    """

    adapters: list[Any]
    spec: ModelSpec
    describe: Callable[[Any], dict[str, Any]]
    on_cpu: bool = False


def build(args: argparse.Namespace, spec: ModelSpec, chats: Sequence[bool]) -> Built:
    """One adapter for each of `chats` on the same weights, by the options of the command `run`. Raises UserError."""
    if spec.source != "endpoint":
        return _local(args, spec, chats)
    from evals.endpoints import endpoint_adapters

    adapters, describe = endpoint_adapters(args, spec, chats, Progress().note)
    return Built(list(adapters), spec, describe)


def _local(args: argparse.Namespace, spec: ModelSpec, chats: Sequence[bool]) -> Built:
    import torch

    from evals import parallel
    from evals.adapters import loading
    from evals.adapters.prefix import PrefixModel

    device = loading.pick_device(parallel.own_device(args.device))
    if device.type == "cpu":
        parallel.share_cores()
    path = loading.local_path(spec, args.offline)
    if spec.source == "hub":
        spec = replace(spec, revision=path.name)
    loaded = loading.load(path, device, loading.pick_dtype(args.dtype, device))
    adapters = [PrefixModel(loaded, chat, spec.name, args.engine) for chat in chats]

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
                "engine": args.engine,
                "peak_memory_bytes": peak_memory(device),
            },
        }

    return Built(adapters, spec, describe, on_cpu=device.type == "cpu")
