"""Dead leaves: opaque, textured shapes with power-law sizes that hide one another.

The model of Matheron (1968) and of Lee, Mumford and Huang, "Occlusion models for natural images" (IJCV 2001): with
radii distributed as ``r**-3`` the images are statistically scale invariant and share edges, occlusion and power
spectrum with photographs. Leaves are laid front to back, so what is hidden is never drawn, and a pixel on an edge is
shared by area between the leaf in front and those behind it.

Two renderers draw the same leaves: one leaf at a time within its bounding box (fast on a CPU core) and all leaves of
a batch at once (fast on a GPU).
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from minirestore import photos

TILE = 256  # side of a noise tile, pixels
TILES = 24
BLUR_LEVELS = (0.0, 1.0, 2.0, 4.0)  # defocus of the four copies of each noise tile, pixels (standard deviation)
SIDES = 5  # half-planes kept for each polygon
BOUND = 1.6  # no leaf reaches further than this many radii from its centre
PHOTO_WEIGHTS = (0.45, 0.35, 0.13, 0.07)  # how often china, flower, retina and hubble give an image its colours


@functools.lru_cache(maxsize=1)
def noise_tiles() -> np.ndarray:
    """Periodic 1/f noise ``(levels, tiles, 256, 256)`` uint8 around 127.5, one copy for each level of defocus.

    The amplitude falls as ``f**-alpha`` with alpha from 0.4 to 1.4; every other tile is stretched along one direction,
    like grain or hair.
    """
    rng = np.random.default_rng(2001)
    fy, fx = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :]
    tiles = np.empty((len(BLUR_LEVELS), TILES, TILE, TILE), np.uint8)
    for k in range(TILES):
        angle, stretch = rng.uniform(0, math.pi), 1.0 if k % 2 else rng.uniform(2, 6)
        along = math.cos(angle) * fx + math.sin(angle) * fy
        across = math.cos(angle) * fy - math.sin(angle) * fx
        radius = np.sqrt((along * stretch) ** 2 + across**2)
        radius[0, 0] = np.inf
        spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
        spectrum *= np.maximum(radius, 1 / TILE) ** -rng.uniform(0.4, 1.4)
        spectrum[0, 0] = 0
        scale = 45 / np.fft.irfft2(spectrum, (TILE, TILE)).std()
        for level, sigma in enumerate(BLUR_LEVELS):
            blurred = np.fft.irfft2(spectrum * np.exp(-2 * (math.pi * sigma) ** 2 * (fx**2 + fy**2)), (TILE, TILE))
            tiles[level, k] = np.clip(blurred * scale + 127.5, 0, 255).round()
    return tiles


def radius_table(size: int, r_min: float, r_max: float, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Radii and cumulative distribution of the leaves that may touch a frame of ``size`` pixels.

    The density of leaves per unit area is ``r**-exponent``; a leaf of radius r touches the frame when its centre lies
    within a square of side ``size + 2 BOUND r``, which multiplies the density by the area of that square.
    """
    radii = np.geomspace(r_min, r_max, 2048)
    density = radii**-exponent * (size + 2 * BOUND * radii) ** 2
    steps = np.diff(radii) * (density[1:] + density[:-1]) / 2
    return radii, np.concatenate([[0], steps.cumsum() / steps.sum()])


