"""Dead leaves and ray-cast scenes against slow, independent references; pools of crops."""

import itertools
import math

import numpy as np
import pytest
import torch

from minirestore import photos, scenes
from minirestore.scenes import layouts, ray_cast
from minirestore.scenes.dead_leaves import (
    BOUND,
    TILE,
    _cover,
    _render_batch,
    _render_one,
    draw_leaves,
    noise_tiles,
    radius_table,
)

FLAT = dict(contrast=0)


def is_pool_colour(colours):
    """Which of ``(N, 3)`` float colours are in the colour pool, exactly."""
    code = np.array([65536, 256, 1])
    pool = np.rint(photos.colour_pool().numpy() * 255).astype(int) @ code
    values = np.asarray(colours, np.float64) * 255
    return np.isin(np.rint(values).astype(int) @ code, pool) & (np.abs(values - np.rint(values)).max(-1) < 1e-3)


def slope(image):
    """Mean exponent of the radially averaged power spectra of ``(B, 3, S, S)``, between 4 / S and 0.35 per pixel."""
    grey = image.mean(1) - image.mean((1, 2, 3)).view(-1, 1, 1)
    S = grey.shape[-1]
    window = torch.hann_window(S)[:, None] * torch.hann_window(S)
    power = torch.fft.fft2(grey * window).abs().square()
    f = torch.fft.fftfreq(S)
    radius = (f[:, None] ** 2 + f**2).sqrt()
    edges = np.geomspace(4 / S, 0.35, 12)
    means = torch.stack([power[:, (radius >= a) & (radius < b)].mean(1) for a, b in itertools.pairwise(edges)])
    return np.polyfit(np.log(edges[:-1] * edges[1:]) / 2, means.log().numpy(), 1)[0].mean()


def tiles(image, size):
    """The disjoint squares of an image ``(1, 3, H, W) -> (B, 3, size, size)``."""
    squares = image[0].unfold(1, size, size).unfold(2, size, size)  # (3, rows, columns, size, size)
    return squares.permute(1, 2, 0, 3, 4).flatten(0, 1)


# ---------------------------------------------------------------- dead leaves: drawing


def test_radii_follow_the_power_law():
    size, r_min, r_max = 64, 2.0, 50.0
    radii = np.concatenate(
        [draw_leaves(size, 1, i, r_min=r_min, r_max=r_max, layers=12)["radius"][:-1] for i in range(30)]
    ).astype(float)
    # leaves that touch the frame are (size + 2 BOUND r)^2 times as frequent; undo it and compare with r^-3
    weight = (size + 2 * BOUND * radii) ** -2.0
    order = np.argsort(radii)
    measured = np.cumsum(weight[order]) / weight.sum()
    expected = (r_min**-2 - radii[order] ** -2) / (r_min**-2 - r_max**-2)
    assert len(radii) > 3000 and np.abs(measured - expected).max() < 0.04
    wrong = (r_min**-1 - radii[order] ** -1) / (r_min**-1 - r_max**-1)  # exponent 2
    assert np.abs(measured - wrong).max() > 0.1


def test_radius_table_is_a_distribution_function():
    radii, cumulative = radius_table(64, 2, 40, 3.0)
    assert radii[0] == pytest.approx(2) and radii[-1] == pytest.approx(40)
    assert cumulative[0] == 0 and cumulative[-1] == pytest.approx(1) and (np.diff(cumulative) > 0).all()


def test_layers_is_the_mean_number_of_leaves_over_a_pixel():
    counts = []
    for i in range(60):
        leaves = draw_leaves(48, 3, i, layers=5, r_min=3.0, r_max=30)
        x, y = leaves["geometry"][:-1, :2].T
        near = np.hypot(x - 24, y - 24) < leaves["radius"][:-1]  # discs of the drawn radius over the centre
        counts.append(near.sum())
    assert np.mean(counts) == pytest.approx(5, abs=4 * math.sqrt(5 / 60))


