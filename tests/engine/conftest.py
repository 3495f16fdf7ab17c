"""What loading a model does first, for the models that these tests make themselves."""

from __future__ import annotations

import pytest

from evals.engine.device import settle_vector_math


@pytest.fixture(scope="session", autouse=True)
def settled() -> None:
    """Rounding is the same from the first call on."""
    settle_vector_math()
