"""What a machine and its processes do to a run: the rows of the table of hard cases that have no test elsewhere.

Three rows cannot be had here in full. X5: the kernel's own killer is not let loose in a test, so a worker dies of the
same signal. X13: who kills the parent with SIGKILL leaves what a node started in the background, as no kernel offers to
end a group with its founder's parent; ended with their worker they are. X20: values beyond 2 GiB are written in pieces,
which the tests of transfer show with smaller ones.
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

import pytest

from tinygraph import Graph, Node, NodeTimeout, WorkerLost, run

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]

TWO: dict[str, Any] = {"executor": "processes", "workers": 2}

held = threading.Lock()


def run_script(source: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", textwrap.dedent(source)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_X4_a_task_that_kills_its_neighbour_is_not_taken_for_the_victim(tmp_path: Path) -> None:
    @Node
    def victim(folder: str) -> str:
        with Path(folder, "victim").open("a") as file:
            file.write(f"{os.getpid()}\n")
        while not Path(folder, "shot").exists():
            pass
        return "survived"

    @Node
    def shooter(folder: str) -> str:
        with Path(folder, "shooter").open("a") as file:
            file.write(f"{os.getpid()}\n")
        while not (Path(folder, "victim").exists() and Path(folder, "victim").read_text().endswith("\n")):
            pass
        os.kill(int(Path(folder, "victim").read_text()), signal.SIGKILL)
        Path(folder, "shot").touch()
        return "shot"

    folder = str(tmp_path)
    assert Graph(victim(folder), shooter(folder)).run(**TWO).value == ("survived", "shot")
    assert len((tmp_path / "victim").read_text().split()) == 2
    assert len((tmp_path / "shooter").read_text().split()) == 1


def test_X5_a_worker_that_may_have_run_out_of_memory_is_said_to() -> None:
    greedy = Node(lambda: (bytearray(50 << 20), os.kill(os.getpid(), signal.SIGKILL)), name="greedy")
    with pytest.raises(WorkerLost, match=r"3 times \(signal SIGKILL; it had used up to .* [MG]B: perhaps .* memory\)"):
        greedy().resolve(**TWO)


def test_X5_a_memory_error_is_an_error_of_the_node() -> None:
    with pytest.raises(MemoryError):
        Node(lambda: bytearray(1 << 60), name="greedy")().resolve(**TWO)


def test_X13_what_a_node_started_ends_with_its_worker(tmp_path: Path) -> None:
    @Node(timeout=1.0)
    def starts(folder: str) -> None:
        child = subprocess.Popen(["sleep", "1000"])
        Path(folder, "child").write_text(str(child.pid))
        child.wait()

    with pytest.raises(NodeTimeout):
        starts(str(tmp_path)).resolve(**TWO)
    child = Path("/proc", (tmp_path / "child").read_text())
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        pass


def take_lock() -> bool:
    from tests import test_hard_cases_x

    return test_hard_cases_x.held.acquire(blocking=False)


def test_X16_a_worker_is_no_copy_of_a_parent_whose_locks_are_held() -> None:
    with held:
        assert Node(take_lock)().resolve(**TWO) is True


SIZES = (0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (64 << 20) + 1)


@pytest.mark.parametrize("size", SIZES)
def test_X20_a_value_of_any_size_arrives_as_it_was(size: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    same = Node(lambda content: content, name="same")
    assert same(same(content)).resolve(**TWO) == content


def test_X24_a_worker_that_is_stopped_is_not_taken_for_dead(tmp_path: Path) -> None:
    @Node
    def stops(folder: str) -> str:
        with Path(folder, "stopped").open("a") as file:
            file.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGSTOP)
        return "went on"

    stopped = stops(str(tmp_path))
    others = [Node(abs)(-i) for i in range(50)]
    result = run(Graph(stopped, *others), block=False, **TWO)
    while any(other.state != "finished" for other in others):
        pass
    while not (tmp_path / "stopped").exists() or not (tmp_path / "stopped").read_text().endswith("\n"):
        pass
    worker = int((tmp_path / "stopped").read_text())
    while "\nState:\tT" not in Path(f"/proc/{worker}/status").read_text():
        pass
    assert stopped.state == "running"
    os.kill(worker, signal.SIGCONT)
    assert result.value == ("went on", *range(50))
    assert len((tmp_path / "stopped").read_text().split()) == 1


def test_X25_few_file_numbers_are_enough() -> None:
    done = run_script(
        """
        import resource
        from tinygraph import Graph, Node
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        calls = [Node(abs)(-i) for i in range(100)]
        print(Graph(*calls).run(executor="processes", workers=32).value == tuple(range(100)))
        """
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_X25_no_room_in_shared_memory_nor_among_temporary_files() -> None:
    done = run_script(
        """
        import resource
        from tinygraph import Node, WorkerLost
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            Node(abs)(-1).resolve(executor="processes", workers=2)
        except WorkerLost as error:
            print(error)
        """
    )
    assert done.stdout.startswith("no worker process could be started: OSError")
    assert done.stderr == ""


def test_X26_a_program_ends_without_noise_whatever_is_left() -> None:
    done = run_script(
        """
        import atexit, threading, time
        from tinygraph import Node

        unresolved = Node(abs)(-1)
        print(Node(abs)(-2).resolve(executor="processes", workers=2))
        going_on = Node(lambda: time.sleep(1e6), name="for ever")
        resolving = lambda: going_on().resolve(executor="processes", workers=2)
        threading.Thread(target=resolving, daemon=True).start()
        threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
        atexit.register(lambda: print("exit"))
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("2\nexit\n", "", 0)
