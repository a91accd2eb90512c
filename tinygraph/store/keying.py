"""Keying: the key of a call, made of what its node means and of the tokens of its arguments.

::

    fingerprint of the node ─┐
    tokens of the arguments ─┴─► key
"""

from __future__ import annotations

import marshal
import threading
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any

from tinygraph.capture import ATOMS, Nested
from tinygraph.checks import parameters_of
from tinygraph.definition import Definition, Kind
from tinygraph.errors import UnhashableArgumentError
from tinygraph.future import MISSING, Future, fetched, with_each
from tinygraph.keys.canonical import Known, token, token_and_code
from tinygraph.keys.digests import digest
from tinygraph.keys.fingerprint import Fingerprint, fingerprint
from tinygraph.seeds import Seeds
from tinygraph.store.fileshelf import Loaded
from tinygraph.store.shelf import Lookup, Stored
from tinygraph.store.why import Argument

FORMAT = b"tinygraph 1"  # of keys: another one, and nothing that was kept before is found

# In place of a parameter, where a call draws random numbers.
PLACE = "place in the graph"
SEED = "random seed"


class _NoToken(Exception):
    """What came out of a call means nothing in another process: who gets it is not looked up, and not kept."""


class Reached:
    """What the code in the arguments of a call reaches: random numbers, and nodes that are not kept."""

    __slots__ = ("draws", "unkept")

    def __init__(self) -> None:
        self.draws = False
        self.unkept: tuple[str, ...] = ()


