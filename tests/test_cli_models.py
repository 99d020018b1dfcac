"""The commands that work on models: methods, params, restore, train."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from minirestore import checkpoints, cli, photos

TINY = ["--profile", "quick", "--device", "cpu", "--set", "widths=(8,12)", "--set", "blocks=1", "--set",
        "embedding_width=8", "--set", "images=2", "--set", "image_size=32", "--set", "crop=16", "--set", "steps=4",
        "--set", "batch_size=2"]  # fmt: skip


@pytest.fixture
def photo(tmp_path):
    """A 37 x 29 photograph on disk."""
    path = tmp_path / "photo.png"
    values = np.random.default_rng(0).integers(0, 256, (29, 37, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_methods_as_json(capsys):
    code, out, _ = run(capsys, "methods", "--json")
    assert code == 0
    rows = json.loads(out)
    assert {"name": "denoiser", "task": "denoise", "scale": 1, "checkpoint": "denoiser"} in rows
    for row in rows:
        assert row["task"] in ("denoise", "deblur", "derain", "sr", "restore", "depth")
        checkpoints.read_card(row["checkpoint"])


def test_methods_as_a_table(capsys):
    _, out, _ = run(capsys, "methods")
    assert out.splitlines()[0].split() == ["name", "task", "scale", "checkpoint"]


def test_params_sum_to_the_total_and_follow_the_network(capsys):
    counts = json.loads(run(capsys, "params", "denoiser", "--profile", "reduced", "--json")[1])
    assert counts["total"] == sum(v for k, v in counts.items() if k != "total")
    assert counts["total"] == checkpoints.read_card("denoiser")["parameters"]
    wider = json.loads(run(capsys, "params", "denoiser", "--set", "widths=(64, 96)", "--json")[1])
    assert wider["total"] > counts["total"]
    table = run(capsys, "params", "denoiser", "--profile", "reduced")[1]
    assert f"{counts['total']:,}" in table


def test_params_of_structure_guidance_are_the_published_ones(capsys):
    words = ("params", "structure_guidance", "--profile", "full", "--json")
    assert json.loads(run(capsys, *words)[1]) == {"unet": 6_889_603, "guidance": 2_145_891, "total": 9_035_494}
    unguided = json.loads(run(capsys, *words, "--set", "guided=False")[1])
    assert unguided["total"] == 6_800_515 == sum(v for k, v in unguided.items() if k != "total")
    large = json.loads(run(capsys, *words, "--set", "guided=False", "--set", "widths=(64,128,192,256)")[1])
    assert large["total"] == 27_177_219
    reduced = json.loads(run(capsys, "params", "structure_guidance", "--profile", "reduced", "--json")[1])
    assert reduced["total"] == checkpoints.read_card("structure_guidance")["parameters"]


def test_restore_writes_a_photograph_of_the_same_size(capsys, photo, tmp_path):
    outputs = [tmp_path / f"{name}.png" for name in "abc"]
    for output, seed in zip(outputs, (0, 0, 1), strict=True):
        words = ["restore", "--method", "denoiser", photo, output, "--steps", 2, "--seed", seed, "--device", "cpu"]
        assert run(capsys, *words)[0] == 0
    a, b, c = (photos.read_image(path) for path in outputs)
    assert a.shape == (1, 3, 29, 37)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_restore_with_structure_guidance_and_its_strength(capsys, photo, tmp_path):
    pictures = []
    for guidance in ("1.0", "0.3", "0"):
        output = tmp_path / f"{guidance}.png"
        words = ["restore", "--method", "structure_guidance", photo, output, "--set", f"guidance={guidance}"]
        assert run(capsys, *words, "--device", "cpu") == (0, f"{output}: 37 x 29 pixels\n", "")
        pictures.append(photos.read_image(output))
    assert not torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[1], pictures[2])


def test_restore_by_tiles_and_with_method_options(capsys, photo, tmp_path):
    output = tmp_path / "out.jpg"
    words = ["restore", "--method", "denoiser", photo, output, "--tile", 16, "--set", "steps=1", "--set", "samples=2"]
    code, out, err = run(capsys, *words, "--device", "cpu")
    assert (code, err) == (0, "")
    assert out == f"{output}: 37 x 29 pixels\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "denoisr"], "method: unknown name 'denoisr'; known: denoiser"),
        (["--method", "denoiser", "--set", "guidance=0.3"], "unknown option 'guidance'"),
        (["--method", "denoiser", "--set", "eta=2"], "eta: must lie in [0, 1]"),
        (
            ["--method", "structure_guidance", "--steps", "10", "--set", "beta_end=0.02", "--device", "cpu"],
            "steps=10, beta_end=0.02: the schedule starts at alpha_bar = 0.904",
        ),
        (
            ["--method", "structure_guidance", "--checkpoint", "structure_guidance_unguided", "--set", "guidance=0.5"],
            "guidance, structure: this network was trained without guidance",
        ),
        (["--method", "structure_guidance", "--checkpoint", "denoiser"], "holds 'denoiser', not 'structure_guidance'"),
        (["--method", "structure_guidance", "--set", "guidance=nan"], "guidance: "),
        (["--method", "denoiser", "--steps", "0"], "steps and samples: must be integers and at least 1"),
        (["--method", "denoiser", "--tile", "4"], "tile: must be at least 16"),
        (["--method", "denoiser", "--checkpoint", "absent"], "absent.safetensors not found"),
        (["--method", "denoiser", "--device", "gpu"], "device: expected auto, cpu, cuda"),
    ],
)
def test_restore_refuses_and_writes_nothing(capsys, photo, tmp_path, words, message):
    output = tmp_path / "out.png"
    code, out, err = run(capsys, "restore", photo, output, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not output.exists()


@pytest.mark.parametrize(
    ("name", "content", "output", "message"),
    [
        ("absent.png", None, "out.png", "there is no file"),
        ("garbage.png", b"not an image", "out.png", "not a readable image"),
        ("photo.png", "photo", "out.docx", "no ending that names an image format"),
        ("photo.png", "photo", "absent/out.png", "there is no folder"),
    ],
)
def test_restore_refuses_bad_files(capsys, photo, tmp_path, name, content, output, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    code, _, err = run(capsys, "restore", "--method", "denoiser", path, tmp_path / output, "--device", "cpu")
    assert code == 2
    assert message in err
    assert not (tmp_path / output).exists()


def test_a_damaged_checkpoint_is_refused(capsys, photo, tmp_path):
    source = checkpoints.checkpoint_path("denoiser")
    damaged = tmp_path / "damaged.safetensors"
    payload = bytearray(source.read_bytes())
    payload[-1000] ^= 4
    damaged.write_bytes(payload)
    damaged.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    words = ["restore", "--method", "denoiser", "--checkpoint", damaged, photo, tmp_path / "out.png"]
    code, _, err = run(capsys, *words, "--device", "cpu")
    assert code == 2
    assert "damaged" in err
    assert not (tmp_path / "out.png").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_but_absent(capsys, photo, tmp_path):
    words = ["restore", "--method", "denoiser", photo, tmp_path / "out.png", "--device", "cuda"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "PyTorch sees no such GPU" in err


def test_train_stops_in_time_resumes_and_its_checkpoint_restores(capsys, photo, tmp_path):
    words = ["train", "denoiser", "--output", tmp_path / "run", *TINY]
    code, out, _ = run(capsys, *words, "--minutes", 0)
    assert code == 0
    assert "stopped; give the same command to go on after 0 steps" in out
    assert not (tmp_path / "run" / "denoiser.safetensors").exists()
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "finished after 4 steps, mean loss" in out
    weights = tmp_path / "run" / "denoiser.safetensors"
    restored = ["restore", "--method", "denoiser", "--checkpoint", weights, photo, tmp_path / "out.png"]
    assert run(capsys, *restored, "--steps", 1, "--device", "cpu")[0] == 0


def test_a_training_starts_from_the_one_before(capsys, tmp_path):
    small = ["--profile", "quick", "--device", "cpu"]
    for setting in ("dim=8", "heads=(1,1,2,2)", "images=2", "image_size=32", "crop=16", "batch_size=2", "steps=2"):
        small += ["--set", setting]
    assert run(capsys, "train", "c2f_dft", "--output", tmp_path / "coarse", *small)[0] == 0
    start = ["--set", "stage=fine", "--start", tmp_path / "coarse" / "c2f_dft.safetensors"]
    assert run(capsys, "train", "c2f_dft", "--output", tmp_path / "fine", *small, *start)[0] == 0
    card = checkpoints.read_card(tmp_path / "fine" / "c2f_dft.safetensors")
    assert card["start"].startswith("averaged weights, sha256 ") and card["config"]["stage"] == "fine"
    code, _, err = run(capsys, "train", "c2f_dft", "--output", tmp_path / "no", *small, *start[:2], "--start", "absent")
    assert code == 2 and "absent" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "denoisr"],
            "known: denoiser, structure_guidance, c2f_dft, resshift, hf_error_map, diffbir_restoration, diffbir",
        ),
        (["train", "denoiser", "--set", "step=4"], "unknown setting 'step' for denoiser; known:"),
        (["train", "denoiser", "--set", "steps=4.5"], "steps: expected int"),
        (["train", "denoiser", "--profile", "full", "--device", "cpu"], "800 photographs in DIV2K_train_HR/"),
        (
            ["params", "denoisr"],
            "known: denoiser, structure_guidance, c2f_dft, resshift, hf_error_map, diffbir_restoration, diffbir",
        ),
    ],
)
def test_train_and_params_refuse(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIRESTORE_DATASETS", str(tmp_path))
    code, _, err = run(capsys, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []
