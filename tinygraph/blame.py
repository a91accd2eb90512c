"""Who failed, where it was called, and what to do: the words that an exception carries to its user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygraph.capture import Nested
from tinygraph.errors import CycleError, DepthError
from tinygraph.future import Future, fetched

_LONGEST_PATH = 8


def blame(call: Future[Any], error: BaseException, attempts: int) -> None:
    """Add a note to an exception: which node raised it, called where, through which callers, and how often."""
    where = " -> ".join(_route(call))
    tried = f", attempt {attempts} of {call.definition.retries + 1}" if call.definition.retries else ""
    try:
        if getattr(error, "__tinygraph__", False) or isinstance(error, DepthError):
            return  # it passed through here before, as the same object, or it says all this itself
        error.add_note(f"in node {where}, called at {call.line}{tried}{_arguments(call)}")
        error.__tinygraph__ = True  # type: ignore[attr-defined]
    except BaseException:  # an exception that has no attributes to give or take still arrives, only without the note
        return


def text_of(error: BaseException) -> str:
    """Return an exception in one line, even one that cannot print itself."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # whatever a user's __str__ raises
        return type(error).__name__


def longer_path(path: list[str], name: str) -> list[str]:
    """Return the path with one more name; the middle of a long one is left out."""
    if len(path) < _LONGEST_PATH:
        return [*path, name]
    return [*path[:3], "...", *path[-(_LONGEST_PATH - 5) :], name]


def too_deep(call: Future[Any], limit: int) -> DepthError:
    """Return the error for calls nested deeper than the limit, naming the calls that repeat."""
    chain = [call, *_callers(call, 12)]
    names: list[str] = []
    for caller in chain:
        if caller.name in names:
            break
        names.append(caller.name)
    loop = " -> ".join([*reversed(names), names[-1]])
    return DepthError(
        f"calls are nested deeper than {limit:,}: {loop}, last called at {call.line}; "
        f"give the recursion an end, or pass max_depth= if it has one"
    )


def unfinished_cycle(calls: Iterable[Future[Any]]) -> CycleError:
    """Return the error for calls that wait for each other, naming one loop and its lines."""
    unfinished = {call: None for call in calls if call.state not in ("finished", "failed", "skipped", "cancelled")}
    at: Future[Any] | None = next(iter(unfinished), None)
    seen: dict[Future[Any], int] = {}
    walked: list[Future[Any]] = []
    while at is not None and at not in seen:
        seen[at] = len(walked)
        walked.append(at)
        needs = (*at.dependencies, *(at.expansion.calls if at.expansion is not None else ()))
        at = next((need for need in needs if need in unfinished), None)
    loop = walked[seen[at] :] if at is not None else walked
    names = [call.name for call in reversed(loop)]
    lines = ", ".join(f"{call.name!r} at {call.line}" for call in reversed(loop[:5]))
    cycle = [*names, *names[:1]]
    return CycleError(f"calls wait for each other: {' -> '.join(cycle)} (called: {lines})", cycle)


def _callers(call: Future[Any], at_most: int | None = None) -> list[Future[Any]]:
    found: list[Future[Any]] = []
    caller = call.caller
    while caller is not None and len(found) != at_most:
        found.append(caller)
        caller = caller.caller
    return found


def _route(call: Future[Any]) -> list[str]:
    """Return the names from the outermost caller to the call; repeats are counted, the middle of many is left out."""
    names: list[str] = []
    repeats = 1
    for caller in [*reversed(_callers(call)), call]:
        if names and names[-1].partition(" ×")[0] == caller.name:
            repeats += 1
            names[-1] = f"{caller.name} ×{repeats:,}"
        else:
            repeats = 1
            names.append(caller.name)
    return names if len(names) <= _LONGEST_PATH else [*names[:3], "...", *names[-(_LONGEST_PATH - 4) :]]


def _arguments(call: Future[Any]) -> str:
    parts = [_short(arg) for arg in call.args or ()]
    parts += [f"{name}={_short(arg)}" for name, arg in (call.kwargs or {}).items()]
    return f", with ({', '.join(parts)})" if parts else ""


def _short(arg: Any) -> str:
    import reprlib

    try:
        if isinstance(arg, Future):
            arg = fetched(arg.value)
        elif isinstance(arg, Nested):
            arg = arg.replace(Future, lambda future: fetched(future.value))
        return " ".join(reprlib.repr(arg).split("\n"))
    except BaseException:  # an argument that cannot print itself
        return f"<{type(arg).__name__}>"
