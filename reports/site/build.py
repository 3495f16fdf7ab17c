"""Writes the site: pages from templates with escaping always on, static files, and samples as script files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from evals import __version__
from evals.core.errors import UserError
from evals.core.files import cannot_write, partial_folder
from reports.boards import Board
from reports.comparability import CIRCUMSTANCES
from reports.compare import cells_of
from reports.site.figures import mean_figure, row_figure
from reports.site.naming import Shown, count, notes_text, number, show, task_page
from reports.site.pages import board_title, compare_page, curve_page, index_page, model_page, pairs_of
from reports.site.samples import write_samples
from reports.site.task_pages import task_context, tasks_page

HERE = Path(__file__).resolve().parent
MARK = ".smol-evals-site"
"""A file that says that a folder was made here, so that it may be replaced."""
HELPERS = (board_title, cells_of, count, mean_figure, notes_text, number, row_figure, task_page)
"""What templates may call."""


def write_site(
    folder: Path,
    boards: Sequence[Board],
    refused: Sequence[str],
    with_samples: bool,
    most: int | None = None,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Writes or replaces the site in ``folder``, whole or not at all. Raises UserError.

    `most`: samples of a task, at most (None: all). `files`: to be downloaded, {name: text}.
    """
    if folder.exists() and not (folder / MARK).is_file():
        raise UserError(f"'{folder}' was not made by 'leaderboard': choose another --output")
    partial = partial_folder(folder)
    shown = show([entry.run for board in boards for entry in board.entries])
    try:
        shutil.copytree(HERE / "static", partial / "static")
        (partial / MARK).touch()
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        _write_pages(partial, list(_pages(boards, shown, refused, with_samples)), with_samples, files)
        if with_samples:
            write_samples(partial / "data", shown, most)
        _swap(partial, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


Page = tuple[str, str, Mapping[str, Any]]
"""(path, template, context)"""


def _pages(
    boards: Sequence[Board], shown: Sequence[Shown], refused: Sequence[str], with_samples: bool
) -> Iterator[Page]:
    pairs = pairs_of(boards, shown)
    yield "index.html", "index.html", index_page(boards, shown, refused)
    yield "tasks/index.html", "tasks.html", tasks_page(shown)
    for item in shown:
        yield item.page, "model.html", model_page(item, shown, pairs)
    if pairs:
        yield "compare.html", "compare.html", compare_page(pairs)
    if curves := curve_page([item.run for item in shown]):
        yield "curve.html", "curve.html", curves
    for task in dict.fromkeys(task for item in shown for task in item.run.tasks):
        yield task_page(task), "task.html", task_context(task, boards, shown)
    if with_samples:
        yield "samples.html", "samples.html", {}


def _write_pages(folder: Path, pages: Sequence[Page], with_samples: bool, files: Mapping[str, str]) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda value: "" if value is None else f"{value:,}"
    environment.globals.update(
        {helper.__name__: helper for helper in HELPERS},
        circumstances=CIRCUMSTANCES,
        has_samples=with_samples,
        paths=[path for path, _, _ in pages],
        files=sorted(name for name in files if name != "README.md"),
        made=f"smol-evals {__version__}, {datetime.now(UTC):%Y-%m-%d}",
    )
    for path, template, context in pages:
        (folder / path).parent.mkdir(exist_ok=True)
        page = environment.get_template(template).render(root="../" * path.count("/"), path=path, **context)
        (folder / path).write_text(page, encoding="utf-8")


def _swap(partial: Path, folder: Path) -> None:
    """Puts the new folder where the old one was; the old one stays when that fails."""
    partial.chmod(folder.parent.stat().st_mode & 0o777)
    old = partial.with_name(f"{partial.name}-old")
    if folder.exists():
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
