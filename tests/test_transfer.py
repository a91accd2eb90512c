"""Values arrive as they were sent, belong to who got them, and leave nothing behind."""

import errno
import gc
import io
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import threading
import weakref

import numpy as np
import pandas as pd
import pytest

from tinygraph.errors import ReleasedError
from tinygraph.executors import handover as handing
from tinygraph.executors import segments as rooms
from tinygraph.executors.handover import Handover, is_out_of_reach
from tinygraph.executors.segments import Segments
from tinygraph.executors.transfer import LARGE, Kept, Outbox, dumps, loads

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="what a POSIX system does")
PROC = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to look at")

# What another process does with the pool whose folder it gets as its argument, and a parcel as its input.
HEAD = """
import os, pickle, sys
from tinygraph.executors.transfer import *
segments = Segments.attach(sys.argv[1])
"""


@pytest.fixture(params=["shared memory", "plain folder"])
def owner(request, tmp_path):
    if request.param == "plain folder":
        segments = Segments.create([str(tmp_path)])
    elif not os.access("/dev/shm", os.W_OK):
        pytest.skip("no shared memory here")
    else:
        segments = Segments.create(["/dev/shm", str(tmp_path)])
    yield segments
    segments.close()
    gc.collect()
    assert not list(tmp_path.glob("tinygraph-*"))


@pytest.fixture
def worker(owner):
    segments = Segments.attach(owner.folder)
    yield segments
    segments.close()


