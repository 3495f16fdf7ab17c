"""The quick ones of the attacks that no other test makes; `make attack` makes them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forks import Forks
from tests.support.tiny_checkpoint import write_tiny_model
from tests.tools.attack import ATTACKS, NOT_HERE, WANTED, carry_out
from tests.tools.attacks.stage import Attack, Stage

ACTS = [attack for attack in ATTACKS if attack.act and attack.quick]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("attack", ACTS, ids=lambda attack: f"{attack.group}: {attack.name}")
def test_its_outcome_is_what_is_wanted(attack: Attack, forks: Forks, tiny: Path, tmp_path: Path) -> None:
    outcome = carry_out(attack, Stage(forks, tiny, tmp_path))
    if outcome.wanted == NOT_HERE:
        pytest.skip(outcome.words)
    assert outcome.wanted == WANTED, outcome.words


@pytest.mark.slow
def test_an_attack_whose_outcome_is_not_wanted_is_told(forks: Forks, tiny: Path, tmp_path: Path) -> None:
    def act(stage: Stage) -> str:
        raise AssertionError(f"a wrong number in {stage.folder}")

    outcome = carry_out(Attack("store", "made up", act), Stage(forks, tiny, tmp_path))
    assert (outcome.wanted, outcome.words) == ("NO", "a wrong number in …")


def test_every_test_that_is_named_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    for attack in ATTACKS:
        if attack.test:
            file, name = attack.test.split("::")
            assert f"def {name}(" in (root / file).read_text("utf-8"), attack.test
