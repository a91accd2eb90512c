"""Run calls on threads and on worker processes: each where its node says, the others at home.

Threads and processes start with the first call that needs one. The thread that resolves runs what only records calls,
and staffs the lanes.
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from queue import SimpleQueue

from tinygraph.engine import Engine
from tinygraph.executors.ambient import snapshot
from tinygraph.executors.coroutines import Coroutines
from tinygraph.executors.local import work
from tinygraph.executors.output import Outlet
from tinygraph.executors.pool import Pool, pool
from tinygraph.portable import edition, spare_scripts


class Crew:
    """An executor of so many threads and as many processes.

    >>> from tinygraph import Node
    >>> fetch, crunch = Node(abs, where="thread"), Node(abs, where="process")
    >>> crunch(fetch(-3)).resolve(workers=2)
    3

    ``home``: ``"thread"`` or ``"process"``: where calls run whose node does not say. ``workers``: how many of each.
    """

    lanes = frozenset(("driver", "thread", "process"))

    def __init__(self, home: str, workers: int) -> None:
        self.home = home
        self.workers = workers

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline has passed."""
        with Coroutines(engine) as coroutines:
            shift = _Shift(engine, coroutines, self.workers)
            try:
                work(engine, engine.driver, coroutines, worker=-1, deadline=deadline, when_idle=shift.staff)
            finally:
                shift.end()


class _Shift:
    """The threads and processes of one run."""

    def __init__(self, engine: Engine, coroutines: Coroutines, workers: int) -> None:
        self._engine = engine
        self._coroutines = coroutines
        self._workers = workers
        self._threads: dict[int, threading.Thread] = {}
        self._pool: Pool | None = None
        self._outlet = Outlet(engine)
        self._context = copy_context()
        # Until a lane has workers of its own, the driver is woken, so that it hires them.
        for name in ("thread", "process"):
            engine.lanes[name].idle = 1
            engine.lanes[name].wake = engine.driver.wake

    def staff(self) -> bool:
        """Hire workers for lanes that have calls, and write what nodes have said; return whether that took its time.

        The caller holds the engine's lock, which is let go while anything is written.
        """
        engine = self._engine
        if self._outlet:
            engine.lock.release()
            try:
                self._write()
            finally:
                engine.lock.acquire()
            return True
        threads, processes = engine.lanes["thread"], engine.lanes["process"]
        if threads.queue and not self._threads:
            threads.idle, threads.wake = 0, SimpleQueue()
            for worker in range(self._workers):
                self._start(worker)
        if processes.queue and self._pool is None:
            self._pool = pool(self._workers)
            processes.wake = self._pool.bell
            spare_scripts()
            self._pool.renew(edition())
            self._pool.open(engine, self._workers, self._outlet, snapshot())
        if self._pool is not None and engine.dropped:
            self._pool.ring()
        return False

    def _write(self) -> None:
        if self._outlet.deliver() and self._pool is not None:
            self._pool.ring()  # there is room again

    def end(self) -> None:
        """Release the processes, and wait for the threads if nothing runs in them any more."""
        if self._pool is not None:
            self._pool.close(self._engine)
            self._write()
        # Nothing runs in them any more, but for a body that was given up: that one is not waited for.
        if self._engine.over.is_set() and not self._engine.in_hand:
            for thread in self._threads.values():
                thread.join()

    def _start(self, worker: int) -> None:
        """Begin a thread, or replace one that a call keeps beyond its timeout."""
        lane = self._engine.lanes["thread"]
        # A daemon: a body that hangs must not keep the program alive. It ends after its last call.
        thread = self._threads[worker] = threading.Thread(
            target=self._context.copy().run,
            args=(lambda: work(self._engine, lane, self._coroutines, worker=worker, replace=self._start),),
            name=f"tinygraph-{worker}",
            daemon=True,
        )
        thread.start()
