"""Weights on disk: which files they are, whether they can be trusted, and what identifies them.

Only safetensors and GGUF are read: formats that hold numbers, and nothing that runs.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from evals.errors import UserError
from evals.headers import Header, gguf_header, parse_json_object, safetensors_header, shown

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tokenizer.tiktoken",
)
MAX_CONFIG_BYTES = 50_000_000
FULL_PRECISION = ("F64", "F32", "F16", "BF16")

# Everything beside the weights that decides what a model says.
_PART_OF_THE_MODEL = re.compile(
    r"config\.json|generation_config\.json|tokenizer.*|vocab\..*|merges\.txt|special_tokens_map\.json"
    r"|added_tokens\.json|spiece\.model|sentencepiece.*\.model|chat_template\..*|preprocessor_config\.json"
)

# llama.cpp's names of whole-file quantizations, by general.file_type.
_FILE_TYPES = {10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S"}
_FILE_TYPES |= {17: "Q5_K_M", 21: "Q2_K_S"}


@dataclass(frozen=True, slots=True)
class Description:
    """``format`` is "safetensors" or "gguf", ``parameters`` a count (None if packed), ``size`` in bytes."""

    format: str
    parameters: int | None
    quantization: str | None
    size: int


def find(path: Path | str) -> list[Path]:
    """The weight files of a model folder, or the GGUF file itself. Raises UserError."""
    path = Path(path)
    try:
        if path.is_dir():
            return _find_in_folder(path)
        is_file = path.is_file()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from error
    if not is_file:
        raise UserError(f"no weights at '{path}': give a model's folder or a .gguf file")
    if path.suffix == ".gguf":
        return [path]
    _refuse_pickle(path)
    raise UserError(f"'{path}' is not a .gguf file: give the folder that holds it, with its config.json")


def _find_in_folder(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        return sorted({folder / name for name in _shard_of_tensor(folder).values()})
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise UserError(
            f"'{folder}' holds {len(ggufs)} GGUF files: give one of them, such as '{ggufs[0].name}'"
        )
    for file in sorted(folder.iterdir()):
        _refuse_pickle(file)
    raise UserError(f"no weights in '{folder}': it needs {SINGLE}, {INDEX} or a .gguf file")


def _refuse_pickle(file: Path) -> None:
    if file.suffix.lower() in PICKLES:
        raise UserError(
            f"'{file}' is a pickle, which can run any code when it is read: not opened; take a revision with "
            "safetensors, or convert it on a machine that you can spare (save_pretrained writes safetensors)"
        )


def _shard_of_tensor(folder: Path) -> dict[str, str]:
    """The index's map from tensor to file, whose names may not lead out of the folder."""
    wrong = _complaint(folder / INDEX)
    shards = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        wrong("it has no weight_map")
    for name in set(map(str, shards.values())):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name, re.ASCII) or name.startswith("."):
            wrong(f"{shown(name)} is not the name of a safetensors file in the same folder")
        if not (folder / name).is_file():
            wrong(f"the file '{name}' is missing: download it")
    return shards


def check(path: Path | str) -> list[str]:
    """Refuse weights that cannot be trusted, before anything is allocated; returns what is worth a note.

    Raises UserError: pickles, headers that lie about the file, shards that are missing or elsewhere, a config
    that asks for more than the weights hold or for code of its own, no tokenizer.
    """
    path = Path(path)
    files = find(path)
    headers = [_header(file) for file in files]
    if files[0].suffix == ".gguf":
        _check_gguf_settings(files[0], headers[0])
        return []
    folder = files[0].parent
    if (folder / INDEX).is_file():
        _check_shards(folder, dict(zip((file.name for file in files), headers, strict=True)))
    config = _read_json(folder / "config.json")
    _check_sizes(config, headers, _complaint(folder / "config.json"))
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"no tokenizer in '{folder}': add its tokenizer.json")
    settings = (
        _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    )
    return _check_remote_code(folder, config, settings)


def _check_remote_code(folder: Path, config: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    if "auto_map" not in config and "auto_map" not in settings:
        return []
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"'{folder}' needs Python code that comes with the model (auto_map): not run, "
            f"and transformers does not know {shown(config.get('model_type'))} by itself"
        )
    return [f"'{folder.name}' brings Python code of its own (auto_map): not run, transformers' own is used"]


def _check_shards(folder: Path, headers: dict[str, Header]) -> None:
    wrong = _complaint(folder / INDEX)
    held = {name: {tensor.name for tensor in header.tensors} for name, header in headers.items()}
    for tensor, name in _shard_of_tensor(folder).items():
        if tensor not in held[name]:
            wrong(f"tensor {shown(tensor)} is not in '{name}'")


_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "vocab_size", "intermediate_size", "n_inner", "ffn_dim")


