"""A future is one recorded call: it stands for its value everywhere, and passes for it nowhere.

The tests named after rows T1 to T29 go through the ways in which a future gets mistaken for its value.
"""

import asyncio
import collections
import copy
import dataclasses
import functools
import json
import math
import operator
import os
import pickle
import random
import re
import subprocess
import sys
import types
from pathlib import Path

import cloudpickle
import pytest

from tinygraph import (
    CycleError,
    DepthError,
    Future,
    FutureAttributeError,
    Graph,
    Input,
    NestedResolveError,
    Node,
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
def one(x=1):
    return x


@Node
def add(a, b):
    return a + b


@Node
def same(x):
    return x


def refused(action, *, way_out=".", kind=RecordError):
    """Run what has to be refused at the line of the user, and return the words of the refusal."""
    with pytest.raises(kind, match=way_out) as caught:
        action()
    return str(caught.value)


def line_here():
    return f"{__file__}:{sys._getframe(1).f_lineno}"


# T. Tracing misuse


def _while(future):
    while future:
        pass


def _if(future):
    if future:
        pass


def _assert(future):
    assert future


@pytest.mark.parametrize(
    "use",
    [_if, _while, _assert, bool, operator.not_, lambda f: f and 1, lambda f: f or 1, lambda f: any([f])],
    ids=["if", "while", "assert", "bool", "not", "and", "or", "any"],
)
def test_t1_the_truth_of_a_future_is_refused_with_its_line(use):
    future, line = one(), line_here()
    words = refused(lambda: use(future), way_out="move the condition into the body of a node")
    assert "'one'" in words
    assert line in words


def _unpack(future):
    _a, _b = future


@pytest.mark.parametrize(
    "use",
    [
        lambda f: [x for x in f],  # noqa: C416  a loop
        _unpack,
        len,
        lambda f: 1 in f,
        lambda f: print(*f),
        lambda f: dict(**f),
        dict,
        list,
        sorted,
        lambda f: list(zip(f, [1], strict=False)),
        lambda f: max([f, f]),
        lambda f: f[0:1] in [1],
        reversed,
        random.choice,
    ],
    ids=[
        "for",
        "unpack",
        "len",
        "in",
        "*",
        "**",
        "dict",
        "list",
        "sorted",
        "zip",
        "max",
        "in list",
        "reversed",
        "choice",
    ],
)
def test_t2_going_through_a_future_is_refused(use):
    refused(lambda: use(one()))


def test_t2_unpacking_works_where_the_outputs_are_declared():
    quotient, rest = Node(divmod, outputs=2)(17, 5)
    assert (quotient.resolve(), rest.resolve()) == (3, 2)
    with pytest.raises(ValueError, match="too many values"):
        _a, _b = Node(divmod, outputs=3)(17, 5)


@pytest.mark.parametrize("compare", [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge])
def test_t3_comparing_records_and_its_truth_is_refused(compare):
    recorded = compare(one(3), 3)
    assert isinstance(recorded, Future)
    assert recorded.resolve() is compare(3, 3)
    refused(lambda: bool(compare(one(3), 3)))
    refused(lambda: one(3) in [1, 2])


def test_t4_hashing_is_by_identity():
    first, second = one(), one()
    assert len({first, second, first}) == 2
    assert {first: "a", second: "b"}[first] == "a"
    assert functools.lru_cache(lambda future: future)(first) is first
    with pytest.raises(KeyError):
        {1: "never found by a future"}[first]


def _with(future):
    with future:
        pass


async def _async_with(future):
    async with future:
        pass


async def _async_for(future):
    async for _ in future:
        pass


@pytest.mark.parametrize(
    "use",
    [
        int,
        float,
        complex,
        bytes,
        range,
        open,
        os.fspath,
        Path,
        hex,
        chr,
        round,
        math.trunc,
        math.floor,
        math.ceil,
        math.sqrt,
        lambda f: f"{f}.csv",
        lambda f: "{}".format(f),  # noqa: UP032  the very thing that is tested
        lambda f: f(1),
        _with,
        lambda f: asyncio.run(_async_with(f)),
        lambda f: asyncio.run(_async_for(f)),
        lambda f: f.atr,
        lambda f: f.resolv(),
        lambda f: [1, 2][f],
        lambda f: operator.setitem(f, 0, 1),
        lambda f: operator.delitem(f, 0),
    ],
)
def test_t5_conversions_attributes_and_contexts_are_refused(use):
    future, line = one(), line_here()
    assert line in refused(lambda: use(future))


@pytest.mark.parametrize(
    "use",
    [
        lambda f: json.dumps(f),
        lambda f: ",".join([f]),
        lambda f: "%d" % f,  # noqa: UP031
        lambda f: os.path.join("a", f),
        lambda f: setattr(f, "atr", 1),
        next,
        memoryview,
        bytearray,
    ],
)
def test_t5_what_python_refuses_by_itself_stays_refused(use):
    with pytest.raises((TypeError, AttributeError)):
        use(one())


def test_t5_showing_a_future_is_fine():
    future = one()
    assert re.fullmatch(r"<Future one#\d+ waiting>", repr(future))
    assert str(future) == repr(future) == f"{future!r}"
    assert not hasattr(future, "atr")
    with pytest.raises(AttributeError):
        future.atr
    with pytest.raises(FutureAttributeError, match="read it in the body of a node"):
        future.atr
    assert future() is future


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(
    "use",
    [
        lambda np, f: np.array([f]),
        lambda np, f: np.array(f),
        lambda np, f: np.array([[1, f]], dtype=object),
        lambda np, f: np.asarray(f),
        lambda np, f: np.add(f, 1),
        lambda np, f: np.sqrt(f),
        lambda np, f: np.sum(f),
        lambda np, f: np.mean([f, f]),
        lambda np, f: np.arange(3)[f],
        lambda np, f: np.arange(f),
        lambda np, f: np.full(3, f),
        lambda np, f: operator.setitem(np.zeros(2), 0, f),
    ],
)
def test_t6_numpy_never_holds_a_future(use):
    import numpy as np

    with pytest.raises((TypeError, ValueError)):  # numpy turns the refusal of an element into a ValueError
        use(np, one())


@pytest.mark.needs("numpy")
def test_t6_operators_with_arrays_are_recorded_by_the_future():
    import numpy as np

    for recorded in (np.ones(2) + one(), one() + np.ones(2), np.float64(1) + one(np.ones(2))):
        assert isinstance(recorded, Future)
        assert recorded.resolve().tolist() == [2.0, 2.0]


def _set_cell(frame, future):
    frame.loc[0, "a"] = future


@pytest.mark.needs("numpy", "pandas")
@pytest.mark.parametrize(
    "use",
    [
        lambda pd, f: pd.Series(f),
        lambda pd, f: pd.DataFrame(f),
        lambda pd, f: pd.isna(f),
        lambda pd, f: pd.concat([f]),
        lambda pd, f: pd.DataFrame({"a": f}, index=[0]),
        lambda pd, f: _set_cell(pd.DataFrame({"a": [1, 2]}), f),
    ],
)
def test_t6_pandas_does_not_take_a_future_for_data(use):
    import pandas as pd

    with pytest.raises(TypeError):
        use(pd, one())


@pytest.mark.needs("numpy", "pandas")
@pytest.mark.parametrize(
    "hold",
    [
        lambda pd, f: pd.Series([f]),
        lambda pd, f: pd.Series({"a": f}),
        lambda pd, f: pd.DataFrame({"a": [f]}),
        lambda pd, f: [pd.Index([f])],
    ],
)
def test_t6_a_future_in_a_cell_never_reaches_a_body(hold):
    import pandas as pd

    assert "[0]" in refused(lambda: same(hold(pd, one())))


@pytest.mark.needs("numpy", "pandas")
def test_t6_a_cell_that_was_set_to_a_future_is_refused_as_an_argument():
    import numpy as np
    import pandas as pd

    cells = np.empty(3, dtype=object)
    cells[1] = one()
    assert ".flat[1]" in refused(lambda: same(cells))
    series = pd.Series([None, "x"], dtype=object)
    series.array[1] = one()
    assert "[1]" in refused(lambda: same(series))
    frame = pd.DataFrame({"b": [None, "x"]}, dtype=object)
    frame.iat[0, 0] = one()
    assert "['b'][0]" in refused(lambda: same(frame))


@pytest.mark.needs("numpy", "pandas")
def test_t6_operators_with_frames_are_recorded_by_the_future():
    import pandas as pd

    assert (pd.Series([1, 2]) + one(3)).resolve().tolist() == [4, 5]
    assert (one(3) + pd.Series([1, 2])).resolve().tolist() == [4, 5]
    assert (pd.DataFrame({"a": [1]}) * one(3)).resolve()["a"].tolist() == [3]
    assert (pd.Series([1, 2]) == one(2)).resolve().tolist() == [False, True]


def test_t7_a_name_may_be_used_again():
    future = one(1)
    future = same(future)
    future += 1
    assert future.resolve() == 2
    assert len(future.graph.nodes) == 3


def test_t8_a_container_that_changes_after_the_call_makes_no_cycle():
    held = []
    future = same(held)
    held.append(future)
    assert future.resolve() == []


def test_t8_a_container_that_holds_itself_is_refused():
    held = [one()]
    held.append(held)
    refused(lambda: same(held), way_out="holds itself")
    table = {}
    table["self"] = table
    refused(lambda: same(table), way_out="holds itself")


def test_t8_a_cycle_through_after_names_its_calls_and_lines():
    """
    a ──► b
    ▲     │
    └─────┘ after
    """
    a = Node(lambda: 1, name="a")()
    b = Node(lambda x: x, name="b")(a)
    a.after(b)
    with pytest.raises(CycleError, match=rf"{re.escape(__file__)}:\d+") as caught:
        b.resolve()
    assert set(caught.value.cycle) == {"a", "b"}
    with pytest.raises(CycleError):
        b.graph.topological_order()


def test_t8_an_input_takes_no_future():
    x = Input("x")
    future = add(x, 1)
    with pytest.raises(CycleError, match="'x'"):
        future.resolve(inputs={"x": future})


@Node
def fibonacci(n):
    return n if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))


