"""Models behind an OpenAI-compatible server: the options that name them and the adapters that they become.

Nothing heavy is imported before an adapter is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.errors import UserError
from evals.models import ModelSpec, resolve, safe_name

if TYPE_CHECKING:
    from evals.adapters.endpoint import EndpointModel

PREFIX = "openai:"


def add_endpoint_arguments(parser: Any) -> None:
    """The options of `--model openai:NAME`."""
    group = parser.add_argument_group("a model behind an OpenAI-compatible server (--model openai:NAME)")
    group.add_argument("--base-url", metavar="URL", help="where it is, like http://127.0.0.1:8000/v1")
    group.add_argument("--api-key-env", metavar="NAME",
                       help="environment variable that holds the key (default: OPENAI_API_KEY)")  # fmt: skip
    group.add_argument("--tokenizer", metavar="PATH|ID",
                       help="the model's tokenizer (a folder, a .gguf file or a hub id): likelihood rows need it, "
                       "and rows without a budget of their own (BBH)")  # fmt: skip
    group.add_argument("--parallel", type=int, default=4, metavar="N", help="requests at once (default: 4)")
    group.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS",
                       help="for one answer (default: 600)")  # fmt: skip


def is_endpoint(name: str | None) -> bool:
    """Whether a `--model` names a model behind a server."""
    return name is not None and name.startswith(PREFIX)


def check_endpoint(args: argparse.Namespace, names: Sequence[str | None]) -> None:
    """The options that belong to endpoints, checked before anything heavy is imported. Raises UserError."""
    if not any(map(is_endpoint, names)):
        for option, value in (("--base-url", args.base_url), ("--tokenizer", args.tokenizer)):
            if value is not None:
                raise UserError(f"{option} belongs to --model openai:NAME")
        return
    if not args.base_url:
        raise UserError("--model openai:NAME needs --base-url, like http://127.0.0.1:8000/v1")
    if args.parallel < 1 or args.timeout <= 0:
        raise UserError("--parallel and --timeout must be positive")


def endpoint_spec(name: str) -> ModelSpec:
    """The model that `openai:NAME` means. It belongs to no table: `--suite` must say."""
    model = name.removeprefix(PREFIX).strip()
    if not model:
        raise UserError("--model openai: names no model: give it as the server knows it, openai:NAME")
    return ModelSpec(safe_name(model), "endpoint", model, None)


def endpoint_adapters(
    args: argparse.Namespace, spec: ModelSpec, chats: Sequence[bool], on_note: Callable[[str], None]
) -> tuple[list[EndpointModel], Callable[[EndpointModel], dict[str, Any]]]:
    """An adapter for each of `chats` (True: a chat suite), and what run.json says of model and machine."""
    from evals.client import Client

    client = Client(
        spec.location,
        args.base_url,
        key_env=args.api_key_env,
        parallel=args.parallel,
        timeout=args.timeout,
        offline=args.offline,
    )
    tokenizer = None if args.tokenizer is None else load_tokenizer(args.tokenizer, args.offline)

    from evals.adapters.endpoint import ENGINE_VERSION, EndpointModel
    from evals.provenance import text_hash

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
    from evals.adapters import loading

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
