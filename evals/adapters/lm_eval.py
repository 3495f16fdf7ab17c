"""This project's engine as a model of lm-evaluation-harness: `--model smol-evals`.

lm-eval keeps its own rules: its Hugging Face back end, from which this one is derived, decides how a text is encoded,
cut and put into a chat template. Only what computes is exchanged: log-likelihoods and greedy texts come from the
shared-prefix engine. What that does not compute (sampling, penalties) is left to transformers, as it always was.

lm-eval 0.4.13 finds no model of another package by itself: start its command as `python -m evals.adapters.lm_eval`.
Later releases find it by the entry point in pyproject.toml.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from tqdm import tqdm

from evals.core.errors import EXIT_USAGE, UserError
from evals.core.requests import GenerateRequest, NotFinite, ScoreRequest
from evals.engine.decoding import BatchDecoder
from evals.engine.scoring import PrefixScorer
from evals.models import loading
from evals.models.known import resolve
from evals.prompting import text as prompts

log = logging.getLogger(__name__)

TokenPair = tuple[Any, list[int], list[int]]
"""What lm-eval hands over: its cache's key (None: not to be kept), tokens of the context, of the continuation."""

# Settings of transformers' generation that change no greedy text; any other is left to transformers.
_HARMLESS = {
    "_from_model_config", "bos_token_id", "do_sample", "eos_token_id", "max_gen_toks", "max_length", "pad_token_id",
    "temperature", "top_k", "top_p", "transformers_version", "until", "use_cache",
}  # fmt: skip
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0}


