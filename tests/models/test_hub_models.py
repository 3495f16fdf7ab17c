"""Which of a hub model's files are fetched."""

from __future__ import annotations

import pytest

from evals.core.errors import UserError
from evals.models.hub import model_files


@pytest.mark.parametrize(
    "files",
    [
        "config.json pytorch_model.bin",
        "model.safetensors",
        "config.json model-00001-of-00002.safetensors",
        "config.json model.safetensors.index.json model-00001-of-00002.safetensors",
    ],
)
def test_model_without_safetensors_is_refused(files: str) -> None:
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        model_files("org/model", files.split())
