"""What runs inside a worker process: receive a chunk of tasks, run each, report what came out.

The worker belongs to one supervisor and has one pipe to it. It dies with the supervisor's process, never sees Ctrl-C,
and reads nothing from the terminal.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import perf_counter, sleep
from typing import Any

from tinygraph.blame import text_of
from tinygraph.capture import ATOMS
from tinygraph.definition import Kind
from tinygraph.executors.ambient import Surroundings
from tinygraph.executors.bodies import as_raised, close, here, run_body
from tinygraph.executors.envelope import describe_error, why_no_way_back
from tinygraph.executors.handover import Handover
from tinygraph.executors.ledger import Ledger
from tinygraph.executors.output import speak_through
from tinygraph.executors.segments import Parcel, Segments
from tinygraph.executors.transfer import LARGE, dumps, loads
from tinygraph.future import Future, Recorder, recording
from tinygraph.portable import pack
from tinygraph.seeds import sow

# A worker reports at least this often, in seconds: a longer task is reported as it ends, shorter ones together.
REPORT_EVERY = 0.001
# What a worker has just returned stays with it for so many seconds, unless its next task begins before.
KEPT_FOR = 0.1
# Plain values up to this many characters or bytes travel in the report itself.
SMALL = 1 << 12

# What sort of outcome it is: the last is none, of a task that was withdrawn before it began.
PLAIN, PARCEL, EXPANDED, RAISED, RELEASED, STORED, UNTOUCHED = range(7)
# A report begins with this, so that nothing else that gets into the pipe is taken for one.
MAGIC = b"\xf6tg\x01"
# What a message may bring besides definitions, whose numbers are positive: what surrounds its tasks, their seeds, the
# run that they belong to, a run that is over, definitions that nobody has any more, the store in which values are kept
# and under what.
AMBIENT, SEEDS, RUN, RELEASE, FORGET, KEEP = 0, -1, -2, -3, -4, -5

_PR_SET_PDEATHSIG = 1


class Bench:
    """Runs tasks and encodes what came out: a worker without its pipe, so that a simulated one does the very same.

    `clock` tells how long tasks take.
    """

    def __init__(self, segments: Segments, clock: Callable[[], float] = perf_counter) -> None:
        self.segments = segments
        self.handover = segments.handover = Handover()
        self.clock = clock
        self.definitions: dict[int, Any] = {}  # bytes until first used
        self.recorder = Recorder()
        self.seeds: dict[int, int] = {}  # by task
        self.memory: dict[int, int] = {}  # what a body may add to what this process has, by definition
        self.lookups: dict[int, Any] = {}  # under what the value of a task is to be kept
        self._settings: Any = None  # of the store in which
        self.held: dict[int, dict[str, Any]] = {}  # objects that were made of recipes, by run
        self.released: list[int] = []  # runs that are over, and whose objects are not closed yet
        self._objects: dict[str, Any] = {}  # those of the run whose tasks came last
        self._process = os.getpid()
        self.learned: Callable[[], None] = lambda: None  # called when a definition was decoded, and its module imported

    def unpack(self, message: bytes) -> list[tuple[int, int, Any]]:
        """Learn what a message brings and return its tasks: number, definition, arguments."""
        news, tasks = pickle.loads(message)
        if news:
            self.seeds.update(news.pop(SEEDS, ()))
            if KEEP in news:
                self._settings, codecs, lookups = news.pop(KEEP)
                self.lookups.update(lookups)
                if codecs:
                    learn_codecs(codecs)
            if RUN in news:
                self._objects = self.held.setdefault(news.pop(RUN), {})
            if RELEASE in news:
                self.released.append(news.pop(RELEASE))
            for index in news.pop(FORGET, ()):
                self.definitions.pop(index, None)
                self.memory.pop(index, None)
            self.definitions.update(news)
        if not {task[1] for task in tasks} <= self.definitions.keys():
            raise LookupError("a task came whose definition did not")
        return tasks  # type: ignore[no-any-return]

    def release(self) -> list[bytes]:
        """Close the objects of runs that are over, and return the answers."""
        runs, self.released = self.released, []
        for run in runs:
            objects = self.held.pop(run, {})
            for thing in objects.values():
                close(thing)
            objects.clear()
        return [pickle.dumps((run, RELEASED, 0.0, 0.0, None)) for run in runs]

    def definition(self, index: int) -> Any:
        """Return a definition that a message brought; it is decoded when it is first used."""
        found = self.definitions[index]
        if type(found) is bytes:
            found = self.definitions[index] = pickle.loads(found)
            memory = getattr(found, "memory", None)
            if memory is not None:
                self.memory[index] = memory
            self.learned()
        return found

    def run(self, task: int, index: int, args: Any) -> bytes:
        """Run one task and return its outcome; nothing that a user's code does gets past here."""
        recorder, clock = self.recorder, self.clock
        recorder.calls, recorder.error = [], None
        name = "a call"
        began = clock()
        try:
            definition = self.definitions[index]
            if type(definition) is bytes:
                definition = self.definition(index)
            name = definition.name
            if self.seeds and task in self.seeds:
                sow(self.seeds.pop(task), definition.function)
            kwargs: dict[str, Any] = {}
            if self.handover.kept and type(args) is not Parcel:
                self.handover.kept.clear()
            if type(args) is Parcel:
                args, kwargs = self.opened(args)
                self.handover.kept.clear()  # what this task does not need is not to wait for its end
                value = self._run_body(definition, index, args, kwargs)
            elif index in self.memory:
                value = self._run_body(definition, index, args, kwargs)
            elif definition.kind is Kind.LEAF and not definition.checks:
                value = definition.function(*args)
            else:
                value = run_body(definition, args, kwargs)
            self._stay_one()
            seconds = clock() - began
            if recorder.error is not None:  # raised in the body, and swallowed there
                raise recorder.error
            return self._encoded(task, name, value, began, seconds)
        except BaseException as error:
            self._stay_one()
            self.lookups.pop(task, None)
            seconds = clock() - began
            return pickle.dumps((task, RAISED, began, seconds, describe_error(as_raised(name, error))))

    def leave(self, task: int) -> bytes:
        """Return the outcome of a task that was withdrawn before it began."""
        self.seeds.pop(task, None)
        self.lookups.pop(task, None)
        return pickle.dumps((task, UNTOUCHED, 0.0, 0.0, None))

    def opened(self, parcel: Parcel) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments that came in a parcel."""
        here.objects = self._objects
        arguments: tuple[list[Any], dict[str, Any]] = loads(parcel, self.segments)
        return arguments

    def _run_body(self, definition: Any, index: int, args: Any, kwargs: dict[str, Any]) -> Any:
        if index not in self.memory:
            return run_body(definition, args, kwargs)
        limits = lower_limit(self.memory[index])
        try:  # not by `contextlib`, which writes to exceptions: there are some that do not stand that
            return run_body(definition, args, kwargs)
        finally:
            restore_limit(limits)

    def _stay_one(self) -> None:
        """End this process if it is a copy that a body made of its worker: there are no two of them."""
        if os.getpid() != self._process:
            os._exit(0)

    def _encoded(self, task: int, name: str, value: Any, began: float, seconds: float) -> bytes:
        kind = type(value)
        made = self.recorder.calls
        travels = bool(made) or isinstance(value, Future)
        kept: tuple[Any, ...] = ()
        if self.lookups and (lookup := self.lookups.pop(task, None)) is not None and not travels:
            kept = (self._kept(lookup, value, seconds),)
        if kind in ATOMS and not made and (kind not in (str, bytes) or len(value) <= SMALL):
            return pickle.dumps((task, PLAIN, began, seconds, value, *kept))
        if kept and type(kept[0]) is not str and kept[0].nbytes >= LARGE:
            return pickle.dumps((task, STORED, began, seconds, None, *kept))
        try:
            parcel = dumps(pack(value, made) if travels else value, self.segments)
        except Exception as error:
            if kept and type(kept[0]) is not str:  # only the store knows how: from there it can be had
                return pickle.dumps((task, STORED, began, seconds, None, *kept))
            raise why_no_way_back(name, value, error) from error
        finally:
            self.recorder.calls = []  # not to be held until the next task
        return pickle.dumps((task, EXPANDED if travels else PARCEL, began, seconds, parcel, *kept))

    def _kept(self, lookup: Any, value: Any, seconds: float) -> Any:
        """Put a value into the store of its run: from here on nothing can undo it. Return where it lies, or why not."""
        from tinygraph.store.shelf import keep_for_driver

        try:
            return keep_for_driver(self._settings, lookup, value, seconds)
        except Exception as error:  # a full disk, what cannot be pickled: the value goes its way all the same
            return text_of(error)


def learn_codecs(pickled: bytes) -> None:
    """Register the codecs that the program has, unless they are those that this process had last."""
    if pickled != _codecs[0]:
        from tinygraph.store.codecs import codec

        for kind, methods in pickle.loads(pickled):
            codec(kind)(methods)
        _codecs[0] = pickled


_codecs = [b""]


class Worker:
    """Runs the tasks of one supervisor in this process."""

    def __init__(self, pipe: Connection, ledger: Ledger, segments: Segments) -> None:
        self.pipe = pipe
        self.ledger = ledger
        self.bench = Bench(segments)
        if hasattr(os, "register_at_fork"):
            # A copy that a body makes of this process has no business with the supervisor, and may live longer.
            os.register_at_fork(after_in_child=pipe.close)

    def serve(self) -> None:
        """Run chunk after chunk until the supervisor closes the pipe, or is gone."""
        recording.set(self.bench.recorder)
        surroundings = Surroundings()
        self.bench.learned = surroundings.catch_up
        kept = self.bench.handover.kept
        while True:
            try:
                if kept and not self.pipe.poll(KEPT_FOR):
                    kept.clear()
                message = self.pipe.recv_bytes()
            except (EOFError, OSError):
                return
            tasks = self.bench.unpack(message)
            if AMBIENT in self.bench.definitions:
                surroundings.become(self.bench.definitions.pop(AMBIENT))
            self._run_chunk(tasks, surroundings)
            if self.bench.released:
                self._report(surroundings.context.copy().run(self.bench.release))
                surroundings.undo()
            message, tasks = b"", []  # not to be held until the next ones come

    def _run_chunk(self, tasks: list[tuple[int, int, Any]], surroundings: Surroundings) -> None:
        begin, run, note = self.ledger.begin, self.bench.run, self.ledger.note
        is_withdrawn = self.ledger.is_withdrawn
        handover = self.bench.handover
        fresh, (out, err) = surroundings.context.copy, surroundings.streams
        pending: list[bytes] = []
        reported = perf_counter()
        for task, definition, args in tasks:
            begin(task)
            outcome = self.bench.leave(task) if is_withdrawn(task) else fresh().run(run, task, definition, args)
            if handover.kept:
                handover.keep_what_is_ours()
            if surroundings.changed or sys.stdout is not out or sys.stderr is not err:
                surroundings.undo()
            pending.append(outcome)
            if not note(outcome) or perf_counter() - reported > REPORT_EVERY:
                self._report(pending)
                reported = perf_counter()
        if pending:
            self._report(pending)

    def _report(self, pending: list[bytes]) -> None:
        self.pipe.send_bytes(MAGIC + pickle.dumps(pending))
        self.ledger.clear()
        pending.clear()


def main(pipe: Connection, path: str, folder: str, parent: int, out: Connection, err: Connection, token: bytes) -> None:
    """Be a worker: the target of the process."""
    pipe, out, err = map(_off_the_streams, (pipe, out, err))
    _settle_in(parent)
    ledger = Ledger(path)
    speak_through(out, err, token, ledger)
    code = 1
    try:
        Worker(pipe, ledger, Segments.attach(folder)).serve()
        code = 0
    finally:  # a node wrote into the pipe, or a defect of ours: the supervisor sees to the tasks of a dead worker
        os._exit(code)  # nothing that a node left behind may keep this process alive


def _settle_in(parent: int) -> None:
    """Bind this process to its parent's life, and make it deaf to the terminal."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C goes to the parent's group; killing this group takes what a node started with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # it was held back until here, where it is gone
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Nodes may have processes of their own: they are in this group, and it ends with us.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    _die_with(parent)
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:  # it is where the parent has no standard input
        os.dup2(null, 0)
        os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


