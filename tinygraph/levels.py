"""Levels: the bottom levels of live calls, kept right while a run makes its graph grow.

The bottom level of a call is the dearest way from its start to the end of the run, in expected seconds. It is what the
ready queue goes by. :mod:`tinygraph.schedule` has the same for a graph as a whole.
"""

from __future__ import annotations

from typing import Any

from tinygraph.blame import unfinished_cycle
from tinygraph.definition import Definition
from tinygraph.future import SETTLED, Future


def rank(fresh: list[Future[Any]], costs: dict[Definition, float]) -> None:
    """Give calls that are new to a run their levels; raises :class:`CycleError` when they wait for each other.

    ``costs``: what calls are known to take, in seconds, where that is more than their nodes say.
    """
    in_order = sorted(fresh, key=_number)
    # Numbers are an order of needs before dependents, except where `after` or a component says otherwise.
    if any(call.expansion is not None or (call.dependencies and _is_backward(call)) for call in in_order):
        in_order = _topological(in_order)
    for call in reversed(in_order):
        call._level = _level_of(call, costs)


def raise_levels(changed: list[Future[Any]], engine: Any) -> list[Future[Any]]:
    """Raise the levels upstream of calls that are new or have new calls; return the calls that were raised.

    Raises :class:`CycleError` when calls wait for each other.
    """
    upstream: dict[Future[Any], None] = {}
    seen = set(changed)
    pending = list(changed)
    while pending:
        call = pending.pop()
        for need in call.dependencies if call.expansion is None else call.expansion.calls:
            # What has settled has no dependents any more, and its level serves no purpose.
            if need._engine is engine and need not in seen and need.state not in SETTLED:
                seen.add(need)
                upstream[need] = None
                pending.append(need)
    raised = []
    for call in reversed(_topological(list(upstream))) if upstream else ():
        level = _level_of(call, engine.costs)
        if level > call._level:
            call._level = level
            raised.append(call)
    return raised


def _level_of(call: Future[Any], costs: dict[Definition, float]) -> float:
    level = 0.0
    for dependent in call._dependents:
        if dependent._level > level:
            level = dependent._level
    # A body that has made its calls costs nothing itself any more.
    if call.expansion is not None:
        return level
    definition = call.definition
    return level + (costs[definition] if costs else definition.expected)


def _number(call: Future[Any]) -> int:
    return call.number


def _is_backward(call: Future[Any]) -> bool:
    number = call.number
    return any(need.number > number for need in call.dependencies)


def _topological(fresh: list[Future[Any]]) -> list[Future[Any]]:
    """Order calls, needs before dependents, whose numbers are no such order; refuse a cycle."""
    waiting = dict.fromkeys(fresh, 0)
    for call in fresh:
        for dependent in call._dependents:
            if dependent in waiting:
                waiting[dependent] += 1
    order = [call for call in fresh if not waiting[call]]
    for call in order:
        for dependent in call._dependents:
            if dependent in waiting:
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    order.append(dependent)
    if len(order) < len(fresh):
        raise unfinished_cycle([call for call in fresh if waiting[call]])
    return order
