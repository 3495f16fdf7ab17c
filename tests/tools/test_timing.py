"""The benchmark's table of where a run's time goes."""

from __future__ import annotations

from datetime import datetime

from tests.tools.timing import STAMP, busy, read_gpu_log, table

BEGIN = datetime(2026, 1, 2, 3, 4, 5).timestamp()
RECORD = {
    "model": {"name": "m", "dtype": "bfloat16", "parameters": 1000, "quantization": None},
    "suite": "base",
    "limit": None,
    "data": {"source": "folder"},
    "rows": [{"label": "PIQA"}],
    "provenance": {
        "device": "cuda (GPU)",
        "versions": {"torch": "2"},
        "finished": "2026-01-02T03:05:00",
        "peak_memory_bytes": {"host": 2**30, "device": 3 * 2**30},
    },
    "timing": {
        "total_seconds": 10.0,
        "phases": {"score": 4.0},
        "spans": [["load", "", BEGIN, BEGIN + 2], ["score", "PIQA", BEGIN + 2, BEGIN + 6]],
        "rows": {"PIQA": {"seconds": 4.0, "computed": 20}},
    },
}


def line(second: float, share: int) -> str:
    return f"{datetime.fromtimestamp(BEGIN + second).strftime(STAMP)[:-3]}, {share}\n"


def test_how_busy_a_gpu_was_in_each_phase() -> None:
    log = line(-1, 99) + line(0.5, 0) + line(1.5, 10) + line(3, 80) + line(5, 100) + line(7, 50) + "2026/01/0"
    samples = read_gpu_log(log)
    assert [share for _, share in samples] == [99, 0, 10, 80, 100, 50]
    assert busy(RECORD, samples) == "48%"  # (0 + 10 + 80 + 100) / 4, before and after not counted
    assert (busy(RECORD, samples, "load"), busy(RECORD, samples, "score")) == ("5%", "90%")
    assert busy(RECORD, samples, "generate") is None
    text = table([RECORD], samples)
    for cells in (
        ("GPU busy: score", "90%"),
        ("peak memory, device (GiB)", "3.0"),
        ("PIQA", "4.0 (20 requests)"),
    ):
        assert any(all(cell in row for cell in cells) for row in text.splitlines()), cells
    assert "GPU busy" not in table([RECORD])
