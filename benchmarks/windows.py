"""Attention within windows by one fused call against its formula: forward + backward, interleaved medians.

    python benchmarks/windows.py

Both compute the same function of the same parameters; outputs and all gradients are compared before anything is timed.
Ratios above 1 mean that minirestore is faster. Milliseconds depend on the machine, ratios much less.
"""

import math

import torch
from timing import interleaved_medians
from torch import Tensor, nn

from minirestore.windows import WindowAttention, from_windows, to_windows, window_mask

REPEATS, WARM_UP = 20, 3
TOLERANCE = 1e-4  # of outputs and gradients, relative to the largest value of each
# name, channels, heads, window, shift, batch, side of the map
CASES = (
    ("DiffBIR as published, shifted", 180, 6, 8, 4, 1, 64),
    ("DiffBIR as published", 180, 6, 8, 0, 1, 64),
    ("DiffBIR reduced, shifted", 48, 4, 8, 4, 8, 24),
    ("ResShift reduced, shifted", 32, 2, 8, 4, 4, 16),
)


class Formula(WindowAttention):
    """The released way: softmax(q k / sqrt(d) + bias + mask) v, all scores in memory."""

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(2, 3))
        q, k, v = self.qkv(to_windows(x, self.window)).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores + self.bias_table[self.positions].permute(2, 0, 1)
        if self.shift:
            scores = scores - 100.0 * window_mask(H, W, self.window, self.shift).float()[:, None]
        mixed = (scores.softmax(-1) @ v).transpose(2, 3).flatten(3)
        x = from_windows(self.project(mixed), H, W)
        return x.roll((self.shift, self.shift), dims=(2, 3)) if self.shift else x


def step(attention: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients of one forward and backward pass."""
    x = x.clone().requires_grad_()
    y = attention(x)
    return (y, *torch.autograd.grad(y.square().mean(), [x, *attention.parameters()]))


def main() -> None:
    """Print one line per case."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'forward + backward':32} {'minirestore':>12} {'formula':>10} {'ratio':>6}")
    for name, channels, heads, window, shift, batch, side in CASES:
        ours = WindowAttention(channels, heads, window, shift, legacy_mask=False)
        formula = Formula(channels, heads, window, shift, legacy_mask=False)
        formula.load_state_dict(ours.state_dict())
        x = torch.randn(batch, channels, side, side)
        for a, b in zip(step(ours, x), step(formula, x), strict=True):
            if (a - b).abs().max() > TOLERANCE * b.abs().max():
                raise AssertionError(f"{name}: the two do not compute the same")
        first, second = interleaved_medians(
            [lambda m=ours, x=x: step(m, x), lambda m=formula, x=x: step(m, x)], REPEATS, WARM_UP
        )
        print(f"{name:32} {1e3 * first:9.2f} ms {1e3 * second:7.2f} ms {second / first:6.2f}")


if __name__ == "__main__":
    main()
