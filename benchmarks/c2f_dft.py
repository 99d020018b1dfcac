"""The C2F-DFT network against a literal transcription of its formulas: forward + backward, interleaved medians.

    python benchmarks/c2f_dft.py [--compile]

Both compute the same function of the same parameters; outputs and all gradients are compared before anything is timed.
Ratios above 1 mean that minirestore is faster. Milliseconds depend on the machine, ratios much less. After the promised
ratio come options of the caller (memory layout of the module, bf16, torch.compile), and what every single change to the
transcription is worth: it is taken back alone, and the network becomes slower by that factor.
"""

import argparse
import copy
import itertools
import math
import shutil
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from timing import interleaved_medians
from torch import Tensor, nn

from minirestore.papers.c2f_dft import transformer
from minirestore.papers.c2f_dft.config import ATTENTION_SCALES, NORMS, TIME_IN, TIME_POSITIONS, DFTConfig

REPEATS, WARM_UP = 20, 3
TARGET, PROMISED = 1.3, 1.1
TOLERANCE = 1e-4  # of outputs and gradients, relative to the largest value of each
# name, configuration, batch, pixels, whether the ratio is promised
CASES = (
    ("dim 32, blocks 2, 1x128x128", DFTConfig(dim=32, blocks=(2, 2, 2, 2)), 1, 128, True),
    ("dim 16, blocks 1, 16x48x48", DFTConfig(dim=16, blocks=(1, 1, 1, 1)), 16, 48, False),
)


# ---------------------------------------------------------------- the transcription
# Plain operations on contiguous (B, C, H, W), one after the other as the formulas have them. The functions read the
# parameters of the modules in `transformer` and call none of their code.


def reference_time_embedding(t: Tensor, channels: int) -> Tensor:
    """T (B, C, 1, 1): sines and cosines of t at ``channels // 2`` frequencies from 1 to 1e-4, then SiLU."""
    half = channels // 2
    # rounded as the released code does: at t = 999 another order of these factors moves T by up to 1e-4
    frequencies = torch.exp(torch.arange(half) * -(math.log(1e4) / (half - 1)))
    angle = t.float()[:, None] * frequencies[None]
    embedded = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
    if channels % 2:
        embedded = torch.cat([embedded, torch.zeros(len(t), 1)], dim=1)
    return (embedded * torch.sigmoid(embedded))[:, :, None, None]


