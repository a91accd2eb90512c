"""Inputs: the holes of a graph, and how they are filled. Each set of inputs runs a copy of what depends on them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar
from weakref import ref

from tinygraph.capture import ATOMS, Nested, futures_in
from tinygraph.checks import Check, mismatch
from tinygraph.definition import Definition, Kind
from tinygraph.errors import CycleError, InputError, RecordError
from tinygraph.future import FINISHED, MISSING, Expansion, Future, copied, needs_of, record, upstream

T = TypeVar("T", covariant=True)

# The copies that targets had last, with their inputs: for as long as one of those targets lives. By its identity and
# not in a dictionary with weak keys, because that would compare futures, and comparing records a call.
_last: dict[int, tuple[ref[Future[Any]], tuple[int, ...], dict[str, Any], tuple[Future[Any], ...]]] = {}


class Input(Future[T]):
    """A hole in a graph, filled when it is resolved.

    >>> from tinygraph import Input, Node
    >>> x = Input("x", int, default=3)
    >>> double = Node(lambda x: 2 * x)(x)
    >>> double.resolve(executor="inline"), double.resolve(inputs={"x": 5}, executor="inline")
    (6, 10)

    Arguments: its ``name``, the ``type`` that its value must have (any, if left out) and its ``default``.

    Raises :class:`RecordError` for what is no name, and :class:`ArgumentError` for a default of the wrong type. A
    value is checked when it is given: :class:`InputError`.
    """

    __slots__ = ("default", "type")

    def __new__(cls, name: str, type: Any = object, default: Any = MISSING) -> Input[T]:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr]
            raise RecordError(f"an Input needs a name, not {name!r}")
        definition = Definition(partial(_unset, name), Kind.INPUT, name=name, check=False)
        future: Any = record(definition, (), None, sys._getframe(1), cls)
        future.type = Check(type, Future)
        if default is not MISSING and not future.type.fits(default):
            raise mismatch("Input", name, future.type, default)
        future.default = default
        return future  # type: ignore[no-any-return]

    def __init__(self, name: str, type: Any = object, default: Any = MISSING) -> None:
        pass


def bound(targets: tuple[Future[Any], ...], inputs: dict[str, Any]) -> tuple[Future[Any], ...]:
    """Return the targets of a copy of the graph in which the inputs have their values.

    Only calls that depend on an input are copied. The futures themselves stay as they were recorded, whatever their
    copies come to; the same inputs a second time are the same copies, and nothing runs again. Raises
    :class:`InputError` for a name that is no input, for an input without a value, and for a value of the wrong type;
    all before anything runs.
    """
    # Finished calls are looked through: other inputs run them anew.
    calls = upstream(targets)
    holes = [call for call in calls if isinstance(call, Input)]
    values = _values(holes, inputs)
    identities = tuple(map(id, targets))
    for identity in identities:
        last = _last.get(identity)
        if last is not None and last[1] == identities and _same(values, last[2]):
            return last[3]
    copies: dict[Future[Any], Future[Any]] = {}
    for call in calls:
        if isinstance(call, Input):
            copies[call] = copy = copied(call, Future)
            copy.value, copy.state = values[call.name], FINISHED
            copy.began = copy.ended = 0.0
            copy.worker = 0
        elif any(need in copies for need in needs_of(call)):
            copies[call] = _copy(call, copies)
    for copy in copies.values():
        if copy.caller is not None:
            copy.caller = copies.get(copy.caller, copy.caller)
    found = tuple([copies.get(target, target) for target in targets])
    # Kept by a target that was copied: no copy refers to that, so that it is forgotten when the user lets it go.
    target = next((target for target in targets if target in copies), None)
    if target is not None:
        identity = id(target)
        _last[identity] = ref(target, lambda _: _last.pop(identity, None) and None), identities, values, found
    return found


def _same(these: dict[str, Any], those: dict[str, Any]) -> bool:
    """Whether inputs are surely the same as before: an object, a file for one, may have been changed since."""
    return these.keys() == those.keys() and all(
        type(value) in ATOMS and type(value) is type(those[name]) and value == those[name]
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


def _unset(name: str) -> None:
    """Stand for an input, which has no body: the run fills what the graph holds when it starts."""
    raise InputError(
        f"input {name!r} is used in the body of a node, which was not part of the graph when its inputs were filled: "
        f"pass it to that node as an argument"
    )
