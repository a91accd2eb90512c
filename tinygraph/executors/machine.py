"""The machine under the supervisor: starts worker processes, speaks to them, kills them, waits, and tells the time.

Every operation on a process is here and nowhere else, so that a simulated machine with a virtual clock can run the same
supervisor.
"""

from __future__ import annotations

import io
import multiprocessing.process
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Pipe, wait
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector
from struct import Struct
from time import monotonic, sleep
from traceback import walk_tb
from typing import Any

from tinygraph.executors.ambient import THREAD_LIMITS
from tinygraph.executors.ledger import Ledger
from tinygraph.executors.output import Hearing, Said
from tinygraph.executors.segments import Segments
from tinygraph.executors.worker import MAGIC, main

_LENGTH, _LONG, _LONGEST = Struct("!i"), Struct("!Q"), 0x7FFFFFFF
_MOST = 1 << 40  # bytes in a message: more than any machine has
_PIECE = 1 << 18  # bytes that are read or written at once
_NOW = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_FILES = 24  # file numbers that it takes to start a worker, some of them only for a while
_READS = 16  # pieces that are read from one worker before the others get their turn
_NOTICED = 0.001  # seconds after which two processes see what both have noted in a mapped file, by far
# What the guard runs: it reads the numbers of groups, those that are no more with a minus, until nobody can tell it
# any. `g` has them with a blank before and behind each.
_GUARD = """
g=" "
while read -r p; do
    case $p in
        -*) p=" ${p#-} "; case $g in *"$p"*) g="${g%%"$p"*} ${g#*"$p"}";; esac;;
        *) g="$g$p ";;
    esac
done
for p in $g; do kill -9 "-$p"; done
"""
_LONGEST_WAIT = 3600.0  # seconds: the kernel counts milliseconds, and not very many


