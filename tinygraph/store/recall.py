"""Recall: what one run remembers of calls that ran before. It looks them up, keeps what is new, and says why.

::

    call ──► keying ──► key ──► shelf ──► the value, or why it has to be computed
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from tinygraph.blame import text_of
from tinygraph.capture import ATOMS, Nested, hidden_in
from tinygraph.definition import Definition, Kind
from tinygraph.errors import DamagedEntry, StoreError
from tinygraph.future import FINISHED, MISSING, SETTLED, Future, State, fetched, with_each
from tinygraph.seeds import Seeds
from tinygraph.store.fileshelf import Loaded
from tinygraph.store.keying import Keying
from tinygraph.store.shelf import At, Lookup, Made, Settings, Shelf, Stored
from tinygraph.store.why import EVICTED, HIT, REFRESHED, Argument, Before, Seen, reason

# What runs a body that computes something, or decides something. The others cost nothing.
_LOOKED_UP = frozenset((Kind.LEAF, Kind.COMPOSITE, Kind.ENTRY, Kind.COROUTINE, Kind.GENERATOR))


# Values that weigh nothing while somebody holds them.
_LIGHT = (Stored, Loaded)


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
        self.keying = Keying(seeds, targets)
        self.history: Tells | None = None
        self.asked: dict[int, Asked] = {}  # by the number of the call
        # The arguments of calls whose values lie in the store only, for the case that one cannot be read any more.
        self.arguments: dict[int, tuple[Any, Any]] = {}
        self._refresh = frozenset(refresh)
        self._unreadable: set[bytes] = set()  # what was found, and could not be decoded: it is computed again
        self._put: set[bytes] = set()  # the keys of what this run has kept
        self._files: dict[int, list[tuple[str, Any]]] = {}  # by call: the arguments with files in them
        self._looked: set[int] = set()
        self._concerned: dict[Definition, bool] = {}
        self._running: dict[bytes, Future[Any]] = {}  # by key: equal calls wait for it, and have what it has
        self._before: dict[str, Before] = {}  # by node
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
        lookup, why, args = self.keying.question(call)
        asked = Asked(lookup, why)
        if lookup is None:
            self.asked[call.number] = asked
            return MISSING
        running = self._running.get(lookup.key)
        if running is not None and running.state in SETTLED and running.state is not FINISHED:
            running = None  # that says nothing of this one: a body may try again what failed
        if running is not None:
            if running.state not in SETTLED:
                self._looked.discard(call.number)  # it is looked up again when that one has finished
            else:
                self.keying.tokens[call.number] = self.keying.token_of(running)
            return running
        shelf = self._shelf_for(call)
        try:
            found = self._found(shelf, lookup)
            if found is None:
                self._running[lookup.key] = call
                if shelf is not None:
                    asked.why = self._why(shelf, lookup, args)
                    self.asked[call.number] = asked
                    self._note_files(call, args)
                    self._keep_beside(shelf, call, args)
                return MISSING
        except DamagedEntry:
            raise
        except (OSError, StoreError) as error:  # of the store, and not of the user's: the run goes on without
            self.could_not_keep(call, text_of(error))
            return MISSING
        asked.why, asked.token = HIT, found[0]
        self.keying.tokens[call.number] = found[0]
        self._can_run_again(call, found[1])
        self.asked[call.number] = asked
        return found[1]

    def _can_run_again(self, call: Future[Any], standing: Any) -> None:
        """Keep the arguments of a call whose value lies in the store only, should that not be readable any more.

        But not where a value would live on for that which only this run has.
        """
        if call.args is None or type(standing) not in (Stored, Loaded):
            return
        if all(type(need.value) in _LIGHT or type(need.value) in ATOMS for need in call.dependencies):
            self.arguments[call.number] = standing.origin = call.args, call.kwargs

    def ask(self, call: Future[Any]) -> Asked:
        """Return what the store says about a call whose arguments are known, and change nothing."""
        lookup, why, args = self.keying.question(call)
        asked = Asked(lookup, why)
        shelf = self._shelf_for(call)
        if lookup is not None and shelf is not None:
            found = self._found(shelf, lookup)
            asked.why = self._why(shelf, lookup, args) if found is None else HIT
            if found is not None:
                asked.token = self.keying.tokens[call.number] = found[0]
                self.keying.standing[call.number] = found[1]
        return asked

    def _shelf_for(self, call: Future[Any]) -> Keeps | None:
        return None if call.definition.cache == "run" else self.shelf

    def _found(self, shelf: Keeps | None, lookup: Lookup) -> tuple[bytes, Any] | None:
        if shelf is None:
            return None
        if lookup.key not in self._put and (lookup.key in self._unreadable or self._refreshed(lookup)):
            return None
        return shelf.find(lookup.key)

    def _refreshed(self, lookup: Lookup) -> bool:
        """Whether a call is to run whatever was kept: it was asked for, or it calls a node that was."""
        if not self._refresh:
            return False
        return lookup.name in self._refresh or not self._refresh.isdisjoint(self.keying.called.get(lookup.code, ()))

    def _keep_beside(self, shelf: Keeps, call: Future[Any], args: list[Argument]) -> None:
        """Keep what explains a value, and what runs it again: the parts of its code, its node, its arguments."""
        meaning, _ = self.keying.meaning(call.definition)
        tokens = {argument.parameter: argument.token for argument in args}
        try:
            shelf.keep_code(meaning.digest, meaning.parts, call.definition)
            for name, arg in _given(call, args) if call.definition.key is None else ():
                if isinstance(arg, Future) or (type(arg) is Nested and isinstance(arg.template, Future)):
                    future = arg if isinstance(arg, Future) else arg.template
                    if not self.keying.key_of(future):
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
        if lookup is None or self.shelf is None:
            return value
        self._running.pop(lookup.key, None)  # kept or not, nobody has to wait for it any more
        try:
            if not self._still_holds(call, lookup):
                return value
            itself = fetched(value)
            outputs = call.definition.outputs
            if outputs is not None and len(itself) != outputs:
                return value  # it is refused, and must not be found the next time
            found, standing = self.shelf.keep(lookup, itself, seconds)
        except DamagedEntry:
            return value  # what it forwards turns out to be damaged: whoever needs it looks again
        except Exception as error:  # a full disk, a value that cannot be pickled: the run goes on without
            self.could_not_keep(call, text_of(error))
            return value
        self.kept(call, found)
        self._can_run_again(call, standing)
        return standing

    def _note_files(self, call: Future[Any], args: list[Argument]) -> None:
        """Note the arguments of a call that have files in them: these may change before its value is kept."""
        if "tinygraph.keys.files" not in sys.modules or call.definition.key is not None:
            return
        if found := [(name, arg) for name, arg in _given(call, args) if _has_files(arg)]:
            self._files[call.number] = found

    def _still_holds(self, call: Future[Any], lookup: Lookup) -> bool:
        """Whether the files that a call got are what they were when its key was made."""
        with_files = self._files.pop(call.number, ())
        if not with_files:
            return True
        tokens = {argument.parameter: argument.token for argument in lookup.arguments}
        try:
            return all(self.keying.argument(arg, name).token == tokens.get(name) for name, arg in with_files)
        except Exception:  # a file that is gone, an argument that the body has changed
            return False

    def _at(self, future: Future[Any]) -> Any:
        """Return what stands for the value of a call in an argument that is kept: its key, if it has one."""
        key = self.keying.key_of(future)
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
            if lookup is not None:
                self._running.pop(lookup.key, None)
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
        if asked is None or asked.lookup is None or asked.lookup.key in self._unreadable:
            return None  # what could not be decoded once is not kept again
        return asked.lookup

    def kept(self, call: Future[Any], found: bytes) -> None:
        """Note that the value of a call was kept, by whom ever, and its token."""
        self.keying.tokens[call.number] = found
        asked = self.asked[call.number]
        asked.token = found
        if asked.lookup is not None:
            self._put.add(asked.lookup.key)
            self._running.pop(asked.lookup.key, None)

    def failed(self, call: Future[Any], error: BaseException) -> None:
        """Keep what it takes to run a call again that failed, and say how in a note on its exception."""
        history = self.history
        if history is None or self.shelf is None:
            return
        try:
            args, kwargs = with_each(call, self._at)
            seed = None if self.keying.seeds is None else self.keying.seeds.of(call)
            self.shelf.keep_thing(history.key_of(call), Call(call.definition, tuple(args), kwargs, seed))
            error.add_note(history.replay_line(call))
        except Exception:  # what cannot be pickled cannot be replayed, and the failure itself is what counts
            return

    def could_not_keep(self, call: Future[Any], why: str) -> None:
        """Warn, once in a run, that something could not be kept."""
        if not self._told:
            self._told = True
            warnings.warn(f"the value of {call.name!r} could not be kept: {why}", RuntimeWarning, stacklevel=2)

    def take_over(self, before: Recall) -> None:
        """Know what an earlier look of the same run found, for the case that this turns out to be damaged later."""
        self.asked.update(before.asked)
        self.arguments.update(before.arguments)
        self._unreadable |= before._unreadable
        self.keying.seen |= before.keying.seen

    def restore(self, calls: Iterable[Future[Any]]) -> None:
        """Look again at values that were found or kept, because one cannot be read: those calls are to run again."""
        calls = list(calls)
        for call in calls:
            asked = self.asked.get(call.number)
            if call.state is FINISHED and asked is not None and asked.lookup is not None and self.shelf is not None:
                found = self.shelf.find(asked.lookup.key)
                if found is not None and can_be_read(found[1]):
                    call.value = found[1]
                    self._can_run_again(call, found[1])
                elif call.number in self.arguments or call.expansion is not None:
                    if self.shelf.find(asked.lookup.key) is not None:  # it is not damaged, and means nothing here
                        self._unreadable.add(asked.lookup.key)
                    wait_again(call, self.arguments.get(call.number))
        for call in calls:  # and what they need of earlier runs
            for need in call.dependencies:
                revive(need)

    def _why(self, shelf: Keeps, lookup: Lookup, args: list[Argument]) -> str:
        if self._refreshed(lookup):
            return REFRESHED
        if shelf.evicted(lookup.key):
            return EVICTED
        before = self._before.get(lookup.node)
        if before is None:
            before = self._before[lookup.node] = Before(shelf.latest(lookup.node))
        parts = {meaning.digest: meaning.parts for meaning in self.keying.meanings} if before else {}
        return reason(lookup.code, args, before, lambda code: parts.get(code) or shelf.parts_of(code))


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


def _given(call: Future[Any], args: list[Argument]) -> list[tuple[str, Any]]:
    """Return what a call was given, by the names of its parameters: without defaults that were filled in."""
    positional = zip([argument.parameter for argument in args], call.args or (), strict=False)
    return [*positional, *(call.kwargs or {}).items()]


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
