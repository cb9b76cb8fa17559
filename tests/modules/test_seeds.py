"""Three sources of randomness that vary apart: initial weights, what is drawn at a step, batches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nastricks.run import Run

# Lightning 2.6.6 asks torch's pytrees in a way that torch 2.15 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

HELD = {
    "weights": "model.init_args.weights_seed",
    "paths": "model.init_args.paths_seed",
    "batches": "data.init_args.batches_seed",
}


def seen(run: Run) -> dict[str, Any]:
    """The initial weights, the paths of ten steps, and the first batch."""
    run.data.setup("fit")
    steps = [run.module.moment("weights").at(step=step) for step in range(10)]
    return {
        "weights": [p.tolist() for p in run.module.networks.parameters()],
        "paths": [run.module.policy.propose(at) for at in steps],
        "batches": run.data.batch("train", 0).images.tolist(),
    }


@pytest.mark.parametrize("varies", [*HELD, None])
def test_one_source_varies_while_the_others_are_held(varies: str | None, make: Callable[..., Run]) -> None:
    held = {key: 7 for source, key in HELD.items() if source != varies}
    found = []
    for seed in (0, 1):
        own = {"seed_everything": seed, "model.init_args.seed": seed, "data.init_args.seed": seed}
        found.append(seen(make("spos", None, {**own, **held})))
    assert {source for source in HELD if found[0][source] != found[1][source]} == ({varies} if varies else set())


def test_a_seed_that_is_not_named_is_the_run_s(make: Callable[..., Run]) -> None:
    own = {"seed_everything": 3, "model.init_args.seed": 3, "data.init_args.seed": 3}
    plain = seen(make("spos", None, own))
    assert plain == seen(make("spos", None, {**own, **dict.fromkeys(HELD.values(), 3)}))


def test_a_held_training_is_the_same_training(make: Callable[..., Run]) -> None:
    ends = []
    for seed in (0, 1):
        run = make(
            "spos", None, {"seed_everything": seed, "model.init_args.seed": seed, **dict.fromkeys(HELD.values(), 7)}
        )
        run.fit()
        ends.append([p.detach().clone() for p in run.module.networks.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
