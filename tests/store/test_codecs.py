"""A value comes back as it went in, belongs to who got it, and lies where it lies."""

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygraph.store.codecs as room
from tinygraph.errors import DefinitionError, StoreError
from tinygraph.keys.files import Directory, File
from tinygraph.store.codecs import LARGEST_JSON, Encoded, codec, decode, encode, runs_code


def body_of(encoded: Encoded) -> bytearray:
    """The body as a store hands it out: memory that the consumer may write to."""
    body = bytearray(b"".join(encoded.buffers))
    assert len(body) == encoded.nbytes
    return body


def round_trip(value):
    encoded = encode(value)
    return decode(encoded.codec, encoded.meta, memoryview(body_of(encoded)))


def as_read(value):
    """The same where the body is small: bytes, which nobody may write to."""
    encoded = encode(value)
    return decode(encoded.codec, encoded.meta, memoryview(bytes(body_of(encoded))))


def content(value):
    """What makes two values the same: types, order, bits, and what occurs twice."""
    if isinstance(value, np.ndarray):
        bits = [content(one) for one in value.ravel().tolist()] if value.dtype.hasobject else value.tobytes()
        return type(value), value.dtype, value.dtype.isalignedstruct, value.shape, value.flags.writeable, bits
    if isinstance(value, float):
        return type(value), value.hex() if value == value else "nan"
    if isinstance(value, complex):
        return content(value.real), content(value.imag)
    if isinstance(value, dict):
        return type(value), [(content(key), content(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [content(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, value))
    if isinstance(value, pa.Table | pa.RecordBatch):
        return type(value), value.schema.to_string(show_schema_metadata=True), value.schema.metadata, value.to_pylist()
    return type(value), value


@dataclasses.dataclass
class Point:
    x: float
    y: object


class Colour(enum.Enum):
    RED = 1


Named = collections.namedtuple("Named", "a b")


class Text(str):
    """Not quite a str."""


class Numbers(np.ndarray):
    """Not quite an array."""


grid = np.arange(12.0).reshape(3, 4)
frozen = np.arange(3)
frozen.flags.writeable = False
PACKED = np.dtype([("a", "i1"), ("b", "f8", (2,)), ("π", "S3")])

TABLE = [
    # value, codec
    (None, "json"),
    (True, "json"),
    (0, "json"),
    (-(2**1999), "json"),
    (2**20_000, "pickle"),
    (1.5, "json"),
    (-0.0, "json"),
    (5e-324, "json"),
    (math.inf, "pickle"),
    (math.nan, "pickle"),
    (1 + 2j, "pickle"),
    (..., "pickle"),
    ("", "text"),
    ("grün \0 \U0001f600 e\u0301", "text"),
    ("half \ud83d of a pair \ude00", "pickle"),
    ("x" * 200_000, "text"),
    (Text("x"), "pickle"),
    (b"", "bytes"),
    (b"\0\xff", "bytes"),
    (bytearray(b"abc"), "pickle"),
    ([], "json"),
    ({}, "json"),
    ([1, True, 1.0, None, "1", -0.0], "json"),
    ({"b": 1, "a": {"c": [[], {}, ""]}}, "json"),
    ({"": None, 'ü\n"\\\u2028': "\x7f"}, "json"),
    ([math.nan], "pickle"),
    ([10**700], "pickle"),
    (["\ud800"], "pickle"),
    ({"\ud800": 1}, "pickle"),
    ({1: 2}, "pickle"),
    ({"a": (1, 2)}, "pickle"),
    ({"a": {1, 2}}, "pickle"),
    ([Text("x")], "pickle"),
    ({Text("x"): 1}, "pickle"),
    (["x" * 2 * LARGEST_JSON], "pickle"),
    (list(range(100_000)), "pickle"),
    ([[1]] * 2, "pickle"),
    (collections.OrderedDict(b=1, a=2), "pickle"),
    (collections.defaultdict(list, a=[1]), "pickle"),
    (collections.Counter("abba"), "pickle"),
    (collections.deque([1, 2], 3), "pickle"),
    ((), "pickle"),
    ((1, 2.5, "x", None), "pickle"),
    ((1, [2, {"a": 3}]), "pickle"),
    (frozenset("abc"), "pickle"),
    (range(3), "pickle"),
    (slice(1, 2), "pickle"),
    (decimal.Decimal("1.00"), "pickle"),
    (fractions.Fraction(1, 3), "pickle"),
    (datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC), "pickle"),
    (pathlib.PurePosixPath("/x/y"), "pickle"),
    (uuid.UUID(int=5), "pickle"),
    (array.array("d", [1.5]), "pickle"),
    (Point(1.0, [2]), "pickle"),
    (Colour.RED, "pickle"),
    (Named(1, "b"), "pickle"),
    (math.sqrt, "pickle"),
    (Point, "pickle"),
    (np.float32(1.5), "pickle"),
    (np.str_("x"), "pickle"),
    (grid, "npy"),
    (np.asfortranarray(grid), "npy"),
    (grid[:, ::2], "npy"),
    (grid[::-1], "npy"),
    (np.moveaxis(np.zeros((2, 3, 4)), 0, 1), "npy"),
    (np.array(3.0), "npy"),
    (np.empty((0, 5)), "npy"),
    (np.empty((2, 0, 3), "M8[ns]"), "npy"),
    (np.zeros(3, "S0"), "npy"),
    (grid > 5, "npy"),
    (grid.astype(">f8"), "npy"),
    (grid.astype("f2"), "npy"),
    (grid.astype("G"), "npy"),
    (np.array([math.nan, -0.0, math.inf]), "npy"),
    (np.array(["2026-11-20", "NaT"], "M8[s]"), "npy"),
    (np.array([1, 2], "m8[7D]"), "npy"),
    (np.array(["grün", "x"]), "npy"),
    (np.array([b"x\0y"]), "npy"),
    (np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]), "npy"),
    (np.zeros(2, PACKED), "pickle"),  # a name that the first versions of .npy do not know
    (np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)), "pickle"),
    (np.zeros(2, [(("title", "a"), "i4")]), "pickle"),
    (np.zeros(2, np.dtype("f8", metadata={"a": 1})), "pickle"),
    (frozen, "npy"),
    (np.array([1, None, "x"], object), "pickle"),
    (np.zeros(2, [("a", object)]), "pickle"),
    (np.arange(3).view(Numbers), "pickle"),
    (np.dtype("f8"), "pickle"),
    (pa.table({"a": [1, None], "b": ["x", "ü"], "c": [[1.5], []]}), "arrow"),
    (pa.table({}), "arrow"),
    (pa.table({"a": pa.chunked_array([[1], [], [2, 3]])}).replace_schema_metadata({"who": "me"}), "arrow"),
    (pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode()}), "arrow"),
    (pa.table({"a": list(range(100))}).slice(10, 5), "arrow"),
    (pa.record_batch({"a": [1, 2]}), "arrow"),
    (pa.table({"a": pa.array([uuid.UUID(int=5).bytes], pa.uuid())}), "pickle"),
    (pa.array([1, None]), "pickle"),
    ((grid, frozen), "parts"),
    ((grid, {"accuracy": 0.5, "names": ["a"]}, "text", b"bytes", None, 3), "parts"),
    ((grid, (np.arange(3), (np.array(1), ()))), "parts"),
    ((pa.table({"a": [1]}), np.empty(0)), "parts"),
    ((grid, {1: 2}), "pickle"),
    ((grid, math.nan), "pickle"),
    ((grid, Point(1, 2)), "pickle"),
    ((grid, [grid + 1]), "pickle"),
    (Named(grid, 1), "pickle"),
    ({"weights": grid, "more": [np.arange(3)]}, "pickle"),
    ([grid, 1], "pickle"),
]


