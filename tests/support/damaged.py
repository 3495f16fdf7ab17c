"""Makes a worse copy of a GGUF model: noise on its weights, saved as a folder of safetensors.

`python tests.support.damaged.py MODEL.gguf FOLDER --noise 0.3` gives the gate something that it must stop.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def damage(source: Path, target: Path, noise: float, seed: int = 0) -> Path:
    """Adds normal noise, in standard deviations of each matrix, to the MLPs; noise 0 is a plain copy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
        "local_files_only": True,
    }
    config = GgufConfig(gguf_file=source.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".mlp." in name and weight.dim() == 2:
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(**place).save_pretrained(target)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--noise", type=float, default=0.3)
    options = parser.parse_args()
    print(damage(options.source, options.target, options.noise))
