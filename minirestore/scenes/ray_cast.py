"""Ray-cast scenes with exact depth: boxes, spheres and cylinders, textured, lit by one lamp, with hard shadows.

A ray through a pixel is ``t (X, Y, 1)`` in camera coordinates, so the ray parameter t of the nearest intersection *is*
the planar depth. Every solid is convex: a ray is inside it over one interval, and the shared work of all three kinds is
to find that interval in the solid's own axes (the slab method of Kay and Kajiya, 1986, and two quadratics).
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from minirestore.scenes.dead_leaves import BLUR_LEVELS, TILE, TILES, noise_tiles
from minirestore.scenes.layouts import BOX, CYLINDER, FAMILIES, LABELS, SPHERE, draw_scene

EPSILON = 2e-3  # metres: shadows ignore solids closer than this to the surface
TEXT = LABELS.index("text")  # raised by millimetres: casts no shadow
CONTRAST = 0.03  # pixels that differ from a neighbour by more are averaged over 2 x 2 rays


def _rotate(v: Tensor, rotation: Tensor) -> Tensor:
    """Vectors ``(3, B, N)`` in the axes of a solid; ``rotation`` is ``(9, B, 1)`` or ``(9, B, N)``.

    Written out because a GPU may multiply matrices in lower precision.
    """
    r = rotation
    return torch.stack([v[0] * r[j] + v[1] * r[3 + j] + v[2] * r[6 + j] for j in range(3)])


def _interval(kind: int, o: Tensor, d: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays ``o + t d`` (own axes of the solid) enter and leave it; leave < enter where they miss."""
    if kind == SPHERE:
        return _round_interval(o, d, half[0])
    if kind == BOX:
        low, high = (-half - o) / d, (half - o) / d
        return torch.minimum(low, high).amax(0), torch.maximum(low, high).amin(0)
    enter, leave = _round_interval(o[[0, 2]], d[[0, 2]], half[0])
    low, high = (-half[1] - o[1]) / d[1], (half[1] - o[1]) / d[1]
    return torch.maximum(enter, torch.minimum(low, high)), torch.minimum(leave, torch.maximum(low, high))


