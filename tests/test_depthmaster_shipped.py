"""What the shipped stages of DepthMaster do on scenes that they have not seen, beside guesses that see no picture."""

import pytest
import torch

from minirestore import photos, recipes, scenes
from minirestore.claims.depthmaster.common import aligned, blind, compare

NAMES = ("depthmaster", "depthmaster_stage1")


def errors(relative, depth, valid, space):
    """AbsRel of each map, aligned by itself."""
    maps = zip(relative.split(1), depth.split(1), valid.split(1), strict=True)
    return torch.tensor([compare(aligned(r, d, v, space), d, v)["abs_rel"] for r, d, v in maps])


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_the_model_beats_blind_guesses_on_every_family(family):
    drawn = scenes.render_scenes(8, 128, 700, family=family)
    depth, valid = drawn["depth"], drawn["valid"] & (drawn["depth"] < recipes.data.FARTHEST)
    for name in NAMES:
        model = recipes.load_method("depthmaster", name, "cpu")
        assert set(recipes.find_recipe("depthmaster").profiles["reduced"][1].families).isdisjoint({"spheres", "poles"})
        found = errors(recipes.predict(model, drawn["image"], longer_side=0), depth, valid, model.config.space)
        for guess in blind(depth).values():
            assert found.mean() < errors(guess, depth, valid, model.config.space).mean()


def test_the_model_beats_blind_guesses_on_the_motorcycle():
    pair = photos.middlebury_motorcycle()
    depth, valid = pair["depth"], pair["valid"]
    for name in NAMES:
        model = recipes.load_method("depthmaster", name, "cpu")
        found = errors(recipes.predict(model, pair["image"]), depth, valid, model.config.space)
        assert all(found < errors(guess, depth, valid, model.config.space) for guess in blind(depth).values())
