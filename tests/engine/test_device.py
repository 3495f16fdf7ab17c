"""What a device says of itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evals.engine import device

CPU = torch.device("cpu")
HOST = 10**6  # bytes; what a real host has free changes between two looks at it


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A control group's folder, with a limit that is no limit, on a host with HOST bytes free."""
    monkeypatch.setattr(device, "_CONTAINER", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 4000\nfile 300\n")
    monkeypatch.setattr(device.psutil, "virtual_memory", lambda: SimpleNamespace(available=HOST))
    return tmp_path


def test_free_memory_is_the_hosts(container):
    assert device.free_memory(CPU) == HOST
    (container / "memory.max").unlink()
    assert device.free_memory(CPU) == HOST


def test_free_memory_is_within_a_containers_limit(container):
    (container / "memory.max").write_text("10000\n")
    assert device.free_memory(CPU) == 6000
    (container / "memory.max").write_text("3000\n")
    assert device.free_memory(CPU) == 0
