"""What a call takes from its arguments: a snapshot of the containers, and the futures in them, at any depth."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

from tinygraph.errors import RecordError

# Values without an inside. Most arguments are one of these or a future, and recording looks no further.
ATOMS: frozenset[type] = frozenset((int, float, str, bytes, bool, complex, type(None), type(Ellipsis), range))
_SEEN_THROUGH: tuple[type[Any], ...] = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    deque,
    MappingProxyType,
    BaseException,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
_CLOSED = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
# How far into objects of other libraries recording looks for a forgotten future.
_LOOK_AT_MOST = 1_000


class Nested:
    """An argument with futures somewhere inside: filled with their values when the body runs.

    >>> Nested([1, (2, 3)]).fill(str)
    [1, (2, 3)]
    """

    __slots__ = ("template",)

    def __init__(self, template: Any) -> None:
        self.template = template

    def fill(self, cls: type) -> Any:
        """Return the container with the value of each `cls` in it."""
        return self.replace(cls, lambda future: future.value)

    def replace(self, cls: type, by: Callable[[Any], Any]) -> Any:
        """Return the container with `by(thing)` for each `cls` in it."""
        return _rebuilt(self.template, cls, lambda leaf: by(leaf) if isinstance(leaf, cls) else leaf)


def capture(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None, cls: type
) -> tuple[tuple[Any, ...], dict[str, Any] | None, tuple[Any, ...]]:
    """Return the arguments as they are now, and the futures (instances of `cls`) in them in order.

    A container that changes after the call does not count any more. Raises :class:`RecordError` for a container
    that holds itself, and for a future hidden in an object that cannot be filled.
    """
    found: list[Any] = []
    kept = tuple([_kept(name, _position(i), arg, cls, found) for i, arg in enumerate(args)])
    named = {key: _kept(name, key, arg, cls, found) for key, arg in kwargs.items()} if kwargs else None
    return kept, named, tuple({id(future): future for future in found}.values())


def futures_in(value: Any, cls: type, what: str | None = None) -> list[Any]:
    """Return the futures (instances of `cls`) in a value, in order and each once.

    With `what`, the name of the value, a future that hides in an object is refused with a :class:`RecordError`.
    """
    found: list[Any] = []
    if isinstance(value, cls):
        return [value]
    look = _Look(cls, found)
    _rebuilt(value, cls, look)
    if what is not None and look.hidden:
        raise _hidden_error(what, look.hidden[0])
    return list({id(future): future for future in found}.values())


class _Look:
    """What to do with each thing that is no container: note futures, and look for hidden ones."""

    __slots__ = ("cls", "found", "hidden", "plain")

    def __init__(self, cls: type, found: list[Any]) -> None:
        self.cls = cls
        self.found = found
        self.hidden: list[str] = []
        self.plain: set[type] = set()  # classes without an inside, of which a list may hold a million

    def __call__(self, leaf: Any) -> Any:
        kind = type(leaf)
        if isinstance(leaf, self.cls):
            self.found.append(leaf)
        elif kind not in self.plain and not isinstance(leaf, _CLOSED):
            if _is_plain(kind):
                self.plain.add(kind)
            else:
                self.hidden.extend(_hidden(leaf, self.cls))
        return leaf


def _hidden_error(what: str, path: str) -> RecordError:
    return RecordError(
        f"{what} with a future hidden in it, at {path.strip()}: hand the future itself over, "
        f"or in a list, tuple, dict, set, dataclass or named tuple"
    )


def _position(index: int) -> str:
    return f"argument {index + 1}"


def _kept(name: str, where: str, arg: Any, cls: type, found: list[Any]) -> Any:
    if type(arg) is cls:
        found.append(arg)
        return arg
    if type(arg) in ATOMS:
        return arg
    before = len(found)
    look = _Look(cls, found)
    try:
        snapshot = _rebuilt(arg, cls, look)
    except RecursionError:
        raise RecordError(f"{name}: {where} holds itself, or is nested too deep to be taken apart") from None
    if look.hidden:
        raise _hidden_error(f"{name}: {where} is an object", look.hidden[0])
    return Nested(snapshot) if len(found) > before else snapshot


def hidden_in(thing: Any, cls: type) -> str | None:
    """Return the path, such as ``.model.rate``, at which an instance of `cls` hides in an object, or None."""
    return next(_hidden(thing, cls), None)


def _rebuilt(value: Any, cls: type, leaf: Callable[[Any], Any], memo: dict[int, Any] | None = None) -> Any:
    """Return a copy of the containers in `value`, each thing that is no container replaced by `leaf(thing)`.

    A dataclass is copied only where an instance of `cls` is in it: it may be anything, a model for instance. What
    occurs twice is one thing in the copy too. Raises RecursionError for what holds itself.
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is cls:
        return leaf(value)
    if memo is None:
        memo = {}
    elif id(value) in memo:
        known = memo[id(value)][1]
        if known is _UNFINISHED:
            raise RecursionError("a container that holds itself")
        return known
    # The value is kept beside its copy, so that nothing else gets its id as long as the memo lives.
    memo[id(value)] = value, _UNFINISHED
    copied = _copy_of(kind, value, cls, leaf, memo)
    memo[id(value)] = value, copied
    return copied