def test_colours_come_from_the_pool_only():
    colours = np.concatenate([draw_leaves(64, 5, i)["colours"].reshape(-1, 3) for i in range(8)])
    assert len(np.unique(colours, axis=0)) > 500 and is_pool_colour(colours).all()
    assert not is_pool_colour(colours + 0.5 / 255).any()


def test_flat_pixels_of_an_image_have_pool_colours():
    leaves = draw_leaves(96, 2, 0)
    leaves["texture"][:, :4] = leaves["texture"][:, 7:8] = 0  # no ramp, noise or wave
    image = _render_one(leaves, 96)
    inner = (image[:, 1:-1, 1:-1] == image[:, 2:, 1:-1]) & (image[:, 1:-1, 1:-1] == image[:, 1:-1, 2:])
    flat = image[:, 1:-1, 1:-1][:, inner.all(0)].T
    assert len(flat) > 2000 and is_pool_colour(flat).mean() > 0.99


def test_noise_tiles_are_periodic_and_blurred_copies_are_smoother():
    tiles = noise_tiles().astype(float)
    step = np.abs(np.diff(tiles, axis=3)).mean((2, 3))
    seam = np.abs(tiles[..., 0] - tiles[..., -1]).mean(2)
    assert (np.abs(seam / step - 1) < 0.6).all()
    assert (np.diff(step, axis=0) < 0).all() and tiles.shape[2:] == (TILE, TILE)


# ---------------------------------------------------------------- dead leaves: rendering


def hand_made(size, leaves):
    """Leaves from rows (kind, x, y, cosine, sine, a, b), flat, with colours 0.1, 0.2, ... in order."""
    n = len(leaves)
    geometry = np.array([[x, y, kind, c, s, a, b] for kind, x, y, c, s, a, b in leaves], np.float32)
    planes = np.zeros((n, 5, 3), np.float32)
    for i, (_, _, _, c, s, a, b) in enumerate(leaves):
        planes[i] = [[c, s, a], [-s, c, b], [-c, -s, a], [s, -c, b], [c, s, a]]
    shade = (np.arange(1, n + 1) / 10).astype(np.float32)
    return {
        "radius": geometry[:, 5],
        "geometry": geometry,
        "planes": planes,
        "reach": np.full(n, 3 * size, np.float32),
        "soft": np.ones(n, np.float32),
        "colours": np.tile(shade[:, None, None], (1, 2, 3)),
        "texture": np.zeros((n, 11), np.float32),
    }


RENDERERS = {
    "loop": _render_one,
    "batch": lambda leaves, size: _render_batch([leaves], size, torch.device("cpu"))[0],
}


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
def test_front_leaf_hides_what_is_behind_exactly(render):
    leaves = hand_made(
        20, [(1, 5, 5, 1, 0, 3.5, 3.5), (0, 9, 9, 1, 0, 6.5, 6.5), (1, 10, 10, 1, 0, 90, 90)]
    )  # square, disc, background
    image = render(leaves, 20)[0]
    y, x = np.mgrid[:20, :20]
    square = (np.abs(x - 5) <= 3) & (np.abs(y - 5) <= 3)
    disc = np.hypot(x - 9, y - 9)
    assert np.allclose(image[square], 0.1, atol=1e-6)
    assert np.allclose(image[(disc < 5.9) & ~square & (np.maximum(abs(x - 5), abs(y - 5)) > 4)], 0.2, atol=1e-6)
    assert np.allclose(image[(disc > 7.1) & ~square & (np.maximum(abs(x - 5), abs(y - 5)) > 4)], 0.3, atol=1e-6)


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
def test_edges_are_shared_by_area(render):
    # an axis-parallel square whose right edge lies at x = 5 + 3.25: 75 % of pixel 8 is covered
    image = render(hand_made(16, [(1, 5, 5, 1, 0, 3.25, 3.25), (1, 8, 8, 1, 0, 90, 90)]), 16)[0]
    assert image[5, 8].item() == pytest.approx(0.75 * 0.1 + 0.25 * 0.2, abs=1e-6)
    # a disc: covered area equals pi r^2
    image = render(hand_made(40, [(0, 19.3, 20.6, 1, 0, 12.4, 12.4), (1, 20, 20, 1, 0, 90, 90)]), 40)[0]
    assert ((0.2 - image) / 0.1).sum().item() == pytest.approx(math.pi * 12.4**2, rel=2e-3)
    # a rotated ellipse: pi a b
    ellipse = (0, 19.3, 20.6, math.cos(0.5), math.sin(0.5), 15.2, 7.7)
    image = render(hand_made(40, [ellipse, (1, 20, 20, 1, 0, 90, 90)]), 40)[0]
    assert ((0.2 - image) / 0.1).sum().item() == pytest.approx(math.pi * 15.2 * 7.7, rel=5e-3)


