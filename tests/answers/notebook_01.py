"""Answers to the exercises of notebook 01."""

import math

import torch
import torch.nn.functional as F

from answers import Answers
from minirestore import metrics


def psnr_by_mean(prediction, target):
    return 10 * torch.log10(1 / ((prediction - target) ** 2).mean(dim=(1, 2, 3)))


def psnr_by_loop(prediction, target):
    return torch.stack([-20 * F.mse_loss(p, t).sqrt().log10() for p, t in zip(prediction, target, strict=True)])


def moments(x, y, correction=0):
    covariance = ((x - x.mean()) * (y - y.mean())).sum() / (x.numel() - correction)
    return x.mean(), y.mean(), x.var(correction=correction), y.var(correction=correction), covariance


def ssim_by_formula(x, y, c1=1e-4, c2=9e-4, correction=0):
    a, b, v, w, c = moments(x, y, correction)
    return (2 * a * b + c1) * (2 * c + c2) / ((a**2 + b**2 + c1) * (v + w + c2))


def ssim_by_second_moments(x, y):
    a, b = x.mean().item(), y.mean().item()
    v, w, c = (z.mean().item() for z in (x * x, y * y, x * y))
    brightness = (2 * a * b + 0.0001) / (a * a + b * b + 0.0001)
    return brightness * (2 * (c - a * b) + 0.0009) / (v - a * a + w - b * b + 0.0009)


def brightness_only(x, y):
    a, b = x.mean(), y.mean()
    return (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)


def structure_only(x, y):
    _, _, v, w, c = moments(x, y)
    return (2 * c + 9e-4) / (v + w + 9e-4)


def without_covariance(x, y):
    _, _, v, w, _ = moments(x, y)
    return brightness_only(x, y) * (2 * (v * w).sqrt() + 9e-4) / (v + w + 9e-4)


def with_deviations(x, y):
    _, _, v, w, c = moments(x, y)
    return brightness_only(x, y) * (2 * c + 9e-4) / (v.sqrt() + w.sqrt() + 9e-4)


def with_torch_var(x, y):
    return brightness_only(x, y) * (2 * moments(x, y)[4] + 9e-4) / (x.var() + y.var() + 9e-4)


ANSWERS = {
    "01.luma": Answers(right=["b", "B "], wrong=[("a", "variance"), ("c", "equal weights"), ("d", "sign")]),
    "01.psnr": Answers(
        right=[psnr_by_mean, psnr_by_loop, metrics.psnr],
        wrong=[
            (lambda p, t: psnr_by_mean(p, t).mean(), "single number"),
            (lambda p, t: -10 * (p - t).square().mean((2, 3)).log10(), "the shape is"),
            (lambda p, t: -psnr_by_mean(p, t), "turned around"),
            (lambda p, t: psnr_by_mean(p, t) / 10, "bels"),
            (lambda p, t: psnr_by_mean(p, t) / 2, "already squared"),
            (lambda p, t: psnr_by_mean(p, t) * 2, "amplitudes, the square root"),
            (lambda p, t: -10 * (p - t).square().mean((1, 2, 3)).log(), "natural"),
            (lambda p, t: psnr_by_mean(p, t) + 20 * math.log10(255), "not 255"),
            (lambda p, t: -10 * (p - t).square().sum((1, 2, 3)).log10(), "sum or mean"),
            (lambda p, t: -10 * (p - t).abs().mean((1, 2, 3)).log10(), "each step"),
        ],
    ),
    "01.ssim": Answers(
        right=[ssim_by_formula, ssim_by_second_moments],
        wrong=[
            (brightness_only, "only the means"),
            (structure_only, "factor with the means"),
            (with_deviations, "square roots"),
            (without_covariance, "cannot see structure"),
            (lambda x, y: ssim_by_formula(x, y, correction=1), "number of pixels"),
            (with_torch_var, "treat them alike"),
            (lambda x, y: ssim_by_formula(x, y, c2=0), "flat images"),
            (lambda x, y: 1 - (x - y).abs().mean(), "one by one"),
        ],
    ),
    "01.interval": Answers(right=["b", "B"], wrong=[("a", "come from"), ("c", "convention"), ("d", "may well")]),
    "01.holm": Answers(
        right=[0.06, "0.06", 5 * 0.012],
        wrong=[
            (0.012, "raw"),
            (0.08, "second"),
            (0.048, "itself included"),
            (0.01, "threshold"),
            (0.03, "which factor"),
            (0.5, "nothing else"),
        ],
    ),
}
