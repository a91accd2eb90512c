"""Repeat: run a graph twice from nothing, and tell which calls gave something else although they got the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

from tinygraph.errors import OptionError
from tinygraph.future import Future
from tinygraph.graph import Graph
from tinygraph.store import Store

if TYPE_CHECKING:
    from tinygraph.options import RunOptions
    from tinygraph.store.history import TaskRecord


def differences(record: Callable[[], Future[Any] | Graph], **options: Unpack[RunOptions]) -> list[str]:
    """Run what a function records twice, and return a line for each call that is not the same both times.

    >>> import itertools
    >>> from tinygraph import Node
    >>> counter = itertools.count()
    >>> double, count = Node(lambda x: 2 * x, name="double"), Node(lambda: next(counter), name="count", key=lambda: 0)
    >>> differences(lambda: double(double(3)), executor="inline")
    []
    >>> differences(lambda: double(count()), executor="inline")
    ["'count' returned 0 and then 1, for the same arguments"]

    A call that differs only because what it got did is not in the list: the first cause is. ``options`` are those of a
    run, but for `store`. An empty list does not prove that a graph is deterministic; an entry proves that it is not.

    Raises :class:`OptionError` for a `store`, and what the run raises.
    """
    if "store" in options or "refresh" in options:
        raise OptionError("differences() runs everything, twice: it takes no store, and nothing to refresh")
    first, second = _outputs(record, options), _outputs(record, options)
    found = []
    for call in first.keys() & second.keys():
        one, other = first[call] - second[call], second[call] - first[call]
        if one or other:
            before, after = (", ".join(sorted(some)) or "nothing" for some in (one, other))
            found.append(f"{call[0]!r} returned {before} and then {after}, for the same arguments")
    if not found:
        found = [f"{call[0]!r} was called with other arguments" for call in first.keys() ^ second.keys()]
    return sorted(set(found))


def _outputs(record: Callable[[], Future[Any] | Graph], options: Any) -> dict[Any, Counter[str]]:
    """Return what was returned, by node and arguments."""
    found: dict[Any, Counter[str]] = {}
    for task in _tasks(record, options):
        found.setdefault((task.name, task.inputs), Counter())[task.output or task.state] += 1
    return found


def _tasks(record: Callable[[], Future[Any] | Graph], options: Any) -> tuple[TaskRecord, ...]:
    target = record()
    graph = target if isinstance(target, Graph) else Graph(target)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        result = graph.run(store=store, **options)
        result.wait()
        if result._error is not None:
            raise result._error
        assert result.id is not None
        return store.run(result.id).tasks
