"""The laws of the picture, whatever language it is written in."""

import itertools

import pytest

from tinygraph import Graph, Input, Node, run
from tinygraph.errors import OptionError
from tinygraph.future import State
from tinygraph.render import palette
from tinygraph.render.calls import listing_of
from tinygraph.render.labels import shown
from tinygraph.render.layout import layout_of
from tinygraph.render.picture import DEEPEST, LEGIBLE, picture_of

from .graphs import NASTY, clean, embed, fib, join, load, log, pipeline, prepare, wide


def picture(future, **options):
    return picture_of(listing_of(future.graph), **options)


def names(drawn):
    return [box.name for box in drawn.boxes]


def box(drawn, name):
    [found] = [box for box in drawn.boxes if box.name == name]
    return found


def arrows(drawn):
    return {(drawn.boxes[arrow.source].name, drawn.boxes[arrow.target].name) for arrow in drawn.arrows}


def around(drawn, name):
    caller = box(drawn, name).caller
    return None if caller is None else drawn.boxes[caller].name


def finished(future, **options):
    run(future, executor="inline", **options)
    return future


def test_a_composite_is_closed_until_it_runs():
    drawn = picture(pipeline(10, 2, 5, 6))
    assert names(drawn) == ["pipeline"]
    assert drawn.boxes[0].closed
    assert not drawn.boxes[0].open


def test_after_a_run_calls_lie_in_the_box_of_their_caller():
    """
    pipeline: add: _add ──┐
              subtract ───┴► multiply
    """
    drawn = picture(finished(pipeline(10, 2, 5, 6)))
    assert {name: around(drawn, name) for name in names(drawn)} == {
        "pipeline": None,
        "add": "pipeline",
        "_add": "add",
        "subtract": "pipeline",
        "multiply": "pipeline",
    }
    assert arrows(drawn) == {("add", "multiply"), ("subtract", "multiply")}
    assert [box.open for box in drawn.boxes if box.name in ("pipeline", "add")] == [True, True]
    assert not any(box.closed for box in drawn.boxes)


@pytest.mark.parametrize(
    ("depth", "shown_names"),
    [
        (0, ["pipeline"]),
        (1, ["pipeline", "multiply", "add", "subtract"]),
        (2, ["pipeline", "multiply", "add", "subtract", "_add"]),
        (99, ["pipeline", "multiply", "add", "subtract", "_add"]),
    ],
)
def test_depth_says_how_many_levels_are_opened(depth, shown_names):
    drawn = picture(finished(pipeline(10, 2, 5, 6)), depth=depth)
    assert sorted(names(drawn)) == sorted(shown_names)
    assert sum(box.calls + box.hidden for box in drawn.boxes) == 5
    assert all(box.closed for box in drawn.boxes if box.hidden)


def test_arrows_of_what_is_hidden_lead_to_what_hides_it():
    """source ──► prepare: load ──► clean        clean ──► embed"""
    source = embed("s")
    drawn = picture(embed(prepare(source)), depth=0)
    [outer] = [box for box in drawn.boxes if box.name == "prepare"]
    assert outer.closed
    assert outer.hidden == 3
    assert arrows(drawn) == {("embed", "prepare"), ("prepare", "embed")}


def test_what_does_not_flow_into_the_result_is_not_used():
    """load ──► log (not returned)      load ──► clean (returned)"""
    drawn = picture(prepare("x"))
    assert {name: box(drawn, name).used for name in ("load", "log", "clean")} == {
        "load": True,
        "log": False,
        "clean": True,
    }
    assert [box.name for box in drawn.boxes if box.returned] == ["prepare", "clean"]
    assert {drawn.boxes[arrow.target].name: arrow.used for arrow in drawn.arrows} == {"log": False, "clean": True}


def test_what_only_an_unreturned_call_needs_is_not_used_either():
    @Node
    def body(x):
        log(load(x))
        return clean(x)

    drawn = picture(finished(body([1])))
    assert [box.name for box in drawn.boxes if not box.used] == ["load", "log"]


def test_inside_an_unreturned_call_its_own_result_counts():
    @Node
    def aside(x):
        return clean(load(x))

    @Node
    def body(x):
        aside(x)
        return embed(x)

    drawn = picture(finished(body(1)))
    assert [box.name for box in drawn.boxes if not box.used] == ["aside"]


