"""The graphs that are measured, as plain data that tinygraph, the floors and the peers all build from.

A shape is a list of (function, literal arguments, indices of the dependencies); dependencies come first. Task `i`
calls ``function(*literals, *[value of d for d in dependencies])``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Task = tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...]]
Shape = list[Task]

WIDTH = 100


# What the tasks do: as good as nothing, so that what is measured is the library. They have no annotations, as most
# users' functions have none: nothing is checked.


def src(i):  # type: ignore[no-untyped-def]
    """Return the number."""
    return i


def add(a, b):  # type: ignore[no-untyped-def]
    """Return the sum, kept small."""
    return (a + b) % 1009


def nap(seconds, *_):  # type: ignore[no-untyped-def]
    """Sleep, as a task that computes elsewhere does."""
    time.sleep(seconds)
    return seconds


# The shapes.


def layered(n: int, width: int = WIDTH) -> Iterator[Task]:
    """Yield `n` tasks in layers of `width`: each needs its two neighbours in the layer before."""
    for i in range(n):
        layer, column = divmod(i, width)
        if layer == 0:
            yield src, (i,), ()
        else:
            before = (layer - 1) * width
            yield add, (), (before + column, before + (column + 1) % width)


def layered_values(n: int, width: int = WIDTH) -> list[int]:
    """Return what the last layer of `layered` computes, by a plain loop."""
    row = [src(i) for i in range(width)]  # type: ignore[no-untyped-call]
    for _ in range(n // width - 1):
        row = [add(row[c], row[(c + 1) % width]) for c in range(width)]  # type: ignore[no-untyped-call]
    return row


def a_to_g(step: float) -> Shape:
    """Return A -> B, C, D;  E(c, d);  F(b);  G(f, c, e): four steps deep."""
    first, literals = nap, (step,)
    return [(first, literals, needs) for needs in ((), (0,), (0,), (0,), (2, 3), (1,), (5, 2, 4))]


def random_dag(seed: int, n: int = 100, layers: int = 8, total: float = 4.0) -> Shape:
    """Return `n` naps of lognormal length, `total` seconds together, each with one to three dependencies."""
    rng = random.Random(seed)
    layer = sorted(rng.randrange(layers) for _ in range(n))
    length = [rng.lognormvariate(0, 1) for _ in range(n)]
    scale = total / sum(length)
    shape: Shape = []
    for i in range(n):
        near = [j for j in range(i) if layer[j] == layer[i] - 1]
        far = [j for j in range(i) if layer[j] < layer[i] - 1]
        needs: set[int] = set()
        if near:
            for _ in range(rng.randint(1, 3)):
                needs.add(rng.choice(far) if far and rng.random() < 0.2 else rng.choice(near))
        shape.append((nap, (length[i] * scale,), tuple(sorted(needs))))
    return shape


# What can be said about a shape without running it.


def sinks(shape: Shape) -> list[int]:
    """Return the tasks that no other needs."""
    needed = {need for _, _, needs in shape for need in needs}
    return [i for i in range(len(shape)) if i not in needed]


def bottom_levels(shape: Shape, cost: Callable[[Task], float]) -> list[float]:
    """Return for each task the dearest way from its start to the end."""
    levels = [0.0] * len(shape)
    for i in range(len(shape) - 1, -1, -1):
        levels[i] += cost(shape[i])
        for need in shape[i][2]:
            levels[need] = max(levels[need], levels[i])
    return levels


def seconds_of(task: Task) -> float:
    """Return how long a nap is."""
    return float(task[1][0])


def lower_bound(shape: Shape, workers: int) -> float:
    """Return the seconds below which no schedule of naps can come: max(span, work / workers)."""
    return max(max(bottom_levels(shape, seconds_of)), sum(map(seconds_of, shape)) / workers)


def record(shape: Iterable[Task], node_of: Callable[[Task], Callable[..., Any]]) -> list[Any]:
    """Record a shape: one call of a node for each task. Returns the futures."""
    futures: list[Any] = []
    for task in shape:
        futures.append(node_of(task)(*task[1], *[futures[need] for need in task[2]]))
    return futures
