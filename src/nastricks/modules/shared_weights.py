"""Start a child or a later stage's supernet from an earlier supernet's weights, and its policy from an earlier one."""

from collections.abc import Mapping
from typing import Any

from nastricks.errors import InputError
from nastricks.policies import Policy
from nastricks.spaces import Network


def load_shared_weights(network: Network, state: Mapping[str, Any], copy: int = 0) -> None:
    """Copy weights and statistics from a module's state: what both hold bears the same name.

    Raises:
        InputError: the state lacks one, or its shape differs: it is of another space or width.
    """
    prefix = f"networks.{copy}."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    network.load_state_dict(network.weights_from(own))


def load_policy(policy: Policy, state: Mapping[str, Any]) -> None:
    """Copy the parameters and the mask of allowed options of a policy from a module's state.

    Raises:
        InputError: the state holds another policy, or one of other choices.
    """
    own = {name.removeprefix("policy."): value for name, value in state.items() if name.startswith("policy.")}
    try:
        policy.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            f"the earlier policy does not fit {type(policy).__name__}: it is of another class or space"
        ) from error
