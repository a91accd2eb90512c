"""Graph: a view on what some futures reach. Who depends on whom, who called whom, and where the time goes."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from tinygraph import schedule
from tinygraph.blame import unfinished_cycle
from tinygraph.definition import Kind
from tinygraph.errors import OptionError, RecordError
from tinygraph.future import Future
from tinygraph.schedule import Cost, Plan

if TYPE_CHECKING:
    from tinygraph.run import Run


class Graph:
    """What some futures reach: before a run, during it and after it.

    >>> from tinygraph import Graph, Node
    >>> load, train = Node(lambda: 1, name="load"), Node(lambda x: x, name="train")
    >>> graph = Graph(train(load()))
    >>> [future.name for future in graph.nodes]
    ['load', 'train']
    >>> [(a.name, b.name) for a, b in graph.edges]
    [('load', 'train')]

    Raises :class:`RecordError` for what is no future.
    """

    def __init__(self, *targets: Future[Any]) -> None:
        for target in targets:
            if not isinstance(target, Future):
                raise RecordError(f"a Graph is made of futures, not of {target!r} ({type(target).__name__})")
        if not targets:
            raise RecordError("a Graph needs at least one future")
        self.targets = targets

    @property
    def nodes(self) -> list[Future[Any]]:
        """Every call that the targets reach, nested ones included, in the order of recording."""
        return sorted(self._reached(), key=lambda future: future.number)

    @property
    def edges(self) -> list[tuple[Future[Any], Future[Any]]]:
        """Pairs (dependency, dependent) along which values flow, or order without them."""
        return [(need, call) for call in self.nodes for need in dict.fromkeys(call.dependencies)]

    @property
    def calls(self) -> list[tuple[Future[Any], Future[Any]]]:
        """Pairs (caller, call): whose body made which call."""
        reached = self._reached()
        return [(call.caller, call) for call in self.nodes if call.caller is not None and call.caller in reached]

    def topological_order(self, target: Future[Any] | None = None) -> list[Future[Any]]:
        """Return what a target needs (all targets, if none is given), dependencies first, ties as recorded.

        >>> from tinygraph import Node
        >>> f = Node(abs)
        >>> a = f(1); b = f(a)
        >>> [future.number - a.number for future in b.graph.topological_order()]
        [0, 1]

        A caller stands after the calls that it made. Raises :class:`CycleError` when calls wait for each other.
        """
        reached = self._reached() if target is None else Graph(target)._reached()
        return [step for step in _ordered(reached) if isinstance(step, Future)]

    def plan(self, cost: Cost | None = None) -> Plan:
        """Return the graph as arrays, for the functions in `schedule`.

        >>> from tinygraph import Node
        >>> f, join = Node(abs), Node(max)
        >>> join(f(1), f(2)).graph.plan().dependencies
        [(), (), (0, 1)]

        A call whose body made calls is two items that cost nothing: its start, for which they wait, and its end,
        which waits for them. Any other call is one item, also one whose body will turn out to make calls.

        ``cost``: seconds by call or by name, or a function of the call. What it lacks costs what was measured, else
        the `cost=` of its node, else 1. Raises :class:`CycleError` when calls wait for each other.
        """
        plan = Plan([], [])
        index: dict[_Step, int] = {}
        for step, needs in _ordered(self._reached()).items():
            call = step.call if isinstance(step, _Start) else step
            index[step] = len(index)
            plan.dependencies.append(tuple([index[need] for need in needs]))
            plan.cost.append(_cost(call, cost))
            plan.needs_worker.append(call.expansion is None and call.definition.kind not in _WITHOUT_WORKER)
            plan.priority.append(call.definition.priority)
            plan.depth.append(call.depth)
            plan.items.append(call)
        return plan

    def critical_path(self, cost: Cost | None = None) -> list[Future[Any]]:
        """Return the most expensive chain of calls, first call first; callers are not in it, their calls are.

        >>> from tinygraph import Node
        >>> slow, fast = Node(abs, name="slow", cost=9), Node(abs, name="fast")
        >>> join = Node(lambda a, b: a + b, name="join")
        >>> graph = join(slow(1), fast(2)).graph
        >>> [call.name for call in graph.critical_path()]
        ['slow', 'join']
        >>> [call.name for call in graph.critical_path(cost={"fast": 20})]
        ['fast', 'join']

        A tie goes to the earlier call. What ``cost`` may be: see :meth:`plan`.
        """
        return schedule.critical_path(self, cost)

    def slack(self, cost: Cost | None = None) -> dict[Future[Any], float]:
        """Return by how many seconds each call could be later without the whole being later.

        >>> from tinygraph import Node
        >>> slow, fast, join = Node(abs, cost=9), Node(abs), Node(max)
        >>> a, b = slow(1), fast(2)
        >>> join(a, b).graph.slack()[b]
        8.0
        """
        return schedule.slack(self, cost)

    @property
    def work(self) -> float:
        """The sum of all costs, in seconds."""
        return schedule.work(self)

    @property
    def span(self) -> float:
        """The length of the critical path, in seconds: no number of workers is faster."""
        return schedule.span(self)

    def simulate(self, workers: int, cost: Cost | None = None) -> schedule.Simulation:
        """Return what the schedule would be on a number of workers, in virtual time.

        >>> from tinygraph import Node
        >>> f, join = Node(abs), Node(max)
        >>> graph = join(f(1), f(2)).graph
        >>> graph.simulate(workers=1).makespan, graph.simulate(workers=2).makespan
        (3.0, 2.0)
        """
        return schedule.simulate(self, workers, cost)

    def run(self, **options: Any) -> Run:
        """Run every target; options and result are those of :func:`tinygraph.run`."""
        from tinygraph.run import run

        return run(self, **options)

    def explain(self, *, store: Any = None, inputs: dict[str, Any] | None = None) -> str:
        """Return, a line a call, what a run would find in a store and why the rest would run; nothing runs for it.

        >>> import tempfile
        >>> from tinygraph import Node
        >>> print(Node(abs)(-3).graph.explain(store=tempfile.mkdtemp()))
        1 call: 1 would run
        run      abs  never ran

        ``store``: that of `options()`, if none is given. ``inputs``: as a run takes them.
        """
        from tinygraph.store.explain import explain

        return explain(self, store, inputs)

    def draw(self, path: Any, **options: Any) -> Any:
        """Draw the graph; the suffix of the path says how: .png .svg .pdf .dot .mmd .html .json

        >>> from tinygraph import Node
        >>> import tempfile
        >>> Node(abs)(-1).graph.draw(tempfile.mkdtemp() + "/graph.mmd").name
        'graph.mmd'

        Options are those of :func:`tinygraph.render.draw`.
        """
        from tinygraph.render import draw

        return draw(self, path, **options)

    def to_pydot(self, **options: Any) -> Any:
        """Return a `pydot.Dot` of the graph; its attributes are documented in :mod:`tinygraph.render.dot`."""
        from tinygraph.render import to_pydot

        return to_pydot(self, **options)

    def to_networkx(self, **options: Any) -> Any:
        """Return a `networkx.DiGraph` of the graph; see :func:`tinygraph.render.to_networkx`."""
        from tinygraph.render import to_networkx

        return to_networkx(self, **options)

    def to_mermaid(self, **options: Any) -> str:
        """Return the graph as Mermaid text, a `flowchart TD`."""
        from tinygraph.render import to_mermaid

        return to_mermaid(self, **options)

    def __len__(self) -> int:
        return len(self._reached())

    def __repr__(self) -> str:
        return f"<Graph of {', '.join(repr(target.name) for target in self.targets[:3])}, {len(self)} nodes>"

    def _reached(self) -> dict[Future[Any], None]:
        found = dict.fromkeys(self.targets)
        pending = list(found)
        while pending:
            call = pending.pop()
            for need in call.dependencies if call.expansion is None else (*call.dependencies, *call.expansion.calls):
                if need not in found:
                    found[need] = None
                    pending.append(need)
        return found


# Holes and constructions take no time of their own, and the event loop is there whatever the number of workers.
_FREE = frozenset((Kind.INPUT, Kind.STATEFUL))
_WITHOUT_WORKER = _FREE | {Kind.COROUTINE}


class _Start:
    """Where a call whose body made calls begins: they wait for it, and the call itself stands for where it ends."""

    __slots__ = ("call",)

    def __init__(self, call: Future[Any]) -> None:
        self.call = call


_Step = Future[Any] | _Start


def _ordered(reached: dict[Future[Any], None]) -> dict[_Step, tuple[_Step, ...]]:
    """Return every step and the steps that it needs; these come first, and what is free to choose comes as recorded."""
    starts = {call: _Start(call) for call in reached if call.expansion is not None}
    ordered: dict[_Step, tuple[_Step, ...]] = {}
    opened: dict[_Step, tuple[_Step, ...]] = {}
    for root in sorted(reached, key=_number):
        pending: list[_Step] = [root]
        while pending:
            step = pending[-1]
            if step in ordered:  # another step needed it too
                pending.pop()
                continue
            needs = opened[step] if step in opened else _needs(step, starts)
            missing = [need for need in needs if need not in ordered]
            if not missing:
                ordered[step] = needs
                pending.pop()
            elif step not in opened:
                opened[step] = needs
                pending.extend(reversed(missing))
            else:  # between this entry of the step and the one before, everything waits for it
                loop = pending[next(i for i, other in enumerate(pending) if other is step) :]
                raise unfinished_cycle([other for other in loop if isinstance(other, Future) and other in opened])
    return ordered


def _needs(step: _Step, starts: dict[Future[Any], _Start]) -> tuple[_Step, ...]:
    needs: tuple[_Step, ...]
    if isinstance(step, _Start):
        call = step.call
        made = set() if call.expansion is None else set(call.expansion.calls)
        # A component depends on the calls that it made, but its beginning does not.
        needs = tuple([need for need in call.dependencies if need not in made])
    else:
        call = step
        if call.expansion is not None:
            return (starts[call], *call.expansion.calls)
        needs = call.dependencies
    return (*needs, starts[call.caller]) if call.caller in starts else needs


def _number(call: Future[Any]) -> int:
    return call.number


def _cost(call: Future[Any], cost: Cost | None) -> float:
    """Expected seconds: given here, else measured, else given with the node, else 1."""
    definition = call.definition
    if call.expansion is not None or definition.kind in _FREE:
        return 0.0
    given = None
    if cost is not None:
        given = cost(call) if callable(cost) else cost.get(call, cost.get(call.name))
    if given is not None:
        if not 0 <= given < inf:
            raise OptionError(f"the cost of {call.name!r} must be a number of seconds from 0 on, not {given!r}")
        return given
    measured = call.duration
    if measured is not None:
        return measured
    return 1.0 if definition.cost is None else definition.cost