@register_model("smol-evals")
class SmolEvalsLM(HFLM):
    """`pretrained`: as --model (a known name, a hub id, a folder, a .gguf file); left out: the embedded model.

    `dtype`, `device`: as of `run`; `max_length`, `add_bos_token`, `prefix_token_id`: as lm-eval's own. Batch sizes
    are for what is left to transformers: the engine packs its batches itself. Raises UserError.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        **others: Any,
    ) -> None:
        if unknown := [name for name, value in others.items() if value]:
            raise UserError(f"--model_args {unknown[0]}: not of smol-evals; --model hf may know it")
        # lm-eval's command says cuda:0 unless told otherwise: without a GPU it takes what there is, and so does this
        missing = device is not None and device.startswith("cuda") and not torch.cuda.is_available()
        chosen = loading.pick_device(None if missing else device)
        spec = resolve(pretrained, None, revision)
        if spec.source == "endpoint":
            raise UserError(
                "--model_args pretrained: a model behind a server is --model local-completions in lm-eval"
            )
        kind = loading.pick_dtype(None if dtype == "auto" else dtype, chosen)
        self.loaded = loading.load(loading.local_path(spec), chosen, kind)
        # as transformers' loader does with it: some tokenizers add one only if told so
        if add_bos_token is not None:
            self.loaded.tokenizer.add_bos_token = add_bos_token
        super().__init__(
            pretrained=self.loaded.model,
            tokenizer=self.loaded.tokenizer,
            max_length=max_length,
            add_bos_token=add_bos_token,
            prefix_token_id=prefix_token_id,
            batch_size=batch_size,
        )
        self.spec, self.revision = spec, spec.revision
        self._encoded: dict[str, list[int]] = {}
        self._scorer = PrefixScorer(self.loaded.model)
        self._decoder = BatchDecoder(self.loaded.model, self.tokenizer, self._end_tokens())

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log-likelihood in nats, and whether greedy decoding would write it.

        lm-eval encodes text by text, each context once a choice: here all are encoded beforehand, each once.
        """
        pairs = [request.args for request in requests]
        texts = (
            text for context, choice in pairs if context for text in (context.rstrip(), context + choice)
        )
        self._encoded = self._encode(texts, self.tokenizer.decode(self.prefix_token_id))
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        """As lm-eval's own; what was encoded beforehand is looked up."""
        if add_special_tokens is None and not others and string in self._encoded:
            return self._encoded[string]
        tokens: list[int] = super().tok_encode(string, add_special_tokens, **others)
        return tokens

    def _encode(self, texts: Iterable[str], bos: str | None) -> dict[str, list[int]]:
        """Tokens of each text, with what the tokenizer adds, unless told not to or the text begins with `bos`."""
        distinct = list(dict.fromkeys(texts))
        bare = [text for text in distinct if self.add_bos_token is False or has_bos_prefix(text, bos)]
        ids = dict(zip(bare, prompts.encode(self.tokenizer, bare), strict=True))
        rest = [text for text in distinct if text not in ids]
        return ids | dict(zip(rest, prompts.encode(self.tokenizer, rest, special=True), strict=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenPair], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        self._encoded = {}
        asked = [self._score_request(*tokens) for _, *tokens in requests]
        found: dict[int, tuple[float, bool]] = {}
        one_window = override_bs is not None
        with tqdm(total=len(asked), desc="log-likelihoods", disable=disable_tqdm or one_window) as bar:
            for i, score in self._scorer.run(asked):
                if not math.isfinite(score.logprob):
                    raise self._not_finite()
                found[i] = score.logprob, bool(score.greedy)
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
                bar.update()
        return [found[i] for i in range(len(asked))]

    def _not_finite(self) -> UserError:
        return UserError(f"the scores of '{self.spec.name}' are no numbers: try --model_args dtype=float32")

    def _score_request(self, context: list[int], continuation: list[int]) -> ScoreRequest:
        """Cut from the left, as lm-eval does: at most `max_length` tokens are fed."""
        if not context or not 0 < len(continuation) <= self.max_length:
            raise UserError(
                f"a request of {len(context)} and {len(continuation)} tokens cannot be scored: each needs a "
                f"token at least, and the window of {self.max_length} must hold the latter"
            )
        return ScoreRequest(tuple([*context, *continuation][-(self.max_length + 1) :]), len(continuation))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first of its stops: (context, settings)."""
        mine = [i for i, one in enumerate(requests) if self._computes(one.args[1])]
        rest = [i for i in range(len(requests)) if i not in set(mine)]
        found = dict(zip(mine, self._generate([requests[i].args for i in mine], disable_tqdm), strict=True))
        if rest:
            log.warning("%d texts ask for sampling or penalties: transformers generates them", len(rest))
            texts = super().generate_until([requests[i] for i in rest], disable_tqdm)
            found |= zip(rest, texts, strict=True)
        return [found[i] for i in range(len(requests))]

    def _computes(self, settings: dict[str, Any]) -> bool:
        """Whether the engine's greedy text is what these settings, and the checkpoint's own, ask for."""
        asked = normalize_gen_kwargs(settings, self.max_gen_toks)
        own = self.loaded.model.generation_config.to_diff_dict()
        names = {
            name for name, value in [*asked.items(), *own.items()] if value and _NEUTRAL.get(name) != value
        }
        return not asked["do_sample"] and "max_length" not in asked and names <= _HARMLESS

    def _generate(self, pairs: Sequence[tuple[str, dict[str, Any]]], disable_tqdm: bool) -> list[str]:
        encoded = self._encode((context for context, _ in pairs), self.tokenizer.bos_token)
        asked = [self._generate_request(encoded[context], settings) for context, settings in pairs]
        found: dict[int, str] = {}
        with tqdm(total=len(asked), desc="texts", disable=disable_tqdm or not asked) as bar:
            try:
                for i, generation in self._decoder.run(asked):
                    text = self.tok_decode(list(generation.tokens))
                    found[i] = postprocess_generated_text(text, list(asked[i].stops), None)
                    self.cache_hook.add_partial("generate_until", pairs[i], found[i])
                    bar.update()
            except NotFinite as error:
                raise self._not_finite() from error
        return [found[i] for i in range(len(asked))]

    def _generate_request(self, tokens: list[int], settings: dict[str, Any]) -> GenerateRequest:
        asked = normalize_gen_kwargs(settings, self.max_gen_toks)
        budget = asked["max_gen_toks"]
        if not 0 < budget < self.max_length:
            raise UserError(
                f"max_gen_toks={budget}: it must be above 0 and below the window of {self.max_length} tokens"
            )
        stops = handle_stop_sequences(
            asked["until"], eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        )
        return GenerateRequest(tuple(tokens[budget - self.max_length :]), budget, tuple(stops))

    def _end_tokens(self) -> tuple[int, ...]:
        """What ends a text for lm-eval: of the checkpoint, what its generation_config.json says, not config.json."""
        own = self.loaded.model.generation_config.eos_token_id
        return tuple({*([own] if isinstance(own, int) else own or []), self.eot_token_id})

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that `--apply_chat_template` means. Raises UserError where there is none, or one without end."""
        if chat_template:
            loading.require_template(self.tokenizer, self.spec.name)
        template: str | None = super().chat_template(chat_template)
        return template

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer's cached requests from others': the weights' name and digest."""
        return f"{self.spec.name}__{self.loaded.fingerprint[-16:]}"

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model."""
        return {
            "model_num_parameters": self.loaded.parameters,
            "model_dtype": self.loaded.dtype,
            "model_revision": self.spec.revision or "",
            "model_sha": self.loaded.fingerprint,
            "model_quantization": self.loaded.quantization,
        }


def main() -> int:
    """lm-eval's own command, which knows this model; its exit code."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
