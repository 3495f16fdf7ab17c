"""Weight files made by hand, honest and not."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from evals.core.errors import UserError

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
