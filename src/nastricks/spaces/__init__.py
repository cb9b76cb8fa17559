"""Search spaces: what exists (DESIGN idea 1)."""

from nastricks.spaces.base import (
    Allowed,
    Architecture,
    Choice,
    Cost,
    Edge,
    Gate,
    GatedOps,
    Gates,
    Network,
    Option,
    Plain,
    Segment,
    Space,
)
from nastricks.spaces.nasnet import NASNet
from nastricks.spaces.sequence import SequenceSpace
from nastricks.spaces.tabular import Tabular
from nastricks.spaces.tiny64 import Tiny64
from nastricks.spaces.weight_sharing_64 import WeightSharing64

__all__ = [
    "Allowed",
    "Architecture",
    "Choice",
    "Cost",
    "Edge",
    "Gate",
    "GatedOps",
    "Gates",
    "NASNet",
    "Network",
    "Option",
    "Plain",
    "Segment",
    "SequenceSpace",
    "Space",
    "Tabular",
    "Tiny64",
    "WeightSharing64",
]
