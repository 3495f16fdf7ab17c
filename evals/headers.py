"""Headers of weight files, believed only after they were checked against the file: safetensors and GGUF.

Nothing is allocated by a size that a header claims before the file is known to hold that much. Every lie is a
UserError. Sources: the format notes of the safetensors and ggml projects.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from evals.errors import UserError

MAX_JSON_BYTES = 100_000_000  # what the safetensors library allows for a header
MAX_NAME_BYTES = 2**16
MAX_DIMENSIONS = 4  # ggml

# Bits of an element.
SAFETENSORS_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

# ggml's tensor types: number -> name, elements a block, bytes a block.
GGML_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

_GGUF_SCALARS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_GGUF_LEAST_PAIR, _GGUF_LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8  # bytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as its header describes it; ``start`` and ``end`` are bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. ``metadata`` holds GGUF's scalars and texts; of an array, its length as ``key[]``."""

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, Any]


def safetensors_header(path: Path) -> Header:
    """Read and check the header of a safetensors file. Raises UserError."""
    wrong = _complaint(path)
    with _opened(path) as file:
        size = path.stat().st_size
        first = file.read(8)
        if len(first) < 8:
            wrong(f"{size} bytes are too few for a header")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - 8, MAX_JSON_BYTES):
            wrong(f"the header claims {length} bytes, the file has {size}")
        content = file.read(length)
    entries = parse_json_object(content, wrong)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        wrong("its metadata is not text")
    tensors = tuple(_safetensor(name, entry, wrong) for name, entry in entries.items())
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != end:
            wrong(f"tensor {shown(tensor.name)} overlaps another or leaves a gap")
        end = tensor.end
    if end != size - 8 - length:
        wrong(f"its tensors need {end} bytes, the file holds {size - 8 - length}: cut short or too long")
    return Header(tensors, metadata)