@pytest.mark.parametrize(("value", "name"), TABLE, ids=[f"{i}-{type(row[0]).__name__}" for i, row in enumerate(TABLE)])
def test_a_value_comes_back_as_it_went_in(value, name):
    encoded = encode(value)
    assert encoded.codec == name
    assert not encoded.files
    assert content(round_trip(value)) == content(value)
    assert content(as_read(value)) == content(value)


def test_what_is_not_a_number_keeps_its_bits():
    odd = np.array([0x7FF8000000000001, 0xFFF8000000000000], "u8").view("f8")
    assert np.array_equal(round_trip(odd).view("u8"), odd.view("u8"))


def test_what_occurs_twice_is_one_thing():
    """value ──► inner ◄── value, in whatever it is written"""
    inner = [1]
    for value in ([inner, inner], (grid, inner, inner), (inner, grid, {"a": inner}), {"a": inner, "b": [inner]}):
        got = round_trip(value)
        assert content(got) == content(value)
    twice = round_trip((grid, grid))
    assert twice[0] is twice[1]
    deep = round_trip((inner, grid, {"a": inner}))
    assert deep[0] is deep[2]["a"]
    loop = [1]
    loop.append(loop)
    got = round_trip(loop)
    assert got[1] is got


def test_deep_nesting_does_not_matter_or_is_refused_by_the_pickler():
    value = []
    for _ in range(300):
        value = [value]
    assert round_trip(value) == value
    for _ in range(100_000):
        value = [value]
    with pytest.raises(pickle.PicklingError, match="recursion"):
        encode(value)
    while value:  # taken apart by hand: collecting it would recurse as well
        value = value[0]


