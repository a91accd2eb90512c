"""The supervisor of a pool of worker processes: who gets which task, what came back, and what to do about a death.

No queue, lock or semaphore is shared between workers, so the death of one, at any moment, concerns its own tasks only:
it shows as the end of its pipe. What it had finished is in its ledger, what it was running is tried again alone, and
what it had not begun goes back to the ready queue.

The supervisor takes ready calls from the engines of the runs that are open, sends them out in chunks, and settles what
comes back. It never waits for one worker: messages are small, and large values cross in files. What it does to
processes it does through a machine, which a test replaces by a simulated one.
"""

from __future__ import annotations

import pickle
import signal
from collections import deque
from collections.abc import Callable
from itertools import count
from time import perf_counter
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from tinygraph.capture import ATOMS
from tinygraph.definition import Definition
from tinygraph.engine import Engine
from tinygraph.errors import PayloadError, WorkerLost
from tinygraph.executors.ambient import dumps as pickled
from tinygraph.executors.bodies import arguments_of, here, too_slow
from tinygraph.executors.envelope import rebuild_error, why_unpicklable
from tinygraph.executors.output import LAST_WORDS, Outlet, Said, Whose, write
from tinygraph.executors.segments import Parcel, Segments
from tinygraph.executors.transfer import Kept, Outbox, dumps
from tinygraph.executors.worker import AMBIENT, EXPANDED, FORGET, PLAIN, RAISED, RELEASE, RELEASED, RUN, SEEDS, SMALL
from tinygraph.future import Future, State
from tinygraph.portable import unpack

# Small tasks travel together: about this much work, in seconds, in one message.
CHUNK = 0.004
# What a task costs a worker besides its body, in seconds.
PER_TASK = 5e-6
# A worker with less work than this ahead of it, in seconds, is sent the next chunk before it asks,
AHEAD = 0.002
# if there are so many ready calls.
FEW = 16
# How often a task whose worker died is tried in all.
ATTEMPTS = 3
# After so many workers in a row that died without having begun anything, there is no use in starting more.
STILLBORN = 10
# Seconds after which workers without work are let go.
IDLE_TIMEOUT = 60.0
# A task that nobody waits for any more is left alone for so many seconds, in case that it ends by itself.
GRACE = 0.05
# The objects of a run have so many seconds to close, before their worker is stopped.
CLOSING = 30.0
# Seconds after which it is tried again to start a worker, where that went wrong and others are there.
RETRY = 1.0
# What a task is expected to take before any of its kind has ended.
UNKNOWN = 1.0


class Member(Protocol):
    """A worker, as the machine offers it."""

    number: int

    @property
    def pid(self) -> int: ...
    def send(self, message: bytes) -> None: ...
    def receive(self) -> list[bytes] | None: ...
    def running(self) -> tuple[int, float]: ...
    def unsent(self) -> list[bytes]: ...
    def kill(self) -> None: ...
    def bury(self) -> int | None: ...

    # What its nodes print and log; a simulated worker need not have these.
    # def said(self, ended: int = 0) -> list[Said]: ...
    # def hear(self, wanted: bool) -> None: ...


class Machine(Protocol):
    """What does things to processes, and has the time."""

    def now(self) -> float: ...
    def launch(self, number: int, workers: int) -> Any: ...
    def listen(self, timeout: float | None) -> Any: ...


class Known:
    """What the supervisor knows about a node. It goes with the node, and says so."""

    __slots__ = ("code", "gone", "number", "run", "seconds")

    def __init__(self, gone: deque[int]) -> None:
        self.gone = gone
        self.number = 0  # of what is pickled, as workers know it; 0 for none
        self.code = b""
        self.run = 0  # the run that needed it last
        self.seconds: float | None = None  # what a call takes

    def __del__(self) -> None:
        if self.number:
            self.gone.append(self.number)


class Task:
    """A call in the hands of a worker."""

    __slots__ = ("call", "engine", "known", "number", "parcel")

    def __init__(self, number: int, call: Future[Any], engine: Engine, known: Known) -> None:
        self.number = number
        self.call = call
        self.engine = engine
        self.known = known
        self.parcel: Parcel | None = None  # its arguments, to be held for as long as a worker may open them


