"""Entries: what was put is found, by whom ever; what is damaged is told once and is not there; room can be made."""

import errno
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.crash import QUICK, SECRET, Encoded, check, filled, flip, hammer, index_of, kept, key_of, put, value_of
from tinygraph import DamagedEntry, StoreError, StoreUntrusted
from tinygraph.store import disk, shrink
from tinygraph.store.blobs import Blobs
from tinygraph.store.entries import FILES, Entries, Entry, Writer
from tinygraph.store.index import Index, Row
from tinygraph.store.journal import Journal, files
from tinygraph.store.seal import Seal

SMALL, LARGE = (0, 1, 3, 4), (2, 5)  # of the values that are put here


@pytest.fixture
def tmp_path():
    """A folder on the quickest disk: there are thousands of files."""
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        yield Path(folder)


@pytest.fixture
def root(tmp_path):
    filled(tmp_path / "store", 6)
    return tmp_path / "store"


@pytest.fixture
def told():
    return []


@pytest.fixture
def entries(root, told):
    entries = Entries(root, SECRET, warn=told.append)
    yield entries
    entries.close()


@pytest.fixture
def writer(root):
    writer = Writer(root, SECRET)
    yield writer
    writer.close()


def note(entries, writer, *which, **facts):
    for i in which:
        entries.note(key_of(i), put(writer, i), **({"node": "module:node", "seconds": 0.5} | facts))


def journal_of(root):
    (pack,) = files(str(root / "journal"))
    return root / "journal" / f"{pack}.log"


def blob_of(root, i):
    entries = Entries(root, SECRET)
    entry = entries.read(entries.find(key_of(i)), key_of(i))
    entries.close()
    return Path(Blobs(str(root / "values"), Seal(SECRET, b"blob"), False).path(entry.blob))


