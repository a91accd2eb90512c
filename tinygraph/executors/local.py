"""Run calls in this process: the loop of a worker, and the executor that is nothing but one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty
from time import monotonic
from typing import Any

from tinygraph.definition import Kind
from tinygraph.engine import Engine, Lane
from tinygraph.executors.bodies import Bodies, too_slow
from tinygraph.executors.coroutines import Coroutines
from tinygraph.future import Future, State

# Seconds that a thread waits at once: while it waits, a signal that came just before is not heard.
LOOK_UP = 0.5

_COROUTINE = Kind.COROUTINE  # looked up at every call, and an enum's attribute is slow


class Inline:
    """One call after the other, in the thread that resolves: the same order on any machine.

    >>> from tinygraph import Node
    >>> Node(abs)(-3).resolve(executor="inline")
    3
    """

    home = "driver"
    lanes = frozenset(("driver",))

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline has passed."""
        with Coroutines(engine) as coroutines:
            work(engine, engine.driver, coroutines, worker=0, deadline=deadline)


def work(
    engine: Engine,
    lane: Lane,
    coroutines: Coroutines,
    *,
    worker: int,
    deadline: float | None = None,
    replace: Callable[[int], None] | None = None,
    when_idle: Callable[[], bool] | None = None,
) -> None:
    """Take calls of a lane and run them until the run is over: the loop of a worker in this process.

    ``replace(worker)`` is called when a call keeps this thread beyond its timeout, ``when_idle()`` before it waits,
    and returns whether to look again instead; both with the engine's lock held.
    """
    over, lock = engine.over.is_set, engine.lock
    with Bodies(engine, worker) as bodies:
        lock.acquire()
        try:
            while not over():
                call = engine.take(lane)
                if call is None:
                    if when_idle is not None and when_idle():
                        continue
                    if not _wait(engine, lane, deadline):
                        return
                elif call.definition.kind is _COROUTINE:
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


def _perform_in_time(engine: Engine, bodies: Bodies, call: Future[Any], replace: Callable[[int], None] | None) -> bool:
    """Run a call with a timeout; return whether it was late and another thread has taken this one's place.

    A thread cannot be stopped: at the timeout the call fails and the run goes on, while its body runs to its end.
    """
    replaced = False

    def expire() -> None:
        nonlocal replaced
        with engine.lock:
            if call.state is State.RUNNING and call._engine is engine:
                engine.fail(call, too_slow(call, "its body runs on, because a thread cannot be stopped"))
                if replace is not None and not engine.over.is_set():
                    replaced = True
                    replace(bodies.worker)

    timer = threading.Timer(call.definition.timeout or 0.0, expire)
    timer.daemon = True
    timer.start()
    bodies.perform(call)
    timer.cancel()
    return replaced


def _wait(engine: Engine, lane: Lane, deadline: float | None) -> bool:
    """Wait, without the lock, until there may be something to do; return whether to go on."""
    if engine.over.is_set():
        return False
    if engine.is_stuck():
        engine.refuse_cycle()
        return False
    lane.idle += 1
    engine.lock.release()
    left = LOOK_UP if deadline is None else deadline - monotonic()
    try:
        lane.wake.get(timeout=max(0.0, min(left, LOOK_UP)))
        return True
    except Empty:
        return left > LOOK_UP or deadline is None
    finally:
        engine.lock.acquire()
        lane.idle -= 1
