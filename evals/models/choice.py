"""Which models the options mean: names by the command line or a file, each told apart from the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evals.core.errors import UserError
from evals.models.known import ModelSpec, resolve


def read_sweep(path: Path) -> list[str]:
    """The models of a sweep file: one a line as for --model; blank lines and what follows '#' do not count."""
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sweep '{path}' cannot be read: give a text file with one model a line") from error
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"--sweep '{path}' names no model: give one a line, as for --model")
    return names


def resolve_all(names: Sequence[str | None], model_path: str | None, revision: str | None) -> list[ModelSpec]:
    """What each name means; "ORG/NAME@REVISION" is a model at a revision of its own. Raises UserError.

    Models of the same name (folders of several trainings) are told apart by the folder that holds them.
    """
    specs = [_resolve(name, model_path, revision) for name in names]
    count = Counter(spec.name for spec in specs)
    apart = []
    for spec in specs:
        if count[spec.name] > 1 and spec.source in ("folder", "gguf"):
            holder = re.sub(r"[^\w.-]+", "-", Path(spec.location).resolve().parent.name).strip("-.")
            spec = replace(spec, name=f"{holder}-{spec.name}")
        apart.append(spec)
    for name, times in Counter(spec.name for spec in apart).items():
        if times > 1:
            raise UserError(f"--model: '{name}' is named {times} times: give each model once")
    return apart


def _resolve(name: str | None, model_path: str | None, revision: str | None) -> ModelSpec:
    at = (
        re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)@([\w./-]+)", name) if name and not Path(name).exists() else None
    )
    if at is None:
        return resolve(name, model_path, revision)
    if revision is not None:
        raise UserError(f"--model {name} has a revision of its own: leave --revision {revision} out")
    spec = resolve(at[1], model_path, at[2])
    mark = re.sub(r"[^\w.-]+", "-", at[2])
    # a checkpoint on the way is not what the card published
    return replace(spec, name=f"{spec.name}-{mark}", card_column=None)
