"""What workers of a test load: real models of random weights, seen and held up as the test needs.

Ray's workers import this file, so it imports nothing of pytest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evals.adapters.build import Built, LocalOptions, build, build_share
from evals.core.card import load_card
from evals.core.requests import NotFinite, Request, Result
from evals.models.known import ModelSpec
from evals.run.shares import distinct_tokens

FREE = 5  # results that a held worker hands over before it waits, where a test does not say
OPTIONS = LocalOptions(device="cpu", dtype="float32")
CARDS = [load_card("base")]


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(folder.name, "folder", str(folder), None)


class Watched:
    """A model that writes a byte to FOLDER/results for each result, and can be held up.

    While there is FOLDER/hold, it waits after `free` results; `until`: no longer than until FOLDER/`until` is there.
    """

    def __init__(self, adapter: Any, folder: Path, free: int, until: str) -> None:
        self._adapter, self._folder, self._free, self._until = adapter, folder, free, until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        for n, pair in enumerate(self._adapter.run(requests, skip)):
            while n >= self._free and self._held():
                time.sleep(0.01)
            note(self._folder / "results", ".")
            yield pair

    def _held(self) -> bool:
        return (self._folder / "hold").exists() and not (
            self._until and (self._folder / self._until).exists()
        )


class Broken(Watched):
    """Its fourth score is no number."""

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        yield from list(super().run(requests, skip))[:3]
        raise NotFinite(3)


def load(
    spec: ModelSpec,
    threads: int,
    memory: float,
    folder: Path,
    free: int = FREE,
    until: str = "",
    kind: type[Watched] = Watched,
) -> Built:
    """In a worker: the model, as `run_evals.py` loads it; writes FOLDER/loaded-NAME and FOLDER/pids."""
    built = build_share(spec, CARDS, OPTIONS, True, threads, memory)
    note(folder / f"loaded-{spec.name}", ".")
    note(folder / "pids", f"{os.getpid()} ")
    return replace(built, adapters=[kind(adapter, folder, free, until) for adapter in built.adapters])


class Counted:
    """A model that tells, in a file of its process in $COUNTS, tokens it has to read, and each result's tokens.

    Lines: "read N" for a call, "made N" for a result (0 for a score).
    """

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        path = Path(os.environ["COUNTS"]) / str(os.getpid())
        note(path, f"read {distinct_tokens([one for i, one in enumerate(requests) if i not in skip])}\n")
        for i, result in self._adapter.run(requests, skip):
            note(path, f"made {len(getattr(result, 'tokens', ()))}\n")
            yield i, result


def counted(*given: Any, **named: Any) -> Built:
    """As evals/adapters/build.py: build or, with threads and memory, build_share; the models are `Counted`."""
    built = (build_share if "threads" in named else build)(*given, **named)
    return replace(built, adapters=[Counted(adapter) for adapter in built.adapters])


def count() -> None:
    """In a driver: from now on models are `Counted`, here or in its workers."""
    from evals.commands import run

    run.build = run.build_share = counted  # type: ignore[assignment]


def ends(spec: ModelSpec, threads: int, memory: float) -> Built:
    """In a worker: the process ends while it loads, as for lack of memory."""
    os._exit(9)


def other_weights(spec: ModelSpec, threads: int, memory: float, folder: Path, other: ModelSpec) -> Built:
    """In a worker: the second one to come loads another model, as from a folder that is not the same on its host.

    The first one is held up, or it might do all of the work alone.
    """
    try:
        os.close(os.open(folder / "first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        spec = other
    return load(spec, threads, memory, folder)


def note(path: Path, text: str) -> None:
    """Adds to a file that several processes write."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, text.encode())
    os.close(handle)