def test_what_cannot_be_pickled_raises_as_the_pickler_does():
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
        encode({"a": [threading.Lock()]})


# Laws

atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
keys = st.text() | st.integers() | st.booleans() | st.none()
plain = st.recursive(
    atoms,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner) | st.frozensets(keys),
    max_leaves=20,
)


@given(plain)
def test_whatever_is_plain_comes_back(value):
    assert content(round_trip(value)) == content(value)


@given(st.text(st.characters(exclude_categories=[])))
def test_every_text_comes_back(value):
    assert round_trip(value) == value
    assert round_trip({value: [value]}) == {value: [value]}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ).filter(lambda value: type(value) is list or type(value) is dict)
)
def test_what_json_holds_is_json(value):
    encoded = encode(value)
    assert encoded.codec == "json"
    assert content(json.loads(body_of(encoded).decode())) == content(value)


@given(
    st.sampled_from(["?", "i1", "<i4", ">u2", "f2", "f4", ">f8", "c8", "M8[us]", "m8[ns]", "S3", "U2"]),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from("CF"),
    st.booleans(),
)
def test_arrays_of_all_shapes_come_back(dtype, shape, order, every_other):
    size = math.prod(shape)
    value = np.array(np.arange(size).reshape(shape).astype(dtype), order=order)
    if every_other and shape:
        value = value[::2]
    assert content(round_trip(value)) == content(value)
    assert content(round_trip((value, 1))) == content((value, 1))
    assert content(round_trip([value])) == content([value])


# Where it lies


def address(thing):
    return np.frombuffer(thing, np.uint8).ctypes.data


def test_an_npy_body_is_a_file_that_numpy_reads(tmp_path):
    for i, value in enumerate([grid, np.asfortranarray(grid), np.array(1), np.zeros(2, "S0"), np.zeros((2, 0))]):
        path = tmp_path / f"{i}.npy"
        path.write_bytes(body_of(encode(value)))
        assert content(np.load(path, allow_pickle=False)) == content(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda big: big,
        lambda big: np.asfortranarray(big.reshape(2, -1)),
        lambda big: (1, big, "x", big + 1),
        lambda big: ([1], (big, {"a": 1}), big.astype("M8[s]")),
        lambda big: {"a": big, "b": [big + 1]},
        lambda big: Point(0.5, [Point(1, big)]),
        lambda big: pd.DataFrame({("a", 1): big}),
    ],
)
def test_arrays_are_mapped_where_they_lie(make):
    """body: | header | ...... array ...... | ...... array ...... |   each aligned, none copied"""
    value = make(np.arange(2_000))
    encoded = encode(value)
    body = np.frombuffer(body_of(encoded), np.uint8)
    found = list(arrays_in(decode(encoded.codec, encoded.meta, memoryview(body))))
    assert found
    for one in found:
        assert np.shares_memory(one, body)
        assert (one.ctypes.data - body.ctypes.data) % 64 == 0
        assert one.flags.writeable


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, pd.DataFrame):
        yield value._mgr.blocks[0].values
    elif isinstance(value, Point):
        yield from arrays_in(value.y)
    elif isinstance(value, dict):
        yield from arrays_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from arrays_in(one)


def test_arrow_tables_are_not_copied():
    encoded = encode(pa.table({"a": list(range(1000))}))
    body = body_of(encoded)
    got = decode(encoded.codec, encoded.meta, memoryview(body))
    at = got.column("a").chunk(0).buffers()[1].address
    assert address(body) <= at < address(body) + len(body)


def test_the_memory_of_an_array_is_written_as_it_is():
    big = np.zeros(100 << 20, np.uint8)
    values = [big, (big, big[1:]), {"a": big}, Point(0, big)]
    for value in values:
        tracemalloc.start()
        encoded = encode(value)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert any(np.shares_memory(np.frombuffer(one, np.uint8), big) for one in encoded.buffers if len(one))
        assert encoded.nbytes >= big.nbytes
        assert peak < 1 << 20


