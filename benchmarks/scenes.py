"""What a training batch of procedural images costs, relative to the training step of notebook 05 in the same run.

    python benchmarks/scenes.py [--device cuda] [--repeats 5]

Prints ratios of medians; a batch (16 crops of 48 pixels and their noise, plus its share of drawing the pool) must cost
at most 10 % of a training step. Ends with exit code 1 if it does not.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from minirestore import degradations, recipes, scenes


def median_time(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median seconds of ``work``, after one call that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def training_step(device: torch.device, batch: dict) -> Callable[[], None]:
    """One step (forward, backward, AdamW) of the reduced denoiser on ``batch``."""
    network, _, _ = recipes.plan(recipes.METHODS["denoiser"], "reduced")
    method = recipes.build(recipes.METHODS["denoiser"], network).to(device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = method.training_losses(batch, generator, 0)["loss"]
        loss.backward()
        optimizer.step()

    return step


def main() -> int:
    """Measure, print the ratios, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device, repeats = torch.device(arguments.device), arguments.repeats
    _, data, training = recipes.plan(recipes.METHODS["denoiser"], "reduced")

    number = 4 if device.type == "cpu" else 32
    options = {"device": device, "depth_of_field": data.depth_of_field}

    def images() -> torch.Tensor:
        return scenes.dead_leaves(number, data.image_size, 0, **options)

    drawing = median_time(images, repeats, device) / number
    pool = scenes.CropPool((images() * 255).round().to(torch.uint8))
    generator = torch.Generator().manual_seed(0)

    def make_batch() -> dict[str, torch.Tensor]:
        clean = pool.sample(training.batch_size, data.crop, generator)
        return {"clean": clean, "degraded": degradations.gaussian_noise(clean, data.sigma, generator)}

    cutting = median_time(make_batch, 10 * repeats, device)
    step = median_time(training_step(device, make_batch()), repeats, device)
    share = drawing * data.images / training.steps
    total = (cutting + share) / step
    scene = median_time(lambda: scenes.render_scenes(1, 128, 0, device=device), repeats, device)
    print(f"batch of {training.batch_size} crops of {data.crop} pixels on {device.type}, relative to a training step")
    print(f"  cutting crops and adding noise      {cutting / step:8.4f}")
    print(f"  share of drawing {data.images} images        {share / step:8.4f}")
    print(f"  together (at most 0.1)              {total:8.4f}")
    print("others, relative to the same step")
    print(f"  one dead-leaves image, {data.image_size} pixels    {drawing / step:8.4f}")
    print(f"  one ray-cast room, 128 pixels       {scene / step:8.4f}")
    return 0 if total <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
