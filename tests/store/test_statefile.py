"""A state file is JSON that a person can read and edit; it is never half-written, and nothing in it is lost."""

import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygraph.store.statefile as room
from tinygraph.errors import DamagedEntry, StoreError, StoreUntrusted
from tinygraph.keys.canonical import token as token_of
from tinygraph.store import disk
from tinygraph.store.statefile import StateFile


@pytest.fixture(autouse=True)
def _own_key(monkeypatch):
    monkeypatch.setenv("TINYGRAPH_STORE_KEY", "a key for these tests")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "persist_7.json")


def key_of(thing):
    return repr(thing).encode().ljust(20, b"\0")[:20]


def put(state, name, value, key=None, **options):
    state.put(key_of(name) if key is None else key, token_of(value), name, None, value, 0.5, **options)


def strictly(path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    with open(path, encoding="utf-8") as file:
        return json.load(file, parse_constant=refuse)


def names(path):
    return [entry["name"] for entry in strictly(path)["entries"]]


def load(path, key):
    """What a program finds that starts now."""
    state = StateFile(path)
    hit = state.find(key)
    return None if hit is None else hit.load()


# What stands in it


def test_an_entry_tells_what_it_is(path):
    with StateFile(path) as state:
        state.put(b"k" * 20, token_of({"a": [1, "ü"]}), "load", 3, {"a": [1, "ü"]}, 0.5123456789)
    data = strictly(path)
    (entry,) = data["entries"]
    assert data["format"] == 1
    assert (entry["name"], entry["version"], entry["output"], entry["duration"]) == (
        "load",
        3,
        {"a": [1, "ü"]},
        0.512346,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", entry["finished"])
    assert bytes.fromhex(entry["key"]) == b"k" * 20
    with open(path, encoding="utf-8") as file:
        assert '\n      "output": {"a": [1, "ü"]},\n' in file.read()
    assert os.listdir(os.path.dirname(path)) == ["persist_7.json"]
    assert os.stat(path).st_mode & 0o777 == 0o600


JSON_VALUES = [None, True, 0, -1.5, 2**100, "", "grün \u2028 \0", [], {}, [1, [2.0, {"b": None, "a": False}]], {"": 1}]


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_what_json_holds_stands_in_the_file(path, value):
    with StateFile(path) as state:
        put(state, "one", value)
    (entry,) = strictly(path)["entries"]
    assert repr(entry["output"]) == repr(value)
    assert "file" not in entry
    assert repr(load(path, key_of("one"))) == repr(value)
    assert StateFile(path).find(key_of("one")).token == token_of(value)


OTHERS = [(1, 2), {1: 2}, {3}, b"x", math.inf, [math.nan], "\ud800", 1j, 10**3_000, np.arange(5), "x" * 100_000]


@pytest.mark.parametrize("value", OTHERS, ids=[type(value).__name__ + str(i) for i, value in enumerate(OTHERS)])
def test_what_json_does_not_hold_lies_beside(path, value):
    with StateFile(path) as state:
        put(state, "one", value)
    (entry,) = strictly(path)["entries"]
    assert isinstance(entry["output"], str)
    assert len(entry["output"]) <= 80
    assert sorted(os.listdir(os.path.dirname(path))) == ["persist_7.files", "persist_7.json"]
    got = load(path, key_of("one"))
    assert type(got) is type(value)
    assert repr(got) == repr(value)
    assert StateFile(path).find(key_of("one")).token == token_of(value)


def test_equal_names_are_numbered(path):
    with StateFile(path) as state:
        for i in range(3):
            put(state, "load", i, key_of(i))
        put(state, "load (2)", "as if", key_of("as if"))
        put(state, "load", "again", key_of(1))
        put(state, "other", "renamed", key_of(2))
    assert names(path) == ["load", "load (2)", "other", "load (2) (2)"]
    assert [load(path, key_of(i)) for i in (0, 1, 2, "as if")] == [0, "again", "renamed", "as if"]


def test_a_missing_key_is_none_and_a_version_may_be_anything(path):
    with StateFile(path) as state:
        assert state.find(b"nobody") is None
        state.put(b"1", token_of(1), "one", (1, 2), 1, math.nan if False else 0.0)
    assert strictly(path)["entries"][0]["version"] == "(1, 2)"


def test_each_consumer_has_a_value_of_its_own(path):
    value = {"a": [1]}
    state = StateFile(path)
    put(state, "one", value)
    put(state, "many", np.arange(100_000))
    value["a"].append(2)
    hit = state.find(key_of("one"))
    hit.load()["a"].append(3)
    assert hit.load() == {"a": [1]} == load(path, key_of("one"))
    hit = state.find(key_of("many"))
    hit.load().fill(7)
    assert hit.load().sum() == sum(range(100_000))


def test_what_is_edited_by_hand_counts(path):
    """Its token is that of the new value: whatever depends on it runs again."""
    with StateFile(path) as state:
        put(state, "rate", {"a": 1})
    data = strictly(path)
    data["entries"][0]["output"] = {"a": 2}
    with open(path, "w") as file:
        json.dump(data, file)
    hit = StateFile(path).find(key_of("rate"))
    assert hit.load() == {"a": 2}
    assert hit.token == token_of({"a": 2})
    hit = state.find(key_of("rate"))
    assert hit.load() == {"a": 2}


def test_what_is_not_ours_is_kept(path):
    theirs = [
        "text",
        {"name": "load", "by": ["hand", 1.0, {"\ud800": None}]},
        {"output": 1, "key": "no hex"},
        {"key": "ab" * 20},
        None,
        [],
        {},
    ]
    with open(path, "w") as file:
        json.dump({"note": "mine", "format": 1, "entries": theirs, "more": {"a": [1]}}, file)
    with StateFile(path) as state:
        put(state, "load", 1)
    data = strictly(path)
    assert (data["note"], data["more"]) == ("mine", {"a": [1]})
    assert data["entries"][:-1] == theirs
    assert data["entries"][-1]["name"] == "load (2)"
    data["entries"][-1]["stars"] = 5
    with open(path, "w") as file:
        json.dump(data, file)
    with StateFile(path) as state:
        put(state, "other", 2)
    assert strictly(path)["entries"][-2]["stars"] == 5


def test_a_bare_name_and_a_folder_that_is_not_there_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with StateFile("persist_7.json") as state:
        put(state, "one", (1,))
    monkeypatch.chdir("/")
    assert load(tmp_path / "persist_7.json", key_of("one")) == (1,)
    with StateFile(tmp_path / "a" / "b" / "x.json") as state:
        put(state, "one", 1)
    assert names(tmp_path / "a" / "b" / "x.json") == ["one"]
    for odd in ("", "a\0b", "folder/"):
        with pytest.raises(StoreError, match="cannot be the path of a state file"):
            StateFile(odd)


def test_switching_the_path_switches_the_state(tmp_path):
    one, other = StateFile(tmp_path / "1.json"), StateFile(tmp_path / "2.json")
    put(one, "load", 1)
    assert other.find(key_of("load")) is None
    put(other, "load", 2)
    assert (one.find(key_of("load")).load(), other.find(key_of("load")).load()) == (1, 2)


def test_looking_makes_no_file(path):
    with StateFile(path) as state:
        assert state.find(b"key") is None
    assert not os.path.exists(path)


def test_an_empty_file_is_as_good_as_none(path):
    for content in ("", "{}"):
        with open(path, "w") as file:
            file.write(content)
        with StateFile(path) as state:
            assert state.find(b"key") is None
            put(state, "one", 1)
        assert names(path) == ["one"]


# Damage and distrust


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe{}",
        b'{"format": 1, "entries": [{"output": NaN}]}',
        b'{"format": 1, "entries": [{"output": 1e999}]}',
        b'{"format": 1, "entries": {}}',
        b'{"format": 1}',
        b'{"format": 1, "entries": ' + b"[" * 100_000,
        b"\0" * 100,
    ],
)
def test_a_damaged_file_is_set_aside_and_said_so(path, content):
    for number in ("", "-2"):
        with open(path, "wb") as file:
            file.write(content)
        with pytest.warns(UserWarning, match=r"persist_7\.json' is damaged .*: it is now '.*persist_7\.json\.damaged"):
            state = StateFile(path)
        assert state.find(b"key") is None
        with open(f"{path}.damaged{number}", "rb") as file:
            assert file.read() == content
        with state:
            put(state, "one", 1)
        assert names(path) == ["one"]
        os.unlink(path)


