"""What nodes say on worker processes: it arrives in the parent, line by line, with the task that said it.

The names with a number are those of the rows in the table of hard cases.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest

from tinygraph import Graph, Node, Printed, WorkerLost, run
from tinygraph.executors.output import LAST_WORDS, STDERR, STDOUT, Outlet, Said, Transcript, Whose, attributed
from tinygraph.executors.pool import _pools

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]


def said_by(text: str, call: object) -> list[str]:
    """The lines that a call is said to have printed."""
    prefix = f"[{call.name}#{call.number}] "
    return [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]


def shut_down_pools() -> None:
    """Have the next call run in a new process."""
    for pool in list(_pools.values()):
        pool.shut_down()


def test_prints_arrive_line_by_line_with_their_task(capsys) -> None:
    @Node
    def speak(n: int) -> None:
        print(f"first of {n}")
        print("second", end=" ")
        print(f"of {n}")
        print(f"trouble in {n}", file=sys.stderr)

    calls = [speak(n) for n in range(20)]
    Graph(*calls).run(executor="processes", workers=2)
    out, err = capsys.readouterr()
    for n, call in enumerate(calls):
        assert said_by(out, call) == [f"first of {n}", f"second of {n}"]
        assert said_by(err, call) == [f"trouble in {n}"]
    assert len(out.splitlines()) == 40
    assert len(err.splitlines()) == 20


def test_everything_has_arrived_when_the_run_is_over(capsys) -> None:
    @Node
    def speak(n: int) -> int:
        print("x" * 100, end="")  # no end of line: the end of the task is one
        return n

    for n in range(50):
        call = speak(n)
        call.resolve(executor="processes", workers=1)
        assert capsys.readouterr().out == f"[speak#{call.number}] {'x' * 100}\n"


def test_X21_native_writes_and_subprocesses_belong_to_the_task_that_runs(capsys) -> None:
    """
    python ──► native ──► child
    """

    @Node
    def python() -> None:
        print("from Python")

    @Node
    def native(after: object) -> None:
        os.write(1, b"from C\n")
        os.write(2, b"trouble in C")

    @Node
    def child(after: object) -> None:
        subprocess.run(["sh", "-c", "echo from a child; echo and its trouble >&2"], check=True)

    one = python()
    two = native(one)
    three = child(two)
    three.resolve(executor="processes", workers=1)
    out, err = capsys.readouterr()
    assert said_by(out, one) == ["from Python"]
    assert said_by(out, two) == ["from C"]
    assert said_by(err, two) == ["trouble in C"]
    assert said_by(out, three) == ["from a child"]
    assert said_by(err, three) == ["and its trouble"]


def test_X21_native_writes_are_not_those_of_a_task_that_ended_before_in_the_same_message(tmp_path: Path) -> None:
    """
    speak, native      (in one message: the outcome of the first is reported with that of the second)
    """

    def either(kind: str, folder: str) -> None:
        if kind == "python":
            print("from Python")
        elif kind == "native":
            for text in ("from Python", "one", "two"):
                while not Path(folder, text).exists():
                    pass
                os.write(1, {"from Python": b"one\n", "one": b"two\n", "two": b""}[text])

    node = Node(either)
    events: list[Printed] = []

    def hear(event: object) -> None:
        if isinstance(event, Printed):
            events.append(event)
            (tmp_path / event.text).touch()

    Graph(*[node("nothing", "") for _ in range(50)]).run(executor="processes", workers=1)  # its duration is known now
    speak, native = node("python", str(tmp_path)), node("native", str(tmp_path))
    run(Graph(speak, native), executor="processes", workers=1, progress=hear)
    numbers = {event.text: event.number for event in events}
    assert numbers["from Python"] == speak.number
    assert numbers["two"] == native.number  # "one" may have come before anybody could know that the first has ended


def test_X21_a_node_that_has_no_standard_output_takes_it_from_nobody_else(capsys) -> None:
    """
    mute ──► deaf ──► speak
    """

    @Node
    def mute() -> None:
        sys.stdout = None
        print("nothing")

    @Node
    def deaf(after: object) -> None:
        sys.stdout = io.StringIO()
        os.close(1)

    @Node
    def speak(after: object) -> None:
        print("heard")

    call = speak(deaf(mute()))
    call.resolve(executor="processes", workers=1)
    assert capsys.readouterr().out == f"[speak#{call.number}] heard\n"


def test_X21_a_parent_without_standard_output_runs_all_the_same(monkeypatch) -> None:
    @Node
    def speak() -> str:
        print("into the void", flush=True)
        print("this as well", file=sys.stderr)
        return "done"

    monkeypatch.setattr(sys, "stdout", None)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    shut_down_pools()  # a worker is to be started in these conditions, too
    assert speak().resolve(executor="processes", workers=1) == "done"


@pytest.mark.slow
def test_X21_a_hundred_megabytes_block_nobody(monkeypatch) -> None:
    class Counting(io.StringIO):
        size = lines = 0

        def write(self, text: str) -> int:
            self.size += len(text)
            self.lines += text.count("\n")
            return len(text)

    @Node
    def chatter(line: str, times: int) -> int:
        for _ in range(times):
            sys.stdout.write(line)
        return times

    monkeypatch.setattr(sys, "stdout", Counting())
    calls = [chatter("x" * 999 + "\n", 50_000) for _ in range(2)]
    Graph(*calls).run(executor="processes", workers=2)
    assert sys.stdout.lines == 100_000
    assert sys.stdout.size == sum(50_000 * (1000 + len(f"[chatter#{call.number}] ")) for call in calls)


def test_X21_a_line_without_an_end_comes_in_pieces(capsys) -> None:
    @Node
    def drone() -> None:
        sys.stdout.write("x" * 1_000_000)

    call = drone()
    call.resolve(executor="processes", workers=1)
    pieces = said_by(capsys.readouterr().out, call)
    assert "".join(pieces) == "x" * 1_000_000
    assert max(map(len, pieces)) <= 2 * LAST_WORDS


def test_X21_who_prints_much_waits_for_a_slow_parent_and_nobody_else(tmp_path: Path, monkeypatch) -> None:
    """The parent writes nothing until an innocent beside the flood has run: that one waits for nobody."""

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            while not (tmp_path / "innocent").exists():
                pass
            return len(text)

    @Node
    def flood() -> int:
        for _ in range(10_000):
            sys.stdout.write("x" * 999 + "\n")
        return 10_000

    @Node
    def innocent(folder: str) -> str:
        Path(folder, "innocent").touch()
        return "innocent"

    monkeypatch.setattr(sys, "stdout", Slow())
    assert Graph(flood(), innocent(str(tmp_path))).run(executor="processes", workers=2).value == (10_000, "innocent")


def test_a_progress_bar_is_what_it_is_at_last(capsys) -> None:
    @Node
    def train() -> None:
        for percent in range(0, 101, 10):
            print(f"\r{percent} %", end="")
        print()

    call = train()
    call.resolve(executor="processes", workers=1)
    assert capsys.readouterr().out == f"[train#{call.number}] 100 %\n"


def test_a_listener_is_told_each_line(capsys) -> None:
    @Node
    def speak() -> None:
        print("one\ntwo")
        print("three", file=sys.stderr)

    events: list[object] = []
    call = speak()
    run(call, executor="processes", workers=1, progress=events.append)
    printed = [(e.name, e.number, e.stream, e.text) for e in events if isinstance(e, Printed)]
    assert sorted(printed, key=str) == [
        ("speak", call.number, "stderr", "three"),
        ("speak", call.number, "stdout", "one"),
        ("speak", call.number, "stdout", "two"),
    ]


def test_what_cannot_be_decoded_or_encoded_is_shown_escaped(monkeypatch) -> None:
    @Node
    def speak() -> None:
        os.write(1, b"caf\xe9 \x1e\n")
        print("café", chr(0xD800))

    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    call = speak()
    call.resolve(executor="processes", workers=1)
    prefix = f"[speak#{call.number}] ".encode()
    assert ascii_only.buffer.getvalue() == prefix + b"caf\\xe9 \x1e\n" + prefix + b"caf\\xe9 \\ud800\n"


def test_what_looks_like_a_frame_is_text(capsys) -> None:
    @Node
    def speak() -> None:
        sys.stdout.buffer.write(b"\x1e0123456789abcdefT1\n7\x1e\n")

    call = speak()
    call.resolve(executor="processes", workers=1)
    assert said_by(capsys.readouterr().out.replace("\x1e", "^"), call) == ["^0123456789abcdefT1", "7^"]


# Deaths


@pytest.mark.parametrize("how", ["segfault", "abort", "kill"])
def test_X2_the_error_of_a_dead_worker_has_its_last_words(how: str, capsys) -> None:
    @Node
    def culprit(how: str) -> None:
        print("a whole line")
        print("half a line", end="")
        if how == "segfault":
            ctypes.string_at(0)
        elif how == "abort":
            os.abort()
        os.kill(os.getpid(), 9)

    with pytest.raises(WorkerLost) as caught:
        culprit(how).resolve(executor="processes", workers=1)
    notes = "\n".join(caught.value.__notes__)
    assert "a whole line" in notes
    assert "half a line" in notes
    if how != "kill":
        assert "Fatal Python error" in notes
        assert "in culprit" in notes
    assert capsys.readouterr().out.count("half a line") == 3  # it died three times


def test_X2_a_silent_crash_is_not_blamed_on_who_spoke_before(capsys) -> None:
    """
    speak ──► culprit
    """

    @Node
    def speak() -> None:
        print("all is well")

    @Node
    def culprit(after: object) -> None:
        os.abort()

    one = speak()
    two = culprit(one)
    with pytest.raises(WorkerLost) as caught:
        two.resolve(executor="processes", workers=1)
    notes = "\n".join(caught.value.__notes__)
    assert "Fatal Python error: Aborted" in notes
    assert "all is well" not in notes
    out, err = capsys.readouterr()
    assert said_by(out, one) == ["all is well"]
    assert not said_by(err, one)
    assert sum("Fatal Python error" in line for line in said_by(err, two)) == 3


def test_the_last_words_are_the_last_64_kib(capsys) -> None:
    @Node
    def culprit() -> None:
        for n in range(100_000):
            print(n)
        os._exit(3)

    with pytest.raises(WorkerLost) as caught:
        culprit().resolve(executor="processes", workers=1)
    words = next(note for note in caught.value.__notes__ if "99999" in note)
    assert words.splitlines()[-1] == "99999"
    assert LAST_WORDS // 2 < len(words) < LAST_WORDS + 100


def test_a_task_that_is_stopped_is_heard_to_the_end(capsys) -> None:
    @Node(timeout=0.3)
    def late() -> None:
        print("begun", end="")
        while True:
            pass

    call = late()
    with pytest.raises(TimeoutError):
        call.resolve(executor="processes", workers=1)
    assert said_by(capsys.readouterr().out, call) == ["begun"]


# Logging


class Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def collected():
    """The records that a logger of the parent handles."""
    logger, handler = logging.getLogger("tests.output"), Collecting()
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_records_are_handled_by_the_logger_of_that_name(collected) -> None:
    @Node
    def speak(n: int) -> None:
        logging.getLogger("tests.output").warning("number %d", n, extra={"colour": "red", "odd": threading.Lock()})

    call = speak(7)
    call.resolve(executor="processes", workers=1)
    [record] = collected
    assert record.getMessage() == "number 7"
    assert record.levelname == "WARNING"
    assert record.funcName == "speak"
    assert record.node == f"speak#{call.number}"
    assert record.colour == "red"
    assert record.process != os.getpid()


def test_an_exception_is_logged_with_its_traceback(collected) -> None:
    @Node
    def speak() -> None:
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("tests.output").exception("it failed")

    speak().resolve(executor="processes", workers=1)
    [record] = collected
    assert record.getMessage() == "it failed"
    assert "in speak" in logging.Formatter().format(record)
    assert "ZeroDivisionError" in logging.Formatter().format(record)


def test_levels_are_those_of_the_parent_when_it_resolves(collected) -> None:
    @Node
    def speak() -> None:
        logger = logging.getLogger("tests.output")
        logger.debug("debug")
        logger.info("info")
        logger.warning("warning")

    for level, expected in ((logging.INFO, ["info", "warning"]), (logging.ERROR, []), (logging.DEBUG, None)):
        collected.clear()
        logging.getLogger("tests.output").setLevel(level)
        speak().resolve(executor="processes", workers=1)
        assert [r.getMessage() for r in collected] == (["debug", "info", "warning"] if expected is None else expected)


def test_a_long_record_arrives_whole(collected) -> None:
    @Node
    def speak() -> None:
        logging.getLogger("tests.output").warning("x" * 300_000)

    speak().resolve(executor="processes", workers=1)
    assert [record.getMessage() for record in collected] == ["x" * 300_000]


def test_threads_of_a_node_log_side_by_side(collected) -> None:
    @Node
    def speak() -> None:
        def work(n: int) -> None:
            for i in range(50):
                logging.getLogger("tests.output").warning("%s", f"{n}-{i}-" + "x" * 10_000)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    speak().resolve(executor="processes", workers=1)
    told = {record.getMessage().rstrip("x") for record in collected}
    assert told == {f"{n}-{i}-" for n in range(4) for i in range(50)}
    assert len(collected) == 200


# Warnings


class Odd(UserWarning):
    pass


def test_a_warning_of_a_node_is_one_in_the_parent() -> None:
    @Node
    def warn(n: int) -> None:
        warnings.warn(f"odd number {n}", Odd, stacklevel=1)

    with pytest.warns(Odd, match="odd number 7") as caught:
        warn(7).resolve(executor="processes", workers=1)
    [warning] = caught
    assert warning.filename == __file__
    assert "in node warn#" in warning.message.__notes__[0]


def test_X22_a_warning_that_is_an_error_in_the_parent_raises_in_the_node() -> None:
    @Node
    def warn() -> None:
        warnings.warn("odd", Odd, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error", Odd)
        with pytest.raises(Odd):
            warn().resolve(executor="processes", workers=1)
        warnings.simplefilter("ignore", Odd)
        warn().resolve(executor="processes", workers=1)


def test_a_warning_is_shown_once_for_its_place_however_many_workers_issue_it() -> None:
    @Node
    def warn(n: int) -> None:
        warnings.warn("odd", Odd, stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", Odd)
        Graph(*[warn(n) for n in range(20)]).run(executor="processes", workers=2)
    assert len(caught) == 1


# The parts


def test_frames_and_text_come_apart_wherever_they_are_cut() -> None:
    stream = b"stray\n\x1etokenT1\n7one\ntw\x1etokenP3\nabc\x1etokenL3\ndefo\n"
    stream += b"\x1etok\x1etokenT2\n12three\x1etokenT1\n7four\n"

    def transcribed(pieces: list[bytes]) -> list[tuple[int, str, bytes]]:
        transcript = Transcript(STDOUT, b"token")
        found = [said for piece in pieces for said in transcript.feed(piece)] + transcript.end()
        whole: dict[int, str] = {}
        for said in found:
            whole[said.task] = whole.get(said.task, "") + said.text
        return [(task, text, b"") for task, text in whole.items()] + [(s.task, "", s.packed) for s in found if s.packed]

    once = transcribed([stream])
    assert once == [(0, "stray\n", b""), (7, "one\ntwo\n\x1etokfour\n", b""), (12, "three", b""), (7, "", b"abcdef")]
    for size in range(1, len(stream)):
        assert transcribed([stream[at : at + size] for at in range(0, len(stream), size)]) == once


def test_the_prefix_stands_before_each_line() -> None:
    assert attributed(Whose("train", 3), "one\n\ntwo") == "[train#3] one\n[train#3] \n[train#3] two\n"
    assert attributed(Whose("train", 3), "dos\r\n") == "[train#3] dos\n"


def test_an_outlet_wakes_the_driver_once_for_all_that_waits() -> None:
    class Woken:
        rings = 0

        def put(self, nothing: None) -> None:
            self.rings += 1

    class Engine:
        listener = None
        driver = type("Lane", (), {"wake": Woken()})

    outlet = Outlet(Engine())
    for _ in range(3):
        outlet.put(Whose("speak", 1), Said(1, STDERR, ""))
    assert Engine.driver.wake.rings == 1
    assert outlet.deliver() is False
    assert not outlet
    outlet.put(Whose("speak", 1), Said(1, STDERR, ""))
    assert Engine.driver.wake.rings == 2


def test_it_reads_well(tmp_path: Path) -> None:
    """A script as a user would write it, from the outside."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import logging, warnings
            from tinygraph import Node

            @Node
            def train(epochs):
                for epoch in range(epochs):
                    print("epoch", epoch)
                logging.getLogger("train").warning("slow")
                warnings.warn("few epochs")
                return epochs

            print(train(2).resolve(workers=1))
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "[train#0] epoch 0\n[train#0] epoch 1\n2\n"
    assert done.stderr == f'slow\n{script}:10: UserWarning: few epochs\n  warnings.warn("few epochs")\n'
