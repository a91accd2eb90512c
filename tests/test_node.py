"""A node is a definition: what may be decorated, what a call of it records, and what its options mean."""

import asyncio
import dataclasses
import functools
import inspect
import pickle
import re
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict, TypeVar

import cloudpickle
import pytest

from tinygraph import (
    ArgumentError,
    Component,
    DefinitionError,
    DepthError,
    Future,
    Graph,
    Input,
    Node,
    OptionError,
    OutputError,
    RecordError,
    Workflow,
    options,
)
from tinygraph.definition import OPTIONS as NODE_OPTIONS
from tinygraph.definition import NodeOptions
from tinygraph.options import OPTIONS as RUN_OPTIONS
from tinygraph.options import RunOptions

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


# What may be a node


class Things:
    by = 3

    def plain(self, x):
        return self.by * x

    @Node
    def method(self, x):
        return self.by * x

    @Node
    @staticmethod
    def static_inside(x):
        return x

    @staticmethod
    @Node
    def static_outside(x):
        return x

    @Node
    @classmethod
    def class_inside(cls, x):
        return cls.by * x

    @classmethod
    @Node
    def class_outside(cls, x):
        return cls.by * x

    @Node
    @property
    def property_inside(self):
        return self.by

    @property
    @Node
    def property_outside(self):
        return self.by

    def __call__(self, x):
        return self.by * x


def plus_one(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) + 1

    return wrapper


def closure(n):
    return lambda x: x + n


@pytest.mark.parametrize(
    ("future", "value"),
    [
        (lambda: Node(lambda x: x + 1)(1), 2),
        (lambda: Node(closure(5))(1), 6),
        (lambda: Node(functools.partial(pow, 2))(5), 32),
        (lambda: Node(functools.partial(functools.partial(pow, 2), 5))(), 32),
        (lambda: Node(max)(3, 7), 7),
        (lambda: Node(str)(3), "3"),
        (lambda: Node(int)("3"), 3),
        (lambda: Node(list)(Node(range)(3)), [0, 1, 2]),
        (lambda: Node(dict)(a=one(1)), {"a": 1}),
        (lambda: Node("abc".upper)(), "ABC"),
        (lambda: Node(str.upper)("abc"), "ABC"),
        (lambda: Node(Things().plain)(2), 6),
        (lambda: Node(Things())(2), 6),
        (lambda: Node(functools.lru_cache(lambda x: x))(2), 2),
        (lambda: Node(plus_one(lambda x: x))(2), 3),
        (lambda: plus_one(Node(lambda x: x))(2), 3),
        (lambda: Node(Node(lambda x: x))(2), 2),
        (lambda: Things().method(2), 6),
        (lambda: Things.method(Things(), 2), 6),
        (lambda: Things.static_inside(2), 2),
        (lambda: Things().static_outside(2), 2),
        (lambda: Things.class_inside(2), 6),
        (lambda: Things().class_outside(2), 6),
        (lambda: Things().property_inside, 3),
        (lambda: Things().property_outside, 3),
    ],
)
def test_whatever_is_callable_can_be_a_node(future, value):
    assert isinstance(future(), Future)
    assert future().resolve() == value


async def _later(x):
    await asyncio.sleep(0)
    return x + 1


def _counting(n):
    yield from range(n)


def _counting_to_a_result(n):
    yield from range(n)
    return "done"


class Awaiting:
    async def __call__(self, x):
        return x + 1


def test_the_kind_of_function_decides_how_it_runs():
    later = Node(_later)
    assert later(later(1)).resolve() == 3
    assert Node(functools.partial(_later, 1))().resolve() == 2
    assert Node(Awaiting())(1).resolve() == 2
    assert Node(_counting)(3).resolve() == [0, 1, 2]
    assert Node(_counting_to_a_result)(3).resolve() == "done"


def test_what_a_generator_yields_may_be_futures():
    @Node
    def several():
        yield one(1)
        yield [one(2)]

    assert several().resolve() == [1, [2]]


