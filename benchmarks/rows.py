"""The rows of the table: what is measured, beside which floor, and what was promised.

A row is a function that yields lines. What it measures is a cell: a function that runs in a process of its own.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import floors
import peers
import shapes
from measure import (
    FLOOR,
    OURS,
    CellFailed,
    Line,
    Promise,
    Samples,
    Side,
    apart,
    bytes_of,
    in_turns,
    peak_resident,
    scaled,
)
from shapes import Shape, Task

import tinygraph
from tinygraph import Graph, Node

US, MS = 1e6, 1e3


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure: everything, or a tenth of it, once, to see that it works."""

    quick: bool
    peers: list[str]

    def size(self, n: int) -> int:
        """Return how many tasks to take where the table says `n`."""
        return n // 10 if self.quick else n

    def repeats(self, n: int) -> int:
        """Return how many pairs to measure where `n` are enough."""
        return 1 if self.quick else n

    def peers_for(self, kind: str, n: int) -> list[str]:
        """Return the peers that can do this sort of thing with so many tasks."""
        found = [(name, peers.PEERS[name]) for name in self.peers]
        return [
            name
            for name, peer in found
            if n <= peer.at_most and (peer.records if kind == "record" else kind in peer.kinds)
        ]


# The same shapes, recorded by tinygraph.

src, add = Node(shapes.src), Node(shapes.add)
_NODES: dict[Callable[..., Any], Callable[..., Any]] = {shapes.src: src, shapes.add: add}


def node_of(task: Task) -> Callable[..., Any]:
    """Return the node of a task."""
    return _NODES[task[0]]


def measured(line: Line, by: float, cell: Callable[..., Samples], *args: Any) -> Line:
    """Return a line with the figures of a cell, times `by`; one that cannot be measured says so, and others go on."""
    try:
        return replace(line, samples=scaled(apart(cell, *args), by))
    except CellFailed as error:
        return replace(line, failure=str(error))


def ours(shape: Shape, node: Callable[[Task], Callable[..., Any]] = node_of, **options: Any) -> Callable[[], Any]:
    """Return what runs a shape once and gives the values of its sinks; recorded here, and held by nobody else."""
    futures = shapes.record(shape, node)
    graph = Graph(*[futures[i] for i in shapes.sinks(shape)])

    def run() -> list[Any]:
        value = graph.run(**options).value
        return list(value) if len(graph.targets) > 1 else [value]

    return run


def floor(shape: Shape, submit: floors.Submit) -> Callable[[], Any]:
    """Return what runs a shape once on the bare dispatcher."""
    wanted = shapes.sinks(shape)

    def run() -> list[Any]:
        values = floors.dispatch(submit, shape)
        return [values[i] for i in wanted]

    return run


# record


def record(scale: Scale) -> Iterator[Line]:
    """Recording 100,000 calls: seconds, and bytes that they occupy until they run."""
    n = scale.size(100_000)
    names = scale.peers_for("record", n)
    what = f"record {n:,} calls"
    line = Line(what, "us", Promise(1.5, 0.3), "bare tuples")
    yield measured(line, US / n, record_seconds, n, scale.repeats(5), names)
    sizes = {side: [apart(record_bytes, side, n) for _ in range(scale.repeats(3))] for side in (OURS, FLOOR, *names)}
    yield Line(what, "B", Promise(350, 72), "bare tuples", sizes)


def recorder(side: str) -> Callable[[Shape], Any]:
    """Return how a side records a shape."""
    if side == OURS:
        return lambda shape: shapes.record(shape, node_of)
    if side == FLOOR:
        return lambda shape: [(function, literals, needs) for function, literals, needs in shape]
    return peers.PEERS[side]().build


def record_seconds(n: int, repeats: int, names: list[str]) -> Samples:
    """Cell: record a shape that is there already."""

    def side(name: str) -> Side:
        build = recorder(name)

        def prepare() -> Callable[[], Any]:
            shape = list(shapes.layered(n))
            return lambda: build(shape)

        return prepare

    return in_turns({name: side(name) for name in (OURS, FLOOR, *names)}, lambda made: True, repeats)


