"""Policies: how gates are proposed."""

from nastricks.policies.all_options import AllOptions
from nastricks.policies.alpha import AlphaPolicy
from nastricks.policies.base import Policy
from nastricks.policies.binary_gates import BinaryGates
from nastricks.policies.edge_normalised import EdgeNormalised
from nastricks.policies.fairness import StrictFairness
from nastricks.policies.fixed import Fixed
from nastricks.policies.grouped_softmax import GroupedSoftmax
from nastricks.policies.gumbel import GumbelHard, GumbelSoftmax
from nastricks.policies.independent import Independent
from nastricks.policies.lstm_controller import LSTMController
from nastricks.policies.monte_carlo_tree import MonteCarloTree
from nastricks.policies.prioritised import Prioritised
from nastricks.policies.rewarded import RewardedPolicy
from nastricks.policies.sandwich import Sandwich
from nastricks.policies.sequence import Rollout, Scored, SequencePolicy
from nastricks.policies.sigmoid import BinaryConcrete, Sigmoid
from nastricks.policies.softmax import Softmax
from nastricks.policies.sweep import Sweep
from nastricks.policies.temperature import (
    ConstantTemperature,
    ExponentialTemperature,
    LinearTemperature,
    Temperature,
)
from nastricks.policies.uniform import UniformPath
from nastricks.policies.vocabulary import Vocabulary

__all__ = [
    "AllOptions",
    "Sandwich",
    "StrictFairness",
    "Sweep",
    "AlphaPolicy",
    "BinaryConcrete",
    "BinaryGates",
    "ConstantTemperature",
    "EdgeNormalised",
    "ExponentialTemperature",
    "Fixed",
    "GroupedSoftmax",
    "GumbelHard",
    "GumbelSoftmax",
    "Independent",
    "LSTMController",
    "LinearTemperature",
    "MonteCarloTree",
    "Policy",
    "Prioritised",
    "RewardedPolicy",
    "Rollout",
    "Scored",
    "SequencePolicy",
    "Sigmoid",
    "Softmax",
    "Temperature",
    "UniformPath",
    "Vocabulary",
]
