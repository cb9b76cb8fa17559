"""Networks of which every layer has a width to choose: slimmable networks and AutoSlim.

"Slimmable Neural Networks" (Yu et al. 2019, 1812.08928), "Universally Slimmable Networks" (Yu, Huang 2019, 1903.05134)
and "AutoSlim" (Yu, Huang 2019, 1903.11728), for the ResNet of CIFAR (He et al. 2016, section 4.2) and for MobileNetV2
(Sandler et al. 2018, table 2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError, unknown
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Choice
from nastricks.spaces.network import Network, Segment
from nastricks.spaces.sizes import Sizes, channel_sizes, sizes
from nastricks.spaces.slimmable_blocks import BasicBlock, InvertedBlock, SlimHead, SlimStem

NETWORKS = ("resnet", "mobilenet_v2")
MOST_WIDTHS = 9


@dataclass(frozen=True)
class SlimStage:
    """A stage at width 1: its channels, blocks, the stride of the first; `expansion` is MobileNetV2's."""

    channels: int
    blocks: int
    stride: int = 1
    expansion: int = 6


RESNET_20 = (SlimStage(16, 3), SlimStage(32, 3, stride=2), SlimStage(64, 3, stride=2))
MOBILENET_V2 = (
    SlimStage(16, 1, expansion=1),
    SlimStage(24, 2, stride=2),
    SlimStage(32, 3, stride=2),
    SlimStage(64, 4, stride=2),
    SlimStage(96, 3),
    SlimStage(160, 3, stride=2),
    SlimStage(320, 1),
)


class Slimmable(Space):
    """A ResNet or a MobileNetV2 in which the width of every layer is a nested choice, of the dimension ``width``.

    Layers whose outputs are added share one: ``stage1_width`` is that of a stage's residual stream (in a ResNet the
    stem's too), ``stage1_block1_width`` that of the channels inside a block, and MobileNetV2 has ``stem_width`` and
    ``head_width`` besides. Blocks that change the stream have a 1x1 shortcut in a ResNet, and none in MobileNetV2.

    Written as a digit a choice, counted from 1 for the smallest width, in the order of `choices`: ``444444444444`` is
    the whole ResNet-20 of four widths.

    Each channel has one batch norm whatever the width, where slimmable networks switch between one for each: with
    widths a layer, children are calibrated instead (AutoSlim, section 3.3). A gate runs one option, without weights.

    Args:
        network: ``resnet`` or ``mobilenet_v2``.
        stages: The stages at width 1; None takes those of ResNet-20, or of MobileNetV2.
        widths: Multipliers of the channels, rising, at most nine.
        divisor: Channels are multiples of it; 8 in the papers, less for narrow layers.
        stem_channels: Of MobileNetV2's stem, at least 1; a ResNet's has those of its first stage.
        stem_stride: 1 or 2.
        head_channels: Of MobileNetV2's last convolution, at least 1; a ResNet has none.
    """

    name: ClassVar[str] = "slimmable"

    def __init__(
        self,
        network: Literal["resnet", "mobilenet_v2"] = "resnet",
        stages: Sequence[SlimStage] | None = None,
        widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        divisor: int = 4,
        stem_channels: int = 32,
        stem_stride: int = 1,
        head_channels: int = 1280,
    ) -> None:
        if network not in NETWORKS:
            raise unknown("network", network, NETWORKS)
        chosen = (RESNET_20 if network == "resnet" else MOBILENET_V2) if stages is None else tuple(stages)
        counts = {"divisor": divisor, "stem_channels": stem_channels, "head_channels": head_channels}
        for key, value in counts.items():
            if value < 1:
                raise InputError(f"space.{key} is {value}: expected at least 1")
        if stem_stride not in (1, 2):
            raise InputError(f"space.stem_stride is {stem_stride}: expected 1 or 2")
        if not chosen or any(min(s.channels, s.blocks, s.expansion) < 1 or s.stride not in (1, 2) for s in chosen):
            raise InputError(
                f"space.stages are {list(chosen)}: expected at least one, with channels, blocks, expansion and a "
                "stride of 1 or 2"
            )
        if len(widths) > MOST_WIDTHS:
            raise InputError(f"space.widths are {len(widths)}: expected at most {MOST_WIDTHS}, a digit each")
        self.network, self.stages, self.widths, self.divisor = network, chosen, tuple(widths), divisor
        self.stem_channels, self.stem_stride, self.head_channels = stem_channels, stem_stride, head_channels
        self.layers = dict(self._layers())
        choices = (layer.choice for layer in self.layers.values())
        self.choices: tuple[Choice, ...] = tuple(choice for choice in choices if choice is not None)

    def _layers(self) -> Iterator[tuple[str, Sizes[int]]]:
        """The channels of every layer that has a width of its own, by the name of its choice."""
        mobile = self.network == "mobilenet_v2"
        inputs = self.stem_channels
        if mobile:
            yield self._sizes("stem_width", self.stem_channels)
        for number, stage in enumerate(self.stages, start=1):
            yield self._sizes(f"stage{number}_width", stage.channels)
            for place in range(1, stage.blocks + 1):
                inside = inputs * stage.expansion if mobile else stage.channels
                if not mobile or stage.expansion > 1:  # without expansion there is no layer inside
                    yield self._sizes(f"stage{number}_block{place}_width", inside)
                inputs = stage.channels
        if mobile:
            yield self._sizes("head_width", self.head_channels)

    def _sizes(self, name: str, channels: int) -> tuple[str, Sizes[int]]:
        return name, channel_sizes(channels, sizes(name, "width", self.widths, "w"), self.divisor)

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        mobile = self.network == "mobilenet_v2"
        stream = self.layers["stem_width" if mobile else "stage1_width"]
        segments: dict[str, Segment] = {"stem": SlimStem(spec.channels, stream, self.stem_stride, mobile, allowed)}
        for number, stage in enumerate(self.stages, start=1):
            outputs = self.layers[f"stage{number}_width"]
            for place in range(1, stage.blocks + 1):
                stride = stage.stride if place == 1 else 1
                inside = self.layers.get(f"stage{number}_block{place}_width")
                block = InvertedBlock if mobile else BasicBlock
                segments[f"stage{number}_block{place}"] = block(stream, inside, outputs, stride, allowed)
                stream = outputs
        last = self.layers["head_width"] if mobile else None
        segments["head"] = SlimHead(stream, last, spec.classes, allowed)
        return Network(segments, allowed, nested=True)
