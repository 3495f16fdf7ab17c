"""Files of models on the Hugging Face hub: configuration, tokenizer and safetensors, never pickle or code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evals.core.errors import UserError
from evals.core.hub_client import fetch

TOKENIZER_FILES = (
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)"
)


def fetch_model(
    hub_id: str, revision: str | None = None, offline: bool = False, weights: bool = True
) -> Path:
    """The folder of a model: configuration, tokenizer and safetensors `weights`, never pickle or code.

    The folder's name is the commit. Raises UserError in one line.
    """
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", hub_id):
        raise UserError(f"'{hub_id}' is no hub id: give ORG/NAME, a known model, or a folder or .gguf file")
    choose = partial(model_files, hub_id, weights=weights)
    return fetch("model", hub_id, revision or "main", choose, offline)[0]


def model_files(hub_id: str, files: Sequence[str], weights: bool = True) -> list[str]:
    """The files of a model repo that a run needs; without `weights`, those that a tokenizer needs.

    Raises UserError when there are no safetensors weights, or not all of their parts.
    """
    small = sorted(name for name in files if re.fullmatch(TOKENIZER_FILES, name))
    if not weights:
        return small
    large = sorted(name for name in files if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name))
    whole = large and int(large[0][15:20]) == len(large) and "model.safetensors.index.json" in files
    large = ["model.safetensors.index.json", *large] if whole else []
    large = ["model.safetensors"] if "model.safetensors" in files else large
    if not large or "config.json" not in small:
        raise UserError(
            f"model {hub_id}: no config.json with safetensors weights in the repo (pickled weights are never "
            "loaded): convert them, or give a folder or .gguf file with --model-path"
        )
    return small + large
