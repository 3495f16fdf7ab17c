"""Model folders: every family of transformers' causal models, hostile tokenizers and chat templates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.run_bench import Bench
from tests.tools.attacks.stage import Stage, add, attack

TOLERANCE = 1e-4  # nats
VOCABULARY = 259  # of the tiny model's tokenizer
SHORT = "tests.support.run_bench:short_answers"

# Common settings; then those of a family's own.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 9}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED_EXPERT = {"shared_expert_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {}, "qwen3": HEADS, "gemma": HEADS,
    "gemma2": {**HEADS, **WINDOW, "query_pre_attn_scalar": 8}, "gemma3_text": {**HEADS, **WINDOW},
    "mistral": WINDOW, "ministral": {**HEADS, **WINDOW}, "phi": {}, "phi3": {},
    "olmo": {}, "olmo2": {}, "olmo3": WINDOW, "granite": {}, "smollm3": {"no_rope_layer_interval": 2},
    "gpt2": {}, "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 9},
    "gptj": {"rotary_dim": 4}, "gpt_neox": {}, "gpt_bigcode": {}, "bloom": {}, "mpt": {}, "falcon": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "codegen": {"rotary_dim": 4}, "stablelm": {},
    "starcoder2": WINDOW, "persimmon": {}, "cohere": {}, "cohere2": WINDOW, "glm": HEADS, "glm4": HEADS,
    "nemotron": {}, "helium": HEADS, "arcee": {}, "ernie4_5": HEADS, "seed_oss": HEADS, "exaone4": WINDOW,
    "hunyuan_v1_dense": HEADS, "apertus": {}, "nanochat": HEADS, "diffllama": {}, "bitnet": {},
    "xglm": {"ffn_dim": 48, "d_model": 32, "num_layers": 2, "attention_heads": 4},
    "mixtral": LOCAL_EXPERTS, "qwen2_moe": {**EXPERTS, **SHARED_EXPERT}, "qwen3_moe": {**HEADS, **EXPERTS},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2}, "gpt_oss": {**HEADS, **LOCAL_EXPERTS, **WINDOW},
    "granitemoe": LOCAL_EXPERTS, "ernie4_5_moe": {**EXPERTS, "moe_num_experts": 4, "moe_k": 2},
    "deepseek_v3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16,
        "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
        "num_key_value_heads": 4, "first_k_dense_replace": 1,
    },
    "mamba": {"state_size": 8}, "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "falcon_mamba": {"state_size": 8}, "rwkv": {"attention_hidden_size": 32},
    "falcon_h1": {
        **HEADS, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
    },
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 9},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "num_experts": 4, "use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "bamba": {
        "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "attn_layer_indices": [1],
    },
    "lfm2": {"full_attn_idxs": [1], "block_auto_adjust_ff_dim": False},
    "qwen3_next": {
        **HEADS, **EXPERTS, **SHARED_EXPERT, "num_hidden_layers": 4, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
}  # fmt: skip
REFUSED = {
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "bert": {},
}


def saved(kind: str, settings: dict[str, Any], tokenizer: Path, folder: Path) -> Path:
    """A model of the family with random weights, beside the tiny model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SMALL, **settings})
    torch.manual_seed(0)
    maker = AutoModel if kind == "t5" else AutoModelForCausalLM
    maker.from_config(config).float().save_pretrained(folder)
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def read(bench: Bench) -> dict[str, list[Any]]:
    """Each choice's log-probability, and each answer, of the last run."""
    from pyarrow import parquet

    piqa, gsm8k = (
        parquet.read_table(bench.last / "samples" / f"{task}.parquet").to_pydict()
        for task in ("piqa", "gsm8k")
    )
    return {"logprobs": [value for line in piqa["logprobs"] for value in line], "answers": gsm8k["output"]}


def family(kind: str) -> Callable[[Stage], str]:
    """Both engines through the command, in float32."""

    def act(stage: Stage) -> str:
        model = saved(kind, FAMILIES[kind], stage.model, stage.folder / kind)
        found = {}
        for engine in ("shared", "plain"):
            bench = stage.bench(engine, model)
            bench.run("--engine", engine)
            found[engine] = read(bench)
        pairs = zip(found["shared"]["logprobs"], found["plain"]["logprobs"], strict=True)
        far = max(abs(one - other) for one, other in pairs)
        assert far <= TOLERANCE, f"log-probabilities differ by {far:.1e} nats"
        assert found["shared"]["answers"] == found["plain"]["answers"], "other answers"
        log = (stage.folder / "shared.log").read_text()
        plainly = (
            " (one sequence at a time, as a line says)" if "scored one sequence at a time" in log else ""
        )
        return f"both engines equal, {far:.0e} nats apart{plainly}"

    return act