def test_every_truncation_is_damage_and_nothing_half_is_believed(path):
    with StateFile(path) as state:
        put(state, "one", [1, 2, 3])
        put(state, "two", "x")
    with open(path, "rb") as file:
        content = file.read()
    for cut in range(1, len(content) - 2):
        with open(path, "wb") as file:
            file.write(content[:cut])
        with pytest.warns(UserWarning, match="is damaged"):
            assert load(path, key_of("one")) is None
        os.unlink(f"{path}.damaged")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "my-package"}', "is JSON, but no state file of tinygraph"),
        ("[1, 2]", "is JSON, but no state file of tinygraph"),
        ('{"format": 2, "entries": []}', "was written by a newer version"),
    ],
)
def test_what_is_something_else_is_refused_and_left_alone(path, content, message):
    with open(path, "w") as file:
        file.write(content)
    with pytest.raises(StoreError, match=message):
        StateFile(path)
    with open(path) as file:
        assert file.read() == content
    assert os.listdir(os.path.dirname(path)) == ["persist_7.json"]


def test_a_file_that_becomes_something_else_meanwhile_is_left_alone(path):
    state = StateFile(path)
    put(state, "one", 1)
    with open(path, "w") as file:
        file.write('{"name": "my-package"}')
    with pytest.raises(StoreError, match="no state file"):
        put(state, "two", 2)
    with pytest.raises(StoreError, match="no state file"):
        state.find(b"key")
    with open(path) as file:
        assert file.read() == '{"name": "my-package"}'


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: os.symlink("/etc/hostname", at), "symbolic link"),
        (lambda at: os.symlink("nowhere", at), "symbolic link"),
        (os.mkfifo, "no plain file"),
        (os.mkdir, "no plain file"),
        (lambda at: (open(at, "w").close(), os.chmod(at, 0o602)), "others can write to it .mode 602."),
        (lambda at: (open(at, "w").close(), os.chmod(at, 0o620)), "others can write to it"),
    ],
)
def test_a_file_that_others_could_have_written_is_refused(path, make, message):
    make(path)
    with pytest.raises(StoreUntrusted, match=message):
        StateFile(path)


