"""Ctrl-C and other signals at every step of a run, and forks in the midst of one: no later run waits for what is gone.

A line of ours after the other is struck, in the thread that resolves, by a trace function.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from linecache import getline
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import tinygraph
from tinygraph import CancelledError, Input, Node, Run, run
from tinygraph.engine import Engine
from tinygraph.future import Future, claiming

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(os.name != "posix", reason="signals, and forks"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

OURS = str(Path(tinygraph.__file__).parent)
BOOKS = (OURS, __file__, threading.__file__)


class Strike:
    """A signal at one line of many, in this thread."""

    def __init__(self, at: int, number: signal.Signals, codes: frozenset[CodeType] | None = None) -> None:
        self.left = at
        self._number = number
        self._codes = codes

    def __enter__(self) -> Strike:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(self._before)
        self._number = None  # what is still traced is left alone

    @property
    def has_come(self) -> bool:
        return self.left < 0

    def _called(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        code = frame.f_code
        is_meant = code.co_filename.startswith(BOOKS) if self._codes is None else code in self._codes
        return self._step if is_meant else None

    def _step(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        # No signal comes between a block and the end of its `with`, whose line is traced once more then.
        if event == "line" and self.left >= 0 and not line_of(frame).startswith("with "):
            self.left -= 1
            if self.left < 0 and self._number is not None:
                signal.raise_signal(self._number)
        return self._step


def line_of(frame: FrameType) -> str:
    return getline(frame.f_code.co_filename, frame.f_lineno).strip()


@Node
def add(*numbers: int) -> int:
    return sum(numbers)


@Node
def fibonacci(n: int) -> Any:
    return n if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))


def some_calls() -> Future[int]:
    """Calls that need each other, and one that makes calls."""
    return add(fibonacci(3), add(1, 2), add(add(3), 4))


def assert_free(future: Future[int], expected: int) -> None:
    """It belongs to no run, and another resolves it at once."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert {call._engine for call in future.graph.nodes} == {None}
    assert future.resolve(executor="inline") == expected


# Ctrl-C


@pytest.mark.parametrize(
    ("executor", "every"), [("inline", 1), ("threads", 7), ("processes", 61), (ThreadPoolExecutor, 7)]
)
def test_ctrl_c_at_any_line_is_raised_and_leaves_every_call_free(executor: Any, every: int) -> None:
    """It is neither lost nor does it cut anything in half."""
    with ThreadPoolExecutor(2) as pool:
        executor = pool if executor is ThreadPoolExecutor else executor
        some_calls().resolve(executor=executor, workers=2)  # what is imported and started once, is
        for at in range(0, 1_000_000, every):
            future, strike = some_calls(), Strike(at, signal.SIGINT)
            try:
                with strike:
                    future.resolve(executor=executor, workers=2)
            except KeyboardInterrupt:
                pass
            else:
                assert not strike.has_come, f"Ctrl-C at line {at} was lost"
                break
            assert_free(future, 12)
    assert at > 300


def test_ctrl_c_at_any_line_of_a_run_with_inputs() -> None:
    """Such a run claims its calls twice: as they were recorded, and with the inputs filled."""
    for at in range(0, 1_000_000, 3):
        future, strike = add(add(Input("n")), 2), Strike(at, signal.SIGINT)
        try:
            with strike:
                future.resolve(executor="inline", inputs={"n": 1})
        except KeyboardInterrupt:
            assert {call._engine for call in future.graph.nodes} == {None}
            assert future.resolve(executor="inline", inputs={"n": 1}) == 3
        else:
            assert not strike.has_come
            break
    assert at > 100


