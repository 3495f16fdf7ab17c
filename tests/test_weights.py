"""Weights: what is honest passes, what lies gives one line, and the fingerprint sees content alone."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals import weights
from evals.errors import UserError
from evals.headers import GGML_TYPES, SAFETENSORS_BITS, gguf_header, safetensors_header

CONFIG = {"model_type": "llama", "hidden_size": 4, "vocab_size": 6, "num_hidden_layers": 1}


def safetensors(header: object, data: bytes, length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(dtype: str = "F32", shape: Any = (6, 4), offsets: Any = (0, 96)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HONEST: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "embed": entry(),
    "norm": entry("BF16", [4], [96, 104]),
    "scalar": entry("F32", [], [104, 108]),
}
DATA = bytes(range(108))


def folder(path: Path, files: dict[str, bytes] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    honest = {
        "model.safetensors": safetensors(HONEST, DATA),
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b"{}",
    }
    for name, content in (honest | (files or {})).items():
        (path / name).write_bytes(content)
    return path


def one_line(error: UserError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    return text


# GGUF files, made by hand


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def setting(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def number(key: str, value: int) -> bytes:
    return setting(key, 4, struct.pack("<I", value))


def texts(key: str, values: list[str], claimed: int | None = None) -> bytes:
    count = len(values) if claimed is None else claimed
    return setting(key, 9, struct.pack("<IQ", 8, count) + b"".join(map(text, values)))


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    numbers = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + numbers + struct.pack("<IQ", kind, start)


SETTINGS = [
    setting("general.architecture", 8, text("llama")),
    number("llama.block_count", 1),
    number("llama.embedding_length", 32),
    number("llama.attention.head_count", 4),
    texts("tokenizer.ggml.tokens", ["a", "b"]),
]
TENSORS = [tensor("token_embd.weight", (32, 2)), tensor("blk.0.w", (32, 2), 3, 256)]


def gguf(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 256 + 40,
) -> bytes:
    pairs = SETTINGS if pairs is None else pairs
    tensors = TENSORS if tensors is None else tensors
    head = magic + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


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


# Liars: safetensors

HUGE = 2**62


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (b"", "too few"),
        (b"1234567", "too few"),
        (safetensors(HONEST, DATA, length=2**63), "claims"),
        (safetensors(HONEST, DATA, length=10_000), "claims"),
        (safetensors(HONEST, DATA, length=20), "JSON"),
        (safetensors(HONEST, DATA[:-1]), "cut short"),
        (safetensors(HONEST, DATA + b"x"), "too long"),
        (safetensors(b"[]", b""), "not a JSON object"),
        (safetensors(b"\xff{}", b""), "JSON"),
        (safetensors(b"[" * 100_000, b""), "JSON"),
        (safetensors(b'{"a": 1' + b"0" * 5000 + b"}", b""), "JSON"),
        (safetensors(b'{"a": {}, "a": {}}', b""), "twice"),
        (safetensors({"__metadata__": {"a": 1}}, b""), "metadata"),
        (safetensors({"__metadata__": []}, b""), "metadata"),
        (safetensors({"a": []}, b""), "object"),
        (safetensors({"a": entry("F31")}, bytes(96)), "dtype"),
        (safetensors({"a": entry(["F32"])}, bytes(96)), "dtype"),
        (safetensors({"a": entry(shape=[-6, -4])}, bytes(96)), "shape"),
        (safetensors({"a": entry(shape=[True, 24])}, bytes(96)), "shape"),
        (safetensors({"a": entry(shape=[HUGE, HUGE])}, bytes(96)), "is not 96 bytes"),
        (safetensors({"a": entry(offsets=[96, 0])}, bytes(96)), "is not -96 bytes"),
        (safetensors({"a": entry(offsets=[0, 95])}, bytes(96)), "is not 95 bytes"),
        (safetensors({"a": entry(offsets=[0.0, 96])}, bytes(96)), "offsets"),
        (safetensors({"a": entry(offsets=[0])}, bytes(96)), "offsets"),
        (safetensors({"a": entry(offsets=[HUGE, HUGE + 96])}, bytes(96)), "gap"),
        (safetensors({"a": entry(), "b": entry()}, bytes(96)), "overlaps"),
        (safetensors({"a": entry(offsets=[8, 104])}, bytes(104)), "gap"),
        (safetensors({"x" * 10**5 + "\n\x1b[31m": entry("F31")}, b""), "dtype"),
    ],
)
def test_a_safetensors_file_that_lies_gives_one_line(tmp_path: Path, content: bytes, about: str) -> None:
    path = folder(tmp_path / "m", {"model.safetensors": content})
    with pytest.raises(UserError) as caught:
        weights.check(path)
    assert about in one_line(caught.value)


# Liars: GGUF


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (b"", "cut short"),
        (b"GGUF", "cut short"),
        (gguf(magic=b"GGML"), "begin with GGUF"),
        (gguf(version=1), "version"),
        (gguf(version=0x03000000), "version"),
        (gguf(counts=(2**63, 5)), "claims"),
        (gguf(counts=(2, 2**64 - 1)), "claims"),
        (gguf(counts=(2, 6)), ""),
        (gguf(counts=(3, 5)), ""),
        (gguf(data=100), "cut short"),
        (gguf([*SETTINGS, number("llama.block_count", 1)]), "twice"),
        (gguf([*SETTINGS, texts("llama.block_count", [])]), "twice"),
        (gguf([*SETTINGS, texts("x", ["a"], claimed=2**60)]), "claims"),
        (gguf([*SETTINGS, setting("x", 9, struct.pack("<IQ", 4, 2**61) + b"1234")]), "claims"),
        (gguf([*SETTINGS, setting("x", 9, struct.pack("<IQ", 9, 1))]), "nested"),
        (gguf([*SETTINGS, setting("x", 77, b"")]), "unknown type 77"),
        (gguf([*SETTINGS, setting("x", 8, struct.pack("<Q", 2**63) + b"a")]), "claims"),
        (gguf([*SETTINGS, setting("x", 8, text(b"\xff\xfe"))]), "UTF-8"),
        (gguf([*SETTINGS, number("general.alignment", 0)]), "alignment"),
        (gguf([*SETTINGS, number("general.alignment", 48)]), "alignment"),
        (gguf([*SETTINGS, number("general.alignment", 2**31)]), "aligned"),
        (gguf([*SETTINGS, setting("general.alignment", 8, text("32"))]), "alignment"),
        (gguf(tensors=[tensor("a", (32,) * 5)]), "dimensions"),
        (gguf(tensors=[tensor("a", ())]), "shape"),
        (gguf(tensors=[tensor("a", (0, 2))]), "shape"),
        (gguf(tensors=[tensor("a", (33,), 3)]), "shape"),
        (gguf(tensors=[tensor("a", (32,), 4)]), "unknown type 4"),
        (gguf(tensors=[tensor("a", (2**63, 2**63, 2**63))]), "cut short"),
        (gguf(tensors=[tensor("a", (32,), 0, 2**64 - 32)]), "cut short"),
        (gguf(tensors=[tensor("a", (32,), 0, 4)]), "aligned"),
        (gguf(tensors=[tensor("a", (32,)), tensor("b", (32,))]), "overlaps"),
        (gguf(tensors=[tensor("a", (8,)), tensor("a", (8,), 0, 32)]), "same name"),
        (gguf(SETTINGS[1:]), "architecture"),
        (gguf(SETTINGS[:-1]), "no tokenizer"),
        (gguf([*SETTINGS[:1], number("llama.block_count", 10**9), *SETTINGS[2:]]), "block_count"),
        (gguf([*SETTINGS, number("llama.vocab_size", 10**9)]), "vocab_size"),
        (gguf([*SETTINGS[:3], number("llama.attention.head_count", 0), SETTINGS[4]]), "head_count"),
    ],
)
def test_a_gguf_file_that_lies_gives_one_line(tmp_path: Path, content: bytes, about: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        weights.check(path)
    assert about in one_line(caught.value)


def test_a_lie_costs_no_memory(tmp_path: Path) -> None:
    """Checked in a process that may not grow: what a header claims is not allocated."""
    (tmp_path / "a.gguf").write_bytes(gguf([*SETTINGS, texts("x", ["a"], claimed=2**40)]))
    (tmp_path / "b.gguf").write_bytes(gguf([*SETTINGS, setting("x", 8, struct.pack("<Q", 2**35))]))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.safetensors").write_bytes(safetensors(HONEST, DATA, length=2**35))
    program = """
