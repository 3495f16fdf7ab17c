"""Weights: what is honest passes, and what lies gives one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors.numpy import save_file

from evals.core.errors import UserError
from evals.models import weights
from tests.support.weight_files import (
    CONFIG,
    SETTINGS,
    entry,
    folder,
    gguf,
    number,
    one_line,
    safetensors,
    tensor,
)

# Honest files


def test_an_honest_folder_passes(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    assert weights.check(path) is None
    assert weights.find(path) == [path / "model.safetensors"]
    assert weights.safetensors(path / "model.safetensors") == {
        "embed": ("F32", [6, 4]),
        "norm": ("BF16", [4]),
        "scalar": ("F32", []),
    }


def test_an_honest_gguf_passes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf())
    assert weights.check(path) is weights.check(tmp_path) is None
    assert weights.find(tmp_path) == [path]


def test_what_the_safetensors_library_writes_passes(tmp_path: Path) -> None:
    arrays = {name: np.zeros(shape, "float16") for name, shape in (("a", (3, 5)), ("b", ()), ("c", (0, 4)))}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = weights.safetensors(tmp_path / "model.safetensors")
    assert found == {"a": ("F16", [3, 5]), "b": ("F16", []), "c": ("F16", [0, 4])}


@pytest.mark.model
def test_the_embedded_model_passes(embedded_path: Path) -> None:
    assert weights.check(embedded_path) == "Q4_1"


@pytest.mark.parametrize(
    ("types", "file_type", "expected"),
    [
        ([(0, 64)], None, None),
        ([(1, 64), (0, 32)], 1, None),
        ([(3, 64), (0, 32)], 3, "Q4_1"),
        ([(3, 64)], 1, "Q4_1"),  # its word against its tensors
        ([(12, 512), (14, 256)], 15, "Q4_K_M"),
        ([(12, 512), (14, 256)], 99, "Q4_K"),
    ],
)
def test_quantization_is_read_from_the_tensors(
    tmp_path: Path, types: list[tuple[int, int]], file_type: int | None, expected: str | None
) -> None:
    start, tensors = 0, []
    for index, (kind, elements) in enumerate(types):
        tensors.append(
            tensor(f"t{index}", (32, elements // 32) if elements < 256 else (elements,), kind, start)
        )
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        start += -(-elements // block * size // 32) * 32
    pairs = [*SETTINGS] if file_type is None else [*SETTINGS, number("general.file_type", file_type)]
    (tmp_path / "m.gguf").write_bytes(gguf(pairs, tensors, data=start))
    assert weights.check(tmp_path / "m.gguf") == expected


def test_quantized_safetensors_are_refused(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(UserError, match="give plain weights"):
        weights.check(folder(tmp_path / "m", {"config.json": json.dumps(config).encode()}))


# Folders


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.PTH", "x.ckpt", "x.pkl"])
def test_pickles_are_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "m")
    (path / "model.safetensors").unlink()
    (path / name).mkdir()  # opening it would fail in another way
    with pytest.raises(UserError, match="pickle"):
        weights.check(path)
    (path / name).rmdir()
    (path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="pickle"):
        weights.check(path / name)


def index(*names: object) -> bytes:
    return json.dumps({"weight_map": {f"t{place}": name for place, name in enumerate(names)}}).encode()


@pytest.mark.parametrize(
    "names",
    [
        ["../model.safetensors"],
        ["/etc/passwd"],
        ["a\\b.safetensors"],
        [".."],
        [".safetensors"],
        ["model.bin"],
        [7],
        [None],
        [["a"]],
        ["absent.safetensors"],
        ["model.safetensors\n"],
        [],
    ],
)
def test_an_index_stays_in_its_folder(tmp_path: Path, names: list[object]) -> None:
    path = folder(tmp_path / "m", {"model.safetensors.index.json": index(*names)})
    shutil.copy(path / "model.safetensors", tmp_path)
    with pytest.raises(UserError) as caught:
        weights.check(path)
    one_line(caught.value)


def test_shards_are_found(tmp_path: Path) -> None:
    shards = {
        f"model-0000{part}.safetensors": safetensors({f"t{part - 1}": entry()}, bytes(96)) for part in (1, 2)
    }
    path = folder(tmp_path / "m", shards | {"model.safetensors.index.json": index(*shards)})
    assert [file.name for file in weights.find(path)] == list(shards)
    assert weights.check(path) is None


@pytest.mark.parametrize(
    ("config", "about"),
    [
        (b"", "JSON"),
        (b"[1]", "object"),
        (json.dumps(CONFIG | {"num_hidden_layers": 10**9}).encode(), "num_hidden_layers"),
        (json.dumps(CONFIG | {"vocab_size": 7}).encode(), "vocab_size"),
        (json.dumps(CONFIG | {"hidden_size": -1}).encode(), "hidden_size"),
        (json.dumps(CONFIG | {"hidden_size": "4"}).encode(), "hidden_size"),
        (json.dumps(CONFIG | {"text_config": {"vocab_size": 10**12}}).encode(), "vocab_size"),
    ],
)
def test_a_config_that_asks_for_too_much_is_refused(tmp_path: Path, config: bytes, about: str) -> None:
    with pytest.raises(UserError) as caught:
        weights.check(folder(tmp_path / "m", {"config.json": config}))
    assert about in one_line(caught.value)


def test_an_adapter_that_would_not_be_applied_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "model", {"adapter_config.json": b"{}"})
    with pytest.raises(UserError, match="holds an adapter") as caught:
        weights.check(tmp_path / "model")
    one_line(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    path = folder(tmp_path / "m")
    (path / missing).unlink()
    with pytest.raises(UserError, match=missing):
        weights.check(path)


@pytest.mark.parametrize("name", ["absent", "x" * 5000, "a\0b", "../..", ""])
def test_a_path_that_is_no_model_gives_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        weights.check(tmp_path / name)


def test_two_ggufs_in_a_folder_ask_for_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(gguf())
    with pytest.raises(UserError, match="give one of them"):
        weights.find(tmp_path)
