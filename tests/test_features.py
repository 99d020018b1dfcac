"""The feature encoder: shapes, distances with known answers, and what its training must reach."""

import pytest
import torch

from minirestore import features
from minirestore.features import FeatureEncoder, FeatureEncoderConfig


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return FeatureEncoder(FeatureEncoderConfig(widths=(4, 8, 12), classes=5)).eval()


def random_images(count, size, seed):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_one_map_per_level_at_halving_resolution(encoder):
    maps = encoder(random_images(2, (16, 24), 0))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 16, 24), (2, 8, 8, 12), (2, 12, 4, 6)]
    assert encoder.logits(maps).shape == (2, 5, 16, 24)


def test_perceptual_distance_is_zero_only_for_equal_images(encoder):
    a, b = random_images(3, (15, 17), 0), random_images(3, (15, 17), 1)
    assert torch.equal(features.perceptual_distance(encoder, a, a), torch.zeros(3))
    distance = features.perceptual_distance(encoder, a, b)
    assert distance.shape == (3,)
    assert (distance > 1e-4).all()
    assert torch.allclose(distance, features.perceptual_distance(encoder, b, a))
    one = features.perceptual_distance(encoder, a[1:2], b[1:2])
    assert torch.allclose(one, distance[1:2], atol=1e-7)


def test_perceptual_distance_grows_with_the_noise(encoder):
    a = random_images(2, (32, 32), 0) * 0.1 + 0.45
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    distances = [features.perceptual_distance(encoder, a + s * noise, a).mean() for s in (0.01, 0.03, 0.1)]
    assert distances[0] < distances[1] < distances[2]


def test_perceptual_distance_has_a_gradient_and_never_broadcasts(encoder):
    a = random_images(1, (8, 8), 0).requires_grad_()
    features.perceptual_distance(encoder, a, random_images(1, (8, 8), 1)).sum().backward()
    assert a.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="must have the same shape"):
        features.perceptual_distance(encoder, random_images(2, (8, 8), 0), random_images(1, (8, 8), 0))


@pytest.mark.parametrize("size", [(2, 2), (3, 9), (16, 24)])
def test_pooled_features_are_the_means_and_deviations_of_the_maps(encoder, size):
    x = random_images(2, size, 0)
    pooled = features.pooled_features(encoder, x)
    assert pooled.shape == (2, 2 * (4 + 8 + 12))
    assert torch.isfinite(pooled).all()
    if size == (16, 24):  # a size that needs no padding
        start = 0
        for level in encoder(x):
            means, deviations = pooled[:, start:].split(level.shape[1], dim=1)[:2]
            assert torch.allclose(means, level.mean((2, 3)))
            assert torch.allclose(deviations, level.flatten(2).std(2))
            start += 2 * level.shape[1]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8), ValueError, "expected 3 channels"),
        (torch.full((1, 3, 8, 8), 255.0), ValueError, "divide by 255"),
        (torch.full((1, 3, 8, 8), float("nan")), ValueError, "NaN"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "expected a floating-point tensor"),
    ],
)
def test_bad_images_are_refused_by_name(encoder, x, error, message):
    with pytest.raises(error, match=f"x: .*{message}"):
        features.pooled_features(encoder, x)
    with pytest.raises(error, match=f"prediction: .*{message}"):
        features.perceptual_distance(encoder, x, torch.zeros(x.shape))
    with pytest.raises(error, match=f"target: .*{message}" if x.shape[1] == 3 else "prediction: "):
        features.perceptual_distance(encoder, torch.zeros(x.shape), x)


def test_frechet_distance_of_shifted_gaussians():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert features.frechet_distance(a, a + shift) == pytest.approx(shift.square().sum().item(), rel=1e-9)
    assert features.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # scaling by c: trace(C) (1 - c)^2 plus the mean's share
    expected = (torch.cov(a.T).trace() + a.mean(0).square().sum()).item()
    assert features.frechet_distance(a, 2 * a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_equals_scipy():
    import scipy.linalg

    generator = torch.Generator().manual_seed(1)
    a = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    b = torch.randn(40, 6, generator=generator, dtype=torch.float64) @ torch.randn(
        6, 6, generator=generator, dtype=torch.float64
    )
    ca, cb = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + (ca + cb - 2 * root).trace()
    assert features.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("a", "b"), [((3, 4), (3, 5)), ((1, 4), (3, 4)), ((4,), (3, 4))])
def test_frechet_distance_refuses_bad_sets(a, b):
    with pytest.raises(ValueError, match="expected"):
        features.frechet_distance(torch.zeros(a), torch.zeros(b))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_frechet_distance_refuses_values_that_are_not_finite(value):
    good, bad = torch.zeros(3, 4), torch.full((3, 4), value)
    with pytest.raises(ValueError, match="a: contains NaN or infinite features"):
        features.frechet_distance(bad, good)
    with pytest.raises(ValueError, match="b: contains NaN or infinite features"):
        features.frechet_distance(good, bad)


def test_losses_reach_every_parameter():
    torch.manual_seed(0)
    encoder = FeatureEncoder(FeatureEncoderConfig(widths=(4, 8), classes=3))
    batch = {"clean": random_images(2, (8, 8), 0), "labels": torch.randint(3, (2, 1, 8, 8))}
    losses = encoder.training_losses(batch, torch.Generator(), 0)
    losses["loss"].backward()
    assert 0 <= losses["accuracy"] <= 1
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_the_shipped_encoder_separates_degradations_and_content():
    """Blur and noise of growing strength must be further away; the encoder is frozen."""
    from minirestore import degradations, photos

    encoder = features.load_encoder()
    assert not any(p.requires_grad for p in encoder.parameters())
    clean = photos.load("china")[..., 100:196, 100:196]
    blurred = [
        features.perceptual_distance(encoder, degradations.gaussian_blur(clean, s), clean).item() for s in (0.5, 1, 2)
    ]
    noisy = [
        features.perceptual_distance(encoder, degradations.gaussian_noise(clean, s, 0), clean).item()
        for s in (5, 15, 40)
    ]
    assert blurred == sorted(blurred)
    assert noisy == sorted(noisy)
