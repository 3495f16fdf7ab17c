"""The project from Python: what `import evals` offers. The command line goes the same way, with the same checks."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from evals.commands import run
from evals.core.runlog import RunLog

Place = str | PathLike[str]


def evaluate(
    model: Place | None = None,
    *,
    card: Place | None = None,
    data: Place = "hub",
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    variants: Sequence[str] = (),
    model_path: Place | None = None,
    revision: str | None = None,
    output_dir: Place = "results",
    device: str | None = None,
    dtype: str | None = None,
    engine: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
    offline: bool = False,
    base_url: str | None = None,
    tokenizer: Place | None = None,
) -> RunLog:
    """Measures one model by one card; its log, whose folder lies in `output_dir`.

    `model`: a known name, a hub id, a folder or a .gguf file; None: the embedded one. `card`: a card's name or TOML
    file; None: the model's own. `data`: "hub", "smoke" or a folder. `limit`: docs of each task. The rest is what the
    options of the same names say (evals/commands/README.md). What is stored in `output_dir` is not computed again.
    Raises UserError, one line, for whatever a user can mend. A row that cannot be had has no value and a note.
    """
    options = run.Options(
        model=None if model is None else (fspath(model),), suite=_text(card), data=fspath(data),
        tasks=None if tasks is None else tuple(tasks), limit=limit, variant=tuple(variants) or None,
        model_path=_text(model_path), revision=revision, output_dir=Path(output_dir), device=device, dtype=dtype,
        engine=engine, workers=workers, fresh=fresh, offline=offline, base_url=base_url, tokenizer=_text(tokenizer),
        no_plan=base_url is None,
    )  # fmt: skip
    options.check()
    run.prepare_process(options)
    (log,), _ = run.measure(options)
    return log


def _text(place: Place | None) -> str | None:
    return None if place is None else fspath(place)


def load_run(path: Place) -> RunLog:
    """The log of a run folder (or of its run.json), checked against its samples. Raises UserError, one line."""
    from reports.runs import load_run as checked

    place = Path(path)
    return checked(place.parent if place.name == "run.json" else place).log
