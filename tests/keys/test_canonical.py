"""Values mean the same in every process, and what can be told apart does not mean the same."""

import array
import asyncio
import collections
import contextvars
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import ipaddress
import itertools
import json
import logging
import math
import operator
import os
import pathlib
import pickle
import queue
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import types
import typing
import uuid
import weakref
import zoneinfo

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given

from tinygraph import Node, UnhashableArgumentError
from tinygraph.keys.canonical import INLINE, Known, canonical, token

# Another process, with another hash seed, which says what values mean there.
CHILD = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from tinygraph.keys.canonical import canonical
import tests.keys.test_canonical as here
while True:
    try:
        what = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    found = [canonical(value) for _, value in here.told_apart()] if what == "table" else canonical(what[0])
    pickle.dump(found, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


@pytest.fixture(scope="module")
def elsewhere():
    root = str(pathlib.Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )

    def ask(what):
        pickle.dump(what, child.stdin)
        child.stdin.flush()
        return pickle.load(child.stdout)

    with child:
        yield ask
        child.stdin.close()


# Random values

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.decimals()
    | st.fractions()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.uuids()
)
KEYS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=3)
)
HASHABLE = st.recursive(KEYS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=5)


def containers(inner):
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
        | st.lists(inner, max_size=3).map(collections.deque)
    )


VALUES = st.recursive(ATOMS, containers, max_leaves=12)

# Few values that are easily confused, so that equal ones come up.
CONFUSING = st.recursive(
    st.sampled_from([0, False, 0.0, -0.0, 1, True, 1.0, "", b"", "0", None, math.nan, 0j]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from(["a", 0, b"a"]), inner, max_size=2)
        | st.sets(st.sampled_from(["a", 0, None]), max_size=2)
        | st.frozensets(st.sampled_from(["a", 0, None]), max_size=2)
    ),
    max_leaves=3,
)


