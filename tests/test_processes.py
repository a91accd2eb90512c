"""The process pool: a fault stays with its own task, innocents run exactly once, and nothing hangs.

The names are those of the rows in the table of hard cases.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import tinygraph
from tinygraph import CancelledError, Node, NodeExit, NodeTimeout, PayloadError, WorkerLost, run

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]


def mark(folder: str, name: str) -> None:
    """Leave one line for each execution."""
    with Path(folder, name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def executions(folder: Path, name: str) -> int:
    path = folder / name
    return len(path.read_text().splitlines()) if path.exists() else 0


@Node
def innocent(folder: str, name: str) -> str:
    mark(folder, name)
    return name


@Node
def slow_innocent(folder: str, name: str) -> str:
    """Begins, waits until the culprit is known to have begun, and ends."""
    mark(folder, name)
    while not Path(folder, "culprit").exists():
        pass
    return name


@Node
def total(*values: object) -> int:
    return len(values)


def beside_innocents(tmp_path: Path, culprit: Node, *args: object, count: int = 6) -> tinygraph.Run:
    """
    innocent x 6 ──► total
    culprit                       (its failure is its own)
    """
    folder = str(tmp_path)
    innocents = [innocent(folder, f"innocent-{i}") for i in range(count)] + [slow_innocent(folder, "slow")]
    graph = tinygraph.Graph(total(*innocents), culprit(folder, *args))
    result = run(graph, executor="processes", workers=2, on_error="continue")
    result.wait()
    assert graph.targets[0].resolve() == count + 1
    for i in range(count):
        assert executions(tmp_path, f"innocent-{i}") == 1
    assert executions(tmp_path, "slow") == 1
    return result


@pytest.mark.parametrize("how", ["kill", "exit0", "exit1", "abort", "segfault"])
def test_X2_X3_a_task_that_kills_its_worker_is_given_up_and_innocents_run_once(tmp_path: Path, how: str) -> None:
    @Node
    def culprit(folder: str, how: str) -> None:
        mark(folder, "culprit")
        match how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit0":
                os._exit(0)
            case "exit1":
                os._exit(1)
            case "abort":
                os.abort()
            case "segfault":
                import ctypes

                ctypes.string_at(0)

    result = beside_innocents(tmp_path, culprit, how)
    [failure] = result.failures
    assert isinstance(failure.exception, WorkerLost)
    assert "3 times" in str(failure.exception)
    assert executions(tmp_path, "culprit") == 3


def test_X1_a_worker_killed_once_costs_one_more_execution_of_its_own_task(tmp_path: Path) -> None:
    @Node
    def culprit(folder: str) -> str:
        mark(folder, "culprit")
        if executions(Path(folder), "culprit") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    result = beside_innocents(tmp_path, culprit)
    assert result.value == (7, "survived")
    assert executions(tmp_path, "culprit") == 2


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def test_X9_an_exception_with_two_arguments_arrives_as_itself(tmp_path: Path) -> None:
    @Node
    def culprit(folder: str) -> None:
        mark(folder, "culprit")
        raise TwoArguments(7, "bad")

    [failure] = beside_innocents(tmp_path, culprit).failures
    assert type(failure.exception).__name__ == "TwoArguments"
    assert failure.exception.code == 7


@pytest.mark.parametrize("cls", [Unprintable, HoldsALock])
def test_X9_an_exception_that_cannot_travel_is_told_faithfully(tmp_path: Path, cls: type[Exception]) -> None:
    @Node
    def culprit(folder: str) -> None:
        mark(folder, "culprit")
        raise cls()

    [failure] = beside_innocents(tmp_path, culprit).failures
    assert cls.__name__ in type(failure.exception).__name__ + getattr(failure.exception, "type_name", "")


class Bomb:
    """Goes off when it is unpickled."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> tuple[object, ...]:
        return explode, (self.how,)


def explode(how: str) -> None:
    if how == "raise":
        raise ValueError("boom")
    if how == "exit":
        sys.exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("how", ["raise", "exit", "kill"])
def test_X7_an_argument_that_explodes_at_unpickle_fails_its_own_task(tmp_path: Path, how: str) -> None:
    @Node
    def culprit(folder: str, bomb: object) -> None:
        """Never begins."""

    Path(tmp_path, "culprit").touch()
    [failure] = beside_innocents(tmp_path, culprit, Bomb(how)).failures
    assert isinstance(failure.exception, ValueError | NodeExit | WorkerLost)


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_X8_a_result_that_explodes_at_unpickle_fails_its_own_task(tmp_path: Path, how: str) -> None:
    @Node
    def culprit(folder: str, how: str) -> object:
        mark(folder, "culprit")
        return Bomb(how)

    [failure] = beside_innocents(tmp_path, culprit, how).failures
    assert isinstance(failure.exception, PayloadError)
    assert "culprit" in str(failure.exception)


