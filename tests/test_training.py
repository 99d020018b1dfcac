"""The training loop: a run is a pure function of its configuration, however it is cut up."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from minirestore import diffusion, training
from minirestore.training import TrainingConfig, fit


class Toy(nn.Module):
    """A linear denoiser whose loss draws noise, so that the order of random numbers matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Conv2d(3, 3, 3, padding=1)

    def training_losses(self, batch, generator, step):
        clean = batch["clean"]
        noisy = clean + diffusion.randn(clean.shape, generator, clean.device)
        return {"loss": (self.net(noisy) - clean).square().mean(), "step": clean.new_tensor(float(step))}


class Staged(Toy):
    """A second network joins after six steps; until then its parameters have no gradient."""

    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(3, 3, 3, padding=1)

    def training_losses(self, batch, generator, step):
        losses = super().training_losses(batch, generator, step)
        if step >= 6:
            losses["late"] = (self.late(batch["clean"]) - batch["clean"]).square().mean()
            losses["loss"] = losses["loss"] + losses["late"]
        return losses


def make_batch(batch_size, generator):
    return {"clean": torch.rand(batch_size, 3, 8, 8, generator=generator)}


CONFIG = TrainingConfig(steps=12, batch_size=4, learning_rate=1e-2, warmup=3)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def run(config=CONFIG, kind=Toy, **options):
    method = kind()
    return method, fit(method, make_batch, config, device="cpu", **options)


def test_the_loss_falls_and_history_has_every_step():
    method, result = run(TrainingConfig(steps=150, batch_size=8, learning_rate=2e-2, warmup=5))
    assert result.finished and result.steps_done == 150
    assert result.history["step"] == list(range(150))
    assert sum(result.history["loss"][-10:]) < 0.5 * sum(result.history["loss"][:10])
    assert not method.training


def test_same_seed_same_bytes_other_seed_other_bytes():
    a, b = run()[0], run()[0]
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(run(TrainingConfig(**{**CONFIG.__dict__, "seed": 1}))[0]))


def test_a_run_in_two_calls_equals_one(tmp_path):
    whole, _ = run()
    part = Toy()
    stopper = {"left": 5}

    class Stop(Exception):
        pass

    def on_step(done, losses):
        stopper["left"] -= 1
        if stopper["left"] == 0:
            raise Stop

    with pytest.raises(Stop):
        fit(part, make_batch, CONFIG, run_dir=tmp_path, device="cpu", save_every=2, on_step=on_step)
    resumed, result = run(run_dir=tmp_path)
    assert result.finished and len(result.history["loss"]) == CONFIG.steps
    assert torch.equal(weights(whole), weights(resumed))