def test_reading_an_array_costs_no_memory():
    encoded = encode((np.zeros(100 << 20, np.uint8), {"a": 1}))
    body = memoryview(body_of(encoded))
    tracemalloc.start()
    got = decode(encoded.codec, encoded.meta, body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got[0].nbytes == 100 << 20
    assert peak < 1 << 20


def test_large_bytes_inside_a_value_are_not_copied_on_their_way_out():
    big = bytes(50 << 20)
    tracemalloc.start()
    for value in (big, {"a": big}, (1, big), [Point(0, big)]):
        assert encode(value).nbytes >= len(big)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: np.arange(5_000), lambda value: value.fill(7)),
        (lambda: (np.arange(5_000), [1]), lambda value: (value[0].fill(7), value[1].append(2))),
        (lambda: {"a": np.arange(5_000), "b": {}}, lambda value: (value["a"].fill(7), value["b"].update(c=1))),
        (lambda: [1, {"a": 2}], lambda value: value[1].clear()),
        (lambda: pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}), lambda value: value.__setitem__("a", 7)),
    ],
)
def test_changing_ones_copy_changes_nobody_elses(make, change, tmp_path):
    """Each consumer maps the file privately, as a store does."""
    import mmap

    encoded = encode(make())
    path = tmp_path / "body"
    path.write_bytes(body_of(encoded))

    def read():
        with open(path, "r+b") as file:
            body = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        return decode(encoded.codec, encoded.meta, body)

    one, other = read(), read()
    change(one)
    for untouched in (other, read()):
        if isinstance(untouched, pd.DataFrame):
            pd.testing.assert_frame_equal(untouched, make())
        else:
            assert content(untouched) == content(make())


def test_a_value_outlives_the_body_it_was_read_from():
    encoded = encode((np.arange(5_000), {"a": 1}))
    got = decode(encoded.codec, encoded.meta, memoryview(body_of(encoded)))
    del encoded
    assert got[0].sum() == 12497500


# Frames

DAYS = pd.date_range("2026-01-01", periods=3)
FRAMES = {
    "numbers": (pd.DataFrame({"a": [1, 2], "b": [0.5, math.nan], "c": [True, False]}), True),
    "sizes": (pd.DataFrame({k: np.array([1, 2], k) for k in ("i1", "u2", "i4", "u8", "f4", "f8", "?")}), True),
    "times": (pd.DataFrame({u: np.array(["2026", "NaT"], f"M8[{u}]") for u in ("s", "ms", "us", "ns")}), True),
    "durations": (pd.DataFrame({"a": np.array([1, "NaT"], "m8[ns]")}), True),
    "text": (pd.DataFrame({"a": ["x", None], "b": ["", "ü"]}), True),
    "nullable": (pd.DataFrame({"a": pd.array([1, None], "Int8"), "b": pd.array([True, None], "boolean")}), True),
    "one column": (pd.DataFrame({"a": [1, 2]}), True),
    "no rows": (pd.DataFrame({"a": np.empty(0), "b": np.empty(0, "i8")}), True),
    "a part": (pd.DataFrame({"a": range(9), "b": list("abcdefghi")}).iloc[2:7:2], True),
    "named index": (pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(3, 7, 2, name="row")), True),
    "text index": (pd.DataFrame({"a": [1, 2]}, index=["x", "y"]), True),
    "number index": (pd.DataFrame({"a": [1, 2]}, index=pd.Index([7, 5], name="key")), True),
    "odd nan": (pd.DataFrame({"a": np.array([0x7FF8000000000001], "u8").view("f8")}), False),
    "half floats": (pd.DataFrame({"a": np.array([1, 2], "f2")}), False),
    "complex": (pd.DataFrame({"a": [1j]}), False),
    "float nullable": (pd.DataFrame({"a": pd.array([1.5, None], "Float64")}), False),
    "no columns": (pd.DataFrame(index=[1, 2]), False),
    "objects": (pd.DataFrame({"a": [1, "two", None]}), False),
    "object text": (pd.DataFrame({"a": pd.Series(["x", None], dtype=object)}), False),
    "python text": (pd.DataFrame({"a": pd.array(["x", None], "string[python]")}), False),
    "categories": (pd.DataFrame({"a": pd.Categorical(["x", "y", "x"], ["y", "x", "z"], ordered=True)}), False),
    "time zone": (pd.DataFrame({"a": DAYS.tz_localize("Europe/Paris")}), False),
    "periods": (pd.DataFrame({"a": DAYS.to_period("D")}), False),
    "intervals": (pd.DataFrame({"a": pd.interval_range(0, 2)}), False),
    "sparse": (pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 1])}), False),
    "arrow": (pd.DataFrame({"a": pd.array([1, None], "int64[pyarrow]")}), False),
    "frequency": (pd.DataFrame({"a": [1, 2, 3]}, index=DAYS), False),
    "levels": (
        pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "x"), (2, "y")], names=["i", "j"])),
        False,
    ),
    "column levels": (pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])), False),
    "column numbers": (pd.DataFrame([[1, 2]]), False),
    "column name": (pd.DataFrame([[1, 2]], columns=pd.Index(["a", "b"], name="which")), False),
    "equal columns": (pd.DataFrame([[1, 2.5]], columns=["a", "a"]), False),
    "clash": (pd.DataFrame({"a": [1, 2]}, index=pd.Index([7, 5], name="a")), False),
    "tuple name": (pd.DataFrame({"a": [1, 2]}, index=pd.Index([7, 5], name=("a", 1))), False),
    "index like ours": (pd.DataFrame({"__index_level_0__": [1, 2]}, index=[5, 6]), False),
    "no duplicates": (pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False), False),
    "large": (pd.DataFrame(np.zeros((1 << 19, 5)), columns=list("abcde")), False),
}
with_attrs = pd.DataFrame({"a": [1]})
with_attrs.attrs["who"] = ["me"]
FRAMES["attrs"] = with_attrs, False


