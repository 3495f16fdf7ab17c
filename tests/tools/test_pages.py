"""The pages that are made from the code are those that the code makes."""

import pytest

from tests.tools import pages


@pytest.mark.parametrize(
    "path", ["CONTRIBUTING.md", "results/README.md", "results/run.schema.json", "evals/commands/README.md"]
)
def test_a_generated_page_is_up_to_date(path):
    now, made = pages.pages()[path]
    assert now == made, f"{path} is out of date: run 'python tests/tools/pages.py --write'"


def test_every_key_of_the_run_log_is_explained():
    for name in pages.MODELS:
        for key, field in getattr(pages.runlog, name).model_fields.items():
            assert field.description, f"{name}.{key} has no docstring"
