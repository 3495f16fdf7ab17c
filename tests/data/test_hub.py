"""The hub path with the real client against a stand-in on loopback: what arrives, is asked and is said."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

from evals.data.hub import match_files
from tests.support.hub_standin import Fault, StandInHub, standin_hub

ROOT = Path(__file__).resolve().parents[2]
PINNED = "85ac5b5a3b7a930e22d590176e39460400d19e41"
TOKEN = "hf_secretsecretsecretsecretsecretsecret"

SCRIPT = """
import json, os, time
from types import SimpleNamespace
from evals.data import hub
from evals.models import hub as models
from evals.core.errors import UserError
def sleep(seconds):
    with open(os.environ["SLEPT"], "a") as file:
        file.write(f"{{seconds}}\\n")
time.sleep = sleep
task = SimpleNamespace(name="toy", repo="org/toy", subset="default", revision={revision!r})
try:
    {body}
except UserError as error:
    print(json.dumps({{"error": str(error)}}))
"""
SPLIT = """found = hub.fetch_split(task, "test", offline={offline})
    print(json.dumps({{"paths": [str(p) for p in found.paths], "revision": found.revision}}))"""
MODEL = """print(json.dumps({{"path": str(models.fetch_model("org/model", offline={offline}))}}))"""
TOKENIZER = MODEL.replace("offline=", "weights=False, offline=")
READ = """found = hub.fetch_split(task, "test", offline={offline})
    table = hub.read_split(found)
    print(json.dumps({{"rows": table.to_pylist(), "paths": [str(p) for p in found.paths]}}))"""


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with standin_hub() as server:
        yield server


@pytest.fixture
def fetch(hub: StandInHub, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a fetch in a process of its own (the client reads its environment at import); a cache a test.

    Waits are written down, not waited for.
    """

    def run(
        body: str = SPLIT, revision: str | None = PINNED, offline: bool = False, **env: str
    ) -> dict[str, Any]:
        code = SCRIPT.format(revision=revision, body=body.format(offline=offline))
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(hub, tmp_path) | env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        (line,) = done.stdout.splitlines()
        return {**json.loads(line), "stderr": done.stderr}

    return run


def environment(hub: StandInHub, tmp_path: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return clean | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "SLEPT": str(tmp_path / "slept"),
    }


def slept(tmp_path: Path) -> list[float]:
    """The waits of all fetches of a test, in seconds."""
    file = tmp_path / "slept"
    return [float(line) for line in file.read_text().split()] if file.exists() else []


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for path in found["paths"] for row in pq.read_table(path).to_pylist()]


TOY = [{"text": f"row {i}"} for i in range(50)]


def test_cold_cache_pinned_commit_then_no_network(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]]
) -> None:
    parts = {f"data/test-{i:05d}-of-00002.parquet": parquet(TOY[25 * i : 25 * i + 25]) for i in (0, 1)}
    hub.add("datasets/org/toy", {"README.md": b"toy", "toy.py": b"raise SystemExit", **parts}, PINNED)
    found = fetch()
    assert rows(found) == TOY
    assert found["revision"] == PINNED
    assert not hub.requests("GET /datasets/org/toy/resolve/" + PINNED + "/toy.py")

    asked = len(hub.log)
    assert fetch() == found
    assert len(hub.log) == asked, "a pinned commit in the cache needs no network"
    assert fetch(offline=True) == found
    assert fetch(HF_HUB_OFFLINE="1") == found


def test_script_data_set_comes_from_the_hubs_conversion(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]]
) -> None:
    hub.add("datasets/org/toy", {"toy.py": b"raise SystemExit"}, PINNED)
    commit = hub.add("datasets/org/toy", {"default/test/0000.parquet": parquet(TOY)}, "refs/convert/parquet")
    found = fetch()
    assert rows(found) == TOY
    assert found["revision"] == commit
    assert not [line for line in hub.requests() if line.endswith("toy.py")], "a script is never fetched"
    assert fetch(offline=True) == found


def test_moving_branch_is_asked_again_and_kept_when_the_hub_is_gone(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]]
) -> None:
    first = hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": parquet(TOY[:5])})
    assert fetch(revision=None)["revision"] == first
    second = hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": parquet(TOY[:6])})
    assert fetch(revision=None)["revision"] == second
    hub.faults.append(Fault("/", 503))
    assert fetch(revision=None)["revision"] == second


