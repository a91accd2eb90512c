"""Replay: run one call of an earlier run again, alone, in this process, with the arguments that it had."""

from __future__ import annotations

import marshal
import os
import sys
from copy import copy
from functools import partial
from typing import Any

from tinygraph.blame import text_of
from tinygraph.checks import parameters_of
from tinygraph.definition import Definition
from tinygraph.errors import DamagedEntry, StoreError
from tinygraph.future import MISSING, record
from tinygraph.options import effective
from tinygraph.seeds import sow
from tinygraph.store import Store
from tinygraph.store.history import RunRecord, TaskRecord
from tinygraph.store.keying import PLACE, SEED
from tinygraph.store.recall import Call
from tinygraph.store.shelf import Made, Shelf, key_of
from tinygraph.store.why import Argument


def replay(run: str | RunRecord, task: int | str | TaskRecord, *, store: Any = None, pdb: bool = False) -> Any:
    """Run a call of an earlier run again, and return what its body returns or raise what it raises.

    >>> import tempfile
    >>> from tinygraph import Node, Store, replay
    >>> store = Store(tempfile.mkdtemp())
    >>> half = Node(lambda x: 10 / x, name="half")
    >>> half(0).resolve(store=store, executor="inline")
    Traceback (most recent call last):
    ZeroDivisionError: division by zero...
    >>> failed = store.runs()[-1]
    >>> replay(failed, "half", store=store)
    Traceback (most recent call last):
    ZeroDivisionError: division by zero...

    ``run`` and ``task``: their ids or records; a task also goes by its name, which then is its last call. ``store``:
    where the run was kept (else that of `options()` or the environment). ``pdb=True`` starts the debugger at the first
    line of the body. A body that calls nodes has these run as well, inline.

    The function is the one that its module has now; one of a script that is not the one that runs is as it was then.

    Raises :class:`UnknownRun`, :class:`StoreError` for a task that the run does not have, and for arguments that were
    not kept: large ones that came from outside of the graph, and values of nodes that are not kept.
    """
    options = effective({} if store is None else {"store": store})
    if options["store"] is None:
        raise StoreError("replay needs a store: pass store=, or set it with options(store=...)")
    at = Store.at(options["store"])
    record = run if isinstance(run, RunRecord) else at.run(run)
    found = task if isinstance(task, TaskRecord) else _task(record, task)
    folder = os.path.dirname(record.program)
    if folder and folder not in sys.path:  # where the modules beside the program are found
        sys.path.append(folder)
    try:
        call = _call(at.shelf(), record, found)
    except DamagedEntry as error:
        if not isinstance(error.__cause__, ImportError | SyntaxError | AttributeError):
            raise
        raise StoreError(
            f"what {found.name!r} was called with cannot be read here: {text_of(error.__cause__)}; the run was of "
            f"{record.program!r}, start where its modules can be imported as they were"
        ) from error.__cause__
    return _perform(call, pdb)


def _task(record: RunRecord, task: int | str) -> TaskRecord:
    for one in reversed(record.tasks):
        if task in (one.id, one.name):
            return one
    names = ", ".join(dict.fromkeys(one.name for one in record.tasks)) or "none"
    raise StoreError(f"run {record.id} has no task {task!r}; its tasks: {names}")


def _call(shelf: Shelf, record: RunRecord, task: TaskRecord) -> Call:
    """Return a call as it was: kept as a whole where it failed, else put together from what its key was made of."""
    failed = shelf.thing(key_of("call", f"{record.id} {task.id}".encode()))
    if failed is not MISSING:
        given, named = shelf.filled((failed.args, failed.kwargs))
        return Call(failed.definition, given, named, failed.seed)
    entry = shelf.entry(bytes.fromhex(task.key)) if task.key else None
    if entry is None:
        raise StoreError(f"what {task.name!r} was called with in run {record.id} was not kept, or is not any more")
    found_definition = shelf.thing(key_of("node", entry.code))
    if found_definition is MISSING:
        raise StoreError(f"the node {task.name!r} could not be pickled, and so was not kept")
    definition: Definition = found_definition
    names = parameters_of(definition.function)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    seed = None
    for argument in [Argument(*one) for one in marshal.loads(entry.args)]:
        value = shelf.argument(argument)
        if value is MISSING or definition.key is not None:
            raise StoreError(f"argument {argument.parameter!r} of {task.name!r} was not kept, or is not any more")
        if argument.parameter == PLACE:
            continue
        if argument.parameter == SEED:
            seed = value
        elif argument.parameter.startswith("*") or argument.parameter in names[len(args) : len(args) + 1]:
            args.append(value)
        else:
            kwargs[argument.parameter.removeprefix("**")] = value
    return Call(definition, tuple(args), kwargs, seed)


def _perform(call: Call, pdb: bool) -> Any:
    definition, args, kwargs, seed = call
    if pdb:
        from pdb import Pdb

        definition = copy(definition)
        definition.function = partial(Pdb().runcall, definition.function)
    if seed is not None:
        sow(seed, definition.function)
    args = tuple([arg.cls(*arg.args, **arg.kwargs) if type(arg) is Made else arg for arg in args])
    # Nothing is found or kept: it is to run.
    return record(definition, args, kwargs or None, sys._getframe(1)).resolve(executor="inline", store=None)
