"""Data as script files, and names as file names: what makes hostile text harmless on its way to a page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

# A page opened from file:// may load scripts but not fetch JSON, so data comes as calls of one function.
CALL = "smol.put"
PACK, PACKED_CHARS = (
    "smol.pack",
    1_000,
)  # longer ones are deflated: texts and scores shrink to about a quarter
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"}


def script_json(value: Any) -> str:
    """``value`` as JSON that may stand anywhere in a script: ASCII only, no ``<``, ``>``, ``&`` or ``'``.

    ASCII keeps U+2028 and U+2029 out (line ends in older scripts) and makes the text independent of the page's
    encoding; without ``<`` there can be no ``</script>`` and no ``<!--``. What is not a finite number becomes null.
    """
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
    text = json.dumps(finite, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&']", lambda match: _ESCAPES[match.group()], text)


def write_script(folder: Path, key: str, value: Any) -> None:
    """Writes ``folder/key.js``, which hands ``value`` to the page under ``key`` when it is loaded."""
    path = folder / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    call, text = CALL, script_json(value)
    if len(text) > PACKED_CHARS:
        call, text = PACK, f'"{base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")}"'
    path.write_text(f"{call}({script_json(key)},{text});\n", encoding="ascii")


def slug(name: str, *more: str) -> str:
    """A file name for any text: its letters and digits, then eight hex digits over all that tells it from others."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-")
    whole = "\0".join((name, *more)).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(whole).hexdigest()[:8]
    return f"{readable}-{digest}" if readable else digest
