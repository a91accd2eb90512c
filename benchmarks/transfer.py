"""What 100 MB cost on their way to another process, each figure beside a plain one in the same round.

python benchmarks/transfer.py [megabytes]
"""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter

import numpy as np

from tinygraph import Graph, Node
from tinygraph.executors.segments import Segments
from tinygraph.executors.transfer import Kept, Outbox, dumps, loads

ROUNDS = 9


def seconds(call):
    began = perf_counter()
    result = call()
    return perf_counter() - began, result


def copied():
    np.copyto(target, array)


def in_pairs(title, call, after=lambda result: None, before=lambda: None, plain=copied):
    """Measure `call` and something plain, a warm copy if nothing else is said, in turn: both see the same machine."""
    ours, floors = [], []
    for _ in range(ROUNDS):
        floors.append(seconds(plain)[0])
        before()
        took, result = seconds(call)
        ours.append(took)
        after(result)
        del result
    ratio = median([one / floor for one, floor in zip(ours[1:], floors[1:], strict=True)])
    figures = f"{median(ours[1:]) * 1e3:8.2f} ms   {plain.__name__:<6} {median(floors[1:]) * 1e3:6.2f} ms"
    print(f"{title:<34} {figures}   x {ratio:5.2f}")


megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
array = np.random.default_rng(0).random(megabytes * 125_000)
target = np.zeros_like(array)
body = array.tobytes()

segments = Segments.create()
worker = Segments.attach(segments.folder)
in_pairs("dumps array, into new memory", lambda: dumps(array, segments), segments.release, segments.trim)
in_pairs("dumps array, into freed memory", lambda: dumps(array, segments), segments.release)
in_pairs("dumps bytes, into freed memory", lambda: dumps(body, segments), segments.release)
in_pairs("inline: array + 1", lambda: array + 1.0)
kept = Kept(dumps(array, segments), segments)
in_pairs("loads array", lambda: loads(kept.parcel, worker))
in_pairs("loads array, array + 1", lambda: loads(kept.parcel, worker) + 1.0)
in_pairs("loads array, write to all of it", lambda: loads(kept.parcel, worker).fill(1.0))
kept_bytes = Kept(dumps(body, segments), segments)
in_pairs("loads bytes", lambda: loads(kept_bytes.parcel, worker))
in_pairs("inline: bytearray to bytes", lambda: bytes(memoryview(target).cast("B")))


def chain():
    held = dumps(array, segments)
    for _ in range(10):
        result = dumps(loads(held, worker) + 1.0, worker)
        segments.hold(result)
        segments.release(held)
        held = result
    return held


def fan():
    outbox = Outbox(segments)
    parcels = [dumps((array,), segments, outbox) for _ in range(8)]
    for parcel in parcels:
        (got,) = loads(parcel, worker)
        assert got[0] + got[-1] == array[0] + array[-1]
        segments.release(parcel)
    del got
    outbox.close()


def bump(array):
    return array + 1.0


def ends(array):
    return float(array[0] + array[-1])


def inline():
    result = array
    for _ in range(10):
        result = bump(result)


fresh = []  # what crosses has to be another object each time, or it would be there already
node = Node(bump)


def another():
    fresh[:] = [array.copy()]


def chain_in_processes():
    result = fresh[0]
    for _ in range(10):
        result = node(result)
    value = result.resolve(executor="processes", workers=2)
    assert abs(value[0] - array[0] - 10) < 1e-6


def fan_in_processes():
    graph = Graph(*[Node(ends)(fresh[0]) for _ in range(8)])
    assert set(graph.run(executor="processes", workers=2).value) == {ends(array)}


in_pairs("chain of 10, every step crosses", chain, segments.release)
in_pairs("one array to 8 calls", fan)
in_pairs("one array to 8 calls, new memory", fan, before=segments.trim)
in_pairs("chain of 10 in processes", chain_in_processes, before=another, plain=inline)
in_pairs("one array to 8 calls in processes", fan_in_processes, before=another)
segments.close()
