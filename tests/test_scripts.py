"""Programs as users write them: without a guard, from a pipe, in a notebook, with closures; and Ctrl-C in the middle.

The names with a number are those of the rows in the table of hard cases.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import pytest

from tinygraph import Graph, Node, portable

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]

UNGUARDED = """
    import os, sys
    from tinygraph import Node

    print("top level", file=sys.stderr)
    with open("effects", "a") as file:
        file.write("once\\n")

    OFFSET = 20

    class Point:
        def __init__(self, x):
            self.x = x
        def __eq__(self, other):
            return type(other) is Point and other.x == self.x

    def helper(x):
        return Point(x.x + OFFSET)

    @Node
    def load(x):
        return Point(x)

    @Node
    def move(point):
        assert isinstance(point, Point)
        return helper(point)

    @Node
    def several(n):
        return [move(load(i)) for i in range(n)]

    @Node
    def where(points):
        return os.getpid()

    points = several(3)
    assert where(points).resolve(workers=2) != os.getpid()
    assert points.resolve() == [Point(20), Point(21), Point(22)]
    print("done")
"""


def ways(script: Path) -> dict[str, dict[str, object]]:
    return {
        "a script": {"args": [script.name]},
        "a module": {"args": ["-m", script.stem]},
        "a pipe": {"args": ["-"], "input": script.read_text()},
        "a line": {"args": ["-c", script.read_text()]},
        "an import": {"args": ["-c", f"import {script.stem}; import {script.stem} as again"]},
        "a run": {"args": ["-c", f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"]},
    }


@pytest.mark.parametrize("way", ["a script", "a module", "a pipe", "a line", "an import", "a run"])
def test_a_program_without_a_guard_runs_once_however_it_is_started(tmp_path: Path, way: str) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(textwrap.dedent(UNGUARDED))
    how = ways(script)[way]
    done = subprocess.run(
        [sys.executable, *how.pop("args")], cwd=tmp_path, capture_output=True, text=True, check=False, **how
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "top level\n", 0)
    assert (tmp_path / "effects").read_text() == "once\n"


def test_an_imported_script_can_be_used_afterwards_without_running_again(tmp_path: Path) -> None:
    (tmp_path / "unguarded.py").write_text(textwrap.dedent(UNGUARDED))
    use = "import unguarded as u; assert u.move(u.load(1)).resolve(workers=1) == u.Point(21)"
    subprocess.run([sys.executable, "-c", use], cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "effects").read_text() == "once\n"


def test_the_cells_of_a_notebook_work_and_a_cell_that_is_changed_counts(tmp_path: Path) -> None:
    """A notebook runs its cells in `__main__`, which has no file, one after the other."""
    cells = [
        "from tinygraph import Node",
        "factor = 2\n@Node\ndef scale(x):\n    return factor * x",
        "print(scale(21).resolve(workers=1))",
        "factor = 3",
        "print(scale(21).resolve(workers=1))",
        "@Node\ndef scale(x):\n    return factor * x + 1",
        "print(scale(21).resolve(workers=1))",
        "class Model:\n    def __init__(self, n): self.n = n",
        "print(Node(lambda m: m.n)(Model(7)).resolve(workers=1))",
        "print(isinstance(Node(lambda n: Model(n), name='make')(8).resolve(workers=1), Model))",
    ]
    kernel = tmp_path / "kernel.py"
    kernel.write_text(
        textwrap.dedent(
            f"""
            import sys, types
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            for number, cell in enumerate({cells!r}):
                exec(compile(cell, f"<cell {{number}}>", "exec"), main.__dict__)
            """
        )
    )
    done = subprocess.run([sys.executable, str(kernel)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("42\n63\n64\n7\nTrue\n", "")


def test_closures_lambdas_and_local_classes_work() -> None:
    offset = 10

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    def factory(n: int):
        def inner(x: int) -> int:
            return x + n + offset

        return inner

    @Node
    def make(x: int) -> Local:
        return Local(factory(x)(x))

    read = Node(lambda local: local.x, name="read")
    wrapped = Node(factory(100))
    made = make(1)
    value = Graph(read(made), wrapped(1), made).run(executor="processes", workers=2).value
    assert value[:2] == (12, 111)
    assert type(value[2]) is Local


# Modules that change, and such that nobody else could import


@pytest.fixture
def edited(tmp_path: Path, monkeypatch) -> Callable[[str], ModuleType]:
    """Write the file of a module, and have it imported, or reloaded if it was."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def edit(text: str, *, reload: bool = True) -> ModuleType:
        (tmp_path / "edited_by_its_user.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        if not reload:
            return sys.modules["edited_by_its_user"]
        known = sys.modules.get("edited_by_its_user")
        return importlib.import_module("edited_by_its_user") if known is None else importlib.reload(known)

    yield edit
    sys.modules.pop("edited_by_its_user", None)


EDITED = """
    from tinygraph import Node
    def helper():
        return {0!r}
    @Node
    def answer():
        return helper()
"""


def test_a_module_that_is_edited_and_reloaded_runs_as_it_is_now(edited) -> None:
    """Workers that had imported it before would run what it was."""

    def answers(module: ModuleType) -> tuple[object, ...]:
        helper = module.helper
        by_name, by_module = Node(lambda: helper()), Node(lambda: module.helper())
        return Graph(module.answer(), by_name(), by_module()).run(executor="processes", workers=2).value

    assert answers(edited(EDITED.format("before"))) == ("before",) * 3
    assert answers(edited(EDITED.format("between"))) == ("between",) * 3
    del sys.modules["edited_by_its_user"]
    assert answers(edited(EDITED.format("afterwards"))) == ("afterwards",) * 3


def test_workers_stay_as_long_as_no_module_changes(edited) -> None:
    module, worker = edited(EDITED.format("same")), Node(os.getpid)
    first = worker().resolve(executor="processes", workers=1)
    assert module.answer().resolve(executor="processes", workers=1) == "same"
    assert worker().resolve(executor="processes", workers=1) == first
    edited(EDITED.format("another"))
    assert worker().resolve(executor="processes", workers=1) != first


def test_a_module_that_is_edited_and_not_reloaded_is_told_of(edited, monkeypatch) -> None:
    monkeypatch.setattr(portable, "_LOOK", -1.0)  # whenever it is asked
    module = edited(EDITED.format("before"))
    assert module.answer().resolve(executor="processes", workers=1) == "before"
    edited(EDITED.format("afterwards"), reload=False)
    with pytest.warns(RuntimeWarning, match="file of module 'edited_by_its_user' has changed since it was imported"):
        module.answer().resolve(executor="processes", workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once for each edit
        module.answer().resolve(executor="processes", workers=1)


@pytest.mark.parametrize("way", ["made", "loaded", "named", "in a package"])
def test_nodes_of_a_module_that_others_cannot_import_travel_as_code(tmp_path: Path, monkeypatch, way: str) -> None:
    """
    a module that is in `sys.modules`, and that no finder of another process would find
    """
    name = "package_by_hand.made_by_hand" if way == "in a package" else "made_by_hand"
    path = tmp_path / "another_name.py"
    path.write_text(textwrap.dedent(EDITED.format(way)))
    spec = {
        "loaded": importlib.util.spec_from_file_location(name, path),
        "named": importlib.machinery.ModuleSpec(name, None),
    }.get(way)
    module = ModuleType(name) if spec is None else importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    if way == "in a package":
        monkeypatch.setitem(sys.modules, "package_by_hand", ModuleType("package_by_hand"))
    exec(path.read_text(), vars(module))
    helper = module.helper
    other = Node(lambda: helper())
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for executor in ("processes", pool):
            assert Graph(module.answer(), other()).run(executor=executor, workers=1).value == (way, way)


def test_looking_at_modules_costs_next_to_nothing(monkeypatch) -> None:
    """Counted, because each run pays for it: neither files nor modules that were met are looked at again."""
    portable.edition()
    monkeypatch.setattr(portable, "_stamp", None)
    monkeypatch.setattr(portable, "_is_own", None)
    monkeypatch.setattr(portable._modules, "looked", float("inf"))
    for _ in range(3):
        assert portable.edition() == portable.edition()


# Ctrl-C

INTERRUPTED = """
    import os, sys
    from pathlib import Path
    from tinygraph import Graph, Node

    executor, folder, behaviour = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

    @Node
    def quick():
        return "quick"

    @Node
    def endless(before, folder, behaviour):
        Path(folder, "pid").write_text(str(os.getpid()))
        Path(folder, "began").touch()
        while not Path(folder, "stop").exists():
            try:
                while not Path(folder, "stop").exists():
                    pass
            except KeyboardInterrupt:
                if behaviour == "raises":
                    raise
                Path(folder, "stop").touch()
        return "ended"

    first = quick()
    last = endless(first, str(folder), behaviour)
    try:
        Graph(first, last).run(executor=executor, workers=2)
    except KeyboardInterrupt:
        print("interrupted", first.state)
    (folder / "stop").touch()
    print(first.resolve(), quick().resolve(executor=executor, workers=2))
    if behaviour == "raises":
        print(last.resolve(executor=executor, workers=2))
    sys.stdout.flush()
    (folder / "after").touch()
    while not (folder / "seen").exists():
        pass
"""


@pytest.fixture
def start(tmp_path: Path):
    """Start the program; whatever becomes of the test, the program ends with it."""
    programs: list[subprocess.Popen] = []

    def start(text: str, *args: str) -> subprocess.Popen:
        script = tmp_path / "script.py"
        script.write_text(text)
        command = [sys.executable, str(script), *args]
        programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
@pytest.mark.parametrize("behaviour", ["raises", "swallows"])
def test_X11_ctrl_c_ends_the_run_and_keeps_what_is_finished(
    tmp_path: Path, start, executor: str, behaviour: str
) -> None:
    """
    quick ──► endless ◄── Ctrl-C, which it may swallow
    """
    program = start(textwrap.dedent(INTERRUPTED), executor, str(tmp_path), behaviour)
    await_file(program, tmp_path / "began")
    worker = int((tmp_path / "pid").read_text())
    program.send_signal(signal.SIGINT)
    await_file(program, tmp_path / "after")
    if executor == "processes":
        assert not Path(f"/proc/{worker}").exists()
    (tmp_path / "seen").touch()
    out, err = program.communicate()
    again = ["ended"] if behaviour == "raises" else []
    assert out.splitlines() == ["interrupted finished", "quick quick", *again]
    assert (err, program.returncode) == ("", 0)


def test_X11_ctrl_c_that_nobody_catches_ends_the_program_and_its_workers(tmp_path: Path, start) -> None:
    uncaught = textwrap.dedent(INTERRUPTED).replace(
        "except KeyboardInterrupt:\n    print", "except OSError:\n    print"
    )
    assert uncaught != textwrap.dedent(INTERRUPTED)
    program = start(uncaught, "processes", str(tmp_path), "raises")
    await_file(program, tmp_path / "began")
    worker = int((tmp_path / "pid").read_text())
    program.send_signal(signal.SIGINT)
    _, err = program.communicate()
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert program.returncode == -signal.SIGINT
    assert not Path(f"/proc/{worker}").exists()


def test_a_handler_of_the_users_own_stays_in_place() -> None:
    """Who handles Ctrl-C himself goes on doing so, also while a run is driven."""
    seen: list[object] = []

    def mine(*_: object) -> None:
        seen.append("mine")

    before = signal.signal(signal.SIGINT, mine)
    try:
        Node(lambda: os.kill(os.getpid(), signal.SIGINT), name="interrupt")().resolve(executor="inline")
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["mine"]


def test_the_handler_of_a_run_is_gone_after_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="seven"):
        Node(int)("seven").resolve(executor="inline")
    assert signal.getsignal(signal.SIGINT) is before


def await_file(program: subprocess.Popen, path: Path) -> None:
    """Wait for something that a program does, as long as it lives."""
    while not path.exists():
        assert program.poll() is None, program.communicate()
