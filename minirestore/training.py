"""One training loop for every method, on Accelerate: any device, bf16, accumulation, EMA, resume.

A run is a pure function of (method, data, `TrainingConfig`): the batch and the noise of step ``n`` are drawn from
(seed, n) for the whole batch and then cut into shards, one per process and accumulation step. Hence a resumed run
equals an uninterrupted one, and two processes or four accumulation steps see exactly what one process sees.
"""

import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minirestore.checkpoints import write_atomically
from minirestore.config import progress_bar
from minirestore.diffusion import BatchGenerator

MakeBatch = Callable[..., dict[str, Tensor]]
PRECISIONS = ("no", "bf16")
DECAYS = ("cosine", "constant", "exponential")
STATE_FILE = "state.pt"


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run is, apart from its data and its network.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step, over all processes and accumulation steps together.
        learning_rate: peak of AdamW's, reached after ``warmup`` steps.
        hold: steps at the peak before the decay.
        decay: what follows: ``cosine`` down to ``final_learning_rate``, ``constant``, or ``exponential`` down to it at
            step ``decay_until`` (0: at the end), where it stays; then the warm-up begins with the rate 0 (DepthMaster,
            released code).
        weight_decay, betas: AdamW's.
        gradient_clip: largest norm of the gradient; 0 switches clipping off.
        ema_decay: decay of the exponential moving average of the weights; 0 switches it off.
        ema_warmup: begin with a smaller decay, for short runs.
        precision: ``no`` (float32) or ``bf16`` (autocast).
        accumulation: backward passes per step; divides ``batch_size``.
        patches, patch_batches, patch_steps, patch_cycles: patch-cycle learning (C2F-DFT): for ``patch_steps`` steps
            each, crops of these sides in batches of these sizes, and again from the first; after so many cycles (0:
            never) the last pair stays. ``batch_size`` and the data's crop hold without patches alone.
        seed: of batches and noise.
    """

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    precision: str = "no"
    accumulation: int = 1
    decay: str = "cosine"
    hold: int = 0
    final_learning_rate: float = 0.0
    decay_until: int = 0
    ema_warmup: bool = True
    patches: tuple[int, ...] = ()
    patch_batches: tuple[int, ...] = ()
    patch_steps: int = 1000
    patch_cycles: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.decay not in DECAYS:
            raise ValueError(f"decay: expected one of {', '.join(DECAYS)}, got {self.decay!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.steps < 1 or self.accumulation < 1:
            raise ValueError(f"steps and accumulation: must be at least 1, got {self.steps} and {self.accumulation}")
        if self.batch_size < 1 or self.batch_size % self.accumulation:
            raise ValueError(f"batch_size: {self.batch_size} is not a positive multiple of {self.accumulation}")
        if not 0 < self.learning_rate < math.inf or not self.gradient_clip >= 0:
            got = f"{self.learning_rate} and {self.gradient_clip}"
            raise ValueError(f"learning_rate and gradient_clip: must be positive (clip: or 0), got {got}")
        if not 0 <= self.final_learning_rate <= self.learning_rate or self.hold < 0:
            got = f"{self.final_learning_rate} and {self.hold}"
            raise ValueError(f"final_learning_rate and hold: expected 0 <= final <= peak and hold >= 0, got {got}")
        if self.decay_until < 0 or (self.decay == "exponential" and not self.final_learning_rate):
            got = f"{self.decay_until} and {self.final_learning_rate}"
            raise ValueError(f"decay_until, final_learning_rate: an exponential needs a final rate above 0, got {got}")
        self._check_patches()
        if self.warmup < 0 or not 0 <= self.ema_decay < 1:
            raise ValueError(f"warmup >= 0 and 0 <= ema_decay < 1: got {self.warmup} and {self.ema_decay}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {self.betas}")

    @property
    def batches(self) -> tuple[tuple[int | None, int], ...]:
        """Side and number of the crops of every kind of step; the side is None where the data decide."""
        return tuple(zip(self.patches, self.patch_batches, strict=True)) or ((None, self.batch_size),)

    def _check_patches(self) -> None:
        if len(self.patches) != len(self.patch_batches) or any(n < 1 for n in (*self.patches, *self.patch_batches)):
            got = f"{self.patches} and {self.patch_batches}"
            raise ValueError(f"patches and patch_batches: expected as many sides as batch sizes, all >= 1, got {got}")
        if any(batch % self.accumulation for batch in self.patch_batches):
            raise ValueError(f"patch_batches: {self.patch_batches} are not all multiples of {self.accumulation}")
        if self.patch_steps < 1 or self.patch_cycles < 0:
            got = f"{self.patch_steps} and {self.patch_cycles}"
            raise ValueError(f"patch_steps >= 1 and patch_cycles >= 0: got {got}")

    def learning_rate_at(self, step: int) -> float:
        """Warm-up, the peak for ``hold`` steps, then the decay."""
        if step < self.warmup:
            return self.learning_rate * (step + (self.decay != "exponential")) / self.warmup
        start = self.warmup + self.hold
        if self.decay == "exponential":
            progress = min(max(step - start, 0) / max((self.decay_until or self.steps) - start, 1), 1)
            return self.learning_rate * (self.final_learning_rate / self.learning_rate) ** progress
        if self.decay == "constant" or step < start:
            return self.learning_rate
        progress = (step - start) / max(self.steps - start, 1)
        fall = 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * fall

    def patch_at(self, step: int) -> tuple[int | None, int]:
        """Side and number of the crops of a step, one of ``batches``."""
        number = step // self.patch_steps
        if self.patch_cycles and number >= self.patch_cycles * len(self.batches):
            number = -1
        return self.batches[number % len(self.batches)]


@dataclass
class FitResult:
    """What `fit` did: ``history`` holds each step's losses by name; ``finished`` is False if time ran out.

    ``wall_time_s`` counts all calls that worked on the run; ``is_main_process`` says who should write results.
    """

    steps_done: int
    finished: bool
    wall_time_s: float
    device: str
    is_main_process: bool
    history: dict[str, list[float]] = field(default_factory=dict)


def resolve_device(device: str = "auto") -> torch.device:
    """``auto`` is CUDA when there is a working GPU, else the CPU; naming an absent device raises RuntimeError."""
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))  # each process its own GPU
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}") from None
    if resolved.type == "cuda" and (
        not torch.cuda.is_available() or (resolved.index or 0) >= torch.cuda.device_count()
    ):
        raise RuntimeError(f"device: {device!r} asked for, but PyTorch sees no such GPU; use device='cpu' or 'auto'")
    return resolved


class _Losses(nn.Module):
    """Routes the losses through ``forward``, where Accelerate puts autocast and gradient synchronisation."""

    def __init__(self, method: nn.Module):
        super().__init__()
        self.method = method

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        return self.method.training_losses(batch, generator, step)


def fit(
    method: nn.Module,
    make_batch: MakeBatch,
    config: TrainingConfig,
    *,
    run_dir: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    device: str = "auto",
    minutes: float | None = None,
    save_every: int = 500,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> FitResult:
    """Train ``method`` in place; at the end it holds the averaged weights (EMA) and is in evaluation mode.

    Weights and average both begin at the weights that ``method`` has.

    Args:
        method: has ``training_losses(batch, generator, step) -> {"loss": ..., ...}``; frozen parameters stay.
        make_batch: ``(batch_size, generator) -> batch`` for the whole batch, with a third argument, the side of the
            crops, where ``config`` has patches; a pure function of its arguments.
        config: see `TrainingConfig`.
        run_dir: folder for the resumable state, written atomically; an unfinished run found there goes on.
        identity: what else makes this run what it is (network, data), by name; saved and compared on resuming.
        device: ``auto``, ``cpu``, ``cuda``; several processes are started with ``accelerate launch``.
        minutes: stop (and save) after so much wall time in this call; the run can be resumed.
        save_every: steps between two saves of the state.
        on_step: called with (steps done, losses of that step).

    Raises:
        ValueError: ``run_dir`` holds another run or a damaged state; ``save_every`` or ``minutes`` is out of range.
        FloatingPointError: a loss is not finite; the last saved state is kept.
    """
    if save_every < 1 or (minutes is not None and not minutes >= 0):
        raise ValueError(f"save_every >= 1 and minutes >= 0: got {save_every} and {minutes}")
    accelerator = _make_accelerator(config, resolve_device(device))
    shards = accelerator.num_processes * config.accumulation
    if odd := [size for _, size in config.batches if size % shards]:
        name = "patch_batches" if config.patches else "batch_size"
        raise ValueError(f"{name}: {odd[0]} is not a multiple of {shards} (processes x accumulation)")
    method.to(accelerator.device).train()
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, config.learning_rate, config.betas, weight_decay=config.weight_decay)
    ema = _make_ema(parameters, config)
    losses, optimiser = accelerator.prepare(_Losses(method), optimiser)
    state_path = Path(run_dir) / STATE_FILE if run_dir is not None else None
    identity = {**asdict(config), **(identity or {})}
    history, spent = _load_state(state_path, identity, method, optimiser, ema) if state_path else ({}, 0.0)
    done = len(history.get("loss", ()))
    started = time.monotonic()

    def elapsed() -> float:
        return spent + time.monotonic() - started

    bar = progress_bar(config.steps, "train", done)
    while done < config.steps and not _time_is_up(accelerator, started, minutes):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate_at(done)
        values = _step(accelerator, losses, parameters, optimiser, make_batch, config, done)
        if ema is not None:
            ema.update_parameters(nn.ParameterList(parameters))
        done += 1
        for name, value in values.items():
            history.setdefault(name, []).append(value)
        bar.update()
        if on_step is not None:
            on_step(done, values)
        if state_path and done % save_every == 0 and done < config.steps:
            _save_state(accelerator, state_path, identity, method, optimiser, ema, history, elapsed())
    bar.close()
    if state_path:
        _save_state(accelerator, state_path, identity, method, optimiser, ema, history, elapsed())
    if ema is not None:
        with torch.no_grad():
            for parameter, averaged in zip(parameters, ema.module, strict=True):
                parameter.copy_(averaged)
    method.eval()
    main = accelerator.is_main_process
    return FitResult(done, done >= config.steps, elapsed(), str(accelerator.device), main, history)


def _make_accelerator(config: TrainingConfig, device: torch.device):
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    # Accelerate keeps device and precision for the life of a process; a second run may ask for others
    AcceleratorState._reset_state(reset_partial_state=int(os.environ.get("WORLD_SIZE", 1)) == 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # a stage of a method may leave parameters without gradient, such as the U-Net while only the guidance is trained
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=device.type == "cpu", kwargs_handlers=[unused])
    if accelerator.device.type != device.type:
        raise RuntimeError(f"device: asked for {device}, but Accelerate runs on {accelerator.device}")
    return accelerator


def _time_is_up(accelerator, started: float, minutes: float | None) -> bool:
    """Whether ``minutes`` have passed on the clock of the main process, which decides for all."""
    if minutes is None:
        return False
    from accelerate.utils import broadcast

    up = torch.tensor(float(time.monotonic() - started >= 60 * minutes), device=accelerator.device)
    return bool(broadcast(up).item())


def _make_ema(parameters: list[nn.Parameter], config: TrainingConfig):
    """The moving average of the trained parameters; with warm-up its decay grows as (1 + n) / (10 + n)."""
    if not config.ema_decay:
        return None
    from torch.optim.swa_utils import AveragedModel

    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        n = count.item()
        decay = min(config.ema_decay, (1 + n) / (10 + n)) if config.ema_warmup else config.ema_decay
        torch._foreach_lerp_(averaged, current, 1 - decay)

    return AveragedModel(nn.ParameterList(parameters), multi_avg_fn=average)


def _step(accelerator, losses, parameters, optimiser, make_batch, config, step: int) -> dict[str, float]:
    """One optimiser step over all shards of the batch; returns the batch's mean losses."""
    crop, size = config.patch_at(step)
    batch = make_batch(size, BatchGenerator(config.seed, 2 * step), *([] if crop is None else [crop]))
    shards = accelerator.num_processes * config.accumulation
    rows = size // shards
    sums: dict[str, Tensor] = {}
    for micro in range(config.accumulation):
        shard = micro * accelerator.num_processes + accelerator.process_index
        part = {k: v[shard * rows : (shard + 1) * rows].to(accelerator.device) for k, v in batch.items()}
        generator = BatchGenerator(config.seed, 2 * step + 1, rank=shard, world_size=shards)
        last = micro + 1 == config.accumulation
        with _maybe_no_sync(accelerator, losses, last):
            values = losses(part, generator, step)
            accelerator.backward(values["loss"] / config.accumulation)
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value.detach().float() / config.accumulation
    means = {name: accelerator.reduce(value, "mean").item() for name, value in sums.items()}
    if not all(math.isfinite(value) for value in means.values()):
        raise FloatingPointError(
            f"loss is not finite at step {step}: {means}; lower learning_rate or use precision='no'"
        )
    if config.gradient_clip:
        accelerator.clip_grad_norm_(parameters, config.gradient_clip)
    optimiser.step()
    optimiser.zero_grad()
    return means


