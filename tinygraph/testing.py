"""Test a graph against faults: worker processes that die, stall and fail as a seed decides, without any process.

The supervisor and the engine are the real ones, and so are the messages, the bodies and what is made of their results.
Only the machine under the supervisor is replaced: its workers are objects in this process, its clock is a number, and
every fault is drawn from the seed, so that what happened once happens again. Nothing sleeps: an hour takes no time.

>>> from tinygraph import Node
>>> @Node
... def double(x: int) -> int:
...     return 2 * x
>>> executor = SimulatedExecutor(seed=7, faults=Faults(death=0.5))
>>> double(double(3)).resolve(executor=executor)
12
>>> executor.deaths > 0
True
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from heapq import heappop, heappush
from math import inf
from random import Random
from time import monotonic, perf_counter
from typing import Any

from tinygraph.definition import Kind
from tinygraph.engine import Engine
from tinygraph.errors import CancelledError, OptionError, TinygraphError
from tinygraph.executors.bodies import Bodies
from tinygraph.executors.coroutines import Coroutines
from tinygraph.executors.envelope import describe_error
from tinygraph.executors.segments import Parcel, Segments
from tinygraph.executors.supervisor import STILLBORN, Supervisor
from tinygraph.executors.worker import RAISED, REPORT_EVERY, UNTOUCHED, Bench
from tinygraph.future import SETTLED, State, recording
from tinygraph.store.repeat import differences as differences

# When a worker may die around a task.
PHASES = ("before", "computing", "noted", "sending", "sent")

_STARTING = 0.1  # seconds that a simulated worker takes to start
_ON_THE_WAY = 1e-4  # and a message, either way
_DYING = 1e-3  # and to die, when it is killed, at most
_STEPS = 10_000  # and so many more for each call of a run: who takes more steps never ends


class SimulatedError(RuntimeError):
    """What a body raises where the faults say that it raises.

    >>> from tinygraph import Node, run
    >>> [failure] = run(Node(abs)(-3), executor=SimulatedExecutor(faults=Faults(error=1)), on_error="continue").failures
    >>> failure.exception
    SimulatedError("'abs' raises, because the faults of this simulation say so")
    """


class SimulationStuck(TinygraphError):
    """The run can never end: nobody has anything to do, although calls are left. This is a defect of tinygraph."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each fault is, from 0 (never) to 1 (always).

    >>> Faults(death=0.1, slow=0.01).death
    0.1

    - ``death``: of each task: its worker dies around it, in one of the ``phases``: before it begins the task, while it
      computes, when the outcome is noted but not sent, when half of it is sent, when all of it is;
    - ``death_at_start``: of each worker: it dies before it is up;
    - ``death_when_idle``: of each time that a worker has nothing more to do: it dies some time afterwards;
    - ``slow``: of each task: it takes ten times as long, and longer than its timeout if it has one;
    - ``late``: of each report: it is on its way for up to a second;
    - ``full``: of each outcome: it does not fit into the ledger, where it would outlive its worker;
    - ``error``: of each task: its body raises :class:`SimulatedError` instead of running;
    - ``cancel``: of each run: it is cancelled after some time;
    - ``cancel_call``: of each run: one of its calls is cancelled after some time.
    """

    death: float = 0.0
    death_at_start: float = 0.0
    death_when_idle: float = 0.0
    slow: float = 0.0
    late: float = 0.0
    full: float = 0.0
    error: float = 0.0
    cancel: float = 0.0
    cancel_call: float = 0.0
    phases: tuple[str, ...] = PHASES

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "phases":
                if not value or not set(value) <= set(PHASES):
                    raise OptionError(f"phases must be some of {', '.join(PHASES)}, not {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise OptionError(f"{one.name} must be a number from 0 to 1, not {value!r}")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a simulated worker.

    ``what`` is one of "launched", "up", "started", "finished", "raised", "died", "killed", "cancelled". Where it
    concerns a task, ``name`` is that of its node, and ``args`` are the arguments of the call; a worker that died or was
    killed with a ``name`` takes that execution with it.

    >>> from tinygraph import Node
    >>> executor = SimulatedExecutor()
    >>> Node(abs)(-3).resolve(executor=executor)
    3
    >>> [step.what for step in executor.trace], executor.trace[2].args
    (['launched', 'up', 'started', 'finished'], (-3,))
    """

    at: float
    what: str
    worker: int
    name: str = ""
    args: tuple[Any, ...] = field(default=(), compare=False)


