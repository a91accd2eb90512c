"""History: what happened in each run, as one readable file a run.

::

    runs/20261120-173305-4f2a.jsonl
        {"format": 1, "id": ..., "when": ..., "options": ..., "code": ..., "pid": ..., "program": ...}
        {"task": 0, "name": "load", "state": "finished", ...}       a line a call, in the order in which they ended
        {"end": "finished", "ended": ..., "error": ""}

The program that writes it holds a lock on it for as long as it lives. So a file without an end tells by itself whether
its run goes on or was interrupted; and a line that was torn by the end of the program is no line. Whoever reads it
imports nothing of the user's, and unpickles nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from json.encoder import encode_basestring_ascii as quoted
from time import monotonic, time
from typing import Any

from tinygraph.errors import UnknownRun
from tinygraph.store import disk
from tinygraph.store.seal import trust

FORMAT = 1
RUNNING, INTERRUPTED = "running", "interrupted"

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
_SUFFIX = ".jsonl"
_PAUSE = 0.2  # seconds between two writes: what a program that is killed may not have told
_LONGEST = 16_000  # letters of what a call printed, or of an error: the end is where people look
_TAIL = 1 << 17  # bytes in which the last line is looked for
_SHOWN = 60  # rows of a table


class RunWriter:
    """Writes the history of one run, in batches. Only the process that made it may use it, from any thread.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/runs"
    >>> writer = RunWriter(folder, options={"workers": "2"})
    >>> writer.task(0, "load", "shop:load", "finished", 0.5, why="never ran", inputs=[("path", "'a.csv'")])
    >>> writer.close("finished")
    >>> [(task.name, task.why) for task in run(folder, writer.id).tasks]
    [('load', 'never ran')]
    """

    def __init__(
        self,
        folder: str,
        *,
        options: Mapping[str, Any] | None = None,
        code: Mapping[str, str] | None = None,
        program: str | None = None,
        durable: bool = False,
    ) -> None:
        trust(folder)
        self.when = time()
        self.path, self._fd = _made(folder, self.when)
        self.id = os.path.basename(self.path).removesuffix(_SUFFIX)
        disk.lock(self._fd, alone=True, wait=1.0)  # a reader may hold it for a moment
        self._durable = durable
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._torn = False
        self._told = False
        self._known: dict[tuple[str, str, str], str] = {}
        self._due = 0.0
        head = {
            "format": FORMAT,
            "id": self.id,
            "when": self.when,
            "options": {name: _plain(value) for name, value in (options or {}).items()},
            "code": dict(code or {}),
            "pid": os.getpid(),
            "program": _program() if program is None else program,
        }
        self._lines.append(json.dumps(head) + "\n")
        self.flush(force=True)

    def task(
        self,
        id: int,
        name: str,
        node: str,
        state: str,
        duration: float,
        *,
        attempts: int = 1,
        worker: int = 0,
        why: str = "",
        inputs: Iterable[tuple[str, str]] = (),
        output: str = "",
        captured: str = "",
        error: str = "",
        key: str = "",
    ) -> None:
        """Tell of one call: how it ended, how long its body took, why it ran, what it got and gave.

        ``inputs``: each parameter with the digest of its value, or the value itself where it is short. ``key`` and
        ``output``: hexadecimal. ``worker``: the number of the process or thread, 0 where none was needed.
        """
        known = self._known.get((name, node, state))
        if known is None:
            known = f'"name": {quoted(name)}, "node": {quoted(node)}, "state": {quoted(state)}'
            self._known[name, node, state] = known
        # By hand, because a run may have a million calls: a third of what the library takes.
        line = f'{{"task": {id:d}, {known}, "duration": {duration if 0.0 < duration < 1e9 else 0.0:.7g}'
        if attempts != 1:
            line += f', "attempts": {attempts:d}'
        if worker:
            line += f', "worker": {worker:d}'
        if why:
            line += f', "why": {quoted(why)}'
        if inputs:
            line += f', "inputs": [{", ".join([f"[{quoted(one)}, {quoted(value)}]" for one, value in inputs])}]'
        if output:
            line += f', "output": {quoted(output)}'
        if captured:
            line += f', "captured": {quoted(_bounded(captured))}'
        if error:
            line += f', "error": {quoted(_bounded(error))}'
        if key:
            line += f', "key": {quoted(key)}'
        self._lines.append(line + "}\n")
        if monotonic() >= self._due:
            self.flush()

    def printed(self, id: int, text: str) -> None:
        """Tell what a call printed: before or after it is told how it ended."""
        self._lines.append(f'{{"printed": {id:d}, "text": {quoted(_bounded(text))}}}\n')

    def code(self, node: str, digest: str) -> None:
        """Tell which code a node had in this run."""
        self._lines.append(f'{{"code": {{{quoted(node)}: {quoted(digest)}}}}}\n')

    def flush(self, *, force: bool = False) -> None:
        """Write what was told, unless that was done a moment ago.

        A disk that takes no more is warned of once: the run itself goes on.
        """
        with self._lock:
            now = monotonic()
            if self._fd < 0 or not (force or now >= self._due):
                return
            self._due = now + _PAUSE
            lines, self._lines = self._lines, []
            if not lines:
                return
            try:
                # Whatever was torn before ends here: a line that is none, and is passed over.
                disk.write(self._fd, ("\n" * self._torn + "".join(lines)).encode())
                self._torn = False
            except OSError as error:
                self._torn = True
                if not self._told:
                    self._told = True
                    said = f"the history of this run, {self.path!r}, is not complete: {error}"
                    warnings.warn(said, RuntimeWarning, stacklevel=2)

    def close(self, state: str, error: str = "") -> None:
        """Tell how the run ended. From here on nothing is written any more."""
        end = {"end": state, "ended": time(), "error": _bounded(error)}
        self._lines.append(json.dumps(end) + "\n")
        self.flush(force=True)
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                try:
                    if self._durable:
                        disk.sync(fd)
                finally:
                    disk.close(fd)


def _made(folder: str, when: float) -> tuple[str, int]:
    """Make the file of a new run. Its name says when, so that sorting names sorts runs."""
    second = datetime.fromtimestamp(when, UTC).strftime("%Y%m%d-%H%M%S")
    part = int(when % 1 * 0x10000)
    while True:
        path = os.path.join(folder, f"{second}-{part:04x}{_SUFFIX}")
        try:
            return path, disk.make(path)
        except FileExistsError:  # another program began at the same moment
            part += 1
            if part > 0xFFFF:
                return _made(folder, float(int(when) + 1))


def _program() -> str:
    main = sys.modules.get("__main__")
    return getattr(main, "__file__", None) or sys.executable or ""


def _plain(value: Any) -> Any:
    """Return an option as JSON can say it: as itself, or as Python shows it."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and value - value == 0.0:
        return value
    try:
        return repr(value)
    except Exception:  # a user's class
        return object.__repr__(value)


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST else f"... {len(text) - _LONGEST} letters before\n{text[-_LONGEST:]}"


