"""What an ablation's file says: the arms and interactions of every design, and what is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from nastricks.ablation.design import DESIGNS, Design, read_design
from nastricks.errors import InputError

Read = Callable[..., Design]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """``read(**content)`` reads a file with a stack, two seeds, and the content given."""

    def reads(**content: Any) -> Design:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"stack": ["a.yaml"], "seeds": 2, **content}, sort_keys=False))
        return read_design(path)

    return reads


def arms(design: Design) -> dict[str, Mapping[str, Any]]:
    return {name: dict(arm.tricks) for name, arm in design.arms.items()}


def made(kind: str, tricks: Any, **more: Any) -> dict[str, Any]:
    return {"design": {"kind": kind, "tricks": tricks, **more}}


def test_add_one(read: Read) -> None:
    design = read(**made("add_one", {"sam": {"rho": 0.1}, "mixup": {}}), tricks={"sgdr": {"t_0": 5}})
    sgdr = {"sgdr": {"t_0": 5}}
    assert arms(design) == {
        "base": sgdr,
        "sam": {**sgdr, "sam": {"rho": 0.1}},
        "mixup": {**sgdr, "mixup": {}},
    }
    assert design.interactions == ()


def test_leave_one_out_compares_with_all_of_them(read: Read) -> None:
    design = read(**made("leave_one_out", ["sam", "mixup", "cutout"]))
    whole: dict[str, Any] = {"sam": {}, "mixup": {}, "cutout": {}}
    assert arms(design) == {
        "base": whole,
        "without_sam": {**whole, "sam": None},
        "without_mixup": {**whole, "mixup": None},
        "without_cutout": {**whole, "cutout": None},
    }


def test_cumulative_adds_in_the_order_given(read: Read) -> None:
    design = read(**made("cumulative", ["mixup", "sam", "cutout"]))
    assert list(arms(design)) == ["base", "mixup", "mixup+sam", "mixup+sam+cutout"]
    assert set(arms(design)["mixup+sam"]) == {"mixup", "sam"}
    assert arms(design)["base"] == {}


def test_factorial_holds_every_subset_and_every_pair(read: Read) -> None:
    design = read(**made("factorial", {"sam": {}, "mixup": {"alpha": 0.5}, "cutout": {}}))
    names = ["base", "sam", "mixup", "cutout", "sam+mixup", "sam+cutout", "mixup+cutout", "sam+mixup+cutout"]
    assert list(arms(design)) == names
    for name in names[1:]:
        assert set(arms(design)[name]) == set(name.split("+"))
    assert arms(design)["mixup+cutout"]["mixup"] == {"alpha": 0.5}
    assert set(design.interactions) == {
        ("sam x mixup", "sam", "mixup", "sam+mixup"),
        ("sam x cutout", "sam", "cutout", "sam+cutout"),
        ("mixup x cutout", "mixup", "cutout", "mixup+cutout"),
    }


def test_crossed_has_each_trick_with_and_without_the_modifier(read: Read) -> None:
    design = read(**made("crossed", ["sam", "mixup"], modifier={"bn_calibration": {"batches": 2}}))
    calibrated = {"bn_calibration": {"batches": 2}}
    assert arms(design) == {
        "base": {},
        "bn_calibration": calibrated,
        "sam": {"sam": {}},
        "mixup": {"mixup": {}},
        "sam+bn_calibration": {"sam": {}, **calibrated},
        "mixup+bn_calibration": {"mixup": {}, **calibrated},
    }
    assert design.interactions == (
        ("sam x bn_calibration", "sam", "bn_calibration", "sam+bn_calibration"),
        ("mixup x bn_calibration", "mixup", "bn_calibration", "mixup+bn_calibration"),
    )


def test_listed_arms_come_beside_a_design(read: Read) -> None:
    long = {"tricks": {"sam": {"rho": 0.2}}, "stack": ["b.yaml"], "set": {"trainer": {"max_epochs": 3}}}
    listed = {"strong": long, "none": {"sam": None}, "both": {"sam": {}, "mixup": {}}}
    design = read(
        **made("add_one", ["mixup"]), tricks={"sam": {}}, arms=listed, interactions=[["mixup", "none", "both"]]
    )
    assert list(design.arms) == ["base", "mixup", "strong", "none", "both"]
    assert design.arms["strong"].stack == ("b.yaml",)
    assert design.arms["strong"].set == {"trainer.max_epochs": 3}
    assert design.arms["strong"].tricks == {"sam": {"rho": 0.2}}
    assert design.arms["none"].tricks == {"sam": None}
    assert design.interactions == (("mixup x none", "mixup", "none", "both"),)


def test_every_design_is_tested_with_base_first(read: Read) -> None:
    for kind in DESIGNS:
        modifier = {"modifier": ["bn_calibration"]} if kind == "crossed" else {}
        assert next(iter(read(**made(kind, ["sam", "mixup"], **modifier)).arms)) == "base"


def test_seeds_names_and_keys(read: Read) -> None:
    design = read(**made("add_one", ["sam"]), seeds=3, set={"data": {"init_args": {"fraction": 0.5}}})
    assert design.seeds == (0, 1, 2)
    assert design.name == "mine"
    assert design.set == {"data.init_args.fraction": 0.5}
    assert read(**made("add_one", ["sam"]), seeds=[7, 3]).seeds == (7, 3)
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    assert read(**made("add_one", ["sam"]), set={"model": {"optimizer": optimizer}}).set == {
        "model.optimizer": optimizer
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no arm beside base"),
        (made("add_two", ["sam"]), "design 'add_two'.*did you mean 'add_one'"),
        (made("add_one", []), "names at least one|is empty"),
        (made("add_one", ["samm"]), "trick 'samm'.*did you mean 'sam'"),
        (made("add_one", "sam"), "expected names of tricks"),
        (made("add_one", {"sam": 0.1}), "sets sam to 0.1"),
        (made("add_one", ["sam"], modifier=["mixup"]), "modifier goes with crossed"),
        (made("crossed", ["sam"]), "crossed needs one"),
        (made("crossed", ["sam"], modifier=["sam"]), "not among tricks"),
        (made("crossed", ["sam"], modifier=["mixup", "cutout"]), "expected one trick"),
        (made("crossed", ["sam"], modifer=["mixup"]), "'modifer'.*did you mean 'modifier'"),
        (made("factorial", ["sam"]), "2 to 6 tricks"),
        ({"design": ["sam"]}, "expected kind and tricks"),
        ({**made("add_one", ["sam"]), "arms": {"sam": {"mixup": {}}}}, "names the arm sam twice"),
        ({**made("add_one", ["sam"]), "interactions": [["sam", "mixup", "sam"]]}, "'mixup'"),
        ({**made("add_one", ["sam"]), "interactions": [["sam", "base"]]}, "first arm, second arm, both"),
        ({**made("add_one", ["sam"]), "seeds": -1}, "seeds"),
        ({**made("add_one", ["sam"]), "seeds": [0, -1]}, "seeds"),
        ({**made("add_one", ["sam"]), "seeds": [2, 2]}, "a seed twice"),
        ({**made("add_one", ["sam"]), "seeds": "five"}, "seeds"),
        ({**made("add_one", ["sam"]), "stack": "a.yaml"}, "list of file names"),
        ({**made("add_one", ["sam"]), "stack": []}, "lacks stack"),
        ({**made("add_one", ["sam"]), "metrics": {"gt_tau": "larger"}}, "expected max or min"),
        ({**made("add_one", ["sam"]), "metric": {"gt_tau": "max"}}, "did you mean 'metrics'"),
    ],
    ids=str,
)
def test_refused_in_one_sentence(read: Read, content: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        read(**content)
    assert "\n" not in str(refusal.value)


def test_arms_can_be_left_out(read: Read) -> None:
    content = {"arms": {"sam": ["sam"], "mixup": ["mixup"], "both": {"against": "sam", "tricks": ["sam", "mixup"]}}}
    design = read(**content)
    assert list(design.without(["mixup", "both"]).arms) == ["base", "sam"]
    assert design.without(["both"]).left_out == ("both",)
    for name, words in (("sma", "did you mean 'sam'"), ("base", "cannot be left out"), ("sam", "cannot be left out")):
        with pytest.raises(InputError, match=words):
            design.without([name])
