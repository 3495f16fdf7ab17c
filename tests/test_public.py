"""The public surface: what `import evals` offers, and the examples of the pages, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evals

ROOT = Path(__file__).resolve().parents[1]


def test_all_that_is_public_is_there_and_nothing_else() -> None:
    assert evals.__all__ == [
        "Card", "Metric", "ModelSpec", "RunLog", "UserError", "__version__", "evaluate", "load_run",
    ]  # fmt: skip
    for name in evals.__all__:
        assert getattr(evals, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        evals.nothing  # noqa: B018


def test_importing_it_is_light() -> None:
    heavy = "{'torch', 'transformers', 'lighteval', 'pandas', 'scipy', 'datasets', 'pydantic'}"
    code = f"import sys, evals; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def python_of(page: str, heading: str) -> str:
    """The first indented block after a heading."""
    text = (ROOT / page).read_text(encoding="utf-8").split(heading)[1]
    block = re.search(r"\n\n((?:    .*\n|\n)+)", text)
    assert block is not None
    return "\n".join(line[4:] for line in block[1].splitlines())


@pytest.mark.model
def test_the_example_of_the_readme(tmp_path, monkeypatch, embedded_path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(python_of("README.md", "**Use it from Python.**"), "README.md", "exec"), names)
    log = names["log"]
    assert isinstance(log, evals.RunLog)
    frame = log.to_pandas()
    assert list(frame["label"]) == ["PIQA"]
    assert 0 <= frame["value"][0] <= 100
    assert frame["published"][0] == 66.3
    samples = log.samples("piqa")
    assert len(samples) == frame["n"][0] == log.tasks["piqa"].n
    assert samples["acc_norm_nospace"].mean() * 100 == pytest.approx(frame["value"][0])
    again = evals.load_run(log.folder)
    assert again == log
    assert evals.load_run(log.folder / "run.json") == log
    with pytest.raises(evals.UserError, match="no task 'arc_easy'"):
        log.samples("arc_easy")


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"limit": 0}, "--limit 0"),
        ({"model": "nobody/knows/this"}, "unknown model"),
        ({"card": "no-such-card"}, "no card 'no-such-card'"),
        ({"data": "smoke", "tasks": ["piqqa"]}, "did you mean 'piqa'"),
        ({"model_path": "/nowhere.gguf"}, "nowhere.gguf"),
        ({"dtype": "float8"}, "--dtype 'float8': choose from float32"),
        ({"tasks": []}, "--tasks names no task"),
        ({"tokenizer": "gpt2"}, "--tokenizer belongs to"),
    ],
)
def test_wrong_choices_are_one_line(tmp_path, choices, says) -> None:
    with pytest.raises(evals.UserError, match=re.escape(says)) as caught:
        evals.evaluate(**{"data": "smoke", "output_dir": tmp_path, **choices})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_wheel_carries_all_that_a_run_needs(tmp_path) -> None:
    """Built, unpacked into an empty folder and run there: cards, known models, smoke items and the site are in it."""
    source = tmp_path / "source"  # building leaves files where it builds
    for name in ("evals", "tasks", "reports"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_evals.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    build = [sys.executable, "-m", "build", *options, str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("smol_evals-*.whl")
    place = tmp_path / "installed"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(place),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    (tmp_path / "empty").mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import evals, pathlib; "
        "assert pathlib.Path(evals.__file__).is_relative_to(sys.path[0]), evals.__file__; "
        "from evals.cli import main; sys.exit(main())"
    )
    line = [sys.executable, "-c", code, str(place), "--data", "smoke", "--tasks", "piqa", "--limit", "2"]
    done = subprocess.run(line, cwd=tmp_path / "empty", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PIQA" in done.stdout
    rank = [*line[:4], "leaderboard", "results"]
    done = subprocess.run(rank, cwd=tmp_path / "empty", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty" / "results" / "leaderboard" / "site" / "index.html").is_file()
