"""Estimators: how a policy learns."""

from nastricks.estimators.base import Estimator, Step
from nastricks.estimators.first_order import FirstOrder

__all__ = ["Estimator", "FirstOrder", "Step"]
