"""What nodes say in worker processes: prints, native writes, logging and warnings, brought to the parent.

Standard output and standard error of a worker are two pipes to its supervisor. What Python code writes goes through a
`Speaker`, which says whose text follows whenever that changes; what C code and subprocesses write goes into the same
pipes and belongs to the task that was named last, or else to the one that runs. Log records and warnings travel between
the text, as frames::

    print("epoch 3")      ─► Speaker ─┐
    logging, warnings     ─► Speaker ─┤
    C code, subprocesses ─────────────┴─► pipe ─► Transcript ─► Outlet ─► [train#12] epoch 3
               (the worker)              (the supervisor's thread)      (the thread that resolves)

A frame is written at once and is short enough not to be torn by whoever else writes::

    0x1e | token | kind: one letter | length in decimal | newline | payload

Nobody waits for ever: the supervisor reads whenever there is something, and while the parent is slow to write it stops
reading for a while, so that it is the chatty node that waits. A task that says nothing costs nothing.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import select
import sys
import threading
import warnings
from collections import deque
from multiprocessing.connection import Connection, Pipe
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from tinygraph.notes import Note

if TYPE_CHECKING:
    from tinygraph.engine import Engine
    from tinygraph.executors.ledger import Ledger

# What is kept of a worker's output, for the error of a task that kills its worker; and the longest line.
LAST_WORDS = 1 << 16
# When so many characters wait to be written by the parent, workers that say more have to wait.
PRESSURE = 1 << 20

STDOUT, STDERR, LOG, WARNING = "stdout", "stderr", "log", "warning"

_READ = 1 << 16
_READS = 16  # pieces that are read before others get their turn
_TASK, _PART, _RECORD, _WARNED = b"T", b"P", b"L", b"W"
_KINDS = {_RECORD: LOG, _WARNED: WARNING}
_HEADER = 12  # characters at most between the token and the payload
_PAYLOAD = getattr(select, "PIPE_BUF", 512) - 64  # so that a frame is written at once, or not at all


class Whose(NamedTuple):
    """The task that said something; not the call itself, which would be kept alive by that.

    >>> str(Whose("train", 12))
    'train#12'
    """

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}#{self.number}"


class Said(NamedTuple):
    """A piece of output: whole lines of text, or what a log record or a warning was packed into."""

    task: int  # its number; 0 when nobody knows
    channel: str
    text: str
    packed: bytes = b""


# In the worker


class Speaker(io.RawIOBase):
    """The raw end of `sys.stdout` or `sys.stderr` in a worker."""

    def __init__(self, pipe: Connection, number: int, token: bytes, ledger: Ledger) -> None:
        self._pipe = pipe  # ours alone: a node may close or replace the well-known number
        self._number = number
        self._head = b"\x1e" + token
        self._ledger = ledger
        self._named = 0
        self._telling = threading.Lock()
        os.dup2(pipe.fileno(), number, inheritable=True)

    def writable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Leave it open: a node that closes its standard output does so for itself alone."""

    def fileno(self) -> int:
        """Return the well-known number, for whoever starts a subprocess with it."""
        return self._number

    def write(self, text: Any) -> int:
        """Write all of it, and before it whose it is, if that has changed."""
        if self._ledger.task != self._named:
            self._name()
        with memoryview(text) as whole, whole.cast("B") as view:
            self._write(view)
            return view.nbytes

    def tell_of(self, kind: bytes, packed: bytes) -> None:
        """Write something that is no text."""
        with self._telling:
            if self._ledger.task != self._named:
                self._name()
            *parts, last = [packed[at : at + _PAYLOAD] for at in range(0, len(packed), _PAYLOAD)] or [b""]
            for part in parts:
                self._frame(_PART, part)
            self._frame(kind, last)

    def _name(self) -> None:
        self._named = self._ledger.task
        self._frame(_TASK, b"%d" % self._named)

    def _frame(self, kind: bytes, payload: bytes) -> None:
        self._write(memoryview(b"%b%b%d\n%b" % (self._head, kind, len(payload), payload)))

    def _write(self, view: memoryview) -> None:
        at, descriptor = 0, self._pipe.fileno()
        while at < view.nbytes:
            try:
                at += os.write(descriptor, view[at:])
            except BlockingIOError:  # a subprocess may have set the pipe so
                select.select([], [descriptor], [])
            except OSError:  # the supervisor is gone, and this process soon
                return


