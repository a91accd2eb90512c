"""Engine: the state of one run. Which calls wait, which are ready, and what follows when one ends.

The engine decides and keeps books; it runs nothing. Whoever has workers (an executor) takes ready calls from it and
hands back what came out, holding `lock` around each of its methods, except where a method says otherwise::

    take() -> a ready call        finish(call, value)      its dependents may become ready
                                  expand(call, ...)        its body made calls: they join the graph
                                  fail(call, exception)    its dependents are skipped

Everything is iterative: a chain of a million calls and a call with a million dependents are ordinary.
"""

from __future__ import annotations

import os
import reprlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from sys import getrefcount
from time import perf_counter
from typing import Any, Protocol

from tinygraph.blame import blame, longer_path, text_of, too_deep, unfinished_cycle
from tinygraph.capture import Nested
from tinygraph.definition import Definition, Kind
from tinygraph.errors import (
    CancelledError,
    CycleError,
    DamagedEntry,
    OutputError,
    RecordError,
    ReleasedError,
    UpstreamFailed,
)
from tinygraph.future import MISSING, SETTLED, Elsewhere, Future, Missing, State, claiming, fetched, open_up
from tinygraph.levels import raise_levels, rank
from tinygraph.notes import Note, What
from tinygraph.reach import calls_nodes, captured_futures
from tinygraph.schedule import ReadyQueue
from tinygraph.seeds import Seeds

WAITING, READY, RUNNING = State.WAITING, State.READY, State.RUNNING
FINISHED, FAILED, SKIPPED, CANCELLED = State.FINISHED, State.FAILED, State.SKIPPED, State.CANCELLED
RELEASED = Missing()  # a value that was let go when its last consumer had it

# References to a finished call that are not the user's, besides one for each entry in its list of dependents: the
# engine's list of calls, the loop variable and the parameter in `_release`, and the argument of getrefcount.
_OWN_REFERENCES = 4


class Lane:
    """Ready calls for workers of one sort, and how many of those wait for something to do."""

    __slots__ = ("idle", "queue", "wake")

    def __init__(self) -> None:
        self.queue = ReadyQueue()
        self.idle = 0
        self.wake: Wake = SimpleQueue()


class Wake(Protocol):
    """What an idle worker waits at."""

    def put(self, nothing: None, /) -> None:
        """Have one of them look again."""

    def get(self, *, timeout: float | None = None) -> None:
        """Wait; raises `queue.Empty` when the time is over."""


class Recall(Protocol):
    """What a run remembers of calls that ran before, in this run or in another. None of it needs the engine's lock."""

    def concerns(self, call: Future[Any]) -> bool:
        """Whether a call is to be looked up before it runs: once, and only where its node allows for it."""

    def look(self, call: Future[Any]) -> Any:
        """Return the value of a call, the equal call of this run that is to have it, or MISSING: then it must run."""

    def keep(self, call: Future[Any], value: Any, seconds: float) -> Any:
        """Keep what came out of a call; return what stands for the value from now on. Raises nothing."""

    @property
    def settings(self) -> Any:
        """What a worker needs to know to keep values itself; None where that is for the driver to do."""

    @property
    def codecs(self) -> bytes:
        """The codecs that the program has registered, as workers need them; nothing if there are none."""

    def lookup_of(self, call: Future[Any]) -> Any:
        """Return under what the value of a call that runs is to be kept; None for what is not kept."""

    def was_kept(self, call: Future[Any], value: Any, kept: Any, seconds: float, *, is_there_only: bool) -> Any:
        """Take up what a worker has kept, or say why it could not; return what stands for the value."""

    def failed(self, call: Future[Any], error: BaseException) -> None:
        """Keep what it takes to run a call again that failed, and say how. Raises nothing."""

    def restore(self, calls: Iterable[Future[Any]]) -> None:
        """Have those wait again among the calls of a run that has ended whose values are gone or damaged."""


