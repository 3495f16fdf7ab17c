"""What a stored record is: the key of a request, the bytes of a result, the digest over both."""

from __future__ import annotations

import functools
import hashlib
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

from evals.core.requests import Generation, Request, Result, Score, ScoreRequest, TextRequest

FORMAT = 1  # a change of keys or of a record's bytes needs another
SCORE, GENERATION, TEXT = b"S", b"G", b"T"


def request_key(identity: str, request: Request) -> bytes:
    """32 bytes: sha256 over all that decides the result, and nothing else.

    ``identity`` stands for the model: weights' fingerprint, dtype, engine version. Whatever varies in length
    follows its length, so no two meanings share their bytes. A greedy request's seed decides nothing.
    """
    digest = _identity_digest(identity).copy()
    if isinstance(request, ScoreRequest):
        digest.update(struct.pack("<cIQ", SCORE, request.n_continuation, len(request.tokens)))
        digest.update(_token_bytes(request.tokens))
        return digest.digest()
    if isinstance(request, TextRequest):
        digest.update(struct.pack("<cIQ", TEXT, request.max_new_tokens, len(request.messages)))
        digest.update(_text_bytes([part for message in request.messages for part in message]))
    else:
        digest.update(struct.pack("<cIQ", GENERATION, request.max_new_tokens, len(request.prompt)))
        digest.update(_token_bytes(request.prompt))
    sampled = request.temperature != 0
    texts = [*request.stops, str(request.seed) if sampled else ""]
    digest.update(struct.pack("<dI", request.temperature if sampled else 0.0, len(texts)))
    digest.update(_text_bytes(texts))
    return digest.digest()


def request_keys(identity: str, requests: Iterable[Request]) -> list[bytes]:
    """The key of each request, in order."""
    return [request_key(identity, request) for request in requests]


@functools.lru_cache(maxsize=64)
def _identity_digest(identity: str) -> Any:
    encoded = identity.encode(errors="surrogatepass")
    return hashlib.sha256(struct.pack("<IQ", FORMAT, len(encoded)) + encoded)


def _token_bytes(tokens: Sequence[int], code: str = "I") -> bytes:
    packed = array(code, tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _text_bytes(texts: Sequence[str]) -> bytes:
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    return b"".join(struct.pack("<Q", len(part)) + part for part in encoded)


def encode(result: Result) -> bytes:
    """A result as bytes: a float64 to the bit, or finish, tokens (2 or 4 bytes each) and text."""
    if isinstance(result, Score):
        if not isfinite(result.logprob):
            raise ValueError(
                f"a log-likelihood of {result.logprob} is no result: check scores before storing them"
            )
        return SCORE + struct.pack("<d", result.logprob)
    finish = result.finish.encode()
    width = 2 if max(result.tokens, default=0) < 2**16 else 4
    head = struct.pack("<cBBI", GENERATION, len(finish), width, len(result.tokens))
    tokens = _token_bytes(result.tokens, "H" if width == 2 else "I")
    return head + finish + tokens + result.text.encode(errors="surrogatepass")


def decode(value: bytes) -> Result:
    """The result that encode wrote. Raises ValueError or struct.error for anything else."""
    if value[:1] == SCORE:
        (logprob,) = struct.unpack("<d", value[1:])
        if not isfinite(logprob):
            raise ValueError("not a finite score")
        return Score(logprob)
    kind, n_finish, width, n_tokens = struct.unpack_from("<cBBI", value)
    start = struct.calcsize("<cBBI") + n_finish
    end = start + width * n_tokens
    if kind != GENERATION or width not in (2, 4) or end > len(value):
        raise ValueError("not a record")
    tokens = array("H" if width == 2 else "I", value[start:end])
    if sys.byteorder == "big":
        tokens.byteswap()
    text = value[end:].decode(errors="surrogatepass")
    return Generation(text, tuple(tokens), value[start - n_finish : start].decode())


def checksum(key: bytes, value: bytes) -> bytes:
    """8 bytes over a record, kept with it: a flipped bit shows."""
    return hashlib.blake2b(key + value, digest_size=8).digest()


def sound(key: object, value: object, digest: object) -> bool:
    """Whether the three belong together."""
    return isinstance(key, bytes) and isinstance(value, bytes) and checksum(key, value) == digest