class Hand:
    """A worker with the supervisor's books on it."""

    __slots__ = (
        "ahead",
        "alone",
        "ambient",
        "closing",
        "forgets",
        "holds",
        "known",
        "last",
        "late",
        "left",
        "member",
        "run",
        "said",
        "tasks",
        "used",
        "voice",
        "words",
    )

    def __init__(self, member: Member) -> None:
        self.member = member
        self.tasks: dict[int, Task] = {}  # sent and not reported, in order
        self.ahead = 0.0  # expected seconds of work in them
        self.alone = False  # its task may have to be killed: nothing is sent after it, to die with it
        self.ambient = b""  # what surrounds its tasks, as it was sent last
        self.known: set[int] = set()  # the definitions that it was sent
        self.forgets: list[int] = []  # those of them that are gone, which it is to be told
        self.run = 0  # whose tasks it was sent last
        self.used = False  # whether it was sent any task
        self.last = False  # it is sent no more, and let go when it has done what it has
        self.holds: set[int] = set()  # the runs for which it may have made objects
        self.closing: dict[int, float] = {}  # those that it is to close them for, and until when
        self.left: float | None = None  # since when nobody waits for the task that it runs
        self.late = 0  # the task for which it was killed, because that took too long
        self.said: Callable[..., list[Said]] = getattr(member, "said", _nothing)
        self.voice: tuple[int, Whose, Engine] | None = None  # the task that said something last
        self.words = ""  # the last that it said


