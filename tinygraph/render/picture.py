"""Picture: what is to be seen, before any file format. Boxes in boxes, stacks, arrows; folded, and cut at a depth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tinygraph.definition import Kind
from tinygraph.errors import OptionError
from tinygraph.future import State
from tinygraph.render.calls import Call, Listing
from tinygraph.render.labels import count, duration, shown

FOLD = 20  # more equal siblings than this are one stack
LEGIBLE = 60  # boxes: without `depth=`, the picture is cut where it would have more
DEEPEST = 40  # boxes in boxes: more is no picture, and recursion in drawing libraries would not survive it
_DEEP = 12  # without `depth=`

# What a stack shows when its calls differ: whatever needs attention first.
_URGENCY = (
    State.FAILED,
    State.CANCELLED,
    State.RUNNING,
    State.SKIPPED,
    State.READY,
    State.WAITING,
    State.FINISHED,
)
_QUIET = (State.FINISHED, State.WAITING, State.READY)  # said by colour alone


@dataclass(frozen=True, slots=True)
class Box:
    """One call, or a stack of equal calls.

    >>> Box(id="n0", name="embed", calls=1000, seconds=12.0, timed=1000).details
    ('12 ms each, 12 s in all',)
    """

    id: str  # generated: a name never is an id
    name: str
    kind: str = Kind.LEAF.value
    caller: int | None = None  # the place in `boxes` of the box around it
    level: int = 0
    calls: int = 1  # how many calls it stands for
    hidden: int = 0  # calls inside that are not shown
    open: bool = False  # there are boxes in it
    closed: bool = False  # there will be boxes in it, or `depth=` hides them
    states: tuple[tuple[State, int], ...] = ((State.WAITING, 1),)  # most urgent first
    seconds: float | None = None  # of all its calls together
    timed: int = 0  # how many of its calls have a duration
    returned: bool = True
    used: bool = True
    critical: bool = False
    line: str = ""

    @property
    def state(self) -> State:
        """The state that the box is coloured by."""
        return self.states[0][0]

    @property
    def label(self) -> str:
        """The name as it is shown, with the number of calls."""
        return shown(self.name) + (f" ×{self.calls:,}" if self.calls > 1 else "")

    @property
    def details(self) -> tuple[str, ...]:
        """What is said beneath the name: states, durations, what is hidden."""
        said = []
        if len(self.states) > 1:
            said.append(", ".join(f"{number:,} {state}" for state, number in self.states))
        elif self.state not in _QUIET:
            said.append(str(self.state))
        if self.kind in (Kind.INPUT.value, Kind.STATEFUL.value):
            said.append("input" if self.kind == Kind.INPUT.value else "instance")
        elif self.seconds is not None and self.calls > 1:
            mean = f"{duration(self.seconds / self.timed)} each"
            # Callers mostly wait, many at the same time: their sum is no time that anybody has spent.
            said.append(mean if self.open or self.hidden else f"{mean}, {duration(self.seconds)} in all")
        elif self.seconds is not None:
            said.append(duration(self.seconds))
        if self.hidden:
            said.append(f"{count(self.hidden, 'call')} inside")
        return tuple(said)


@dataclass(frozen=True, slots=True)
class Arrow:
    """Data that flows from one box to another, `count` times.

    >>> Arrow(0, 1).count
    1
    """

    source: int  # places in `boxes`
    target: int
    count: int = 1
    used: bool = True
    critical: bool = False
    told: bool = False  # its count says what the boxes at its ends do not


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes, each after the one around it and in the order of recording; and arrows between them.

    >>> from tinygraph import Node
    >>> from tinygraph.render.calls import listing_of
    >>> load, train = Node(lambda: 1, name="load"), Node(lambda x: x, name="train")
    >>> picture = picture_of(listing_of(train(load()).graph))
    >>> [box.label for box in picture.boxes], picture.arrows[0].source, picture.title
    (['load', 'train'], 0, 'train')
    """

    title: str
    calls: int
    seconds: float | None  # from the first start to the last end
    work: float | None  # what all calls took together, callers aside
    states: tuple[tuple[State, int], ...]  # of all calls; as in a box
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    depth: int  # the deepest level that is shown
    levels: int  # how many levels there are

    @property
    def summary(self) -> str:
        """One line about the whole: how many calls, how long."""
        said = [count(self.calls, "call")]
        if self.seconds is not None:
            said.append(f"took {duration(self.seconds)}")
            if self.work is not None and self.calls > 1:
                said.append(f"{duration(self.work)} of work")
        if self.depth < self.levels - 1:
            said.append(f"shown to depth {self.depth} of {self.levels - 1}")
        return " · ".join(said)