def test_t9_recursion_with_an_end_works():
    assert fibonacci(12).resolve() == 144


@Node
def endless(n):
    return endless(n + 1)


@Node
def doubling(n):
    return [doubling(n + 1), doubling(n + 1)]


@Node
def ping(n):
    return pong(n + 1)


@Node
def pong(n):
    return ping(n + 1)


@Node
def beside(n):
    beside(n + 1)
    return n


@pytest.mark.parametrize("executor", ["inline", "threads"])
@pytest.mark.parametrize("node", [endless, doubling, ping, beside], ids=lambda node: node.name)
def test_t10_recursion_without_an_end_names_the_loop(node, executor):
    with pytest.raises(DepthError, match=rf"nested deeper than 10,000: .*{re.escape(__file__)}:\d+") as caught:
        node(0).resolve(executor=executor)
    loop = {"ping", "pong"} if node is ping else {node.name}
    assert all(name in str(caught.value) for name in loop)


def test_t10_the_limit_is_an_option():
    with pytest.raises(DepthError, match="deeper than 50"):
        endless(0).resolve(max_depth=50)
    count_down = Node(lambda n: n and count_down(n - 1))
    assert count_down(40).resolve(max_depth=50) == 0


def test_t10_a_component_without_an_end_is_refused_at_the_call():
    from tinygraph import Component

    @Component
    def inner(x):
        return inner(x)

    with pytest.raises(DepthError, match="inner"):
        inner(1)


