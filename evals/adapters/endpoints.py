"""Models behind an OpenAI-compatible server: what a user chooses of them and the adapters that they become.

Nothing heavy is imported before an adapter is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.card import Card
from evals.core.files import text_hash
from evals.models.known import ModelSpec, resolve

if TYPE_CHECKING:
    from evals.adapters.server import EndpointModel


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


def endpoint_adapters(
    options: ServerOptions,
    spec: ModelSpec,
    cards: Sequence[Card],
    offline: bool,
    on_note: Callable[[str], None],
) -> tuple[list[EndpointModel], Callable[[EndpointModel], dict[str, Any]]]:
    """An adapter for each card, and what run.json says of model and machine."""
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
    tokenizer = None if options.tokenizer is None else load_tokenizer(options.tokenizer, offline)

    from evals.adapters.server import ENGINE_VERSION, EndpointModel

    def described(adapter: EndpointModel) -> dict[str, Any]:
        template = tokenizer.chat_template if tokenizer is not None and adapter.chat else None
        return {
            # a server does not say what it computes with
            "model": {"fingerprint": None, "dtype": None, "quantization": None, "parameters": None},
            "machine": {
                "chat_template_sha256": text_hash(template),
                "device": "endpoint",
                "threads": None,
                "engine": f"endpoint {ENGINE_VERSION}",
            },
        }

    return [EndpointModel(client, card.chat, tokenizer, card.window, on_note) for card in cards], described


def load_tokenizer(name: str, offline: bool = False) -> Any:
    """The tokenizer of `--tokenizer`: a folder, a .gguf file, a known model's, or one on the hub.

    Raises UserError.
    """
    from evals.models import loading

    path = Path(name).expanduser()
    if not path.exists():
        path = loading.local_path(resolve(name), offline, weights=False)
    return loading.load_tokenizer(path, chat=False)
