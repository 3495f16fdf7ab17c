"""The endpoint adapter against real servers that hold the embedded model, and the plain engine as the reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lighteval.tasks.requests import Doc

from evals.adapters.client import Client
from evals.adapters.local import PrefixModel
from evals.adapters.server import EndpointModel
from evals.core.errors import RowUnavailable
from evals.data.sources import build_docs, load, parse_source
from evals.models import loading
from tasks import get_task
from tasks.mt_bench import follow_up
from tests.support.servers import float32_gguf, llama_cpp_server, llama_python, transformers_serve

pytestmark = [pytest.mark.model, pytest.mark.slow]
BUDGET = 16
WINDOW = 384


@pytest.fixture(scope="module")
def loaded(embedded: loading.LoadedModel) -> loading.LoadedModel:
    return embedded


@pytest.fixture(scope="module")
def serve_url(loaded: loading.LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """transformers' server; it cannot load a GGUF file that names no architecture, so it gets a folder."""
    folder = tmp_path_factory.mktemp("serve")
    loaded.model.save_pretrained(folder / "smol")
    loaded.tokenizer.save_pretrained(folder / "smol")
    with transformers_serve(folder / "smol", folder / "log.txt") as url:
        yield url


@pytest.fixture(scope="module")
def llama_url(embedded_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    llama_python()  # skips before the work
    folder = tmp_path_factory.mktemp("llama")
    gguf = float32_gguf(embedded_path, folder / "smol.gguf")
    with llama_cpp_server(gguf, folder / "log.txt", WINDOW) as url:
        yield url


def docs_of(name: str, limit: int) -> list[Doc]:
    task = get_task(name)
    docs = build_docs(task, load(task, parse_source("smoke")), limit)
    for doc in docs:
        doc.generation_size = BUDGET
        doc.fewshot_samples = doc.fewshot_samples[:1]
    return docs


def texts(model: Any, docs: list[Doc]) -> list[str]:
    return [response.text[0] for response in model.greedy_until(docs)]


def both(loaded: loading.LoadedModel, url: str, chat: bool) -> tuple[PrefixModel, EndpointModel]:
    client = Client("smol", url, parallel=2, timeout=300.0)
    return PrefixModel(loaded, chat, engine="plain"), EndpointModel(client, chat, loaded.tokenizer)


@pytest.mark.parametrize(("name", "chat"), [("gsm8k", False), ("ifeval", True)])
def test_greedy_answers_through_transformers_serve(
    loaded: loading.LoadedModel, serve_url: str, name: str, chat: bool
) -> None:
    local, remote = both(loaded, serve_url, chat)
    docs = docs_of(name, 2)
    assert texts(remote, docs) == texts(local, docs)


def test_mt_bench_turns_through_transformers_serve(loaded: loading.LoadedModel, serve_url: str) -> None:
    local, remote = both(loaded, serve_url, True)
    # answers drawn at a temperature come from generators that no two programs share
    docs = [doc for doc in docs_of("mt_bench", 8) if (doc.specific or {})["temperature"] == 0][:1]
    first = texts(local, docs)
    assert texts(remote, docs) == first
    seconds = [follow_up(doc, answer) for doc, answer in zip(docs, first, strict=True)]
    assert texts(remote, seconds) == texts(local, seconds)
    drawn = next(doc for doc in docs_of("mt_bench", 8) if (doc.specific or {})["temperature"] > 0)
    assert texts(remote, [drawn]) == texts(remote, [drawn]), "the seed is sent"


def test_transformers_serve_has_no_prompt_logprobs(loaded: loading.LoadedModel, serve_url: str) -> None:
    _, remote = both(loaded, serve_url, True)
    with pytest.raises(RowUnavailable, match="it gives no log-probabilities"):
        remote.loglikelihood(docs_of("piqa", 1))


@pytest.mark.parametrize("name", ["piqa", "arc_easy", "winogrande"])
def test_likelihoods_through_llama_cpp(loaded: loading.LoadedModel, llama_url: str, name: str) -> None:
    """Alignment, BOS and chat template: any of them wrong would be off by nats; float32 on both sides is not."""
    local, remote = both(loaded, llama_url, True)
    docs = docs_of(name, 2)
    for mine, theirs in zip(local.loglikelihood(docs), remote.loglikelihood(docs), strict=True):
        counts = [len(tokens) for tokens in mine.output_tokens]
        for a, b, n in zip(mine.logprobs, theirs.logprobs, counts, strict=True):
            assert b == pytest.approx(a, abs=1e-3 * n)


def test_llama_cpp_is_not_believed_for_plain_prompts(loaded: loading.LoadedModel, llama_url: str) -> None:
    """llama-cpp-python 0.3.36 lists prompt tokens that do not begin with BOS beside the next position's values.

    If this fails, the package has mended it: compare plain likelihoods as in the test above instead.
    """
    _, remote = both(loaded, llama_url, False)
    with pytest.raises(RowUnavailable, match="not those of the tokens"):
        remote.loglikelihood(docs_of("piqa", 1))


def test_greedy_answers_through_llama_cpp(loaded: loading.LoadedModel, llama_url: str) -> None:
    local, remote = both(loaded, llama_url, True)
    docs = docs_of("ifeval", 3)
    equal = sum(a == b for a, b in zip(texts(local, docs), texts(remote, docs), strict=True))
    assert equal >= 2, "float32 on both sides: only a near tie may part them"