def elsewhere(code, segments, obj=None):
    """Run code in another process of the pool and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code, segments.folder], input=pickle.dumps(obj), capture_output=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.stdout


def files(segments):
    """Return the segments that are in use."""
    return sorted(name for folder in segments.folders for name in os.listdir(folder) if name != "free")


def free(segments):
    """Return the files that wait to be filled again."""
    return os.listdir(os.path.join(segments.folders[0], "free"))


def inodes(segments, parcel):
    return [os.stat(os.path.join(segments.folders[ref.folder], ref.name)).st_ino for ref in parcel.segments]


def noise(size):
    return random.Random(size).randbytes(size)


# ---- copies of a process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.timeout(20)
def test_a_forked_child_lets_go_of_nothing_that_is_its_parents(owner, worker):
    kept, sent = Kept(dumps(noise(LARGE), owner), owner), dumps(noise(LARGE + 1), worker)
    child = os.fork()
    if not child:
        del kept
        worker.discard(sent)
        owner.trim()
        os._exit(0)
    os.waitpid(child, 0)
    assert kept.fetch() == noise(LARGE)
    owner.hold(sent)
    assert loads(sent, owner) == noise(LARGE + 1)
    owner.release(sent)


# ---- every value arrives


@pytest.mark.parametrize(
    "size", [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]
)
@pytest.mark.parametrize(
    "make", [bytes, bytearray, lambda b: b.decode("latin-1"), lambda b: np.frombuffer(b, np.uint8)]
)
def test_a_value_arrives_byte_for_byte(owner, worker, size, make):
    value = make(noise(size))
    parcel = dumps(value, owner)
    got = loads(pickle.loads(pickle.dumps(parcel)), worker)
    assert type(got) is type(value)
    assert np.array_equal(got, value) if isinstance(value, np.ndarray) else got == value
    assert len(parcel.data) <= LARGE + 200
    assert parcel.nbytes >= size
    owner.release(parcel)
    assert files(owner) == []


BIG = np.arange(LARGE, dtype=np.float64).reshape(1024, -1)
VALUES = {
    "fortran order": np.asfortranarray(BIG),
    "every other row": BIG[::2],
    "reversed": BIG[:, ::-1],
    "a view": BIG[10:],
    "no dimension": np.array(3.0),
    "empty": np.empty((0, 5)),
    "big endian": BIG.astype(">f8"),
    "structured": np.zeros(LARGE, dtype=[("a", "i4"), ("b", "f8")]),
    "dates": np.arange(LARGE).astype("M8[s]"),
    "objects": np.array([{"a": 1}, None, "x"] * 1000, dtype=object),
    "masked": np.ma.masked_greater(BIG, 5),
}


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_array_arrives(owner, worker, name):
    value = VALUES[name]
    got = loads(dumps(value, owner), worker)
    assert type(got) is type(value)
    assert got.dtype == value.dtype
    assert got.shape == value.shape
    assert got.flags.f_contiguous == value.flags.f_contiguous or not value.flags.forc
    assert np.ma.allequal(got, value) if name == "masked" else np.array_equal(got, value)


def test_an_array_stays_readonly_or_writable(owner, worker):
    locked = BIG.copy()
    locked.flags.writeable = False
    got = loads(dumps([locked, BIG], owner), worker)
    assert [array.flags.writeable for array in got] == [False, True]


def test_a_frame_arrives(owner, worker):
    size = LARGE // 4
    frame = pd.DataFrame(
        {
            "a": np.arange(size),
            "b": np.random.default_rng(0).random(size),
            "c": pd.Categorical.from_codes(np.arange(size) % 3, ["x", "y", "z"]),
            "d": pd.date_range("2020", periods=size, freq="s", tz="UTC"),
            "e": ["text"] * size,
        },
        index=np.arange(size)[::-1],
    )
    parcel = dumps(frame, owner)
    assert len(parcel.segments) >= 2
    pd.testing.assert_frame_equal(loads(parcel, worker), frame)


@pytest.mark.needs("pyarrow")
def test_a_table_arrives(owner, worker):
    import pyarrow as pa

    table = pa.table({"a": np.arange(LARGE), "b": np.arange(LARGE).astype(str)})
    parcel = dumps(table, owner)
    assert len(parcel.data) < LARGE
    assert loads(parcel, worker).equals(table)


def test_big_parts_are_found_wherever_they_are(owner, worker):
    class Holder:
        def __init__(self, body):
            self.body = body

    body, text, changing = noise(LARGE), "ä€" * LARGE, bytearray(noise(2 * LARGE))
    value = {"deep": [({"a": (body,)},)], "held": Holder(text), "both": [changing, BIG], "small": 1}
    parcel = dumps(value, owner)
    got = loads(parcel, worker)
    assert len(parcel.data) < 4096
    assert len(parcel.segments) == 4
    assert got["deep"] == value["deep"]
    assert got["held"].body == text
    assert got["both"][0] == changing
    assert np.array_equal(got["both"][1], BIG)
    assert got["small"] == 1


def test_a_big_value_of_small_parts_does_not_travel_in_the_message(owner, worker):
    value = [list(range(LARGE)), noise(2 * LARGE), [noise(LARGE - 1)] * 3, BIG]
    parcel = dumps(value, owner)
    got = loads(parcel, worker)
    assert parcel.data == b""
    assert got[:3] == value[:3]
    assert np.array_equal(got[3], BIG)


def test_what_is_one_object_stays_one_and_is_written_once(owner, worker):
    body = noise(LARGE)
    parcel = dumps([BIG, body, {"again": BIG}, body], owner)
    got = loads(parcel, worker)
    assert len(parcel.segments) == 2
    assert got[0] is got[2]["again"]
    assert got[1] is got[3]


def test_a_view_of_memory_arrives_as_bytes(owner, worker):
    """Cloudpickle says so; a `PickleBuffer` arrives as a view."""
    body = noise(LARGE)
    assert loads(dumps(memoryview(body), owner), worker) == body
    assert bytes(loads(dumps(pickle.PickleBuffer(body), owner), worker)) == body


def test_functions_and_what_they_hold_arrive(owner, worker):
    array = BIG.copy()
    assert loads(dumps(lambda i: array[0, i], owner), worker)(7) == 7


def test_without_segments_everything_is_in_the_message():
    parcel = dumps([BIG], None)
    assert parcel.segments == ()
    assert np.array_equal(loads(parcel, None)[0], BIG)


def test_short_writes_are_gone_on_with(owner, worker, monkeypatch):
    write, calls = os.write, []

    def short(fd, data):
        calls.append(len(data))
        return write(fd, data[: min(len(data), 300_001)])

    monkeypatch.setattr(os, "write", short)
    value = noise(LARGE + 12_345)
    assert loads(dumps(value, owner), worker) == value
    assert len(calls) == 4


def test_no_system_call_gets_more_than_it_takes(owner, worker, monkeypatch):
    monkeypatch.setattr(rooms, "_PIECE", 100_000)
    monkeypatch.setattr(rooms, "_SLICE", 70_001)
    monkeypatch.setattr(rooms, "is_scarce", lambda fd: True)
    for size in (LARGE, LARGE + 1):
        value = noise(size)
        parcel = dumps([value, np.frombuffer(value, np.uint8)], owner)
        body, array = loads(parcel, worker)
        assert body == bytes(array) == value
        owner.release(parcel)


def has_memory(gigabytes):
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return False
    return pages > gigabytes << 30


@pytest.mark.slow
@pytest.mark.skipif(not has_memory(10), reason="needs 10 GiB of memory")
@pytest.mark.parametrize("size", [(2 << 30) - 1, (2 << 30) + 1, (4 << 30) + 5])
def test_values_of_gigabytes_arrive(size):
    owner = Segments.create()
    try:
        value = np.zeros(size, np.uint8)
        value[:: 1 << 20] = 1 + np.arange(len(value[:: 1 << 20])) % 251
        value[-1] = 252
        parcel = dumps(value, owner)
        assert parcel.segments[0].size == size
        got = loads(parcel, owner)
        step = 1 << 28
        assert got.shape == value.shape
        assert all(np.array_equal(got[i : i + step], value[i : i + step]) for i in range(0, size, step))
        del got
        owner.release(parcel)
        assert files(owner) == free(owner) == []
    finally:
        owner.close()


@pytest.mark.slow
@pytest.mark.skipif(not has_memory(16), reason="needs 16 GiB of memory")
@pytest.mark.parametrize("size", [(2 << 30) + 1, (4 << 30) + 5])
def test_bytes_of_gigabytes_arrive(size):
    owner = Segments.create()
    try:
        value = bytes(size - 3) + b"end"
        parcel = dumps(("before", value, "after"), owner)
        before, got, after = loads(parcel, owner)
        assert (before, after) == ("before", "after")
        assert got == value
    finally:
        owner.close()


# ---- it belongs to who got it


def test_what_a_consumer_writes_nobody_else_sees(owner, worker):
    value = BIG.copy()
    parcel = dumps(value, owner)
    one, other = loads(parcel, worker), loads(parcel, worker)
    one[:] = -1
    assert np.array_equal(other, BIG)
    assert np.array_equal(value, BIG)
    assert np.array_equal(loads(parcel, owner), BIG)
    value[:] = -2
    assert np.array_equal(loads(parcel, owner), BIG)


def test_another_process_gets_its_own(owner):
    parcel = dumps(BIG, owner)
    code = "a = loads(pickle.load(sys.stdin.buffer), segments); a += 1; print(int(a.sum()))"
    assert int(elsewhere(code, owner, parcel)) == BIG.sum() + BIG.size
    assert np.array_equal(loads(parcel, owner), BIG)


def test_what_was_got_outlives_the_release_and_every_later_value(owner, worker):
    """Unwritten pages of a mapping show the file: it must not be filled again while anybody has it."""
    parcel = dumps(BIG, owner)
    got = loads(parcel, worker)
    view = got[5:]
    owner.release(parcel)
    del got
    for i in range(5):
        later = dumps(np.full_like(BIG, i), owner)
        assert np.array_equal(view, BIG[5:])
        owner.release(later)
    owner.trim()
    assert np.array_equal(view, BIG[5:])
    owner.close()
    assert np.array_equal(view, BIG[5:])


@POSIX
def test_what_another_process_has_is_not_filled_again(owner):
    code = """
