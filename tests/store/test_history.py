"""What a run did can be read while it goes on, after it ended, and after it was killed."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygraph.store.history as room
from tinygraph.errors import StoreUntrusted, UnknownRun
from tinygraph.store import disk
from tinygraph.store.history import RunWriter, run, runs

TASK = (7, "train", "shop:train", "finished", 0.5)
ALL = {
    "attempts": 2,
    "worker": 4121,
    "why": "argument rate: 0.1 -> 0.2",
    "inputs": [("rate", "0.2"), ("data", "5f0c3a91")],
    "output": "ab" * 20,
    "captured": "epoch 1\nepoch 2\n",
    "error": "",
    "key": "cd" * 20,
}


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "runs")


@pytest.fixture
def write(folder):
    """Make writers that are closed in the end."""
    made = []

    def make(**options):
        made.append(RunWriter(folder, **options))
        return made[-1]

    yield make
    for one in made:
        one.close("finished")


def test_what_was_told_is_read(folder, write):
    writer = write(options={"workers": 2, "seed": None, "store": object}, code={"shop:train": "5f"}, program="shop.py")
    writer.task(*TASK, **ALL)
    writer.code("shop:load", "0a")
    writer.task(8, "load", "shop:load", "failed", 0.25, error="ValueError: bad")
    writer.close("failed", "ValueError: bad")
    record = run(folder, writer.id)
    assert record.id == writer.id
    assert record.when == writer.when
    assert (record.state, record.error, record.program, record.pid) == (
        "failed",
        "ValueError: bad",
        "shop.py",
        os.getpid(),
    )
    assert record.options == {"workers": 2, "seed": None, "store": "<class 'object'>"}
    assert record.code == {"shop:train": "5f", "shop:load": "0a"}
    first, second = record.tasks
    want = {**ALL, "inputs": tuple(ALL["inputs"])}
    want |= dict(zip(("id", "name", "node", "state", "duration"), TASK, strict=True))
    assert dataclasses.asdict(first) == want
    assert (second.id, second.attempts, second.worker, second.inputs, second.key) == (8, 1, 0, (), "")
    assert 0 <= record.seconds < 60
    assert {record, run(folder, writer.id)} == {record}
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.name = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.state = "other"


text = st.text(st.characters(exclude_categories=[]))


@given(text, text, text, st.lists(st.tuples(text, text)), st.floats())
def test_every_text_and_number_comes_back(tmp_path_factory, name, why, captured, inputs, duration):
    folder = str(tmp_path_factory.mktemp("history") / "runs")
    writer = RunWriter(folder)
    writer.task(0, name, why, "finished", duration, why=why, captured=captured, error=name, inputs=inputs)
    writer.close("finished", why)
    (task,) = run(folder, writer.id).tasks

    def joined(one):  # halves of a pair that stand side by side become one letter, as in any JSON
        return one.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    assert (joined(task.name), joined(task.why), joined(task.captured)) == (joined(name), joined(why), joined(captured))
    assert [(joined(a), joined(b)) for a, b in task.inputs] == [(joined(a), joined(b)) for a, b in inputs]
    assert task.duration == (pytest.approx(duration) if 0 <= duration < 1e9 else 0)


def test_every_line_is_json(folder, write):
    writer = write()
    writer.task(*TASK, **ALL)
    writer.task(8, 'na"me\n', "no\\de", "finished", 1e-9, why="\u2028")
    writer.close("finished")
    with open(writer.path, encoding="ascii") as file:
        lines = [json.loads(line) for line in file]
    assert lines[0]["format"] == 1
    assert lines[1]["inputs"] == [["rate", "0.2"], ["data", "5f0c3a91"]]
    assert lines[2]["name"] == 'na"me\n'
    assert lines[-1]["end"] == "finished"


def test_long_outputs_and_errors_are_cut_in_front(folder, write):
    writer = write()
    writer.task(*TASK, captured="x" * 10**6 + "the end", error="y" * 10**6 + "its end")
    writer.close("finished", "z" * 10**6)
    (task,) = run(folder, writer.id).tasks
    for one in (task.captured, task.error, run(folder, writer.id).error):
        assert len(one) < 20_000
        assert one.startswith("... 9")
    assert task.captured.endswith("the end")
    assert task.error.endswith("its end")


def test_a_run_that_goes_on_reads_as_running(folder, write):
    writer = write()
    writer.task(*TASK)
    writer.flush(force=True)
    record = run(folder, writer.id)
    assert record.state == "running"
    assert [task.name for task in record.tasks] == ["train"]
    writer.close("finished")
    assert run(folder, writer.id).state == "finished"


def test_closing_twice_and_telling_afterwards_does_nothing(folder, write):
    writer = write()
    writer.close("failed")
    writer.close("finished")
    writer.task(*TASK)
    writer.flush(force=True)
    assert run(folder, writer.id).state == "failed"
    assert run(folder, writer.id).tasks == ()


KILLED = """
    import os, signal, sys
    from tinygraph.store.history import RunWriter
    writer = RunWriter(sys.argv[1], options={"a": object()})
    writer.task(0, "load", "shop:load", "finished", 0.5)
    writer.flush(force=True)
    writer.task(1, "lost", "shop:lost", "finished", 0.5)
    print(writer.id, flush=True)
    sys.stdin.read()
