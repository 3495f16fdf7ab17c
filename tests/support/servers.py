"""Real OpenAI-compatible servers that hold the embedded model, each a process of its own on 127.0.0.1."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path, log: Path) -> Iterator[str]:
    """Starts a server, waits until it answers, yields its base URL, and stops it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        _wait(process, f"http://127.0.0.1:{port}/v1/models", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except urllib.error.HTTPError:
            return  # any answer will do: transformers lists a cache here that may not exist
        except OSError:
            pass
        time.sleep(0.3)
    pytest.fail(f"the server does not answer: {log.read_text()[-2000:]}")


def transformers_serve(model: Path, log: Path) -> contextlib.AbstractContextManager[str]:
    """transformers' own server. `model`: a safetensors folder; the server knows it by the folder's name."""
    program = shutil.which("transformers", path=str(Path(sys.executable).parent))
    if program is None or any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
        pytest.skip("no 'transformers serve': pip install 'transformers[serving]'")
    port = free_port()
    command = [
        program, "serve", model.name, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
        "--dtype", "float32",
    ]  # fmt: skip
    return running(command, port, model.parent, log)


def llama_python() -> str:
    """A Python with llama-cpp-python's server: this one, or the one that $LLAMA_CPP_PYTHON names."""
    named = os.environ.get("LLAMA_CPP_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip(
            "no llama-cpp-python: pip install 'llama-cpp-python[server]', or set LLAMA_CPP_PYTHON to its Python"
        )
    return sys.executable


def llama_cpp_server(gguf: Path, log: Path, window: int) -> contextlib.AbstractContextManager[str]:
    """llama-cpp-python's server with all logits kept, and float32 keys and values (type 0)."""
    port = free_port()
    command = [
        llama_python(), "-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "smol", "--logits_all", "true",
        "--n_ctx", str(window), "--n_threads", "1", "--n_threads_batch", "1", "--type_k", "0", "--type_v", "0",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    return running(command, port, gguf.parent, log)


def float32_gguf(source: Path, target: Path) -> Path:
    """A copy of a GGUF file with every tensor as float32: llama.cpp then rounds nothing to 8 bits."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        writer.add_tensor(tensor.name, values, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
