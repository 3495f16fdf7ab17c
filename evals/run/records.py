"""What a stored record is: the key of a request, the bytes of a result, the digest over both."""

from __future__ import annotations

import functools
import hashlib
import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import isfinite

import numpy as np

from evals.core.requests import (
    Generation,
    Request,
    Result,
    Score,
    ScoreRequest,
    ScoreRequests,
    TextRequest,
)

Record = tuple[bytes, bytes, bytes]  # key, value, digest

FORMAT = 1  # a change of keys or of a record's bytes needs another
SCORE, GENERATION, TEXT = b"S", b"G", b"T"
_HEAD = struct.Struct("<cBBI")  # of a generation: kind, bytes of its finish, bytes a token, tokens


def request_key(identity: str, request: Request) -> bytes:
    """32 bytes: sha256 over all that decides the result, and nothing else.

    ``identity`` stands for the model: weights' fingerprint, dtype, engine version. Whatever varies in length
    follows its length, so no two meanings share their bytes. A greedy request's seed decides nothing.
    Token ids are in the machine's byte order: one of the other order finds nothing here, and nothing wrong.
    """
    digest = _identity_digest(identity).copy()
    if isinstance(request, ScoreRequest):
        digest.update(struct.pack("<cIQ", SCORE, request.n_continuation, len(request.tokens)))
        digest.update(array("I", request.tokens))
        return digest.digest()
    if isinstance(request, TextRequest):
        digest.update(struct.pack("<cIQ", TEXT, request.max_new_tokens, len(request.messages)))
        digest.update(_text_bytes(part for message in request.messages for part in message))
    else:
        digest.update(struct.pack("<cIQ", GENERATION, request.max_new_tokens, len(request.prompt)))
        digest.update(array("I", request.prompt))
    sampled = request.temperature != 0
    texts = [*request.stops, str(request.seed) if sampled else ""]
    digest.update(struct.pack("<dI", request.temperature if sampled else 0.0, len(texts)))
    digest.update(_text_bytes(texts))
    return digest.digest()


def request_keys(identity: str, requests: Sequence[Request]) -> list[bytes]:
    """The request_key of each; those of score requests from their arrays."""
    if not isinstance(requests, ScoreRequests):
        return [request_key(identity, request) for request in requests]
    heads = np.empty(len(requests), [("kind", "S1"), ("n_continuation", "<u4"), ("tokens", "<u8")])
    heads["kind"], heads["n_continuation"] = SCORE, requests.n_continuation
    heads["tokens"] = np.diff(requests.starts)
    head, tokens = memoryview(heads.tobytes()), memoryview(requests.tokens.tobytes()).cast("I")
    start, size, keys = _identity_digest(identity), heads.itemsize, []
    for i, (begin, end) in enumerate(pairwise(requests.starts.tolist())):
        digest = start.copy()
        digest.update(head[i * size : (i + 1) * size])
        digest.update(tokens[begin:end])
        keys.append(digest.digest())
    return keys


@functools.lru_cache(maxsize=64)
def _identity_digest(identity: str) -> hashlib._Hash:
    return hashlib.sha256(struct.pack("<I", FORMAT) + _text_bytes([identity]))


def _text_bytes(texts: Iterable[str]) -> bytes:
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    return b"".join(struct.pack("<Q", len(part)) + part for part in encoded)


def encode(result: Result) -> bytes:
    """A result as bytes: a float64 to the bit, or finish, tokens (2 or 4 bytes each) and text."""
    if isinstance(result, Score):
        if not isfinite(result.logprob):
            raise ValueError(f"a log-likelihood of {result.logprob} is no result: check before storing")
        return SCORE + struct.pack("<d", result.logprob)
    tokens, finish = result.tokens, result.finish.encode()
    width, code = (2, "H") if max(tokens, default=0) < 2**16 else (4, "I")
    head = _HEAD.pack(GENERATION, len(finish), width, len(tokens)) + finish
    return head + struct.pack(f"<{len(tokens)}{code}", *tokens) + result.text.encode(errors="surrogatepass")


def decode(value: bytes) -> Result:
    """The result that encode wrote. Raises ValueError or struct.error for anything else."""
    if value[:1] == SCORE:
        return Score(*struct.unpack("<d", value[1:]))
    kind, n_finish, width, n_tokens = _HEAD.unpack_from(value)
    if kind != GENERATION or width not in (2, 4):
        raise ValueError("not a record")
    start = _HEAD.size + n_finish
    end = start + width * n_tokens
    tokens = struct.unpack(f"<{n_tokens}{'H' if width == 2 else 'I'}", value[start:end])
    return Generation(value[end:].decode(errors="surrogatepass"), tokens, value[_HEAD.size : start].decode())


def checked(key: bytes, value: bytes) -> Record:
    """A record: 8 bytes over key and value, kept with them, show a flipped bit."""
    return key, value, hashlib.blake2b(key + value, digest_size=8).digest()


def sound(key: object, value: object, digest: object) -> bool:
    """Whether the three belong together."""
    return isinstance(key, bytes) and isinstance(value, bytes) and checked(key, value)[2] == digest