def picture_of(listing: Listing, depth: int | None = None, fold: int | None = FOLD) -> Picture:
    """Return what is to be seen of some calls.

    `depth` is the deepest level shown (0: the outermost boxes, closed); None shows as much as stays legible. More
    than `fold` equal siblings are one stack; None folds nothing. Raises :class:`OptionError` for other values.
    """
    for option, value in (("depth", depth), ("fold", fold)):
        if value is not None and (type(value) is not int or value < 0):
            raise OptionError(f"{option} must be a whole number from 0 on, or None, not {value!r}")
    groups = _grouped(listing.calls, fold)
    levels = Counter(group.level for group in groups)
    deepest = _legible(levels) if depth is None else min(depth, DEEPEST, len(levels) - 1)
    place, shown_groups = _cut(groups, deepest)
    steps = _steps(groups)
    boxes = tuple([_box(group, index, deepest, steps) for index, group in enumerate(shown_groups)])
    callers = {call.caller for call in listing.calls}
    tasks = [call for call in listing.calls if call.number not in callers]
    timed = [call.seconds for call in tasks if call.seconds is not None]
    return Picture(
        title=listing.title,
        calls=len(listing.calls),
        seconds=listing.seconds,
        work=sum(timed) if timed else None,
        states=_urgent(listing.calls),
        boxes=boxes,
        arrows=_arrows(listing, boxes, place, steps),
        depth=deepest,
        levels=len(levels),
    )


def inside(picture: Picture) -> dict[int | None, list[int]]:
    """Return the places of the boxes in each box; None stands for the paper.

    >>> from tinygraph import Node
    >>> from tinygraph.render.calls import listing_of
    >>> inside(picture_of(listing_of(Node(abs)(1).graph)))
    {None: [0]}
    """
    found: dict[int | None, list[int]] = defaultdict(list)
    for index, box in enumerate(picture.boxes):
        found[box.caller].append(index)
    return dict(found)


@dataclass(slots=True)
class _Group:
    """Calls that are one box, while the picture is made."""

    calls: list[Call]
    level: int
    caller: int | None
    place: int = -1  # among the shown boxes; -1 for what is hidden in a closed one
    inner: int = 0  # calls inside, at any level
    groups: list[int] = field(default_factory=list)  # directly inside


def _grouped(calls: Iterable[Call], fold: int | None) -> list[_Group]:
    """Return all boxes that there would be without a depth, each after the one around it."""
    made: dict[int | None, list[Call]] = defaultdict(list)
    for call in calls:
        made[call.caller].append(call)
    groups: list[_Group] = []
    pending: list[tuple[int | None, list[Call]]] = [(None, made[None])]
    while pending:
        caller, siblings = pending.pop()
        in_stack = caller is not None and len(groups[caller].calls) > 1
        level = 0 if caller is None else groups[caller].level + 1
        for members in _folded(siblings, 1 if in_stack and fold is not None else fold):
            index = len(groups)
            groups.append(_Group(members, level, caller))
            if caller is not None:
                groups[caller].groups.append(index)
            inner = [call for member in members for call in made.get(member.number, ())]
            if inner:
                pending.append((index, inner))
    for group in reversed(groups):
        if group.caller is not None:
            groups[group.caller].inner += group.inner + len(group.calls)
    return groups


def _folded(siblings: list[Call], fold: int | None) -> list[list[Call]]:
    """Return siblings as boxes: equal ones together where there are more than `fold`."""
    if fold is None or len(siblings) <= fold:
        return [[call] for call in siblings]
    equal: dict[int, list[Call]] = defaultdict(list)
    for call in siblings:
        equal[call.node].append(call)
    stacks = [stack if len(stack) > fold else None for stack in equal.values()]
    folded = dict(zip(equal, stacks, strict=True))
    boxes: list[list[Call]] = []
    for call in siblings:
        stack = folded[call.node]
        if stack is None:
            boxes.append([call])
        elif stack[0] is call:
            boxes.append(stack)
    return boxes


