"""Drawings of architectures: well-formed SVG with every decision in it."""

from xml.etree import ElementTree

import pytest

from nastricks.rng import generator
from nastricks.spaces import Edge, NASNet, Space, Tiny64, WeightSharing64
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
    places = [(box.attrib["x"], box.attrib["y"]) for box in root.iter(f"{SVG}rect") if box.attrib["width"] != "100%"]
    assert len(places) == len(set(places)) > 10


def test_arrows_between_the_same_nodes_are_one_with_both_labels() -> None:
    root = ElementTree.fromstring(draw([Edge("a", "b", "conv"), Edge("a", "b", "pool")], "two"))
    assert "conv + pool" in [text.text for text in root.iter(f"{SVG}text")]


def test_names_are_escaped() -> None:
    root = ElementTree.fromstring(draw([Edge("<in>", "out & more", "a<b")], "x < y & z"))
    assert "<in>" in [text.text for text in root.iter(f"{SVG}text")]
