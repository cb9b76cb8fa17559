"""Prefix sharing: children share the beginning of the network ("Deeper Insights into Weight Sharing", section 6)."""

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.sharing.base import Sharing
from nastricks.spaces import Allowed, Architecture, Network, Segment, Space


class PrefixSharing(Sharing):
    """The stem and the first `blocks` blocks are shared, what follows is each child's own.

    A block is a segment of the network that reads a choice; what stands between two blocks belongs to the earlier one.
    With all blocks shared this is the plain supernet.

    Args:
        blocks: k, at least 0.
        share_classifier: Whether the classifier, the last segment, is always shared (True), or never (False); None
            shares it where all blocks are.

    Raises:
        InputError: `blocks` is below 0 or beyond the depth.
    """

    def __init__(self, blocks: int, share_classifier: bool | None = None) -> None:
        if blocks < 0:
            raise InputError(f"sharing.blocks is {blocks}: expected at least 0")
        self.blocks, self.share_classifier = blocks, share_classifier
        self._copies: dict[Architecture, int] = {}

    def networks(self, space: Space, spec: ImageSpec, allowed: Allowed) -> list[Network]:
        whole = space.build(spec, allowed)
        shared = self._shared(space, whole)
        children = space.within(allowed)
        self._copies = {child: number for number, child in enumerate(children)}
        names = [choice.name for choice in space.choices]
        networks = []
        for child in children:
            own = space.build(spec, {name: (index,) for name, index in zip(names, child, strict=True)})
            for segment in shared:
                own.segments[segment] = whole.segments[segment]
            networks.append(own)
        return networks

    def copy_of(self, architecture: Architecture | None) -> int:
        if architecture is None:
            raise InputError("PrefixSharing needs one architecture at a time, and several options run at once")
        return self._copies[architecture]

    def _shared(self, space: Space, network: Network) -> list[str]:
        """The names of the segments that all children share."""
        shared, passed = [], 0
        for name, segment in network.segments.items():
            passed += bool(isinstance(segment, Segment) and segment.choices)
            if passed <= self.blocks:
                shared.append(name)
        if self.blocks > passed:
            raise InputError(
                f"sharing.blocks is {self.blocks} and {space.name} has {passed} blocks: choose at most these"
            )
        last = list(network.segments)[-1]
        shared = [name for name in shared if name != last]
        together = self.blocks == passed if self.share_classifier is None else self.share_classifier
        return [*shared, last] if together else shared
