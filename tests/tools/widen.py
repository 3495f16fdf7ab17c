"""The embedded weights in the shape of SmolLM2-360M: its speed with answers of a real length, for machines without it.

    python tests/tools/widen.py FOLDER [--model FILE.gguf]

Neurons, heads, hidden dimensions and layers are added whose outputs are multiplied by zero, so the model computes what
it computed before, with the work of the larger shape. Its scores are those of the small model: good for timing alone.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE_360M = {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
}
BY_ZERO = ("o_proj", "down_proj")  # what multiplies the outputs of added heads and neurons


@torch.no_grad()
def widen(model: LlamaForCausalLM, shape: dict[str, int] = SHAPE_360M) -> LlamaForCausalLM:
    """A model of ``shape`` that computes what ``model`` does, in its dtype.

    Heads keep their size, and as many share keys as before. Added weights are random (std 0.02) wherever that changes
    no output: products of zeros would flatter a GPU.
    """
    old = model.config
    if shape["num_attention_heads"] * old.num_key_value_heads != (
        shape["num_key_value_heads"] * old.num_attention_heads
    ):
        raise ValueError("heads that share keys must be as many as before")
    ratio = old.hidden_size / shape["hidden_size"]
    config = LlamaConfig.from_dict(
        {
            **old.to_dict(),
            **shape,
            "head_dim": old.head_dim,
            "rms_norm_eps": old.rms_norm_eps
            * ratio,  # a mean over more dimensions, of which the added are zero
        }
    )
    wide = LlamaForCausalLM(config).to(next(model.parameters()).dtype).eval()
    own = model.state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, weight in wide.state_dict().items():
        if weight.dim() == 1:
            weight.fill_(math.sqrt(ratio))
            if name in own:
                weight[: own[name].shape[0]] = own[name] * math.sqrt(ratio)
            continue
        if "embed" in name or "lm_head" in name or any(part in name for part in BY_ZERO):
            weight.zero_()
        else:
            weight.copy_(torch.empty(weight.shape).normal_(std=0.02, generator=generator))
        if name in own:
            rows, columns = own[name].shape
            weight[:rows, :columns] = own[name]
    wide.generation_config = model.generation_config
    return wide


def main() -> None:
    """Writes the folder."""
    from evals.models.known import resolve
    from evals.models.loading import load

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a .gguf file or folder of a Llama model (default: the embedded one)")
    args = parser.parse_args()
    loaded = load(Path(resolve(args.model).location), torch.device("cpu"), "bfloat16")
    wide = widen(loaded.model)
    wide.save_pretrained(args.folder)
    loaded.tokenizer.save_pretrained(args.folder)
    print(f"{sum(weight.numel() for weight in wide.parameters()):,} parameters")


if __name__ == "__main__":
    main()