def _off_the_streams(pipe: Connection) -> Connection:
    """Return a pipe under another number, if it has that of a standard stream: one that its parent does not have."""
    if pipe.fileno() > 2:
        return pipe
    import fcntl

    moved = Connection(fcntl.fcntl(pipe.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
    pipe.close()
    return moved


def lower_limit(memory: int) -> tuple[int, int] | None:
    """Have this process get a `MemoryError` rather than so many bytes more than it has, where the kernel does that.

    Return the limits that it had, for `restore_limit`.
    """
    if sys.platform != "linux":
        return None
    import resource

    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        used = next((int(line.split()[1]) << 10 for line in status if line.startswith("VmData:")), 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    others = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([used + memory, *others]), hard))
    return soft, hard


def restore_limit(limits: tuple[int, int] | None) -> None:
    """Put the limits back to what they were."""
    if limits is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, limits)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        import ctypes

        # The kernel kills this process when the thread that started it ends, whatever this process is doing.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)
    elif hasattr(os, "getppid"):
        threading.Thread(target=_watch, args=(parent,), name="tinygraph-watch", daemon=True).start()


def _watch(parent: int) -> None:
    """Where the kernel offers no such service: look now and then."""
    while os.getppid() == parent:
        sleep(0.25)
    os._exit(1)