def _check_sizes(config: dict[str, Any], headers: Sequence[Header], wrong: Callable[[str], NoReturn]) -> None:
    """The model is built by the config's sizes: none may be beyond what the weights hold."""
    tensors = [tensor for header in headers for tensor in header.tensors]
    largest = max((max(tensor.shape, default=0) for tensor in tensors), default=0)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in parts:
        for key, value in part.items():
            bound = len(tensors) if key in _LAYERS else largest if key in _WIDTHS else None
            if bound is None or value is None:
                continue
            if type(value) is not int or not 0 < value <= bound:
                wrong(f"{key} is {shown(value)}, which the weights do not hold")


def _check_gguf_settings(file: Path, header: Header) -> None:
    """The settings by which transformers builds the model, as _check_sizes."""
    wrong = _complaint(file)
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        wrong("it does not name its architecture")
    if not header.metadata.get("tokenizer.ggml.tokens[]"):
        wrong("it holds no tokenizer")
    largest = max((max(tensor.shape) for tensor in header.tensors), default=0)
    bounds = {
        "block_count": len(header.tensors),
        "embedding_length": largest,
        "feed_forward_length": largest,
        "vocab_size": largest,
        "attention.head_count": largest,
        "attention.head_count_kv": largest,
        "context_length": 2**31,
        "rope.dimension_count": largest,
    }
    needed = ("block_count", "embedding_length", "attention.head_count")
    for key, bound in bounds.items():
        value = header.metadata.get(f"{architecture}.{key}")
        if value is None and (key not in needed or f"{architecture}.{key}[]" in header.metadata):
            continue
        if type(value) is not int or not 0 < value <= bound:
            wrong(f"{architecture}.{key} is {shown(value)}, which the weights do not hold")


def fingerprint(path: Path | str) -> str:
    """``sha256:…`` over the content of weights, config and tokenizer: the same wherever and whenever it lies.

    A GGUF file counts by content alone; of a folder, the files' names count too. Raises UserError.
    """
    path = Path(path)
    files = find(path)
    if files[0].suffix != ".gguf":
        folder = files[0].parent
        files += [
            file for file in folder.iterdir() if _PART_OF_THE_MODEL.fullmatch(file.name) and file.is_file()
        ]
    try:
        with ThreadPoolExecutor(4) as pool:  # hashing lets other threads run
            digests = dict(zip((file.name for file in files), pool.map(_file_digest, files), strict=True))
    except OSError as error:
        raise UserError(f"weights '{path}' cannot be read: {error.strerror}") from error
    if files[0].suffix == ".gguf":
        return f"sha256:{digests[files[0].name]}"
    listing = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return f"sha256:{hashlib.sha256(listing.encode(errors='surrogateescape')).hexdigest()}"


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def describe(path: Path | str) -> Description:
    """Format, parameters, quantization and size, from the checked headers. Raises UserError."""
    files = find(path)
    headers = [_header(file) for file in files]
    size = sum(file.stat().st_size for file in files)
    counts: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors:
            counts[tensor.dtype] += tensor.elements
    if files[0].suffix == ".gguf":
        name = _gguf_quantization(counts, headers[0].metadata.get("general.file_type"))
        return Description("gguf", counts.total(), name, size)
    config = files[0].parent / "config.json"
    name = _safetensors_quantization(counts, _read_json(config) if config.exists() else {})
    packed = any(not dtype.startswith(("F", "BF")) for dtype in counts)
    return Description("safetensors", None if name and packed else counts.total(), name, size)


def quantization(path: Path | str) -> str | None:
    """Such as "Q4_1"; None for weights in 16 bits or more. Raises UserError."""
    return describe(path).quantization


def _gguf_quantization(counts: Counter[str], file_type: object) -> str | None:
    """By what most of the numbers are, not by what the file says; its word only tells _M from _S."""
    if not counts:
        return None
    ((common, _),) = counts.most_common(1)
    if common in FULL_PRECISION:
        return None
    named = _FILE_TYPES.get(file_type, "") if type(file_type) is int else ""
    return named if named.startswith(common) else common


def _safetensors_quantization(counts: Counter[str], config: dict[str, Any]) -> str | None:
    settings = config.get("quantization_config")
    if isinstance(settings, dict):
        return (
            re.sub(r"[^\w.-]", "", str(settings.get("quant_method", "quantized")), flags=re.ASCII)[:40]
            or None
        )
    if not counts:
        return None
    ((common, _),) = counts.most_common(1)
    return None if common in FULL_PRECISION else common


def _header(file: Path) -> Header:
    return gguf_header(file) if file.suffix == ".gguf" else safetensors_header(file)


def _read_json(file: Path) -> dict[str, Any]:
    wrong = _complaint(file)
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            wrong(f"{file.stat().st_size} bytes are too many for a configuration")
        content = file.read_bytes()
    except OSError as error:
        wrong(f"cannot be read ({error.strerror})")
    return parse_json_object(content, wrong)


def _complaint(path: Path) -> Callable[[str], NoReturn]:
    def wrong(what: str) -> NoReturn:
        raise UserError(f"'{path}': {what}")

    return wrong