def record_bytes(side: str, n: int) -> float:
    """Cell: the bytes of one recorded call."""
    build = recorder(side)
    build(list(shapes.layered(1_000)))
    shape = list(shapes.layered(n))
    return bytes_of(lambda: build(shape)) / n


# inline, threads, processes: the layered shape


def inline(scale: Scale) -> Iterator[Line]:
    """Running in the thread that resolves: what the engine itself costs."""
    for full, promised, then in ((10_000, 4.0, 5.9), (100_000, 4.0, 6.8), (1_000_000, 6.0, 6.8)):
        n = scale.size(full)
        line = Line(f"inline, {n:,} tasks", "us", Promise(promised, then), "graphlib loop")
        repeats = scale.repeats(3 if full > 100_000 else 5)
        yield measured(line, US / n, run_layered, "inline", n, repeats, scale.peers_for("inline", n))


def threads(scale: Scale) -> Iterator[Line]:
    """Running on two threads."""
    n = scale.size(10_000)
    line = Line(f"threads, {n:,} tasks", "us", Promise(6.0, 9.9), "bare thread pool")
    yield measured(line, US / n, run_layered, "threads", n, scale.repeats(5), scale.peers_for("threads", n))


def processes(scale: Scale) -> Iterator[Line]:
    """Running tasks that do nothing on two processes: what it costs to send them."""
    n = scale.size(10_000)
    what = f"processes, {n:,} no-op tasks"
    line = Line(what, "us", Promise(10.0, 90.0), "bare process pool")
    yield measured(line, US / n, run_layered, "processes", n, scale.repeats(3), scale.peers_for("processes", n))
    for batch, then in ((1, 17.0), (16, 7.6)):
        line = Line(what, "us", Promise(10.0, then), "bare pipes" + (f", {batch} at a time" if batch > 1 else ""))
        yield measured(line, US / n, run_by_pipes, n, scale.repeats(3), batch)


def run_layered(kind: str, n: int, repeats: int, names: list[str]) -> Samples:
    """Cell: run the layered shape on two workers of a kind."""
    expected = shapes.layered_values(n)
    workers = 2

    def fresh() -> Shape:
        return list(shapes.layered(n))

    with ExitStack() as stack:
        submit: floors.Submit = floors.submit_here
        if kind == "threads":
            submit = stack.enter_context(warm(ThreadPoolExecutor(workers))).submit
        elif kind == "processes":
            submit = stack.enter_context(warm(ProcessPoolExecutor(workers))).submit
            layered_leaves_the_driver(n, workers)
        sides: dict[str, Side] = {
            OURS: lambda: ours(fresh(), executor=kind, workers=workers),
            FLOOR: lambda: floor(fresh(), submit),
        }
        for name in names:
            peer = peers.PEERS[name]()
            peer.start(kind, workers)
            stack.callback(peer.stop)
            sides[name] = lambda peer=peer: peers.wanted_values(peer, fresh())  # type: ignore[misc]
        # A million tasks are long enough to be warm after the first few.
        return in_turns(sides, lambda values: values == expected, repeats, warm=n < 1_000_000)


def run_by_pipes(n: int, repeats: int, batch: int) -> Samples:
    """Cell: the layered shape on two processes, beside bare pipes."""
    expected = shapes.layered_values(n)
    layered_leaves_the_driver(n, 2)
    with floors.pipes(2) as ends:

        def bare() -> Callable[[], Any]:
            shape = list(shapes.layered(n))
            return lambda: floors.dispatch_by_pipes(ends, shape, batch)[-shapes.WIDTH :]

        sides: dict[str, Side] = {
            OURS: lambda: ours(list(shapes.layered(n)), executor="processes", workers=2),
            FLOOR: bare,
        }
        return in_turns(sides, lambda values: values == expected, repeats)


def warm(pool: Any) -> Any:
    """Return a pool all of whose workers have started."""
    for job in [pool.submit(shapes.nap, 0.05) for _ in range(2 * pool._max_workers)]:
        job.result()
    return pool