class Engine:
    """The state of one run.

    ``targets``: the futures whose values are wanted. ``options``: as `options.effective` returns them. ``home``: the
    lane of calls whose node does not say ``where``: the driver's, the threads' or the processes'. ``lanes``: those that
    have workers, or will have; what should run in another runs at home.
    """

    def __init__(
        self, targets: Iterable[Future[Any]], options: dict[str, Any], *, home: str, lanes: Iterable[str]
    ) -> None:
        self.targets = tuple(targets)
        self.keep_going = options["on_error"] == "continue"
        self.max_depth: int = options["max_depth"]
        self.lock = threading.Lock()
        self.pid = os.getpid()  # a forked child has a copy of all this, and nobody who would go on with it
        self.calls: list[Future[Any]] = []
        self.lanes = {"driver": Lane(), "thread": Lane(), "process": Lane()}
        self.driver = self.lanes["driver"]
        self.home = self.lanes[home]
        self.staffed = frozenset(lanes)
        self.apart = home == "process"  # the workers are elsewhere: what only records runs in the driver
        self.elsewhere = self.apart  # and so may values be; also once a node has asked for a process
        self.touched = False  # whether a body ran here that may have changed an object which workers were sent
        self.left = 0  # claimed calls that have not settled
        self.in_hand = 0  # calls that were taken and have not come back
        self.inputs: list[Future[Any]] = []  # holes that the calls of this run need filled
        self.error: BaseException | None = None  # ends the run
        self.failures: list[tuple[Future[Any], BaseException]] = []
        self._roots: set[Future[Any]] = set()  # the calls among them
        self._held: list[Future[Any]] = []  # whose value would have been let go, had nobody else held it
        # By number, which keeps no value alive: what an async body awaits, and by whom, and what failed in its hands.
        self._awaited: dict[int, int] = {}
        self._suspended: dict[int, list[Future[Any]]] = {}
        self._delivered: set[int] = set()
        self._causes: dict[int, tuple[Future[Any], BaseException]] = {}  # of delivered failures, by exception
        self.over = threading.Event()
        self.closed = False
        self.inbox: deque[Callable[[], None]] = deque()  # news from outside, to be read with the lock held
        self.watchers: dict[Future[Any], list[Callable[[Future[Any]], None]]] = {}
        self.foreign: dict[Future[Any], list[Future[Any]]] = {}  # calls that another run has in hand, who needs them
        self.attempts: dict[Future[Any], int] = {}
        self.dropped: list[Future[Any]] = []  # cancelled while a worker had them: whoever can stop them does
        self.listener: Callable[[Note], None] | None = None
        self.recall: Recall | None = None
        self.recalled: set[int] = set()  # the numbers of calls that did not run, because their value was known
        self.costs: dict[Definition, float] = {}  # what calls took in earlier runs, where it is to count
        self.seeds = None if options["seed"] is None else Seeds(options["seed"], self.targets)
        self.notes: list[Note] = []  # what cannot be read off the calls afterwards
        self.began = perf_counter()
        self.ended = self.began

    # Joining the run

    def start(self) -> None:
        """Claim everything that the targets need and queue what is ready."""
        fresh = self._claim(self.targets)
        rank(fresh, self.costs)
        for call in fresh:
            if not call._waiting:
                self._ready(call)
        if not self.left:
            with self.lock:  # a signal handler that cancels the run sets it as well, and not while this does
                self.over.set()

    def _claim(self, wanted: Iterable[Future[Any]]) -> list[Future[Any]]:
        """Make the wanted calls, and whatever they need, calls of this run; return those that are new to it."""
        fresh: list[Future[Any]] = []
        try:
            self._claim_into(fresh, wanted)
        finally:  # whatever a signal handler raised meanwhile: what was claimed is given back in the end
            self.calls += fresh
        self.left += len(fresh)
        return fresh

    def _claim_into(self, fresh: list[Future[Any]], wanted: Iterable[Future[Any]]) -> None:
        with claiming:
            for call in wanted:
                if (call._engine is None and call.state is WAITING) or self._is_orphan(call):
                    fresh.append(call)
                    call._dependents = []
                    call._engine = self
                elif call._engine is not self:
                    self._meet(call, None)
            for call in fresh:  # grows while it is walked
                waiting = 0
                expansion = call.expansion
                for need in call.dependencies if expansion is None else expansion.calls:
                    engine = need._engine
                    if engine is self:
                        if need.state not in SETTLED:
                            waiting += 1
                            need._dependents.append(call)
                        elif need.state is FINISHED and need.value is not RELEASED:
                            need._uses += 1
                            need._waiting += 1
                        else:
                            waiting += self._meet(need, call)
                    elif (engine is None and need.state is WAITING) or self._is_orphan(need):
                        waiting += 1
                        fresh.append(need)
                        need._dependents = [call]
                        need._engine = self
                    elif need.state is not FINISHED or need.value is RELEASED:
                        waiting += self._meet(need, call)
                    elif not self.elsewhere and isinstance(need.value, Elsewhere):
                        need.value = need.value.fetch()
                call._waiting = waiting
                if not waiting and call.definition.kind is Kind.INPUT:
                    self.inputs.append(call)

    def _is_orphan(self, call: Future[Any]) -> bool:
        """Whether only the process that this one was forked from has the run of a call, which is free then."""
        engine = call._engine
        if engine is None or engine.pid == self.pid or call.state in SETTLED:
            return False
        call.state = WAITING
        return True

    def _meet(self, call: Future[Any], dependent: Future[Any] | None) -> int:
        """Deal with a needed call that is not ours: failed before, released, or in the hands of another run."""
        if call._engine is None or call.state in SETTLED:
            if dependent is not None:
                self.inbox.append(lambda: self.fail(dependent, why_unusable(call), root=call))
            return 0 if dependent is None else 1
        needers = self.foreign.get(call)
        if needers is None:
            needers = self.foreign[call] = []
            self.left += 1
            call._engine.watch(call, self._hear)
        if dependent is not None:
            needers.append(dependent)
        return 1

    def watch(self, call: Future[Any], tell: Callable[[Future[Any]], None]) -> None:
        """Have `tell(call)` called, from any thread, once the call has settled or this run has ended. Needs no lock."""
        self.watchers.setdefault(call, []).append(tell)
        # Looked at after entering, as the other side settles before it looks: at least one of the two sees the other.
        if call.state in SETTLED or (call._engine is not self and call not in self.foreign):
            tell(call)

    def _hear(self, call: Future[Any]) -> None:
        """Note that a call of another run has settled; called from that run's threads."""
        self.post(lambda: self._foreign_settled(call))

    def _foreign_settled(self, call: Future[Any]) -> None:
        needers = self.foreign.pop(call, None)
        if needers is None:
            return
        self.left -= 1
        if call.state is FINISHED:
            for dependent in needers:
                self._needs_one_less(dependent)
        elif call.state in SETTLED:
            for dependent in needers:
                self.fail(dependent, why_unusable(call), root=call)
        else:  # the other run ended without it: it is ours now, if nobody was quicker
            fresh = self._claim([call])
            if call._engine is self:
                call._dependents.extend(needers)
            elif call in self.foreign:
                self.foreign[call].extend(needers)
            else:
                self.foreign[call] = needers
                self.left += 1
                self._foreign_settled(call)
                return
            self._join(fresh)
        if call.state in SETTLED and self.watchers:
            self._tell_watchers(call)
        if not self.left:
            self._end()

    def post(self, news: Callable[[], None]) -> None:
        """Leave news for the run, to be read by one of its workers. Needs no lock."""
        if not self.closed:
            self.inbox.append(news)
            self.driver.wake.put(None)

    def read_inbox(self) -> None:
        """Act on the news from outside."""
        while self.inbox and not self.closed:
            self.inbox.popleft()()

    # Deciding what is next

    def take(self, lane: Lane) -> Future[Any] | None:
        """Return the most urgent ready call of a lane, now running; None when there is none at the moment."""
        if self.inbox:
            self.read_inbox()
        if self._held:
            self._release_held()
        queue = lane.queue
        while queue and self.error is None:
            call: Future[Any] = queue.pop()
            if call.state is READY:  # else queued twice, after its level rose
                if self.recall is not None and self.recall.concerns(call) and not self._must_run(call, lane):
                    continue
                call.state = RUNNING
                self.in_hand += 1
                if self.listener is not None:
                    call.began = perf_counter()
                    self.listener(Note("started", call, call.began - self.began, 0))
                return call
        return None

    def _must_run(self, call: Future[Any], lane: Lane) -> bool:
        """Look a call up; return whether it has to run, and may in this lane.

        The lock is let go meanwhile: arguments may be large, and so may be the files that they name.
        """
        assert self.recall is not None
        call.state = RUNNING
        self.in_hand += 1
        error = None
        self.lock.release()
        try:
            known = self.recall.look(call)
        except Exception as refused:  # what has no key, what was found and is damaged
            known, error = MISSING, refused
        finally:
            self.lock.acquire()
        self.in_hand -= 1
        if call.state is not RUNNING or call._engine is not self:
            return False  # cancelled, or the run is over
        if self.error is not None or self.over.is_set():
            call.state = WAITING
            return False
        if isinstance(error, DamagedEntry):
            call.state = WAITING
            self.stop(error)
        elif error is not None:
            self.fail(call, error)
        elif type(known) is Future:
            self._share(call, known)
        elif known is not MISSING:
            call.began, call.worker = perf_counter(), -1
            self.finish(call, known, recalled=True)
        else:
            call.state = READY
            if self._lane_of(call.definition) is lane:
                return True
            self._push(call)
        return False

    def _share(self, call: Future[Any], other: Future[Any]) -> None:
        """Let a call have the value of an equal one; if that has not settled, it is looked up again when it has."""
        if other.state is FINISHED:
            call.began, call.worker = perf_counter(), -1
            self.finish(call, other.value, recalled=True)
        elif other.state in SETTLED:
            self.fail(call, why_unusable(other), root=other)
        else:
            call.state = WAITING
            call.dependencies = (*call.dependencies, other)
            call._waiting = 1
            other._dependents.append(call)

    def is_stuck(self) -> bool:
        """Whether nothing runs and nothing is ready, although calls are left: they wait for each other."""
        if self.in_hand or self.foreign or self.inbox or self.over.is_set():
            return False
        return not any(lane.queue for lane in self.lanes.values())

    def refuse_cycle(self) -> None:
        """End a run that is stuck."""
        self.stop(unfinished_cycle(self.calls))

    def _ready(self, call: Future[Any]) -> None:
        if call.expansion is not None:
            self._complete(call)
        elif call.state is WAITING:
            call.state = READY
            self._push(call)

    def _push(self, call: Future[Any]) -> None:
        definition = call.definition
        lane = self.home
        if self.recall is not None and self.recall.concerns(call):
            lane = self.driver
        elif definition.where is not None or self.apart:
            lane = self._lane_of(definition)
        lane.queue.push(call, definition.priority, call._level, call.depth, call.number)
        if lane.idle:
            lane.wake.put(None)

    def _lane_of(self, definition: Definition) -> Lane:
        if definition.where in self.staffed and definition.kind is not Kind.STATEFUL:  # of a class, its calls go there
            self.elsewhere = self.elsewhere or definition.where == "process"
            return self.lanes[definition.where]
        return self.driver if self.apart and in_driver(definition) else self.home

    # What follows when a call has run

    def settle(
        self,
        call: Future[Any],
        value: Any,
        made: list[Future[Any]],
        began: float,
        worker: int,
        ended: float | None = None,
    ) -> None:
        """Take what the body of a call returned, and the calls that it made; it ended now, if nothing else is said."""
        call.began = began
        call.worker = worker
        self.in_hand -= 1
        if call.state is not RUNNING or call._engine is not self:
            return  # cancelled, or the run is over: nobody waits for it any more
        if expands(call, value, made):
            self.expand(call, value, made)
        else:
            self.finish(call, value, ended)
        if not self.in_hand and self.driver.idle:
            self.driver.wake.put(None)  # should nothing be ready now, it sees that the run is stuck

    def adopt(self, call: Future[Any], made: list[Future[Any]]) -> None:
        """Give calls that were recorded on a worker elsewhere their caller and their depth here."""
        for inner in made:
            inner.caller = call
        pending = list(made)
        while pending:
            inner = pending.pop()
            inner.depth += call.depth + 1
            if inner.expansion is not None:
                pending.extend([own for own in inner.expansion.calls if own.caller is inner])

    def finish(self, call: Future[Any], value: Any, ended: float | None = None, *, recalled: bool = False) -> None:
        """Give a call its value, which may be recalled from a run before, and count down what waited for it."""
        outputs = call.definition.outputs
        if outputs is not None and not recalled:
            wrong = _wrong_outputs(call, fetched(value), outputs)
            if wrong is not None:
                self.fail(call, wrong)
                return
        if recalled:
            self.recalled.add(call.number)
        call.value = value
        call.ended = perf_counter() if ended is None else ended
        call.state = FINISHED
        call.args = call.kwargs = None  # it lets go of its inputs
        dependents = call._dependents
        call._dependents = _NOBODY
        # From here on `_waiting` counts the consumers that have not had the value, and `_uses` our references to it.
        call._uses = call._waiting = len(dependents)
        if call.expansion is not None:
            call._uses += sum([inner.caller is call for inner in call.expansion.calls])
        # A body that made calls let go of its inputs when it returned; of its calls it does in `_complete`.
        for need in call.dependencies if call.expansion is None else ():
            if need._engine is self:
                need._waiting -= 1
                if not need._waiting:
                    self._release(need)
        if self.failures:
            call._waiting = sum(1 for dependent in dependents if dependent.state not in SETTLED)
        if self.listener is not None:
            what: What = "recalled" if recalled else "finished"
            self.listener(Note(what, call, call.ended - self.began, call.ended - call.began))
        for dependent in dependents:
            dependent._waiting -= 1
            if not dependent._waiting:
                self._ready(dependent)
        if self.watchers:
            self._tell_watchers(call)
        self.left -= 1
        if not self.left:
            self._end()

    def expand(self, call: Future[Any], value: Any, made: list[Future[Any]]) -> None:
        """Let the calls that a body made join the graph; the call finishes when they have."""
        try:
            open_up(call, made, value)
        except RecursionError:
            self.fail(call, RecordError(f"{call.name!r} returned a container that holds itself"))
            return
        except RecordError as error:  # a future hidden in the result
            self.fail(call, error)
            return
        expansion = call.expansion
        assert expansion is not None
        if self.listener is not None:
            self.listener(Note("expanded", call, perf_counter() - self.began, len(expansion.calls)))
        call.args = call.kwargs = None
        call._level = max([dependent._level for dependent in call._dependents], default=0.0)
        for need in call.dependencies:
            if need._engine is self:
                need._waiting -= 1
                if not need._waiting:
                    self._release(need)
        if made and made[0].depth > self.max_depth:
            self.fail(call, too_deep(call, self.max_depth))
            return
        for inner in expansion.calls:
            if inner is call:
                self.stop(unfinished_cycle([call]))
                return
        self._await_calls(call)

    def _await_calls(self, call: Future[Any]) -> None:
        expansion = call.expansion
        assert expansion is not None
        fresh = self._claim(expansion.calls)
        waiting = 0
        for inner in expansion.calls:
            if inner._engine is self and inner.state not in SETTLED:
                inner._dependents.append(call)
                waiting += 1
            elif inner.state is not FINISHED:
                # What failed in the hands of this body, which went on, is no failure of it, unless it returned it.
                if inner.number not in self._delivered or inner.number in expansion.returned:
                    waiting += self._meet(inner, call)
            elif inner._engine is self:  # it was awaited in the body; now it is needed once more
                inner._waiting += 1
                inner._uses += 1
        call._waiting = waiting
        self._join(fresh, call)
        if not waiting:
            self._complete(call)

    def _join(self, fresh: list[Future[Any]], *callers: Future[Any]) -> None:
        try:
            rank(fresh, self.costs)
            raised = raise_levels([*callers, *fresh], self)
        except CycleError as error:
            self.stop(error)
            return
        for call in raised:
            if call.state is READY:
                self._push(call)
        for new in fresh:
            if not new._waiting:
                self._ready(new)

    def demand(self, calls: list[Future[Any]], awaited: Future[Any], by: Future[Any]) -> None:
        """Run calls now that the body of an `async def` node has made so far, because it awaits one of them.

        Raises :class:`CycleError` when the one that is awaited waits for the one that awaits it.
        """
        self._awaited[awaited.number] = self._awaited.get(awaited.number, 0) + 1
        self._suspended.setdefault(by.number, []).append(awaited)
        if self.seeds is not None:
            self.seeds.recorded(calls)
        self._join(self._claim(calls))
        if self._waits_for(awaited, by):
            self.received(awaited, by)
            raise unfinished_cycle([by, awaited])

    def received(self, awaited: Future[Any], by: Future[Any]) -> None:
        """Note that a body goes on after awaiting a call."""
        self._awaited[awaited.number] -= 1
        if not self._awaited[awaited.number]:
            del self._awaited[awaited.number]
        waits = self._suspended[by.number]
        waits[:] = [other for other in waits if other is not awaited]
        if not waits:
            del self._suspended[by.number]

    def _waits_for(self, call: Future[Any], other: Future[Any]) -> bool:
        """Whether a call cannot settle before another has."""
        seen: set[Future[Any]] = set()
        pending = [call]
        while pending:
            current = pending.pop()
            if current is other:
                return True
            if current.state in SETTLED or current in seen:
                continue
            seen.add(current)
            pending.extend(current.dependencies if current.expansion is None else current.expansion.calls)
            pending.extend(self._suspended.get(current.number, ()))
        return False

    def _complete(self, call: Future[Any]) -> None:
        """Finish a call whose own calls have all finished. Iterative: a thousand nested calls end at once."""
        if call.state in SETTLED:
            return
        expansion = call.expansion
        assert expansion is not None
        template, expansion.template = expansion.template, None
        try:
            if type(template) is Future:
                value = template.value
            else:
                value = Nested(template).replace(Future, lambda future: fetched(future.value))
        except DamagedEntry as error:  # a value that was found cannot be read: the run looks again what there is
            expansion.template = template
            self.stop(error)
            return
        except Exception as error:  # of the user's own classes: values that cannot be in a set, copies that fail
            self.fail(call, error)
            return
        kept, template = template if self.recall is not None else None, None
        if call.args == ():  # a component: it has not run
            call.began, call.worker = perf_counter(), 0
        elif self.recall is not None:
            before, value = value, self.recall.keep(call, value, perf_counter() - call.began)
            if value is not before or hasattr(value, "origin"):
                expansion.template = kept  # should its value not be readable any more, it is made of its calls again
        if self._completing is not None:
            self._completing.append((call, value))
            return
        # `finish` may complete the caller, whose `finish` completes its caller, and so on: a loop, not a recursion.
        self._completing = [(call, value)]
        try:
            for call, value in self._completing:
                inner = call.expansion.calls if call.expansion is not None else ()
                self.finish(call, value)
                for need in inner:
                    if need._engine is self and need.state is FINISHED:
                        need._waiting -= 1
                        if not need._waiting:
                            self._release(need)
        finally:
            self._completing = None

    _completing: list[tuple[Future[Any], Any]] | None = None

    def _needs_one_less(self, call: Future[Any]) -> None:
        call._waiting -= 1
        if not call._waiting:
            self._ready(call)

    def _release(self, call: Future[Any]) -> None:
        """Let a value go whose consumers have all had it, unless the user holds its future.

        The interpreter knows whether anybody else refers to the future. A count above our own references keeps the
        value, so a miscount could only ever keep too much.
        """
        if call.state is FINISHED:
            if getrefcount(call) <= call._uses + _OWN_REFERENCES:
                call.value = RELEASED
            else:
                self._held.append(call)

    def _release_held(self) -> None:
        """Look again at values that somebody held: it may have been whoever was about to hand them over."""
        held, self._held = self._held, []
        while held:
            call = held.pop()
            if not call._waiting and getrefcount(call) <= call._uses + _OWN_REFERENCES - 1:
                call.value = RELEASED

    def give_back(self, call: Future[Any]) -> None:
        """Take back a call that was handed out and not begun."""
        self.in_hand -= 1
        if call.state is RUNNING and call._engine is self:
            call.state = WAITING
            self._ready(call)

    def raised(self, call: Future[Any], error: BaseException, began: float, worker: int) -> None:
        """Take an exception of a body: run the call again where its node allows for it, else let it fail."""
        if isinstance(error, DamagedEntry) and self.recall is not None and call.state is RUNNING:
            # A value that was found cannot be read: the run looks again what there is.
            self.in_hand -= 1
            call.state = WAITING
            self.stop(error)
            return
        attempt = self.attempts.get(call, 1)
        if attempt > call.definition.retries or not isinstance(error, Exception):
            self.gave_up(call, error, began, worker)
            return
        self.in_hand -= 1
        if call.state is not RUNNING or call._engine is not self:
            return
        call.began = began
        call.worker = worker
        self.attempts[call] = attempt + 1
        self._note("retried", call, (attempt, text_of(error)))
        call.state = WAITING
        self._ready(call)

    def gave_up(self, call: Future[Any], error: BaseException, began: float, worker: int) -> None:
        """Take an exception that no retry can help: of the last attempt, a timeout, a worker that died too often."""
        self.in_hand -= 1
        if call.state is RUNNING and call._engine is self:
            call.began = began
            call.worker = worker
            self.fail(call, error)

    def fail(self, call: Future[Any], error: BaseException, root: Future[Any] | None = None) -> None:
        """Note that a call failed: its callers fail with it, and its dependents are skipped.

        With a `root` the call did not fail itself, but something that it needs did, before this run.
        """
        if call.state in SETTLED:
            return
        cause = self._causes.pop(id(error), None)
        if root is None and cause is None:
            blame(call, error, self.attempts.get(call, 1))
            if self.recall is not None:
                self.recall.failed(call, error)
            self._note("failed", call, text_of(error))
        given, root = root, call if root is None else root
        visited: list[int] = []
        delivered = False
        state = FAILED if given is None else SKIPPED
        pending: list[tuple[Future[Any], State, list[str]]] = [(call, state, [root.name])]
        while pending:
            current, state, path = pending.pop()
            if current.state in SETTLED:
                continue
            visited.append(current.number)
            delivered = delivered or current.number in self._awaited
            if state is SKIPPED:
                path = longer_path(path, current.name)
                current.value = UpstreamFailed(
                    f"{current.name!r} was skipped, because {root.name!r} failed: {text_of(error)}",
                    root_cause=error,
                    path=path,
                )
                self._note("skipped", current, root.name)
            else:
                current.value = error
            dependents = self._give_up(current, state)
            pending.extend(
                [(d, SKIPPED if d.expansion is None or state is SKIPPED else FAILED, path) for d in dependents]
            )
        if delivered:  # an async body awaits it, and may catch it; if it does not, it fails with the same exception
            self._delivered.update(visited)
            self._causes[id(error)] = root, error
        else:
            self._blame_run(cause[0] if cause is not None else root, error)
        if not self.left:
            self._end()

    def _blame_run(self, root: Future[Any], error: BaseException) -> None:
        """Note a root cause of the run; unless the run is to go on, it ends."""
        if root not in self._roots:
            self._roots.add(root)
            self.failures.append((root, error))
        if not self.keep_going:
            self.stop(error)

    def _give_up(self, call: Future[Any], state: State) -> list[Future[Any]]:
        """Settle a call without a value; return what needed it."""
        call.state = state
        call.ended = perf_counter()
        if not hasattr(call, "began"):
            call.began, call.worker = call.ended, 0
        # A body that made calls has let go of its inputs already, and has its calls to let go of.
        needs = call.dependencies if call.expansion is None else call.expansion.calls
        call.args = call.kwargs = None
        for need in needs:
            if need._engine is self and need.state is FINISHED:
                need._waiting -= 1
                if not need._waiting:
                    self._release(need)
        dependents, call._dependents = call._dependents, _NOBODY
        if self.watchers:
            self._tell_watchers(call)
        self.left -= 1
        return dependents

    def cancel(self, call: Future[Any]) -> None:
        """Cancel one call of the run, running or not; what needs it is skipped."""
        if call.state is RUNNING and call.expansion is None:
            self.dropped.append(call)
        self.fail(call, CancelledError(f"{call.name!r} was cancelled"))
        if call.state is FAILED:
            call.state = CANCELLED

    # The end

    def stop(self, error: BaseException) -> None:
        """End the run with an error; calls that are running are not waited for."""
        if self.error is None and not self.over.is_set():
            self.error = error
            self._end()

    def _end(self) -> None:
        if not self.over.is_set():
            self.ended = perf_counter()
            self.over.set()
        for lane in self.lanes.values():
            for _ in range(lane.idle + 1):
                lane.wake.put(None)

    def close(self) -> None:
        """Give back the calls of this run: those that have not settled may be run again by another."""
        try:
            self._close()
        except BaseException:  # a signal handler raised: all of it is done all the same
            self._close()
            raise

    def _close(self) -> None:
        with self.lock:
            # Whoever still works for it finds nothing to do any more, and what it brings is not looked at.
            self.closed = True
            self._end()
            self._release_held()
            self.inbox.clear()
            self.foreign.clear()
            for call in self.calls:
                if call._engine is self:  # else we never got it, or gave it back: another run may have it by now
                    if call.state not in SETTLED:
                        call.state = WAITING
                    call._dependents = _NOBODY
                    call._engine = None  # at last: from here on anybody may claim it
            for lane in self.lanes.values():
                lane.queue.clear()
        for call in list(self.watchers):  # to be told twice does no harm, and not to be told does
            for tell in self.watchers.get(call, ()):
                tell(call)
            self.watchers.pop(call, None)

    # Telling

    def _note(self, what: What, call: Future[Any], more: Any) -> None:
        note = Note(what, call, perf_counter() - self.began, more)
        self.notes.append(note)
        if self.listener is not None:
            self.listener(note)

    def _tell_watchers(self, call: Future[Any]) -> None:
        for tell in self.watchers.pop(call, ()):
            tell(call)


