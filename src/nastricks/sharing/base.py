"""Which copy of the weights an architecture uses."""

from abc import ABC, abstractmethod

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces import Allowed, Architecture, Network, Space


class Sharing(ABC):
    """Builds the networks that a supernet's training uses, and says which of them an architecture runs in.

    With one copy this is the plain supernet; with m copies each group of architectures has its own [few-shot,
    groups, prefix sharing]. Copies may share modules: parameters that appear twice are optimised once.
    """

    def check(self, runs_several: bool, policy: str) -> None:
        """Refuse a policy that runs several options at once, where architectures have weights of their own.

        Raises:
            InputError: it does.
        """
        if runs_several:
            raise InputError(
                f"sharing {type(self).__name__} gives architectures weights of their own, and policy {policy} runs "
                "several options at once: use ShareAll, or a policy that runs one path"
            )

    @abstractmethod
    def networks(self, space: Space, spec: ImageSpec, allowed: Allowed) -> list[Network]:
        """The copies, with fresh weights and the allowed options."""

    @abstractmethod
    def copy_of(self, architecture: Architecture | None) -> int:
        """The index of the copy that an architecture uses; None stands for gates that run several options at once.

        Raises:
            InputError: several options at once, where architectures use different copies.
        """


class ShareAll(Sharing):
    """One copy of the weights for every architecture: the plain supernet."""

    def check(self, runs_several: bool, policy: str) -> None:
        """Every policy works with one copy."""

    def networks(self, space: Space, spec: ImageSpec, allowed: Allowed) -> list[Network]:
        return [space.build(spec, allowed)]

    def copy_of(self, architecture: Architecture | None) -> int:
        return 0