def test_a_file_of_somebody_else_is_refused(path, monkeypatch):
    with StateFile(path) as state:
        put(state, "one", 1)
    monkeypatch.setattr(disk, "user", lambda: os.geteuid() + 1)
    os.utime(path)  # it is looked at again
    with pytest.raises(StoreUntrusted, match="it belongs to user"):
        StateFile(path)


def test_a_link_that_is_put_in_its_place_later_is_refused(path, tmp_path):
    state = StateFile(path)
    put(state, "one", 1)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(StoreUntrusted, match="symbolic link"):
        state.find(key_of("one"))
    with pytest.raises(StoreUntrusted, match="symbolic link"):
        put(state, "two", 2)


class Evil:
    def __reduce__(self):
        return pytest.fail, ("what nobody checked was read",)


def files_beside(path):
    return [os.path.join(folder, name) for folder, _, found in os.walk(path[:-5] + ".files") for name in found]


def test_what_lies_beside_is_checked_before_it_is_read(path):
    with StateFile(path) as state:
        put(state, "one", {1: 2})
    (beside,) = files_beside(path)
    with open(beside, "rb") as file:
        content = file.read()
    for damaged in (b"", content[:-1], content + b"x", pickle.dumps(Evil()), content[:-1] + bytes([content[-1] ^ 1])):
        with open(beside, "wb") as file:
            file.write(damaged)
        with open(path, "rb") as file:
            before = file.read()
        state = StateFile(path)
        hit = state.find(key_of("one"))
        with pytest.raises(DamagedEntry, match=r"a part of '.*persist_7\.json', is damaged"):
            hit.load()
        assert state.find(key_of("one")) is None
        state.close()
        assert names(path) == []
        with open(path, "wb") as file:
            file.write(before)
        with open(beside, "wb") as file:
            file.write(content)
    assert load(path, key_of("one")) == {1: 2}


