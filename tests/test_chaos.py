"""Workers that are killed in all phases of their work: innocents run once, nothing is lost, wrong or stuck.

A few dozen kills here, ten thousand with `make chaos`. `tests.chaos` says what is killed and what is checked.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import chaos
from tinygraph import Graph, Node, WorkerLost, run

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(os.name != "posix", reason="signals"),
]


@pytest.mark.parametrize("phase", chaos.PHASES)
def test_a_kill_in_this_phase_costs_its_own_task_one_execution_at_most(phase: str) -> None:
    seed = chaos.PHASES.index(phase)
    figures = chaos.one_run(seed, kills=8, tasks=60, size=1 << 20, big=20 << 20, phases=(phase,))
    print(f"seed {seed}: {figures}")
    assert set(figures.kills) == {phase}


@pytest.mark.parametrize("seed", range(3))
def test_kills_in_all_phases_at_once_lose_nothing(seed: int) -> None:
    """One of the values is 200 MB."""
    figures = chaos.one_run(seed, kills=20, tasks=80, size=4 << 20, big=200 << 20)
    print(f"seed {seed}: {figures}")
    assert figures.kills.total() > 0


def test_a_worker_whose_child_lives_on_is_known_to_be_dead() -> None:
    """The child holds the other end of the pipe, so the pipe alone would not tell."""

    @Node
    def leaves_a_child() -> None:
        if os.fork() == 0:
            os.setpgid(0, 0)  # out of reach of whoever kills the worker's group
            signal.alarm(20)
            signal.pause()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost, match="died 3 times"):
        leaves_a_child().resolve(executor="processes", workers=1)


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_message_that_ends_in_the_middle_is_the_end_of_one_worker_only(size: int) -> None:
    """
    torn                        its worker dies in the middle of the message that has its result
    innocent x 20 ──► total

    What the ledger holds is not even lost.
    """
    innocent, total = Node(lambda x: x + 1, name="innocent"), Node(lambda *xs: sum(xs), name="total")
    graph = Graph(Node(torn)(size), total(*[innocent(i) for i in range(20)]))
    result = run(graph, executor="processes", workers=2, on_error="continue")
    assert graph.targets[1].resolve() == sum(range(1, 21))
    if size < 1000:
        assert graph.targets[0].resolve() == bytes(size)
    else:
        [failure] = result.failures
        assert isinstance(failure.exception, WorkerLost)


def torn(size: int) -> bytes:
    """What hangs the pools of others for ever: see test_peers_faults."""
    import multiprocessing.connection as connection

    def send(self: object, content: bytes) -> None:
        os.write(self._handle, memoryview(content)[: max(1, len(content) // 2)])
        os.kill(os.getpid(), signal.SIGKILL)

    connection.Connection._send = send
    return bytes(size)


def test_long_messages_both_ways_do_not_stop_each_other() -> None:
    """More than a pipe holds is on its way to a busy worker, while that has more to say than a pipe holds."""
    echo = Node(lambda x: x, name="echo")
    texts = [f"{i:04}" * 1000 for i in range(3000)]
    graph = Graph(*[echo(text) for text in texts])
    for _ in range(2):  # the second time its duration is known, so that many travel together
        graph = Graph(*[echo(text) for text in texts])
        assert run(graph, executor="processes", workers=2).value == tuple(texts)


def test_what_an_ended_run_left_running_does_not_keep_the_only_worker(tmp_path: Path) -> None:
    """It is of a kind that ends at once, so it is left alone at first: but not for ever."""
    begun = str(tmp_path / "begun")

    @Node
    def perhaps(path: str) -> int:
        if path:
            Path(path).touch()
            while True:
                pass
        return 1

    assert run(Graph(*[perhaps("") for _ in range(50)]), executor="processes", workers=1).value == (1,) * 50
    stuck = run(perhaps(begun), executor="processes", workers=1, block=False)
    while not Path(begun).exists():
        pass
    stuck.cancel()
    stuck.wait()
    assert perhaps("").resolve(executor="processes", workers=1) == 1