def is_same(one, two):
    """Whether nothing tells two values apart but the order of sets and dicts."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", two)
    if isinstance(one, complex):
        return is_same(one.real, two.real) and is_same(one.imag, two.imag)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(is_same, one, two))
    if isinstance(one, dict):
        rest = list(two.items())
        return len(one) == len(two) and all(any(is_same(item, other) for other in rest) for item in one.items())
    if isinstance(one, set | frozenset):
        return len(one) == len(two) and all(any(is_same(item, other) for other in two) for item in one)
    return one == two


def rebuilt(value):
    """An equal value that shares nothing with it, its dicts and sets filled the other way round."""
    if isinstance(value, dict):
        return {rebuilt(key): rebuilt(item) for key, item in reversed(list(value.items()))}
    if isinstance(value, set | frozenset):
        return type(value)([rebuilt(item) for item in reversed(list(value))])
    if isinstance(value, list | tuple | collections.deque):
        return type(value)([rebuilt(item) for item in value])
    return "".join(list(value)) if isinstance(value, str) else value


@given(VALUES)
def test_a_value_means_the_same_in_another_process(elsewhere, value):
    assert elsewhere([value]) == canonical(value)


@given(VALUES)
def test_neither_order_nor_sharing_counts(value):
    assert canonical(rebuilt(value)) == canonical(value)
    assert canonical([value, value]) == canonical([value, rebuilt(value)])


@given(CONFUSING, CONFUSING)
def test_values_mean_the_same_only_if_nothing_tells_them_apart(one, two):
    assert (canonical(one) == canonical(two)) is is_same(one, two)


@given(VALUES)
def test_a_token_is_the_value_or_its_digest(value):
    data, found = canonical(value), token(value)
    assert data[:1] != b"#"
    assert found == data if len(data) <= INLINE else (found[:1] == b"#" and len(found) == 21)


@given(VALUES)
def test_a_small_value_that_is_known_by_its_token_is_the_value(value):
    if token(value)[:1] != b"#":
        assert canonical({"a": [Known(token(value))]}) == canonical({"a": [value]})


# A table of everything else


@dataclasses.dataclass
class Record:
    a: int = 1
    b: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: int = 1


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(typing.NamedTuple):
    x: int = 1


class Hidden:
    __slots__ = ("__a", "b", "c")

    def __init__(self, a):
        self.__a = a
        self.b = 2


class Trouble(Exception):
    def __init__(self, what, code):
        super().__init__(what)
        self.code = code


class Names(dict):
    pass


class Series(list):
    pass


class Word(str):
    __slots__ = ()


class Tagged(np.ndarray):
    pass


class Model:
    rate = 0.5

    def __init__(self, seen=("q", "w", "e")):
        self.seen = set(seen)

    def fit(self):
        return self.rate

    @functools.cached_property
    def size(self):
        return len(self.seen)


class Locked:
    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()

    def __tinygraph_key__(self):
        return self.path


class Reduced:
    def __init__(self, n):
        self.n = n
        self.lock = threading.Lock()

    def __reduce__(self):
        return Reduced, (self.n,)


def helper(x):
    return x


def other_helper(x):
    return -x


T = typing.TypeVar("T")
UserId = typing.NewType("UserId", int)
leaf = Node(helper, name="leaf")


def with_attributes(value, **attributes):
    value.__dict__.update(attributes)
    return value


def frame(**columns):
    return pd.DataFrame(columns or {"a": [1, 2], "b": ["x", None]})


def told_apart():
    """Values by name, each of which means something else."""
    utc = datetime.UTC
    structured = np.zeros(2, dtype=[("a", "i1"), ("b", "f8")])
    grid = np.arange(6.0).reshape(2, 3)
    return list(
        {
            "set": {"a", "b", "c"},
            "frozenset": frozenset({"a", "b", "c"}),
            "mixed set": {1, "a", (1, "b"), None, frozenset({"q", "r"})},
            "dict": {"a": 1, "b": 2},
            "dict like a dict's tree": {"dict": ["a", 1, "b", 2]},
            "list": [1, 2],
            "tuple": (1, 2),
            "nested": [[1], [2]],
            "nested otherwise": [[1, 2]],
            "empty list": [],
            "empty tuple": (),
            "empty dict": {},
            "empty set": set(),
            "é": "\u00e9",
            "é in two": "e\u0301",
            "surrogate": "\udc80",
            "bytes": b"abc",
            "bytearray": bytearray(b"abc"),
            "memoryview": memoryview(b"abc"),
            "strided memoryview": memoryview(b"a_b_c_d")[::2],
            "array.array": array.array("d", [1.0]),
            "float array.array": array.array("f", [1.0]),
            "long bytes": b"x" * 100_000,
            "long bytearray": bytearray(b"x" * 100_000),
            "long text": "x" * 100_000,
            "range": range(3),
            "range otherwise": range(0, 3, 2),
            "slice": slice(1, None),
            "Ellipsis": ...,
            "NotImplemented": NotImplemented,
            "Decimal 1.0": decimal.Decimal("1.0"),
            "Decimal 1.00": decimal.Decimal("1.00"),
            "Fraction": fractions.Fraction(1, 3),
            "datetime": datetime.datetime(2020, 1, 1),
            "datetime, UTC": datetime.datetime(2020, 1, 1, tzinfo=utc),
            "datetime, Berlin": datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
            "datetime, fold": datetime.datetime(2020, 1, 1, fold=1),
            "date": datetime.date(2020, 1, 1),
            "time": datetime.time(1),
            "timedelta": datetime.timedelta(1),
            "Path": pathlib.Path("a/b"),
            "PurePosixPath": pathlib.PurePosixPath("a/b"),
            "UUID": uuid.UUID(int=5),
            "address": ipaddress.ip_address("1.1.1.1"),
            "network": ipaddress.ip_network("10.0.0.0/8"),
            "deque": collections.deque([1, 2]),
            "bounded deque": collections.deque([1, 2], 5),
            "OrderedDict": collections.OrderedDict(a=1, b=2),
            "OrderedDict otherwise": collections.OrderedDict(b=2, a=1),
            "defaultdict": collections.defaultdict(list, a=1, b=2),
            "defaultdict otherwise": collections.defaultdict(set, a=1, b=2),
            "Counter": collections.Counter("hello"),
            "ChainMap": collections.ChainMap({"a": 1}, {"b": 2}),
            "UserDict": collections.UserDict(a=1),
            "mappingproxy": types.MappingProxyType({"a": 1}),
            "namespace": types.SimpleNamespace(a=1),
            "count": itertools.count(3),
            "iterator": iter([1, 2]),
            "pattern": re.compile("a+"),
            "pattern otherwise": re.compile("a+", re.IGNORECASE),
            "logger": logging.getLogger("a.b"),
            "ContextVar": contextvars.ContextVar("a"),
            "list[int]": list[int],
            "List[int]": typing.List[int],  # noqa: UP006  it is another object
            "int | str": int | str,
            "Any": typing.Any,
            "Callable": typing.Callable[[int], str],
            "Literal": typing.Literal["a"],
            "TypeVar": T,
            "NewType": UserId,
            "BytesIO": io.BytesIO(b"a"),
            "StringIO": io.StringIO("a"),
            # classes and their instances
            "int": int,
            "str": str,
            "a class": Model,
            "a dataclass": Record,
            "an enum": Colour,
            "a record": Record(),
            "a record otherwise": Record(2),
            "a record of a list": Record(1, [1]),
            "a slotted record": Slotted(),
            "a member": Colour.RED,
            "another member": Colour.BLUE,
            "a flag": Access.READ | Access.WRITE,
            "a point": Point(),
            "a point otherwise": Point(2),
            "slots": Hidden(1),
            "slots otherwise": Hidden(2),
            "an exception": Trouble("a", 1),
            "an exception otherwise": Trouble("a", 2),
            "a group": ExceptionGroup("a", [ValueError(1)]),
            "derived from dict": Names(a=1, b=2),
            "derived from list": Series([1, 2]),
            "with an attribute": with_attributes(Series([1, 2]), unit="m"),
            "derived from str": Word("a"),
            "an object": Model(),
            "an object otherwise": Model("ab"),
            "by its own key": Locked("a"),
            "by its own key otherwise": Locked("b"),
            "by its reduce": Reduced(1),
            "by its reduce otherwise": Reduced(2),
            # functions
            "a function": helper,
            "another function": other_helper,
            "a lambda": lambda x: x,
            "a lambda otherwise": lambda x: -x,
            "a partial": functools.partial(helper, 1, y=2),
            "a partial otherwise": functools.partial(helper, 1, y=3),
            "a bound method": Model().fit,
            "a bound method of another": Model("ab").fit,
            "len": len,
            "str.upper": str.upper,
            "'a'.upper": "a".upper,
            "int.__add__": int.__add__,
            "dict.fromkeys": dict.fromkeys,
            "itemgetter": operator.itemgetter(1),
            "random.choice": random.choice,
            "np.random.rand": np.random.rand,
            "np.mean": np.mean,
            "np.add": np.add,
            "a node": leaf,
            "json": json,
            "numpy": np,
            "a random generator": random.Random(3),
            # numpy
            "array": grid,
            "array as float32": grid.astype("f4"),
            "array, big-endian": grid.astype(">f8"),
            "array, other shape": grid.reshape(3, 2),
            "array, transposed": grid.T,
            "0-d": np.array(5.0),
            "1 element": np.array([5.0]),
            "scalar": np.float64(5.0),
            "5.0": 5.0,
            "structured": structured,
            "a record of it": structured[0],
            "objects": np.array([1, "a", {"b"}], dtype=object),
            "datetime64": np.array(["2020-01-01"], "M8[D]"),
            "datetime64 otherwise": np.array(["2020-01-01"], "M8[s]"),
            "texts": np.array(["a", "bc"]),
            "texts of any length": np.array(["a", "bc"], dtype=np.dtypes.StringDType()),
            "empty": np.empty((0, 3)),
            "empty otherwise": np.empty((3, 0)),
            "masked": np.ma.array([1, 2, 3], mask=[0, 1, 0]),
            "unmasked": np.ma.array([1, 2, 3]),
            "long double": np.ones(3, np.longdouble),
            "records": np.rec.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f8")]),
            "of a class": np.zeros(2).view(Tagged),
            "of a class, with an attribute": with_attributes(np.zeros(2).view(Tagged), unit="m"),
            "np.int8": np.int8(1),
            "np.bool": np.bool_(True),
            "np.datetime64": np.datetime64("2020-01-01"),
            "dtype": np.dtype("f8"),
            "structured dtype": np.dtype([("a", "i4")]),
            "Generator": np.random.default_rng(3),
            "Generator otherwise": np.random.default_rng(4),
            "RandomState": np.random.RandomState(3),
            "SeedSequence": np.random.SeedSequence(3),
            # pandas
            "frame": frame(),
            "frame, other name": frame(a=[1, 2], c=["x", None]),
            "frame, other order": frame(b=["x", None], a=[1, 2]),
            "frame, other type": frame(a=[1.0, 2.0], b=["x", None]),
            "frame, other index": frame().set_index(pd.Index([1, 2])),
            "frame, named index": frame().set_index(pd.Index([1, 2], name="i")),
            "frame, categories": frame(a=pd.Categorical(["u", "v"])),
            "frame, more categories": frame(a=pd.Categorical(["u", "v"], categories=["u", "v", "w"])),
            "frame, ordered": frame(a=pd.Categorical(["u", "v"], ordered=True)),
            "frame, with dates": frame(a=pd.date_range("2020", periods=2)),
            "frame, with a zone": frame(a=pd.date_range("2020", periods=2, tz="UTC")),
            "series": pd.Series([1, 2], name="n"),
            "series, no name": pd.Series([1, 2]),
            "series, nullable": pd.Series([1, 2], dtype="Int64"),
            "series, NA": pd.Series([1, None], dtype="Int64"),
            "series, NaN": pd.Series([1, None]),
            "series of objects": pd.Series([1, "a", None, pd.NA], dtype=object),
            "series of arrow": pd.Series([1, None], dtype="int64[pyarrow]"),
            "series, sparse": pd.Series(pd.arrays.SparseArray([0, 0, 1])),
            "booleans": pd.array([True, None], dtype="boolean"),
            "strings": pd.array(["a", None], dtype="string[python]"),
            "MultiIndex": pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["p", "q"]),
            "RangeIndex": pd.RangeIndex(3),
            "Index": pd.Index([0, 1, 2]),
            "intervals": pd.interval_range(0, 2),
            "periods": pd.period_range("2020", periods=2, freq="M"),
            "Timestamp": pd.Timestamp("2020"),
            "Timestamp, UTC": pd.Timestamp("2020", tz="UTC"),
            "NaT": pd.NaT,
            "NA": pd.NA,
            # pyarrow
            "table": pa.table({"a": [1, None, 3], "b": ["x", "y", None]}),
            "table otherwise": pa.table({"a": [1, None, 4], "b": ["x", "y", None]}),
            "batch": pa.record_batch({"a": [1, None, 3], "b": ["x", "y", None]}),
            "arrow array": pa.array([1, 2]),
            "arrow array of int8": pa.array([1, 2], pa.int8()),
            "arrow nulls": pa.array([None, 1, 2]),
            "arrow nulls otherwise": pa.array([1, None, 2]),
            "arrow, nested": pa.array([[1], None, [2, 3]]),
            "arrow scalar": pa.scalar(1),
            "schema": pa.schema([("a", pa.int64())]),
            "arrow type": pa.int64(),
        }.items()
    )


def test_everything_in_the_table_means_something_else():
    seen = {}
    for name, value in told_apart():
        twin = seen.setdefault(canonical(value), name)
        assert twin == name


def test_everything_in_the_table_means_the_same_in_another_process(elsewhere):
    there = dict(zip([name for name, _ in told_apart()], elsewhere("table"), strict=True))
    assert [name for name, value in told_apart() if there[name] != canonical(value)] == []


def test_everything_in_the_table_means_the_same_again():
    """Also the second time, and inside of other values."""
    once, again = told_apart(), told_apart()
    assert canonical(dict(once[:20])) == canonical(dict(reversed(again[:20])))
    for (name, one), (_, two) in zip(once, again, strict=True):
        assert canonical(one) == canonical(one) == canonical(two), name
        assert canonical({"in": [one]}) == canonical({"in": [two]}), name


# What does not count

GRID = np.arange(24, dtype="i4").reshape(4, 6)


@pytest.mark.parametrize(
    "same",
    [
        GRID.copy(order="F"),
        np.repeat(GRID, 2, axis=0)[::2],
        np.pad(GRID, 1)[1:-1, 1:-1],
        np.flip(np.flip(GRID).copy()),
        GRID.T.copy().T,
    ],
    ids=["order", "strides", "a view", "negative strides", "transposed twice"],
)
def test_the_layout_of_an_array_does_not_count(same):
    assert canonical(same) == canonical(GRID)


def test_where_an_array_lies_does_not_count(tmp_path):
    np.save(tmp_path / "grid.npy", GRID)
    mapped = np.load(tmp_path / "grid.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert canonical(mapped) == canonical(GRID)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_what_nobody_can_see_does_not_count():
    """The gaps of a structured array, what lies under a mask, beside a long double, or under a null."""
    padded = np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 8], "itemsize": 16})
    one, two = np.zeros(2, padded), np.frombuffer(bytearray(b"\xff" * 32), padded).copy()
    two["a"], two["b"] = 0, 0
    assert canonical(one) == canonical(two)
    masked = [np.ma.array([1, hidden, 3], mask=[0, 1, 0]) for hidden in (2, 9)]
    assert canonical(masked[0]) == canonical(masked[1])
    nullable = [pd.arrays.IntegerArray(np.array([1, hidden]), np.array([False, True])) for hidden in (2, 9)]
    assert canonical(nullable[0]) == canonical(nullable[1])
    nulls = pa.array([True, False, True]).buffers()[1]
    arrow = [pa.Array.from_buffers(pa.int8(), 3, [nulls, pa.py_buffer(bytes([1, n, 3]))]) for n in (2, 9)]
    assert arrow[0].to_pylist() == [1, None, 3]
    assert canonical(arrow[0]) == canonical(arrow[1])


def test_how_a_table_is_cut_does_not_count():
    whole = pa.table({"a": [1, None, 3], "b": ["x", "y", None]})
    assert canonical(pa.concat_tables([whole[:1], whole[1:]])) == canonical(whole)
    longer = pa.table({"a": [0, 1, None, 3, 4], "b": ["", "x", "y", None, "z"]})
    assert canonical(longer[1:4]) == canonical(whole)
    assert canonical(pa.array(["a", "b", "a"]).dictionary_encode().dictionary_decode()) == canonical(
        pa.array(["a", "b", "a"])
    )


def test_how_a_frame_is_stored_does_not_count():
    one = pd.DataFrame(np.arange(6.0).reshape(3, 2), columns=["a", "b"])
    two = pd.DataFrame({"a": [0.0, 2.0, 4.0]})
    two["b"] = [1.0, 3.0, 5.0]
    assert canonical(one) == canonical(two)


def test_what_a_cached_property_keeps_does_not_count():
    model = Model()
    before = canonical(model)
    assert model.size == 3
    assert canonical(model) == before


def test_nan_is_its_bits():
    negative = struct.unpack("d", struct.pack("Q", 0xFFF8_0000_0000_0000))[0]
    assert canonical(math.nan) == canonical(float("nan")) != canonical(negative)
    assert canonical({math.nan: 1}) == canonical({float("nan"): 1})


# Shared, recursive and deep


def test_what_is_shared_is_written_once():
    """2^60 leaves in 60 lists."""
    value = ["leaf"]
    for _ in range(60):
        value = [value, value]
    assert len(canonical(value)) < 10_000


def test_what_holds_itself_has_an_end():
    def looped():
        value = [1]
        value.append(value)
        return value

    def family():
        parent = types.SimpleNamespace(name="p", kids=[])
        parent.kids += [types.SimpleNamespace(name=n, parent=parent) for n in "ab"]
        return parent

    table = {}
    table["self"] = table
    assert canonical(looped()) == canonical(looped())
    assert canonical(family()) == canonical(family())
    assert len({canonical(looped()), canonical(family()), canonical(table)}) == 3
    web = [types.SimpleNamespace(at=at) for at in range(40)]
    for node in web:
        node.others = web
    assert canonical(web) == canonical(web)


def test_too_deep_is_said_so():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UnhashableArgumentError, match="nested too deep"):
        canonical(value)


# What has no meaning


class Addressed:
    def __reduce__(self):
        return Addressed, (id(self),)


class Described:
    def __getstate__(self):
        return {"shown": repr(self)}


class Private:
    def __init__(self):
        self.model = types.SimpleNamespace(lock=threading.Lock())


def refused():
    def numbers():
        yield 1

    async def routine():
        await asyncio.sleep(0)

    waiting = routine()
    waiting.close()
    deep = {"a": [1, {"b": threading.Lock()}]}
    with socket.socket() as closed, pathlib.Path(os.devnull).open() as file:
        yield from [
            ("lock", threading.Lock(), "argument 'x' has no key"),
            ("generator", numbers(), "argument 'x' has no key"),
            ("coroutine", waiting, "argument 'x' has no key"),
            ("socket", closed, "argument 'x' has no key"),
            ("file", file, "argument 'x' has no key"),
            ("queue", queue.Queue(), "argument 'x'"),
            ("weakref", weakref.ref(Model), "argument 'x' has no key"),
            ("frame", sys._getframe(), "argument 'x' has no key"),
            ("nested", deep, r"argument 'x'\['a'\]\[1\]\['b'\] has no key"),
            ("hidden", Private(), r"argument 'x'\.model\.lock has no key"),
            ("in an array", np.array([1, threading.Lock()], dtype=object), r"argument 'x'\[1\] has no key"),
            ("in a frame", pd.DataFrame({"z": [threading.Lock()]}), r"argument 'x'\['z'\]\[0\] has no key"),
            ("in a partial", functools.partial(helper, threading.Lock()), r"argument 'x'\.args\[0\] has no key"),
            ("future", leaf(1), "argument 'x' has no key: <Future .*> has no value yet"),
            ("address", Addressed(), "Addressed is pickled by its address"),
            ("description", Described(), "address in memory"),
        ]


def test_what_means_nothing_later_is_refused_with_its_path_and_the_ways_out():
    for name, value, message in refused():
        with pytest.raises(UnhashableArgumentError, match=message) as caught:
            canonical(value, "argument 'x'")
        assert "key=" in str(caught.value), name
        assert "__tinygraph_key__" in str(caught.value), name
        assert "cache=False" in str(caught.value), name


def test_a_refusal_is_a_type_error():
    with pytest.raises(TypeError):
        token(threading.Lock())


# torch, which is not needed to know its tensors


def test_a_tensor_is_known_without_its_library(monkeypatch):
    torch = types.ModuleType("torch")
    torch.uint8 = "u1"

    class Tensor:
        layout, is_quantized, requires_grad = "torch.strided", False, False
        device = types.SimpleNamespace(type="cpu")

        def __init__(self, array):
            self.array = array
            self.dtype, self.shape = f"torch.{array.dtype}", array.shape

        def untyped_storage(self):
            raise AssertionError("not read")

        def detach(self):
            return self

        def cpu(self):
            return self

        def contiguous(self):
            return Tensor(np.ascontiguousarray(self.array))

        def reshape(self, *shape):
            return Tensor(self.array.reshape(*shape))

        def view(self, dtype):
            return Tensor(self.array.view(dtype))

        def numpy(self):
            return self.array

        def numel(self):
            return self.array.size

    Tensor.__module__ = "torch"
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert canonical(Tensor(GRID)) == canonical(Tensor(GRID.copy(order="F")))
    found = {canonical(Tensor(a)) for a in (GRID, GRID + 1, GRID.astype("f4"), GRID.reshape(6, 4), np.empty(0))}
    assert len(found) == 5
