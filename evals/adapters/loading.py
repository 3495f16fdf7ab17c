"""Weights into memory: safetensors folders and GGUF files, nothing that runs code."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from evals import weights
from evals.adapters.device import settle_vector_math
from evals.errors import UserError
from evals.models import ModelSpec

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run. `fingerprint`: sha256 of the weights' content; `quantization`: "Q4_1", … or None."""

    model: PreTrainedModel
    tokenizer: Any
    device: torch.device
    dtype: str
    fingerprint: str
    quantization: str | None
    parameters: int


def pick_device(name: str | None) -> torch.device:
    """`--device`: as given, else the first CUDA device, else Apple's, else the CPU."""
    if name is None:
        if torch.cuda.is_available():
            name = "cuda:0"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def pick_dtype(name: str | None, device: torch.device) -> str:
    """`--dtype`: as given, else the protocol's bfloat16 where the device computes it well, else float32.

    A CPU without matrix units for bfloat16 (AMX) multiplies it slower than float32.
    """
    if name is not None:
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        return "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"
    return "float32"


def local_path(spec: ModelSpec, offline: bool = False) -> Path:
    """Where the model's files are on this disk, fetched from the hub when that is where they come from."""
    if spec.source == "hub":
        from evals import hub

        return hub.fetch_model(spec.location, spec.revision, offline)
    return Path(spec.location)


def load_tokenizer(path: Path, chat: bool) -> Any:
    """The tokenizer of a folder or GGUF file.

    Raises UserError when `chat` and it has no chat template, or when it cannot be read.
    """
    with quiet(), _gguf_read_once():
        tokenizer = _guard(
            lambda: AutoTokenizer.from_pretrained(**_place(path)), f"the tokenizer of '{path.name}'"
        )
    if chat:
        require_template(tokenizer, path.name)
    return tokenizer


def require_template(tokenizer: Any, name: str) -> None:
    """Refuses chat mode for a tokenizer without a chat template."""
    if not tokenizer.chat_template:
        raise UserError(
            f"the model '{name}' has no chat template, which the instruct suite needs: use --suite base, "
            "or give weights whose tokenizer has one"
        )


def load(path: Path, device: torch.device, dtype: str) -> LoadedModel:
    """Loads the weights at `path` (a folder with safetensors, or a .gguf file), after their headers were checked.

    Raises UserError for anything that a user's files can do wrong, and for too little memory.
    """
    settle_vector_math()
    for note in weights.check(path):
        logger.warning("%s", note)
    fingerprint, quantization = weights.fingerprint(path), weights.quantization(path)
    with quiet(), _gguf_read_once():
        tokenizer = load_tokenizer(path, chat=False)
        model = _guard(lambda: _load_model(path, device, dtype), f"the model '{path.name}'")
    parameters = sum(tensor.numel() for tensor in model.parameters())
    return LoadedModel(model, tokenizer, device, dtype, fingerprint, quantization, parameters)


def _place(path: Path) -> dict[str, Any]:
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **common}
    return {"pretrained_model_name_or_path": str(path), **common}


def _load_model(path: Path, device: torch.device, dtype: str) -> PreTrainedModel:
    options: dict[str, Any] = {**_place(path), "dtype": DTYPES[dtype]}
    if path.is_file():
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(gguf_file=path.name, dequantize=True)
    else:
        options["use_safetensors"] = True
        config = AutoConfig.from_pretrained(**_place(path))
        if getattr(config, "quantization_config", None):
            raise UserError(
                f"the model '{path.name}' is quantised in a way that is not supported: give plain weights"
            )
    model: Any = AutoModelForCausalLM.from_pretrained(**options)
    return model.to(device).eval()


def _guard(action: Any, what: str) -> Any:
    """Runs a loader; whatever a bad file makes it raise becomes one line."""
    try:
        return action()
    except UserError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(
            f"not enough memory for {what}: use a smaller model, --dtype bfloat16, or another --device"
        ) from error
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise UserError(
                f"not enough memory for {what}: use a smaller model or --dtype bfloat16"
            ) from error
        raise UserError(f"cannot load {what}: {_first_line(error)}") from error
    except Exception as error:  # loaders raise whatever type a bad file leads them to
        raise UserError(f"cannot load {what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' own progress bars and chatter: this program shows its own."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("gguf").setLevel(logging.ERROR)
    try:
        with _no_tqdm_in_gguf_loader():
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if before is None:
            os.environ.pop("TQDM_DISABLE", None)
        else:
            os.environ["TQDM_DISABLE"] = before


@contextlib.contextmanager
def _no_tqdm_in_gguf_loader() -> Iterator[None]:
    """The GGUF loader takes tqdm directly, past every switch."""
    import transformers.modeling_gguf_pytorch_utils as loader

    original = loader.tqdm
    loader.tqdm = lambda items, *_, **__: items
    try:
        yield
    finally:
        loader.tqdm = original


@contextlib.contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Does once what the GGUF loader does again and again, for seconds each time.

    It parses the file's header for tokenizer, config and weights each, and makes the same table of tensor names for
    every module of the model.
    """
    import gguf

    package: Any = gguf
    names = ("GGUFReader", "get_tensor_name_map")
    originals = {name: getattr(package, name) for name in names}
    if hasattr(package.GGUFReader, "cache_info"):  # an outer use of this function is at work
        yield
        return
    for name, original in originals.items():
        setattr(package, name, functools.lru_cache(maxsize=1)(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(package, name, original)