def all_of(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


# ---- putting and finding


def test_what_was_put_is_found_as_it_was(root, entries, writer):
    content = os.urandom(300)
    entry = Entry(
        key_of(100), b"token", "module:node", "a name", b"code", b"args", 1234.5, 6.75,
        "codec", b"meta", 300, None, None, FILES, b"extra",
    )  # fmt: skip
    found = writer.put(entry, Encoded("codec", b"meta", [content], 300))
    entries.note(entry.key, found, node=entry.node, seconds=6.75)
    assert entries.find(entry.key) == found
    assert (found.token, found.flags) == (b"token", FILES)
    assert entries.read(found, entry.key) == entry._replace(body=content)
    assert entries.body(entries.read(found, entry.key)) == content


@pytest.mark.parametrize(("size", "is_inline"), [(0, True), (4096, True), (4097, False), (2_000_000, False)])
def test_a_small_value_lies_in_its_record_and_a_large_one_in_a_blob(entries, writer, size, is_inline):
    content = os.urandom(size)
    entry = Entry(key_of(100), b"t", "", "", b"", b"", 1.0, 0.0, "c", b"", size, None, None, 0, b"")
    read = entries.read(writer.put(entry, Encoded("c", b"", [content], size)), entry.key)
    assert (read.body is not None, read.blob is None) == (is_inline, is_inline)
    assert entries.body(read) == content


def test_what_nobody_put_is_not_found(entries):
    assert entries.find(key_of(100)) is None


def test_a_value_belongs_to_who_asks_for_it(entries):
    for i in (*SMALL, *LARGE):
        entry = entries.read(entries.find(key_of(i)), key_of(i))
        entries.body(entry)[:5] = b"mine!"
        assert kept(entries, i)


def test_what_was_put_and_not_noted_is_found_when_the_store_is_opened(root, writer):
    for i in range(6, 20):
        put(writer, i)
    later = Entries(root, SECRET)
    assert all(kept(later, i) for i in range(20))
    later.close()


def test_what_another_program_put_meanwhile_is_found_when_asked(root, entries, writer):
    assert not kept(entries, 6)
    put(writer, 6)
    assert not kept(entries, 6)
    entries.catch_up()
    assert kept(entries, 6)


def test_what_another_program_noted_meanwhile_is_found(root, entries, writer, monkeypatch):
    monkeypatch.setattr("tinygraph.store.rows._FRESH", 0.0)  # looked at each time, and not only now and then
    assert not kept(entries, 6)
    other = Entries(root, SECRET)
    note(other, writer, 6)
    other.flush()
    assert kept(entries, 6)
    other.close()


def test_the_newest_entry_of_a_key_counts(root, entries, writer):
    first = entries.find(key_of(0))
    note(entries, writer, 0)
    second = entries.find(key_of(0))
    assert second != first
    entries.close()
    assert entries.find(key_of(0)) == second
    index_of(root).unlink()
    entries.close()
    again = Entries(root, SECRET)
    assert again.find(key_of(0)) == second
    again.close()


def test_what_was_found_late_does_not_replace_what_is_newer(root, entries, writer):
    """One program puts and dies before it has noted that; another, which did not know, has put the same since."""
    put(writer, 6)
    other = Writer(root, SECRET)
    newer = put(other, 6)
    later = Index(str(index_of(root)), SECRET, False)
    later.write([Row(key_of(6), newer, "module:node", shrink.time())], {newer.pack: newer.at + newer.length})
    later.close()
    assert entries.find(key_of(6)) == newer
    entries.close()
    assert entries.find(key_of(6)) == newer
    other.close()


def test_a_writer_goes_to_another_process(root, entries, writer):
    copy = pickle.loads(pickle.dumps(writer))
    note(entries, copy, 6)
    note(entries, writer, 7)
    assert kept(entries, 6)
    assert kept(entries, 7)
    assert len(files(str(root / "journal"))) == 2
    copy.close()


def test_nothing_is_opened_before_something_is_asked_for(tmp_path):
    Entries(tmp_path / "store", SECRET)
    Writer(tmp_path / "store", SECRET)
    assert not (tmp_path / "store").exists()


def test_who_only_reads_needs_no_index(root, entries):
    found = {i: entries.find(key_of(i)) for i in range(6)}
    entries.close()
    index_of(root).unlink()
    reader = Entries(root, SECRET)
    for i, place in found.items():
        assert reader.body(reader.read(place, key_of(i))) == value_of(i)
    assert not (root / "index-1.sqlite").exists()
    reader.close()


# ---- what else is known


def test_entries_are_listed_the_oldest_first(entries):
    assert [entry.key for entry in entries.list()] == [key_of(i) for i in range(6)]


def test_the_latest_of_a_node_come_first(entries, writer):
    note(entries, writer, 6, node="module:other")
    note(entries, writer, 7)
    assert [entry.key for entry in entries.latest("module:node", 3)] == [key_of(7), key_of(5), key_of(4)]
    assert [entry.key for entry in entries.latest("module:other")] == [key_of(6)]
    assert entries.latest("module:none") == []


def test_durations_are_learned(root, entries, writer):
    assert entries.costs() == {"module:node": 0.5}
    note(entries, writer, 6, seconds=1.5)
    entries.learn("module:unkept", 3.0)
    expected = {"module:node": 0.8, "module:unkept": 3.0}
    assert entries.costs() == pytest.approx(expected)
    entries.close()
    assert entries.costs(["module:node", "module:none"]) == pytest.approx({"module:node": 0.8})
    entries.close()
    index_of(root).unlink()
    again = Entries(root, SECRET)
    assert "module:node" in again.costs()  # the journals know it as well
    again.close()


def test_the_size_is_that_of_journals_and_blobs(root, entries):
    paths = [*(root / "journal").iterdir(), *(path for path in (root / "values").rglob("*") if path.is_file())]
    assert entries.size() == sum(path.stat().st_size for path in paths)


# ---- what is damaged


def test_a_damaged_record_is_told_once_and_kept_aside(root, entries, told):
    found = entries.find(key_of(0))
    flip(journal_of(root), (found.at + 100) * 8)
    with pytest.raises(DamagedEntry, match=key_of(0).hex()):
        entries.read(found, key_of(0))
    assert entries.find(key_of(0)) is None
    assert len(told) == 1
    assert "damaged" in told[0]
    (aside,) = (root / "damaged").iterdir()
    assert aside.stat().st_size == found.length
    with pytest.raises(DamagedEntry):
        entries.read(found, key_of(0))
    entries.close()
    assert entries.find(key_of(0)) is None
    index_of(root).unlink()
    again = Entries(root, SECRET, warn=told.append)
    assert again.find(key_of(0)) is None
    again.close()
    assert len(told) == 1
    check(root, set(range(1, 6)), range(6))


def test_a_damaged_blob_is_told_once_and_kept_aside(root, entries, told, writer):
    path = blob_of(root, 2)
    flip(path, 8 * 3_000)
    assert not kept(entries, 2)
    assert not path.exists()
    assert [aside.name for aside in (root / "damaged").iterdir()] == [path.parent.name + path.name]
    assert len(told) == 1
    note(entries, writer, 2)
    assert kept(entries, 2)
    check(root, set(range(6)), range(6))


def test_a_blob_that_is_no_more_is_a_miss(root, entries, told):
    blob_of(root, 2).unlink()
    assert not kept(entries, 2)
    assert kept(entries, 5)
    assert told == []


def test_no_change_of_a_journal_gives_a_wrong_value(root, tmp_path):
    """Flipped anywhere, cut anywhere, zeroed, doubled, mixed up: with its index, and without."""
    path = journal_of(root)
    whole = path.read_bytes()
    half = len(whole) // 2
    spoilt = [whole[:n] for n in range(0, len(whole), 97)]
    spoilt += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(0, len(whole), 83)]
    spoilt += [b"", bytes(len(whole)), whole + whole, whole[half:] + whole[:half], whole + b"appended", whole[7:]]
    for number, content in enumerate(spoilt):
        copy = tmp_path / str(number)
        shutil.copytree(root, copy)
        (copy / "journal" / path.name).write_bytes(content)
        if number % 2:
            index_of(copy).unlink()
        check(copy, set(), range(6))