def test_cut_download_goes_on_where_it_stopped(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    body = os.urandom(3 * DOWNLOAD_CHUNK_SIZE)  # the client keeps whole chunks of a cut answer
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": body}, PINNED)
    hub.faults.append(Fault("GET /cdn/", 0, times=1))
    assert Path(fetch()["paths"][0]).read_bytes() == body
    ranges = [headers.get("range") for line, headers in hub.log if line.startswith("GET /cdn/")]
    assert ranges == [None, f"bytes={DOWNLOAD_CHUNK_SIZE}-"]


def test_damaged_download_is_fetched_again(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": parquet(TOY)}, PINNED)
    hub.faults.append(Fault("GET /cdn/", 1, times=1))
    assert rows(fetch()) == TOY
    hub.faults.append(Fault("GET /cdn/", 1))
    path = Path(fetch()["paths"][0])
    path.resolve().write_bytes(b"damaged in the cache")
    assert "does not match the hub's hash, twice" in fetch()["error"]


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (401, {}, "asks for a login (401)"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "refuses the token (401)"),
        (403, {"X-Error-Code": "GatedRepo"}, "refuses access (403)"),
        (403, {}, "refuses access (403)"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repo, revision or file"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no such repo, revision or file"),
        (410, {}, "no such repo, revision or file"),
        (429, {"Retry-After": "3600"}, "limits the rate of requests (429)"),
        (429, {}, "limits the rate of requests (429)"),
        (500, {}, "out of order (500)"),
        (503, {}, "out of order (503)"),
        (418, {}, "refuses the request (418)"),
        (200, {}, "does not answer as the hub does"),
    ],
)
def test_each_status_is_one_line_that_says_what_to_do(
    hub: StandInHub,
    fetch: Callable[..., dict[str, Any]],
    tmp_path: Path,
    status: int,
    headers: dict[str, str],
    says: str,
) -> None:
    hub.faults.append(Fault("/api/", status, headers))
    for body in (SPLIT, MODEL):
        error = fetch(body, HF_TOKEN=TOKEN)["error"]
        assert says in error
        assert "\n" not in error and len(error) < 300
        assert "org/toy" in error or "org/model" in error
    assert sum(slept(tmp_path)) <= 30, "not for ever"


