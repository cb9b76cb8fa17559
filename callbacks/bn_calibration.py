"""Batch-norm calibration: a child's statistics are recomputed before it is scored.

Weight sharing leaves running statistics that belong to no child. SPOS (Guo et al. 2020, section 3.4), AutoSlim (Yu &
Huang 2019), OFA and AttentiveNAS recompute them over a few training batches.
"""

from typing import ClassVar

from nastricks.errors import InputError
from nastricks.modules.trick import Calibration, Change, Need, Trick


class BNCalibration(Trick):
    """Averages each child's batch statistics over `batches` training batches, with equal weight each.

    Args:
        batches: Number of training batches, at least 1.

    Raises:
        InputError: `batches` is out of its range.
    """

    changes: ClassVar[Change] = "normalisation statistics"
    needs: ClassVar[tuple[Need, ...]] = ("batch norm",)
    after_training = True

    def __init__(self, batches: int = 10) -> None:
        super().__init__()
        if batches < 1:
            raise InputError(f"bn_calibration.batches is {batches}: expected at least 1, such as 10")
        self.batches = batches

    def calibration(self) -> Calibration:
        self.act()
        return Calibration(batches=self.batches)
