"""Seal: one key for a user, whoever asks first; folders that somebody else could have written to are refused."""

import multiprocessing
import os
import stat

import pytest

from tinygraph import StoreError, StoreUntrusted
from tinygraph.store import disk
from tinygraph.store.seal import FORMAT, Seal, _mark, claim, seal, secret, trust


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("TINYGRAPH_STORE_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "tinygraph"


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# ---- the key


def test_the_key_is_made_once_and_only_its_user_can_read_it(home):
    first = secret()
    assert len(first) == 32
    assert secret() == first
    assert (mode(home), mode(home / "key")) == (0o700, 0o600)
    assert [path.name for path in home.iterdir()] == ["key"]


def test_without_a_folder_of_its_own_the_configuration_lies_in_the_home(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    secret()
    assert (tmp_path / ".config" / "tinygraph" / "key").exists()


def _ask(start, answers):
    start.wait()
    answers.put(secret())


def test_programs_that_ask_at_once_agree(home):
    context = multiprocessing.get_context("fork")
    start, answers = context.Event(), context.SimpleQueue()
    programs = [context.Process(target=_ask, args=(start, answers)) for _ in range(8)]
    for program in programs:
        program.start()
    start.set()
    assert len({answers.get() for _ in programs}) == 1
    for program in programs:
        program.join()


def test_the_key_of_a_shared_store_comes_from_the_environment(home, monkeypatch):
    monkeypatch.setenv("TINYGRAPH_STORE_KEY", "a text that the team knows")
    shared = secret()
    monkeypatch.setenv("TINYGRAPH_STORE_KEY", "a text that the team knew")
    assert secret() != shared
    assert not home.exists()


def test_a_key_that_is_easily_guessed_is_refused(home, monkeypatch):
    monkeypatch.setenv("TINYGRAPH_STORE_KEY", "hunter2")
    with pytest.raises(StoreError, match="has 7 letters"):
        secret()


def test_a_key_that_was_not_written_to_its_end_was_used_by_nobody(home):
    home.mkdir(parents=True, mode=0o700)
    (home / "key").touch(0o600)
    (home / "key").write_text("3f2a")
    assert secret() == secret()


def test_a_key_that_is_none_is_not_replaced(home):
    home.mkdir(parents=True, mode=0o700)
    (home / "key").touch(0o600)
    (home / "key").write_text("my diary\n" * 20)
    with pytest.raises(StoreError, match="is not a key"):
        secret()
    assert (home / "key").read_text() == "my diary\n" * 20


@pytest.mark.parametrize("others", [0o644, 0o660, 0o602])
def test_a_key_that_others_know_seals_nothing(home, others):
    secret()
    (home / "key").chmod(others)
    with pytest.raises(StoreUntrusted, match="chmod 600"):
        secret()


def test_a_key_that_is_a_link_or_somebody_elses_is_refused(home, tmp_path, monkeypatch):
    secret()
    (home / "key").rename(tmp_path / "elsewhere")
    (home / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="not a plain file"):
        secret()
    (home / "key").unlink()
    secret()
    owner = os.geteuid()
    monkeypatch.setattr(disk, "user", lambda: owner + 1)
    with pytest.raises(StoreUntrusted, match="belongs to user"):
        secret()


def test_where_no_key_can_be_made_the_way_out_is_said(home):
    home.parent.write_text("a file")
    with pytest.raises(StoreError, match="or set TINYGRAPH_STORE_KEY"):
        secret()


# ---- seals


def test_a_seal_is_of_its_key_its_purpose_and_all_parts():
    key, other = bytes(32), bytes(31) + b"x"
    assert seal(key, b"a", b"b") == seal(key, b"a", b"b")
    made = {
        seal(key, b"a", b"b"), seal(other, b"a", b"b"), seal(key, b"ab"), seal(key, b"", b"ab"),
        Seal(key, b"record")(b"a", b"b"), Seal(other, b"record")(b"a", b"b"), Seal(key, b"row")(b"a", b"b"),
    }  # fmt: skip
    assert len(made) == 7


# ---- folders


def test_a_folder_is_made_for_its_user_and_those_above_it_as_usual(tmp_path):
    old = os.umask(0o022)
    try:
        trust(tmp_path / "a" / "b" / "store")
    finally:
        os.umask(old)
    assert [mode(tmp_path / path) for path in ("a", "a/b", "a/b/store")] == [0o755, 0o755, 0o700]
    trust(tmp_path / "a" / "b" / "store")


def test_a_folder_that_others_can_only_read_is_fine(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o755)
    trust(tmp_path / "store")


@pytest.mark.parametrize("others", [0o777, 0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, others):
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(others)
    with pytest.raises(StoreUntrusted, match=r"others can write to it.*chmod 700"):
        trust(tmp_path / "store")


@pytest.mark.parametrize("end", ["", "/", "/.", "//", "/./"])
def test_a_link_to_a_folder_is_refused(tmp_path, end):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "store").symlink_to("real")
    with pytest.raises(StoreUntrusted, match="symbolic link"):
        trust(f"{tmp_path}/store{end}")


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    owner = os.geteuid()
    trust(tmp_path / "store")
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(StoreUntrusted, match=f"belongs to user {owner}, and you are user {owner + 1}"):
        trust(tmp_path / "store")


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreUntrusted, match="not a folder"):
        trust(tmp_path / "store")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(StoreUntrusted, match="symbolic link"):
        trust(tmp_path / "dangling")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_said(path):
    with pytest.raises(StoreError, match="cannot be the path"):
        trust(path)


@pytest.mark.parametrize("name", ["CON", "a b", "émile", "‮evil", "new\nline", "-rf", "x" * 255])
def test_any_name_that_the_system_takes_is_fine(tmp_path, name):
    trust(tmp_path / name)
    assert mode(tmp_path / name) == 0o700


# ---- the mark of a store


def test_a_store_is_of_the_one_key_that_made_it(tmp_path):
    claim(str(tmp_path), bytes(32))
    claim(str(tmp_path), bytes(32))
    before = (tmp_path / "format").read_bytes()
    with pytest.raises(StoreUntrusted, match="sealed with another key"):
        claim(str(tmp_path), b"x" * 32)
    assert (tmp_path / "format").read_bytes() == before


def test_a_store_of_a_newer_format_is_refused_and_left_alone(tmp_path):
    newer = _mark(FORMAT + 1, bytes(32))
    (tmp_path / "format").write_bytes(newer)
    with pytest.raises(StoreError, match=f"has format {FORMAT + 1}, and this tinygraph knows {FORMAT}"):
        claim(str(tmp_path), bytes(32))
    assert (tmp_path / "format").read_bytes() == newer


def test_no_damage_of_the_mark_makes_a_store_foreign_or_newer(tmp_path):
    claim(str(tmp_path), bytes(32))
    mark = tmp_path / "format"
    whole = mark.read_bytes()
    spoilt = [whole[:n] for n in range(len(whole))]
    spoilt += [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)]
    for content in [*spoilt, b"", bytes(len(whole)), whole + b"more"]:
        mark.write_bytes(content)
        claim(str(tmp_path), bytes(32))
    claim(str(tmp_path), bytes(32))
    assert mark.read_bytes() == whole
