"""Policies: how gates are proposed."""

from nastricks.policies.alpha import AlphaPolicy
from nastricks.policies.base import Policy
from nastricks.policies.fixed import Fixed
from nastricks.policies.independent import Independent
from nastricks.policies.lstm_controller import LSTMController
from nastricks.policies.sequence import Rollout, Scored, SequencePolicy
from nastricks.policies.softmax import Softmax
from nastricks.policies.uniform import UniformPath
from nastricks.policies.vocabulary import Vocabulary

__all__ = [
    "AlphaPolicy",
    "Fixed",
    "Independent",
    "LSTMController",
    "Policy",
    "Rollout",
    "Scored",
    "SequencePolicy",
    "Softmax",
    "UniformPath",
    "Vocabulary",
]