_ran_here = 0


def watched(a, b):  # type: ignore[no-untyped-def]
    """Do what `add` does, and count how often this process did it."""
    global _ran_here
    _ran_here += 1
    return (a + b) % 1009


def leave_the_driver(resolve: Callable[[Callable[..., Any]], Any]) -> None:
    """Refuse to measure processes whose tasks run here: `resolve` runs what is measured with the node it is given."""
    before = _ran_here
    resolve(Node(watched))
    if _ran_here > before:
        raise RuntimeError(f"{_ran_here - before} tasks ran in the driver and not in worker processes")


def layered_leaves_the_driver(n: int, workers: int) -> None:
    """Refuse to measure processes if tasks of the layered shape run here."""
    nodes = {shapes.src: src}
    leave_the_driver(
        lambda node: ours(
            list(shapes.layered(n)), lambda task: nodes.get(task[0], node), executor="processes", workers=workers
        )()
    )


# a-to-g


def a_to_g(scale: Scale) -> Iterator[Line]:
    """The diamond of the tour on four threads: four steps deep, so four steps long."""
    step = 0.02 if scale.quick else 0.2
    line = Line(f"A to G, steps of {step:g} s, 4 workers", "makespan / 4 steps", Promise(1.01, 1.0), "bare thread pool")
    yield measured(line, 1 / (4 * step), makespan, step, scale.repeats(5))


def makespan(step: float, repeats: int) -> Samples:
    """Cell: seconds from the start to G."""
    nap = Node(shapes.nap)
    shape = shapes.a_to_g(step)
    with warm(ThreadPoolExecutor(4)) as pool:
        sides: dict[str, Side] = {
            OURS: lambda: ours(shape, lambda task: nap, executor="threads", workers=4),
            FLOOR: lambda: floor(shape, pool.submit),
        }
        return in_turns(sides, lambda values: values == [step], repeats)


# import