a = loads(pickle.load(sys.stdin.buffer), segments)
print("mapped", flush=True)
os.read(int(sys.argv[2]), 1)
print(int(a.sum()))
"""
    go, signal_go = os.pipe()
    parcel = dumps(BIG, owner)
    command = [sys.executable, "-c", HEAD + code, owner.folder, str(go)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[go]) as other:
        other.stdin.write(pickle.dumps(parcel))
        other.stdin.close()
        assert other.stdout.readline() == b"mapped\n"
        owner.release(parcel)
        for i in range(3):
            owner.release(dumps(np.full_like(BIG, i), owner))
        os.write(signal_go, b"x")
        assert int(other.stdout.readline()) == BIG.sum()
    os.close(go)
    os.close(signal_go)


@POSIX
def test_a_released_segment_is_filled_again(owner):
    first = dumps(BIG, owner)
    inode = inodes(owner, first)
    for i in range(4):
        owner.release(first)
        assert files(owner) == []
        assert len(free(owner)) == 1
        first = dumps(np.full_like(BIG, i), owner)
        assert inodes(owner, first) == inode
        assert (loads(first, owner) == i).all()


@POSIX
def test_segments_go_round_between_processes(owner, worker):
    """A worker fills again what the owner released, whoever wrote it."""
    held = dumps(BIG, owner)
    for i in range(1, 6):
        result = dumps(loads(held, worker) + 1, worker)
        owner.hold(result)
        owner.release(held)
        held = result
        assert np.array_equal(loads(held, owner), BIG + i)
        assert len(files(owner)) == 1
        assert len(free(owner)) == 1


@POSIX
def test_a_smaller_value_in_a_bigger_file_has_its_own_size(owner, worker):
    owner.release(dumps(np.ones(LARGE + 1000, np.uint8), owner))
    parcel = dumps(np.zeros(LARGE + 10, np.uint8), owner)
    assert free(owner) == []
    got = loads(parcel, worker)
    assert got.shape == (LARGE + 10,)
    assert not got.any()


def test_an_outdated_parcel_finds_nothing_rather_than_something_else(owner, worker):
    old = dumps(BIG, owner)
    owner.release(old)
    new = dumps(BIG + 1, owner)
    with pytest.raises(ReleasedError, match="let go"):
        loads(old, worker)
    assert np.array_equal(loads(new, worker), BIG + 1)


def test_where_no_lock_can_be_had_a_value_is_copied(owner, worker, monkeypatch):
    monkeypatch.setattr(rooms, "locked", lambda fd, alone, wait=False: False)
    parcel = dumps(BIG, owner)
    got = loads(parcel, worker)
    got += 1
    owner.release(parcel)
    other = dumps(BIG, owner)
    assert np.array_equal(got, BIG + 1)
    assert np.array_equal(loads(other, worker), BIG)


def test_many_threads_share_the_segments(owner, worker):
    wrong = []

    def go(number):
        for i in range(30):
            value = np.full(LARGE // 8 + number % 3, number * 100 + i, np.float64)
            parcel = dumps(value, owner)
            got = loads(parcel, worker)
            owner.release(parcel)
            if not np.array_equal(got, value):
                wrong.append((number, i))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert files(owner) == []


# ---- handed over


@pytest.fixture
def maker(worker):
    """A worker whose next task may get what it has just returned."""
    worker.handover = Handover()
    return worker


def returned(value, segments):
    """Do what a worker does with what a body returned; `value` is a function, so that nobody else holds that."""
    parcel = dumps(value(), segments)
    segments.handover.keep_what_is_ours()
    return parcel


def address(array):
    return array.__array_interface__["data"][0]


def with_its_address():
    """Return an array that says where it is."""
    array = BIG.copy()
    array[0, 0] = address(array)
    return array


def test_the_next_task_gets_the_memory_itself_and_who_comes_later_maps(owner, maker):
    parcel = returned(with_its_address, maker)
    first, second, elsewhere = loads(parcel, maker), loads(parcel, maker), loads(parcel, owner)
    assert address(first) == first[0, 0]
    assert address(second) != second[0, 0] == first[0, 0]
    first[:] = -1
    for other in (second, elsewhere, loads(parcel, maker)):
        assert np.array_equal(other[1:], BIG[1:])


def test_a_frame_is_made_anew_around_the_memory_of_its_columns(owner, maker):
    parcel = returned(lambda: pd.DataFrame({"a": np.arange(LARGE), "b": np.ones(LARGE)}), maker)
    assert len(maker.handover.kept) == len(parcel.segments) == 2
    got = loads(parcel, maker)
    assert not maker.handover.kept
    got["a"] += 1
    assert loads(parcel, maker)["a"][5] == 5


def test_what_was_changed_in_place_is_handed_on(owner, maker):
    """From the first mapping to the last body it is one piece of memory, and every segment has what was returned."""

    def step(parcel):
        array = loads(parcel, maker)
        array += 1
        return array

    parcels = [dumps(BIG, owner)]
    owner.hold(parcels[0])
    for _ in range(4):
        parcels.append(returned(lambda: step(parcels[-1]), maker))
        assert len(maker.handover.kept) == 1
    for i, parcel in enumerate(parcels):
        assert np.array_equal(loads(parcel, owner), BIG + i)


HELD = []


def held(make):
    """Return what a body returns that keeps a hold on it."""

    def returns():
        value, keep = make()
        HELD.append(keep)
        return value

    return returns


def a_mapped_file(tmp_path):
    BIG.tofile(tmp_path / "file")
    return np.memmap(tmp_path / "file", BIG.dtype, "r+", shape=BIG.shape)


class Sub(np.ndarray):
    """An array with a life of its own."""


REACHABLE = {
    "itself": lambda array: (array, array),
    "a view of it": lambda array: (array, array[5:]),
    "what it is a view of": lambda array: (array[5:], array),
    "beside it": lambda array: (array[5:], array[:5]),
    "its memory": lambda array: (array, memoryview(array)),
    "transposed": lambda array: (array.T, array),
    "a container": lambda array: ({"deep": [array]}, [array]),
    "weakly": lambda array: (array, weakref.ref(array)),
}


@pytest.mark.parametrize("how", REACHABLE)
def test_what_can_still_be_reached_is_not_handed_over(owner, maker, how):
    parcel = returned(held(lambda: REACHABLE[how](BIG.copy())), maker)
    assert not maker.handover.kept
    HELD.clear()
    loads(parcel, maker)


def test_a_view_of_the_memory_that_was_handed_over_is_found(owner, maker):
    """The views of one piece of memory share it without one knowing of the other."""
    first = returned(BIG.copy, maker)

    def body():
        array = loads(first, maker)
        inner = array if array.base is None else array.base
        while isinstance(inner, np.ndarray):
            inner = inner.base
        HELD.append(memoryview(inner))
        return array

    returned(body, maker)
    assert not maker.handover.kept
    HELD.clear()


def test_memory_that_others_may_share_is_not_handed_over(owner, maker, tmp_path):
    for make in (
        lambda: a_mapped_file(tmp_path),
        lambda: np.asarray(a_mapped_file(tmp_path)),
        lambda: BIG.copy().view(Sub),
        lambda: np.frombuffer(bytearray(BIG.nbytes)),
        lambda: pickle.PickleBuffer(bytearray(BIG.nbytes)),
    ):
        returned(make, maker)
        assert not maker.handover.kept


def test_an_array_that_is_handed_over_stays_readonly(owner, maker):
    def locked():
        array = BIG.copy()
        array.flags.writeable = False
        return [array, BIG.copy()]

    got = loads(returned(locked, maker), maker)
    assert [array.flags.writeable for array in got] == [False, True]


def test_of_huge_values_nothing_stays(owner, maker, monkeypatch):
    monkeypatch.setattr(handing, "MOST", BIG.nbytes)
    returned(lambda: [BIG.copy(), BIG.copy()], maker)
    assert not maker.handover.kept
    returned(BIG.copy, maker)
    assert maker.handover.kept


def test_a_value_that_cannot_be_sent_stays_nowhere(owner, maker):
    with pytest.raises(TypeError):
        dumps([BIG.copy(), threading.Lock()], maker)
    assert not maker.handover.kept
    assert files(owner) == []


def test_memory_is_out_of_reach_only_without_any_other_name():
    view = memoryview(np.zeros(3))
    assert is_out_of_reach(view)
    array = np.asarray(view)
    assert not is_out_of_reach(view)
    del array
    assert is_out_of_reach(view)


# ---- counting


def test_a_segment_lives_until_its_last_user_releases_it(owner, worker):
    parcel = dumps(BIG, owner)
    owner.hold(parcel)
    owner.release(parcel)
    assert len(files(owner)) == 1
    assert np.array_equal(loads(parcel, worker), BIG)
    owner.release(parcel)
    assert files(owner) == []
    owner.release(parcel)  # once too often does no harm
    assert files(owner) == []


def test_a_result_is_counted_by_the_owner(owner, worker):
    result = dumps(BIG, worker)
    owner.hold(result)
    owner.release(result)
    assert files(owner) == []


def test_what_is_not_sent_is_taken_back(owner, worker):
    for side in (owner, worker):
        side.discard(dumps([BIG, noise(LARGE)], side))
    assert files(owner) == []


def test_a_failed_dump_leaves_nothing(owner, worker):
    class Sour:
        def __reduce__(self):
            raise ValueError("sour")

    for side in (owner, worker):
        with pytest.raises(ValueError, match="sour"):
            dumps([noise(LARGE), BIG, Sour()], side)
    assert files(owner) == []


@POSIX
def test_what_a_dead_worker_wrote_is_taken_back_and_what_it_sent_is_kept(owner):
    code = """
