"""Run calls in this process: by the caller itself, or by a few threads that all take from one queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty
from time import monotonic
from typing import Any

from tinygraph.definition import Kind
from tinygraph.engine import Engine
from tinygraph.executors.bodies import Bodies, too_slow
from tinygraph.executors.coroutines import Coroutines
from tinygraph.future import Future, State


class Inline:
    """One call after the other, in the thread that resolves: the same order on any machine.

    >>> from tinygraph import Node
    >>> Node(abs)(-3).resolve(executor="inline")
    3
    """

    apart = False

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline has passed."""
        with Coroutines(engine) as coroutines:
            _work(engine, coroutines, 0, deadline)


class Threads:
    """Each thread takes the most urgent ready call, runs it, and takes the next.

    >>> from tinygraph import Node
    >>> Node(abs)(-3).resolve(executor="threads", workers=2)
    3
    """

    apart = False

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline has passed."""
        crew: dict[int, threading.Thread] = {}
        context = copy_context()

        def start(worker: int) -> None:
            """Begin a thread, or replace one that a call keeps beyond its timeout."""
            # A daemon: a body that hangs must not keep the program alive. It ends after its last call.
            thread = crew[worker] = threading.Thread(
                target=context.copy().run,
                args=(_work, engine, coroutines, worker, None, start),
                name=f"tinygraph-{worker}",
                daemon=True,
            )
            thread.start()

        with Coroutines(engine) as coroutines:
            for worker in range(self.workers):
                start(worker)
            engine.over.wait(None if deadline is None else max(0.0, deadline - monotonic()))
            if engine.over.is_set() and engine.error is None:
                for thread in crew.values():  # nothing runs any more: they only close what they made
                    thread.join()


def _work(
    engine: Engine,
    coroutines: Coroutines,
    worker: int,
    deadline: float | None,
    replace: Callable[[int], None] | None = None,
) -> None:
    """Take calls and run them until the run is over: the loop of a worker in this process."""
    over, lock = engine.over.is_set, engine.lock
    with Bodies(engine, worker) as bodies:
        lock.acquire()
        try:
            while not over():
                call = engine.take()
                if call is None:
                    if not _wait(engine, deadline):
                        return
                elif call.definition.kind is Kind.COROUTINE:
                    coroutines.start(call)
                else:
                    lock.release()
                    if deadline is not None and monotonic() > deadline:
                        lock.acquire()
                        return
                    if call.definition.timeout is None:
                        bodies.perform(call)
                    elif _perform_in_time(engine, bodies, call, replace):
                        return
                call = None  # hold nothing while waiting: what nobody needs is let go
        except Exception as error:  # a defect of ours: better an error than a run that never ends
            engine.stop(error)
        finally:
            if lock.locked():
                lock.release()


def _perform_in_time(
    engine: Engine, bodies: Bodies, call: Future[Any], replace: Callable[[int], None] | None
) -> bool:
    """Run a call with a timeout; return whether it was late and another thread has taken this one's place.

    A thread cannot be stopped: at the timeout the call fails and the run goes on, while its body runs to its end.
    """
    replaced = False

    def expire() -> None:
        nonlocal replaced
        with engine.lock:
            if call.state is State.RUNNING and call._engine is engine:
                engine.fail(call, too_slow(call))
                if replace is not None and not engine.over.is_set():
                    replaced = True
                    replace(bodies.worker)

    timer = threading.Timer(call.definition.timeout or 0.0, expire)
    timer.daemon = True
    timer.start()
    bodies.perform(call)
    timer.cancel()
    return replaced


def _wait(engine: Engine, deadline: float | None) -> bool:
    """Wait, without the lock, until there may be something to do; return whether to go on."""
    if engine.over.is_set():
        return False
    if engine.is_stuck():
        engine.refuse_cycle()
        return False
    engine.idle += 1
    engine.lock.release()
    try:
        engine.wake.get(timeout=None if deadline is None else max(0.0, deadline - monotonic()))
        return True
    except Empty:
        return False
    finally:
        engine.lock.acquire()
        engine.idle -= 1
