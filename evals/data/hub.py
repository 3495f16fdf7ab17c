"""Where benchmarks and models are on the Hugging Face hub, and their files in the local cache.

A benchmark's rows are parquet files at the protocol's pinned commit (tasks/README.md). Where that commit is a
loading script instead, the hub's own parquet conversion of it is used, or a named copy; the commit that the
rows came from is always told. What a commit holds is never asked twice: a cached copy needs no network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi

from evals.core.errors import UserError
from evals.data.hub_client import (
    COMMIT,
    TIMEOUT,
    NotThere,
    Unreachable,
    cached_folder,
    download,
    is_offline,
    is_sound,
    listing,
    offline_error,
    patiently,
)

PARQUET_CONVERSION = "refs/convert/parquet"


class HubTask(Protocol):
    """The part of a lighteval task that says where its rows are."""

    name: str
    hf_repo: str
    hf_subset: str
    hf_revision: str | None


@dataclass(frozen=True)
class Source:
    """One place on the hub that holds a benchmark's rows as parquet files."""

    repo: str
    revision: str
    subset: str


@dataclass(frozen=True)
class HubFiles:
    """Local ``paths`` of a split, in row order; ``names`` in the repo; ``revision`` is their commit."""

    paths: tuple[Path, ...]
    repo: str
    revision: str
    names: tuple[str, ...]


# Parquet copies for repos whose own files are a script, after the pinned commit and the hub's conversion.
COPIES: dict[str, tuple[Source, ...]] = {
    "Rowan/hellaswag": (Source("Rowan/hellaswag", "9c75cc00ec2e1f93893cbd25ba617ee30eb70d88", "default"),),
    "allenai/winogrande": (
        Source("allenai/winogrande", "80a230ebd8264349cca0c400a9b4f08f26d1fc75", "winogrande_xl"),
    ),
    "ybisk/piqa": (Source("baber/piqa", "main", "default"),),
}


def sources(task: HubTask) -> list[Source]:
    """Where the rows of ``task`` may be, the protocol's pinned commit first."""
    first = Source(task.hf_repo, task.hf_revision or "main", task.hf_subset)
    return [first, Source(first.repo, PARQUET_CONVERSION, first.subset), *COPIES.get(first.repo, ())]


def fetch_split(task: HubTask, split: str, offline: bool = False) -> HubFiles:
    """The parquet files of a task's split, downloaded unless cached, their content checked by hash.

    Raises UserError in one line when no copy can be had; at once, once the hub could not be reached.
    """
    places = sources(task)
    pinned = [source for source in places if COMMIT.fullmatch(source.revision)]
    found = _first_cached(places if offline or is_offline() else pinned, split)
    if found is not None:
        return found
    if offline or is_offline():
        raise offline_error(f"data set {task.hf_repo}")
    missing: list[NotThere] = []
    for source in places:
        try:
            return _download_split(source, split)
        except NotThere as reason:
            missing.append(reason)
        except Unreachable:
            found = _first_cached(places, split)
            if found is None:
                raise
            return found
    raise missing[0]