def test_ctrl_c_before_there_is_an_engine_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    begin = Engine.__init__

    def struck(self: Engine, *args: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        begin(self, *args, **options)

    monkeypatch.setattr(Engine, "__init__", struck)
    future = Node(lambda: ran.append(1), name="count")()
    with pytest.raises(KeyboardInterrupt):
        future.resolve(executor="inline")
    assert ran == []
    monkeypatch.undo()
    future.resolve(executor="inline")
    assert ran == [1]


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_when_the_run_is_just_over_is_raised(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when what it would have raised is a failure."""
    close = Engine.close

    def struck(self: Engine) -> None:
        signal.raise_signal(signal.SIGINT)
        close(self)

    monkeypatch.setattr(Engine, "close", struck)
    future = Node(lambda: 1 // (not fails), name="divide")()
    with pytest.raises(KeyboardInterrupt):
        future.resolve(executor="inline")
    monkeypatch.undo()
    assert future.state == ("failed" if fails else "finished")
    assert {call._engine for call in future.graph.nodes} == {None}


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_ctrl_c_that_another_thread_gets_is_heard_while_the_run_waits(executor: Any, tmp_path: Path) -> None:
    """A signal that comes just before the thread that resolves waits does not wake it."""
    began, stop = tmp_path / "began", tmp_path / "stop"

    @Node
    def endless(began: str, stop: str) -> None:
        Path(began).touch()
        while not Path(stop).exists():
            pass

    def interrupt() -> None:
        while not began.exists():
            pass
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            endless(str(began), str(stop)).resolve(executor=executor, workers=1)
    finally:
        stop.touch()
        thread.join()


def test_ctrl_c_in_a_body_that_a_foreign_executor_leaves_to_the_driver() -> None:
    ran = []

    @Node
    def interrupted() -> Any:
        ran.append(threading.current_thread())
        if len(ran) == 1:
            signal.raise_signal(signal.SIGINT)
        return add(1, 2)

    future = interrupted()
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            future.resolve(executor=pool)
        assert future.resolve(executor=pool) == 3
    assert ran == [threading.main_thread()] * 2


# What the handler of another signal raises


class Alarm(Exception):
    """What a user's handler raises, wherever it happens to be called."""


@contextmanager
def alarm_raises() -> Any:
    def handle(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("method", [Engine._claim_into, Engine._close])
def test_an_exception_of_a_handler_leaves_every_call_free(method: Any) -> None:
    """Calls are claimed, and given back, whole or not at all."""
    for at in range(10_000):
        future, strike = some_calls(), Strike(at, signal.SIGALRM, frozenset((method.__code__,)))
        try:
            with alarm_raises(), strike:
                future.resolve(executor="inline")
        except Alarm:
            assert_free(future, 12)
        else:
            assert not strike.has_come
            break
    assert at > 20


def test_a_run_that_waits_for_a_call_hears_of_a_run_that_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    one run ─► shared ◄─ another, which takes over when the first is closed, whatever a handler raises meanwhile
    """
    began, waits, cut = threading.Event(), threading.Event(), []
    hear, watch = Engine._hear, Engine.watch

    def heard(self: Engine, call: Any) -> None:
        if not cut:
            cut.append(1)
            raise Alarm
        hear(self, call)

    def watched(self: Engine, *args: Any) -> None:
        watch(self, *args)
        waits.set()

    monkeypatch.setattr(Engine, "_hear", heard)
    monkeypatch.setattr(Engine, "watch", watched)

    @Node
    def shared() -> int:
        if not began.is_set():
            began.set()
            waits.wait()
            raise KeyboardInterrupt
        return 7

    future, values = shared(), []

    def other() -> None:
        began.wait()
        values.append(add(future, 1).resolve(executor="inline"))

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    with pytest.raises(Alarm):
        future.resolve(executor="inline")
    thread.join(30)
    assert values == [8]


# Forks


@Node
def who(parent: int, began: str, go: str) -> int:
    """The process that ran this; in the parent it waits until it may end."""
    if os.getpid() == parent:
        Path(began).touch()
        while not Path(go).exists():
            pass
    return os.getpid()


def in_child(do: Callable[[], bool]) -> bool:
    """Whether it is so in a forked child, which is given some time to find out."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            code = 0 if do() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refuses(result: Run) -> bool:
    """Whether a run says that there is no use in waiting for it here."""
    try:
        result.wait()
    except CancelledError as error:
        return "forked" in str(error)
    return False


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_a_forked_child_resolves_the_calls_of_a_run_that_its_parent_has(tmp_path: Path, executor: Any) -> None:
    """
    who ──► add    the parent runs them; so does the child, and each has its own value
    """
    began, go = tmp_path / "began", tmp_path / "go"
    first = who(os.getpid(), str(began), str(go))
    last = add(first, 1)
    result = run(last, executor="threads", workers=1, block=False)
    while not began.exists():
        pass
    held, taken, free = result._engine, threading.Event(), threading.Event()
    assert held is not None

    def hold() -> None:  # what other threads hold when it forks, nobody in the child gives back
        with claiming, held.lock:
            taken.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        # A worker has no parent here: it is another process than both.
        assert in_child(lambda: last.resolve(executor=executor, workers=1) == first.resolve() + 1 != os.getppid() + 1)
        assert in_child(lambda: not first.cancel() and first.state == "cancelled")
        assert in_child(lambda: refuses(result))
    finally:
        free.set()
        thread.join()
        go.touch()
    assert result.value == os.getpid() + 1
