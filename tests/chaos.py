"""Kill real workers with SIGKILL in every phase of their work: `python -m tests.chaos --runs 200 --kills 10000`.

::

    starting ──► receiving ──► computing ──► sending ──► idle
        ✝            ✝             ✝            ✝          ✝

Every body leaves a line in a log, so that afterwards it is known what each victim was doing, what ran twice, and how
long it took until what the victim had in hand went on.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any, NamedTuple
from zlib import crc32

from tinygraph import Graph, Node, run
from tinygraph.executors.pool import pool

PHASES = ("starting", "receiving", "computing", "sending", "idle")
WORKERS = 2
_PACE = 0.1  # seconds between two kills, on average: now and then one strikes before the last was recovered from
_STARTS_IN_A_ROW = 8  # of ten in a row that die before they have begun anything the pool is given up, and rightly
_SPARED_AFTER = 2  # deaths of one task: at the third it would be given up, and rightly


class Line(NamedTuple):
    """What a body said: that it began to receive, compute or send."""

    what: str
    name: str
    pid: int
    at: float


def note(log: str, what: str, name: str) -> None:
    """Leave a line in the log: one write, so that lines of several processes never mix."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{what} {name} {os.getpid()} {monotonic()}\n".encode())
    os.close(descriptor)


def spin(seconds: float) -> None:
    """Compute for so long."""
    end = monotonic() + seconds
    while monotonic() < end:
        pass


class Cargo:
    """An argument that takes a while to arrive."""

    def __init__(self, log: str, name: str, size: int) -> None:
        self.log, self.name, self.size = log, name, size

    def __reduce__(self) -> tuple[Any, ...]:
        return arrived, (self.log, self.name, bytes(self.size))


def arrived(log: str, name: str, content: bytes) -> Cargo:
    note(log, "receiving", name)
    spin(0.005)
    return Cargo(log, name, len(content))


def digest(name: str, values: tuple[Any, ...]) -> int:
    """What a task gives: it depends on all that it got."""
    return crc32(repr((name, [v if type(v) is int else len(v) for v in values])).encode())


@Node
def compute(log: str, name: str, seconds: float, *values: Any) -> int:
    note(log, "computing", name)
    spin(seconds)
    return digest(name, values)


@Node
def receive(log: str, name: str, cargo: Any, *values: Any) -> int:
    note(log, "computing", name)
    return digest(name, (cargo.size, *values))


@Node
def send(log: str, name: str, size: int, *values: Any) -> bytes:
    note(log, "computing", name)
    content = bytes(size)
    note(log, "sending", name)
    return content


@dataclass(slots=True)
class Kill:
    """One death, as it was intended."""

    phase: str
    pid: int
    at: float
    tasks: list[str]  # what it had begun, and what it was sent
    victim: str = ""  # the task that it struck, found afterwards


@dataclass(slots=True)
class Figures:
    """What came of it."""

    runs: int = 0
    tasks: int = 0
    executions: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.runs += other.runs
        self.tasks += other.tasks
        self.executions += other.executions
        self.kills += other.kills
        self.recoveries += other.recoveries

    def quantile(self, share: float) -> float:
        """The recovery in milliseconds that so many are not above."""
        ordered = sorted(self.recoveries)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{self.kills[phase]:,} {phase}" for phase in PHASES)
        return (
            f"{self.runs} runs, {sum(self.kills.values()):,} kills ({kinds}): {self.tasks:,} tasks, "
            f"{self.executions - self.tasks:,} extra executions, recovery p50 {self.quantile(0.5):.0f} ms, "
            f"p99 {self.quantile(0.99):.0f} ms, longest {self.quantile(1):.0f} ms"
        )


class Killer:
    """A thread that watches the log and the pool, and kills until it has killed enough."""

    def __init__(self, seed: int, log: str, wanted: int, phases: tuple[str, ...]) -> None:
        self._phases = phases
        self._in_a_row = 0
        self.kills: list[Kill] = []
        self._random = random.Random(seed)
        self._log = open(log)  # noqa: SIM115
        self._wanted = wanted
        self._latest: dict[int, Line] = {}
        self._struck: Counter[str] = Counter()  # how often a task was struck; "" never is
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="killer")

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()
        self._log.close()

    def _work(self) -> None:
        # The sleeps spread the strikes over all moments of a phase; nothing is concluded from them.
        while not self._done.is_set() and len(self.kills) < self._wanted:
            phase = self._random.choice(self._phases)
            if phase == "starting" and self._in_a_row >= _STARTS_IN_A_ROW:
                continue
            patience = monotonic() + 0.05
            pid = self._find(phase)
            while pid is None and monotonic() < patience and not self._done.is_set():
                sleep(0.0005)
                pid = self._find(phase)
            if pid is None:
                continue
            sleep(self._random.random() * {"starting": 0.1, "sending": 0.05, "computing": 0.01}.get(phase, 0.003))
            tasks = members().get(pid)
            if tasks is not None and self._struck[tasks[0]] < _SPARED_AFTER:
                self._struck[tasks[0]] += bool(tasks[0])
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.kills.append(Kill(phase, pid, monotonic(), tasks))
                self._in_a_row = self._in_a_row + 1 if phase == "starting" else 0
                sleep(self._random.expovariate(1 / _PACE))

    def _read(self) -> dict[int, Line]:
        for line in parsed(self._log):
            self._latest[line.pid] = line
        return self._latest

    def _find(self, phase: str) -> int | None:
        latest, there = self._read(), members()
        dead = {kill.pid for kill in self.kills}
        for pid, tasks in there.items():
            line = latest.get(pid)
            now = "starting" if line is None else line.what if tasks[0] else "idle"
            if now == phase and pid not in dead and self._struck[tasks[0]] < _SPARED_AFTER:
                return pid
        return None


