"""Weights into memory: safetensors folders and GGUF files, nothing that runs code.

What is hashed is what is computed with. Each file is read once, hashed as it is read, and let go: nothing is mapped,
and transformers gets copies of the small files, and numbers, never the place that they came from. Whoever overwrites or
cuts a file after that changes nothing of the run; whoever does so meanwhile ends it (`_unchanged`), nothing stored.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_utils import str_to_torch_dtype
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from evals.core.errors import UserError
from evals.core.files import writing
from evals.engine.device import out_of_memory, settle_vector_math
from evals.models import hub, lean, templates, weights
from evals.models.known import ModelSpec

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
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda:0" if torch.cuda.is_available() else name
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


def local_path(spec: ModelSpec, offline: bool = False, weights: bool = True) -> Path:
    """Where the model's files are on this disk, fetched from the hub when that is where they come from.

    Without `weights` only what its tokenizer needs is fetched.
    """
    if spec.source == "hub":
        return hub.fetch_model(spec.location, spec.revision, offline, weights)
    return Path(spec.location)


def load_tokenizer(path: Path, chat: bool) -> Any:
    """The tokenizer of a folder or GGUF file.

    Raises UserError when `chat` and it has no chat template, or when it cannot be read.
    """
    with quiet(), _gguf_in_memory(path, {}) if path.is_file() else contextlib.nullcontext(path) as place:
        tokenizer = _tokenizer(place)
    if chat:
        require_template(tokenizer, path.name)
    return tokenizer


def _tokenizer(place: Path) -> Any:
    with _one_line(f"the tokenizer of '{place.name}'"):
        return AutoTokenizer.from_pretrained(**_place(place))


def require_template(tokenizer: Any, name: str) -> None:
    """Refuses chat mode for a tokenizer without a chat template, or with one that does not end."""
    if not tokenizer.chat_template:
        raise UserError(
            f"the model '{name}' has no chat template, which the instruct suite needs: use --suite base, "
            "or give weights whose tokenizer has one"
        )
    templates.template_ends(tokenizer, name)


def load(path: Path, device: torch.device, dtype: str) -> LoadedModel:
    """Loads the weights at `path` (a folder with safetensors, or a .gguf file), after their headers were checked.

    Raises UserError for anything that a user's files can do wrong, for files that change meanwhile, and for too little
    memory.
    """
    settle_vector_math()
    digests: dict[str, str] = {}
    with quiet(), lean.without_compiler(), _unchanged(path):
        quantization = weights.check(path)
        files = weights.find(path)
        is_gguf = files[0].suffix == ".gguf"
        with _gguf_in_memory(files[0], digests) if is_gguf else _copied(files, digests) as place:
            tokenizer = _tokenizer(place)
            with _one_line(f"the model '{path.name}'"):
                model = _load_model(place, files, digests, device, dtype)
        tokens_have_rows(tokenizer, model, path.name)
    size = sum(tensor.numel() for tensor in model.parameters())
    return LoadedModel(model, tokenizer, device, dtype, weights.fingerprint(digests), quantization, size)


@contextlib.contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    """Raises UserError if a file of the model was written to, replaced, added or removed inside."""

    def identity() -> list[tuple[Any, ...]] | None:
        try:
            files = weights.find(path)
            states = [(file.name, file.stat()) for file in files + weights.beside(files)]
        except (UserError, OSError):
            return None
        return [(name, state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states]

    before = identity()
    try:
        yield
    except UserError:  # a file that is half written looks broken
        if identity() == before:
            raise
    else:
        if identity() == before:
            return
    raise UserError(
        f"the weights at '{path}' changed while they were read: wait until they are written, or give a copy"
    )


@contextlib.contextmanager
def _copied(files: list[Path], digests: dict[str, str]) -> Iterator[Path]:
    """A folder of copies of what stands beside the weights `files`, hashed into `digests`."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, files[0].parent.name or "model")
        place.mkdir()
        for file in weights.beside(files):
            with weights.one_line(file):
                content = file.read_bytes()
            with writing(place):
                (place / file.name).write_bytes(content)
            digests[file.name] = hashlib.sha256(content).hexdigest()
        yield place


def _place(path: Path) -> dict[str, Any]:
    place = {"gguf_file": path.name} if path.is_file() else {}
    folder = str(path.parent if place else path)
    return place | {
        "pretrained_model_name_or_path": folder,
        "local_files_only": True,
        "trust_remote_code": False,
    }


def _load_model(
    place: Path, files: list[Path], digests: dict[str, str], device: torch.device, dtype: str
) -> PreTrainedModel:
    """The model of `place`: an empty file that reads like a GGUF file, or copies of what stands beside `files`."""
    maker: Any = AutoModelForCausalLM
    options: dict[str, Any] = {"dtype": DTYPES[dtype], "output_loading_info": True}
    if place.is_file():
        from transformers import GgufConfig

        options |= {**_place(place), "quantization_config": GgufConfig(gguf_file=place.name, dequantize=True)}
    else:
        _refuse_remote_code(place)
        # only to learn its class, which takes numbers instead of a place
        with torch.device("meta"), no_init_weights():
            shell = maker.from_config(AutoConfig.from_pretrained(**_place(place)), trust_remote_code=False)
        numbers = {name: one for file in files for name, one in _read_safetensors(file, digests).items()}
        maker = type(shell)
        options |= {"pretrained_model_name_or_path": None, "config": shell.config, "state_dict": numbers}
    model, report = maker.from_pretrained(**options)
    if report["missing_keys"]:  # transformers would fill them with random numbers
        names = weights.shown(", ".join(sorted(report["missing_keys"])))
        raise UserError(f"the weights of '{place.name}' are not whole: {names} missing")
    if place.is_dir():
        own = (place / "generation_config.json").exists()
        where: dict[str, Any] = {} if own else {"config_file_name": "config.json", "_from_model_config": True}
        model.generation_config = GenerationConfig.from_pretrained(place, **where)
    model = model.to(device).eval()
    predicts_the_next_token(model, place.name)
    return model


