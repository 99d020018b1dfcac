"""Wavelets: equality with PyWavelets, perfect reconstruction, energy, dtypes, gradients, compilation, shrinkage."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirestore import wavelets
from minirestore.wavelets import dwt2, idwt2, wavedec2, waverec2

ALL = pywt.wavelist(kind="discrete")
# how far the filters tabulated in pywt are from exact: dmey is a finite cut of an infinite filter, sym are rounded
TABULATED = {"dmey": 0.05, **{name: 1e-9 for name in ALL if name.startswith("sym")}}
SOME = ("haar", "db2", "db3", "sym8", "coif1", "bior2.2", "rbio3.1", "bior1.1")
pytestmark = pytest.mark.filterwarnings("ignore:Level value of")


def random_image(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def flatten(coeffs):
    return [coeffs[0], *(band for bands in coeffs[1:] for band in bands)]


def largest_difference(ours, theirs):
    ours, theirs = flatten(ours), flatten(theirs)
    assert [tuple(a.shape) for a in ours] == [b.shape for b in theirs]
    return max(np.abs(a.numpy() - b).max() for a, b in zip(ours, theirs, strict=True))


# --- parity with PyWavelets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", wavelets.MODES)
@pytest.mark.parametrize("wavelet", ALL)
def test_every_wavelet_equals_pywt_and_inverts(wavelet, mode):
    for H, W in ((12, 18), (7, 2)):
        x = random_image(2, 1, H, W)
        coeffs = dwt2(x, wavelet, mode, odd="pad")
        expected = pywt.dwt2(x.numpy(), wavelet, mode)
        assert largest_difference(coeffs, expected) <= 1e-12
        inverse = idwt2(coeffs, wavelet, mode, size=(H, W))
        assert np.abs(inverse.numpy() - pywt.idwt2(expected, wavelet, mode)[..., :H, :W]).max() <= 1e-12
        assert (inverse - x).abs().max() <= TABULATED.get(wavelet, 1e-11)


@pytest.mark.parametrize("mode", wavelets.MODES)
@pytest.mark.parametrize("wavelet", SOME)
@pytest.mark.parametrize("size", [(32, 48), (29, 50), (9, 13)])
def test_multilevel_equals_pywt_and_inverts(wavelet, mode, size):
    x = random_image(2, 3, *size)
    coeffs = wavedec2(x, wavelet, 3, mode, odd="pad")
    assert largest_difference(coeffs, pywt.wavedec2(x.numpy(), wavelet, mode, level=3)) <= 1e-12
    assert (waverec2(coeffs, wavelet, mode, size=size) - x).abs().max() <= 1e-11


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SOME), st.sampled_from(wavelets.MODES), st.integers(2, 33), st.integers(2, 33))
def test_any_size_comes_back_at_its_size(wavelet, mode, H, W):
    x = random_image(1, 2, H, W, seed=H * 100 + W)
    inverse = idwt2(dwt2(x, wavelet, mode, odd="pad"), wavelet, mode, size=(H, W))
    assert inverse.shape == x.shape
    assert (inverse - x).abs().max() <= 1e-11


@pytest.mark.parametrize("wavelet", SOME)
@pytest.mark.parametrize("mode", wavelets.MODES)
def test_inverse_of_any_coefficients_equals_pywt(wavelet, mode):
    """Coefficients that no image has: the inverse is a map of its own, not only the inverse on the range."""
    L = len(wavelets.filter_bank(wavelet)[0])
    bands = [random_image(1, 1, L + 3, L + 4, seed=seed) for seed in range(4)]
    ours = idwt2((bands[0], tuple(bands[1:])), wavelet, mode)
    theirs = pywt.idwt2((bands[0].numpy(), tuple(band.numpy() for band in bands[1:])), wavelet, mode)
    assert np.abs(ours.numpy() - theirs).max() <= 1e-12


def test_horizontal_detail_answers_to_horizontal_edges():
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., 1::2, :] = 1  # rows alternate: horizontal edges
    cH, cV, cD = dwt2(stripes)[1]
    assert torch.equal(cH, torch.full_like(cH, -1.0))
    assert not cV.any()
    assert not cD.any()


@pytest.mark.parametrize("wavelet", ["haar", "db4", "bior4.4"])
def test_filter_bank_is_pywt(wavelet):
    bank = wavelets.filter_bank(wavelet, torch.float64)
    assert [f.tolist() for f in bank] == [list(f) for f in pywt.Wavelet(wavelet).filter_bank]
    assert wavelets.filter_bank(wavelet)[0].dtype == torch.float32


# --- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db7", "sym4", "coif2"])
def test_orthogonal_periodized_keeps_energy_and_inner_products(wavelet):
    x, y = random_image(1, 2, 32, 24), random_image(1, 2, 32, 24, seed=1)
    cx, cy = flatten(wavedec2(x, wavelet, 3)), flatten(wavedec2(y, wavelet, 3))
    assert sum(band.square().sum() for band in cx).item() == pytest.approx(x.square().sum().item(), rel=1e-10)
    inner = sum((a * b).sum() for a, b in zip(cx, cy, strict=True)).item()
    assert inner == pytest.approx((x * y).sum().item(), rel=1e-8, abs=1e-8)


def test_batch_and_channels_are_independent():
    x = random_image(3, 4, 16, 16)
    together = flatten(wavedec2(x, "db2", 2, "symmetric"))
    alone = flatten(wavedec2(x[1:2, 2:3], "db2", 2, "symmetric"))
    assert all(torch.equal(a[1:2, 2:3], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("wavelet", ["haar", "db3"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(wavelet, dtype):
    x = random_image(2, 3, 16, 20, dtype=dtype)
    coeffs = wavedec2(x, wavelet, 2)
    exact = wavedec2(x.double(), wavelet, 2)
    assert all(band.dtype == dtype for band in flatten(coeffs))
    eps = torch.finfo(dtype).eps
    for band, reference in zip(flatten(coeffs), flatten(exact), strict=True):
        assert (band.double() - reference).abs().max() <= 2 * eps * reference.abs().max().clamp(min=1)
    inverse = waverec2(coeffs, wavelet)
    assert inverse.dtype == dtype
    assert (inverse.double() - x.double()).abs().max() <= 4 * eps * x.abs().max()


def test_autocast_does_not_lower_precision():
    x = random_image(1, 1, 16, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = dwt2(x, "db2")
    assert torch.equal(inside[0], dwt2(x, "db2")[0])


@pytest.mark.parametrize("mode", wavelets.MODES)
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
def test_gradients(wavelet, mode):
    x = random_image(1, 2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(flatten(dwt2(x, wavelet, mode, odd="pad"))), x)
    bands = [random_image(1, 1, 7, 6, seed=seed).requires_grad_() for seed in range(4)]
    assert torch.autograd.gradcheck(lambda a, h, v, d: idwt2((a, (h, v, d)), wavelet, mode), bands)


@pytest.mark.parametrize(
    ("wavelet", "mode"), [("haar", "symmetric"), ("bior1.3", "symmetric"), ("db2", "periodization")]
)
def test_compiles_to_one_graph(wavelet, mode):
    def both(x):
        coeffs = wavedec2(x, wavelet, 1, mode)
        return flatten(coeffs), waverec2(coeffs, wavelet, mode), wavelets.mosaic(coeffs)

    torch.compiler.reset()
    x = random_image(1, 2, 16, 20).requires_grad_()
    bands, inverse, picture = torch.compile(both, fullgraph=True, backend="aot_eager")(x)
    expected = both(x)
    assert all(torch.equal(a, b) for a, b in zip(bands, expected[0], strict=True))
    assert torch.equal(inverse, expected[1])
    assert torch.equal(picture, expected[2])
    (gradient,) = torch.autograd.grad(inverse.square().sum(), x)
    assert (gradient - 2 * x).abs().max() <= 1e-11


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 8), (8, 7)])
@pytest.mark.parametrize("mode", wavelets.MODES)
def test_odd_sides_are_refused_unless_asked(size, mode):
    for transform in (dwt2, wavedec2):
        with pytest.raises(ValueError, match=rf"even.*odd='pad'.*size=\({size[0]}, {size[1]}\)"):
            transform(torch.zeros(1, 1, *size), "db2", mode=mode)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 1, 8, 8)), TypeError, "torch.Tensor"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, "floating-point"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.complex64), TypeError, "floating-point"),
        (torch.zeros(3, 8, 8), ValueError, "4 dimensions"),
        (torch.zeros(0, 3, 8, 8), ValueError, "empty"),
        (torch.zeros(1, 0, 8, 8), ValueError, "channel"),
        (torch.zeros(1, 3, 1, 8), ValueError, "at least 2 pixels"),
    ],
)
def test_bad_input(x, error, message):
    for odd in wavelets.ODD:
        with pytest.raises(error, match=message):
            dwt2(x, odd=odd)


def test_bad_arguments():
    x = torch.zeros(1, 1, 8, 8)
    for wavelet in ("morl", "Haar", "nonsense"):
        with pytest.raises(ValueError, match="wavelist"):
            dwt2(x, wavelet)
    with pytest.raises(TypeError, match="name"):
        wavelets.filter_bank(pywt.Wavelet("haar"))
    with pytest.raises(ValueError, match="periodization, symmetric"):
        dwt2(x, "haar", "zero")
    with pytest.raises(ValueError, match="periodization, symmetric"):
        idwt2(dwt2(x), "haar", "per")
    with pytest.raises(ValueError, match="refuse, pad"):
        dwt2(x, odd="crop")
    for levels in (0, 1.5, True):
        with pytest.raises(ValueError, match="integer"):
            wavedec2(x, "haar", levels)
    with pytest.raises(ValueError, match="16 pixels"):
        wavedec2(x, "haar", 4)
    with pytest.raises(ValueError, match="at least one level"):
        waverec2([x])


def test_inverse_refuses_what_does_not_fit():
    cA, (cH, cV, cD) = dwt2(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="of one shape"):
        idwt2((cA, (cH, cV, cD[..., :-1])))
    with pytest.raises(ValueError, match="of one shape"):
        idwt2((cA, (cH, cV)))
    for size in ((6, 8), (8, 9)):
        with pytest.raises(ValueError, match=r"size: .*7 or 8"):
            idwt2((cA, (cH, cV, cD)), size=size)
    short = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="at least 4"):
        idwt2((short, (short, short, short)), "db4", "symmetric")


# --- mosaic ----------------------------------------------------------------------------------------------------------


def test_mosaic_is_pywt_array_and_keeps_energy():
    x = random_image(2, 3, 32, 16)
    coeffs = wavedec2(x, "db2", 3)
    picture = wavelets.mosaic(coeffs)
    expected = pywt.coeffs_to_array(pywt.wavedec2(x[1, 2].numpy(), "db2", "periodization", level=3))[0]
    assert picture.shape == x.shape
    assert np.abs(picture[1, 2].numpy() - expected).max() <= 1e-12
    assert wavelets.mosaic(dwt2(x)).shape == x.shape


@pytest.mark.parametrize("mode", wavelets.MODES)
def test_mosaic_holds_every_coefficient_where_bands_do_not_tile(mode):
    coeffs = wavedec2(random_image(1, 1, 21, 30), "db3", 3, mode, odd="pad")
    every = torch.cat([band.flatten() for band in flatten(coeffs)]).sort().values
    picture = wavelets.mosaic(coeffs).flatten()
    assert torch.equal(picture[picture != 0].sort().values, every)


def test_mosaic_for_display_is_in_range_with_zero_grey():
    x = random_image(2, 3, 16, 16, dtype=torch.float32).abs().clamp(max=1)
    picture = wavelets.mosaic(wavedec2(x, "haar", 2), display=True)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert (picture[..., 8:, 8:].amax((1, 2, 3)) == 1).logical_or(picture[..., 8:, 8:].amin((1, 2, 3)) == 0).all()
    flat = wavelets.mosaic(wavedec2(torch.full((1, 1, 8, 8), 0.25), "haar", 2), display=True)
    assert torch.equal(flat[..., :2, :2], torch.full((1, 1, 2, 2), 0.25))
    assert torch.equal(flat[..., 2:, :], torch.full((1, 1, 6, 8), 0.5))


# --- shrinkage -------------------------------------------------------------------------------------------------------


def test_soft_threshold():
    x = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert wavelets.soft_threshold(x, 1.0).tolist() == [-2, 0, 0, 0, 0, 0, 2]
    assert torch.equal(wavelets.soft_threshold(x, 0.0), x)
    per_image = wavelets.soft_threshold(x.expand(2, 1, 1, 7), torch.tensor([0.0, 2.0]).view(2, 1, 1, 1))
    assert per_image[1].flatten().tolist() == [-1, 0, 0, 0, 0, 0, 1]
    assert torch.equal(per_image[0].flatten(), x)
    for bad in (-0.1, torch.tensor([0.1, -0.1])):
        with pytest.raises(ValueError, match="negative"):
            wavelets.soft_threshold(x[:2], bad)


def test_soft_threshold_is_the_proximal_operator():
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    for value in (-2.3, -0.4, 0.9, 1.7):
        best = grid[(0.5 * (grid - value) ** 2 + 0.8 * grid.abs()).argmin()]
        shrunk = wavelets.soft_threshold(torch.tensor(value, dtype=torch.float64), 0.8)
        assert shrunk.item() == pytest.approx(best.item(), abs=1e-3)


def smooth_image(size=64, dtype=torch.float64):
    axis = torch.linspace(0, 1, size, dtype=dtype)
    return (0.5 + 0.3 * torch.sin(7 * axis)[:, None] * torch.cos(5 * axis)[None, :] + 0.2 * (axis > 0.6))[None, None]


@pytest.mark.parametrize(("H", "W"), [(64, 64), (61, 50)])
@pytest.mark.parametrize("wavelet", ["haar", "sym4"])
def test_bayes_shrink_equals_scikit_image(wavelet, H, W):
    from skimage.restoration import denoise_wavelet

    noisy = smooth_image()[..., :H, :W] + 0.1 * random_image(1, 1, H, W)
    expected = denoise_wavelet(
        noisy[0, 0].numpy(), sigma=0.1, wavelet=wavelet, wavelet_levels=3, method="BayesShrink", mode="soft"
    )
    ours = wavelets.bayes_shrink(noisy, 0.1, wavelet, 3)
    # scikit-image clips float images to [-1, 1] or [0, 1] on return
    assert np.abs(ours[0, 0].clamp(0, 1).numpy() - expected.clip(0, 1)).max() <= 1e-10


def test_bayes_shrink_denoises_and_works_per_image():
    clean = smooth_image()
    noise = random_image(1, 1, 64, 64)
    noisy = torch.cat([clean + 0.05 * noise, clean + 0.2 * noise])
    restored = wavelets.bayes_shrink(noisy, torch.tensor([0.05, 0.2], dtype=torch.float64))
    gain = ((noisy - clean).square().mean((1, 2, 3)) / (restored - clean).square().mean((1, 2, 3))).log10() * 10
    assert (gain > 6).all()
    assert torch.equal(restored[1:], wavelets.bayes_shrink(noisy[1:], 0.2))
    assert (wavelets.bayes_shrink(noisy, 0.0) - noisy).abs().max() <= 1e-11
    half = wavelets.bayes_shrink(noisy.to(torch.bfloat16), 0.05)
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


def test_bayes_threshold_follows_the_definition():
    band = torch.cat([3 * random_image(1, 1, 64, 64), 0.5 * random_image(1, 1, 64, 64)])
    threshold = wavelets.bayes_threshold(band, 1.0).flatten()
    sigma_x = (band[0].square().mean() - 1).sqrt()
    assert threshold[0].item() == pytest.approx(1 / sigma_x.item(), rel=1e-12)
    assert threshold[1] == band[1].abs().max()  # weaker than the noise: nothing passes
    assert not wavelets.soft_threshold(band[1], threshold[1]).any()
    assert not wavelets.bayes_threshold(torch.zeros(1, 1, 4, 4), 1.0).any()


def test_bayes_shrink_refuses():
    x = torch.zeros(2, 1, 32, 32)
    with pytest.raises(ValueError, match="not orthogonal"):
        wavelets.bayes_shrink(x, 0.1, "bior4.4")
    for sigma in (-0.1, float("nan"), torch.ones(3)):
        with pytest.raises(ValueError, match="sigma"):
            wavelets.bayes_shrink(x, sigma)


def test_sigma_is_estimated_per_image():
    noisy = smooth_image(129) + torch.tensor([0.02, 0.1]).view(2, 1, 1, 1) * random_image(2, 3, 129, 129)
    estimate = wavelets.estimate_sigma(noisy)
    assert estimate.tolist() == pytest.approx([0.02, 0.1], rel=0.05)
    assert torch.equal(wavelets.bayes_shrink(noisy), wavelets.bayes_shrink(noisy, estimate))