class SimulatedExecutor:
    """Runs a graph as `executor="processes"` does, on workers that are simulated, with faults drawn from a seed.

    >>> from tinygraph import Graph, Node
    >>> square, add = Node(lambda x: x * x, name="square", cost=2.0), Node(lambda *xs: sum(xs), name="add", cost=1.0)
    >>> executor = SimulatedExecutor(workers=2)
    >>> add(square(1), square(2), square(3)).resolve(executor=executor)
    14
    >>> executor.order, round(executor.makespan, 1)
    (['square', 'square', 'square', 'add'], 5.1)

    A task takes as long as its node's ``cost`` says, else one second, on a clock that jumps. Bodies run in this
    process, and driver-side bodies take no time: one that ends the process ends it. Executions are at least what they
    are with real workers: a body that runs again after a death really runs again, so a test can count.

    After a run there are: ``trace`` (the :class:`Step` that happened, in order), ``executions`` (how often the body of
    each node was begun, by name), ``order`` (the names in the order of their starts), ``deaths``, ``kills`` (how often
    the supervisor killed a worker), ``extra_executions`` (those that a death made necessary), ``makespan`` (seconds of
    the simulated clock that the last run took). Equal seeds give equal traces.

    >>> def trace(seed):
    ...     executor = SimulatedExecutor(seed, Faults(death=0.3, late=0.3))
    ...     Graph(*[square(n) for n in range(10)]).run(executor=executor)
    ...     return executor.trace
    >>> trace(1) == trace(1) != trace(2)
    True
    """

    home = "process"
    lanes = frozenset(("driver", "process"))

    def __init__(self, seed: int = 0, faults: Faults | None = None, *, workers: int = 2) -> None:
        self.seed = seed
        self.faults = Faults() if faults is None else faults
        self.makespan = 0.0
        self._random = Random(seed)
        self._machine = _Machine(self._random, self.faults)
        # No folders: values travel in the messages, and nothing is left anywhere.
        self._supervisor = Supervisor(workers, self._machine, Segments((), owner=True))
        self._alone = threading.Lock()  # the supervisor is for one thread

    @property
    def trace(self) -> list[Step]:
        """What happened to the workers, in order."""
        return self._machine.trace

    @property
    def order(self) -> list[str]:
        """The names of the nodes in the order in which their bodies began."""
        return [step.name for step in self.trace if step.what == "started"]

    @property
    def executions(self) -> Counter[str]:
        """How often the body of each node was begun."""
        return Counter(self.order)

    @property
    def deaths(self) -> int:
        """How many workers died of themselves."""
        return sum(step.what == "died" for step in self.trace)

    @property
    def kills(self) -> int:
        """How many workers were killed by the supervisor, because a task was late or nobody waited for it."""
        return sum(step.what == "killed" for step in self.trace)

    @property
    def extra_executions(self) -> int:
        """How many executions were lost with their worker, so that the task had to be run again."""
        return sum(step.what == "died" and step.name != "" for step in self.trace)

    def drive(self, engine: Engine, deadline: float | None) -> None:
        """Run ready calls of the engine until it is over, or the deadline has passed on the simulated clock."""
        with self._alone, Coroutines(engine) as coroutines, Bodies(engine, -1) as bodies:
            machine, supervisor = self._machine, self._supervisor
            began = machine.now()
            if deadline is not None:
                # Rounded, because the time that recording took is real, and no two runs should differ by it.
                deadline = began + round(deadline - monotonic(), 1)
                machine.at(deadline, machine.ring)
            supervisor.enter(engine)
            self._plan_cancellations(engine)
            try:
                self._loop(engine, inf if deadline is None else deadline, coroutines, bodies)
            finally:
                self.makespan = machine.now() - began
                supervisor.leave(engine)
                self._let_end()

    def _loop(self, engine: Engine, deadline: float, coroutines: Coroutines, bodies: Bodies) -> None:
        steps, supervisor = 0, self._supervisor
        while not engine.over.is_set() and self._machine.now() < deadline:
            with engine.lock:
                call = engine.take(engine.driver)
                if call is None:
                    call = engine.take(engine.lanes["thread"])
                if call is None:
                    if engine.over.is_set():
                        return
                    if engine.is_stuck():
                        engine.refuse_cycle()
                        return
            if call is not None:
                if call.definition.kind is Kind.COROUTINE:
                    with engine.lock:
                        coroutines.start(call)
                else:
                    bodies.perform(call)
                    engine.lock.release()
                call = None
            elif engine.home.queue or supervisor.working or supervisor.waits:
                supervisor.step()
                steps += 1
                if self._machine.is_quiet and (supervisor.working or supervisor.waits):
                    raise SimulationStuck(f"a worker is awaited, and nothing will ever happen (seed {self.seed})")
                if steps > _STEPS + 100 * len(engine.calls):
                    raise SimulationStuck(f"no end after {steps:,} steps (seed {self.seed})")
            elif any(one.definition.kind is Kind.COROUTINE and one.state is State.RUNNING for one in engine.calls):
                # The event loop lives in real time.
                engine.driver.idle += 1
                engine.driver.wake.get()
                engine.driver.idle -= 1
            else:
                raise SimulationStuck(f"{engine.left} calls are left and nobody has one (seed {self.seed})")

    def _let_end(self) -> None:
        """Give what runs without being wanted the time to end, or to be stopped."""
        for _ in range(_STEPS):
            if not self._supervisor.working and not self._supervisor.closing:
                return
            self._supervisor.step()
        raise SimulationStuck(f"a worker is busy after the end of the run (seed {self.seed})")

    def _plan_cancellations(self, engine: Engine) -> None:
        random, machine = self._random, self._machine

        def cancel() -> None:
            if not engine.over.is_set():
                machine.note("cancelled", 0)
                engine.post(lambda: engine.stop(CancelledError("the run was cancelled")))
                machine.ring()

        def cancel_call() -> None:
            calls = [call for call in engine.calls if call.state not in SETTLED]
            if calls and not engine.over.is_set():
                call = random.choice(calls)
                machine.note("cancelled", 0, call.name, tuple(call.args or ()))
                call.cancel()
                machine.ring()

        for likely, what in ((self.faults.cancel, cancel), (self.faults.cancel_call, cancel_call)):
            if random.random() < likely:
                machine.at(machine.now() + random.expovariate(1.0), what)


