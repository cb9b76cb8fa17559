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

    def check(self, runs_several: bool, who: str) -> None:
        """Refuse `who`, such as ``policy Softmax``, that runs several options at once, where children own weights.

        Raises:
            InputError: it does.
        """
        if runs_several:
            raise InputError(
                f"sharing {type(self).__name__} gives architectures weights of their own, and {who} runs several "
                "options at once: use ShareAll, or run one path at a time"
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

    def check(self, runs_several: bool, who: str) -> None:
        """Everything works with one copy."""

    def networks(self, space: Space, spec: ImageSpec, allowed: Allowed) -> list[Network]:
        return [space.build(spec, allowed)]

    def copy_of(self, architecture: Architecture | None) -> int:
        return 0
