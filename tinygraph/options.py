"""How a run is set up: an argument, else `with options(...)`, else the environment, else the default."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, Unpack

from tinygraph.errors import OptionError
from tinygraph.settings import Option, accepted, seconds, whole

if TYPE_CHECKING:
    from tinygraph.events import Event
    from tinygraph.store import Store

    class Submits(Protocol):
        """Any `concurrent.futures.Executor`, and what looks like one."""

        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            """Run a function elsewhere."""

    class Drives(Protocol):
        """An executor of our own: it drives a run to its end."""

        def drive(self, engine: Any, deadline: float | None, /) -> None:
            """Drive a run to its end."""


DEFAULT_MAX_DEPTH = 10_000


def usable_cores() -> int:
    """Return how many cores this process may use.

    >>> usable_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class RunOptions(TypedDict, total=False):
    """The options of a run, as :func:`tinygraph.run` explains them."""

    executor: str | Submits | Drives
    workers: int | None
    on_error: Literal["raise", "continue"]
    timeout: float | None
    progress: bool | Callable[[Event], Any]
    seed: int | None
    max_depth: int
    store: str | PathLike[str] | Store | None
    refresh: str | Iterable[str]


def _executor(name: str, value: Any) -> Any:
    known = (
        value in ("inline", "threads", "processes")
        if isinstance(value, str)
        else callable(getattr(value, "submit", None)) or callable(getattr(value, "drive", None))
    )
    if not known:
        raise OptionError(f"{name} must be 'inline', 'threads', 'processes' or an Executor, not {value!r}")
    return value


def _on_error(name: str, value: Any) -> str:
    if value not in ("raise", "continue"):
        raise OptionError(f"{name} must be 'raise' or 'continue', not {value!r}")
    return str(value)


def _progress(name: str, value: Any) -> Any:
    if not isinstance(value, bool) and not callable(value):
        raise OptionError(f"{name} must be True, False or a function of one event, not {value!r}")
    return value


def _store(name: str, value: Any) -> Any:
    if isinstance(value, str | PathLike) and os.fspath(value):
        return value
    if not callable(getattr(value, "enter", None)):
        raise OptionError(f"{name} must be a path or a Store, not {value!r}")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(one, str) for one in names):
        raise OptionError(f"{name} must be the name of a node, or a list of names, not {value!r}")
    return names


def _truth(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text.lower()]


# A line for each option: its check, its default, and how the text of an environment variable is read.
OPTIONS = {
    "executor": Option(_executor, "processes"),
    "workers": Option(partial(whole, least=1), None, int),
    "on_error": Option(_on_error, "raise"),
    "timeout": Option(partial(seconds, above=True), None, float),
    "progress": Option(_progress, False, _truth),
    "seed": Option(whole, None, int),
    "max_depth": Option(partial(whole, least=1), DEFAULT_MAX_DEPTH, int),
    "store": Option(_store),
    "refresh": Option(_names, (), lambda text: tuple(text.split(","))),
}
_DEFAULTS = {name: option.default for name, option in OPTIONS.items()}

_current: ContextVar[dict[str, Any] | None] = ContextVar("tinygraph.options", default=None)


@contextmanager
def options(**values: Unpack[RunOptions]) -> Iterator[None]:
    """Set the defaults of every run inside the `with` block.

    >>> from tinygraph import Node, options
    >>> with options(executor="inline"):
    ...     Node(abs)(-3).resolve()
    3

    Arguments are those of :func:`tinygraph.run`: ``executor``, ``workers``, ``on_error``, ``timeout`` (seconds),
    ``progress``, ``seed``, ``max_depth``, ``store``, ``refresh``. The environment variables ``TINYGRAPH_EXECUTOR``,
    ``TINYGRAPH_WORKERS`` and so on set the same defaults from outside.

    Raises :class:`OptionError` for an unknown name or a value that it cannot take.
    """
    outer = _current.get() or {}
    token = _current.set({**outer, **accepted(values, OPTIONS, "a run")})
    try:
        yield
    finally:
        _current.reset(token)


def effective(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a run: as given, else from `options()`, else from the environment, else the default."""
    found = {**_DEFAULTS, **_environment(), **(_current.get() or {}), **accepted(given, OPTIONS, "a run")}
    if found["workers"] is None:
        found["workers"] = usable_cores()
    return found


_PREFIX = "TINYGRAPH_"
_ELSEWHERE = ("TINYGRAPH_STORE_KEY",)  # read by those whom it concerns


def _environment() -> dict[str, Any]:
    found = {}
    for variable, text in os.environ.items():
        if not variable.startswith(_PREFIX) or variable in _ELSEWHERE:
            continue
        name = variable.removeprefix(_PREFIX).lower()
        option = OPTIONS.get(name)
        if option is None:
            known = ", ".join(f"{_PREFIX}{name.upper()}" for name in OPTIONS)
            raise OptionError(f"{variable} in the environment is no option of a run; there are {known}")
        try:
            found[name] = option.check(name, option.read(text))
        except (ValueError, KeyError, OptionError) as error:
            raise OptionError(f"{variable}={text!r} in the environment is no value for {name}") from error
    return found
