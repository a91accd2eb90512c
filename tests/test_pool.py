"""The pool of worker processes: what it keeps and for how long, what a node may do to it, and what the machine may."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tinygraph import CancelledError, Graph, NestedResolveError, Node, NodeTimeout, PayloadError, WorkerLost, run
from tinygraph.engine import Engine
from tinygraph.executors.bodies import Recipe, close
from tinygraph.executors.catalogue import Catalogue
from tinygraph.executors.ledger import Ledger
from tinygraph.executors.machine import Machine, Member, _new_ledger
from tinygraph.executors.pool import pool
from tinygraph.executors.relay import Relay
from tinygraph.executors.segments import Segments
from tinygraph.executors.supervisor import Supervisor
from tinygraph.testing import SimulatedExecutor

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]

PROCESSES: dict[str, Any] = {"executor": "processes", "workers": 1}

add = Node(lambda *xs: sum(xs), name="add")
pid = Node(os.getpid, name="pid")


def run_script(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    program = [sys.executable, *options, "-c", textwrap.dedent(source)]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=50)


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
    version = pool(1)._supervisor._catalogue.known(step).version
    version.number += 1_000_000  # as if it had been sent
    hand.known.add(version.number)
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
    assert not any(node.name == "marked" for node in supervisor._catalogue)
    assert counting().resolve(**PROCESSES) == before
    [hand] = supervisor._hands.values()
    assert len(hand.known) <= len(list(supervisor._catalogue))


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


# The program around the pool


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_a_program_without_standard_streams_has_workers(closed: str, tmp_path: Path) -> None:
    source = f"""
        from pathlib import Path
        from tinygraph import Node
        done = Node(abs)(-3).resolve(executor="processes", workers=2, timeout=20)
        Path({str(tmp_path)!r}, "done").write_text(str(done))
        """
    program = f'exec "$0" -c "$1" {closed}'
    subprocess.run(["sh", "-c", program, sys.executable, textwrap.dedent(source)], check=True, timeout=50)
    assert (tmp_path / "done").read_text() == "3"


def test_a_program_whose_folder_was_removed_has_workers(tmp_path: Path) -> None:
    done = run_script(
        f"""
        import os
        from tinygraph import Node
        os.mkdir({str(tmp_path / "gone")!r})
        os.chdir({str(tmp_path / "gone")!r})
        os.rmdir({str(tmp_path / "gone")!r})
        print(Node(abs)(-3).resolve(executor="processes", workers=2))
        """
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_a_forked_child_that_ends_leaves_the_workers_of_its_parent_alone() -> None:
    done = run_script(
        """
        import multiprocessing, os, sys
        from tinygraph import Node
        pid = Node(os.getpid)
        before = pid().resolve(executor="processes", workers=1)
        print(multiprocessing.active_children())
        child = os.fork()
        if not child:
            sys.exit()
        os.waitpid(child, 0)
        print(pid().resolve(executor="processes", workers=1) == before)
        """
    )
    assert (done.stdout, done.stderr) == ("[]\nTrue\n", "")


def left(number: str) -> list[str]:
    """The folders of a process."""
    roots = Path("/dev/shm"), Path(tempfile.gettempdir())
    return [path.name for root in roots for path in root.glob(f"tinygraph-*-{number}-*")]


@pytest.mark.parametrize("late", [True, False])
def test_what_resolves_when_the_program_ends_leaves_nothing(late: bool) -> None:
    """A handler that was registered before everything else runs when the pool was shut down."""
    done = run_script(
        f"""
        import atexit, os

        def resolve():
            from tinygraph import Node
            large = Node(lambda size: bytes(size), name="large")
            print(len(large(3 << 20).resolve(executor="processes", workers=1)))

        print(os.getpid())
        if {not late}:
            import multiprocessing.util
        atexit.register(resolve)
        atexit.register(resolve)
        resolve()
        """
    )
    assert done.stderr == ""
    number, *sizes = done.stdout.split()
    assert sizes == ["3145728"] * 3
    assert left(number) == []


def test_a_forked_child_of_multiprocessing_leaves_nothing() -> None:
    done = run_script(
        """
        import multiprocessing, os
        from tinygraph import Node

        def work():
            print(Node(abs)(-3).resolve(executor="processes", workers=1), os.getpid(), flush=True)

        work()
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        """
    )
    assert done.stderr == ""
    (one, _), (other, number) = map(str.split, done.stdout.splitlines())
    assert one == other == "3"
    assert left(number) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_are_deaf_to_the_terminal_from_their_first_moment() -> None:
    """Ctrl-C finds them before they have a group of their own."""
    done = run_script(
        """
        import signal
        from loky.backend import fork_exec
        from tinygraph import Node

        def is_blocked(pid):
            [mask] = [line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("SigBlk")]
            return bool(int(mask, 16) >> signal.SIGINT - 1 & 1)

        start = fork_exec.fork_exec

        def started(*args, **kwargs):
            pid = start(*args, **kwargs)
            print(is_blocked(pid))
            return pid

        fork_exec.fork_exec = started
        later = Node(lambda: (is_blocked("self"), signal.getsignal(signal.SIGINT) is signal.SIG_IGN))
        print(later().resolve(executor="processes", workers=1), is_blocked("self"))
        """
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True", "(False, True) False"]


# The thread that serves all runs, in the hands of a user's class


class Holding:
    """Has whoever pickles it wait, or unpickles it in the process that it is for, until it is let go."""

    def __init__(self, process: int = 0) -> None:
        self.process = process

    def __reduce__(self) -> Any:
        if self.process:
            return _hold, (self.process,)
        held(self)
        return int, ()


def held(holding: Holding | None) -> None:
    Holding.began.set()
    assert Holding.ended.wait(50)


def _hold(process: int) -> None:
    if os.getpid() == process:
        held(None)


@pytest.fixture
def holding() -> Iterator[type[Holding]]:
    Holding.began, Holding.ended = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    yield Holding
    Holding.ended.set()  # type: ignore[attr-defined]


held_up: dict[str, Any] = {
    "argument": lambda: Node(list, name="culprit")([Holding()]),
    "result": lambda: Node(lambda process: Holding(process), name="culprit")(os.getpid()),
}


@pytest.mark.parametrize("what", held_up)
def test_a_run_is_cancelled_although_its_class_holds_up_the_pool(what: str, holding: Any) -> None:
    """The others on that pool are told why they end, and those to come have another."""
    before, worker = pool(2), pid().resolve(executor="processes", workers=2)
    other = run(Node(forever, name="other")(), executor="processes", workers=2, block=False)
    while not any(hand.tasks for hand in list(before._supervisor._hands.values())):
        pass
    culprit = run(held_up[what](), executor="processes", workers=2, block=False)
    assert holding.began.wait(50)
    culprit.cancel()
    with pytest.raises(CancelledError):
        _ = culprit.value
    with pytest.raises(WorkerLost, match="held up by 'culprit' of another run"):
        _ = other.value
    assert add(1, 2).resolve(**PROCESSES) == 3
    assert pool(1) is not before
    holding.ended.set()
    before._thread.join()
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize("what", held_up)
def test_the_timeout_of_a_run_counts_although_its_class_holds_up_the_pool(what: str, holding: Any) -> None:
    pid().resolve(**PROCESSES)
    with pytest.raises(NodeTimeout):
        held_up[what]().resolve(timeout=0.2, **PROCESSES)
    assert add(1, 2).resolve(**PROCESSES) == 3


def test_ctrl_c_ends_a_run_although_its_class_holds_up_the_pool(holding: Any) -> None:
    def strike() -> None:
        assert holding.began.wait(50)
        os.kill(os.getpid(), signal.SIGINT)

    pid().resolve(**PROCESSES)
    striking = threading.Thread(target=strike)
    striking.start()
    with pytest.raises(KeyboardInterrupt):
        held_up["argument"]().resolve(**PROCESSES)
    striking.join()
    assert add(1, 2).resolve(**PROCESSES) == 3


def test_a_run_whose_class_holds_up_the_pool_for_a_while_ends_no_other(holding: Any) -> None:
    """
    other        (is cancelled while the pool is held up by culprit, and does not wait for it)
    culprit
    """
    before = pool(2)
    other = run(Node(forever, name="other")(), executor="processes", workers=2, block=False)
    while not any(hand.tasks for hand in list(before._supervisor._hands.values())):
        pass
    culprit = run(held_up["argument"](), executor="processes", workers=2, block=False)
    assert holding.began.wait(50)
    other.cancel()
    with pytest.raises(CancelledError):
        _ = other.value
    holding.ended.set()
    assert culprit.value == [0]
    assert pool(2) is before


def test_a_value_of_a_pool_that_was_given_up_is_still_there(holding: Any) -> None:
    made = Node(lambda: b"x" * (2 << 20))()
    made.graph.run(**PROCESSES).wait()
    with pytest.raises(NodeTimeout):
        held_up["argument"]().resolve(timeout=0.2, **PROCESSES)
    assert Node(len)(made).resolve(**PROCESSES) == 2 << 20
    assert made.resolve() == b"x" * (2 << 20)


class Asking:
    """Wants a run on worker processes to be pickled."""

    def __reduce__(self) -> Any:
        return int, (add(1, 2).resolve(**PROCESSES),)


def test_a_class_that_resolves_when_it_is_pickled_for_a_worker_is_refused() -> None:
    before = pool(1)
    with pytest.raises(PayloadError, match="itself waits for"):
        Node(list, name="culprit")([Asking()]).resolve(**PROCESSES)
    assert add(1, 2).resolve(**PROCESSES) == 3
    assert pool(1) is before


def test_progress_that_resolves_is_refused_where_the_pool_would_wait_for_it() -> None:
    """
    leaf ──► end       (the first is told of in the pool's thread, the second in that of the run, with its books open)
    """
    refused: set[str] = set()

    def ask(event: Any) -> None:
        try:
            add(1, 2).resolve(**PROCESSES)
        except NestedResolveError:
            refused.add(threading.current_thread().name)

    end = Node(lambda x: x + 1, name="end", where="driver")
    assert end(add(1, 2)).resolve(progress=ask, **PROCESSES) == 4
    assert refused == {"tinygraph-supervisor", threading.current_thread().name}


# Errors of ours, and of the user's classes: none ends the thread that serves all runs


def ends() -> None:
    os._exit(1)


def fails() -> None:
    raise ValueError("as planned")


def forever() -> None:
    while True:
        pass


def calls() -> Any:
    return add(1, 2)


class Sour:
    """Does not want to be pickled."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error("sour")

    def __repr__(self) -> str:
        raise self.error("no text either")

    def __eq__(self, other: object) -> bool:
        raise self.error("nor a comparison")

    __hash__ = None  # type: ignore[assignment]


class Spoilt:
    """Cannot be unpickled where it arrives; on a worker nobody asks."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _spoil, (self.error,)


def _spoil(error: type[BaseException]) -> None:
    raise error("spoilt")


def spoilt(error: type[BaseException]) -> Spoilt:
    return Spoilt(error)


DEFECTS: dict[str, tuple[str, Any]] = {
    "settle": ("settle", lambda cursed: cursed(abs)(-1)),
    "settle a parcel": ("settle", lambda cursed: cursed(list)([1])),
    "raised in a body": ("raised", lambda cursed: cursed(fails)()),
    "raised while sending": ("raised", lambda cursed: cursed(list)([Sour(ValueError)])),
    "adopt": ("adopt", lambda cursed: cursed(calls, where="process")()),
    "gave up": ("gave_up", lambda cursed: cursed(ends)()),
    "gave up what is late": ("gave_up", lambda cursed: cursed(forever, timeout=0.05)()),
}


def defective(patched: pytest.MonkeyPatch, name: str) -> None:
    """Have a method of engines fail for every call that is named so."""
    method = getattr(Engine, name)

    def fail(self: Engine, call: Any, *more: Any) -> Any:
        if getattr(call, "name", "") == "cursed":
            raise RuntimeError("a defect")
        return method(self, call, *more)

    patched.setattr(Engine, name, fail)


@pytest.mark.parametrize("what", DEFECTS)
def test_a_defect_while_an_engine_is_told_something_ends_its_own_run_only(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, call = DEFECTS[what]
    before = pool(1)
    with monkeypatch.context() as patched:
        defective(patched, method)
        with pytest.raises(RuntimeError, match="a defect"):
            call(lambda function, **options: Node(function, name="cursed", **options)).resolve(**PROCESSES)
    assert add(1, 2).resolve(**PROCESSES) == 3
    assert pool(1) is before


def test_a_defect_while_a_call_is_given_back_ends_its_own_run_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls travel together, the first ends its worker, and the second has not begun."""
    path, before = tmp_path / "done", pool(1)

    def may_end(ends: bool) -> None:
        if ends and not path.exists():
            path.touch()
            os._exit(1)

    cursed = Node(may_end, name="cursed")
    cursed(False).resolve(**PROCESSES)  # so that it is known to be quick
    with monkeypatch.context() as patched:
        # The two travel together however long a busy machine took over the call before them.
        patched.setattr("tinygraph.executors.supervisor.CHUNK", 60.0)
        defective(patched, "give_back")
        with pytest.raises(RuntimeError, match="a defect"):
            _ = Graph(cursed(True), *[cursed(False) for _ in range(40)]).run(**PROCESSES).value
    assert add(1, 2).resolve(**PROCESSES) == 3
    assert pool(1) is before


def test_a_defect_while_a_call_is_taken_ends_its_own_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    take, before = Engine.take, pool(1)

    def fail(self: Engine, lane: Any) -> Any:
        if lane is self.lanes["process"] and any(call.name == "cursed" for call in self.calls):
            raise RuntimeError("a defect")
        return take(self, lane)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "take", fail)
        with pytest.raises(RuntimeError, match="a defect"):
            Node(abs, name="cursed")(-1).resolve(**PROCESSES)
        assert add(1, 2).resolve(**PROCESSES) == 3
    assert pool(1) is before


