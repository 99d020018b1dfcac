"""Data sets from folders: which files are found, how they pair up, and what a training batch makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from minirestore import datasets, recipes
from minirestore.recipes import DataConfig


def write(path, seed, height=40, width=50):
    """A small photograph of random colours; the same seed gives the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return torch.from_numpy(values).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A GoPro-like data set of two sequences with two pairs each, and what is easily mistaken for pairs."""
    monkeypatch.setenv("MINIRESTORE_DATASETS", str(tmp_path))
    contents = {}
    for sequence in ("GOPR1", "GOPR2"):
        for number in (1, 2):
            seed = 10 * int(sequence[-1]) + number
            sharp = write(tmp_path / "GoPro" / "train" / sequence / "sharp" / f"{number}.png", seed)
            blurred = write(tmp_path / "GoPro" / "train" / sequence / "blur" / f"{number}.png", 100 + seed)
            contents[f"{sequence}/{number}"] = sharp, blurred
    write(tmp_path / "GoPro" / "train" / "GOPR1" / "blur" / "9.png", 7)  # no sharp partner
    write(tmp_path / "GoPro" / "train" / "GOPR1" / "blur_gamma" / "1.png", 8)  # another kind of blur
    (tmp_path / "GoPro" / "train" / "GOPR1" / "blur" / "notes.txt").write_text("not a picture")
    return contents


def test_pairs_are_found_at_any_depth_and_without_partner_left_out(folder):
    found = datasets.files("pairs:GoPro/train")
    assert [f"{sharp.parent.parent.name}/{sharp.stem}" for sharp, _ in found] == list(folder)
    assert all((sharp.parent.name, blurred.parent.name) == ("sharp", "blur") for sharp, blurred in found)
    assert all(sharp.name == blurred.name for sharp, blurred in found)


def test_crops_of_a_pair_are_cut_at_one_place(folder):
    crops = datasets.centre_crops("pairs:GoPro/train", 4, 32)
    assert crops.shape == (4, 6, 32, 32)
    for crop, (sharp, blurred) in zip(crops, folder.values(), strict=True):
        assert torch.equal(crop[:3], sharp[:, 4:36, 9:41])
        assert torch.equal(crop[3:], blurred[:, 4:36, 9:41])


def test_a_pair_of_two_sizes_is_refused(folder, tmp_path):
    write(tmp_path / "GoPro" / "train" / "GOPR1" / "blur" / "2.png", 3, height=44, width=50)
    with pytest.raises(
        ValueError, match=r"expected a pair of one size, got .*sharp/2.png \(50 x 40\) and .*\(50 x 44\)"
    ):
        datasets.centre_crops("pairs:GoPro/train", 4, 32)


def test_a_batch_of_pairs_is_not_degraded_further_and_stays_paired(folder):
    make_batch = recipes.make_data(DataConfig("pairs:GoPro/train", images=4, image_size=32, crop=8, sigma=0.0))
    batch = make_batch(6, torch.Generator().manual_seed(0))
    whole = datasets.centre_crops("pairs:GoPro/train", 4, 32).float() / 255
    windows = whole.unfold(2, 8, 1).unfold(3, 8, 1)  # (4, 6, 25, 25, 8, 8)
    turned = [windows, windows.flip(-1), windows.flip(-2), windows.flip(-1).flip(-2)]
    turned += [one.transpose(-1, -2) for one in turned]
    for clean, degraded in zip(batch["clean"], batch["degraded"], strict=True):
        crop = torch.cat([clean, degraded])[None, :, None, None]
        assert any(((one - crop).abs().amax((1, 4, 5)) < 1e-6).any() for one in turned)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.files("GoPro"), "source: expected folder:NAME, pairs:NAME or depth:NAME, got 'GoPro'"),
        (lambda: datasets.files("pairs:"), "source: expected folder:NAME"),
        (lambda: DataConfig("pairs:GoPro", sigma=0.0, blur="linear"), "pairs bring their own degradation"),
        (lambda: DataConfig("pairs:GoPro"), "pairs bring their own degradation"),
    ],
)
def test_bad_sources_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_missing_is_said(folder):
    assert datasets.missing("pairs:GoPro/train", 4) == []
    (line,) = datasets.missing("pairs:GoPro/train", 5)
    assert line.startswith(
        "5 pairs blur/NAME (degraded), sharp/NAME (clean) in GoPro/train/ of the datasets directory (found 4)"
    )
    with pytest.raises(FileNotFoundError, match=r"data: 2 photographs in DIV2K/ .*found 0"):
        recipes.make_data(DataConfig("folder:DIV2K", images=2))