def test_t12_resolve_in_a_body_is_refused_with_the_way_out():
    blocking = Node(lambda: one(1).resolve(), name="blocking")
    with pytest.raises(NestedResolveError, match="return the future"):
        blocking().resolve()
    with pytest.raises(NestedResolveError):
        Node(lambda: run(one(1)).value)().resolve()


def chain(length, first=0):
    future = one(first)
    for _ in range(length):
        future = add(future, 1)
    return future


def test_t13_a_deep_chain_needs_no_recursion_anywhere():
    future = chain(100_000)
    assert len(repr(future)) < 100
    assert len(Graph(future)) == 100_001
    assert pickle.loads(pickle.dumps(future)) is future
    assert future.resolve() == 100_000
    del future


def test_t13_an_error_at_the_bottom_of_a_deep_chain_arrives():
    future = Node(lambda: 1 / 0, name="bottom")()
    for _ in range(20_000):
        future = add(future, 1)
    with pytest.raises(ZeroDivisionError):
        future.resolve()


def test_t14_a_wide_fan_in_is_one_call():
    assert Node(sum)([one(1) for _ in range(20_000)]).resolve() == 20_000


def test_t15_a_ladder_runs_each_call_once():
    """
    a ─► b ─► ...     thirty diamonds: a billion paths, 31 calls
      └─►
    """
    ran = []

    @Node
    def double(a, b):
        ran.append(1)
        return a + b

    future = one(1)
    for _ in range(30):
        future = double(future, future)
    assert future.resolve() == 2**30
    assert len(ran) == 30


