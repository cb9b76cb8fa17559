"""Estimators: how a policy learns."""

from nastricks.estimators.base import Estimator, Step, Updater
from nastricks.estimators.baselines import (
    Baseline,
    Critic,
    ExponentialBaseline,
    FixedBaseline,
    MeanBaseline,
    NoBaseline,
)
from nastricks.estimators.first_order import FirstOrder
from nastricks.estimators.gumbel_relax import GumbelRelax
from nastricks.estimators.implicit import ImplicitGradient
from nastricks.estimators.loss_reward import LossReward
from nastricks.estimators.mixed_level import MixedLevel
from nastricks.estimators.ppo import PPO
from nastricks.estimators.relax import RELAX
from nastricks.estimators.score_function import Reinforce, ScoreFunction
from nastricks.estimators.second_order import SecondOrder
from nastricks.estimators.single_level import SingleLevel

__all__ = [
    "Baseline",
    "Critic",
    "Estimator",
    "ExponentialBaseline",
    "FirstOrder",
    "FixedBaseline",
    "GumbelRelax",
    "ImplicitGradient",
    "LossReward",
    "MeanBaseline",
    "MixedLevel",
    "NoBaseline",
    "PPO",
    "RELAX",
    "Reinforce",
    "ScoreFunction",
    "SecondOrder",
    "SingleLevel",
    "Step",
    "Updater",
]