def test_loop_agrees_with_a_reference_that_visits_every_leaf_at_every_pixel():
    size = 40
    leaves = draw_leaves(size, 11, 0, depth_of_field=3, layers=3)
    leaves["texture"][:, :4] = leaves["texture"][:, 7:8] = 0
    y, x = np.mgrid[:size, :size].astype(float)
    free, image = np.ones((size, size)), np.zeros((3, size, size))
    for geometry, planes, soft, colour in zip(
        *(leaves[k] for k in ("geometry", "planes", "soft", "colours")), strict=True
    ):
        cx, cy, kind, c, s, a, b = geometry.astype(float)
        u, v = (x - cx) * c + (y - cy) * s, (y - cy) * c - (x - cx) * s
        if kind:
            inside = np.min([d - nx * (x - cx) - ny * (y - cy) for nx, ny, d in planes.astype(float)], axis=0)
        else:
            q = (u / a) ** 2 + (v / b) ** 2
            inside = (1 - q) / (2 * np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) + 1e-6)
        alpha = np.clip(inside / soft + 0.5, 0, 1)
        image += colour[0][:, None, None] * alpha * free
        free *= 1 - alpha
    assert np.abs(_render_one(leaves, size).numpy() - image).max() < 1e-4


@pytest.mark.parametrize("options", [{}, {"depth_of_field": 4.0}, {"r_min": 2.0, "r_max": 20}])
def test_batched_renderer_agrees_with_the_loop(options):
    batch = [draw_leaves(64, 7, i, **options) for i in range(3)]
    together = _render_batch(batch, 64, torch.device("cpu"))
    assert (together - torch.stack([_render_one(leaves, 64) for leaves in batch])).abs().max() < 1 / 255


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu():
    cpu, gpu = scenes.dead_leaves(18, 128, 3), scenes.dead_leaves(18, 128, 3, device="cuda")
    assert (cpu - gpu.cpu()).abs().gt(1 / 255).float().mean() < 1e-4
    assert torch.equal(gpu, scenes.dead_leaves(18, 128, 3, device="cuda"))
    for family in scenes.FAMILIES:
        cpu, gpu = scenes.render_scenes(2, 96, 3, family), scenes.render_scenes(2, 96, 3, family, device="cuda")
        assert (cpu["objects"] != gpu["objects"].cpu()).float().mean() < 1e-3
        assert (cpu["image"] - gpu["image"].cpu()).abs().mean() < 1e-3


def test_weights_of_visible_fragments_sum_to_one():
    pixel, leaf, weight = _cover(draw_leaves(48, 0, 0, depth_of_field=4), 48)
    assert np.allclose(np.bincount(pixel, weight, 48 * 48), 1, atol=1e-5) and weight.min() > 0
    assert leaf.max() < len(draw_leaves(48, 0, 0)["radius"])


# ---------------------------------------------------------------- dead leaves: the public function


def test_an_image_depends_on_its_seed_and_index_alone():
    five = scenes.dead_leaves(5, 48, 9)
    assert five.shape == (5, 3, 48, 48) and five.dtype == torch.float32 and five.min() >= 0 and five.max() <= 1
    assert torch.equal(five, scenes.dead_leaves(5, 48, 9))
    assert torch.equal(five[3:], scenes.dead_leaves(2, 48, 9, start=3))
    assert not torch.equal(five[0], five[1]) and not torch.equal(five, scenes.dead_leaves(5, 48, 10))


