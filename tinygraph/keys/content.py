"""Content: what arrays, tables and tensors mean, whatever their layout in memory.

Libraries are looked up among those that are imported: a value of theirs cannot be there before them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinygraph.keys.digests import digest
from tinygraph.keys.packages import Origin, origin_of_module

if TYPE_CHECKING:
    from tinygraph.keys.canonical import Encoder

Handler = Callable[["Encoder", Any], Any]


class Refused(Exception):
    """A part that cannot be encoded; the path to it is put together on the way out."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str] = []

    def told(self, where: str, *, is_argument: bool) -> str:
        """Return the message: what, why, and the ways out."""
        out = "pass key= to the node to say what stands for its arguments"
        if not is_argument:
            out = "make it an argument of the node"
        return (
            f"{where}{''.join(reversed(self.path))} has no key: {self.why}. Either {out}, or give its class a method "
            f"__tinygraph_key__ that returns what stands for it, or do not keep the node (cache=False)"
        )


def handler_of(kind: type, library: str) -> Handler | None:
    """Return what encodes the instances of a class of a library, or derived from one; None for no special way."""
    try:
        return _BY_LIBRARY[library](kind, sys.modules[library])
    except (KeyError, AttributeError):  # another library of that name
        return None


# numpy


def _numpy(kind: type, numpy: Any) -> Handler | None:
    masked: Any = sys.modules.get("numpy.ma")  # which the library imports itself only when it is asked for
    if masked is not None and issubclass(kind, masked.MaskedArray):
        return _masked
    if issubclass(kind, numpy.ndarray):
        return _array if kind in (numpy.ndarray, numpy.memmap) else _array_of_class
    if issubclass(kind, numpy.generic):
        return _scalar
    if issubclass(kind, numpy.dtype):
        return lambda encoder, value: {"dtype": _dtype(encoder, value)}
    if issubclass(kind, numpy.ufunc):
        return _ufunc
    drawn: Any = sys.modules.get("numpy.random")
    if drawn is not None:
        if issubclass(kind, drawn.Generator):
            return lambda encoder, value: {"generator": encoder.encode(value.bit_generator)}
        if issubclass(kind, drawn.BitGenerator):
            return _bit_generator
        if issubclass(kind, drawn.RandomState):
            return lambda encoder, value: {"RandomState": encoder.encode(value.get_state(legacy=False))}
    return None


def _ufunc(encoder: Encoder, value: Any) -> Any:
    """A function over arrays: by its name if it is a library's, else by the function that it was made from."""
    name = value.__name__
    if getattr(sys.modules["numpy"], name, None) is value:
        return encoder.code(value)
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is value and _is_installed(module):
            return {"ufunc": [name, encoder.code(module)]}
    made_from = [inside for inside in gc.get_referents(value) if callable(inside)]  # it cannot be asked otherwise
    if not made_from:
        raise Refused(f"the ufunc {name!r} does not say what it does")
    return {"ufunc": [value.nin, value.nout, encoder.encode(value.identity), *encoder.items(made_from)]}


def _is_installed(module: Any) -> bool:
    return origin_of_module(module.__name__) is Origin.INSTALLED


def _dtype(encoder: Encoder, dtype: Any) -> Any:
    if dtype.names is not None:
        fields = [(name, _dtype(encoder, dtype.fields[name][0]), dtype.fields[name][1]) for name in dtype.names]
        return [fields, dtype.itemsize]
    if dtype.subdtype is not None:
        return [_dtype(encoder, dtype.subdtype[0]), dtype.shape]
    if dtype.kind == "T":
        return [repr(dtype)]
    return dtype.str


def _array(encoder: Encoder, value: Any) -> Any:
    return {"array": [_dtype(encoder, value.dtype), value.shape, _elements(encoder, value)]}


def _elements(encoder: Encoder, value: Any) -> Any:
    """Return what stands for the elements of an array, in their order: nothing is copied if they lie in it."""
    dtype = value.dtype
    if dtype.names is not None:  # field by field, as there may be anything in the gaps between them
        return [_elements(encoder, value[name]) for name in dtype.names]
    if dtype.kind not in "biufcmMSUV":
        return encoder.items(_plain(value).ravel().tolist() if dtype.kind != "O" else list(_plain(value).flat))
    if not value.size or not dtype.itemsize:
        return b""
    numpy = sys.modules["numpy"]
    flat = numpy.ascontiguousarray(_plain(value)).reshape(-1).view("u1")
    used = _bytes_used(numpy, dtype)
    if used is not None:
        flat = numpy.ascontiguousarray(flat.reshape(-1, used[1])[:, : used[0]]).reshape(-1)
    return digest(memoryview(flat))


