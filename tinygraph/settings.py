"""Settings: what an option takes. A table has a line for each option; here is what such a line is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

from tinygraph.errors import OptionError

_BYTES = {"b": 1} | {
    f"{prefix}{unit}": size**power
    for power, prefix in enumerate("kmgtp", 1)
    for unit, size in (("b", 1000), ("ib", 1024))
}


class Option(NamedTuple):
    """One line of a table of options.

    ``check(name, value)`` returns the value as it is kept, or raises :class:`OptionError`. A ``default`` of None means
    that nothing is said, and None may then be given as well. ``read`` makes a value of a text.
    """

    check: Callable[[str, Any], Any]
    default: Any = None
    read: Callable[[str], Any] = str


def accepted(given: Mapping[str, Any], table: Mapping[str, Option], whose: str) -> dict[str, Any]:
    """Return what was given, each value through the check of its option; refuse names that are no option.

    >>> accepted({"size": 3}, {"size": Option(whole)}, "a box")
    {'size': 3}
    >>> accepted({"sise": 3}, {"size": Option(whole)}, "a box")
    Traceback (most recent call last):
    tinygraph.errors.OptionError: unknown option 'sise', did you mean 'size'? The options of a box: size
    """
    values = {}
    for name, value in given.items():
        option = table.get(name)
        if option is None:
            raise _unknown(name, table, whose)
        values[name] = value if value is None and option.default is None else option.check(name, value)
    return values


def _unknown(name: str, table: Mapping[str, Option], whose: str) -> OptionError:
    from difflib import get_close_matches  # costs more to import than all of this, and hardly ever is

    near = get_close_matches(name, table, n=1)
    meant = f", did you mean {near[0]!r}? The" if near else "; the"
    return OptionError(f"unknown option {name!r}{meant} options of {whose}: {', '.join(table)}")


def text(name: str, value: Any) -> str:
    """Accept a text.

    >>> text("name", 3)
    Traceback (most recent call last):
    tinygraph.errors.OptionError: name must be a text, not 3
    """
    if not isinstance(value, str):
        raise OptionError(f"{name} must be a text, not {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """Accept True and False, and nothing that only passes for one of them.

    >>> flag("check", "no")
    Traceback (most recent call last):
    tinygraph.errors.OptionError: check must be True or False, not 'no'
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, not {value!r}")
    return value


def whole(name: str, value: Any, least: int | None = None) -> int:
    """Accept a whole number, from ``least`` on.

    >>> whole("retries", -1, least=0)
    Traceback (most recent call last):
    tinygraph.errors.OptionError: retries must be a whole number from 0 on, not -1
    """
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        bound = "" if least is None else f" from {least} on"
        raise OptionError(f"{name} must be a whole number{bound}, not {value!r}")
    return value


def number(name: str, value: Any) -> float:
    """Accept any number that can be compared with others: NaN cannot.

    >>> number("priority", "high")
    Traceback (most recent call last):
    tinygraph.errors.OptionError: priority must be a number, not 'high'
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise OptionError(f"{name} must be a number, not {value!r}")
    return float(value)


def seconds(name: str, value: Any, *, above: bool = False) -> float:
    """Accept a finite number of seconds from 0 on, or ``above`` it.

    >>> seconds("cost", 0), seconds("timeout", 0, above=True)
    Traceback (most recent call last):
    tinygraph.errors.OptionError: timeout must be a number of seconds above 0, not 0
    """
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not 0 <= value < inf or (above and not value):
        raise OptionError(f"{name} must be a number of seconds {'above 0' if above else 'from 0 on'}, not {value!r}")
    return float(value)


def size(name: str, value: Any) -> int:
    """Accept a number of bytes, or a text with a unit; return the number.

    >>> size("memory", "500MB"), size("memory", "1.5 GiB"), size("memory", 4096)
    (500000000, 1610612736, 4096)
    >>> size("memory", "much")
    Traceback (most recent call last):
    tinygraph.errors.OptionError: memory must be a number of bytes above 0, or a text such as '500MB' or '2GiB', ...
    """
    found = value
    if isinstance(value, str):
        digits = value.rstrip("BbIiKkMmGgTtPp ")
        try:
            found = int(float(digits) * _BYTES[value[len(digits) :].strip().lower()])
        except (ValueError, KeyError, OverflowError):
            found = None
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise OptionError(
            f"{name} must be a number of bytes above 0, or a text such as '500MB' or '2GiB', not {value!r}"
        )
    return found
