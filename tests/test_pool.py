"""The pool of worker processes: what it keeps and for how long, what a node may do to it, and what the machine may."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tinygraph import Graph, Node, WorkerLost, run
from tinygraph.executors.bodies import Recipe, close
from tinygraph.executors.ledger import Ledger
from tinygraph.executors.machine import Machine, _new_ledger
from tinygraph.executors.pool import pool
from tinygraph.executors.segments import Segments
from tinygraph.testing import SimulatedExecutor

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]

PROCESSES: dict[str, Any] = {"executor": "processes", "workers": 1}

add = Node(lambda *xs: sum(xs), name="add")
pid = Node(os.getpid, name="pid")


def run_script(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    program = [sys.executable, *options, "-c", textwrap.dedent(source)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def opened() -> list[str]:
    return os.listdir("/proc/self/fd")


# What nodes say


def test_an_unfinished_line_is_passed_on_and_the_program_ends() -> None:
    done = run_script(
        """
        from tinygraph import Node
        print(Node(lambda: print("no newline", end=""), name="say")().resolve(executor="processes", workers=1))
        """
    )
    assert done.stderr == ""
    assert "no newline" in done.stdout
    assert done.stdout.endswith("None\n")


def test_a_node_whose_thread_prints_for_ever_does_not_keep_the_program_alive() -> None:
    done = run_script(
        """
        import threading
        from tinygraph import Node

        def chatter():
            while True:
                print("and again")

        Node(lambda: threading.Thread(target=chatter, daemon=True).start())().resolve(executor="processes", workers=1)
        """
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_one_worker_that_cannot_be_ended_does_not_keep_the_others_alive() -> None:
    Graph(*[pid() for _ in range(40)]).run(executor="processes", workers=2)
    found = pool(2)
    hands = list(found._supervisor._hands.values())
    pids = [hand.member.pid for hand in hands]
    bury = hands[0].member.bury

    def fail() -> None:
        bury()
        raise ValueError("mmap closed or invalid")

    hands[0].member.bury = fail  # type: ignore[method-assign]
    found.shut_down()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert add(1, 2).resolve(**PROCESSES) == 3


# Copies of a worker


def test_a_copy_that_a_body_makes_of_its_worker_ends_with_the_body() -> None:
    @Node
    def forked(x: int) -> int:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return x

    @Node
    def fails_in_the_copy(x: int) -> int:
        child = os.fork()
        if not child:
            raise ValueError("in the copy")
        os.waitpid(child, 0)
        return x

    for i in range(3):
        result = run(Graph(*[forked(n) for n in range(5)], fails_in_the_copy(i)), executor="processes", workers=2)
        assert result.value == (0, 1, 2, 3, 4, i)
    with pytest.raises(ValueError, match="in every copy"):
        Node(_raises)().resolve(**PROCESSES)


def _raises() -> None:
    raise ValueError("in every copy")


def test_a_copy_that_lives_on_takes_no_task_from_its_worker(tmp_path: Path) -> None:
    @Node
    def leaves_a_copy(folder: str) -> int:
        os.mkfifo(Path(folder, "wait"))
        if not os.fork():
            Path(folder, "wait").read_text()
        return os.getpid()

    worker = leaves_a_copy(str(tmp_path)).resolve(**PROCESSES)
    try:
        assert [pid().resolve(**PROCESSES) for _ in range(20)] == [worker] * 20
    finally:
        (tmp_path / "wait").write_text("")


def test_a_task_whose_definition_never_came_costs_its_worker_and_no_run() -> None:
    add(1, 2).resolve(**PROCESSES)
    [hand] = pool(1)._supervisor._hands.values()
    lost = hand.member.pid
    step = Node(lambda x: x + 1, name="step")
    assert step(1).resolve(**PROCESSES) == 2
    known = pool(1)._supervisor._known[step]
    known.number += 1_000_000  # as if it had been sent
    hand.known.add(known.number)
    assert step(2).resolve(**PROCESSES) == 3
    assert pid().resolve(**PROCESSES) != lost


def test_a_node_may_have_processes_of_its_own() -> None:
    @Node
    def with_executor(x: int) -> int:
        with ProcessPoolExecutor(1) as executor:
            return executor.submit(pow, x, 2).result()

    @Node
    def with_pool(x: int) -> int:
        with multiprocessing.Pool(1) as found:
            return sum(found.map(abs, [-x, x]))

    assert add(with_executor(3), with_pool(4)).resolve(**PROCESSES) == 17


# Objects


@Node
class Tool:
    """Notes in a file when it is made, used and closed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.note("made")

    def __call__(self, x: int) -> int:
        self.note("used")
        return x + 1

    def close(self) -> None:
        self.note("closed")

    def note(self, what: str) -> None:
        with open(self.path, "a") as file:
            file.write(f"{what}\n")


class Stubborn(Tool.function):  # type: ignore[name-defined, misc]
    def close(self) -> None:
        super().close()
        raise ValueError("not now")


