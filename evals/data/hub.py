"""Where benchmarks are on the Hugging Face hub.

A benchmark's rows are parquet files at the protocol's pinned commit (tasks/README.md). Where that commit is a
loading script instead, the hub's own parquet conversion of it is used, or a named copy; the commit that the
rows came from is always told.

`datasets.load_dataset` reads the files, but does not choose them: asked for a repo at a revision, it takes whatever
other revision its cache holds when anything fails, does not find a conversion again when offline, asks the hub half a
dozen things about data that is cached, and downloads loading scripts only to refuse them.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants

from evals.core.errors import UserError
from evals.core.hub_client import NotThere, Unreachable, fetch, repo_info

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.common.builders import CardTask


@dataclass(frozen=True)
class Place:
    """One place on the hub that holds a benchmark's rows as parquet files."""

    repo: str
    revision: str
    subset: str


@dataclass(frozen=True)
class HubSplit:
    """A split's local files in row order: `names` in the repo `repo` at the commit `revision`."""

    repo: str
    revision: str
    names: tuple[str, ...]
    paths: tuple[Path, ...]


# parquet copies for repos whose own files are a script, after the pinned commit and the hub's conversion
COPIES = {
    "Rowan/hellaswag": Place("Rowan/hellaswag", "9c75cc00ec2e1f93893cbd25ba617ee30eb70d88", "default"),
    "allenai/winogrande": Place("allenai/winogrande", "80a230ebd8264349cca0c400a9b4f08f26d1fc75", "winogrande_xl"),
    "ybisk/piqa": Place("baber/piqa", "main", "default"),
}  # fmt: skip


def places(task: CardTask) -> list[Place]:
    """Where the rows of `task` may be, the protocol's pinned commit first."""
    repo, subset = task.repo, task.subset
    found = [Place(repo, task.revision or "main", subset), Place(repo, "refs/convert/parquet", subset)]
    return [*found, COPIES[repo]] if repo in COPIES else found


def fetch_split(task: CardTask, split: str, offline: bool = False) -> HubSplit:
    """The parquet files of a task's split, downloaded unless cached, their content checked by hash.

    Raises UserError in one line when no copy can be had; at once, once the hub could not be reached.
    """
    offline = offline or os.environ.get("HF_DATASETS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    reasons: list[UserError] = []
    for place in places(task):
        choose = partial(match_files, subset=place.subset, split=split)
        try:
            folder, names = fetch("dataset", place.repo, place.revision, choose, offline)
        except (NotThere, Unreachable) as reason:
            reasons.append(reason)
            continue
        return HubSplit(place.repo, folder.name, tuple(names), tuple(folder / name for name in names))
    raise next((reason for reason in reasons if isinstance(reason, Unreachable)), reasons[0])


def read_split(found: HubSplit) -> pa.Table:
    """The rows of a split, in order. Raises UserError when the files are no parquet."""
    import datasets

    # each load would be reported to a server that is not the hub
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # a broken file is told here, in one line
    files = [glob.escape(str(path)) for path in found.paths]
    try:
        # a cache for the moment: nobody would see that a copy kept on the disk is not the checked files any more; not
        # streamed: the process then waits 5 s, and one in four aborts at its end (datasets 5.2, apache/arrow#45214)
        with tempfile.TemporaryDirectory() as scratch:
            rows = datasets.load_dataset(
                "parquet", data_files=files, split="train", cache_dir=scratch, keep_in_memory=True
            )
        return rows.with_format("arrow")[:]
    except Exception as error:  # a damaged file raises whatever type its reader is led to
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(f"{found.repo}: {', '.join(found.names)} cannot be read: {reason}") from error


def licence(repo: str) -> str:
    """The licence that a data set's card on the hub names, or 'unknown'."""
    try:
        card = None if constants.HF_HUB_OFFLINE else repo_info("dataset", repo, "main").card_data
    except UserError:
        card = None
    stated = card.get("license") if card else None
    return ", ".join(stated) if isinstance(stated, list) else str(stated or "unknown")


def match_files(files: Sequence[str], subset: str, split: str) -> list[str]:
    """Names of a split's parquet files in a repo's file list, in row order; empty when they are not all there.

    Knows the hub's conversion (`subset/split/0000.parquet`), what `push_to_hub` writes
    (`subset/split-00000-of-00001.parquet`, with or without a hash, also under `data/`) and single files.
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