class _Machine:
    """What the supervisor takes for a machine: a clock, and a list of what is going to happen when."""

    def __init__(self, random: Random, faults: Faults) -> None:
        self.random = random
        self.faults = faults
        self.trace: list[Step] = []
        self.is_quiet = False  # whether somebody listens, and nothing will ever happen
        self.stillborn = 0  # workers in a row that died without having begun anything, as far as the supervisor knows
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self.members: dict[_Member, None] = {}  # those that are not buried
        self._rung = False

    def now(self) -> float:
        return self._now

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        self._entries += 1
        heappush(self._agenda, (time, self._entries, what))

    def note(self, what: str, worker: int, name: str = "", args: tuple[Any, ...] = ()) -> None:
        """Note that something happened."""
        self.trace.append(Step(self._now, what, worker, name, args))

    def draw(self, likely: float) -> bool:
        """Decide whether something happens that is so likely."""
        return likely > 0 and self.random.random() < likely

    def ring(self) -> None:
        """End the waiting."""
        self._rung = True

    def launch(self, number: int, workers: int) -> _Member:
        member = _Member(self, number)
        self.members[member] = None
        return member

    def bury(self, member: _Member) -> None:
        """Forget a worker."""
        self.members.pop(member, None)

    def listen(self, timeout: float | None) -> list[_Member]:
        """Let happen what happens next, until a worker has something to say, or the time is over."""
        deadline = inf if timeout is None else self._now + timeout
        self.is_quiet = False
        while True:
            speaking = [member for member in self.members if member.speaks]
            if speaking or self._rung:
                self._rung = False
                self.random.shuffle(speaking)
                return speaking
            if not self._agenda or self._agenda[0][0] > deadline:
                self.is_quiet = deadline == inf
                self._now = self._now if self.is_quiet else deadline
                return []
            self._now, _, what = heappop(self._agenda)
            what()