def test_busy_hub_is_waited_for(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": parquet(TOY)}, PINNED)
    hub.faults += [
        Fault("/api/datasets/", 429, {"Retry-After": "7"}, times=1),
        Fault("GET /cdn/", 503, times=1),
    ]
    found = fetch()
    assert rows(found) == TOY
    assert slept(tmp_path)[0] == 7, "Retry-After is kept to"
    assert found["stderr"].count("is busy: waiting for it") == 1, "said once, though it was busy twice"
    assert len(hub.requests("GET /api/datasets/org/toy/revision/")) == 2


def test_token_goes_to_the_hub_alone(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": parquet(TOY)}, PINNED)
    fetch(HF_TOKEN=TOKEN)
    bearers = {line.split("/")[1]: headers.get("authorization") for line, headers in hub.log}
    assert bearers["api"] == f"Bearer {TOKEN}"
    assert bearers["cdn"] is None


def test_no_network_fails_at_once_for_everything(
    fetch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    nobody = "http://127.0.0.1:9"
    body = """errors = []
    for _ in range(40):
        try:
            hub.fetch_split(task, "test")
        except UserError as error:
            errors.append(str(error))
    print(json.dumps({{"errors": errors}}))"""
    errors = fetch(body, HF_ENDPOINT=nobody)["errors"]
    assert sum(slept(tmp_path)) <= 10
    assert len(errors) == 40
    assert "127.0.0.1:9 cannot be reached" in errors[0] and "--data DIR" in errors[0]


def test_offline_and_not_cached(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    for error in (
        fetch(offline=True)["error"],
        fetch(HF_HUB_OFFLINE="1")["error"],
        fetch(HF_DATASETS_OFFLINE="1")["error"],
        fetch(MODEL, offline=True)["error"],
    ):
        assert "offline, and not in the local cache" in error and "--model-path" in error
    assert hub.log == []


def test_rows_are_read_by_datasets_and_nothing_else_is_done(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    parts = {f"data/test-{i:05d}-of-00002.parquet": parquet(TOY[25 * i : 25 * i + 25]) for i in (0, 1)}
    hub.add("datasets/org/toy", {"README.md": b"toy", "toy.py": b"raise SystemExit", **parts}, PINNED)
    found = fetch(READ)
    assert found["rows"] == TOY
    assert found["stderr"] == "", "no bars and no log lines of the libraries"
    asked = len(hub.log)
    assert fetch(READ, offline=True)["rows"] == TOY
    assert len(hub.log) == asked
    kept = [path for path in (tmp_path / "home" / "datasets").rglob("*") if path.is_file()]
    assert kept == [], "no second copy that could differ from the files that were checked"


@pytest.mark.slow
def test_no_host_but_the_hub_is_asked_for_anything(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]]
) -> None:
    """datasets would count each load at a server of its own."""
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": parquet(TOY)}, PINNED)
    watched = """import socket
    hosts, look_up = [], socket.getaddrinfo
    def watch(host, *rest, **options):
        hosts.append(str(host))
        return look_up(host, *rest, **options)
    socket.getaddrinfo = watch
    hub.read_split(hub.fetch_split(task, "test", offline={offline}))
    print(json.dumps({{"hosts": hosts}}))"""
    assert set(fetch(watched)["hosts"]) == {"127.0.0.1", "localhost"}
    assert fetch(watched, offline=True)["hosts"] == []


@pytest.mark.parametrize("body", [b"no parquet", b"PAR1" + bytes(200) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_one_line(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]], body: bytes
) -> None:
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": body}, PINNED)
    found = fetch(READ)
    assert found["error"].startswith("org/toy: data/test-00000-of-00001.parquet cannot be read: ")
    assert found["stderr"] == "" and "\n" not in found["error"]


def test_a_store_shared_by_all_repos_has_names_of_its_own(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """With Xet, the client's blobs are links into such a store: their last name is not the content's sha256."""
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": parquet(TOY)}, PINNED)
    blob = Path(fetch()["paths"][0]).resolve()
    stored = tmp_path / ("a" * 64)
    blob.rename(stored)
    blob.symlink_to(stored)
    asked = len(hub.log)
    assert rows(fetch()) == TOY
    assert len(hub.log) == asked
    stored.write_bytes(b"damaged")
    assert rows(fetch()) == TOY
    assert len(hub.log) > asked


def test_a_full_disk_is_one_line(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": os.urandom(1 << 20)}, PINNED)
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n    "
    assert "the download failed (File too large)" in fetch(full + SPLIT)["error"]
    assert len(fetch()["paths"]) == 1, "and with space again it goes on"


@pytest.mark.slow
def test_a_killed_download_is_no_part_of_the_next(
    hub: StandInHub, fetch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    body = os.urandom(3 * DOWNLOAD_CHUNK_SIZE)
    hub.add("datasets/org/toy", {"data/test-00000-of-00001.parquet": body}, PINNED)
    hub.faults.append(Fault("GET /cdn/", 2, times=1))
    code = SCRIPT.format(revision=PINNED, body=SPLIT.format(offline=False))
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment(hub, tmp_path))
    assert hub.stalled.wait(60)
    killed.kill()
    killed.wait()
    assert "offline, and not in the local cache" in fetch(offline=True)["error"]
    assert Path(fetch()["paths"][0]).read_bytes() == body


MODEL_FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "model-00001-of-00002.safetensors": b"part of another copy",
}


def test_model_files_without_pickle_or_code(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    commit = hub.add("models/org/model", MODEL_FILES)
    folder = Path(fetch(MODEL)["path"])
    assert folder.name == commit
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert Path(fetch(MODEL, offline=True)["path"]) == folder
    hub.faults.append(Fault("/", 503))
    assert Path(fetch(MODEL)["path"]) == folder


def test_a_tokenizer_comes_without_weights(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    hub.add("models/org/model", MODEL_FILES)
    folder = Path(fetch(TOKENIZER)["path"])
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json"}
    assert "not in the local cache" in fetch(MODEL, offline=True)["error"], "half a model is no model"
    assert Path(fetch(TOKENIZER, offline=True)["path"]) == folder


@pytest.mark.slow
def test_half_downloaded_model_is_not_used(hub: StandInHub, fetch: Callable[..., dict[str, Any]]) -> None:
    parts = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 99 for i in (1, 2)}
    hub.add("models/org/model", {"config.json": b"{}", "model.safetensors.index.json": b"{}", **parts})
    hub.faults.append(Fault("resolve", 403, times=4))
    hub.faults[0].match = "model-00002"
    assert "(403)" in fetch(MODEL)["error"]
    assert "not in the local cache" in fetch(MODEL, offline=True)["error"]
    hub.faults.clear()
    assert len(list(Path(fetch(MODEL)["path"]).iterdir())) == 4
    assert "path" in fetch(MODEL, offline=True)


@pytest.mark.parametrize(
    ("subset", "files", "found"),
    [
        ("default", "default/test/0001 default/test/0000", "default/test/0000 default/test/0001"),
        ("all", "all/test-00000-of-00001 all/dev-00000-of-00001", "all/test-00000-of-00001"),
        ("default", "data/test-00000-of-00001-abc123", "data/test-00000-of-00001-abc123"),
        ("default", "toy_test toy_train", "toy_test"),
        ("all", "data/test-00000-of-00001", ""),
        ("default", "data/test-00001-of-00002", ""),
        ("default", "default/partial-test/0000 default/test/../0000", ""),
        ("Easy", "Easy/test-00000-of-00001 Hard/test-00000-of-00001", "Easy/test-00000-of-00001"),
    ],
)
def test_match_files(subset: str, files: str, found: str) -> None:
    names = [f"{name}.parquet" for name in files.split()]
    assert match_files(names, subset, "test") == [f"{name}.parquet" for name in found.split()]
