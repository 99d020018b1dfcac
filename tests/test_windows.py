"""Attention within shifted windows: the mask, the bias, cutting and putting together."""

import math

import pytest
import torch

from minirestore import windows


def test_masked_fractions_of_the_windows():
    for legacy, right in ((False, [0, 0.5, 0.5, 0.75]), (True, [0, 0, 0.5, 0.5])):
        assert windows.window_mask(16, 16, 8, 4, legacy=legacy).float().mean(dim=(1, 2)).tolist() == right


@pytest.mark.parametrize(("H", "W", "window", "shift"), [(16, 16, 8, 4), (8, 12, 4, 2), (12, 8, 4, 1), (4, 4, 4, 2)])
def test_pixels_may_see_each_other_where_rolling_keeps_their_distance(H, W, window, shift):
    places = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"))[None]
    rolled, now = (windows.to_windows(p, window)[0] for p in (places.roll((-shift, -shift), dims=(2, 3)), places))
    offsets = [place[:, :, None] - place[:, None, :] for place in (rolled, now)]  # (windows, N, N, 2)
    assert torch.equal(windows.window_mask(H, W, window, shift), (offsets[0] != offsets[1]).any(dim=-1))


def attentions(shift=4):
    """The same attention with the right mask and with the released one."""
    pair = [windows.WindowAttention(8, 2, 8, shift, legacy_mask=legacy) for legacy in (False, True)]
    pair[1].load_state_dict(pair[0].state_dict())
    return pair


def test_the_masks_differ_only_along_the_seams():
    """Shifted by 4, windows of 8 cross the border of the 24 x 32 map in the outer 4 rows and columns."""
    x = torch.randn(1, 8, 24, 32, generator=torch.Generator().manual_seed(0))
    right, legacy = (attention(x) for attention in attentions())
    differ = (right - legacy).abs().amax(dim=(0, 1)) > 1e-6
    seam = torch.zeros(24, 32, dtype=torch.bool)
    for border in (slice(None, 4), slice(-4, None)):
        seam[border], seam[:, border] = True, True
    assert torch.equal(differ, seam)
    unshifted = [attention(x) for attention in attentions(shift=0)]
    assert torch.equal(*unshifted)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_nothing_crosses_the_border_but_with_the_released_mask(axis):
    x = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    near, far = ((..., slice(0, 4), slice(None)), (..., slice(8, None), slice(None)))
    if axis == "columns":
        near, far = ((..., slice(0, 4)), (..., slice(8, None)))
    changed = x.clone()
    changed[near] += 1
    for attention, crosses in zip(attentions(), (False, True), strict=True):
        moved = (attention(changed) - attention(x))[far].abs().max() > 1e-6
        assert moved == crosses


def test_attention_is_its_formula():
    """One window, pixel by pixel: softmax(q k / sqrt(d) + the bias of the offset) v."""
    attention = windows.WindowAttention(6, 2, 3, 0, legacy_mask=False)
    x = torch.randn(1, 6, 3, 3, generator=torch.Generator().manual_seed(2))
    pixels = x[0].flatten(1).T
    q, k, v = attention.qkv(pixels).chunk(3, dim=1)
    heads = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        scores = q[:, part] @ k[:, part].T / math.sqrt(3)
        for i in range(9):
            for j in range(9):
                down, right = i // 3 - j // 3, i % 3 - j % 3
                scores[i, j] = scores[i, j] + attention.bias_table[5 * (down + 2) + right + 2, head]
        heads.append(scores.softmax(dim=1) @ v[:, part])
    right = attention.project(torch.cat(heads, dim=1)).T.reshape(1, 6, 3, 3)
    torch.testing.assert_close(attention(x), right, rtol=1e-5, atol=1e-6)


def test_windows_are_cut_and_put_together():
    x = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    cut = windows.to_windows(x, 4)
    assert cut.shape == (2, 6, 16, 3)
    assert torch.equal(cut[1, 4, 6], x[1, :, 4 + 1, 4 + 2])  # second row of windows, second window; row 1, column 2
    assert torch.equal(windows.from_windows(cut, 8, 12), x)
