"""Answers to the exercises of notebook 05."""

import torch

from answers import Answers
from minirestore import diffusion


def forward_by_hand(x0, eps, alpha_bar):
    level = alpha_bar.reshape(-1, 1, 1, 1)
    return level**0.5 * x0 + (1 - level) ** 0.5 * eps


def forward_by_einsum(x0, eps, alpha_bar):
    return torch.einsum("b,bchw->bchw", alpha_bar.sqrt(), x0) + torch.einsum(
        "b,bchw->bchw", (1 - alpha_bar).sqrt(), eps
    )


def step_by_hand(x_t, eps, now, nxt):
    x0 = (x_t - (1 - now).sqrt() * eps) / now.sqrt()
    return nxt.sqrt() * x0 + (1 - nxt).sqrt() * eps


def step_by_parts(x_t, eps, now, nxt):
    return diffusion.add_noise(diffusion.x0_from_eps(x_t, eps, now), eps, nxt)


def step_with_fresh_noise(x_t, eps, now, nxt):
    return diffusion.add_noise(diffusion.x0_from_eps(x_t, eps, now), torch.randn_like(x_t), nxt)


def level(alpha_bar):
    return alpha_bar.reshape(-1, 1, 1, 1)


ANSWERS = {
    "05.forward": Answers(
        right=[forward_by_hand, forward_by_einsum],
        wrong=[
            (lambda x0, eps, a: a.sqrt() * x0 + (1 - a).sqrt() * eps, "columns"),
            (lambda x0, eps, a: level(a) * x0 + (1 - level(a)) * eps, "cross-fade"),
            (lambda x0, eps, a: forward_by_hand(eps, x0, a), "exchanged"),
            (lambda x0, eps, a: x0 + (1 - level(a)).sqrt() * eps, "not dimmed"),
            (lambda x0, eps, a: forward_by_hand(x0, eps, a)[0], "shape"),
            (lambda x0, eps, a: a[0].sqrt() * x0 + (1 - a[0]).sqrt() * eps, "one level per image"),
            (lambda x0, eps, a: forward_by_hand(x0, torch.randn_like(x0), a), "given eps"),
            (lambda x0, eps, a: x0, "compare with the formula"),
        ],
    ),
    "05.ddim_step": Answers(
        right=[step_by_hand, step_by_parts],
        wrong=[
            (lambda x_t, eps, now, nxt: diffusion.x0_from_eps(x_t, eps, now), "predicted clean image"),
            (lambda x_t, eps, now, nxt: step_by_hand(x_t, eps, now, now), "unchanged"),
            (lambda x_t, eps, now, nxt: nxt.sqrt() * diffusion.x0_from_eps(x_t, eps, now), "noise is gone"),
            (
                lambda x_t, eps, now, nxt: nxt.sqrt() * (x_t - (1 - now).sqrt() * eps) + (1 - nxt).sqrt() * eps,
                "too dim",
            ),
            (lambda x_t, eps, now, nxt: step_by_hand(x_t, eps, nxt, now), "predict x0 from"),
            (lambda x_t, eps, now, nxt: x_t[:1], "shape"),
            (step_with_fresh_noise, "no new noise"),
        ],
    ),
    "05.told": Answers(
        right=[749, "749"],
        wrong=[(666, "is told"), (750, "is that 1000"), (332, "second step"), (500, "a quarter"), (999, "already")],
    ),
    "05.sample_error": Answers(right=["c", " C"], wrong=[("a", "minimises"), ("b", "equal size"), ("d", "plausible")]),
    "05.detail": Answers(right=["b", "B"], wrong=[("a", "brightness"), ("c", "longer"), ("d", "scatter")]),
}