def _safetensor(name: str, entry: Any, wrong: Callable[[str], NoReturn]) -> Tensor:
    if not isinstance(entry, dict):
        wrong(f"tensor {shown(name)} is not described by an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_BITS:
        wrong(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not isinstance(shape, list) or not all(_is_size(number) for number in shape):
        wrong(f"tensor {shown(name)} has no valid shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(number) for number in offsets):
        wrong(f"tensor {shown(name)} has no valid offsets")
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * SAFETENSORS_BITS[dtype]:
        wrong(f"tensor {shown(name)}: {dtype} of shape {shown(shape)} is not {end - start} bytes")
    return Tensor(name, dtype, tuple(shape), start, end)


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63


def gguf_header(path: Path) -> Header:
    """Read and check the header of a GGUF file (versions 2 and 3, little-endian). Raises UserError."""
    wrong = _complaint(path)
    with _opened(path) as file:
        cursor = _Cursor(file, path.stat().st_size, wrong)
        if cursor.take(4) != b"GGUF":
            wrong("it does not begin with GGUF")
        version = cursor.number("I")
        if version not in (2, 3):
            wrong(f"its version {version} is not 2 or 3 (or it is big-endian)")
        n_tensors, n_pairs = cursor.number("Q"), cursor.number("Q")
        if n_tensors * _GGUF_LEAST_TENSOR + n_pairs * _GGUF_LEAST_PAIR > cursor.left:
            wrong(
                f"it claims {n_tensors} tensors and {n_pairs} settings, more than its {cursor.size} bytes hold"
            )
        metadata: dict[str, Any] = {}
        for _ in range(n_pairs):
            key = cursor.text(MAX_NAME_BYTES)
            kind = cursor.number("I")
            if key in metadata or f"{key}[]" in metadata:
                wrong(f"the setting {shown(key)} comes twice")
            if kind == _GGUF_ARRAY:
                metadata[f"{key}[]"] = _skip_array(cursor, key)
            else:
                metadata[key] = _scalar(cursor, kind, key)
        tensors = [_gguf_tensor(cursor) for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            wrong(f"its alignment {shown(alignment)} is not a power of two")
        data = cursor.size - (-(-cursor.position // alignment) * alignment)
    _check_places(tensors, data, alignment, wrong)
    return Header(tuple(tensors), metadata)


def _check_places(tensors: list[Tensor], data: int, alignment: int, wrong: Callable[[str], NoReturn]) -> None:
    if len({tensor.name for tensor in tensors}) < len(tensors):
        wrong("two tensors have the same name")
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start % alignment or tensor.start < end:
            wrong(f"tensor {shown(tensor.name)} overlaps another or is not aligned")
        end = tensor.end
    if end > data:
        wrong(f"its tensors need {end} bytes, the file holds {max(data, 0)}: cut short")


class _Cursor:
    """Reads forward through a file, never past what it holds."""

    def __init__(self, file: BinaryIO, size: int, wrong: Callable[[str], NoReturn]) -> None:
        self.file, self.size, self.wrong = file, size, wrong
        self.position = 0

    @property
    def left(self) -> int:
        return self.size - self.position

    def take(self, count: int) -> bytes:
        if count > self.left:
            self.wrong(f"at byte {self.position} it claims {count} bytes and has {self.left}: cut short")
        content = self.file.read(count)
        if len(content) != count:
            self.wrong("it changed while it was read")
        self.position += count
        return content

    def number(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return value

    def text(self, limit: int | None = None) -> str:
        length = self.number("Q")
        if limit is not None and length > limit:
            self.wrong(f"at byte {self.position} a name claims {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            self.wrong(f"at byte {self.position} a text is not UTF-8")


def _scalar(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind == _GGUF_STRING:
        return cursor.text()
    if kind not in _GGUF_SCALARS:
        cursor.wrong(f"the setting {shown(key)} has the unknown type {kind}")
    return cursor.number(_GGUF_SCALARS[kind])


def _skip_array(cursor: _Cursor, key: str) -> int:
    """Check an array by walking over it; its length."""
    kind, length = cursor.number("I"), cursor.number("Q")
    if kind == _GGUF_STRING:
        if length * 8 > cursor.left:
            cursor.wrong(f"the setting {shown(key)} claims {length} texts, more than the file holds")
        for _ in range(length):
            cursor.text()
    elif kind in _GGUF_SCALARS:
        cursor.take(length * struct.calcsize(f"<{_GGUF_SCALARS[kind]}"))
    else:
        cursor.wrong(f"the setting {shown(key)} is an array of the unknown or nested type {kind}")
    return int(length)


def _gguf_tensor(cursor: _Cursor) -> Tensor:
    name = cursor.text(MAX_NAME_BYTES)
    dimensions = cursor.number("I")
    if dimensions > MAX_DIMENSIONS:
        cursor.wrong(f"tensor {shown(name)} claims {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    kind, start = cursor.number("I"), cursor.number("Q")
    if kind not in GGML_TYPES:
        cursor.wrong(f"tensor {shown(name)} has the unknown type {kind}")
    dtype, block, block_bytes = GGML_TYPES[kind]
    if not shape or 0 in shape or shape[0] % block:
        cursor.wrong(f"tensor {shown(name)}: {dtype} cannot have the shape {shown(list(shape))}")
    return Tensor(name, dtype, shape, start, start + math.prod(shape) // block * block_bytes)


# Shared with the checks of JSON files ---------------------------------------------------------------------------


def parse_json_object(content: bytes, wrong: Callable[[str], NoReturn]) -> dict[str, Any]:
    """A JSON object without repeated keys, or ``wrong`` is called with what it is instead."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            raise ValueError("a key comes twice")
        return parsed

    try:
        parsed = json.loads(content.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        wrong(f"it is not valid JSON ({shown(str(error))})")
    if not isinstance(parsed, dict):
        wrong("it is not a JSON object")
    return parsed


def shown(value: object) -> str:
    """Something hostile as a short piece of a line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _complaint(path: Path) -> Callable[[str], NoReturn]:
    def wrong(what: str) -> NoReturn:
        raise UserError(f"weights '{path}': {what}; download or convert the file again")

    return wrong


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"weights '{path}' cannot be read: {error.strerror}") from error
