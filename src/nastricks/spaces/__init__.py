"""Search spaces: what exists (DESIGN idea 1)."""

from nastricks.spaces.base import Cost, Edge, Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.darts import DARTS
from nastricks.spaces.nasbench201 import NASBench201
from nastricks.spaces.nasnet import NASNet
from nastricks.spaces.network import Gate, GatedOps, Gates, Network, Plain, Segment
from nastricks.spaces.sequence import SequenceSpace
from nastricks.spaces.tabular import Tabular
from nastricks.spaces.tiny64 import Tiny64
from nastricks.spaces.weight_sharing_64 import WeightSharing64

__all__ = [
    "DARTS",
    "Allowed",
    "Architecture",
    "Choice",
    "Cost",
    "Edge",
    "Gate",
    "GatedOps",
    "Gates",
    "NASBench201",
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
