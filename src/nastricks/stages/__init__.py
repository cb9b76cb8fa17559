"""A search is one or more stages (DESIGN idea 4): fits in a row, each starting from what one before it left."""

from nastricks.stages.recipe import Stage, Stages, read_stages
from nastricks.stages.run import run_stages, stage_config

__all__ = ["Stage", "Stages", "read_stages", "run_stages", "stage_config"]