def test_the_critical_path_is_marked_through_boxes():
    """
    slow: crawl ──┐
    fast ─────────┴► join
    """
    crawl = Node(lambda: 1, name="crawl", cost=9)

    @Node
    def slow():
        return crawl()

    fast = Node(lambda: 1, name="fast", cost=1)
    future = finished(Node(lambda: join(slow(), fast()), name="root")())
    listing = listing_of(future.graph)
    by_name = {call.number: call.name for call in listing.calls}
    chain = [by_name[call.number] for call in sorted(listing.calls, key=lambda c: c.step or 0) if call.step is not None]
    drawn = picture_of(listing)
    marked = {(drawn.boxes[a.source].name, drawn.boxes[a.target].name) for a in drawn.arrows if a.critical}
    branch = {"crawl": "slow", "fast": "fast"}[chain[0]]
    assert marked == {(branch, "join")}
    assert box(drawn, branch).critical
    assert box(drawn, "root").critical


def test_before_a_run_the_critical_path_follows_the_costs():
    step = Node(lambda *inputs: 1)
    source = step.options(name="source")()
    slow, fast = step.options(name="slow", cost=5)(source), step.options(name="fast")(source)
    drawn = picture(step.options(name="sink")(slow, fast))
    assert [box.name for box in drawn.boxes if box.critical] == ["source", "slow", "sink"]
    assert sum(arrow.critical for arrow in drawn.arrows) == 2


@pytest.mark.parametrize(("calls", "boxes"), [(20, 21), (21, 2), (1000, 2)])
def test_equal_siblings_fold_above_twenty(calls, boxes):
    drawn = picture(wide(calls))
    assert len(drawn.boxes) == boxes
    assert sum(box.calls for box in drawn.boxes) == calls + 1
    assert sum(arrow.count for arrow in drawn.arrows) == calls


def test_folding_can_be_set_and_turned_off():
    assert len(picture(wide(30), fold=None).boxes) == 31
    assert len(picture(wide(30), fold=30).boxes) == 31
    assert len(picture(wide(3), fold=2).boxes) == 2


def test_a_stack_tells_its_states_and_times():
    def work(x):
        if x % 10 == 0:
            raise ValueError(x)

    node = Node(work, name="work")
    graph = Graph(*[node(i) for i in range(100)])
    run(graph, executor="inline", on_error="continue")
    [stack] = picture_of(listing_of(graph)).boxes
    assert dict(stack.states) == {State.FAILED: 10, State.FINISHED: 90}
    assert stack.state is State.FAILED
    assert stack.label == "work ×100"
    assert stack.details[0] == "10 failed, 90 finished"
    assert stack.details[1].endswith("in all")


def test_the_insides_of_a_stack_are_folded_together():
    """doc ×50: load ×50 ──► embed ×50"""

    @Node
    def doc(i):
        return embed(load(i))

    future = finished(join(*[doc(i) for i in range(50)]))
    drawn = picture(future)
    assert {(box.name, box.calls, box.level) for box in drawn.boxes} == {
        ("join", 1, 0),
        ("doc", 50, 0),
        ("embed", 50, 1),
        ("load", 50, 1),
    }
    assert len(drawn.boxes) == 4
    assert arrows(drawn) == {("load", "embed"), ("doc", "join")}


def test_times_of_callers_are_not_added_up():
    """doc ×50: load ×50 ──► embed ×50, open and closed"""

    @Node
    def doc(i):
        return embed(load(i))

    future = finished(join(*[doc(i) for i in range(50)]))
    assert [one.details[0].endswith("in all") for one in picture(future).boxes if one.calls > 1] == [False, True, True]
    assert box(picture(future, depth=0), "doc").details[0].endswith(" each")


def test_without_times_a_graph_is_drawn_the_same_after_every_run(tmp_path):
    """
    slow ──┐
    quick ─┴► join
    """
    slow, quick = Node(lambda: 1, name="slow", cost=1), Node(lambda: sum(range(100_000)), name="quick", cost=0.01)
    drawn = set()
    for engine, executor in itertools.product(("pydot", "nx"), ("inline", "threads")):
        graph = join(slow(), quick()).graph
        graph.run(executor=executor)
        text = graph.draw(tmp_path / "graph.dot", times=False, engine=engine).read_text()
        drawn.add(text)
        critical = [one.name for one in picture_of(listing_of(graph, times=False)).boxes if one.critical]
        assert critical == ["slow", "join"]
    assert len(drawn) == 1
    assert " of work" not in text
    assert "µs" not in text


def test_nodes_with_one_name_but_other_code_are_not_folded():
    ones = [Node(lambda: 1, name="same")() for _ in range(15)]
    twos = [Node(lambda: 2, name="same")() for _ in range(15)]
    assert len(picture(join(*ones, *twos)).boxes) == 31


def test_an_even_chain_is_a_stack_that_feeds_itself():
    future = embed(0)
    for _ in range(99):
        future = embed(future)
    drawn = picture(future)
    [stack] = drawn.boxes
    [loop] = drawn.arrows
    assert (stack.calls, loop.source, loop.target, loop.count, loop.told) == (100, 0, 0, 99, True)


