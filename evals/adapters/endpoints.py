"""Models behind an OpenAI-compatible server: what a user chooses of them and the adapters that they become.

Nothing heavy is imported before an adapter is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.errors import UserError
from evals.models.known import ModelSpec, resolve, safe_name

if TYPE_CHECKING:
    from evals.adapters.server import EndpointModel

PREFIX = "openai:"


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


def is_endpoint(name: str | None) -> bool:
    """Whether a `--model` names a model behind a server."""
    return name is not None and name.startswith(PREFIX)


def endpoint_spec(name: str) -> ModelSpec:
    """The model that `openai:NAME` means. It belongs to no table: `--suite` must say."""
    model = name.removeprefix(PREFIX).strip()
    if not model:
        raise UserError("--model openai: names no model: give it as the server knows it, openai:NAME")
    return ModelSpec(safe_name(model), "endpoint", model, None)


def endpoint_adapters(
    options: ServerOptions,
    spec: ModelSpec,
    chats: Sequence[bool],
    offline: bool,
    on_note: Callable[[str], None],
) -> tuple[list[EndpointModel], Callable[[EndpointModel], dict[str, Any]]]:
    """An adapter for each of `chats` (True: a chat suite), and what run.json says of model and machine."""
    from evals.adapters.client import Client

    client = Client(
        spec.location,
        options.base_url,
        key_env=options.api_key_env,
        parallel=options.parallel,
        timeout=options.timeout,
        offline=offline,
    )
    tokenizer = None if options.tokenizer is None else load_tokenizer(options.tokenizer, offline)

    from evals.adapters.server import ENGINE_VERSION, EndpointModel
    from evals.run.provenance import text_hash

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

    return [EndpointModel(client, chat, tokenizer, on_note=on_note) for chat in chats], described


def load_tokenizer(name: str, offline: bool = False) -> Any:
    """The tokenizer of `--tokenizer`: a folder, a .gguf file, a known model's, or one on the hub.

    Raises UserError.
    """
    from evals.models import loading

    path = Path(name).expanduser()
    if path.exists():
        return loading.load_tokenizer(path, chat=False)
    spec = resolve(name)
    if spec.source != "hub":
        return loading.load_tokenizer(Path(spec.location), chat=False)

    from transformers import AutoTokenizer

    try:
        with loading.quiet():
            return AutoTokenizer.from_pretrained(spec.location, local_files_only=offline)
    except Exception as error:  # the hub's client raises whatever it likes
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"cannot get the tokenizer '{name}' (--tokenizer): {reason}") from error