def _round_interval(o: Tensor, d: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays are closer than ``radius`` to the origin, in as many dimensions as there are."""
    dd = (d * d).sum(0)
    nearest = -(o * d).sum(0) / dd
    miss = o + nearest * d
    chord = (radius * radius - (miss * miss).sum(0)) / dd  # negative: no intersection
    reach = torch.where(chord >= 0, chord.clamp(min=0).sqrt(), -torch.inf)
    return nearest - reach, nearest + reach


def trace(
    scene: dict, origin: Tensor, direction: Tensor, near: float = 0.0, *, transparent: int | None = None
) -> tuple[Tensor, Tensor]:
    """Nearest solid along rays.

    Args:
        scene: tensors of ``layouts.draw_scene`` with a batch axis in front, and ``classes`` and ``kinds``: for each of
            the K solids its label and its kind, which all scenes of a batch share.
        origin, direction: ``(3, B, N)`` or ``(3, B, 1)`` metres.
        near: intersections at smaller t are ignored.
        transparent: solids of this label are ignored.

    Returns:
        ``t`` (B, N) float, infinite where nothing is hit, and the index of the solid (B, N) int64, K where nothing is.
    """
    solids = scene["solids"].permute(1, 2, 0)[..., None]  # (K, 16, B, 1)
    best = torch.full(torch.broadcast_shapes(origin.shape, direction.shape)[1:], torch.inf, device=direction.device)
    which = torch.full(best.shape, len(solids), device=direction.device)
    for k, kind in enumerate(scene["kinds"]):
        if scene["classes"][k] == transparent:
            continue
        centre, half, rotation = solids[k, 1:4], solids[k, 4:7], solids[k, 7:16]
        enter, leave = _interval(kind, _rotate(origin - centre, rotation), _rotate(direction, rotation), half)
        closer = (enter <= leave) & (enter > near) & (enter < best)
        best = torch.where(closer, enter, best)
        which = which.masked_fill(closer, k)
    return best, which


def _surface(scene: dict, point: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """World normal ``(3, B, N)`` and texture coordinates u, v ``(B, N)`` in metres at points on solids."""
    solids = _take(scene["solids"], which)  # (16, B, N)
    kind, centre, half, rotation = solids[0], solids[1:4], solids[4:7], solids[7:16]
    own = _rotate(point - centre, rotation)
    unit = own / half
    size = unit.abs()
    face = torch.zeros_like(own).scatter_(0, size.argmax(0, keepdim=True), 1) * unit.sign()  # box: the nearest face
    side = torch.stack([unit[0], torch.zeros_like(unit[1]), unit[2]])
    cap = torch.stack([torch.zeros_like(unit[1]), unit[1].sign(), torch.zeros_like(unit[1])])
    round_ = torch.where(size[1] > (unit[0] ** 2 + unit[2] ** 2).sqrt(), cap, side)
    normal = torch.where(kind == BOX, face, torch.where(kind == CYLINDER, round_, unit))
    normal = normal / (normal * normal).sum(0).sqrt().clamp(min=1e-6)
    axis = normal.abs().argmax(0)  # textures are projected along the dominant axis
    u = torch.where(axis == 0, own[2], own[0])
    v = torch.where(axis == 1, own[2], own[1])
    world = torch.stack([(rotation[3 * i : 3 * i + 3] * normal).sum(0) for i in range(3)])
    return world, u, v


def _take(table: Tensor, which: Tensor) -> Tensor:
    """Rows of ``table`` (B, K, C) for every ray: ``which`` (B, N) -> ``(C, B, N)``."""
    B, _, C = table.shape
    rows = torch.gather(table, 1, which[..., None].expand(B, -1, C))  # (B, N, C)
    return rows.permute(2, 0, 1)


def _albedo(scene: dict, which: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Tensor:
    """Colours ``(3, B, N)``: first + mix x (second - first), mix = noise + wave + checks in [0, 1].

    ``footprint`` is the side of a pixel on the surface in metres; patterns finer than that fade.
    """
    base, noise, tile, scale, ox, oy, wave, fx, fy, checks, rate = _take(scene["texture"], which)
    texels = footprint * scale
    limits = torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(BLUR_LEVELS)], device=u.device)
    level = torch.bucketize(texels / 2, limits)
    sample = _noise_at(scene["tiles"], level * TILES + tile.long(), v * scale + oy, u * scale + ox)
    turn = fx * u + fy * v
    turn = turn - turn.floor()
    triangle = 1 - 4 * (turn - 0.5).abs()  # in [-1, 1]
    sine = triangle * (1.5 - 0.5 * triangle * triangle)
    parity = ((u * rate).floor() + (v * rate).floor()) % 2 * 2 - 1
    mix = base + noise * sample * (8 / texels.clamp(min=8))
    mix = mix + wave * sine * _fade(footprint * (fx * fx + fy * fy).sqrt()) + checks * parity * _fade(footprint * rate)
    colours = _take(scene["colours"].flatten(2), which)  # (6, B, N)
    return colours[:3] + mix.clamp(0, 1) * (colours[3:] - colours[:3])


def _fade(cycles: Tensor) -> Tensor:
    """Contrast that is left of a pattern with so many cycles per pixel: 1 up to a quarter, 0 from a half."""
    return (2 - 4 * cycles).clamp(0, 1)


def _noise_at(tiles: Tensor, tile: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Bilinear samples of periodic noise tiles, in [-0.5, 0.5]."""
    top, left = row.floor(), column.floor()
    down, right = row - top, column - left
    r0, c0 = top.long() % TILE, left.long() % TILE
    r1, c1 = (r0 + 1) % TILE, (c0 + 1) % TILE

    def texel(r: Tensor, c: Tensor) -> Tensor:
        return tiles[(tile * TILE + r) * TILE + c].float()

    upper = texel(r0, c0) * (1 - right) + texel(r0, c1) * right
    lower = texel(r1, c0) * (1 - right) + texel(r1, c1) * right
    return (upper * (1 - down) + lower * down) / 255 - 0.5


def _shade(scene: dict, direction: Tensor, t: Tensor, which: Tensor, pixel: Tensor) -> Tensor:
    """Colours ``(3, B, N)`` of rays from the camera: Lambert's law, ambient light and a hard shadow, or the sky."""
    sky = which == scene["solids"].shape[1]
    point = direction * torch.where(sky, 1, t)
    normal, u, v = _surface(scene, point, which.masked_fill(sky, 0))
    to_lamp = scene["lamp"].T[..., None] - point
    distance = (to_lamp * to_lamp).sum(0).sqrt()
    to_lamp = to_lamp / distance
    facing = (normal * to_lamp).sum(0).clamp(min=0)
    blocker, _ = trace(scene, point + EPSILON * normal, to_lamp, EPSILON, transparent=TEXT)
    lit = (blocker >= distance).float()
    length = (direction * direction).sum(0).sqrt()
    slant = ((normal * direction).sum(0).abs() / length).clamp(min=0.05)
    u = torch.where(sky, 4 * direction[0] / length, u)  # the sky is a dome of 4 m
    v = torch.where(sky, 12 * direction[1] / length, v)
    albedo = _albedo(scene, which, u, v, torch.where(sky, 0, t * pixel / slant))
    ambient = scene["ambient"]  # (B, 1)
    return albedo * torch.where(sky, 1, ambient + (1.15 - ambient) * facing * lit)


def _rays(scene: dict, column: Tensor, row: Tensor, size: int) -> Tensor:
    """World directions ``(3, B, N)`` of the rays at positions ``(B, N)`` in pixels; pixel centres are at + 0.5."""
    focal = scene["focal"]  # (B, 1)
    x, y = ((position / size - 0.5) / focal for position in (column, row))
    camera = scene["camera"].permute(1, 2, 0)[..., None]  # (3, 3, B, 1)
    return torch.stack([camera[i, 0] * x + camera[i, 1] * y + camera[i, 2] for i in range(3)])


def _render(scene: dict, size: int) -> dict[str, Tensor]:
    """Cast one ray through every pixel's centre, then four through pixels where the colour changes."""
    B, K, _ = scene["solids"].shape
    device = scene["solids"].device
    centres = torch.arange(size * size, device=device).expand(B, -1)
    column, row = centres % size + 0.5, centres // size + 0.5
    origin = torch.zeros(3, B, 1, device=device)
    pixel = 1 / (size * scene["focal"])

    def colour(column: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        direction = _rays(scene, column, row, size)
        t, which = trace(scene, origin, direction)
        return _shade(scene, direction, t, which, pixel), t, which

    image, t, which = colour(column, row)
    busy = _changes(image.view(3, B, size, size)).view(B, -1)
    chosen = busy.int().argsort(dim=1, descending=True, stable=True)[:, : int(busy.sum(1).max())]  # (B, M)
    column, row = column.gather(1, chosen), row.gather(1, chosen)
    corners = [colour(column + dx, row + dy)[0] for dx in (-0.25, 0.25) for dy in (-0.25, 0.25)]
    smooth = torch.stack(corners).mean(0)  # (3, B, M)
    smooth = torch.where(busy.gather(1, chosen), smooth, image.gather(2, chosen.expand(3, -1, -1)))
    image = image.scatter(2, chosen.expand(3, -1, -1), smooth).permute(1, 0, 2).reshape(B, 3, size, size)
    exposure = (0.45 / image.mean((1, 2, 3), keepdim=True).clamp(min=1e-3)).clamp(0.7, 2.5)
    valid = which < K
    labels = torch.cat([scene["labels"], scene["labels"].new_zeros(B, 1)], 1).gather(1, which)
    maps = {"depth": torch.where(valid, t, 0), "valid": valid, "objects": (which + 1) % (K + 1), "labels": labels}
    image = (image * exposure).clamp(0, 1)
    return {"image": image} | {key: value.view(B, 1, size, size) for key, value in maps.items()}


def _changes(image: Tensor) -> Tensor:
    """Pixels ``(B, H, W)`` of a ``(3, B, H, W)`` image that differ from one of their four neighbours."""
    busy = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
    across = ((image[..., 1:] - image[..., :-1]).abs() > CONTRAST).any(0)
    along = ((image[..., 1:, :] - image[..., :-1, :]).abs() > CONTRAST).any(0)
    busy[..., 1:] |= across
    busy[..., :-1] |= across
    busy[..., 1:, :] |= along
    busy[..., :-1, :] |= along
    return busy


def render_scenes(
    count: int,
    size: int,
    seed: int,
    family: str = "room",
    *,
    materials: int = 0,
    start: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Render scenes with exact depth, object numbers and class labels.

    A scene is a function of ``(size, seed, index, family, materials)`` alone: on the CPU, batches of any length agree
    byte for byte. Other devices agree with the CPU to rounding, except for single pixels on edges.

    Args:
        count: number of scenes, at least 1.
        size: side in pixels, at least 8.
        seed: non-negative integer.
        family: ``room`` (closed, with furniture), ``street`` (open, with sky), ``spheres``, ``boxes``, ``poles``
            (thin), ``text`` (boards with letter-like strokes), or ``workshop`` (closed, shelves, and machines of discs,
            tubes, boxes and spheres).
        materials: number of a set of materials. Scenes that differ only in it are twins: geometry, light, depth,
            objects and labels are identical, colours and textures are not.
        start: index of the first scene; scene i of the result is scene ``start + i`` of the seed.
        device: the CPU renders one scene at a time, a GPU several.

    Returns:
        ``image``: ``(count, 3, size, size)`` float32 RGB in [0, 1], edges averaged over four rays per pixel.
        ``depth``: ``(count, 1, size, size)`` float32 planar depth in metres at the pixel's centre, 0 in the sky.
        ``valid``: ``(count, 1, size, size)`` bool, false in the sky.
        ``objects``: ``(count, 1, size, size)`` int64, number of the solid from 1, 0 for the sky.
        ``labels``: ``(count, 1, size, size)`` int64, index into ``LABELS``, 0 for the sky.

    Raises:
        ValueError: an argument is out of range, or there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
    if count < 1 or size < 8:
        raise ValueError(f"count, size: expected count >= 1 and size >= 8, got count={count}, size={size}")
    if min(seed, start, materials) < 0:
        raise ValueError(f"seed, start, materials: must not be negative, got {seed}, {start}, {materials}")
    device = torch.device(device)
    chunk = 1 if device.type == "cpu" else max(1, 32 * 256**2 // size**2)
    parts = []
    for first in range(start, start + count, chunk):
        drawn = [draw_scene(family, seed, i, materials) for i in range(first, min(first + chunk, start + count))]
        parts.append(_render(_stack(drawn, device), size))
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _stack(drawn: list[dict[str, np.ndarray]], device: torch.device) -> dict:
    """Scenes of one family as one dictionary of tensors, with what they share as lists."""
    scene = {key: torch.from_numpy(np.stack([each[key] for each in drawn])).to(device) for key in drawn[0]}
    scene["kinds"] = drawn[0]["solids"][:, 0].astype(int).tolist()
    scene["classes"] = drawn[0]["labels"].tolist()
    scene["tiles"] = torch.from_numpy(noise_tiles()).view(-1).to(device)
    return scene