"""


def test_a_run_whose_program_is_gone_was_interrupted(folder):
    """However it went: what was written is there, and no number of a process that is used again is believed."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        id = program.stdout.readline().strip()
        assert run(folder, id).state == "running"
        assert run(folder, id).pid == program.pid
        program.send_signal(signal.SIGKILL)
        program.wait()
    record = run(folder, id)
    assert record.state == "interrupted"
    assert [task.name for task in record.tasks] == ["load"]
    assert 0 <= record.seconds < 60


def test_a_torn_last_line_is_no_line(folder, write):
    writer = write()
    for i in range(3):
        writer.task(i, "step", "shop:step", "finished", 0.5)
    writer.close("finished")
    with open(writer.path, "rb") as file:
        whole = file.read()
    ends = [found.end() for found in re.finditer(b"\n", whole)]
    for cut in range(len(whole)):
        with open(writer.path, "wb") as file:
            file.write(whole[:cut])
        if cut < ends[0]:
            assert runs(folder) == []
            with pytest.raises(UnknownRun):
                run(folder, writer.id)
        else:
            record = run(folder, writer.id)
            assert [task.id for task in record.tasks] == list(range(min(3, sum(end <= cut for end in ends) - 1)))
            assert record.state == "interrupted"


def test_a_spoilt_line_spoils_no_other(folder, write):
    writer = write()
    for i in range(3):
        writer.task(i, "step", "shop:step", "finished", 0.5)
    writer.close("finished")
    with open(writer.path, "rb") as file:
        lines = file.read().split(b"\n")
    for damage in (
        b"\xff\xfe",
        b"[1]",
        b'{"task": "x"}',
        b"{" * 5_000,
        b'{"task": 9, "inputs": [1, [2]], "duration": "x"}',
    ):
        with open(writer.path, "wb") as file:
            file.write(b"\n".join([*lines[:2], damage, *lines[3:]]))
        record = run(folder, writer.id)
        assert record.state == "finished"
        assert [task.id for task in record.tasks if task.id != 9] == [0, 2]


def test_a_call_that_ran_again_counts_once(folder, write):
    writer = write()
    writer.task(*TASK, why="hit")
    writer.task(*TASK, why="evicted")
    writer.close("finished")
    assert [task.why for task in run(folder, writer.id).tasks] == ["evicted"]


def test_runs_are_told_oldest_first(folder, monkeypatch):
    ids = []
    for when in (1_700_000_000.25, 1_700_000_000.25, 1_700_000_000.99999, 1_700_000_000.99999, 1_700_000_002.0):
        monkeypatch.setattr(room, "time", lambda when=when: when)
        writer = RunWriter(folder)
        ids.append(writer.id)
        writer.close("finished")
    assert [record.id for record in runs(folder)] == ids == sorted(set(ids))
    assert ids[0] == "20231114-221320-4000"
    assert runs(folder + "/nowhere") == []


@pytest.mark.parametrize(
    "id",
    [
        "",
        "../../etc/passwd",
        "20231114-221320-4000\n",
        "20231114-221320-4000/..",
        "x\0",
        None,
        3,
        "٢٠٢٣١١١٤-221320-4000",
    ],
)
def test_an_id_never_becomes_a_path(folder, write, id):
    write()
    os.makedirs(os.path.join(folder, "20231114-221320-4000.jsonl"))
    with pytest.raises(UnknownRun, match="there is no run"):
        run(folder, id)
    assert len(runs(folder)) == 1


def test_an_unknown_run_is_told_of_its_neighbours(folder, write):
    with pytest.raises(UnknownRun, match="nor any other"):
        run(folder, "20231114-221320-4000")
    id = write().id
    with pytest.raises(UnknownRun, match=f"did you mean {id}"):
        run(folder, id[:-1] + ("0" if id[-1] != "0" else "1"))
    with pytest.raises(UnknownRun, match=f"did you mean {id}"):
        run(folder, id[:8])
    with pytest.raises(UnknownRun, match=f"the last one is {id}"):
        run(folder, "latest")


def test_files_are_for_their_owner_only_and_links_are_not_followed(folder, write, tmp_path):
    writer = write()
    writer.close("finished")
    assert os.stat(writer.path).st_mode & 0o777 == 0o600
    assert os.stat(folder).st_mode & 0o777 == 0o700
    for i, make in enumerate([lambda at: os.symlink(writer.path, at), os.mkfifo, os.mkdir]):
        make(os.path.join(folder, f"20990101-000000-000{i}.jsonl"))
        with pytest.raises(UnknownRun):
            run(folder, f"20990101-000000-000{i}")
    assert [record.id for record in runs(folder)] == [writer.id]
    os.chmod(folder, 0o777)
    with pytest.raises(StoreUntrusted):
        write()


