"""Drawings of architectures: well-formed SVG with every decision in it."""

import itertools
from xml.etree import ElementTree

import pytest

from nastricks.rng import generator
from nastricks.spaces import DARTS, Edge, NASNet, Space, Tiny64, WeightSharing64
from nastricks.spaces.drawing import draw

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("space", [Tiny64(), WeightSharing64()], ids=lambda s: s.name)
def test_every_node_and_decision_is_drawn_inside_the_picture(space: Space) -> None:
    architecture = space.parse("234")
    edges = space.graph(architecture)
    root = ElementTree.fromstring(draw(edges, f"{space.name} 234"))
    words = [text.text for text in root.iter(f"{SVG}text")]
    for choice, index in zip(space.choices, architecture, strict=True):
        assert choice.options[index].name.replace("_", " ") in words
    for node in {n for e in edges for n in (e.source, e.target)}:
        assert words.count(node) == 1
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter(f"{SVG}rect"):
        if box.attrib["width"] != "100%":
            assert 0 <= float(box.attrib["x"]) <= width - float(box.attrib["width"])
            assert 0 <= float(box.attrib["y"]) <= height - float(box.attrib["height"])


def test_no_two_boxes_share_a_place() -> None:
    space = NASNet(channels=4, reductions=1)
    architecture = space.sample(generator("drawing"))
    root = ElementTree.fromstring(draw(space.graph(architecture), "nasnet"))
    groups = [(group.attrib["transform"], group) for group in root.iter(f"{SVG}g")]
    places = [(where, box.attrib["x"], box.attrib["y"]) for where, group in groups for box in group.iter(f"{SVG}rect")]
    assert len({where for where, _ in groups}) == 2
    assert len(places) == len(set(places)) > 10


def test_arrows_between_the_same_nodes_are_one_with_both_labels() -> None:
    root = ElementTree.fromstring(draw([Edge("a", "b", "conv"), Edge("a", "b", "pool")], "two"))
    assert "conv + pool" in [text.text for text in root.iter(f"{SVG}text")]


def test_names_are_escaped() -> None:
    root = ElementTree.fromstring(draw([Edge("<in>", "out & more", "a<b")], "x < y & z"))
    assert "<in>" in [text.text for text in root.iter(f"{SVG}text")]


def test_a_long_row_reuses_its_lanes() -> None:
    edges = [Edge(f"layer {i:02}", f"layer {i + 1:02}", "conv") for i in range(20)]
    root = ElementTree.fromstring(draw(edges, "deep"))
    boxes = [box for box in root.iter(f"{SVG}rect") if box.attrib["width"] != "100%"]
    assert len({box.attrib["x"] for box in boxes}) == 1
    assert float(boxes[0].attrib["x"]) < 80
    lanes = {(dot.attrib["cx"], dot.attrib["cy"]) for dot in root.iter(f"{SVG}circle")}
    assert len(lanes) == 20


def test_cells_stand_side_by_side_under_their_headings_and_no_words_overlap() -> None:
    space = DARTS()
    root = ElementTree.fromstring(draw(space.graph(space.sample(generator("drawing"))), "darts"))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words.count("normal cells") == words.count("reduce cells") == 1
    assert words.count("node 5") == 2
    for group in root.iter(f"{SVG}g"):
        lines = [float(text.attrib["y"]) for text in group.iter(f"{SVG}text") if text.attrib["text-anchor"] == "start"]
        assert all(b - a >= 20 for a, b in itertools.pairwise(sorted(lines)))
