"""Requests and results as bytes, to send between the processes of one run. Plain numbers and text, no pickle."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence

from evals.core.requests import GenerateRequest, Request, Result, Score, ScoreRequest
from evals.run.records import decode, encode

_RESULT = struct.Struct("<II")
_SCORE = struct.Struct("<d")  # also one that is not finite, which a record refuses: the leader names its doc


def pack_requests(requests: Sequence[Request]) -> bytes:
    """Requests of token ids, in order."""
    heads: list[list[object]] = []
    tokens = array("I")
    for request in requests:
        if isinstance(request, ScoreRequest):
            heads.append([len(request.tokens), request.n_continuation])
            tokens.extend(request.tokens)
        else:
            assert isinstance(request, GenerateRequest)
            settings = [request.max_new_tokens, request.stops, request.temperature, request.seed]
            heads.append([len(request.prompt), *settings])
            tokens.extend(request.prompt)
    if sys.byteorder == "big":
        tokens.byteswap()
    head = json.dumps(heads).encode()
    return zlib.compress(struct.pack("<I", len(head)) + head + tokens.tobytes(), 1)


def unpack_requests(message: bytes) -> list[Request]:
    """What pack_requests packed."""
    raw = zlib.decompress(message)
    start = 4 + struct.unpack_from("<I", raw)[0]
    tokens = array("I", raw[start:])
    if sys.byteorder == "big":
        tokens.byteswap()
    requests: list[Request] = []
    at = 0
    for length, first, *rest in json.loads(raw[4:start]):
        own = tuple(tokens[at : at + length])
        at += length
        if rest:
            stops, temperature, seed = rest
            requests.append(GenerateRequest(own, first, tuple(stops), temperature, seed))
        else:
            requests.append(ScoreRequest(own, first))
    return requests


def pack_results(results: Iterable[tuple[int, Result]]) -> bytes:
    """Results with their indices."""
    parts = []
    for i, result in results:
        value = _SCORE.pack(result.logprob) if isinstance(result, Score) else encode(result)
        parts.append(_RESULT.pack(i, len(value)) + value)
    return b"".join(parts)


def unpack_results(message: bytes) -> list[tuple[int, Result]]:
    """What pack_results packed."""
    results: list[tuple[int, Result]] = []
    at = 0
    while at < len(message):
        i, length = _RESULT.unpack_from(message, at)
        at += _RESULT.size
        value = message[at : at + length]
        results.append((i, Score(*_SCORE.unpack(value)) if length == _SCORE.size else decode(value)))
        at += length
    return results
