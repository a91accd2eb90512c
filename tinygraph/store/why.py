"""Why a call has to run: what is different from the calls of its node that ran before, in words."""

from __future__ import annotations

import marshal
import reprlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tinygraph.keys.fingerprint import sounds_secret

HIT = "hit"
NEVER = "never ran"
EVICTED = "evicted"
REFRESHED = "refresh asked for"
_COMPARED = 20  # calls that a new one is compared with, if none had the same arguments
_ATOMS = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis), tuple, list)


class Argument(NamedTuple):
    """One argument of a call: its parameter, the token of its value, and where that value can be found.

    ``source`` is the name of the call that it came from, or nothing; ``key`` that under which the value is kept, or
    nothing.
    """

    parameter: str
    token: bytes
    source: str = ""
    key: bytes = b""


class Seen(NamedTuple):
    """A call of the same node that ran before: the digest of its code, and its arguments."""

    code: bytes
    args: Sequence[Argument] | None  # None where they are not known any more


class Before:
    """The calls of one node that ran before, the latest first: which of them is most like a new one?"""

    def __init__(self, seen: Sequence[Seen]) -> None:
        self._latest = seen[:_COMPARED]
        self._by_arguments = {_tokens(one.args): one for one in reversed(seen) if one.args is not None}

    def __bool__(self) -> bool:
        return bool(self._latest)

    def nearest(self, code: bytes, args: Sequence[Argument]) -> Seen:
        """Return the call with the same arguments, else the one with the fewest others."""
        found = self._by_arguments.get(_tokens(args))
        return found or min(self._latest, key=lambda seen: (_distance(args, seen.args), seen.code != code))


def reason(
    code: bytes,
    args: Sequence[Argument],
    before: Before,
    parts_of: Callable[[bytes], dict[str, str]],
) -> str:
    """Return why a call has to run, compared with the call before that is most like it.

    >>> old = Seen(b"c", [Argument("rate", marshal.dumps(0.1, 2))])
    >>> reason(b"c", [Argument("rate", marshal.dumps(0.2, 2))], Before([old]), lambda code: {})
    'argument rate: 0.1 -> 0.2'
    >>> parts = {b"c": {"helper `clean`": "5f0c3a91"}, b"d": {"helper `clean`": "e81b9c07"}}
    >>> reason(b"d", old.args, Before([old]), parts.__getitem__)
    'helper `clean` changed'

    ``parts_of(code)`` returns what a code digest was made of, by its name.
    """
    if not before:
        return NEVER
    nearest = before.nearest(code, args)
    found = []
    if nearest.code != code:
        found += _changed_code(parts_of(nearest.code), parts_of(code))
    if nearest.args is not None:
        found += _changed_args(nearest.args, args)
    elif not found:
        found = ["its arguments changed"]
    if not found:  # the same call, whose entry is gone, or damaged
        return EVICTED
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def shown(token: bytes) -> str:
    """Return what a person can read in a token: the value where it is small and plain, else the start of its digest.

    >>> shown(marshal.dumps("abc", 2)), shown(marshal.dumps({"set": [3]}, 2)), shown(b"#" + bytes.fromhex("00ff" * 10))
    ("'abc'", 'set [3]', '00ff00ff00')
    """
    if token[:1] != b"#":
        value = marshal.loads(token)
        if type(value) is int or type(value) is float:  # most are, and quickly said
            return repr(value)
        if isinstance(value, _ATOMS):
            return reprlib.repr(value)
        [(tag, payload)] = value.items()
        return f"{tag} {payload.hex()[:10] if isinstance(payload, bytes) else reprlib.repr(payload)}"
    return (token[1:] if token[:1] == b"#" else token).hex()[:10]


def _tokens(args: Sequence[Argument]) -> tuple[bytes, ...]:
    return tuple([argument.token for argument in args])


def told(argument: Argument) -> str:
    """Return what a history tells of an argument: nothing, if its name sounds like a secret.

    >>> told(Argument("rate", marshal.dumps(0.1, 2))), told(Argument("password", marshal.dumps("hunter2", 2)))
    ('0.1', '***')
    """
    return "***" if sounds_secret(argument.parameter) else shown(argument.token)


def _distance(these: Sequence[Argument], those: Sequence[Argument] | None) -> int:
    if those is None:
        return 0
    different = sum(a.token != b.token for a, b in zip(these, those, strict=False))
    return different + abs(len(these) - len(those))


def _changed_code(old: dict[str, str], new: dict[str, str]) -> list[str]:
    if not old or not new:
        return ["its code changed"]
    found = []
    for label, what in new.items():
        if label not in old:
            found.append(f"{label} is new")
        elif old[label] != what:
            found.append(f"{label} changed" if _is_digest(what) else f"{label}: {old[label]} -> {what}")
    found += [f"{label} is gone" for label in old if label not in new]
    return found or ["its code changed"]


def _changed_args(old: Sequence[Argument], new: Sequence[Argument]) -> list[str]:
    found = []
    before = {argument.parameter: argument for argument in old}
    for argument in new:
        was = before.pop(argument.parameter, None)
        if was is None:
            found.append(f"argument {argument.parameter} is new")
        elif was.token == argument.token:
            continue
        elif argument.source:
            found.append(f"argument {argument.parameter} changed: what {argument.source!r} returned")
        elif b"#" in (was.token[:1], argument.token[:1]) or sounds_secret(argument.parameter):
            found.append(f"argument {argument.parameter} changed")
        else:
            found.append(f"argument {argument.parameter}: {shown(was.token)} -> {shown(argument.token)}")
    return found + [f"argument {name} is gone" for name in before]


def _is_digest(text: str) -> bool:
    return len(text) >= 8 and all(letter in "0123456789abcdef" for letter in text)
