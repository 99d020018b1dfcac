"""One training step of the latent models at their published architecture, random weights, where memory allows."""

import os
from pathlib import Path

import pytest
import torch

from minirestore import diffusion, recipes
from minirestore.networks import count_parameters
from minirestore.papers import depthmaster, diffbir
from minirestore.papers.resshift import SwinUNet
from minirestore.prior import PRIORS, Autoencoder, LatentPrior


def needs(gigabytes):
    """Skip where so much memory is not free."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        free = int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) / 2**20
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GiB of memory, {free:.3g} are free")


def published(name, settings=None):
    return recipes.plan(recipes.MODELS[name], "full", settings)[0]


def step(model, batch, trained):
    """One step of SGD; all losses are finite and the trained part moves."""
    losses = model.training_losses(batch, diffusion.BatchGenerator(0, 0), 0)
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    moving = [parameter for parameter in trained.parameters() if parameter.grad is not None]
    steepest = max(moving, key=lambda parameter: parameter.grad.abs().max().item())
    before = steepest.detach().clone()
    torch.optim.SGD(moving, lr=0.1).step()
    assert not torch.equal(steepest, before)


def batch(side, scale=1, **more):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(1, 3, side, side, generator=generator)
    return {"clean": clean, "degraded": torch.rand(1, 3, side // scale, side // scale, generator=generator), **more}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoencoder", "vq"])
def test_the_published_autoencoders_learn(name):
    needs(6)
    torch.manual_seed(0)
    model = Autoencoder(published(name))
    step(model, batch(64), model.network.decoder)


@pytest.mark.slow
def test_the_published_prior_learns():
    needs(12)
    torch.manual_seed(0)
    config = published("prior")
    model = LatentPrior(config, Autoencoder(published("autoencoder")))
    assert sum(parameter.numel() for parameter in model.network.parameters()) == 865_910_724
    step(model, batch(64), model.network.conv_out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resshift", "hf_error_map"])
def test_the_published_super_resolvers_learn(name):
    """ResShift's teacher, and SinSR's student with the error map."""
    needs(12)
    torch.manual_seed(0)
    parts = {"autoencoder": Autoencoder(published("vq"))}
    if name == "resshift":
        config = published(name)
    else:
        config = published(name, {"backbone": "course"})  # the weights of LPIPS are not here
        parts["teacher"] = SwinUNet(config)
    model = recipes.MODELS[name].module(config, **parts)
    step(model, batch(256, 4), model.network)


@pytest.mark.slow
def test_the_published_restoration_module_learns():
    torch.manual_seed(0)
    model = diffbir.RestorationModule(published("diffbir_restoration"))
    step(model, batch(64), model.network)


@pytest.mark.slow
def test_the_published_control_learns():
    needs(14)
    torch.manual_seed(0)
    prior = LatentPrior(published("prior"), Autoencoder(published("autoencoder")))
    model = diffbir.DiffBIR(published("diffbir"), prior, diffbir.RestorationModule())
    assert sum(parameter.numel() for parameter in model.control.parameters()) == 363_153_280
    step(model, batch(64), model.control)


class Patches(torch.nn.Module):
    """Frozen features as wide as those of the largest DINOv2, one of every 16 x 16 pixels."""

    width = 1536

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, self.width, 16, stride=16).requires_grad_(False)

    def forward(self, image):
        return self.patches(image)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["first", "second"])
def test_the_published_depthmaster_learns(stage):
    needs(14)
    torch.manual_seed(0)
    config = published("depthmaster", {"stage": stage})
    prior = LatentPrior(PRIORS[config.prior], Autoencoder(published("autoencoder")))
    model = depthmaster.DepthMaster(config, prior, Patches() if stage == "first" else None)
    assert count_parameters(model.network) == {"first": 865_910_724, "second": 944_565_444}[stage]
    depth = 1 + torch.linspace(0, 9, 64).expand(1, 1, 64, 64)
    step(model.train(), batch(64, depth=depth, valid=depth < 9), model.network)
    if stage == "first":
        assert count_parameters(model.head) == 6_689_280
        assert all(parameter.grad.abs().max() > 0 for parameter in model.head.parameters())
    else:
        assert all(parameter.grad is not None for parameter in model.network.enhancement.parameters())
    assert all(parameter.grad is None for parameter in model.autoencoder.parameters())