def _maybe_no_sync(accelerator, losses, last: bool):
    """Gradients are exchanged between processes once, after the last accumulation step."""
    from contextlib import nullcontext

    return nullcontext() if last else accelerator.no_sync(losses)


def _save_state(accelerator, path: Path, identity, method, optimiser, ema, history, wall_time_s) -> None:
    """Write the whole state, headed by its sha256; every process waits until it is there."""
    if accelerator.is_main_process:
        state = _state(identity, method, optimiser, ema, history, wall_time_s)
        write_atomically(path, hashlib.sha256(state).hexdigest().encode() + state)
    accelerator.wait_for_everyone()


def _state(identity, method, optimiser, ema, history, wall_time_s) -> bytes:
    buffer = io.BytesIO()
    state = {
        "identity": dict(identity),
        "method": method.state_dict(),
        "optimiser": optimiser.state_dict(),
        "ema": ema.state_dict() if ema is not None else None,
        "history": history,
        "wall_time_s": wall_time_s,
    }
    torch.save(state, buffer)
    return buffer.getvalue()


def last_weights(run_dir: str | Path) -> dict[str, Tensor]:
    """The weights after the last step of a finished run, before averaging.

    Raises:
        FileNotFoundError: the folder holds no run. ValueError: its state is damaged, or the run is not finished.
    """
    path = Path(run_dir) / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"run_dir: {path} not found; name the folder of a training run")
    state = _read_state(path)
    done, steps = len(state["history"].get("loss", ())), state["identity"]["steps"]
    if done < steps:
        raise ValueError(f"run_dir: {run_dir} holds {done} of {steps} steps; finish that training first")
    return state["method"]


def _read_state(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    if hashlib.sha256(content[64:]).hexdigest().encode() != content[:64]:
        raise ValueError(f"run_dir: {path} is damaged (its sha256 differs); delete it to start again")
    return torch.load(io.BytesIO(content[64:]), map_location="cpu", weights_only=True)


def _load_state(path: Path, identity, method, optimiser, ema) -> tuple[dict[str, list[float]], float]:
    """Restore a saved run, if there is one; returns its history and the wall time spent on it."""
    if not path.is_file():
        return {}, 0.0
    state = _read_state(path)
    found = state["identity"]
    if differing := [k for k in {**identity, **found} if identity.get(k) != found.get(k)]:
        detail = ", ".join(f"{k} (asked {identity.get(k)}, saved {found.get(k)})" for k in differing)
        raise ValueError(f"run_dir: {os.fspath(path.parent)} holds another run: {detail}; choose another folder")
    method.load_state_dict(state["method"])
    optimiser.load_state_dict(state["optimiser"])
    if ema is not None:
        ema.load_state_dict(state["ema"])
    return state["history"], state["wall_time_s"]
