"""Answers to the exercises of notebook 06."""

import torch

from answers import Answers


def guided(plain, conditional, guidance):
    return plain + guidance * (conditional - plain)


def guided_as_blend(plain, conditional, guidance):
    return (1 - guidance) * plain + guidance * conditional


def guided_by_lerp(plain, conditional, guidance):
    return torch.lerp(plain, conditional, guidance)


def project(x, y, A, pinv):
    return x + pinv(y - A(x))


def project_by_parts(x, y, A, pinv):
    seen, unseen = pinv(y), x - pinv(A(x))
    return seen + unseen


ANSWERS = {
    "06.shift": Answers(
        right=[3.406, "3.41", 3.4058],
        wrong=[
            (1.703, "enters squared"),
            (-3.406, "look at the sign"),
            (5.49, "that is the deviation"),
            (30.14, "ratio itself"),
            (14.79, "decibels"),
            (0.5, "take the natural logarithm of that"),
        ],
    ),
    "06.one_token": Answers(right=["b", " B"], wrong=[("a", "one token only"), ("c", "sums to 1"), ("d", "not over")]),
    "06.guidance": Answers(
        right=[guided, guided_as_blend, guided_by_lerp],
        wrong=[
            (lambda p, c, w: c + w * (c - p), "Ho and Salimans"),
            (lambda p, c, w: guided(c, p, w), "exchanged"),
            (lambda p, c, w: p - w * (c - p), "the sign"),
            (lambda p, c, w: w * c, "has no part"),
            (lambda p, c, w: w * (c - p), "the step alone"),
            (lambda p, c, w: p + w * c, "not the conditional one"),
            (lambda p, c, w: guided(p, c, min(w, 1)), "above 1"),
            (lambda p, c, w: guided(p, c, w)[:1], "the shape is"),
            (lambda p, c, w: guided(p, c, w + 0.5), "differs; try"),
        ],
    ),
    "06.project": Answers(
        right=[project, project_by_parts],
        wrong=[
            (lambda x, y, A, pinv: pinv(y), "still free"),
            (lambda x, y, A, pinv: x, "came back"),
            (lambda x, y, A, pinv: x + pinv(y), "still in it"),
            (lambda x, y, A, pinv: x - pinv(A(x)), "add what y says"),
            (lambda x, y, A, pinv: pinv(y) + pinv(A(x)), "does not see"),
            (lambda x, y, A, pinv: x - pinv(y - A(x)), "moves away"),
            (lambda x, y, A, pinv: (x + pinv(y)) / 2, "half of each"),
            (lambda x, y, A, pinv: y, "the shape is"),
            (lambda x, y, A, pinv: x + 0.5 * pinv(y - A(x)), "must not differ"),
        ],
    ),
    "06.ceiling": Answers(right=["c", "C "], wrong=[("a", "seeds"), ("b", "still decoded"), ("d", "at best")]),
}