def test_a_record_of_another_place_is_not_believed(root, entries):
    """What was found points at the record of another call: then it is looked for again, and is as it was."""
    one, other = entries.find(key_of(0)), entries.find(key_of(1))
    assert entries.read(other._replace(token=one.token), key_of(0)) == entries.read(one, key_of(0))
    for wrong in (other, one._replace(token=b"another value")):
        with pytest.raises(DamagedEntry, match="replaced"):
            entries.read(wrong, key_of(0))
    with pytest.raises(DamagedEntry):
        entries.read(other, key_of(100))
    assert kept(entries, 0)


def test_verify_tells_and_changes_nothing(root, entries, told):
    assert entries.verify() == []
    blob = blob_of(root, 2)
    flip(blob, 8 * 3_000)
    flip(journal_of(root), (entries.find(key_of(0)).at + 100) * 8)
    before = all_of(root)
    for _ in range(2):
        bad = entries.verify()
        assert {one.key: one.path for one in bad} == {key_of(0): str(journal_of(root)), key_of(2): str(blob)}
        assert all(one.problem for one in bad)
    assert (told, all_of(root)) == ([], before)
    blob.unlink()
    assert {one.key for one in entries.verify()} == {key_of(0), key_of(2)}


def test_what_is_kept_aside_does_not_grow_for_ever(root, entries, monkeypatch, told):
    from tinygraph.store import aside

    monkeypatch.setattr(aside, "_MOST", 2)
    for i in SMALL:
        flip(journal_of(root), (entries.find(key_of(i)).at + 100) * 8)
        assert not kept(entries, i)
    assert len(list((root / "damaged").iterdir())) == 2
    assert len(told) == len(SMALL)


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "device"])
def test_what_is_no_file_is_not_read(root, entries, what, tmp_path):
    for path in (journal_of(root), blob_of(root, 2)):
        path.rename(tmp_path / path.name)
        if what == "link":
            path.symlink_to(tmp_path / path.name)
        elif what == "device":
            path.symlink_to("/dev/zero")
        elif what == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
    entries.close()
    assert not any(kept(entries, i) for i in range(6))


