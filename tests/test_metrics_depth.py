"""Depth metrics and alignment: released values, closed forms, masks that must not leak."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from minirestore import metrics

GOLDEN = Path(__file__).parent / "golden" / "depthmaster"
RELEASED = json.loads((GOLDEN / "eval_metrics.json").read_text())
ARRAYS = {name: torch.from_numpy(array)[None, None] for name, array in np.load(GOLDEN / "eval_metrics_f64.npz").items()}
SPACES = {
    "least_square": "depth",
    "least_square_disparity": "disparity",
    "least_square_sqrt_disp": "sqrt_disparity",
}
CASES = [(mask, name) for mask in ("full", "holes") for name in SPACES]


def golden(mask):
    """The golden target, with zeros in its holes, and its mask."""
    depth = ARRAYS["depth" if mask == "full" else "depth_holes_zeroed"]
    return depth, ARRAYS["valid" if mask == "full" else "valid_with_holes"]


def scene(seed=0, batch=2):
    """Random blocks of depth between 1 and 9 m, float64."""
    blocks = torch.rand(batch, 1, 6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 8 + 1
    return blocks.repeat_interleave(3, 2).repeat_interleave(3, 3)


@pytest.mark.parametrize(("mask", "name"), CASES)
def test_official_alignment_equals_the_release(mask, name):
    target, valid = golden(mask)
    aligned = metrics.align_depth(ARRAYS["pred01"], target, valid, SPACES[name], official=True)
    released = RELEASED[f"{mask}.{name}"]
    assert aligned.scale.item() == pytest.approx(released["scale"], rel=1e-10)
    assert aligned.shift.item() == pytest.approx(released["shift"], rel=1e-10)
    torch.testing.assert_close(aligned.depth, ARRAYS[f"aligned.{mask}.{name}"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("mask", "name"), CASES)
def test_metrics_equal_the_release(mask, name):
    target, valid = golden(mask)
    prediction, released = ARRAYS[f"aligned.{mask}.{name}"], RELEASED[f"{mask}.{name}"]
    assert metrics.abs_rel(prediction, target, valid).item() == pytest.approx(released["abs_relative_difference"], 1e-6)
    assert metrics.delta1(prediction, target, valid).item() == pytest.approx(released["delta1_acc"], 1e-6)
    assert metrics.rmse(prediction, target, valid).item() == pytest.approx(released["rmse_linear"], 1e-6)
    f1 = metrics.boundary_f1(prediction, target, valid, official=True).item()
    assert f1 == pytest.approx(released["si_boundary_F1"], abs=1e-4)


def test_boundary_f1_equals_depth_pro_where_everything_is_valid():
    prediction, target = ARRAYS["aligned.full.least_square_sqrt_disp"], ARRAYS["depth"]
    expected = pytest.approx(RELEASED["apple.SI_boundary_F1.full"], abs=1e-9)
    assert metrics.boundary_f1(prediction, target).item() == expected
    shifted = target.roll(1, 3)
    shifted[..., 0] = target[..., 0]
    assert metrics.boundary_f1(shifted, target).item() < 0.6


def test_a_perfect_prediction_scores_one_in_spite_of_holes():
    depth, (target, valid) = ARRAYS["depth"], golden("holes")
    assert metrics.boundary_f1(depth, target, valid).item() == pytest.approx(1, abs=1e-12)
    released = RELEASED["depthmaster.si_boundary_F1.perfect_prediction_gt_has_zero_holes"]
    assert metrics.boundary_f1(depth, target, valid, official=True).item() == pytest.approx(released, abs=1e-4)


def test_boundary_f1_of_a_single_step_by_hand():
    target = torch.ones(1, 1, 4, 6)
    target[..., 3:] = 2.0  # one vertical edge, near on the left: a single one of the four directions has edges
    assert metrics.boundary_f1(target, target).item() == pytest.approx(0.25)
    half = target.clone()
    half[..., :2, 3:] = 1.0  # the edge is kept in two rows of four, and a horizontal one of three pixels is invented
    recall, precision = 0.5 / 4, 1 / 4
    assert metrics.boundary_f1(half, target).item() == pytest.approx(2 * recall * precision / (recall + precision))
    assert metrics.boundary_f1(target, torch.ones_like(target)).item() == 0


def test_the_rim_of_a_hole_is_no_edge():
    wall, valid = torch.full((1, 1, 8, 8), 5.0), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[..., 3:5, 3:5] = False
    target = torch.where(valid, wall, 0)
    assert metrics.boundary_f1(wall, target, valid).item() == 0  # a flat wall has no edges
    assert metrics.boundary_f1(target, target, valid, official=True).item() == pytest.approx(1)


def test_boundary_f1_thresholds_are_weighted():
    target = torch.ones(1, 1, 9, 9)
    target[..., 3:6, 3:6] = 2.0
    faint = torch.ones_like(target)
    faint[..., 3:6, 3:6] = 1.10  # passes the first three thresholds
    thresholds = np.linspace(1.05, 1.25, 10)
    expected = thresholds[thresholds < 1.10].sum() / thresholds.sum()
    assert metrics.boundary_f1(faint, target).item() == pytest.approx(expected)
    assert metrics.boundary_f1(3 * target, target).item() == pytest.approx(1, abs=1e-12)


def test_constant_relative_error():
    target = scene()
    torch.testing.assert_close(metrics.abs_rel(target * 1.2, target), torch.full((2,), 0.2).double())
    assert metrics.delta1(target * 1.2, target).tolist() == [1, 1]
    assert metrics.delta1(target * 1.26, target).tolist() == [0, 0] == metrics.delta1(target / 1.26, target).tolist()
    torch.testing.assert_close(metrics.rmse(target + 0.5, target), torch.full((2,), 0.5).double())


def test_negative_depth_never_counts_as_accurate():
    target = scene()
    assert metrics.delta1(-target, target).tolist() == [0, 0]


@pytest.mark.parametrize("space", ["depth", "disparity", "sqrt_disparity"])
def test_alignment_recovers_an_affine_prediction_of_each_image(space):
    target = scene()
    power = {"depth": 1, "disparity": -1, "sqrt_disparity": -0.5}[space]
    scale, shift = torch.tensor([0.5, -2.0]).double(), torch.tensor([0.1, 3.0]).double()
    prediction = (target**power - shift.view(2, 1, 1, 1)) / scale.view(2, 1, 1, 1)
    aligned = metrics.align_depth(prediction, target, space=space)
    torch.testing.assert_close(aligned.depth, target)
    torch.testing.assert_close(aligned.scale, scale)
    torch.testing.assert_close(aligned.shift, shift)


def test_alignment_leaves_the_residual_orthogonal():
    target, valid = scene(), scene(3) > 3
    prediction = scene(1)
    aligned = metrics.align_depth(prediction, target, valid, minimum=1e-9)
    residual = torch.where(valid, aligned.scale.view(2, 1, 1, 1) * prediction - target, 0)
    residual = residual + torch.where(valid, aligned.shift.view(2, 1, 1, 1), 0)
    zero = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(residual.sum((1, 2, 3)), zero, atol=1e-9, rtol=0)
    torch.testing.assert_close((residual * prediction).sum((1, 2, 3)), zero, atol=1e-9, rtol=0)


def test_alignment_keeps_far_pixels_that_the_release_drops_or_squares_back():
    target = torch.tensor([1.0, 1.0, 4.0, 4.0, 100.0, 100.0]).double().view(1, 1, 2, 3)
    prediction = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.0, 0.0]).double().view(1, 1, 2, 3)
    default = metrics.align_depth(prediction, target, space="sqrt_disparity")
    design = np.stack([prediction.flatten(), np.ones(6)], 1)
    scale, shift = np.linalg.lstsq(design, target.flatten().numpy() ** -0.5, rcond=None)[0]
    assert (default.scale.item(), default.shift.item()) == (pytest.approx(scale), pytest.approx(shift))
    released = metrics.align_depth(prediction, target, space="sqrt_disparity", official=True)
    assert (released.scale.item(), released.shift.item()) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    below = prediction.clone()
    below[..., 1, 2] = -0.5  # under the fit 1 p + 0 of the release: square-root disparity -.5, squared to 4 m
    assert metrics.align_depth(below, target, space="sqrt_disparity", official=True).depth[..., 1, 2].item() < 10
    assert metrics.align_depth(below, target, space="sqrt_disparity").depth[..., 1, 2].item() == pytest.approx(1000)


def test_alignment_clips_to_the_range_asked_for():
    target = scene()
    aligned = metrics.align_depth(target, target, minimum=2.0, maximum=5.0)
    torch.testing.assert_close(aligned.depth, target.clamp(2, 5))


def test_a_constant_prediction_is_fitted_by_the_mean():
    target = scene()
    aligned = metrics.align_depth(torch.full_like(target, 0.3), target)
    assert aligned.scale.tolist() == [0, 0]
    torch.testing.assert_close(aligned.shift, target.mean((1, 2, 3)))


DEPTH_METRICS = ["abs_rel", "delta1", "rmse", "boundary_f1"]


@pytest.mark.parametrize("name", DEPTH_METRICS)
@pytest.mark.parametrize("garbage", [0.0, -1.0, 1e9, math.nan, math.inf])
def test_invalid_pixels_are_never_read(name, garbage):
    target, valid = scene(), scene(3) > 3
    prediction = scene(1)
    expected = metrics.METRICS[name].function(prediction, target, valid)
    dirty = torch.where(valid, target, garbage), torch.where(valid, prediction, garbage)
    assert torch.equal(metrics.METRICS[name].function(dirty[1], dirty[0], valid), expected)
    aligned = metrics.align_depth(dirty[1], dirty[0], valid, "disparity")
    assert torch.equal(aligned.scale, metrics.align_depth(prediction, target, valid, "disparity").scale)


@pytest.mark.parametrize("name", DEPTH_METRICS)
def test_per_image_float64_and_low_precision(name):
    target, prediction, valid = scene(batch=3), scene(1, batch=3), scene(3, batch=3) > 3
    metric = metrics.METRICS[name].function
    scores = metric(prediction.requires_grad_(), target, valid)
    assert scores.shape == (3,) and scores.dtype == torch.float64 and not scores.requires_grad
    torch.testing.assert_close(metric(prediction[1:2], target[1:2], valid[1:2]), scores[1:2])
    half = prediction.detach().half(), target.half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(metric(*half, valid), metric(half[0].double(), half[1].double(), valid))


@pytest.mark.parametrize("name", [*DEPTH_METRICS, "align_depth"])
def test_bad_depth_gives_one_clear_error(name):
    metric = getattr(metrics, name)
    target, valid = scene(), torch.ones(2, 1, 18, 24, dtype=torch.bool)
    hole, nan = target.clone(), target.clone()
    hole[0, 0, 0, 0], nan[0, 0, 0, 0] = 0, math.nan
    cases = [
        ((target[:1], target), "prediction and target must have the same shape"),
        ((target.expand(2, 3, 18, 24), target), "prediction: expected 1 channels"),
        ((target[0], target), "prediction: expected 4 dimensions"),
        ((target, hole), r"target: depth must be positive.*valid=\(target > 0\)"),
        ((target, nan), "target: depth must be positive and finite"),
        ((nan, target), "prediction: contains NaN"),
        ((target, target, valid[:1]), "valid and target must have the same shape"),
        ((target, target, valid & (target[:1] < 0)), r"valid: image\(s\) \[0, 1\] .* no valid pixel"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            metric(*arguments)
    with pytest.raises(TypeError, match="target: .*metres, got torch.int64"):
        metric(target, target.long())
    with pytest.raises(TypeError, match="valid: expected a boolean tensor, got torch.float64"):
        metric(target, target, valid.double())


def test_alignment_refuses_what_it_cannot_fit():
    target = scene(batch=1)
    with pytest.raises(ValueError, match="space: expected .*'sqrt_disparity', got 'log'"):
        metrics.align_depth(target, target, space="log")
    with pytest.raises(ValueError, match="0 < minimum < maximum"):
        metrics.align_depth(target, target, minimum=5, maximum=1)
    one = torch.zeros_like(target, dtype=torch.bool)
    one[..., 0, 0] = True
    with pytest.raises(ValueError, match="fewer than 2 pixels"):
        metrics.align_depth(target, target, one)
    with pytest.raises(ValueError, match="fewer than 2 pixels"):
        metrics.align_depth(-target, target, space="disparity", official=True)
