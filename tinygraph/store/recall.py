"""Recall: what one run remembers of calls that ran before. It makes their keys, looks them up, and keeps what is new.

::

    fingerprint of the node ─┐
    tokens of the arguments ─┴─► key ──► shelf ──► the value, or why it has to be computed
"""

from __future__ import annotations

import marshal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, NamedTuple, Protocol

from tinygraph.blame import text_of
from tinygraph.capture import ATOMS, Nested, hidden_in
from tinygraph.checks import parameters_of
from tinygraph.definition import Definition, Kind
from tinygraph.errors import DamagedEntry, UnhashableArgumentError
from tinygraph.future import FINISHED, MISSING, SETTLED, Future, State, fetched
from tinygraph.keys.canonical import Known, token, token_and_code
from tinygraph.keys.digests import digest
from tinygraph.keys.fingerprint import Fingerprint, fingerprint
from tinygraph.seeds import Seeds
from tinygraph.store.fileshelf import Loaded
from tinygraph.store.shelf import At, Lookup, Made, Settings, Shelf, Stored
from tinygraph.store.why import EVICTED, HIT, REFRESHED, Argument, Before, Seen, reason

FORMAT = b"tinygraph 1"  # of keys: another one, and nothing that was kept before is found

PLACE = "place in the graph"
SEED = "random seed"  # in place of a parameter, where a call draws random numbers
# What runs a body that computes something, or decides something. The others cost nothing.
_LOOKED_UP = frozenset((Kind.LEAF, Kind.COMPOSITE, Kind.ENTRY, Kind.COROUTINE, Kind.GENERATOR))


class Keeps(Protocol):
    """Where values are kept: a directory, or a state file."""

    @property
    def settings(self) -> Settings | None: ...
    def find(self, key: bytes) -> tuple[bytes, Any] | None: ...
    def keep(self, lookup: Lookup, value: Any, seconds: float) -> tuple[bytes, Any]: ...
    def keep_code(self, code: bytes, parts: dict[str, str], definition: Definition) -> None: ...
    def keep_input(self, token: bytes, value: Any) -> None: ...
    def parts_of(self, code: bytes) -> dict[str, str]: ...
    def keep_thing(self, key: bytes, value: Any) -> None: ...
    def evicted(self, key: bytes) -> bool: ...
    def latest(self, node: str) -> Sequence[Seen]: ...


class Asked:
    """What was asked of the store for one call, and what it said: what the history of the run tells of it."""

    __slots__ = ("lookup", "token", "why")

    def __init__(self, lookup: Lookup | None, why: str) -> None:
        self.lookup = lookup
        self.why = why
        self.token = b""


class Reached:
    """What the code in the arguments of a call reaches: random numbers, and nodes that are not kept."""

    __slots__ = ("draws", "unkept")

    def __init__(self) -> None:
        self.draws = False
        self.unkept: tuple[str, ...] = ()


class Call(NamedTuple):
    """A call with all that it takes to run it again."""

    definition: Definition
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seed: int | None


class Tells(Protocol):
    """Who writes the history of a run."""

    def key_of(self, call: Future[Any]) -> bytes: ...
    def replay_line(self, call: Future[Any]) -> str: ...


