"""Saved models: round trip, verification, and every kind of damage."""

import json

import pytest
import torch
from torch import nn

from minirestore import checkpoints

CARD = {
    "method": "toy", "config": {"width": 3}, "data": "none", "steps": 1, "seed": 0,
    "device": "CPU", "wall_time_s": 0, "metrics": {},
}  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return checkpoints.save(str(tmp_path / "toy.safetensors"), module, CARD), module


def test_round_trip_stores_half_precision_and_keeps_integers(saved):
    path, module = saved
    tensors, card = checkpoints.load(str(path))
    for key, value in module.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(tensors[key], expected)
    assert card["parameters"] == sum(v.numel() for v in module.state_dict().values())
    assert card["dtype"] == "float16"
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    checkpoints.fill(fresh, tensors, path)
    assert not fresh.training
    assert torch.equal(fresh[0].weight, module[0].weight.half().float())


def test_saving_twice_gives_the_same_bytes(saved, tmp_path):
    path, module = saved
    other = checkpoints.save(str(tmp_path / "again.safetensors"), module, CARD)
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("position", [0.3, 0.9])
def test_one_flipped_bit_is_noticed(saved, position):
    path, _ = saved
    payload = bytearray(path.read_bytes())
    payload[int(len(payload) * position)] ^= 1
    path.write_bytes(payload)
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(str(path))


@pytest.mark.parametrize(("field", "value"), [("config", {"width": 4}), ("method", "other"), ("steps", 2)])
def test_a_changed_card_is_noticed(saved, field, value):
    """A network built from a changed configuration would give a plausible picture."""
    path, _ = saved
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), field: value}))
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(str(path))


@pytest.mark.parametrize("text", ["null", "3", '{"config": 3}'])
def test_a_card_that_is_none_is_refused(saved, text):
    path, _ = saved
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match="does not hold a card"):
        checkpoints.load(str(path))


def test_a_truncated_file_is_noticed(saved):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(str(path))


def test_a_missing_checkpoint_lists_those_that_exist(saved):
    path, _ = saved
    with pytest.raises(FileNotFoundError, match=r"other\.safetensors not found.*present: toy"):
        checkpoints.load(str(path.with_name("other.safetensors")))


def test_a_missing_or_broken_card_is_one_clear_error(saved):
    path, _ = saved
    card = path.with_suffix(".json")
    fields = json.loads(card.read_text())
    card.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        checkpoints.load(str(path))
    del fields["seed"]
    card.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="lacks seed"):
        checkpoints.load(str(path))
    card.unlink()
    with pytest.raises(FileNotFoundError, match=r"toy\.json not found"):
        checkpoints.load(str(path))


def test_a_checkpoint_of_another_shape_names_the_difference(saved):
    path, _ = saved
    with pytest.raises(ValueError, match=r"0\.weight \(module \(5, 3\), file \(4, 3\)\)"):
        checkpoints.fill(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)), checkpoints.load(str(path))[0], path)


def test_what_cannot_be_stored_writes_nothing(tmp_path):
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight[0, 0] = 1e30  # infinite in half precision
    with pytest.raises(ValueError, match="weight is not finite"):
        checkpoints.save(str(tmp_path / "bad.safetensors"), module, CARD)
    with pytest.raises(ValueError, match="lacks seed"):
        checkpoints.save(
            str(tmp_path / "bad.safetensors"), nn.Linear(2, 2), {k: v for k, v in CARD.items() if k != "seed"}
        )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    checkpoints.write_atomically(target, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_sealed_folder_has_a_card_that_cannot_be_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRESTORE_DATA", str(tmp_path))
    folder = tmp_path / "checkpoints" / "family" / "member"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1")
    assert not checkpoints.is_present("family/member")
    checkpoints.seal(folder, CARD)
    assert checkpoints.is_present("family/member") and not checkpoints.is_present("family")
    card = checkpoints.read_card("family/member")
    assert card["method"] == "toy" and list(card["files"]) == ["weights"] and len(card["sha256"]) == 64
    file = folder / "card.json"
    file.write_text(file.read_text().replace('"steps": 1', '"steps": 2'))
    with pytest.raises(ValueError, match=r"card\.json is damaged"):
        checkpoints.read_card("family/member")
    (folder / "weights").write_bytes(b"2")
    with pytest.raises(ValueError, match="weights is missing, new or damaged"):
        checkpoints.read_card("family/member")


def test_shipped_checkpoints_are_intact_and_within_budget():
    folder = checkpoints.checkpoint_path("any").parent
    files = sorted(p.stem for p in folder.glob("*.safetensors"))
    assert files, "no checkpoints are shipped"
    sealed = [p.parent.relative_to(folder).as_posix() for p in folder.rglob(checkpoints.CARD_FILE)]
    cards = [checkpoints.load(name)[1] for name in files] + [checkpoints.read_card(name) for name in sealed]
    for card in cards:
        assert card["device"].startswith(("CPU", "one CUDA GPU")) and card["wall_time_s"] > 0
    nested = [name for name in sealed if any(name != other and name.startswith(f"{other}/") for other in sealed)]
    twice = sum(checkpoints.read_card(name)["parameters"] for name in nested)  # the folders around them count them, too
    assert sum(card["parameters"] for card in cards) - twice <= 15_000_000
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 30 * 2**20