def parsed(file: Any) -> list[Line]:
    """Return the lines that came since the last time."""
    found = []
    while True:
        begin = file.tell()
        text = file.readline()
        if not text.endswith("\n"):  # none, or one that is being written
            file.seek(begin)
            return found
        what, name, pid, at = text.split()
        found.append(Line(what, name, int(pid), float(at)))


def members() -> dict[int, list[str]]:
    """The workers by process number: the task that each has begun ("" for none), and all that it was sent."""
    found = {}
    for hand in list(pool(WORKERS)._supervisor._hands.values()):
        try:
            running = hand.member.running()[0]
            names = {number: (task.call.args or ("", ""))[1] for number, task in list(hand.tasks.items())}
            found[hand.member.pid] = [names.get(running, ""), *names.values()]
        except (ValueError, RuntimeError):  # it is being buried
            continue
    return found


def plan(seed: int, log: str, tasks: int, size: int, big: int) -> tuple[Graph, list[int]]:
    """Record a random graph of all the kinds, and what each of its tasks must give."""
    rng = random.Random(seed)
    calls: list[Any] = []
    expected: list[int] = []
    sizes = {rng.randrange(tasks): big}
    for i in range(tasks):
        name = f"t{i}"
        needs = rng.sample(range(i), min(i, rng.randint(0, 2)))
        values = [calls[n] for n in needs]
        told = tuple(expected[n] for n in needs)
        kind = rng.choice(("compute", "compute", "quick", "receive", "send"))
        if kind == "send" or i in sizes:
            calls.append(send(log, name, sizes.get(i, size), *values))
            expected.append(sizes.get(i, size))
        elif kind == "receive":
            calls.append(receive(log, name, Cargo(log, name, size), *values))
            expected.append(digest(name, (size, *told)))
        else:
            calls.append(compute(log, name, 0.0002 if kind == "quick" else rng.uniform(0.002, 0.03), *values))
            expected.append(digest(name, told))
    # A byte string is told by its length, in what it is needed for and here.
    return Graph(*calls), expected


def one_run(seed: int, *, kills: int, tasks: int, size: int, big: int, phases: tuple[str, ...] = PHASES) -> Figures:
    """Run a graph while workers are killed, and check everything that is promised."""
    folder = tempfile.mkdtemp(prefix="chaos-")
    log = os.path.join(folder, "log")
    open(log, "w").close()
    try:
        graph, expected = plan(seed, log, tasks, size, big)
        with Killer(seed, log, kills, phases) as killer:
            result = run(graph, executor="processes", workers=WORKERS, on_error="continue")
        with open(log) as file:
            lines = parsed(file)
        return judged(seed, result, expected, lines, killer.kills)
    finally:
        os.unlink(log)
        os.rmdir(folder)


def judged(seed: int, result: Any, expected: list[int], lines: list[Line], kills: list[Kill]) -> Figures:
    """Check that nothing is lost or wrong and no innocent ran twice, and measure the recoveries."""
    assert not result.failures, f"seed {seed}: {result.failures}"
    given = [value if type(value) is int else len(value) for value in result.value]
    assert given == expected, f"seed {seed}: wrong values"
    last = {line.pid: line for line in lines}
    for kill in kills:
        kill.victim = last[kill.pid].name if kill.pid in last else ""
    own = Counter(kill.victim for kill in kills)
    executions = Counter(line.name for line in lines if line.what == "computing")
    for i in range(len(expected)):
        times, deaths = executions[f"t{i}"], own[f"t{i}"]
        assert 1 <= times <= 1 + deaths, f"seed {seed}: t{i} ran {times} times with {deaths} deaths of its own"
    figures = Figures(1, len(expected), executions.total(), Counter(kill.phase for kill in kills))
    figures.recoveries = [seconds for kill in kills if (seconds := recovery(kill, kills, lines)) is not None]
    return figures


def recovery(kill: Kill, kills: list[Kill], lines: list[Line]) -> float | None:
    """Seconds from a kill until what the victim had in hand went on elsewhere; None if nothing had to."""
    seen = {line.pid for line in lines}
    for names in ({kill.victim}, set(kill.tasks)):  # of what it had begun nothing may be left to do
        again = [line.at for line in lines if line.name in names and line.pid != kill.pid and line.at > kill.at]
        if again:
            # Whose replacement is killed as it starts has to wait for the next one: that is a recovery of its own.
            later = [other.at for other in kills if kill.at < other.at <= min(again) and other.pid not in seen]
            return min(again) - max(later, default=kill.at)
    return None


def main() -> None:
    """Run for as long as asked for and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10_000, help="in all runs together")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--size", type=int, default=4 << 20, help="bytes of an ordinary value that is sent")
    parser.add_argument("--big", type=int, default=200 << 20, help="bytes of the biggest one")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    figures = Figures()
    for seed in range(given.seed, given.seed + given.runs):
        wanted = -(-(given.kills - figures.kills.total()) // (given.seed + given.runs - seed))
        figures.add(one_run(seed, kills=wanted, tasks=given.tasks, size=given.size, big=given.big))
        print(f"seed {seed}: {figures}", file=sys.stderr if seed % 10 else sys.stdout, flush=True)
    print(f"{figures}; the floor: an interpreter that does nothing took {1e3 * bare_start():.0f} ms to start and end")


def bare_start() -> float:
    """Seconds that Python takes for nothing on this machine now: what a new worker cannot be quicker than."""
    seconds = []
    for _ in range(20):
        began = monotonic()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        seconds.append(monotonic() - began)
    return sorted(seconds)[10]


if __name__ == "__main__":
    # Under its own name: workers find the nodes by it.
    from tests import chaos

    chaos.main()
