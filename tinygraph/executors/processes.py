"""Run calls in worker processes of our own: warm from one run to the next, and impossible to hang."""

from __future__ import annotations

from queue import Empty
from time import monotonic

from tinygraph.definition import Kind
from tinygraph.engine import Engine
from tinygraph.executors.bodies import Bodies
from tinygraph.executors.coroutines import Coroutines
from tinygraph.executors.pool import Pool, pool


class Processes:
    """Ready calls go to worker processes; bodies that only record calls run here.

    >>> from tinygraph import Node
    >>> Node(abs)(-3).resolve(executor="processes", workers=2)
    3
    """

    apart = True

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline has passed."""
        workers: Pool | None = None
        lock = engine.lock
        with Coroutines(engine) as coroutines, Bodies(engine, -1) as bodies:
            lock.acquire()
            try:
                while not engine.over.is_set():
                    call = engine.take_for_driver()
                    if call is not None:
                        if call.definition.kind is Kind.COROUTINE:
                            coroutines.start(call)
                        else:
                            lock.release()
                            bodies.perform(call)
                        call = None
                        continue
                    if engine.over.is_set():
                        return
                    if engine.is_stuck():
                        engine.refuse_cycle()
                        return
                    if engine.queue or (engine.dropped and workers is not None):
                        # Processes start with the first call that needs one, and not for calls that only record.
                        if workers is None:
                            workers = pool(self.workers)
                            workers.open(engine, self.workers)
                        workers.ring()
                    engine.idle += 1
                    lock.release()
                    try:
                        engine.wake.get(timeout=None if deadline is None else max(0.0, deadline - monotonic()))
                    except Empty:
                        return
                    finally:
                        lock.acquire()
                        engine.idle -= 1
            finally:
                if lock.locked():
                    lock.release()
                if workers is not None:
                    workers.close(engine)
