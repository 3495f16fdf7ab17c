"""Several processes, one run: the team that ``accelerate launch``, ``torchrun`` or another launcher started.

Process 0 leads: it alone reads data, keeps records, writes results and prints; the others lend it their model (see
evals/adapters/team.py). They talk over sockets of their own, so that the end of any process is seen at once, on
whatever host it was; torch's rendezvous only tells them where to meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import socket
import threading
import time
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from evals.core.errors import UserError

MEETING_SECONDS = 300.0  # hosts may start some minutes apart
FAREWELL_SECONDS = 10.0  # for process 0 to tell what went wrong before a launcher ends it
ALIVE = (
    (socket.TCP_KEEPIDLE, 10),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
)  # a host that vanishes
ADDRESS = "smol-evals/address"
MPI_NAMES = (
    ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"),
    ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"),
    ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
GONE = b""  # in place of a message: the other process has ended

# The first byte of a message says what it is.
HELLO, IDENTITY, WORK, RESULTS, DONE, FAILED, NEXT_MODEL, END = (bytes([c]) for c in b"HIWRDFNE")


class LeaderGone(Exception):
    """Process 0 has ended: it has said why, or cannot any more."""


class Peer:
    """The other end of a connection. ``send`` never waits for long: each end reads all the time.

    ``over`` is set once the other process has ended, or said that the run has.
    """

    def __init__(self, connection: Connection, name: str, inbox: queue.Queue[tuple[Peer, bytes]]) -> None:
        self.name = name
        self._connection, self._inbox = connection, inbox
        self._sending = threading.Lock()
        self.over = threading.Event()
        _keep_alive(connection)
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Sends one message; to an ended process nothing is sent (``GONE`` is in the inbox then)."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send_bytes(kind + content)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = self._connection.recv_bytes()
                if message == END:
                    self.over.set()
                self._inbox.put((self, message))
        self.over.set()
        self._inbox.put((self, GONE))


class Team:
    """This process among those of one run. ``peers``: for process 0 all others, for the others process 0.

    As a context manager (in process 0) it lets the others end at its own end.
    """

    def __init__(self, rank: int, size: int, store: Any) -> None:
        self.rank, self.size = rank, size
        self.inbox: queue.Queue[tuple[Peer, bytes]] = queue.Queue()
        self._store = store  # kept alive: in process 0 it may be the meeting point itself
        self.peers = self._meet() if rank == 0 else [self._call()]

    def receive(self, seconds: float | None = None) -> tuple[Peer, bytes, bytes] | None:
        """The next message as (from, kind, content); None when there is none within ``seconds``.

        Raises UserError in process 0 when another process has ended, LeaderGone in the others when that has.
        """
        try:
            peer, message = self.inbox.get(timeout=seconds) if seconds != 0 else self.inbox.get_nowait()
        except queue.Empty:
            return None
        if message == GONE:
            if self.rank:
                raise LeaderGone
            raise UserError(
                f"{peer.name} ended before its work was done (killed, or out of memory?); what was finished is "
                "kept: run the same command again, with any number of processes"
            )
        return peer, message[:1], message[1:]

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.send(END)

    def next_model(self) -> None:
        """Process 0: the others may let go of this model and load the next one."""
        for peer in self.peers:
            peer.send(NEXT_MODEL)

    def fail(self, reason: str) -> None:
        """Process 1 and on: has process 0 say ``reason``, and leaves it a moment to end first."""
        self.peers[0].send(FAILED, json.dumps(["user", reason, None]).encode())
        deadline = time.monotonic() + FAREWELL_SECONDS
        with contextlib.suppress(LeaderGone):
            while time.monotonic() < deadline:
                message = self.receive(0.5)
                if message is not None and message[1] == END:
                    break

    def _meet(self) -> list[Peer]:
        key = secrets.token_bytes(32)
        host = os.environ.get("MASTER_ADDR", "localhost")
        try:
            listener = Listener((host, 0), backlog=self.size, authkey=key)
        except OSError:  # the name is this host's, but not of one of its own addresses
            listener = Listener(("0.0.0.0", 0), backlog=self.size, authkey=key)
        port = listener.address[1]  # type: ignore[index]
        self._store.set(ADDRESS, json.dumps([host, port, key.hex()]))
        arrived: queue.Queue[Connection] = queue.Queue()
        threading.Thread(target=_accept, args=(listener, self.size - 1, arrived), daemon=True).start()
        deadline = time.monotonic() + MEETING_SECONDS
        peers: list[Peer] = []
        while len(peers) < self.size - 1:
            try:
                connection = arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise UserError(
                    f"{len(peers) + 1} of {self.size} processes came within {MEETING_SECONDS:.0f} s: "
                    "check that the launcher starts them all, and that hosts reach each other"
                ) from None
            rank, place = json.loads(connection.recv_bytes())
            peers.append(Peer(connection, f"process {int(rank)} of {self.size} on {place}", self.inbox))
        return peers

    def _call(self) -> Peer:
        self._store.wait([ADDRESS], timedelta(seconds=MEETING_SECONDS))
        host, port, key = json.loads(self._store.get(ADDRESS))
        connection = Client((host, port), authkey=bytes.fromhex(key))
        connection.send_bytes(json.dumps([self.rank, socket.gethostname()]).encode())
        return Peer(connection, "process 0", self.inbox)


def join() -> Team | None:
    """The team, once all its processes are there; None when this process is alone. Raises UserError."""
    _adopt_mpi()
    size = _number("WORLD_SIZE", 1)
    if size < 2:
        return None
    rank = _number("RANK", -1)
    if not 0 <= rank < size:
        raise UserError(f"WORLD_SIZE is {size} but RANK is {rank}: the launcher has to set both")
    import torch.distributed

    try:
        store, _, _ = next(iter(torch.distributed.rendezvous("env://", timeout=timedelta(seconds=60))))
        return Team(rank, size, store)
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"the processes of this run do not find each other: {reason}") from error


def own_device(wanted: str | None) -> str | None:
    """``--device`` for this process: GPUs of a host are dealt out in order unless one is named."""
    if _number("WORLD_SIZE", 1) < 2 or wanted not in (None, "cuda"):
        return wanted
    import torch

    return f"cuda:{_number('LOCAL_RANK', 0)}" if torch.cuda.is_available() else wanted


def processes_here() -> int:
    """How many of the run's processes this host has."""
    return max(1, _number("LOCAL_WORLD_SIZE", _number("WORLD_SIZE", 1)))


def share_cores() -> None:
    """Gives each process of this host its part of the cores (a launcher sets one thread, or leaves all)."""
    here = processes_here()
    if here > 1:
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // here))


def every_device(name: str) -> str:
    """A device's name as results tell it: how many processes had one."""
    size = _number("WORLD_SIZE", 1)
    return name if size < 2 else f"{size} x {name}"


def _adopt_mpi() -> None:
    """Takes over what mpirun says (accelerate starts processes on CPUs with it), as torch's launchers say it."""
    for name, *others in MPI_NAMES:
        for other in others:
            if name not in os.environ and other in os.environ:
                os.environ[name] = os.environ[other]


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else otherwise


def _accept(listener: Listener, count: int, arrived: queue.Queue[Connection]) -> None:
    while count:
        try:
            arrived.put(listener.accept())
            count -= 1
        except Exception:  # whoever knocks without the key: the next one, please
            continue
    listener.close()


def _keep_alive(connection: Connection) -> None:
    """Has the system notice a host that vanished without closing its connections, within half a minute."""
    with socket.socket(fileno=os.dup(connection.fileno())) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ALIVE:
            one.setsockopt(socket.IPPROTO_TCP, option, value)
