"""The sampler: greedy, draws by the distribution, and logits that are no numbers."""

from __future__ import annotations

import torch

from evals.core.requests import GenerateRequest
from evals.engine.sampling import NOT_FINITE, draw, generator_of, sample

LOGITS = torch.tensor([0.0, 1.0, -1.0, 2.0])


def drawn(n: int, temperature: float, seed: int, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    generator = generator_of(GenerateRequest((1,), n, temperature=temperature, seed=seed))
    draws = torch.tensor([draw(generator) for _ in range(n)], dtype=torch.float64)
    return sample(logits.expand(n, -1), torch.full((n,), temperature), draws)


def test_draws_follow_the_distribution_and_the_seed():
    shares = torch.bincount(drawn(4000, 0.7, seed=3), minlength=4) / 4000
    assert torch.allclose(shares, torch.softmax(LOGITS / 0.7, -1), atol=0.03)
    assert torch.equal(drawn(50, 0.7, seed=9), drawn(50, 0.7, seed=9))
    assert not torch.equal(drawn(50, 0.7, seed=9), drawn(50, 0.7, seed=8))


def test_greedy_is_the_first_of_the_largest_and_needs_no_draw():
    logits = torch.tensor([[3.0, 1.0, 3.0], [0.0, 5.0, 1.0]])
    assert sample(logits, None, None).tolist() == [0, 1]
    draws = torch.full((2,), 0.999, dtype=torch.float64)
    assert sample(logits, torch.zeros(2), draws).tolist() == [0, 1]
    assert draw(generator_of(GenerateRequest((1,), 1))) == 0.0


def test_a_token_depends_on_its_own_row_alone():
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(1)) * 4
    temperatures = torch.tensor([0.0, 0.7, 1.5, 0.0, 0.1, 1.0])
    draws = torch.linspace(0, 0.99, 6, dtype=torch.float64)
    together = sample(logits, temperatures, draws)
    for i in range(6):
        one = slice(i, i + 1)
        assert sample(logits[one], temperatures[one], draws[one]).item() == together[i]


def test_what_no_draw_can_reach_is_the_last_token():
    logits = torch.tensor([[0.0, 0.0, -1e9]])
    largest = torch.tensor([1.0], dtype=torch.float64)
    assert sample(logits, torch.ones(1), largest).item() == 2


def test_logits_that_are_no_numbers_give_no_token():
    logits = torch.zeros(4, 3)
    logits[1, 2], logits[2, 0], logits[3] = float("nan"), float("inf"), float("-inf")
    draws = torch.full((4,), 0.5, dtype=torch.float64)
    for temperatures in (None, torch.ones(4)):
        assert (sample(logits, temperatures, draws) == NOT_FINITE).tolist() == [False, True, True, True]