_UNFINISHED = object()


def _copy_of(kind: type, value: Any, cls: type, leaf: Callable[[Any], Any], memo: dict[int, Any]) -> Any:
    if kind is list:
        return [item if type(item) in ATOMS else _rebuilt(item, cls, leaf, memo) for item in value]
    if kind is tuple:
        return tuple([item if type(item) in ATOMS else _rebuilt(item, cls, leaf, memo) for item in value])
    if kind is dict:
        return {
            key if type(key) in ATOMS else _rebuilt(key, cls, leaf, memo): _rebuilt(item, cls, leaf, memo)
            for key, item in value.items()
        }
    if kind is set or kind is frozenset:
        return kind([_rebuilt(item, cls, leaf, memo) for item in value])
    if kind is slice:
        return slice(*[_rebuilt(part, cls, leaf, memo) for part in (value.start, value.stop, value.step)])
    if isinstance(value, tuple) and hasattr(kind, "_make"):
        return kind._make([_rebuilt(item, cls, leaf, memo) for item in value])
    fields = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__attrs_attrs__", None)
    if fields is not None:
        return _rebuilt_record(value, [getattr(field, "name", field) for field in fields], cls, leaf, memo)
    if kind.__module__ == "collections":
        return _rebuilt_collection(value, cls, leaf, memo)
    if kind is Nested:
        return _rebuilt(value.template, cls, leaf, memo)
    return leaf(value)


def _rebuilt_record(
    value: Any, names: Iterable[str], cls: type, leaf: Callable[[Any], Any], memo: dict[int, Any]
) -> Any:
    before = {name: getattr(value, name) for name in names if hasattr(value, name)}
    found = False

    def watch(thing: Any) -> Any:
        nonlocal found
        found = found or isinstance(thing, cls)
        return leaf(thing)

    parts = {name: _rebuilt(part, cls, watch, memo) for name, part in before.items()}
    if not found and not any(_holds(part, cls) for part in before.values()):
        return value
    new = copy.copy(value)
    for name, part in parts.items():
        object.__setattr__(new, name, part)
    return new


def _rebuilt_collection(value: Any, cls: type, leaf: Callable[[Any], Any], memo: dict[int, Any]) -> Any:
    """Rebuild a deque, OrderedDict, defaultdict, Counter and the like."""
    new = copy.copy(value)
    if isinstance(value, dict):
        new.clear()
        new.update({_rebuilt(key, cls, leaf, memo): _rebuilt(item, cls, leaf, memo) for key, item in value.items()})
    elif hasattr(value, "extend"):
        new.clear()
        new.extend([_rebuilt(item, cls, leaf, memo) for item in value])
    else:
        return leaf(value)  # a ChainMap and the like, which no copy can fill
    return new