class Guard:
    """A shell that outlives this process by a moment, to end what its workers have started.

    The kernel ends the workers with it, whatever ends it, but not what they started. That is in the groups of the
    workers. Nothing depends on the guard: where it cannot be had, or is ended, the rest is as it was.
    """

    def __init__(self) -> None:
        self._pid: int | None = None
        self._pipe = -1

    def watch(self, group: int) -> None:
        """End what is in a group when this process is gone."""
        if self._pid is None:
            self._pid = self._start()
        self._say(b"%d\n" % group)

    def forget(self, group: int) -> None:
        """Leave a group alone from now on: its number may come to be that of another."""
        self._say(b"-%d\n" % group)

    def close(self) -> None:
        """End the guard, and what is in the groups that it watches still."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            try:
                os.waitpid(self._pid or 0, 0)
            except ChildProcessError:  # a program that waits for its children has waited for this one as well
                pass

    def _start(self) -> int:
        theirs, ours = os.pipe()
        nothing, program = subprocess.DEVNULL, ["/bin/sh", "-c", _GUARD]
        try:  # in a group of its own, where Ctrl-C does not find it
            shell = subprocess.Popen(
                program, stdin=theirs, stdout=nothing, stderr=nothing, cwd="/", env={}, process_group=0
            )
        except OSError:
            os.close(ours)
            return 0
        finally:
            os.close(theirs)
        shell.returncode = 0  # this object is not to wait for it, nor to miss that
        os.set_blocking(ours, False)
        self._pipe = ours
        return shell.pid

    def _say(self, line: bytes) -> None:
        try:
            if self._pipe >= 0:
                os.write(self._pipe, line)
        except OSError:  # it was ended, or stopped
            return


class Member:
    """One worker process: its pipe, its ledger, its life.

    Nothing here waits for the process, whatever that does or fails to do: what it cannot take yet is kept for later,
    and of a message that came in half the rest is awaited with everything else. Messages are framed as `Connection`
    does it, because the process at the other end uses one.
    """

    def __init__(
        self, number: int, segments: Segments, environment: dict[str, str], ears: BaseSelector, guard: Guard
    ) -> None:
        from loky.backend import get_context

        self.number = number
        self._guard = guard
        self.peak = 0  # the memory that it had used, in bytes, once it is dead and if that is known
        self._ears = ears
        self._said: list[Said] = []
        self._was_running: tuple[int, float] | None = None
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.has_ended = False
        self._hears = False
        _claim_files()
        with ExitStack() as failing:
            self._path, self._ledger = _new_ledger(segments, f"ledger-{os.getpid()}-{number}")
            failing.callback(self._forget_ledger)
            pipe, theirs = Pipe(duplex=True)
            self._hearing = Hearing()
            failing.callback(self._hearing.close)
            self._process = get_context("loky").Process(
                target=main,
                args=(theirs, self._path, segments.folder, os.getpid(), *self._hearing.theirs, self._hearing.token),
                name=f"tinygraph-worker-{number}",
                daemon=True,
                env=environment,
            )
            try:
                with _streams_that_flush(), _a_folder(), _no_interrupt():
                    self._process.start()
            except BaseException as error:
                pipe.close()
                _clear_up_after(error)
                raise
            finally:
                theirs.close()
                self._hearing.let_go_of_theirs()
            failing.callback(self._end)
            guard.watch(self.pid)
            # It is ours alone. Whoever keeps account of it signals it or waits for it: at the end, in a forked child.
            multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]
            with pipe:
                self._pipe = socket.socket(fileno=os.dup(pipe.fileno()))
            self._pipe.setblocking(False)  # a program may have set how long its sockets wait
            failing.callback(self._pipe.close)
            # The end of the pipe tells of a death, unless a process that the worker forked holds that end as well.
            self.life = _life_of(self._process)
            failing.callback(self._let_go_of_life)
            for descriptor in (self._pipe, self.life):
                ears.register(descriptor, EVENT_READ, self)
                failing.callback(ears.unregister, descriptor)
            self.hear(True)
            failing.pop_all()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return int(self._process.pid)

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended, though perhaps not all that it said has been read."""
        return bool(wait([self.life], 0))

    def send(self, message: bytes) -> None:
        """Send a chunk of tasks. A worker that has died cannot be told: its pipe will say so."""
        size = len(message)
        head = _LENGTH.pack(size) if size <= _LONGEST else _LENGTH.pack(-1) + _LONG.pack(size)
        waiting = bool(self._outgoing)
        self._outgoing += head
        self._outgoing += message
        if not waiting and not self._flush():
            self._ears.modify(self._pipe, EVENT_READ | EVENT_WRITE, self)

    def send_more(self) -> None:
        """Go on with what the pipe did not take at once, now that it takes more."""
        if self._flush():
            self._ears.modify(self._pipe, EVENT_READ, self)

    def _flush(self) -> bool:
        """Send what the pipe takes; return whether that was all."""
        try:
            while self._outgoing:
                with memoryview(self._outgoing) as view, view[:_PIECE] as piece:
                    sent = self._pipe.send(piece, _NOW)
                del self._outgoing[:sent]
        except BlockingIOError:
            return False
        except OSError:
            self._outgoing.clear()
        return True

    def receive(self) -> list[bytes] | None:
        """Return the outcomes that have come in; None when the worker is gone, and nothing is left to read."""
        is_over = self.has_ended
        outcomes: list[bytes] = []
        try:
            for _ in range(_READS):
                got = self._pipe.recv(_PIECE, _NOW)
                if not got:
                    is_over = True
                    break
                self._incoming += got
                if len(got) < _PIECE and not self.has_ended:
                    break
            else:
                is_over = False  # there is more: the others get their turn before
        except BlockingIOError:
            pass
        except OSError:
            is_over = True
        try:
            for message in self._whole_messages():
                outcomes += pickle.loads(message)
        except Exception:  # a node wrote into the pipe: what comes after that cannot be read, whatever it is
            self.kill()
            is_over = True
        return outcomes if outcomes or not is_over else None

    def _whole_messages(self) -> Iterator[bytes]:
        """Take the messages that are complete out of what has come in."""
        buffer, at = self._incoming, 0
        try:
            while len(buffer) - at >= _LENGTH.size:
                (size,), start = _LENGTH.unpack_from(buffer, at), at + _LENGTH.size
                if size == -1:
                    if len(buffer) - start < _LONG.size:
                        return
                    (size,), start = _LONG.unpack_from(buffer, start), start + _LONG.size
                begins = buffer[start : start + len(MAGIC)]
                if not MAGIC.startswith(begins) or not len(MAGIC) <= size <= _MOST:
                    raise ValueError("no report begins like this")
                if len(buffer) - start < size:
                    return
                at = start + size
                yield bytes(buffer[start + len(MAGIC) : at])
        finally:
            del buffer[:at]

    def running(self) -> tuple[int, float]:
        """Return the task that was begun last, 0 for none, and when."""
        return self._was_running or (self._ledger.task, self._ledger.began)

    def withdraw(self, after: int, until: int) -> int:
        """Have the worker begin no task after one and until another; return the task that it has begun last.

        Of those that are withdrawn it begins none that is not the one returned, and that may be left alone as well.
        """
        self._ledger.withdraw(after, until)
        sleep(_NOTICED)
        return self._ledger.task

    def unsent(self) -> list[bytes]:
        """Return the outcomes that the worker has noted and not sent, if it is dead or in the middle of a task."""
        return self._ledger.outcomes()

    @property
    def begun(self) -> list[int]:
        """The tasks that have begun a line."""
        return self._hearing.begun

    def said(self, ended: int = 0) -> list[Said]:
        """Return what the nodes have printed and logged; `ended` is a task whose last line will not be longer."""
        found, gone = self._hearing.read(self._ledger.task) if self._hearing.open else ([], [])
        if gone and self._hears:
            for descriptor in gone:
                self._ears.unregister(descriptor)
        if ended:
            found += self._hearing.end(ended)
        if self._said:
            found, self._said = self._said + found, []
        return found

    def hear(self, wanted: bool) -> None:
        """Say whether to be told when the nodes print something; while nobody reads it, they have to wait."""
        if wanted is not self._hears:
            self._hears = wanted
            for descriptor in self._hearing.open:
                if wanted:
                    self._ears.register(descriptor, EVENT_READ, self)
                else:
                    self._ears.unregister(descriptor)

    def kill(self) -> None:
        """End the process, and what its nodes started with it."""
        for end in (getattr(os, "killpg", os.kill), os.kill):
            try:
                end(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue

    def bury(self) -> int | None:
        """Reap the process and free what belonged to it; return its exit code. What it said can still be had."""
        self._end()
        self._was_running = self.running()
        self._said = self.said() + self._hearing.end()
        self.hear(False)
        self._hearing.close()
        self._ears.unregister(self._pipe)
        self._ears.unregister(self.life)
        self._pipe.close()
        self._let_go_of_life()
        self._forget_ledger()
        code = self._process.exitcode
        return None if code is None else int(code)

    def _end(self) -> None:
        """Kill the process, and see what it had used."""
        self.kill()
        self._guard.forget(self.pid)
        popen = self._process._popen
        if hasattr(os, "wait4") and popen.returncode is None:
            try:
                _, status, usage = os.wait4(self.pid, 0)
            except ChildProcessError:  # `multiprocessing` looks after its children whenever it starts another
                pass
            else:
                popen.returncode = os.waitstatus_to_exitcode(status)
                self.peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self._process.join()

    def _let_go_of_life(self) -> None:
        if self.life != self._process.sentinel:
            os.close(self.life)

    def _forget_ledger(self) -> None:
        self._ledger.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass


class Machine:
    """What a supervisor needs of the machine that it runs on."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._ear, self._bell = Pipe(duplex=False)
        self._attentive = True
        self._guard = Guard()
        self._ears = DefaultSelector()
        self._ears.register(self._ear, EVENT_READ, None)

    def now(self) -> float:
        """Return the time in seconds."""
        return monotonic()

    def launch(self, number: int, workers: int) -> Member:
        """Start a worker process, one of so many."""
        # The threads of numerical libraries, times the workers, are not to be more than the cores.
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        environment = {name: os.environ.get(name, threads) for name in THREAD_LIMITS}
        return Member(number, self._segments, environment, self._ears, self._guard)

    def listen(self, timeout: float | None) -> list[Member]:
        """Wait until a worker has something to say, the bell rings, or the time is over; return who speaks."""
        speaking: dict[Member, None] = {}
        ready = self._ears.select(timeout if timeout is None else min(timeout, _LONGEST_WAIT))
        self._attentive = False
        for key, events in ready:
            member: Member | None = key.data
            if member is None:
                self._ear.recv_bytes()
                continue
            if events & EVENT_WRITE:
                member.send_more()
            if events & EVENT_READ:
                member.has_ended = member.has_ended or key.fd == member.life
                speaking[member] = None
        return list(speaking)

    def attend(self) -> None:
        """Take rings from now on: what was to be told before is going to be looked at anyway."""
        self._attentive = True

    def ring(self) -> None:
        """End the waiting; from any thread."""
        if self._attentive:
            self._attentive = False
            try:
                self._bell.send_bytes(b"")
            except OSError:  # closed
                return

    def close(self) -> None:
        """Free what belongs to the machine itself."""
        self._guard.close()
        self._ears.close()
        self._ear.close()
        self._bell.close()


def _new_ledger(segments: Segments, name: str) -> tuple[str, Ledger]:
    """Make a ledger in the first folder that has room."""
    refused: OSError | None = None
    for folder in dict.fromkeys((*segments.folders, tempfile.gettempdir())):
        path = os.path.join(folder, name)
        try:
            return path, Ledger.create(path)
        except OSError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _claim_files() -> None:
    """Raise an `OSError` if so few file numbers are left that the launcher would give up halfway, and lose some."""
    with ExitStack() as claimed:
        for _ in range(_FILES):
            claimed.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _clear_up_after(error: BaseException) -> None:
    """Close what the launcher of processes leaves open where it fails: it has no names for that but local ones."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code.co_name != "_launch":
            continue
        left = frame.f_locals
        if "pid" in left:  # it was started, and ended before it was told what to do
            os.kill(left["pid"], signal.SIGKILL)
            os.waitpid(left["pid"], 0)
        for name, its_owner in (("child_w", "child_r"), ("parent_w", "f")):
            if name in left and its_owner not in left:
                os.close(left[name])


@contextmanager
def _streams_that_flush() -> Iterator[None]:
    """Stand in for standard streams that are closed, or not there at all: the launcher of processes flushes them."""
    missing = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    missing = {name: stream for name, stream in missing.items() if getattr(stream, "closed", stream is None)}
    for name in missing:
        setattr(sys, name, io.StringIO())
    try:
        yield
    finally:
        for name, stream in missing.items():
            setattr(sys, name, stream)


@contextmanager
def _a_folder() -> Iterator[None]:
    """Stand in for the folder of this process if that was removed: the launcher of processes asks for it.

    The worker gets the one of its run before its first task.
    """
    try:
        os.getcwd()
    except OSError:
        from loky.backend import spawn

        whole, spawn.os = spawn.os, types.SimpleNamespace(**{**vars(os), "getcwd": lambda: os.sep})
        try:
            yield
        finally:
            spawn.os = whole
    else:
        yield


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach before they are ready for it: they take over what is held back here.

    The trackers that the launcher starts first let go of it as soon as they have been started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker as of_python

    from loky.backend import resource_tracker as of_loky

    for tracker in (of_loky._resource_tracker, of_python._resource_tracker):
        tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _life_of(process: Any) -> int:
    """Return a file number that can be read from once a process has ended."""
    if hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(process.pid)
        except OSError:  # an old kernel
            pass
    return int(process.sentinel)