class Recall:
    """What one run remembers.

    ``shelf``: where values are kept; None where only equal calls of the run itself are to be one. ``refresh``: the
    names of nodes that are to run whatever was kept. ``seeds``: of the run, which nodes that draw random numbers have
    in their keys. ``targets``: of the run, from which the places of such calls are counted where it has no seed.
    """

    def __init__(
        self,
        shelf: Keeps | None,
        refresh: Iterable[str] = (),
        seeds: Seeds | None = None,
        targets: Iterable[Future[Any]] = (),
    ) -> None:
        self.shelf = shelf
        self.seeds = seeds
        self.seen: set[str] = set()  # the names of nodes that were called
        self._targets = targets
        self._places: Seeds | None = None
        self.history: Tells | None = None
        self.asked: dict[int, Asked] = {}  # by the number of the call
        # The arguments of calls whose values lie in the store only, for the case that one cannot be read any more.
        self.arguments: dict[int, tuple[Any, Any]] = {}
        self._refresh = frozenset(refresh)
        self._unreadable: set[bytes] = set()  # what was found, and could not be decoded: it is computed again
        self._looked: set[int] = set()
        self._tokens: dict[int, bytes] = {}
        self._standing: dict[int, Any] = {}  # what stands for values of calls that were only asked for
        self._prints: dict[Definition, tuple[Fingerprint, str]] = {}
        self._called: dict[bytes, tuple[str, ...]] = {}  # by code: the names of the nodes that it calls
        self._concerned: dict[Definition, bool] = {}
        self._nodes: dict[Definition, str] = {}
        self._running: dict[bytes, Future[Any]] = {}  # by key: equal calls wait for it, and have what it has
        self._before: dict[str, Before] = {}  # by node
        self._lock = threading.Lock()
        self._told = False
        self._codecs: bytes | None = None

    # What the engine asks

    def concerns(self, call: Future[Any]) -> bool:
        """Whether a call is to be looked up before it runs."""
        definition = call.definition
        concerned = self._concerned.get(definition)
        if concerned is None:
            cache = definition.cache
            asked_for = cache is not False and (self.shelf is not None or cache is not None)
            concerned = self._concerned[definition] = asked_for and definition.kind in _LOOKED_UP
        return concerned and call.number not in self._looked

    def look(self, call: Future[Any]) -> Any:
        """Return the value of a call, an equal call that is to have it, or MISSING: then it must run.

        Raises :class:`UnhashableArgumentError` for an argument that has no key.
        """
        self._looked.add(call.number)
        asked, args = self._question(call)
        lookup = asked.lookup
        if lookup is None:
            self.asked[call.number] = asked
            return MISSING
        running = self._running.get(lookup.key)
        if running is not None and running.state in (State.SKIPPED, State.CANCELLED):
            running = None  # that says nothing of this one
        if running is not None:
            if running.state not in SETTLED:
                self._looked.discard(call.number)  # it is looked up again when that one has finished
            elif running.state is FINISHED:
                self._tokens[call.number] = self.token_of(running)
            return running
        shelf = self._shelf_for(call)
        found = self._found(shelf, lookup)
        if found is None:
            self._running[lookup.key] = call
            if shelf is not None:
                asked.why = self._why(shelf, lookup, args)
                self.asked[call.number] = asked
                self._keep_beside(shelf, call, lookup, args)
            return MISSING
        asked.why, asked.token = HIT, found[0]
        self._tokens[call.number] = found[0]
        self._can_run_again(call, found[1])
        self.asked[call.number] = asked
        return found[1]

    def _can_run_again(self, call: Future[Any], standing: Any) -> None:
        """Keep the arguments of a call whose value lies in the store only, should that not be readable any more."""
        if call.args is not None and type(standing) in (Stored, Loaded):
            self.arguments[call.number] = standing.origin = call.args, call.kwargs

    def ask(self, call: Future[Any]) -> Asked:
        """Return what the store says about a call whose arguments are known, and change nothing."""
        asked, args = self._question(call)
        shelf = self._shelf_for(call)
        if asked.lookup is not None and shelf is not None:
            found = self._found(shelf, asked.lookup)
            asked.why = self._why(shelf, asked.lookup, args) if found is None else HIT
            if found is not None:
                asked.token = self._tokens[call.number] = found[0]
                self._standing[call.number] = found[1]
        return asked

    def _question(self, call: Future[Any]) -> tuple[Asked, list[Argument]]:
        definition = call.definition
        meaning, node = self._meaning(definition)
        self.seen.add(definition.name)
        if meaning.unkept:
            # What it returns may come from a node that must run each time: only its calls are looked up.
            return Asked(None, f"it calls {meaning.unkept[0]!r}, which is not kept"), []
        code = Reached()
        try:
            args = self._arguments(call, code)
        except _NoToken as error:
            return Asked(None, str(error)), []
        if code.unkept:  # a function that it was given calls such a node, or is one
            return Asked(None, f"it is given {code.unkept[0]!r}, which is not kept"), []
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
        return Asked(Lookup(key, node, definition.name, meaning.digest, packed), ""), args

    def _shelf_for(self, call: Future[Any]) -> Keeps | None:
        return None if call.definition.cache == "run" else self.shelf

    def _found(self, shelf: Keeps | None, lookup: Lookup) -> tuple[bytes, Any] | None:
        if shelf is None or lookup.key in self._unreadable or self._refreshed(lookup):
            return None
        return shelf.find(lookup.key)

    def _refreshed(self, lookup: Lookup) -> bool:
        """Whether a call is to run whatever was kept: it was asked for, or it calls a node that was."""
        if not self._refresh:
            return False
        return lookup.name in self._refresh or not self._refresh.isdisjoint(self._called.get(lookup.code, ()))

    def _keep_beside(self, shelf: Keeps, call: Future[Any], lookup: Lookup, args: list[Argument]) -> None:
        """Keep what explains a value, and what runs it again: the parts of its code, its node, its arguments."""
        meaning, _ = self._meaning(call.definition)
        tokens = {argument.parameter: argument.token for argument in args}
        given = [*zip(tokens, call.args or (), strict=False), *(call.kwargs or {}).items()]
        try:
            shelf.keep_code(meaning.digest, meaning.parts, call.definition)
            for name, arg in given if call.definition.key is None else ():
                if isinstance(arg, Future) or (type(arg) is Nested and isinstance(arg.template, Future)):
                    future = arg if isinstance(arg, Future) else arg.template
                    if not self._key_of(future):
                        shelf.keep_input(tokens[name], _as_made(fetched(future.value)))
                elif type(arg) is Nested:
                    shelf.keep_input(tokens[name], arg.replace(Future, self._at))
                elif type(arg) not in ATOMS and name in tokens:
                    shelf.keep_input(tokens[name], arg)
        except Exception as error:
            self.could_not_keep(call, text_of(error))

    def keep(self, call: Future[Any], value: Any, seconds: float) -> Any:
        """Keep what came out of a call; return what stands for it from now on."""
        lookup = self.lookup_of(call)
        if lookup is None or self.shelf is None or not self._still_holds(call, lookup):
            return value
        try:
            found, standing = self.shelf.keep(lookup, fetched(value), seconds)
        except DamagedEntry:
            return value  # what it forwards turns out to be damaged: whoever needs it looks again
        except Exception as error:  # a full disk, a value that cannot be pickled: the run goes on without
            self.could_not_keep(call, text_of(error))
            return value
        self.kept(call, found)
        self._can_run_again(call, standing)
        return standing

    def _still_holds(self, call: Future[Any], lookup: Lookup) -> bool:
        """Whether the files that a call got are what they were when its key was made."""
        if "tinygraph.keys.files" not in sys.modules or call.definition.key is not None or call.args is None:
            return True
        tokens = {argument.parameter: argument.token for argument in lookup.arguments}
        given = [*zip(tokens, call.args, strict=False), *(call.kwargs or {}).items()]
        with_files = [(name, arg) for name, arg in given if name in tokens and _has_files(arg)]
        try:
            return all(self._argument(arg, name).token == tokens[name] for name, arg in with_files)
        except OSError:
            return False

    def _at(self, future: Future[Any]) -> Any:
        """Return what stands for the value of a call in an argument that is kept: its key, if it has one."""
        key = self._key_of(future)
        if key:
            return At(key)
        return _as_made(fetched(future.value))

    # What workers and the history ask

    @property
    def settings(self) -> Any:
        """What a worker needs to know to keep values itself; None where that is for the driver to do."""
        return None if self.shelf is None else self.shelf.settings

    @property
    def codecs(self) -> bytes:
        """The codecs that the program has registered, pickled."""
        if self._codecs is None:
            from tinygraph.store.codecs import codecs

            registered = codecs()
            self._codecs = b""
            if registered:
                import cloudpickle

                self._codecs = cloudpickle.dumps(registered)
        return self._codecs

    def was_kept(self, call: Future[Any], value: Any, kept: Any, seconds: float, *, is_there_only: bool) -> Any:
        """Take up what a worker has kept, or say why it could not; return what stands for the value."""
        lookup = self.lookup_of(call)
        if isinstance(kept, str):
            self.could_not_keep(call, kept)
        elif lookup is not None and isinstance(self.shelf, Shelf):
            if not self._still_holds(call, lookup):
                self.shelf.discard(lookup.key)
                return fetched(self.shelf.standing(lookup.key, kept.found)) if is_there_only else value
            self.shelf.adopt(lookup, kept.found, seconds)
            self.kept(call, kept.found.token)
            if is_there_only:
                standing = self.shelf.standing(lookup.key, kept.found)
                self._can_run_again(call, standing)
                return standing
        return value

    def lookup_of(self, call: Future[Any]) -> Lookup | None:
        """Return under what the value of a call that runs is to be kept; None for what is not kept."""
        asked = self.asked.get(call.number)
        return None if asked is None else asked.lookup

    def kept(self, call: Future[Any], found: bytes) -> None:
        """Note that the value of a call was kept, by whom ever, and its token."""
        self._tokens[call.number] = found
        asked = self.asked[call.number]
        asked.token = found
        if asked.lookup is not None:
            self._running.pop(asked.lookup.key, None)

    def failed(self, call: Future[Any], error: BaseException) -> None:
        """Keep what it takes to run a call again that failed, and say how in a note on its exception."""
        history = self.history
        if history is None or self.shelf is None:
            return
        try:
            args, kwargs = _replaced(call, self._at)
            seed = None if self.seeds is None else self.seeds.of(call)
            self.shelf.keep_thing(history.key_of(call), Call(call.definition, tuple(args), kwargs, seed))
            error.add_note(history.replay_line(call))
        except Exception:  # what cannot be pickled cannot be replayed, and the failure itself is what counts
            return

    def could_not_keep(self, call: Future[Any], why: str) -> None:
        """Warn, once in a run, that something could not be kept."""
        if not self._told:
            self._told = True
            warnings.warn(f"the value of {call.name!r} could not be kept: {why}", RuntimeWarning, stacklevel=2)

    def token_of(self, call: Future[Any]) -> bytes:
        """Return the token of the value of a call that has finished, or was found."""
        found = self._tokens.get(call.number)
        if found is None:
            value = self._standing.get(call.number, call.value)
            if call.definition.kind is Kind.STATEFUL:
                found = self._token_of_instance(call, value)
            elif type(value) in (Stored, Loaded):
                found = value.token
            else:
                try:
                    found = token(self._value_of(call), f"what {call.name!r} returned")
                except UnhashableArgumentError as error:
                    raise _NoToken(str(error)) from error
            self._tokens[call.number] = found
        return found

    def _value_of(self, call: Future[Any]) -> Any:
        """Return the value of a call that has finished, or was found; of a component, what is made of its calls."""
        value = self._standing.get(call.number, call.value)
        if value is MISSING and call.expansion is not None:
            return Nested(call.expansion.template).replace(Future, self._value_of)
        if value is MISSING:
            raise _NoToken(f"what {call.name!r} returns is not known before it runs")
        return fetched(value)

    def take_over(self, before: Recall) -> None:
        """Know what an earlier look of the same run found, for the case that this turns out to be damaged later."""
        self.asked.update(before.asked)
        self.arguments.update(before.arguments)
        self._unreadable |= before._unreadable
        self.seen |= before.seen

    def restore(self, calls: Iterable[Future[Any]]) -> None:
        """Look again at values that were found or kept, because one cannot be read: those calls are to run again."""
        for call in calls:
            asked = self.asked.get(call.number)
            if call.state is FINISHED and asked is not None and asked.lookup is not None and self.shelf is not None:
                found = self.shelf.find(asked.lookup.key)
                if found is not None and can_be_read(found[1]):
                    call.value = found[1]
                    self._can_run_again(call, found[1])
                elif call.number in self.arguments or call.expansion is not None:
                    self._unreadable.add(asked.lookup.key)
                    wait_again(call, self.arguments.get(call.number))
            for need in call.dependencies:
                revive(need)

    def node_of(self, definition: Definition) -> str:
        """Return where the function of a node is defined."""
        found = self._nodes.get(definition)
        if found is None:
            found = self._nodes[definition] = node_of(definition)
        return found

    # Keys

    def _meaning(self, definition: Definition) -> tuple[Fingerprint, str]:
        found = self._prints.get(definition)
        if found is None:
            with self._lock:
                found = self._prints[definition] = fingerprint(definition), node_of(definition)
                self._called[found[0].digest] = found[0].nodes
        return found

    def _token_of_instance(self, call: Future[Any], recipe: Any) -> bytes:
        """Return what stands for an object that is made where it is needed: its class, and how it is made."""
        meaning, _ = self._meaning(call.definition)
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
        found = [self._argument(arg, names[i] if i < len(names) else f"*{i + 1}", code) for i, arg in enumerate(args)]
        if not kwargs and len(args) == len(names):
            return found
        named = {
            name: self._argument(arg, name if name.isidentifier() else f"**{name}", code)
            for name, arg in (kwargs or {}).items()
        }
        for name in names[len(args) :]:
            if name in named:
                found.append(named.pop(name))
            elif (default := _default_of(function, name)) is not MISSING:
                found.append(self._argument(default, name, code))
        return found + [named[name] for name in sorted(named)]

    def _argument(self, arg: Any, name: str, code: Reached | None = None) -> Argument:
        if type(arg) is Future or isinstance(arg, Future):
            source = "" if arg.definition.kind is Kind.INPUT else arg.name
            return Argument(name, self.token_of(arg), source, self._key_of(arg))
        if type(arg) is Nested:
            if isinstance(arg.template, Future):  # an instance of a class node
                return self._argument(arg.template, name)
            arg = arg.replace(Future, lambda future: Known(self.token_of(future)))
        if code is None or type(arg) in ATOMS:
            return Argument(name, token(arg, f"argument {name!r}"))
        found, draws, unkept = token_and_code(arg, f"argument {name!r}")
        code.draws = code.draws or draws
        code.unkept = code.unkept or unkept
        return Argument(name, found)

    def _key_of(self, call: Future[Any]) -> bytes:
        asked = self.asked.get(call.number)
        return b"" if asked is None or asked.lookup is None else asked.lookup.key

    def _standing_for(self, call: Future[Any], key: Callable[..., Any]) -> Any:
        args, kwargs = _replaced(call, self._value_of)
        if call.definition.kind is not Kind.ENTRY:
            return key(*args, **kwargs)
        return [Known(self._argument((call.args or ())[0], "self").token), key(*args[1:], **kwargs)]

    def _why(self, shelf: Keeps, lookup: Lookup, args: list[Argument]) -> str:
        if self._refreshed(lookup):
            return REFRESHED
        if shelf.evicted(lookup.key):
            return EVICTED
        before = self._before.get(lookup.node)
        if before is None:
            before = self._before[lookup.node] = Before(shelf.latest(lookup.node))
        parts = {meaning.digest: meaning.parts for meaning, _ in self._prints.values()} if before else {}
        return reason(lookup.code, args, before, lambda code: parts.get(code) or shelf.parts_of(code))


