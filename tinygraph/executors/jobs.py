"""Run calls on any `concurrent.futures.Executor`: its own future for a call is a job here."""

from __future__ import annotations

import threading
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from concurrent.futures import Future as Job
from contextvars import copy_context
from queue import Empty
from time import monotonic, perf_counter
from typing import Any

from tinygraph.definition import Kind
from tinygraph.engine import Engine, expands
from tinygraph.errors import WorkerLost
from tinygraph.executors.bodies import Bodies, arguments_of, too_slow
from tinygraph.executors.coroutines import Coroutines
from tinygraph.executors.envelope import Outcome, decode, encode, perform, perform_here
from tinygraph.executors.local import LOOK_UP
from tinygraph.future import Future, State, fetched
from tinygraph.portable import spare_scripts


class Jobs:
    """Hands ready calls to an executor, most urgent first, one more at a time than it has workers.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from tinygraph import Node
    >>> with ThreadPoolExecutor(2) as pool:
    ...     Node(abs)(-3).resolve(executor=pool)
    3
    """

    # Whatever it is made of, its workers are not ours: values cross to them, and bodies that only record stay here.
    home = "process"
    lanes = frozenset(("driver", "process"))

    def __init__(self, pool: Executor, workers: int) -> None:
        self._pool = pool
        self._workers = workers
        self._jobs: dict[Future[Any], Job[Any]] = {}

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline has passed."""
        spare_scripts()
        with Coroutines(engine) as coroutines, Bodies(engine, -1) as bodies:
            try:
                while not engine.over.is_set():
                    self._feed(engine, coroutines, bodies)
                    with engine.lock:
                        if engine.over.is_set():
                            break
                        if engine.is_stuck():
                            engine.refuse_cycle()
                            break
                    left = LOOK_UP if deadline is None else deadline - monotonic()
                    try:
                        engine.driver.wake.get(timeout=max(0.0, min(left, LOOK_UP)))
                    except Empty:
                        if left <= LOOK_UP and deadline is not None:
                            break
            finally:
                for job in self._jobs.values():
                    job.cancel()

    def _feed(self, engine: Engine, coroutines: Coroutines, bodies: Bodies) -> None:
        """Run what only records here, and hand out what is ready while the executor has room."""
        lock = engine.lock
        with lock:
            engine.read_inbox()
        while not engine.over.is_set():
            with lock:
                call = engine.take(engine.driver)
            if call is not None:
                if call.definition.kind is Kind.COROUTINE:
                    coroutines.start(call)
                else:
                    try:
                        bodies.perform(call)
                    finally:  # it has the lock, also when it raises: Ctrl-C
                        lock.release()
                continue
            if len(self._jobs) >= self._window():
                return
            with lock:
                call = engine.take(engine.home)
            if call is None:
                return
            self._submit(engine, bodies, call)

    def _window(self) -> int:
        # One more than it has workers: none of them waits for us. What lies in its queue is no longer ours to order.
        return int(getattr(self._pool, "_max_workers", None) or self._workers) + 1

    def _submit(self, engine: Engine, bodies: Bodies, call: Future[Any]) -> None:
        began = perf_counter()
        try:
            seed = None if engine.seeds is None else engine.seeds.of(call)
            if isinstance(self._pool, ThreadPoolExecutor):
                args, kwargs = arguments_of(call, bodies.usable)
                run = copy_context().run  # context variables are as they are where the run was started
                job: Job[Any] = self._pool.submit(run, perform_here, call.definition, args, kwargs, seed)
            else:
                payload = encode(call.definition, *arguments_of(call, fetched), seed)
                job = self._pool.submit(perform, payload)
        except BaseException as error:
            with engine.lock:
                engine.raised(call, error, began, -1)
            return
        self._jobs[call] = job
        if call.definition.timeout is not None:
            self._watch_time(engine, call, call.definition.timeout)
        job.add_done_callback(lambda job: engine.post(lambda: self._done(engine, call, job, began)))

    def _watch_time(self, engine: Engine, call: Future[Any], seconds: float) -> None:
        """Give a call up after so many seconds in the executor, which alone could stop its body."""

        def expire() -> None:
            with engine.lock:
                if call.state is State.RUNNING and call._engine is engine:
                    engine.fail(call, too_slow(call, "its body runs on, because this executor cannot stop it"))
            engine.driver.wake.put(None)

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()

    def _done(self, engine: Engine, call: Future[Any], job: Job[Any], began: float) -> None:
        """Tell the engine what came out of a job; runs with its lock held, in the thread that drives."""
        self._jobs.pop(call, None)
        if job.cancelled():
            engine.raised(call, WorkerLost(f"the executor dropped {call.name!r} without running it"), began, -1)
            return
        error = job.exception()
        if isinstance(error, BrokenExecutor):
            lost = WorkerLost(f"a worker of the executor died while {call.name!r} was in its hands: {error}")
            lost.__cause__ = error
            engine.raised(call, lost, began, -1)
        elif error is not None:
            engine.raised(call, error, began, -1)
        else:
            reply = job.result()
            outcome: Outcome = reply if isinstance(reply, Outcome) else decode(reply)
            began = perf_counter() - outcome.seconds
            if outcome.error is not None:
                engine.raised(call, outcome.error, began, outcome.worker)
            else:
                engine.adopt(call, outcome.made)
                value = outcome.value
                if engine.recall is not None and not expands(call, value, outcome.made):
                    value = engine.recall.keep(call, value, outcome.seconds)
                engine.settle(call, value, outcome.made, began, outcome.worker, began + outcome.seconds)