def assert_same_frame(got, value):
    pd.testing.assert_frame_equal(got, value, check_exact=True, check_freq=True, check_index_type=True)
    pd.testing.assert_index_equal(got.columns, value.columns, exact=True)
    assert type(got.index) is type(value.index)
    assert type(got.columns) is type(value.columns)
    assert got.index.names == value.index.names
    assert got.attrs == value.attrs
    assert got.flags.allows_duplicate_labels == value.flags.allows_duplicate_labels
    assert [repr(one) for one in got.dtypes] == [repr(one) for one in value.dtypes]


@pytest.mark.parametrize("name", FRAMES)
def test_frames_come_back_exactly(name):
    value, by_arrow = FRAMES[name]
    assert encode(value).codec == ("pandas" if by_arrow else "pickle")
    assert_same_frame(round_trip(value), value)
    assert_same_frame(as_read(value), value)
    in_parts = round_trip((value, grid))
    assert_same_frame(in_parts[0], value)


@pytest.mark.parametrize("name", [name for name, (value, by_arrow) in FRAMES.items() if by_arrow and len(value)])
def test_every_column_of_a_frame_can_be_changed(name):
    for i in range(FRAMES[name][0].shape[1]):
        got = as_read(FRAMES[name][0])
        got.iloc[0, i] = got.iloc[-1, i]


SERIES = {
    "numbers": (pd.Series([1, 2], name="a"), "pandas"),
    "no name": (pd.Series([1, 2]), "pickle"),
    "frequency": (pd.Series([1, 2, 3], index=DAYS, name="a"), "pickle"),
    "objects": (pd.Series([1, "x"], name="a"), "pickle"),
}


@pytest.mark.parametrize("name", SERIES)
def test_series_come_back_exactly(name):
    value, by = SERIES[name]
    assert encode(value).codec == by
    got = round_trip(value)
    pd.testing.assert_series_equal(got, value, check_exact=True, check_freq=True, check_index_type=True)
    assert got.name == value.name
    assert type(got.index) is type(value.index)


def test_subclasses_of_frames_are_themselves():
    class Mine(pd.DataFrame):
        pass

    assert type(round_trip(Mine({"a": [1]}))) is Mine


@pytest.mark.needs("polars")
def test_frames_of_polars_come_back_exactly():
    import polars as pl
    from polars.testing import assert_frame_equal, assert_series_equal

    some = {
        "a": [1, None],
        "b": [1.5, math.nan],
        "c": ["x", None],
        "d": [[1], []],
        "e": [datetime.date(2026, 1, 1), None],
    }
    frame = pl.DataFrame(some).with_columns(
        pl.Series("f", ["x", None], dtype=pl.Categorical), pl.Series("g", ["x", None], dtype=pl.Enum(["y", "x"]))
    )
    for value in (frame, pl.DataFrame({"a": []}), frame.clear()):
        assert encode(value).codec == "polars"
        assert_frame_equal(round_trip(value), value, check_exact=True)
        assert round_trip(value).schema == value.schema
        assert_frame_equal(round_trip((value, grid))[0], value)
    assert encode(frame["g"]).codec == "polars"
    assert_series_equal(round_trip(frame["g"]), frame["g"], check_exact=True)
    with pytest.raises(pl.exceptions.ComputeError, match="Object is not supported"):  # what its own pickling says
        encode(pl.DataFrame({"a": [threading.Thread]}))


# Files

Nested = collections.namedtuple("Nested", "where what")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda file: file,
        lambda file: [1, [file]],
        lambda file: {"a": {"b": file}},
        lambda file: {1: (file,)},
        lambda file: collections.deque([file]),
        lambda file: (grid, file),
        lambda file: Point(1, [file]),
        lambda file: Nested(1, Point(2, file)),
    ],
)
def test_a_value_says_whether_there_are_files_in_it(wrap, tmp_path):
    (tmp_path / "data").write_text("x")
    for value in (File(tmp_path / "data"), Directory(tmp_path)):
        encoded = encode(wrap(value))
        assert encoded.files
        assert encoded.codec == "pickle"
        assert "File" in repr(round_trip(wrap(value))) or "Directory" in repr(round_trip(wrap(value)))
    assert not encode(wrap(Point(0, str(tmp_path)))).files


