"""Every language that a picture is written in: read back, and with names that try to break out."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import networkx
import pydot
import pytest

from tinygraph import Node, run

from .graphs import NASTY, embed, fib, join, nasty, pipeline, prepare, wide

# The parser of pydot 4 uses names that newer versions of pyparsing warn about.
READ_BACK = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TEXT = (".dot", ".mmd", ".json", ".html")


@pytest.fixture
def ran():
    future = pipeline(10, 2, 5, 6)
    assert future.resolve(executor="inline") == -60
    return future


@pytest.fixture(params=["before", "after"])
def hostile(request):
    future = nasty()
    if request.param == "after":
        run(future, executor="inline")
    return future.graph


def clusters(dot):
    """Return all clusters, those in clusters too."""
    found = list(dot.get_subgraphs())
    return found + [inner for outer in found for inner in clusters(outer)]


def nodes(dot):
    return [
        node
        for part in (dot, *clusters(dot))
        for node in part.get_nodes()
        if node.get_name() not in ("node", "edge", "graph")
    ]


def test_dot_nests_clusters_as_calls_nest(ran):
    [outer] = ran.graph.to_pydot().get_subgraphs()
    [inner] = outer.get_subgraphs()
    assert "pipeline" in outer.get("label")
    assert "add" in inner.get("label")
    assert ["_add" in node.get("label") for node in inner.get_nodes()] == [True]
    assert len(outer.get_nodes()) == 2


def test_dot_before_a_run_is_labelled_with_plain_names():
    dot = join(embed(1)).graph.to_pydot()
    assert [node.get("label") for node in nodes(dot)] == ['"embed"', '"join"']
    [edge] = dot.get_edges()
    assert (edge.get_source(), edge.get_destination()) == ("n0", "n1")


def test_dot_edges_begin_and_end_at_clusters(ran):
    dot = ran.graph.to_pydot()
    assert dot.get("compound") == "true"
    names = {cluster.get_name() for cluster in clusters(dot)}
    assert [edge.get("ltail") for edge in dot.get_edges() if edge.get("ltail")] == ["cluster_n1"]
    assert names == {"cluster_n0", "cluster_n1"}


def test_dot_draws_what_is_not_returned_dashed():
    dot = prepare("x").graph.to_pydot()
    styles = {node.get("label"): node.get("style") for node in nodes(dot)}
    assert "dashed" in styles['"log"']
    assert styles['"clean"'] is None
    assert [edge.get("style") for edge in dot.get_edges()] == ["dashed", None]


def test_dot_classes_tell_what_colours_tell(ran):
    classes = {node.get("class") for node in nodes(ran.graph.to_pydot())}
    assert '"finished critical returned"' in classes


def test_the_header_has_a_title_and_a_legend_of_what_appears(ran):
    before, after = pipeline(1, 2, 3, 4).graph.to_pydot().get("label"), ran.graph.to_pydot().get("label")
    for said in ("pipeline", "5 calls", "took", "5 finished", "critical path"):
        assert said in after
    assert "opens when it runs" in before
    for unsaid in ("finished", "critical", "took"):
        assert unsaid not in before


@READ_BACK
def test_dot_text_can_be_parsed_again(ran, tmp_path):
    text = ran.graph.draw(tmp_path / "g.dot").read_text(encoding="utf-8")
    [again] = pydot.graph_from_dot_data(text)
    assert len(nodes(again)) == 3
    assert len(clusters(again)) == 2
    assert len(again.get_edges()) == 2


@READ_BACK
def test_hostile_names_stay_labels_in_dot(hostile):
    [again] = pydot.graph_from_dot_data(hostile.to_pydot().to_string())
    assert len(nodes(again)) == len(NASTY) + 1
    assert {node.get_name() for node in nodes(again)} == {f"n{i}" for i in range(1, len(NASTY) + 2)}
    for part in (*nodes(again), *clusters(again), *again.get_edges()):
        assert not {"URL", "href", "xlabel", "tooltip", "shape", "image"} & set(part.get_attributes())
        assert len(part.get("label") or "") < 600
    for label in [part.get("label") for part in (*nodes(again), *clusters(again), again)]:
        if label.startswith("<"):
            ElementTree.fromstring(f"<p>{label[1:-1]}</p>")


def test_networkx_has_a_node_for_each_call_and_an_edge_for_each_pair(ran):
    graph = ran.graph
    made = graph.to_networkx()
    assert list(made.nodes) == [future.number for future in graph.nodes]
    assert set(made.edges) == {(a.number, b.number) for a, b in graph.edges}
    assert networkx.is_directed_acyclic_graph(made)


def test_networkx_attributes_are_as_documented(ran):
    made = ran.graph.to_networkx()
    by_label = {attributes["label"]: attributes for _, attributes in made.nodes(data=True)}
    inner, outer = by_label["_add"], by_label["pipeline"]
    assert made.nodes[inner["caller"]]["label"] == "add"
    assert "caller" not in outer
    assert inner["state"] == "finished"
    assert inner["seconds"] >= 0
    assert inner["returned"] is True
    assert made.graph["title"] == "pipeline"
    assert {type(value) for attributes in by_label.values() for value in attributes.values()} <= {str, int, bool, float}


def test_networkx_graphs_can_be_written_by_its_own_writers(ran, tmp_path):
    made = ran.graph.to_networkx()
    networkx.write_graphml(made, tmp_path / "g.graphml")
    networkx.write_gexf(made, tmp_path / "g.gexf")
    assert len(networkx.read_graphml(tmp_path / "g.graphml")) == 5
    json.dumps(networkx.node_link_data(made))


def test_mermaid_nests_subgraphs_and_closes_them(ran):
    lines = [line.strip() for line in ran.graph.to_mermaid().splitlines()]
    assert lines[0] == "flowchart TD"
    assert sum(line.startswith("subgraph ") for line in lines) == lines.count("end") == 2
    assert len([line for line in lines if line in ("n1 --> n4", "n1 ==> n4", "n3 --> n4", "n3 ==> n4")]) == 2


def test_hostile_names_stay_labels_in_mermaid(hostile):
    lines = hostile.to_mermaid().splitlines()
    assert not any(
        sign in line for line in lines for sign in ("<img", "<script", "%%{", "\\", "`", "javascript:alert(")
    )
    labelled = [line for line in lines if line.strip().startswith(("n", "subgraph ")) and '"' in line]
    assert len(labelled) == len(NASTY) + 2
    shape = re.compile(r'\s*(subgraph )?n\d+(\(|\[\[|\[)"[^"<>`\\]*(<br/>[^"<>`\\]*)?"(\)|\]\]|\])')
    assert all(shape.fullmatch(line) for line in labelled)


def test_json_says_all_that_the_picture_shows(ran, tmp_path):
    data = json.loads(ran.graph.draw(tmp_path / "g.json").read_text(encoding="ascii"))
    callers = {box["id"]: box["name"] for box in data["boxes"]}
    assert {box["name"]: callers.get(box["caller"]) for box in data["boxes"]} == {
        "pipeline": None,
        "add": "pipeline",
        "subtract": "pipeline",
        "multiply": "pipeline",
        "_add": "add",
    }
    assert {(callers[arrow["source"]], callers[arrow["target"]]) for arrow in data["arrows"]} == {
        ("add", "multiply"),
        ("subtract", "multiply"),
    }


def test_hostile_names_arrive_whole_in_json(hostile, tmp_path):
    text = hostile.draw(tmp_path / "g.json").read_text(encoding="ascii")
    assert "<" not in text
    assert set(NASTY) <= {box["name"] for box in json.loads(text)["boxes"]}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_else(ran, tmp_path):
    text = ran.graph.draw(tmp_path / "g.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "a", "img", "link", "iframe", "foreignobject", "use", "image"} & set(page.tags)
    assert not {"src", "href", "xlink:href"} & {name for name, _ in page.attributes}
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert {"pipeline", "add", "_add", "subtract", "multiply"} <= set(page.words)


def test_the_reader_of_the_page_chooses_the_depth(ran, tmp_path):
    page = Page(ran.graph.draw(tmp_path / "g.html").read_text(encoding="utf-8"))
    assert page.tags.count("svg") == page.tags.count("input") == 3
    one = Page(ran.graph.draw(tmp_path / "one.html", depth=1).read_text(encoding="utf-8"))
    assert (one.tags.count("svg"), one.tags.count("input")) == (1, 0)


def test_hostile_names_are_only_text_on_the_page(hostile, tmp_path):
    text = hostile.draw(tmp_path / "g.html").read_text(encoding="utf-8")
    page = Page(text)
    assert set(page.tags) <= {
        "html", "head", "meta", "title", "style", "body", "h1", "span", "input", "label", "div", "p", "ul", "li", "b",
        "svg", "defs", "marker", "path", "g", "rect", "text",
    }  # fmt: skip
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert len(text) < 100_000
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


@pytest.mark.parametrize("suffix", TEXT)
def test_a_hundred_thousand_calls_in_a_chain_are_drawn(suffix, tmp_path):
    future = embed(0)
    for _ in range(99_999):
        future = embed(future)
    written = future.graph.draw(tmp_path / f"chain{suffix}").read_text(encoding="utf-8")
    assert "100,000" in written or "100000" in written
    assert len(written) < 20_000


@pytest.mark.parametrize("suffix", TEXT)
def test_a_deep_nest_is_drawn(suffix, tmp_path):
    @Node
    def dig(n):
        return dig(n - 1) if n else 0

    future = dig(5_000)
    future.resolve(executor="inline")
    future.graph.draw(tmp_path / f"deep{suffix}")
    future.graph.draw(tmp_path / f"deepest{suffix}", depth=10**6)


@pytest.mark.parametrize("suffix", TEXT)
def test_equal_graphs_give_equal_files(suffix, tmp_path):
    first, second = (fib_file(tmp_path / f"{name}{suffix}") for name in "ab")
    assert first == second


def fib_file(path):
    futures = wide(30), fib(3)
    text = join(*futures).graph.draw(path).read_text(encoding="utf-8")
    return re.sub(r"graphs\.py:\d+|test_languages\.py:\d+", "", text)
