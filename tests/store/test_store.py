"""A store as a whole: what is damaged is computed again, what is untrusted is refused, limits hold, history tells."""

import logging
import os
import pickle
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

from tinygraph import (
    Graph,
    Node,
    OptionError,
    Recalled,
    Started,
    Store,
    StoreError,
    StoreUntrusted,
    UnknownRun,
    codec,
    run,
)


def names(result, kind):
    return [event.name for event in result.events if isinstance(event, kind)]


@Node
def make(n):
    return np.arange(n)


@Node
def double(array):
    return array * 2


@Node
def size(array):
    return int(array.sum())


def files(store, folder):
    return [path for path in (store.path_of(folder)).rglob("*") if path.is_file()]


class Folder(Store):
    def path_of(self, folder):
        from pathlib import Path

        return Path(self.path, folder)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "store")


def spoil(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    os.chmod(path, 0o600)
    path.write_bytes(content)


# Damage


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_damaged_value_is_computed_again_wherever_it_is_noticed(folder, executor):
    """C4: it is never decoded, is told once, and the answer is right."""
    options = {"store": folder, "executor": executor, "workers": 1}
    assert size(double(make(100_000))).resolve(**options) == 9999900000
    for blob in files(folder, "values"):
        spoil(blob)
    # The sum is found, and needs nothing.
    assert size(double(make(100_000))).resolve(**options) == 9999900000
    mean = Node(lambda array: float(array.mean()), name="mean")
    with pytest.warns(RuntimeWarning, match="damaged") as told:
        assert mean(double(make(100_000))).resolve(**options) == 99999.0
    assert len({str(one.message) for one in told}) == len(told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = run(Graph(make(100_000), double(make(100_000))), **options)
        assert [array[-1] for array in again.value] == [99_999, 199_998]
        assert names(again, Started) == []


def test_a_damaged_target_is_computed_again(folder):
    make(100_000).resolve(store=folder, executor="inline")
    [blob] = files(folder, "values")
    spoil(blob)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert make(100_000).resolve(store=folder, executor="inline")[-1] == 99_999


def test_a_damaged_record_is_a_miss(folder):
    triple = Node(lambda x: {"three": [x, x, x]}, name="triple")
    triple(1).resolve(store=folder, executor="inline")
    for journal in files(folder, "journal"):
        spoil(journal)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert triple(1).resolve(store=folder, executor="inline") == {"three": [1, 1, 1]}
    assert triple(1).resolve(store=folder, executor="inline") == {"three": [1, 1, 1]}


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["remove", "cut", "flip", "zero"])
def test_the_index_is_made_anew(folder, suffix, how):
    """D4: nothing that is kept is computed again."""
    program = textwrap.dedent("""
        import sys
        from tinygraph import Node, Started, run
        @Node
        def make(i):
            return [i] * 3
        @Node(cache=False)
        def all_of_them():
            return [make(i) for i in range(50)]
        result = run(all_of_them(), store=sys.argv[1], executor="inline")
        print(sum(isinstance(event, Started) for event in result.events), sum(map(sum, result.value)))
        sys.stdout.flush()
        import os
        os._exit(0)  # so that the index is left as a program that is killed leaves it
    """)
    command = [sys.executable, "-W", "ignore", "-c", program, folder.path]
    first = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert first.stdout.split() == ["51", "3675"], first.stderr
    path = folder.path_of("index.sqlite" + suffix)
    if path.exists():
        content = path.read_bytes()
        if how == "remove":
            path.unlink()
        elif how == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif how == "flip":
            path.write_bytes(bytes([byte ^ 0x40 if not i % 97 else byte for i, byte in enumerate(content)]))
        else:
            path.write_bytes(bytes(len(content)))
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.stdout.split() == ["1", "3675"], second.stderr


# Trust


def test_a_store_that_others_can_write_to_is_refused_before_anything_runs(folder):
    """C14."""
    ran = []
    noted = Node(lambda x: ran.append(x), name="noted", key=lambda x: x)
    os.makedirs(folder.path)
    os.chmod(folder.path, 0o777)
    with pytest.raises(StoreUntrusted, match=r"others can write to it.*chmod 700"):
        noted(1).resolve(store=folder, executor="inline")
    assert ran == []


def test_a_store_that_is_a_link_is_refused(folder, tmp_path):
    os.makedirs(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder.path)
    with pytest.raises(StoreUntrusted, match="symbolic link"):
        make(1).resolve(store=folder, executor="inline")


def test_a_store_of_somebody_else_is_refused(folder, monkeypatch):
    make(3).resolve(store=folder, executor="inline")
    monkeypatch.setattr("tinygraph.store.disk.user", lambda: os.getuid() + 1)
    with pytest.raises(StoreUntrusted, match="belongs to user"):
        make(3).resolve(store=folder, executor="inline")


class Evil:
    def __reduce__(self):
        return os.system, ("touch planted",)


def test_a_planted_pickle_never_runs(folder, tmp_path, monkeypatch):
    """C15: nothing is decoded whose seal is not right, wherever it was put."""
    monkeypatch.chdir(tmp_path)
    opaque = Node(lambda n: {1, 2, n, *range(3000)}, name="opaque")  # kept as a pickle, in a blob
    opaque(3).resolve(store=folder, executor="inline")
    evil = pickle.dumps(Evil())
    for path in [*files(folder, "values"), *files(folder, "journal")]:
        content = path.read_bytes()
        os.chmod(path, 0o600)
        for replaced in (evil, content[:100] + evil, content + evil, content[: -len(evil)] + evil):
            path.write_bytes(replaced)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert opaque(3).resolve(store=folder, executor="inline") >= {1, 2, 3}
            assert not (tmp_path / "planted").exists()


def test_another_key_reads_nothing(folder, monkeypatch):
    opaque = Node(lambda n: {n}, name="opaque")
    opaque(3).resolve(store=folder, executor="inline")
    monkeypatch.setenv("TINYGRAPH_STORE_KEY", "the key of somebody else")
    with pytest.raises(StoreUntrusted, match="sealed with another key"):
        opaque(3).resolve(store=folder, executor="inline")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "CON", "x" * 300, "nul\0", "line\nbreak", "\u202eright"])
