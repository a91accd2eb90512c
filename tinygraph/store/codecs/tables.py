"""Tables: those of arrow and polars as they lie in memory, and those of pandas where arrow holds them exactly.

Whatever arrow would return to pandas in another form (mixed objects, categories, several levels of an index, a
frequency, `attrs`) is refused here and pickled by who asked: a pickle holds everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

_BATCH = b"batch"
_SERIES = b"series"

# Arrow copies a pandas table twice, a pickle maps it in place: beyond this size speed counts for more than that other
# programs can read it.
LARGEST_FRAME = 1 << 24

_NUMPY_KINDS = frozenset("?biufMm")
_NULLABLE = frozenset(("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "boolean"))


def encode_table(table: pa.Table | pa.RecordBatch) -> tuple[bytes, list[Any]] | None:
    """Return what to remember besides, and the table as an arrow stream; None for types of other libraries.

    >>> import pyarrow as pa
    >>> meta, pieces = encode_table(pa.table({"a": [1, 2]}))
    >>> decode_table(meta, memoryview(b"".join(pieces))).to_pydict()
    {'a': [1, 2]}
    """
    import pyarrow as pa

    if not all(_is_plain(field.type) for field in table.schema):
        return None
    sink = pa.BufferOutputStream()
    is_table = isinstance(table, pa.Table)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        if is_table:
            writer.write_table(table)
        else:
            writer.write_batch(table)
    return b"" if is_table else _BATCH, [memoryview(sink.getvalue())]


def decode_table(meta: bytes, body: memoryview) -> Any:
    """Return the table that lies in a body: it is not copied."""
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
        return reader.read_next_batch() if meta == _BATCH else reader.read_all()


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return False
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return _is_plain(kind.value_type)
    return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))


def encode_frame(frame: pd.DataFrame | pd.Series[Any]) -> tuple[bytes, list[Any]] | None:
    """Return what to remember besides, and the frame as an arrow stream; None for what arrow does not hold exactly.

    >>> import pandas as pd
    >>> meta, pieces = encode_frame(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    >>> list(decode_frame(meta, memoryview(b"".join(pieces))).columns)
    ['a', 'b']
    >>> encode_frame(pd.DataFrame({"a": [1, "two"]})) is None
    True
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        if not isinstance(frame.name, str) or frame.attrs or not frame.flags.allows_duplicate_labels:
            return None
        found = encode_frame(frame.to_frame())
        return None if found is None else (_SERIES, found[1])
    try:
        import pyarrow as pa
    except ImportError:
        return None
    if not _is_exact(frame):
        return None
    try:
        table = pa.Table.from_pandas(frame)
    except pa.ArrowException:
        return None
    meta, pieces = encode_table(table) or (b"", [])
    return (meta, pieces) if pieces else None


def decode_frame(meta: bytes, body: memoryview) -> Any:
    """Return the frame that lies in a body, as the consumer's own copy."""
    frame = decode_table(b"", body).to_pandas()
    return frame.iloc[:, 0] if meta == _SERIES else frame


def _is_exact(frame: pd.DataFrame) -> bool:
    import pandas as pd

    columns, index = frame.columns, frame.index
    if frame.attrs or not frame.flags.allows_duplicate_labels or not len(columns):
        return False
    if type(columns) is not pd.Index or columns.name is not None or not columns.is_unique:
        return False
    names = columns.tolist()
    if set(map(type, names)) != {str} or columns.dtype != pd.Index(names).dtype:
        return False
    # Arrow keeps an index as one more column, whose name must be free.
    if any(name.startswith("__index_level_") for name in names) or index.name in names:
        return False
    if not (index.name is None or type(index.name) is str):
        return False
    if type(index) is not pd.RangeIndex and not (type(index) is pd.Index and _is_held(pd.Series(index))):
        return False
    if int(frame.memory_usage().sum()) > LARGEST_FRAME:
        return False
    return all(_is_held(frame.iloc[:, i]) for i in range(len(names)))


def _is_held(column: pd.Series[Any]) -> bool:
    """Whether a column comes back from arrow as it was, to the last bit."""
    import numpy as np

    dtype: Any = column.dtype
    if not isinstance(dtype, np.dtype):
        name = str(dtype)
        return name in _NULLABLE or (name == "str" and getattr(dtype, "storage", "") == "pyarrow")
    if dtype.kind not in _NUMPY_KINDS or not dtype.isnative or dtype.itemsize > 8:
        return False
    return dtype.kind != "f" or (dtype.itemsize > 2 and _has_one_nan(column.to_numpy()))


def _has_one_nan(values: np.ndarray[Any, Any]) -> bool:
    """Whether whatever is not a number is the usual one: there are many, and arrow makes one of them."""
    import numpy as np

    odd = values[np.isnan(values)]
    bits = f"u{odd.itemsize}"
    return bool((odd.view(bits) == np.full(1, np.nan, odd.dtype).view(bits)).all())


def encode_polars(frame: Any) -> tuple[bytes, list[Any]] | None:
    """Return what to remember besides, and the frame as an arrow file; None where it has Python objects in it."""
    is_series = not hasattr(frame, "columns")
    try:
        data = (frame.to_frame() if is_series else frame).write_ipc(None, compression="uncompressed").getbuffer()
    except Exception:  # polars has a class of its own for this, which comes and goes
        return None
    return _SERIES if is_series else b"", [data]


def decode_polars(meta: bytes, body: memoryview) -> Any:
    """Return the frame that lies in a body, as the consumer's own copy."""
    import polars as pl

    frame = pl.read_ipc(bytes(body))
    return frame.to_series() if meta == _SERIES else frame