class _NoToken(Exception):
    """What came out of a call means nothing in another process: who gets it is not looked up, and not kept."""


def can_be_read(standing: Any) -> bool:
    """Whether a value can be had."""
    try:
        fetched(standing)
        return True
    except DamagedEntry:
        return False


def wait_again(call: Future[Any], arguments: tuple[Any, Any] | None) -> None:
    """Have a finished call run again: with its arguments, or with the calls that its body made."""
    if call.expansion is None:
        if arguments is None:
            return
        call.args, call.kwargs = arguments
    elif call.expansion.template is None:
        return
    call.state, call.value = State.WAITING, MISSING


def revive(call: Future[Any]) -> None:
    """Have a call of whatever run wait again whose value lies in a store and cannot be read any more."""
    if call.state is FINISHED and type(call.value) in (Stored, Loaded) and not can_be_read(call.value):
        wait_again(call, call.value.origin)


def _as_made(value: Any) -> Any:
    """Return how an object is made that a call gets, where it is not made yet: pickling it would make it."""
    recipe = all(hasattr(type(value), name) for name in ("make", "cls", "args", "kwargs"))
    return Made(value.cls, value.args, value.kwargs) if recipe else value


def _has_files(arg: Any) -> bool:
    """Whether a file is in an argument: only these can change while a call waits."""
    if type(arg) in ATOMS or isinstance(arg, Future):
        return False
    from tinygraph.keys.files import Directory, File

    return any(hidden_in([arg], kind) is not None for kind in (File, Directory))


def _replaced(call: Future[Any], by: Callable[[Future[Any]], Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call with `by(future)` for each future in them."""

    def replaced(arg: Any) -> Any:
        if isinstance(arg, Future):
            return by(arg)
        return arg.replace(Future, by) if type(arg) is Nested else arg

    args = [replaced(arg) for arg in call.args or ()]
    return args, {name: replaced(arg) for name, arg in (call.kwargs or {}).items()}


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