def test_names_never_become_paths(folder, name):
    """C16."""
    node = Node(lambda x: [x], name=name)
    for kind in (Started, Recalled):
        result = run(node(1), store=folder, executor="inline")
        assert names(result, kind) == [name]
    assert folder.run(result.id).tasks[-1].name == name
    str(folder.run(result.id))
    assert {entry.name for entry in folder.list()} == {"", name}


# Limits


def test_limits_hold_from_the_end_of_a_run_on(tmp_path):
    store = Store(tmp_path / "store", max_bytes="1MB")
    for n in range(5):
        make(60_000 + n).resolve(store=store, executor="inline")
    size_on_disk = sum(path.stat().st_size for path in (tmp_path / "store" / "values").rglob("*") if path.is_file())
    assert 0 < size_on_disk <= 1_000_000
    assert names(run(make(60_004), store=store, executor="inline"), Recalled) == ["make"]
    assert make(60_000).why(store=store) == "evicted"


def test_nothing_is_removed_while_a_run_uses_the_store(folder):
    """C18."""
    said = []

    def shrink(event):
        if isinstance(event, Recalled):
            said.append(folder.shrink(max_bytes=1).why)

    total = Node(lambda a, b: int(a.sum() + b.sum()), name="total")
    make(50_000).resolve(store=folder, executor="inline")
    result = run(total(make(50_000), make(50_001)), store=folder, executor="inline", progress=shrink)
    assert result.value == 1249975000 + 1250025000
    assert said
    assert all(said)


def test_values_that_a_program_has_not_read_are_not_removed(folder):
    make(50_000).resolve(store=folder, executor="inline")
    array, other = make(50_000), size(make(50_000))
    run(Graph(array, other), store=folder, executor="inline")
    folder.shrink(max_bytes=1)
    assert array.resolve()[-1] == 49_999
    assert names(run(make(50_000), store=folder, executor="inline"), Recalled) == ["make"]
    del array, other
    folder.shrink(max_bytes=1)
    assert names(run(make(50_000), store=folder, executor="inline"), Started) == ["make"]