def _plain(value: Any) -> Any:
    """Return the array as a plain one: a class derived from it may mean something else by its methods."""
    return value.view(sys.modules["numpy"].ndarray)


def _bytes_used(numpy: Any, dtype: Any) -> tuple[int, int] | None:
    """Return how many bytes of an element count, of how many: a long double of 80 bits lies in 16 bytes."""
    if dtype.char not in "gG" or numpy.finfo(dtype).nmant != 63:
        return None
    return 10, dtype.itemsize // (2 if dtype.char == "G" else 1)


def _array_of_class(encoder: Encoder, value: Any) -> Any:
    """An instance of a class derived from arrays: its class, its elements, and its attributes."""
    attributes = encoder.encode(dict(getattr(value, "__dict__", ())))
    return {"object": [encoder.code(type(value)), _array(encoder, _plain(value)), attributes]}


def _masked(encoder: Encoder, value: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    if value is numpy.ma.masked:
        return {"masked": []}
    mask = numpy.ma.getmaskarray(value)
    data = numpy.ma.getdata(value)
    if mask.any() and not mask.dtype.names:  # what is under the mask does not count
        data = data.copy()
        data[mask] = numpy.zeros((), data.dtype)[()]
    filled = None if value._fill_value is None else encoder.encode(value.fill_value)
    return {"masked": [_array(encoder, data), _array(encoder, mask), filled]}


def _scalar(encoder: Encoder, value: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    if isinstance(value, numpy.void) and value.dtype.names is not None:
        array = numpy.array([value])  # a record of an array would be a view of it
    else:
        array = numpy.asarray(value)
    return {"scalar": [_dtype(encoder, array.dtype), _elements(encoder, array)]}


def _bit_generator(encoder: Encoder, value: Any) -> Any:
    seeds = getattr(value, "seed_seq", None)
    return {"bits": [encoder.encode(value.state), encoder.encode(getattr(seeds, "state", None))]}


# pandas


def _pandas(kind: type, pandas: Any) -> Handler | None:
    if issubclass(kind, pandas.DataFrame):
        return _frame
    if issubclass(kind, pandas.Series):
        return _series
    if issubclass(kind, pandas.Index):
        return _index
    if issubclass(kind, pandas.api.extensions.ExtensionArray):
        return lambda encoder, value: {"column": _column(encoder, value)}
    return None


def _frame(encoder: Encoder, value: Any) -> Any:
    columns: list[Any] = []
    at = 0
    try:
        for at in range(value.shape[1]):
            columns.append(_column(encoder, value.iloc[:, at].array))
    except Refused as refused:
        refused.path.append(f"[{value.columns[at]!r}]")
        raise
    return {"frame": [*_about(encoder, value), _index(encoder, value.index), _index(encoder, value.columns), columns]}


def _series(encoder: Encoder, value: Any) -> Any:
    name = encoder.encode(value.name)
    return {"series": [*_about(encoder, value), _index(encoder, value.index), name, _column(encoder, value.array)]}


def _about(encoder: Encoder, value: Any) -> list[Any]:
    """What a frame or a series has beside its cells: its class if it is not pandas' own, and its attributes."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    own = [encoder.encode(getattr(value, name, None)) for name in kind._metadata if name not in ("_name",)]
    return [None if library == "pandas" else encoder.code(kind), encoder.encode(value.attrs), own]


def _index(encoder: Encoder, value: Any) -> Any:
    kind = type(value).__name__
    names = encoder.encode(list(value.names))
    if kind == "RangeIndex":
        return [kind, names, [value.start, value.stop, value.step]]
    if kind == "MultiIndex":
        levels = [value.get_level_values(at) for at in range(value.nlevels)]
        return [kind, names, [_index(encoder, level) for level in levels]]
    return [kind, names, getattr(value, "freqstr", None), _column(encoder, value.array)]


def _column(encoder: Encoder, cells: Any) -> Any:
    """Encode the cells of a column by what it is made of."""
    dtype = cells.dtype
    kind = type(cells).__name__
    described = [str(dtype), str(getattr(dtype, "storage", "")), encoder.encode(getattr(dtype, "na_value", None))]
    if kind in ("NumpyExtensionArray", "PandasArray"):
        return _array(encoder, cells.to_numpy())
    if hasattr(cells, "categories"):
        return [*described, dtype.ordered, _array(encoder, cells.codes), _index(encoder, cells.categories)]
    if hasattr(cells, "asi8"):
        return [*described, encoder.encode(getattr(dtype, "tz", None)), _array(encoder, cells.asi8)]
    if hasattr(cells, "_mask") and hasattr(dtype, "numpy_dtype"):
        filled = cells.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
        return [*described, _array(encoder, filled), _array(encoder, cells.isna())]
    if hasattr(cells, "sp_values"):
        fill = encoder.encode(cells.fill_value)
        return [*described, len(cells), fill, _array(encoder, cells.sp_values), _array(encoder, _places(cells))]
    if kind == "IntervalArray":
        return [*described, cells.closed, _index(encoder, cells.left), _index(encoder, cells.right)]
    if hasattr(cells, "_pa_array"):
        return [*described, _chunks(encoder, cells._pa_array)]
    return [*described, encoder.code(type(cells)), encoder.items(list(cells))]


def _places(cells: Any) -> Any:
    return cells.sp_index.to_int_index().indices


# pyarrow


def _pyarrow(kind: type, arrow: Any) -> Handler | None:
    if issubclass(kind, arrow.Table | arrow.RecordBatch):
        return _table
    if issubclass(kind, arrow.ChunkedArray | arrow.Array):
        return lambda encoder, value: {"arrow": _chunks(encoder, value)}
    if issubclass(kind, arrow.Scalar):
        return lambda encoder, value: {"arrow scalar": [str(value.type), encoder.encode(value.as_py())]}
    if issubclass(kind, arrow.Schema):
        return lambda encoder, value: {"schema": digest(bytes(value.serialize()))}
    if issubclass(kind, arrow.Field):
        return lambda encoder, value: {"field": encoder.encode(sys.modules["pyarrow"].schema([value]))}
    if issubclass(kind, arrow.DataType):
        return lambda encoder, value: {"arrow type": str(value)}
    if issubclass(kind, arrow.Buffer):
        return lambda encoder, value: {"buffer": [value.size, digest(value)]}
    return None


def _table(encoder: Encoder, value: Any) -> Any:
    schema = encoder.encode(value.schema)
    columns = [_chunks(encoder, value.column(at)) for at in range(value.num_columns)]
    return {type(value).__name__: [schema, value.num_rows, columns]}


def _chunks(encoder: Encoder, value: Any) -> Any:
    """Encode a column of arrow, however it is cut into pieces: as one piece, in arrow's own form."""
    arrow: Any = sys.modules["pyarrow"]
    array = value
    if isinstance(value, arrow.ChunkedArray):
        array = value.combine_chunks()
        if isinstance(array, arrow.ChunkedArray):  # of an older arrow, or too large for one piece
            array = array.chunk(0) if array.num_chunks == 1 else arrow.concat_arrays(array.chunks)
    described = str(array.type)
    if array.null_count == len(array):
        return [described, len(array)]
    if arrow.types.is_dictionary(array.type):  # the dictionary is how it lies in memory
        return [described, _chunks(encoder, array.dictionary_decode())]
    nulls = None
    if array.null_count:  # what lies under a null does not count
        nulls = digest(array.is_null().cast("uint8").buffers()[1].slice(0, len(array)))
        array = _without_nulls(arrow, array)
    sink = arrow.BufferOutputStream()
    batch = arrow.record_batch([array], names=["column"])
    with arrow.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return [described, len(array), nulls, digest(sink.getvalue())]


def _without_nulls(arrow: Any, array: Any) -> Any:
    kept = array.drop_null()
    return arrow.concat_arrays([kept]) if kept.offset else kept


# torch


def _torch(kind: type, torch: Any) -> Handler | None:
    if not hasattr(kind, "detach") or not hasattr(kind, "untyped_storage"):
        return None
    return _tensor


def _tensor(encoder: Encoder, value: Any) -> Any:
    torch: Any = sys.modules["torch"]
    if str(value.layout) != "torch.strided" or value.is_quantized:
        return {"sparse tensor": [str(value.layout), encoder.encode(value.to_dense())]}
    described = [type(value).__name__, str(value.dtype), list(value.shape), value.device.type, value.requires_grad]
    flat = value.detach().cpu().contiguous().reshape(-1)
    return {"tensor": [*described, digest(memoryview(flat.view(torch.uint8).numpy())) if value.numel() else b""]}


_BY_LIBRARY: dict[str, Callable[[type, Any], Handler | None]] = {
    "numpy": _numpy,
    "pandas": _pandas,
    "pyarrow": _pyarrow,
    "torch": _torch,
}
LIBRARIES = frozenset(_BY_LIBRARY)
