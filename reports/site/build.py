"""Writes the site: pages from templates with escaping always on, static files, and samples as script files."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from evals.core.errors import UserError
from evals.core.files import cannot_write, partial_folder
from evals.core.metric import Metric
from reports.boards import Board
from reports.runs import Run
from reports.site import fields, samples
from reports.site.board_page import index_page
from reports.site.compare_page import compare_page, pairs_of
from reports.site.curve_page import curve_page
from reports.site.model_page import model_page
from reports.site.naming import Shown, show, task_page
from reports.site.samples import Answers
from reports.site.scripts import write_script
from reports.site.task_pages import main_metric, row_label, task_context, tasks_page

HERE = Path(__file__).resolve().parent
MARK = ".smol-evals-site"
"""A file that says that a folder was made here, so that it may be replaced."""


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
    try:
        _fill(partial, boards, refused, with_samples, most, files)
        _swap(partial, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _fill(
    folder: Path,
    boards: Sequence[Board],
    refused: Sequence[str],
    with_samples: bool,
    most: int | None,
    files: Mapping[str, str],
) -> None:
    """Writes all files of the site into an empty folder."""
    shown = show([entry.run for board in boards for entry in board.entries])
    shutil.copytree(HERE / "static", folder / "static")
    (folder / MARK).touch()
    pages = _pages(boards, shown, refused, with_samples)
    environment = _environment()
    environment.globals.update(
        has_samples=with_samples,
        has=[context["here"] for _, _, context in pages],
        files=sorted(files),
        made=f"smol-evals {project_version()}, {datetime.now(UTC):%Y-%m-%d}",
    )
    for name, template, context in pages:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        text = environment.get_template(template).render(root="../" * name.count("/"), **context)
        path.write_text(text, encoding="utf-8")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    if with_samples:
        _write_samples(folder / "data", shown, most)


def project_version() -> str:
    """This project's version, or nothing where its metadata cannot be had."""
    try:
        return metadata.version("smol-evals")
    except metadata.PackageNotFoundError:
        return ""


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


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _pages(
    boards: Sequence[Board], shown: Sequence[Shown], refused: Sequence[str], with_samples: bool
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(path, template, context) of every page."""
    pairs = pairs_of(boards, shown)
    found: list[tuple[str, str, Mapping[str, Any]]] = [
        ("index.html", "index.html", index_page(boards, shown, refused)),
        ("tasks/index.html", "tasks.html", tasks_page(shown)),
    ]
    found += [(item.page, "model.html", model_page(item, shown, pairs)) for item in shown]
    if pairs:
        found.append(("compare.html", "compare.html", compare_page(pairs)))
    if curves := curve_page([item.run for item in shown]):
        found.append(("curve.html", "curve.html", curves))
    for task in dict.fromkeys(task for item in shown for task in item.run.tasks):
        found.append((task_page(task), "task.html", task_context(task, boards, shown)))
    if with_samples:
        found.append(("samples.html", "samples.html", {"here": "samples"}))
    return found


def _write_samples(folder: Path, shown: Sequence[Shown], most: int | None) -> None:
    """One task at a time, so that memory holds the samples of one task alone."""
    sets = []
    tasks = {(item.run.suite, task): row_label(item.run, task) for item in shown for task in item.run.tasks}
    for (suite, task), row in tasks.items():
        answers = [
            _answers(number, item.run, task, most)
            for number, item in enumerate(shown)
            if item.run.suite == suite and task in item.run.tasks
        ]
        for group in samples.group_sets(answers):
            first = shown[group.members[0].run].run
            shots = fields.count(first.log.tasks[task].settings.get("shots")) or 0
            entry = samples.write_set(folder, group, shots) | _grades(main_metric(first, task))
            sets.append(entry | {"suite": suite, "row": row})
    runs = [
        {"key": item.key, "name": item.name, "title": item.title, "suite": item.run.suite, "page": item.page}
        for item in shown
    ]
    titles = [
        [suite, card.heading] for suite, card in {item.run.suite: item.run.card for item in shown}.items()
    ]
    write_script(folder, "index", {"suites": titles, "runs": runs, "sets": sets})


def _answers(number: int, run: Run, task: str, most: int | None) -> Answers:
    table, columns = run.table(task).slice(0, most), run.columns(task)
    if "question_id" in table.column_names and (run.folder / samples.JUDGMENTS).is_file():
        judged = samples.judgments(run.folder, table.column("question_id").to_pylist())
        table = table.append_column("judgments", [judged])
    return Answers(number, task, table, doc_scores(columns, main_metric(run, task))[:most])


def doc_scores(columns: Mapping[str, Any], metric: Metric | None) -> list[float | None]:
    """A doc's own score by its task's metric, for filters; None where it has none."""
    n = len(columns["doc_id"])
    if metric is None or not all(name in columns for name in metric.columns):
        return [None] * n
    return [metric.doc_value({name: columns[name][k] for name in metric.columns}) for k in range(n)]


def _grades(metric: Metric | None) -> dict[str, Any]:
    """What the browser needs to judge a score: which one is right, which is wrong, and whether less is better."""
    if metric is None or metric.judged or not (math.isfinite(metric.low) and math.isfinite(metric.high)):
        right = wrong = None
    else:
        wrong, right = (metric.low, metric.high) if metric.higher_is_better else (metric.high, metric.low)
    return {"right": right, "wrong": wrong, "lower": metric is not None and not metric.higher_is_better}
