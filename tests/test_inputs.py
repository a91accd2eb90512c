"""Inputs are holes in a graph: each resolve fills them anew, and nothing runs before they are known to fit."""

import pickle

import pytest

from tinygraph import (
    Component,
    CycleError,
    Graph,
    Input,
    InputError,
    Node,
    OptionError,
    RecordError,
    TinygraphError,
    options,
    run,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def inline():
    with options(executor="inline"):
        yield


@Node
def add(a, b):
    return a + b


def test_an_input_is_filled_or_has_its_default():
    """
    x ──► add ◄── y = 10
    """
    x, y = Input("x", int), Input("y", int, 10)
    future = add(x, y)
    assert future.resolve(inputs={"x": 1}) == 11
    assert future.resolve(inputs={"x": 1, "y": 2}) == 3
    assert Graph(future).run(inputs={"x": 5}).value == 15


def test_none_is_a_value_of_an_input():
    assert Node(lambda x: x is None)(Input("x")).resolve(inputs={"x": None}) is True
    assert Node(lambda x: x is None)(Input("x", default=None)).resolve() is True


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "input 'x' has no value"),
        ({"x": 1, "z": 2}, "no input 'z'; its inputs: x, y"),
        ({"X": 1}, "no input 'X'"),
        ({"x": "one"}, "'x' must be int, not 'one'"),
        ({"x": True}, "'x' must be int"),
    ],
)
def test_a_wrong_input_is_refused_by_name_before_anything_runs(inputs, says):
    ran = []
    beside = Node(ran.append)("ran")
    future = Node(lambda *all: all)(beside, Input("x", int), Input("y", int, 3))
    with pytest.raises(InputError, match=says):
        future.resolve(inputs=inputs)
    assert ran == []
    assert future.state == "waiting"
    assert future.resolve(inputs={"x": 1}) == (None, 1, 3)


def test_inputs_without_holes_are_refused():
    with pytest.raises(InputError, match="its inputs: none"):
        add(1, 2).resolve(inputs={"x": 1})


def test_a_default_of_the_wrong_type_is_refused_at_once():
    with pytest.raises(TypeError, match="'x' must be int"):
        Input("x", int, "three")
    with pytest.raises(RecordError, match="needs a name"):
        Input("")
    with pytest.raises(RecordError, match="needs a name"):
        Input(3)


def test_an_input_takes_a_value_and_no_future():
    x = Input("x")
    future = add(x, 1)
    with pytest.raises(CycleError, match="'x'") as caught:
        future.resolve(inputs={"x": future})
    assert caught.value.cycle[0] == caught.value.cycle[-1] == "x"
    with pytest.raises(TinygraphError):
        future.resolve(inputs={"x": [future]})


def test_other_inputs_run_what_depends_on_them_and_share_the_rest():
    """
    shared ──► add ──► add
    x ─────────┘       │
    y ─────────────────┘
    """
    ran = []

    @Node
    def note(name, *values):
        ran.append(name)
        return sum(values)

    shared = note("shared", 1)
    future = note("outer", note("inner", shared, Input("x")), Input("y", default=0))
    assert future.resolve(inputs={"x": 1}) == 2
    assert future.resolve(inputs={"x": 10, "y": 5}) == 16
    assert sorted(ran) == ["inner", "inner", "outer", "outer", "shared"]


def test_a_future_with_inputs_is_the_same_before_and_after_its_runs():
    future = add(Input("x", default=10), 1)
    assert future.resolve(inputs={"x": 1}) == 2
    assert future.state == "waiting"
    assert future.resolve() == 11
    assert add(future, 0).resolve() == 11
    assert future.graph.run(inputs={"x": 7}).value == 8
    with pytest.raises(InputError):
        add(Input("y"), future).resolve()


