"""run: drive futures to their values, and tell what happened on the way."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, cast

from tinygraph.definition import Definition
from tinygraph.engine import RELEASED, Engine, why_unusable
from tinygraph.errors import CancelledError, DamagedEntry, NestedResolveError, NodeTimeout, RecordError
from tinygraph.executors import executor_for
from tinygraph.executors.bodies import Recipe
from tinygraph.executors.interrupt import Interruptible
from tinygraph.future import FAILED, FINISHED, SETTLED, Future, fetched, recording
from tinygraph.graph import Graph
from tinygraph.inputs import bound
from tinygraph.notes import Note
from tinygraph.options import RunOptions, effective

if TYPE_CHECKING:
    from tinygraph.events import Event
    from tinygraph.store.session import Session


class Failure(NamedTuple):
    """One root cause: the call that failed, and its exception.

    >>> from tinygraph import Node, run
    >>> [failure] = run(Node(int)("seven"), executor="inline", on_error="continue").failures
    >>> failure.future.name, type(failure.exception).__name__
    ('int', 'ValueError')
    """

    future: Future[Any]
    exception: BaseException


class Run:
    """One execution of a graph: its value, its failures and what happened.

    >>> from tinygraph import Node, run
    >>> result = run(Node(max)(3, 7), executor="inline")
    >>> result.value, result.failures, [type(event).__name__ for event in result.events]
    (7, [], ['Started', 'Finished'])
    """

    def __init__(self, targets: tuple[Future[Any], ...], *, as_tuple: bool, options: dict[str, Any]) -> None:
        self._targets = targets
        self._as_tuple = as_tuple
        self.options = options
        self.id: str | None = None  # under which a store has the history of this run
        self._inputs: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._pid = os.getpid()
        self._callbacks: list[Callable[[], None]] = []  # to be called, from the run's thread, when it is over
        self._engine: Engine | None = None
        self._cancelled = False
        self._wanted = targets

    @property
    def value(self) -> Any:
        """The value of the target, or a tuple of values for a graph of several; raises why there is none."""
        self.wait()
        if self._error is not None:
            raise self._error
        try:
            values = tuple([_value(target) for target in self._wanted])
        except DamagedEntry:  # it was found, and cannot be read: what computes it runs now
            from tinygraph.store.recall import revive

            if self._engine is not None and self._engine.recall is not None:
                self._engine.recall.restore(self._engine.calls)
            for target in self._wanted:
                revive(target)
            self._execute(self._inputs)
            if self._error is not None:
                raise self._error from None
            values = tuple([_value(target) for target in self._wanted])
        return values if self._as_tuple else values[0]

    @property
    def failures(self) -> list[Failure]:
        """One entry for each root cause, in the order in which they happened."""
        self.wait()
        if self._engine is not None:
            return [Failure(*failure) for failure in self._engine.failures]
        # Everything had settled before this run: what failed then is still the cause.
        failed = [call for call in self.graph.nodes if call.state is FAILED]
        return [Failure(call, call.value) for call in failed if not _failed_with_a_call(call)]

    @property
    def graph(self) -> Graph:
        """What ran, with its states and durations."""
        return Graph(*self._wanted)

    @property
    def makespan(self) -> float:
        """Seconds from the start of the run to its end."""
        self.wait()
        return 0.0 if self._engine is None else self._engine.ended - self._engine.began

    @property
    def critical_path(self) -> list[Future[Any]]:
        """The chain of calls that took longest: nothing could have finished sooner than its sum."""
        return self.graph.critical_path()

    @property
    def events(self) -> list[Event]:
        """What happened, in order of time."""
        self.wait()
        if self._engine is None:
            return []
        from tinygraph.chronicle import events_of

        return events_of(self._engine)

    def __repr__(self) -> str:
        names = ", ".join(repr(target.name) for target in self._targets[:3])
        if not self._done.is_set():
            return f"<Run of {names}: running>"
        return f"<Run of {names}: {self._targets[0].state if self._wanted is self._targets else self._wanted[0].state}>"

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run is over, at most `timeout` seconds; return whether it is."""
        if os.getpid() != self._pid and not self._done.is_set():
            raise CancelledError("the process that this one was forked from has this run: resolve its futures here")
        return self._done.wait(timeout)

    def cancel(self) -> None:
        """End the run: nothing new starts, and `value` raises :class:`CancelledError`. From any thread or handler."""
        self._cancelled = True
        engine = self._engine
        if engine is None:
            return
        engine.post(lambda: engine.stop(CancelledError("the run was cancelled")))
        # Read at once, unless somebody holds the lock: who does reads the news when it is next idle.
        if engine.lock.acquire(blocking=False):
            try:
                engine.read_inbox()
            finally:
                engine.lock.release()

    def _start(self, inputs: dict[str, Any], *, block: bool) -> None:
        self._inputs = inputs
        if all(future.state in SETTLED for future in self._targets) and not inputs:
            if self.options["refresh"]:
                said = "refresh= has no effect on calls that have their values: call the nodes again"
                warnings.warn(said, RuntimeWarning, stacklevel=4)
            self._finish()
        elif block:
            self._execute(inputs)
        else:
            context = copy_context()
            thread = threading.Thread(
                target=context.run, args=(self._execute, inputs), name="tinygraph-run", daemon=True
            )
            thread.start()  # a daemon: a program that ends does not wait for what it did not wait for

    def _execute(self, inputs: dict[str, Any]) -> None:
        """Run the targets to their end; what went wrong is kept for `value`."""
        try:
            self._drive(inputs)
        except Exception as error:
            self._error = error
        except BaseException as error:  # Ctrl-C: the caller's, and at once
            self._error = error
            raise
        finally:
            self._finish()

    def _finish(self) -> None:
        self._done.set()
        for callback in self._callbacks:
            callback()

    def _known(self) -> int:
        return 0 if self._engine is None else len(self._engine.calls)

    def _drive(self, inputs: dict[str, Any]) -> None:
        """Run the targets, with what the run is to remember at hand."""
        store = self.options["store"]
        deadline = None if self.options["timeout"] is None else monotonic() + self.options["timeout"]
        if store is None and not Definition.any_shared:
            self._drive_with(None, inputs, deadline)
            return
        from tinygraph.store.session import Session

        with Session(store, self.options) as memory:
            self.id = memory.id
            while True:
                try:
                    self._drive_with(memory, inputs, deadline)
                    return
                except DamagedEntry:
                    if not memory.look_again(self._engine):
                        raise

    def _drive_with(self, memory: Session | None, inputs: dict[str, Any], deadline: float | None) -> None:
        executor = executor_for(self.options["executor"], self.options["workers"])
        listener, close = _listener(self.options["progress"], self._known)

        def engine_for(targets: tuple[Future[Any], ...]) -> Engine:
            engine = self._engine = Engine(targets, self.options, home=executor.home, lanes=executor.lanes)
            engine.listener = listener
            if memory is not None:
                memory.join(engine)
            engine.start()
            return engine

        with Interruptible(lambda: self._engine) as interruptible:
            try:
                engine = engine_for(self._targets)
                if engine.inputs or inputs:
                    engine.close()
                    self._wanted = bound(self._targets, inputs)
                    engine = engine_for(self._wanted)
                interruptible.heed()
                if self._cancelled:
                    raise CancelledError("the run was cancelled")
                if not engine.over.is_set():
                    executor.drive(engine, deadline)
                if not engine.over.is_set():
                    raise NodeTimeout(f"the run was not over after {self.options['timeout']:g} s")
            finally:
                if self._engine is not None:
                    self._engine.close()
                close()
            if engine.error is not None:
                raise engine.error


