"""Records: a request's key is its meaning, a result's bytes are the result."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.core.errors import UserError
from evals.core.requests import GenerateRequest, Result, Score, ScoreRequest, ScoreRequests
from evals.run.records import decode, encode, request_keys
from evals.run.store import Store, request_key
from tests.support.made_records import results


@given(results)
def test_a_result_survives_to_the_bit(value: Result) -> None:
    again = decode(encode(value))
    assert again == value
    assert repr(again) == repr(value)  # -0.0 is not 0.0


@given(st.binary(max_size=60))
def test_bytes_that_are_no_record_are_refused(value: bytes) -> None:
    try:
        assert encode(decode(value))[:1] == value[:1]
    except (ValueError, OverflowError) as error:
        assert not isinstance(error, UserError)
    except Exception as error:
        assert type(error).__name__ == "error"  # struct.error


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_stored(tmp_path: Path, wrong: float) -> None:
    with Store.open(tmp_path / "s") as store, pytest.raises(ValueError, match="no result"):
        store.put([(b"k" * 32, Score(wrong))])


GREEDY = GenerateRequest((1, 2), 5, ("Question:",))


@pytest.mark.parametrize(
    "other",
    [
        GenerateRequest((1, 3), 5, ("Question:",)),
        GenerateRequest((1,), 5, ("Question:",)),
        GenerateRequest((1, 2), 6, ("Question:",)),
        GenerateRequest((1, 2), 5, ("Question",)),
        GenerateRequest((1, 2), 5, ()),
        GenerateRequest((1, 2), 5, ("Question:", "")),
        GenerateRequest((1, 2), 5, ("Question:",), 0.7),
        GenerateRequest((1, 2), 5, ("Question:",), 0.7, 1),
        ScoreRequest((1, 2), 1),
        ScoreRequest((1, 2), 5),
    ],
)
def test_another_meaning_is_another_key(other: GenerateRequest | ScoreRequest) -> None:
    assert request_key("model", other) != request_key("model", GREEDY)
    assert request_key("model", other) == request_key("model", other)


def test_keys_hang_on_the_model_and_not_on_a_seed_that_decides_nothing() -> None:
    assert request_key("model", GREEDY) != request_key("model2", GREEDY)
    assert request_key("model", GREEDY) == request_key(
        "model", GenerateRequest((1, 2), 5, ("Question:",), -0.0, 9)
    )
    hot = [GenerateRequest((1,), 5, (), 0.7, seed) for seed in (1, 2, 2**70)]
    assert len({request_key("model", request) for request in hot}) == 3


def test_stops_are_not_joined() -> None:
    first, second = GenerateRequest((1,), 5, ("ab", "c")), GenerateRequest((1,), 5, ("a", "bc"))
    assert request_key("model", first) != request_key("model", second)


@given(
    st.lists(st.builds(ScoreRequest, st.lists(st.integers(0, 2**31 - 1), min_size=2).map(tuple), st.just(1)))
)
def test_keys_in_bulk_are_those_of_each(requests: list[ScoreRequest]) -> None:
    flat = ScoreRequests.of(requests)
    assert request_keys("model", flat) == request_keys("model", requests)
    assert request_keys("model", flat[1:]) == request_keys("model", requests[1:])
    assert [*flat] == requests and [*flat[1:].take(range(0, len(flat[1:]), 2))] == requests[1::2]
    assert [*flat[1:].take(range(len(flat[1:])))] == requests[1:]
    assert [*ScoreRequests.joined([flat[:2], requests[2:]])] == requests


def test_keys_stay_the_same_between_versions() -> None:
    """A changed key makes every stored result worthless: then raise FORMAT, and change this on purpose."""
    assert request_key("model", ScoreRequest((1, 2, 3), 2)).hex()[:16] == "208b282a707cceac"
    assert request_key("model", GREEDY).hex()[:16] == "9589f88eefab46ca"
