"""The project from Python: what `import evals` offers. The command line goes the same way, with the same checks."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from evals.commands import run
from evals.commands.options import parser_of
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
    references: bool = False,
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
    words = ["--no-plan"] if base_url is None else []
    choices = {
        "model": model, "suite": card, "data": data, "limit": limit, "model-path": model_path, "revision": revision,
        "output-dir": output_dir, "device": device, "dtype": dtype, "engine": engine, "workers": workers,
        "base-url": base_url, "tokenizer": tokenizer,
    }  # fmt: skip
    lists = {"tasks": tasks, "variant": variants or None}
    given = {
        name: value if isinstance(value, int) else fspath(value)
        for name, value in choices.items()
        if value is not None
    }
    given |= {name: ",".join(values) for name, values in lists.items() if values is not None}
    words += [f"--{name}={value}" for name, value in given.items()]
    words += [
        f"--{name}"
        for name, on in {"fresh": fresh, "references": references, "offline": offline}.items()
        if on
    ]
    options = run.options_from(parser_of(run, "evaluate").parse_args(words))
    run.prepare_process(options)
    (log,) = run.measure(options).logs
    return log


def load_run(path: Place) -> RunLog:
    """The log of a run folder (or of its run.json), checked against its samples. Raises UserError, one line."""
    from reports.runs import load_run as checked

    place = Path(path)
    return checked(place.parent if place.name == "run.json" else place).log
