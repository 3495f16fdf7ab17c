"""The two kinds of judges (evals/judging/judge.py says what is asked of one): behind a server, or in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evals.adapters.client import Client
from evals.adapters.texts import ask_texts
from evals.core.errors import UserError
from evals.core.requests import GenerateRequest, Generation, NotFinite, RequestRefused, TextRequest
from evals.prompting import text as prompts

JUDGMENT_TOKENS = 2048  # FastChat's budget for a judgment
LEAST_JUDGMENT_TOKENS = 512  # of a local judge's window, kept free for the judgment


class EndpointJudge:
    """A model behind an OpenAI-compatible server. Its window is its own business: nothing is cut."""

    def __init__(self, client: Client) -> None:
        self.client = client
        model = client.model
        # of a path (some servers name models so) results show the last part alone
        shown = model.rstrip("/").rsplit("/", 1)[-1] if model.startswith(("/", "~")) else model
        self.name = f"openai:{shown}"
        self.identity = f"judge {client.base_url} {client.model}"

    def fits(self, system: str, user: str) -> bool:
        """True: a prompt that is too long is refused by the server."""
        return True

    def request(self, system: str, user: str) -> TextRequest:
        """A chat of a system and a user message."""
        return TextRequest((("system", system), ("user", user)), JUDGMENT_TOKENS)

    def run(self, requests: Sequence[TextRequest]) -> Iterator[tuple[int, Generation | RequestRefused]]:
        """In parallel, as many as the client allows."""
        yield from ask_texts(self.client, requests)


class LocalJudge:
    """A chat model in this process. Prompts that do not fit its window are cut (evals.judging.prompts.ask)."""

    def __init__(self, model: Any, name: str) -> None:
        """`model`: an adapter in chat mode with tokenizer, max_length, identity and run (PrefixModel)."""
        self.model = model
        self.name = f"local:{name}"
        self.identity = f"judge {model.identity}"
        tokenizer = model.tokenizer
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        # the longest first: one may hold another
        self._special = sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)

    def fits(self, system: str, user: str) -> bool:
        """Whether LEAST_JUDGMENT_TOKENS are left of the window."""
        return len(self._tokens(system, user)) <= self.model.max_length - LEAST_JUDGMENT_TOKENS

    def request(self, system: str, user: str) -> GenerateRequest:
        """The chat as token ids, with what is left of the window, at most JUDGMENT_TOKENS, as the budget."""
        tokens = self._tokens(system, user)
        room = self.model.max_length - len(tokens)
        return GenerateRequest(tokens, max(1, min(JUDGMENT_TOKENS, room)))

    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation | RequestRefused]]:
        """As the adapter computes them. Raises UserError if its scores are no numbers."""
        try:
            yield from self.model.run(requests)
        except NotFinite as error:
            raise UserError(
                f"the judge {self.name} is broken: {error}; check its weights and --dtype"
            ) from error

    def _tokens(self, system: str, user: str) -> tuple[int, ...]:
        chat = [
            {"role": "system", "content": self._harmless(system)},
            {"role": "user", "content": self._harmless(user)},
        ]
        text = prompts.chat_text(self.model.tokenizer, chat, add_generation_prompt=True)
        return tuple(self.model.tokenizer([text], add_special_tokens=False)["input_ids"][0])

    def _harmless(self, text: str) -> str:
        """Breaks up the model's control tokens: an answer must not be able to end its turn and speak for the judge."""
        for token in self._special:
            text = text.replace(token, token[0] + "\u200b" + token[1:])
        return text
