"""What a training run needs, found without weights: parameters per part, memory, arithmetic."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minirestore.diffusion import BatchGenerator
from minirestore.networks import count_parameters

SUSTAINED_FLOPS = {"one CUDA GPU": 2e13, "one CPU core": 1e11}


@dataclass(frozen=True)
class TrainingNeeds:
    """Needs of one training run.

    Attributes:
        parts: names of the method's parts, each with its parameters.
        state_bytes: weights, gradients, two Adam moments and the moving average, float32.
        activation_bytes: tensors kept for the backward pass of one batch, in the types the meta device reports.
        flops_per_step: forward and backward (taken as twice the forward) of one batch, a multiply-add as two.
    """

    parts: tuple[tuple[str, int], ...]
    state_bytes: int
    activation_bytes: int
    flops_per_step: int

    def lines(self, steps: int) -> list[str]:
        """The needs of ``steps`` optimiser steps in words, one fact per line."""
        width = max(len(name) for name, _ in self.parts)
        total = sum(count for _, count in self.parts)
        seconds = {where: self.flops_per_step * steps / rate for where, rate in SUSTAINED_FLOPS.items()}
        return [
            *(f"parameters  {name:<{width}}  {count:>13,}" for name, count in self.parts),
            f"parameters  {'total':<{width}}  {total:>13,}",
            f"memory      {self.state_bytes / 2**30:.3g} GiB weights, gradients, optimiser and average (float32)",
            f"memory      {self.activation_bytes / 2**30:.3g} GiB activations of a batch (float32; half with bf16)",
            *(
                f"time        {_duration(time)} on {where}, assuming {SUSTAINED_FLOPS[where]:.0e} FLOP/s sustained"
                for where, time in seconds.items()
            ),
        ]


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 60 else f"{seconds / 3600:.3g} h"


def parameters_per_part(module: nn.Module) -> dict[str, int]:
    """Parameters of each child module; a method that only wraps one network is opened."""
    children = dict(module.named_children())
    while len(children) == 1 and (inner := dict(next(iter(children.values())).named_children())):
        children = inner
    counts = {name: count_parameters(child) for name, child in children.items()}
    return {name: count for name, count in counts.items() if count}


def training_needs(method: nn.Module, batch: dict[str, Tensor], ema: bool = True, step: int = 0) -> TrainingNeeds:
    """Measure training step ``step`` of ``method`` on ``batch``; put both on the meta device if they are large."""
    from torch.utils.flop_counter import FlopCounterMode

    own = {p.untyped_storage()._cdata for p in method.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # so that no storage is freed and its address counted once for two tensors
        return tensor

    alive: list[Tensor] = []
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        method.training_losses(batch, BatchGenerator(0, 0), step)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    frozen = count_parameters(method) - trained
    state = 4 * (trained * (5 if ema else 4) + frozen)
    return TrainingNeeds(
        tuple(parameters_per_part(method).items()), state, sum(kept.values()), 3 * counter.get_total_flops()
    )
