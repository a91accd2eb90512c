"""How big values cross between processes: one copy into shared memory, mapped copy-on-write by who needs them.

::

    dumps ──► Parcel(data, segments) ──► a pipe, or nothing at all ──► loads
                       │                                                 ▲
                       └──► segments: files in shared memory ──► mapped ─┘

A parcel is small: the pickle of a value, without its big parts. Those are segments: files that the producer writes
once, and that any number of consumers map. A consumer may write to what it got; nobody else sees that.

>>> segments = Segments.create()
>>> parcel = dumps({"name": "big", "body": b"x" * LARGE}, segments)
>>> parcel.nbytes > LARGE > len(parcel.data), len(parcel.segments)
(True, 1)
>>> loads(parcel, segments)["body"] == b"x" * LARGE
True
>>> segments.release(parcel)
>>> segments.close()

Who may write, count and remove segments, and why nobody ever sees another value than the one that was sent, is told in
`segments`.
"""

from __future__ import annotations

import itertools
import pickle
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from tinygraph.executors.segments import Parcel, SegmentRef, Segments, copy_bytes, was_released
from tinygraph.future import Elsewhere

# From this many bytes on, a buffer is worth a file of its own: below, a pipe is as fast as opening and mapping.
LARGE = 1 << 20

_PLAIN = frozenset({type(None), bool, int, float, complex})


class Outbox:
    """Remembers what was written, so that an object that is passed to several calls is written once.

    It goes by identity, and takes an object for unchanged as long as it exists: make one for each run, for the
    values that this run got as arguments. Only the owner of the segments can have one, because only the owner knows
    what still exists.

    >>> segments = Segments.create()
    >>> outbox, body = Outbox(segments), bytes(LARGE)
    >>> one, other = dumps((1, body), segments, outbox), dumps((2, body), segments, outbox)
    >>> one.segments == other.segments
    True
    >>> segments.close()
    """

    _BYTES = 4  # `bytes` have no weak references: so many are kept alive

    def __init__(self, segments: Segments) -> None:
        if not segments.is_owner:
            raise ValueError("only the process that owns the segments can remember what it wrote")
        self._segments = segments
        self._weak: dict[int, tuple[weakref.ref[Any], SegmentRef]] = {}
        self._strong: OrderedDict[int, tuple[bytes, SegmentRef]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, content: Any) -> SegmentRef | None:
        """Write a buffer into a segment, or find it in the one that holds it already."""
        owner = _owner(content)
        with self._lock:
            entry = self._strong.get(id(owner)) or self._weak.get(id(owner))
            if entry is not None:
                known = entry[0]() if isinstance(entry[0], weakref.ref) else entry[0]
                if known is owner and entry[1].size == memoryview(content).nbytes:
                    return self._segments.count(entry[1])
            ref = self._segments.put(content)
            if ref is not None and entry is None:
                self._remember(owner, ref)
            return ref

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            entries = [*self._weak.values(), *self._strong.values()]
            self._weak.clear()
            self._strong.clear()
        for _, ref in entries:
            self._segments.release_refs(ref)

    def _remember(self, owner: Any, ref: SegmentRef) -> None:
        if type(owner) is bytes:
            self._strong[id(owner)] = owner, ref
            if len(self._strong) > self._BYTES:
                self._segments.release_refs(self._strong.popitem(last=False)[1][1])
        else:
            try:
                self._weak[id(owner)] = weakref.ref(owner, _Forget(self._weak, id(owner), self._segments)), ref
            except TypeError:
                return
        self._segments.count(ref)


class _Forget:
    """What to do when a remembered object is collected."""

    __slots__ = ("_key", "_segments", "_weak")

    def __init__(self, weak: dict[int, tuple[weakref.ref[Any], SegmentRef]], key: int, segments: Segments) -> None:
        self._weak, self._key, self._segments = weak, key, segments

    def __call__(self, gone: weakref.ref[Any]) -> None:
        entry = self._weak.get(self._key)
        if entry is not None and entry[0] is gone:  # else another object has the same id since
            del self._weak[self._key]
            self._segments.release_refs(entry[1])


