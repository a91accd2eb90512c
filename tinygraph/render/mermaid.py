"""Mermaid: the picture as text that GitHub, GitLab and notebooks draw by themselves."""

from __future__ import annotations

from tinygraph.render.labels import shown
from tinygraph.render.palette import ACCENT, ARROW, COLOURS, FRAME, INK, TINTS
from tinygraph.render.picture import Box, Picture

_SAFE = " .,:;!?+-=/×·…µ@'"


def mermaid_of(picture: Picture) -> str:
    """Return a picture as Mermaid text.

    >>> from tinygraph import Node
    >>> load, train = Node(lambda: 1, name="load"), Node(lambda x: x, name="train")
    >>> print(train(load()).graph.to_mermaid())
    flowchart TD
        %% train: 2 calls
        n0("load")
        n1("train")
        n0 ==> n1
        ...
    """
    lines = ["flowchart TD", f"    %% {_plain(shown(picture.title, 60))}: {_plain(picture.summary)}"]
    open_boxes: list[Box] = []
    for box in picture.boxes:
        while len(open_boxes) > box.level:
            open_boxes.pop()
            lines.append("    " * (len(open_boxes) + 1) + "end")
        indent = "    " * (len(open_boxes) + 1)
        if box.open:
            lines.append(f'{indent}subgraph {box.id}["{_label(box)}"]')
            open_boxes.append(box)
        else:
            lines.append(f"{indent}{box.id}{_shape(box)}")
    while open_boxes:
        open_boxes.pop()
        lines.append("    " * (len(open_boxes) + 1) + "end")
    for arrow in picture.arrows:
        line = "==>" if arrow.critical else "-->" if arrow.used else "-.->"
        number = f'|"×{arrow.count:,}"|' if arrow.told else ""
        lines.append(f"    {picture.boxes[arrow.source].id} {line}{number} {picture.boxes[arrow.target].id}")
    return "\n".join([*lines, *_styles(picture), ""])


def text(name: str) -> str:
    """Return a text with everything but letters, digits and plain punctuation as Mermaid's character codes.

    >>> text("<lambda>")
    '#60;lambda#62;'
    """
    return "".join(c if c.isalnum() or c in _SAFE else f"#{ord(c)};" for c in name)


def _plain(name: str) -> str:
    """Return what is harmless in a comment, which knows no codes."""
    return "".join(c if c.isalnum() or c in _SAFE else " " for c in name)


def _label(box: Box) -> str:
    name = text(box.label)
    if not box.details:
        return name
    return name + (" · " if box.open else "<br/>") + text(" · ".join(box.details))


def _shape(box: Box) -> str:
    return f'[["{_label(box)}"]]' if box.closed or box.calls > 1 else f'("{_label(box)}")'


def _styles(picture: Picture) -> list[str]:
    lines = []
    plain = [box for box in picture.boxes if not box.open]
    for state, colours in COLOURS.items():
        ids = [box.id for box in plain if box.state is state]
        if ids:
            lines.append(f"    classDef {state} fill:{colours.fill},stroke:{colours.line},color:{INK}")
            lines.append(f"    class {','.join(ids)} {state}")
    for level, tint in enumerate(TINTS):
        ids = [box.id for box in picture.boxes if box.open and box.level % len(TINTS) == level]
        if ids:
            lines.append(f"    classDef level{level} fill:{tint},stroke:{FRAME},color:{INK}")
            lines.append(f"    class {','.join(ids)} level{level}")
    critical = [box.id for box in picture.boxes if box.critical]
    if critical:
        lines.append(f"    classDef critical stroke:{ACCENT},stroke-width:2px")
        lines.append(f"    class {','.join(critical)} critical")
    unreturned = [box.id for box in picture.boxes if not box.used]
    if unreturned:
        lines.append("    classDef unreturned stroke-dasharray:5 4")
        lines.append(f"    class {','.join(unreturned)} unreturned")
    if picture.arrows:
        lines.append(f"    linkStyle default stroke:{ARROW}")
        steps = [str(index) for index, arrow in enumerate(picture.arrows) if arrow.critical]
        if steps:
            lines.append(f"    linkStyle {','.join(steps)} stroke:{ACCENT},stroke-width:3px")
    return lines