def draw_leaves(
    size: int,
    seed: int,
    index: int,
    *,
    depth_of_field: float | tuple[float, float] = 0.0,
    r_min: float | tuple[float, float] = (3.0, 12.0),
    r_max: float = 100.0,
    exponent: float = 3.0,
    layers: float = 4.0,
    contrast: float = 1.0,
) -> dict[str, np.ndarray]:
    """Draw the leaves of image ``index`` of ``seed``, front first; the last one is the background.

    The arguments are those of ``dead_leaves``.

    Returns:
        Arrays for N leaves. ``radius`` (N,); ``geometry`` (N, 7): centre x and y, kind (0 ellipse, 1 polygon), cosine,
        sine, semi-axes a and b; ``planes`` (N, 5, 3): normal and distance of a polygon's sides; ``reach`` (N,): half
        the side of the bounding box; ``soft`` (N,): width of the edge; all lengths in pixels. ``colours`` (N, 2, 3) in
        [0, 1]; ``texture`` (N, 11): the columns that ``_shade`` unpacks.
    """
    r_min, depth_of_field = _as_range(r_min), _as_range(depth_of_field)
    _check_options(size, seed, depth_of_field, r_min, r_max, layers)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    smallest = r_min[0] * (r_min[1] / r_min[0]) ** rng.random()
    largest_blur = rng.uniform(*depth_of_field)
    radii, cumulative = radius_table(size, smallest, r_max, exponent)
    # one leaf covers a given pixel with probability E[pi r^2 / (size + 2 BOUND r)^2]
    cover = np.interp(np.linspace(0, 1, 512), cumulative, radii)
    n = math.ceil(layers / np.mean(math.pi * cover**2 / (size + 2 * BOUND * cover) ** 2)) + 1
    r = np.interp(rng.random(n), cumulative, radii)
    centre = rng.random((n, 2)) * (size + 2 * BOUND * r[:, None]) - BOUND * r[:, None]

    kind = (rng.random(n) < 0.45).astype(np.float64)
    aspect = np.where(rng.random(n) < 0.4, 1.0, np.exp(rng.uniform(0, 0.45, n)))
    angle = rng.uniform(0, 2 * math.pi, n)
    a, b = r * aspect, r / aspect
    planes = _polygons(rng, n, a, b, angle)

    hidden = np.cumsum(math.pi * r**2 / (size + 2 * BOUND * r) ** 2)
    depth = 1 - np.exp(-hidden)  # share of the frame that lies in front, about uniform over visible pixels
    blur = largest_blur * np.abs(depth - rng.random())
    kind[-1], a[-1], b[-1], planes[-1, :, 2] = 1, size, size, 4 * size  # background: a polygon larger than the frame
    return {
        "radius": r.astype(np.float32),
        "geometry": np.stack([*centre.T, kind, np.cos(angle), np.sin(angle), a, b], 1).astype(np.float32),
        "planes": planes.astype(np.float32),
        "reach": np.where(np.arange(n) < n - 1, BOUND * r + 1 + blur, 4 * size).astype(np.float32),
        "soft": (1 + 2 * blur).astype(np.float32),
        "colours": palette(rng, n),
        "texture": _textures(rng, n, centre, r, blur, contrast).astype(np.float32),
    }


def _as_range(value: float | tuple[float, float]) -> tuple[float, float]:
    """A number stands for the range that holds only itself."""
    return (value, value) if isinstance(value, (int, float)) else tuple(value)


def _check_options(
    size: int,
    seed: int,
    depth_of_field: tuple[float, float],
    r_min: tuple[float, float],
    r_max: float,
    layers: float,
) -> None:
    """Raise ValueError unless the options of ``dead_leaves`` make sense together."""
    if size < 8 or seed < 0:
        raise ValueError(f"size, seed: expected size >= 8 and seed >= 0, got size={size}, seed={seed}")
    if not 0 < r_min[0] <= r_min[1] < r_max:
        raise ValueError(f"r_min, r_max: expected 0 < r_min < r_max, got r_min={r_min}, r_max={r_max}")
    if not 0 <= depth_of_field[0] <= depth_of_field[1]:
        raise ValueError(f"depth_of_field: expected a number >= 0 or an increasing range, got {depth_of_field}")
    if layers <= 0:
        raise ValueError(f"layers: expected a number > 0, got {layers}")