# Codecs of one's own


class Model:
    def __init__(self, weights):
        self.weights = weights
        self.lock = threading.Lock()  # nothing that a pickle holds


class Larger(Model):
    pass


class ModelCodec:
    @staticmethod
    def save(model, path):
        with open(path, "w") as file:
            file.write(json.dumps(model.weights))

    @staticmethod
    def load(path):
        with open(path) as file:
            return Model(json.load(file))


@pytest.fixture(autouse=True)
def _codecs_of_this_test():
    before = room._codecs.copy(), room._codecs_by_name.copy()
    yield
    for now, then in zip((room._codecs, room._codecs_by_name), before, strict=True):
        now.clear()
        now.update(then)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Where temporary folders are made: it must be empty in the end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert os.listdir(tmp_path) == []


def test_a_class_is_kept_by_its_own_codec(folders):
    assert codec(Model)(ModelCodec) is ModelCodec
    encoded = encode(Model([1, 2]))
    assert encoded.codec == f"codec:{__name__}.Model"
    assert runs_code(encoded.codec)
    assert bytes(body_of(encoded)) == b"[1, 2]"
    assert round_trip(Model([1, 2])).weights == [1, 2]


@pytest.mark.parametrize(
    ("make", "models"),
    [
        (lambda: (Model([1]), grid, Model([2])), lambda value: [value[0], value[2]]),
        (lambda: {"a": [Model([1])], "b": Point(1, Model([2]))}, lambda value: [value["a"][0], value["b"].y]),
        (lambda: [Model([1]), Model([2] * 9_000)], lambda value: value),
    ],
)
def test_values_are_composed_of_such(folders, make, models):
    """tuple[A, B] works where A and B do, and so does any container or object."""
    codec(Model)(ModelCodec)
    want = [one.weights for one in models(make())]
    for got in (round_trip(make()), as_read(make())):
        assert [one.weights for one in models(got)] == want
        assert all(type(one) is Model for one in models(got))


def test_the_same_instance_twice_is_one(folders):
    codec(Model)(ModelCodec)
    model = Model([1])
    got = round_trip([model, (model, 1)])
    assert got[0] is got[1][0]


def test_the_most_derived_codec_counts_and_a_later_one_replaces_it(folders):
    codec(Model)(ModelCodec)
    assert encode(Larger([1])).codec.endswith(".Model")

    class Other(ModelCodec):
        @staticmethod
        def load(path):
            return "other"

    codec(Larger)(Other)
    assert encode(Larger([1])).codec.endswith(".Larger")
    assert round_trip(Larger([1])) == "other"
    codec(Model)(Other)
    assert round_trip(Model([1])) == "other"
    assert dict(room.codecs())[Model] is Other


def test_a_codec_may_be_for_a_class_of_somebody_else(folders):
    @codec(np.ndarray)
    class Compressed:
        suffix = ".npz"

        @staticmethod
        def save(value, path):
            np.savez_compressed(path, value)

        @staticmethod
        def load(path):
            with np.load(path) as file:
                return file["arr_0"]

    assert encode(grid).codec == "codec:numpy.ndarray"
    assert content(round_trip((grid, 1))) == content((grid, 1))
    assert content(round_trip([grid])) == content([grid])


def test_a_codec_that_is_not_registered_is_named():
    with pytest.raises(StoreError, match=r"codec of somewhere\.Model, which is not registered here: import or run"):
        decode("codec:somewhere.Model", b"", b"")
    with pytest.raises(StoreError, match=r"codec 'zip', which this version of tinygraph does not know"):
        decode("zip", b"", b"")


def test_a_codec_must_have_both_ways():
    with pytest.raises(DefinitionError, match=r"codec of Model has no save and no load: it needs static methods"):
        codec(Model)(object)
    with pytest.raises(DefinitionError, match="a codec is for a class, not for 3"):
        codec(3)
    with pytest.raises(DefinitionError, match=r"suffix of the codec of Model is no end of a file name: '/\.\./x'"):
        codec(Model)(type("Odd", (ModelCodec,), {"suffix": "/../x"}))


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda value, path: os.mkdir(path), "made a directory at its path: write one file, an archive"),
        (lambda value, path: None, "wrote no file at its path .*; it left nothing"),
        (lambda value, path: open(path + ".npy", "w").close(), r"it left value\.npy: write to exactly that path"),
        (lambda value, path: os.symlink("/etc/hostname", path), "wrote no file"),
        (lambda value, path: os.mkfifo(path), "made no plain file"),
    ],
)
def test_a_save_that_writes_something_else_is_told_so(folders, save, message):
    codec(Model)(type("Odd", (), {"save": staticmethod(save), "load": staticmethod(print)}))
    with pytest.raises(StoreError, match=message):
        encode(Model([1]))


