"""QF56: a mode that runs everything twice and compares."""

import random

import pytest

from tinygraph import Graph, Node, OptionError
from tinygraph.testing import differences

double = Node(lambda x: 2 * x, name="double")
draw = Node(lambda n: random.random() + n, name="draw")
many = Node(lambda n: [double(i) for i in range(n)], name="many")


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_what_is_deterministic_has_no_differences(executor):
    assert differences(lambda: double(double(3)), executor=executor, workers=2) == []
    assert differences(lambda: Graph(many(9), many(4)), executor=executor, workers=2) == []


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_the_call_that_differs_is_named_and_not_what_depends_on_it(executor):
    [said] = differences(lambda: double(draw(3)), executor=executor, workers=1)
    assert said.startswith("'draw' returned 3.")
    assert said.endswith("for the same arguments")


def test_with_a_seed_it_is_the_same_again():
    assert differences(lambda: double(draw(3)), executor="inline", seed=3) == []


def test_calls_of_a_graph_that_is_another_are_named():
    numbers = iter(range(10))
    assert differences(lambda: double(next(numbers)), executor="inline") == ["'double' was called with other arguments"]


def test_it_takes_no_store(tmp_path):
    with pytest.raises(OptionError, match="takes no store"):
        differences(lambda: double(3), store=tmp_path)
