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
from typing import Any

import numpy as np
import pytest

import tinygraph
from tinygraph import CancelledError, Node, NodeExit, NodeTimeout, PayloadError, WorkerLost, run
from tinygraph.events import Printed
from tinygraph.executors.pool import pool

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


def test_what_workers_have_started_ends_with_their_parent(tmp_path: Path) -> None:
    """
    program ──► worker ──► subprocess, and a copy of the worker       (the program is killed)
    """
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, subprocess
            from pathlib import Path
            from tinygraph import Node

            @Node
            def starts():
                started = [subprocess.Popen(["sleep", "1000"]).pid, os.fork()]
                if started[-1]:
                    Path({str(tmp_path)!r}, "new").write_text(" ".join(map(str, started)))
                    os.rename({str(tmp_path / "new")!r}, {str(tmp_path / "started")!r})
                signal.pause()

            starts().resolve(executor="processes", workers=1)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    while not (tmp_path / "started").exists():
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    for pid in (tmp_path / "started").read_text().split():
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


# What travels together


step_of_two = Node(lambda folder, name, until: met(folder, name, until), name="one of two")


def met(folder: str, name: str, until: str) -> str:
    """Leave a file, and end when there is another."""
    if name:
        mark(folder, name)
        while not Path(folder, until).exists():
            pass
    return name


def test_two_calls_that_meet_do_so_although_they_were_sent_to_one_worker(tmp_path: Path) -> None:
    """They are of a kind that is known to be quick: the one behind is given to the other worker."""
    folder = str(tmp_path)
    processes: dict[str, Any] = {"executor": "processes", "workers": 2}
    step_of_two(folder, "", "").resolve(**processes)
    pool(2)._supervisor._catalogue.known(step_of_two).seconds = 1e-5
    calls = [("one", "other"), ("other", "one"), *[("", "")] * 40]
    graph = tinygraph.Graph(*[step_of_two(folder, *names) for names in calls])
    assert graph.run(**processes).value == ("one", "other", *[""] * 40)
    assert executions(tmp_path, "one") == executions(tmp_path, "other") == 1


def test_the_value_of_a_quick_call_does_not_wait_for_a_slow_one_behind_it(tmp_path: Path) -> None:
    """
    quick ──► touch       (in the driver)
    slow                  (sent to the same worker, behind quick; it ends when there is the file)
    """
    quick = Node(lambda: None, name="quick", priority=1)
    tinygraph.Graph(*[quick() for _ in range(200)]).run(executor="processes", workers=1)
    touch = Node(lambda nothing: Path(tmp_path, "file").touch(), name="touch", where="driver")
    slow = Node(lambda folder: met(folder, "slow", "file"), name="slow")
    graph = tinygraph.Graph(touch(quick()), slow(str(tmp_path)))
    assert graph.run(executor="processes", workers=1).value == (None, "slow")


def test_a_timeout_counts_for_a_call_that_was_sent_behind_a_quick_one() -> None:
    quick = Node(lambda: None, name="quick", priority=1)
    tinygraph.Graph(*[quick() for _ in range(200)]).run(executor="processes", workers=1)
    endless = Node(lambda: [None for _ in iter(int, 1)], name="endless", timeout=0.3)
    result = run(tinygraph.Graph(quick(), endless()), executor="processes", workers=1, on_error="continue")
    assert [failure.future.name for failure in result.failures] == ["endless"]


def test_timeouts_may_be_as_long_as_anybody_likes() -> None:
    assert Node(abs, timeout=1e7)(-3).resolve(executor="processes", workers=1, timeout=1e10) == 3


def test_a_worker_whose_pipe_was_written_into_costs_its_task_one_more_execution(tmp_path: Path) -> None:
    @Node
    def culprit(folder: str) -> str:
        mark(folder, "culprit")
        if executions(Path(folder), "culprit") == 1:
            for number in range(3, 100):  # it has no business with any of them
                if Path(f"/proc/self/fd/{number}").is_socket():
                    os.write(number, b"hello, what is this?")
        return "survived"

    result = beside_innocents(tmp_path, culprit)
    assert result.value == (7, "survived")
    assert executions(tmp_path, "culprit") == 2


def test_a_worker_that_prints_stays_although_sockets_are_to_wait_for_a_while_only(tmp_path: Path) -> None:
    import socket

    @Node
    def talk(folder: str) -> int:
        mark(folder, "talk")
        print("said")
        while not Path(folder, "heard").exists():
            pass
        return executions(Path(folder), "talk")

    socket.setdefaulttimeout(0.2)
    try:
        pool(1).shut_down()

        def hear(event: object) -> None:
            if isinstance(event, Printed):
                Path(tmp_path, "heard").touch()

        assert talk(str(tmp_path)).resolve(executor="processes", workers=1, progress=hear) == 1
    finally:
        socket.setdefaulttimeout(None)


# Values stay where they were made


BIG = 1 << 18  # numbers in an array that crosses in shared memory

big = Node(lambda: np.zeros(BIG), name="big")


def noted(array: np.ndarray, place: int) -> np.ndarray:
    array = array.copy()
    array[place] = os.getpid()
    return array


step = Node(noted, name="step")


@Node
def begin(folder: str, name: str, until: str, size: int = BIG) -> np.ndarray:
    """Ends when there is another file in the folder."""
    Path(folder, name).touch()
    while not Path(folder, until).exists():
        pass
    return noted(np.zeros(size), 0)


def chain(start: tinygraph.Future, length: int = 6) -> tinygraph.Future:
    for place in range(1, length):
        start = step(start, place)
    return Node(lambda array: [int(pid) for pid in array[:length]], name="pids")(start)


