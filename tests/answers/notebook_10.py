"""Answers to the exercises of notebook 10."""

import math

import torch
import torch.nn.functional as F

from answers import Answers


def gradient(loss, image):
    leaf = image.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def by_product(loss_a, loss_b, image):
    a, b = (gradient(loss, image).flatten() for loss in (loss_a, loss_b))
    return (a @ b / (a.norm() * b.norm())).item()


def by_backward(loss_a, loss_b, image):
    found = []
    for loss in (loss_a, loss_b):
        leaf = image.detach().clone().requires_grad_()
        loss(leaf).backward()
        found.append(leaf.grad.reshape(-1))
    return F.cosine_similarity(*found, dim=0)


def per_pixel(loss_a, loss_b, image):
    return F.cosine_similarity(gradient(loss_a, image), gradient(loss_b, image), dim=1)


def inner_product(loss_a, loss_b, image):
    return (gradient(loss_a, image) * gradient(loss_b, image)).sum()


def of_signs(loss_a, loss_b, image):
    a, b = (gradient(loss, image).flatten().sign() for loss in (loss_a, loss_b))
    return (a @ b / (a.norm() * b.norm())).item()


def without_sign(loss_a, loss_b, image):
    return abs(by_product(loss_a, loss_b, image))


def in_place(loss_a, loss_b, image):
    image.requires_grad_()
    a, b = (torch.autograd.grad(loss(image), image)[0].flatten() for loss in (loss_a, loss_b))
    return (a @ b / (a.norm() * b.norm())).item()


ANSWERS = {
    "10.budget": Answers(
        right=[
            lambda stages, calls: sum(count * each for count, each in stages) // calls,
            lambda stages, calls: math.floor(sum(math.prod(stage) for stage in stages) / calls),
        ],
        wrong=[
            (lambda stages, calls: sum(count for count, _ in stages) // calls, "not steps"),
            (lambda stages, calls: sum(count * each for count, each in stages), "may need several"),
            (lambda stages, calls: stages[-1][0] * stages[-1][1] // calls, "first stage's evaluations"),
            (lambda stages, calls: sum(count * each for count, each in stages) * calls, "divide by them"),
            (lambda stages, calls: sum(count * each for count, each in stages) / calls, "only whole steps"),
            (lambda stages, calls: 7, "that pays for"),
        ],
    ),
    "10.controls": Answers(right=["b", "B "], wrong=[("a", "five are few"), ("c", "first stage"), ("d", "both arms")]),
    "10.averaging": Answers(
        right=[-10 * math.log10(1 - 1e-4 / 10**-2.5), "0.14", 0.1373],
        wrong=[
            (3.01, "half of the squared error"),
            (1.7, "errors subtract"),
            (0, "not nothing"),
            (0.07, "before"),
            (0.6, "the rest is bias"),
        ],
    ),
    "10.oracle": Answers(right=["c", " C"], wrong=[("a", "four times"), ("b", "oracle knows"), ("d", "precision")]),
    "10.agreement": Answers(
        right=[by_product, by_backward],
        wrong=[
            (per_pixel, "flatten"),
            (inner_product, "both lengths, so that scaling"),
            (of_signs, "compare the gradients themselves"),
            (without_sign, "keep the sign"),
            (in_place, "on a copy"),
            (lambda a, b, image: 0.0, "no difference"),
            (lambda a, b, image: 0.5, "torch.autograd.grad of each"),
        ],
    ),
}
