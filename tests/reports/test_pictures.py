"""The forest plot: both formats, the same file twice, hostile names as text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from evals.cli import main
from evals.core.card import load_card
from evals.core.errors import UserError
from reports.render.pictures import forest
from reports.runs import load_run
from tests.support.made_runs import Made, build


@pytest.fixture
def runs(tmp_path):
    labels = [row.label for row in load_card("instruct").rows]
    names = {"m0": "tiny", "m1": "<b>$x_1$ & co"}
    options = {"suite": "instruct", "labels": labels, "size": 15}
    made = [Made(name=folder, model={"name": name}, **options) for folder, name in names.items()]
    return [load_run(build(tmp_path, one)) for one in made]


def test_svg_is_text_and_the_same_twice(runs, tmp_path):
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    forest(runs, first)
    forest(runs, second)
    assert first.read_bytes() == second.read_bytes()
    texts = [
        "".join(node.itertext()) for node in ElementTree.parse(first).iter() if node.tag.endswith("text")
    ]
    expected = {
        "IFEval (Average prompt/inst)",
        "tiny (measured)",
        "<b>$x_1$ & co (measured)",
        "SmolLM2-360M-Instruct",
    }
    assert expected <= set(texts)
    assert any("Bars are 95 % intervals" in text and "printed without an error" in text for text in texts)


def test_png(runs, tmp_path):
    forest(runs, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_smoke_stands_alone(tmp_path):
    run = load_run(build(tmp_path, Made(data={"source": "smoke"})))
    forest([run], tmp_path / "a.svg")
    assert "SmolLM2-360M" not in (tmp_path / "a.svg").read_text()


def test_columns_of_the_tables_are_those_of_the_picture(runs, tmp_path):
    """Also through the command, where the picture once had all columns whatever was chosen."""
    picture = tmp_path / "a.svg"
    words = [str(runs[0].folder), str(runs[1].folder), "--columns", "tiny", "--plot", str(picture)]
    assert main(["report", *words]) == 0
    text = picture.read_text()
    assert "tiny (measured)" in text
    assert "co (measured)" not in text and "SmolLM2-360M-Instruct" not in text


def test_bad_targets(runs, tmp_path):
    with pytest.raises(UserError, match=r"\.svg or \.png"):
        forest(runs, tmp_path / "a.pdf")
    with pytest.raises(UserError, match="cannot write"):
        forest(runs, tmp_path / "no" / "a.svg")
