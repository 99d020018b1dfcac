"""What "train method M at profile P" means: data, degradation, network and steps, in one place.

`METHODS` names everything that restores an image or predicts depth; `MODELS` adds the helpers that are trained too.
In this order: batches (`data`), the recipes and their plans (`models`), training and loading (`running`), and what a
training takes (`needs`).
"""

from minirestore import config
from minirestore.recipes.data import NOISE_SIGMA, DataConfig, depth_as_grey, make_data, missing_data
from minirestore.recipes.models import METHODS, MODELS, Recipe, find_recipe, plan
from minirestore.recipes.needs import dry_run
from minirestore.recipes.running import build, describe_device, load_method, predict, restore, train

__all__ = [
    "METHODS",
    "MODELS",
    "NOISE_SIGMA",
    "DataConfig",
    "Recipe",
    "build",
    "config",
    "depth_as_grey",
    "describe_device",
    "dry_run",
    "find_recipe",
    "load_method",
    "make_data",
    "missing_data",
    "plan",
    "predict",
    "restore",
    "train",
]