def test_what_lies_beside_counts_for_its_own_key_only(path, monkeypatch):
    with StateFile(path) as state:
        put(state, "one", {1: 2})
        put(state, "two", {3: 4})
    data = strictly(path)
    one, two = data["entries"]
    for change in (
        {"file": two["file"]},
        {"token": two["token"]},
        {"seal": two["seal"]},
        {"file": "../../x"},
        {"seal": 5},
    ):
        with open(path, "w") as file:
            json.dump({**data, "entries": [{**one, **change}]}, file)
        assert StateFile(path).find(key_of("one")) is None
    with open(path, "w") as file:
        json.dump(data, file)
    assert load(path, key_of("one")) == {1: 2}
    monkeypatch.setenv("TINYGRAPH_STORE_KEY", "another key than that")
    assert StateFile(path).find(key_of("one")) is None


def test_a_file_beside_that_is_gone_is_a_miss(path):
    with StateFile(path) as state:
        put(state, "one", {1: 2})
    os.unlink(*files_beside(path))
    assert StateFile(path).find(key_of("one")) is None


def test_files_beside_go_with_their_entries(path):
    with StateFile(path) as state:
        put(state, "one", {1: 2})
        put(state, "two", {3: 4})
        put(state, "same", {3: 4})
        state.flush()
        assert len(files_beside(path)) == 2
        put(state, "one", {5: 6})
        state.flush()
        assert len(files_beside(path)) == 2
        put(state, "two", 7)
        state.flush()
        assert len(files_beside(path)) == 2
        state.forget(key_of("same"))
        state.forget(b"nobody")
    assert len(files_beside(path)) == 1
    assert [load(path, key_of(name)) for name in ("one", "two", "same")] == [{5: 6}, 7, None]


def test_what_former_code_made_goes_when_the_file_is_closed(path):
    with StateFile(path) as state:
        put(state, "load", 1, b"1", node="m:load", code=b"old")
        put(state, "load", 2, b"2", node="m:load", code=b"old")
        put(state, "other", 3, b"3", node="m:other", code=b"old")
    assert names(path) == ["load", "load (2)", "other"]
    room._open.clear()  # as another program
    with StateFile(path) as state:
        put(state, "load", 1, b"4", node="m:load", code=b"new")
        assert state.find(b"2").load() == 2  # which somebody asked for
        state.flush()
        assert names(path) == ["load", "load (2)", "other", "load (3)"]
    assert names(path) == ["load (2)", "other", "load (3)"]


# Several at once


def test_two_of_one_program_see_each_other(path, monkeypatch, tmp_path):
    one = StateFile(path)
    monkeypatch.chdir(tmp_path)
    other = StateFile("persist_7.json")
    put(one, "a", 1)
    put(other, "b", 2)
    assert (one.find(key_of("b")).load(), other.find(key_of("a")).load()) == (2, 1)
    one.close()
    other.close()
    assert names(path) == ["a", "b"]


WRITER = """
    import os, sys, time
    from tinygraph.keys.canonical import token
    from tinygraph.store.statefile import StateFile
    path, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    state = StateFile(path)
    for i in range(count):
        value = {"by": who, "at": i} if i % 3 else (who, i)
        state.put(f"{who} {i}".encode(), token(value), "step", None, value, 0.0)
        if i % 5 == 0:
            state.flush()
        value = [who, i]
        state.put(b"shared", token(value), "shared", None, value, 0.0)
    print("done", flush=True)
    state.close()
"""


def test_programs_lose_nothing_of_each_other(path):
    """
    program 1 ── step, step (3) ... ──┐
    program 2 ── step (2) ...       ──┴──► one file: the entries of all, none torn, and one of them the last
    """
    code = textwrap.dedent(WRITER)
    programs = [subprocess.Popen([sys.executable, "-c", code, path, str(who), "40"]) for who in range(3)]
    while any(program.poll() is None for program in programs):
        if os.path.exists(path) and os.path.getsize(path):
            strictly(path)
    assert [program.returncode for program in programs] == [0, 0, 0]
    state = StateFile(path)
    for who in range(3):
        for i in range(40):
            want = {"by": str(who), "at": i} if i % 3 else (str(who), i)
            assert state.find(f"{who} {i}".encode()).load() == want
    assert state.find(b"shared").load()[1] == 39
    found = names(path)
    assert len(found) == len(set(found)) == 121
    folder = os.path.dirname(path)
    assert sorted(os.listdir(folder)) == ["persist_7.files", "persist_7.json"]


