"""Searches outside a supernet's training: algorithms that ask and are told, tables of ground truth, the engine."""

from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm
from nastricks.search.constraints import Constraints, Costs
from nastricks.search.evolution import RegularizedEvolution
from nastricks.search.greedy_slimming import GreedySlimming
from nastricks.search.hyperband import Hyperband, SuccessiveHalving
from nastricks.search.local_search import LocalSearch
from nastricks.search.optuna_search import NSGA2, TPE, pareto
from nastricks.search.policy_search import PolicySearch
from nastricks.search.random_search import RandomSearch
from nastricks.search.reward import ObjectiveReward, Reward, SharedWeights, TableReward
from nastricks.search.trained_child import TrainedChild
from nastricks.spaces import Resource

__all__ = [
    "Constraints",
    "Costs",
    "GreedySlimming",
    "Hyperband",
    "LocalSearch",
    "NSGA2",
    "ObjectiveReward",
    "Outcome",
    "PolicySearch",
    "Proposal",
    "RandomSearch",
    "RegularizedEvolution",
    "Resource",
    "Reward",
    "SearchAlgorithm",
    "SharedWeights",
    "SuccessiveHalving",
    "TPE",
    "TableReward",
    "TrainedChild",
    "pareto",
]