def test_the_global_random_state_and_the_thread_count_do_not_matter():
    torch.manual_seed(1)
    np.random.seed(1)
    first, threads = scenes.dead_leaves(2, 64, 4), torch.get_num_threads()
    torch.manual_seed(2)
    np.random.seed(2)
    try:
        torch.set_num_threads(2)
        assert torch.equal(first, scenes.dead_leaves(2, 64, 4))
    finally:
        torch.set_num_threads(threads)


def test_depth_of_field_softens_and_keeps_the_geometry():
    sharp, soft = scenes.dead_leaves(4, 96, 6), scenes.dead_leaves(4, 96, 6, depth_of_field=6.0)
    gradient = [x.diff(dim=3).square().mean().item() for x in (sharp, soft)]
    assert gradient[1] < 0.7 * gradient[0]
    assert (sharp - soft).abs().mean() < 0.1
    ranged = scenes.dead_leaves(1, 48, 6, depth_of_field=(0, 3.0))
    assert torch.equal(ranged, scenes.dead_leaves(1, 48, 6, depth_of_field=(0, 3.0)))


def test_statistics_resemble_those_of_the_tuning_photographs():
    leaves = scenes.dead_leaves(12, 160, 0)
    own = slope(leaves)
    china, flower = (slope(tiles(photos.load(name), 160)) for name in ("china", "flower"))
    assert min(china, flower) - 0.2 < own < max(china, flower) + 0.2
    saturation = (leaves.amax(1) - leaves.amin(1)).mean().item()
    contrast = leaves.mean(1).flatten(1).std(1).mean().item()
    steps = leaves.mean(1).diff(dim=2).flatten()
    assert 0.08 < saturation < 0.35 and 0.12 < contrast < 0.3
    assert steps.pow(4).mean() / steps.square().mean() ** 2 > 10  # heavy tails: a Gaussian has 3


def test_textures_can_be_switched_off():
    plain, textured = scenes.dead_leaves(3, 96, 0, **FLAT), scenes.dead_leaves(3, 96, 0)
    medians = [x.diff(dim=3).abs().median().item() for x in (plain, textured)]
    assert medians[0] < 0.5 * medians[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(count=0), "count"),
        (dict(size=4), "size"),
        (dict(seed=-1), "seed"),
        (dict(start=-1), "start"),
        (dict(depth_of_field=-1.0), "depth_of_field"),
        (dict(depth_of_field=(3.0, 1.0)), "depth_of_field"),
        (dict(r_min=0.0), "r_min"),
        (dict(r_min=(3.0, 200.0)), "r_max"),
        (dict(layers=0), "layers"),
    ],
)
def test_dead_leaves_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes.dead_leaves(**(dict(count=1, size=32, seed=0) | arguments))


# ---------------------------------------------------------------- pools


def test_pool_of_dead_leaves_holds_the_rounded_images(capfd):
    pool = scenes.CropPool.dead_leaves(3, 40, 5, depth_of_field=2.0)
    expected = (scenes.dead_leaves(3, 40, 5, depth_of_field=2.0) * 255).round().to(torch.uint8)
    assert torch.equal(pool.images, expected)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""  # no progress bar without a terminal


def test_crops_are_mirrored_and_turned_windows_in_equal_shares():
    images = torch.arange(3 * 12 * 10).view(3, 1, 12, 10)
    pool = scenes.CropPool(images.to(torch.uint8).repeat(1, 2, 1, 1))
    crops = (pool.sample(2000, 3, torch.Generator().manual_seed(0)) * 255).round().long()
    assert crops.shape == (2000, 2, 3, 3) and torch.equal(crops[:, 0], crops[:, 1])
    seen = {}
    for crop in crops[:, 0]:
        variants = {}
        for turn in range(4):
            for mirror in (False, True):
                variant = torch.rot90(crop.flip(1) if mirror else crop, turn)
                variants[(turn, mirror)] = variant
        matches = [
            key
            for key, v in variants.items()
            if v[0, 1] - v[0, 0] in (1, -255) and v[1, 0] - v[0, 0] in (10, -246) and v[2, 2] - v[1, 1] in (11, -245)
        ]
        assert len(matches) == 1
        seen[matches[0]] = seen.get(matches[0], 0) + 1
    assert len(seen) == 8 and min(seen.values()) > 180 and max(seen.values()) < 330


