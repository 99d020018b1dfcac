"""Answers to the exercises of notebook 09."""

import itertools

import torch
import torch.nn.functional as F

from answers import Answers
from minirestore.papers import c2f_dft as paper


def unit(z):
    return z / z.norm(dim=1, keepdim=True)


def by_rows(q, k, v, tau):
    rows = []
    for one in unit(q):
        weights = torch.softmax(tau * (unit(k) @ one), dim=0)
        rows.append((weights[:, None] * v).sum(0))
    return torch.stack(rows)


def by_matrices(q, k, v, tau):
    return (unit(q) @ unit(k).T * tau).softmax(-1) @ v


def by_library(q, k, v, tau):
    q, k = F.normalize(q.double(), dim=-1), F.normalize(k.double(), dim=-1)
    return F.scaled_dot_product_attention(q[None], k[None], v[None].double(), scale=tau)[0]


def without_softmax(q, k, v, tau):
    return tau * unit(q) @ unit(k).T @ v


def without_norms(q, k, v, tau):
    return (tau * q @ k.T).softmax(1) @ v


def normalised_over_channels(q, k, v, tau):
    return (tau * F.normalize(q, dim=0) @ F.normalize(k, dim=0).T).softmax(1) @ v


def along_columns(q, k, v, tau):
    return (tau * unit(q) @ unit(k).T).softmax(0) @ v


def between_pixels(q, k, v, tau):
    weights = (tau * F.normalize(q, dim=0).T @ F.normalize(k, dim=0)).softmax(1)  # (N, N)
    return v @ weights.T


def values_by_columns(q, k, v, tau):
    return by_matrices(q, k, torch.eye(len(v)), tau).T @ v


def sigmas(alpha_bar, times):
    return [((1 - alpha_bar[t]) / alpha_bar[t]).sqrt() for t in times] + [torch.tensor(0.0)]


def weights_by_loop(alpha_bar, times):
    sigma = sigmas(alpha_bar, times)
    return torch.stack([(b - a).double() for a, b in itertools.pairwise(sigma)])


def weights_as_list(alpha_bar, times):
    return weights_by_loop(alpha_bar, times).tolist()


def root_of_noise(alpha_bar, times):
    root = (1 - alpha_bar[times]).sqrt()
    return torch.cat([root[1:], root.new_zeros(1)]) - root


def squared(alpha_bar, times):
    sigma = torch.stack([value.double() for value in sigmas(alpha_bar, times)])
    return sigma.square().diff()


ANSWERS = {
    "09.channels": Answers(
        right=[by_rows, by_matrices, by_library],
        wrong=[
            (without_softmax, "softmax is missing"),
            (without_norms, "lengths of the rows"),
            (normalised_over_channels, "over the channels of a pixel"),
            (along_columns, "columns sum to 1"),
            (lambda q, k, v, tau: by_matrices(q, k, v, 1.0), "no effect"),
            (lambda q, k, v, tau: by_matrices(q, k, v, 1 / tau), "divides by tau"),
            (lambda q, k, v, tau: by_matrices(k, q, v, tau), "exchanged"),
            (values_by_columns, "A times v"),
            (lambda q, k, v, tau: by_matrices(q, k, v, tau) @ v.T, "the shape is"),
            (between_pixels, "between pixels"),
        ],
    ),
    "09.weights": Answers(
        right=[paper.euler_weights, weights_by_loop, weights_as_list],
        wrong=[
            (lambda alpha_bar, times: paper.euler_weights(alpha_bar, times)[:-1], "one weight is missing"),
            (lambda alpha_bar, times: paper.euler_weights(alpha_bar, times)[:1], "one weight per call"),
            (lambda alpha_bar, times: -paper.euler_weights(alpha_bar, times), "sign"),
            (lambda alpha_bar, times: paper.euler_weights(alpha_bar, times).flip(0), "the order"),
            (root_of_noise, "the noise in x_t"),
            (squared, "sigma squared"),
            (lambda alpha_bar, times: -torch.stack([s.double() for s in sigmas(alpha_bar, times)[:-1]]), "jump"),
            (lambda alpha_bar, times: torch.tensor([-147.92, -8.027, -1.4524, -0.01]), "first weight should be"),
        ],
    ),
    "09.first_error": Answers(
        right=[1.479, "1.48", 1.4792],
        wrong=[
            (0.155, "next sample"),
            (1.574, "sigma itself"),
            (0.01, "an error of the noise"),
            (0.0803, "second call"),
            (147.9, "that is the weight"),
            (0.74, "halve"),
            (0.5, "take the weight"),
            (20, "multiply the weight"),
        ],
    ),
    "09.similarity": Answers(right=["c", "C "], wrong=[("a", "does nothing"), ("b", "which part"), ("d", "its cause")]),
}