def fetch_model(hub_id: str, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a model: safetensors weights, configuration and tokenizer, never pickle or code.

    The folder's name is the commit. Raises UserError in one line.
    """
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", hub_id):
        raise UserError(f"'{hub_id}' is no hub id: give ORG/NAME, a known model, or a folder or .gguf file")
    wanted = revision or "main"
    folder = cached_folder("model", hub_id, wanted)
    whole = folder is not None and _is_whole_model(folder)
    offline = offline or is_offline()
    if folder is not None and whole and (offline or COMMIT.fullmatch(wanted)):
        return folder
    if offline:
        raise offline_error(f"model {hub_id}")
    try:
        commit, files = listing("model", hub_id, wanted)
        return download("model", hub_id, wanted, commit, model_files(hub_id, files))[0].parent
    except Unreachable:
        if folder is not None and whole:
            return folder
        raise


def model_files(hub_id: str, files: Sequence[str]) -> list[str]:
    """The files of a model repo that a run needs, the weights last.

    Raises UserError when there are no safetensors weights.
    """
    known = (
        r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model"
        r"|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)"
    )
    small = sorted(name for name in files if re.fullmatch(known, name))
    if "model.safetensors" in files:
        weights = ["model.safetensors"]
    else:
        weights = sorted(name for name in files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name))
        weights = ["model.safetensors.index.json", *weights] if weights else []
    if not weights or not set(weights) <= set(files) or "config.json" not in files:
        raise UserError(
            f"model {hub_id}: no config.json with safetensors weights in the repo (pickled weights are never "
            "loaded): convert them, or give a folder or .gguf file with --model-path"
        )
    return small + weights


@cache
def licence(repo: str) -> str:
    """The licence that a data set's card on the hub names, or 'unknown'."""
    if is_offline():
        return "unknown"
    try:
        card = patiently(lambda: HfApi().dataset_info(repo, timeout=TIMEOUT), f"data set {repo}").card_data
    except UserError:
        return "unknown"
    stated = card.get("license") if card else None
    return ", ".join(stated) if isinstance(stated, list) else str(stated or "unknown")


def match_files(files: Sequence[str], subset: str, split: str) -> list[str]:
    """Names of a split's parquet files in a repo's file list, in row order; empty when there are none.

    Knows the hub's conversion (``subset/split/0000.parquet``), what ``push_to_hub`` writes
    (``subset/split-00000-of-00001.parquet``, with or without a hash, also under ``data/``) and single files.
    """
    parts = r"(-\d{5}-of-(?P<of>\d{5})(-[0-9a-f]+)?)?\.parquet"
    sub, spl = re.escape(subset), re.escape(split)
    patterns = [rf"{sub}/{spl}/\d{{4}}\.parquet", rf"{sub}/{spl}{parts}", rf"data/{sub}/{spl}{parts}"]
    if subset in ("default", "main", "plain_text"):  # what the only subset of a repo is called
        patterns += [rf"default/{spl}/\d{{4}}\.parquet", rf"data/{spl}{parts}", rf"(\w+_)?{spl}{parts}"]
    for pattern in patterns:
        found = sorted((name, match) for name in files if (match := re.fullmatch(pattern, name)))
        if found:
            of = found[0][1].groupdict().get("of")
            return [name for name, _ in found] if of is None or int(of) == len(found) else []
    return []


def _download_split(source: Source, split: str) -> HubFiles:
    commit, files = listing("dataset", source.repo, source.revision)
    names = match_files(files, source.subset, split)
    if not names:
        raise NotThere(
            f"data set {source.repo}: no parquet file for {source.subset}/{split} at {source.revision}: "
            "give a local copy with --data DIR"
        )
    paths = download("dataset", source.repo, source.revision, commit, names)
    return HubFiles(tuple(paths), source.repo, paths[0].parents[names[0].count("/")].name, tuple(names))


def _first_cached(places: Sequence[Source], split: str) -> HubFiles | None:
    """The first source whose split is whole and sound in the cache."""
    for source in places:
        folder = cached_folder("dataset", source.repo, source.revision)
        if folder is None:
            continue
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
        names = match_files(files, source.subset, split)
        paths = tuple(folder / name for name in names)
        if names and all(is_sound(path) for path in paths):
            return HubFiles(paths, source.repo, folder.name, tuple(names))
    return None


def _is_whole_model(folder: Path) -> bool:
    """Whether a snapshot holds every part of the weights (they are downloaded last)."""
    files = [path.name for path in folder.iterdir() if path.exists()]
    try:
        needed = model_files(folder.name, files)
    except UserError:
        return False
    parts = [
        int(match[1]) for name in needed if (match := re.fullmatch(r"model-\d+-of-(\d+)\.safetensors", name))
    ]
    return not parts or len(parts) == parts[0]