def _polygons(rng: np.random.Generator, n: int, a: np.ndarray, b: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Half-planes ``(n, 5, 3)``: two in three polygons are rectangles a x b, the others have 3 to 5 uneven sides."""
    sides = rng.integers(3, SIDES + 1, n)
    turn = np.arange(SIDES) / sides[:, None] * 2 * math.pi + rng.uniform(-0.2, 0.2, (n, SIDES))
    apothem = a * np.array([0.62, 0.8, 0.88])[sides - 3]
    distance = apothem[:, None] * rng.uniform(0.8, 1, (n, SIDES))
    rectangle = rng.random(n) < 2 / 3
    turn = np.where(rectangle[:, None], np.arange(SIDES) * math.pi / 2, turn)
    box = np.stack([a, b, a, b, 2 * a], 1) * 0.88
    distance = np.where(rectangle[:, None], box, distance)
    unused = (np.arange(SIDES) >= sides[:, None]) & ~rectangle[:, None]
    distance = np.where(unused, 2 * BOUND * a[:, None], distance)
    theta = turn + angle[:, None]
    return np.stack([np.cos(theta), np.sin(theta), distance], 2)


def palette(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two colours ``(n, 2, 3)`` for each leaf, both from the colour pool: mostly neighbours in one photograph."""
    pool = photos.colour_pool().numpy()
    photo = len(pool) // len(PHOTO_WEIGHTS)
    main = rng.choice(len(PHOTO_WEIGHTS), p=PHOTO_WEIGHTS)
    source = np.where(rng.random(n) < 0.75, main, rng.choice(len(PHOTO_WEIGHTS), n, p=PHOTO_WEIGHTS))
    first = rng.integers(0, photo, n)
    near = (first + rng.integers(1, 4, n)) % photo
    second = np.where(rng.random(n) < 0.25, near, rng.integers(0, photo, n))
    return np.stack([pool[source * photo + first], pool[source * photo + second]], 1).astype(np.float32)


def _textures(
    rng: np.random.Generator, n: int, centre: np.ndarray, r: np.ndarray, blur: np.ndarray, contrast: float
) -> np.ndarray:
    """Texture parameters ``(n, 11)``: flat, ramp, noise, sinusoid and their mixtures. Columns as in ``_shade``."""
    ramp = (rng.random(n) < 0.5) * rng.uniform(0.1, 0.5, n) / np.maximum(r, 2)
    noise = (rng.random(n) < 0.9) * np.exp(rng.uniform(math.log(0.15), math.log(2.5), n)) * contrast
    wave = (rng.random(n) < 0.12) * rng.uniform(0.1, 0.5, n) * contrast
    frequency = np.exp(rng.uniform(math.log(0.02), math.log(0.3), n))
    wave = wave * np.exp(-2 * (math.pi * blur * frequency) ** 2)
    theta, phi = rng.uniform(0, 2 * math.pi, (2, n))
    gx, gy = ramp * np.cos(theta), ramp * np.sin(theta)
    level = np.abs(blur[:, None] / 2 - np.array(BLUR_LEVELS)).argmin(1)
    tile = level * TILES + rng.integers(0, TILES, n)
    base = np.where((ramp > 0) | (noise > 0) | (wave > 0), rng.uniform(0.1, 0.6, n), 0.0)
    base = base - gx * centre[:, 0] - gy * centre[:, 1]  # the ramp is relative to the leaf's centre
    columns = [base, gx, gy, noise, tile, rng.integers(0, TILE, n), rng.integers(0, TILE, n), wave]
    columns += [frequency * np.cos(phi), frequency * np.sin(phi), rng.random(n)]
    return np.stack(columns, 1)


def _cover(leaves: dict[str, np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the leaves front to back; return the visible fragments: pixel index, leaf index, weight (sum 1 per pixel)."""
    free = np.ones((size, size), np.float32)  # the share of each pixel that is not covered yet
    grid = np.arange(size * size).reshape(size, size)
    axis = np.arange(size, dtype=np.float32)
    pixels, owners, weights = [], [], []
    cx, cy = leaves["geometry"][:, 0], leaves["geometry"][:, 1]
    low = np.floor(np.stack([cx, cy], 1) - leaves["reach"][:, None]).clip(0, size).astype(int)
    high = (np.ceil(np.stack([cx, cy], 1) + leaves["reach"][:, None]) + 1).clip(0, size).astype(int)
    boxes = np.concatenate([low, high], 1).tolist()
    geometry, soft = leaves["geometry"].tolist(), leaves["soft"].tolist()
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        box = free[y0:y1, x0:x1]
        if not box.any():
            continue
        x, y = axis[x0:x1] - geometry[i][0], axis[y0:y1, None] - geometry[i][1]
        inside = _polygon(x, y, leaves["planes"][i]) if geometry[i][2] else _ellipse(x, y, *geometry[i][3:])
        weight = np.clip(inside / soft[i] + 0.5, 0, 1) * box
        box -= weight
        seen = weight > 0
        pixels.append(grid[y0:y1, x0:x1][seen])
        weights.append(weight[seen])
        owners.append(np.full(len(weights[-1]), i))
    return np.concatenate(pixels), np.concatenate(owners), np.concatenate(weights)


def _ellipse(x, y, cosine, sine, a, b):
    """Distance to the edge of an ellipse in pixels, positive inside (first order; arrays and tensors alike)."""
    u = (x * cosine + y * sine) / a
    v = (y * cosine - x * sine) / b
    u2, v2 = u * u, v * v
    return (1 - u2 - v2) / (2 * (u2 / (a * a) + v2 / (b * b)) ** 0.5 + 1e-6)


def _polygon(x, y, planes):
    """Distance to the nearest side of a convex polygon in pixels, positive inside."""
    inside = planes[0, 2] - planes[0, 0] * x - planes[0, 1] * y
    for nx, ny, distance in planes[1:]:
        np.minimum(inside, distance - nx * x - ny * y, out=inside)
    return inside


def _shade(pixel: Tensor, leaf: Tensor, colours: Tensor, texture: Tensor, size: int, tiles: Tensor) -> Tensor:
    """Colours ``(F, 3)`` of fragments: first colour + mix x (second - first), mix = ramp + noise + wave in [0, 1]."""
    x, y = pixel % size, pixel // size % size
    base, gx, gy, noise, tile, ox, oy, wave, fx, fy, phase = texture[leaf].unbind(1)
    row, column = (y + oy.long()) % TILE, (x + ox.long()) % TILE
    sample = tiles[(tile.long() * TILE + row) * TILE + column].float() / 255 - 0.5
    turn = fx * x + fy * y + phase
    turn = turn - turn.floor()
    triangle = 1 - 4 * (turn - 0.5).abs()  # in [-1, 1]
    sine = triangle * (1.5 - 0.5 * triangle * triangle)
    mix = (base + gx * x + gy * y + noise * sample + wave * sine).clamp(0, 1)
    first, second = colours[leaf].unbind(1)
    return first + mix[:, None] * (second - first)


def _render_batch(batch: list[dict[str, np.ndarray]], size: int, device: torch.device) -> Tensor:
    """Draw all leaves of several images at once: ``(B, 3, size, size)`` on ``device``.

    Every (leaf, pixel of its box) pair is a fragment. Each pass takes the front-most fragment of every pixel, as in
    depth peeling (Everitt, 2001), until nothing behind can be seen; pixels are distinct within a pass, so sums have
    one order and the bytes do not depend on the device's scheduling.
    """
    leaves = {key: torch.from_numpy(np.concatenate([each[key] for each in batch])).to(device) for key in batch[0]}
    image_of_leaf = torch.repeat_interleave(torch.tensor([len(each["radius"]) for each in batch])).to(device)
    pixel, leaf, alpha = _fragments(leaves, image_of_leaf, size)
    tiles = torch.from_numpy(noise_tiles()).view(-1).to(device)
    free = torch.ones(len(batch) * size * size, device=device)
    image = torch.zeros(len(batch) * size * size, 3, device=device)
    while len(pixel):
        front = torch.full(free.shape, len(image_of_leaf), device=device).scatter_reduce_(0, pixel, leaf, "amin")
        first = leaf == front[pixel]
        where, owner = pixel[first], leaf[first]
        weight = alpha[first] * free[where]
        free[where] -= weight
        colour = _shade(where % (size * size), owner, leaves["colours"], leaves["texture"], size, tiles)
        image[where] += colour * weight[:, None]
        behind = ~first & (free[pixel] > 0)
        pixel, leaf, alpha = pixel[behind], leaf[behind], alpha[behind]
    return image.clamp_(0, 1).view(-1, size, size, 3).permute(0, 3, 1, 2).contiguous()


def _fragments(leaves: dict[str, Tensor], image_of_leaf: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel (over the whole batch), leaf and coverage of every leaf at every pixel that it touches, hidden or not."""
    centre, reach = leaves["geometry"][:, :2], leaves["reach"][:, None]
    low = (centre - reach).floor().clamp(0, size).long()
    high = ((centre + reach).ceil() + 1).clamp(0, size).long()
    width, height = (high - low).unbind(1)
    leaf = torch.repeat_interleave(width * height)
    first = (width * height).cumsum(0) - width * height
    step = torch.arange(len(leaf), device=leaf.device) - first[leaf]
    column, row = low[leaf, 0] + step % width[leaf], low[leaf, 1] + step // width[leaf]
    cx, cy, kind, cosine, sine, a, b = leaves["geometry"][leaf].unbind(1)
    x, y = column - cx, row - cy
    inside = torch.full_like(x, torch.inf)
    for side in range(SIDES):
        nx, ny, distance = leaves["planes"][:, side][leaf].unbind(1)
        inside = torch.minimum(inside, distance - nx * x - ny * y)
    inside = torch.where(kind > 0, inside, _ellipse(x, y, cosine, sine, a, b))
    alpha = (inside / leaves["soft"][leaf] + 0.5).clamp(0, 1)
    touched = alpha > 0
    pixel = (image_of_leaf[leaf] * size + row) * size + column
    return pixel[touched], leaf[touched], alpha[touched]


def _render_one(leaves: dict[str, np.ndarray], size: int) -> Tensor:
    """Draw one image ``(3, size, size)`` leaf by leaf on the CPU."""
    pixel, leaf, weight = (torch.from_numpy(array) for array in _cover(leaves, size))
    colours, texture = torch.from_numpy(leaves["colours"]), torch.from_numpy(leaves["texture"])
    colour = _shade(pixel, leaf, colours, texture, size, torch.from_numpy(noise_tiles()).view(-1))
    image = torch.zeros(size * size, 3).index_add_(0, pixel, colour * weight[:, None])
    return image.clamp_(0, 1).T.reshape(3, size, size)


def dead_leaves(
    count: int, size: int, seed: int, *, start: int = 0, device: str | torch.device = "cpu", **options
) -> Tensor:
    """Draw dead-leaves images.

    An image is a function of ``(size, seed, index, options)`` alone, so batches of any length, drawn in any order by
    any number of workers, agree byte for byte. Other devices agree with the CPU to about 1/255.

    Args:
        count: number of images, at least 1.
        size: side in pixels, at least 8.
        seed: non-negative integer.
        start: index of the first image; image i of the result is image ``start + i`` of the seed.
        device: the CPU draws leaf by leaf, a GPU draws several images at a time.
        depth_of_field: largest blur of edges and textures in pixels (standard deviation about half of it), at the
            depth furthest from a random plane of focus, or a range from which each image draws its own (uniform);
            0 keeps everything sharp.
        r_min: smallest radius in pixels, or a range from which each image draws its own (log-uniform).
        r_max: largest radius in pixels.
        exponent: leaves of radius r are ``r**-exponent`` as frequent; 3 makes the images scale invariant.
        layers: mean number of leaves over a pixel; ``exp(-layers)`` of the frame is left to the background.
        contrast: factor on the strength of noise and sinusoids; 0 leaves flat leaves and ramps.

    Returns:
        ``(count, 3, size, size)`` float32 RGB in [0, 1] on ``device``.

    Raises:
        ValueError: an argument is out of range.
    """
    if count < 1 or start < 0:
        raise ValueError(f"count, start: expected count >= 1 and start >= 0, got count={count}, start={start}")
    device = torch.device(device)
    draw = functools.partial(draw_leaves, size, seed, **options)
    if device.type == "cpu":
        return torch.stack([_render_one(draw(start + i), size) for i in range(count)])
    chunk = max(1, 16 * 256**2 // size**2)  # about 2 GB of working memory
    chunks = [range(start + i, start + min(i + chunk, count)) for i in range(0, count, chunk)]
    return torch.cat([_render_batch([draw(i) for i in chunk], size, device) for chunk in chunks])
