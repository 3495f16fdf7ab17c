"""Makes a worse copy of a GGUF model, saved as a folder of safetensors: noise, pruning, or fewer bits a weight.

`python tests/support/damaged.py MODEL.gguf FOLDER --noise 0.3` gives the gate something that it must stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GROUP = 32  # weights of a row that share a scale when they are rounded


def damage(source: Path, target: Path, **options: Any) -> Path:
    """One damaged copy, saved in `target` (see `copies`)."""
    copies(source, {target: options})
    return target


def copies(source: Path, targets: Mapping[Path, Mapping[str, Any]]) -> None:
    """Saves damaged copies, {folder: options}; the model is read once."""
    if not targets:
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
        "local_files_only": True,
    }
    config = GgufConfig(gguf_file=source.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=config, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(**place)
    whole = [weight.detach().clone() for weight in model.parameters()]
    for target, options in targets.items():
        with torch.no_grad():
            for weight, undamaged in zip(model.parameters(), whole, strict=True):
                weight.data = undamaged.clone()
            damage_weights(model, **options)
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)


def damage_weights(
    model: Any, noise: float = 0.0, prune: float = 0.0, bits: int | None = None, seed: int = 0
) -> None:
    """Damages every matrix: normal noise in its standard deviations, the smallest share of its weights set to zero,
    rounding to `bits`; without any, nothing.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
            weight.copy_(_rounded(_pruned(weight, prune), bits))


def _pruned(weight: Any, share: float) -> Any:
    count = int(share * weight.numel())
    if not count:
        return weight
    return weight * (weight.abs() > weight.abs().flatten().kthvalue(count).values)


def _rounded(weight: Any, bits: int | None) -> Any:
    if bits is None:
        return weight
    groups = weight.reshape(-1, GROUP)
    scale = groups.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    return ((groups / scale).round() * scale).reshape(weight.shape)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--prune", type=float, default=0.0)
    parser.add_argument("--bits", type=int)
    options = parser.parse_args()
    print(damage(options.source, options.target, noise=options.noise, prune=options.prune, bits=options.bits))
