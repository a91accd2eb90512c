"""The whole promise in one short file: the first to read, and run on every commit."""

import pytest

from tinygraph import Component, Graph, Input, Node, RecordError, Workflow, options, run


@Node()
def _add(a, b):
    return a + b


@Node()
def add(a, b):
    return _add(a, b)


@Node()
def subtract(a, b):
    return a - b


@Node()
def multiply(a, b, c):
    return a * b * c


@Node()
def pipeline(a, b, c, d):
    return multiply(add(a, b), c, subtract(c, d))


@Node
def fibonacci(n):
    return n if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))


@Node
def divide(a, b):
    return a / b


@pytest.fixture(params=["inline", "threads"])
def executor(request):
    return request.param


def test_functions_become_a_graph_and_give_what_the_functions_would(executor):
    """
    pipeline ─ multiply ◄─ add ─ _add
                        ◄─ subtract
    """
    future = pipeline(10, 2, 5, 6)
    assert future.state == "waiting"
    assert future.resolve(executor=executor) == -60
    assert future.state == "finished"
    assert [call.name for call in future.graph.nodes] == ["pipeline", "add", "subtract", "multiply", "_add"]


def test_a_second_resolve_runs_nothing():
    ran = []
    future = Node(ran.append)(1)
    future.resolve(executor="inline")
    future.resolve(executor="inline")
    assert ran == [1]


def test_the_structure_may_depend_on_values(executor):
    assert fibonacci(10).resolve(executor=executor) == 55


def test_futures_are_found_in_containers():
    total = Node(lambda tree: sum(tree["left"]) + tree["right"][0][0])
    assert total({"left": [add(1, 2), 3], "right": ((add(4, 5),),)}).resolve(executor="inline") == 15


def test_futures_can_be_calculated_with_and_unpacked():
    quotient, rest = Node(divmod, outputs=2)(17, 5)
    assert (10 * quotient + rest).resolve(executor="inline") == 32
    assert Node(list)("abc")[1].resolve(executor="inline") == "b"


def test_a_future_refuses_to_be_mistaken_for_its_value():
    future = add(1, 2)
    with pytest.raises(RecordError, match=r"the truth of 'add' is not known yet \(called at .*test_tiny.py:\d+\)"):
        _ = 1 if future else 2


def test_a_class_is_constructed_where_it_is_needed(executor):
    @Node
    class Scaler:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return self.by * x

    assert Scaler(add(1, 2))(add(3, 4)).resolve(executor=executor) == 21


def test_map_makes_one_call_for_each_element(executor):
    assert [future.resolve(executor=executor) for future in add.map([1, 2, 3], [10, 20, 30])] == [11, 22, 33]
    assert add.map(Node(range)(3), [1, 1, 1]).resolve(executor=executor) == [1, 2, 3]


def test_a_component_shows_its_inside_before_anything_runs():
    twice = Component(lambda x: add(x, x), name="twice")
    assert [call.name for call in twice(add(1, 2)).graph.nodes] == ["add", "twice", "add"]

    @Workflow
    def both(a: int = 1, b: int = 2):
        return twice(a), twice(b)

    assert both(b=5).resolve(executor="inline") == (2, 10)


def test_an_input_is_filled_when_the_graph_is_resolved():
    future = add(Input("x", int), Input("y", int, default=1))
    assert future.resolve(inputs={"x": 2}, executor="inline") == 3
    assert future.resolve(inputs={"x": 2, "y": 5}, executor="inline") == 7


def test_an_exception_arrives_as_itself_and_says_where(executor):
    with pytest.raises(ZeroDivisionError) as caught:
        add(divide(1, 0), 2).resolve(executor=executor)
    assert "in node divide, called at " in caught.value.__notes__[0]


def test_independent_branches_go_on_if_asked_to(executor):
    """
    divide ✗ ──► add      divide ──► add
    """
    result = run(Graph(add(divide(1, 0), 1), add(divide(4, 2), 1)), executor=executor, on_error="continue")
    assert [type(failure.exception) for failure in result.failures] == [ZeroDivisionError]
    assert [target.state for target in result.graph.targets] == ["skipped", "finished"]


async def _awaited():
    return await add(1, 2)


def test_futures_can_be_awaited():
    import asyncio

    assert Node(_awaited)().resolve(executor="inline") == 3

    async def outside():
        return await add(3, 4)

    with options(executor="inline"):
        assert asyncio.run(outside()) == 7


def test_the_longest_branch_goes_first():
    """
    a ──► b ──► c ──► e      one worker: the long branch first
    └───► d ──────────┘
    """
    order = []
    step = Node(lambda name, *inputs: order.append(name))
    a = step("a")
    step("e", step("c", step("b", a)), step("d", a)).resolve(executor="inline")
    assert order[:2] == ["a", "b"]
    assert order[-1] == "e"
