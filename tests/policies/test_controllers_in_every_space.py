"""A controller sees any space as its sequence of choices: every shipped one, as its recipe builds it."""

from pathlib import Path

import pytest
import torch

from nastricks.policies import Independent, LSTMController, SequencePolicy
from nastricks.recipe import space_and_spec
from nastricks.rng import generator
from nastricks.spaces import Space

# Lightning 2.6 calls the parser by its old name.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

RECIPES = sorted((Path(__file__).parents[2] / "recipes/spaces").glob("*.yaml"))


@pytest.mark.parametrize("policy", [LSTMController, Independent])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_draws_are_legal_and_scored_as_drawn(recipe: Path, policy: type[SequencePolicy]) -> None:
    space: Space = space_and_spec([recipe])[0]
    made = policy(space)
    rollout = made.draw(generator("every space", recipe.stem), 64)
    for architecture in rollout.architectures:
        assert architecture is not None
        assert space.check(architecture) == architecture
        assert space.parse(space.format(architecture)) == architecture
    torch.testing.assert_close(made.score(rollout.tokens).log_probs.detach(), rollout.log_probs)
    assert len(set(rollout.architectures)) > 16
