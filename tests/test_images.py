"""Images: checks and their messages, ranges, numpy round trips, padding, tiling."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirestore import images


def random_image(*shape, dtype=torch.float64, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_good_images_pass_unchanged(dtype, channels):
    x = random_image(2, channels, 2, 5, dtype=dtype)
    assert images.check_images(x) is x
    assert images.check_layout(x) is x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 3, 8, 8)), TypeError, "from_numpy"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "divide 8-bit values by 255"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bool), TypeError, "floating-point"),
        (torch.zeros(3, 8, 8), ValueError, r"x\[None\]"),
        (torch.zeros(0, 3, 8, 8), ValueError, "batch is empty"),
        (torch.zeros(1, 8, 8, 3), ValueError, r"looks like \(B, H, W, C\): use x.permute\(0, 3, 1, 2\)"),
        (torch.zeros(1, 2, 8, 8), ValueError, "1 or 3 channels"),
        (torch.zeros(1, 0, 8, 8), ValueError, "1 or 3 channels"),
        (torch.zeros(1, 3, 1, 8), ValueError, "at least 2 pixels"),
        (torch.zeros(1, 3, 8, 1), ValueError, "at least 2 pixels"),
        (torch.zeros(1, 3, 8, 0), ValueError, "at least 2 pixels"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, "NaN"),
        (torch.full((1, 3, 8, 8), torch.inf), ValueError, "infinite"),
        (torch.full((1, 3, 8, 8), 200.0), ValueError, r"\[200, 200\]; divide by 255"),
        (torch.full((1, 3, 8, 8), -0.5), ValueError, r"\(x \+ 1\) / 2"),
        (torch.full((1, 3, 8, 8), 1.01), ValueError, r"in \[0, 1\]"),
    ],
)
def test_bad_images_give_one_clear_error(x, error, message):
    with pytest.raises(error, match=f"^photo: .*{message}"):
        images.check_images(x, "photo")


def test_checks_can_be_relaxed():
    images.check_images(torch.full((1, 4, 2, 2), -7.0), channels=(4,), unit_range=False)
    images.check_images(torch.full((1, 1, 2, 2), 1.0005))
    images.check_layout(torch.full((1, 7, 1, 1), torch.nan))
    with pytest.raises(ValueError, match="at least 1 channel"):
        images.check_layout(torch.zeros(1, 0, 1, 1))
    with pytest.raises(ValueError, match="both sides must be at least 1 pixels"):
        images.check_layout(torch.zeros(1, 1, 0, 1))
    with pytest.raises(ValueError, match="NaN"):
        images.check_images(torch.full((1, 1, 2, 2), torch.nan), unit_range=False)


def test_shapes_are_never_broadcast():
    a = torch.zeros(2, 3, 4, 4)
    images.check_same_shape(a, a.clone(), ("a", "b"))
    for other in (a[:1], a[:, :1], a[..., :1]):
        with pytest.raises(ValueError, match="prediction and target must have the same shape"):
            images.check_same_shape(a, other, ("prediction", "target"))


# --- ranges, colour, numpy -------------------------------------------------------------------------------------------


def test_model_range_and_back():
    x = random_image(1, 3, 4, 4)
    assert images.to_model_range(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    assert torch.allclose(images.to_unit_range(images.to_model_range(x)), x, atol=1e-15)
    assert images.to_unit_range(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_luma():
    primaries = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    assert images.luma(primaries).flatten().tolist() == [0.299, 0.587, 0.114]
    grey = random_image(2, 1, 4, 4)
    assert images.luma(grey) is grey
    assert torch.allclose(images.luma(grey.expand(2, 3, 4, 4)), grey)


def test_numpy_and_8_bit_round_trip():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.stack([every, every.T, every[::-1]], -1)
    for array in (every, colour):
        tensor = images.from_numpy(array)
        assert tensor.dtype == torch.float32
        assert tensor.shape[:2] == (1, 1 if array.ndim == 2 else 3)
        assert np.array_equal(images.to_uint8(tensor), array)
    assert images.from_numpy(colour)[0, 2, 0, 1].item() == pytest.approx(colour[0, 1, 2] / 255)


def test_from_numpy_scales_by_the_full_range_of_the_type():
    deep = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)
    assert images.from_numpy(deep).flatten().tolist() == pytest.approx([0, 1, 32768 / 65535, 257 / 65535])
    assert images.from_numpy(np.array([[True, False], [False, True]])).flatten().tolist() == [1, 0, 0, 1]
    assert images.from_numpy(np.full((2, 2), 0.25)).unique().tolist() == [0.25]
    assert images.from_numpy(np.zeros((4, 4, 1), np.uint8)[::-1, ::2]).shape == (1, 1, 4, 2)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros(4), ValueError, r"\(H, W\)"),
        (np.zeros((1, 4, 4, 3)), ValueError, r"\(H, W\)"),
        (np.zeros((4, 4), np.int64), TypeError, "unsigned"),
        (np.full((4, 4), 200.0), ValueError, "divide by 255"),
        (np.zeros((4, 4, 2)), ValueError, "channels"),
        (np.full((4, 4), np.nan), ValueError, "NaN"),
    ],
)
def test_from_numpy_refuses(array, error, message):
    with pytest.raises(error, match=message):
        images.from_numpy(array)


def test_to_numpy_takes_one_image():
    x = random_image(1, 3, 4, 5).requires_grad_()
    assert images.to_numpy(x).shape == (4, 5, 3)
    assert images.to_numpy(x).dtype == np.float32
    assert images.to_numpy(x[0, :1]).shape == (4, 5)
    assert images.to_uint8(torch.tensor([-1.0, 0.5, 2.0]).view(1, 1, 1, 3)).tolist() == [[0, 128, 255]]
    for bad in (torch.zeros(2, 3, 4, 4), torch.zeros(4, 4), torch.zeros(1, 1, 1, 4, 4)):
        with pytest.raises(ValueError, match="one image"):
            images.to_numpy(bad)


# --- padding ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_reflection_goes_on_for_ever(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    assert images.reflect_indices(size, before, after).tolist() == expected.tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(0, 20))
def test_padding_reaches_the_next_multiple_and_crops_back(H, W, multiple, minimum):
    x = random_image(1, 2, H, W)
    padded = images.pad_to_multiple(x, multiple, minimum)
    for side, original in zip(padded.shape[-2:], (H, W), strict=True):
        assert side % multiple == 0
        assert side >= max(original, minimum)
        assert side - multiple < max(original, minimum)
    assert torch.equal(padded[..., :H, :W], x)
    padding = ((0, 0), (0, 0), (0, padded.shape[-2] - H), (0, padded.shape[-1] - W))
    assert np.array_equal(padded.numpy(), np.pad(x.numpy(), padding, mode="reflect"))


def test_padding_leaves_fitting_images_alone_and_passes_gradients():
    x = random_image(1, 1, 8, 8)
    assert images.pad_to_multiple(x, 4) is x
    y = random_image(1, 1, 3, 3).requires_grad_()
    images.pad_to_multiple(y, 4).sum().backward()
    assert y.grad.sum() == 16
    for multiple in (0, -4):
        with pytest.raises(ValueError, match="multiple"):
            images.pad_to_multiple(x, multiple)


def test_apply_padded():
    seen = []

    def upscale(x):
        seen.append(tuple(x.shape[-2:]))
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    x = random_image(2, 3, 5, 9)
    assert torch.equal(images.apply_padded(upscale, x, 4, minimum=12, scale=2), upscale(x))
    assert seen[0] == (12, 12)


# --- tiling ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 100), st.integers(1, 40), st.data())
def test_tiles_cover_with_at_least_the_overlap(size, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    starts = images.tile_starts(size, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile == max(size, tile)
    assert all(0 < b - a <= tile - overlap for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("overlap", [-1, 8, 9])
def test_bad_overlap(overlap):
    with pytest.raises(ValueError, match="overlap"):
        images.apply_tiled(lambda x: x, torch.zeros(1, 1, 16, 16), 8, overlap)


@pytest.mark.parametrize("size", [(5, 40), (33, 17), (16, 16)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (16, 6), (7, 6)])
@pytest.mark.parametrize("scale", [1, 3])
def test_tiling_a_pixelwise_function_changes_nothing(size, tile, overlap, scale):
    def fn(x):
        return x.square().repeat_interleave(scale, -1).repeat_interleave(scale, -2)

    x, calls = random_image(2, 3, *size), []
    out = images.apply_tiled(fn, x, tile, overlap, scale=scale, on_tile=lambda *state: calls.append(state))
    assert out.dtype == x.dtype
    assert (out - fn(x)).abs().max() <= 1e-14
    assert calls == [(k + 1, len(calls)) for k in range(len(calls))]


def test_tiles_blend_without_a_seam():
    """Each tile returns its own constant: the blend must pass between neighbours monotonically and in small steps."""
    constants = iter([0.0, 1.0])
    out = images.apply_tiled(lambda x: torch.full_like(x, next(constants)), torch.zeros(1, 1, 16, 24), 16, 8)
    row = out[0, 0, 0]
    assert (row.diff() >= 0).all()
    assert row.diff().max() < 0.2
    assert row[0] == 0
    assert row[-1] == 1


def test_tiling_memory_is_bounded_by_one_tile():
    seen = set()
    images.apply_tiled(lambda x: seen.add(tuple(x.shape)) or x[:, :1], torch.zeros(1, 3, 50, 70), 16, 4)
    assert seen == {(1, 3, 16, 16)}


def test_tiling_refuses_a_wrong_scale():
    with pytest.raises(ValueError, match="scale"):
        images.apply_tiled(lambda x: x, torch.zeros(1, 1, 20, 20), 8, 2, scale=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tiling_in_half_precision_stays_close(dtype):
    x = random_image(1, 3, 64, 64, dtype=dtype)
    out = images.apply_tiled(lambda x: x, x, 32, 8)
    assert out.dtype == dtype
    assert (out - x).abs().max() <= 2 * torch.finfo(dtype).eps


def test_without_values_only_the_layout_is_checked():
    x = torch.empty(1, 3, 8, 8, device="meta")
    assert images.check_images(x) is x
    with pytest.raises(ValueError, match="channel"):
        images.check_images(x[:, :2])
