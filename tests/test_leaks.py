"""A thousand resolves leave the process as they found it: file numbers, threads, processes, files.

The first resolve of each kind may start what stays: the pool, its thread, its workers. The thousandth starts nothing.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tinygraph import Graph, Node, NodeTimeout, WorkerLost, run
from tinygraph.executors.pool import pool

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc"),
]

RESOLVES = 1_000
BIG = 2 << 20  # crosses in shared memory

square = Node(lambda x: x * x, name="square")
add = Node(lambda *xs: sum(xs), name="add")


def held() -> dict[str, list[str]]:
    """What this process and its workers hold."""
    gc.collect()
    ours = sorted(str(pid) for pid in children())
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": opened("self"),
        "processes": ours,
        "files of workers": [file for pid in ours for file in opened(pid)],
        "shared": sorted(files_of_pool()),
        "temporary": sorted(name for name in os.listdir(tempfile.gettempdir()) if f"-{os.getpid()}-" in name),
    }


def children() -> list[int]:
    """Every process that this one started, dead ones that were not reaped included."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def opened(pid: str) -> list[str]:
    """What the open files of a process point at, their numbers left out."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}").partition(":[")[0])
        except OSError:  # that of the listing itself
            continue
    return sorted(found)


def files_of_pool() -> list[str]:
    """The files that are shared with workers, but for memory that waits to be filled again."""
    found = []
    for folder in pool(2)._segments.folders:
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.parent.name != "free":
                found.append(path.name.split("-")[0])
    return found


def small(n: int) -> None:
    assert add(*[square(i) for i in range(3)], n).resolve(executor="processes", workers=2) == 5 + n


def large(n: int) -> None:
    make, size = Node(lambda: bytes(BIG), name="make"), Node(len, name="size")
    assert size(make()).resolve(executor="processes", workers=2) == BIG


def failing(n: int) -> None:
    result = run(Node(lambda x: 1 // x)(0), executor="processes", workers=2, on_error="continue")
    assert len(result.failures) == 1


def mixed(n: int) -> None:
    fetch, crunch = Node(abs, where="thread"), Node(abs, where="process")
    assert crunch(fetch(-n)).resolve(workers=2) == n


def on_threads(n: int) -> None:
    assert add(square(2), square(n)).resolve(executor="threads", workers=2) == 4 + n * n


@Node
def meet(folder: str, name: str) -> None:
    """Wait until the other is there as well."""
    Path(folder, name).touch()
    while len(os.listdir(folder)) < 2:
        pass


@pytest.fixture
def _two_workers(tmp_path: Path) -> None:
    """A pool of two workers, both of which have run something: none is starting, nor kept for the next death."""
    pool(2).shut_down()
    Graph(meet(str(tmp_path), "one"), meet(str(tmp_path), "other")).run(executor="processes", workers=2)


@pytest.mark.usefixtures("_two_workers")
@pytest.mark.parametrize("resolve", [small, large, failing, mixed, on_threads])
def test_X19_a_thousand_resolves_leave_everything_as_it_was(resolve: Callable[[int], None]) -> None:
    for n in range(20):  # so that what is kept for the next time is kept
        resolve(n)
    Graph(*[square(i) for i in range(1000)]).run(executor="processes", workers=2)
    before = held()
    for n in range(RESOLVES):
        resolve(n)
    assert held() == before


def dying() -> None:
    os.kill(os.getpid(), 9)


def test_workers_that_died_or_were_killed_leave_nothing() -> None:
    """Each resolve costs some workers: what belonged to them goes with them."""
    lost = Node(dying, name="lost")
    late = Node(lambda: [None for _ in iter(int, 1)], name="late", timeout=0.05)

    def resolve() -> None:
        for node, error in ((lost, WorkerLost), (late, NodeTimeout)):
            with pytest.raises(error):
                node().resolve(executor="processes", workers=1)
        Graph(*[square(i) for i in range(1000)]).run(executor="processes", workers=2)

    def counted() -> dict[str, int]:
        # A worker that has just been started opens and closes files of its own.
        return {name: len(found) for name, found in held().items() if name != "files of workers"}

    resolve()
    before = counted()
    for _ in range(3):
        resolve()
    assert counted() == before
