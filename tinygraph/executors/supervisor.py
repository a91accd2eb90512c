"""The supervisor of a pool of worker processes: who gets which task, what came back, and what to do about a death.

No queue, lock or semaphore is shared between workers, so the death of one, at any moment, concerns its own tasks only:
it shows as the end of its pipe. What it had finished is in its ledger, what it was running is tried again alone, and
what it had not begun goes back to the ready queue.

The supervisor takes ready calls from the engines of the runs that are open, sends them out in chunks, and settles what
comes back. It never waits for one worker: messages are small, and large values cross in files. What it does to
processes it does through a machine, which a test replaces by a simulated one.

Its thread serves all runs, so nothing that goes wrong may end it. What goes wrong with a run, in the engine or in a
class of the user's, costs that run (`tell`); what goes wrong with a worker costs that worker.
"""

from __future__ import annotations

import pickle
import signal
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any, Protocol

from tinygraph.blame import text_of
from tinygraph.capture import ATOMS
from tinygraph.engine import Engine, captures, expands
from tinygraph.errors import PayloadError, WorkerLost
from tinygraph.executors.bodies import arguments_of, here, too_slow
from tinygraph.executors.catalogue import Catalogue
from tinygraph.executors.envelope import rebuild_error, why_unpicklable
from tinygraph.executors.output import Outlet
from tinygraph.executors.placement import CHUNK, idle, keeper, soon_idle
from tinygraph.executors.relay import Relay
from tinygraph.executors.roster import PER_TASK, Hand, Task
from tinygraph.executors.segments import Parcel, Segments
from tinygraph.executors.transfer import Kept, Outbox, dumps
from tinygraph.executors.worker import (
    AMBIENT,
    EXPANDED,
    FORGET,
    KEEP,
    PARCEL,
    PLAIN,
    RAISED,
    RELEASE,
    RELEASED,
    RUN,
    SEEDS,
    SMALL,
    STORED,
    UNTOUCHED,
)
from tinygraph.future import Future, State
from tinygraph.portable import unpack

# How often a task whose worker died is tried in all.
ATTEMPTS = 3
# After so many workers in a row that died without having begun anything, there is no use in starting more.
STILLBORN = 10
# Seconds after which workers without work are let go.
IDLE_TIMEOUT = 60.0
# A task that nobody waits for any more is left alone for so many seconds, in case that it ends by itself.
GRACE = 0.05
# Seconds after which it is looked what a worker is at that has several tasks and has reported nothing,
LOOK = 0.05
# and how many times longer than expected a task may take before those behind it are given to others.
OVERDUE = 10
# The objects of a run have so many seconds to close, before their worker is stopped.
CLOSING = 30.0
# Seconds after which it is tried again to start a worker, where that went wrong and others are there.
RETRY = 1.0


class Machine(Protocol):
    """What does things to processes, and has the time."""

    def now(self) -> float: ...
    def launch(self, number: int, workers: int) -> Any: ...
    def listen(self, timeout: float | None) -> Any: ...


class Served:
    """A run that is served, and what is kept for it."""

    __slots__ = ("ambient", "number", "outbox")

    def __init__(self, number: int, outbox: Outbox, ambient: bytes) -> None:
        self.number = number
        self.outbox = outbox  # what it has written already
        self.ambient = ambient  # what surrounds its tasks