def test_an_async_body_awaits_futures_and_returns_them():
    @Node
    async def body(x):
        first = await add(x, 1)
        second, third = await asyncio.gather(_of(add(first, 1)), _of(one(x)))
        return [add(second, third), first]

    async def _of(future):
        return await future

    assert body(1).resolve() == [4, 2]


@pytest.mark.parametrize(
    "thing",
    [42, [], None, "a name", object(), functools.cached_property(len), one(1)],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_no_function_is_refused_at_the_decorator(thing):
    with pytest.raises(DefinitionError) as caught:
        Node()(thing)
    assert isinstance(caught.value, TypeError)


def test_async_generators_are_refused_at_the_decorator():
    with pytest.raises(DefinitionError, match="async generator"):

        @Node
        async def body():
            yield 1


# Names and options


def test_a_node_is_made_in_four_ways():
    assert Node(len).name == "len"
    assert Node()(len).name == "len"
    assert Node("size")(len).name == "size"
    assert Node(name="size", cost=3)(len).cost == 3
    assert Node("size", retries=2)(len).retries == 2
    assert Node(functools.partial(max, 1)).name == "max"
    assert Node(Things()).name == "Things"


def test_options_gives_a_changed_copy():
    changed = add.options(retries=2, name="plus")
    assert (changed.name, changed.retries, add.name, add.retries) == ("plus", 2, "add", 0)
    assert changed(1, 2).resolve() == 3
    assert Node(outputs=2)(divmod).options(cost=2).outputs == 2


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"retry": 1}, "unknown option 'retry', did you mean 'retries'"),
        ({"colour": 1}, "unknown option 'colour'; the options of a node: name, outputs, retries"),
        ({"kind": 1}, "unknown option 'kind'"),
        ({"retries": -1}, "retries"),
        ({"retries": True}, "retries"),
        ({"outputs": 0}, "outputs"),
        ({"cost": "much"}, "cost must be a number of seconds from 0 on, not 'much'"),
        ({"cost": -1}, "cost must be a number of seconds from 0 on"),
        ({"cost": float("inf")}, "cost"),
        ({"cost": float("nan")}, "cost"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"priority": None}, "priority"),
        ({"priority": float("nan")}, "priority must be a number, not nan"),
        ({"check": "no"}, "check must be True or False, not 'no'"),
        ({"isolate": 1}, "isolate must be True or False"),
        ({"memory": 0}, "memory must be a number of bytes above 0"),
        ({"memory": "much"}, "'500MB' or '2GiB', not 'much'"),
        ({"memory": "500"}, "memory"),
        ({"memory": "-1GB"}, "memory"),
        ({"memory": True}, "memory"),
        ({"memory": 1.5}, "memory"),
        ({"name": 3}, "name"),
        ({"where": "there"}, "where"),
    ],
)
def test_an_option_that_does_not_exist_or_fit_is_named(bad, says):
    with pytest.raises(OptionError, match=says):
        Node(**bad)  # at its line, before there is a function
    with pytest.raises(OptionError, match=says):
        Node(len, **bad)
    with pytest.raises(OptionError, match=says):
        add.options(**bad)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (None, None),
        (4096, 4096),
        ("500MB", 500_000_000),
        ("2GiB", 2 * 1024**3),
        ("1.5 kib", 1536),
        ("7B", 7),
        ("1e3kB", 1_000_000),
    ],
)
def test_memory_is_a_number_of_bytes(given, count):
    assert Node(len, memory=given).memory == count


def test_an_option_has_one_line_in_one_table():
    """Its types for checkers, its words for readers and its attribute are the rest, and none is forgotten."""
    assert NodeOptions.__annotations__.keys() == NODE_OPTIONS.keys()
    assert RunOptions.__annotations__.keys() == RUN_OPTIONS.keys()
    assert re.findall(r"^ *- ``(\w+)``:", Node.__doc__, re.MULTILINE) == list(NODE_OPTIONS)
    assert set(re.findall(r"``(\w+)``", options.__doc__)) >= RUN_OPTIONS.keys()
    assert Node(len).settings() == {name: option.default for name, option in NODE_OPTIONS.items()} | {"name": "len"}


