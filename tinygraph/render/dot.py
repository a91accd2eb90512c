"""DOT: the picture as a `pydot.Dot`.

Ids are generated (``n0``, ``n1``, ... and ``cluster_n0`` for a box that has boxes in it), names stand in labels only,
always quoted or escaped. What a user of pydot finds, besides colours:

- on the graph: ``label`` (title and legend), ``compound=true``;
- on nodes and clusters: ``label`` and ``class``, which has the state (``finished``, ...) and what holds of
  ``critical``, ``returned``, ``unreturned``, ``closed``, ``stack``;
- on edges: ``label`` where it stands for several (``×3``), ``class`` (``critical``, ``unreturned``), and ``ltail`` or
  ``lhead`` where it begins or ends at a cluster.

Solid is what flows into the result of its caller, dashed what does not.
"""

from __future__ import annotations

from html import escape
from typing import Any

from tinygraph.future import State
from tinygraph.render.labels import shown
from tinygraph.render.legend import legend_of
from tinygraph.render.palette import ACCENT, ARROW, COLOURS, FONT, FRAME, INK, MUTED, PAPER, TINTS
from tinygraph.render.picture import Arrow, Box, Picture, inside

_BIG, _PLAIN, _SMALL = 16, 12, 9
_ALARMING = (State.FAILED, State.CANCELLED)  # no accent covers them


def dot_of(picture: Picture) -> Any:
    """Return a picture as a `pydot.Dot`.

    >>> from tinygraph import Node
    >>> dot = Node(abs, name="size")(-1).graph.to_pydot()
    >>> [node.get("label") for node in dot.get_nodes() if node.get("label")]
    ['"size"']
    """
    import pydot

    dot = pydot.Dot("tinygraph", graph_type="digraph", **_graph_attributes(picture))
    dot.set_node_defaults(
        shape="box", style=quoted("rounded,filled"), fontname=quoted(FONT), fontsize=str(_PLAIN),
        fontcolor=quoted(INK), margin=quoted("0.16,0.07"), height="0.42", width="0.6",
    )  # fmt: skip
    dot.set_edge_defaults(
        color=quoted(ARROW), fontname=quoted(FONT), fontsize=str(_SMALL), fontcolor=quoted(MUTED), arrowsize="0.65",
        penwidth="1.1",
    )  # fmt: skip
    around: dict[int | None, Any] = {None: dot}
    for index, box in enumerate(picture.boxes):
        if box.open:
            around[index] = pydot.Cluster(box.id, **_cluster_attributes(box))
        else:
            around[box.caller].add_node(pydot.Node(box.id, **_node_attributes(box)))
    for index in reversed(range(len(picture.boxes))):  # a subgraph is copied when it is added: innermost first
        if index in around:
            around[picture.boxes[index].caller].add_subgraph(around[index])
    ends = _ends(picture)
    for arrow in picture.arrows:
        tail, head = ends[arrow.source][1], ends[arrow.target][0]
        dot.add_edge(pydot.Edge(picture.boxes[tail].id, picture.boxes[head].id, **_edge_attributes(picture, arrow)))
    return dot