def imports(scale: Scale) -> Iterator[Line]:
    """`import tinygraph` beyond what a bare Python takes: the quickest of several, as everything else is noise."""
    # Without `site`, because what it imports by itself differs from one environment to the next (an editable install
    # brings pathlib and re) and would be missing from the figure.
    folders = [str(Path(tinygraph.__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    programs = {"bare": "", OURS: "import tinygraph", FLOOR: "import concurrent.futures.process"}
    programs |= {name: f"import {peers.PEERS[name].module}" for name in scale.peers}
    seconds: Samples = {name: [] for name in programs}
    with TemporaryDirectory() as folder:
        # As after the first import of an installed package: compiled, whatever this environment says.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(4 if scale.quick else 20):
            for name, program in programs.items():
                command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {folders}; {program}"]
                began = time.perf_counter()
                subprocess.run(command, check=True, env=environment)
                seconds[name].append(time.perf_counter() - began)
    # The first of each compiles.
    quickest = {name: min(figures[1:]) for name, figures in seconds.items()}
    samples = {name: [(quickest[name] - quickest["bare"]) * MS] for name in programs if name != "bare"}
    yield Line("import tinygraph", "ms", Promise(25.0, 33.0), "concurrent.futures, its process pool", samples)


# dags


def dags(scale: Scale) -> Iterator[Line]:
    """The quality of schedules: random DAGs on four threads, against what no schedule can beat."""
    seeds, repeats = (1, 1) if scale.quick else (5, 3)
    for known, promise in ((True, Promise(1.02, 1.01)), (False, Promise(1.04, 1.04))):
        how = "given costs" if known else "hops only"
        floor_is = "bare list scheduling, " + ("known durations" if known else "hops")
        line = Line(f"random DAGs, {how}, 4 workers", "makespan / max(span, work / 4)", promise, floor_is)
        yield measured(line, 1.0, over_lower_bound, known, seeds, repeats)


def over_lower_bound(known: bool, seeds: int, repeats: int) -> Samples:
    """Cell: makespans as multiples of the lower bound; one figure for each repeat, the mean over the DAGs."""
    plain = Node(shapes.nap)
    by_seed: list[Samples] = []
    with warm(ThreadPoolExecutor(4)) as pool:
        for seed in range(seeds):
            shape = shapes.random_dag(seed)
            expected = [shapes.seconds_of(shape[i]) for i in shapes.sinks(shape)]
            levels = shapes.bottom_levels(shape, shapes.seconds_of if known else lambda task: 1.0)

            def node(task: Task) -> Callable[..., Any]:
                return plain.options(cost=shapes.seconds_of(task)) if known else plain

            def bare(shape: Shape = shape, levels: list[float] = levels) -> Callable[[], Any]:
                def run() -> list[Any]:
                    values = floors.dispatch_by_priority(pool.submit, shape, levels, 4)
                    return [values[i] for i in shapes.sinks(shape)]

                return run

            sides: dict[str, Side] = {
                OURS: lambda shape=shape: ours(shape, node, executor="threads", workers=4),  # type: ignore[misc]
                FLOOR: bare,
            }
            seconds = in_turns(sides, lambda values, expected=expected: values == expected, repeats, warm=seed == 0)  # type: ignore[misc]
            by_seed.append(scaled(seconds, 1 / shapes.lower_bound(shape, 4)))
    return {side: [mean(figures) for figures in zip(*[s[side] for s in by_seed], strict=True)] for side in by_seed[0]}


# nested


def fib_by(plus: Callable[..., Any]) -> Callable[..., Any]:
    """Return a node that computes Fibonacci numbers by calling itself, and another node to add."""

    @Node
    def fib(n):  # type: ignore[no-untyped-def]
        if n < 2:
            return n
        return plus(fib(n - 1), fib(n - 2))

    return fib


fib = fib_by(add)


def plain_fib(n: int) -> int:
    """Return the n-th Fibonacci number by plain calls."""
    return n if n < 2 else plain_fib(n - 1) + plain_fib(n - 2)


def fib_calls(n: int) -> int:
    """Return how often `fib` is called for n."""
    return 1 if n < 2 else 1 + fib_calls(n - 1) + fib_calls(n - 2)


def nested(scale: Scale) -> Iterator[Line]:
    """Nodes that call nodes: fib(15). The time is divided by its 1,973 calls of fib; 986 additions come on top."""
    n = 10 if scale.quick else 15
    for kind, workers, promise in (
        ("inline", 1, Promise(20.0)),
        ("threads", 1, None),
        ("threads", 2, None),
        ("threads", 4, None),
        ("processes", 1, Promise(60.0)),
        ("processes", 2, Promise(60.0)),
        ("processes", 4, Promise(60.0)),
    ):
        where = "" if kind == "inline" else f", {workers} worker" + "s" * (workers > 1)
        line = Line(f"nested, fib({n}), {kind}{where}", "us", promise, "plain recursion")
        repeats = scale.repeats(3 if kind == "processes" else 5)
        yield measured(line, US / fib_calls(n), run_fib, n, kind, workers, repeats)


def run_fib(n: int, kind: str, workers: int, repeats: int) -> Samples:
    """Cell: seconds from the one recorded call to its value."""
    if kind == "processes":
        leave_the_driver(lambda plus: fib_by(plus)(n).resolve(executor=kind, workers=workers))

    def one_call() -> Callable[[], Any]:
        future = fib(n)
        return lambda: future.resolve(executor=kind, workers=workers)

    return in_turns(
        {OURS: one_call, FLOOR: lambda: lambda: plain_fib(n)},
        lambda value: value == plain_fib(n),
        repeats,
    )


# million


def million(scale: Scale) -> Iterator[Line]:
    """A million nodes recorded and run inline, from the first call to the values, and the most memory it ever took."""
    n = scale.size(1_000_000)
    runs: dict[str, list[list[float]]] = {OURS: [], FLOOR: []}
    for _ in range(scale.repeats(3)):
        for side, figures in runs.items():
            figures.append(apart(record_and_run, side, n))
    seconds = {side: [figure[0] for figure in figures] for side, figures in runs.items()}
    memory = {side: [figure[1] / 1e9 for figure in figures] for side, figures in runs.items()}
    what, floor_is = f"{n:,} nodes recorded and run inline", "tuples, graphlib loop"
    yield Line(what, "s", Promise(10.0), floor_is, seconds)
    yield Line(what, "GB at the peak", Promise(1.0), floor_is, memory)


def record_and_run(side: str, n: int) -> list[float]:
    """Cell: seconds and peak bytes of everything that a program needs for it, its interpreter included."""
    began = time.perf_counter()
    if side == OURS:
        # As a user writes it: only the last layer is held.
        row = [src(i) for i in range(shapes.WIDTH)]
        for _ in range(n // shapes.WIDTH - 1):
            row = [add(row[c], row[(c + 1) % shapes.WIDTH]) for c in range(shapes.WIDTH)]
        values = list(Graph(*row).run(executor="inline").value)
    else:
        values = floors.dispatch(floors.submit_here, list(shapes.layered(n)))[-shapes.WIDTH :]
    seconds = time.perf_counter() - began
    peak = peak_resident()
    if values != shapes.layered_values(n):
        raise ValueError(f"{side}: a wrong result")
    return [seconds, float(peak)]


# cached


def cached(scale: Scale) -> Iterator[Line]:
    """A run of which everything is kept, the run before that keeps it, and what the key of a large array costs."""
    n, repeats = scale.size(1_000), scale.repeats(9)
    found, filled = apart(run_cached, n, repeats)
    line = Line(f"all cached, {n:,} tasks inline", "us a task", Promise(15.0, 3.35), "bare SQLite")
    yield replace(line, samples=scaled(found, US / n))
    line = Line(f"first fill beyond the inline run, {n:,} tasks", "us a task", Promise(60.0, 10.1), "bare SQLite")
    yield replace(line, samples=scaled(filled, US / n))
    line = Line("the key of a 100 MB array (blake3)", "ms", None, "the array copied")
    yield measured(line, MS, key_of_an_array, scale.size(100_000_000), repeats)


def run_cached(n: int, repeats: int) -> tuple[Samples, Samples]:
    """Cell: seconds of a run that finds everything, and of the one that kept it less those of one without a store."""
    shape = list(shapes.layered(n))
    expected = shapes.layered_values(n)
    found: Samples = {OURS: [], FLOOR: []}
    filled: Samples = {OURS: [], FLOOR: []}

    def seconds_of(run: Callable[[], Any]) -> float:
        gc.collect()
        began = time.perf_counter()
        values = run()
        took = time.perf_counter() - began
        if values != expected:
            raise ValueError("a wrong result")
        return took

    for turn in range(-1, repeats):
        with TemporaryDirectory() as folder:
            plain = seconds_of(ours(shape, executor="inline"))
            first = seconds_of(ours(shape, executor="inline", store=f"{folder}/store"))
            again = seconds_of(ours(shape, executor="inline", store=f"{folder}/store"))
            with floors.remembering(f"{folder}/floor.sqlite") as submit:
                bare_first = seconds_of(floor(shape, submit))
            with floors.remembering(f"{folder}/floor.sqlite") as submit:
                bare_again = seconds_of(floor(shape, submit))
        if turn >= 0:
            found[OURS].append(again)
            found[FLOOR].append(bare_again)
            filled[OURS].append(first - plain)
            filled[FLOOR].append(bare_first)
    return found, filled


def key_of_an_array(size: int, repeats: int) -> Samples:
    """Cell: seconds for the token of an array, beside a copy of it."""
    import numpy as np

    from tinygraph.keys.canonical import token

    array = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    sides: dict[str, Side] = {OURS: lambda: lambda: len(token(array)), FLOOR: lambda: lambda: len(array.copy())}
    return in_turns(sides, lambda length: length in (21, size), repeats)


ROWS: dict[str, Callable[[Scale], Iterator[Line]]] = {
    "record": record,
    "inline": inline,
    "threads": threads,
    "processes": processes,
    "a-to-g": a_to_g,
    "import": imports,
    "dags": dags,
    "nested": nested,
    "million": million,
    "cached": cached,
}
