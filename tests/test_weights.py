"""Weights: what is honest passes, what lies gives one line, and the fingerprint sees content alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evals import weights
from evals.errors import UserError
from evals.headers import GGML_TYPES, safetensors_header
from tests.weight_files import (
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


def test_an_honest_folder_passes_and_is_described(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    assert weights.check(path) == []
    assert weights.find(path) == [path / "model.safetensors"]
    described = weights.describe(path)
    assert (described.format, described.parameters, described.quantization) == ("safetensors", 29, None)


def test_an_honest_gguf_passes_and_is_described(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf())
    assert weights.check(path) == []
    assert weights.check(tmp_path) == []
    assert weights.describe(path).parameters == 128
    assert weights.describe(path).size == len(gguf())


def test_what_the_safetensors_library_writes_passes(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors.numpy")
    arrays = {
        name: numpy.zeros(shape, "float16") for name, shape in (("a", (3, 5)), ("b", ()), ("c", (0, 4)))
    }
    path = folder(tmp_path / "m")
    library.save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
    header = safetensors_header(path / "model.safetensors")
    assert {tensor.name: tensor.shape for tensor in header.tensors} == {"a": (3, 5), "b": (), "c": (0, 4)}


@pytest.mark.model
def test_the_embedded_model_passes(embedded_path: Path) -> None:
    assert weights.check(embedded_path) == []
    described = weights.describe(embedded_path)
    assert described.parameters == 134_515_008
    assert described.quantization == "Q4_1"
    assert described.size == embedded_path.stat().st_size


def test_types_are_those_of_the_gguf_library() -> None:
    constants = pytest.importorskip("gguf.constants")
    known = {
        kind.value: (kind.name, *constants.GGML_QUANT_SIZES[kind]) for kind in constants.GGMLQuantizationType
    }
    assert {number: known[number] for number in GGML_TYPES} == GGML_TYPES


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
        tensors.append(tensor(f"t{index}", (elements,), kind, start))
        _, block, size = GGML_TYPES[kind]
        start += -(-elements // block * size // 32) * 32
    pairs = [*SETTINGS] if file_type is None else [*SETTINGS, number("general.file_type", file_type)]
    (tmp_path / "m.gguf").write_bytes(gguf(pairs, tensors, data=start))
    assert weights.quantization(tmp_path / "m.gguf") == expected


def test_quantized_safetensors_name_their_method(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "gptq"}}
    path = folder(tmp_path / "m", {"config.json": json.dumps(config).encode()})
    assert weights.quantization(path) == "gptq"


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
        ["model.safetensors"],  # holds no tensor t0
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
    assert weights.check(path) == []
    assert weights.describe(path).parameters == 48


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
        (json.dumps(CONFIG | {"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}).encode(), "not run"),
    ],
)
def test_a_config_that_asks_for_too_much_is_refused(tmp_path: Path, config: bytes, about: str) -> None:
    with pytest.raises(UserError) as caught:
        weights.check(folder(tmp_path / "m", {"config.json": config}))
    assert about in one_line(caught.value)


def test_code_that_is_not_needed_is_a_note(tmp_path: Path) -> None:
    config = json.dumps(CONFIG | {"auto_map": {"AutoModel": "x.Y"}}).encode()
    (note,) = weights.check(folder(tmp_path / "m", {"config.json": config}))
    assert "not run" in note


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


# Fingerprint


def test_the_fingerprint_is_of_content_and_not_of_place(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a"), folder(tmp_path / "deep" / "b", {"README.md": b"other"})
    os.utime(second / "config.json", (0, 0))
    assert weights.fingerprint(first) == weights.fingerprint(second)
    (tmp_path / "a.gguf").write_bytes(gguf())
    (tmp_path / "b.gguf").write_bytes(gguf())
    assert weights.fingerprint(tmp_path / "a.gguf") == weights.fingerprint(tmp_path / "b.gguf")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: _flip(path / "model.safetensors", -1),
        lambda path: _flip(path / "config.json", -2),
        lambda path: _flip(path / "tokenizer.json", 0),
        lambda path: (path / "generation_config.json").write_bytes(b"{}"),
        lambda path: (path / "chat_template.jinja").write_bytes(b"hi"),
        lambda path: (path / "tokenizer.json").rename(path / "tokenizer.model"),
    ],
)
def test_any_change_of_the_model_is_another_fingerprint(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = folder(tmp_path / "m")
    before = weights.fingerprint(path)
    assert before.startswith("sha256:")
    assert len(before) == 71
    change(path)
    assert weights.fingerprint(path) != before


def _flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_the_gguf_loader_makes_its_table_of_names_once() -> None:
    import gguf

    from evals.adapters.loading import _gguf_read_once

    arch, original = gguf.MODEL_ARCH.LLAMA, gguf.get_tensor_name_map
    with _gguf_read_once(), _gguf_read_once():
        assert gguf.get_tensor_name_map(arch, 2) is gguf.get_tensor_name_map(arch, 2)
        assert gguf.get_tensor_name_map(arch, 3).get_name("model.layers.2.mlp.up_proj") == "blk.2.ffn_up"
    assert gguf.get_tensor_name_map is original
    assert gguf.get_tensor_name_map(arch, 2) is not gguf.get_tensor_name_map(arch, 2)