def test_an_empty_file_and_an_error_of_the_user_pass_through(folders):
    def save(value, path):
        with open(path, "w"):
            pass
        if value.weights is None:
            raise ZeroDivisionError("mine")

    codec(Model)(type("Odd", (), {"save": staticmethod(save), "load": staticmethod(os.path.getsize)}))
    assert round_trip(Model([1])) == 0
    assert round_trip([Model([1])]) == [0]
    with pytest.raises(ZeroDivisionError, match="mine"):
        encode(Model(None))


# What can run code


def test_only_pickles_and_what_users_load_can_run_code():
    found = {encode(value).codec for value, _ in TABLE}
    assert {name for name in found if runs_code(name)} == {"pickle"}
    assert runs_code("codec:Model")
    assert runs_code("whatever comes")


def test_parts_hold_no_pickle():
    """Parts are read without a look at who wrote them, so nothing in them may run code."""
    evil = pickle.dumps(Colour.RED)
    meta = json.dumps([["pickle", "", len(evil)]]).encode()
    with pytest.raises(StoreError, match="cannot be in it: 'pickle'"):
        decode("parts", meta, evil)
    with pytest.raises(StoreError, match="cannot be in it"):
        decode("parts", json.dumps([["bytes", "", 10**12]]).encode(), b"abc")


# Other processes, and scripts

SCRIPT = """
    import dataclasses, enum, os, pathlib, pickle, sys
    from collections import namedtuple
    from tinygraph import Node
    from tinygraph.store.codecs import decode, encode

    @Node
    class Model:
        def __init__(self): self.k = 5
        def __call__(self): return self.k

    @dataclasses.dataclass
    class Point:
        x: int
        def moved(self): return Point(self.x + step())

    class Colour(enum.Enum):
        RED = 1

    class Outer:
        class Inner:
            pass

    Row = namedtuple("Row", "a b")

    def step(): return 1

    def local():
        class Local:
            x = 5
        return Local()

    value = [Point(3), Colour.RED, Outer.Inner(), Row(1, 2), step, local(), lambda: Point(step()), Point]
    value.append(Model.__wrapped__())

    def check(got):
        assert type(got[0]) is Point and got[0] == Point(3) and got[0].moved() == Point(4)
        assert got[1] is Colour.RED
        assert type(got[2]) is Outer.Inner
        assert type(got[3]) is Row and got[3] == (1, 2)
        assert got[4] is step
        assert got[5].x == 5
        assert got[6]() == Point(1)
        assert got[7] is Point
        assert type(got[8]) is Model.__wrapped__ and got[8]() == 5
"""

SAVE = """
    encoded = encode(value)
    pathlib.Path("saved").write_bytes(pickle.dumps((encoded.codec, encoded.meta, b"".join(encoded.buffers))))
"""

LOAD = """
    got = decode(*pickle.loads(pathlib.Path("saved").read_bytes()))
"""


