"""draw: a graph as a file, in the format that the suffix of its path names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinygraph.errors import DrawError, OptionError
from tinygraph.graph import Graph
from tinygraph.render.calls import Listing, listing_of
from tinygraph.render.dot import dot_of
from tinygraph.render.engines import rendered
from tinygraph.render.html import html_of
from tinygraph.render.json import json_of
from tinygraph.render.mermaid import mermaid_of
from tinygraph.render.networkx import listing_from, to_networkx
from tinygraph.render.picture import FOLD, Picture, picture_of

_ENGINES = ("pydot", "nx")
_CHOICES, _ROOM = 12, 1500  # depths to choose from on a page, and boxes at the deepest
_FORMATS: dict[str, Callable[[Picture], str | bytes]] = {
    ".png": lambda picture: rendered(dot_of(picture), "png"),
    ".svg": lambda picture: rendered(dot_of(picture), "svg"),
    ".pdf": lambda picture: rendered(dot_of(picture), "pdf"),
    ".dot": lambda picture: str(dot_of(picture).to_string()),
    ".mmd": mermaid_of,
    ".html": lambda picture: html_of([picture]),
    ".json": json_of,
}


def draw(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    depth: int | None = None,
    fold: int | None = FOLD,
    times: bool = True,
    engine: str = "pydot",
) -> Path:
    """Draw a graph and return the path of the file: .png .svg .pdf .dot .mmd .html .json

    >>> from tinygraph import Node
    >>> import tempfile
    >>> draw(Node(abs)(-1).graph, tempfile.mkdtemp() + "/deep/graph.html").name
    'graph.html'

    Boxes in boxes are calls made by calls; arrows are data. Solid is what flows into the result of its caller, dashed
    what was called and not returned. Colour is the state, the accent the critical path. A call whose body has not run
    yet is closed: its inside is not known.

    Arguments:

    - ``depth``: how many levels of boxes are opened, 0 for none (default: as many as stay legible);
    - ``fold``: more equal siblings than this are one stack with a count; None folds nothing;
    - ``times``: False leaves out what was measured, so that the same graph is drawn the same after every run;
    - ``engine``: the library that the graph goes through, ``"pydot"`` or ``"nx"`` (networkx).

    Folders on the way are made. Only .png, .svg and .pdf need Graphviz: ``pip install 'pygraphviz>=2'`` brings
    it, else the program `dot` is used. Raises :class:`DrawError` for another suffix and where Graphviz is missing,
    :class:`OptionError` for an option that does not fit.
    """
    target = Path(path)
    draw_as = _FORMATS.get(target.suffix.lower())
    if draw_as is None:
        raise DrawError(
            f"cannot draw {target.suffix or target.name!r} files: the suffix must be one of {' '.join(_FORMATS)}"
        )
    if engine not in _ENGINES:
        raise OptionError(f"engine must be 'pydot' or 'nx', not {engine!r}")
    listing = listing_from(to_networkx(graph, times=times)) if engine == "nx" else listing_of(graph, times=times)
    picture = picture_of(listing, depth, fold)
    if target.suffix.lower() == ".html" and depth is None:
        drawn: str | bytes = html_of(*_depths(listing, picture, fold))
    else:
        drawn = draw_as(picture)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(drawn.encode() if isinstance(drawn, str) else drawn)
    return target


def _depths(listing: Listing, chosen: Picture, fold: int | None) -> tuple[list[Picture], int]:
    """Return the picture at every depth that a page has room for, and the place of the chosen one."""
    pictures = [
        chosen if depth == chosen.depth else picture_of(listing, depth, fold) for depth in range(chosen.depth + 1)
    ]
    for depth in range(chosen.depth + 1, min(chosen.levels, _CHOICES)):
        deeper = picture_of(listing, depth, fold)
        if len(deeper.boxes) > _ROOM:
            break
        pictures.append(deeper)
    return pictures, chosen.depth


def to_pydot(graph: Graph, *, depth: int | None = None, fold: int | None = FOLD, times: bool = True) -> Any:
    """Return a graph as a `pydot.Dot`; its attributes are documented in :mod:`tinygraph.render.dot`.

    >>> from tinygraph import Node
    >>> to_pydot(Node(abs)(-1).graph).get_node("n0")[0].get("class")
    '"waiting returned"'

    ``depth``, ``fold`` and ``times`` are those of :func:`draw`.
    """
    return dot_of(picture_of(listing_of(graph, times=times), depth, fold))


def to_mermaid(graph: Graph, *, depth: int | None = None, fold: int | None = FOLD, times: bool = True) -> str:
    """Return a graph as Mermaid text, which GitHub draws in a block that begins with three backticks and `mermaid`.

    >>> from tinygraph import Node
    >>> to_mermaid(Node(abs)(-1).graph).splitlines()[0]
    'flowchart TD'

    ``depth``, ``fold`` and ``times`` are those of :func:`draw`.
    """
    return mermaid_of(picture_of(listing_of(graph, times=times), depth, fold))