def test_an_engine_that_cannot_even_be_stopped_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pool(1)
    with monkeypatch.context() as patched:
        defective(patched, "settle")
        patched.setattr(Engine, "_end", lambda self: 1 / 0)
        result = run(Node(abs, name="cursed")(-1), block=False, **PROCESSES)
        while result._engine is None or not result._engine.over.is_set():
            pass
        assert isinstance(result._engine.error, ZeroDivisionError | RuntimeError)
    assert pool(1) is before
    assert add(1, 2).resolve(**PROCESSES) == 3


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_class_that_fails_when_it_is_pickled_fails_its_own_call(error: type[BaseException]) -> None:
    before, worker = pool(1), pid().resolve(**PROCESSES)
    graph = Graph(Node(list, name="cursed")([Sour(error)]), add(1, 2))
    result = run(graph, on_error="continue", **PROCESSES)
    [failure] = result.failures
    assert failure.future.name == "cursed"
    assert graph.targets[1].resolve() == 3
    assert pid().resolve(**PROCESSES) == worker
    assert pool(1) is before


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_class_that_fails_when_it_is_unpickled_here_fails_its_own_call(error: type[BaseException]) -> None:
    before, worker = pool(1), pid().resolve(**PROCESSES)
    graph = Graph(Node(spoilt, name="cursed")(error), add(1, 2))
    result = run(graph, on_error="continue", **PROCESSES)
    [failure] = result.failures
    assert isinstance(failure.exception, PayloadError)
    assert graph.targets[1].resolve() == 3
    assert pid().resolve(**PROCESSES) == worker
    assert pool(1) is before


