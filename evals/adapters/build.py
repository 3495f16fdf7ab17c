"""Adapters for a model spec: weights loaded once, or a server asked, one adapter for each suite.

Nothing heavy is imported before an adapter is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.card import Card
from evals.core.errors import UserError
from evals.models import lean
from evals.models.known import ModelSpec, resolve

if TYPE_CHECKING:
    from evals.models.loading import LoadedModel
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
    """A model's adapters, one for each card; `spec`: with the commit of its weights, where they come from the hub."""

    adapters: list[Any]
    spec: ModelSpec


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
    if spec.source == "endpoint":
        if server is None:
            raise UserError(f"'{spec.name}' is behind a server: say where it is")
        return Built(_endpoint(spec, cards, server, offline, on_note), spec)
    local = local or LocalOptions()
    loaded, path = load(spec, local, offline)
    from evals.adapters.local import PrefixModel

    if spec.source == "hub":
        spec = replace(spec, revision=path.name)
    share = memory if loaded.device.type == "cpu" else 1.0  # a GPU is a worker's own
    adapters = [
        PrefixModel(loaded, card.chat, spec.name, local.engine, card.window, memory_share=share)
        for card in cards
    ]
    return Built(adapters, spec)


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


def load(spec: ModelSpec, options: LocalOptions, offline: bool) -> tuple[LoadedModel, Path]:
    """A model's weights on this machine, and where they lie. Raises UserError."""
    lean.import_transformers()
    from evals.models import loading

    device = loading.pick_device(options.device)
    path = loading.local_path(spec, offline)
    return loading.load(path, device, loading.pick_dtype(options.dtype, device)), path


def _endpoint(
    spec: ModelSpec, cards: Sequence[Card], server: ServerOptions, offline: bool, on_note: Callable[[str], None]
) -> list[Any]:  # fmt: skip
    from evals.adapters.client import Client

    client = Client(
        spec.location, server.base_url, key_env=server.api_key_env, parallel=server.parallel,
        timeout=server.timeout, offline=offline, on_note=on_note,
    )  # fmt: skip
    tokenizer = None
    if server.tokenizer is not None:  # a folder, a .gguf file, a known model's, or one on the hub
        from evals.models import loading

        path = Path(server.tokenizer).expanduser()
        if not path.exists():
            path = loading.local_path(resolve(server.tokenizer), offline, weights=False)
        tokenizer = loading.load_tokenizer(path, chat=False)

    from evals.adapters.server import EndpointModel

    return [EndpointModel(client, card.chat, tokenizer, card.window, on_note) for card in cards]