def _holds(value: Any, cls: type) -> bool:
    """Whether an instance of `cls` is in a container, which may have been copied for another part before."""
    found = False

    def look(leaf: Any) -> Any:
        nonlocal found
        found = found or isinstance(leaf, cls)
        return leaf

    _rebuilt(value, cls, look)
    return found


def _hidden(thing: Any, cls: type) -> Iterator[str]:
    """Yield the path of the nearest instance of `cls` in an object, level by level."""
    seen: set[int] = set()
    pending: deque[tuple[tuple[str, ...], Any]] = deque([((), thing)])
    while pending and len(seen) < _LOOK_AT_MOST:
        path, item = pending.popleft()
        if id(item) in seen:
            continue
        seen.add(id(item))
        for form, key, part in _inside(item):
            kind = type(part)
            if kind in ATOMS:
                continue
            if isinstance(part, cls):
                yield "".join([*path, form.format(key)])
                return
            if len(pending) < _LOOK_AT_MOST and not isinstance(part, _CLOSED):
                pending.append(((*path, form.format(key)), part))


def parts_of(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is directly inside an object: the path that leads there, such as ``['lock']``, and the part.

    >>> list(parts_of({"rate": 1}))
    [("['rate']", 1), (" key 'rate'", 'rate')]
    """
    if type(thing) not in ATOMS and not isinstance(thing, _CLOSED):
        yield from ((form.format(key), part) for form, key, part in _inside(thing))


def _is_plain(kind: type) -> bool:
    """Whether the instances of a class, such as Decimal, surely have nothing inside."""
    own = kind.__mro__[:-1]
    return not (kind.__dictoffset__ or issubclass(kind, _SEEN_THROUGH)) and not any(
        base.__dict__.get("__slots__") or base.__module__.partition(".")[0] in ("numpy", "pandas", "functools")
        for base in own
    )


def _inside(item: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what is in an object: how to write its place, the key that goes there, and the thing itself."""
    kind = type(item)
    library = kind.__module__.partition(".")[0]
    if isinstance(item, dict):
        for key, part in list(item.items()):  # other threads may change it meanwhile
            yield "[{!r}]", key, part
            yield " key {!r}", key, key
    elif isinstance(item, MappingProxyType):
        yield from (("[{!r}]", key, part) for key, part in item.items())
    elif isinstance(item, BaseException):
        yield from ((".args[{}]", index, part) for index, part in enumerate(item.args))
        yield from ((".{}", name, part) for name, part in list(vars(item).items()))
    elif isinstance(item, _SEEN_THROUGH):
        yield from (("[{}]", index, part) for index, part in enumerate(item))
    elif library == "numpy":
        if getattr(getattr(item, "dtype", None), "hasobject", False) and hasattr(item, "flat"):
            yield from ((".flat[{}]", index, part) for index, part in enumerate(item.flat))
    elif library == "pandas":
        columns = item.items() if kind.__name__ == "DataFrame" else [(kind.__name__, item)]
        for name, column in columns:
            if str(getattr(column, "dtype", "")) == "object":
                form = f"[{name!r}]".replace("{", "{{").replace("}", "}}") if item is not column else ""
                yield from ((form + "[{}]", index, part) for index, part in enumerate(column.array))
    elif kind.__name__ == "partial":
        yield from ((" argument {}", index + 1, part) for index, part in enumerate(item.args))
        yield from ((" argument {!r}", name, part) for name, part in item.keywords.items())
    else:
        if kind.__dictoffset__:
            yield from ((".{}", name, part) for name, part in list(vars(item).items()))
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else tuple(slots):
                try:
                    yield ".{}", name, object.__getattribute__(item, name)
                except AttributeError:  # a slot without a value, or one with a private name
                    continue
