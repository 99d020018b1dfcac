"""DepthMaster, its parts: targets, losses, Fourier block; parity with the released code."""

from pathlib import Path

import by_rule
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirestore import diffusion
from minirestore.networks import count_parameters
from minirestore.papers import depthmaster as paper
from minirestore.papers.depthmaster import losses, targets

GOLDEN = Path(__file__).parent / "golden" / "depthmaster"


def load(file):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / f"{file}.npz").items()
            if np.asarray(value).dtype.kind != "U"}  # fmt: skip


BLOCK, ALIGNMENT, CURVE, STAGE2, TARGET, NOISE, SCHEDULE = (
    load(file)
    for file in ("fe_f64_even", "fa_loss_f64", "huber_curve_f64", "stage2_loss_f64", "target_norm",
                 "marigold_multires_noise", "marigold_schedule")
)  # fmt: skip


def close(found, right, rtol=1e-10, atol=1e-10):
    torch.testing.assert_close(found, right.reshape(found.shape), rtol=rtol, atol=atol)


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(("space", "name"), [("depth", "D"), ("disparity", "invD"), ("sqrt_disparity", "sqrtinvD")])
def test_the_targets_are_the_released_ones(space, name):
    depth, valid = TARGET["depth"].float()[None], TARGET["valid"].bool()[None]
    close(paper.depth_target(depth, valid, space), TARGET[f"norm_{name}"].float(), atol=1e-6)


def test_holes_end_far_in_disparity_and_near_in_depth():
    depth, valid = TARGET["depth"].float()[None], TARGET["valid"].bool()[None]
    assert (depth == 0).any() and (depth[valid] > 0).all()
    for space in targets.SPACES:
        assert (paper.depth_target(depth, valid, space)[depth == 0] == -1).all()
    near, far = (torch.full((1, 1, 8, 8), value) for value in (2.0, 20.0))
    both = torch.cat([near, far], dim=3)
    ends = {space: paper.depth_target(both, both > 0, space)[0, 0, 0] for space in targets.SPACES}
    assert ends["depth"][0] == -1 and ends["depth"][-1] == 1
    assert all(ends[s][0] == 1 and ends[s][-1] == -1 for s in ("disparity", "sqrt_disparity"))


def test_zeros_do_not_count_even_where_they_are_said_to_be_valid():
    depth = TARGET["depth"].float()[None]
    for space in targets.SPACES:
        assert torch.equal(paper.depth_target(depth, depth >= 0, space), paper.depth_target(depth, depth > 0, space))


@given(scale=st.floats(0.01, 100), space=st.sampled_from(targets.SPACES))
def test_targets_do_not_depend_on_the_unit(scale, space):
    depth = 1 + 9 * torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = depth < 8
    close(paper.depth_target(scale * depth, valid, space), paper.depth_target(depth, valid, space), atol=1e-8)


def test_a_flat_map_becomes_zero_and_an_empty_one_is_refused():
    flat = torch.full((1, 1, 6, 6), 3.0)
    assert (paper.depth_target(flat, flat > 0) == 0).all()
    with pytest.raises(ValueError, match="map 0 has no valid pixel"):
        paper.depth_target(flat, flat > 5)
    with pytest.raises(ValueError, match="quantiles: expected"):
        paper.depth_target(flat, flat > 0, quantiles=(0.9, 0.1))
    with pytest.raises(ValueError, match="space: expected"):
        paper.to_space(flat, "log")


def test_a_latent_is_valid_where_all_its_pixels_are():
    assert torch.equal(paper.valid_latents(TARGET["valid"].bool()[None]), TARGET["valid_latent"].bool())


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(("kind", "name"), [("head", "head"), ("before", "before_2026_04_14")])
def test_the_weighted_difference_is_the_released_one(kind, name):
    error = CURVE["err"].clone().requires_grad_()
    values = paper.weighted_difference(error, kind, CURVE["delta"].item())
    (slope,) = torch.autograd.grad(values.sum(), error)
    edge = ((error.abs() - CURVE["delta"]).abs() < 1e-9).detach()  # either branch, up to rounding
    close(values[~edge].detach(), CURVE[f"loss_{name}"][~edge])
    close(slope[~edge], CURVE["dloss_head"][~edge])
    close(slope[~edge], CURVE["dloss_before"][~edge])


