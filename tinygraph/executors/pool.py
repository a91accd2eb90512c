"""The pool of this process: a supervisor, the one long-lived thread that runs it, and how other threads speak to it."""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable

from tinygraph.engine import Engine
from tinygraph.errors import WorkerLost
from tinygraph.executors.machine import Machine
from tinygraph.executors.output import Outlet
from tinygraph.executors.segments import Segments
from tinygraph.executors.supervisor import Supervisor, tell


class Pool:
    """Worker processes with their supervisor's thread.

    The thread lives as long as the pool, because the kernel kills workers when the thread that started them ends.
    """

    def __init__(self, workers: int) -> None:
        Segments.sweep()
        self._segments = Segments.create()
        try:
            self._machine = Machine(self._segments)
        except OSError as error:
            self._segments.close()
            raise WorkerLost(f"no pool of worker processes could be started: {error}") from error
        self._supervisor = Supervisor(workers, self._machine, self._segments)
        self.bell = _Bell(self.ring)
        self._orders: deque[Callable[[], None]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="tinygraph-supervisor", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can serve runs."""
        return self._thread.is_alive() and not self._closing

    def open(self, engine: Engine, workers: int, outlet: Outlet, ambient: bytes) -> None:
        """Begin to serve a run, with so many workers from now on; see :meth:`Supervisor.enter`."""

        def enter() -> None:
            supervisor = self._supervisor
            # A run that is under way keeps the workers that it asked for.
            supervisor.workers = max(workers, supervisor.workers) if supervisor.busy else workers
            try:
                supervisor.enter(engine, outlet, ambient)
            except BaseException as error:
                tell(engine, engine.stop, error)

        self._order(enter)
        # Looked at after ordering, as the thread says so before it reads its last orders: one of the two sees it.
        if self._closing:
            tell(engine, engine.stop, WorkerLost("the pool of worker processes was shut down"))

    def close(self, engine: Engine) -> None:
        """Stop serving a run, and stop what it still has running; returns when that is done and objects are closed."""
        done = threading.Event()

        def leave() -> None:
            try:
                self._supervisor.leave(engine, done.set)
            except BaseException:
                done.set()
                raise

        self._order(leave)
        while not done.wait(1.0) and self._thread.is_alive():
            continue

    def ring(self) -> None:
        """Tell the supervisor that there may be something to do."""
        self._machine.ring()

    def shut_down(self) -> None:
        """End the workers and the thread, and remove every file."""

        def end() -> None:
            self._closing = True

        self._order(end)
        self._thread.join(5.0)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._machine.ring()

    def _serve(self) -> None:
        supervisor = self._supervisor
        try:
            while not self._closing:
                self._machine.attend()
                while self._orders:
                    self._orders.popleft()()
                if not self._closing:
                    supervisor.step()
        except BaseException as error:  # a defect of ours must end the runs, not hang them
            supervisor.stop(error)
            raise
        finally:
            self._closing = True
            while self._orders:
                self._orders.popleft()()
            supervisor.stop(WorkerLost("the pool of worker processes was shut down"))
            supervisor.close()
            self._machine.close()
            self._segments.close()


class _Bell:
    """What stands where the other lanes have a queue at which their workers wait: it wakes the supervisor."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring

    def put(self, nothing: None, /) -> None:
        """Have the supervisor look again."""
        self._ring()

    def get(self, *, timeout: float | None = None) -> None:
        """Nobody waits here: the supervisor waits for its workers and for the bell at once."""
        raise RuntimeError("the supervisor does not wait at its bell")


_pools: dict[int, Pool] = {}  # by process: a forked child must not take its parent's pool for its own
_opening = threading.Lock()


def pool(workers: int) -> Pool:
    """Return the pool of this process; the first call starts its thread, the first task its workers."""
    with _opening:
        found = _pools.get(os.getpid())
        if found is None or not found.alive:
            found = _pools[os.getpid()] = Pool(workers)
            atexit.register(_shut_down, os.getpid(), found)
        return found


def _shut_down(pid: int, found: Pool) -> None:
    if pid == os.getpid():
        found.shut_down()