def reference_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Layer normalisation of ``(B, HW, C)`` over C, biased variance, eps 1e-5; without a bias the mean stays."""
    shape = x.shape
    x = x.flatten(2).transpose(1, 2).contiguous()
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    if norm.bias is None:
        x = x / torch.sqrt(variance + 1e-5) * norm.weight
    else:
        x = (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias
    return x.transpose(1, 2).reshape(shape).contiguous()


def reference_attention(attention: nn.Module, x: Tensor, T: Tensor | None = None) -> Tensor:
    """DFSA: pointwise to 3C, depth-wise 3x3, split, (T added,) unit queries and keys, softmax, values, pointwise."""
    B, C, H, W = x.shape
    qkv = F.conv2d(x, attention.qkv.weight)
    qkv = F.conv2d(qkv, attention.depthwise.weight, padding=1, groups=3 * C)
    parts = qkv.chunk(3, dim=1) if T is None else [part + T for part in qkv.chunk(3, dim=1)]
    q, k, v = (part.reshape(B, attention.heads, C // attention.heads, H * W) for part in parts)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    similarity = q @ k.transpose(-2, -1)
    scaled = similarity / attention.temperature if attention.divide else similarity * attention.temperature
    out = scaled.softmax(dim=-1) @ v
    return F.conv2d(out.reshape(B, C, H, W), attention.project.weight)


def reference_feed_forward(feed_forward: nn.Module, x: Tensor) -> Tensor:
    """DFN: pointwise, GELU, pointwise."""
    return F.conv2d(F.gelu(F.conv2d(x, feed_forward.expand.weight)), feed_forward.project.weight)


def reference_block(block: nn.Module, x: Tensor, T: Tensor, config: DFTConfig) -> Tensor:
    """DFTB: both halves on the normalised input plus T, each added to its input."""
    a = reference_norm(block.norm1, x)
    if config.time_in not in ("both", "attention"):
        x = x + reference_attention(block.attention, a)
    elif config.time_position == "before":
        x = x + reference_attention(block.attention, a + T)
    else:
        x = x + reference_attention(block.attention, a, T)
    a = reference_norm(block.norm2, x)
    return x + reference_feed_forward(block.feed_forward, a + T if config.time_in in ("both", "feed_forward") else a)


def reference_dft(dft: nn.Module, y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The noise that ``dft(y, x_t, t)`` predicts, by the transcription.

    Args:
        dft: a `transformer.DFT`, of which the parameters and the configuration are read; gradients reach the former.
        y, x_t: (B, 3, H, W). t: (B,).
    """

    def level(blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            x = reference_block(block, x, reference_time_embedding(t, x.shape[1]), dft.config)
        return x

    x = F.conv2d(torch.cat([y, x_t], dim=1), dft.embed.weight, padding=1)
    skips = []
    for i in range(3):
        skips.append(level(dft.encoder[i], x))
        x = F.pixel_unshuffle(F.conv2d(skips[i], dft.down[i].conv.weight, padding=1), 2)
    x = level(dft.latent, x)
    for i in (2, 1, 0):
        x = torch.cat([F.pixel_shuffle(F.conv2d(x, dft.up[i].conv.weight, padding=1), 2), skips[i]], dim=1)
        if i > 0:
            x = F.conv2d(x, dft.reduce[i].weight)
        x = level(dft.decoder[i], x)
    return F.conv2d(x, dft.output.weight, padding=1) + x_t


# ---------------------------------------------------------------- measurements


def small_network(norm: str, attention_scale: str, time_in: str, time_position: str) -> DFTConfig:
    """A variant of the network, small enough to compare every gradient in a moment."""
    variant = {"norm": norm, "attention_scale": attention_scale, "time_in": time_in, "time_position": time_position}
    return DFTConfig(dim=8, blocks=(1, 1, 1, 1), heads=(1, 2, 2, 4), **variant)


def make_network(config: DFTConfig, seed: int = 0) -> transformer.DFT:
    """A network whose parameters are all random: also those that start at 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dft = transformer.DFT(config)
        for parameter in dft.parameters():
            if parameter.ndim != 4:
                parameter.data += 0.3 * torch.rand_like(parameter)
    return dft


def make_inputs(batch: int, pixels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """y, x_t and t for `DFT.forward`."""
    g = torch.Generator().manual_seed(seed)
    y, x_t = (torch.randn(batch, 3, pixels, pixels, generator=g) for _ in range(2))
    return y, x_t, torch.randint(1000, (batch,), generator=g).float()


def output_and_gradients(function: Callable[..., Tensor], dft: nn.Module, inputs) -> dict[str, Tensor]:
    """What ``function(*inputs)`` returns, and the gradients of a weighted sum of it, by name."""
    y, x_t, t = inputs[0].clone().requires_grad_(), inputs[1].clone().requires_grad_(), inputs[2]
    out = function(y, x_t, t)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    named = {"y": y, "x_t": x_t, **dict(dft.named_parameters())}
    gradients = torch.autograd.grad((out * weights).mean(), list(named.values()))
    return {"output": out.detach(), **dict(zip(named, gradients, strict=True))}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Over all tensors, the largest difference relative to the largest value of that tensor."""
    return max(((a[k] - b[k]).abs().max() / b[k].abs().max()).item() for k in b)


def check_parity(dft: transformer.DFT, inputs) -> float:
    """Largest relative difference between the network and the transcription.

    Raises:
        AssertionError: it is more than `TOLERANCE`.
    """
    ours = output_and_gradients(dft, dft, inputs)
    right = output_and_gradients(lambda *args: reference_dft(dft, *args), dft, inputs)
    difference = largest_difference(ours, right)
    if not difference <= TOLERANCE:
        raise AssertionError(f"network and transcription differ by {difference:.1e} of the largest value")
    return difference


def step(function: Callable[..., Tensor], dft: nn.Module, inputs) -> Callable[[], None]:
    """A forward and a backward pass of ``function(*inputs)``."""

    def run() -> None:
        dft.zero_grad(set_to_none=True)
        function(*inputs).float().square().mean().backward()

    return run


# ---------------------------------------------------------------- options and single changes


def bf16(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function under autocast."""

    def run(*args) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return function(*args)

    return run


def compiled(dft: transformer.DFT, inputs) -> transformer.DFT | str:
    """The network under torch.compile, or why there is none."""
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        return "no C++ compiler"
    try:
        result = torch.compile(dft)
        step(result, dft, inputs)()
    except Exception as error:  # whatever the compiler stack raises on this machine
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return result


def unfused_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Layer normalisation in single operations, in the memory layout of the network."""
    x = x.permute(0, 2, 3, 1)
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
    return ((x - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias).permute(0, 3, 1, 2)


def plain_pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """The 1x1 convolution on images instead of rows."""
    return F.conv2d(x, conv.weight)


def normalising_attention(attention: nn.Module, x: Tensor, T: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The attention matrices by unit queries and keys, in the memory layout of the network."""
    qkv = attention.depthwise(attention.qkv(x))
    pixels = qkv.permute(0, 2, 3, 1).flatten(1, 2)
    q, k, v = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in pixels.chunk(3, dim=-1))
    similarity = F.normalize(q, dim=2).transpose(-2, -1) @ F.normalize(k, dim=2)
    return (similarity * attention.temperature).softmax(dim=-1), v.transpose(-2, -1)


def two_step_attention(attention: nn.Module, x: Tensor, T: Tensor | None = None) -> Tensor:
    """The values weighted first, then projected."""
    weights, v = attention.attention(x, T)
    return attention.project((weights @ v).reshape(x.shape))


# the change that is taken back, the method that it lives in, what stands there instead; the first two overlap
CHANGES = (
    ("layer norm: one fused kernel", transformer.ChannelNorm, "forward", unfused_norm),
    ("layer norm: and no layout changes", transformer.ChannelNorm, "forward", reference_norm),
    ("1x1 convolutions: rows as images", transformer.PointwiseConv, "forward", plain_pointwise),
    ("cosines: products divided by norms", transformer.DiffusionSelfAttention, "attention", normalising_attention),
    ("attention: projection folded in", transformer.DiffusionSelfAttention, "forward", two_step_attention),
)


def undone(dft: transformer.DFT, owner: type, method: str, replacement: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The network with one method replaced."""

    def run(*args) -> Tensor:
        with mock.patch.object(owner, method, replacement):
            return dft(*args)

    return run


def main() -> int:
    """Print one line per measurement; exit code 1 if the promised ratio is missed."""
    parser = argparse.ArgumentParser(description="Forward + backward of the C2F-DFT network, one CPU thread.")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile (takes minutes)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    variants = list(itertools.product(NORMS, ATTENTION_SCALES, TIME_IN, TIME_POSITIONS))
    y, x_t, t = make_inputs(2, 16)
    inputs = y.double(), x_t.double(), t
    differences = [check_parity(make_network(small_network(*variant)).double(), inputs) for variant in variants]
    print(f"{len(variants)} variants in double precision (T in single): differ by {max(differences):.1e} at most")

    missed = False
    for name, config, batch, pixels, promised in CASES:
        dft, inputs = make_network(config), make_inputs(batch, pixels)
        print(f"\n{name}: differs by {check_parity(dft, inputs):.1e}")
        last = copy.deepcopy(dft).to(memory_format=torch.channels_last)
        functions = {
            "minirestore": step(dft, dft, inputs),
            "transcription": step(lambda *args, dft=dft: reference_dft(dft, *args), dft, inputs),
            "module in channels_last": step(last, last, inputs),
            "bf16 autocast": step(bf16(dft), dft, inputs),
        }
        if arguments.compile:
            result = compiled(dft, inputs)
            if isinstance(result, str):
                print(f"{'torch.compile':36} skipped, {result}")
            else:
                functions["torch.compile"] = step(result, dft, inputs)
        seconds = dict(zip(functions, interleaved_medians(list(functions.values()), REPEATS, WARM_UP), strict=True))
        ours = seconds["minirestore"]
        for label, value in seconds.items():
            goal = f"  (target {TARGET}, at least {PROMISED})" if promised and label == "transcription" else ""
            print(f"{label:36} {1e3 * value:8.1f} ms {value / ours:6.2f}{goal}")
        missed |= promised and seconds["transcription"] / ours < PROMISED

        print("slower by this factor without ...")
        trials = [step(undone(dft, *change), dft, inputs) for _, *change in CHANGES]
        ours, *others = interleaved_medians([functions["minirestore"], *trials], REPEATS, WARM_UP)
        for (label, *_), value in zip(CHANGES, others, strict=True):
            print(f"{label:36} {1e3 * value:8.1f} ms {value / ours:6.2f}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
