"""Layout: where boxes and arrows lie on the paper, without Graphviz. Layers from top to bottom, boxes in boxes."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tinygraph.render.picture import Picture, inside

NAME_SIZE, DETAIL_SIZE = 14.0, 11.0
_PAD, _HEAD = 16.0, 30.0  # around the boxes in a box, and for its name above them
_ACROSS, _DOWN = 22.0, 40.0  # between neighbours, and between layers
_LANE = 14.0  # the width that an arrow takes where it passes a layer
_SWEEPS = 6
STACKED = 6.0  # how far the sheets of a stack stand out

Point = tuple[float, float]
Passage = tuple[int | None, int | None]  # from box to box; None: from outside, or to it


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Where a box lies.

    >>> Rectangle(10, 20, 30, 40).centre
    25.0
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> float:
        """The middle from left to right."""
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Layout:
    """Rectangles for the boxes and points for the arrows of a picture, in its order, and the size of the paper."""

    rectangles: tuple[Rectangle, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


def layout_of(picture: Picture) -> Layout:
    """Return where everything lies.

    >>> from tinygraph import Node
    >>> from tinygraph.render.calls import listing_of
    >>> from tinygraph.render.picture import picture_of
    >>> load, train = Node(lambda: 1, name="load"), Node(lambda x: x, name="train")
    >>> first, second = layout_of(picture_of(listing_of(train(load()).graph))).rectangles
    >>> first.bottom < second.y, first.centre == second.centre
    (True, True)
    """
    within = inside(picture)
    lifted = _lifted(picture)
    sizes: dict[int | None, Point] = {}
    frames: dict[int | None, _Frame] = {}
    for index in [*reversed(range(len(picture.boxes))), None]:
        inner = within.get(index)
        own = (0.0, 0.0) if index is None else _size(picture, index)
        if not inner:
            sizes[index] = own
            continue
        frame = frames[index] = _Frame(inner, dict.fromkeys(lifted[index].values()), sizes)
        head = 0.0 if index is None else _HEAD
        sizes[index] = max(frame.width + 2 * _PAD, own[0]), frame.height + 2 * _PAD + head
    return _placed(picture, frames, lifted, sizes)


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is; the reader's font is not known, so rather too wide.

    >>> text_width("WIDE", 10) > text_width("thin", 10)
    True
    """
    return size * sum(map(_em, text))


class _Frame:
    """The boxes directly in one box: their layers, their order, and where they lie within it."""

    def __init__(self, inner: Sequence[int], passages: Iterable[Passage], sizes: dict[int | None, Point]) -> None:
        self.rank = _ranks(inner, [(a, b) for a, b in passages if a is not None and b is not None and a != b])
        self.lanes: dict[Passage, list[int]] = {}  # of a long arrow: where it passes the layers between
        self.width_of: dict[int, float] = {box: sizes[box][0] for box in inner}
        self.neighbours: dict[int, dict[int, list[int]]] = {-1: defaultdict(list), 1: defaultdict(list)}
        layers: list[list[int]] = [[] for _ in range(max(self.rank.values()) + 1)]
        for box in inner:
            layers[self.rank[box]].append(box)
        for passage in passages:
            self._pass(passage, layers)
        _order(layers, self.neighbours)
        self.x = _abscissas(layers, self.neighbours, self.width_of)
        left = min(self.x[item] - self.width_of[item] / 2 for layer in layers for item in layer)
        self.x = {item: x - left for item, x in self.x.items()}
        self.width = max(self.x[item] + self.width_of[item] / 2 for layer in layers for item in layer)
        self.top: list[float] = []
        self.tall: list[float] = []
        y = 0.0
        for layer in layers:
            self.top.append(y)
            self.tall.append(max((sizes[item][1] for item in layer if item >= 0), default=0.0))
            y += self.tall[-1] + _DOWN
        self.height = y - _DOWN

    def _pass(self, passage: Passage, layers: list[list[int]]) -> None:
        """Keep a lane free in every layer between the two ends of an arrow."""
        a, b = passage
        first = 0 if a is None else self.rank[a] + 1
        last = len(layers) if b is None else self.rank[b]
        if first > last:  # it leads back up
            return
        lane: list[int] = []
        for layer in range(first, last):
            item = -1 - len(self.width_of)  # lanes are numbered below zero, boxes from zero on
            self.width_of[item] = _LANE
            self.rank[item] = layer
            layers[layer].append(item)
            lane.append(item)
        self.lanes[passage] = lane
        ends = [item for item in (a, *lane, b) if item is not None]
        for upper, lower in pairwise(ends):
            self.neighbours[1][upper].append(lower)
            self.neighbours[-1][lower].append(upper)


