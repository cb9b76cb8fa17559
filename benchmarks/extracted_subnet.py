"""Taking a subnet out of an elastic supernet and running it, against a network that was built at that size."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import Clock, Result, alternate, compared, ratios
from nastricks.data import ImageSpec
from nastricks.memory import keep_freed_memory
from nastricks.modules.normalisation import batch_norms, cumulative_statistics
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Elastic
from nastricks.spaces.sizes import divisible

SAME = 1e-4  # the largest difference between the two networks' outputs that is rounding


class Plain(nn.Module):
    """A block, or what stands beside a shortcut, in plain PyTorch."""

    def __init__(self, *layers: nn.Module, shortcut: bool) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


class Squeeze(nn.Module):
    """Squeeze and excitation in plain PyTorch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = divisible(channels // 4)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, middle, 1),
            nn.ReLU(),
            nn.Conv2d(middle, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def built(space: Elastic, spec: ImageSpec, architecture: Architecture) -> nn.Sequential:
    """The architecture as anyone would write it down: MobileNetV3 in plain layers, in the order of the space's."""
    width = space.stem_channels
    stem = [*_conv(width, width, 3, groups=width), nn.ReLU(), *_conv(width, width)]
    layers = [*_conv(spec.channels, width, 3, space.stem_stride), nn.Hardswish(), Plain(*stem, shortcut=True)]
    for stage, own, channels in zip(space.stages, space.stage_sizes, space.channels, strict=True):
        activation = nn.Hardswish if stage.hard_swish else nn.ReLU
        outputs = space.value(channels, architecture)
        for place in range(space.value(own.depth, architecture)):
            kernel = space.value(own.kernels[place], architecture)
            hidden = divisible(width * space.value(own.expansions[place], architecture))
            block = [*_conv(width, hidden), activation()]
            block += [*_conv(hidden, hidden, kernel, stage.stride if place == 0 else 1, hidden), activation()]
            block += [Squeeze(hidden)] if stage.squeeze else []
            layers.append(Plain(*block, *_conv(hidden, outputs), shortcut=place > 0))
            width = outputs
    mix = nn.Linear(space.head_channels, space.features, bias=False)
    head = [*_conv(width, space.head_channels), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), mix]
    return nn.Sequential(*layers, *head, nn.Hardswish(), nn.Linear(space.features, spec.classes))


class Times(NamedTuple):
    """What one side takes, a round each; the first round is a warm-up."""

    making: list[Clock]
    passes: list[Clock]

    def counted(self) -> list[Clock]:
        """Making the network and its passes together."""
        return [a.plus(b) for a, b in zip(self.making[1:], self.passes[1:], strict=True)]


@torch.no_grad()
def extracted_subnet(rounds: int = 10, passes: int = 20, batch_size: int = 8, size: int = 128) -> Result:
    """A random subnet of once-for-all's published space: taken out and run `passes` times, against the same network
    built in plain PyTorch and run as often; `size` pixels a side, in eval mode.

    Both sides make a network anew each round: one takes the supernet's weights, the other draws fresh ones as torch
    does. Before its passes each loads the same weights, which is not timed, so that both compute the same numbers. The
    note tells what making takes, and the passes alone, since the more passes the less making counts.

    Raises:
        RuntimeError: the two networks, with the same weights, give different outputs.
    """
    keep_freed_memory()  # as every run does
    space, spec, rng = Elastic(resolutions=None), ImageSpec(3, size, 1000), generator("benchmark", "elastic")
    with forked_rng("benchmark", "elastic"):
        supernet = space.supernet(spec).eval()
    architecture = space.sample(rng)
    images = torch.randn(batch_size, spec.channels, size, size, generator=rng).to(memory_format=torch.channels_last)
    with cumulative_statistics(batch_norms(supernet)):  # so that outputs are of the inputs' size
        supernet.train()(images, space.gates(architecture))
    supernet.eval()
    subnet, plain = space.extract(supernet, spec, architecture), built(space, spec, architecture).eval()
    own = subnet.state_dict()
    plain.load_state_dict(dict(zip(plain.state_dict(), own.values(), strict=True)))
    if not torch.allclose(plain(images), subnet(images), atol=SAME):
        raise RuntimeError("benchmark extracted_subnet: the two networks give different outputs")

    def side(make: Callable[[], nn.Module], values: dict[str, Tensor]) -> tuple[Callable[[], None], Times]:
        times = Times([], [])

        def turn() -> None:
            start = Clock.now()
            network = make().to(memory_format=torch.channels_last)
            times.making.append(Clock.now().since(start))
            network.load_state_dict(values)
            start = Clock.now()
            for _ in range(passes):
                network(images)
            times.passes.append(Clock.now().since(start))

        return turn, times

    taken_out, first = side(lambda: space.extract(supernet, spec, architecture), own)
    written_down, second = side(lambda: built(space, spec, architecture).eval(), plain.state_dict())
    alternate(taken_out, written_down, rounds)
    both = first.counted(), second.counted()
    told = f"{space.format(architecture)}, {passes} passes of {batch_size} images of {size} pixels"
    parts = f"making it {compared(first.making, second.making)}; the passes {compared(first.passes, second.passes)}"
    note = f"{told}: {compared(*both)}; {parts}"
    return Result.of("extracted_subnet", ratios(*both), target=1.02, note=note)
