"""The back ends that bench.py compares, behind two methods: score and generate."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from lighteval.tasks.requests import Doc

from evals.adapters.local import MAX_LENGTH, PrefixModel
from evals.models import loading
from evals.prompting import text as prompts


class Ours:
    """This project's adapter: `engine` shared or plain."""

    def __init__(self, loaded: loading.LoadedModel, chat: bool, engine: str) -> None:
        self.adapter = PrefixModel(loaded, chat, "benchmark", engine)
        self.generated = 0  # tokens, the last time

    def score(self, docs: list[Doc]) -> list[list[float]]:
        """Log-likelihoods of every doc's choices."""
        return [response.logprobs for response in self.adapter.loglikelihood(docs)]

    def generate(self, docs: list[Doc]) -> list[str]:
        """Every doc's answer."""
        responses = self.adapter.greedy_until(docs)
        self.generated = sum(len(response.output_tokens[0]) for response in responses)
        return [response.text[0] for response in responses]


class Lighteval:
    """lighteval's transformers back end, given finished contexts (its own rendering would change them)."""

    def __init__(self, loaded: loading.LoadedModel, chat: bool, folder: str, batch: int) -> None:
        from lighteval.models.model_input import GenerationParameters
        from lighteval.models.transformers.transformers_model import (
            TransformersModel,
            TransformersModelConfig,
        )

        config = TransformersModelConfig(
            model_name=folder, dtype=loaded.dtype, batch_size=batch, max_length=MAX_LENGTH, add_special_tokens=False,
            override_chat_template=False, model_parallel=False, cache_dir=str(Path(folder) / "cache"),
            device=str(loaded.device), generation_parameters=GenerationParameters(temperature=0),
        )  # fmt: skip

        class Quiet(TransformersModel):
            disable_tqdm = property(lambda self: True)

        self.model = Quiet(config)
        self.chat, self.tokenizer, self.batch = chat, loaded.tokenizer, batch

    def score(self, docs: list[Doc]) -> list[list[float]]:
        """Log-likelihoods of every doc's choices."""
        with torch.inference_mode():
            return [r.logprobs for r in self.model._loglikelihood_tokens(self._finished(docs))]

    def generate(self, docs: list[Doc]) -> list[str]:
        """Every doc's answer."""
        with torch.inference_mode():
            return [r.text[0] for r in self.model._padded_greedy_until(self._finished(docs))]

    def _finished(self, docs: list[Doc]) -> list[Doc]:
        finished = []
        for doc in docs:
            done = copy.copy(doc)
            done.query = prompts.render(doc, self.tokenizer, self.chat)
            done.fewshot_samples, done.instruction = [], None
            done.stop_sequences = [] if self.chat else list(doc.stop_sequences or [])
            finished.append(done)
        return finished


class LmEval:
    """lm-eval's HFLM on the model that is loaded already."""

    def __init__(self, loaded: loading.LoadedModel, chat: bool, batch: int) -> None:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        self.instance, self.chat, self.tokenizer = Instance, chat, loaded.tokenizer
        self.model = HFLM(
            pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch, max_length=MAX_LENGTH,
            add_bos_token=False,
        )  # fmt: skip

    def score(self, docs: list[Doc]) -> list[list[float]]:
        """Log-likelihoods of every doc's choices."""
        pairs = [
            (prompts.render(doc, self.tokenizer, self.chat), choice) for doc in docs for choice in doc.choices
        ]
        asked = [self.instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        results = iter(self.model.loglikelihood(asked, disable_tqdm=True))
        return [[next(results)[0] for _ in doc.choices] for doc in docs]

    def generate(self, docs: list[Doc]) -> list[str]:
        """Every doc's answer."""
        asked = []
        for i, doc in enumerate(docs):
            until = [] if self.chat else list(doc.stop_sequences or [])
            options = {"until": until, "max_gen_toks": doc.generation_size, "do_sample": False}
            pair = (prompts.render(doc, self.tokenizer, self.chat), options)
            asked.append(self.instance("generate_until", {}, pair, i))
        return list(self.model.generate_until(asked, disable_tqdm=True))