def test_the_options_of_a_class_are_those_of_its_calls():
    given = {"name": "scaler", "outputs": 2, "retries": 3, "timeout": 5, "cost": 0.5, "priority": 1, "where": "thread"}
    given |= {"memory": 10**9, "isolate": True, "check": False}
    given |= {"cache": True, "version": 2, "key": repr}
    assert given.keys() == NODE_OPTIONS.keys()
    node = Node(Scaler.function, **given)
    assert node.settings() == node.entry.settings() == node.options().settings() == given
    assert (node.outputs, node.entry.outputs) == (None, 2)


def test_a_node_looks_like_its_function():
    def documented(x: int) -> int:
        """What it does."""
        return x

    node = Node(documented)
    assert node.__doc__ == "What it does."
    assert node.__name__ == "documented"
    assert Node(documented, name="other").__name__ == "documented"
    assert inspect.signature(node.function) == inspect.signature(documented)
    assert node.function(3) == 3
    assert repr(node) == "<Node documented>"
    assert [repr(kind(documented)) for kind in (Component, Workflow)] == [
        "<Component documented>",
        "<Workflow documented>",
    ]


def test_two_functions_of_one_name_are_two_nodes():
    """The first version of this library kept its nodes by `__name__`."""
    first, second = Node(lambda: 1), Node(lambda: 2)
    assert [first().resolve(), second().resolve()] == [1, 2]
    both = Node(lambda a, b: (a, b))(first(), first())
    assert len(both.graph.nodes) == 3


def test_two_pipelines_of_one_process_do_not_mix():
    """a ─► b      a ─► b"""
    first, second = add(one(1), 2), add(one(1), 3)
    assert len(first.graph.nodes) == len(second.graph.nodes) == 2
    assert (first.resolve(), second.state) == (3, "waiting")


def test_keywords_and_defaults_reach_the_body():
    node = Node(lambda a, b=2, *rest, c=3, **more: (a, b, rest, c, more))
    assert node(1).resolve() == (1, 2, (), 3, {})
    assert node(b=5, a=one(4), c=one(6), d=one(7)).resolve() == (4, 5, (), 6, {"d": 7})
    assert node(1, 2, 3, one(4)).resolve() == (1, 2, (3, 4), 3, {})


# Checks


def test_a_decorated_function_is_checked_by_the_signature_that_it_shows():
    @Node
    @plus_one
    def typed(x: int, *, by: int = 1):
        return x * by

    assert typed(one(2), by=3).resolve() == 7
    with pytest.raises(ArgumentError, match="too many positional"):
        typed(1, 2)
    with pytest.raises(ArgumentError, match="'x' must be int"):
        typed("a")


@Node
def typed(x: int, y: "float | None" = None, *, names: list[str] | None = None) -> str:
    return f"{x} {y} {names}"


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: typed("1"), "'x' must be int"),
        (lambda: typed(True), "'x' must be int"),
        (lambda: typed(1.0), "'x' must be int"),
        (lambda: typed(1, "2"), "'y' must be"),
        (lambda: typed(1, y=True), "'y' must be"),
        (lambda: typed(1, names="abc"), "'names' must be"),
        (lambda: typed(typed(1)), "'typed' returns str"),
    ],
)
def test_a_wrong_type_is_refused_at_the_call(call, argument):
    with pytest.raises(ArgumentError, match=argument) as caught:
        call()
    assert str(caught.value).startswith("typed: ")


def test_what_fits_passes():
    assert typed(1, 2, names=["a"]).resolve() == "1 2 ['a']"
    assert typed(1, None).resolve() == "1 None None"