default = one(7)


@Node
def with_default(x=default):
    return str(x)


@Node
def with_nested_default(a=1, /, b=(default, [default]), *, c=default):
    return a, b, c


def test_t19_defaults_that_are_futures_are_resolved():
    assert with_default().resolve() == "7"
    assert with_default(3).resolve() == "3"
    assert with_nested_default().resolve() == (1, (7, [7]), 7)
    assert with_nested_default(2, c=3).resolve() == (2, (7, [7]), 3)
    assert [future.resolve() for future in with_nested_default.map([5])] == [(5, (7, [7]), 7)]


held = {"deep": [default]}


@Node
def from_global():
    return str(default)


@Node
def from_global_container(key):
    return type(held[key][0]).__name__


@Node
def passed_on(first):
    return default if first else [default, {"a": default}]


def _helper():
    return str(default)


@Node
def from_a_helper():
    return _helper()


@Node
def with_an_attribute_called_alike(thing):
    return thing.default


def test_t19_captured_futures_are_resolved():
    here = one(8)
    assert from_global().resolve() == "7"
    assert from_global_container("deep").resolve() == "int"
    assert passed_on(True).resolve() == 7
    assert passed_on(False).resolve() == [7, {"a": 7}]
    assert Node(lambda: str(here))().resolve() == "8"
    assert Node(lambda: (lambda: str(here))())().resolve() == "8"
    assert Node(lambda x: x + here)(1).resolve() == 9
    assert [future.resolve() for future in Node(lambda x: f"{x}{here:02d}").map([1, 2])] == ["108", "208"]


def test_t19_what_is_captured_is_what_the_name_stands_for_at_the_call():
    here = one(1)
    show = Node(lambda: str(here))
    assert show().resolve() == "1"
    here = one(2)
    assert show().resolve() == "2"


def test_t19_a_captured_future_is_waited_for():
    """here ──► show"""
    here = one(8)
    show = Node(lambda: str(here), name="show")()
    assert [(a.name, b.name) for a, b in show.graph.edges] == [("one", "show")]


def test_t19_a_future_that_cannot_be_put_in_its_place_is_refused_at_the_call():
    assert "default in _helper()" in refused(from_a_helper)
    hidden = types.SimpleNamespace(model=[one()])
    assert "hidden.model[0]" in refused(Node(lambda: hidden.model))
    refused(lambda: Node(functools.partial(pow, one())))


def test_t19_an_attribute_that_is_called_alike_is_no_capture():
    future = with_an_attribute_called_alike(types.SimpleNamespace(default=3))
    assert len(future.graph.nodes) == 1
    assert future.resolve() == 3


def test_t19_a_composite_may_pass_on_what_it_captured():
    here = one(8)
    assert Node(lambda: add(here, default))().resolve() == 15


def test_t19_an_async_body_may_await_what_it_captured():
    here = one(8)

    @Node
    async def waits():
        return await here + 1

    assert waits().resolve() == 9


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Plain:
    x: object
    y: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: object


def nested(depth, inside):
    for _ in range(depth):
        inside = [inside]
    return inside


