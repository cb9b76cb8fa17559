"""Distillation: the network also learns the outputs of another one, which was trained before.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network" (1503.02531, section 2); once-for-all (Cai et al.
2020, 1908.09791) trains every phase with weight 1 against its largest network.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nastricks.data.batch import Batch
from nastricks.errors import InputError, unknown
from nastricks.modules.normalisation import batch_statistics
from nastricks.modules.soft_labels import soft_cross_entropy
from nastricks.modules.teacher import check_teacher, teacher_gates
from nastricks.modules.trick import Change, Forward, Trick
from nastricks.moment import Moment
from nastricks.rng import forked_rng
from nastricks.run import load_module
from nastricks.spaces import Gates, Network

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

STATISTICS = ("batch", "running")


class Distillation(Trick):
    """Adds to every path's loss its cross entropy under a trained network's soft labels for the same images.

    The teacher sees the batch as the path does, after the tricks that act on batches. It never learns.

    Args:
        teacher: The run folder of a child or a supernet that `nastricks fit` finished, or a checkpoint in one.
        weight: What the soft labels count beside the loss, above 0; once-for-all has 1.
        temperature: Of both softmaxes, above 0.
        architecture: Which child of a supernet teaches; None takes the largest, where there is one.
        statistics: What the teacher's batch norms use: those of the ``batch``, as in the released code of
            once-for-all, or the ``running`` ones, which in a supernet mix all paths.

    Raises:
        InputError: a value is out of its range; before training, a teacher that is missing, has other classes or does
            not hold the architecture.
    """

    changes: ClassVar[Change] = "loss"
    order = 35

    def __init__(
        self,
        teacher: str | None = None,
        weight: float = 1.0,
        temperature: float = 1.0,
        architecture: str | None = None,
        statistics: Literal["batch", "running"] = "batch",
    ) -> None:
        super().__init__()
        for key, value in {"weight": weight, "temperature": temperature}.items():
            if not 0 < value < float("inf"):
                raise InputError(f"distillation.{key} is {value}: expected a number above 0, such as 1")
        if statistics not in STATISTICS:
            raise unknown("distillation.statistics", statistics, STATISTICS)
        self.teacher, self.weight, self.temperature = teacher, weight, temperature
        self.architecture, self.statistics = architecture, statistics
        self._network: Network | None = None
        self._gates: Gates = {}
        self._module: TrainingModule | None = None
        self._told: tuple[tuple[int, int], Tensor] | None = None  # the latest batch's soft labels, for its other passes

    def prepare(self, module: "TrainingModule") -> None:
        if self.teacher is None:
            raise InputError(
                "distillation.teacher is not set: name the run folder of a trained child or supernet, such as "
                "runs/teacher"
            )
        self._module = module
        if self._network is not None:
            return
        trained = load_module(self.teacher)
        check_teacher(trained, module, self.teacher)
        self._gates = teacher_gates(trained, self.architecture, self.teacher)
        self._network = trained.network_of(self._gates).requires_grad_(False).eval()

    def on_loss(self, loss: Tensor, forward: Forward, at: Moment) -> Tensor:
        self.act()
        return loss + self.weight * soft_cross_entropy(forward.logits, self._teach(forward.batch, at), self.temperature)

    @torch.no_grad()
    def _teach(self, batch: Batch, at: Moment) -> Tensor:
        """The teacher's logits (N, classes); asked once a micro-batch, however many passes see it."""
        key = (at.step, at.micro_batch)
        if self._told is not None and self._told[0] == key:
            return self._told[1]
        network, module = self._network, self._module
        assert network is not None, "prepare comes first"
        assert module is not None, "prepare comes first"
        like = next(module.networks.parameters())
        network.to(device=like.device, dtype=like.dtype)  # nothing moves after the first time
        images = batch.images.to(like.dtype, memory_format=torch.channels_last)
        with forked_rng(at.seed, at.step, at.micro_batch, "teacher", at.rank, device=at.device):
            if self.statistics == "batch":
                with batch_statistics(network):
                    logits = network(images, self._gates)
            else:
                logits = network(images, self._gates)
        self._told = (key, logits)
        return logits
