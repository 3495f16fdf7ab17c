"""Stakes: false ones seldom grow whenever one looks, true ones grow, and what is sure is sure."""

from __future__ import annotations

import numpy as np
import pytest

from reports.gate.betting import Drawn, interleaved

DOCS = 1000


def drawn(generator: np.random.Generator, worse: int, better: int, first: int | None = None) -> Drawn:
    """The first docs of a row in random order, of which so many truly lost and won."""
    losses = np.zeros(DOCS)
    losses[:worse], losses[worse : worse + better] = 100.0, -100.0
    return Drawn(generator.permutation(losses)[:first], 100.0, DOCS)


@pytest.mark.parametrize(
    "worse, better, name, limit",
    [
        (50, 30, "above", 2.0),  # exactly 2 are lost: "2 or less" is true
        (50, 30, "below", 2.0),  # and so is "2 or more"
        (40, 40, "worse", None),
        (300, 280, "below", 2.0),
    ],
)
def test_a_true_hypothesis_is_seldom_refuted_however_often_one_looks(worse, better, name, limit):
    generator, refuted, trials = np.random.default_rng(5), 0, 400
    for _ in range(trials):
        one = drawn(generator, worse, better, None if name == "worse" else DOCS - 1)
        stake = one.worse if limit is None else getattr(one, name)(limit)
        refuted += stake >= 20
    assert refuted / trials <= 0.05 + 0.033  # 0.05 with three errors of this simulation


def test_a_false_hypothesis_is_refuted_by_part_of_the_docs():
    generator = np.random.default_rng(6)
    assert np.median([drawn(generator, 10, 10, 400).below(2.0) for _ in range(50)]) > 20
    assert np.median([drawn(generator, 70, 10, 600).above(2.0) for _ in range(50)]) > 20
    assert np.median([drawn(generator, 70, 10, 400).worse for _ in range(50)]) > 20
    assert drawn(generator, 500, 0, 30).worse > 1000


def test_a_bet_on_no_loss_needs_few_docs_of_a_noisy_row():
    """A tenth of the docs moves: a bet that learns how much needs fewer of them than bets of fixed sizes would."""
    generator = np.random.default_rng(7)
    assert np.median([drawn(generator, 50, 50, 660).below(2.0) for _ in range(50)]) > 15


def test_what_the_docs_left_cannot_change_is_sure():
    lost = Drawn(np.full(30, 100.0), 100.0, DOCS)
    assert lost.above(2.0) < float("inf")  # 97 of 100 docs are still to come
    some = Drawn(np.concatenate([np.full(500, 100.0), np.zeros(490)]), 100.0, DOCS)
    assert some.above(2.0) == float("inf")  # ten docs cannot make up for 500
    assert some.below(2.0) < 20


def test_nothing_to_bet_on():
    assert Drawn(np.array([]), 100.0, DOCS).worse == 1.0
    assert Drawn(np.ones(50), float("inf"), DOCS).worse == 1.0  # a doc may lose anything


def test_docs_of_several_tasks_are_drawn_in_one_order():
    order = interleaved((300, 100))
    assert np.bincount(order).tolist() == [300, 100]
    assert np.array_equal(order, interleaved((300, 100)))
    assert 10 < np.sum(order[:80] == 1) < 32  # about a quarter at any time