class RecordSender(logging.Handler):
    """The handler of the root logger in a worker: the parent's loggers get the records."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self._speaker = speaker

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record without what cannot travel: arguments become text, and so does an exception."""
        try:
            state = dict(record.__dict__)
            state["msg"], state["args"] = record.getMessage(), None
            if record.exc_info and not record.exc_text:
                state["exc_text"] = logging.Formatter().formatException(record.exc_info)
            state["exc_info"] = None
            try:
                packed = pickle.dumps(state)
            except Exception:  # something that the user put into `extra`
                plain = (str, int, float, type(None))
                packed = pickle.dumps({k: v if type(v) in plain else repr(v) for k, v in state.items()})
            self._speaker.tell_of(_RECORD, packed)
        except Exception:
            self.handleError(record)


def speak_through(out: Connection, err: Connection, token: bytes, ledger: Ledger) -> None:
    """Replace standard output and standard error of this process; send log records, warnings and the last trace."""
    import faulthandler

    speakers = Speaker(out, 1, token, ledger), Speaker(err, 2, token, ledger)
    sys.stdout = sys.__stdout__ = _text_on(speakers[0])  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = _text_on(speakers[1])  # type: ignore[misc, assignment]
    faulthandler.enable(file=2)
    logging.getLogger().addHandler(RecordSender(speakers[1]))

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        speakers[1].tell_of(_WARNED, _packed_warning(message, category, filename, lineno))

    warnings.showwarning = show


class _Text(io.TextIOWrapper):
    """The stream on a speaker. It outlives a node that closes it: those that come after have no other."""

    def close(self) -> None:
        """Leave it open."""

    def detach(self) -> Any:
        """Give the raw stream to somebody, and keep it."""
        return self.buffer


def _text_on(speaker: Speaker) -> TextIO:
    # Straight on a raw stream, as `python -u` has it: what was printed when a worker dies has left it.
    raw: Any = speaker
    return _Text(raw, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True)


def _packed_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int) -> bytes:
    import cloudpickle

    module = None
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:  # whoever issued it: filters go by the name of its module
        if frame.f_code.co_filename == filename:
            module = frame.f_globals.get("__name__")
            break
        frame = frame.f_back
    for form in (message, str(message)):
        try:
            return cloudpickle.dumps((form, category, filename, lineno, module))  # type: ignore[no-any-return]
        except Exception:  # what a user's class does when it is pickled
            continue
    return pickle.dumps((f"{category.__name__}: {message}", UserWarning, filename, lineno, module))


# In the supervisor


