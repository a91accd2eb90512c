"""Session: what one run has to do with its store, from the first look to the last line of its history."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from tinygraph.blame import text_of
from tinygraph.definition import Definition, Kind
from tinygraph.engine import Engine
from tinygraph.errors import CancelledError, StoreError
from tinygraph.future import FAILED, Future
from tinygraph.notes import Note
from tinygraph.store import Store
from tinygraph.store.history import RunWriter
from tinygraph.store.keying import node_of
from tinygraph.store.recall import Asked, Recall
from tinygraph.store.shelf import key_of
from tinygraph.store.why import shown, told

_LOOKS = 10  # times that a run looks again, because something that it found is damaged
_NOT_ASKED = Asked(None, "")


class Session:
    """One run, and the store that it uses, if it uses one.

    Use it in a `with` block: nothing is removed from the store meanwhile, and what the run put is found by others after
    it.
    """

    def __init__(self, store: Any, options: dict[str, Any]) -> None:
        self._store = None if store is None else Store.at(store)
        self._options = options
        self._writer: RunWriter | None = None
        self._recall: Recall | None = None
        self._engine: Engine | None = None
        self._looks = 0
        self._calls: dict[int, Future[Any]] = {}  # of a run that had to look again
        self._told: set[int] = set()  # calls of which was told how they ended
        self._codes: set[bytes] = set()  # that were told
        self._attempts: dict[int, int] = {}  # of calls that were tried again

    def __enter__(self) -> Session:
        if self._store is not None:
            self._store.enter()
            try:
                if not self._store.is_file:
                    self._writer = _writer(self._store, self._options)
            except BaseException:
                self._store.leave()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        # Not by `contextlib`, which writes to the exception: there are some that do not stand that.
        if self._store is not None:
            try:
                steps: list[Callable[[], None]] = [partial(self._end_history, error)]
                for step in (*steps, self._store.leave, self._store.keep_limits):
                    try:
                        step()
                    except (OSError, StoreError) as trouble:  # it must not cost the run's result, nor hide its error
                        said = f"the store {self._store.path!r} was not left in order: {trouble}"
                        warnings.warn(said, RuntimeWarning, stacklevel=2)
            finally:
                # Nobody is to wait for the garbage collector to let go of values.
                self._engine, self._calls = None, {}
                if self._recall is not None:
                    self._recall.history = None

    @property
    def id(self) -> str | None:
        """Under which the store has the history of the run."""
        return None if self._writer is None else self._writer.id

    def join(self, engine: Engine) -> None:
        """Have an engine that has not begun remember what ran before."""
        shelf = None if self._store is None else self._store.values()
        before, self._recall = self._recall, Recall(shelf, self._options["refresh"], engine.seeds, engine.targets)
        engine.recall = self._recall
        self._engine = engine
        if shelf is None:
            return
        if before is not None:  # it looks again: what was found the first time stays known
            self._recall.take_over(before)
        engine.elsewhere = True
        if self._writer is not None:
            self._recall.history = self
            engine.listener = _both(engine.listener, self._tell)
        if engine.home is not engine.driver:  # inline the same graph runs in the same order on any machine
            engine.costs = Costs(shelf.costs())

    def look_again(self, engine: Engine | None) -> bool:
        """Have what was found looked up once more, because some of it is damaged; return whether there is use in it."""
        self._looks += 1
        if engine is None or self._recall is None or self._looks > _LOOKS:
            return False
        self._calls = {call.number: call for call in (*self._calls.values(), *engine.calls)}
        self._recall.restore(self._calls.values())
        return True

    def _end_history(self, error: BaseException | None) -> None:
        recall, writer = self._recall, self._writer
        if writer is not None:
            self._close_history(writer, error)
        if recall is not None and error is None and (never := set(self._options["refresh"]) - recall.keying.seen):
            names = ", ".join(map(repr, sorted(never)))
            warnings.warn(f"refresh={names}: no such node was called", RuntimeWarning, stacklevel=2)

    def _close_history(self, writer: RunWriter, error: BaseException | None) -> None:
        for call in self._engine.calls if self._engine is not None else ():
            if call.state is FAILED and call.number not in self._told:  # it failed with a call that it made
                self._tell(Note("failed", call, 0.0, text_of(call.value)))
        if error is None:
            writer.close("finished")
        else:
            writer.close(_END.get(type(error), "failed"), text_of(error))

    # What is told of each call

    def key_of(self, call: Future[Any]) -> bytes:
        """Return the key under which a call that failed is kept as a whole."""
        return key_of("call", f"{self.id} {call.number}".encode())

    def replay_line(self, call: Future[Any]) -> str:
        """Return the line that runs a call again."""
        assert self._store is not None
        return f"to run it again, alone: tinygraph.replay({self.id!r}, {call.number}, store={self._store.path!r})"

    def _tell(self, note: Note) -> None:
        what, call, _, more = note
        writer = self._writer
        assert writer is not None
        assert self._recall is not None
        if what == "printed":
            writer.printed(call.number, more[0])
        elif what == "finished" and isinstance(call, Future) and call.definition.kind is Kind.STATEFUL:
            return  # an object that is made where it is needed, perhaps nowhere: its calls are what ran
        elif what in _STATES and isinstance(call, Future):
            self._told.add(call.number)
            asked = self._recall.asked.get(call.number, _NOT_ASKED)
            lookup = asked.lookup
            if lookup is not None and lookup.code not in self._codes:
                self._codes.add(lookup.code)
                writer.code(lookup.node, lookup.code.hex())
            writer.task(
                call.number,
                call.name,
                self._recall.keying.node_of(call.definition),
                _STATES[what],
                more if what == "finished" else 0.0,
                attempts=self._attempts.pop(call.number, 1),
                worker=max(call.worker, 0) if what == "finished" else 0,
                why=asked.why or ("" if call.definition.cache is not False else "cache=False"),
                inputs=() if lookup is None else [(arg.parameter, told(arg)) for arg in lookup.arguments],
                output=shown(asked.token) if asked.token else "",
                error=f"{more} failed" if what == "skipped" else more if what == "failed" else "",
                key="" if lookup is None else lookup.key.hex(),
            )
        elif what == "retried":
            self._attempts[call.number] = more[0] + 1


def _writer(store: Store, options: dict[str, Any]) -> RunWriter | None:
    """Return who writes the history of a run; None on a disk that takes none, which must not stop the run."""
    try:
        return RunWriter(store.history, options=_told(options), durable=store.durable)
    except OSError as error:
        warnings.warn(f"this run has no history in {store.path!r}: {error}", RuntimeWarning, stacklevel=2)
        return None


_END = {CancelledError: "cancelled", KeyboardInterrupt: "interrupted"}
_STATES = {"finished": "finished", "recalled": "finished", "failed": "failed", "skipped": "skipped"}


def _both(one: Callable[[Note], None] | None, other: Callable[[Note], None]) -> Callable[[Note], None]:
    if one is None:
        return other

    def tell(note: Note) -> None:
        one(note)
        other(note)

    return tell


def _told(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a run as they can be told to anybody."""
    plain = (str, int, float, bool, type(None), tuple)
    return {name: value if isinstance(value, plain) else repr(value) for name, value in options.items()}


class Costs(dict[Definition, float]):
    """What calls of a node are expected to take, in seconds: given, else learned in earlier runs, else as all others.

    >>> from tinygraph import Node
    >>> known, given, other = Node(abs), Node(max, cost=3.0), Node(min)
    >>> costs = Costs({"builtins:abs": 0.5, "builtins:max": 0.1})
    >>> costs[known], costs[given], costs[other]
    (0.5, 3.0, 1.0)
    """

    def __init__(self, learned: dict[str, float]) -> None:
        super().__init__()
        self._learned = learned

    def __missing__(self, definition: Definition) -> float:
        cost = definition.expected
        if definition.cost is None and definition.kind not in (Kind.INPUT, Kind.STATEFUL):
            cost = self._learned.get(node_of(definition), cost)
        self[definition] = cost
        return cost

    def __bool__(self) -> bool:
        return bool(self._learned)