class Deadly(Tool.function):  # type: ignore[name-defined, misc]
    def close(self) -> None:
        super().close()
        os._exit(1)


def notes(path: Path) -> list[str]:
    return path.read_text().split()


def test_an_object_is_made_once_for_a_run_and_closed_when_resolve_returns(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    tool = Tool(str(path))
    assert add(tool(1), tool(2)).resolve(**PROCESSES) == 5
    assert notes(path) == ["made", "used", "used", "closed"]
    assert tool(3).resolve(**PROCESSES) == 4  # another run, another object
    assert notes(path)[4:] == ["made", "used", "closed"]


def test_an_object_in_a_container_is_closed_as_well(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert Node(lambda tools: tools[0]["tool"](1), name="use")([{"tool": Tool(str(path))}]).resolve(**PROCESSES) == 2
    assert notes(path) == ["made", "used", "closed"]


def test_an_object_is_closed_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    with pytest.raises(ZeroDivisionError):
        Node(lambda x: x // 0)(Tool(str(path))(1)).resolve(**PROCESSES)
    assert notes(path) == ["made", "used", "closed"]


def test_a_close_that_raises_is_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "notes"
    stubborn = Node(Stubborn)
    assert stubborn(str(path))(1).resolve(**PROCESSES) == 2
    assert notes(path) == ["made", "used", "closed"]
    assert "Stubborn could not be closed: ValueError: not now" in [str(warned.message) for warned in recwarn]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(Stubborn(str(path)))


def test_a_close_that_ends_its_worker_ends_no_run(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert Node(Deadly)(str(path))(1).resolve(**PROCESSES) == 2
    assert add(1, 2).resolve(**PROCESSES) == 3


def test_nobody_waits_for_a_worker_that_is_busy_with_another_run(tmp_path: Path) -> None:
    path, fifo = tmp_path / "notes", tmp_path / "fifo"
    os.mkfifo(fifo)
    held = Node(lambda path: Path(path).read_text(), name="held")

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(held(str(fifo)).resolve(**PROCESSES)))

    def is_held() -> bool:
        tasks = [task for hand in pool(1)._supervisor._hands.values() for task in list(hand.tasks.values())]
        return any(task.call.name == "held" for task in tasks)

    def begin(x: int) -> int:
        """Have another run busy the only worker, while this one is not over yet."""
        thread.start()
        while not is_held():
            pass
        return x

    assert Node(begin, name="begin", where="driver")(Tool(str(path))(1)).resolve(**PROCESSES) == 2
    assert notes(path) == ["made", "used"]
    fifo.write_text("done")
    thread.join()
    assert results == ["done"]
    assert add(1, 2).resolve(**PROCESSES) == 3
    assert notes(path) == ["made", "used", "closed"]


def test_in_a_given_pool_objects_close_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert Tool(str(path))(1).resolve(executor=executor) == 2
    assert notes(path) == ["made", "used", "closed"]


def test_in_a_simulation_objects_close_with_their_run(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert Tool(str(path))(1).resolve(executor=SimulatedExecutor(seed=1), workers=2) == 2
    assert notes(path) == ["made", "used", "closed"]


def test_recipes_of_two_programs_are_told_apart() -> None:
    source = """
        from tinygraph.executors.bodies import Recipe
        print(Recipe(int, (), {}).identity)
        """
    found = {run_script(source).stdout, run_script(source).stdout, f"{Recipe(int, (), {}).identity}\n"}
    assert len(found) == 3


# Nodes


def test_a_node_that_is_gone_is_forgotten_here_and_by_its_worker() -> None:
    payload = b"x" * 100_000

    class Marker:
        """Counts itself where it is."""

        def __init__(self) -> None:
            self.payload = payload

    def count() -> int:
        import gc as collector

        collector.collect()
        return sum(type(thing).__name__ == "Marker" for thing in collector.get_objects())

    def resolve_one() -> weakref.ref[Any]:
        marker = Marker()
        node = Node(lambda: len(marker.payload), name="marked")
        assert node().resolve(**PROCESSES) == 100_000
        return weakref.ref(marker)

    pool(1).shut_down()
    counting = Node(count)
    before = counting().resolve(**PROCESSES)
    gone = [resolve_one() for _ in range(5)]
    gc.collect()
    assert [one() for one in gone] == [None] * 5
    supervisor = pool(1)._supervisor
    assert not any(node.name == "marked" for node in supervisor._known)
    assert counting().resolve(**PROCESSES) == before
    [hand] = supervisor._hands.values()
    assert len(hand.known) <= len(supervisor._known)


def test_a_run_is_let_go_when_it_is_over() -> None:
    result = add(1, add(2, 3)).graph.run(**PROCESSES)
    engine = weakref.ref(result._engine)
    assert result.value == 6
    del result
    gc.collect()
    assert engine() is None


# What the machine may refuse


def test_a_ledger_goes_where_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("no folder at all")
    segments = Segments((str(tmp_path / "full"), str(tmp_path)))
    path, ledger = _new_ledger(segments, "ledger")
    assert path == str(tmp_path / "ledger")
    ledger.close()


def test_a_ledger_that_could_not_be_written_is_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wrote = tmp_path / "ledger", os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: wrote(fd, data[:5000]))  # as where there is little room
        Ledger.create(str(path)).close()
    assert path.stat().st_size == 1 << 16
    path.unlink()

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            Ledger.create(str(path))
    assert not path.exists()


LIMITED = """
    import os, resource
    from tinygraph import Node, WorkerLost, run

    def resolve(n=1, workers=2):
        try:
            return Node(sum)([Node(abs)(-i) for i in range(n)]).resolve(executor="processes", workers=workers)
        except WorkerLost as error:
            return str(error)

    def limited(what, soft, then):
        before = resource.getrlimit(what)
        resource.setrlimit(what, (soft, before[1]))
        try:
            return then()
        finally:
            resource.setrlimit(what, before)

    def files():
        return len(os.listdir("/proc/self/fd"))
    """


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_where_no_worker_can_be_started_runs_end_with_the_reason_and_nothing_is_left_open() -> None:
    done = run_script(
        LIMITED
        + """
    limited(resource.RLIMIT_NOFILE, files() + 12, resolve)  # whatever is opened once and for all
    before = files()
    for _ in range(5):
        print(limited(resource.RLIMIT_NOFILE, files() + 9, resolve))
    print(files() - before)
    print(resolve(3))
    """
    )
    assert done.stderr == ""
    *refused, left, value = done.stdout.splitlines()
    assert all(line.startswith("no worker process could be started: OSError") for line in refused), refused
    assert (left, value) == ("0", "3")


def test_where_no_file_can_be_written_runs_end_with_the_reason_and_the_pool_stays() -> None:
    done = run_script(
        LIMITED
        + """
    print(limited(resource.RLIMIT_FSIZE, 100, resolve))
    print(resolve(3))
    """
    )
    assert done.stderr == ""
    refused, value = done.stdout.splitlines()
    assert refused.startswith("no worker process could be started: OSError")
    assert value == "3"


def test_where_one_worker_can_be_started_it_does_the_work_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert add(1, 2).resolve(**PROCESSES) == 3
    launches = []

    def launch(self: Machine, number: int, workers: int) -> Any:
        launches.append(number)
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Machine, "launch", launch)
        graph = Graph(*[add(i, 1) for i in range(300)])
        assert graph.run(executor="processes", workers=2).value == tuple(range(1, 301))
    assert launches


# An error of ours


def test_a_defect_while_settling_ends_its_own_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygraph.engine import Engine

    settle = Engine.settle

    def defective(self: Engine, call: Any, *more: Any) -> None:
        if call.name == "cursed":
            self.in_hand -= 1
            raise RuntimeError("a defect")
        settle(self, call, *more)

    worker = pid().resolve(**PROCESSES)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "settle", defective)
        with pytest.raises(RuntimeError, match="a defect"):
            Node(abs, name="cursed")(-1).resolve(**PROCESSES)
    assert pid().resolve(**PROCESSES) == worker


# isolate and memory


def test_an_isolated_node_has_a_process_for_each_call() -> None:
    alone = Node(os.getpid, name="alone", isolate=True)
    shared = pid().resolve(executor="processes", workers=2)
    graph = Graph(*[alone() for _ in range(3)], *[pid() for _ in range(3)])
    *own, _, _, _ = found = graph.run(executor="processes", workers=2).value
    assert len(set(own)) == 3
    assert shared not in own
    assert not set(own) & set(found[3:])
    while any(Path(f"/proc/{one}").exists() for one in own):
        pass


def test_an_isolated_node_closes_its_objects(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    use = Node(lambda tool: tool(1), name="use", isolate=True)
    tool = Tool(str(path))
    assert add(use(tool), use(tool)).resolve(**PROCESSES) == 4
    assert notes(path) == ["made", "used", "closed"] * 2


def test_an_isolated_node_that_kills_its_worker_is_given_up() -> None:
    deadly = Node(lambda: os._exit(3), name="deadly", isolate=True)
    result = run(Graph(deadly(), add(1, 2)), executor="processes", workers=1, on_error="continue")
    [failure] = result.failures
    assert isinstance(failure.exception, WorkerLost)
    assert result.graph.targets[1].resolve() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_a_body_has_no_more_memory_than_its_node_allows() -> None:
    def allocate() -> int:
        return len(bytearray(500 << 20))

    small = Node(allocate, name="small", memory=100 << 20)
    large = Node(allocate, name="large")
    result = run(Graph(small(), add(1, 2)), on_error="continue", **PROCESSES)
    [failure] = result.failures
    assert isinstance(failure.exception, MemoryError)
    assert large().resolve(**PROCESSES) == 500 << 20
    assert Node(lambda: len(bytearray(1 << 20)), name="tiny", memory=100 << 20)().resolve(**PROCESSES) == 1 << 20