def test_a_value_that_does_not_fit_is_refused_before_the_body():
    with pytest.raises(ArgumentError, match="typed: argument 'x' must be int, not 'three'"):
        typed(one("three")).resolve()


class Shade(Enum):
    DARK = "dark"


class Options(TypedDict):
    rate: float


@pytest.mark.parametrize(
    ("annotation", "fitting", "unfitting"),
    [
        (int, [1, -1], [True, 1.0, "1", None]),
        (float, [1, 1.5], [True, "1", 1j]),
        (bool, [True], [1, None]),
        (Any, [1, None, "x"], []),
        (object, [1, None], []),
        (int | None, [1, None], ["x", True]),
        (Optional[str], ["x", None], [1]),  # noqa: UP045  as older code spells it
        (list[int], [[], [1, 2]], [(1,), ["x"], {1: 2}]),
        (dict[str, Any], [{}, {"a": object()}], [{1: 2}, [("a", 1)]]),
        (set[int], [{1}], [{"x"}, [1]]),
        (tuple[int, str], [(1, "x"), [1, "x"]], [(1,), (1, "x", 2), ("x", 1), 1]),
        (tuple[int, ...], [(), (1, 2), [1]], [("x",), 1]),
        (tuple, [(), [1]], [1, "x"]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (Shade, [Shade.DARK, "dark"], ["light", 1]),
        (Options, [{"rate": 1}, {"rate": 1, "more": 2}], [{}, 1]),
        (Callable[[int], str], [str, len], [1]),
        (Iterable[int], [[1], range(3)], [1]),
        (Annotated[int, "seconds"], [1], ["x"]),
        (type[int], [int], [1]),
        (Future[int], [1, "anything"], []),
        (Future, [1, "anything"], []),
        (Input, [1, "anything"], []),
        (Future[int] | None, [1, "anything"], []),
        (list[Future[int]], [[1], ["anything"]], [1]),
        (TypeVar("T"), [1, "x"], []),
    ],
)
def test_what_fits_an_annotation(annotation, fitting, unfitting):
    def body(x):
        return x

    body.__annotations__["x"] = annotation
    node = Node(body)
    for value in fitting:
        node(value)
        assert node(one(value)).resolve() == value
    for value in unfitting:
        with pytest.raises(ArgumentError, match="body: argument 'x' must be"):
            node(value)
        with pytest.raises(ArgumentError, match="body: argument 'x' must be"):
            node(one(value)).resolve()


def test_checks_can_be_turned_off():
    assert typed.options(check=False)(1.5).resolve() == "1.5 None None"


class Colour(NamedTuple):
    red: int


def test_annotations_that_nobody_can_check_pass():
    @Node
    def body(a: "Unknown", b: Colour, c: "list[Unknown]"):  # noqa: F821  only a type checker knows it
        return a

    assert body(1, (2,), 3).resolve() == 1


# Several outputs


def test_outputs_are_counted_from_the_annotation_or_the_option():
    @Node
    def both(x) -> tuple[int, str]:
        return x, str(x)

    @Node
    def later(x) -> "tuple[int, str, int]":
        return x, str(x), x

    @Node
    def any_number(x) -> tuple[int, ...]:
        return (x,) * x

    number, text = both(3)
    assert (number.resolve(), text.resolve()) == (3, "3")
    assert len(list(later(3))) == 3
    with pytest.raises(RecordError, match="outputs=n"):
        list(any_number(3))


def test_a_wrong_number_of_outputs_is_named():
    first, _second = Node(lambda: (1, 2, 3), outputs=2, name="three")()
    with pytest.raises(OutputError, match="'three' declares 2 outputs, but returned 3"):
        first.resolve()
    with pytest.raises(OutputError, match="returned None"):
        Node(lambda: None, outputs=2)().resolve()


def test_outputs_may_be_futures():
    first, second = Node(lambda: (one(1), one(2)), outputs=2)()
    assert (first.resolve(), second.resolve()) == (1, 2)


# map


def test_map_records_one_call_for_each_row():
    futures = add.map([1, 2], (n for n in (10, 20)))
    assert [future.resolve() for future in futures] == [11, 22]
    assert one.map({"a": 1}.values())[0].resolve() == 1
    assert one.map([]) == []
    assert one.map([one(5)])[0].resolve() == 5


def test_map_over_a_length_that_is_not_known_yet():
    numbers = Node(lambda n: list(range(n)))(4)
    assert one.map(numbers).resolve() == [0, 1, 2, 3]
    assert add.map(numbers, [10, 10, 10, 10]).resolve() == [10, 11, 12, 13]
    assert len(one.map(Node(list)()).resolve()) == 0


def test_map_refuses_unequal_and_missing_columns():
    with pytest.raises(ArgumentError, match="2, 3"):
        add.map([1, 2], [1, 2, 3])
    with pytest.raises(ArgumentError, match="2, 3"):
        add.map(one([1, 2]), [1, 2, 3]).resolve()
    with pytest.raises(ArgumentError, match="at least one column"):
        add.map()
    with pytest.raises(ArgumentError, match="missing a required argument"):
        add.map([1, 2])
    with pytest.raises(TypeError):
        one.map(3)


def test_map_works_in_bodies_and_for_components():
    @Node
    def body(numbers):
        return Node(sum)(one.map(numbers))

    assert body([1, 2, 3]).resolve() == 6
    assert [f.resolve() for f in Component(lambda x: add(x, x)).map([1, 2])] == [2, 4]


# Classes


@Node
class Scaler:
    made = 0

    def __init__(self, by):
        type(self).made += 1
        self.by = by

    def __call__(self, x):
        return self.by * x


@Node
def use(scaler, x):
    return scaler(x), scaler.by


def test_a_class_is_called_in_two_stages():
    """
    3 ─► Scaler ─► call ◄─ 4
    """
    assert Scaler(3)(4).resolve() == 12
    assert Scaler(one(3))(one(4)).resolve() == 12
    assert Scaler(by=one(3))(x=4).resolve() == 12


def test_constructing_records_and_runs_nothing():
    before = Scaler.function.made
    scaler = Scaler(3)
    assert Scaler.function.made == before
    calls = [scaler(1), scaler(2)]
    assert Node(sum)(calls).resolve() == 9
    assert Scaler.function.made == before + 1


def test_an_instance_is_passed_as_the_object():
    assert use(Scaler(2), 5).resolve() == (10, 2)
    assert use(x=5, scaler=Scaler(one(2))).resolve() == (10, 2)
    assert Node(lambda many: [each(3) for each in many])([Scaler(1), Scaler(2)]).resolve() == [3, 6]
    assert Node(lambda named: named["s"](3))({"s": Scaler(2)}).resolve() == 6


def test_an_instance_resolves_to_an_object():
    scaler = Scaler(3).resolve()
    assert (scaler.by, scaler(2)) == (3, 6)


def test_wrong_arguments_of_a_class_are_refused_at_both_stages():
    with pytest.raises(ArgumentError, match="'by'"):
        Scaler()
    with pytest.raises(ArgumentError, match="'x'"):
        Scaler(1)()
    with pytest.raises(ArgumentError, match="too many"):
        Scaler(1)(2, 3)


def test_an_instance_that_was_not_called_is_no_value():
    @Node
    def number(x: int):
        return x

    with pytest.raises(RecordError, match="constructed but not called"):
        number(Scaler(1))


@pytest.mark.parametrize("entry", ["__call__", "process", "apply"])
def test_the_entry_of_a_class_has_three_names(entry):
    cls = type("Model", (), {"__init__": lambda self: None, entry: lambda self, x: x + 1})
    assert Node(cls)()(1).resolve() == 2


def test_the_entry_of_a_class_may_be_of_any_kind():
    def model(call, **options):
        return Node(type("Model", (), {"__init__": lambda self: None, "__call__": call}), **options)()

    async def later(self, x):
        return x + await add(x, 1)

    def many(self, n):
        yield from range(n)

    assert model(later)(1).resolve() == 3
    assert model(many)(3).resolve() == [0, 1, 2]
    assert model(lambda self, x: add(x, one(1)))(1).resolve() == 2
    first, second = model(lambda self, x: (x, x + 1), outputs=2)(1)
    assert (first.resolve(), second.resolve()) == (1, 2)


def test_a_dataclass_can_be_a_node():
    @Node
    @dataclasses.dataclass
    class Scale:
        by: int = 2

        def __call__(self, x):
            return self.by * x

    assert Scale()(3).resolve() == 6
    assert Scale(by=4)(3).resolve() == 12
    with pytest.raises(ArgumentError, match="'by' must be int"):
        Scale("a")


def test_a_class_without_a_constructor_or_an_entry_is_refused():
    with pytest.raises(DefinitionError, match="__init__"):
        Node(type("NoInit", (), {"__call__": lambda self: 1}))
    with pytest.raises(DefinitionError, match=r"__call__.*process.*apply"):
        Node(type("NoCall", (), {"__init__": lambda self: None}))


def test_a_constructor_that_raises_fails_the_calls():
    @Node
    class Broken:
        def __init__(self):
            raise OSError("no model")

        def __call__(self):
            return 1

    with pytest.raises(OSError, match="no model"):
        Broken()().resolve()


def test_objects_are_closed_at_the_end_of_the_run():
    closed = []

    @Node
    class Model:
        def __init__(self, name):
            self.name = name

        def __call__(self, x):
            assert not closed
            return x

        def close(self):
            closed.append(self.name)

    model = Model("m")
    Node(list)([model(1), model(2)]).resolve()
    assert closed == ["m"]


# Components and workflows


def test_the_body_of_a_component_runs_at_the_call():
    """
    twice ─ add ─► add
    """
    ran = []

    @Component("twice")
    def twice(x):
        ran.append(x)
        return add(add(x, 1), 1)

    future = twice(one(1))
    assert ran
    assert [call.name for call in future.graph.nodes] == ["one", "twice", "add", "add"]
    assert [(a.name, b.name) for a, b in future.graph.calls] == [("twice", "add"), ("twice", "add")]
    assert future.resolve() == 3


def test_a_component_may_return_anything_and_hold_one_node_or_none():
    assert Component(lambda: {"a": [one(1), 2]})().resolve() == {"a": [1, 2]}
    assert Component(lambda x: x)(one(3)).resolve() == 3
    assert Component(lambda: 5)().resolve() == 5
    first, second = Component(lambda: (one(1), one(2)), outputs=2)()
    assert (first.resolve(), second.resolve()) == (1, 2)


def test_a_component_is_called_by_keywords_defaults_and_map_alike():
    later = one(7)
    sum_of = Component(lambda a, b=later, *, c=1: add(add(a, b), c))
    assert [call.resolve() for call in (sum_of(1), sum_of(1, c=one(2)), sum_of(b=2, a=1), *sum_of.map([1, 2]))] == [
        9,
        10,
        4,
        9,
        10,
    ]


def test_components_are_used_twice_and_inside_each_other():
    twice = Component(lambda x: add(x, x), name="twice")
    four = Component(lambda x: twice(twice(x)), name="four")
    assert Node(lambda a, b: (a, b))(four(1), four(one(2))).resolve() == (4, 8)
    assert Node(lambda x: four(x))(3).resolve() == 12


def test_a_component_cannot_decide_by_its_arguments():
    @Component
    def decides(x):
        return one(1) if x else one(2)

    assert decides(True).resolve() == 1
    with pytest.raises(RecordError, match="the truth of 'one'"):
        decides(one(1))


def test_a_component_that_raises_records_nothing():
    @Component
    def broken():
        one(1)
        raise ValueError("at the call")

    with pytest.raises(ValueError, match="at the call"):
        broken()
    assert add(1, 2).resolve() == 3


def test_a_component_is_made_from_a_plain_function():
    for bad in (_later, _counting, Scaler.function):
        with pytest.raises(DefinitionError):
            Component(bad)


def test_a_workflow_has_named_parameters_with_defaults():
    @Workflow("train")
    def train(rate: float = 0.1, *, epochs: int = 3):
        return Node(lambda r, e: (r, e))(rate, epochs)

    assert train.name == "train"
    assert train().resolve() == (0.1, 3)
    assert train(0.5, epochs=one(4)).resolve() == (0.5, 4)
    with pytest.raises(ArgumentError, match="'epochs' must be int"):
        train(epochs="many")
    with pytest.raises(ArgumentError, match="unexpected keyword"):
        train(epoch=3)
    assert Workflow(lambda: one(1))().resolve() == 1


def test_a_component_that_calls_itself_for_ever_is_refused():
    loop = Component(lambda: loop())
    with pytest.raises(DepthError):
        loop()


# Travelling


@Node(retries=3)
def by_name(x):
    return x


def test_a_node_of_a_module_travels_by_name():
    assert pickle.loads(pickle.dumps(by_name)) is by_name
    assert pickle.loads(pickle.dumps(Things.method)) is Things.method
    assert pickle.loads(pickle.dumps(Scaler)) is Scaler


def test_other_nodes_travel_with_their_functions():
    n = 3
    local = Node(lambda x: x + n, name="local", retries=2)
    again = pickle.loads(cloudpickle.dumps(local))
    assert (again.name, again.retries, again(1).resolve()) == ("local", 2, 4)
    with pytest.raises(ArgumentError):
        again()

    @Node
    def down(n):
        return down(n - 1) if n else "end"

    assert pickle.loads(cloudpickle.dumps(down))(3).resolve() == "end"
    captured = one(5)
    show = Node(lambda: str(captured))
    assert pickle.loads(cloudpickle.dumps(show()))().resolve() == "5"


def test_the_line_of_a_call_is_the_line_of_the_user():
    def line(future):
        return int(future.line.rpartition(":")[2])

    here = inspect.currentframe().f_lineno
    futures = [
        one(1),
        one.map([1])[0],
        Component(lambda: one(1))(),
        Scaler(1),
        Scaler(1)(2),
        one(1) + 1,
        one(1)[0],
        -one(1),
    ]
    assert [line(future) - here for future in futures] == list(range(2, 10))
    assert all(re.search(r"test_node\.py:\d+$", future.line) for future in futures)


def test_a_graph_of_what_is_no_future_is_refused():
    with pytest.raises(RecordError, match="not of 3"):
        Graph(3)
    with pytest.raises(RecordError):
        Graph(one)


# Mapping


def test_map_takes_what_is_the_same_for_every_call_by_keyword():
    power = Node(lambda x, to: x**to, name="power")
    assert [future.resolve(executor="inline") for future in power.map([1, 2, 3], to=2)] == [1, 4, 9]
    later = Node(lambda: [1, 2, 3])()
    assert power.map(later, to=later[1]).resolve(executor="inline") == [1, 4, 9]


def test_an_object_of_a_class_node_is_mapped_over_columns():
    @Node
    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, x, plus=0):
            return self.by * x + plus

    scale = Scale(3)
    assert [future.resolve(executor="inline") for future in scale.map([1, 2], plus=1)] == [4, 7]
    assert scale.map(Node(lambda: [1, 2])()).resolve(executor="inline") == [3, 6]


def test_a_column_that_is_no_iterable_is_named():
    with pytest.raises(ArgumentError, match=r"double\.map\(\) takes a list of arguments .*, not 3 \(int\)"):
        Node(lambda x: 2 * x, name="double").map(3)