def _read_safetensors(file: Path, digests: dict[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, each in memory of its own; the digest of the bytes they are made of."""
    tensors: dict[str, torch.Tensor] = {}
    with file.open("rb") as opened:
        length = opened.read(8)
        digest = hashlib.sha256(length + opened.read(int.from_bytes(length, "little")))
        for name, (kind, shape) in weights.safetensors(file).items():
            tensors[name] = torch.empty(shape, dtype=str_to_torch_dtype[kind])
            content: Any = tensors[name].flatten().view(torch.uint8).numpy()
            if opened.readinto(content) != len(content):
                raise ValueError(f"{file.name} is cut short")
            digest.update(content)
    digests[file.name] = digest.hexdigest()
    return tensors


def _refuse_remote_code(place: Path) -> None:
    """Notes code that a model brings and that is not needed; refuses a model that needs it."""
    config = weights.read_json(place / "config.json")
    if "auto_map" not in config:
        return
    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"'{place.name}' needs Python code that comes with the model (auto_map): it is not run"
        )
    logger.warning("'%s' brings Python code (auto_map): not run, transformers' own is used", place.name)


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Whatever a bad file makes a loader raise becomes one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # loaders raise whatever type a bad file leads them to
        if out_of_memory(error):
            advice = "use a smaller model, --dtype bfloat16, or another --device"
            raise UserError(f"not enough memory for {what}: {advice}") from error
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(f"cannot load {what}: {type(error).__name__}: {first[:300]}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' own progress bars and chatter: this program shows its own."""
    import transformers.modeling_gguf_pytorch_utils as gguf_loader
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("gguf").setLevel(logging.ERROR)
    try:
        # the GGUF loader takes tqdm directly, past every switch
        with mock.patch.object(gguf_loader, "tqdm", lambda items, *_, **__: items):
            yield
    finally:
        transformers_logging.set_verbosity(level)


@contextlib.contextmanager
def _gguf_in_memory(file: Path, digests: dict[str, str]) -> Iterator[Path]:
    """The path of an empty file that transformers and gguf read as if it held what `file` holds.

    Both map a file by numpy.memmap, which is answered from memory here; a release that reads it in another way finds it
    empty and fails, in one line. Inside, what the loader does again and again, for seconds each time, is done once: the
    same parsing for tokenizer, config and weights, and a table of names for every module of the model. It asks for
    accelerate, which it does not use.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as gguf_loader
    from transformers import modeling_utils

    with weights.one_line(file):
        content = file.read_bytes()
    digests[file.name] = hashlib.sha256(content).hexdigest()
    once = functools.lru_cache(maxsize=1)
    memmap, parse, array = np.memmap, gguf_loader._gguf_parse_value, np.frombuffer(content, np.uint8)

    def mapped(name: Any, *others: Any, **named: Any) -> Any:
        return array if Path(name) == place else memmap(name, *others, **named)

    def parsed(value: Any, kind: Any) -> Any:
        return (
            parse(value, kind) if isinstance(value, np.ndarray) else value
        )  # weights.Reader's lists are ready

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.multiple(
            gguf, GGUFReader=once(weights.Reader), get_tensor_name_map=once(gguf.get_tensor_name_map)
        ),
        mock.patch.object(gguf_loader, "_gguf_parse_value", parsed),
        mock.patch.object(modeling_utils, "is_accelerate_available", lambda: True),
        mock.patch.object(np, "memmap", mapped),
    ):
        place = Path(folder, file.name)
        place.touch()
        yield place


def tokens_have_rows(tokenizer: Any, model: Any, name: str) -> None:
    """Raises UserError if the vocabulary is larger than the embedding.

    Tokens that were added to a vocabulary may be beyond it: for padding or pictures, say, which are never fed here.
    """
    tokens, rows = tokenizer.vocab_size, model.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        raise UserError(
            f"the tokenizer of '{name}' has {tokens} tokens, the embedding of its weights {rows} rows: "
            "they do not belong together"
        )


@torch.inference_mode()
def predicts_the_next_token(model: Any, name: str) -> None:
    """Raises UserError if what a model says after a token depends on later ones, as an encoder's words do."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = [[(11 + 7 * i) % size for i in range(6)] + [last % size] for last in (3, 5)]
    one, other = (
        model(input_ids=torch.tensor(ids, device=model.device), use_cache=False).logits[:, :6].float()
    )
    # far more than rounding, and far less than an encoder's; weights of NaN are found where they are used
    if (one - other).norm() > 0.01 * one.std() * one.numel() ** 0.5:
        raise UserError(
            f"'{name}' is no causal language model: what it says after a token depends on the tokens that follow"
        )
