"""The machine under the supervisor: starts worker processes, speaks to them, kills them, waits, and tells the time.

Every operation on a process is here and nowhere else, so that a simulated machine with a virtual clock can run the same
supervisor.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from collections.abc import Iterable
from multiprocessing.connection import Pipe, wait
from time import monotonic
from typing import Any

from tinygraph.executors.ledger import Ledger
from tinygraph.executors.transfer import Segments
from tinygraph.executors.worker import main

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Member:
    """One worker process: its pipe, its ledger, its life."""

    def __init__(self, number: int, segments: Segments, environment: dict[str, str]) -> None:
        from loky.backend import get_context

        self.number = number
        folder = segments.folders[0] if segments.folders else tempfile.gettempdir()
        self._path = os.path.join(folder, f"ledger-{os.getpid()}-{number}")
        self._ledger = Ledger.create(self._path)
        self.pipe, theirs = Pipe(duplex=True)
        self._process = get_context("loky").Process(
            target=main,
            args=(theirs, self._path, segments.folder, os.getpid()),
            name=f"tinygraph-worker-{number}",
            daemon=True,
            env=environment,
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return int(self._process.pid)

    def send(self, message: bytes) -> None:
        """Send a chunk of tasks. A worker that has died cannot be told: its pipe will say so."""
        try:
            self.pipe.send_bytes(message)
        except OSError:
            return

    def receive(self) -> list[bytes] | None:
        """Return the outcomes that have come in; None when the worker is gone, and nothing is left to read."""
        outcomes: list[bytes] = []
        try:
            while True:
                outcomes += pickle.loads(self.pipe.recv_bytes())
                if not self.pipe.poll():
                    return outcomes
        except (EOFError, OSError):
            return outcomes or None

    def running(self) -> tuple[int, float]:
        """Return the task that was begun last, 0 for none, and when."""
        return self._ledger.task, self._ledger.began

    def unsent(self) -> list[bytes]:
        """Return the outcomes that a dead worker had noted and not sent."""
        return self._ledger.outcomes()

    def kill(self) -> None:
        """End the process, and what its nodes started with it."""
        for end in (getattr(os, "killpg", os.kill), os.kill):
            try:
                end(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue

    def bury(self) -> int | None:
        """Reap the process and free what belonged to it; return its exit code."""
        self.kill()
        self._process.join()
        self.pipe.close()
        self._ledger.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        code = self._process.exitcode
        return None if code is None else int(code)


class Machine:
    """What a supervisor needs of the machine that it runs on."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._ear, self._bell = Pipe(duplex=False)
        self._rung = False

    def now(self) -> float:
        """Return the time in seconds."""
        return monotonic()

    def launch(self, number: int, workers: int) -> Member:
        """Start a worker process, one of so many."""
        # The threads of numerical libraries, times the workers, are not to be more than the cores.
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        return Member(number, self._segments, {name: os.environ.get(name, threads) for name in _THREAD_LIMITS})

    def listen(self, members: Iterable[Member], timeout: float | None) -> list[Member]:
        """Wait until a worker has something to say, the bell rings, or the time is over; return who speaks."""
        by_pipe: dict[Any, Member] = {member.pipe: member for member in members}
        ready = wait([self._ear, *by_pipe], timeout)
        if self._ear in ready:
            self._rung = False
            self._ear.recv_bytes()
        return [by_pipe[pipe] for pipe in ready if pipe in by_pipe]

    def ring(self) -> None:
        """End the waiting; from any thread."""
        if not self._rung:
            self._rung = True
            try:
                self._bell.send_bytes(b"")
            except OSError:  # closed
                return

    def close(self) -> None:
        """Free what belongs to the machine itself."""
        self._ear.close()
        self._bell.close()


