"""A file means what it holds."""

import os
import pickle
import time
from pathlib import Path

import pytest

from tinygraph.keys import files
from tinygraph.keys.canonical import canonical
from tinygraph.keys.digests import digest
from tinygraph.keys.files import Directory, File, intact


@pytest.fixture(autouse=True)
def nothing_known():
    files._hashed.clear()


def made(path, content="a,b\n1,2\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def old(path):
    """Written long ago."""
    os.utime(path, (1_000_000, 1_000_000))
    return path


# Files


def test_a_file_is_a_path(tmp_path):
    file = File(made(tmp_path / "data.csv"))
    assert os.fspath(file) == file.path == str(tmp_path / "data.csv")
    with open(file) as lines:
        assert lines.read() == "a,b\n1,2\n"
    assert repr(file) == f"File({file.path!r})"
    assert File(file) == file
    assert len({file, File(file.path), File("other")}) == 2
    with pytest.raises(TypeError, match="takes a path as text"):
        File(b"data.csv")


def test_its_content_counts_and_not_its_path(tmp_path):
    one, two = File(made(tmp_path / "one")), File(made(tmp_path / "two"))
    assert one.digest == two.digest == digest(b"a,b\n1,2\n")
    assert canonical(one) == canonical(two) == canonical(File(os.path.relpath(one.path)))
    assert canonical([one]) != canonical([str(one.path)])
    two_changed = File(made(tmp_path / "two", "a,b\n1,3\n"))
    assert canonical(two_changed) != canonical(one)
    assert canonical(one) != canonical(Directory(tmp_path))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, (1 << 21) - 1, 1 << 21, (1 << 21) + 1, 5_000_000])
def test_it_is_the_digest_of_its_bytes(tmp_path, size):
    content = os.urandom(size)
    path = tmp_path / "data"
    path.write_bytes(content)
    assert File(path).digest == digest(content)


def test_a_change_is_seen_at_once(tmp_path):
    """Of the same size, within the same tick of the clock."""
    file = File(made(tmp_path / "data", "0"))
    seen = {file.digest}
    for content in "123456789":
        Path(file).write_text(content)
        seen.add(file.digest)
    assert len(seen) == 10


def test_a_file_that_was_not_touched_is_not_read_again(tmp_path, monkeypatch):
    path = old(made(tmp_path / "data"))
    reads = []
    real = files._digest_of
    monkeypatch.setattr(files, "_digest_of", lambda *found: reads.append(1) or real(*found))
    monkeypatch.setattr(files, "time_ns", lambda: time.time_ns() + 10 * files._FRESH)  # its ctime is from now
    first = File(path).digest
    assert File(path).digest == File(os.path.relpath(path)).digest == first
    assert len(reads) == 1
    path.write_text("other")
    assert File(path).digest != first
    assert len(reads) == 2


def test_a_fresh_file_is_read_again(tmp_path, monkeypatch):
    path = made(tmp_path / "data")
    reads = []
    real = files._digest_of
    monkeypatch.setattr(files, "_digest_of", lambda *found: reads.append(1) or real(*found))
    assert File(path).digest == File(path).digest
    assert len(reads) == 2


def test_whether_it_holds_what_it_held(tmp_path):
    file = File(made(tmp_path / "data"))
    assert file.is_intact()
    before = file.digest
    assert file.is_intact()
    Path(file).write_text("other")
    assert not file.is_intact()
    assert file.digest != before
    assert file.is_intact()  # it holds what it held when it was last asked
    os.unlink(file)
    assert not file.is_intact()
    assert not File(file.path).is_intact()


def test_its_pickle_remembers_what_it_held(tmp_path):
    file = File(made(tmp_path / "data"))
    restored = pickle.loads(pickle.dumps(file))
    assert restored == file
    assert restored.is_intact()
    Path(file).write_text("other")
    assert not restored.is_intact()
    assert pickle.loads(pickle.dumps(File("missing"))) == File("missing")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        _ = File(tmp_path / "missing.csv").digest
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        canonical([File(tmp_path / "missing.csv")])
    with pytest.raises(FileNotFoundError, match="missing"):
        _ = Directory(tmp_path / "missing").digest