class Keying:
    """Makes the keys of the calls of one run.

    ``seeds``: of the run, which nodes that draw random numbers have in their keys. ``targets``: of the run, from which
    the places of such calls are counted where it has no seed.
    """

    def __init__(self, seeds: Seeds | None, targets: Iterable[Future[Any]]) -> None:
        self.seeds = seeds
        self.seen: set[str] = set()  # the names of nodes that were called
        # By the number of the call: what it was asked for under, the token of its value, what stands for that value
        # where it was only asked for.
        self.keys: dict[int, bytes] = {}
        self.tokens: dict[int, bytes] = {}
        self.standing: dict[int, Any] = {}
        self.called: dict[bytes, tuple[str, ...]] = {}  # by code: the names of the nodes that it calls
        self._targets = targets
        self._places: Seeds | None = None
        self._prints: dict[Definition, tuple[Fingerprint, str]] = {}
        self._nodes: dict[Definition, str] = {}
        self._lock = threading.Lock()

    @property
    def meanings(self) -> list[Fingerprint]:
        """What the code of the nodes means that were asked for."""
        return [meaning for meaning, _ in list(self._prints.values())]  # others may add some meanwhile

    def question(self, call: Future[Any]) -> tuple[Lookup | None, str, list[Argument]]:
        """Return what is asked of a store for a call, else why nothing is; and the arguments by their parameters."""
        definition = call.definition
        meaning, node = self.meaning(definition)
        self.seen.add(definition.name)
        if meaning.unkept:
            # What it returns may come from a node that must run each time: only its calls are looked up.
            return None, f"it calls {meaning.unkept[0]!r}, which is not kept", []
        code = Reached()
        try:
            args = self._arguments(call, code)
        except _NoToken as error:
            return None, str(error), []
        if code.unkept:  # a function that it was given calls such a node, or is one
            return None, f"it is given {code.unkept[0]!r}, which is not kept", []
        draws = meaning.draws or code.draws
        if draws and self.seeds is not None:
            args.append(Argument(SEED, token(self.seeds.of(call))))
        elif draws:
            # Without a seed equal calls draw different numbers: each is found again by its place in the graph.
            if self._places is None:
                self._places = Seeds(0, self._targets)
            args.append(Argument(PLACE, token(self._places.of(call))))
        key = digest(_made_of(meaning, args))
        packed = marshal.dumps([tuple(arg) for arg in args], 2)
        if definition.cache != "run":  # nothing is kept of that
            self.keys[call.number] = key
        return Lookup(key, node, definition.name, meaning.digest, packed), "", args

    def token_of(self, call: Future[Any]) -> bytes:
        """Return the token of the value of a call that has finished, or was found."""
        found = self.tokens.get(call.number)
        if found is None:
            value = self.standing.get(call.number, call.value)
            if call.definition.kind is Kind.STATEFUL:
                found = self._token_of_instance(call, value)
            elif type(value) in (Stored, Loaded):
                found = value.token
            else:
                try:
                    found = token(self.value_of(call), f"what {call.name!r} returned")
                except UnhashableArgumentError as error:
                    raise _NoToken(str(error)) from error
            self.tokens[call.number] = found
        return found

    def value_of(self, call: Future[Any]) -> Any:
        """Return the value of a call that has finished, or was found; of a component, what is made of its calls."""
        value = self.standing.get(call.number, call.value)
        if value is MISSING and call.expansion is not None:
            return Nested(call.expansion.template).replace(Future, self.value_of)
        if value is MISSING:
            raise _NoToken(f"what {call.name!r} returns is not known before it runs")
        return fetched(value)

    def node_of(self, definition: Definition) -> str:
        """Return where the function of a node is defined."""
        found = self._nodes.get(definition)
        if found is None:
            found = self._nodes[definition] = node_of(definition)
        return found

    def meaning(self, definition: Definition) -> tuple[Fingerprint, str]:
        """Return what the code of a node means, and where it is defined."""
        found = self._prints.get(definition)
        if found is None:
            with self._lock:
                found = self._prints[definition] = fingerprint(definition), node_of(definition)
                self.called[found[0].digest] = found[0].nodes
        return found

    def _token_of_instance(self, call: Future[Any], recipe: Any) -> bytes:
        """Return what stands for an object that is made where it is needed: its class, and how it is made."""
        meaning, _ = self.meaning(call.definition)
        if call.args is None:  # it has run, and left a recipe
            args = self._by_parameter(call.definition.function, recipe.args, recipe.kwargs)
        else:
            args = self._arguments(call)
        return b"#" + digest(_made_of(meaning, args))

    def _arguments(self, call: Future[Any], code: Reached | None = None) -> list[Argument]:
        """Return the arguments of a call by parameter, in the order of the parameters, with defaults filled in."""
        definition = call.definition
        if definition.key is not None:
            return [Argument("key", token(self._standing_for(call, definition.key), f"key= of {call.name!r}"))]
        return self._by_parameter(definition.function, call.args or (), call.kwargs, code)

    def _by_parameter(
        self, function: Any, args: Sequence[Any], kwargs: dict[str, Any] | None, code: Reached | None = None
    ) -> list[Argument]:
        names = parameters_of(function)
        found = [self.argument(arg, names[i] if i < len(names) else f"*{i + 1}", code) for i, arg in enumerate(args)]
        if not kwargs and len(args) == len(names):
            return found
        named = {
            name: self.argument(arg, name if name.isidentifier() else f"**{name}", code)
            for name, arg in (kwargs or {}).items()
        }
        for name in names[len(args) :]:
            if name in named:
                found.append(named.pop(name))
            elif (default := _default_of(function, name)) is not MISSING:
                found.append(self.argument(default, name, code))
        return found + [named[name] for name in sorted(named)]

    def argument(self, arg: Any, name: str, code: Reached | None = None) -> Argument:
        """Return an argument by its parameter; what its code reaches is noted in `code`."""
        if type(arg) is Future or isinstance(arg, Future):
            source = "" if arg.definition.kind is Kind.INPUT else arg.name
            return Argument(name, self.token_of(arg), source, self.key_of(arg))
        if type(arg) is Nested:
            if isinstance(arg.template, Future):  # an instance of a class node
                return self.argument(arg.template, name)
            arg = arg.replace(Future, lambda future: Known(self.token_of(future)))
        if code is None or type(arg) in ATOMS:
            return Argument(name, token(arg, f"argument {name!r}"))
        found, draws, unkept = token_and_code(arg, f"argument {name!r}")
        code.draws = code.draws or draws
        code.unkept = code.unkept or unkept
        return Argument(name, found)

    def key_of(self, call: Future[Any]) -> bytes:
        """Return the key that was made for a call, or nothing."""
        return self.keys.get(call.number, b"")

    def _standing_for(self, call: Future[Any], key: Callable[..., Any]) -> Any:
        args, kwargs = with_each(call, self.value_of)
        if call.definition.kind is not Kind.ENTRY:
            return key(*args, **kwargs)
        return [Known(self.argument((call.args or ())[0], "self").token), key(*args[1:], **kwargs)]


def _made_of(meaning: Fingerprint, args: list[Argument]) -> bytes:
    return marshal.dumps([FORMAT, meaning.digest, [(arg[0], arg[1]) for arg in args]], 2)


def node_of(definition: Definition) -> str:
    """Return where the function of a node is defined, as ``module:name``.

    >>> node_of(Definition(digest))
    'tinygraph.keys.digests:digest'
    """
    function: Any = definition.function
    while not hasattr(function, "__qualname__"):
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        function = type(function) if inner is None else inner
    return f"{function.__module__}:{function.__qualname__}"


def _default_of(function: Any, name: str) -> Any:
    """Return the default of a positional parameter, or MISSING."""
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return MISSING
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    at = names.index(name) - (code.co_argcount - len(defaults)) if name in names else -1
    return defaults[at] if at >= 0 else MISSING
