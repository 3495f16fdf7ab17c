"""Adapters for a model spec: weights loaded once, or a server asked, one adapter for each suite.

Nothing heavy is imported before an adapter is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.card import Card
from evals.core.errors import UserError
from evals.core.files import text_hash
from evals.models import lean
from evals.models.known import ModelSpec, resolve

if TYPE_CHECKING:
    from evals.prompting.requests import TextToRequests

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalOptions:
    """How this machine computes. `device`, `dtype`: None is the best there is; `engine`: "shared" or "plain"."""

    device: str | None = None
    dtype: str | None = None
    engine: str = "shared"


@dataclass(frozen=True)
class ServerOptions:
    """Where a server is and how it is asked. `tokenizer`: a path or hub id; `parallel`: requests at once;
    `timeout`: seconds for one answer.
    """

    base_url: str
    api_key_env: str | None = None
    tokenizer: str | None = None
    parallel: int = 4
    timeout: float = 600.0


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
    cards: Sequence[Card],
    local: LocalOptions | None = None,
    server: ServerOptions | None = None,
    offline: bool = False,
    on_note: Callable[[str], None] = log.warning,
    memory: float = 1.0,
) -> Built:
    """One adapter for each card on the same weights, or the same server. Raises UserError.

    A model behind a server needs `server`; `offline`: nothing is fetched; `on_note`: what a user should know;
    `memory`: the part of the host's free memory that this process may count on.
    """
    if spec.source != "endpoint":
        return _local(spec, cards, local or LocalOptions(), offline, memory)
    if server is None:
        raise UserError(f"'{spec.name}' is behind a server: say where it is")
    return _endpoint(spec, cards, server, offline, on_note)


def build_share(
    spec: ModelSpec, cards: Sequence[Card], local: LocalOptions, offline: bool, threads: int, memory: float
) -> Built:
    """As `build`, in a worker among several: with `threads` of the host's cores and a part of its free memory."""
    import torch

    lean.allow()

    torch.set_num_threads(min(threads, torch.get_num_threads()))  # OMP_NUM_THREADS may ask for fewer
    return build(spec, cards, local, None, offline, memory=memory)


def texts(spec: ModelSpec, cards: Sequence[Card], offline: bool) -> list[TextToRequests]:
    """What makes requests of docs, one for each card, where a model's weights are elsewhere. Raises UserError."""
    from evals.models import loading
    from evals.prompting.requests import TextToRequests

    tokenizer = loading.load_tokenizer(
        loading.local_path(spec, offline), chat=any(card.chat for card in cards)
    )
    return [TextToRequests(tokenizer, card.chat, card.window) for card in cards]


def _local(
    spec: ModelSpec, cards: Sequence[Card], options: LocalOptions, offline: bool, memory: float
) -> Built:
    import torch

    lean.import_transformers()
    from evals.adapters.local import PrefixModel
    from evals.engine.device import device_name, peak_memory
    from evals.models import loading

    device = loading.pick_device(options.device)
    path = loading.local_path(spec, offline)
    if spec.source == "hub":
        spec = replace(spec, revision=path.name)
    loaded = loading.load(path, device, loading.pick_dtype(options.dtype, device))
    share = memory if device.type == "cpu" else 1.0  # a GPU is a worker's own
    adapters = [
        PrefixModel(loaded, card.chat, spec.name, options.engine, card.window, memory_share=share)
        for card in cards
    ]

    def machine() -> dict[str, Any]:
        return {
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "engine": options.engine,
            "peak_memory_bytes": peak_memory(device),
        }

    return Built(
        adapters, spec, partial(_describe, loaded.tokenizer, loaded, machine), on_cpu=device.type == "cpu"
    )


def _endpoint(
    spec: ModelSpec,
    cards: Sequence[Card],
    options: ServerOptions,
    offline: bool,
    on_note: Callable[[str], None],
) -> Built:
    from evals.adapters.client import Client

    client = Client(
        spec.location,
        options.base_url,
        key_env=options.api_key_env,
        parallel=options.parallel,
        timeout=options.timeout,
        offline=offline,
        on_note=on_note,
    )
    tokenizer = None if options.tokenizer is None else _load_tokenizer(options.tokenizer, offline)

    from evals.adapters.server import ENGINE_VERSION, EndpointModel

    def machine() -> dict[str, Any]:
        return {"device": "endpoint", "threads": None, "engine": f"endpoint {ENGINE_VERSION}"}

    adapters = [EndpointModel(client, card.chat, tokenizer, card.window, on_note) for card in cards]
    return Built(list(adapters), spec, partial(_describe, tokenizer, None, machine))


def _load_tokenizer(name: str, offline: bool) -> Any:
    """The tokenizer of `--tokenizer`: a folder, a .gguf file, a known model's, or one on the hub. Raises UserError."""
    from evals.models import loading

    path = Path(name).expanduser()
    if not path.exists():
        path = loading.local_path(resolve(name), offline, weights=False)
    return loading.load_tokenizer(path, chat=False)


def _describe(
    tokenizer: Any, loaded: Any, machine: Callable[[], dict[str, Any]], adapter: Any
) -> dict[str, Any]:
    """See Built. `loaded`: None for a server, which does not say what it computes with."""
    template = tokenizer.chat_template if tokenizer is not None and adapter.chat else None
    facts = ("fingerprint", "dtype", "quantization", "parameters")
    return {
        "model": {fact: getattr(loaded, fact, None) for fact in facts},
        "machine": {"chat_template_sha256": text_hash(template), **machine()},
    }