def test_the_same_inputs_again_run_nothing_again():
    ran = []
    future = Node(lambda x: ran.append(x) or x)(Input("x"))
    assert [future.resolve(inputs={"x": x}, executor="inline") for x in (1, 1, 2, 2)] == [1, 1, 2, 2]
    assert ran == [1, 2]


def test_a_failure_with_some_inputs_is_none_with_others():
    inverse = Node(lambda x: 1 / x)(Input("x", float))
    with pytest.raises(ZeroDivisionError):
        inverse.resolve(inputs={"x": 0})
    assert inverse.resolve(inputs={"x": 2}) == 0.5
    with pytest.raises(ZeroDivisionError):
        inverse.resolve(inputs={"x": 0})


def test_inputs_are_found_in_containers_components_and_defaults():
    x = Input("x", int)
    total = Node(lambda tree, k=0: tree["a"][0] + tree["b"] + k)
    assert total({"a": [x], "b": 1}, k=add(x, x)).resolve(inputs={"x": 2}) == 7
    twice = Component(lambda v: [add(v, v), {"deep": (v,)}])
    assert twice(x).resolve(inputs={"x": 2}) == [4, {"deep": (2,)}]
    assert twice(add(x, 1)).resolve(inputs={"x": 2}) == [6, {"deep": (3,)}]
    assert Node(lambda v=x: v + 1)().resolve(inputs={"x": 2}) == 3


def test_an_input_that_a_body_captured_is_filled_or_refused_and_never_none():
    x = Input("x", int, 4)
    assert Node(lambda: x + 1)().resolve(inputs={"x": 5}) == 6
    assert Component(lambda: add(x, 1))().resolve(inputs={"x": 5}) == 6
    with pytest.raises(InputError, match="'x' is used in the body of a node"):
        Node(lambda: add(x, 1))().resolve()


def test_inputs_are_shared_by_name_within_a_graph():
    """Two holes of one name are filled alike."""
    future = add(Input("x", int), Input("x", int))
    assert future.resolve(inputs={"x": 3}) == 6
    with pytest.raises(InputError):
        add(Input("x", int), Input("x", str)).resolve(inputs={"x": 3})


def test_inputs_take_part_in_operators_and_map():
    numbers = Input("numbers", list)
    assert (Input("x", int) * 2 + 1).resolve(inputs={"x": 3}) == 7
    assert Node(lambda x: x + 1).map(numbers).resolve(inputs={"numbers": [1, 2]}) == [2, 3]
    assert numbers[0].resolve(inputs={"numbers": [5]}) == 5


def test_an_input_by_itself_can_be_resolved():
    assert Input("x").resolve(inputs={"x": 3}) == 3
    assert Input("x", int, 4).resolve() == 4


def test_an_input_travels():
    future = add(Input("x", int), 1)
    again = pickle.loads(pickle.dumps(future))
    assert again is future
    assert again.resolve(inputs={"x": 1}) == 2


def test_an_input_that_arrives_where_it_was_unknown_has_its_type_and_its_default():
    carried = pickle.dumps(add(Input("x", int, 4), 1))  # nothing here holds the original any more
    again = pickle.loads(carried)
    assert again.resolve() == 5
    with pytest.raises(InputError, match="'x' must be int"):
        again.resolve(inputs={"x": "one"})


def test_inputs_must_be_a_mapping():
    with pytest.raises((OptionError, InputError, TypeError)):
        add(Input("x"), 1).resolve(inputs=[1])


def test_runs_with_different_inputs_keep_their_values():
    future = add(Input("x"), 1)
    first, second = run(future, inputs={"x": 1}), run(future, inputs={"x": 2})
    assert [second.value, first.value] == [3, 2]


def test_what_was_resolved_with_inputs_is_forgotten_with_its_future():
    import gc
    import weakref

    class Big:
        pass

    node = Node(lambda x: Big())
    future = node(Input("x", default=1))
    seen = weakref.ref(future.resolve(executor="inline"))
    assert seen() is not None
    del future
    gc.collect()
    assert seen() is None
