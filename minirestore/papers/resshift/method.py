"""The methods: ResShift, trained on single steps, and SinSR, its sampler distilled into one call."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import checkpoints, diffusion, images
from minirestore.config import override
from minirestore.papers.resshift.config import ShiftConfig, SwinUNetConfig
from minirestore.papers.resshift.network import SwinUNet
from minirestore.papers.resshift.schedule import (
    ShiftSchedule,
    deterministic_chain,
    make_schedule,
    sampling_schedule,
    stochastic_chain,
)
from minirestore.prior import Autoencoder, load_autoencoder

STAGES = ("teacher", "student")
PREDICTIONS = ("x0", "residual")


@dataclass(frozen=True)
class ResShiftConfig(SwinUNetConfig, ShiftConfig):
    """The method: schedule (`ShiftConfig`), network (`SwinUNetConfig`), and what is trained.

    Attributes:
        stage: ``teacher`` (ResShift: the squared error of x_0 at a random step) or ``student`` (SinSR).
        scale: pixels of the output per pixel of the input, in each direction.
        prediction: what the network's output is: ``x0``, or ``residual``, y - x_0 (both in the released code, whose
            published models are x0). The squared error of x_0 is the loss of both. A network for the residual begins
            with y as its x_0; one for x_0 has to learn first what y, which it sees through noise alone, contains.
        autoencoder: name of a shipped autoencoder, or its folder; frozen.
        quantise: decode through its codebook, if it has one (released code). A small codebook costs more than it helps:
            it rounds what is right already.
        teacher: name of the checkpoint, or its path, whose deterministic sampler the student learns; frozen.
        inverse_weight: of SinSR's second loss: the same network, told time 0, finds the x_T behind a result of the
            teacher. 0 switches it off (with it, the third has no inverse to rely on).
        gt_weight: of SinSR's third loss: from the x_T that the network finds behind the true x_0 it shall get x_0 back.
    """

    stage: str = "teacher"
    scale: int = 4
    prediction: str = "x0"
    autoencoder: str = "vq"
    quantise: bool = True
    teacher: str = "resshift"
    inverse_weight: float = 1.0
    gt_weight: float = 1.0

    def __post_init__(self):
        ShiftConfig.__post_init__(self)
        SwinUNetConfig.__post_init__(self)
        if self.stage not in STAGES:
            raise ValueError(f"stage: expected one of {', '.join(STAGES)}, got {self.stage!r}")
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if self.scale < 1:
            raise ValueError(f"scale: must be at least 1, got {self.scale}")
        if not self.inverse_weight >= 0 or not self.gt_weight >= 0:
            raise ValueError(f"inverse_weight, gt_weight: not negative: {self.inverse_weight}, {self.gt_weight}")


class ResShift(nn.Module):
    """ResShift or SinSR; low-quality images (B, 3, H, W) in [0, 1] to (B, 3, scale H, scale W).

    Args:
        config: see `ResShiftConfig`.
        autoencoder, teacher: frozen, to be used instead of those that ``config`` names.
    """

    def __init__(
        self,
        config: ResShiftConfig | None = None,
        autoencoder: Autoencoder | None = None,
        teacher: SwinUNet | None = None,
    ):
        super().__init__()
        self.config = c = config or ResShiftConfig()
        found = load_autoencoder(c.autoencoder) if autoencoder is None else autoencoder
        self.autoencoder = found.requires_grad_(False)
        self.network = SwinUNet(c)
        self.frozen_parts = ("autoencoder",)
        if c.stage == "student":
            self.teacher = (load_teacher(c) if teacher is None else teacher).requires_grad_(False)
            self.frozen_parts = ("autoencoder", "teacher")

    @property
    def scale(self) -> int:
        """Pixels of the output per pixel of the input."""
        return self.config.scale

    @property
    def multiple(self) -> int:
        """Sides of a low-quality image that needs no padding are multiples of this."""
        latents, f = self.network.multiple, self.autoencoder.factor
        return next(side for side in range(1, latents * f + 1) if side * self.scale % (latents * f) == 0)

    def upscaled(self, lq: Tensor) -> Tensor:
        """y: the latents of the image enlarged bicubically, without antialiasing (released code); lq in [-1, 1]."""
        large = F.interpolate(lq, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return self.autoencoder.encode(large)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to images in [-1, 1]."""
        return self.autoencoder.decode(z, self.config.quantise)

    def predict(self, lq: Tensor, y: Tensor, network: SwinUNet | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """``(scaled x_t, times) -> x_0`` beside a low-quality image in [-1, 1], resized to its latents ``y``."""
        network = network or self.network
        beside = lq if lq.shape[-2:] == y.shape[-2:] else F.interpolate(lq, y.shape[-2:], mode="bicubic")

        def call(x_t: Tensor, times: Tensor) -> Tensor:
            output = network(x_t, times, beside.to(x_t.dtype)).to(x_t.dtype)
            return output if self.config.prediction == "x0" else ShiftSchedule.x0_from_residual(output, y)

        return call

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """``batch`` holds ``clean`` (B, 3, scale H, scale W) and ``degraded`` (B, 3, H, W), in [0, 1]."""
        if self.config.stage == "student":
            return self.student_losses(batch, generator)[0]
        x0, y, lq = self._latents(batch)
        schedule = make_schedule(self.config)
        noise = diffusion.randn(x0.shape, generator, x0.device)
        t = diffusion.random_times(len(x0), len(schedule), generator)
        x_t = schedule.q_sample(x0, y, t, noise)
        predicted = self.predict(lq, y)(schedule.scale_input(x_t, t), schedule.times[t].to(x_t))
        return {"loss": F.mse_loss(predicted.float(), x0)}

    def student_losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """SinSR's losses, and the student's x_0 from x_T (latents).

        ``distill``: one call from x_T against the teacher's whole chain. ``inverse`` and ``gt``: see `ResShiftConfig`.
        Every call scales its input as at the last step, whatever time it is told (released code).
        """
        c, schedule = self.config, make_schedule(self.config)
        x0, y, lq = self._latents(batch)
        last = len(schedule) - 1
        x_T = schedule.prior_sample(y, diffusion.randn(y.shape, generator, y.device))
        with torch.no_grad():
            target = deterministic_chain(schedule, self.predict(lq, y, self.teacher), y, x_T)
        call = self.predict(lq, y)

        def student(x: Tensor, time: int) -> Tensor:
            return call(schedule.scale_input(x, last), x.new_full((len(x),), float(time))).float()

        restored = student(x_T, last)
        losses = {"distill": F.mse_loss(restored, target)}
        total = losses["distill"]
        if c.inverse_weight:
            losses["inverse"] = F.mse_loss(student(target, 0), x_T)
            total = total + c.inverse_weight * losses["inverse"]
        if c.gt_weight:
            with torch.no_grad():
                behind = student(x0, 0)
            losses["gt"] = F.mse_loss(student(behind, last), x0)
            total = total + c.gt_weight * losses["gt"]
        return {"loss": total, **losses}, restored

    def _latents(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x_0, y, and the low-quality image in [-1, 1]."""
        lq = images.to_model_range(batch["degraded"])
        with torch.no_grad():
            return self.autoencoder.encode(images.to_model_range(batch["clean"])), self.upscaled(lq), lq

    @torch.no_grad()
    def restore(
        self,
        degraded: Tensor,
        generator: torch.Generator | None = None,
        steps: int = 0,
        spacing: str = "",
        deterministic: bool = False,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Restore and enlarge a batch of photographs.

        Args:
            degraded: ``(B, 3, H, W)`` in [0, 1], of any floating-point type; computed in the type of the weights.
            generator: source of all noise; None seeds one with 0.
            steps, spacing: of the teacher's sampler, see `visited_steps`; 0 and "" take those of the config. The
                student makes one call.
            deterministic: the teacher goes SinSR's way instead of drawing from the posterior.
            callback: called as (index, x_t, predicted x_0), latents of the padded image.

        Returns:
            ``(B, 3, scale H, scale W)`` in [0, 1], type of ``degraded``.

        Raises:
            ValueError: not such images, or an option out of range.
        """
        images.check_images(degraded, "degraded", channels=(3,))
        c = self.config
        if c.stage == "student":
            schedule, deterministic = make_schedule(c).respaced(1), True
        else:
            schedule = sampling_schedule(c, steps, spacing)
        generator = diffusion.BatchGenerator(0, 0) if generator is None else generator

        def run(lq: Tensor) -> Tensor:
            y = self.upscaled(lq)
            x_T = schedule.prior_sample(y, diffusion.randn(y.shape, generator, y.device, y.dtype))
            if deterministic:
                z = deterministic_chain(schedule, self.predict(lq, y), y, x_T, callback)
            else:
                z = stochastic_chain(schedule, self.predict(lq, y), x_T, generator, callback)
            return self.decode(z)

        lq = images.to_model_range(degraded.to(next(self.network.parameters()).dtype))
        restored = images.apply_padded(run, lq, self.multiple, scale=self.scale)
        return images.to_unit_range(restored).to(degraded.dtype)


def load_teacher(config: ResShiftConfig) -> SwinUNet:
    """The frozen network of the checkpoint that ``config.teacher`` names, evaluating; without weights on meta.

    Raises:
        FileNotFoundError, ValueError: as `checkpoints.load`; the checkpoint holds another method or another schedule.
    """
    if torch.get_default_device().type == "meta":
        return SwinUNet(config)
    tensors, card = checkpoints.load(config.teacher)
    if card["method"] != "resshift":
        raise ValueError(f"teacher: {config.teacher} holds {card['method']!r}, not 'resshift'; name another checkpoint")
    found = override(ResShiftConfig(), card["config"])
    for field in (*ShiftConfig.__dataclass_fields__, "prediction"):
        if field not in ("sampling_steps", "spacing") and getattr(found, field) != getattr(config, field):
            got = f"{getattr(found, field)} and {getattr(config, field)}"
            raise ValueError(f"teacher: {config.teacher} and the student differ in {field}, {got}; use the teacher's")
    network = SwinUNet(found)
    own = {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    checkpoints.fill(network, own, config.teacher)
    return network