def test_the_papers_curve_is_continuous_and_a_reversed_huber_loss():
    delta = losses.DELTA
    error = torch.tensor([0.0, delta - 1e-9, delta + 1e-9, 1.0], dtype=torch.float64, requires_grad=True)
    values = paper.weighted_difference(error)
    (slope,) = torch.autograd.grad(values.sum(), error)
    close(values.detach(), error.new_tensor([0.0, delta**2, delta**2, 0.5 + delta**2 / 2]), atol=1e-8)
    close(slope[1:], error.new_tensor([delta, delta, 1.0]), atol=1e-8)
    huber = paper.weighted_difference(error.detach(), "huber")
    close(huber, torch.nn.functional.huber_loss(error.detach(), torch.zeros(4), delta=delta, reduction="none"))
    assert torch.equal(paper.weighted_difference(-error, "l1"), error)
    with pytest.raises(ValueError, match="kind: expected"):
        paper.weighted_difference(error, "l2")


def test_the_loss_of_stage_2_is_the_released_one():
    prediction, target, valid = STAGE2["pred"].clone().requires_grad_(), STAGE2["gt"], STAGE2["mask"].bool()
    for name, x in (("gt", target), ("pred", prediction)):
        close(paper.directional_gradients(torch.where(valid, x, 0)).detach(), STAGE2[f"grad_{name}"])
    found = paper.stage2_loss(prediction, target, valid, "head", STAGE2["lam"].item())
    close(found["pixel"].detach(), STAGE2["pixel_mse"])
    close(found["gradient"].detach(), STAGE2["grad_loss"])
    close(found["loss"].detach(), STAGE2["total"])
    (slope,) = torch.autograd.grad(found["loss"], prediction)
    close(slope, STAGE2["dtotal_dpred"])
    (same,) = torch.autograd.grad(paper.stage2_loss(prediction, target, valid)["loss"], prediction)
    close(same, slope)
    with pytest.raises(ValueError, match="nothing is valid"):
        paper.stage2_loss(prediction, target, valid & False)


def test_every_direction_counts():
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    found = paper.directional_gradients(ramp)
    assert found.shape == (1, 4, 3, 4)
    assert [found[0, i].unique().tolist() for i in range(4)] == [[1.0], [0.0], [1.0], [1.0]]
    assert [x.unique().tolist() for x in paper.directional_gradients(ramp.mT.contiguous())[0]] == [
        [0.0], [1.0], [-1.0], [1.0],
    ]  # fmt: skip


def aligned(reduction):
    head = paper.AlignmentHead(24, 32, 32).double()
    head.load_state_dict({name[3:]: value for name, value in ALIGNMENT.items() if name.startswith("sd.")})
    middle = ALIGNMENT["feat"].clone().requires_grad_()
    H, W = ALIGNMENT["dino_grid"].tolist()
    external = ALIGNMENT["dino_tokens"].transpose(1, 2).reshape(2, 32, H, W)
    return paper.feature_alignment(middle, external, head, reduction), middle, head


def test_feature_alignment_is_the_released_one():
    loss, middle, head = aligned("mean")
    close(loss.detach(), ALIGNMENT["loss_mean"])
    loss.backward()
    close(middle.grad, ALIGNMENT["grad_feat"])
    for name, parameter in head.named_parameters():
        close(parameter.grad, ALIGNMENT[f"grad.{name}"])
    close(aligned("token")[0].detach(), ALIGNMENT["kl_per_token_mean"])
    close(32 * loss.detach(), ALIGNMENT["kl_per_token_mean"])
    with pytest.raises(ValueError, match="reduction: expected"):
        aligned("sum")


def test_feature_alignment_survives_large_features():
    middle, external = torch.randn(1, 8, 4, 4), 1e4 * torch.randn(1, 16, 8, 8)
    head = paper.AlignmentHead(8, 16, 16)
    assert torch.isfinite(paper.feature_alignment(middle, external, head))


# ---------------------------------------------------------------- Fourier Enhancement


def block(**options):
    made = paper.FourierEnhancement(16, **options).double()
    weights = {name[3:]: value for name, value in BLOCK.items() if name.startswith("sd.")}
    made.load_state_dict(weights)
    return made