def quoted(text: str) -> str:
    r"""Return a text as a quoted DOT string that shows just that text.

    >>> print(quoted('a "b" \\N &lt;'))
    "a \"b\" \\N &amp;lt;"
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") + '"'


def _graph_attributes(picture: Picture) -> dict[str, Any]:
    return {
        "label": _header(picture),
        "labelloc": "t",
        "labeljust": "l",
        "compound": "true",
        "fontname": quoted(FONT),
        "fontcolor": quoted(INK),
        "bgcolor": quoted(PAPER),
        "pad": "0.15",
        "nodesep": "0.28",
        "ranksep": "0.42",
    }


def _node_attributes(box: Box) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "label": _label(box),
        "fillcolor": quoted(COLOURS[box.state].fill),
        "color": quoted(_outline(box)),
        "penwidth": _width(box),
        "class": quoted(_class(box)),
    }
    if not box.used:
        attributes["style"] = quoted("rounded,filled,dashed")
    if box.closed or box.calls > 1:
        attributes["peripheries"] = "3" if box.calls > 1 else "2"
    return attributes


def _cluster_attributes(box: Box) -> dict[str, Any]:
    return {
        "label": _label(box),
        "style": quoted("rounded,filled" if box.used else "rounded,filled,dashed"),
        "fillcolor": quoted(TINTS[box.level % len(TINTS)]),
        "color": quoted(COLOURS[box.state].line if box.state in _ALARMING else FRAME),
        "penwidth": "1.1",
        "labeljust": "l",
        "fontname": quoted(FONT),
        "fontsize": str(_PLAIN),
        "fontcolor": quoted(INK),
        "margin": "12",
        "class": quoted(_class(box)),
    }


def _edge_attributes(picture: Picture, arrow: Arrow) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if arrow.told:
        attributes["label"] = quoted(f" ×{arrow.count:,}")
    if not arrow.used:
        attributes["style"] = "dashed"
    if arrow.critical:
        attributes |= {"color": quoted(ACCENT), "penwidth": "2.2"}
    marks = [mark for mark, holds in (("critical", arrow.critical), ("unreturned", not arrow.used)) if holds]
    if marks:
        attributes["class"] = quoted(" ".join(marks))
    for side, place in (("ltail", arrow.source), ("lhead", arrow.target)):
        if picture.boxes[place].open:
            attributes[side] = f"cluster_{picture.boxes[place].id}"
    return attributes


def _label(box: Box) -> str:
    """Return the name, and beneath it (beside it for a cluster) what else is said, smaller and paler."""
    if not box.details:
        return quoted(box.label)
    between = "&#160;&#160;" if box.open else '<BR/><FONT POINT-SIZE="3"> </FONT><BR/>'
    return f"<{_rich(box.label)}{between}{_small(' · '.join(box.details))}>"


def _rich(text: str) -> str:
    """Return a text for an HTML-like label, where Graphviz still takes a backslash before some letters for a code."""
    return escape(text).replace("\\", f'<FONT COLOR="{INK}">\\</FONT>')


def _small(text: str) -> str:
    return f'<FONT POINT-SIZE="{_SMALL}" COLOR="{MUTED}">{escape(text)}</FONT>'


def _outline(box: Box) -> str:
    return ACCENT if box.critical and box.state not in _ALARMING else COLOURS[box.state].line


def _width(box: Box) -> str:
    if not box.critical:
        return "1.1"
    return "1.4" if box.calls > 1 else "1.8"  # three lines around a stack are bold by themselves


def _class(box: Box) -> str:
    marks = {
        "critical": box.critical,
        "returned": box.returned,
        "unreturned": not box.used,
        "closed": box.closed,
        "stack": box.calls > 1,
    }
    return " ".join([str(box.state), *(mark for mark, holds in marks.items() if holds)])


def _ends(picture: Picture) -> dict[int, tuple[int, int]]:
    """Return for each box the node that arrows lead to, and the one they come from: an arrow cannot hold a cluster."""
    boxes = picture.boxes
    fed = {arrow.target for arrow in picture.arrows}
    within = inside(picture)
    ends: dict[int, tuple[int, int]] = {}
    for index in reversed(range(len(boxes))):
        inner = within.get(index, [])
        if not inner:
            ends[index] = index, index
            continue
        entry = next((place for place in inner if place not in fed), inner[0])
        leaving = [place for place in inner if boxes[place].returned] or inner
        ends[index] = ends[entry][0], ends[leaving[-1]][1]
    return ends


def _header(picture: Picture) -> str:
    """Return title, summary and legend as lines of text: cells of a table would be spread over its width."""
    title = f'<FONT POINT-SIZE="{_BIG}"><B>{_rich(shown(picture.title, 60))}</B></FONT>'
    legend = "&#160;&#160;&#160; ".join(
        f'<FONT POINT-SIZE="{_PLAIN}" COLOR="{entry.colour}">{entry.sign}</FONT> {_small(entry.text)}'
        for entry in legend_of(picture)
    )
    lines = "".join(
        f'<TR><TD ALIGN="LEFT">{line}</TD></TR>'
        for line in (title, _small(picture.summary), legend, '<FONT POINT-SIZE="3"> </FONT>')
    )
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2">{lines}</TABLE>>'
