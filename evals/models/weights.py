"""Weights on disk: which files they are, whether they can be trusted, and what identifies them.

Only safetensors and GGUF are read, by their own libraries: formats that hold numbers, and nothing that runs. Needs no
torch, so that a broken file is found before that is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import safe_open

from evals.core.errors import UserError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FULL_PRECISION = ("F64", "F32", "F16", "BF16")
_NO_PICKLE = (
    "pickles such as .bin or .pt can run any code and are never read: save_pretrained writes safetensors"
)
# Everything beside the weights that decides what a model says.
_PART_OF_THE_MODEL = re.compile(
    r"config\.json|generation_config\.json|tokenizer.*|vocab\..*|merges\.txt|special_tokens_map\.json"
    r"|added_tokens\.json|spiece\.model|sentencepiece.*\.model|chat_template\..*|preprocessor_config\.json"
)
_TOKENIZER = re.compile(r"tokenizer\.(json|model|tiktoken)|spiece\.model|vocab\.(json|txt)")
_LAYERS = re.compile(r"num_hidden_layers|n_layer|num_layers|block_count")
_WIDTHS = re.compile(
    r"hidden_size|n_embd|d_model|vocab_size|intermediate_size|n_inner|ffn_dim|embedding_length|feed_forward_length"
    r"|attention\.head_count(_kv)?|rope\.dimension_count"
)

Tensors = dict[str, tuple[str, list[int]]]  # name -> dtype, shape


def find(path: Path | str) -> list[Path]:
    """The weight files of a model folder, or the GGUF file itself. Raises UserError."""
    path = Path(path)
    with one_line(path):
        if (path / INDEX).is_file():
            return sorted({path / name for name in _shards(path / INDEX)})
        if (path / SINGLE).is_file():
            return [path / SINGLE]
        if path.is_file() and path.suffix == ".gguf":
            return [path]
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) > 1:
            raise UserError(
                f"'{path}' holds {len(ggufs)} GGUF files: give one of them, such as {ggufs[0].name}"
            )
        if not ggufs:
            raise UserError(
                f"no weights at '{path}': give a .gguf file or a folder with {SINGLE} ({_NO_PICKLE})"
            )
        return ggufs


def _shards(index: Path) -> list[str]:
    """The files that an index names, which may not lie elsewhere."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"'{index}': it has no weight_map")
    for name in map(str, shards.values()):
        if not re.fullmatch(r"\w[\w.-]*\.safetensors", name, re.ASCII):
            raise UserError(
                f"'{index}': {shown(name)} is not the name of a safetensors file in the same folder"
            )
        if not (index.parent / name).is_file():
            raise UserError(f"'{index}': the file '{name}' is missing: download it")
    return list(shards.values())


def check(path: Path | str) -> str | None:
    """Refuse weights that cannot be trusted, before anything is allocated by their word; their quantization ("Q4_1").

    None for 16 bits or more. Raises UserError: pickles, headers that do not fit the file, shards that are missing or
    elsewhere, a config that asks for more than the weights hold, no tokenizer.
    """
    files = find(path)
    if files[0].suffix == ".gguf":
        return _check_gguf(files[0])
    if files[0].with_name("adapter_config.json").exists():
        raise UserError(
            f"'{path}' holds an adapter (adapter_config.json), which is not applied: merge it into the weights and "
            "save them alone, or remove it"
        )
    config = read_json(files[0].with_name("config.json"))
    found = {name: tensor for file in files for name, tensor in safetensors(file).items()}
    for part in (config, *config.values()):
        _check_sizes(part if isinstance(part, dict) else {}, found, files[0].with_name("config.json"))
    if not any(_TOKENIZER.fullmatch(file.name) for file in beside(files)):
        raise UserError(f"no tokenizer in '{files[0].parent}': add its tokenizer.json")
    if config.get("quantization_config"):
        raise UserError(f"'{path}' is quantised in a way that is not supported: give plain weights")
    return _quantization(found)


def _check_gguf(file: Path) -> str | None:
    with one_line(file), np.errstate(over="raise"):
        reader = Reader(file)
        arrays = {key for key, field in reader.fields.items() if field.types[0] == gguf.GGUFValueType.ARRAY}
        settings = {key: field.contents() for key, field in reader.fields.items() if key not in arrays}
        end = reader.data_offset
        for one in sorted(reader.tensors, key=lambda tensor: tensor.data_offset):
            if one.data_offset < end or one.data_offset % reader.alignment:
                raise ValueError(f"tensor {one.name} overlaps another or is not aligned")
            end = one.data_offset + one.n_bytes
    found: Tensors = {one.name: (one.tensor_type.name, one.shape.tolist()) for one in reader.tensors}
    family, tokens = settings.get("general.architecture"), "tokenizer.ggml.tokens"
    if not isinstance(family, str) or tokens not in arrays or not len(reader.fields[tokens].data):
        raise UserError(f"'{file}': it does not name its architecture, or holds no tokenizer")
    own = {key.removeprefix(f"{family}."): value for key, value in settings.items()}
    _check_sizes({"block_count": 0, "embedding_length": 0, "attention.head_count": 0} | own, found, file)
    name, named = _quantization(found), settings.get("general.file_type")
    if name and named in list(gguf.LlamaFileType):  # its word only tells _M from _S
        whole = gguf.LlamaFileType(named).name.removeprefix("MOSTLY_")
        return whole if whole.startswith(name) else name
    return name