def test_a_chain_stays_with_the_worker_that_has_the_array_while_another_is_free(tmp_path: Path) -> None:
    """
    begin ──► idle
    begin ──► step ──► ... ──► pids       (its worker is not the first, and ends when the first is idle)
    """
    idle = Node(lambda array: Path(tmp_path, "idle").touch(), name="idle", where="driver")
    folder = str(tmp_path)
    one, other = begin.options(priority=1)(folder, "one", "other"), begin(folder, "other", "idle")
    result = tinygraph.Graph(idle(one), chain(other), Node(lambda array: int(array[0]), where="driver")(one))
    _, pids, first = result.run(executor="processes", workers=2).value
    assert len(set(pids)) == 1
    assert first not in pids


def test_two_chains_have_a_worker_each(tmp_path: Path) -> None:
    folder = str(tmp_path)
    chains = [chain(begin(folder, *names)) for names in (("one", "other"), ("other", "one"))]
    one, other = tinygraph.Graph(*chains).run(executor="processes", workers=2).value
    assert len(set(one)) == len(set(other)) == 1
    assert one != other


@pytest.mark.parametrize("sizes", [(BIG, 2 * BIG), (2 * BIG, BIG)])
def test_a_call_goes_to_the_worker_that_has_its_largest_input(tmp_path: Path, sizes: tuple[int, int]) -> None:
    """
    begin ──┐
    begin ──┴──► join
    """
    folder = str(tmp_path)
    inputs = [begin(folder, name, until, size) for name, until, size in zip("ab", "ba", sizes, strict=True)]
    join = Node(lambda *arrays: (os.getpid(), {array.size: int(array[0]) for array in arrays}), name="join")
    pid, makers = join(*inputs).resolve(executor="processes", workers=2)
    assert len(set(makers.values())) == 2
    assert pid == makers[2 * BIG]


def test_the_next_task_has_the_array_and_not_a_copy_of_it() -> None:
    def made() -> np.ndarray:
        array = np.zeros(BIG)
        array[0] = array.ctypes.data
        return array

    is_there = Node(lambda array: array.ctypes.data == array[0], name="is there")
    assert is_there(Node(made)()).resolve(executor="processes", workers=1)


def overwritten(array: np.ndarray) -> float:
    before = float(array.sum())
    array[:] = -1
    return before


overwrite = Node(overwritten, name="overwrite")
ones = Node(lambda: np.ones(BIG), name="ones")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_one_consumer_writes_no_other_sees(workers: int) -> None:
    """
    ones ──┬──► overwrite x 6
           └──► total           (in the driver, after them)
    """
    made = ones()
    writers = [overwrite(made) for _ in range(6)]
    total = Node(lambda array: float(array.sum()), name="total", where="driver")(made).after(*writers)
    result = tinygraph.Graph(*writers, total, made).run(executor="processes", workers=workers)
    assert result.value[:-1] == (float(BIG),) * 7
    assert result.value[-1].sum() == BIG


def occupied(pid: int | str = "self") -> int:
    """Return the bytes of a process that it shares with nobody."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


PLENTY = 1 << 26


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks into /proc")
def test_a_worker_that_is_idle_keeps_no_value() -> None:
    worker = Node(os.getpid)().resolve(executor="processes", workers=1)
    before = occupied(worker)
    made = Node(lambda: np.ones(PLENTY // 8))()
    assert made.resolve(executor="processes", workers=1).nbytes == PLENTY
    while occupied(worker) > before + PLENTY // 2:
        pass


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks into /proc")
@pytest.mark.parametrize("argument", [0, [0]])
def test_a_task_that_does_not_need_the_value_before_it_does_not_keep_it(argument: object) -> None:
    look = Node(lambda argument: occupied(), name="look")
    before = look(argument).resolve(executor="processes", workers=1)
    made = Node(lambda: np.ones(PLENTY // 8))()
    looked = look(argument).after(made)
    tinygraph.Graph(made, looked).run(executor="processes", workers=1).wait()
    assert looked.resolve() < before + PLENTY // 2


cache: dict[str, np.ndarray] = {}


def test_what_a_node_keeps_for_itself_its_consumers_do_not_change() -> None:
    def cached() -> np.ndarray:
        return cache.setdefault("ones", np.ones(BIG))

    kept = Node(cached, name="kept")
    for _ in range(3):
        assert overwrite(kept()).resolve(executor="processes", workers=1) == BIG


def test_what_a_node_changes_afterwards_its_consumers_do_not_see() -> None:
    def changing(begins: bool) -> np.ndarray | None:
        if begins:
            return cache.setdefault("changes", np.ones(BIG))
        cache.pop("changes")[:] = 5
        return None

    node = Node(changing)
    made = node(True)
    changed = node(False).after(made)
    total = Node(lambda array: float(array.sum()))(made).after(changed)
    assert total.resolve(executor="processes", workers=1) == BIG


def test_a_consumer_that_dies_after_writing_finds_it_as_it_was(tmp_path: Path) -> None:
    def writes_and_dies(array: np.ndarray) -> float:
        before = overwritten(array)
        mark(str(tmp_path), "culprit")
        if executions(tmp_path, "culprit") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return before

    assert Node(writes_and_dies)(ones()).resolve(executor="processes", workers=1) == BIG
    assert executions(tmp_path, "culprit") == 2


def test_changing_in_place_along_a_chain_changes_nothing_upstream() -> None:
    def more(array: np.ndarray) -> np.ndarray:
        array += 1
        return array

    steps = [ones()]
    for _ in range(5):
        steps.append(Node(more, name="more")(steps[-1]))
    found = tinygraph.Graph(*steps).run(executor="processes", workers=1).value
    assert [array[[0, -1]].tolist() for array in found] == [[i, i] for i in range(1, 7)]
