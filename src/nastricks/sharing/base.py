"""Which copy of the weights an architecture uses."""

from abc import ABC, abstractmethod

from nastricks.data.batch import ImageSpec
from nastricks.spaces import Allowed, Architecture, Network, Space


class Sharing(ABC):
    """Builds the networks that a supernet's training uses, and says which of them an architecture runs in.

    With one copy this is the plain supernet; with m copies each group of architectures has its own [few-shot,
    groups, prefix sharing]. Copies may share modules: parameters that appear twice are optimised once.
    """

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

    def networks(self, space: Space, spec: ImageSpec, allowed: Allowed) -> list[Network]:
        return [space.build(spec, allowed)]

    def copy_of(self, architecture: Architecture | None) -> int:
        return 0
