"""Lightning modules that train supernets and children, and the protocol of tricks."""

from nastricks.modules.child import ChildModule
from nastricks.modules.schedule import Constant, Cosine, CosineAfterWarmup, Schedule
from nastricks.modules.supernet import SupernetModule
from nastricks.modules.training import TrainingModule
from nastricks.modules.trick import Calibration, Forward, Trick

__all__ = [
    "Calibration",
    "ChildModule",
    "Constant",
    "Cosine",
    "CosineAfterWarmup",
    "Forward",
    "Schedule",
    "SupernetModule",
    "TrainingModule",
    "Trick",
]