_NOBODY: Any = ()
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))


def expands(call: Future[Any], value: Any, made: list[Future[Any]]) -> bool:
    """Whether what came out of a body is not yet its value: it made calls, or returned a future."""
    return bool(made) or isinstance(value, Future) or (type(value) in _CONTAINERS and captures(call.definition))


def in_driver(definition: Definition) -> bool:
    """Whether a body runs in the driver although the workers are elsewhere: because all it does is record calls."""
    if definition.kind is not Kind.LEAF:
        return definition.kind in (Kind.COMPOSITE, Kind.COMPONENT, Kind.STATEFUL, Kind.INPUT, Kind.COROUTINE)
    if definition.calls_nodes is None:
        definition.calls_nodes = calls_nodes(definition.function)
    return definition.calls_nodes


def captures(definition: Definition) -> bool:
    """Whether a body that made no call can have futures to return all the same: from its closure or globals."""
    if definition.captures is None:
        definition.captures = bool(captured_futures(definition.function))
    return definition.captures


def _wrong_outputs(call: Future[Any], value: Any, outputs: int) -> OutputError | None:
    try:
        count = len(value)
    except Exception:  # it has no length, or its own __len__ fails
        return OutputError(f"{call.name!r} declares {outputs} outputs, but returned {reprlib.repr(value)}")
    return None if count == outputs else OutputError(f"{call.name!r} declares {outputs} outputs, but returned {count}")


def why_unusable(call: Future[Any]) -> BaseException:
    if call.state is FINISHED:
        return ReleasedError(
            f"the value of {call.name!r} (called at {call.line}) was let go after its run, because nobody held its "
            f"future; keep the future, or call the node again"
        )
    value = call.value
    if isinstance(value, UpstreamFailed):
        return value.root_cause
    return value if isinstance(value, BaseException) else CancelledError(f"{call.name!r} was cancelled")
