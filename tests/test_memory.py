"""Memory follows need: a value lives as long as a waiting dependent or the user's own reference."""

import gc
import weakref
from typing import ClassVar

import pytest

from tinygraph import Component, Node, run

LENGTH = 30


class Big:
    """Counts how many of its kind are alive."""

    alive: ClassVar["weakref.WeakSet[Big]"] = weakref.WeakSet()
    peak = 0

    def __init__(self):
        Big.alive.add(self)
        Big.peak = max(Big.peak, len(Big.alive))


@pytest.fixture(autouse=True)
def counted():
    gc.collect()
    Big.alive.clear()
    Big.peak = 0


async def fetch(*_):
    return Big()


big = Node(lambda *_: Big(), name="big")
use = Node(lambda value, total=0: total + 1, name="use")
several = Node(lambda *_: (Big(), Big()), name="several", outputs=2)
KINDS = {
    "leaf": big,
    "composite": Node(lambda *_: big(), name="composite"),
    "component": Component(lambda *_: big()),
    "async": Node(fetch),
    "item": lambda *_: several()[1],
}


def chain(node):
    """big ──► big ──► ... ──► use"""
    future = node(0)
    for _ in range(LENGTH):
        future = node(future)
    return use(future)


def ladder(node):
    """
    big ──► use ──► use ──► ... ──► use
             big ───┘
    """
    total = 0
    for i in range(LENGTH):
        total = use(node(i), total)
    return total


@pytest.mark.parametrize("shape", [chain, ladder])
@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_needs_any_more_is_let_go(kind, shape):
    future = shape(KINDS[kind])
    result = run(future, executor="inline")
    result.wait()
    gc.collect()
    assert len(Big.alive) == 0
    if kind != "async":  # these all run at once, where they can, and end in a thread of their own
        assert Big.peak <= 4


def test_calls_that_are_not_returned_let_go_as_well():
    unreturned = Node(lambda total: (big(), use(1, total))[1], name="unreturned")
    total = 0
    for _ in range(LENGTH):
        total = unreturned(total)
    result = run(total, executor="inline")
    result.wait()
    assert (len(Big.alive), Big.peak <= 4) == (0, True)


def test_failures_hold_nothing():
    fails = Node(lambda value: 1 / 0, name="fails")
    futures = [fails(big(i)) for i in range(LENGTH)]
    for future in futures:
        run(future, executor="inline", on_error="continue").wait()
        future.value.__traceback__ = None  # the frames of the body hold what it was given, as they should
    del future
    gc.collect()
    assert len(Big.alive) == 0


def test_what_the_user_holds_is_kept():
    held = big()
    total = use(held, use(big()))
    assert total.resolve(executor="inline") == 2
    gc.collect()
    assert len(Big.alive) == 1
    assert isinstance(held.resolve(), Big)
