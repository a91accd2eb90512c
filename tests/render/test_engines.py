"""Files by suffix, and the two ways to Graphviz."""

import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tinygraph import Node, run
from tinygraph.errors import DrawError, OptionError

from .graphs import embed, join, nasty, pipeline, wide

MAGIC = {".png": b"\x89PNG\r\n", ".pdf": b"%PDF-", ".svg": b"<?xml"}


@pytest.fixture
def no_library(monkeypatch):
    """Make pygraphviz impossible to import."""
    monkeypatch.setitem(sys.modules, "pygraphviz", None)


@pytest.fixture
def no_program(monkeypatch):
    """Take the program `dot` from the path."""
    monkeypatch.setenv("PATH", "")


@pytest.mark.needs("pygraphviz")
@pytest.mark.parametrize("suffix", MAGIC)
def test_pygraphviz_alone_is_enough(suffix, no_program, tmp_path):
    assert join(embed(1)).graph.draw(tmp_path / f"g{suffix}").read_bytes().startswith(MAGIC[suffix])


@pytest.mark.needs("dot")
@pytest.mark.parametrize("suffix", MAGIC)
def test_the_program_dot_alone_is_enough(suffix, no_library, tmp_path):
    assert join(embed(1)).graph.draw(tmp_path / f"g{suffix}").read_bytes().startswith(MAGIC[suffix])


@pytest.mark.parametrize("suffix", MAGIC)
def test_without_graphviz_the_error_says_both_ways_out(suffix, no_library, no_program, tmp_path):
    with pytest.raises(DrawError) as caught:
        embed(1).graph.draw(tmp_path / "new" / f"g{suffix}")
    for said in ("pip install 'pygraphviz>=2'", "`dot`", "apt install graphviz", ".html"):
        assert said in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", [".dot", ".mmd", ".html", ".json"])
def test_text_formats_need_no_graphviz(suffix, no_library, no_program, tmp_path):
    assert embed(1).graph.draw(tmp_path / f"g{suffix}").stat().st_size > 100


@pytest.mark.parametrize("name", ["g.gif", "g", "g.dot.txt", ".png"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(name, tmp_path):
    with pytest.raises(DrawError, match=r"\.png \.svg \.pdf \.dot \.mmd \.html \.json"):
        embed(1).graph.draw(tmp_path / name)


def test_draw_makes_folders_and_returns_the_path(tmp_path):
    path = embed(1).graph.draw(str(tmp_path / "a" / "b" / "G.DOT"))
    assert isinstance(path, Path)
    assert path == tmp_path / "a" / "b" / "G.DOT"
    assert path.read_text(encoding="utf-8").startswith("digraph")


@pytest.mark.parametrize("suffix", [".dot", ".json", ".mmd"])
def test_by_networkx_the_picture_is_the_same(suffix, tmp_path):
    future = pipeline(10, 2, 5, 6)
    future.resolve(executor="inline")
    one, other = (
        future.graph.draw(tmp_path / f"{engine}{suffix}", engine=engine).read_bytes() for engine in ("pydot", "nx")
    )
    assert one == other


def test_an_unknown_engine_is_refused(tmp_path):
    with pytest.raises(OptionError, match="engine must be 'pydot' or 'nx', not 'neato'"):
        embed(1).graph.draw(tmp_path / "g.dot", engine="neato")


@pytest.fixture(params=["before", "after"])
def hostile(request):
    future = nasty()
    if request.param == "after":
        run(future, executor="inline")
    return future.graph


@pytest.mark.needs("pygraphviz")
def test_hostile_names_are_only_text_in_svg(hostile, no_program, tmp_path):
    assert_inert(hostile.draw(tmp_path / "g.svg").read_bytes())


@pytest.mark.needs("dot")
def test_hostile_names_are_only_text_in_svg_by_the_program(hostile, no_library, tmp_path):
    assert_inert(hostile.draw(tmp_path / "g.svg").read_bytes())


def assert_inert(svg):
    tree = ElementTree.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert tags <= {"svg", "g", "title", "polygon", "path", "text", "polyline", "ellipse"}
    attributes = {name.rpartition("}")[2] for element in tree.iter() for name in element.attrib}
    assert not [name for name in attributes if name.startswith("on") or name == "href"]
    groups = [element for element in tree.iter() if element.get("class", "").startswith("node")]
    words = ["".join("".join(part.itertext()) for part in group if part.tag.endswith("text")) for group in groups]
    for name in ("<lambda>", "<b>", "back\\slash\\N\\", "&lt;&#60;", "]]>", "node", "a:b"):
        assert [word for word in words if word.startswith(name)], name


@pytest.mark.needs("pygraphviz")
def test_drawing_says_nothing_of_others_on_standard_error(capfd, tmp_path):
    wide(30).graph.draw(tmp_path / "g.png", fold=None)
    assert capfd.readouterr().err == ""


@pytest.mark.needs("pygraphviz")
def test_drawing_works_without_standard_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", None)
    assert embed(1).graph.draw(tmp_path / "g.png").exists()


@pytest.mark.needs("pygraphviz")
def test_equal_graphs_give_equal_pictures(tmp_path):
    first, second = (wide(5).graph.draw(tmp_path / f"{name}.png").read_bytes() for name in "ab")
    assert first == second


@pytest.mark.needs("pygraphviz")
def test_drawing_leaves_no_descriptor_open(tmp_path):
    graph = Node(abs)(1).graph
    graph.draw(tmp_path / "g.png")
    if not Path("/proc/self/fd").exists():
        pytest.skip("descriptors are counted under /proc")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        graph.draw(tmp_path / "g.png")
    assert len(os.listdir("/proc/self/fd")) == before
