"""Headers of weight files that lie: one line each, and nothing allocated."""

from __future__ import annotations

import math
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals.core.errors import UserError
from evals.models import weights
from tests.support.weight_files import (
    DATA,
    HONEST,
    SETTINGS,
    entry,
    folder,
    gguf,
    number,
    one_line,
    safetensors,
    setting,
    tensor,
    text,
    texts,
)

# Liars: safetensors

HUGE = 2**62


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (b"", "too small"),
        (b"1234567", "too small"),
        (safetensors(HONEST, DATA, length=2**63), "too large"),
        (safetensors(HONEST, DATA, length=10_000), "header length"),
        (safetensors(HONEST, DATA, length=20), "JSON"),
        (safetensors(HONEST, DATA[:-1]), "not fully covered"),
        (safetensors(HONEST, DATA + b"x"), "not fully covered"),
        (safetensors(b"[]", b""), "JSON"),
        (safetensors(b"\xff{}", b""), "UTF-8"),
        (safetensors(b"[" * 100_000, b""), "JSON"),
        (safetensors(b'{"a": 1' + b"0" * 5000 + b"}", b""), "JSON"),
        (safetensors(b'{"a": {}, "a": {}}', b""), "dtype"),
        (safetensors({"__metadata__": {"a": 1}}, b""), "expected a string"),
        (safetensors({"__metadata__": []}, b""), "expected a map"),
        (safetensors({"a": []}, b""), "TensorInfo"),
        (safetensors({"a": entry("F31")}, bytes(96)), "unknown variant"),
        (safetensors({"a": entry(["F32"])}, bytes(96)), "invalid type"),
        (safetensors({"a": entry(shape=[-6, -4])}, bytes(96)), "expected usize"),
        (safetensors({"a": entry(shape=[True, 24])}, bytes(96)), "expected usize"),
        (safetensors({"a": entry(shape=[HUGE, HUGE])}, bytes(96)), "overflow"),
        (safetensors({"a": entry(offsets=[96, 0])}, bytes(96)), "invalid offset"),
        (safetensors({"a": entry(offsets=[0, 95])}, bytes(96)), "invalid shape"),
        (safetensors({"a": entry(offsets=[0.0, 96])}, bytes(96)), "expected usize"),
        (safetensors({"a": entry(offsets=[0])}, bytes(96)), "tuple of size 2"),
        (safetensors({"a": entry(offsets=[HUGE, HUGE + 96])}, bytes(96)), "invalid offset"),
        (safetensors({"a": entry(), "b": entry()}, bytes(96)), "invalid offset"),
        (safetensors({"a": entry(offsets=[8, 104])}, bytes(104)), "invalid offset"),
        (safetensors({"x" * 10**5 + "\n\x1b[31m": entry("F31")}, b""), "unknown variant"),
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
        (b"", "empty"),
        (b"GGUF", "cut short"),
        (gguf(magic=b"GGML"), "magic"),
        (gguf(version=1), "version"),
        (gguf(version=0x03000000), ""),
        (gguf(counts=(2**63, 5)), ""),
        (gguf(counts=(2, 2**64 - 1)), "cut short"),
        (gguf(counts=(2, 6)), ""),
        (gguf(counts=(3, 5)), ""),
        (gguf(data=100), "cut short"),
        (gguf([*SETTINGS, number("llama.block_count", 1)]), "Duplicate"),
        (gguf([*SETTINGS, texts("llama.block_count", [])]), "Duplicate"),
        (gguf([*SETTINGS, texts("x", ["a"], claimed=2**60)]), "claims"),
        (gguf([*SETTINGS, setting("x", 9, struct.pack("<IQ", 4, 2**61) + b"1234")]), "claims"),
        (gguf([*SETTINGS, setting("x", 9, struct.pack("<IQ", 9, 1))]), "ARRAY"),
        (gguf([*SETTINGS, setting("x", 77, b"")]), "77"),
        (gguf([*SETTINGS, setting("x", 8, struct.pack("<Q", 2**63) + b"a")]), "claims"),
        (gguf([*SETTINGS, setting("x", 8, text(b"\xff\xfe"))]), "utf-8"),
        (gguf([*SETTINGS, number("general.alignment", 0)]), "alignment"),
        (gguf([*SETTINGS, number("general.alignment", 48)]), "alignment"),
        (gguf([*SETTINGS, number("general.alignment", 2**31)]), "cut short"),
        (gguf([*SETTINGS, setting("general.alignment", 8, text("32"))]), "alignment"),
        (gguf(tensors=[tensor("a", (32,) * 5)]), "cut short"),
        (gguf(tensors=[tensor("a", ())]), "embedding_length"),
        (gguf(tensors=[tensor("a", (0, 2))]), "embedding_length"),
        (gguf(tensors=[tensor("a", (33,), 3)]), "block size"),
        (gguf(tensors=[tensor("a", (32,), 4)]), "(4)"),
        (gguf(tensors=[tensor("a", (2**63, 2**63, 2**63))]), "dimension"),
        (gguf(tensors=[tensor("a", (32,), 0, 2**64 - 32)]), "overflow"),
        (gguf(tensors=[tensor("a", (32,), 0, 4)]), "aligned"),
        (gguf(tensors=[tensor("a", (32,)), tensor("b", (32,))]), "overlaps"),
        (gguf(tensors=[tensor("a", (8,)), tensor("a", (8,), 0, 32)]), "duplicated"),
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
from evals.models import weights
from evals.core.errors import UserError
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
for path in sys.argv[1:]:
    try:
        weights.check(path)
    except UserError:
        print("one line")
"""
    command = [sys.executable, "-c", program, *map(str, sorted(tmp_path.iterdir()))]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["one line"] * 3 + [""], done.stderr


# Fuzz


BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
}
BITS |= dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8) | dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
BITS |= dict.fromkeys(("U32", "I32", "F32"), 32) | dict.fromkeys(("U64", "I64", "F64", "C64"), 64)


def refused_or_sound(path: Path, content: bytes) -> bool:
    """True if the header passed; it then must fit the file. Anything but UserError fails the test."""
    path.write_bytes(content)
    try:
        if path.suffix == ".gguf":
            weights.check(path)
            return True
        header = weights.safetensors(path)
    except UserError as error:
        one_line(error)
        return False
    size = sum(math.prod(shape) * BITS[dtype] for dtype, shape in header.values()) // 8
    assert size == len(content) - 8 - int.from_bytes(content[:8], "little")
    return True


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_bytes_are_refused(tmp_path: Path, content: bytes, with_length: bool) -> None:
    refused_or_sound(tmp_path / "x.gguf", b"GGUF" + content)
    refused_or_sound(tmp_path / "x.safetensors", safetensors(content, b"") if with_length else content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*BITS]) | json_values,
        "shape": st.lists(st.integers(-1, 8), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5), entries | json_values, max_size=3), st.integers(0, 64))
def test_headers_of_any_shape_are_refused_or_true(tmp_path: Path, header: dict[str, Any], data: int) -> None:
    refused_or_sound(tmp_path / "x.safetensors", safetensors(header, bytes(data)))


@pytest.mark.parametrize("seed", range(4))
def test_mutated_headers_are_refused_or_true(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    passed = 0
    for _ in range(250):
        for content, name in ((gguf(), "x.gguf"), (safetensors(HONEST, DATA), "x.safetensors")):
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
            passed += refused_or_sound(tmp_path / name, bytes(mutated))
    assert 0 < passed < 500


@pytest.mark.slow
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