def test_flips_alone_exchange_left_and_right_of_the_same_windows():
    images = torch.arange(3 * 12 * 10).view(3, 1, 12, 10).to(torch.uint8)
    pool = scenes.CropPool(images)
    crops = (pool.sample(400, 3, torch.Generator().manual_seed(0), augment="flip") * 255).round().long()[:, 0]
    right, down = crops[:, 1, 1] - crops[:, 1, 0], crops[:, 1, 1] - crops[:, 0, 1]
    assert set(right.tolist()) <= {1, -1, 255, -255} and set(down.tolist()) <= {10, -246}
    flipped = ((right == -1) | (right == 255)).float().mean()
    assert 0.4 < flipped < 0.6
    eightfold = (pool.sample(400, 3, torch.Generator().manual_seed(0)) * 255).round().long()[:, 0]
    plain = (pool.sample(400, 3, torch.Generator().manual_seed(0), augment="none") * 255).round().long()[:, 0]
    assert set((plain[:, 1, 1] - plain[:, 1, 0]).tolist()) <= {1, -255}
    for other in (crops, plain):
        assert torch.equal(*(c.flatten(1).sort(1).values for c in (other, eightfold)))


def test_crops_reach_every_corner_and_every_image():
    images = torch.arange(4 * 6 * 6, dtype=torch.uint8).view(4, 1, 6, 6)
    crops = scenes.CropPool(images).sample(3000, 3, torch.Generator().manual_seed(1))
    assert torch.equal((crops * 255).round().unique(), torch.arange(144.0))