class Supervisor:
    """A pool of workers, warm from one run to the next. Used by one thread only.

    ``workers``: how many. ``machine``: what starts and kills them. ``segments``: where large values cross.
    """

    def __init__(self, workers: int, machine: Machine, segments: Segments) -> None:
        self.workers = workers
        self.machine = machine
        self.segments = segments
        self._hands: dict[Any, Hand] = {}  # by member
        self._engines: list[Engine] = []
        self._outboxes: dict[Engine, Outbox] = {}  # what each run has written already
        self._numbers = count(1)
        self._runs: dict[Engine, int] = {}  # their numbers
        self._leaving: dict[int, tuple[set[Any], Callable[[], None]]] = {}  # who has to answer, and whom to tell then
        self._known: WeakKeyDictionary[Definition, Known] = WeakKeyDictionary()
        self._gone: deque[int] = deque()  # numbers of definitions; appended to whenever one is collected
        self._lost: dict[Future[Any], int] = {}  # how many workers died while they had the call
        self._alone: deque[Task] = deque()  # suspects and isolated ones: each for a worker that has nothing else
        self._retry_at = 0.0  # when it is tried again to start a worker
        self._stillborn = 0  # how many workers in a row died without having begun anything
        # Once a worker has died, one more than is needed is kept warm: the next death costs no start.
        self._spare: Hand | None = None
        self._wants_spare = False
        self._ambients: dict[Engine, bytes] = {}
        self._outlets: dict[Engine, Outlet] = {}  # where what the tasks of a run say goes
        self._unheard: list[Hand] = []  # workers that say so much that they have to wait
        self._idle_since = machine.now()

    # Runs

    def enter(self, engine: Engine, outlet: Outlet | None = None, ambient: bytes = b"") -> None:
        """Begin to serve a run; what its tasks say goes to the outlet, and `ambient` is what surrounds them."""
        self._engines.append(engine)
        self._outboxes[engine] = Outbox(self.segments)
        self._runs[engine] = next(self._numbers)
        if outlet is not None:
            self._outlets[engine] = outlet
        self._ambients[engine] = ambient

    def leave(self, engine: Engine, done: Callable[[], None] | None = None) -> None:
        """Stop serving a run, and stop what it still has running.

        `done` is called when the objects that workers made for it are closed, but for those of workers that are busy
        with another run.
        """
        done = done or _nobody
        if engine not in self._outboxes:
            done()
            return
        run = self._runs.pop(engine)
        self._engines.remove(engine)
        self._outboxes.pop(engine).close()
        self._idle_since = self.machine.now()
        self._alone = deque(task for task in self._alone if task.engine is not engine)
        self._lost = {call: lost for call, lost in self._lost.items() if call._engine is not engine}
        awaited = set()
        for hand in list(self._hands.values()):
            mine = [task for task in hand.tasks.values() if task.engine is engine]
            if mine and hand.ahead > GRACE and len(mine) == len(hand.tasks):
                self._dismiss(hand)
                continue
            if hand.voice is not None and hand.voice[2] is engine:
                self._hear(hand)
                hand.voice = None
            if run in hand.holds:
                is_free = len(mine) == len(hand.tasks)
                self._have_closed(hand, run, CLOSING if is_free else float("inf"))
                if is_free:
                    awaited.add(hand.member)
        self._outlets.pop(engine, None)
        del self._ambients[engine]
        if awaited:
            self._leaving[run] = awaited, done
        else:
            done()

    def _have_closed(self, hand: Hand, run: int, patience: float) -> None:
        """Have a worker close the objects that it made for a run."""
        hand.holds.discard(run)
        hand.closing[run] = self.machine.now() + patience
        hand.member.send(pickle.dumps(({RELEASE: run}, [])))

    def _has_closed(self, hand: Hand, run: int) -> None:
        """Note that a worker has, or is no more."""
        hand.closing.pop(run, None)
        if run in self._leaving:
            awaited, done = self._leaving[run]
            awaited.discard(hand.member)
            if not awaited:
                del self._leaving[run]
                done()

    def stop(self, error: BaseException) -> None:
        """End every run with an error."""
        for engine in self._engines:
            with engine.lock:
                engine.stop(error)

    def close(self) -> None:
        """End the workers, whatever may be wrong with one of them."""
        hands = list(self._hands.values())
        for end in (lambda hand: hand.member.kill(), self._dismiss):
            for hand in hands:
                try:
                    end(hand)
                except Exception:  # the others are to end all the same
                    continue

    @property
    def busy(self) -> bool:
        """Whether it serves any run."""
        return bool(self._engines)

    @property
    def working(self) -> bool:
        """Whether any worker has anything to do."""
        return any(hand.tasks for hand in self._hands.values())

    @property
    def closing(self) -> bool:
        """Whether any worker closes the objects of a run that is over."""
        return any(hand.closing for hand in self._hands.values())

    @property
    def waits(self) -> bool:
        """Whether any task waits for a worker to be free, that it may have it for itself."""
        return bool(self._alone)

    # One step

    def step(self) -> None:
        """Hand out what is ready, wait for news, and act on it."""
        self._dismiss_surplus()
        if self._unheard:
            self._hear_again()
        if self._gone:
            self._forget()
        for engine in self._engines:
            if engine.dropped:  # they woke us; the workers that have them are found by `_deadline`
                with engine.lock:
                    engine.dropped.clear()
        self._feed()
        if self._wants_spare and self._spare is None and self._engines and len(self._hands) >= self.workers:
            self._spare = self._hire()
        for member in self.machine.listen(self._patience()):
            hand = self._hands[member]
            outcomes = member.receive()
            self._hear(hand)  # what a task said is heard before it is settled
            if outcomes is None:
                self._bury(hand)
            elif outcomes:
                self._stillborn = 0
                self._take_report(hand, outcomes)
                if hand.last and not hand.tasks and not hand.closing:
                    self._retire(hand)
        self._mind_the_time()

    def _patience(self) -> float | None:
        """Return the seconds until something must be done without news."""
        now = self.machine.now()
        times = [deadline - now for hand in self._hands.values() if (deadline := self._deadline(hand)) is not None]
        if not self._engines and self._hands:
            times.append(self._idle_since + IDLE_TIMEOUT - now)
        if self._retry_at > now and self._is_asked_for:
            times.append(self._retry_at - now)
        for hand in self._hands.values():
            if hand.closing and not hand.late and (until := min(hand.closing.values())) < float("inf"):
                times.append(until - now)
        return max(0.0, min(times)) if times else None

    def _mind_the_time(self) -> None:
        now = self.machine.now()
        for hand in list(self._hands.values()):
            deadline = self._deadline(hand)
            if deadline is not None and now >= deadline:
                hand.late = next(iter(hand.tasks))
                hand.member.kill()
            elif hand.closing and not hand.late and now >= min(hand.closing.values()):
                hand.late = -1  # for none of its tasks
                hand.member.kill()
            elif not self._engines and now >= self._idle_since + IDLE_TIMEOUT:
                self._dismiss(hand)

    def _deadline(self, hand: Hand) -> float | None:
        """Return when the task that a worker is running must have ended: its node says so, or nobody waits for it."""
        if hand.late:
            return None
        for task in hand.tasks.values():
            if self._is_wanted(task):
                hand.left = None
                timeout = task.call.definition.timeout
                if timeout is None:
                    return None
                number, began = hand.member.running()
                return (began if number == task.number else self.machine.now()) + timeout
            if hand.left is None:
                hand.left = self.machine.now()
            return hand.left + GRACE
        hand.left = None
        return None

    def _is_wanted(self, task: Task) -> bool:
        """Whether anybody waits for a task: its run may be over, or it was cancelled."""
        call, engine = task.call, task.engine
        return call.state is State.RUNNING and call._engine is engine and engine in self._outboxes

    # Handing out

    def _feed(self) -> None:
        """Send ready calls to the workers that have room, idle ones first."""
        while self._is_asked_for:
            hand = self._roomiest()
            if hand is None or not self._send_next(hand):
                return

    @property
    def _is_asked_for(self) -> bool:
        """Whether anything is to be sent to a worker."""
        if self._alone:
            return True
        return any(engine.lanes["process"].queue and engine.error is None for engine in self._engines)

    def _roomiest(self) -> Hand | None:
        """Return the worker that should be sent something: an idle one, a new one, one that soon will be idle."""
        best: Hand | None = None
        for hand in self._hands.values():
            if hand is self._spare:
                continue
            if not hand.tasks:
                if not (hand.late or hand.last):
                    return hand
            elif not (hand.late or hand.alone or hand.last) and (best is None or hand.ahead < best.ahead):
                best = hand
        if self._has_vacancy and (one := self._replacement()) is not None:
            return one
        # A few more tasks are not worth a message to a worker that has something to do.
        enough = any(len(engine.lanes["process"].queue) >= FEW for engine in self._engines)
        return best if best is not None and best.ahead < AHEAD and enough else None

    @property
    def _has_vacancy(self) -> bool:
        return len(self._hands) - (self._spare is not None) < self.workers

    def _replacement(self) -> Hand | None:
        """Return a worker that has done nothing yet."""
        hand, self._spare = self._spare or self._hire(), None
        return hand

    def _hire(self) -> Hand | None:
        """Start a worker; None where that cannot be had now: the others go on, and without any the runs end."""
        now = self.machine.now()
        if self._hands and now < self._retry_at:
            return None
        try:
            member = self.machine.launch(next(self._numbers), self.workers)
        except Exception as error:
            self._retry_at = now + RETRY
            if not self._hands:
                lost = WorkerLost(f"no worker process could be started: {type(error).__name__}: {error}")
                lost.__cause__ = error
                self._alone.clear()
                self.stop(lost)
            return None
        hand = self._hands[member] = Hand(member)
        return hand

    def _fresh(self, hand: Hand) -> Hand | None:
        """Return a worker that has done nothing yet, if need be in place of an idle one."""
        if not hand.used:
            return hand
        if not self._has_vacancy:
            self._retire(hand)
        return self._replacement() if self._has_vacancy else None

    def _send_next(self, hand: Hand) -> bool:
        """Send a worker its next chunk; return whether there was one."""
        while self._alone:
            if hand.tasks:
                return False
            task = self._alone[0]
            if not self._is_wanted(task):
                self._alone.popleft()
                with task.engine.lock:
                    task.engine.give_back(task.call)
                continue
            if _is_isolated(task):
                fresh = self._fresh(hand)
                if fresh is None:
                    return False
                hand, fresh.last = fresh, True
            self._alone.popleft()
            self._send(hand, [task])
            hand.alone = True
            if hand.last and not hand.tasks:  # it could not be sent
                self._retire(hand)
            return True
        for engine in self._engines:
            tasks = self._take_chunk(engine)
            if tasks and _is_isolated(tasks[-1]):
                self._alone.append(tasks.pop())
                if not tasks:
                    return self._send_next(hand)
            if tasks:
                if len(self._engines) > 1:  # each run in its turn
                    self._engines.remove(engine)
                    self._engines.append(engine)
                self._send(hand, tasks)
                hand.alone = tasks[-1].call.definition.timeout is not None
                return True
        return False

    def _take_chunk(self, engine: Engine) -> list[Task]:
        tasks: list[Task] = []
        expected = 0.0
        lane, nodes, numbers = engine.lanes["process"], self._known, self._numbers
        definition = known = None
        with engine.lock:
            # A share of what is ready, so that no worker goes without while another has a long list.
            for _ in range(-(-len(lane.queue) // self.workers) or 1):
                call = engine.take(lane)
                if call is None:
                    break
                if call.definition is not definition or known is None:
                    definition = call.definition
                    known = nodes.get(definition)
                    if known is None:
                        known = nodes[definition] = Known(self._gone)
                tasks.append(Task(next(numbers), call, engine, known))
                seconds = known.seconds
                if seconds is None or definition.timeout is not None:  # unknown, or watched: it travels alone
                    break
                if definition.isolate:
                    break
                expected += seconds + PER_TASK
                if expected >= CHUNK:
                    break
        return tasks

    def _send(self, hand: Hand, tasks: list[Task]) -> None:
        definitions: dict[int, Any] = {}
        seeds: dict[int, int] = {}
        rows: list[tuple[int, int, Any]] = []
        run = self._runs[tasks[0].engine]
        hand.used = True
        here.sent_recipe = False
        for task in tasks:
            call, known = task.call, task.known
            try:
                if known.run != run:
                    self._pickle(call.definition, known)
                    known.run = run
                args = self._arguments(call, self._outboxes[task.engine])
            except BaseException as error:
                with task.engine.lock:
                    task.engine.raised(call, error, perf_counter(), -1)
                continue
            index = known.number
            if index not in hand.known:
                hand.known.add(index)
                definitions[index] = known.code
            if type(args) is Parcel:
                task.parcel = args
            if task.engine.seeds is not None:
                seeds[task.number] = task.engine.seeds.of(call)
            rows.append((task.number, index, args))
            hand.tasks[task.number] = task
            hand.ahead += (UNKNOWN if known.seconds is None else known.seconds) + PER_TASK
        if here.sent_recipe:
            hand.holds.add(run)
        if not rows:
            return
        if hand.run != run:
            hand.run = definitions[RUN] = run
        if hand.forgets:
            hand.forgets, definitions[FORGET] = [], hand.forgets
        if seeds:
            definitions[SEEDS] = seeds
        ambient = self._ambients[tasks[0].engine]
        if hand.ambient != ambient:
            hand.ambient = definitions[AMBIENT] = ambient
        hand.member.send(pickle.dumps((definitions, rows)))

    def _pickle(self, definition: Definition, known: Known) -> None:
        """Pickle a node for a run. It keeps its number, unless it changed since another run."""
        try:
            code = pickled(definition)
        except Exception as error:
            raise PayloadError(f"{definition.name}: the node cannot be pickled for a worker: {error}") from error
        if code != known.code:
            if known.number:
                self._gone.append(known.number)
            known.number, known.code = next(self._numbers), code

    def _forget(self) -> None:
        """Note for each worker which definitions are gone: it is told with the next message."""
        while self._gone:
            number = self._gone.popleft()
            for hand in self._hands.values():
                if number in hand.known:
                    hand.known.remove(number)
                    hand.forgets.append(number)

    def _arguments(self, call: Future[Any], outbox: Outbox) -> Any:
        """Return the arguments of a call for the message: plain ones as they are, others as a parcel."""
        args, kwargs = arguments_of(call, _as_it_is)
        if not kwargs:
            for arg in args:
                kind = type(arg)
                if kind not in ATOMS or (kind in (str, bytes) and len(arg) > SMALL):
                    break
            else:
                return args
        try:
            return dumps((args, kwargs), self.segments, outbox)
        except Exception as error:
            raise why_unpicklable(call.definition, args, kwargs, error) from error

    # Taking back

    def _take_report(self, hand: Hand, outcomes: list[bytes]) -> None:
        settled = [pickle.loads(outcome) for outcome in outcomes]
        for task in getattr(hand.member, "begun", ()):
            if task not in hand.tasks or any(task == outcome[0] for outcome in settled):
                self._pass_on(hand, hand.said(task))
        for outcome in settled:
            self._settle(hand, *outcome)

    def _hear(self, hand: Hand) -> None:
        """Pass on what the nodes on a worker have said."""
        said = hand.said()
        if said:
            self._pass_on(hand, said)

    def _pass_on(self, hand: Hand, pieces: list[Said]) -> None:
        for said in pieces:
            whose, engine = self._voice(hand, said)
            if said.text:
                hand.words = (hand.words + said.text)[-LAST_WORDS:]
            outlet = self._outlets.get(engine) if engine is not None else None
            if outlet is None:  # its run is over
                write(whose, said)
                continue
            outlet.put(whose, said)
            if outlet.full and hand not in self._unheard:
                hand.member.hear(False)  # type: ignore[attr-defined]  # who says something has this as well
                self._unheard.append(hand)
                outlet.awaited = True  # said before we look once more, in `_hear_again`: one of the two sees the other

    def _voice(self, hand: Hand, said: Said) -> tuple[Whose, Engine | None]:
        """Return which task said something."""
        # All that a task said was heard before it was settled: what comes later is of the one that runs.
        task = hand.tasks.get(said.task) or hand.tasks.get(hand.member.running()[0])
        if task is not None and (hand.voice is None or hand.voice[0] != task.number):
            hand.words = ""
            hand.voice = task.number, Whose(task.call.name, task.call.number), task.engine
        return (Whose("worker", hand.member.number), None) if hand.voice is None else hand.voice[1:]

    def _hear_again(self) -> None:
        """Listen again to the workers that had to wait, if what they said has been written."""
        for hand in self._unheard[:]:
            outlet = self._outlets.get(hand.voice[2]) if hand.voice is not None else None
            if outlet is None or not outlet.full:
                self._unheard.remove(hand)
                hand.member.hear(True)  # type: ignore[attr-defined]

    def _settle(self, hand: Hand, number: int, sort: int, began: float, seconds: float, what: Any) -> None:
        """Tell the engine of a task what came out of it. Should that go wrong, it concerns its run only."""
        task = hand.tasks.pop(number, None)
        if task is None:  # reported before its worker died, and found in the ledger again
            if sort == RELEASED:
                self._has_closed(hand, number)
            return
        self._let_go(task)
        engine, call = task.engine, task.call
        known = task.known.seconds
        if hand.tasks:
            hand.ahead -= (UNKNOWN if known is None else known) + PER_TASK
        else:
            hand.ahead = 0.0
        task.known.seconds = seconds if known is None else known + (seconds - known) * 0.2
        if self._lost:
            self._lost.pop(call, None)
        worker = hand.member.number
        try:
            if sort == PLAIN:
                with engine.lock:
                    engine.settle(call, what, [], began, worker, began + seconds)
            else:
                self._unpack(engine, call, sort, began, seconds, what, worker)
        except BaseException as error:
            with engine.lock:
                engine.stop(error)

    def _unpack(
        self, engine: Engine, call: Future[Any], sort: int, began: float, seconds: float, what: Any, worker: int
    ) -> None:
        if sort == RAISED:
            error = rebuild_error(*what)
            with engine.lock:
                engine.raised(call, error, began, worker)
            return
        made: list[Future[Any]] = []
        self.segments.hold(what)
        value: Any = Kept(what, self.segments)
        try:
            if sort == EXPANDED or not what.segments:
                value = value.fetch()
            if sort == EXPANDED:
                value, made = unpack(*value)
        except BaseException as error:  # whatever a user's class does when it is unpickled
            lost = PayloadError(f"{call.name}: the result cannot be unpickled here: {error!r}")
            lost.__cause__ = error
            with engine.lock:
                engine.raised(call, lost, began, worker)
            return
        with engine.lock:
            engine.adopt(call, made)
            engine.settle(call, value, made, began, worker, began + seconds)

    def _bury(self, hand: Hand) -> None:
        """See to the tasks of a worker that died: keep what it had finished, and decide about the rest."""
        self._take_report(hand, hand.member.unsent())
        running, _ = hand.member.running()
        tasks = list(hand.tasks.values())
        self._wants_spare = hand is not self._spare  # one that died itself is not replaced until it is missed
        code = self._dismiss(hand)
        for task in tasks:
            if task.number == running:
                self._suspect(task, hand, code)
            else:
                with task.engine.lock:
                    task.engine.give_back(task.call)
        self._stillborn = 0 if running or hand.late else self._stillborn + 1
        if self._stillborn >= STILLBORN:
            self._stillborn = 0
            self.stop(WorkerLost(f"the last {STILLBORN} workers died before they could begin a task ({_how(code)})"))

    def _suspect(self, task: Task, hand: Hand, code: int | None) -> None:
        """Decide about the task that a dead worker was running: try it again alone, or give it up."""
        engine, call = task.engine, task.call
        error: BaseException
        if not self._is_wanted(task) or (hand.late and hand.late != task.number):
            with engine.lock:  # nobody waits for it, or we killed the worker when that had just gone on to this task
                engine.give_back(call)
            return
        if hand.late:
            error = too_slow(call, "it was stopped")
        else:
            lost = self._lost[call] = self._lost.get(call, 0) + 1
            if lost < ATTEMPTS:
                self._alone.append(task)
                return
            peak = getattr(hand.member, "peak", 0)
            error = WorkerLost(f"the worker that ran {call.name!r} died {lost} times ({_how(code, peak)})")
            if hand.words and hand.voice is not None and hand.voice[0] == task.number:
                error.add_note(f"the last that it said:\n{hand.words}")
        self._lost.pop(call, None)
        with engine.lock:
            engine.gave_up(call, error, perf_counter(), hand.member.number)

    def _dismiss(self, hand: Hand) -> int | None:
        """End a worker and free what it held; return its exit code."""
        del self._hands[hand.member]
        if hand is self._spare:
            self._spare = None
        if hand in self._unheard:
            self._unheard.remove(hand)
        pid = hand.member.pid
        code = hand.member.bury()
        self._hear(hand)
        self.segments.reap(pid)
        for task in hand.tasks.values():
            self._let_go(task)
        for run in list(hand.closing):
            self._has_closed(hand, run)
        return code

    def _retire(self, hand: Hand) -> None:
        """End a worker that has nothing to do, when it has closed its objects."""
        hand.last = True
        if not hand.holds:
            self._dismiss(hand)
        for run in list(hand.holds):
            self._have_closed(hand, run, CLOSING)

    def _dismiss_surplus(self) -> None:
        surplus = len(self._hands) - (self._spare is not None) - self.workers
        if surplus > 0:
            idle = [hand for hand in self._hands.values() if not hand.tasks and hand is not self._spare]
            for hand in idle[:surplus]:
                if not hand.closing:
                    self._retire(hand)

    def _let_go(self, task: Task) -> None:
        if task.parcel is not None:
            self.segments.release(task.parcel)
            task.parcel = None


def _nothing(ended: int = 0) -> list[Said]:
    """What a worker says that has no output."""
    return []


def _as_it_is(value: Any) -> Any:
    """What is elsewhere stays there: its parcel travels, and the worker opens it."""
    return value


def _nobody() -> None:
    """Whom to tell where nobody waits."""


def _is_isolated(task: Task) -> bool:
    return bool(getattr(task.call.definition, "isolate", False))


def _how(code: int | None, peak: int = 0) -> str:
    """Tell how a process ended, and if we did not kill it, who may have; `peak` is the memory that it had used."""
    if code is None:
        return "no exit code"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    if name == "SIGKILL" and peak:
        amount = f"{peak / 1e9:.1f} GB" if peak >= 1e9 else f"{peak / 1e6:.0f} MB"
        return f"signal {name}; it had used up to {amount}: perhaps the machine ran out of memory"
    return f"signal {name}"
