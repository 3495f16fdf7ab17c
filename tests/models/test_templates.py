"""Chat templates that end are used, others are refused: tried in a process with transformers' own renderer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evals.core.errors import UserError
from evals.models import templates
from tests.support.tiny_checkpoint import TEMPLATE

LOOP = "{% for a in range(99999) %}" * 3 + "X" + "{% endfor %}" * 3


def tokenizer(template: str) -> Any:
    """What a trial needs of one."""
    return SimpleNamespace(get_chat_template=lambda: template, special_tokens_map={"eos_token": "</s>"})


@pytest.mark.parametrize(
    "template", [TEMPLATE, "{{ eos_token }}" * 9, "{% for %}", "{{ raise_exception('no') }}", ""]
)
def test_templates_that_end_pass_and_what_they_raise_is_told_where_they_are_used(template: str) -> None:
    templates.template_ends(tokenizer(template), "m")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 100000000 }}",
        "{{ 'x' * 100000000000 }}",
        LOOP.replace("X", "{{ 'x' * (100000 + a) }}"),
        pytest.param(LOOP.replace("X", "{% set b = a %}"), marks=pytest.mark.slow),
        pytest.param("{{ 9 ** 999999999 }}", marks=pytest.mark.slow),
    ],
    ids=["long", "longer", "fills the memory", "silent", "power"],
)
def test_templates_that_do_not_end_are_refused(template: str) -> None:
    with pytest.raises(UserError, match="the chat template of 'm' does not end"):
        templates.template_ends(tokenizer(template), "m")


def test_a_process_that_was_started_ahead_tries_the_next_template() -> None:
    templates.get_ready()
    (process,) = templates._ready
    templates.get_ready()
    assert templates._ready == [process]
    templates.template_ends(tokenizer("{{ 'ahead' }}"), "m")
    assert process.returncode == 0
    assert templates._ready == []
    templates.get_ready()
    with pytest.raises(UserError, match="does not end"):
        templates.template_ends(tokenizer("{{ 'ahead' * 100000000 }}"), "m")


def test_a_process_without_a_template_ends_quietly() -> None:
    templates.get_ready()
    assert templates._ready.pop().communicate(timeout=60) == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", ["strftime_now('%Y')", "messages | tojson", "bos_token is undefined", "eos_token == '</s>'"]
)
def test_a_template_cannot_tell_the_trial_from_a_run(asked: str) -> None:
    """What transformers gives to templates is there; a block of its own too, or a loop could hide in one."""
    hidden = "{% generation %}{{ 'x' * 100000000 if ASKED }}{% break %}{% endgeneration %}"
    inside = (
        "{% for a in [1] %}"
        + hidden.replace("{% break %}", "").replace("ASKED", asked)
        + "{% break %}{% endfor %}"
    )
    with pytest.raises(UserError, match="does not end"):
        templates.template_ends(tokenizer(inside), "m")