def _steps(groups: list[_Group]) -> dict[int, tuple[int, int]]:
    """Return the first and the last step of the critical path in each call that it goes through, callers included."""
    steps: dict[int, tuple[int, int]] = {}
    for call in (call for group in reversed(groups) for call in group.calls):
        if call.step is not None:
            first, last = steps.get(call.number, (call.step, call.step))
            steps[call.number] = min(first, call.step), max(last, call.step)
        if call.caller is not None and call.number in steps:
            first, last = steps[call.number]
            before, after = steps.get(call.caller, (first, last))
            steps[call.caller] = min(first, before), max(last, after)
    return steps


def _legible(levels: Counter[int]) -> int:
    """Return the deepest level down to which a picture stays legible."""
    boxes = 0
    for level in range(min(len(levels), _DEEP + 1)):
        boxes += levels[level]
        if boxes > LEGIBLE:
            return max(level - 1, 0)
    return min(len(levels) - 1, _DEEP)


def _cut(groups: list[_Group], deepest: int) -> tuple[dict[int, int], list[_Group]]:
    """Return which box shows each call, and the boxes that are shown, insides right after what they are in."""
    visible: list[_Group] = []
    pending = [index for index, group in enumerate(groups) if group.caller is None][::-1]
    while pending:
        group = groups[pending.pop()]
        group.place = len(visible)
        visible.append(group)
        if group.level < deepest:
            pending.extend(reversed(group.groups))
    place: dict[int, int] = {}
    for group in groups:
        if group.caller is not None:
            caller = groups[group.caller]
            if group.level > deepest:
                group.place = caller.place
            elif caller.place >= 0:
                group.caller = caller.place
        for call in group.calls:
            place[call.number] = group.place
    return place, visible


def _box(group: _Group, index: int, deepest: int, steps: dict[int, tuple[int, int]]) -> Box:
    calls = group.calls
    first = calls[0]
    timed = [call.seconds for call in calls if call.seconds is not None]
    is_open = bool(group.groups) and group.level < deepest
    return Box(
        id=f"n{index}",
        name=first.name,
        kind=first.kind,
        caller=group.caller,
        level=group.level,
        calls=len(calls),
        hidden=0 if is_open else group.inner,
        open=is_open,
        closed=not is_open and (group.inner > 0 or any(call.closed for call in calls)),
        states=_urgent(calls),
        seconds=sum(timed) if timed else None,
        timed=len(timed),
        returned=any(call.returned for call in calls),
        used=any(call.used for call in calls),
        critical=any(call.number in steps for call in calls),
        line=first.line,
    )


def _urgent(calls: Iterable[Call]) -> tuple[tuple[State, int], ...]:
    states = Counter(call.state for call in calls)
    return tuple([(state, states[state]) for state in _URGENCY if states[state]])


def _arrows(
    listing: Listing, boxes: tuple[Box, ...], place: dict[int, int], steps: dict[int, tuple[int, int]]
) -> tuple[Arrow, ...]:
    counts: Counter[tuple[int, int]] = Counter()
    critical: set[tuple[int, int]] = set()
    nowhere = (-9, -9)
    for call in listing.calls:
        target = place[call.number]
        for need in call.dependencies:
            source = place.get(need, target)
            if source == target and boxes[target].calls == 1:
                continue  # it flows where nobody looks: inside a closed box
            counts[source, target] += 1
            if steps.get(need, nowhere)[1] + 1 == steps.get(call.number, nowhere)[0]:
                critical.add((source, target))
    return tuple(
        [
            Arrow(
                source,
                target,
                number,
                used=boxes[source].used and boxes[target].used,
                critical=(source, target) in critical,
                told=number not in (1, boxes[source].calls, boxes[target].calls),
            )
            for (source, target), number in counts.items()
            if source == target or not (is_around(boxes, source, target) or is_around(boxes, target, source))
        ]
    )


def is_around(boxes: tuple[Box, ...], outer: int, inner: int) -> bool:
    """Say whether a box is in another one, at any depth.

    >>> is_around((Box("n0", "a"), Box("n1", "b", caller=0, level=1)), 0, 1)
    True
    """
    around: int | None = inner
    while around is not None and boxes[around].level > boxes[outer].level:
        around = boxes[around].caller
    return around == outer and inner != outer