for name in FAMILIES:
    add("models", f"{name}: shared engine against plain", family(name))


def refused(kind: str) -> Callable[[Stage], str]:
    """A model that does not predict the next token is refused before anything is scored."""

    def act(stage: Stage) -> str:
        bench = stage.bench(model=saved(kind, REFUSED[kind], stage.model, stage.folder / kind))
        return stage.run(bench.arguments(), SHORT).refused()

    return act


for name in REFUSED:
    add("models", f"{name}: no causal language model", refused(name), quick=name == "t5")


# Tokenizers


def tokenizer_that_adds(before: str, after: str) -> Callable[[Stage], str]:
    """A tokenizer whose post-processor adds tokens gives the same requests as one that adds none."""

    def act(stage: Stage) -> str:
        expected = stage.bench("whole")
        expected.run()
        model = stage.copy("model")
        content = json.loads((model / "tokenizer.json").read_text())
        ids = {token: content["model"]["vocab"][token] for token in (before, after) if token}
        pieces = [*([before] if before else []), None, *([after] if after else [])]
        single = [
            {"Sequence": {"id": "A", "type_id": 0}}
            if one is None
            else {"SpecialToken": {"id": one, "type_id": 0}}
            for one in pieces
        ]
        content["post_processor"] = {
            "type": "TemplateProcessing", "single": single, "pair": [*single, *single],
            "special_tokens": {one: {"id": one, "ids": [at], "tokens": [one]} for one, at in ids.items()},
        }  # fmt: skip
        (model / "tokenizer.json").write_text(json.dumps(content))
        settings = json.loads((model / "tokenizer_config.json").read_text())
        settings |= {
            "add_bos_token": bool(before),
            "add_eos_token": bool(after),
            "bos_token": "<|endoftext|>",
        }
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        from transformers import AutoTokenizer

        made = AutoTokenizer.from_pretrained(model)
        assert len(made("a")["input_ids"]) > 1, "the attack's tokenizer adds nothing"
        for suite in ("base", "instruct"):
            own, plain = stage.bench(f"own-{suite}", model), stage.bench(f"plain-{suite}")
            own.run("--suite", suite)
            plain.run("--suite", suite)
            assert read(own) == read(plain), f"other numbers in {suite}"
        return "nothing added: the same numbers as without"

    return act


add("models", "a tokenizer that adds BOS", tokenizer_that_adds("<|endoftext|>", ""))
add("models", "a tokenizer that adds BOS and EOS", tokenizer_that_adds("<|endoftext|>", "<|im_end|>"))


@attack("models")
def vocabulary_beyond_the_embedding(stage: Stage) -> str:
    """a vocabulary larger than the embedding"""
    model = saved("llama", {"vocab_size": 100}, stage.model, stage.folder / "small")
    return stage.run(stage.bench(model=model).arguments(), SHORT).refused()


@attack("models")
def embedding_beyond_the_vocabulary(stage: Stage) -> str:
    """an embedding larger than the vocabulary (padded weights)"""
    model = saved("llama", {"vocab_size": 512}, stage.model, stage.folder / "large")
    bench = stage.bench(model=model)
    bench.run()
    answers = read(bench)["answers"]
    return f"measured: tokens without a text say nothing ({len(answers)} answers)"


# Chat templates

BOUND_S = 90
LOOP = "{% for a in range(99999) %}" * 3 + "X" + "{% endfor %}" * 3
TEMPLATES = {
    "raises": "{{ raise_exception('no, thank you') }}",
    "is no template": "{% for %}",
    "divides by zero": "{{ 1 // 0 }}",
    "calls itself for ever": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "loops for ever, silently": LOOP.replace("X", "{% set b = a %}"),
    "loops for ever, and prints": LOOP.replace("X", "x" * 1000),
    "prints a gigabyte": "{{ 'x' * 1000000000 }}",
    "prints a terabyte": "{{ 'x' * 1000000000000 }}",
    "pads to 40 gigabytes": "{{ 'x' | center(40000000000) }}",
    "takes a large power": "{{ 9 ** 999999999 }}",
}


def template(content: str) -> Callable[[Stage], str]:
    """A run in chat mode ends with one line, in bounded time and memory."""

    def act(stage: Stage) -> str:
        model = stage.copy("model")
        (model / "chat_template.jinja").write_text(content)
        bench = stage.bench(model=model)
        ended = stage.run(bench.arguments("--suite", "instruct"), "tests.tools.attacks.hooks:limit", "RLIMIT_AS",
                          8 << 30, True, seconds=BOUND_S)  # fmt: skip
        words = ended.refused()
        assert "template" in words, words
        return f"{words} ({ended.seconds:.0f} s)"

    return act


for trouble, text in TEMPLATES.items():
    add("models", f"a chat template that {trouble}", template(text), quick=trouble == "raises")
