"""The pool of this process: a supervisor, the one long-lived thread that runs it, and how other threads speak to it."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import util
from types import FrameType

from tinygraph import engine as books
from tinygraph.engine import Engine
from tinygraph.errors import NestedResolveError, WorkerLost
from tinygraph.executors.machine import Machine
from tinygraph.executors.output import Outlet
from tinygraph.executors.segments import Segments
from tinygraph.executors.supervisor import CLOSING, Supervisor, tell
from tinygraph.future import State, fetched

# Seconds that a run which does not end well waits for a supervisor that is held up by a class of the user's.
PATIENCE = 1.0
# Seconds that are waited at once: a program that was stopped in between has waited only once.
_TURN = 0.1


class Pool:
    """Worker processes with their supervisor's thread.

    The thread lives as long as the pool, because the kernel kills workers when the thread that started them ends.
    """

    def __init__(self, workers: int) -> None:
        Segments.sweep()
        self._segments = Segments.create()
        with ExitStack() as failing:
            failing.callback(self._segments.close)
            try:
                self._machine = Machine(self._segments)
                failing.callback(self._machine.close)
                self._supervisor = Supervisor(workers, self._machine, self._segments)
                self.bell = _Bell(self.ring)
                self._orders: deque[Callable[[], None]] = deque()
                self._closing = False
                self._abandoned = False
                self._thread = threading.Thread(target=self._serve, name="tinygraph-supervisor", daemon=True)
                self._thread.start()
            except (OSError, RuntimeError) as error:  # no files are left, or no threads
                raise WorkerLost(f"no pool of worker processes could be started: {error}") from error
            failing.pop_all()

    @property
    def alive(self) -> bool:
        """Whether it can serve runs."""
        return self._thread.is_alive() and not self._closing

    @property
    def needs_this_thread(self) -> bool:
        """Whether this thread cannot wait for the pool, because the pool would wait for it."""
        if threading.current_thread() is self._thread:
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:  # a run that is served may be telling something to the user, with its lock held
            engine = frame.f_locals.get("self") if frame.f_globals is vars(books) else None
            if isinstance(engine, Engine) and self._supervisor.serves(engine):
                return True
            frame = frame.f_back
        return False

    def open(self, engine: Engine, workers: int, outlet: Outlet, ambient: bytes) -> None:
        """Begin to serve a run, with so many workers from now on; see :meth:`Supervisor.enter`.

        The caller holds the lock of the engine.
        """

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
            engine.stop(WorkerLost("the pool of worker processes was shut down"))

    def close(self, engine: Engine) -> None:
        """Stop serving a run, and stop what it still has running; returns when that is done and objects are closed.

        Classes of the user's may do anything when they are pickled in the supervisor's thread, and never come back. A
        run that is over without a value, by a timeout or by Ctrl-C, does not wait for that: it is the end of the pool
        if it is this run's doing, or that of one that is over; else the others go on as soon as it has ended.
        """
        begun, done = threading.Event(), threading.Event()

        def leave() -> None:
            begun.set()
            try:
                self._supervisor.leave(engine, done.set)
            except BaseException:
                done.set()
                raise

        self._order(leave)
        ended_well = engine.over.is_set() and engine.error is None
        if not self._wait_for(done, CLOSING if ended_well else PATIENCE):
            doing = self._supervisor.doing
            if begun.is_set() or (doing is None and not ended_well):  # it is about it, or starts and ends workers
                self._wait_for(done, 2 * CLOSING)
            if not begun.is_set() and (doing is None or doing[0] is engine or doing[0].closed):
                self._abandon()
        if os.getpid() in _ended and not self._supervisor.busy:
            for call in engine.calls:  # afterwards nothing can be read any more
                if call.state is State.FINISHED:
                    call.value = fetched(call.value)
            self.shut_down()

    def _wait_for(self, event: threading.Event, seconds: float) -> bool:
        """Wait for something that the supervisor does; return whether it did, or never will."""
        return any(event.wait(_TURN) or not self._thread.is_alive() for _ in range(int(seconds / _TURN)))

    def _abandon(self) -> None:
        """Give up the pool, because its thread does not come back: from now on others are served by a new one.

        What was computed can be read for as long as somebody has it. Should the thread come back, it ends.
        """
        self._closing = self._abandoned = True
        doing = self._supervisor.doing
        cause = f"{doing[1]!r} of another run" if doing is not None and doing[1] else "something"
        error = WorkerLost(f"the pool of worker processes was given up, because its thread is held up by {cause}")
        self._supervisor.give_up(error)
        self._machine.ring()

    def renew(self, edition: int) -> None:
        """Have the workers replaced if modules that they may have imported are now another edition."""
        known, self._edition = self._edition, edition
        if known not in (None, edition):
            self._order(self._supervisor.renew)

    _edition: int | None = None  # of the user's modules, when the last run began

    def ring(self) -> None:
        """Tell the supervisor that there may be something to do."""
        self._machine.ring()

    def shut_down(self) -> None:
        """End the workers and the thread, and remove every file."""

        def end() -> None:
            self._closing = True

        self._order(end)
        if not self._abandoned:
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
            if not self._abandoned:
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
_ended: set[int] = set()  # processes that are about to end: a pool that one still needs ends with its last run
_opening = threading.Lock()


def pool(workers: int) -> Pool:
    """Return the pool of this process; the first call starts its thread, the first task its workers.

    Raises :class:`NestedResolveError` in a thread that the pool itself waits for.
    """
    process = os.getpid()
    with _opening:
        found = _pools.get(process)
        if found is not None and found.alive:
            if found.needs_this_thread:
                raise NestedResolveError(
                    "resolve(executor='processes') in what the pool of worker processes itself waits for, as when a "
                    "value is pickled or progress is told: resolve before, or in another thread without waiting for it"
                )
            return found
        if found is None:
            # Not by `atexit`, which children of `multiprocessing` do not come to: they come to this, as others do.
            util.Finalize(None, _shut_down, (process,), exitpriority=0)
        found = _pools[process] = Pool(workers)
        return found


def _shut_down(process: int) -> None:
    _ended.add(process)
    _pools[process].shut_down()
