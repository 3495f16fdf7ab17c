"""What forks do before the command: a limit, a control group, another host's name. Given as "module:function"."""

from __future__ import annotations

import ctypes
import os
import resource
import tempfile
from pathlib import Path

from tests.support.run_bench import short_answers

CLONE_NEWUTS = 0x04000000


def environment(variables: dict[str, str]) -> None:
    """Sets environment variables; answers are short."""
    os.environ.update(variables)
    tempfile.tempdir = None
    short_answers()


def limit(name: str, amount: int, above: bool = False) -> None:
    """Lowers a limit of the process (RLIMIT_…); `above`: so much more than its address space takes now."""
    if above:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        amount += pages * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(getattr(resource, name), (amount, amount))
    short_answers()


def in_cgroup(folder: str) -> None:
    """Moves the process into a control group."""
    Path(folder, "cgroup.procs").write_text(str(os.getpid()))
    short_answers()


def marked_host(name: str, variables: dict[str, str]) -> None:
    """The machine has another name (in a namespace of this process), and the environment holds these."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS) or libc.sethostname(name.encode(), len(name)):
        raise OSError(ctypes.get_errno(), "no namespace for a host name")
    environment(variables)
    impatient()


def impatient() -> None:
    """Tries at a server follow each other without the usual waits."""
    from evals.adapters import client

    client.FIRST_WAIT_S = 0.01