def run(folder, *code, name="script.py"):
    (folder / name).write_text("\n".join(textwrap.dedent(part) for part in code))
    done = subprocess.run([sys.executable, name], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_that_runs_again_finds_its_own_classes(tmp_path):
    run(tmp_path, SCRIPT, SAVE, LOAD, "    check(got)")
    run(tmp_path, SCRIPT, LOAD, "    check(got)")


def test_another_program_gets_a_copy_of_the_classes(tmp_path):
    run(tmp_path, SCRIPT, SAVE)
    out = run(
        tmp_path,
        "import pathlib, pickle",
        "from tinygraph.store.codecs import decode",
        LOAD,
        "print(got[0], got[0].moved(), got[1], got[3], got[4](), got[5].x, got[6](), type(got[0]) is got[7])",
        name="other.py",
    )
    assert out == "Point(x=3) Point(x=4) Colour.RED Row(a=1, b=2) 1 5 Point(x=1) True\n"


def test_a_class_that_was_changed_since_is_the_live_one(tmp_path):
    run(tmp_path, SCRIPT, SAVE)
    changed = SCRIPT.replace("def moved(self): return", "def other(self): return 7\n        def moved(self): return")
    assert run(tmp_path, changed, LOAD, "    check(got); print(got[0].other())") == "7\n"


def test_a_class_without_a_copy_is_named_where_it_is_missing(tmp_path):
    define = """
        import pathlib, pickle, threading
        from tinygraph.store.codecs import decode, encode
        LOCK, DATA = threading.Lock(), list(range(10**6))
        class Locked:
            def use(self):
                with LOCK: return 1
        class Large:
            def use(self): return sum(DATA)
        value = [Locked(), Large()]
    """
    run(tmp_path, define, SAVE.replace("value)", "value[0])"))
    run(tmp_path, define, LOAD, "assert type(got) is Locked")
    other = ["import pathlib, pickle", "from tinygraph.store.codecs import decode"]
    tried = (
        "try: got = decode(*pickle.loads(pathlib.Path('saved').read_bytes()))\nexcept Exception as error: print(error)"
    )
    out = run(tmp_path, *other, tried, name="other.py")
    assert out.startswith("this value is made by 'Locked' of '__main__', which is not there: run the script")
    run(tmp_path, define, SAVE.replace("value)", "value[1])"))
    assert os.path.getsize(tmp_path / "saved") < 10_000
    run(tmp_path, define, LOAD, "assert type(got) is Large")


WORKER = """
    # What a worker process does: it gets the function, runs it, and publishes what came out.
    import pickle, sys
    from tinygraph.store.codecs import decode, encode
    function, saved = pickle.loads(sys.stdin.buffer.read())
    encoded = encode(function(decode(*saved) if saved else None))
    sys.stdout.buffer.write(pickle.dumps((encoded.codec, encoded.meta, b"".join(encoded.buffers))))
"""


def test_workers_and_their_program_have_the_same_classes(tmp_path):
    """
    script ── function ──► worker: makes points ── store ──► script: its own points
           ◄── store ── script: points ──► worker: isinstance holds there, too
    """
    (tmp_path / "worker.py").write_text(textwrap.dedent(WORKER))
    out = run(
        tmp_path,
        SCRIPT,
        """
        import cloudpickle, subprocess
        def there(function, saved=None):
            sent = cloudpickle.dumps((function, saved))
            done = subprocess.run([sys.executable, "worker.py"], input=sent, stdout=subprocess.PIPE, check=True)
            return pickle.loads(done.stdout)
        def make(_):
            made = [Point(3), Colour.RED, Outer.Inner(), Row(1, 2), step, local(), lambda: Point(step()), Point]
            return [*made, Model.__wrapped__()]
        def use(points):
            assert type(points[0]) is Point and points[1] is Colour.RED and points[7] is Point
            return points
        made = there(make)
        check(decode(*made))
        check(decode(*there(use, made)))
        here = encode(value)
        here = here.codec, here.meta, b"".join(here.buffers)
        check(decode(*there(use, here)))
        pathlib.Path("saved").write_bytes(pickle.dumps(there(make)))
        print("checked")
        """,
    )
    assert out == "checked\n"
    run(tmp_path, SCRIPT, LOAD, "    check(got)")
    # A later program, whose worker reads what an earlier one left.
    out = run(
        tmp_path,
        SCRIPT,
        """
        import cloudpickle, subprocess
        def use(points):
            assert type(points[0]) is Point and points[1] is Colour.RED and points[7] is Point
            return points
        saved = pickle.loads(pathlib.Path("saved").read_bytes())
        sent = cloudpickle.dumps((use, saved))
        done = subprocess.run([sys.executable, "worker.py"], input=sent, stdout=subprocess.PIPE, check=True)
        check(decode(*pickle.loads(done.stdout)))
        print("checked")
        """,
    )
    assert out == "checked\n"


def test_a_namesake_is_not_mistaken_for_the_class_of_a_script(tmp_path):
    out = run(
        tmp_path,
        SCRIPT,
        """
        def inside():
            return namedtuple("Row", "x y z")(1, 2, 3)
        value = [inside(), Row(1, 2)]
        """,
        SAVE,
        LOAD,
        "print(got, type(got[1]) is Row)",
    )
    assert out == "[Row(x=1, y=2, z=3), Row(a=1, b=2)] True\n"


def test_values_are_the_same_in_another_process(tmp_path):
    encoded = [encode(value) for value, _ in TABLE]
    saved = [(one.codec, one.meta, bytes(body_of(one))) for one in encoded]
    saved = [one for one in saved if b"test_codecs" not in one[2]]  # which cannot be imported there
    (tmp_path / "saved").write_bytes(pickle.dumps(saved))
    run(
        tmp_path,
        """
        import pathlib, pickle
        from tinygraph.store.codecs import decode, encode
        again = []
        for codec, meta, body in pickle.loads(pathlib.Path("saved").read_bytes()):
            encoded = encode(decode(codec, meta, body))
            again.append((encoded.codec, encoded.meta, b"".join(encoded.buffers)))
        pathlib.Path("again").write_bytes(pickle.dumps(again))
        """,
    )
    again = pickle.loads((tmp_path / "again").read_bytes())
    assert [content(decode(*one)) for one in again] == [content(decode(*one)) for one in saved]