# Reading


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One call of a run, as its history tells."""

    id: int
    name: str
    node: str  # where its function is defined, as module:name
    state: str
    duration: float  # seconds that its body took
    attempts: int
    worker: int  # the process or thread; 0 for what needed none
    why: str  # "hit", or why it had to run
    inputs: tuple[tuple[str, str], ...]  # each parameter with a digest, or with the value where it is short
    output: str  # the digest of what it returned
    captured: str  # what it printed
    error: str
    key: str  # under which its value is kept


@dataclass(frozen=True)
class RunRecord:
    """One run of a store. Its `tasks` and its `code` are read when they are asked for; ``print(record)`` shows all.

    ``state``: how it ended, ``"running"``, or ``"interrupted"`` for a program that was killed. ``seconds``: how long it
    took, or has taken until now.
    """

    id: str
    when: float
    state: str
    seconds: float
    options: dict[str, Any] = field(hash=False)
    error: str
    program: str
    pid: int
    path: str = field(repr=False)

    @cached_property
    def tasks(self) -> tuple[TaskRecord, ...]:
        """The calls in the order in which they ended; one that ran again after it was found damaged counts once."""
        found: dict[int, TaskRecord] = {}
        printed: dict[int, list[str]] = {}
        for line in self._lines:
            if type(line.get("task")) is int:
                found[line["task"]] = _task(line)
            elif type(line.get("printed")) is int:
                printed.setdefault(line["printed"], []).append(str(line.get("text", "")))
        for id, lines in printed.items():
            if id in found:
                found[id] = replace(found[id], captured=_bounded("\n".join(lines)))
        return tuple(found.values())

    @cached_property
    def code(self) -> dict[str, str]:
        """The digest of the code of each node."""
        found: dict[str, str] = {}
        for line in self._lines:
            part = line.get("code")
            if isinstance(part, dict):
                found.update({str(node): str(digest) for node, digest in part.items()})
        return found

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        fd = disk.open_to_read(self.path)
        try:
            content = disk.read(fd, disk.status(fd).st_size, 0)
        finally:
            disk.close(fd)
        found = [_parsed(line) for line in content.split(b"\n")[:-1]]
        return [line for line in found if line is not None]

    def __str__(self) -> str:
        return _table(self)


def runs(folder: str) -> list[RunRecord]:
    """Return the runs whose history lies in a folder, oldest first."""
    found = [_record(os.path.join(folder, f"{id}{_SUFFIX}"), id) for id in _ids(folder)]
    return [one for one in found if one is not None]


def run(folder: str, id: str) -> RunRecord:
    """Return one run; raises :class:`UnknownRun`, which names the ids that are most like the one that was asked for."""
    if _ID.fullmatch(str(id)):  # only what looks like an id ever becomes a path
        found = _record(os.path.join(folder, f"{id}{_SUFFIX}"), id)
        if found is not None:
            return found
    raise UnknownRun(_unknown(folder, id))


def _ids(folder: str) -> list[str]:
    names = disk.names(folder)
    return [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX) and _ID.fullmatch(name[:-6])]


def _unknown(folder: str, id: Any) -> str:
    from difflib import get_close_matches

    known = _ids(folder)
    near = get_close_matches(str(id)[:100], known, n=3, cutoff=0.5)
    begun = [one for one in known if str(id) and one.startswith(str(id)[:100])][-3:]
    said = f"there is no run {str(id)[:100]!r} in {folder!r}"
    if not known:
        return f"{said}, nor any other"
    if begun or near:
        return f"{said}; did you mean {' or '.join(begun or near)}?"
    return f"{said}; the last one is {known[-1]}"


def _record(path: str, id: str) -> RunRecord | None:
    """Return a run without its tasks; None for one that is gone, or died before its first line."""
    try:
        fd = disk.open_to_read(path)
    except OSError:
        return None
    try:
        # Before it is read: a run that ends in between has its end in the file.
        alive = not disk.lock(fd, alone=False)
        status = disk.status(fd)
        size = status.st_size
        start = disk.read(fd, min(size, _TAIL), 0)
        rest = start if size <= _TAIL else disk.read(fd, _TAIL, size - _TAIL)
    finally:
        disk.close(fd)
    head = _parsed(start.partition(b"\n")[0]) if b"\n" in start else None
    if head is None or head.get("format") != FORMAT:
        return None
    when = _float(head.get("when"))
    last = _parsed(rest.rpartition(b"\n")[0].rpartition(b"\n")[2])
    end = last if last is not None and "end" in last else None
    if end is not None:
        state, ended = str(end["end"]), _float(end.get("ended"))
    elif alive:
        state, ended = RUNNING, time()
    else:
        state, ended = INTERRUPTED, status.st_mtime
    options = head.get("options")
    return RunRecord(
        id=id,
        when=when,
        state=state,
        seconds=max(0.0, ended - when),
        options=options if isinstance(options, dict) else {},
        error="" if end is None else str(end.get("error", "")),
        program=str(head.get("program", "")),
        pid=int(_float(head.get("pid"))),
        path=path,
    )


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # torn, or spoilt: what the other lines tell still holds
        return None
    return found if isinstance(found, dict) else None


def _task(line: dict[str, Any]) -> TaskRecord:
    inputs = line.get("inputs")
    pairs = [one for one in inputs if isinstance(one, list) and len(one) == 2] if isinstance(inputs, list) else []
    return TaskRecord(
        id=line["task"],
        name=str(line.get("name", "")),
        node=str(line.get("node", "")),
        state=str(line.get("state", "")),
        duration=_float(line.get("duration")),
        attempts=int(_float(line.get("attempts", 1))),
        worker=int(_float(line.get("worker"))),
        why=str(line.get("why", "")),
        inputs=tuple([(str(name), str(value)) for name, value in pairs]),
        output=str(line.get("output", "")),
        captured=str(line.get("captured", "")),
        error=str(line.get("error", "")),
        key=str(line.get("key", "")),
    )


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e18 else 0.0


# Showing


def _table(record: RunRecord) -> str:
    tasks = record.tasks
    hits = sum(task.why == "hit" for task in tasks)
    failed = sum(task.state == "failed" for task in tasks)
    counts = {"ran": len(tasks) - hits, "hit" if hits == 1 else "hits": hits, "failed": failed}
    began = datetime.fromtimestamp(record.when).strftime("%Y-%m-%d %H:%M:%S")
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "no calls"
    lines = [f"run {record.id}: {record.state}, {_seconds(record.seconds)}, began {began}: {told}"]
    if record.error:
        lines.append(f"  {_shown(record.error.splitlines()[0], 110)}")
    rows = _rows_of(tasks)
    if rows:
        head = ("id", "task", "state", "seconds", "worker", "why")
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        for row in [head, *rows]:
            cells = [
                cell.rjust(w) if i in (0, 3, 4) else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
    if len(tasks) > len(rows):
        lines.append(f"  ... and {len(tasks) - len(rows):,} more")
    return "\n".join(lines)


def _rows_of(tasks: tuple[TaskRecord, ...]) -> list[tuple[str, ...]]:
    """Return the rows of a table: all calls, or as many as anybody reads, those that failed in any case."""
    shown = tasks
    if len(tasks) > _SHOWN:
        failed = [task for task in tasks if task.state == "failed"][:_SHOWN]
        others = [task for task in tasks if task.state != "failed"][: _SHOWN - len(failed)]
        chosen = {task.id for task in [*failed, *others]}
        shown = tuple([task for task in tasks if task.id in chosen])
    return [
        (
            str(task.id),
            _shown(task.name, 40),
            task.state if task.attempts < 2 else f"{task.state} at attempt {task.attempts}",
            "" if task.why == "hit" else f"{task.duration:.3f}",
            str(task.worker or ""),
            _shown(task.error.splitlines()[0] if task.error else task.why, 80),
        )
        for task in shown
    ]


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _shown(text: str, most: int) -> str:
    """Return a text on one line, without what a terminal would act upon."""
    clean = "".join([one if one.isprintable() else ascii(one)[1:-1] for one in text[: most + 1]])
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."