@pytest.mark.parametrize(
    "shape",
    [
        lambda f: [f(1), [f(2)]],
        lambda f: (f(1), (f(2),)),
        lambda f: {"a": f(1), "b": {"c": f(2)}},
        lambda f: {f("key"): 1},
        lambda f: {f(1), f(2)},
        lambda f: frozenset([f(1), (f(2), 3)]),
        lambda f: Pair(f(1), [f(2)]),
        lambda f: Plain(f(1), Plain([f(2)])),
        lambda f: Frozen(f(1)),
        lambda f: collections.OrderedDict(a=f(1)),
        lambda f: collections.defaultdict(list, a=f(1)),
        lambda f: collections.deque([f(1), f(2)], maxlen=2),
        lambda f: nested(50, f(1)),
        lambda f: [slice(f(1), None, f(2))],
        lambda f: [[f(1)] * 2] * 2,
    ],
)
def test_t20_futures_are_resolved_at_any_depth_and_types_are_kept(shape):
    expected = shape(lambda x: x)
    got = same(shape(one)).resolve()
    assert got == expected
    assert type(got) is type(expected)


def test_t20_what_occurs_twice_is_one_thing_in_the_body_too():
    held = [one(1)]
    got = same([held, held, Plain(held, held)]).resolve()
    assert got[0] is got[1] is got[2].x is got[2].y
    tower = [1]
    for _ in range(60):  # a billion billion paths, sixty lists
        tower = [tower, tower]
    assert len(same(tower).resolve()) == 2


def test_t20_containers_without_futures_are_left_as_they_are():
    model = Plain([1, 2])
    assert same(model).resolve() is model


@pytest.mark.parametrize(
    ("hide", "path"),
    [
        (lambda f: types.SimpleNamespace(model=types.SimpleNamespace(x=f)), ".model.x"),
        (lambda f: types.SimpleNamespace(items={"a": [1, f]}), ".items['a'][1]"),
        (lambda f: type("Slotted", (), {"__slots__": ("x",), "__init__": lambda s: setattr(s, "x", f)})(), ".x"),
        (lambda f: type("Mine", (list,), {})([f]), "[0]"),
        (lambda f: [1, types.SimpleNamespace(x=f)], ".x"),
        (lambda f: collections.ChainMap({"a": f}), ".maps[0]['a']"),
        (lambda f: types.MappingProxyType({"a": f}), "['a']"),
        (lambda f: {"a": f}.values(), "[0]"),
        (lambda f: ValueError("bad", f), ".args[1]"),
        (lambda f: functools.partial(pow, f), "argument 1"),
    ],
)
def test_t21_a_hidden_future_is_refused_with_its_path(hide, path):
    thing = hide(one())
    words = refused(lambda: same(thing))
    assert path in words
    assert "'same'" in words or "same:" in words
    assert path in refused(lambda: same(x=thing))


def test_t21_a_future_hidden_in_a_result_is_refused():
    with pytest.raises(RecordError, match=r"'careless' returned .* at \.x"):
        Node(lambda: types.SimpleNamespace(x=one()), name="careless")().resolve()


def test_t21_a_future_hidden_in_the_object_of_a_method_is_refused():
    class Model:
        def __init__(self):
            self.rate = one()

        @Node
        def train(self):
            return self.rate

    assert ".rate" in refused(lambda: Model().train())


@Node
def every(a, /, b, *rest, c=3, d, **more):
    return a, b, rest, c, d, more


def test_t22_arguments_are_bound_as_python_binds_them():
    assert every(1, 2, 4, 5, d=6, e=7).resolve() == (1, 2, (4, 5), 3, 6, {"e": 7})
    assert every(one(1), b=one(2), d=one(6), e=one(7)).resolve() == (1, 2, (), 3, 6, {"e": 7})


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: add(1), "missing a required argument: 'b'"),
        (lambda: add(1, 2, 3), "too many positional arguments"),
        (lambda: add(1, 2, c=3), "unexpected keyword argument 'c'"),
        (lambda: add(1, 2, b=3), "multiple values for argument 'b'"),
        (lambda: every(1, 2), "'d'"),
        (lambda: every(a=1, b=2, d=3), "'a'"),
    ],
)
def test_t22_wrong_arguments_are_refused_at_the_call(call, says):
    with pytest.raises(TypeError, match=re.escape(says)) as caught:
        call()
    assert isinstance(caught.value, TinygraphError)
    assert re.match(r"(add|every)\(", str(caught.value))


