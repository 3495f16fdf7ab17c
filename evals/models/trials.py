"""Trials of what a model's files claim, made before anything is scored by them."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

import torch

from evals.core.errors import UserError

TEMPLATE_CHARACTERS = (
    1_000_000  # of one short message in a chat template; a real one makes some thousand at most
)
# In a process of its own, as a program of the model's author can do anything but end: five seconds of processor time,
# and a gigabyte more than at its start. Prints how many characters come out; errors are told where the text is needed.
_RENDER = """
import json, os, resource, sys
from transformers.utils.chat_template_utils import render_jinja_template
given = json.load(sys.stdin)
if os.path.exists("/proc/self/statm"):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, 2 * (pages * resource.getpagesize() + (1 << 30),))
resource.setrlimit(resource.RLIMIT_CPU, 2 * (int(sum(os.times()[:2])) + 5,))
try:
    ((text,), _) = render_jinja_template([[{"role": "user", "content": "Hi"}]], add_generation_prompt=True, **given)
    print(len(text))
except MemoryError:
    sys.exit(3)
except Exception:
    print(0)
"""


def template_ends(tokenizer: Any, name: str) -> None:
    """Raises UserError for a chat template that one short message keeps busy for ever, or that makes books of it."""
    template = tokenizer.get_chat_template()
    _rendered(json.dumps({**tokenizer.special_tokens_map, "chat_template": template}, default=str), name)


@functools.lru_cache(maxsize=16)
def _rendered(given: str, name: str) -> None:
    command = [sys.executable, "-P", "-c", _RENDER]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode == 1:
        reason = done.stderr.strip().rsplit("\n", 1)[-1][:200]
        raise UserError(f"the chat template of '{name}' cannot be tried: {reason}")
    if done.returncode or int(done.stdout) > TEMPLATE_CHARACTERS:
        raise UserError(
            f"the chat template of '{name}' does not end within 5 s, a gigabyte and {TEMPLATE_CHARACTERS:,} "
            "characters for one short message: use --suite base, or give weights with another"
        )


def tokens_have_rows(tokenizer: Any, model: Any, name: str) -> None:
    """Raises UserError if the vocabulary is larger than the embedding.

    Tokens that were added to a vocabulary may be beyond it: for padding or pictures, say, which are never fed here.
    """
    tokens, rows = tokenizer.vocab_size, model.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        raise UserError(
            f"the tokenizer of '{name}' has {tokens} tokens, the embedding of its weights {rows} rows: "
            "they do not belong together"
        )


@torch.inference_mode()
def predicts_the_next_token(model: Any, name: str) -> None:
    """Raises UserError if what a model says after a token depends on later ones, as an encoder's words do."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = [[(11 + 7 * i) % size for i in range(6)] + [last % size] for last in (3, 5)]
    one, other = (
        model(input_ids=torch.tensor([each], device=model.device), use_cache=False).logits[0, :6].float()
        for each in ids
    )
    # far more than rounding, and far less than an encoder's; weights of NaN are found where they are used
    if (one - other).norm() > 0.01 * one.std() * one.numel() ** 0.5:
        raise UserError(
            f"'{name}' is no causal language model: what it says after a token depends on the tokens that follow"
        )
