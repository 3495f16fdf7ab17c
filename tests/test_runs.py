"""Whole runs of the command on a tiny model: what is recomputed when, and how runs end when something is wrong.

One thread, the protocol's own tasks, a handful of docs in a folder of the test's own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forks import ROOT, Forks, wait_for
from tests.hub.tiny import write_tiny_model

TASKS = "piqa,gsm8k"
PIQA = [
    {"goal": f"Open jar {n}", "sol1": "Twist the lid.", "sol2": f"Sing {n} songs.", "label": n % 2}
    for n in range(8)
]
GSM8K = [
    {"question": f"What is {n} plus {n}?", "answer": f"{n} and {n} make {2 * n}.\n#### {2 * n}"}
    for n in range(12)
]


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_jsonl(folder / "piqa" / "validation.jsonl", PIQA)
    write_jsonl(folder / "gsm8k" / "test.jsonl", GSM8K[:3])
    write_jsonl(folder / "gsm8k" / "train.jsonl", GSM8K)
    return folder


class Bench:
    """Runs the command on one model, data folder and output folder."""

    def __init__(self, forks: Forks, model: Path, data: Path, output: Path) -> None:
        self.forks, self.model, self.data, self.output = forks, model, data, output
        self.log = output.parent / f"{output.name}.log"
        self.hook: tuple[Any, ...] = ("tests.test_runs:short_answers",)

    def arguments(self, *options: str) -> list[str]:
        return [
            "--model", "tiny", "--model-path", str(self.model), "--suite", "base", "--tasks", TASKS,
            "--data", str(self.data), "--output-dir", str(self.output), "--device", "cpu",
            "--dtype", "float32", *options,
        ]  # fmt: skip

    def run(self, *options: str) -> dict[str, Any]:
        """A run that ends well; its record."""
        before = set(self.folders())
        code = self.forks.run(self.arguments(*options), self.log, *self.hook)
        assert code == 0, self.log.read_text()
        (folder,) = set(self.folders()) - before
        self.last = folder
        return json.loads((folder / "run.json").read_text())

    def fails(self, *options: str) -> str:
        """A run that ends with one line; that line."""
        self.log.unlink(missing_ok=True)
        code = self.forks.run(self.arguments(*options), self.log, *self.hook)
        lines = [line for line in self.log.read_text().splitlines() if not line.startswith(NOTES)]
        assert code == 2, lines
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    def folders(self) -> list[Path]:
        return [path.parent for path in self.output.glob("*/*/run.json")]


@pytest.fixture
def bench(forks: Forks, tiny: Path, data: Path, tmp_path: Path) -> Bench:
    return Bench(forks, tiny, data, tmp_path / "results")


def computed(record: dict[str, Any]) -> int:
    return sum(row["computed"] for row in record["timing"]["rows"].values())


def samples(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "samples").iterdir())}


def short_answers(budget: int = 6, stops: list[str] | None = None) -> None:
    """In the fork: a small budget, so that a random model is done soon; other stops on request."""
    from evals import runner

    build = runner.build_docs

    def shortened(*arguments: Any) -> Any:
        docs = build(*arguments)
        for doc in docs:
            if doc.generation_size is not None:
                doc.generation_size = budget
                doc.stop_sequences = doc.stop_sequences if stops is None else stops
        return docs

    runner.build_docs = shortened


NOTES = ("loading", "base,", "this model generates", "this model is scored")
ALL = 2 * len(PIQA) + 3  # requests: a choice each, an answer each


# What is recomputed


def test_the_same_command_again_computes_nothing_and_writes_the_same_samples(bench: Bench) -> None:
    assert computed(bench.run()) == ALL
    first = samples(bench.last)
    assert computed(bench.run()) == 0
    assert samples(bench.last) == first


def test_fresh_folders_get_the_same_bytes(forks: Forks, tiny: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for name in ("first", "second"):
        bench = Bench(forks, tiny, data, tmp_path / name)
        assert computed(bench.run()) == ALL
        found.append(samples(bench.last))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_fresh_computes_everything(bench: Bench) -> None:
    bench.run()
    assert computed(bench.run("--fresh")) == ALL


def test_a_limit_first_leaves_only_the_rest(bench: Bench) -> None:
    assert computed(bench.run("--limit", "2")) == 2 * 2 + 2
    assert computed(bench.run()) == ALL - 6
    assert computed(bench.run("--limit", "5")) == 0


def test_another_place_of_the_same_weights_computes_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "elsewhere"))
    os.utime(bench.model / "config.json", (0, 0))
    assert computed(bench.run()) == 0


def test_one_character_of_a_prompt_recomputes_its_doc(bench: Bench) -> None:
    bench.run()
    rows = [dict(row) for row in PIQA]
    rows[3]["goal"] += "!"
    write_jsonl(bench.data / "piqa" / "validation.jsonl", rows)
    assert computed(bench.run()) == 2


def test_one_character_of_a_choice_recomputes_that_choice(bench: Bench) -> None:
    bench.run()
    rows = [dict(row) for row in PIQA]
    rows[3]["sol2"] += "!"
    write_jsonl(bench.data / "piqa" / "validation.jsonl", rows)
    assert computed(bench.run()) == 1


def test_another_label_is_another_score_and_no_other_request(bench: Bench) -> None:
    before = bench.run()
    rows = [row | {"label": 1 - int(row["label"])} for row in PIQA]
    write_jsonl(bench.data / "piqa" / "validation.jsonl", rows)
    after = bench.run()
    assert computed(after) == 0
    values = [record["tasks"]["piqa"]["metrics"]["acc"]["value"] for record in (before, after)]
    assert values[1] == pytest.approx(1 - values[0])


def test_one_character_of_a_shot_recomputes_the_docs_that_have_it(bench: Bench) -> None:
    bench.run()
    rows = [row | {"answer": row["answer"].replace("make", "MAKE")} for row in GSM8K]
    write_jsonl(bench.data / "gsm8k" / "train.jsonl", rows)
    assert computed(bench.run()) == 3


def test_one_weight_recomputes_everything(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "changed"))
    change_weight(bench.model, 0.5)
    assert computed(bench.run()) == ALL


def change_weight(model: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def test_another_dtype_recomputes_everything(bench: Bench) -> None:
    bench.run()
    assert computed(bench.run("--dtype", "bfloat16")) == ALL


def test_another_stop_recomputes_the_answers(bench: Bench) -> None:
    bench.run()
    bench.hook = ("tests.test_runs:short_answers", 6, ["Question:", "Questions"])
    assert computed(bench.run()) == 3


def test_another_budget_recomputes_the_answers(bench: Bench) -> None:
    bench.run()
    bench.hook = ("tests.test_runs:short_answers", 7)
    assert computed(bench.run()) == 3


def test_another_tokenizer_recomputes_everything(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "changed"))
    tokenizer = json.loads((bench.model / "tokenizer.json").read_text())
    tokenizer["version"] = "1.0"
    (bench.model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert computed(bench.run()) in (0, ALL)  # as its bytes did change


# Damage, disks, other processes


@pytest.mark.parametrize("place", [0.02, 0.3, 0.9])
def test_a_damaged_cache_changes_no_sample(bench: Bench, place: float) -> None:
    bench.run()
    expected = samples(bench.last)
    store = bench.output / ".cache" / "requests.sqlite"
    content = bytearray(store.read_bytes())
    at = int(place * len(content))
    content[at : at + 200] = os.urandom(200)
    store.write_bytes(content)
    bench.run()
    assert samples(bench.last) == expected


def test_two_commands_at_once_ten_times(
    forks: Forks, tiny: Path, data: Path, tmp_path: Path, bench: Bench
) -> None:
    bench.run()
    expected = samples(bench.last)
    for attempt in range(10):
        output = tmp_path / f"results{attempt}"
        both = Bench(forks, tiny, data, output)
        logs = [tmp_path / f"{attempt}-{name}.log" for name in "ab"]
        pids = [forks.start(both.arguments(), log, *both.hook) for log in logs]
        codes = [forks.wait(pid) for pid in pids]
        assert codes == [0, 0], [log.read_text() for log in logs]
        folders = both.folders()
        assert len(folders) == 2
        assert [samples(folder) for folder in folders] == [expected, expected]
        counts = [computed(json.loads((folder / "run.json").read_text())) for folder in folders]
        assert sorted(counts) == [0, ALL]
        assert not list(output.glob("*/.partial-*"))


def slow(counter: str) -> None:
    """In the fork: after each result a byte in the file ``counter``, and a rest, so that a test can act meanwhile."""
    from evals.adapters.prefix import PrefixModel

    handle = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    run = PrefixModel.run

    def slowly(*given: Any) -> Iterator[Any]:
        for pair in run(*given):
            yield pair
            os.write(handle, b".")
            time.sleep(0.2)

    PrefixModel.run = slowly  # type: ignore[method-assign]
    short_answers()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_soon_keeps_what_is_done_and_says_how_to_go_on(bench: Bench, stop: int) -> None:
    counter = bench.log.with_suffix(".count")
    pid = bench.forks.start(bench.arguments(), bench.log, "tests.test_runs:slow", str(counter))
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 4)
    start = time.monotonic()
    os.kill(pid, stop)
    assert bench.forks.wait(pid) == 130
    assert time.monotonic() - start < 10
    text = bench.log.read_text()
    assert "Go on with: python run_evals.py --model tiny" in text
    assert "Traceback" not in text
    assert bench.folders() == []
    assert computed(bench.run()) <= ALL - 4


def test_a_killed_holder_frees_the_one_who_waits(bench: Bench, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    first = bench.forks.start(bench.arguments(), bench.log, "tests.test_runs:slow", str(counter))
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 1)
    log = tmp_path / "second.log"
    second = bench.forks.start(bench.arguments(), log, *bench.hook)
    wait_for(lambda: "waits for" in (log.read_text() if log.exists() else ""))
    os.kill(first, signal.SIGKILL)
    assert bench.forks.wait(first) == -signal.SIGKILL
    assert bench.forks.wait(second) == 0
    assert f"process {first} on" in log.read_text()
    (folder,) = bench.folders()
    assert computed(json.loads((folder / "run.json").read_text())) < ALL


def little_memory(tokens: int) -> None:
    """In the fork: an allocator that has no room for more than so many tokens at once (simulated)."""
    import torch

    from evals.adapters import loading

    load = loading.load

    def refuse(_: Any, given: tuple[Any, ...]) -> None:
        if given[0].numel() > tokens:
            raise torch.OutOfMemoryError("simulated: no room")

    def limited(*given: Any) -> Any:
        loaded = load(*given)
        loaded.model.get_input_embeddings().register_forward_pre_hook(refuse)
        return loaded

    loading.load = limited


def test_out_of_memory_shrinks_the_batches_and_changes_no_number(bench: Bench) -> None:
    from pyarrow import parquet

    tables = []
    for hook in (bench.hook, ("tests.test_runs:little_memory", 100)):
        bench.hook = hook
        assert computed(bench.run("--tasks", "piqa", "--fresh")) == 2 * len(PIQA)
        tables.append(parquet.read_table(bench.last / "samples" / "piqa.parquet").to_pydict())
    assert "out of memory: going on with" in bench.log.read_text()
    for mine, other in zip(tables[0].pop("logprobs"), tables[1].pop("logprobs"), strict=True):
        assert mine == pytest.approx(other, abs=1e-3)
    assert tables[0] == tables[1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting needs rights that this account lacks: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_a_run_with_one_line_and_keeps_what_was_stored(bench: Bench, disk: Path) -> None:
    bench.output = disk / "results"
    bench.run("--limit", "2")
    with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(bytes(4096)):
            pass
    assert "space" in bench.fails()
    assert len(bench.folders()) == 1
    (disk / "ballast").unlink()
    assert computed(bench.run()) <= ALL - 6


def test_a_read_only_folder_gives_one_line(bench: Bench, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    bench.output = disk / "results"
    assert "--output-dir" in bench.fails()


# Trust


@pytest.mark.parametrize(
    ("row", "about"),
    [
        ({"goal": "g", "sol1": "a", "sol2": "b", "label": 2}, "row 8: 'label' is 2, out of range"),
        ({"goal": "g", "sol1": "a", "label": 0}, "no column sol2"),
        ({"goal": "", "sol1": "a", "sol2": "b", "label": 0}, "row 8: 'goal' is empty"),
        ({"goal": ["g"], "sol1": "a", "sol2": "b", "label": 0}, "row 8: 'goal' is not text"),
    ],
)
def test_data_is_checked_before_a_model_is_loaded(bench: Bench, row: dict[str, Any], about: str) -> None:
    write_jsonl(bench.data / "piqa" / "validation.jsonl", [*PIQA, row])
    assert about in bench.fails("--limit", "1")
    assert "loading" not in bench.log.read_text()


def test_data_that_is_not_what_its_list_says_is_refused(bench: Bench) -> None:
    sources = [{"file": "piqa/validation.jsonl", "sha256": "0" * 64}]
    (bench.data / "SOURCES.json").write_text(json.dumps(sources))
    assert "changed or damaged" in bench.fails()
    assert "loading" not in bench.log.read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("task", ["piqa", "gsm8k"])
def test_scores_that_are_no_numbers_stop_the_run_and_name_the_doc(
    bench: Bench, tmp_path: Path, value: float, task: str
) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "broken"))
    change_weight(bench.model, value)
    line = bench.fails("--tasks", task)
    assert f"task '{task}', doc" in line
    assert bench.folders() == []
    with sqlite3.connect(bench.output / ".cache" / "requests.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (0,)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "/etc/x",
        "a/../../b",
        "~",
        "x" * 300,
        "a\nb",
        "-",
        "a\\..\\b",
        "$(touch x)",
        "\u202egnp",
        " ",
    ],
)
def test_a_hostile_name_stays_in_the_output_folder(bench: Bench, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    arguments = bench.arguments("--limit", "1", "--tasks", "piqa")
    arguments[arguments.index("--model") + 1] = name
    if name.startswith("-"):
        arguments[:2] = [f"--model={name}"]
    code = bench.forks.run(arguments, bench.log)
    text = bench.log.read_text()
    assert code in (0, 2), text
    assert "Traceback" not in text
    assert "unexpected" not in text
    outside = [path for path in set(tmp_path.rglob("*")) - before if not path.is_relative_to(bench.output)]
    assert set(outside) <= {bench.log, bench.output}


def test_a_hostile_file_name_of_a_model_stays_in_the_output_folder(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "..." / "; rm -rf x"))
    arguments = bench.arguments("--limit", "1", "--tasks", "piqa")
    arguments[:4] = ["--model", str(bench.model)]
    assert bench.forks.run(arguments, bench.log) == 0, bench.log.read_text()
    assert len(bench.folders()) == 1


def test_a_chat_template_cannot_reach_python(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "broken"))
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    for file in bench.model.glob("chat_template*"):
        file.unlink()
    (bench.model / "chat_template.jinja").write_text(hostile)
    line = bench.fails("--suite", "instruct", "--tasks", "piqa")
    assert "template" in line


def test_pickled_weights_are_refused(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "pickle"))
    (bench.model / "model.safetensors").rename(bench.model / "pytorch_model.bin")
    assert "pickle" in bench.fails()


def test_code_that_comes_with_a_model_is_not_run_and_said_so(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "code"))
    config = json.loads((bench.model / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (bench.model / "config.json").write_text(json.dumps(config))
    trace = tmp_path / "trace"
    (bench.model / "modeling.py").write_text(f"open({str(trace)!r}, 'w')\nclass Model: pass\n")
    bench.run("--limit", "1")
    assert "not run" in bench.log.read_text()
    config["model_type"] = "unheard-of"
    (bench.model / "config.json").write_text(json.dumps(config))
    assert "not run" in bench.fails()
    assert not trace.exists()


def test_a_token_is_never_written(bench: Bench, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    secret = "hf_" + "Secret" * 5
    code = bench.forks.run(bench.arguments(), bench.log, "tests.test_runs:with_secret", secret)
    assert code == 0, bench.log.read_text()
    for file in [bench.log, *bench.output.rglob("*")]:
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file


def with_secret(secret: str) -> None:
    """In the fork: secrets where people keep them."""
    os.environ |= {"HF_TOKEN": secret, "OPENAI_API_KEY": secret}
    short_answers()


def no_network() -> None:
    """In the fork: any attempt to reach another machine ends the process with code 99, before it goes out."""
    os.environ.pop("HF_HUB_OFFLINE", None)

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
            event in ("socket.connect", "socket.sendto") and not isinstance(given[1], (str, bytes))
        ):
            os.write(2, f"network: {event} {given}\n".encode())
            os._exit(99)

    sys.addaudithook(watch)
    short_answers()


def test_offline_reaches_for_no_network(bench: Bench) -> None:
    bench.hook = ("tests.test_runs:no_network",)
    assert computed(bench.run("--offline")) == ALL
    bench.data = Path("hub")
    assert "network:" not in bench.fails("--offline")


def test_offline_runs_without_a_network(bench: Bench) -> None:
    """A namespace without interfaces: nothing could go out, whoever tried."""
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"network namespaces need rights that this account lacks: {probe.stderr.strip()}")
    command = [
        "unshare",
        "-n",
        sys.executable,
        "run_evals.py",
        *bench.arguments("--offline", "--tasks", "piqa"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(bench.folders()) == 1
    command[command.index("--data") + 1] = "hub"
    for given in (command, [word for word in command if word != "--offline"]):
        done = subprocess.run(
            given,
            cwd=ROOT,
            env=environment | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