import resource, sys
from evals import weights
from evals.errors import UserError
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
for path in sys.argv[1:]:
    try:
        weights.check(path)
    except UserError:
        print("one line")
"""
    command = [sys.executable, "-c", program, *map(str, sorted(tmp_path.iterdir()))]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["one line"] * 3 + [""], done.stderr


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


# Fuzz


def refused_or_sound(path: Path, content: bytes, read: Callable[[Path], Any]) -> bool:
    """True if the header passed; it then must fit the file. Anything but UserError fails the test."""
    path.write_bytes(content)
    try:
        header = read(path)
    except UserError as error:
        one_line(error)
        return False
    assert all(0 <= tensor.start <= tensor.end <= len(content) for tensor in header.tensors)
    bits = SAFETENSORS_BITS | {name: 8 * size / block for name, block, size in GGML_TYPES.values()}
    for tensor in header.tensors:
        assert math.isclose(math.prod(tensor.shape) * bits[tensor.dtype], 8 * (tensor.end - tensor.start))
    return True


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_bytes_are_refused(tmp_path: Path, content: bytes, with_length: bool) -> None:
    refused_or_sound(tmp_path / "x.gguf", b"GGUF" + content, gguf_header)
    refused_or_sound(
        tmp_path / "x.safetensors", safetensors(content, b"") if with_length else content, safetensors_header
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*SAFETENSORS_BITS]) | json_values,
        "shape": st.lists(st.integers(-1, 8), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5), entries | json_values, max_size=3), st.integers(0, 64))
def test_headers_of_any_shape_are_refused_or_true(tmp_path: Path, header: dict[str, Any], data: int) -> None:
    refused_or_sound(tmp_path / "x.safetensors", safetensors(header, bytes(data)), safetensors_header)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_headers_are_refused_or_true(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    passed = 0
    for _ in range(250):
        for content, name, read in (
            (gguf(), "x.gguf", gguf_header),
            (safetensors(HONEST, DATA), "x.safetensors", safetensors_header),
        ):
            mutated = bytearray(content)
            for _ in range(generator.choice([1, 1, 2, 8])):
                at = generator.randrange(len(mutated) - 8)
                if generator.random() < 0.5:
                    mutated[at] = generator.randrange(256)
                else:
                    mutated[at : at + 8] = struct.pack(
                        "<Q", generator.choice([0, 1, 2**31, 2**32, 2**63, 2**64 - 1])
                    )
            if generator.random() < 0.3:
                del mutated[generator.randrange(len(mutated)) :]
            passed += refused_or_sound(tmp_path / name, bytes(mutated), read)
    assert 0 < passed < 500


@pytest.mark.model
def test_the_embedded_header_mutated_is_refused_or_true(tmp_path: Path, embedded_path: Path) -> None:
    """The header of a real file before a hole as large as its data, with a byte changed here and there."""
    size = embedded_path.stat().st_size
    with embedded_path.open("rb") as file:
        head = file.read(2_000_000)
    generator = random.Random(5)
    passed = 0
    for _ in range(30):
        mutated = bytearray(head)
        for _ in range(generator.choice([0, 1, 4])):
            mutated[generator.randrange(2500)] = generator.randrange(256)
        path = tmp_path / "x.gguf"
        path.write_bytes(mutated)
        os.truncate(path, size)
        try:
            weights.check(path)
            passed += 1
        except UserError as error:
            one_line(error)
    assert 0 < passed < 30
