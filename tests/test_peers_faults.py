"""Two faults of the pools of others, and that they are none here.

A worker that is killed while it sends hangs loky's pool for ever (measured with 3.7.0): its end of the shared pipe is
still held by its neighbours, so half a message is awaited. And an exception whose class wants two arguments cannot be
unpickled in the driver, which breaks the pool for everybody.

The first red tests of `executor="processes"`: they say what its supervisor is for. Each runs in an interpreter of its
own, as one of them does not come back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
INNOCENTS = 4
# Seconds after which what has not come back never will. It is asserted of nothing that is meant to be quick.
PATIENCE = 10.0

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(os.name != "posix", reason="signals")]


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def two_arguments(folder: str) -> None:
    Path(folder, "culprit").touch()
    raise TwoArguments(7, "bad")


def torn(folder: str) -> bytes:
    """Return a value, and have the worker killed when 50,000 bytes of it are sent."""
    import multiprocessing.connection as connection

    def send(self: Any, content: Any, write: Callable[[int, Any], int] = os.write) -> None:
        rest = memoryview(content)
        if len(rest) > 100_000:
            sent = 0
            while sent < 50_000:
                sent += write(self._handle, rest[sent:50_000])
            os.kill(os.getpid(), 9)
        while len(rest):
            rest = rest[write(self._handle, rest) :]

    connection.Connection._send = send  # type: ignore[attr-defined]
    Path(folder, "culprit").touch()
    return bytes(1_000_000)


def innocent(folder: str, number: int) -> int:
    """Begin, wait until the culprit has begun as well, and end."""
    with Path(folder, f"innocent-{number}").open("a") as file:
        file.write("x")
    while not Path(folder, "culprit").exists():
        pass
    return number


def with_loky(folder: str, culprit: Callable[[str], Any]) -> dict[str, Any]:
    """Submit the culprit and its neighbours to loky's executor, and say what came of each."""
    from concurrent.futures import wait

    from loky import get_reusable_executor

    pool = get_reusable_executor(max_workers=2)
    list(pool.map(abs, range(4)))  # both workers are there
    jobs = [pool.submit(innocent, folder, 0), pool.submit(culprit, folder)]
    jobs += [pool.submit(innocent, folder, number) for number in range(1, INNOCENTS)]
    wait(jobs, PATIENCE)
    outcomes = []
    for job in jobs:
        try:
            job.result(0)
            outcomes.append("finished")
        except BaseException as error:
            outcomes.append(type(error).__name__)
    return {"culprit": outcomes.pop(1), "innocents": outcomes}


def with_tinygraph(folder: str, culprit: Callable[[str], Any]) -> dict[str, Any]:
    """Run the culprit and its neighbours in our processes, and say what came of each."""
    from tinygraph import Graph, Node, run

    beside = Node(innocent)
    graph = Graph(beside(folder, 0), Node(culprit)(folder), *[beside(folder, n) for n in range(1, INNOCENTS)])
    result = run(graph, executor="processes", workers=2, on_error="continue")
    result.wait()
    outcomes = [str(future.state) for future in graph.targets]
    [failure] = result.failures
    outcomes[1] = type(failure.exception).__name__
    return {"culprit": outcomes.pop(1), "innocents": outcomes}


def main(executor: str, fault: str, folder: str) -> None:
    """Write down what came of a fault; end at once, because a pool that hangs would hang the exit as well."""
    found = (with_loky if executor == "loky" else with_tinygraph)(folder, {"torn": torn}.get(fault, two_arguments))
    begun = [Path(folder, f"innocent-{n}") for n in range(INNOCENTS)]
    found["executions"] = [len(path.read_text()) if path.exists() else 0 for path in begun]
    Path(folder, "found").write_text(json.dumps(found))
    os._exit(0)


def outcome(executor: str, fault: str, folder: Path) -> dict[str, Any]:
    """Run `main` in an interpreter and process group of its own, of which nothing is left behind."""
    code = f"from tests import test_peers_faults as own; own.main({executor!r}, {fault!r}, {str(folder)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    try:
        process.wait(timeout=4 * PATIENCE)
    finally:
        try:
            os.killpg(process.pid, 9)
        except ProcessLookupError:
            pass
        process.wait()
    told = (folder / "found").read_text()
    print(executor, fault, told)
    return json.loads(told)  # type: ignore[no-any-return]


EXECUTORS = [
    "tinygraph",
    pytest.param("loky", marks=pytest.mark.xfail(strict=True, reason="a fault of loky, shown here as it is")),
]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_worker_killed_while_it_sends_fails_its_own_task_only(executor: str, tmp_path: Path) -> None:
    found = outcome(executor, "torn", tmp_path)
    assert found["culprit"] in ("WorkerLost", "TerminatedWorkerError")  # told, and not awaited for ever
    assert found["innocents"] == ["finished"] * INNOCENTS
    assert found["executions"] == [1] * INNOCENTS


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_exception_with_two_arguments_fails_its_own_task_only(executor: str, tmp_path: Path) -> None:
    found = outcome(executor, "two arguments", tmp_path)
    assert found["culprit"] == "TwoArguments"
    assert found["innocents"] == ["finished"] * INNOCENTS
    assert found["executions"] == [1] * INNOCENTS
