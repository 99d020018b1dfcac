"""Answers to the exercises of notebook 07."""

import torch
import torch.nn.functional as F

from answers import Answers
from minirestore import diffusion, images


def structure_by_pooling(y, k):
    return F.avg_pool2d(images.luma(y), 2**k)


def structure_by_reshape(y, k):
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=y.dtype)
    luma = torch.einsum("c,bchw->bhw", weights, y)
    B, H, W = luma.shape
    return luma.reshape(B, H >> k, 1 << k, W >> k, 1 << k).mean((2, 4))[:, None]


def structure_by_convolution(y, k):
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)  # float32, as a learner writes them
    return F.interpolate(F.conv2d(y, weights), scale_factor=1 / 2**k, mode="area")


def structure_in_double(y, k):
    return structure_by_pooling(y.double(), k)


def structure_with_noise(y, k):
    p = structure_by_pooling(y, k)
    return p + 0.05 * torch.randn_like(p)


def structure_always_quarter(y, k):
    return structure_by_pooling(y, 2)


def start_by_product(T, beta_end):
    level = 1.0
    for beta in torch.linspace(1e-6, beta_end, T, dtype=torch.float64).tolist():
        level *= 1 - beta
    return level


def betas(T, beta_end):
    return diffusion.make_betas("linear", T, 1e-6, beta_end)


def start_by_cumprod(T, beta_end):
    return diffusion.make_alpha_bar(betas(T, beta_end))[-1]


ANSWERS = {
    "07.structure": Answers(
        right=[structure_by_pooling, structure_by_reshape, structure_by_convolution, structure_in_double],
        wrong=[
            (lambda y, k: F.avg_pool2d(y, 2**k), "three channels"),
            (lambda y, k: structure_by_pooling(y, k + 1), "the shape is"),
            (lambda y, k: F.avg_pool2d(y.mean(1, keepdim=True), 2**k), "weigh the same"),
            (lambda y, k: images.luma(y)[..., :: 2**k, :: 2**k], "alias"),
            (lambda y, k: 4**k * structure_by_pooling(y, k), "added up"),
            (structure_with_noise, "noise n"),
            (structure_always_quarter, "k = 0"),
            (lambda y, k: 2 * structure_by_pooling(y, k) - 1, "by hand"),
        ],
    ),
    "07.halving": Answers(
        right=[6.02, 6, "6.0206"],
        wrong=[(3.01, "2 x 2"), (12.04, "sixteenth"), (0, "cancel"), (1, "1/n"), (20, "convert")],
    ),
    "07.start": Answers(
        right=[start_by_product, start_by_cumprod],
        wrong=[
            (lambda T, beta_end: (1 - betas(T, beta_end)).cumprod(0), "numbers came back"),
            (lambda T, beta_end: (1 - beta_end) ** T, "largest beta"),
            (lambda T, beta_end: 1 - beta_end, "last step alone"),
            (lambda T, beta_end: start_by_product(T, beta_end) ** 0.5, "its square"),
            (lambda T, beta_end: 1 - start_by_product(T, beta_end), "variance of the noise"),
            (lambda T, beta_end: torch.exp(-betas(T, beta_end).sum()), "close for small betas"),
            (lambda T, beta_end: start_by_product(T - 1, beta_end), "it should be"),
        ],
    ),
    "07.zeroed": Answers(right=["c", "C"], wrong=[("a", "compared with"), ("b", "interval"), ("d", "one step")]),
}
