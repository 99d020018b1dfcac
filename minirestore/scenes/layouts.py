"""What stands where in the ray-cast scenes, and what it is made of.

World coordinates in metres: the camera is at the origin, x points right, y down, z forward before the camera is
turned. Every scene is a list of solids; walls and floors are flat boxes. A family always has the same number of solids
of the same kinds in the same order, so that scenes of a family stack into one batch.
"""

import math

import numpy as np

from minirestore.scenes.dead_leaves import TILE, TILES, palette

FAMILIES = ("room", "street", "spheres", "boxes", "poles", "text", "workshop")
LABELS = (
    "sky",
    "ground",
    "wall",
    "ceiling",
    "building",
    "furniture",
    "vehicle",
    "picture",
    "foliage",
    "sphere",
    "box",
    "cylinder",
    "pole",
    "board",
    "text",
)
BOX, SPHERE, CYLINDER = range(3)


class Layout:
    """Solids of one scene, collected by ``add``.

    A solid is a row of 16 numbers: kind, centre (3), half extents (3) along its own axes, rotation from its own axes to
    the world (9, row by row). A sphere has three equal half extents; the axis of a cylinder is its own y, its half
    extents are radius, half height, radius.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.solids: list[np.ndarray] = []
        self.labels: list[int] = []
        self.materials: list[int] = []

    def add(self, label: str, kind: int, centre, half, rotation=None, *, same_material: bool = False) -> None:
        """Add a solid; ``same_material`` gives it the material of the one before."""
        rotation = np.eye(3) if rotation is None else rotation
        self.materials.append(self.materials[-1] if same_material else len(self.solids))
        self.solids.append(np.concatenate([[kind], centre, half, np.ravel(rotation)]))
        self.labels.append(LABELS.index(label))

    def standing(self, label: str, kind: int, x: float, z: float, half, floor: float, yaw: float = 0.0) -> None:
        """Add a solid that stands on the floor."""
        self.add(label, kind, (x, floor - half[1], z), half, turn(yaw))


def turn(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation matrix: roll about z, then pitch about x, then yaw about y, in radians."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def _shell(layout: Layout) -> tuple[float, float, float, float, float]:
    """A closed room; returns its floor, ceiling (y), left, right (x) and back wall (z)."""
    uniform = layout.rng.uniform
    floor, ceiling = uniform(1.1, 1.7), -uniform(0.9, 1.4)
    left, right, back, behind = -uniform(1.3, 3), uniform(1.3, 3), uniform(3.5, 7), -1.5
    middle, height = (floor + ceiling) / 2, (floor - ceiling) / 2
    layout.add("ground", BOX, (0, floor + 0.1, 2), (6, 0.1, 8))
    layout.add("ceiling", BOX, (0, ceiling - 0.1, 2), (6, 0.1, 8))
    layout.add("wall", BOX, (0, middle, back + 0.1), (6, height + 0.2, 0.1))
    layout.add("wall", BOX, (left - 0.1, middle, 2), (0.1, height + 0.2, 8))
    layout.add("wall", BOX, (right + 0.1, middle, 2), (0.1, height + 0.2, 8))
    layout.add("wall", BOX, (0, middle, behind - 0.1), (6, height + 0.2, 0.1))
    return floor, ceiling, left, right, back


def _room(layout: Layout) -> np.ndarray:
    """A closed room with furniture, pictures and small things; returns the position of its lamp."""
    uniform = layout.rng.uniform
    floor, ceiling, left, right, back = _shell(layout)
    for _ in range(6):
        half = uniform((0.15, 0.15, 0.15), (0.55, 0.9, 0.45))
        x, z = uniform(left + 0.3, right - 0.3), uniform(1.6, back - 0.3)
        layout.standing("furniture", BOX, x, z, half, floor, layout.rng.choice([0, math.pi / 2, uniform(-0.8, 0.8)]))
    for _ in range(3):
        half = (uniform(0.15, 0.5), uniform(0.15, 0.4), 0.02)
        layout.add("picture", BOX, (uniform(left + 0.4, right - 0.4), uniform(ceiling + 0.5, 0.2), back - 0.02), half)
    for _ in range(2):
        radius, x, z = uniform(0.08, 0.3), uniform(left + 0.4, right - 0.4), uniform(1.3, back - 0.5)
        layout.standing("sphere", SPHERE, x, z, [radius] * 3, floor)
        radius, x, z = uniform(0.05, 0.25), uniform(left + 0.4, right - 0.4), uniform(1.3, back - 0.5)
        layout.standing("cylinder", CYLINDER, x, z, (radius, uniform(0.1, 0.6), radius), floor)
    return np.array([uniform(left * 0.6, right * 0.6), ceiling + 0.15, uniform(0.3, back * 0.7)])


def _street(layout: Layout) -> np.ndarray:
    """Buildings on both sides of a road under an open sky; returns the position of the sun."""
    uniform = layout.rng.uniform
    floor, side = uniform(1.3, 2.5), uniform(4, 8)
    layout.add("ground", BOX, (0, floor + 0.5, 60), (90, 0.5, 75))
    for sign in (-1, 1):
        z = uniform(2, 8)
        for _ in range(5):
            depth, width, height = uniform(2.5, 8), uniform(2, 5), uniform(2, 9)
            x = sign * (side + width + uniform(0, 1.5))
            layout.standing("building", BOX, x, z + depth, (width, height, depth), floor)
            z += 2 * depth + uniform(0, 5) * (layout.rng.random() < 0.5)
    for _ in range(4):
        half = (uniform(0.8, 1), uniform(0.55, 0.9), uniform(1.8, 2.4))
        x, z = uniform(-side * 0.7, side * 0.7), uniform(5, 30)
        layout.standing("vehicle", BOX, x, z, half, floor, uniform(-0.1, 0.1))
    for k in range(6):
        radius = uniform(0.04, 0.12)
        x = (1 if k % 2 else -1) * (side - uniform(0.3, 1))
        layout.standing("pole", CYLINDER, x, uniform(4, 30), (radius, uniform(1.5, 3.5), radius), floor)
    for k in range(4):
        x, z, radius = (1 if k % 2 else -1) * (side - uniform(0.5, 1.5)), uniform(5, 30), uniform(0.8, 1.7)
        layout.standing("pole", CYLINDER, x, z, (0.15, 1.3, 0.15), floor)
        layout.add("foliage", SPHERE, (x, floor - 2.4 - radius * 0.7, z), [radius] * 3)
    return 500 * np.array([uniform(-0.8, 0.8), -uniform(0.5, 1), uniform(-0.8, 0.3)])


def _workshop(layout: Layout) -> np.ndarray:
    """A closed room with shelves and boxes, and before them two machines; returns the position of its lamp."""
    uniform = layout.rng.uniform
    floor, ceiling, left, right, back = _shell(layout)
    for x in (left, right):
        _shelf(layout, x * uniform(0.1, 0.7), back - uniform(0.25, 0.4), floor)
    for _ in range(4):
        half = uniform((0.1, 0.1, 0.1), (0.5, 0.6, 0.4))
        x, z = uniform(left + 0.3, right - 0.3), uniform(2.5, back - 0.3)
        layout.standing("box", BOX, x, z, half, floor, uniform(-0.8, 0.8))
    near = uniform(1.6, 3)
    _machine(layout, uniform(-0.25, 0.25) * near, near, floor)
    z = uniform(2, back - 0.7)
    _machine(layout, uniform(-0.6, 0.6) * z, z, floor)
    return np.array([uniform(left * 0.6, right * 0.6), ceiling + 0.15, uniform(0.3, back * 0.7)])


def _shelf(layout: Layout, x: float, z: float, floor: float) -> None:
    """Two posts, three boards, and six boxes on them."""
    uniform = layout.rng.uniform
    width, height = uniform(0.4, 0.9), uniform(0.7, 1.1)
    for sign in (-1, 1):
        layout.standing("furniture", BOX, x + sign * width, z, (0.03, height, 0.2), floor)
    for level in (0.2, 0.55, 0.9):
        top = floor - 2 * height * level
        layout.add("furniture", BOX, (x, top + 0.015, z), (width, 0.015, 0.2))
        for sign in (-1, 1):
            half = uniform((0.05, 0.05, 0.05), (0.4 * width, 0.25 * height, 0.2))
            layout.standing("box", BOX, x + sign * uniform(0.4, 0.55) * width, z, half, top)


def _machine(layout: Layout, x: float, z: float, floor: float) -> None:
    """A compound in a box of its own: two discs on the floor, two bodies, eight tubes, two knobs."""
    uniform = layout.rng.uniform
    length, height, depth, yaw = uniform(0.4, 1), uniform(0.6, 1.3), uniform(0.1, 0.35), uniform(-1, 1)
    own = turn(yaw)

    def place(point) -> np.ndarray:
        return np.array([x, floor, z]) + own @ point

    radius = uniform(0.12, 0.38)
    for sign in (-1, 1):
        rim = (radius, uniform(0.02, 0.07), radius)
        centre = place((sign * uniform(0.6, 0.9) * length, -radius, 0))
        layout.add("vehicle", CYLINDER, centre, rim, turn(yaw + uniform(-0.3, 0.3), math.pi / 2))
    for sign in (-1, 1):
        half = uniform((0.15, 0.08, 0.4), (0.5, 0.2, 1)) * (length, height, depth)
        centre = place((sign * uniform(0, 0.5) * length, -uniform(0.4, 0.85) * height, 0))
        layout.add("vehicle", BOX, centre, half, own @ turn(0, 0, uniform(-0.4, 0.4)))
    low = np.array([-length, -0.6 * height, -depth])
    high = np.array([length, -0.1 * height, depth])
    up = np.array([0, -0.4 * height, 0])
    for k in range(8):
        start, end = uniform(low, high), uniform(low + up, high + up)
        along, thickness = end - start, uniform(0.012, 0.05)
        half = (thickness, np.linalg.norm(along) / 2, thickness)
        axes = own @ _upright(along)
        layout.add("vehicle", CYLINDER, place((start + end) / 2), half, axes, same_material=k % 4 > 0)
    for _ in range(2):
        layout.add("vehicle", SPHERE, place(uniform(low + up, high + up)), [uniform(0.05, 0.18)] * 3)


def _upright(along: np.ndarray) -> np.ndarray:
    """A rotation that turns the y axis into the direction ``along``."""
    y = along / np.linalg.norm(along)
    x = np.cross(y, [0, 0, 1]) if abs(y[2]) < 0.9 else np.cross(y, [1, 0, 0])
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _stage(layout: Layout) -> tuple[float, float, np.ndarray]:
    """A floor and a back wall; returns their positions (y, z) and that of a lamp above and behind the camera."""
    uniform = layout.rng.uniform
    floor, back = uniform(0.8, 1.4), uniform(4, 8)
    layout.add("ground", BOX, (0, floor + 0.5, 5), (30, 0.5, 12))
    layout.add("wall", BOX, (0, -10, back + 0.5), (30, 20, 0.5), turn(uniform(-0.25, 0.25)))
    return floor, back, np.array([uniform(-4, 4), -uniform(3, 6), uniform(-2, 1.5)])


def _spheres(layout: Layout) -> np.ndarray:
    floor, back, lamp = _stage(layout)
    for k in range(16):
        z, radius = layout.rng.uniform(1.6, back - 0.5), math.exp(layout.rng.uniform(math.log(0.06), math.log(0.5)))
        y = floor - radius if k % 2 else layout.rng.uniform(-0.7 * z, floor - radius)
        layout.add("sphere", SPHERE, (layout.rng.uniform(-0.7, 0.7) * z, y, z), [radius] * 3)
    return lamp


def _boxes(layout: Layout) -> np.ndarray:
    floor, back, lamp = _stage(layout)
    uniform = layout.rng.uniform
    for k in range(16):
        z, half = uniform(1.6, back - 0.5), np.exp(uniform(math.log(0.06), math.log(0.45), 3))
        if k % 2:
            layout.standing("box", BOX, uniform(-0.7, 0.7) * z, z, half, floor, uniform(0, math.pi))
        else:
            rotation = turn(*uniform(-math.pi, math.pi, 3))
            layout.add("box", BOX, (uniform(-0.7, 0.7) * z, uniform(-0.6 * z, floor - 0.3), z), half, rotation)
    return lamp


def _poles(layout: Layout) -> np.ndarray:
    floor, back, lamp = _stage(layout)
    uniform = layout.rng.uniform
    for k in range(20):
        z, radius = uniform(1.5, back - 0.3), math.exp(uniform(math.log(0.005), math.log(0.06)))
        x = uniform(-0.7, 0.7) * z
        if k % 2:
            layout.standing("pole", CYLINDER, x, z, (radius, uniform(0.5, 2.5), radius), floor)
        else:
            rotation = turn(uniform(0, math.pi), 0, uniform(-math.pi, math.pi))
            layout.add("pole", CYLINDER, (x, uniform(-0.5, 0.5) * z, z), (radius, uniform(0.5, 2), radius), rotation)
    return lamp


def _text(layout: Layout) -> np.ndarray:
    """Two boards, each with four lines of five glyphs; a glyph is a stem and a bar, raised by 4 mm."""
    _floor, _back, lamp = _stage(layout)
    uniform = layout.rng.uniform
    for side in (-1, 1):
        z, half = uniform(1.4, 2.4), np.array([uniform(0.4, 0.7), uniform(0.35, 0.6), 0.02])
        rotation = turn(uniform(-0.5, 0.5), uniform(-0.2, 0.2), uniform(-0.3, 0.3))
        centre = np.array([side * uniform(0.25, 0.35) * z, uniform(-0.2, 0.2) * z, z])
        layout.add("board", BOX, centre, half, rotation)
        cell = half[:2] * 2 / np.array([6, 5])
        for k in range(20):
            column, row = k % 5 - 2, k // 5 - 1.5
            for stroke in range(2):
                offset = np.array([column * cell[0] + uniform(-0.15, 0.15) * cell[0], row * cell[1], -0.021])
                offset[1] += uniform(-0.3, 0.3) * cell[1] * stroke
                length = cell * (np.array([0.08, 0.32]) if stroke == 0 else np.array([0.3, 0.07]))
                tilt = turn(0, 0, layout.rng.choice([0, 0, 0.6, -0.6]))
                layout.add(
                    "text",
                    BOX,
                    centre + rotation @ offset,
                    (*length, 0.003),
                    rotation @ tilt,
                    same_material=k + stroke > 0,
                )
    return lamp


_BUILDERS = {
    "room": _room,
    "street": _street,
    "spheres": _spheres,
    "boxes": _boxes,
    "poles": _poles,
    "text": _text,
    "workshop": _workshop,
}


def draw_scene(family: str, seed: int, index: int, materials: int) -> dict[str, np.ndarray]:
    """Draw the geometry of scene ``index`` of ``seed`` and its set ``materials`` of materials.

    Returns:
        float32 arrays for K solids: ``solids`` (K, 16), see ``Layout``; ``colours`` (K + 1, 2, 3) in [0, 1] and
        ``texture`` (K + 1, 11), the last row for the sky; ``lamp`` (3,) metres; ``ambient`` (1,); ``camera`` (3, 3)
        from camera to world; ``focal`` (1,) in units of the image side; and int64 ``labels`` (K,), indices into LABELS.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, FAMILIES.index(family)])))
    layout = Layout(rng)
    lamp = _BUILDERS[family](layout)
    camera = turn(*rng.uniform((-0.3, -0.12, -0.06), (0.3, 0.1, 0.06)))
    focal = 0.5 / math.tan(math.radians(rng.uniform(50, 75)) / 2)
    ambient = rng.uniform(0.3, 0.6)
    rng = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, index, FAMILIES.index(family), materials + 1]))
    )
    colours, texture = _materials(rng, len(layout.solids) + 1)
    for k, label in enumerate(layout.labels):
        if label == LABELS.index("text") and layout.materials[k] == k:
            colours[k] = _legible(rng, colours[k - 1])
    owner = [*layout.materials, len(layout.solids)]
    arrays = {
        "solids": np.stack(layout.solids),
        "colours": colours[owner],
        "texture": texture[owner],
        "lamp": lamp,
        "ambient": np.array([ambient]),
        "camera": camera,
        "focal": np.array([focal]),
    }
    return {key: array.astype(np.float32) for key, array in arrays.items()} | {"labels": np.array(layout.labels)}