import signal
print(os.getpid(), flush=True)
dumps(bytes(LARGE), segments)
sys.stdout.buffer.write(pickle.dumps(dumps(b"x" * LARGE, segments)))
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    out = io.BytesIO(elsewhere(code, owner))
    pid, sent = int(out.readline()), pickle.load(out)
    mine = dumps(BIG, owner)
    owner.hold(sent)
    assert len(files(owner)) == 3
    owner.reap(pid)
    assert len(files(owner)) == 2
    assert loads(sent, owner) == b"x" * LARGE
    assert np.array_equal(loads(mine, owner), BIG)


def test_memory_kept_for_later_is_bounded_and_given_back(owner, monkeypatch):
    monkeypatch.setattr(rooms, "_FREE_BYTES", 3 * LARGE)
    parcels = [dumps(noise(LARGE + i), owner) for i in range(6)]
    for parcel in parcels:
        owner.release(parcel)
    assert len(free(owner)) == 2
    owner.trim()
    assert free(owner) == []
    owner.release(dumps(noise(4 * LARGE), owner))
    assert free(owner) == files(owner) == []


@PROC
def test_a_thousand_round_trips_leave_no_file_open(owner, worker):
    def trip(i):
        parcel = dumps([np.full(LARGE // 8, i), bytes(LARGE)], worker if i % 2 else owner)
        if i % 2:
            owner.hold(parcel)
        assert loads(parcel, worker)[0][0] == i
        owner.release(parcel)

    for i in range(10):
        trip(i)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(1000):
        trip(i)
    assert len(os.listdir("/proc/self/fd")) <= before
    owner.close()
    worker.close()


@PROC
def test_when_open_files_run_out_values_are_copied(owner, worker):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    parcels = [dumps(np.full(LARGE // 8, i), owner) for i in range(80)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        got = [loads(parcel, worker) for parcel in parcels]
        more = dumps(BIG, owner)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [array[-1] for array in got] == list(range(80))
    assert np.array_equal(loads(more, worker), BIG)


# ---- one object, several calls


def test_an_object_passed_to_several_calls_is_written_once(owner, worker):
    outbox, array, body = Outbox(owner), BIG.copy(), noise(LARGE)
    fortran = np.asfortranarray(BIG)
    parcels = [dumps((i, [array], {"x": body}, fortran), owner, outbox) for i in range(8)]
    assert len(files(owner)) == 3
    for i, parcel in enumerate(parcels):
        got = loads(parcel, worker)
        assert got[0] == i
        assert np.array_equal(got[1][0], BIG)
        assert got[2] == {"x": body}
        assert np.array_equal(got[3], BIG)
        owner.release(parcel)
    assert len(files(owner)) == 3
    outbox.close()
    assert files(owner) == []


def test_an_outbox_keeps_no_array_alive(owner, worker):
    outbox = Outbox(owner)
    for i in range(4):
        array = np.full_like(BIG, i)  # likely at the place of the one before
        parcel = dumps(array, owner, outbox)
        del array
        gc.collect()
        assert len(files(owner)) == 1
        assert (loads(parcel, worker) == i).all()
        owner.release(parcel)
        assert files(owner) == []


def test_what_can_change_in_place_without_a_weak_reference_is_written_anew(owner, worker):
    outbox, changing = Outbox(owner), bytearray(LARGE)
    first = dumps(changing, owner, outbox)
    changing[0] = 1
    assert loads(dumps(changing, owner, outbox), worker)[0] == 1
    assert loads(first, worker)[0] == 0


def test_a_view_is_not_taken_for_the_whole(owner, worker):
    outbox, array = Outbox(owner), np.arange(2 * LARGE, dtype=np.uint8)
    values = [array, array[LARGE:], array[:LARGE], array.reshape(2, -1)]
    got = [loads(dumps(value, owner, outbox), worker) for value in values]
    assert all(np.array_equal(a, b) and a.shape == b.shape for a, b in zip(got, values, strict=True))


def test_an_outbox_is_for_who_counts(owner, worker):
    with pytest.raises(ValueError, match="owns"):
        Outbox(worker)


def test_a_kept_value_travels_as_a_few_bytes_and_is_released_when_nobody_needs_it(owner, worker):
    kept = Kept(dumps(BIG, owner), owner)
    message = dumps(([kept], kept), owner)
    assert message.nbytes < 500
    (one,), other = loads(message, worker)
    assert one is other
    assert np.array_equal(one, BIG)
    assert np.array_equal(kept.fetch(), BIG)
    del kept
    gc.collect()
    assert files(owner) == []


# ---- folders


@POSIX
def test_only_this_user_can_look_inside(owner):
    mask = os.umask(0)
    try:
        parcel = dumps(BIG, owner)
        other = Segments.create([os.path.dirname(owner.folders[0])])
    finally:
        os.umask(mask)
    for folder in (*owner.folders, *other.folders):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    (ref,) = parcel.segments
    assert stat.S_IMODE(os.stat(os.path.join(owner.folders[ref.folder], ref.name)).st_mode) == 0o600
    other.close()


def test_closing_removes_the_folders_and_twice_is_once(owner):
    folders = owner.folders
    dumps(BIG, owner)
    owner.close()
    owner.close()
    assert not any(os.path.exists(folder) for folder in folders)


def test_a_worker_that_leaves_removes_nothing(owner, worker):
    parcel = dumps(BIG, owner)
    worker.close()
    assert np.array_equal(loads(parcel, owner), BIG)


CRASH = """
import os, signal, sys
from tinygraph.executors.transfer import *
segments = Segments.create(sys.argv[1:])
dumps(bytes(LARGE), segments)
segments.release(dumps(bytes(2 * LARGE), segments))
os.symlink(sys.argv[1] + "/precious", os.path.join(segments.folders[0], "link"))
os.symlink(sys.argv[1], os.path.join(segments.folders[0], "up"))
print(segments.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@POSIX
def test_a_dead_program_is_swept_and_a_living_one_is_not(tmp_path):
    """Links among the leftovers are removed and not followed."""
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / "tinygraph-notes").mkdir()
    os.symlink(tmp_path, tmp_path / f"tinygraph-{os.getuid()}-1-abcd")
    done = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    dead = done.stdout.decode().strip()
    living = Segments.create([str(tmp_path)])
    parcel = dumps(BIG, living)
    assert os.path.isdir(dead)
    assert Segments.sweep([str(tmp_path)]) == [dead]
    assert Segments.sweep([str(tmp_path), str(tmp_path / "missing")]) == []
    assert np.array_equal(loads(parcel, living), BIG)
    assert (tmp_path / "precious").read_text() == "keep me"
    assert (tmp_path / "tinygraph-notes").is_dir()
    living.close()


@POSIX
def test_a_folder_of_a_reused_process_number_is_swept(tmp_path):
    """The lock tells, not the number: this process lives, and does not hold it."""
    left = tmp_path / f"tinygraph-{os.getuid()}-{os.getpid()}-abcd1234"
    left.mkdir()
    assert Segments.sweep([str(tmp_path)]) == [str(left)]


@POSIX
def test_what_is_mapped_survives_the_sweep(tmp_path):
    code = CRASH.replace("print(", "import pickle; parcel = dumps(b'x' * LARGE, segments)\nprint(repr(parcel));print(")
    code = code.replace("b'x' * LARGE", "__import__('numpy').ones(LARGE)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    parcel, folder = done.stdout.decode().splitlines()
    parcel = eval(parcel, vars(rooms))
    worker = Segments.attach(folder)
    got = loads(parcel, worker)
    assert Segments.sweep([str(tmp_path)]) == [folder]
    assert got.sum() == LARGE
    with pytest.raises(ReleasedError):
        loads(parcel, worker)
    assert loads(dumps(noise(LARGE), worker), worker) == noise(LARGE)  # no folder left: in the message


@POSIX
def test_a_link_in_place_of_a_segment_is_not_followed(owner, tmp_path):
    target = tmp_path / "other"
    target.write_bytes(bytes(BIG.nbytes))
    parcel = dumps(BIG, owner)
    path = os.path.join(owner.folders[0], parcel.segments[0].name)
    os.unlink(path)
    os.symlink(target, path)
    with pytest.raises(OSError):
        loads(parcel, owner)
    owner.release(parcel)
    owner.close()
    assert target.read_bytes() == bytes(BIG.nbytes)


def test_a_segment_that_was_cut_short_is_refused(owner):
    parcel = dumps(BIG, owner)
    os.truncate(os.path.join(owner.folders[0], parcel.segments[0].name), 5)
    with pytest.raises(OSError, match="shorter"):
        loads(parcel, owner)


# ---- no room


@PROC
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EIO])
def test_where_there_is_no_room_a_plain_file_serves_and_then_the_message(tmp_path, monkeypatch, number):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    owner = Segments.create([str(first), str(second)])
    worker = Segments.attach(owner.folder)
    write, full = os.write, [str(first)]

    def failing(fd, data):
        if os.readlink(f"/proc/self/fd/{fd}").startswith(tuple(full)):
            if len(data) <= LARGE // 2:
                raise OSError(number, os.strerror(number))
            return write(fd, data[: len(data) // 2])  # some of it goes in first
        return write(fd, data)

    value = ["a", noise(LARGE), BIG, list(range(LARGE)), "ä" * LARGE]

    def check(parcel):
        got = loads(parcel, worker)
        assert np.array_equal(got.pop(2), BIG)
        assert got == value[:2] + value[3:]
        owner.release(parcel)
        assert files(owner) == []

    monkeypatch.setattr(os, "write", failing)
    parcel = dumps(value, owner)
    assert {ref.folder for ref in parcel.segments} == {1}
    check(parcel)
    full.append(str(second))
    parcel = dumps(value, owner)
    assert parcel.segments == ()
    check(parcel)
    owner.close()


def test_a_full_file_system_is_seen_before_writing(tmp_path, monkeypatch):
    (tmp_path / "first").mkdir()
    owner = Segments.create([str(tmp_path / "first"), str(tmp_path)])
    monkeypatch.setattr(rooms, "room_in", lambda folder: 100 if "first" in folder else sys.maxsize)
    parcel = dumps(BIG, owner)
    assert parcel.segments[0].folder == 1
    assert np.array_equal(loads(parcel, owner), BIG)
    owner.close()


def test_without_any_folder_values_travel_in_the_message(tmp_path):
    owner = Segments.create([str(tmp_path / "missing"), str(tmp_path / "absent")])
    worker = Segments.attach(owner.folder)
    assert owner.folders == worker.folders == ()
    parcel = dumps([BIG, noise(LARGE)], worker)
    owner.hold(parcel)
    assert parcel.segments == ()
    assert loads(parcel, owner)[1] == noise(LARGE)
    owner.release(parcel)
    owner.close()


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.getuid() != 0, reason="mounts a file system")
def test_a_tiny_shared_memory_overflows_into_plain_files(tmp_path):
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", tiny], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        owner = Segments.create([str(tiny), str(tmp_path)])
        parcels = [dumps(noise(LARGE + i), owner) for i in range(6)]
        assert {parcel.segments[0].folder for parcel in parcels} == {0, 1}
        assert all(loads(parcel, owner) == noise(LARGE + i) for i, parcel in enumerate(parcels))
        owner.close()
    finally:
        subprocess.run(["umount", tiny], check=True)
