"""Curves over checkpoints: steps from names, tables by hand, a picture that is the same twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.commands import curve as command
from evals.core.errors import UserError
from reports import curve
from reports.render.tables import markdown
from reports.runs import load_run
from tests.support.made_runs import Made, build
from tests.support.words import parse


@pytest.mark.parametrize(
    ("name", "rest", "step"),
    [
        ("step-1000", "", 1000),
        ("checkpoint-500", "", 500),
        ("run1-step-100", "run1", 100),
        ("SmolLM2-135M-step500", "SmolLM2-135M", 500),
        ("model-step1000-tokens2B", "model--tokens2B", 1000),
        ("ckpt_7", "", 7),
        ("0012", "", 12),
        ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct", None),
        ("Qwen2.5-0.5B", "Qwen2.5-0.5B", None),
    ],
)
def test_step_of_a_name(name: str, rest: str, step: int | None) -> None:
    assert curve.step_of(name) == (rest, step)


def made(results: Path, name: str, right: int, **changes: object) -> Path:
    options: dict = {"labels": ("PIQA",), "scores": {"piqa": [1] * right + [0] * (100 - right)}, "size": 100}
    return build(results, Made(name=name, **(options | changes)))


def args(*runs: Path, **options: object) -> command.Options:
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return parse(command.Options, [*map(str, runs), *words])


def test_table_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step, right in ((1000, 60), (200, 50), (3000, 60)):
        made(tmp_path, f"run-step-{step}", right)
    made(tmp_path, "SmolLM2-135M", 70)
    command.main(args(tmp_path))
    out = capsys.readouterr().out
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")
    ]
    assert [line[0] for line in cells] == ["Step", "200", "1,000", "3,000"]
    assert cells[0][1:] == ["PIQA (n = 100)"]
    assert cells[1][1].startswith("50.0 ± ")
    assert [line[1].startswith("**60.0 ± ") for line in cells[1:]] == [False, True, True]
    assert "Base Pre-Trained Model: run" in out and "SmolLM2" not in out


def test_trainings_are_told_apart_and_unlike_checkpoints_marked(tmp_path: Path) -> None:
    runs = [made(tmp_path, f"{run}-step-{step}", 40 + step) for run in ("a", "b") for step in (1, 2)]
    runs.append(made(tmp_path, "a-step-3", 43, model={"dtype": "float16"}))
    curves = curve.find_curves([load_run(folder) for folder in runs])
    assert [(one.name, [step for step, _ in one.points]) for one in curves] == [
        ("a", [1, 2, 3]),
        ("b", [1, 2]),
    ]
    text = markdown(curve.tables(curves)[0])
    assert "3 [1]" in text and "not measured as the first checkpoint: dtype" in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    runs = [made(tmp_path, f"x-{step}", 50) for step in (1, 2)]
    loaded = [load_run(folder) for folder in runs]
    for run, step in zip(loaded, (1, 2), strict=True):
        run.log.model.name = f"<b>|evil|</b>\n-step-{step}"
    text = markdown(curve.tables(curve.find_curves(loaded))[0])
    assert (
        "<b>" not in text
        and len({line.count(" | ") for line in text.splitlines() if line.startswith("| ")}) == 1
    )


def test_picture(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        made(tmp_path, f"step-{step}", 40 + 10 * step)
    made(tmp_path, "published", 65)
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        assert command.main(args(tmp_path, plot=picture, output=tmp_path / "table.md")) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    text = pictures[0].read_text()
    assert "PIQA, base" in text and "published" in text and "step" in text
    assert "| Step" in (tmp_path / "table.md").read_text()
    with pytest.raises(UserError, match=r"not 'x\.pdf'"):
        command.main(args(tmp_path, plot=tmp_path / "x.pdf", output=tmp_path / "table.md"))


def test_no_training_is_one_line(tmp_path: Path) -> None:
    made(tmp_path, "SmolLM2-135M", 50)
    made(tmp_path, "step-5", 50)
    with pytest.raises(UserError, match="no two checkpoints of one training"):
        command.main(args(tmp_path))
    with pytest.raises(UserError, match="no run folder"):
        command.main(args(tmp_path / "nowhere"))


def test_steps_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For checkpoints whose names say nothing, in the order in which they are given."""
    runs = [made(tmp_path, name, right) for name, right in (("late", 70), ("early", 40))]
    with pytest.raises(UserError, match="or give --steps"):
        command.main(args(*runs))
    command.main(args(*runs, steps="2000, 10"))
    lines = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [(step.strip(), value.strip()[:6]) for step, value in lines[1:]] == [
        ("10", "40.0 ±"),
        ("2,000", "**70.0"),
    ]
    for steps, why in (("1", "1 numbers for 2 runs"), ("1,x", "'x' is no step")):
        with pytest.raises(UserError, match=why):
            command.main(args(*runs, steps=steps))