def test_X8_a_result_that_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    @Node
    def culprit(folder: str) -> object:
        mark(folder, "culprit")
        return threading.Lock()

    [failure] = beside_innocents(tmp_path, culprit).failures
    assert isinstance(failure.exception, PayloadError)
    assert "lock" in str(failure.exception)


def test_X6_an_argument_that_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    @Node
    def culprit(folder: str, model: object) -> None:
        """Never begins."""

    Path(tmp_path, "culprit").touch()
    [failure] = beside_innocents(tmp_path, culprit, {"rate": 1, "lock": threading.Lock()}).failures
    assert isinstance(failure.exception, PayloadError)
    assert "argument 'model'['lock']" in str(failure.exception)


def test_X10_sys_exit_and_keyboard_interrupt_in_a_node_are_errors_of_the_node(tmp_path: Path) -> None:
    @Node
    def culprit(folder: str) -> None:
        mark(folder, "culprit")
        sys.exit(3)

    [failure] = beside_innocents(tmp_path, culprit).failures
    assert isinstance(failure.exception, NodeExit)
    assert "culprit" in str(failure.exception)


def test_X14_a_timeout_stops_c_code_that_holds_the_interpreter(tmp_path: Path) -> None:
    @Node(timeout=0.5)
    def culprit(folder: str) -> object:
        import re

        mark(folder, "culprit")
        return re.match(r"(a+)+$", "a" * 64 + "b")

    [failure] = beside_innocents(tmp_path, culprit).failures
    assert isinstance(failure.exception, NodeTimeout)
    assert executions(tmp_path, "culprit") == 1


def test_X15_a_node_that_reads_the_terminal_finds_it_closed() -> None:
    with pytest.raises(EOFError):
        Node(lambda: input())().resolve(executor="processes", workers=1)


def test_a_run_that_is_cancelled_stops_what_runs(tmp_path: Path) -> None:
    @Node
    def endless(folder: str) -> None:
        mark(folder, "endless")
        while True:
            pass

    result = run(endless(str(tmp_path)), executor="processes", workers=1, block=False)
    while not executions(tmp_path, "endless"):
        pass
    pid = int((tmp_path / "endless").read_text())
    result.cancel()
    with pytest.raises(CancelledError):
        _ = result.value
    assert not Path(f"/proc/{pid}").exists()


def test_X12_workers_die_with_their_parent(tmp_path: Path) -> None:
    """Even one that is stuck in C code with the interpreter's lock held."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, re
            from pathlib import Path
            from tinygraph import Node

            @Node
            def stuck():
                Path({str(tmp_path)!r}, "worker").write_text(str(os.getpid()))
                return re.match(r"(a+)+$", "a" * 64 + "b")

            stuck().resolve(executor="processes", workers=1)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    worker = tmp_path / "worker"
    while not (worker.exists() and worker.read_text()):
        assert parent.poll() is None
    pid = int(worker.read_text())
    parent.kill()
    parent.wait()
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        pass


def test_X18_runs_in_several_threads_share_the_pool() -> None:
    square = Node(lambda x: x * x)
    add = Node(lambda *xs: sum(xs))
    answers: dict[int, int] = {}

    def work(n: int) -> None:
        answers[n] = add(*[square(i) for i in range(n)]).resolve(executor="processes", workers=2)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: sum(i * i for i in range(n)) for n in range(1, 13)}


def test_nested_calls_with_one_worker_cannot_deadlock() -> None:
    @Node
    def fib(n: int) -> int:
        return n if n < 2 else add(fib(n - 1), fib(n - 2))

    @Node
    def add(a: int, b: int) -> int:
        return a + b

    assert fib(10).resolve(executor="processes", workers=1) == 55


def test_a_cancelled_call_is_stopped_and_the_others_go_on(tmp_path: Path) -> None:
    @Node
    def endless(folder: str) -> None:
        mark(folder, "endless")
        while True:
            pass

    stuck = endless(str(tmp_path))
    graph = tinygraph.Graph(stuck, innocent(str(tmp_path), "innocent"))
    result = run(graph, executor="processes", workers=2, on_error="continue", block=False)
    while not executions(tmp_path, "endless"):
        pass
    stuck.cancel()
    result.wait()
    assert stuck.state == "cancelled"
    assert graph.targets[1].resolve() == "innocent"
    pid = int((tmp_path / "endless").read_text())
    while Path(f"/proc/{pid}").exists():
        pass