def test_the_block_is_the_released_one():
    made, x = block(residual=False, smallest=0.0), BLOCK["x"].clone().requires_grad_()
    u = made.norm(x)
    close(u.detach(), BLOCK["mid.norm_out"])
    amplitude, phase = made.amplitude_and_phase(made.act(made.conv_f1(u)))
    close(amplitude.detach(), BLOCK["mid.amp_in"])
    close(phase.detach(), BLOCK["mid.phase_in"])
    close(made.frequency_path(u).detach(), BLOCK["mid.xf"])
    y = made(x)
    close(y.detach(), BLOCK["y"])
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    close(x.grad, BLOCK["grad_x"], rtol=1e-8)
    for name, parameter in made.named_parameters():
        close(parameter.grad.norm(), BLOCK[f"gradnorm.{name}"], rtol=1e-8)


def test_the_guard_changes_nothing_where_amplitudes_are_large():
    x = BLOCK["x"]
    close(block(residual=False, smallest=1e-12)(x), block(residual=False, smallest=0.0)(x))


def test_the_guard_bounds_the_gradient_where_they_are_not():
    def slope(smallest):
        made = paper.FourierEnhancement(16, residual=False, smallest=smallest)
        x = torch.full((1, 16, 8, 8), 0.3) + 1e-7 * torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
        x = x.requires_grad_()
        made(x).square().sum().backward()
        return x.grad.abs().max()

    torch.manual_seed(0)
    guarded = slope(1e-4)
    torch.manual_seed(0)
    assert slope(0.0) > 3 * guarded
    assert torch.isfinite(guarded)


def test_with_a_way_around_the_block_begins_as_the_identity():
    x = BLOCK["x"]
    made = paper.FourierEnhancement(16).double()
    assert torch.equal(made(x), x)
    made(x).square().sum().backward()
    assert made.fuse.weight.grad.abs().min() > 0  # it can leave the identity at the first step
    close(block()(x), x + block(residual=False)(x))


def test_the_released_block_begins_by_erasing_its_input():
    torch.manual_seed(0)
    x = torch.randn(2, 64, 8, 8)
    y = paper.FourierEnhancement(64, residual=False)(x)
    assert (y - x).norm() > 0.9 * x.norm()
    assert abs(torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0)) < 0.2


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (6, 19), (1, 1)])
@pytest.mark.parametrize("spectral", [True, False])
def test_any_grid_goes_through(size, spectral):
    made = paper.FourierEnhancement(8, residual=False, spectral=spectral)
    assert made(torch.randn(2, 8, *size)).shape == (2, 8, *size)


def test_the_control_in_space_has_as_many_parameters_and_another_result():
    spectral, spatial = block(residual=False), block(residual=False, spectral=False)
    assert count_parameters(spectral) == count_parameters(spatial)
    assert not torch.allclose(spectral(BLOCK["x"]), spatial(BLOCK["x"]), atol=1e-3)


def test_parameters_of_the_published_parts():
    with torch.device("meta"):
        assert count_parameters(paper.FourierEnhancement(residual=False)) == 78_654_720
        assert count_parameters(paper.AlignmentHead()) == 6_689_280
    assert count_parameters(paper.FourierEnhancement(64, residual=False)) == 48 * 64**2 + 9 * 64
    with pytest.raises(ValueError, match="width: expected a multiple of 8"):
        paper.FourierEnhancement(20)
    with pytest.raises(ValueError, match="smallest"):
        paper.FourierEnhancement(16, smallest=-1.0)


# ---------------------------------------------------------------- the rival: denoising


def test_the_noise_is_the_released_one():
    generator = torch.Generator().manual_seed(700)
    found = paper.multi_resolution_noise((2, 4, 12, 20), NOISE["t"], 1000, generator)
    close(found, NOISE["noise_annealed"], atol=1e-6)


def test_the_noise_is_white_at_the_end_and_coarse_at_the_beginning():
    generator = torch.Generator().manual_seed(0)
    early, late = (paper.multi_resolution_noise((8, 4, 32, 32), torch.full((8,), t), 1000, generator) for t in (999, 0))
    assert early.std() == pytest.approx(1, abs=1e-5) and late.std() == pytest.approx(1, abs=1e-5)
    means = [torch.nn.functional.avg_pool2d(x, 8).std() for x in (early, late)]
    assert means[0] > 3 * means[1] > 3 * 0.8 / 8