def test_crops_depend_on_the_generator_alone():
    pool = scenes.CropPool.dead_leaves(2, 32, 0)
    first = pool.sample(4, 16, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    assert torch.equal(first, pool.sample(4, 16, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, pool.sample(4, 16, torch.Generator().manual_seed(4)))
    assert first.dtype == torch.float32 and first.max() <= 1


def test_pool_refuses_wrong_input():
    with pytest.raises(TypeError, match="uint8"):
        scenes.CropPool(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="shape"):
        scenes.CropPool(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="count"):
        scenes.CropPool.dead_leaves(0, 32, 0)
    pool = scenes.CropPool(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="augment: expected one of eightfold, flip, none, got 'turn'"):
        pool.sample(1, 4, torch.Generator(), "turn")
    for batch, crop in ((1, 9), (1, 0), (0, 4)):
        with pytest.raises(ValueError, match="crop"):
            pool.sample(batch, crop, torch.Generator())


# ---------------------------------------------------------------- ray-cast scenes: exact geometry


def scene_of(*solids, lamp=(0.0, -3.0, 0.0), focal=0.8, camera=None):
    """A scene made by hand from (kind, centre, half extents[, rotation])."""
    layout = layouts.Layout(np.random.default_rng(0))
    for kind, centre, half, *rotation in solids:
        layout.add("box", kind, centre, half, *rotation)
    texture = np.zeros((len(solids) + 1, 11))
    texture[:, 3] = 100
    arrays = {
        "solids": np.stack(layout.solids),
        "colours": np.full((len(solids) + 1, 2, 3), 0.5),
        "texture": texture,
        "lamp": np.array(lamp),
        "ambient": np.array([0.4]),
        "camera": np.eye(3) if camera is None else camera,
        "focal": np.array([focal]),
    }
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    return ray_cast._stack([arrays | {"labels": np.array(layout.labels)}], torch.device("cpu"))


def directions(size, focal=0.8, camera=None):
    """World directions ``(3, size, size)`` of the pixel centres in float64, third camera coordinate 1."""
    position = ((np.arange(size) + 0.5) / size - 0.5) / focal
    x, y = np.meshgrid(position, position)
    rays = np.stack([x, y, np.ones_like(x)])
    return rays if camera is None else np.tensordot(camera, rays, 1)


def test_depth_of_a_tilted_plane_is_exact():
    rotation = layouts.turn(0.4, -0.3, 0.2)
    scene = scene_of((layouts.BOX, (0.3, -0.2, 6), (40, 40, 0.5), rotation))
    result = ray_cast._render(scene, 48)
    normal, through = -rotation[:, 2], np.array([0.3, -0.2, 6]) - 0.5 * rotation[:, 2]
    expected = (normal @ through) / np.tensordot(normal, directions(48), 1)
    assert result["valid"].all()
    np.testing.assert_allclose(result["depth"][0, 0].double().numpy(), expected, rtol=2e-5)


def test_depth_of_a_sphere_is_exact_and_its_outline_too():
    centre, radius = np.array([0.2, -0.1, 3.0]), 0.9
    camera = layouts.turn(0.1, -0.05, 0.3)
    result = ray_cast._render(scene_of((layouts.SPHERE, centre, [radius] * 3), camera=camera), 64)
    d = directions(64, camera=camera)
    a, b, c = (d**2).sum(0), np.tensordot(centre, d, 1), centre @ centre - radius**2
    root = b**2 - a * c
    hit = root >= 0
    assert 0.1 < hit.mean() < 0.9 and (result["valid"][0, 0].numpy() == hit).mean() > 0.999
    both = hit & result["valid"][0, 0].numpy() & (root > 1e-3)
    expected = ((b - np.sqrt(np.maximum(root, 0))) / a)[both]
    np.testing.assert_allclose(result["depth"][0, 0].double().numpy()[both], expected, rtol=1e-4)


def marched_depth(inside, d, far=8.0, steps=4000):
    """First t at which ``inside`` holds along rays, by brute force."""
    depth = np.zeros(d.shape[1:])
    for t in np.linspace(0, far, steps)[:0:-1]:
        depth[inside(d * t)] = t
    return depth


@pytest.mark.parametrize("kind", [layouts.BOX, layouts.CYLINDER])
def test_solids_agree_with_brute_force_marching(kind):
    centre, half, rotation = np.array([0.1, 0.2, 3.5]), np.array([0.6, 0.9, 0.6]), layouts.turn(0.7, 0.6, 0.4)
    result = ray_cast._render(scene_of((kind, centre, half, rotation)), 32)

    def inside(point):
        own = np.abs(np.tensordot(rotation.T, point - centre[:, None, None], 1))
        if kind == layouts.BOX:
            return (own <= half[:, None, None]).all(0)
        return (np.hypot(own[0], own[2]) <= half[0]) & (own[1] <= half[1])

    expected = marched_depth(inside, directions(32))
    valid = result["valid"][0, 0].numpy()
    assert 0.05 < valid.mean() < 0.9 and ((expected > 0) == valid).mean() > 0.99
    both = valid & (expected > 0)
    assert np.abs(result["depth"][0, 0].numpy() - expected)[both].max() < 8 / 4000 + 1e-4


def test_the_nearest_solid_wins_whatever_the_order():
    near = (layouts.BOX, (0, 0, 2), (0.3, 0.3, 0.1))
    far = (layouts.BOX, (0, 0, 4), (9, 9, 0.1))
    first, second = ray_cast._render(scene_of(near, far), 32), ray_cast._render(scene_of(far, near), 32)
    assert torch.equal(first["depth"], second["depth"]) and torch.equal(first["image"], second["image"])
    assert torch.equal(first["objects"], 3 - second["objects"])
    x, y = directions(32)[:2]
    square = torch.from_numpy((np.abs(x * 1.9) < 0.3) & (np.abs(y * 1.9) < 0.3))
    assert torch.equal(first["objects"][0, 0] == 1, square)
    assert torch.allclose(first["depth"][0, 0], torch.where(square, 1.9, 3.9), rtol=1e-6)


def test_shadows_fall_where_the_lamp_is_hidden():
    # a wall at z = 4, a small box at z = 2, the lamp at the origin's left: the shadow is displaced to the right
    scene = scene_of(
        (layouts.BOX, (0, 0, 4.1), (9, 9, 0.1)), (layouts.BOX, (0, 0, 2), (0.2, 0.2, 0.01)), lamp=(-1.0, 0.0, 0.0)
    )
    d = ray_cast._rays(scene, torch.arange(64.0)[None] + 0.5, torch.full((1, 64), 32.5), 64)
    t, which = ray_cast.trace(scene, torch.zeros(3, 1, 1), d)
    colour = ray_cast._shade(scene, d, t, which, torch.tensor([[0.01]]))[0, 0]
    dark = (colour < 0.5 * 0.4 + 1e-4) & (which[0] == 0)
    x = (d[0] * t)[0]
    # edges of the shadow on the wall: from (-1, 0) past x = -0.2 and 0.2 at z = 1.99 to z = 4
    low, high = (-1 + 0.8 * 4 / 1.99, -1 + 1.2 * 4 / 2.01)
    assert dark.any() and torch.equal(dark, (x > low) & (x < high) & (which[0] == 0))


def test_light_follows_lamberts_law():
    scene = scene_of((layouts.BOX, (0, 0, 4.1), (9, 9, 0.1)), lamp=(3.0, 0.0, 0.0))
    d = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    t, which = ray_cast.trace(scene, torch.zeros(3, 1, 1), d)
    colour = ray_cast._shade(scene, d, t, which, torch.tensor([[0.01]]))
    assert torch.allclose(colour, torch.tensor(0.5 * (0.4 + 0.75 * 4 / 5)))


def test_edges_are_antialiased_and_depth_is_not():
    scene = scene_of(
        (layouts.BOX, (0, 0, 4), (9, 9, 0.1)), (layouts.BOX, (0, 0, 2), (0.5, 0.5, 0.1), layouts.turn(0, 0, 0.3))
    )
    scene["colours"][:, 1] = 0.1
    result = ray_cast._render(scene, 48)
    assert len(result["depth"].unique()) < 10 < len((result["image"] * 255).round().unique())
    assert result["depth"].unique().numel() == 2 or result["depth"].diff().abs().max() > 1.5


# ---------------------------------------------------------------- ray-cast scenes: families


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_every_family_is_well_formed(family):
    result = scenes.render_scenes(2, 40, 3, family)
    assert {key: (tuple(v.shape), v.dtype) for key, v in result.items()} == {
        "image": ((2, 3, 40, 40), torch.float32),
        "depth": ((2, 1, 40, 40), torch.float32),
        "valid": ((2, 1, 40, 40), torch.bool),
        "objects": ((2, 1, 40, 40), torch.int64),
        "labels": ((2, 1, 40, 40), torch.int64),
    }
    assert result["image"].min() >= 0 and result["image"].max() <= 1 and result["image"].std() > 0.03
    assert torch.isfinite(result["depth"]).all() and (result["depth"][result["valid"]] > 0.3).all()
    sky = ~result["valid"]
    assert (result["depth"][sky] == 0).all() and torch.equal(sky, result["objects"] == 0)
    assert torch.equal(sky, result["labels"] == 0)
    assert sky.any() == (family == "street")


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_scenes_depend_on_seed_and_index_alone(family):
    three = scenes.render_scenes(3, 32, 8, family)
    again, last = scenes.render_scenes(3, 32, 8, family), scenes.render_scenes(1, 32, 8, family, start=2)
    for key, value in three.items():
        assert torch.equal(value, again[key]) and torch.equal(value[2:], last[key])
    assert not torch.equal(three["depth"][0], three["depth"][1])


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_twins_share_everything_but_their_materials(family):
    one, two = (scenes.render_scenes(2, 48, 5, family, materials=m) for m in (0, 1))
    for key in ("depth", "valid", "objects", "labels"):
        assert torch.equal(one[key], two[key])
    assert (one["image"] - two["image"]).abs().mean() > 0.05


def test_batches_render_as_single_scenes_do():
    drawn = [layouts.draw_scene("room", 2, i, 0) for i in range(3)]
    together = ray_cast._render(ray_cast._stack(drawn, torch.device("cpu")), 40)
    single = scenes.render_scenes(3, 40, 2, "room")
    for key in ("depth", "valid", "objects", "labels"):
        assert torch.equal(together[key], single[key])
    assert (together["image"] - single["image"]).abs().max() < 1e-5


@pytest.mark.parametrize("family", scenes.FAMILIES)
def test_materials_have_pool_colours(family):
    colours = layouts.draw_scene(family, 4, 0, 0)["colours"].reshape(-1, 3)
    assert is_pool_colour(colours).all() and len(np.unique(colours, axis=0)) > 6


def test_families_show_what_their_names_say():
    expected = {
        "room": {"ground", "wall", "furniture"},
        "street": {"sky", "ground", "building", "pole"},
        "spheres": {"sphere"},
        "boxes": {"box"},
        "poles": {"pole"},
        "text": {"board", "text"},
        "workshop": {"ground", "furniture", "vehicle", "box"},
    }
    for family, names in expected.items():
        labels = scenes.render_scenes(3, 64, 1, family)["labels"].unique().tolist()
        assert names <= {scenes.LABELS[k] for k in labels}
    assert scenes.LABELS[0] == "sky" and len(set(scenes.LABELS)) == len(scenes.LABELS) <= 16


def test_what_stands_in_a_workshop_stands_on_its_floor():
    for index in range(4):
        drawn = layouts.draw_scene("workshop", 1, index, 0)
        centre, half = drawn["solids"][:, 1:4], drawn["solids"][:, 4:7]
        floor = centre[0, 1] - half[0, 1]
        discs = (drawn["labels"] == scenes.LABELS.index("vehicle")) & (drawn["solids"][:, 0] == layouts.CYLINDER)
        discs &= half[:, 1] < half[:, 0]
        assert discs.sum() == 4
        np.testing.assert_allclose(centre[discs, 1] + half[discs, 0], floor, atol=1e-5)  # they lie on their rims
        rotation = drawn["solids"][:, 7:16].reshape(-1, 3, 3)
        np.testing.assert_allclose(
            rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (len(rotation), 1, 1)), atol=1e-5
        )
        assert (np.linalg.det(rotation) > 0).all()


def test_thin_poles_are_thin_and_text_lies_on_its_board():
    poles = layouts.draw_scene("poles", 0, 0, 0)
    radii = poles["solids"][poles["labels"] == scenes.LABELS.index("pole"), 4]
    assert len(radii) == 20 and radii.max() <= 0.06 and radii.min() < 0.02
    text = layouts.draw_scene("text", 0, 0, 0)
    board = text["solids"][text["labels"] == scenes.LABELS.index("board")][0]
    strokes = text["solids"][text["labels"] == scenes.LABELS.index("text")][:40]
    own = (strokes[:, 1:4] - board[1:4]) @ board[7:16].reshape(3, 3)
    assert (np.abs(own[:, :2]) < board[4:6]).all() and np.allclose(own[:, 2], -0.021, atol=1e-5)


def test_one_object_has_one_label():
    result = scenes.render_scenes(1, 64, 2, "room")
    pairs = torch.stack([result["objects"].flatten(), result["labels"].flatten()]).unique(dim=1)
    assert len(pairs[0].unique()) == pairs.shape[1] > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(family="castle"), "family: expected one of room, street"),
        (dict(count=0), "count"),
        (dict(size=2), "size"),
        (dict(seed=-1), "seed"),
        (dict(materials=-1), "materials"),
    ],
)
def test_render_scenes_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes.render_scenes(**(dict(count=1, size=32, seed=0) | arguments))