def _materials(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours ``(n, 2, 3)`` from the colour pool, and textures ``(n, 11)`` as ``_albedo`` unpacks them."""
    noise = (rng.random(n) < 0.85) * np.exp(rng.uniform(math.log(0.2), math.log(2), n))
    pattern = rng.random(n)
    wave = (pattern < 0.12) * rng.uniform(0.2, 0.5, n)
    checks = ((pattern > 0.12) & (pattern < 0.3)) * rng.uniform(0.15, 0.5, n)
    phi, period = rng.uniform(0, 2 * math.pi, n), np.exp(rng.uniform(math.log(0.05), math.log(0.5), n))
    scale = np.exp(rng.uniform(math.log(60), math.log(400), n))  # texels per metre
    columns = [rng.uniform(0.1, 0.6, n), noise, rng.integers(0, TILES, n), scale, *rng.uniform(0, TILE, (2, n))]
    columns += [wave, np.cos(phi) / period, np.sin(phi) / period, checks, 1 / (4 * period)]
    texture = np.stack(columns, 1)
    texture[-1, [6, 9]] = 0  # no stripes or checks in the sky
    return palette(rng, n), texture


def _legible(rng: np.random.Generator, board: np.ndarray) -> np.ndarray:
    """Of 32 pairs of pool colours ``(2, 3)`` the one that stands out most from those of the board."""
    pairs = palette(rng, 32)
    return pairs[np.abs(pairs.mean(1) - board.mean(0)).sum(1).argmax()]
