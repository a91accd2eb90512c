"""The floors: the barest Python that does the same, without names, errors, nesting, priorities or pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from graphlib import TopologicalSorter
from heapq import heapify, heappop, heappush
from multiprocessing import get_context
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import Any

from shapes import Shape

Submit = Callable[..., Future[Any]]


def submit_here(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Run a task at once, behind the same door as a pool."""
    job: Future[Any] = Future()
    job.set_result(function(*args))
    return job


@contextmanager
def remembering(path: str) -> Iterator[Submit]:
    """Offer a door behind which a task runs once: its value is in one table of SQLite from then on."""
    import pickle
    import sqlite3
    from hashlib import sha256

    database = sqlite3.connect(path, isolation_level=None)
    database.execute("CREATE TABLE IF NOT EXISTS kept(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    database.execute("BEGIN")

    def submit(function: Callable[..., Any], *args: Any) -> Future[Any]:
        job: Future[Any] = Future()
        key = sha256(pickle.dumps((function.__module__, function.__qualname__, args))).hexdigest()
        row = database.execute("SELECT value FROM kept WHERE key=?", (key,)).fetchone()
        if row is not None:
            job.set_result(pickle.loads(row[0]))
            return job
        value = function(*args)
        database.execute("INSERT INTO kept VALUES(?,?)", (key, pickle.dumps(value)))
        job.set_result(value)
        return job

    try:
        yield submit
        database.execute("COMMIT")
    finally:
        database.close()


def dispatch(submit: Submit, shape: Shape) -> list[Any]:
    """Run a shape with `graphlib.TopologicalSorter` and a queue of what has completed; return all values."""
    sorter = TopologicalSorter({i: needs for i, (_, _, needs) in enumerate(shape)})
    sorter.prepare()
    values: list[Any] = [None] * len(shape)
    completed: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
    while sorter.is_active():
        for i in sorter.get_ready():
            function, literals, needs = shape[i]
            job = submit(function, *literals, *[values[need] for need in needs])
            job.add_done_callback(lambda job, i=i: completed.put((i, job)))  # type: ignore[misc]
        while True:
            i, job = completed.get()
            values[i] = job.result()
            sorter.done(i)
            if completed.empty():
                break
    return values


def dispatch_by_priority(submit: Submit, shape: Shape, priority: list[float], workers: int) -> list[Any]:
    """Run a shape by list scheduling: never more jobs than workers, the highest priority first."""
    left = [len(needs) for _, _, needs in shape]
    dependents = dependents_of(shape)
    ready = [(-priority[i], i) for i, count in enumerate(left) if not count]
    heapify(ready)
    values: list[Any] = [None] * len(shape)
    completed: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
    running, remaining = 0, len(shape)
    while remaining:
        while ready and running < workers:
            _, i = heappop(ready)
            function, literals, needs = shape[i]
            job = submit(function, *literals, *[values[need] for need in needs])
            job.add_done_callback(lambda job, i=i: completed.put((i, job)))  # type: ignore[misc]
            running += 1
        i, job = completed.get()
        values[i] = job.result()
        running -= 1
        remaining -= 1
        for dependent in dependents[i]:
            left[dependent] -= 1
            if not left[dependent]:
                heappush(ready, (-priority[dependent], dependent))
    return values


def dependents_of(shape: Shape) -> list[list[int]]:
    """Return for each task the tasks that need it."""
    dependents: list[list[int]] = [[] for _ in shape]
    for i, (_, _, needs) in enumerate(shape):
        for need in needs:
            dependents[need].append(i)
    return dependents


# Processes at their barest: forked workers and one duplex pipe each. No death is noticed, no error travels.

_IN_FLIGHT = 4  # messages on their way to one worker


@contextmanager
def pipes(workers: int) -> Iterator[list[Any]]:
    """Start forked workers; yield our ends of their pipes."""
    context = get_context("fork")
    ours, started = [], []
    for _ in range(workers):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        process.start()
        ours.append(here)
        started.append(process)
    try:
        yield ours
    finally:
        for here in ours:
            here.send(None)
        for process in started:
            process.join()


def _serve(pipe: Any) -> None:
    while (tasks := pipe.recv()) is not None:
        pipe.send([(i, function(*args)) for i, function, args in tasks])


def dispatch_by_pipes(ends: list[Any], shape: Shape, batch: int) -> list[Any]:
    """Run a shape on the workers behind some pipes, at most `batch` tasks in a message; return all values."""
    left, dependents = [len(needs) for _, _, needs in shape], dependents_of(shape)
    ready = [i for i, count in enumerate(left) if not count][::-1]
    values: list[Any] = [None] * len(shape)
    flying, remaining = dict.fromkeys(ends, 0), len(shape)
    while remaining:
        for end in sorted(ends, key=lambda end: flying[end]):
            while ready and flying[end] < _IN_FLIGHT:
                tasks = []
                for _ in range(max(1, min(batch, len(ready) // len(ends)))):
                    function, literals, needs = shape[i := ready.pop()]
                    tasks.append((i, function, (*literals, *[values[need] for need in needs])))
                end.send(tasks)
                flying[end] += 1
        answered: list[Any] = list(wait([end for end in ends if flying[end]]))
        for end in answered:
            flying[end] -= 1
            for i, value in end.recv():
                values[i] = value
                remaining -= 1
                for dependent in dependents[i]:
                    left[dependent] -= 1
                    if not left[dependent]:
                        ready.append(dependent)
    return values
