"""The table of damaged copies: it goes on where it was stopped. Tiny models in place of the embedded one's copies."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.damaged import damage_weights
from tests.support.tiny_checkpoint import write_tiny_model
from tests.support.tiny_models import tiny_model
from tests.tools import damage


def tiny_copies(source: Path, targets: Mapping[Path, Mapping[str, Any]]) -> None:
    for target, options in targets.items():
        write_tiny_model(target, seed=int(bool(options)))


def table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: Path, *more: str
) -> list[str]:
    words = [
        "--data",
        "smoke",
        "--out",
        str(out),
        "--rows",
        "PIQA",
        "--device",
        "cpu",
        "--only",
        "unchanged; 3 bits",
    ]
    monkeypatch.setattr(sys, "argv", ["damage.py", *words, *more])
    damage.main()
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_table_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(damage, "copies", tiny_copies)
    monkeypatch.setattr(damage, "embedded", lambda: tmp_path)
    first = table(monkeypatch, capsys, tmp_path / "out", "--whole", "--seconds", "0.001")
    assert first[-1].startswith("0 of 2 candidates: 2 are left")
    whole = table(monkeypatch, capsys, tmp_path / "out", "--whole")
    assert whole[-1] == "2 of 2 candidates"
    lines = {line.split(" | ")[0].strip("| "): line for line in whole[2:4]}
    assert set(lines) == {"unchanged", "3 bits"} and all("PIQA" in line for line in lines.values())
    assert (tmp_path / "out" / "table.md").read_text().splitlines() == whole[:4]
    steps = sorted(path.name for path in (tmp_path / "out" / "steps").iterdir())
    assert steps == [
        "early-3-bits.json", "early-unchanged.json", "judged-3-bits.json", "judged-unchanged.json",
        "whole-3-bits-float32.json", "whole-unchanged-float32.json",
    ]  # fmt: skip
    path = tmp_path / "out" / "steps" / "early-3-bits.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 1234.0}))
    assert "| 1234 |" in table(monkeypatch, capsys, tmp_path / "out", "--whole")[3], (
        "nothing is measured again"
    )


def test_weights_are_damaged_as_told() -> None:
    import torch

    with torch.no_grad():
        for options in ({"bits": 3}, {"noise": 0.1}, {"prune": 0.3}, {}):
            model, same = tiny_model("llama"), tiny_model("llama")
            damage_weights(model, **options)
            matrices = [
                pair for pair in zip(model.parameters(), same.parameters(), strict=True) if pair[0].dim() == 2
            ]
            changed = [not torch.equal(*pair) for pair in matrices]
            assert all(changed) if options else not any(changed)
            if "prune" in options:
                assert all(
                    torch.mean((one == 0).float()) == pytest.approx(0.3, abs=0.02) for one, _ in matrices
                )
