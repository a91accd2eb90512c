"""The zoo: graphs of every shape, for tests that need one. Each call adds one to the sum of what it is given."""

from random import Random

from tinygraph import Component, Graph, Node


def _step(*inputs):
    return sum(inputs) + 1


def task(name, *needs, **options):
    """A call of a node with this name."""
    return Node(_step, name=name, **options)(*needs)


def chain(length):
    """
    0 ──► 1 ──► 2 ──► ...
    """
    step = Node(_step, name="step")
    last = step()
    for _ in range(length - 1):
        last = step(last)
    return Graph(last)


def diamond():
    """
    source ──► slow ──► sink
       └─────► fast ─────┘
    """
    source = task("source")
    return Graph(task("sink", task("slow", source), task("fast", source)))


def fan_out(width):
    """
    source ──► 0
       ├─────► 1
       └─────► ...
    """
    source, step = task("source"), Node(_step, name="step")
    return Graph(*[step(source) for _ in range(width)])


def fan_in(width):
    """
    0 ───┬──► sink
    1 ───┤
    ... ─┘
    """
    step = Node(_step, name="step")
    return Graph(task("sink", *[step() for _ in range(width)]))


def ladder(length):
    """
    left0 ──► left1 ──► left2 ──► ...
         ╲         ╲         ╲
    right0 ─► right1 ─► right2 ─► ...
    """
    left, right = task("left0"), task("right0")
    for i in range(1, length):
        left, right = task(f"left{i}", left), task(f"right{i}", right, left)
    return Graph(left, right)


def a_to_g():
    """
    A ──► B ──► F ─────┐
    ├───► C ──┬────────┴──► G
    └───► D ──┴─► E ───┘
    """
    a = task("A")
    b, c, d = task("B", a), task("C", a), task("D", a)
    return Graph(task("G", task("F", b), c, task("E", c, d)))


@Node
def _add(a, b):
    return a + b


@Node
def add(a, b):
    return _add(a, b)


@Node
def subtract(a, b):
    return a - b


@Node
def multiply(a, b, c):
    return a * b * c


@Node
def pipeline(a, b, c, d):
    return multiply(add(a, b), c, subtract(c, d))


def nested():
    """
    ┌ pipeline ──────────────────────────┐
    │ ┌ add ───┐                         │
    │ │  _add  ├────┬──► multiply        │
    │ └────────┘    │                    │
    │  subtract ────┘                    │
    └────────────────────────────────────┘
    """
    return Graph(pipeline(10, 2, 5, 6))


@Component
def difference(a, b):
    return subtract(_add(a, b), b)


def opened():
    """
              ┌ difference ──────────┐
    one ──────┼─► _add ──► subtract  ├──► last
              └──────────────────────┘
    """
    return Graph(task("last", difference(task("one"), 2)))


def random_dag(seed, size=10):
    """Calls with whole costs from 1 to 9, each of which needs up to three of those before it."""
    random = Random(seed)
    calls = []
    for i in range(size):
        needs = random.sample(calls, min(len(calls), random.randint(0, 3)))
        calls.append(task(f"t{i}", *needs, cost=random.randint(1, 9)))
    return Graph(*calls)
