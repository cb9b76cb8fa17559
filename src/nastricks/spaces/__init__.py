"""Search spaces: what exists (DESIGN idea 1)."""

from nastricks.spaces.base import Cost, Edge, Space
from nastricks.spaces.child_costs import ChildCosts
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.darts import DARTS
from nastricks.spaces.elastic import Elastic, ElasticStage
from nastricks.spaces.latency import Measurement, Stopwatch, measure_latency, read_latency, write_latency
from nastricks.spaces.mobile import Mobile
from nastricks.spaces.nas_bench_macro import NASBenchMacro
from nastricks.spaces.nasbench201 import NASBench201
from nastricks.spaces.nasnet import NASNet
from nastricks.spaces.network import Gate, GatedOps, Gates, Network, Plain, Segment
from nastricks.spaces.option_costs import OptionCosts, option_costs
from nastricks.spaces.resource import Resource
from nastricks.spaces.sequence import SequenceSpace
from nastricks.spaces.slimmable import Slimmable, SlimStage
from nastricks.spaces.tabular import Tabular
from nastricks.spaces.tiny64 import Tiny64
from nastricks.spaces.weight_sharing_64 import WeightSharing64

__all__ = [
    "DARTS",
    "Allowed",
    "Architecture",
    "ChildCosts",
    "Choice",
    "Cost",
    "Edge",
    "Elastic",
    "ElasticStage",
    "Gate",
    "GatedOps",
    "Gates",
    "Measurement",
    "Mobile",
    "NASBench201",
    "NASBenchMacro",
    "NASNet",
    "Network",
    "Option",
    "OptionCosts",
    "Plain",
    "Resource",
    "Segment",
    "SequenceSpace",
    "SlimStage",
    "Slimmable",
    "Space",
    "Stopwatch",
    "Tabular",
    "Tiny64",
    "WeightSharing64",
    "measure_latency",
    "option_costs",
    "read_latency",
    "write_latency",
]