def test_reading_unpickles_nothing_and_imports_nothing_of_the_users(folder, write):
    writer = write(options={"executor": object()})
    writer.task(*TASK, **ALL)
    writer.close("finished")
    code = f"""
import pickle, sys
def refused(*_, **__): raise AssertionError("unpickled")
pickle.loads = pickle.load = pickle.Unpickler = refused
from tinygraph.store.history import run, runs
record = runs({folder!r})[0]
assert len(record.tasks) == 1 and str(record)
assert "cloudpickle" not in sys.modules and "shop" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lines_are_written_in_batches(folder, write, monkeypatch):
    """
    writes │ head │ 1 task │ 999 tasks, 200 ms later │ end
    """
    clock, writes = [100.0], []
    real = disk.write
    monkeypatch.setattr(room, "monotonic", lambda: clock[0])
    monkeypatch.setattr(disk, "write", lambda fd, data: (writes.append(bytes(data).count(b"\n")), real(fd, data)))
    writer = write()
    for i in range(1_000):
        writer.task(i, "step", "shop:step", "finished", 0.0)
        writer.flush()
    assert writes == [1]
    clock[0] += 0.3
    writer.flush()
    writer.flush()
    assert writes == [1, 1_000]
    clock[0] += 0.3
    writer.task(*TASK)
    assert writes == [1, 1_000, 1]
    writer.close("finished")
    assert writes == [1, 1_000, 1, 1]


def test_threads_may_tell_at_once(folder, write):
    writer = write()

    def tell(start):
        for i in range(start, start + 500):
            writer.task(i, "step", "shop:step", "finished", 0.0)
            writer.flush(force=True)

    threads = [threading.Thread(target=tell, args=[500 * i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close("finished")
    assert sorted(task.id for task in run(folder, writer.id).tasks) == list(range(2_000))


def test_a_full_disk_is_told_once_and_stops_no_run(folder, write, monkeypatch):
    writer = write()
    real = disk.write

    def full(fd, data):
        real(fd, bytes(data)[:10])  # a write may stop anywhere
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    writer.task(0, "lost", "shop:lost", "finished", 0.0)
    with pytest.warns(RuntimeWarning, match=r"history of this run, .* is not complete: .*No space left"):
        writer.flush(force=True)
    writer.task(1, "lost", "shop:lost", "finished", 0.0)
    writer.flush(force=True)  # a second warning would be an error
    monkeypatch.setattr(disk, "write", real)
    writer.task(2, "told", "shop:told", "finished", 0.0)
    writer.close("finished")
    record = run(folder, writer.id)
    assert (record.state, [task.id for task in record.tasks]) == ("finished", [2])


@pytest.fixture
def _in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_in_utc")
def test_a_record_shows_as_a_table(folder, write, monkeypatch):
    monkeypatch.setattr(room, "time", lambda: 1_700_000_000.25)
    writer = write()
    writer.task(0, "load", "shop:load", "finished", 0.5123, worker=4121, why="never ran")
    writer.task(1, "train", "shop:train", "finished", 0.0, why="hit")
    writer.task(
        2, "re\u202eport\n", "shop:report", "failed", 12.5, worker=4121, attempts=3, error="ValueError: bad\nmore"
    )
    monkeypatch.setattr(room, "time", lambda: 1_700_000_090.25)
    writer.close("failed", "ValueError: bad\nmore")
    assert (
        str(run(folder, writer.id))
        == textwrap.dedent(
            r"""
        run 20231114-221320-4000: failed, 90 s, began 2023-11-14 22:13:20: 2 ran, 1 hit, 1 failed
          ValueError: bad
          id  task            state                seconds  worker  why
           0  load            finished               0.512    4121  never ran
           1  train           finished                              hit
           2  re\u202eport\n  failed at attempt 3   12.500    4121  ValueError: bad
        """
        ).strip()
    )


def test_a_long_table_is_cut_and_keeps_what_failed(folder, write):
    writer = write()
    for i in range(10_000):
        writer.task(i, "step", "shop:step", "failed" if i == 9_990 else "finished", 0.0)
    writer.close("failed")
    shown = str(run(folder, writer.id)).splitlines()
    assert len(shown) == 63
    assert shown[0].endswith("10,000 ran, 1 failed")
    assert "9990" in shown[-2]
    assert shown[-1] == "  ... and 9,940 more"


def test_a_run_without_calls_shows_as_well(folder, write):
    writer = write()
    writer.close("finished", "")
    assert str(run(folder, writer.id)).endswith(": no calls")