def test_t23_arguments_are_taken_at_the_call():
    numbers, table = [1], {"a": [1]}
    first, second = same(numbers), same(table)
    numbers.append(2)
    table["a"].append(2)
    assert first.resolve() == [1]
    assert second.resolve() == {"a": [1]}


def test_t24_a_call_is_a_call():
    ran = []
    note = Node(lambda x: ran.append(x))
    Node(list)([note(1), note(1)]).resolve()
    assert ran == [1, 1]


def test_t25_a_call_that_is_not_returned_runs_before_its_caller_is_finished():
    """
    outer ─ aside ─ deeper      neither is returned, both run
    """
    ran = []
    deeper = Node(lambda: ran.append("deeper"))

    @Node
    def aside():
        deeper()
        ran.append("aside")

    @Node
    def outer():
        aside()
        return "value"

    future = outer()
    assert future.resolve() == "value"
    assert ran == ["aside", "deeper"]
    assert [call.name for call in future.graph.nodes] == ["outer", "aside", "<lambda>"]


def test_t25_the_failure_of_a_call_that_is_not_returned_fails_its_caller():
    @Node
    def outer():
        Node(lambda: 1 / 0)()
        return "value"

    with pytest.raises(ZeroDivisionError):
        outer().resolve()


def test_t26_a_future_is_resolved_once_whoever_asks():
    ran = []

    @Node
    def note(x):
        ran.append(x)
        return x

    future = note(5)
    assert [future.resolve(), future.resolve(executor="threads"), add(future, 1).resolve()] == [5, 5, 6]
    assert ran == [5]


def test_t26_a_failed_future_raises_the_same_exception_again():
    ran = []

    @Node
    def fails():
        ran.append(1)
        raise ValueError("mine")

    future = fails()
    with pytest.raises(ValueError, match="mine") as first:
        future.resolve()
    with pytest.raises(ValueError, match="mine") as second:
        future.resolve()
    assert first.value is second.value
    assert ran == [1]


@pytest.mark.parametrize("travel", [pickle, cloudpickle], ids=lambda module: module.__name__)
def test_t26_a_future_that_comes_home_is_the_same(travel):
    future = add(one(1), [one(2)][0])
    again = pickle.loads(travel.dumps({"f": [future, future]}))
    assert again["f"][0] is again["f"][1] is future
    assert copy.copy(future) is copy.deepcopy(future) is future
    assert future.resolve() == 3
    assert pickle.loads(travel.dumps(future)).resolve() == 3


