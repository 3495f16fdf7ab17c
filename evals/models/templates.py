"""A chat template is tried before a model is run with it: it is a program of the model's author.

In a process of its own, as such a program can do anything but end: five seconds of processor time, and a gigabyte more
than at its start. It imports nothing but the renderer, and can be started before the template is known.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

from evals.core.errors import UserError

TEMPLATE_CHARACTERS = 1_000_000  # of one short message; a real template makes some thousand at most
# The two packages that hold transformers' renderer stay empty: they would import for a second, and the renderer needs
# nothing of them. Prints how many characters come out; errors are told where the text is needed. Nothing comes in where
# the run has ended.
_RENDER = """
import importlib.util, json, os, resource, sys, types
folder = importlib.util.find_spec("transformers").submodule_search_locations[0]
for name, place in {"transformers": folder, "transformers.utils": os.path.join(folder, "utils")}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]
from transformers.utils.chat_template_utils import render_jinja_template
given = sys.stdin.read()
if not given:
    sys.exit()
given = json.loads(given)
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
_ready: list[subprocess.Popen[str]] = []


def get_ready() -> None:
    """Starts the process for the next trial. Without a trial it ends with this one."""
    if not _ready:
        _ready.append(_start())


def template_ends(tokenizer: Any, name: str) -> None:
    """Raises UserError for a chat template that one short message keeps busy for ever, or that makes books of it."""
    template = tokenizer.get_chat_template()
    _rendered(json.dumps({**tokenizer.special_tokens_map, "chat_template": template}, default=str), name)


def _start() -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-P", "-c", _RENDER], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@functools.lru_cache(maxsize=16)
def _rendered(given: str, name: str) -> None:
    with _ready.pop() if _ready else _start() as process:
        count, errors = process.communicate(given)
    if process.returncode == 1:
        reason = errors.strip().rsplit("\n", 1)[-1][:200]
        raise UserError(f"the chat template of '{name}' cannot be tried: {reason}")
    if process.returncode or int(count) > TEMPLATE_CHARACTERS:
        raise UserError(
            f"the chat template of '{name}' does not end within 5 s, a gigabyte and {TEMPLATE_CHARACTERS:,} "
            "characters for one short message: use --suite base, or give weights with another"
        )