class Transcript:
    """What comes through one pipe of a worker: text in whole lines, frames, and whose it is.

    >>> transcript = Transcript(STDOUT, b"token")
    >>> transcript.feed(b"\\x1etokenT1\\n7one\\ntwo\\nthr")
    [Said(task=7, channel='stdout', text='one\\ntwo\\n', packed=b'')]
    >>> transcript.feed(b"ee\\x1etok"), [said.text for said in transcript.feed(b"enT1\\n8four\\n")]
    ([], ['three', 'four\\n'])
    """

    def __init__(self, channel: str, token: bytes) -> None:
        self._channel = channel
        self._head = b"\x1e" + token
        self.task = 0
        self.line = b""  # that was begun
        self._held = b""  # of a frame that has come in half
        self._parts: list[bytes] = []
        self._found: list[Said] = []

    def feed(self, data: bytes) -> list[Said]:
        """Take what was read, and return what is complete."""
        data, self._held = self._held + data, b""
        head, at = self._head, 0
        while (start := data.find(head, at)) >= 0:
            self._take(data[at:start])
            name = start + len(head)
            end = data.find(b"\n", name, name + _HEADER)
            stop = end + 1 + int(data[name + 1 : end]) if end > 0 else len(data) + 1
            if stop > len(data):
                self._held = data[start:]
                return self._taken()
            self._take_frame(data[name : name + 1], data[end + 1 : stop])
            at = stop
        rest = data[at:]
        cut = rest.rfind(b"\x1e", max(0, len(rest) - len(head)))
        if cut >= 0 and head.startswith(rest[cut:]):
            rest, self._held = rest[:cut], rest[cut:]
        self._take(rest)
        return self._taken()

    def goes_on_with(self, task: int) -> list[Said]:
        """Note that what comes now is of another task; return the line that the last one had begun."""
        if task != self.task:
            self._end_line()
            self.task = task
        return self._taken()

    def end(self, task: int = 0) -> list[Said]:
        """Return the line that was begun and is not going to be ended, of one task or whosever it is."""
        if task in (0, self.task):
            self._end_line()
        return self._taken()

    def _taken(self) -> list[Said]:
        found, self._found = self._found, []
        return found

    def _take(self, text: bytes) -> None:
        cut = text.rfind(b"\n") + 1
        if cut:
            self._say(self.line + text[:cut])
            text, self.line = text[cut:], b""
        self.line += text
        if len(self.line) > LAST_WORDS:
            self._end_line()

    def _end_line(self) -> None:
        if self.line:
            self._say(self.line)
            self.line = b""

    def _say(self, text: bytes) -> None:
        self._found.append(Said(self.task, self._channel, text.decode("utf-8", "backslashreplace")))

    def _take_frame(self, kind: bytes, payload: bytes) -> None:
        if kind == _TASK:
            if int(payload) != self.task:
                self._end_line()
                self.task = int(payload)
            return
        self._parts.append(payload)
        if kind != _PART:
            packed, self._parts = b"".join(self._parts), []
            self._found.append(Said(self.task, _KINDS[kind], "", packed))


class Hearing:
    """The two pipes of one worker, at the supervisor's end."""

    def __init__(self) -> None:
        self.token = os.urandom(8).hex().encode()
        self._pipes: list[Connection] = []
        self.theirs: list[Connection] = []
        for _ in range(2):
            ours, theirs = Pipe(duplex=False)
            os.set_blocking(ours.fileno(), False)
            self._pipes.append(ours)
            self.theirs.append(theirs)
        self._transcripts = [Transcript(STDOUT, self.token), Transcript(STDERR, self.token)]
        self.open = {pipe.fileno(): i for i, pipe in enumerate(self._pipes)}  # those that have not ended
        self._reached = [0, 0]  # the task that ran when the pipe was empty: what it holds now is no older one's

    def read(self, running: int) -> tuple[list[Said], list[int]]:
        """Return what was said, and which pipes have ended; `running` is the task that was begun last.

        To be known before reading: should the worker go on meanwhile, no text gets a task that came after it.
        """
        found: list[Said] = []
        ended = []
        for descriptor, i in list(self.open.items()):
            transcript = self._transcripts[i]
            for _ in range(_READS):
                try:
                    data = os.read(descriptor, _READ)
                except BlockingIOError:
                    self._reached[i] = running
                    break
                except OSError:
                    data = b""
                if not data:
                    found += transcript.end()
                    del self.open[descriptor]
                    ended.append(descriptor)
                    break
                if self._reached[i]:
                    found += transcript.goes_on_with(self._reached[i])
                    self._reached[i] = 0
                found += transcript.feed(data)
        return found, ended

    @property
    def begun(self) -> list[int]:
        """The tasks that have begun a line."""
        return [transcript.task for transcript in self._transcripts if transcript.line]

    def end(self, task: int = 0) -> list[Said]:
        """Return the lines that were begun: their task has ended, or the worker has."""
        return [said for transcript in self._transcripts for said in transcript.end(task)]

    def let_go_of_theirs(self) -> None:
        """Close the worker's ends, when it has them, or is not going to have them."""
        for pipe in self.theirs:
            pipe.close()

    def close(self) -> None:
        """Stop listening."""
        self.open.clear()
        for pipe in self._pipes:
            pipe.close()


