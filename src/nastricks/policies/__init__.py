"""Policies: how gates are proposed."""

from nastricks.policies.base import Policy
from nastricks.policies.fixed import Fixed
from nastricks.policies.softmax import Softmax
from nastricks.policies.uniform import UniformPath

__all__ = ["Fixed", "Policy", "Softmax", "UniformPath"]
