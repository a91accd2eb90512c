"""How a run is set up: an argument, else `with options(...)`, else the environment, else the default."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tinygraph.errors import OptionError

DEFAULT_MAX_DEPTH = 10_000


def usable_cores() -> int:
    """Return how many cores this process may use.

    >>> usable_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise OptionError(f"{name} must be a positive number, not {value!r}")
    return value


def _workers(value: Any) -> int | None:
    return None if value is None else _positive("workers", value)


def _max_depth(value: Any) -> int:
    return _positive("max_depth", value)


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise OptionError(f"timeout must be a number of seconds above 0, not {value!r}")
    return float(value)


def _on_error(value: Any) -> str:
    if value not in ("raise", "continue"):
        raise OptionError(f"on_error must be 'raise' or 'continue', not {value!r}")
    return str(value)


def _seed(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise OptionError(f"seed must be a whole number, not {value!r}")
    return value


def _executor(value: Any) -> Any:
    if isinstance(value, str):
        if value not in ("inline", "threads", "processes"):
            raise OptionError(f"executor must be 'inline', 'threads', 'processes' or an Executor, not {value!r}")
    elif not (callable(getattr(value, "submit", None)) or callable(getattr(value, "drive", None))):
        raise OptionError(f"executor must be 'inline', 'threads', 'processes' or an Executor, not {value!r}")
    return value


def _progress(value: Any) -> Any:
    if not isinstance(value, bool) and not callable(value):
        raise OptionError(f"progress must be True, False or a function of one event, not {value!r}")
    return value


# One line an option: its check, its default, and how the text of an environment variable is read.
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "executor": _executor,
    "workers": _workers,
    "on_error": _on_error,
    "timeout": _seconds,
    "progress": _progress,
    "seed": _seed,
    "max_depth": _max_depth,
}
_DEFAULTS: dict[str, Any] = {
    "executor": "processes",
    "workers": None,
    "on_error": "raise",
    "timeout": None,
    "progress": False,
    "seed": None,
    "max_depth": DEFAULT_MAX_DEPTH,
}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "executor": str,
    "workers": int,
    "on_error": str,
    "timeout": float,
    "progress": lambda text: {"1": True, "true": True, "0": False, "false": False}[text.lower()],
    "seed": int,
    "max_depth": int,
}

_current: ContextVar[dict[str, Any] | None] = ContextVar("tinygraph.options", default=None)


@contextmanager
def options(**values: Any) -> Iterator[None]:
    """Set the defaults of every run inside the `with` block.

    >>> from tinygraph import Node, options
    >>> with options(executor="inline"):
    ...     Node(abs)(-3).resolve()
    3

    Arguments are those of :func:`tinygraph.run`: ``executor``, ``workers``, ``on_error``, ``timeout`` (seconds),
    ``progress``, ``seed``, ``max_depth``. The environment variables ``TINYGRAPH_EXECUTOR``, ``TINYGRAPH_WORKERS`` and
    so on set the same defaults from outside.

    Raises :class:`OptionError` for an unknown name or a value that it cannot take.
    """
    outer = _current.get() or {}
    token = _current.set({**outer, **checked(values)})
    try:
        yield
    finally:
        _current.reset(token)


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, each through the check of its option; refuse names that are no option."""
    for name in values:
        if name not in _CHECKS:
            raise OptionError(f"unknown option {name!r}; the options are {', '.join(_CHECKS)}")
    return {name: _CHECKS[name](value) for name, value in values.items()}


def effective(given: dict[str, Any]) -> dict[str, Any]:
    """Return every option of a run: as given, else from `options()`, else from the environment, else the default."""
    found = {**_DEFAULTS, **_environment(), **(_current.get() or {}), **checked(given)}
    if found["workers"] is None:
        found["workers"] = usable_cores()
    return found


def _environment() -> dict[str, Any]:
    found = {}
    for name, read in _FROM_TEXT.items():
        variable = f"TINYGRAPH_{name.upper()}"
        text = os.environ.get(variable)
        if text is None:
            continue
        try:
            found[name] = _CHECKS[name](read(text))
        except (ValueError, KeyError, OptionError) as error:
            raise OptionError(f"{variable}={text!r} in the environment is no value for {name}") from error
    return found