async def awaited(future: Future[Any]) -> Any:
    """Run a future without holding up the event loop; if the waiting is cancelled, so is the run."""
    import asyncio

    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(over.set)

    result = _prepared(future, {})
    result._callbacks.append(tell)
    result._start({}, block=False)
    try:
        await over.wait()
    except asyncio.CancelledError:
        result.cancel()
        raise
    return result.value


def run(
    target: Future[Any] | Graph,
    *,
    inputs: dict[str, Any] | None = None,
    block: bool = True,
    **options: Unpack[RunOptions],
) -> Run:
    """Run what a future, or every future of a graph, needs; return the run, which has the value.

    >>> from tinygraph import Node, run
    >>> run(Node(max)(3, 7), executor="inline").value
    7

    Arguments:

    - ``executor``: ``"inline"``, ``"threads"``, ``"processes"`` (the default), or any ``concurrent.futures.Executor``;
    - ``workers``: how many threads or processes (default: the cores that this process may use);
    - ``inputs``: values of the graph's inputs by name;
    - ``on_error``: ``"raise"`` the first exception, or ``"continue"`` with what does not depend on it;
    - ``timeout``: seconds after which the run is given up with :class:`NodeTimeout`; processes are stopped, threads are
      left to themselves, and inline it is looked at between two calls;
    - ``seed``: a whole number from which ``random`` and ``numpy.random`` are seeded for each call;
    - ``progress``: a function that is called with each :class:`Event`, or True for a line on standard error;
    - ``max_depth``: how deep calls may nest;
    - ``store``: a folder, a path that ends in ``.json``, or a :class:`Store`: where values are kept. What was computed
      before, with the same code and the same arguments, is not computed again;
    - ``refresh``: the name of a node, or several, that are to run whatever was kept;
    - ``block``: False returns at once; the run goes on in a thread.

    What is not given comes from :func:`options`, else from the environment, else it is the default. Raises
    :class:`RecordError` for what is no future, and :class:`NestedResolveError` in the body of a node. What a node
    raised is raised by ``value``.
    """
    result = _prepared(target, cast(dict[str, Any], options))
    result._start(dict(inputs or {}), block=block)
    return result


def _prepared(target: Future[Any] | Graph, options: dict[str, Any]) -> Run:
    """Return a run that has not begun; refuse what cannot be run."""
    recorder = recording.get()
    if recorder is not None:
        error = NestedResolveError(
            "resolve() in the body of a node: return the future and it is resolved, or await it in an `async def` node"
        )
        recorder.error = error
        raise error
    targets = target.targets if isinstance(target, Graph) else (target,)
    for future in targets:
        if not isinstance(future, Future):
            raise RecordError(
                f"only futures can be resolved, and {future!r:.200} ({type(future).__name__}) is none: "
                f"is @Node missing, or was the node not called? Several futures are run by run(Graph(*futures))"
            )
    return Run(targets, as_tuple=isinstance(target, Graph) and len(targets) != 1, options=effective(options))


def _listener(progress: Any, known: Callable[[], int]) -> tuple[Callable[[Note], None] | None, Callable[[], None]]:
    """Return who is told what happens, and what to call at the end."""
    if not progress:
        return None, lambda: None
    from tinygraph.chronicle import teller

    if progress is not True:
        return teller(progress), lambda: None
    from tinygraph.progress import ProgressLine

    line = ProgressLine(known=known)
    return teller(line), line.close


def _failed_with_a_call(call: Future[Any]) -> bool:
    return call.expansion is not None and any(inner.state is FAILED for inner in call.expansion.calls)


def _value(target: Future[Any]) -> Any:
    if target.state is FINISHED and target.value is not RELEASED:
        value = target.value = fetched(target.value)
        return value.make() if type(value) is Recipe else value
    raise why_unusable(target)
