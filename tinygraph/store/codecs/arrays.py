"""Arrays: numpy's as .npy files, header and memory, written without a copy and mapped where they lie."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_PLAIN = frozenset("?biufcSUmM")  # kinds that their name says everything about
_OF_ANOTHER = 2  # what numpy says of a type that another library added
_READ_ONLY = b"r"


def encode(array: np.ndarray[Any, Any]) -> tuple[bytes, list[Any]] | None:
    """Return what to remember besides, and the pieces of the .npy file; None for what that format does not hold.

    >>> import numpy as np
    >>> meta, pieces = encode(np.arange(3))
    >>> np.load(io.BytesIO(b"".join(pieces)))
    array([0, 1, 2])
    """
    dtype = array.dtype
    is_plain = dtype.kind in _PLAIN and dtype.isbuiltin != _OF_ANOTHER and dtype.metadata is None
    if not is_plain and not _is_exact(dtype):
        return None
    flags = array.flags
    fortran = flags.f_contiguous and not flags.c_contiguous
    meta = b"" if flags.writeable else _READ_ONLY
    header = _header(dtype.str, array.shape, fortran) if is_plain else _written(dtype, array.shape, fortran)
    return meta, [header, _memory(array.T if fortran else array)]


def decode(meta: bytes, body: memoryview) -> np.ndarray[Any, Any]:
    """Return the array that lies in a body: it is not copied, so the body must be the consumer's own."""
    import numpy as np

    length = int.from_bytes(body[8:10], "little") + 10 if body[6] == 1 else int.from_bytes(body[8:12], "little") + 12
    shape, fortran, dtype = _read(bytes(body[:length]))
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, body, length, order="F" if fortran else "C")
    if meta == _READ_ONLY:
        array.flags.writeable = False
    return array


def reduce(array: np.ndarray[Any, Any]) -> Any:
    """Return how an array is pickled that is part of something; NotImplemented for as ever.

    One with gaps is copied first: numpy would forget its byte order, and could not hand its memory over.
    """
    import numpy as np

    if array.flags.forc:
        return NotImplemented
    copy = np.ascontiguousarray(array)
    copy.flags.writeable = array.flags.writeable
    return copy.__reduce_ex__(5)


def _is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether .npy holds a structured or other uncommon type as it is."""
    from numpy.lib import format as npy

    if dtype.hasobject or dtype.kind != "V":
        return False
    try:
        again = npy.descr_to_dtype(npy.dtype_to_descr(dtype))
        _written(dtype, (), False)
    except Exception:  # whatever a type of another library does
        return False
    return again == dtype and again.isalignedstruct == dtype.isalignedstruct and not _has_extras(dtype)


def _has_extras(dtype: np.dtype[Any]) -> bool:
    if dtype.metadata is not None:
        return True
    if dtype.subdtype is not None:
        return _has_extras(dtype.subdtype[0])
    return any(len(field) > 2 or _has_extras(field[0]) for field in (dtype.fields or {}).values())


@lru_cache(256)
def _header(name: str, shape: tuple[int, ...], fortran: bool) -> bytes:
    import numpy as np

    return _written(np.dtype(name), shape, fortran)


def _written(dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> bytes:
    from numpy.lib import format as npy

    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    for write in (npy.write_array_header_1_0, npy.write_array_header_2_0):
        file = io.BytesIO()
        try:
            write(file, fields)
        except ValueError:  # too long for this version
            continue
        return file.getvalue()
    raise ValueError(f"no header for {dtype}")


@lru_cache(256)
def _read(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    from numpy.lib import format as npy

    file = io.BytesIO(header)
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    return read(file, max_header_size=len(header))


def _memory(array: np.ndarray[Any, Any]) -> Any:
    """Return the bytes of an array in the order of C: its own memory where that has them so."""
    import numpy as np

    if not array.nbytes:
        return b""
    # As bytes, because dates do not give their memory away otherwise.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
