"""Explain: what a run would find in a store, and why the rest has to run. Nothing runs for it."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from tinygraph.blame import text_of
from tinygraph.definition import Kind
from tinygraph.errors import StoreError, UnhashableArgumentError
from tinygraph.future import FINISHED, SETTLED, Future
from tinygraph.graph import Graph
from tinygraph.inputs import bound
from tinygraph.options import effective
from tinygraph.seeds import Seeds
from tinygraph.store import Store
from tinygraph.store.recall import Recall


class Line(NamedTuple):
    """What would become of one call: ``hit``, ``run``, ``unknown`` or ``done``, and why."""

    call: Future[Any]
    fate: str
    why: str


def explain(graph: Graph, store: Any = None, inputs: dict[str, Any] | None = None) -> str:
    """Return what a run of a graph would find in a store, and why the rest would run: a line for calls that are alike.

    >>> import tempfile
    >>> from tinygraph import Node
    >>> double = Node(lambda x: 2 * x, name="double")
    >>> folder = tempfile.mkdtemp()
    >>> double(double(3)).resolve(store=folder, executor="inline")
    12
    >>> print(double(double(3)).graph.explain(store=folder))
    2 calls: 2 are kept
    hit      double ×2
    >>> print(double(4).graph.explain(store=folder))
    1 call: 1 would run
    run      double  argument x: 6 -> 4
    """
    lines = fates(graph, store, inputs)
    folded = Counter((fate, call.name, why) for call, fate, why in lines)
    names = {one: one[1] if count == 1 else f"{one[1]} ×{count:,}" for one, count in folded.items()}
    width = max(map(len, names.values()), default=0)
    counts = {fate: sum(line.fate == fate for line in lines) for fate in ("hit", "run", "unknown", "done")}
    said = [f"{counts[fate]} {_WORDS[fate][counts[fate] != 1]}" for fate in _WORDS if counts[fate]]
    head = f"{len(lines)} call{'s' if len(lines) != 1 else ''}: {', '.join(said)}"
    return "\n".join([head, *(f"{one[0]:8} {name:{width}}  {one[2]}".rstrip() for one, name in names.items())])


def why(call: Future[Any], store: Any = None, inputs: dict[str, Any] | None = None) -> str:
    """Return why one call would run, or that it is a hit."""
    last = next(line for line in reversed(fates(Graph(call), store, inputs)) if line.call.number >= call.number)
    said = {"hit": "hit", "done": "it has its value"}
    return said.get(last.fate) or last.why


_WORDS = {
    "hit": ("is kept", "are kept"),
    "run": ("would run", "would run"),
    "unknown": ("is known once others have run", "are known once others have run"),
    "done": ("has its value", "have their values"),
}


def fates(graph: Graph, store: Any = None, inputs: dict[str, Any] | None = None) -> list[Line]:
    """Return what would become of each call of a graph, needs before what needs them."""
    options = effective({} if store is None else {"store": store})
    if options["store"] is None:
        raise StoreError("explain and why need a store: pass store=, or set it with options(store=...)")
    if inputs or any(call.definition.kind is Kind.INPUT for call in graph.nodes):
        graph = Graph(*bound(graph.targets, dict(inputs or {})))
    found: dict[Future[Any], Line] = {}
    at = Store.at(options["store"])
    at.enter()
    try:
        seeds = None if options["seed"] is None else Seeds(options["seed"], graph.targets)
        recall = Recall(at.values(), options["refresh"], seeds, graph.targets)
        for call in graph.topological_order():
            found[call] = Line(call, *_fate(call, recall, found))
    finally:
        at.leave()
    return [line for line in found.values() if line.call.definition.kind not in (Kind.INPUT, Kind.STATEFUL)]


def _fate(call: Future[Any], recall: Recall, found: dict[Future[Any], Line]) -> tuple[str, str]:
    if call.state in SETTLED:
        return ("done", "") if call.state is FINISHED else ("run", f"it {call.state}")
    needs = call.dependencies if call.expansion is None else call.expansion.calls
    waits = next((need for need in needs if found[need].fate in ("run", "unknown")), None)
    if call.expansion is not None:
        return ("hit", "") if waits is None else ("unknown", f"calls {waits.name!r}")
    if call.definition.kind is Kind.STATEFUL:
        return "done", ""
    if not recall.concerns(call):
        return "run", "cache=False"
    if waits is not None:
        return "unknown", f"needs {waits.name!r}"
    try:
        asked = recall.ask(call)
    except (UnhashableArgumentError, OSError) as error:  # what has no key; a file that is not there
        return "run", text_of(error)
    return ("hit", "") if asked.token else ("run", asked.why)
