"""Taking a subnet out of an elastic supernet and running it, against a network that was built at that size."""

from collections.abc import Callable

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


@torch.no_grad()
def extracted_subnet(rounds: int = 10, passes: int = 20, batch_size: int = 8, size: int = 128) -> Result:
    """A random subnet of once-for-all's published space: taken out and run `passes` times, against the same network
    built in plain PyTorch and run as often; `size` pixels a side, in eval mode.

    Both sides make a network anew each round: one gets the supernet's weights, the other fresh ones, as torch draws
    them. The note tells what making takes, and the passes alone, since the more passes the less making counts.

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
    plain = built(space, spec, architecture).eval()
    weights = space.extract(supernet, spec, architecture).state_dict().values()
    plain.load_state_dict(dict(zip(plain.state_dict(), weights, strict=True)))
    expected = plain(images)
    if not torch.allclose(expected, space.extract(supernet, spec, architecture)(images), atol=SAME):
        raise RuntimeError("benchmark extracted_subnet: the two networks give different outputs")

    def side(make: Callable[[], nn.Module]) -> tuple[Callable[[], None], list[Clock], list[Clock]]:
        making: list[Clock] = []
        running: list[Clock] = []

        def turn() -> None:
            start = Clock.now()
            network = make().to(memory_format=torch.channels_last)
            made = Clock.now()
            for _ in range(passes):
                network(images)
            making.append(made.since(start))
            running.append(Clock.now().since(made))

        return turn, making, running

    taken_out, taking, own = side(lambda: space.extract(supernet, spec, architecture))
    written_down, building, others = side(lambda: built(space, spec, architecture).eval())
    times = alternate(taken_out, written_down, rounds)
    told = f"{space.format(architecture)}, {passes} passes of {batch_size} images of {size} pixels"
    parts = f"making it {compared(taking, building)}; the passes {compared(own, others)}"
    note = f"{told}: {compared(*times)}; {parts}"
    return Result.of("extracted_subnet", ratios(*times), target=1.02, note=note)
