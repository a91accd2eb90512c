"""PNG, SVG and PDF: from DOT by pygraphviz, which carries Graphviz in its wheel, else by the program `dot`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from tinygraph.errors import DrawError

_SHARP = 192  # dots per inch: twice what a screen was, so that text is crisp when it is scaled
_one_at_a_time = Lock()  # Graphviz keeps global state
_NOISE = (b"Fontconfig ", b"Warning: graph has ")


def rendered(dot: Any, format: str) -> bytes:
    """Return a `pydot.Dot` as the bytes of a picture; `format` is png, svg or pdf.

    Raises :class:`DrawError` where no engine is installed, or where it fails.
    """
    try:
        import pygraphviz
    except ImportError:
        return _by_program(dot, format)
    with _one_at_a_time, _quiet():
        return _by_library(pygraphviz, dot, format)


def _by_library(pygraphviz: Any, dot: Any, format: str) -> bytes:
    try:
        graph = pygraphviz.AGraph(string=dot.to_string())
        try:
            if format == "png":
                graph.graph_attr["dpi"] = str(_SHARP)
            drawn: bytes = graph.draw(format=format, prog="dot")
        finally:
            graph.close()
    except (ValueError, OSError) as error:
        raise DrawError(f"Graphviz could not draw this graph: {error}; an .html file needs no Graphviz") from error
    return drawn


def _by_program(dot: Any, format: str) -> bytes:
    import shutil

    if shutil.which("dot") is None:
        raise DrawError(
            f"a .{format} file is drawn by Graphviz, which is not here: pip install 'pygraphviz>=2', or install "
            f"Graphviz so that its program `dot` is on the PATH (apt install graphviz, brew install graphviz); "
            f".html, .mmd, .dot and .json files need neither"
        )
    if format == "png":
        dot.set("dpi", str(_SHARP))
    try:
        drawn: bytes = dot.create(format=format, encoding="utf-8")
    except (AssertionError, OSError) as error:
        raise DrawError(f"the program `dot` could not draw this graph: {error}") from error
    return drawn


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from standard error what the font library says there, once a process, about files of others."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (AttributeError, OSError, ValueError):  # no standard error
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            rest = b"".join(line for line in said if not line.startswith(_NOISE))
            if rest:
                os.write(2, rest)