def test_a_large_recursion_is_cut_where_it_stays_legible():
    future = finished(fib(12))
    drawn = picture(future)
    assert len(drawn.boxes) <= LEGIBLE
    assert sum(box.calls + box.hidden for box in drawn.boxes) == len(future.graph)
    assert f"shown to depth {drawn.depth} of {drawn.levels - 1}" in drawn.summary


def test_ten_thousand_nested_calls_are_drawn_to_a_depth_that_libraries_survive():
    @Node
    def dig(n):
        return dig(n - 1) if n else 0

    future = finished(dig(9_000))
    assert picture(future, depth=10**9).depth == DEEPEST
    assert sum(box.calls + box.hidden for box in picture(future).boxes) == 9_001


def test_equal_programs_give_equal_pictures():
    first, second = (picture(wide(10)) for _ in range(2))
    assert [box.id for box in first.boxes] == [box.id for box in second.boxes]
    assert first.arrows == second.arrows


def test_failed_and_skipped_calls_say_so():
    def bad(x):
        raise ValueError(x)

    drawn = picture(finished(embed(Node(bad, name="bad")(1)), on_error="continue"))
    assert {box.name: box.state for box in drawn.boxes} == {"bad": State.FAILED, "embed": State.SKIPPED}
    assert box(drawn, "bad").details[0] == "failed"
    assert box(drawn, "embed").details == ("skipped",)


def test_durations_are_told_when_known():
    future = embed(1)
    assert picture(future).seconds is None
    drawn = picture(finished(future))
    assert drawn.seconds == future.duration
    assert "took" in drawn.summary
    assert len(drawn.boxes[0].details) == 1


def test_inputs_and_instances_say_what_they_are():
    class Model:
        def __init__(self, path):
            self.path = path

        def __call__(self, x):
            return x

    drawn = picture(Node(Model, name="Model")("p")(Input("x")))
    assert sorted(detail for box in drawn.boxes for detail in box.details) == ["input", "instance"]


def test_a_cycle_can_be_drawn():
    a, b = embed(1), embed(2)
    a.after(b)
    b.after(a)
    drawn = picture(a)
    assert len(drawn.arrows) == 2
    assert not any(box.critical for box in drawn.boxes)
    assert len(layout_of(drawn).routes) == 2


def test_a_graph_of_several_is_titled_by_their_names():
    parts = [Node(abs, name=name)(1) for name in "abcde"]
    assert picture_of(listing_of(Graph(*parts))).title == "a, b, c and 2 more"


@pytest.mark.parametrize("option", ["depth", "fold"])
@pytest.mark.parametrize("value", [-1, True, "two", 1.5])
def test_options_that_make_no_sense_are_refused_by_name(option, value):
    with pytest.raises(OptionError, match=option):
        picture(embed(1), **{option: value})


@pytest.mark.parametrize("name", NASTY)
def test_a_shown_name_is_one_short_visible_line(name):
    line = shown(name)
    assert 0 < len(line) <= 32
    assert all(character.isprintable() or character == "\u200d" for character in line)
    line.encode()


@pytest.mark.parametrize("make", [lambda: finished(pipeline(1, 2, 3, 4)), lambda: finished(fib(7)), lambda: prepare(1)])
def test_in_our_own_layout_no_two_boxes_overlap_and_insides_stay_inside(make):
    drawn = picture(make())
    at = layout_of(drawn).rectangles
    for (i, one), (j, other) in itertools.combinations(enumerate(drawn.boxes), 2):
        if one.caller == other.caller:
            apart = (
                at[i].x + at[i].width <= at[j].x
                or at[j].x + at[j].width <= at[i].x
                or at[i].bottom <= at[j].y
                or at[j].bottom <= at[i].y
            )
            assert apart, (one.name, other.name)
    for i, inner in enumerate(drawn.boxes):
        if inner.caller is not None:
            outer = at[inner.caller]
            assert outer.x < at[i].x
            assert outer.y < at[i].y
            assert at[i].x + at[i].width < outer.x + outer.width
            assert at[i].bottom < outer.bottom


@pytest.mark.parametrize("text", [palette.INK, palette.MUTED])
def test_text_is_easy_to_read_on_every_fill(text):
    fills = [palette.PAPER, *palette.TINTS, *(colours.fill for colours in palette.COLOURS.values())]
    assert min(contrast(text, fill) for fill in fills) >= 6


def contrast(one, other):
    """Return the contrast ratio of WCAG 2."""
    dark, light = sorted(luminance(colour) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
