"""Fill the inputs of a graph: each set of inputs runs a copy of what depends on them, the rest is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ref

from tinygraph.capture import ATOMS, Nested, futures_in
from tinygraph.checks import mismatch
from tinygraph.errors import CycleError, InputError
from tinygraph.future import FINISHED, MISSING, Expansion, Future, copied
from tinygraph.node import Input

# The copies that targets had last, with their inputs: for as long as the first target lives. By its identity and not
# in a dictionary with weak keys, because that would compare futures, and comparing records a call.
_last: dict[int, tuple[ref[Future[Any]], tuple[int, ...], dict[str, Any], tuple[Future[Any], ...]]] = {}


def bound(targets: tuple[Future[Any], ...], inputs: dict[str, Any]) -> tuple[Future[Any], ...]:
    """Return the targets of a copy of the graph in which the inputs have their values.

    Only calls that depend on an input are copied. The futures themselves stay as they were recorded, whatever their
    copies come to; the same inputs a second time are the same copies, and nothing runs again. Raises
    :class:`InputError` for a name that is no input, for an input without a value, and for a value of the wrong type;
    all before anything runs.
    """
    calls = _upstream(targets)
    holes = [call for call in calls if isinstance(call, Input)]
    values = _values(holes, inputs)
    identities = tuple(map(id, targets))
    last = _last.get(identities[0])
    if last is not None and last[1] == identities and _same(values, last[2]):
        return last[3]
    copies: dict[Future[Any], Future[Any]] = {}
    for call in calls:
        if isinstance(call, Input):
            copies[call] = copy = copied(call, Future)
            copy.value, copy.state = values[call.name], FINISHED
            copy.began = copy.ended = 0.0
            copy.worker = 0
        elif any(need in copies for need in _needs(call)):
            copies[call] = _copy(call, copies)
    for copy in copies.values():
        if copy.caller is not None:
            copy.caller = copies.get(copy.caller, copy.caller)
    found = tuple([copies.get(target, target) for target in targets])
    _last[identities[0]] = ref(targets[0], lambda _: _last.pop(identities[0], None) and None), identities, values, found
    return found


def _same(these: dict[str, Any], those: dict[str, Any]) -> bool:
    """Whether inputs are surely the same as before: equal plain values, or the very same objects."""
    return these.keys() == those.keys() and all(
        value is those[name] or (type(value) in ATOMS and type(value) is type(those[name]) and value == those[name])
        for name, value in these.items()
    )


def _values(holes: list[Any], inputs: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs is a dict from names to values, not {inputs!r}")
    known = {hole.name for hole in holes}
    for name, value in inputs.items():
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InputError(f"the graph has no input {name!r}; its inputs: {names}")
        for future in futures_in(value, Future, f"input {name!r} was given an object"):
            raise CycleError(
                f"input {name!r} was given the future {future.name!r} (called at {future.line}): an input takes a "
                f"value; pass the future to the node itself",
                [name, future.name, name],
            )
    values = {}
    for hole in holes:
        value = inputs.get(hole.name, hole.default)
        if value is MISSING:
            raise InputError(f"input {hole.name!r} has no value: pass resolve(inputs={{{hole.name!r}: ...}})")
        if not hole.type.fits(value):
            raise InputError(str(mismatch("resolve", hole.name, hole.type, value)))
        values[hole.name] = value
    return values


def _copy(call: Future[Any], copies: dict[Future[Any], Future[Any]]) -> Future[Any]:
    def swap(future: Future[Any]) -> Future[Any]:
        return copies.get(future, future)

    def swapped(arg: Any) -> Any:
        if type(arg) is Future:
            return swap(arg)
        if type(arg) is Nested:
            return Nested(arg.replace(Future, swap))
        return arg

    copy = copied(call, type(call))
    copy.args = None if call.args is None else tuple([swapped(arg) for arg in call.args])
    copy.kwargs = None if call.kwargs is None else {name: swapped(arg) for name, arg in call.kwargs.items()}
    copy.dependencies = tuple([swap(need) for need in call.dependencies])
    if copy.args is not None and len(copy.args) == len(copy.dependencies) and call.dependencies is call.args:
        copy.dependencies = copy.args
    if call.expansion is not None:
        template = Nested(call.expansion.template).replace(Future, swap)
        copy.expansion = Expansion(tuple([swap(c) for c in call.expansion.calls]), template, call.expansion.returned)
    return copy


def _needs(call: Future[Any]) -> tuple[Future[Any], ...]:
    return call.dependencies if call.expansion is None else call.expansion.calls


def _upstream(targets: tuple[Future[Any], ...]) -> list[Future[Any]]:
    """Return what the targets need, needs first. Finished calls are looked through: other inputs run them anew."""
    found: dict[Future[Any], None] = {}
    pending = [(target, False) for target in reversed(targets)]
    seen: set[Future[Any]] = set()
    while pending:
        call, ready = pending.pop()
        if ready:
            found[call] = None
        elif call not in seen:
            seen.add(call)
            pending.append((call, True))
            pending.extend([(need, False) for need in reversed(_needs(call))])
    return list(found)