def test_a_file_of_somebody_else_is_not_read(root, entries, monkeypatch):
    found = entries.find(key_of(3))
    entry = entries.read(entries.find(key_of(2)), key_of(2))
    entries.close()
    theirs = {path.stat().st_ino for path in (journal_of(root), blob_of(root, 2))}
    owner, real = os.geteuid(), os.fstat

    class Foreign:
        def __init__(self, found):
            self.st_mode, self.st_size = found.st_mode, found.st_size
            self.st_uid = owner + 1 if found.st_ino in theirs else owner

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda fd: Foreign(real(fd)))
        with pytest.raises(DamagedEntry, match="somebody else"):
            entries.body(entry)
        with pytest.raises(DamagedEntry, match="somebody else"):
            entries.read(found, key_of(3))


# ---- whom it trusts


def test_a_store_that_others_can_write_to_is_refused(root, entries):
    for path in (root, root / "journal", root / "values"):
        entries.close()
        path.chmod(0o777)
        with pytest.raises(StoreUntrusted, match="chmod 700"):
            entries.find(key_of(0))
        with pytest.raises(StoreUntrusted):
            entries.use()
        path.chmod(0o700)
    assert kept(entries, 0)


def test_a_link_to_a_store_is_refused(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(StoreUntrusted, match="symbolic link"):
        Entries(tmp_path / "link", SECRET).find(key_of(0))


def test_a_store_of_another_key_is_refused_and_left_alone(root):
    before = {path: (root / path).read_bytes() for path in all_of(root)}
    theirs = Entries(root, b"x" * 32)
    with pytest.raises(StoreUntrusted, match="another key"):
        theirs.find(key_of(0))
    theirs.close()
    assert {path: (root / path).read_bytes() for path in all_of(root)} == before


def test_names_never_become_paths(root, entries, writer):
    names = ["../../x", "/etc/x", "a/b", "CON", "x" * 300, "nul\0", "new\nline", "\u202egnp.exe", "\ud800"]
    before = all_of(root)
    for i, name in enumerate(names):
        entry = Entry(key_of(100 + i), b"t", name, name, b"", b"", 1.0, 0.0, name[:90], b"", 1, None, None, 0, b"")
        found = writer.put(entry, Encoded("codec", b"", [b"x"], 1))
        entries.note(entry.key, found, node=name.encode("utf-8", "replace").decode(), seconds=1.0)
        assert entries.read(found, entry.key).name == name
    entries.close()
    assert all_of(root) == before


# ---- a disk that does not take anything


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_loses_nothing(root, entries, writer, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    put(writer, 6)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", refuse)
        for i in (7, 8):
            with pytest.raises(OSError):
                put(writer, i)
        assert all(kept(entries, i) for i in range(6))
    assert not [path for path in all_of(root) if path.endswith(".tmp")]
    entries.close()
    check(root, set(range(7)), range(9))


FULL = """
import os, sys
from tests.crash import *
root = sys.argv[1]
warnings.simplefilter("ignore")
entries, writer = Entries(root, SECRET), Writer(root, SECRET)
failed = 0
for i in range(2_000):
    try:
        entries.note(key_of(i), put(writer, i), node="module:node", seconds=0.5)
    except OSError:
        failed += 1
    if i % 50 == 0:
        entries.flush()
entries.flush()
assert failed > 100, failed
print(sum(kept(entries, i) for i in range(2_000)))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/ns"), reason="a small disk is mounted in a namespace")
def test_a_full_disk_of_one_mebibyte(tmp_path):
    """A real one, mounted where nobody else sees it. What could be put is found, and no value is wrong."""
    script, mount = tmp_path / "full.py", tmp_path / "small"
    script.write_text(FULL)
    mount.mkdir(mode=0o700)
    do = (
        f"mount -t tmpfs -o size=1m,mode=700 none {mount} && {sys.executable} {script} {mount}"
        f" && ! find {mount} -name '*.tmp' | grep ."
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", do],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr.partition("\n")[0]:
        pytest.skip(f"no small disk can be mounted here: {done.stderr[:100]}")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_a_store_that_is_removed_meanwhile_is_a_miss(root, entries, writer, told):
    assert kept(entries, 0)
    put(writer, 6)
    entries.use()
    shutil.rmtree(root)
    with pytest.raises(OSError):
        put(writer, 7)
    with pytest.raises(OSError):
        put(writer, 8)
    entries.close()
    assert not root.exists()
    entries.release()
    entries.use()  # the next run makes it anew
    assert not any(kept(entries, i) for i in range(9))
    note(entries, writer, *range(6))
    assert all(kept(entries, i) for i in range(6))
    entries.close()
    entries.release()
    check(root, set(range(6)), range(6))


def test_a_store_that_is_exchanged_between_runs_is_seen(root, entries, tmp_path, writer):
    """One process, two runs: in between the folder is removed, and another is put there."""
    entries.use()
    assert kept(entries, 0)
    entries.release()
    writer.close()
    shutil.rmtree(root)
    filled(root, 3)
    entries.use()
    assert [kept(entries, i) for i in range(6)] == [True] * 3 + [False] * 3
    entries.release()


READ_ONLY = """
import os, sys
root = sys.argv[1]
from tests.crash import *
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
told = []
entries, writer = Entries(root, SECRET, warn=told.append), Writer(root, SECRET)
entries.use()
assert all(kept(entries, i) for i in range(6))
try:
    put(writer, 6)
except OSError:
    pass
else:
    raise SystemExit("it could write")
entries.flush()
assert entries.shrink(0).why
entries.release()
entries.close()
assert len(told) <= 1, told
print("done")
"""


def test_a_store_that_can_only_be_read_is_read(tmp_path):
    """As somebody else than root, who can write anywhere."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # where anybody can get to
        root, script = Path(folder) / "store", Path(folder) / "read.py"
        filled(root, 6)
        os.chmod(folder, 0o755)
        script.write_text(READ_ONLY)
        everything = [root, *root.rglob("*")]
        for path in everything:
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
            path.chmod(0o500 if path.is_dir() else 0o400)
        done = subprocess.run(
            [sys.executable, script, root],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for path in everything:
            path.chmod(0o700)
        assert done.stdout == "done\n", done.stderr


# ---- making room


def test_those_not_used_for_longest_go_first(root, entries):
    entries.find(key_of(0))
    entries.flush()
    size = entries.size()
    done = entries.shrink(max_bytes=size - 200)
    assert (done.removed, done.why) == (1, "")
    assert [kept(entries, i) for i in range(6)] == [True, False, True, True, True, True]
    done = entries.shrink(max_bytes=size - 5_000)
    assert done.size == entries.size() <= size - 5_000
    assert [kept(entries, i) for i in range(6)] == [True, False, False, True, True, True]
    assert [entries.evicted(key_of(i)) for i in (0, 1, 2, 100)] == [False, True, True, False]
    check(root, {0, 3, 4, 5}, range(6))


def test_what_was_not_used_for_long_goes(root, entries, monkeypatch):
    from tinygraph.store import rows

    later = shrink.time() + 1_000
    monkeypatch.setattr(shrink, "time", lambda: later)
    monkeypatch.setattr(rows, "time", lambda: later)
    assert kept(entries, 3)
    entries.flush()
    assert entries.shrink(max_age=2_000).removed == 0
    assert entries.shrink(max_age=500).removed == 5
    assert [i for i in range(6) if kept(entries, i)] == [3]


def test_room_is_given_back(root, entries, writer):
    for _ in range(50):
        note(entries, writer, 0, 1)
    writer.close()
    entries.flush()
    before = entries.size()
    done = entries.shrink()
    assert (done.removed, done.why) == (0, "")
    assert done.freed == before - entries.size() > before // 3
    assert all(kept(entries, i) for i in range(6))
    done = entries.shrink(max_bytes=0)
    assert done.removed == 6
    assert entries.size() < 500  # that they are gone is noted
    assert [path for path in all_of(root) if path.startswith("values")] == []
    assert list(entries.list()) == []
    check(root, set(), range(6))


def test_that_entries_are_gone_is_known_without_an_index_as_well(root, entries, writer):
    held = put(writer, 6)  # its journal is not written anew as long as it is open
    entries.note(key_of(6), held)
    entries.flush()
    assert entries.shrink(max_bytes=0).removed == 7
    entries.close()
    index_of(root).unlink()
    again = Entries(root, SECRET)
    assert not any(kept(again, i) for i in range(7))
    assert all(again.evicted(key_of(i)) for i in range(7))
    note(again, writer, 6)
    assert kept(again, 6)
    again.close()
    index_of(root).unlink()
    again = Entries(root, SECRET)
    assert [i for i in range(7) if kept(again, i)] == [6]
    again.close()


def test_a_blob_that_two_need_stays_for_the_other(root, entries, writer):
    content = os.urandom(10_000)
    for i in (100, 101):
        entry = Entry(key_of(i), b"t", "m:f", "f", b"", b"", float(i), 0.0, "c", b"", 10_000, None, None, 0, b"")
        entries.note(entry.key, writer.put(entry, Encoded("c", b"", [content], 10_000)), when=float(i))
    writer.close()
    entries.flush()
    assert entries.shrink(max_bytes=entries.size() - 100).removed == 1
    assert entries.find(key_of(100)) is None
    found = entries.find(key_of(101))
    assert entries.body(entries.read(found, key_of(101))) == content


def test_what_is_spared_stays_and_others_go_for_it(entries):
    done = entries.shrink(max_bytes=entries.size() - 200, spared={key_of(0), key_of(1)})
    assert done.removed == 1
    assert [i for i in range(6) if not kept(entries, i)] == [2]


def test_what_was_interrupted_is_written_the_next_time(root, entries, writer, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    note(entries, writer, 6)
    with monkeypatch.context() as patch:
        patch.setattr(Index, "_learn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            entries.flush()
    note(entries, writer, 7)
    entries.flush()
    index = Index(str(index_of(root)), SECRET, False)
    assert index.find(key_of(6))
    assert index.find(key_of(7))
    index.close()


def test_nothing_is_removed_while_a_run_uses_the_store(root, entries):
    other = Entries(root, SECRET)
    for user in (other, entries):
        user.use()
        done = entries.shrink(max_bytes=0)
        assert (done.removed, done.freed, done.why) == (0, 0, "the store is in use")
        user.use()
        user.release()
        assert entries.shrink(max_bytes=0).why
        user.release()
    assert all(kept(entries, i) for i in range(6))
    assert entries.shrink(max_bytes=0).removed == 6
    other.close()


def test_a_run_that_was_killed_does_not_use_the_store_any_more(root, entries):
    child = os.fork()
    if not child:
        Entries(root, SECRET).use()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert entries.shrink(max_bytes=0).removed == 6


def test_a_run_waits_for_who_makes_room(root, entries, monkeypatch):
    fd = disk.make_or_open(str(root / "in-use"))
    assert disk.lock(fd, alone=True)
    monkeypatch.setattr(shrink, "_PATIENCE", 0.01)
    with pytest.raises(StoreError, match="makes room"):
        entries.use()
    monkeypatch.setattr(shrink, "_PATIENCE", 30.0)
    began = threading.Timer(0.05, lambda: disk.close(fd))
    began.start()
    entries.use()
    entries.release()
    began.join()


def test_another_program_finds_what_was_moved_meanwhile(root, writer):
    """Who found a place before room was made reads it from where it is now."""
    entries, other = Entries(root, SECRET), Entries(root, SECRET)
    for _ in range(20):
        note(entries, writer, 0)
    writer.close()
    entries.flush()
    places = {i: other.find(key_of(i)) for i in range(6)}
    before = files(str(root / "journal"))
    assert entries.shrink().freed > 0
    assert before.keys().isdisjoint(files(str(root / "journal")))
    for i, place in places.items():
        assert other.body(other.read(place, key_of(i))) == value_of(i)
    assert entries.shrink(max_bytes=0).removed == 6
    other.use()
    assert not any(kept(other, i) for i in range(6))
    other.release()
    entries.close()
    other.close()


@pytest.mark.parametrize("operation", ["write", "make", "remove", "end", "open_to_append"])
def test_room_making_that_fails_loses_nothing_else(root, told, monkeypatch, operation):
    for number in range(1, 30):
        copy = root.parent / f"{number}"
        shutil.copytree(root, copy)
        entries = Entries(copy, SECRET, warn=told.append)
        assert kept(entries, 5)
        entries.flush()
        size, calls, real = entries.size(), [], getattr(disk, operation)

        def fail(*args, real=real, calls=calls, number=number):
            calls.append(1)
            if len(calls) == number:
                raise OSError(errno.EIO, "no")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(disk, operation, fail)
            done = entries.shrink(max_bytes=size - 5_000)
        entries.close()
        check(copy, {5}, range(6))
        shutil.rmtree(copy)
        if len(calls) < number:
            break
    assert done.removed
    assert number < 29


def test_a_journal_that_lost_its_end_is_read_again(root, entries, writer):
    """As after a loss of power: the index knows more of it than there is. What is appended then is not overlooked."""
    entries.close()
    path = journal_of(root)
    os.truncate(path, entries.find(key_of(3)).at)
    entries.close()
    assert [kept(entries, i) for i in SMALL] == [True, True, False, False]
    for i in (3, 4):
        put(writer, i)
    writer.close()
    entries.close()
    assert all(kept(entries, i) for i in SMALL)


# ---- many at once


def test_sixteen_programs_put_and_get_the_same_keys(tmp_path):
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    hits, puts = hammer(root, processes=16, seconds=0.8, keys=120)
    assert puts >= 120
    assert hits > 0
    entries = Entries(root, SECRET)
    assert all(kept(entries, i) for i in range(120))
    entries.close()
    check(root, set(range(120)), range(120))


def test_some_of_many_are_killed(tmp_path):
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    hammer(root, processes=8, seconds=0.8, keys=120, kills=4)
    check(root, set(), range(120))
    assert len(files(str(root / "journal"))) <= 8 + 1


def test_programs_that_open_a_new_store_at_once_are_fine(tmp_path):
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    hammer(root, processes=16, seconds=0.0, keys=1)
    check(root, set(), range(3))


def test_readers_go_on_while_room_is_made(root, entries, writer):
    """Each read is a miss or the right value."""
    stop, failures = threading.Event(), []
    other = Entries(root, SECRET, warn=lambda message: None)

    def read():
        try:
            while not stop.is_set():
                for i in range(6):
                    kept(other, i)
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(15):
        assert entries.shrink(max_bytes=0).why == ""
        note(entries, writer, *range(6))
        writer.close()
        entries.flush()
    stop.set()
    reader.join()
    other.close()
    assert failures == []


def test_files_are_only_for_their_user(root):
    for path in root.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_record_that_is_no_entry_of_ours_does_not_come_from_us(root):
    """Whatever has our seal was written by us: another version has another seal, or another number."""
    journal = Journal(str(root / "journal"), Seal(SECRET, b"something else"), durable=False)
    journal.append(key_of(100), b"not marshalled")
    journal.close()
    check(root, set(range(6)), range(6))
