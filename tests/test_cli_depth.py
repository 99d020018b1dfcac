"""Files of a depth map, and the command that writes them."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from minirestore import checkpoints, cli, depth_maps, photos, recipes

# ---------------------------------------------------------------- files


def ramp(dtype=torch.float32):
    """From 0 on the left to 1 on the right, 2 x 256 pixels, none a multiple of 1 / 65535 but for the ends."""
    return torch.linspace(0, 1, 256, dtype=dtype).pow(1.3).expand(1, 1, 2, 256)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image), image.mode, image.format


def test_sixteen_bits_are_rounded_down(tmp_path):
    x = ramp(torch.float64)
    depth_maps.write(tmp_path, "a", x, 1)
    found, mode, kind = read(tmp_path / "a_depth.png")
    assert (found.dtype, mode, kind) == (np.uint16, "I;16", "PNG")
    assert np.array_equal(found, np.floor(65535 * x[0, 0].numpy()))
    assert found[0, 0] == 0 and found[0, -1] == 65535
    rounded = np.round(65535 * x[0, 0].numpy())
    assert not np.array_equal(found, rounded)
    outside = torch.tensor([-0.2, 1.2]).view(1, 1, 1, 2)
    assert depth_maps.sixteen_bits(outside).tolist() == [[0, 65535]]


def test_an_npz_holds_the_map_and_which_end_is_near(tmp_path):
    for near_is in (0, 1):
        paths = depth_maps.write(tmp_path / "new" / "folder", "a", ramp(), near_is)
        assert [path.name for path in paths] == ["a_depth.png", "a_colour.png", "a_depth.npz"]
        assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)
        found = np.load(paths[2])
        assert set(found) == {"relative", "near_is"} and found["near_is"] == near_is
        assert found["relative"].dtype == np.float32 and np.array_equal(found["relative"], ramp()[0, 0].numpy())


@pytest.mark.parametrize("near_is", [0, 1])
def test_near_is_red_and_far_is_blue(tmp_path, near_is):
    x = ramp()
    depth_maps.write(tmp_path, "a", x, near_is)
    found, mode, _ = read(tmp_path / "a_colour.png")
    assert (mode, found.shape) == ("RGB", (2, 256, 3))
    near, far = (found[0, -1], found[0, 0]) if near_is else (found[0, 0], found[0, -1])
    assert near[0] > 2 * near[2] and far[2] > 1.5 * far[0]
    right = depth_maps.colour_map(x if near_is else 1 - x)
    assert right.shape == (1, 3, 2, 256) and right.min() >= 0 and right.max() <= 1
    assert np.array_equal(found, (right[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def test_colours_are_those_of_the_map_from_near_to_far():
    from matplotlib import colormaps

    for near, position in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)):
        found = depth_maps.colour_map(torch.full((2, 1, 3, 4), near))
        assert found.shape == (2, 3, 3, 4)
        assert found[1, :, 2, 3].tolist() == pytest.approx(colormaps["Spectral"](position)[:3], abs=1e-6)


def test_metres_are_kept_in_full_and_in_millimetres(tmp_path):
    metres = torch.tensor([[0.0004, 0.0006, 1.2346, 65.5349, 65.5356, 900.0]]).view(1, 1, 1, 6)
    paths = depth_maps.write(tmp_path, "a", torch.rand(1, 1, 1, 6, generator=torch.Generator().manual_seed(0)), 1,
                             metres)  # fmt: skip
    assert {path.name for path in paths} == {"a_depth.png", "a_colour.png", "a_millimetres.png", "a_depth.npz"}
    found, mode, _ = read(tmp_path / "a_millimetres.png")
    assert (mode, found.tolist()) == ("I;16", [[0, 1, 1235, 65535, 65535, 65535]])
    kept = np.load(tmp_path / "a_depth.npz")
    assert set(kept) == {"relative", "near_is", "metres"} and np.array_equal(kept["metres"], metres[0, 0].numpy())


def test_an_older_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "a_depth.png").write_text("old")
    depth_maps.write(tmp_path, "a", ramp(), 1)
    assert read(tmp_path / "a_depth.png")[0].shape == (2, 256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_colour.png", "a_depth.npz", "a_depth.png"]


# ---------------------------------------------------------------- the command


def saved(folder, name, **settings):
    """A checkpoint of random weights in the small prior's place, of either stage."""
    network = recipes.plan(recipes.METHODS["depthmaster"], "quick", {"teacher": "none", **settings})[0]
    made = recipes.build(recipes.METHODS["depthmaster"], network)
    card = {field: {} for field in checkpoints.CARD_FIELDS}
    card |= {"method": "depthmaster", "config": network.__dict__, "steps": 0, "seed": 0, "device": "CPU"}
    return checkpoints.save(str(folder / f"{name}.safetensors"), made, json.loads(json.dumps(card)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights"), "any", longer_side=64)


@pytest.fixture
def photo(tmp_path):
    """A 37 x 29 photograph on disk, with a folder of its own."""
    path = tmp_path / "photos" / "my.photo.png"
    path.parent.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (29, 37, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def ends(relative):
    """Column and row of the pixels of the largest and the smallest value of a map (1, 1, H, W)."""
    W = relative.shape[-1]
    return [(int(i) % W, int(i) // W) for i in (relative.argmax(), relative.argmin())]


def test_depth_writes_what_the_method_predicts(capsys, photo, weights, tmp_path):
    out = tmp_path / "out"
    words = ("depth", photo, out, "--checkpoint", weights, "--device", "cpu")
    code, printed, err = run(capsys, *words)
    assert (code, err) == (0, "")
    names = [out / f"my.photo_{end}" for end in ("depth.png", "colour.png", "depth.npz")]
    assert printed.splitlines() == [
        *map(str, names), "relative depth: 1 is near, 0 is far; scale and shift are unknown",
    ]  # fmt: skip
    assert sorted(out.iterdir()) == sorted(names)
    method = recipes.load_method("depthmaster", weights, "cpu")
    right = recipes.predict(method, photos.read_image(photo))
    found = np.load(names[2])
    assert set(found) == {"relative", "near_is"} and found["near_is"] == 1
    assert np.array_equal(found["relative"], right[0, 0].numpy()) and found["relative"].shape == (29, 37)
    assert np.array_equal(read(names[0])[0], np.floor(65535 * right[0, 0].double().numpy()))
    before = names[2].read_bytes()
    assert run(capsys, *words)[0] == 0 and names[2].read_bytes() == before


def test_the_space_says_which_end_is_near(capsys, photo, tmp_path):
    weights = saved(tmp_path, "depth", space="depth")
    code, printed, _ = run(capsys, "depth", photo, tmp_path / "out", "--checkpoint", weights, "--device", "cpu")
    assert code == 0 and "relative depth: 0 is near, 1 is far; scale and shift are unknown\n" in printed
    found = np.load(tmp_path / "out" / "my.photo_depth.npz")
    assert found["near_is"] == 0
    colour = read(tmp_path / "out" / "my.photo_colour.png")[0]
    right = depth_maps.colour_map(1 - torch.from_numpy(found["relative"])[None, None])
    assert np.array_equal(colour, (right[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def test_options_of_the_method_reach_it(capsys, photo, weights, tmp_path):
    words = ("depth", photo, tmp_path / "out", "--checkpoint", weights, "--device", "cpu")
    assert run(capsys, *words, "--set", "calls=2", "--set", "longer_side=32", "--method", "depthmaster")[0] == 0
    method = recipes.load_method("depthmaster", weights, "cpu")
    right = recipes.predict(method, photos.read_image(photo), calls=2, longer_side=32)
    assert np.array_equal(np.load(tmp_path / "out" / "my.photo_depth.npz")["relative"], right[0, 0].numpy())


def test_the_seed_decides_what_denoising_draws(capsys, photo, tmp_path):
    weights, maps = saved(tmp_path, "rival", paradigm="denoising"), []
    for seed in (0, 0, 1):
        words = ("depth", photo, tmp_path / "out", "--checkpoint", weights, "--device", "cpu", "--seed", seed)
        assert run(capsys, *words)[0] == 0
        maps.append(np.load(tmp_path / "out" / "my.photo_depth.npz")["relative"])
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])


def test_two_known_distances_give_metres(capsys, photo, weights, tmp_path):
    method = recipes.load_method("depthmaster", weights, "cpu")
    (c1, r1), (c2, r2) = ends(recipes.predict(method, photos.read_image(photo)))
    out = tmp_path / "out"
    words = ("depth", photo, out, "--checkpoint", weights, "--device", "cpu")
    code, printed, err = run(capsys, *words, "--known", f"{c1},{r1}=2.5", "--known", f"{c2},{r2}=11")
    assert (code, err) == (0, "")
    assert printed.splitlines()[-1] == "metres: 2.5 (nearest) to 11 (furthest)"
    assert str(out / "my.photo_millimetres.png") in printed.splitlines()
    found = np.load(out / "my.photo_depth.npz")
    metres, relative = found["metres"], found["relative"].astype(np.float64)
    assert metres.shape == (29, 37) and metres.dtype == np.float32
    assert metres[r1, c1] == pytest.approx(2.5, rel=1e-5) and metres[r2, c2] == pytest.approx(11, rel=1e-5)
    near, far = 2.5**-0.5, 11**-0.5
    line = far + (near - far) * (relative - relative.min()) / (relative.max() - relative.min())
    assert np.allclose(metres, line**-2, rtol=1e-5)
    millimetres = read(out / "my.photo_millimetres.png")[0]
    assert np.array_equal(millimetres, np.round(1000 * metres.astype(np.float64)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--known", "3,4=2.5"], "points: two known distances are needed for scale and shift, got 1"),
        (["--known", "3,4=2.5", "--known", "37,4=3"], "expected a pixel of the 37 x 29 map and a distance above 0"),
        (["--known", "3,4=2.5", "--known", "4,29=3"], "got (4, 29, 3.0)"),
        (["--known=-1,4=2.5", "--known", "4,9=3"], "got (-1, 4, 2.5)"),
        (["--known", "3,4=2.5", "--known", "3,4=2.5"], "a pixel is named twice"),
        (["--known", "3,4=0", "--known", "4,9=3"], "a distance above 0"),
        (["--known", "3,4=inf", "--known", "4,9=3"], "finite"),
        (["--known", "3,4"], "--known: expected COLUMN,ROW=METRES such as 120,400=2.5, got '3,4'"),
        (["--known", "3=4"], "--known: expected COLUMN,ROW=METRES such as 120,400=2.5, got '3=4'"),
        (["--known", "3,4,5=6"], "--known: expected COLUMN,ROW=METRES"),
        (["--known", "3.5,4=6"], "--known: expected COLUMN,ROW=METRES"),
        (["--known", "3,4=near"], "--known: expected COLUMN,ROW=METRES"),
        (["--known", "3,4=1=2"], "--known: expected COLUMN,ROW=METRES"),
        (["--method", "denoiser"], "method: denoiser does not predict depth, its task is denoise"),
        (["--method", "depthmastr"], "method: unknown name 'depthmastr'; known: denoiser"),
        (["--set", "steps=4"], "unknown option 'steps' (known: calls, samples, spacing, longer_side)"),
        (["--set", "calls"], "--set: expected key=value, got 'calls'"),
        (["--set", "calls=-1"], "calls >= 0 and samples >= 1"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda"),
        (["--checkpoint", "absent"], "absent.safetensors not found"),
        (["--checkpoint", "denoiser"], "holds 'denoiser', not 'depthmaster'"),
    ],
)
def test_depth_refuses_and_writes_nothing(capsys, photo, weights, tmp_path, words, message):
    given = [] if "--checkpoint" in words else ["--checkpoint", weights]
    code, printed, err = run(capsys, "depth", photo, tmp_path / "out", *given, *words)
    assert (code, printed) == (2, "")
    assert err.startswith("minirestore: error: ") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("absent.png", None, "there is no file"), ("garbage.png", b"not an image", "not a readable image")],
)
def test_depth_refuses_what_is_no_photograph(capsys, weights, tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_bytes(content)
    code, _, err = run(capsys, "depth", tmp_path / name, tmp_path / "out", "--checkpoint", weights)
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_to_write_into(capsys, photo, weights, tmp_path):
    out = tmp_path / "out.png"
    out.write_text("mine")
    code, _, err = run(capsys, "depth", photo, out, "--checkpoint", weights)
    assert code == 2 and err == f"minirestore: error: OUT: {out} is a file; name a folder\n"
    assert out.read_text() == "mine"


def test_the_help_names_the_files_and_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["depth", "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    for words in ("NAME_depth.png (16 bit)", "near red, far blue", "NAME_depth.npz", "--known 120,400=2.5"):
        assert words in text


# ---------------------------------------------------------------- its other commands


def test_depthmaster_is_a_method_of_depth(capsys):
    rows = json.loads(run(capsys, "methods", "--json")[1])
    assert {"name": "depthmaster", "task": "depth", "scale": 1, "checkpoint": "depthmaster"} in rows


@pytest.mark.parametrize(
    ("stage", "parts"),
    [("first", {"network": 865_910_724, "teacher": 1_136_480_768, "head": 6_689_280}),
     ("second", {"network": 944_565_444})],
)  # fmt: skip
def test_parameters_are_the_published_ones(capsys, stage, parts):
    pytest.importorskip("transformers")
    counts = json.loads(
        run(capsys, "params", "depthmaster", "--profile", "full", "--set", f"stage={stage}", "--json")[1]
    )
    parts = {"autoencoder": 83_653_863, **parts}
    assert counts == {**parts, "total": sum(parts.values())}


def test_a_trained_method_predicts_from_the_command_line(capsys, photo, tmp_path):
    words = ["train", "depthmaster", "--profile", "quick", "--device", "cpu", "--output", tmp_path / "run"]
    for setting in ("images=2", "prepared=2", "batch_size=2", "steps=2"):
        words += ["--set", setting]
    code, printed, _ = run(capsys, *words)
    assert code == 0 and re.search(r"depthmaster: finished after 2 steps, mean loss", printed)
    trained = tmp_path / "run" / "depthmaster.safetensors"
    assert run(capsys, "depth", photo, tmp_path / "out", "--checkpoint", trained, "--device", "cpu")[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