def test_what_is_no_file_is_said_so(tmp_path):
    with pytest.raises(IsADirectoryError, match="use Directory"):
        _ = File(tmp_path).digest
    with pytest.raises(NotADirectoryError, match="use File"):
        _ = Directory(made(tmp_path / "data")).digest
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"):
        _ = File(tmp_path / "pipe").digest


def test_files_are_found_wherever_they_are_in_a_value(tmp_path):
    class Report:
        def __init__(self, file):
            self.parts = {"table": [file]}

    file = File(made(tmp_path / "data"))
    report = pickle.loads(pickle.dumps(file)), Report(file)
    _ = file.digest
    assert intact(report)
    assert intact([1, "a", None])
    Path(file).write_text("other")
    assert not intact(report[0])
    assert not intact(report[1])


# Directories


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    made(root / "a.txt", "a")
    made(root / "deep" / "er" / "b.txt", "b")
    (root / "empty").mkdir()
    return root


def changes():
    return {
        "content": lambda root: (root / "a.txt").write_text("c"),
        "a name": lambda root: (root / "a.txt").rename(root / "c.txt"),
        "a file more": lambda root: made(root / "c.txt"),
        "a file less": lambda root: (root / "a.txt").unlink(),
        "deep down": lambda root: (root / "deep" / "er" / "b.txt").write_text("c"),
        "an empty directory more": lambda root: (root / "void").mkdir(),
        "an empty directory less": lambda root: (root / "empty").rmdir(),
        "a file that was a directory": lambda root: ((root / "empty").rmdir(), made(root / "empty", "")),
        "a file elsewhere": lambda root: (root / "a.txt").rename(root / "empty" / "a.txt"),
        "a link": lambda root: (root / "link").symlink_to("a.txt"),
    }


@pytest.mark.parametrize("change", changes())
def test_a_change_in_a_directory_counts(tree, change):
    directory = Directory(tree)
    before = directory.digest
    assert directory.is_intact()
    changes()[change](tree)
    assert not directory.is_intact()
    assert directory.digest != before


def test_where_a_directory_lies_does_not_count(tree, tmp_path):
    before = Directory(tree).digest
    tree.rename(tmp_path / "other")
    old(tmp_path / "other" / "a.txt")
    assert Directory(tmp_path / "other").digest == before
    assert canonical(Directory(tmp_path / "other")) == canonical(Directory(f"{tmp_path}/other/"))


def test_the_order_of_making_does_not_count(tmp_path):
    names = ["a", "b", "c", "d/e", "d/f"]
    for name in names:
        made(tmp_path / "one" / name, name)
    for name in reversed(names):
        made(tmp_path / "two" / name, name)
    assert Directory(tmp_path / "one").digest == Directory(tmp_path / "two").digest


def test_links_are_not_followed(tree, tmp_path):
    outside = made(tmp_path / "outside" / "secret", "1")
    (tree / "out").symlink_to(outside.parent)
    (tree / "loop").symlink_to(tree)
    (tree / "gone").symlink_to("nowhere")
    directory = Directory(tree)
    _ = directory.digest
    outside.write_text("2")
    assert directory.is_intact()
    (tree / "out").unlink()
    (tree / "out").symlink_to("elsewhere")
    assert not directory.is_intact()


def test_a_link_within_goes_with_its_directory(tree, tmp_path):
    """By whichever way it was written."""
    (tree / "link").symlink_to(tree / "a.txt")
    before = Directory(tree).digest
    (tree / "link").unlink()
    tree.rename(tmp_path / "moved")
    (tmp_path / "moved" / "link").symlink_to(tmp_path / "moved" / "a.txt")
    assert Directory(tmp_path / "moved").digest == before


def test_names_that_are_no_text_count(tmp_path):
    root = os.fsencode(tmp_path)
    before = Directory(tmp_path).digest
    with open(root + b"/\xff\xfe", "wb"):
        pass
    assert Directory(tmp_path).digest != before
