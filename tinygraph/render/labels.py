"""How names, times and counts are written in pictures: short, and free of what could break a format."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # they hold emoji and some scripts together
_UNSHOWN = ("Cc", "Cf", "Cs", "Co")  # controls, overrides of the writing direction, halves of characters


def shown(text: str, most: int = 32) -> str:
    r"""Return a text as one short line of characters that can be seen.

    >>> shown("load\n  data"), shown("a" * 1_000_000, most=9)
    ('load data', 'aaaaa…aaa')
    """
    if len(text) > 20 * most:  # a name may be of any length: look at its ends only
        text = text[: 10 * most] + "…" + text[-10 * most :]
    line = " ".join("".join(map(_visible, text)).split()) or "(no name)"
    if len(line) <= most:
        return line
    tail = (most - 1) * 2 // 5
    return f"{line[: most - 1 - tail]}…{line[len(line) - tail :]}"


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> [duration(s) for s in (0, 2e-7, 0.0000123, 0.012, 1.5, 61, 7325)]
    ['0 s', '200 ns', '12.3 µs', '12 ms', '1.5 s', '1 min 1 s', '2 h 2 min']
    """
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995e-6:
        return f"{seconds * 1e9:.3g} ns"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def count(number: int, thing: str) -> str:
    """Return a number with its noun.

    >>> count(1, "call"), count(1000, "call")
    ('1 call', '1,000 calls')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    if character.isascii():
        return character if character.isprintable() else "�"
    if character in _JOINERS:
        return character
    hidden = unicodedata.category(character) in _UNSHOWN or ord(character) & 0xFFFE == 0xFFFE
    return "�" if hidden else character
