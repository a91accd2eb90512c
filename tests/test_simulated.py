"""The supervisor and the engine under simulated faults: never stuck, nothing lost, nothing wrong, nothing run in vain.

Ten thousand cases here, a million with `make simulate`. `tests.simulate` has the cases and the oracle.
"""

from __future__ import annotations

import pytest

from tests import simulate
from tinygraph import CancelledError, Graph, Node, NodeTimeout, OptionError, WorkerLost, run
from tinygraph.testing import PHASES, Faults, SimulatedError, SimulatedExecutor, SimulationStuck, _Member

pytestmark = pytest.mark.timeout(60)

CASES, BATCH = 10_000, 500


@pytest.mark.parametrize("first", range(0, CASES, BATCH))
def test_random_graphs_with_random_faults_give_what_plain_python_gives(first: int) -> None:
    figures = simulate.try_cases(range(first, first + BATCH))
    print(figures)
    assert figures.cases == BATCH
    assert figures.deaths > 0
    assert figures.extra > 0
    assert figures.kills > 0


@pytest.mark.parametrize("number", range(0, CASES, 100))
def test_equal_seeds_give_equal_traces(number: int) -> None:
    _, _, _, executor = simulate.play(number)
    once, trace = list(simulate.executed), [(step, step.args[:1]) for step in executor.trace]
    _, _, _, executor = simulate.play(number)
    assert (simulate.executed, [(step, step.args[:1]) for step in executor.trace]) == (once, trace)


def square(x: int) -> int:
    return x * x


QUICK = Node(square, name="quick", cost=1e-5)
SLOW = Node(square, name="slow", cost=100.0)
TIMED = Node(square, name="timed", cost=1.0, timeout=2.0)


def sums_of_squares(executor: SimulatedExecutor, node: Node = QUICK, count: int = 100) -> None:
    graph = Graph(*[node(n) for n in range(count)])
    assert run(graph, executor=executor).value == tuple([n * n for n in range(count)])


def test_without_faults_every_body_runs_once() -> None:
    executor = SimulatedExecutor(workers=4)
    sums_of_squares(executor)
    assert executor.executions == {"quick": 100}
    assert (executor.deaths, executor.kills, executor.extra_executions) == (0, 0, 0)


@pytest.mark.parametrize("phase", ["noted", "sending"])
def test_an_outcome_that_the_ledger_cannot_hold_is_lost_with_its_worker(phase: str) -> None:
    executor = SimulatedExecutor(3, Faults(death=0.1, full=1, phases=(phase,)))
    sums_of_squares(executor)
    assert executor.executions == {"quick": 100 + executor.deaths}
    assert executor.deaths > 0


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(20))
def test_a_death_costs_at_most_the_execution_that_it_interrupts(phase: str, seed: int) -> None:
    """Only a worker that dies while it computes takes anything with it."""
    executor = SimulatedExecutor(seed, Faults(death=0.1, phases=(phase,)))
    graph = Graph(*[QUICK(n) for n in range(100)])
    lost = run(graph, executor=executor, on_error="continue").failures
    assert executor.executions["quick"] == 100 - len(lost) + executor.extra_executions
    assert {type(failure.exception) for failure in lost} <= {WorkerLost}
    assert executor.deaths > 0
    assert executor.extra_executions == (executor.deaths if phase == "computing" else 0)


def test_a_worker_that_dies_idle_or_as_it_starts_costs_nothing() -> None:
    deaths = 0
    for seed in range(20):
        executor = SimulatedExecutor(seed, Faults(death_at_start=0.3, death_when_idle=0.3))
        for _ in range(20):
            sums_of_squares(executor, count=5)
        assert executor.executions == {"quick": 100}
        deaths += executor.deaths
    assert deaths > 20


def test_a_task_that_always_kills_its_worker_is_given_up_after_three_times() -> None:
    executor = SimulatedExecutor(faults=Faults(death=1, phases=("computing",)))
    with pytest.raises(WorkerLost, match="'quick' died 3 times"):
        QUICK(3).resolve(executor=executor)
    assert executor.executions == {"quick": 3}