class Kept(Elsewhere):
    """A value that stays where it is, in its parcel, until somebody needs it.

    It owns one count of the parcel and gives it back when it is collected. Pickled by `dumps` it is a few bytes, and
    `loads` makes the value of it; the sender keeps it until that has happened.

    >>> segments = Segments.create()
    >>> kept = Kept(dumps(bytes(LARGE), segments), segments)
    >>> message = dumps(("size of", kept), segments)
    >>> len(message.data) < 300, message.segments
    (True, ())
    >>> loads(message, segments) == ("size of", bytes(LARGE)) == ("size of", kept.fetch())
    True
    >>> segments.close()
    """

    __slots__ = ("__weakref__", "parcel", "segments")

    def __init__(self, parcel: Parcel, segments: Segments) -> None:
        self.parcel = parcel
        self.segments = segments

    def fetch(self) -> Any:
        """Return the value, made anew each time: whoever changes it does so for himself."""
        return loads(self.parcel, self.segments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _fetched, (self.parcel,)

    def __del__(self) -> None:
        self.segments.release(self.parcel)


def dumps(obj: Any, segments: Segments | None, outbox: Outbox | None = None) -> Parcel:
    """Return a value as a parcel. Raises what the pickler raises, and leaves nothing behind then.

    >>> dumps([1, 2, 3], None)
    Parcel(data=b'...', segments=(), nbytes=...)
    """
    kind = type(obj)
    if kind in _PLAIN or ((kind is str or kind is bytes) and len(obj) < LARGE >> 2):  # a letter has up to 4 bytes
        data = pickle.dumps(obj, 5)
        return Parcel(data, (), len(data))
    import cloudpickle

    if segments is None:
        data = cloudpickle.dumps(obj, protocol=5)
        return Parcel(data, (), len(data))
    packer = _Packer(segments, outbox)
    try:
        cloudpickle.Pickler(packer, protocol=5, buffer_callback=packer.take).dump(obj)
        return packer.parcel()
    except BaseException:
        packer.undo()
        raise


def loads(parcel: Parcel, segments: Segments | None) -> Any:
    """Return the value of a parcel, as often and in as many processes as you like while it is held."""
    outer = getattr(_current, "segments", None)
    _current.segments = segments  # for values that are kept elsewhere and belong in this one
    try:
        return _unpacked(parcel, segments)
    finally:
        _current.segments = outer


def _unpacked(parcel: Parcel, segments: Segments | None) -> Any:
    data, refs, _, cuts = parcel
    if not refs:
        return pickle.loads(data)
    if segments is None:
        raise was_released(refs[0])
    places = iter(refs)
    stream = memoryview(data) if data else segments.get(next(places))
    pieces = list(itertools.islice(places, len(cuts)))
    buffers = [segments.get(ref) for ref in places]
    if not cuts:
        return pickle.loads(stream, buffers=buffers)
    file: Any = _Stream(_parts(stream, cuts, pieces, segments))
    return pickle.Unpickler(file, buffers=buffers).load()


_current = threading.local()


def _fetched(parcel: Parcel) -> Any:
    return loads(parcel, getattr(_current, "segments", None))


class _Packer:
    """The file into which a value is pickled: it hands the pickler's big pieces on to segments.

    The pickler writes any `bytes`, `bytearray` or text of more than a frame (64 KiB) by itself, and gives the object,
    not a copy, to `write`. So big ones are found wherever they are, without a search and without a copy of them.
    """

    def __init__(self, segments: Segments, outbox: Outbox | None) -> None:
        self._segments = segments
        self._put: Callable[[Any], SegmentRef | None] = segments.put if outbox is None else outbox.put
        self._small: list[bytes] = []
        self._at = 0
        self._cuts: list[int] = []
        self._pieces: list[SegmentRef] = []
        self._buffers: list[SegmentRef] = []
        self._memory: dict[str, memoryview] = {}  # of the buffers, if it may be handed over
        self._full = False

    def write(self, chunk: Any) -> int:
        """Take the next part of the pickle."""
        if type(chunk) is pickle.PickleBuffer:  # a buffer that stays in, of any shape
            chunk = chunk.raw()
        size = len(chunk)
        if size >= LARGE and (ref := self._segment(chunk)) is not None:
            self._cuts.append(self._at)
            self._pieces.append(ref)
        else:
            # A view may point at memory that is gone when this returns, and a bytearray may change.
            self._small.append(chunk if type(chunk) is bytes else bytes(chunk))
            self._at += size
        return size

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the pickle, or say that it should stay in."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        ref = self._segment(raw) if raw.nbytes >= LARGE else None
        if ref is None or self._segments.handover is None:
            raw.release()
        else:
            self._memory[ref.name] = raw
        if ref is not None:
            self._buffers.append(ref)
        return ref is None

    def parcel(self) -> Parcel:
        """Return what was taken."""
        size = sum([ref.size for ref in (*self._pieces, *self._buffers)])
        data, first = b"".join(self._small), None
        if len(data) >= LARGE:  # many small things
            first = None if self._full else self._segments.put(data)
        nbytes = len(data) + size
        if self._segments.handover is not None and self._memory:
            self._segments.handover.offer(self._memory)
        if first is not None:
            return Parcel(b"", (first, *self._pieces, *self._buffers), nbytes, tuple(self._cuts))
        return Parcel(data, (*self._pieces, *self._buffers), nbytes, tuple(self._cuts))

    def undo(self) -> None:
        """Take back what was written."""
        for ref in (*self._pieces, *self._buffers):
            self._segments._take_back(ref)

    def _segment(self, content: Any) -> SegmentRef | None:
        ref = None if self._full else self._put(content)
        self._full = self._full or ref is None
        return ref


class _Stream:
    """A pickle of several parts, as the file that an unpickler reads."""

    def __init__(self, parts: Iterator[memoryview]) -> None:
        self._parts = parts
        self._part = memoryview(b"")
        self._at = 0

    def read(self, size: int) -> bytes | memoryview:
        """Return the next bytes: big ones as a view, because the unpickler copies them again."""
        got = self._next(size)
        if got.nbytes == size:
            return got if size >= LARGE else bytes(got)
        rest = bytearray(got)
        while len(rest) < size and (got := self._next(size - len(rest))).nbytes:
            rest += got
        return bytes(rest)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes."""
        done = 0
        with memoryview(buffer) as whole, whole.cast("B") as view:
            while done < view.nbytes and (got := self._next(view.nbytes - done)).nbytes:
                copy_bytes(got, view[done : done + got.nbytes])
                done += got.nbytes
        return done

    def readline(self) -> bytes:
        """Return the next line: only old kinds of pickle have some."""
        line = bytearray()
        while not line.endswith(b"\n") and (got := self._next(1)).nbytes:
            line += got
        return bytes(line)

    def _next(self, size: int) -> memoryview:
        while self._at == self._part.nbytes:
            part = next(self._parts, None)
            if part is None:
                break
            self._part, self._at = part, 0
        got = self._part[self._at : self._at + size]
        self._at += got.nbytes
        return got


def _parts(
    stream: memoryview, cuts: tuple[int, ...], pieces: list[SegmentRef], segments: Segments
) -> Iterator[memoryview]:
    """Give the small parts of a pickle and its pieces in turn; a piece is mapped only while it is read."""
    begin = 0
    for cut, ref in zip(cuts, pieces, strict=True):
        yield stream[begin:cut]
        yield segments.get(ref)
        begin = cut
    yield stream[begin:]


# ---- folders


def _owner(content: Any) -> Any:
    """Return the object whose memory this is; all views of the whole of it have the same."""
    owner = content if type(content) is bytes else memoryview(content).obj
    base = getattr(owner, "base", None)
    try:  # an array in Fortran order is pickled as the transposed view of it, made for the purpose
        return base if base is not None and memoryview(base).nbytes == memoryview(owner).nbytes else owner
    except (TypeError, ValueError, BufferError):
        return owner