def _check_sizes(settings: Mapping[str, Any], found: Tensors, file: Path) -> None:
    """The model is built by these sizes: none may be beyond what the weights hold."""
    largest = max((size for _, shape in found.values() for size in shape), default=0)
    for key, value in settings.items():
        bound = len(found) if _LAYERS.fullmatch(key) else largest if _WIDTHS.fullmatch(key) else None
        if bound is None or value is None or isinstance(value, list):  # a list has one for each layer
            continue
        if type(value) is not int or not 0 < value <= bound:
            raise UserError(f"'{file}': {key} is {shown(value)}, which the weights do not hold")


def _quantization(found: Tensors) -> str | None:
    """By what most of the numbers are, not by what the file says."""
    counts: Counter[str] = Counter()
    for dtype, shape in found.values():
        counts[dtype] += math.prod(shape)
    common = counts.most_common(1)[0][0] if counts else FULL_PRECISION[0]
    return None if common in FULL_PRECISION else common


def safetensors(file: Path) -> Tensors:
    """The tensors of a safetensors file, in the order of their data. Raises UserError if they do not fill the file."""
    with one_line(file), safe_open(file, framework="np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
        return {name: (str(one.get_dtype()), one.get_shape()) for name, one in slices.items()}


class Reader(gguf.GGUFReader):
    """gguf's own reader, but what lies outside of the file is an error, and an array is a list of its values.

    The library's `_get` gives less than it was asked for, without a word, and it makes two numpy arrays of every text:
    seconds for a vocabulary.
    """

    def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError(f"at byte {offset} it claims more than there is: cut short")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        begin = orig_offs + 12
        if kind == gguf.GGUFValueType.STRING:
            values, end = self._texts(begin, count)
        else:
            numbers = self._get(begin, self.gguf_scalar_to_np[kind], count)
            values, end = numbers.tolist(), begin + numbers.nbytes
        return end - orig_offs, values, range(count), [raw_type, kind]

    def _texts(self, end: int, count: int) -> tuple[list[str], int]:
        """The texts that begin at a byte of the file, and the byte after them."""
        order: Any = "big" if self.endianess == gguf.GGUFEndian.BIG else "little"
        content: memoryview = self.data.data
        texts = []
        for _ in range(count):
            begin = end + 8
            end = begin + int.from_bytes(content[end:begin], order)
            if end > len(content):
                raise ValueError(f"at byte {begin} it claims more than there is: cut short")
            texts.append(str(content[begin:end], "utf-8"))
        return texts, end


def beside(files: list[Path]) -> list[Path]:
    """The files that belong to the model but hold no weights: configuration, tokenizer. A GGUF file has none."""
    others = [] if files[0].suffix == ".gguf" else sorted(files[0].parent.iterdir())
    return [file for file in others if _PART_OF_THE_MODEL.fullmatch(file.name) and file.is_file()]


def fingerprint(digests: Mapping[str, str]) -> str:
    """``sha256:…`` over weights, config and tokenizer: `digests`, SHA-256 in hexadecimal digits by file name.

    A GGUF file counts by content alone.
    """
    if len(digests) == 1:
        return f"sha256:{next(iter(digests.values()))}"
    listing = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return f"sha256:{hashlib.sha256(listing.encode(errors='surrogateescape')).hexdigest()}"


def read_json(file: Path) -> dict[str, Any]:
    """A configuration. Raises UserError."""
    with one_line(file):
        parsed = json.loads(file.read_bytes())
        if not isinstance(parsed, dict):
            raise ValueError("it is not a JSON object")
        return parsed


@contextlib.contextmanager
def one_line(file: Path) -> Iterator[None]:
    """Whatever a reader makes of a broken file becomes one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # readers raise whatever type a bad file leads them to
        reason = shown(error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}")
        raise UserError(f"'{file}' cannot be read ({reason}): download or convert it again") from error


def shown(value: object) -> str:
    """Something hostile as a short piece of a line."""
    text = value if isinstance(value, str) and value.isprintable() and value.isascii() else ascii(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
