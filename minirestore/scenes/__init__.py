"""Procedural images, unlimited and exact: dead leaves, ray-cast scenes with depth, and pools of training crops."""

from minirestore.scenes.dead_leaves import dead_leaves
from minirestore.scenes.layouts import FAMILIES, LABELS
from minirestore.scenes.pool import CropPool
from minirestore.scenes.ray_cast import render_scenes

__all__ = ["FAMILIES", "LABELS", "CropPool", "dead_leaves", "render_scenes"]
