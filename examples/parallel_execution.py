"""Seven steps of one second each, done in four: what does not wait for each other runs at the same time.

         ┌──► B ─────► F ──────┐
    A ───┼──► C ─────┬─────────┼──► G
         │           ▼         │
         └──► D ───► E ────────┘

One after the other they take 7 seconds. The longest way from A to G has 4 steps, so nothing can be faster than 4
seconds, and with three workers it is not slower either.

    python examples/parallel_execution.py
    python examples/parallel_execution.py --seconds 0.05     # shorter steps
"""

import argparse
import time

from tinygraph import Finished, Node, run

parser = argparse.ArgumentParser(description="Run seven steps, some of them at the same time.")
parser.add_argument("--seconds", type=float, default=1.0, help="how long a step takes (default: 1)")
seconds = parser.parse_args().seconds


@Node
def A():
    time.sleep(seconds)
    return 3


@Node
def B(a):
    time.sleep(seconds)
    return a * 2


@Node
def C(a):
    time.sleep(seconds)
    return a + 1


@Node
def D(a):
    time.sleep(seconds)
    return a - 1


@Node
def E(c, d):
    time.sleep(seconds)
    return c * d


@Node
def F(b):
    time.sleep(seconds)
    return b + 3


@Node
def G(f, c, e):
    time.sleep(seconds)
    return f * (c + e)


a = A()
b, c, d = B(a), C(a), D(a)
e, f = E(c, d), F(b)
g = G(f, c, e)

steps = [g.graph.simulate(workers=workers).makespan for workers in (1, 2, 3)]
print("Steps that 1, 2 and 3 workers need:", *map(round, steps))

result = run(g, executor="threads", workers=3)
print(f"Result: {result.value}")
print(f"Time:   {result.makespan:.2f} s\n")

for event in sorted(result.events, key=lambda event: event.name):
    if isinstance(event, Finished):
        start, length = (event.at - event.seconds) / seconds, event.seconds / seconds
        print(f"  {event.name} {'·' * round(6 * start)}{'█' * round(6 * length)}")
