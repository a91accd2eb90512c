"""Decide what starts first: bottom levels, critical path, slack, a ready queue, and what a schedule would take.

Pure functions over arrays, without threads and without a clock. A :class:`Plan` is a graph as arrays. Every function
takes a plan, or what can be planned (a `Graph`) and the costs to plan it with. Of a plan the answers are by item, of a
graph by call::

    │◄─── top level ───►│◄─ cost ─►             │
    │                   │◄── bottom level ──►   │
    │                                        ◄─►│  slack: none on the critical path
    │◄──────────────────── span ───────────────►│

Costs are seconds, or any unit that adds up. No function recurses: long chains and wide fans are ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from math import inf
from typing import Any, NamedTuple, Protocol, overload

from tinygraph.errors import OptionError

# Seconds by item (of a graph: by call or by its name), or a function of the item. What it lacks keeps its own cost.
Cost = Mapping[Any, float] | Callable[[Any], float]


class ReadyQueue:
    """Tasks whose dependencies are all finished, most urgent first.

    Larger ``priority`` goes first, then the larger bottom level, then the deeper nested (it ends sooner what has
    begun), then the one recorded earlier: the same tasks come out in the same order on any machine.

    >>> queue = ReadyQueue()
    >>> queue.push("late", 0.0, 1.0, 0, 1); queue.push("long", 0.0, 9.0, 0, 2); queue.push("wish", 1.0, 0.0, 0, 3)
    >>> queue.pop(), queue.pop(), queue.pop(), len(queue)
    ('wish', 'long', 'late', 0)
    """

    __slots__ = ("_last", "_plain", "_urgent")

    def __init__(self) -> None:
        # Nearly every task has priority 0, so these have a heap of their own, with one field less to compare. Those
        # before and behind them are few.
        self._urgent: list[tuple[float, float, int, int, Any]] = []
        self._plain: list[tuple[float, int, int, Any]] = []
        self._last: list[tuple[float, float, int, int, Any]] = []

    def push(self, task: Any, priority: float, level: float, depth: int, number: int) -> None:
        """Add a task."""
        if not priority:
            heappush(self._plain, (-level, -depth, number, task))
        else:
            heappush(self._urgent if priority > 0 else self._last, (-priority, -level, -depth, number, task))

    def pop(self) -> Any:
        """Remove the most urgent task and return it; raises IndexError when there is none."""
        if self._urgent:
            return heappop(self._urgent)[4]
        if self._plain:
            return heappop(self._plain)[3]
        return heappop(self._last)[4]

    def clear(self) -> None:
        """Remove every task."""
        for heap in (self._urgent, self._plain, self._last):
            heap.clear()

    def __len__(self) -> int:
        return len(self._plain) + len(self._urgent) + len(self._last)


class Plan:
    """A graph as arrays: item `i` may start when every item in `dependencies[i]` has ended, and takes `cost[i]`.

    >>> diamond = Plan([(), (0,), (0,), (1, 2)], cost=[1, 3, 1, 1])
    >>> critical_path(diamond), slack(diamond)
    ([0, 1, 3], [0, 0, 2, 0])

    Items are numbered so that dependencies come first. What is left out: every item needs a worker, has priority 0
    and depth 0, and stands for its number. An item that needs no worker starts as soon as it may.
    """

    # A plain class, because the machinery of dataclasses takes longer to import than the rest of the library.
    __slots__ = ("cost", "dependencies", "depth", "items", "needs_worker", "priority")

    def __init__(
        self,
        dependencies: list[tuple[int, ...]],
        cost: list[float],
        needs_worker: list[bool] | None = None,
        priority: list[float] | None = None,
        depth: list[int] | None = None,
        items: list[Any] | None = None,
    ) -> None:
        size = len(cost)
        self.dependencies = dependencies
        self.cost = cost
        self.needs_worker = needs_worker or [True] * size
        self.priority = priority or [0.0] * size
        self.depth = depth or [0] * size
        self.items = items or list(range(size))  # what each stands for; a caller stands at two

    def with_cost(self, cost: list[float]) -> Plan:
        """Return the same plan with other costs."""
        return Plan(self.dependencies, cost, self.needs_worker, self.priority, self.depth, self.items)


class Plannable(Protocol):
    """What can be planned, as a `Graph` can."""

    def plan(self, cost: Cost | None = None) -> Plan:
        """Return it as arrays, with these costs."""


class Simulation(NamedTuple):
    """A schedule in virtual time: when each item of a plan starts and ends.

    >>> simulate(Plan([(), (), (0,)], cost=[1, 1, 2]), workers=2)
    Simulation(makespan=3)

    `makespan` is in the unit of the costs; `order` has the items in the order in which they start.
    """

    makespan: float
    start: list[float]
    end: list[float]
    order: list[int]
    items: list[Any]  # what each item stands for

    def __repr__(self) -> str:
        return f"Simulation(makespan={self.makespan:g})"

    @property
    def times(self) -> dict[Any, tuple[float, float]]:
        """When each call (of a plan without calls: each item) starts and ends, in the order in which they start.

        >>> simulate(Plan([(), (), (0,)], cost=[1, 1, 2]), workers=1).times
        {0: (0, 1), 2: (1, 3), 1: (3, 4)}
        """
        times: dict[Any, tuple[float, float]] = {}
        for i in self.order:
            call = self.items[i]
            # A caller stands at two items: it lasts from the start of the first to the end of the second.
            began = times[call][0] if call in times else self.start[i]
            times[call] = (began, self.end[i])
        return times


@overload
def bottom_levels(graph: Plan, cost: Cost | None = None) -> list[float]: ...
@overload
def bottom_levels(graph: Plannable, cost: Cost | None = None) -> dict[Any, float]: ...
def bottom_levels(graph: Plan | Plannable, cost: Cost | None = None) -> list[float] | dict[Any, float]:
    """Return the dearest way from the start of each item to the end of all: who has much behind it is urgent.

    With transfer times added, the literature calls it upward rank.

    >>> bottom_levels(Plan([(), (0,), (0,)], cost=[1, 5, 2]))
    [6, 5, 2]
    """
    plan = _planned(graph, cost)
    levels = list(plan.cost)
    behind: list[float] = [0] * len(levels)
    for i in range(len(levels) - 1, -1, -1):
        level = levels[i] = levels[i] + behind[i]
        for need in plan.dependencies[i]:
            if behind[need] < level:
                behind[need] = level
    return levels if isinstance(graph, Plan) else _by_call(plan, levels, max)


@overload
def top_levels(graph: Plan, cost: Cost | None = None) -> list[float]: ...
@overload
def top_levels(graph: Plannable, cost: Cost | None = None) -> dict[Any, float]: ...
def top_levels(graph: Plan | Plannable, cost: Cost | None = None) -> list[float] | dict[Any, float]:
    """Return the dearest way from any source to the start of each item: on no number of workers is it earlier.

    >>> top_levels(Plan([(), (), (0, 1)], cost=[1, 5, 2]))
    [0, 0, 5]
    """
    plan = _planned(graph, cost)
    levels, _ = _earliest(plan)
    return levels if isinstance(graph, Plan) else _by_call(plan, levels, min)


@overload
def slack(graph: Plan, cost: Cost | None = None) -> list[float]: ...
@overload
def slack(graph: Plannable, cost: Cost | None = None) -> dict[Any, float]: ...
def slack(graph: Plan | Plannable, cost: Cost | None = None) -> list[float] | dict[Any, float]:
    """Return by how much each item could be later without the whole being later: exactly 0 where it is critical.

    >>> slack(Plan([(), (), (0, 1)], cost=[1, 5, 2]))
    [4, 0, 0]
    """
    plan = _planned(graph, cost)
    start, end = _earliest(plan)
    last = max(end, default=0)
    spare: list[float] = [inf] * len(end)
    for i in range(len(end) - 1, -1, -1):
        if spare[i] == inf:  # nothing depends on it
            spare[i] = last - end[i]
        # Not span - (top level + bottom level): these add the same costs in another order, and round differently.
        # An item starts exactly when the last of its dependencies ends, so along a critical path nothing is rounded.
        for need in plan.dependencies[i]:
            gap = spare[i] + (start[i] - end[need])
            if gap < spare[need]:
                spare[need] = gap
    return spare if isinstance(graph, Plan) else _by_call(plan, spare, min)


def critical_path(graph: Plan | Plannable, cost: Cost | None = None) -> list[Any]:
    """Return the dearest chain of dependencies, first item first; a tie goes to the earlier item.

    >>> critical_path(Plan([(), (), (), (0, 2)], cost=[1, 3, 2, 2]))
    [2, 3]

    Of a graph it has the calls that take time; callers are not in it, their calls are.
    """
    plan = _planned(graph, cost)
    start, end = _earliest(plan)
    chain: list[int] = []
    for i, spare in enumerate(slack(plan)):
        if spare:
            continue
        needs = plan.dependencies[i]
        if (chain[-1] in needs and start[i] == end[chain[-1]]) if chain else not needs:
            chain.append(i)
    if isinstance(graph, Plan):
        return chain
    return [plan.items[i] for i in chain if plan.cost[i] or plan.needs_worker[i]]


def work(graph: Plan | Plannable, cost: Cost | None = None) -> float:
    """Return the sum of all costs.

    >>> work(Plan([(), (0,), (0,)], cost=[1, 5, 2]))
    8
    """
    return sum(_planned(graph, cost).cost)


def span(graph: Plan | Plannable, cost: Cost | None = None) -> float:
    """Return the length of the critical path: no number of workers is faster.

    >>> span(Plan([(), (0,), (0,)], cost=[1, 5, 2]))
    6
    """
    return max(_earliest(_planned(graph, cost))[1], default=0)


def simulate(graph: Plan | Plannable, workers: int, cost: Cost | None = None) -> Simulation:
    """Return the schedule on a number of workers: whenever one is free, it takes the most urgent ready item.

    >>> plan = Plan([(), (), (1,)], cost=[1, 1, 1])
    >>> simulate(plan, workers=1).order, simulate(plan, workers=2).makespan
    ([1, 0, 2], 2)

    That is list scheduling: it takes at most `work / workers + (1 - 1 / workers) * span`, and so less than twice the
    time of the best schedule (Graham 1969). Raises :class:`OptionError` for what is no number of workers.
    """
    if type(workers) is not int or workers < 1:
        raise OptionError(f"workers must be a positive number, not {workers!r}")
    plan = _planned(graph, cost)
    size = len(plan.cost)
    levels = bottom_levels(plan)
    waiting = [len(needs) for needs in plan.dependencies]
    dependents: list[list[int]] = [[] for _ in range(size)]
    for i, needs in enumerate(plan.dependencies):
        for need in needs:
            dependents[need].append(i)
    start: list[float] = [0] * size
    end: list[float] = [0] * size
    order: list[int] = []
    running: list[tuple[float, int]] = []  # a heap of (end, item)
    queue = ReadyQueue()
    free = workers
    now: float = 0

    def begin(i: int) -> None:
        start[i] = now
        end[i] = now + plan.cost[i]
        order.append(i)
        heappush(running, (end[i], i))

    ready = [i for i in range(size) if not waiting[i]]
    while True:
        for i in ready:
            if plan.needs_worker[i]:
                queue.push(i, plan.priority[i], levels[i], plan.depth[i], i)
            else:
                begin(i)
        # Workers choose when everything that ends at this moment has ended: then they know all that is ready.
        if not running or running[0][0] > now:
            while free and queue:
                begin(queue.pop())
                free -= 1
            if not running:
                return Simulation(now, start, end, order, plan.items)
        now, ended = heappop(running)
        free += plan.needs_worker[ended]
        ready = []
        for i in dependents[ended]:
            waiting[i] -= 1
            if not waiting[i]:
                ready.append(i)


def _planned(graph: Plan | Plannable, cost: Cost | None) -> Plan:
    if not isinstance(graph, Plan):
        return graph.plan(cost)
    if cost is None:
        return graph
    if callable(cost):
        return graph.with_cost([cost(i) for i in range(len(graph.cost))])
    return graph.with_cost([cost.get(i, own) for i, own in enumerate(graph.cost)])


def _earliest(plan: Plan) -> tuple[list[float], list[float]]:
    """Return when each item starts and ends on any number of workers."""
    start: list[float] = []
    end: list[float] = []
    for needs, seconds in zip(plan.dependencies, plan.cost, strict=True):
        began = max([end[need] for need in needs]) if needs else 0
        start.append(began)
        end.append(began + seconds)
    return start, end


def _by_call(plan: Plan, values: list[float], pick: Callable[[float, float], float]) -> dict[Any, float]:
    """Return values by call; of the two of a caller, the one that is picked."""
    found: dict[Any, float] = {}
    for call, value in zip(plan.items, values, strict=True):
        found[call] = pick(value, found[call]) if call in found else value
    return found