def test_workers_that_never_start_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation, a limit on processes: better an error than workers started for ever."""
    monkeypatch.setattr("tinygraph.testing.STILLBORN", 10**9)
    executor = SimulatedExecutor(faults=Faults(death_at_start=1))
    with pytest.raises(WorkerLost, match="before they could begin a task"):
        QUICK(3).resolve(executor=executor)
    assert executor.executions == {}


@pytest.mark.parametrize("seed", range(20))
def test_a_late_task_is_killed_alone(seed: int) -> None:
    """Whatever was sent to the same worker has not begun, and runs once."""
    executor = SimulatedExecutor(seed, Faults(slow=0.3, late=0.3))
    graph = Graph(*[node(n) for n in range(50) for node in (TIMED, QUICK)])
    result = run(graph, executor=executor, on_error="continue")
    assert {type(failure.exception) for failure in result.failures} == {NodeTimeout}
    assert {failure.future.name for failure in result.failures} == {"timed"}
    assert executor.executions == {"timed": 50, "quick": 50}
    assert executor.kills == len(result.failures)


def test_a_late_task_is_killed_while_the_others_never_fall_silent() -> None:
    """The clock is looked at although there is always news: the timeout is over long before the last report."""
    executor = SimulatedExecutor(2, Faults(slow=1))
    many = [Node(square, name="busy", cost=0.1)(n) for n in range(200)]
    result = run(Graph(TIMED.options(priority=1)(1), *many), executor=executor, on_error="continue")
    assert [failure.future.name for failure in result.failures] == ["timed"]
    [killed] = [step for step in executor.trace if step.what == "killed"]
    [began] = [step for step in executor.trace if step.what == "started" and step.name == "timed"]
    assert killed.at - began.at == pytest.approx(2.0, abs=0.01)


def test_what_a_cancelled_run_left_behind_does_not_keep_a_worker() -> None:
    """It was expected to end at once, so it was left alone: but only for so long."""
    executor = SimulatedExecutor(workers=1)
    sums_of_squares(executor)  # learns that it is quick
    stuck = QUICK.options(cost=1e9)
    stuck.expected = 1e-5
    with pytest.raises(NodeTimeout):
        stuck(3).resolve(executor=executor, timeout=1.0)
    sums_of_squares(executor, count=3)
    assert executor.kills == 1


def test_a_run_that_is_over_leaves_no_worker_busy() -> None:
    executor = SimulatedExecutor(faults=Faults(cancel=1))
    with pytest.raises(CancelledError):
        run(Graph(*[SLOW(n) for n in range(10)]), executor=executor).value
    assert executor.executions == {"slow": 2}
    assert executor.kills == 2
    sums_of_squares(SimulatedExecutor())


def test_an_innocent_runs_once_although_what_was_before_it_was_cancelled_as_it_ended() -> None:
    """The worker had noted the outcome of a cancelled task, and was at the next, which reports both."""
    simulate.try_case(53524)


def withdrawals(patched: pytest.MonkeyPatch) -> list[int]:
    """Count how often a worker is told to begin no more."""
    found: list[int] = []
    withdraw = _Member.withdraw
    patched.setattr(_Member, "withdraw", lambda self, *args: found.append(self.number) or withdraw(self, *args))
    return found


def lasting(patched: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
    """Have calls with these arguments last so long, whatever their node is known for."""
    run_body = _Member._run

    def run_for(self: _Member, task: int, index: int, args: tuple[int]) -> tuple[bytes, float]:
        outcome, usual = run_body(self, task, index, args)
        return outcome, seconds.get(args[0], usual)

    patched.setattr(_Member, "_run", run_for)


@pytest.mark.parametrize("workers", [2, 4])
def test_slow_calls_side_by_side_do_not_wait_for_each_other(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of a kind that is known to be quick, so they travel together."""
    found = withdrawals(monkeypatch)
    lasting(monkeypatch, dict.fromkeys(range(1000, 1004), 3.0))
    executor = SimulatedExecutor(workers=workers)
    sums_of_squares(executor, count=200)
    sums_of_squares(executor, count=2000)
    assert executor.executions == {"quick": 2200}
    assert executor.makespan < 12.0 / workers + 1.0
    assert found


@pytest.mark.parametrize("seed", range(20))
def test_what_is_withdrawn_runs_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = withdrawals(monkeypatch)
    executor = SimulatedExecutor(seed, Faults(slow=0.1, late=0.1), workers=4)
    for _ in range(3):
        sums_of_squares(executor, count=200)
    assert executor.executions == {"quick": 600}
    assert executor.deaths == executor.kills == 0
    assert found


@pytest.mark.parametrize("seed", range(20))
def test_a_task_that_its_worker_begins_as_it_is_withdrawn_is_given_back(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker says that it begins it, sees that it may not, and says so; the supervisor has seen that it began."""
    conflicts = []

    def withdraw(self: _Member, after: int, until: int) -> int:
        self._withdrawn = range(after + 1, until + 1)
        if self._chunk and self._task == after:
            conflicts.append(self._chunk[0][0])
            return self._chunk[0][0]
        return self._task

    monkeypatch.setattr(_Member, "withdraw", withdraw)
    executor = SimulatedExecutor(seed, Faults(slow=0.1, late=0.1), workers=4)
    for _ in range(3):
        sums_of_squares(executor, count=200)
    assert executor.executions == {"quick": 600}
    assert conflicts


def test_idle_workers_are_let_go() -> None:
    executor = SimulatedExecutor(workers=3)
    sums_of_squares(executor, node=SLOW, count=3)
    supervisor = executor._supervisor
    assert len(supervisor._hands) == 3
    supervisor.step()
    assert len(supervisor._hands) == 0


def test_the_critical_path_goes_first_here_as_well() -> None:
    """
    short ─────────────┐
    long ──► long ─────┴──► end
    """
    first, short, end = (Node(lambda *xs: 0, name=name, cost=cost) for name, cost in (("a", 2), ("b", 1), ("c", 1)))
    executor = SimulatedExecutor(workers=1)
    end(short(), first(first())).resolve(executor=executor)
    assert executor.order == ["a", "a", "b", "c"]


def test_bodies_that_are_said_to_raise_are_retried_as_others_are() -> None:
    executor = SimulatedExecutor(faults=Faults(error=1))
    with pytest.raises(SimulatedError):
        QUICK.options(retries=4)(3).resolve(executor=executor)
    assert executor.executions == {"quick": 5}


def test_async_bodies_run_beside_the_simulation() -> None:
    async def wait(x: int) -> int:
        return x + 1

    assert QUICK(Node(wait)(QUICK(2))).resolve(executor=SimulatedExecutor()) == 25


@pytest.mark.parametrize(
    "wrong", [{"death": 2}, {"slow": -0.1}, {"error": True}, {"phases": ("lunch",)}, {"phases": ()}]
)
def test_faults_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        Faults(**wrong)


def test_a_run_that_can_never_end_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net under all of this: a supervisor that forgets a task is found out."""
    from tinygraph.executors.supervisor import Supervisor

    monkeypatch.setattr(Supervisor, "_take_report", lambda *args: None)
    with pytest.raises(SimulationStuck):
        QUICK(3).resolve(executor=SimulatedExecutor())
