"""The released folder of DepthMaster, from a stand-in in the same layout."""

import pytest
import torch

from minirestore.papers.depthmaster import DepthMaster, DepthMasterConfig, load_official
from minirestore.prior import load_prior

RELEASED = {"teacher": "none", "enhancement": "released"}


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def write_release(folder, stage, suffix):
    """A folder as released, of a small model with random weights in its block; returns the model."""
    torch.manual_seed(1)
    model = DepthMaster(DepthMasterConfig(stage=stage, **RELEASED)).eval()
    load_prior().save_pretrained(folder)
    weights = dict(model.network.unet.state_dict())
    if stage == "second":
        weights |= {f"fftblock.{name}": value for name, value in model.network.enhancement.state_dict().items()}
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    if suffix == ".bin":
        torch.save(weights, file.with_suffix(".bin"))
    else:
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in weights.items()}, file, metadata={"format": "pt"})
    return model


@pytest.mark.parametrize(("stage", "suffix"), [("second", ".bin"), ("second", ".safetensors"), ("first", ".bin")])
def test_the_released_folder_predicts_what_was_saved(tmp_path, picture, stage, suffix):
    model = write_release(tmp_path, stage, suffix)
    opened = load_official(tmp_path)
    assert opened.config.stage == stage and (opened.network.enhancement is not None) == (stage == "second")
    # the autoencoder of the stand-in is stored in half precision
    torch.testing.assert_close(opened.predict(picture), model.predict(picture), atol=2e-3, rtol=0)
    for name, value in model.network.state_dict().items():
        assert torch.equal(opened.network.state_dict()[name], value), name


def test_a_block_with_a_missing_tensor_is_refused(tmp_path):
    write_release(tmp_path, "second", ".bin")
    file = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    torch.save({name: value for name, value in weights.items() if name != "fftblock.fuse.bias"}, file)
    with pytest.raises(RuntimeError, match=r"fuse\.bias"):
        load_official(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_official(tmp_path / "nowhere")