def test_settings_of_a_store_are_checked():
    with pytest.raises(OptionError):
        Store("x", durable="yes")
    with pytest.raises(OptionError):
        Store("x", max_bytes="much")
    with pytest.raises(OptionError):
        make(1).resolve(store=3)
    with pytest.raises(OptionError):
        make(1).resolve(store="x", refresh=3)


def test_a_durable_store_gives_the_same(tmp_path):
    store = Store(tmp_path / "store", durable=True)
    for kind in (Started, Recalled):
        assert names(run(make(70_000), store=store, executor="inline"), kind) == ["make"]


def test_a_disk_without_room_costs_the_store_and_not_the_run(folder, monkeypatch):
    """C13."""
    import errno

    from tinygraph.store import disk

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    make(1).resolve(store=folder, executor="inline")
    monkeypatch.setattr(disk, "write", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert size(double(make(70_000))).resolve(store=folder, executor="inline") == 4899930000
    assert not list(folder.path_of(".").rglob("*.tmp"))


# History


def test_history_has_all_that_was_promised(folder):
    @Node(retries=1)
    def shaky(x, tries=[]):  # noqa: B006
        raise ValueError(f"bad {x}")

    @Node
    def after(x):
        return x

    @Node
    def talk(x):
        print("hello", x)
        logging.getLogger("tests").warning("logged")
        return x

    graph = Graph(talk(1), after(shaky(2)), make(70_000))
    result = run(graph, store=folder, executor="processes", workers=1, on_error="continue", seed=7)
    record = folder.run(result.id)
    tasks = {task.name: task for task in record.tasks}

    assert record.id == folder.runs()[-1].id == result.id
    assert record.options["seed"] == 7
    assert record.options["executor"] == "processes"
    assert set(record.code) >= {f"{__name__}:make"}
    assert tasks["talk"].state == "finished"
    assert tasks["talk"].captured == "hello 1"
    assert tasks["talk"].inputs == (("x", "1"),)
    assert tasks["talk"].output == "1"
    assert tasks["talk"].duration > 0
    assert tasks["talk"].worker > 0
    assert tasks["shaky"].state == "failed"
    assert tasks["shaky"].attempts == 2
    assert "ValueError: bad 2" in tasks["shaky"].error
    assert tasks["after"].state == "skipped"
    assert len(tasks["make"].output) == 10
    assert tasks["make"].why == "never ran"


def test_history_is_read_without_the_code_and_without_unpickling(folder, tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys\nfrom tinygraph import Node\n"
        "@Node\ndef make(x):\n    return {x}\n"
        "make(3).resolve(store=sys.argv[1], executor='inline')\n"
    )
    subprocess.run([sys.executable, str(tmp_path / "program.py"), folder.path], check=True, timeout=60)
    code = (
        "import sys, pickle\n"
        "def refuse(*_): raise SystemExit('unpickled')\n"
        "pickle.loads = pickle.load = pickle.Unpickler = refuse\n"
        "from tinygraph import Store\n"
        "run = Store(sys.argv[1]).runs()[-1]\n"
        "assert 'program' not in sys.modules\n"
        "print(run.state, [(t.name, t.why, t.state) for t in run.tasks])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folder.path], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "finished [('make', 'never ran', 'finished')]", done.stderr


def test_an_unknown_run_is_named_with_what_is_near(folder):
    with pytest.raises(UnknownRun, match="there is no run"):
        folder.run("20200101-000000-0000")
    with pytest.raises(LookupError):
        folder.run("../../etc/passwd")


# Costs


def test_what_was_learned_sets_the_order_of_the_next_run(folder):
    """A long call that nobody gave a cost goes first, from the second run on."""
    from time import sleep

    @Node
    def task(name, seconds):
        sleep(seconds)
        return name

    slow, quick = task.options(name="slow"), Node(lambda name: name, name="quick")
    graph = Graph(quick("a"), slow("b", 0.05))
    first = run(graph, store=folder, executor="threads", workers=1)
    assert names(first, Started)[0] == "quick"
    again = Graph(quick("c"), slow("d", 0.05))
    second = run(again, store=folder, executor="threads", workers=1)
    assert names(second, Started)[0] == "slow"
    # Inline the same graph runs in the same order on any machine.
    assert names(run(Graph(quick("e"), slow("f", 0.01)), store=folder, executor="inline"), Started)[0] == "quick"


# Codecs and state files


class Picture:
    def __init__(self, pixels):
        self.pixels = pixels
        self.handle = open(os.devnull)  # noqa: SIM115

    def __del__(self):
        self.handle.close()


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_a_class_that_cannot_be_pickled_is_kept_by_its_codec(folder, executor):
    @codec(Picture)
    class Pictures:
        @staticmethod
        def save(picture, path):
            with open(path, "w") as file:
                file.write(",".join(map(str, picture.pixels)))

        @staticmethod
        def load(path):
            with open(path) as file:
                return Picture([int(one) for one in file.read().split(",")])

    draw = Node(lambda n: Picture(list(range(n))), name="draw", version=executor)
    count = Node(lambda picture: len(picture.pixels), name="count", key=lambda picture: 1)
    assert count(draw(5)).resolve(store=folder, executor=executor, workers=1) == 5
    again = draw(5).resolve(store=folder, executor=executor, workers=1)
    assert again.pixels == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_a_state_file_is_a_store_that_a_person_can_read(tmp_path, monkeypatch, executor):
    """FL1, FL27 to FL30."""
    import json

    monkeypatch.chdir(tmp_path)
    options = {"store": "persist_7.json", "executor": executor, "workers": 1}
    assert size(double(make(4))).resolve(**options) == 12
    result = run(size(double(make(4))), **options)
    assert (result.value, names(result, Started), names(result, Recalled)) == (12, [], ["make", "double", "size"])
    entries = json.loads((tmp_path / "persist_7.json").read_text())["entries"]
    assert [entry["name"] for entry in entries] == ["make", "double", "size"]
    assert entries[2]["output"] == 12
    assert all({"version", "finished", "duration"} <= entry.keys() for entry in entries)
    # Switching the path switches the state; changing the constant gives the new result.
    assert names(run(size(make(4)), **{**options, "store": "persist_8.json"}), Started) == ["make", "size"]
    assert size(double(make(5))).resolve(**options) == 20
    with pytest.raises(StoreError, match="state file"):
        Store("persist_7.json").runs()


# What an attacker found


def spoil_all(folder):
    for blob in files(folder, "values"):
        spoil(blob)


big = Node(lambda n: np.arange(n), name="big")


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
@pytest.mark.parametrize("way", ["composite", "component", "key", "file", "forwarded twice", "awaited"])
def test_a_damaged_value_is_computed_again_wherever_it_hides(folder, tmp_path, executor, way):
    from tinygraph import Component, File

    @Node
    def inner(n):
        return big(n)

    @Node
    def outer(n):
        return inner(n)

    @Component
    def part(n):
        return [big(n), big(n + 1)]

    @Node
    def written(path):
        with open(path, "w") as file:
            file.write("text")
        return [File(path), np.arange(70_000)]

    @Node
    async def waits(n):
        return int((await big(n)).sum())

    last = Node(lambda value, by: np.sum([np.sum(one) for one in value]) * by, name="last")
    keyed = Node(lambda a, by: int(a.sum()) * by, name="keyed", key=lambda a, by: (a[0], by))
    content = Node(lambda pair, by: len(pair[1]) * by, name="content")

    def make(by):
        return {
            "composite": lambda: last([inner(70_000)], by),
            "component": lambda: last(part(70_000), by),
            "key": lambda: keyed(big(70_000), by),
            "file": lambda: content(written(str(tmp_path / "out")), by),
            "forwarded twice": lambda: last([outer(70_000)], by),
            "awaited": lambda: last([waits.options(version=by)(70_000)], by),
        }[way]()

    options = {"store": folder, "executor": executor, "workers": 1}
    expected = make(1).resolve(executor="inline")
    assert make(1).resolve(**options) == expected
    spoil_all(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert make(2).resolve(**options) == 2 * expected
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(run(make(2), **options), Started) in ([], ["part"])


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_future_of_an_earlier_run_is_computed_again(folder, how):
    """Its value was not read yet, and lies in the store only: another program may make room there."""
    big(70_000).resolve(store=folder, executor="inline")
    array = big(70_000)
    assert size(array).resolve(store=folder, executor="inline") == 2449965000
    if how == "removed":
        for blob in files(folder, "values"):
            blob.unlink()
    else:
        spoil_all(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert size.options(version=2)(array).resolve(store=folder, executor="inline") == 2449965000
        spoil_all(folder)
        assert array.resolve(store=folder, executor="inline")[-1] == 69_999


def test_equal_calls_that_draw_without_a_seed_draw_for_themselves(folder):
    import random

    draw = Node(lambda n: random.random() + n, name="draw")
    first = Graph(*[draw(1) for _ in range(4)]).run(store=folder, executor="inline").value
    assert len(set(first)) == 4
    assert Graph(*[draw(1) for _ in range(4)]).run(store=folder, executor="inline").value == first


def test_what_has_no_key_can_be_consumed_and_is_not_kept(folder):
    import threading

    lock = Node(threading.Lock, name="lock", cache=False)
    use = Node(lambda lock, n: [lock.locked(), n], name="use")
    for _ in range(2):
        result = run(use(lock(), 3), store=folder, executor="inline")
        assert result.value == [False, 3]
        assert names(result, Started) == ["lock", "use"]
    assert "has no key" in folder.run(result.id).tasks[-1].why


class Moody:
    def __init__(self, n):
        self.n = n

    def __setstate__(self, state):
        if os.environ.get("MOOD_OF_MOODY"):
            raise ValueError("not today")
        self.__dict__.update(state)


def test_a_value_that_cannot_be_decoded_is_a_miss(folder, monkeypatch):
    make_moody = Node(lambda n: Moody(n), name="make_moody")
    read = Node(lambda moody, by: moody.n * by, name="read")
    assert read(make_moody(3), 1).resolve(store=folder, executor="inline") == 3
    monkeypatch.setenv("MOOD_OF_MOODY", "bad")
    assert read(make_moody(3), 2).resolve(store=folder, executor="inline") == 6
    monkeypatch.delenv("MOOD_OF_MOODY")
    assert read(make_moody(3), 3).resolve(store=folder, executor="inline") == 9


def test_refresh_reaches_into_what_calls_the_node(folder):
    clean = Node(lambda x: x + 1, name="clean")
    pipe = Node(lambda x: clean(x), name="pipe")
    pipe(1).resolve(store=folder, executor="inline")
    assert names(run(pipe(1), store=folder, executor="inline", refresh="clean"), Started) == ["pipe", "clean"]
    with pytest.warns(RuntimeWarning, match="refresh='claen': no such node"):
        pipe(1).resolve(store=folder, executor="inline", refresh="claen")


def test_a_file_that_changes_while_a_worker_waits_is_not_kept_as_what_it_was(folder, tmp_path):
    from tinygraph import File

    path, go = tmp_path / "data", tmp_path / "go"
    path.write_text("old")

    @Node(check=False)
    def read(file, signs):
        import pathlib
        import time

        pathlib.Path(signs + "begun").write_text("")
        while not pathlib.Path(signs).exists():
            time.sleep(0.005)
        with open(file) as opened:
            return [opened.read()]

    result = run(read(File(path), str(go)), store=folder, executor="processes", workers=1, block=False)
    while not (tmp_path / "gobegun").exists():
        assert not result.wait(0.005)
    path.write_text("new")
    go.write_text("")
    assert result.value == ["new"]
    path.write_text("old")
    assert read(File(path), str(go)).resolve(store=folder, executor="processes", workers=1) == ["old"]


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_file_that_changes_while_a_call_waits_is_not_kept_as_what_it_was(folder, tmp_path, executor):
    from tinygraph import File

    path = tmp_path / "data"
    path.write_text("old")

    @Node(where="driver", cache=False)
    def change(path):
        with open(path, "w") as file:
            file.write("new")

    @Node
    def read(file):
        with open(file) as opened:
            return [opened.read()]

    changed = change(str(path))
    both = Graph(changed, read(File(path)))
    # The file is hashed when the call is looked up, and changes before its body runs.
    from tinygraph.store.recall import Recall

    look = Recall.look

    def look_and_change(self, call):
        found = look(self, call)
        if call.name == "read":
            path.write_text("new")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recall, "look", look_and_change)
        assert both.run(store=folder, executor=executor, workers=1).value[1] == ["new"]
    path.write_text("old")
    assert read(File(path)).resolve(store=folder, executor=executor, workers=1) == ["old"]


def test_positional_and_named_arguments_do_not_collide(folder):
    f = Node(lambda *args, **named: [args, named], name="f")
    assert f(5).resolve(store=folder, executor="inline") == [(5,), {}]
    assert f(**{"*1": 5}).resolve(store=folder, executor="inline") == [(), {"*1": 5}]


def test_an_error_shows_values_and_not_what_stands_for_them(folder):
    fail = Node(lambda value, by: value["a"] / by, name="fail")
    table = Node(lambda n: {"a": n}, name="table")
    table(3).resolve(store=folder, executor="inline")
    with pytest.raises(ZeroDivisionError) as failure:
        fail(table(3), 0).resolve(store=folder, executor="inline")
    assert "with ({'a': 3}, 0)" in failure.value.__notes__[0]


def test_callers_of_what_failed_are_in_the_history(folder):
    fail = Node(lambda x: 1 / x, name="fail")
    caller = Node(lambda x: fail(x), name="caller")
    result = run(caller(0), store=folder, executor="inline", on_error="continue")
    result.wait()
    assert {task.name: task.state for task in folder.run(result.id).tasks} == {"fail": "failed", "caller": "failed"}


# What a reviewer found


def test_a_value_with_the_wrong_number_of_outputs_is_not_kept(folder):
    from tinygraph import OutputError

    pair = Node(lambda x: (x, x, x), name="pair", outputs=2)
    for executor in ("inline", "threads", "processes"):
        for _ in range(2):
            one, other = pair(1)
            with pytest.raises(OutputError):
                Graph(one, other).run(store=folder, executor=executor, workers=1).value


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}{b}")


def test_a_value_that_pickles_and_does_not_unpickle_is_not_kept(folder):
    make_one = Node(lambda x: [TwoArguments(x, 1)], name="make_one")
    count = Node(lambda values: len(values), name="count", key=lambda values: 0)
    for _ in range(2):
        assert count(make_one(1)).resolve(store=folder, executor="inline", refresh="count") == 1


def test_trouble_at_the_end_of_a_run_hides_neither_its_value_nor_its_error(folder, monkeypatch):
    from tinygraph.store.entries import Entries

    def broken(self):
        raise OSError(5, "Input/output error")

    fail = Node(lambda x: {}[x], name="fail")
    monkeypatch.setattr(Entries, "flush", broken)
    with pytest.warns(RuntimeWarning, match="was not left in order"):
        assert make(3).resolve(store=folder, executor="inline")[-1] == 2
    with pytest.warns(RuntimeWarning, match="was not left in order"), pytest.raises(KeyError, match="mine"):
        fail("mine").resolve(store=folder, executor="inline")
    monkeypatch.undo()
    os.environ["TINYGRAPH_STORE_KEY"] = "a key that only tests have"
    assert folder.shrink(max_bytes=1).why == ""


@pytest.mark.parametrize("with_store", [False, True])
def test_a_body_may_try_again_what_failed(folder, with_store):
    tries = []

    @Node(key=lambda x: x)
    def flaky(x):
        tries.append(x)
        if len(tries) < 3:
            raise ConnectionError("again")
        return x

    @Node(cache=False)
    async def patient(x):
        for _ in range(3):
            try:
                return await flaky(x)
            except ConnectionError:
                pass
        return "gave up"

    assert patient(1).resolve(store=folder if with_store else None, executor="inline") == 1
    assert len(tries) == 3


def test_equal_calls_are_one_when_they_are_refreshed(folder):
    f, g = Node(lambda x: [x], name="f"), Node(lambda a, b: a + b, name="g")
    g(f(1), f(1)).resolve(store=folder, executor="inline")
    result = run(g(f(1), f(1)), store=folder, executor="inline", refresh="f")
    assert names(result, Started) == ["f"]