def _ranks(inner: Sequence[int], edges: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return the layer of each box: below everything that it needs. A cycle is cut at its earliest box."""
    after: dict[int, list[int]] = defaultdict(list)
    waiting = dict.fromkeys(inner, 0)
    for a, b in edges:
        after[a].append(b)
        waiting[b] += 1
    rank = dict.fromkeys(inner, 0)
    free = [box for box in inner if not waiting[box]][::-1]
    left = dict.fromkeys(inner)
    while left:
        box = free.pop() if free else next(iter(left))
        if box not in left:
            continue
        del left[box]
        for other in after[box]:
            if other in left:
                rank[other] = max(rank[other], rank[box] + 1)
                waiting[other] -= 1
                if not waiting[other]:
                    free.append(other)
    fed = {b for _, b in edges}
    for box in inner:  # what needs nothing stands right above who needs it
        later = [rank[other] for other in after[box] if rank[other] > 0]
        if box not in fed and later:
            rank[box] = min(later) - 1
    return rank


def _order(layers: list[list[int]], neighbours: dict[int, dict[int, list[int]]]) -> None:
    """Sort each layer by where its neighbours stand, so that few arrows cross."""
    place = {item: position for layer in layers for position, item in enumerate(layer)}
    for sweep in range(_SWEEPS):
        side = -1 if sweep % 2 == 0 else 1
        for layer in layers[::-side]:
            wish = {item: _mean([place[other] for other in neighbours[side][item]], place[item]) for item in layer}
            layer.sort(key=wish.__getitem__)
            place.update((item, position) for position, item in enumerate(layer))


def _abscissas(
    layers: list[list[int]], neighbours: dict[int, dict[int, list[int]]], width: dict[int, float]
) -> dict[int, float]:
    x: dict[int, float] = {}
    for layer in layers:
        edge = 0.0
        for item in layer:
            x[item] = edge + width[item] / 2
            edge += width[item] + _ACROSS
        shift = edge / 2
        for item in layer:
            x[item] -= shift
    for sweep in range(2 * _SWEEPS):
        side = -1 if sweep % 2 == 0 else 1
        for layer in layers[::-side]:
            wish = [_mean([x[other] for other in neighbours[side][item]], x[item]) for item in layer]
            x.update(zip(layer, _apart(wish, [width[item] for item in layer]), strict=True))
    return x


def _apart(wish: list[float], width: list[float]) -> list[float]:
    """Return places as near as can be to the wished ones with neighbours apart: pools of what would overlap."""
    offset, offsets = 0.0, []
    for place, wide in enumerate(width):
        offset += wide / 2 + (0.0 if not place else width[place - 1] / 2 + _ACROSS)
        offsets.append(offset)
    pools: list[tuple[float, int]] = []  # the sum of wishes, and how many
    for wished, shift in zip(wish, offsets, strict=True):
        total, number = wished - shift, 1
        while pools and pools[-1][0] * number >= total * pools[-1][1]:
            before, others = pools.pop()
            total, number = total + before, number + others
        pools.append((total, number))
    flat = [total / number for total, number in pools for _ in range(number)]
    return [place + shift for place, shift in zip(flat, offsets, strict=True)]


def _lifted(picture: Picture) -> dict[int | None, dict[int, Passage]]:
    """Return for each box the arrows that run in it, and between which of the boxes directly in it."""
    found: dict[int | None, dict[int, Passage]] = defaultdict(dict)
    boxes = picture.boxes
    for number, arrow in enumerate(picture.arrows):
        a, b = arrow.source, arrow.target
        while boxes[a].caller != boxes[b].caller:
            above_a, above_b = boxes[a].caller, boxes[b].caller
            if above_b is None or (above_a is not None and boxes[a].level >= boxes[b].level):
                found[above_a][number] = (a, None)
                a = _known(above_a)
            else:
                found[above_b][number] = (None, b)
                b = above_b
        found[boxes[a].caller][number] = (a, b)
    return found


def _known(index: int | None) -> int:
    assert index is not None  # of two boxes with different callers, one has a caller
    return index


def _placed(
    picture: Picture,
    frames: dict[int | None, _Frame],
    lifted: dict[int | None, dict[int, Passage]],
    sizes: dict[int | None, Point],
) -> Layout:
    rectangles: list[Rectangle] = []
    origin: dict[int | None, Point] = {None: (_PAD, _PAD)}
    for index, box in enumerate(picture.boxes):
        frame = frames[box.caller]
        left, top = origin[box.caller]
        width, height = sizes[index]
        rank = frame.rank[index]
        x = left + frame.x[index] - width / 2
        y = top + frame.top[rank] + (frame.tall[rank] - height) / 2
        rectangles.append(Rectangle(x, y, width, height))
        if index in frames:
            spare = (width - 2 * _PAD - frames[index].width) / 2
            origin[index] = (x + _PAD + spare, y + _PAD + _HEAD)
    ways = [_way(picture, number, frames, lifted, origin, rectangles) for number in range(len(picture.arrows))]
    routes = _spread(picture, ways, rectangles)
    right = max([sizes[None][0] + _PAD, *(x + _PAD for route in routes for x, _ in route)])
    told = any(arrow.told and arrow.source == arrow.target for arrow in picture.arrows)
    return Layout(tuple(rectangles), tuple(map(tuple, routes)), right + (50 if told else 0), sizes[None][1] + 8)


def _way(
    picture: Picture,
    number: int,
    frames: dict[int | None, _Frame],
    lifted: dict[int | None, dict[int, Passage]],
    origin: dict[int | None, Point],
    rectangles: list[Rectangle],
) -> list[Point]:
    """Return the points of one arrow: out of the boxes around its source, across, into those around its target."""
    boxes, arrow = picture.boxes, picture.arrows[number]
    source, target = rectangles[arrow.source], rectangles[arrow.target]

    def lane(caller: int | None) -> list[Point]:
        frame, (left, top) = frames[caller], origin[caller]
        points: list[Point] = []
        for item in frame.lanes[lifted[caller][number]]:
            x, y = left + frame.x[item], top + frame.top[frame.rank[item]]
            points += [(x, y), (x, y + frame.tall[frame.rank[item]])]
        return points

    out: list[Point] = [(source.centre, source.bottom)]
    caller = boxes[arrow.source].caller
    while caller is not None and lifted[caller].get(number, (0, 0))[1] is None:
        out += lane(caller)
        out.append((out[-1][0], rectangles[caller].bottom))
        caller = boxes[caller].caller
    if lifted[caller][number] not in frames[caller].lanes:
        return _aside(source, target)
    across = lane(caller)
    into: list[Point] = [(target.centre, target.y)]  # from the end on
    caller = boxes[arrow.target].caller
    while caller is not None and lifted[caller].get(number, (0, 0))[0] is None:
        into += reversed(lane(caller))
        into.append((into[-1][0], rectangles[caller].y))
        caller = boxes[caller].caller
    return [*out, *across, *reversed(into)]


def _spread(picture: Picture, ways: list[list[Point]], rectangles: list[Rectangle]) -> list[list[Point]]:
    """Return the ways with their ends side by side along the edges of their boxes, in the order of where they lead."""
    ends: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (arrow, way) in enumerate(zip(picture.arrows, ways, strict=True)):
        if way[0][1] < way[-1][1]:
            ends[arrow.source, 0].append(number)
            ends[arrow.target, -1].append(number)
    for (index, end), numbers in ends.items():
        numbers.sort(key=lambda number: (_aim(ways[number], end), number))
        step = min(13.0, (rectangles[index].width - 28) / len(numbers))
        for place, number in enumerate(numbers):
            shift = (place - (len(numbers) - 1) / 2) * step
            x, y = ways[number][end]
            ways[number][end] = (x + shift, y)
    return ways


def _aim(way: list[Point], end: int) -> float:
    """Return where an arrow turns to, seen from one end: the first point that is not straight on."""
    points = way if end == 0 else way[::-1]
    return next((x for x, _ in points[1:] if abs(x - points[0][0]) > 1), points[0][0])


def _aside(source: Rectangle, target: Rectangle) -> list[Point]:
    """Return the way of an arrow that leads back up, or to its own box: out to the right and in again."""
    out = max(source.x + source.width, target.x + target.width) + 36
    leaves, enters = source.y + source.height * 0.8, target.y + target.height * 0.3
    return [
        (source.x + source.width, leaves),
        (out, leaves),
        (out, enters),
        (target.x + target.width + STACKED, enters),
    ]


def _size(picture: Picture, index: int) -> Point:
    box = picture.boxes[index]
    name, detail = text_width(box.label, NAME_SIZE), text_width(" · ".join(box.details), DETAIL_SIZE)
    if box.open:
        return name + detail + 3 * _PAD, 0.0
    return max(name, detail, 40.0) + 30, 48.0 if box.details else 36.0


def _mean(values: list[float] | list[int], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _em(character: str) -> float:
    if character in "il.,:;'|!jtfr()[] I·":
        return 0.36
    if character in "mwMW@%…":
        return 0.92
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    return 0.7 if character.isupper() else 0.58