# In the thread that resolves


class Outlet:
    """What the tasks of one run have said, until the thread that resolves writes it.

    That thread writes, because it is where the user's `print` would: in a notebook, under a redirection, in a test.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: deque[tuple[Whose, Said, float]] = deque()
        # Two numbers, each counted by one thread: one that both change would lose count.
        self._put = self._written = 0
        self.awaited = False  # whether somebody is to be told when there is room again

    def __bool__(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether so much waits here that no more should be read."""
        return self._put - self._written > PRESSURE

    def put(self, whose: Whose, said: Said) -> None:
        """Leave something to be written; from the supervisor's thread."""
        self._put += len(said.text) + len(said.packed)
        self._queue.append((whose, said, perf_counter()))
        if len(self._queue) == 1:
            self._engine.driver.wake.put(None)

    def deliver(self) -> bool:
        """Write what was said; return whether somebody waits for that. Needs no lock, and may take its time."""
        engine = self._engine
        while self._queue:
            whose, said, at = self._queue.popleft()
            self._written += len(said.text) + len(said.packed)
            if engine.listener is not None and not said.packed:
                for line in _lines(said.text):
                    with engine.lock:
                        engine.listener(Note("printed", whose, at - engine.began, (line, said.channel)))
            write(whose, said)
        awaited, self.awaited = self.awaited, False
        return awaited


def write(whose: Whose, said: Said) -> None:
    """Write what a task said to where it belongs in this process. Nothing that goes wrong with that breaks a run."""
    try:
        if said.channel == LOG:
            _log(whose, said.packed)
        elif said.channel == WARNING:
            _warn(whose, said.packed)
        else:
            _print(sys.stdout if said.channel == STDOUT else sys.stderr, attributed(whose, said.text))
    except Exception:  # a stream that was closed, a user's class that does not unpickle, a handler that raises
        return


def attributed(whose: Whose, text: str) -> str:
    """Return text with its task before each line.

    >>> attributed(Whose("train", 12), "epoch 1\\nepoch 2\\n")
    '[train#12] epoch 1\\n[train#12] epoch 2\\n'
    """
    prefix = f"[{whose}] "
    text = "\n".join(_lines(text)) if "\r" in text else text.removesuffix("\n")
    return prefix + text.replace("\n", "\n" + prefix) + "\n"


def _lines(text: str) -> list[str]:
    # What overwrites itself, as progress bars do, is what it is at last.
    return [line.removesuffix("\r").rpartition("\r")[2] for line in text.removesuffix("\n").split("\n")]


def _print(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _log(whose: Whose, packed: bytes) -> None:
    record = logging.makeLogRecord(pickle.loads(packed))
    record.node = str(whose)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _warn(whose: Whose, packed: bytes) -> None:
    message, category, filename, lineno, module = pickle.loads(packed)
    if isinstance(message, Warning):
        message.add_note(f"in node {whose}")
    namespace = getattr(sys.modules.get(module or ""), "__dict__", _elsewhere)
    warnings.warn_explicit(
        message,
        category,
        filename,
        lineno,
        module=module,
        registry=namespace.setdefault("__warningregistry__", {}),  # so that it is shown as often as if raised here
    )


_elsewhere: dict[str, Any] = {}  # for the warnings of modules that this process does not have