def test_a_defect_between_a_report_and_its_engine_ends_its_own_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    before, worker = pool(1), pid().resolve(**PROCESSES)
    with monkeypatch.context() as patched:
        patched.setattr(Supervisor, "_let_go", lambda self, task: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Node(list)([1]).resolve(**PROCESSES)
    assert pid().resolve(**PROCESSES) == worker
    assert pool(1) is before


def test_a_defect_while_a_worker_is_told_something_costs_the_run_and_that_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, worker = pool(1), pid().resolve(**PROCESSES)
    with monkeypatch.context() as patched:
        patched.setattr(Member, "send", lambda self, message: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(1, 2).resolve(**PROCESSES)
    assert pid().resolve(**PROCESSES) != worker
    assert pool(1) is before


def test_a_defect_while_a_worker_is_heard_costs_that_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    before, worker = pool(1), pid().resolve(**PROCESSES)
    heard = Relay.hear
    failing = [worker]

    def hear(self: Relay, hand: Any) -> None:
        if hand.member.pid in failing:
            failing.clear()
            raise RuntimeError("a defect")
        heard(self, hand)

    with monkeypatch.context() as patched:
        patched.setattr(Relay, "hear", hear)
        assert add(1, 2).resolve(**PROCESSES) == 3
    assert pid().resolve(**PROCESSES) != worker
    assert pool(1) is before


def test_a_report_that_cannot_be_read_costs_its_worker() -> None:
    """A node wrote into the pipe."""
    before, worker = pool(1), pid().resolve(**PROCESSES)
    [hand] = [hand for hand in before._supervisor._hands.values() if hand.member.pid == worker]
    receive = hand.member.receive
    garbled = [[b"no outcome at all"]]
    hand.member.receive = lambda: garbled.pop() if garbled else receive()  # type: ignore[method-assign]
    assert add(1, 2).resolve(**PROCESSES) == 3
    assert pid().resolve(**PROCESSES) != worker
    assert pool(1) is before


# Nodes in several runs at once


class Weight:
    """Counts how often it leaves, and notes in a file how often it arrives."""

    leaves = 0

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        Weight.leaves += 1
        return _arrived, (self.path,)


def _arrived(path: str) -> Weight:
    with open(path, "a") as file:
        file.write("arrived\n")
    return Weight(path)


def test_a_node_crosses_once_however_runs_take_turns(tmp_path: Path) -> None:
    """
    step ──► step ──► ... ──► step      (three at a time: on one worker they take turns)
    """
    weight = Weight(str(tmp_path / "notes"))

    def heavy(x: int) -> int:
        return x + 1 if weight else 0

    step = Node(heavy, name="step")
    Weight.leaves = 0
    meeting = threading.Barrier(3)
    answers: list[int] = []

    def resolve() -> None:
        future = Node(lambda x: meeting.wait() * 0 + x, where="driver")(0)
        for _ in range(30):
            future = step(future)
        answers.append(future.resolve(**PROCESSES))

    threads = [threading.Thread(target=resolve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [30] * 3
    assert Weight.leaves == 3  # once for each run, which takes it as it is then
    assert notes(tmp_path / "notes") == ["arrived"]


def test_each_run_has_a_node_as_it_was_and_no_version_stays_too_long() -> None:
    catalogue, numbers = Catalogue(itertools.count(1)), []
    state = {"version": 0}
    node = Node(lambda: state["version"], name="changing")
    known = catalogue.known(node)
    for number in range(1, 6):
        catalogue.open(number)
        state["version"] = number // 2  # it changes between some
        numbers.append(catalogue.version(node, known, number).number)
    assert numbers == [1, 2, 2, 3, 3]
    for _ in range(3):
        assert [catalogue.version(node, known, number).number for number in range(1, 6)] == numbers
    assert list(catalogue.gone()) == []
    for number in range(1, 5):
        catalogue.close(number)
    assert list(catalogue.gone()) == [1, 2]
    catalogue.close(5)
    assert list(catalogue.gone()) == []
    catalogue.open(6)
    assert catalogue.version(node, known, 6).number == 3  # as it was: it need not cross again
    catalogue.close(6)
    del node, known
    gc.collect()
    assert list(catalogue.gone()) == [3]
    assert list(catalogue) == []


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
