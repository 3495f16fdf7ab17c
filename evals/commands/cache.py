"""Shows what the store of finished requests holds, or clears it.

Every run keeps each finished request in `<output-dir>/.cache`, and computes only what is not there yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import Asked, argument, option, store_path
from evals.core.errors import EXIT_OK, UserError


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `cache` was asked for."""

    action: str = argument("show what is stored, or remove all of it", choices=("info", "clear"))
    output_dir: str = option("default: results", "DIR", "results")


def main(options: Options) -> int:
    """Prints what the store holds or what was removed; a store that does not exist is empty."""
    options.check()
    output = Path(options.output_dir).expanduser()
    if not output.is_dir():
        raise UserError(f"--output-dir '{options.output_dir}' is not a folder")
    path = store_path(output)
    if not path.exists() and not list(path.parent.glob(f"{path.name}.damaged-*")):
        print(f"nothing is stored in '{options.output_dir}'")
    elif options.action == "info":
        _show(path)
    else:
        print(f"removed {_clear(path) / 1e6:.1f} MB of finished requests from '{options.output_dir}'")
    return EXIT_OK


def _show(path: Path) -> None:
    from evals.run.store import Store

    with Store.open(path, on_note=print) as store:
        counts = store.counts()
    kinds = ", ".join(f"{number:,} {kind}s" for kind, number in counts.items())
    print(f"{path}: {sum(counts.values()):,} finished requests ({kinds}), {path.stat().st_size / 1e6:.1f} MB")
    aside = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    if aside:
        size = sum(file.stat().st_size for file in aside)
        print(f"{len(aside)} damaged files set aside, {size / 1e6:.1f} MB ('cache clear' removes them)")


def _clear(path: Path) -> int:
    """Removes the files, sound or not, and returns their bytes; a run that has them open goes on with a new store."""
    from evals.core.files import run_lock, writing

    lock = path.with_name(f"{path.name}.lock")
    with run_lock(lock, "the cache", print), writing(path):
        files = sorted(file for file in path.parent.glob(f"{path.name}*") if file != lock)
        size = sum(file.stat().st_size for file in files)
        for file in files:  # the database before its log
            file.unlink(missing_ok=True)
    return size