def test_t26_a_future_is_resolved_in_another_process(tmp_path):
    def of(n):
        return [n, Input("x", int, 4)]

    recorded = Node(lambda numbers, k: sum(numbers) * k)(of(one(3)), k=chain(5_000, first=-4_990))
    path = tmp_path / "future.pickle"
    path.write_bytes(cloudpickle.dumps(recorded))
    script = (
        "import pickle, sys\n"
        "future = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert pickle.loads(pickle.dumps(future)) is future\n"
        "print(future.line, future.resolve(executor='inline'), future.resolve(inputs={'x': 7}, executor='inline'))\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False, cwd=root)
    assert done.stderr == ""
    assert done.stdout.split() == [recorded.line, "70", "100"]


def test_t26_failed_and_skipped_futures_travel():
    failed = Node(lambda: 1 / 0)()
    skipped = add(failed, 1)
    assert run(skipped, on_error="continue").failures
    script = (
        "import pickle, sys\n"
        "failed, skipped = pickle.load(sys.stdin.buffer)\n"
        "assert [failed.state, skipped.state] == ['failed', 'skipped']\n"
        "for future in (failed, skipped):\n"
        "    try: future.resolve()\n"
        "    except ZeroDivisionError: print('right')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=cloudpickle.dumps([failed, skipped]),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (done.stdout.decode().split(), done.stderr) == (["right", "right"], b"")


def test_t27_a_body_may_return_futures_in_any_shape():
    assert Node(lambda: one(3))().resolve() == 3
    assert Node(lambda: [one(1), {"a": (one(2),)}])().resolve() == [1, {"a": (2,)}]
    assert Node(lambda: None)().resolve() is None
    error = ValueError("as data")
    assert Node(lambda: error)().resolve() is error


def test_t27_a_future_of_a_future_of_a_future():
    down = Node(lambda n: down(n - 1) if n else "bottom")
    assert down(100).resolve() == "bottom"


def test_t27_a_body_that_returns_its_own_call_is_refused():
    held = []
    itself = Node(lambda: held[0], name="itself")
    held.append(itself())
    with pytest.raises((CycleError, RecordError), match=r"itself|held"):
        held[0].resolve()


def test_t27_a_result_that_holds_itself_is_kept_or_refused():
    @Node
    def plain():
        held = []
        held.append(held)
        return held

    @Node
    def with_future():
        held = [one()]
        held.append(held)
        return held

    got = plain().resolve()
    assert got[0] is got
    with pytest.raises(TinygraphError, match="holds itself"):
        with_future().resolve()


def test_t28_an_exception_may_carry_a_future():
    @Node
    def fails():
        raise ValueError(one())

    with pytest.raises(ValueError, match="Future one"):
        fails().resolve()


def test_t29_a_refusal_that_a_body_swallows_fails_the_run_all_the_same():
    @Node
    def careless():
        try:
            return 1 if one() else 2
        except Exception:
            return 3

    with pytest.raises(RecordError, match="the truth of 'one'"):
        careless().resolve()
    with pytest.raises(RecordError, match="the truth of 'one'"):
        careless().resolve(executor="threads")


# What a future can do


@pytest.mark.parametrize(
    "calculate",
    [
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.mod,
        operator.pow,
        operator.and_,
        operator.or_,
        operator.xor,
        operator.lshift,
        operator.rshift,
        operator.truediv,
        lambda a, b: pow(a, b, 5),
        lambda a, b: -a + abs(b) - +a * ~b,
        lambda a, b: a * (b + a) / 2,
        lambda a, b: sum([a, b, a]),
    ],
)
def test_operators_record_what_they_would_compute(calculate):
    expected = calculate(7, 2)
    assert calculate(one(7), one(2)).resolve() == expected
    assert calculate(one(7), 2).resolve() == expected


def test_operators_work_from_both_sides():
    for operate in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.mod):
        assert operate(7, one(2)).resolve() == operate(7, 2)
    assert ("a" + one("b")).resolve() == "ab"
    quotient, rest = divmod(one(17), 5)
    assert (quotient.resolve(), rest.resolve()) == (3, 2)


def test_indexing_takes_keys_slices_and_futures():
    numbers = same([10, 20, 30])
    assert numbers[1].resolve() == 20
    assert numbers[1:].resolve() == [20, 30]
    assert numbers[one(2)].resolve() == 30
    assert numbers[one(1) :].resolve() == [20, 30]
    assert same({"a": {"b": 1}})["a"]["b"].resolve() == 1
    with pytest.raises(KeyError):
        same({})["missing"].resolve()


def test_after_orders_without_data():
    """
    second ──after──► first
    """
    ran = []
    note = Node(ran.append)
    first, second = note("first"), note("second")
    assert first.after(second) is first
    Node(list)([first, second]).resolve()
    assert ran == ["second", "first"]
    refused(lambda: note("x").after(3), way_out="takes futures")
    refused(lambda: first.after(second), way_out="has begun already")


def test_after_a_failure_there_is_no_dependent():
    ran = []
    late = Node(ran.append)("late").after(Node(lambda: 1 / 0)())
    with pytest.raises(ZeroDivisionError):
        late.resolve()
    assert ran == []


def test_states_are_told_in_the_words_of_the_glossary():
    seen = []
    watched = Node(lambda: seen.append(future.graph is not None))
    future = one()
    assert (future.state, future.name) == ("waiting", "one")
    future.resolve()
    assert future.state == "finished"
    assert re.search(r"test_future\.py:\d+$", future.line)
    assert watched.name == "<lambda>"


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_future_can_be_awaited_where_a_loop_runs(executor):
    async def main():
        with options(executor=executor):
            first, second = await asyncio.gather(*[_resolved(add(1, 2)), _resolved(add(3, 4))])
        return first, second

    async def _resolved(future):
        return await future

    assert asyncio.run(main()) == (3, 7)


def test_a_plain_body_cannot_await():
    @Node
    def plain():
        return next(one().__await__())

    with pytest.raises(RecordError, match="async def"):
        plain().resolve()
