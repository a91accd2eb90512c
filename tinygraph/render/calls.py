"""What a picture is made from: the calls of a graph as plain rows, whatever kind of graph they came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tinygraph.definition import Definition, Kind
from tinygraph.errors import CycleError
from tinygraph.future import Future, State
from tinygraph.graph import Graph
from tinygraph.reach import calls_nodes
from tinygraph.schedule import Cost

_MAY_OPEN = (Kind.LEAF, Kind.ENTRY, Kind.COROUTINE, Kind.GENERATOR)
_OVER = (State.FINISHED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Call:
    """One call as a row: numbers instead of references, so that nothing recurses.

    >>> Call(number=3, name="load").state
    <State.WAITING: 'waiting'>
    """

    number: int
    name: str
    node: int = 0  # calls with equal `node` call one function under one name
    kind: str = Kind.LEAF.value
    state: State = State.WAITING
    caller: int | None = None
    dependencies: tuple[int, ...] = ()
    returned: bool = True  # by its caller; what nobody called is the caller's own business
    used: bool = True  # its value flows into what its caller returned
    closed: bool = False  # its body will call nodes, but has not run yet
    step: int | None = None  # its place on the critical path
    seconds: float | None = None
    line: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The calls of a graph in the order of recording, and what is true of them together.

    >>> from tinygraph import Node
    >>> listing = listing_of(Node(abs, name="size")(Node(min, name="least")(3, 2)).graph)
    >>> listing.title, [call.name for call in listing.calls], listing.seconds
    ('size', ['least', 'size'], None)
    """

    title: str
    calls: tuple[Call, ...]
    seconds: float | None  # from the first start to the last end


def listing_of(graph: Graph, *, times: bool = True) -> Listing:
    """Return the calls of a graph as rows; without `times`, as if nothing had been measured."""
    futures = graph.nodes
    known = {future.number for future in futures}
    steps = _steps(graph, None if times else _given)
    returned = {number for call in futures if call.expansion is not None for number in call.expansion.returned}
    used = _used(graph, futures)
    nodes: dict[tuple[Any, ...], int] = {}
    closed: dict[int, bool] = {}
    rows = []
    for future in futures:
        definition = future.definition
        caller = None if future.caller is None or future.caller.number not in known else future.caller.number
        row = Call(
            number=future.number,
            name=definition.name,
            node=nodes.setdefault(_sameness(definition), len(nodes)),
            kind=definition.kind.value,
            state=future.state,
            caller=caller,
            dependencies=tuple([need.number for need in dict.fromkeys(future.dependencies)]),
            returned=caller is None or future.number in returned,
            used=caller is None or future.number in used,
            closed=future.expansion is None and future.state not in _OVER and _will_open(definition, closed),
            step=steps.get(future.number),
            seconds=future.duration if times else None,
            line=future.line,
        )
        rows.append(row)
    title = _title([target.name for target in graph.targets])
    return Listing(title, tuple(rows), _makespan(futures) if times else None)


def _sameness(definition: Definition) -> tuple[Any, ...]:
    """Return what is equal for definitions that a reader takes for one: copies with other options among them."""
    function = definition.function
    return definition.name, definition.kind, getattr(function, "__code__", None) or id(function)


def _will_open(definition: Definition, known: dict[int, bool]) -> bool:
    if definition.kind is Kind.COMPOSITE:
        return True
    if definition.kind not in _MAY_OPEN:
        return False
    if definition.calls_nodes is not None:
        return definition.calls_nodes
    if id(definition) not in known:
        known[id(definition)] = calls_nodes(definition.function)
    return known[id(definition)]


def _given(call: Future[Any]) -> float:
    """Expected seconds, as if the call had not been measured."""
    return call.definition.expected


def _steps(graph: Graph, cost: Cost | None) -> dict[int, int]:
    try:
        path = graph.critical_path(cost)
    except CycleError:  # then nothing is critical, and the picture is what shows the cycle
        return {}
    return {future.number: step for step, future in enumerate(path)} if len(path) > 1 else {}


def _used(graph: Graph, futures: Iterable[Future[Any]]) -> set[int]:
    """Return the numbers of calls whose value flows into what their caller returned."""
    callers = [future for future in futures if future.expansion is not None]
    returned: dict[int, list[Future[Any]]] = defaultdict(list)
    for caller in callers:
        returned[caller.number] = _returned(caller)
    used: set[int] = set()

    def follow(sources: Iterable[Future[Any]], depth: int) -> None:
        pending = [future for future in sources if future.number not in used]
        while pending:
            future = pending.pop()
            if future.number in used or future.depth < depth:
                continue
            used.add(future.number)
            # A component waits for all its calls; what it passes on is only what it returned.
            pending.extend(need for need in future.dependencies if need.caller is not future)
            pending.extend(returned.get(future.number, ()))

    follow(graph.targets, 0)
    # Inside what nobody uses, calls are used or not for their own caller. What lies further out is not its matter.
    for caller in sorted(callers, key=lambda future: (future.depth, future.number)):
        follow(returned[caller.number], caller.depth + 1)
    return used


def _returned(caller: Future[Any]) -> list[Future[Any]]:
    assert caller.expansion is not None
    if caller.definition.kind is Kind.COROUTINE:  # what it awaited has flowed into its value, unseen
        return list(caller.expansion.calls)
    return [call for call in caller.expansion.calls if call.number in caller.expansion.returned]


def _makespan(futures: Iterable[Future[Any]]) -> float | None:
    timed = [future for future in futures if future.duration is not None]
    if not timed:
        return None
    return max(future.ended for future in timed) - min(future.began for future in timed)


def _title(names: list[str]) -> str:
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