class Supervisor:
    """A pool of workers, warm from one run to the next. Used by one thread only.

    ``workers``: how many. ``machine``: what starts and kills them. ``segments``: where large values cross.
    """

    def __init__(self, workers: int, machine: Machine, segments: Segments) -> None:
        self.workers = workers
        self.machine = machine
        self.segments = segments
        self._hands: dict[Any, Hand] = {}  # by member
        self._numbers = count(1)
        self._runs: dict[Engine, Served] = {}  # those that are open, in the order of their turns
        self._leaving: dict[int, tuple[set[Any], Callable[[], None]]] = {}  # who has to answer, and whom to tell then
        self._catalogue = Catalogue(self._numbers)
        self._relay = Relay()
        self._lost: dict[Future[Any], int] = {}  # how many workers died while they had the call
        self._alone: deque[Task] = deque()  # suspects and isolated ones: each for a worker that has nothing else
        self._retry_at = 0.0  # when it is tried again to start a worker
        self._stillborn = 0  # how many workers in a row died without having begun anything
        # Once a worker has died, one more than is needed is kept warm: the next death costs no start.
        self._spare: Hand | None = None
        self._wants_spare = False
        self._idle_since = machine.now()
        # The run for which it does something, and the call: its classes are pickled then, and may do anything.
        self.doing: tuple[Engine, str] | None = None

    # Runs

    def enter(self, engine: Engine, outlet: Outlet | None = None, ambient: bytes = b"") -> None:
        """Begin to serve a run; what its tasks say goes to the outlet, and `ambient` is what surrounds them."""
        run = next(self._numbers)
        self._runs[engine] = Served(run, Outbox(self.segments), ambient)
        self._catalogue.open(run)
        self._relay.open(engine, outlet)

    def leave(self, engine: Engine, done: Callable[[], None] | None = None) -> None:
        """Stop serving a run, and stop what it still has running.

        `done` is called when the objects that workers made for it are closed, but for those of workers that are busy
        with another run.
        """
        done = done or _nobody
        self.doing = None
        if engine not in self._runs:
            done()
            return
        served = self._runs.pop(engine)
        run = served.number
        served.outbox.close()
        self._catalogue.close(run)
        self._idle_since = self.machine.now()
        self._alone = deque(task for task in self._alone if task.engine is not engine)
        self._lost = {call: lost for call, lost in self._lost.items() if call._engine is not engine}
        awaited = set()
        for hand in list(self._hands.values()):
            mine = [task for task in hand.tasks.values() if task.engine is engine]
            if mine and hand.ahead > GRACE and len(mine) == len(hand.tasks):
                self._dismiss(hand)
                continue
            self._relay.leave(hand, engine)
            if run in hand.closing:  # it is about to be let go
                awaited.add(hand.member)
            if run in hand.holds:
                is_free = len(mine) == len(hand.tasks)
                self._have_closed(hand, run, CLOSING if is_free else float("inf"))
                if is_free:
                    awaited.add(hand.member)
        self._relay.close(engine)
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
        for engine in self._runs:
            tell(engine, engine.stop, error)

    def serves(self, engine: Engine) -> bool:
        """Whether a run is served; from any thread."""
        return engine in self._runs

    def give_up(self, error: BaseException) -> None:
        """End the workers and every run, in place of the thread that is held up: it may hold the lock of one."""
        for hand in list(self._hands.values()):
            hand.member.kill()
        for engine in list(self._runs):
            engine.post(partial(engine.stop, error))

    def renew(self) -> None:
        """Have each worker replaced, as soon as it has done what it has."""
        for hand in list(self._hands.values()):
            hand.last = True
            if not hand.tasks and not hand.closing:
                self._retire(hand)

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
        return bool(self._runs)

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
        self.doing = None
        self._dismiss_surplus()
        self._relay.hear_again()
        self._forget()
        for engine in self._runs:
            if engine.dropped:  # they woke us; the workers that have them are found by `_deadline`
                tell(engine, engine.dropped.clear)
        self._feed()
        if self._wants_spare and self._spare is None and self._runs and len(self._hands) >= self.workers:
            self._spare = self._hire()
        for member in self.machine.listen(self._patience()):
            hand = self._hands[member]
            try:
                self._attend(hand)
            except Exception:  # a node wrote into the pipe, or a defect: its end is seen, and its tasks are seen to
                if member not in self._hands:
                    raise
                member.kill()
        self._mind_the_time()

    def _attend(self, hand: Hand) -> None:
        """See to a worker that has something to say."""
        outcomes = hand.member.receive()
        self._relay.hear(hand)  # what a task said is heard before it is settled
        if outcomes is None:
            self._bury(hand)
        elif outcomes:
            self._stillborn = 0
            hand.look_at = self.machine.now() + LOOK
            self._take_report(hand, outcomes)
            if hand.last and not hand.tasks and not hand.closing:
                self._retire(hand)

    def _patience(self) -> float | None:
        """Return the seconds until something must be done without news."""
        now = self.machine.now()
        times = [deadline - now for hand in self._hands.values() if (deadline := self._deadline(hand)) is not None]
        if not self._runs and self._hands:
            times.append(self._idle_since + IDLE_TIMEOUT - now)
        if self._retry_at > now and self._is_asked_for:
            times.append(self._retry_at - now)
        times += [hand.look_at - now for hand in self._hands.values() if len(hand.tasks) > 1 and hand.look_at > now]
        for hand in self._hands.values():
            if hand.closing and not hand.late and (until := min(hand.closing.values())) < float("inf"):
                times.append(until - now)
        return max(0.0, min(times)) if times else None

    def _mind_the_time(self) -> None:
        now = self.machine.now()
        for hand in list(self._hands.values()):
            try:
                self._mind(hand, now)
            except Exception:  # what it has noted cannot be read, or a defect: its tasks are seen to
                if hand.member not in self._hands:
                    raise
                hand.member.kill()

    def _mind(self, hand: Hand, now: float) -> None:
        """Do what it is time for with a worker."""
        if len(hand.tasks) > 1 and now >= hand.look_at and not hand.late:
            self._look_at(hand)
        deadline = self._deadline(hand)
        if deadline is not None and now >= deadline:
            self._end_first(hand)
        elif hand.closing and not hand.late and now >= min(hand.closing.values()):
            hand.late = -1  # for none of its tasks
            hand.member.kill()
        elif not self._runs and now >= self._idle_since + IDLE_TIMEOUT:
            self._dismiss(hand)

    def _look_at(self, hand: Hand) -> None:
        """See what a worker with several tasks is at, and give those to others that are behind a slow one."""
        now = self.machine.now()
        running, began = hand.member.running()
        if running in hand.tasks and running != next(iter(hand.tasks)):
            self._take_noted(hand, running)  # others have ended: short ones are reported with the next
        task = hand.tasks.get(running)
        if task is None:  # it is between two, or has not begun
            hand.look_at = now + LOOK
            return
        overdue_at = began + max(LOOK, OVERDUE * (task.known.seconds or 0.0))
        if now < overdue_at:
            hand.look_at = max(overdue_at, now + LOOK)
        elif len(hand.tasks) > 1 and (self._has_vacancy or idle(self._others)):
            self._withdraw(hand, running)
            hand.alone = True
        # Else it is looked at with every step: when another worker has nothing more to do, that has said so.

    def _take_noted(self, hand: Hand, running: int) -> None:
        """Take the outcomes that a worker in the middle of a task has noted; it reports them again, to nobody."""
        noted = hand.member.unsent()
        if hand.member.running()[0] == running:  # else it may have written anew where we have read
            self._relay.hear(hand)
            self._take_report(hand, noted)

    def _withdraw(self, hand: Hand, after: int) -> int:
        """Take back the tasks that a worker has after one; return the one that it has begun last."""
        begun = hand.member.withdraw(after, next(self._numbers))
        for task in [task for number, task in hand.tasks.items() if number > max(after, begun)]:
            hand.take(task.number)
            self._let_go(task)
            tell(task.engine, task.engine.give_back, task.call)
        return begun

    def _end_first(self, hand: Hand) -> None:
        """End a worker for its first task, that is late or in vain, if that is what it is at."""
        hand.gone = hand.member.is_dead
        if hand.gone:  # of itself: what it was at then, its end will say
            return
        first = next(iter(hand.tasks))
        running, _ = hand.member.running()
        if len(hand.tasks) > 1 and (running == first or running not in hand.tasks):
            running = self._withdraw(hand, first)  # so that it does not go on while it dies
        if running != first and running in hand.tasks:
            hand.left = self.machine.now()
            self._take_noted(hand, running)
        else:  # a worker that has not begun what it was given, ends for it as well
            hand.late = first
            hand.member.kill()

    def _deadline(self, hand: Hand) -> float | None:
        """Return when the task that a worker is running must have ended: its node says so, or nobody waits for it."""
        if hand.late or hand.gone:
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
        return call.state is State.RUNNING and call._engine is engine and engine in self._runs

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
        return any(engine.lanes["process"].queue and engine.error is None for engine in self._runs)

    def _roomiest(self) -> Hand | None:
        """Return the worker that should be sent something: an idle one, a new one, one that soon will be idle."""
        hands = self._others
        hand = idle(hands)
        if hand is None and self._has_vacancy:
            hand = self._replacement()
        return hand or soon_idle(hands, max([len(engine.lanes["process"].queue) for engine in self._runs], default=0))

    @property
    def _others(self) -> list[Hand]:
        """The workers, but for the spare one."""
        return [hand for hand in self._hands.values() if hand is not self._spare]

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
        self.doing = None
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
                tell(task.engine, task.engine.give_back, task.call)
                continue
            if task.is_isolated:
                fresh = self._fresh(hand)
                if fresh is None:
                    return False
                hand, fresh.last = fresh, True
            self._alone.popleft()
            task.number = next(self._numbers)  # not one of those that this worker may have been told to leave alone
            self._try_to_send(hand, [task])
            hand.alone = True
            if hand.last and not hand.tasks:  # it could not be sent
                self._retire(hand)
            return True
        for engine in self._runs:
            tasks: list[Task] = []
            self.doing = engine, ""
            tell(engine, self._take_chunk, engine, tasks)
            if tasks and tasks[-1].is_isolated:
                self._alone.append(tasks.pop())
                if not tasks:
                    return self._send_next(hand)
            if tasks:
                self._runs[engine] = self._runs.pop(engine)  # each run in its turn
                hand = keeper(tasks[0].call, self._hands.values()) or hand
                self._try_to_send(hand, tasks)
                hand.alone = tasks[-1].call.definition.timeout is not None
                return True
        return False

    def _take_chunk(self, engine: Engine, tasks: list[Task]) -> None:
        """Take the most urgent calls of a run, as many as should travel together."""
        expected = 0.0
        lane, numbers = engine.lanes["process"], self._numbers
        definition = known = None
        # A share of what is ready, so that no worker goes without while another has a long list.
        for _ in range(-(-len(lane.queue) // self.workers) or 1):
            call = engine.take(lane)
            if call is None:
                break
            if call.definition is not definition or known is None:
                definition = call.definition
                known = self._catalogue.known(definition)
            tasks.append(Task(next(numbers), call, engine, known))
            seconds = known.seconds
            if seconds is None or definition.timeout is not None:  # unknown, or watched: it travels alone
                break
            if definition.isolate:
                break
            expected += seconds + PER_TASK
            if expected >= CHUNK:
                break

    def _try_to_send(self, hand: Hand, tasks: list[Task]) -> None:
        try:
            self._send(hand, tasks)
        except BaseException as error:  # a defect: nobody knows what the worker has been told, and what not
            tell(tasks[0].engine, tasks[0].engine.stop, error)
            hand.member.kill()

    def _send(self, hand: Hand, tasks: list[Task]) -> None:
        """Send tasks of one run to a worker, with what that does not have yet."""
        news: dict[int, Any] = {}
        seeds: dict[int, int] = {}
        lookups: dict[int, Any] = {}
        rows: list[tuple[int, int, Any]] = []
        engine = tasks[0].engine
        served = self._runs[engine]
        run = served.number
        hand.used, hand.keeps = True, ()
        here.sent_recipe = False
        sown, outbox, give = engine.seeds, served.outbox, hand.give
        if engine.touched:
            engine.touched = False
            outbox.close()  # what it has written may be out of date
        recall = engine.recall
        for task in tasks:
            call, known = task.call, task.known
            self.doing = engine, call.name
            try:
                version = known.version
                if version is None or known.run != run:
                    version = self._catalogue.version(call.definition, known, run)
                args = self._arguments(call, outbox)
                if sown is not None:
                    seeds[task.number] = sown.of(call)
            except BaseException as error:  # whatever a user's class does when it is pickled
                tell(engine, engine.raised, call, error, perf_counter(), -1)
                continue
            number = version.number
            if number not in hand.known:
                hand.known.add(number)
                news[number] = version.code
            if type(args) is Parcel:
                task.parcel = args
            if recall is not None and recall.settings is not None:
                lookup = recall.lookup_of(call)
                if lookup is not None and not captures(call.definition) and call.definition.outputs is None:
                    lookups[task.number] = lookup
            rows.append((task.number, number, args))
            give(task)
        if here.sent_recipe:
            hand.holds.add(run)
        if not rows:
            return
        if hand.run != run:
            hand.run = news[RUN] = run
        if hand.forgets:
            hand.forgets, news[FORGET] = [], hand.forgets
        if seeds:
            news[SEEDS] = seeds
        if lookups:
            assert recall is not None
            news[KEEP] = recall.settings, recall.codecs, lookups
        if hand.ambient != served.ambient:
            hand.ambient = news[AMBIENT] = served.ambient
        hand.look_at = self.machine.now() + LOOK
        hand.member.send(pickle.dumps((news, rows)))

    def _forget(self) -> None:
        """Note for each worker which definitions are gone: it is told with the next message."""
        for number in self._catalogue.gone():
            for hand in self._hands.values():
                if number in hand.known:
                    hand.known.remove(number)
                    hand.forgets.append(number)

    def _arguments(self, call: Future[Any], outbox: Outbox) -> Any:
        """Return the arguments of a call for the message: plain ones as they are, others as a parcel."""
        args, kwargs = arguments_of(call, self._as_it_is)
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

    def _as_it_is(self, value: Any) -> Any:
        """What is elsewhere stays there: its parcel travels, and the worker opens it. Not what another pool has."""
        return value.fetch() if type(value) is Kept and value.segments is not self.segments else value

    # Taking back

    def _take_report(self, hand: Hand, outcomes: list[bytes]) -> None:
        settled = [pickle.loads(outcome) for outcome in outcomes]
        self._relay.hear_out(hand, [outcome[0] for outcome in settled])
        for outcome in settled:
            self._settle(hand, *outcome)

    def _settle(
        self, hand: Hand, number: int, sort: int, began: float, seconds: float, what: Any, kept: Any = None
    ) -> None:
        """Tell the engine of a task what came out of it; `kept` is where the worker has put it in the run's store."""
        task = hand.take(number)
        if task is None:  # reported before its worker died, and found in the ledger again
            if sort == RELEASED:
                self._has_closed(hand, number)
            return
        if sort == UNTOUCHED:
            self._let_go(task)
            tell(task.engine, task.engine.give_back, task.call)
            return
        self.doing = task.engine, task.call.name
        try:
            self._conclude(hand, task, sort, began, seconds, what, kept)
        except BaseException as error:  # a defect: the task is in no book any more, and its run is not to wait for it
            tell(task.engine, task.engine.stop, error)

    def _conclude(self, hand: Hand, task: Task, sort: int, began: float, seconds: float, what: Any, kept: Any) -> None:
        if task.parcel is not None:
            self._let_go(task)
        engine, call, known = task.engine, task.call, task.known
        known.seconds = seconds if known.seconds is None else known.seconds + (seconds - known.seconds) * 0.2
        if self._lost:
            self._lost.pop(call, None)
        worker = hand.member.number
        if kept is not None and engine.recall is not None:
            what = engine.recall.was_kept(call, what, kept, seconds, is_there_only=sort == STORED)
        if sort == PLAIN and kept is None and engine.recall is not None:
            what = engine.recall.keep(call, what, seconds)
        if sort in (PLAIN, STORED):
            tell(engine, engine.settle, call, what, [], began, worker, began + seconds)
            return
        if sort == PARCEL and not hand.tasks:
            hand.keeps = what.segments
        try:
            value, made = self._unpacked(sort, what)
        except BaseException as error:  # whatever a user's class does when it is unpickled
            lost = PayloadError(f"{call.name}: the result cannot be unpickled here: {text_of(error)}")
            lost.__cause__ = error
            tell(engine, engine.raised, call, lost, began, worker)
            return
        if sort == RAISED:
            tell(engine, engine.raised, call, value, began, worker)
            return
        if made:
            tell(engine, engine.adopt, call, made)
        if kept is None and engine.recall is not None and not expands(call, value, made):
            value = engine.recall.keep(call, value, seconds)
        tell(engine, engine.settle, call, value, made, began, worker, began + seconds)

    def _unpacked(self, sort: int, what: Any) -> tuple[Any, list[Future[Any]]]:
        """Return what an outcome is here, and the calls that the body made."""
        if sort == RAISED:
            return rebuild_error(*what), []
        self.segments.hold(what)
        value: Any = Kept(what, self.segments)
        if sort == EXPANDED:
            return unpack(*value.fetch())
        return value if what.segments else value.fetch(), []

    def _bury(self, hand: Hand) -> None:
        """See to the tasks of a worker that died: keep what it had finished, and decide about the rest."""
        try:
            self._take_report(hand, hand.member.unsent())
        except Exception:  # its notes cannot be read: what they said is done again
            hand.keeps = ()
        running, _ = hand.member.running()
        tasks = list(hand.tasks.values())
        self._wants_spare = hand is not self._spare  # one that died itself is not replaced until it is missed
        code = self._dismiss(hand)
        for task in tasks:
            if task.number == running:
                self._suspect(task, hand, code)
            else:
                tell(task.engine, task.engine.give_back, task.call)
        self._stillborn = 0 if running or hand.late else self._stillborn + 1
        if self._stillborn >= STILLBORN:
            self._stillborn = 0
            self.stop(WorkerLost(f"the last {STILLBORN} workers died before they could begin a task ({_how(code)})"))

    def _suspect(self, task: Task, hand: Hand, code: int | None) -> None:
        """Decide about the task that a dead worker was running: try it again alone, or give it up."""
        engine, call = task.engine, task.call
        error: BaseException
        if not self._is_wanted(task) or (hand.late and hand.late != task.number):
            tell(engine, engine.give_back, call)  # nobody waits for it, or we killed its worker for the task before it
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
        tell(engine, engine.gave_up, call, error, perf_counter(), hand.member.number)

    def _dismiss(self, hand: Hand) -> int | None:
        """End a worker and free what it held; return its exit code."""
        self.doing = None
        del self._hands[hand.member]
        if hand is self._spare:
            self._spare = None
        self._relay.forget(hand)
        pid = hand.member.pid
        code = hand.member.bury()
        self._relay.hear(hand)
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


def tell(engine: Engine, what: Callable[..., object], *args: Any) -> None:
    """Tell a run something, with its lock held: the one way out of the supervisor's thread.

    What goes wrong there ends that run, and no other: a defect of ours, or a class of the user's that the engine has to
    compare, copy or print.
    """
    try:
        with engine.lock:
            what(*args)
    except BaseException as error:
        try:
            with engine.lock:
                engine.stop(error)
        except BaseException:  # not even that: whoever waits for the run is not to wait for ever
            engine.error = error
            engine.over.set()


def _nobody() -> None:
    """Whom to tell where nobody waits."""


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