def test_no_time_left_saves_and_goes_on_later(tmp_path):
    whole, _ = run()
    _, first = run(run_dir=tmp_path, minutes=0)
    assert not first.finished and first.steps_done == 0
    resumed, second = run(run_dir=tmp_path)
    assert second.finished
    assert torch.equal(weights(whole), weights(resumed))


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        import test_training as t
        def on_step(done, losses):
            if done == 8:
                os.kill(os.getpid(), signal.SIGKILL)
        t.run(run_dir=sys.argv[2], save_every=3, on_step=on_step)
    """)
    arguments = [sys.executable, "-c", script, os.path.dirname(__file__), str(tmp_path)]
    killed = subprocess.run(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    steps = []
    resumed, result = run(run_dir=tmp_path, on_step=lambda done, _: steps.append(done))
    assert steps == list(range(7, 13)), "goes on from the state saved after step 6"
    whole, uninterrupted = run()
    assert torch.equal(weights(whole), weights(resumed))
    assert result.history == uninterrupted.history


def test_accumulation_gives_the_losses_of_one_batch():
    _, one = run()
    _, four = run(TrainingConfig(**{**CONFIG.__dict__, "accumulation": 4}))
    assert four.history["loss"] == pytest.approx(one.history["loss"], abs=1e-5)


def test_two_processes_give_the_losses_of_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent("""
        import json, os, sys
        sys.path.insert(0, sys.argv[1])
        import test_training as t
        method, result = t.run()
        _, staged = t.run(kind=t.Staged)
        folder = sys.argv[2]
        slow = t.training.time.monotonic
        skew = 1000.0 * int(os.environ["RANK"])  # the clocks of two machines differ; one of them must decide
        t.training.time.monotonic = lambda: slow() * (1 + skew)
        for call in range(3):
            _, cut = t.run(run_dir=folder, minutes=0.02)
            assert cut.is_main_process == (int(os.environ["RANK"]) == 0)
        if int(os.environ["RANK"]) == 0:
            print("LOSSES", json.dumps([result.history["loss"], staged.history["loss"]]), int(os.environ["WORLD_SIZE"]))
            assert cut.finished and cut.history["loss"] == result.history["loss"]
    """)
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
               "--num_cpu_threads_per_process", "1",
               str(script), os.path.dirname(__file__), str(tmp_path / "run")]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("LOSSES")), None)
    assert line is not None and done.returncode == 0, done.stdout + done.stderr
    losses, world_size = line.removeprefix("LOSSES ").rsplit(" ", 1)
    assert world_size == "2"
    plain, staged = json.loads(losses)
    assert plain == pytest.approx(run()[1].history["loss"], abs=1e-5)
    assert staged == pytest.approx(run(kind=Staged)[1].history["loss"], abs=1e-5)


def test_a_network_without_gradient_waits_untouched_for_its_stage():
    method, result = run(TrainingConfig(**{**CONFIG.__dict__, "steps": 6, "ema_decay": 0.0}), kind=Staged)
    assert torch.equal(weights(method.late), weights(Staged().late)) and "late" not in result.history
    method, result = run(kind=Staged)
    assert not torch.equal(weights(method.late), weights(Staged().late))
    assert len(result.history["late"]) == 6 and len(result.history["loss"]) == 12


def test_bf16_trains_and_then_float32_in_the_same_process():
    _, low = run(TrainingConfig(**{**CONFIG.__dict__, "precision": "bf16"}))
    _, high = run()
    assert low.history["loss"] != high.history["loss"]
    assert low.history["loss"] == pytest.approx(high.history["loss"], rel=0.05)


def test_the_average_of_the_weights_is_returned():
    raw, _ = run(TrainingConfig(**{**CONFIG.__dict__, "ema_decay": 0.0}))
    averaged, _ = run()
    start = weights(Toy())
    assert 0 < (weights(averaged) - start).norm() < (weights(raw) - start).norm()


def test_frozen_parameters_stay():
    method = Toy()
    method.net.bias.requires_grad_(False)
    before = method.net.bias.clone()
    fit(method, make_batch, CONFIG, device="cpu")
    assert torch.equal(method.net.bias, before)


def test_another_configuration_is_refused(tmp_path):
    run(run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"holds another run: batch_size \(asked 8, saved 4\)"):
        run(TrainingConfig(**{**CONFIG.__dict__, "batch_size": 8}), run_dir=tmp_path)


def test_another_network_or_data_set_is_refused(tmp_path):
    """Only what the caller names can tell two runs of equal shapes apart."""
    run(run_dir=tmp_path, identity={"objective": "diffusion", "sigma": 25.0})
    with pytest.raises(ValueError, match=r"objective \(asked regression, saved diffusion\)"):
        run(run_dir=tmp_path, identity={"objective": "regression", "sigma": 25.0})
    with pytest.raises(ValueError, match=r"sigma \(asked None, saved 25.0\)"):
        run(run_dir=tmp_path, identity={"objective": "diffusion"})
    assert run(run_dir=tmp_path, identity={"objective": "diffusion", "sigma": 25.0})[1].finished


@pytest.mark.parametrize("damage", ["truncated", "flipped at 0.1", "flipped at 0.5", "flipped at 0.95", "empty"])
def test_a_damaged_state_is_one_clear_error(tmp_path, damage):
    run(run_dir=tmp_path)
    state = tmp_path / training.STATE_FILE
    content = bytearray(state.read_bytes())
    if damage.startswith("flipped"):
        content[int(len(content) * float(damage.split()[-1]))] ^= 8
    else:
        content = content[: 100 if damage == "truncated" else 0]
    state.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        run(run_dir=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    def poisoned(batch_size, generator):
        return {"clean": torch.full((batch_size, 3, 8, 8), float("nan"))}

    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        fit(Toy(), poisoned, CONFIG, run_dir=tmp_path, device="cpu")
    assert not (tmp_path / training.STATE_FILE).exists()


def test_learning_rate_warms_up_and_ends_near_zero():
    config = TrainingConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[-1] < 1e-3
    assert rates.index(1.0) in (9, 10)


def test_a_constant_learning_rate_stays_after_its_warmup():
    config = TrainingConfig(steps=100, warmup=10, learning_rate=1.0, decay="constant")
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:] == [1.0] * 91


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "step"}, "decay: expected one of cosine, constant, exponential, got 'step'"),
        ({"precision": "fp8"}, "precision: expected one of"),
        ({"batch_size": 6, "accumulation": 4}, "batch_size: 6 is not"),
        ({"steps": 0}, "steps and accumulation"),
        ({"learning_rate": 0.0}, "learning_rate and gradient_clip: must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate and gradient_clip: must be positive"),
        ({"gradient_clip": -1.0}, "learning_rate and gradient_clip: must be positive"),
        ({"ema_decay": 1.0}, "ema_decay < 1: got"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"betas": (0.9,)}, "betas: expected two numbers"),
    ],
)
def test_bad_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)


@pytest.mark.parametrize("options", [{"save_every": 0}, {"minutes": -1.0}, {"minutes": float("nan")}])
def test_bad_limits_are_refused(options):
    with pytest.raises(ValueError, match="save_every >= 1 and minutes >= 0"):
        run(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_but_absent():
    with pytest.raises(RuntimeError, match="PyTorch sees no such GPU"):
        training.resolve_device("cuda")


def test_unknown_device():
    with pytest.raises(ValueError, match="device: expected auto"):
        training.resolve_device("gpu")


# ---------------------------------------------------------------- schedules of crops and rates


def test_the_rate_holds_then_falls_to_its_floor():
    config = TrainingConfig(steps=100, warmup=10, hold=20, learning_rate=1.0, final_learning_rate=0.1)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[9:31] == pytest.approx([1.0] * 22)
    assert rates[65] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(b < a for a, b in itertools.pairwise(rates[31:]))


def test_patches_come_in_turn_and_the_last_stays():
    config = TrainingConfig(patches=(8, 16), patch_batches=(8, 2), patch_steps=3, patch_cycles=2)
    sides = [config.patch_at(step)[0] for step in range(15)]
    assert sides == [8, 8, 8, 16, 16, 16] * 2 + [16] * 3
    assert {side * side * count for side, count in map(config.patch_at, range(12))} == {512}  # pixels per step
    endless = TrainingConfig(patches=(8, 16), patch_batches=(8, 2), patch_steps=3)
    assert endless.patch_at(12) == (8, 8)
    assert TrainingConfig(batch_size=5).patch_at(7) == (None, 5)


def test_training_asks_for_the_patches_of_its_cycle():
    asked = []

    def make(batch_size, generator, crop):
        asked.append((batch_size, crop))
        return {"clean": torch.rand(batch_size, 3, crop, crop, generator=generator)}

    config = TrainingConfig(steps=6, patches=(8, 16), patch_batches=(4, 2), patch_steps=2)
    fit(Toy(), make, config, device="cpu")
    assert asked == [(4, 8), (4, 8), (2, 16), (2, 16), (4, 8), (4, 8)]


def test_patches_may_be_accumulated():
    def make(batch_size, generator, crop=8):
        return {"clean": torch.rand(batch_size, 3, crop, crop, generator=generator)}

    whole = TrainingConfig(steps=4, learning_rate=1e-2, patches=(8, 16), patch_batches=(4, 2), patch_steps=2)
    models = [Toy(), Toy()]
    for model, accumulation in zip(models, (1, 2), strict=True):
        fit(model, make, dataclasses.replace(whole, accumulation=accumulation), device="cpu")
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=1e-4, atol=1e-6)


def test_batches_that_the_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(training, "_make_accelerator", lambda *a: SimpleNamespace(num_processes=3))
    for settings, message in (
        ({"patches": (8, 16), "patch_batches": (9, 4)}, "patch_batches: 4 is not a multiple of 3"),
        ({"batch_size": 4}, "batch_size: 4 is not a multiple of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(Toy(), make_batch, TrainingConfig(**settings), device="cpu")


def test_the_average_warms_up_unless_told_not_to():
    first = weights(Toy())
    moved = {}
    for warm in (True, False):
        config = TrainingConfig(
            steps=40, batch_size=4, warmup=0, decay="constant", ema_decay=0.999, ema_warmup=warm, learning_rate=1e-2
        )
        model = Toy()
        fit(model, make_batch, config, device="cpu")
        moved[warm] = (weights(model) - first).abs().mean()
    assert moved[False] < 0.2 * moved[True]  # an average that starts at its full length has hardly moved


def test_gradient_clipping_is_off_at_zero(monkeypatch):
    calls = []
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setattr(accelerate.Accelerator, "clip_grad_norm_", lambda self, p, norm: calls.append(norm))
    for clip in (0.0, 2.0):
        fit(Toy(), make_batch, TrainingConfig(steps=1, batch_size=4, gradient_clip=clip), device="cpu")
    assert calls == [2.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hold": -1}, "final_learning_rate and hold"),
        ({"gradient_clip": -1.0}, "learning_rate and gradient_clip"),
        ({"final_learning_rate": 1.0, "learning_rate": 0.1}, "final_learning_rate and hold"),
        ({"patches": (8,)}, "patches and patch_batches"),
        ({"patches": (8,), "patch_batches": (0,)}, "patches and patch_batches"),
        ({"patches": (8,), "patch_batches": (3,), "accumulation": 2}, "patch_batches"),
        ({"patch_steps": 0}, "patch_steps >= 1"),
        ({"patch_cycles": -1}, "patch_cycles >= 0"),
    ],
)
def test_impossible_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)
