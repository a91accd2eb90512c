"""HTML: the picture as one page that needs nothing else, no network and no script. Drawn here, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tinygraph.future import State
from tinygraph.render.labels import shown
from tinygraph.render.layout import DETAIL_SIZE, NAME_SIZE, STACKED, Layout, Point, Rectangle, layout_of, text_width
from tinygraph.render.legend import legend_of
from tinygraph.render.palette import ACCENT, ARROW, COLOURS, FONT, FRAME, INK, MUTED, PAPER, TINTS
from tinygraph.render.picture import Arrow, Box, Picture

_HOVER = 300  # characters of a name
_DASHES = ' stroke-dasharray="5 4"'
_ALARMING = (State.FAILED, State.CANCELLED)  # no accent covers them


def html_of(pictures: Sequence[Picture], chosen: int = -1) -> str:
    """Return pictures of one graph at several depths as a page, on which the reader chooses the depth.

    >>> from tinygraph import Node
    >>> from tinygraph.render.calls import listing_of
    >>> from tinygraph.render.picture import picture_of
    >>> page = html_of([picture_of(listing_of(Node(abs, name="<b>")(1).graph))])
    >>> "<b>" in page, "&lt;b&gt;" in page
    (False, True)
    """
    first = pictures[chosen]
    chosen %= len(pictures)
    title = escape(shown(first.title, 60))
    choices = "".join(
        f'<input type="radio" name="depth" id="d{i}"{" checked" if i == chosen else ""}>'
        f'<label for="d{i}">{picture.depth}</label>'
        for i, picture in enumerate(pictures)
    )
    bar = f"<span>depth</span>{choices}" if len(pictures) > 1 else ""
    shows = "".join(f"#d{i}:checked~.p{i}{{display:block}}" for i in range(len(pictures)))
    sheets = "".join(_sheet(picture, i, len(pictures) == 1) for i, picture in enumerate(pictures))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Nothing is fetched and nothing runs, whatever a name says.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}{shows}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n{bar}\n{sheets}</body>\n</html>\n"
    )


def _sheet(picture: Picture, number: int, alone: bool) -> str:
    legend = "".join(
        f'<li><b style="color:{entry.colour}">{entry.sign}</b> {escape(entry.text)}</li>'
        for entry in legend_of(picture)
    )
    return (
        f'<div class="p{number}{" alone" if alone else ""}">\n<p>{escape(picture.summary)}</p>\n<ul>{legend}</ul>\n'
        f"{_svg(picture, layout_of(picture), number)}</div>\n"
    )


def _svg(picture: Picture, layout: Layout, number: int) -> str:
    heads = "".join(
        f'<marker id="h{number}{name}" viewBox="0 0 10 10" refX="8.5" refY="5" markerWidth="9" markerHeight="9" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 1L9 5L0 9z" fill="{colour}"/></marker>'
        for name, colour in (("a", ARROW), ("c", ACCENT))
    )
    frames = [_box(box, layout.rectangles[i]) for i, box in enumerate(picture.boxes) if box.open]
    plain = [_box(box, layout.rectangles[i]) for i, box in enumerate(picture.boxes) if not box.open]
    order = sorted(range(len(picture.arrows)), key=lambda i: picture.arrows[i].critical)  # the critical path on top
    arrows = [_arrow(picture.arrows[i], layout.routes[i], number) for i in order]
    width, height = round(layout.width), round(layout.height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img"><defs>{heads}</defs>\n' + "\n".join([*frames, *arrows, *plain]) + "\n</svg>\n"
    )


def _box(box: Box, at: Rectangle) -> str:
    state = COLOURS[box.state]
    alarming = box.state in _ALARMING
    fill = TINTS[box.level % len(TINTS)] if box.open else state.fill
    if box.open:
        line = state.line if alarming else FRAME
    else:
        line = ACCENT if box.critical and not alarming else state.line
    paint = f'fill="{fill}" stroke="{line}"{"" if box.used else _DASHES}'
    if box.critical and not box.open:
        paint += ' stroke-width="2"'
    shifts = (STACKED, STACKED / 2, 0.0) if box.calls > 1 and not box.open else (0.0,)
    sheets = [_rectangle(at, shift, paint) for shift in shifts]
    if box.closed and box.calls == 1:
        inner = Rectangle(at.x + 3.5, at.y + 3.5, at.width - 7, at.height - 7)
        sheets.append(_rectangle(inner, 0.0, f'fill="none" stroke="{line}" stroke-opacity=".55"', corner=6))
    title = f"<title>{escape(_hover(box))}</title>"
    return f'<g class="{"frame" if box.open else "box"} {box.state}">{title}{"".join(sheets)}{_words(box, at)}</g>'


def _rectangle(at: Rectangle, shift: float, paint: str, corner: int = 9) -> str:
    return (
        f'<rect x="{at.x + shift:.1f}" y="{at.y + shift:.1f}" width="{at.width:.1f}" height="{at.height:.1f}" '
        f'rx="{corner}" {paint}/>'
    )


def _words(box: Box, at: Rectangle) -> str:
    name, details = escape(box.label), escape(" · ".join(box.details))
    if box.open:
        x, y = at.x + 14, at.y + 24
        beside = x + text_width(box.label, NAME_SIZE) + 8
        small = f'<text class="small" x="{beside:.1f}" y="{y:.1f}">{details}</text>' if details else ""
        return f'<text x="{x:.1f}" y="{y:.1f}">{name}</text>{small}'
    middle = at.y + at.height / 2
    if not details:
        return f'<text class="mid" x="{at.centre:.1f}" y="{middle + 5:.1f}">{name}</text>'
    return (
        f'<text class="mid" x="{at.centre:.1f}" y="{middle - 3:.1f}">{name}</text>'
        f'<text class="mid small" x="{at.centre:.1f}" y="{middle + 14:.1f}">{details}</text>'
    )


def _arrow(arrow: Arrow, route: Sequence[Point], number: int) -> str:
    paint = f'stroke="{ACCENT if arrow.critical else ARROW}" stroke-width="{2.4 if arrow.critical else 1.3}"'
    dashes = "" if arrow.used else _DASHES
    head = f"url(#h{number}{'c' if arrow.critical else 'a'})"
    told = ""
    if arrow.told:
        (x, y), (to_x, to_y) = route[(len(route) - 1) // 2], route[(len(route) - 1) // 2 + 1]
        told = f'<text class="small" x="{(x + to_x) / 2 + 6:.1f}" y="{(y + to_y) / 2 + 4:.1f}">×{arrow.count:,}</text>'
    return f'<g><path class="arrow" d="{_curve(route)}" {paint}{dashes} marker-end="{head}"/>{told}</g>'


def _curve(route: Sequence[Point]) -> str:
    """Return a path that leaves and reaches every point straight from above, and is smooth between them."""
    (x, y), *rest = route
    if len(route) == 4 and route[1][0] == route[2][0] > max(x, route[3][0]):  # beside the boxes, and back up
        return f"M{x:.1f} {y:.1f}C" + " ".join(f"{a:.1f} {b:.1f}" for a, b in rest)
    path = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        if abs(to_x - x) < 0.5:
            path.append(f"L{to_x:.1f} {to_y:.1f}")
        else:
            half = (y + to_y) / 2
            path.append(f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(path)


def _hover(box: Box) -> str:
    said = [shown(box.name, _HOVER)]
    said += [f"{box.calls:,} calls" if box.calls > 1 else str(box.state), *box.details]
    if box.line:
        said.append(shown(box.line, _HOVER))
    return "\n".join(dict.fromkeys(said))


_STYLE = f"""
body{{margin:28px 32px;background:{PAPER};color:{INK};font:14px {FONT.replace("DejaVu Sans", "'DejaVu Sans'")}}}
h1{{font-size:22px;margin:0 0 8px}}
p,ul,span{{color:{MUTED};font-size:13px;margin:6px 0}}
ul{{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:18px}}
input{{position:absolute;opacity:0}}
label{{display:inline-block;margin-left:6px;padding:2px 10px;font-size:13px;cursor:pointer}}
label{{border:1px solid {FRAME};border-radius:7px}}
input:checked+label{{background:{ACCENT};border-color:{ACCENT};color:{PAPER}}}
input:focus-visible+label{{outline:2px solid {ACCENT};outline-offset:2px}}
div{{display:none;overflow-x:auto}}
.alone{{display:block}}
svg{{margin-top:8px}}
text{{fill:{INK};font-size:{NAME_SIZE:g}px}}
.small{{fill:{MUTED};font-size:{DETAIL_SIZE:g}px}}
.mid{{text-anchor:middle}}
.arrow{{fill:none}}
g:hover>rect{{filter:drop-shadow(0 1px 3px rgb(27 36 48/.28))}}
"""
