"""How things are measured: in a process of their own, ours and the floor in turns, medians of pairs.

Run as a program it is the other end of `apart`: it runs one cell and prints what it returned as JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

OURS, FLOOR = "ours", "floor"
TIME_LIMIT = 900  # seconds that one cell may take

Side = Callable[[], Callable[[], Any]]  # prepares one run, untimed; what it returns is timed
Samples = dict[str, list[float]]  # by side: one figure for each pair, in the order of the pairs


class CellFailed(Exception):
    """A cell could not be measured; the text says why."""


def apart(cell: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a fresh Python process and return its result; arguments and result are JSON."""
    command = [sys.executable, os.path.abspath(__file__), cell.__module__, cell.__name__]
    try:
        done = subprocess.run(
            command, input=json.dumps(args), capture_output=True, text=True, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise CellFailed(f"no result within {TIME_LIMIT} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CellFailed(lines[-1])
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(sides: Mapping[str, Side], check: Callable[[Any], bool], repeats: int, *, warm: bool = True) -> Samples:
    """Time the sides in turns, so that what else the machine does hits all of them alike; check every result.

    Each side runs once untimed before, unless `warm` is false. The order of the sides is turned around every time.
    """
    names = list(sides)
    samples: Samples = {name: [] for name in names}
    for turn in range(-1 if warm else 0, repeats):
        for name in names if turn % 2 == 0 else names[::-1]:
            run = sides[name]()
            gc.collect()
            began = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - began
            if not check(result):
                raise ValueError(f"{name}: a wrong result, {str(result)[:100]}")
            del run, result
            if turn >= 0:
                samples[name].append(seconds)
    return samples


def scaled(samples: Samples, by: float) -> Samples:
    """Return samples in another unit."""
    return {name: [figure * by for figure in figures] for name, figures in samples.items()}


def resident() -> int:
    """Return the bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident() -> int:
    """Return the most bytes of memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def bytes_of(make: Callable[[], Any]) -> float:
    """Return what a result occupies: the smaller of what the system and what Python's allocator counts."""
    gc.collect()
    before = resident()
    kept = make()
    seen_outside = resident() - before
    del kept
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = make()
    seen_inside = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    del kept
    return min(seen_outside, seen_inside)


@dataclass(frozen=True, slots=True)
class Promise:
    """What was promised: at most `figure`; `floor` is what the floor was when it was promised, if that is a measure."""

    figure: float
    floor: float | None = None

    @property
    def ratio(self) -> float | None:
        """What was promised as a multiple of the floor."""
        return None if self.floor is None else self.figure / self.floor


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    what: str
    unit: str
    promise: Promise | None = None
    floor_is: str = ""
    samples: Samples = field(default_factory=dict)
    failure: str = ""

    def figure(self, side: str) -> float | None:
        """Return the median of a side."""
        figures = self.samples.get(side)
        return median(figures) if figures else None

    def ratio(self, side: str = OURS) -> float | None:
        """Return the median over all pairs of a side against the floor of the same turn."""
        pairs = list(zip(self.samples.get(side, ()), self.samples.get(FLOOR, ()), strict=False))
        return median([figure / floor for figure, floor in pairs]) if pairs else None

    @property
    def verdict(self) -> str:
        """Whether the promise was kept: as a figure, and as a multiple of the floor in the same run."""
        if self.failure:
            return f"FAILED: {self.failure}"
        ours = self.figure(OURS)
        if self.promise is None or ours is None:
            return ""
        figure_holds = ours <= self.promise.figure
        ratio = self.ratio()
        if self.promise.ratio is None or ratio is None:
            return "met" if figure_holds else "missed"
        ratio_holds = round(ratio, 2) <= round(self.promise.ratio, 2)  # as exact as it is printed
        if figure_holds is ratio_holds:
            return "met" if figure_holds else "missed"
        return "met (figure; ratio missed)" if figure_holds else "met (ratio; figure missed)"


if __name__ == "__main__":
    _cell = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    print(json.dumps(_cell(*json.load(sys.stdin))), flush=True)