def test_a_program_that_is_killed_leaves_the_file_whole(path):
    code = textwrap.dedent(WRITER)
    chance = random.Random(0)
    for who in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", code, path, str(who), "100000"], stdout=subprocess.PIPE
        ) as program:
            mark = f'"{f"{who} 0".encode().hex()}"'  # killed once it has written, at some moment or other
            while not (os.path.exists(path) and mark in Path(path).read_text()):
                pass
            for _ in range(chance.randrange(200)):
                strictly(path)
            program.kill()
        assert load(path, f"{who} 0".encode()) == (str(who), 0)
    for who in range(6):
        assert load(path, f"{who} 0".encode()) == (str(who), 0)


def test_threads_may_put_at_once(path):
    state = StateFile(path)

    def work(start):
        for i in range(start, start + 50):
            put(state, "step", i, key_of(i))
            assert state.find(key_of(i)).load() == i

    threads = [threading.Thread(target=work, args=[50 * i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state.close()
    assert sorted(entry["output"] for entry in strictly(path)["entries"]) == list(range(200))


def test_a_full_disk_loses_nothing_that_was_there(path, monkeypatch):
    state = StateFile(path)
    put(state, "one", 1)
    real = disk.write

    def full(fd, data):
        real(fd, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    monkeypatch.setattr(room, "_SHARE", math.inf)
    state._state._due = 0.0
    with pytest.raises(OSError, match="No space"):
        put(state, "two", 2)
    assert names(path) == ["one"]
    assert os.listdir(os.path.dirname(path)) == ["persist_7.json"]
    monkeypatch.setattr(disk, "write", real)
    state.close()
    assert names(path) == ["one", "two"]


# How often it is written


class Clock:
    """A clock that moves when something is written: a second a time."""

    def __init__(self, monkeypatch):
        self.now, self.writes, self.timers = 100.0, [], []
        real = room._State._replace
        monkeypatch.setattr(room, "monotonic", lambda: self.now)
        monkeypatch.setattr(threading, "Timer", self.timer)

        def replace(state):
            self.now += 1.0
            self.writes.append(self.now)
            real(state)

        monkeypatch.setattr(room._State, "_replace", replace)

    def timer(self, wait, what):
        self.timers.append((wait, what))
        return self

    def start(self):
        pass

    cancel = start


def test_writing_takes_no_more_than_a_tenth_of_the_time(path, monkeypatch):
    """
    put  put put ... (10 s)   put ...
    write│  a timer, for later  │write
    """
    clock = Clock(monkeypatch)
    state = StateFile(path)
    for i in range(400):
        put(state, "step", i, key_of(i))
        clock.now += 0.25
    assert len(clock.writes) <= 0.1 * (clock.now - 100.0)
    assert len(clock.writes) > 5
    assert all(wait <= 10 for wait, _ in clock.timers)
    assert len(names(path)) < 400
    clock.timers[-1][1]()
    assert len(names(path)) == 400
    state.flush()
    state.close()
    writes = len(clock.writes)
    state.close()
    assert len(clock.writes) == writes


def test_what_waits_is_written_when_the_program_ends(path):
    code = """
        import sys
        import tinygraph.store.statefile as room
        room._SHARE = 1e-9  # after the first time never by itself
        state = room.StateFile(sys.argv[1])
        for i in range(3):
            state.put(bytes([i]), b"", "step", None, i, 0.0)
        assert len(state._state._changed) == 2
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), path], check=True)
    assert names(path) == ["step", "step (2)", "step (3)"]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(st.tuples(st.text(), plain)))
def test_whatever_is_put_is_found_by_the_next_program(tmp_path_factory, things):
    path = str(tmp_path_factory.mktemp("state") / "x.json")
    with StateFile(path) as state:
        for i, (name, value) in enumerate(things):
            state.put(str(i).encode(), token_of(value), name, None, value, 0.0)
    room._open.clear()
    if things:
        assert len(set(names(path))) == len(things)
    again = StateFile(path)
    for i, (_, value) in enumerate(things):
        hit = again.find(str(i).encode())
        assert repr(hit.load()) == repr(value)
        assert hit.token == token_of(value)
