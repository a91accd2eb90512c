"""Index: nothing in it is believed that was not written so, and nothing is lost with it."""

import os
import random
import shutil
import sqlite3
import struct
import tempfile
import threading
from pathlib import Path

import pytest

from tests.crash import PUTS, QUICK, SECRET, check, filled, flip_index, index_of, kept, key_of, put
from tinygraph.store import index as room
from tinygraph.store import rows as rows_room
from tinygraph.store.entries import Entries, Writer
from tinygraph.store.index import Found, Index, Row, Spoilt

COUNT = 20


def row(i, made=1.0, node="m:f", pack="0" * 16):
    return Row(key_of(i), Found(b"token %d" % i, 0, pack, i * 100, 100), node, made)


@pytest.fixture
def tmp_path():
    """A folder on the quickest disk: there are thousands of files."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        yield Path(folder)


@pytest.fixture
def index(tmp_path):
    index = Index(str(tmp_path / "index"), SECRET, False)
    yield index
    index.close()


def opened(tmp_path):
    return Index(str(tmp_path / "index"), SECRET, False)


# ---- what it says


def test_what_is_written_is_found_also_later(index, tmp_path):
    index.write([row(i) for i in range(50)], {"0" * 16: 5_000})
    for one in (index, opened(tmp_path)):
        assert [one.find(key_of(i)) for i in range(50)] == [row(i).found for i in range(50)]
        assert one.find(key_of(50)) is None
        assert one.state() == (50, {"0" * 16: 5_000})
        assert sorted(one.all()) == sorted(row(i) for i in range(50))
    one.close()


def test_the_newest_of_a_key_counts_in_whatever_order_they_were_written(index):
    newest = row(0, made=3.0, pack="3" * 16)
    index.write([row(0, made=2.0), newest, row(0, made=1.0)])
    assert index.find(key_of(0)) == newest.found
    assert {one.key: one for one in index.all()}[key_of(0)] == newest


def test_older_rows_of_a_key_go(index):
    index.write([row(0, made=1.0), row(1)])
    index.write([row(0, made=2.0)], replaced=[key_of(0)])
    assert len(index.all()) == index.state()[0] == 2
    index.write([row(0, made=made) for made in (3.0, 5.0, 4.0)])
    index.thin()
    assert sorted(index.all()) == sorted([row(0, made=5.0), row(1)])
    assert index.newest(key_of(0)) == (5.0, "0" * 16, 0)
    assert index.newest(key_of(9)) is None
    assert index.state()[0] == 2


def test_keys_that_begin_alike_are_two(index):
    one, other = Row(b"12345678" + b"a" * 12, *row(0)[1:]), Row(b"12345678" + b"b" * 12, *row(1)[1:])
    index.write([one, other])
    assert (index.find(one.key), index.find(other.key)) == (one.found, other.found)
    assert index.find(b"12345678" + b"c" * 12) is None


def test_how_far_a_journal_was_read_never_goes_back(index):
    index.write(upto={"a": 10})
    index.write(upto={"a": 5, "b": 7})
    assert index.state() == (0, {"a": 10, "b": 7})


def test_what_is_gone_is_known_until_it_is_there_again(index):
    index.write([row(0), row(1)])
    index.write(gone=[(key_of(0), 2.0)])
    assert (index.find(key_of(0)), index.is_gone(key_of(0)), index.is_gone(key_of(1))) == (None, True, False)
    index.write([row(0, made=3.0)])
    assert (index.find(key_of(0)), index.is_gone(key_of(0))) == (row(0).found, False)
    index.write(gone=[(key_of(0), 2.0)])  # a note that is read late
    assert index.find(key_of(0)) == row(0).found
    assert index.state()[0] == len(index.all()) == 2


def test_rows_of_a_journal_that_is_no_more_go_with_it(index):
    index.write([row(0), row(1, pack="1" * 16)], {"0" * 16: 100, "1" * 16: 200})
    index.write(removed=["0" * 16])
    assert (index.find(key_of(0)), index.find(key_of(1))) == (None, row(1, pack="1" * 16).found)
    assert index.state() == (1, {"1" * 16: 200})


def test_newer_durations_weigh_more(index):
    index.write(costs=[("m:f", 1.0), ("m:g", 5.0)])
    index.write(costs=[("m:f", 2.0)])
    assert index.costs() == {"m:f": 1.3, "m:g": 5.0}


def test_when_keys_were_used_is_put_together(index, monkeypatch):
    monkeypatch.setattr(room, "_LINES", 5)
    for at in range(20):
        index.write(used=(float(at), key_of(at % 3) + key_of(7)))
    assert index.used() == {key_of(0): 18.0, key_of(1): 19.0, key_of(2): 17.0, key_of(7): 19.0}
    assert index._execute("SELECT count(*) FROM used").fetchone()[0] <= 5
    index.write([row(7)])
    index.pack()
    assert index.used()[key_of(7)] == 19.0
    assert index._execute("SELECT key FROM last").fetchall() in ([(key_of(7),)], [])  # of what is no more, nothing


def test_nothing_is_written_of_what_fails(index, monkeypatch):
    index.write([row(0)], {"a": 1})
    monkeypatch.setattr(index, "_learn", lambda costs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.write([row(1)], {"a": 2}, costs=[("m:f", 1.0)])
    assert (index.state(), index.find(key_of(1))) == ((1, {"a": 1}), None)


# ---- what it does not believe


@pytest.mark.parametrize(
    "change",
    [
        "token=x'00'", "token='text'", "token=NULL", "flags=1", "pack='1111111111111111'", "at=at+1", "length=99",
        "length=-1", "length=9999999999999", "seal=x'00'", "seal=NULL", "seal=''", "at='text'", "pack=x'ff'",
        "pack=1.5",
    ],
)  # fmt: skip
def test_a_row_that_was_changed_is_not_believed(index, change):
    index.write([row(0)])
    index._execute(f"UPDATE rows SET {change}")
    with pytest.raises((Spoilt, sqlite3.Error)):
        index.find(key_of(0))
    with pytest.raises((Spoilt, sqlite3.Error)):
        index.all()


def test_a_row_of_one_key_is_none_of_another(index):
    index.write([row(0), row(1)])
    one = index._execute("SELECT token, flags, pack, at, length, seal FROM rows WHERE key=?", (key_of(0),)).fetchone()
    index._execute("UPDATE rows SET token=?, flags=?, pack=?, at=?, length=?, seal=? WHERE key=?", (*one, key_of(1)))
    with pytest.raises(Spoilt):
        index.find(key_of(1))


def test_a_row_of_another_secret_is_none(tmp_path):
    theirs = Index(str(tmp_path / "index"), b"x" * 32, False)
    theirs.write([row(0)])
    theirs.close()
    with pytest.raises(Spoilt):
        opened(tmp_path)


def test_a_row_that_is_missing_is_missed(index):
    index.write([row(0), row(1)])
    index._execute("DELETE FROM rows WHERE key=?", (key_of(0),))
    with pytest.raises(Spoilt, match="missing"):
        index.all()


def test_an_index_with_something_else_in_it_is_none(tmp_path):
    connection = sqlite3.connect(tmp_path / "index")
    connection.execute("CREATE TABLE rows(recipe TEXT)")
    connection.close()
    with pytest.raises(Spoilt):
        opened(tmp_path)


# ---- it can be lost at any time


def lost(root):
    told = []
    entries = Entries(root, SECRET, warn=told.append)
    missing = [i for i in range(COUNT) if not kept(entries, i)]
    entries.close()
    return missing, told


@pytest.fixture
def root(tmp_path):
    filled(tmp_path / "store", COUNT)
    return tmp_path / "store"


def spoil(what):
    def truncate(root):
        os.truncate(index_of(root), os.path.getsize(index_of(root)) // 2)

    def cut(root):
        os.truncate(index_of(root), os.path.getsize(index_of(root)) - 1)

    def empty(root):
        os.truncate(index_of(root), 0)

    def zero(root):
        index_of(root).write_bytes(bytes(index_of(root).stat().st_size))

    def garbage(root):
        index_of(root).write_bytes(random.Random(0).randbytes(index_of(root).stat().st_size))

    def page(root):
        with open(index_of(root), "r+b") as file:
            file.seek(4096)
            file.write(bytes(4096))

    def text(root):
        index_of(root).write_text("This is not a database.\n" * 1000)

    def missing(root):
        index_of(root).unlink()

    def folder(root):
        index_of(root).unlink()
        (root / "index-1.sqlite").mkdir()

    def link(root):
        index_of(root).rename(root / "elsewhere")
        (root / "index-1.sqlite").symlink_to("elsewhere")

    def pipe(root):
        index_of(root).unlink()
        os.mkfifo(root / "index-1.sqlite")

    def wal(root):
        (root / "index-1.sqlite-wal").write_bytes(random.Random(0).randbytes(10_000))

    def shm(root):
        (root / "index-1.sqlite-shm").write_bytes(random.Random(0).randbytes(32_768))

    return locals()[what]


DAMAGE = [
    "truncate", "cut", "empty", "zero", "garbage", "page", "text", "missing", "folder", "link", "pipe", "wal", "shm",
]  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_whatever_happens_to_it_all_is_found_and_one_warning_says_so(root, what):
    spoil(what)(root)
    missing, told = lost(root)
    assert missing == []
    assert len(told) <= 1
    assert lost(root) == ([], [])  # it is whole again
    check(root, set(range(COUNT)), range(COUNT))


def test_no_bit_of_it_can_be_flipped_that_loses_anything():
    flip_index(lambda size: range(5, size, size // 300), COUNT)


def test_it_may_be_cut_anywhere(root, tmp_path):
    size = index_of(root).stat().st_size
    for cut in range(0, size, size // 40):
        copy = tmp_path / "copy"
        shutil.copytree(root, copy)
        os.truncate(index_of(copy), cut)
        assert lost(copy)[0] == []
        shutil.rmtree(copy)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_what_sqlite_keeps_beside_it_may_be_deleted_by_a_crash(root, tmp_path, suffix):
    """A copy of a store that is in use, without one of the files."""
    entries, writer = Entries(root, SECRET), Writer(root, SECRET)
    for i in range(COUNT, COUNT + 5):
        entries.note(key_of(i), put(writer, i))
        entries.flush()
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("*" + suffix))
    entries.close()
    writer.close()
    check(copy, set(range(COUNT + 5)), range(COUNT + 5))


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_it_may_be_deleted_while_it_is_open(root, suffix):
    told = []
    entries, writer = Entries(root, SECRET, warn=told.append), Writer(root, SECRET)
    assert kept(entries, 0)
    entries.note(key_of(COUNT), put(writer, COUNT))
    entries.flush()
    (root / f"index-1.sqlite{suffix}").unlink()
    entries.note(key_of(COUNT + 1), put(writer, COUNT + 1))
    entries.flush()
    assert all(kept(entries, i) for i in range(COUNT + 2))
    entries.close()
    writer.close()
    check(root, set(range(COUNT + 2)), range(COUNT + 2))


def test_it_may_be_spoilt_while_it_is_open(root):
    told = []
    entries, writer = Entries(root, SECRET, warn=told.append), Writer(root, SECRET)
    assert kept(entries, 0)
    with open(index_of(root), "r+b") as file:
        file.write(random.Random(1).randbytes(100_000))
    for i in range(COUNT, COUNT + 3):
        entries.note(key_of(i), put(writer, i))
        entries.flush()
    assert all(kept(entries, i) for i in range(COUNT + 3))
    entries.close()
    writer.close()
    assert len(told) <= 1
    check(root, set(range(COUNT + 3)), range(COUNT + 3))


def test_two_programs_mend_it_once(root):
    """Both have it open when it is spoilt; the second takes what the first has made."""
    told = []
    one, other = Entries(root, SECRET, warn=told.append), Entries(root, SECRET, warn=told.append)
    assert kept(one, 0)
    assert kept(other, 0)
    index_of(root).write_bytes(b"spoilt" * 1_000)
    writer = Writer(root, SECRET)
    for entries, i in ((one, COUNT), (other, COUNT + 1)):
        entries.note(key_of(i), put(writer, i))
        entries.flush()
    made = index_of(root).stat().st_ino
    assert all(kept(entries, i) for entries in (one, other) for i in range(COUNT))
    one.close()
    other.close()
    writer.close()
    assert index_of(root).stat().st_ino == made
    check(root, set(range(COUNT + 2)), range(COUNT + 2))


def test_a_store_is_used_without_it_when_it_stays_locked(root, monkeypatch):
    monkeypatch.setattr(room, "_PATIENCE", 0.05)
    rude = sqlite3.connect(index_of(root), isolation_level=None)
    rude.execute("BEGIN EXCLUSIVE")
    told = []
    entries, writer = Entries(root, SECRET, warn=told.append), Writer(root, SECRET)
    assert all(kept(entries, i) for i in range(COUNT))
    entries.note(key_of(COUNT), put(writer, COUNT), node="module:node", seconds=2.0)
    entries.flush()
    assert kept(entries, COUNT)
    assert [entry.key for entry in entries.latest("module:node", 2)] == [key_of(COUNT), key_of(COUNT - 1)]
    assert len(list(entries.list())) == COUNT + 1
    assert entries.costs()["module:node"] > 0
    assert entries.verify() == []
    rude.execute("ROLLBACK")
    rude.close()
    entries.close()
    writer.close()
    assert len(told) <= 1
    assert lost(root) == ([], [])


@pytest.mark.parametrize(
    "code", ["SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_CORRUPT"]
)
@pytest.mark.parametrize("method", ["write", "find", "all", "state"])
def test_whatever_sqlite_says_is_no_error_of_the_user(root, monkeypatch, method, code):
    told = []
    entries, writer = Entries(root, SECRET, warn=told.append), Writer(root, SECRET)

    def fail(*_):
        error = sqlite3.OperationalError(code)
        error.sqlite_errorcode = getattr(sqlite3, code)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Index, method, fail)
        for i in range(COUNT, COUNT + 3):
            assert all(kept(entries, i) for i in range(COUNT))
            entries.note(key_of(i), put(writer, i))
            entries.flush()
            assert kept(entries, i)
    assert len(told) <= 1
    entries.close()
    writer.close()
    check(root, set(range(COUNT + 3)), range(COUNT + 3))


def test_a_large_store_is_not_read_whole_for_a_few_questions(root, monkeypatch):
    monkeypatch.setattr(rows_room, "_AT_ONCE", 5)
    entries = Entries(root, SECRET)
    loads = []
    real = Index.all
    monkeypatch.setattr(Index, "all", lambda index: (loads.append(1), real(index))[1])
    assert all(kept(entries, i) for i in range(4))
    assert loads == []
    assert all(kept(entries, i) for i in range(COUNT))
    assert loads == [1]
    entries.close()


def test_an_index_of_another_format_is_left_alone(root):
    other = root / "index-2.sqlite"
    other.write_bytes(b"what a newer tinygraph knows")
    check(root, set(range(COUNT)), range(COUNT))
    assert other.read_bytes() == b"what a newer tinygraph knows"


def test_threads_share_it(root):
    entries, writer = Entries(root, SECRET), Writer(root, SECRET)
    failures = []

    def work(seed):
        chance = random.Random(seed)
        try:
            for _ in range(200):
                i = chance.randrange(60)
                if not kept(entries, i):
                    entries.note(key_of(i), put(writer, i))
                if chance.random() < 0.1:
                    entries.flush()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    entries.close()
    writer.close()
    check(root, set(range(COUNT)), range(60))


def test_a_forked_child_has_one_of_its_own(root):
    told = []
    entries, writer = Entries(root, SECRET, warn=told.append), Writer(root, SECRET)
    assert kept(entries, 0)
    entries.note(key_of(COUNT), put(writer, COUNT))
    child = os.fork()
    if not child:
        ok = all(kept(entries, i) for i in range(COUNT + 1))
        entries.note(key_of(COUNT + 1), put(writer, COUNT + 1))
        entries.flush()
        os._exit(0 if ok and kept(entries, COUNT + 1) and not told else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert kept(entries, COUNT + 1)
    entries.close()
    writer.close()
    assert told == []
    check(root, set(range(COUNT + 2)), range(COUNT + 2))


def test_the_short_form_of_a_key_is_what_is_indexed():
    assert struct.unpack_from("<q", key_of(0)) == room._SHORT.unpack_from(key_of(0))
    assert PUTS < COUNT
