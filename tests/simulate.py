"""Random nested graphs times random faults, each compared with plain Python: `python -m tests.simulate 1000000`.

A case is a number: it decides the graph, the faults and when they strike. A case that fails prints its number, and
`python -m tests.simulate --case 4711` runs it again, the very same, with the trace of what happened.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random
from typing import Any
from zlib import crc32

from tinygraph import CancelledError, Component, Graph, Node, NodeTimeout, Run, UpstreamFailed, WorkerLost, run
from tinygraph.testing import Faults, SimulatedError, SimulatedExecutor

# What the bodies of one case share. They are found by name, so a simulated worker has the same ones.
executed: list[str] = []
raises: dict[str, int] = {}  # how often the body of a call is still to raise


class Planned(Exception):
    """What a body raises, because its case says so."""


def enter(name: str) -> None:
    """Count an execution; raise if that is planned."""
    executed.append(name)
    if raises.get(name):
        raises[name] -= 1
        raise Planned(name)


def total(value: Any) -> int:
    return sum(map(total, value)) if isinstance(value, list | tuple) else len(value) if type(value) is str else value


def result(name: str, values: tuple[Any, ...]) -> Any:
    """What the leaf of this name returns: a number, a text, or a list, that does not travel as it is."""
    number = crc32(name.encode()) % 1000 + total(values) % 100_000
    return (number, [number, "x" * 200], "y" * (number % 50))[crc32(name.encode()) % 3]


def leaf(name: str, *values: Any) -> Any:
    enter(name)
    return result(name, values)


def spread(name: str, count: int, *values: Any) -> list[str]:
    enter(name)
    return [f"{name}.{i}" for i in range(count)]


def compose(name: str, items: tuple[Item, ...], returned: tuple[int, ...], *values: Any) -> Any:
    enter(name)
    made = recorded(items, values)
    return [made[i] for i in returned]


def component(items: tuple[Item, ...], returned: tuple[int, ...], *values: Any) -> Any:
    made = recorded(items, values)
    return [made[i] for i in returned]


LEAVES = [
    Node(leaf, name="short", cost=1e-5),
    Node(leaf, name="shorter", cost=1e-6),
    Node(leaf, name="plain"),
    Node(leaf, name="again", retries=1, cost=1e-3),
    Node(leaf, name="often", retries=3, cost=1e-4),
    Node(leaf, name="timed", timeout=2.0, cost=0.5),
    Node(leaf, name="timed again", timeout=0.01, retries=2, cost=1e-3),
    Node(leaf, name="timed short", timeout=0.5, cost=1e-5),
    Node(leaf, name="urgent", priority=1, cost=0.2),
    Node(leaf, name="later", priority=-1, cost=0.1),
    Node(leaf, name="long", cost=20.0),
]
SPREAD = Node(spread, cost=0.01, where="process")
DRIVER = Node(compose, name="driver", where="driver")
WORKER = Node(compose, name="worker", where="process", cost=0.05)
COMPONENT = Component(component)


@dataclass(frozen=True, slots=True)
class Item:
    """A call to be recorded: its kind, what it needs (earlier items, or below zero inputs), and its own calls."""

    kind: str
    name: str
    node: int = 0
    needs: tuple[int, ...] = ()
    after: int = -1
    items: tuple[Item, ...] = ()
    returned: tuple[int, ...] = ()
    count: int = 0


def recorded(items: tuple[Item, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """Record the calls and return their futures."""
    made: list[Any] = []
    for item in items:
        needs = [made[n] if n >= 0 else inputs[~n] for n in item.needs]
        node, name = LEAVES[item.node], item.name
        match item.kind:
            case "leaf":
                made.append(node(name, *needs))
                if item.after >= 0 and not isinstance(made[item.after], list):
                    made[-1].after(made[item.after])
            case "map":
                made.append(node.map([f"{name}.{i}" for i in range(item.count)], [needs] * item.count))
            case "spread":
                made.append(node.map(SPREAD(name, item.count, *needs)))
            case "component":
                made.append(COMPONENT(item.items, item.returned, *needs))
            case _:
                made.append((WORKER if item.kind == "worker" else DRIVER)(name, item.items, item.returned, *needs))
    return made


@dataclass(slots=True)
class Case:
    """A graph, the faults and how it is run: all of it drawn from the number."""

    number: int
    random: Random = field(init=False)
    items: tuple[Item, ...] = field(init=False)
    faults: Faults = field(init=False)
    raises: dict[str, int] = field(default_factory=dict)
    names: int = 0

    def __post_init__(self) -> None:
        random = self.random = Random(self.number)
        self.items = self._items(random.randint(1, 7), 0, 2)
        likely = {name: random.choice((0.05, 0.2, 0.5)) for name in _FAULTS if random.random() < 0.3}
        if random.random() < 0.9:  # else nearly no run would come to its end
            likely.pop("cancel", None)
            likely.pop("cancel_call", None)
        self.faults = Faults(**likely) if random.random() < 0.8 else Faults()
        self.workers = random.randint(1, 4)
        self.keep_going = random.random() < 0.8
        self.timeout = random.choice((0.5, 3.0)) if random.random() < 0.02 else None

    workers: int = 1
    keep_going: bool = True
    timeout: float | None = None

    def _items(self, count: int, inputs: int, depth: int) -> tuple[Item, ...]:
        random, items = self.random, list[Item]()
        for at in range(count):
            name = f"{self.names}"
            self.names += 1
            kinds = ["leaf"] * 6 + ["map", "spread"] + ["driver", "worker", "component"] * (depth > 0)
            kind = random.choice(kinds) if at or depth < 2 else "leaf"
            open_to = [*range(at), *(~i for i in range(inputs))]
            needs = tuple(random.sample(open_to, min(len(open_to), random.randint(0, 2))))
            items.append(
                Item(
                    kind,
                    name,
                    random.randrange(len(LEAVES)),
                    needs,
                    random.randrange(at) if at and random.random() < 0.1 else -1,
                    *(self._inside(len(needs), depth) if kind in ("driver", "worker", "component") else ((), ())),
                    random.choice((0, 1, 2, 3, 30)) if kind in ("map", "spread") else 0,
                )
            )
            if kind in ("leaf", "spread", "driver", "worker") and random.random() < 0.05:
                self.raises[name] = random.choice((1, 1, 2, 9))
        return tuple(items)

    def _inside(self, inputs: int, depth: int) -> tuple[tuple[Item, ...], tuple[int, ...]]:
        items = self._items(self.random.randint(0, 3), inputs, depth - 1)
        return items, tuple(i for i in range(len(items)) if self.random.random() < 0.7)


_FAULTS = ("death", "death_at_start", "death_when_idle", "slow", "late", "full", "error", "cancel", "cancel_call")


# The oracle


class Broken:
    """In place of a value: what failed, so that there is none."""

    def __init__(self, roots: set[str]) -> None:
        self.roots = roots


def broken_in(values: Any) -> set[str]:
    """Return what failed among values."""
    if isinstance(values, Broken):
        return values.roots
    return set().union(*map(broken_in, values)) if isinstance(values, list | tuple) else set()


class Plain:
    """Plain Python in place of the engine: evaluates the items, given which executions ended how.

    It also notes which calls had to run, by name, so that none is missing and none too many.
    """

    def __init__(self, verdicts: dict[str, str], raised_here: set[str]) -> None:
        self.verdicts = verdicts
        self.raised_here = raised_here  # bodies that raised in the driver
        self.ran: set[str] = set()

    def evaluate(self, items: tuple[Item, ...], inputs: list[Any]) -> list[Any]:
        values: list[Any] = []
        for item in items:
            needs = [values[n] if n >= 0 else inputs[~n] for n in item.needs]
            if item.kind == "leaf" and item.after >= 0 and items[item.after].kind != "map":
                values.append(self._value(item, needs, broken_in(values[item.after])))
            else:
                values.append(self._value(item, needs, set()))
        return values

    def _value(self, item: Item, needs: list[Any], roots: set[str]) -> Any:
        roots = roots | broken_in(needs)
        if item.kind == "component":
            return self._opened(item, needs)
        if item.kind == "map":
            return [self._leaf(f"{item.name}.{i}", [needs], roots) for i in range(item.count)]
        if roots:
            return Broken(roots)
        if item.kind == "leaf":
            return self._leaf(item.name, needs, roots)
        self.ran.add(item.name)
        if item.name in self.raised_here or self._failed(item.name, item.kind == "driver"):
            return Broken({item.name})
        if item.kind == "spread":
            values = [self._leaf(f"{item.name}.{i}", [], roots) for i in range(item.count)]
            return Broken(broken_in(values)) if broken_in(values) else values
        return self._opened(item, needs)

    def _opened(self, item: Item, needs: list[Any]) -> Any:
        values = self.evaluate(item.items, needs)
        roots = broken_in(values)  # what is not returned counts as well
        return Broken(roots) if roots else [values[i] for i in item.returned]

    def _leaf(self, name: str, values: list[Any], roots: set[str]) -> Any:
        if roots:
            return Broken(roots)
        self.ran.add(name)
        return Broken({name}) if self._failed(name, False) else result(name, tuple(values))

    def _failed(self, name: str, in_driver: bool) -> bool:
        verdict = self.verdicts.get(name)
        assert in_driver or verdict is not None, f"{name} was lost: it never ran"
        return verdict is not None and verdict != "finished"


def verdicts_of(executor: SimulatedExecutor, retries: dict[str, int], wanted: bool) -> dict[str, str]:
    """Follow the executions of each call and return how it ended: the rules, written down a second time."""
    found: dict[str, str] = {}
    attempts: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    running: dict[str, int] = {}
    for step in executor.trace:
        if not step.name or step.what == "cancelled":
            continue
        name = step.args[0]
        if step.what == "started":
            assert name not in found, f"{name} ran again, although it was {found[name]}"
            assert name not in running, f"{name} ran twice at a time"
            running[name] = step.worker
            continue
        assert running.pop(name) == step.worker
        if step.what == "finished":
            found[name] = "finished"
        elif step.what == "raised":
            attempts[name] += 1
            deaths[name] = 0
            if attempts[name] > retries[step.name]:
                found[name] = "raised"
        elif step.what == "died":
            deaths[name] += 1
            if deaths[name] == 3:
                found[name] = "lost"
        elif wanted:
            assert step.name.startswith("timed"), f"{name} was killed without a reason"
            found[name] = "late"
    assert not running, f"{running} still run"
    return found


def check(case: Case, result: Run, graph: Graph, executor: SimulatedExecutor) -> None:
    """Compare what a run gave with what plain Python gives."""
    faults = case.faults
    retries = {node.name: node.retries for node in (*LEAVES, SPREAD, DRIVER, WORKER)}
    is_cancelled = any(step.what == "cancelled" for step in executor.trace)
    error = result._error
    to_its_end = error is None and not is_cancelled
    verdicts = verdicts_of(executor, retries, wanted=to_its_end)
    counts = Counter(executed)

    # Each execution of a body is one that the trace has: the rules above have followed it.
    on_workers = Counter(step.args[0] for step in executor.trace if step.what == "started")
    in_driver = {item.name for item in flat(case.items) if item.kind == "driver"}
    if not faults.error:
        assert {name: count for name, count in counts.items() if name not in in_driver} == on_workers
    assert all(counts[name] <= 1 for name in in_driver)
    if not faults.death:
        assert executor.extra_executions == 0
        if not faults.error and not case.raises:
            assert set(on_workers.values()) <= {1}

    failures = result.failures
    if not to_its_end:
        if error is not None and not is_cancelled and case.timeout is None:
            assert any(failure.exception is error for failure in failures), repr(error)
        elif error is not None:
            assert isinstance(error, CancelledError | NodeTimeout | Planned | SimulatedError | WorkerLost)
        return

    raised_here = {item.name for item in flat(case.items) if item.kind == "driver" and case.raises.get(item.name)}
    plain = Plain(verdicts, raised_here)
    values = plain.evaluate(case.items, [])
    assert plain.ran >= set(on_workers), f"{set(on_workers) - plain.ran} need not have run"
    roots = {name for name in plain.ran if verdicts.get(name, "finished") != "finished" or name in raised_here}
    expected = Counter(verdicts.get(name, "raised") for name in roots)
    assert Counter(kind_of(failure.exception) for failure in failures) == expected
    planned = {str(failure.exception) for failure in failures if isinstance(failure.exception, Planned)}
    assert planned <= roots
    causes = {id(failure.exception) for failure in failures}
    by_target = [one for item, value in zip(case.items, values, strict=True) for one in as_listed(item, value)]
    for future, value in zip(graph.targets, by_target, strict=True):
        if isinstance(value, Broken):
            assert future.state in ("failed", "skipped"), f"{future!r} should have failed with {value.roots}"
            told = future.value
            assert id(told.root_cause if isinstance(told, UpstreamFailed) else told) in causes
        else:
            assert future.state == "finished", f"{future!r} should have finished"
            assert future.resolve() == value
    engine = result._engine
    assert engine is not None
    assert (engine.in_hand, engine.left) == (0, 0)


def kind_of(error: BaseException) -> str:
    if isinstance(error, WorkerLost):
        return "lost"
    if isinstance(error, NodeTimeout):
        return "late"
    assert isinstance(error, Planned | SimulatedError), repr(error)
    return "raised"


def as_listed(item: Item, value: Any) -> list[Any]:
    """The targets of an item: `map` makes several."""
    return value if item.kind == "map" else [value]


def flat(items: tuple[Item, ...]) -> list[Item]:
    return [one for item in items for one in (item, *flat(item.items))]


@dataclass(slots=True)
class Figures:
    """What a number of cases came to."""

    cases: int = 0
    executions: int = 0
    deaths: int = 0
    kills: int = 0
    extra: int = 0
    to_the_end: int = 0

    def add(self, other: Figures) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        return (
            f"{self.cases:,} cases ({self.to_the_end:,} without an error): {self.executions:,} executions, "
            f"{self.deaths:,} deaths, {self.kills:,} kills, {self.extra:,} extra executions"
        )


def play(number: int) -> tuple[Case, Run, Graph, SimulatedExecutor]:
    """Run a case, and check nothing."""
    case = Case(number)
    executed.clear()
    raises.clear()
    raises.update(case.raises)
    executor = SimulatedExecutor(number, case.faults, workers=case.workers)
    futures = recorded(case.items, ())
    targets = [one for future in futures for one in (future if isinstance(future, list) else [future])]
    graph = Graph(*targets)
    on_error = "continue" if case.keep_going else "raise"
    result = run(graph, executor=executor, on_error=on_error, timeout=case.timeout)
    return case, result, graph, executor


def try_case(number: int) -> Figures:
    """Run a case and compare; name it where it fails."""
    try:
        case, result, graph, executor = play(number)
        check(case, result, graph, executor)
    except BaseException as error:
        error.add_note(f"this was case {number}: python -m tests.simulate --case {number}")
        raise
    error = result._error
    return Figures(
        1,
        sum(executor.executions.values()),
        executor.deaths,
        executor.kills,
        executor.extra_executions,
        int(error is None),
    )


def try_cases(numbers: range) -> Figures:
    """Run many cases."""
    figures = Figures()
    for number in numbers:
        figures.add(try_case(number))
    return figures


# The command


def main() -> None:
    """Run as many cases as asked for, on all cores, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__.split("\n")[0])
    parser.add_argument("cases", type=int, nargs="?", default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--case", type=int, help="run this one alone and print what happened")
    given = parser.parse_args()
    if given.case is not None:
        show(given.case)
        return
    began, figures = time.perf_counter(), Figures()
    end = given.first + given.cases
    batches = [range(first, min(first + 500, end)) for first in range(given.first, end, 500)]
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        for done in pool.imap_unordered(try_cases, batches):
            figures.add(done)
            if figures.cases % 50_000 == 0 or figures.cases == given.cases:
                rate = figures.cases / (time.perf_counter() - began)
                print(f"{figures}, {rate:,.0f} cases/s", flush=True)


def show(number: int) -> None:
    """Print the trace of a case, and check it."""
    case, result, graph, executor = play(number)
    print(case.faults, f"workers={case.workers} keep_going={case.keep_going}", file=sys.stderr)
    for item in flat(case.items):
        print(item)
    for step in executor.trace:
        print(step, step.args[:1])
    print([future.state for future in graph.targets], result._error)
    check(case, result, graph, executor)


if __name__ == "__main__":
    # Under its own name: the bodies are found by it, and must be the same ones for everybody.
    from tests import simulate

    simulate.main()