def test_levels_and_timesteps_are_the_released_ones():
    betas = diffusion.make_betas("scaled_linear", 1000, 0.00085, 0.012)
    levels = {rescaled: diffusion.make_alpha_bar(betas, zero_terminal_snr=rescaled) for rescaled in (False, True)}
    close(levels[False], SCHEDULE["alphas_cumprod_sd2"].double(), atol=1e-6)
    close(levels[True], SCHEDULE["alphas_cumprod_zsnr"].double(), atol=1e-6)
    for steps in (1, 4):
        assert diffusion.timesteps(1000, steps, "trailing") == SCHEDULE[f"t_trailing_{steps}"].tolist()
    x0, eps, level = SCHEDULE["x0"], SCHEDULE["eps"], levels[True][500].to(SCHEDULE["x0"].dtype)
    close(diffusion.add_noise(x0, eps, level), SCHEDULE["noisy_t500_zsnr"], atol=1e-5)
    close(diffusion.velocity(x0, eps, level), SCHEDULE["v_t500_zsnr"], atol=1e-5)


# ---------------------------------------------------------------- the network

UNET = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 8,
    "block_out_channels": (16, 32, 32, 32), "cross_attention_dim": 16, "attention_head_dim": (2, 4, 4, 4),
    "use_linear_projection": True,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
NETWORK = load("depthmaster_unet")


@pytest.fixture(scope="module")
def stock():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


@pytest.fixture(scope="module")
def weights(stock):
    """The rule's weights by released name, of both stages."""
    block = paper.FourierEnhancement(32, residual=False).state_dict()
    shapes = {
        **{k: v.shape for k, v in stock.state_dict().items()},
        **{f"fftblock.{k}": v.shape for k, v in block.items()},
    }
    return {name: by_rule.weight(name, tuple(shape)) for name, shape in shapes.items()}


@pytest.fixture
def single(stock, weights):
    import copy

    made = paper.SingleStepNetwork(copy.deepcopy(stock))
    made.load_released({k: v for k, v in weights.items() if not k.startswith("fftblock.")})
    return made.eval()


Z, TEXT = (by_rule.inputs(f"dm.{name}", shape) for name, shape in (("z", (1, 4, 12, 20)), ("text", (1, 2, 16))))


def test_stage_1_is_the_released_network(single):
    with torch.no_grad():
        predicted, middle = single(Z, TEXT)
    close(predicted, NETWORK["out_s1"], atol=2e-5)
    close(middle, NETWORK["feat_s1"], atol=5e-5)
    assert count_parameters(single) == 540_356


def test_stage_2_is_the_released_network(single, weights):
    second = single.enhanced(residual=False, smallest=0.0).eval()
    second.load_released(weights)
    with torch.no_grad():
        predicted, middle = second(Z, TEXT)
    close(predicted, NETWORK["out_s2"], atol=2e-5)
    close(middle, NETWORK["feat_s2"], atol=5e-5)
    assert count_parameters(second) == 589_796


def test_stage_2_begins_as_stage_1_with_a_way_around_and_not_without(single):
    with torch.no_grad():
        before = single(Z, TEXT)[0]
        assert torch.equal(single.enhanced()(Z, TEXT)[0], before)
        assert not torch.allclose(single.enhanced(residual=False)(Z, TEXT)[0], before, atol=1e-3)


def test_only_the_last_stage_has_its_block_in_the_way(single):
    """A network and what was made of it share the U-Net; the block is met once."""
    calls = []
    second = single.enhanced()
    third = second.enhanced()
    for made, name in ((second, "second"), (third, "third")):
        made.enhancement.register_forward_hook(lambda *_, name=name: calls.append(name))
    third(Z, TEXT)
    assert calls == ["third"]


def test_the_middle_carries_a_gradient(single):
    _, middle = single(Z, TEXT)
    middle.square().sum().backward()
    moved = {name.partition(".")[0] for name, p in single.unet.named_parameters()
             if p.grad is not None and p.grad.abs().max() > 0}  # fmt: skip
    assert "down_blocks" in moved and "mid_block" in moved and "up_blocks" not in moved


def test_weights_of_the_other_stage_are_refused(single, weights):
    with pytest.raises(ValueError, match="they come with the Fourier block of stage 2, and the network has none"):
        single.load_released(weights)
    second = single.enhanced(residual=False)
    with pytest.raises(ValueError, match="they come without the Fourier block of stage 2, and the network has one"):
        second.load_released({k: v for k, v in weights.items() if not k.startswith("fftblock.")})
    with pytest.raises(RuntimeError, match="conv_f1"):
        second.load_released({k: v for k, v in weights.items() if "conv_f1" not in k})


def test_an_odd_grid_goes_through(single):
    assert single.enhanced()(torch.randn(1, 4, 20, 28), TEXT)[0].shape == (1, 4, 20, 28)