class _Member:
    """A worker that is an object: what `machine.Member` is to a process, with faults."""

    def __init__(self, machine: _Machine, number: int) -> None:
        self.number = number
        self.pid = number
        self._machine = machine
        self._since: float | None = None  # when the body that runs began, and how long it is to take
        self._lasts = 0.0
        self._bench = Bench(Segments(()), clock=self._clock)
        self._alive, self._up, self._doomed = True, False, False
        self._busy = False
        self._chunks: deque[deque[tuple[int, int, Any]]] = deque()
        self._chunk: deque[tuple[int, int, Any]] = deque()
        self._current: tuple[str, tuple[Any, ...]] | None = None  # what would be lost with this worker
        # What real workers share with their supervisor: the ledger, and the two directions of the pipe.
        self._task, self._began = 0, 0.0
        self._withdrawn = range(0)
        self._noted: list[bytes] = []
        self._pending: list[bytes] = []
        self._reported = 0.0
        self._inbox: list[bytes] = []
        self._ended = False  # and all that was sent before has arrived
        self._heard_at = self._told_at = machine.now()
        machine.note("launched", number)
        if machine.draw(machine.faults.death_at_start) and self._may_die:
            self._later(_STARTING * machine.random.random(), self._die)
        else:
            self._later(_STARTING, self._start)

    # What the supervisor sees

    @property
    def speaks(self) -> bool:
        """Whether it has something to say."""
        return self._ended or bool(self._inbox)

    @property
    def is_dead(self) -> bool:
        """Whether it has died, though perhaps not all that it said has arrived."""
        return not self._alive

    def send(self, message: bytes) -> None:
        self._heard_at = max(self._heard_at, self._machine.now() + _ON_THE_WAY)
        self._machine.at(self._heard_at, lambda: self._hear(message))

    def receive(self) -> list[bytes] | None:
        outcomes, self._inbox = self._inbox, []
        if outcomes:
            self._machine.stillborn = 0
        return outcomes if outcomes or not self._ended else None

    def running(self) -> tuple[int, float]:
        return self._task, self._began

    def withdraw(self, after: int, until: int) -> int:
        self._withdrawn = range(after + 1, until + 1)
        return self._task

    def unsent(self) -> list[bytes]:
        return list(self._noted)

    def kill(self) -> None:
        self._doomed = True
        self._later(_DYING * self._machine.random.random(), self._die)

    def bury(self) -> int | None:
        if self._alive:
            self._doomed = True
            self._die()
        self._machine.stillborn = 0 if self._task else self._machine.stillborn + 1
        self._machine.bury(self)
        return -9

    # What it does

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something after a while, unless it is dead by then."""
        self._machine.at(self._machine.now() + seconds, lambda: what() if self._alive else None)

    def _die(self) -> None:
        self._alive = False
        self._machine.note("killed" if self._doomed else "died", self.number, *(self._current or ()))
        # The end of a pipe is seen when all that was written before has been read.
        self._machine.at(max(self._machine.now(), self._told_at), self._show_end)

    def _show_end(self) -> None:
        self._ended = True

    def _start(self) -> None:
        self._up = True
        self._machine.note("up", self.number)
        self._next()

    def _hear(self, message: bytes) -> None:
        if self._alive:
            tasks = deque(self._bench.unpack(message))
            answers = self._bench.release()
            if answers:
                self._told_at = max(self._told_at, self._machine.now() + _ON_THE_WAY)
                self._machine.at(self._told_at, lambda: self._inbox.extend(answers))
            if tasks:
                self._chunks.append(tasks)
                if self._up and not self._busy:
                    self._next()

    def _next(self) -> None:
        machine, faults = self._machine, self._machine.faults
        self._busy = False
        if not self._chunk:
            if not self._chunks:
                if machine.draw(faults.death_when_idle):
                    self._later(machine.random.random(), self._die_idle)
                return
            self._chunk = self._chunks.popleft()
            self._reported = machine.now()
        self._busy = True
        task, index, args = self._chunk.popleft()
        phase = machine.random.choice(faults.phases) if machine.draw(faults.death) else ""
        if phase == "before" and self._may_die:
            self._die()
            return
        self._task, self._began = task, machine.now()
        if task in self._withdrawn:
            untouched = self._bench.leave(task)
            self._later(0.0, lambda: self._finish(untouched, phase))
            return
        outcome, seconds = self._run(task, index, args)
        if phase == "computing":
            self._later(seconds * machine.random.random(), self._die)
        else:
            self._later(seconds, lambda: self._finish(outcome, phase))

    def _die_idle(self) -> None:
        if not self._busy and self._may_die:
            self._die()

    @property
    def _may_die(self) -> bool:
        """Whether this may be one more that dies without having begun anything: of too many the run is given up."""
        unborn = sum(not member._task for member in self._machine.members)
        return bool(self._task) or self._machine.stillborn + unborn < STILLBORN - 1

    def _run(self, task: int, index: int, args: Any) -> tuple[bytes, float]:
        """Run a body now, and say after how many simulated seconds it ends."""
        machine, faults, bench = self._machine, self._machine.faults, self._bench
        name, seconds, timeout = "a call", 1.0, None
        try:
            node = bench.definition(index)
            name, seconds, timeout = node.name, 1.0 if node.cost is None else node.cost, node.timeout
        except Exception:  # the bench will say so
            pass
        if machine.draw(faults.slow):
            # Often by so little that the task ends while its worker is being killed.
            seconds = max(10 * seconds, (timeout or 0.0) + machine.random.choice((_DYING / 2, 1.0)))
        self._current = name, self._decoded(args)
        machine.note("started", self.number, *self._current)
        if machine.draw(faults.error):
            error = SimulatedError(f"{name!r} raises, because the faults of this simulation say so")
            return pickle.dumps((task, RAISED, perf_counter(), seconds, describe_error(error))), seconds
        self._since, self._lasts = None, seconds
        token = recording.set(bench.recorder)
        try:
            return bench.run(task, index, args), seconds
        finally:
            recording.reset(token)
            bench.recorder.calls = []  # only what comes back counts

    def _clock(self) -> float:
        """The clock of the bench: the real one when a body begins, and when it ends as much later as it is to take."""
        if self._since is None:
            self._since = perf_counter()
            return self._since
        return self._since + self._lasts

    def _decoded(self, args: Any) -> tuple[Any, ...]:
        try:
            return tuple(self._bench.opened(args)[0] if type(args) is Parcel else args)
        except BaseException:  # whatever a user's class does when it is unpickled
            return ()

    def _finish(self, outcome: bytes, phase: str) -> None:
        """Note what came out and report it, as far as it gets."""
        machine = self._machine
        fits = not machine.draw(machine.faults.full)
        if fits:
            self._noted.append(outcome)
            self._tell(outcome)
        self._pending.append(outcome)
        if phase == "noted":
            self._die()
            return
        if not fits or not self._chunk or machine.now() - self._reported > REPORT_EVERY:
            if phase == "sending":
                self._die()
                return
            self._report()
            if not fits:
                self._tell(outcome)
            if phase == "sent":
                self._die()
                return
            self._noted, self._pending, self._reported = [], [], machine.now()
        elif phase:
            self._die()
            return
        self._next()

    def _tell(self, outcome: bytes) -> None:
        """Note in the trace that an execution counts, whatever becomes of this worker now."""
        sort = pickle.loads(outcome)[1]
        if sort == UNTOUCHED:
            return
        assert self._current is not None
        what = "raised" if sort == RAISED else "finished"
        self._machine.note(what, self.number, *self._current)
        self._current = None

    def _report(self) -> None:
        machine, outcomes = self._machine, self._pending
        late = machine.random.random() if machine.draw(machine.faults.late) else 0.0
        self._told_at = max(self._told_at, machine.now() + _ON_THE_WAY + late)
        machine.at(self._told_at, lambda: self._inbox.extend(outcomes))
