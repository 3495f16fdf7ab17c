"""What a user chose of a run, beside the model and the card."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from evals.data.sources import Source


@dataclass(frozen=True)
class Settings:
    """What a user chose, beside the model and the suite. `references`: reference answers are scored as well."""

    source: Source
    tasks: list[str] | None = None
    limit: int | None = None
    variants: list[str] = field(default_factory=list)
    output: Path = Path("results")
    fresh: bool = False
    references: bool = False
