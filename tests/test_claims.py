"""The ledger: protocols that hash what matters, a queue that loses nothing, verdicts by hand, numbers that repeat."""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import random

import numpy as np
import pytest
from scipy import stats

from minirestore import checkpoints, claims, config
from minirestore.claims import Claim, Job, OutOfTime, Protocol, assess, definitions, queue, verdicts
from minirestore.claims import ledger as ledgers

PHOTOS = ("astronaut", "coffee", "rocket")
PROTOCOL = Protocol(
    data=("photos.evaluation_crops(128)", "blur linear"),
    images=tuple(f"{name}/{i}" for name in PHOTOS for i in range(2)),
    arms=("guided", "wide"),
    seeds=(0, 1, 2),
    metrics=("psnr", "hf ratio"),
    settings={"steps": 30, "network": {"widths": [8, 16]}},
)
GAIN = {0: 1.0, 1: 2.0, 2: 3.0}  # dB that "guided" gains with each seed


def measure(job, images):
    """Deterministic values: an image's own level, plus the gain of the guided arm."""
    gain = GAIN[job.seed] if job.arm == "guided" else 0.0
    return {image: {"psnr": 20 + len(image) + gain, "hf ratio": 1 / 3} for image in images}


def toy(**changes):
    fields = {
        "id": "toy.A1",
        "paper": "toy",
        "where": "Table 1",
        "statement": "Guidance helps on blur it never saw.",
        "paper_effect": "PSNR 30.0 -> 31.5",
        "paper_value": 1.5,
        "protocol": PROTOCOL,
        "rehearsal": {"images": PROTOCOL.images[:2], "seeds": (0,), "steps": 2},
        "primary": "psnr",
        "contrast": "guided - wide",
        "unit": "dB",
        "smallest": 0.1,
        "trained": True,
        "measure": measure,
    }
    return Claim(**{**fields, **changes})


def rows_of(claim, values=None):
    """Rows for the whole grid; ``values[(seed, arm, image)]`` replaces the measured primary metric."""
    rows = []
    for seed, arm in itertools.product(claim.protocol.seeds, claim.protocol.arms):
        measured = measure(Job(claim, arm, seed, claim.protocol, None), claim.protocol.images)
        for image, metrics in measured.items():
            row = {"seed": seed, "arm": arm, "image": image, **metrics}
            if values:
                row[claim.primary] = values[seed, arm, image]
            rows.append(row)
    return rows


def rows_with(claim, differences):
    """Rows whose paired difference is ``differences[seed]`` if trained, else ``differences[photograph]``."""
    key = (lambda seed, image: seed) if claim.trained else (lambda seed, image: image.split("/")[0])
    return rows_of(
        claim,
        {
            (s, arm, i): (differences[key(s, i)] if arm == claim.protocol.arms[0] else 0.0)
            for s, arm, i in claim.protocol.cells
        },
    )


@pytest.fixture
def registry(monkeypatch):
    """An empty registry; the papers' own claims are out of sight."""
    monkeypatch.setattr(definitions, "PAPERS", ())
    kept = dict(claims.CLAIMS)
    claims.CLAIMS.clear()
    yield claims.CLAIMS
    claims.CLAIMS.clear()
    claims.CLAIMS.update(kept)


@pytest.fixture
def places(tmp_path):
    """Folders for ledger and runs, as keyword arguments of `run_claim`."""
    return {"ledger": tmp_path / "ledger", "runs": tmp_path / "runs", "device": "cpu"}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A data folder with one shipped checkpoint, ``toy``; returns a function that trains it anew."""
    import torch

    monkeypatch.setenv("MINIRESTORE_DATA", str(tmp_path))

    def save(value):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.weight, value)
        torch.nn.init.zeros_(network.bias)
        checkpoints.save("toy", network, {field: {} for field in checkpoints.CARD_FIELDS})

    save(1.0)
    return save


# ---------------------------------------------------------------- protocols and claims


def test_the_hash_covers_every_field_and_nothing_else():
    changes = {
        "data": ("other",),
        "images": PROTOCOL.images[:4],
        "arms": ("wide", "guided"),
        "seeds": (0, 1, 3),
        "metrics": ("psnr",),
        "settings": {"steps": 30, "network": {"widths": [8, 17]}},
    }
    assert set(changes) == {f.name for f in dataclasses.fields(Protocol)}
    hashes = {dataclasses.replace(PROTOCOL, **{name: value}).hash for name, value in changes.items()}
    assert len(hashes | {PROTOCOL.hash}) == len(changes) + 1
    reordered = {"network": {"widths": (8, 16)}, "steps": 30}
    assert dataclasses.replace(PROTOCOL, settings=reordered).hash == PROTOCOL.hash
    assert Protocol(**json.loads(json.dumps(PROTOCOL.as_dict()))).hash == PROTOCOL.hash
    assert len(PROTOCOL.hash) == 12
    simple = Protocol(("d",), ("a", "b"), ("x",), (0,), ("m",))
    written = b'{"arms":["x"],"data":["d"],"images":["a","b"],"metrics":["m"],"seeds":[0],"settings":{}}'
    assert simple.hash == hashlib.sha256(written).hexdigest()[:12]


def test_a_protocol_cannot_be_changed_afterwards():
    widths = [8, 16]
    protocol = dataclasses.replace(PROTOCOL, settings={"network": {"widths": widths}})
    widths.append(32)
    assert protocol.settings["network"]["widths"] == (8, 16)
    with pytest.raises(TypeError):
        protocol.settings["network"]["widths"] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        protocol.seeds = (1,)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": ()}, ValueError, "images: expected at least one"),
        ({"arms": ("a", "a")}, ValueError, "arms: .*each once"),
        ({"arms": ("a ",)}, ValueError, "outer blanks"),
        ({"arms": "ab"}, TypeError, "arms: expected a sequence of str"),
        ({"seeds": (0.0,)}, TypeError, "seeds: expected a sequence of int"),
        ({"seeds": (True,)}, TypeError, "seeds: expected a sequence of int"),
        ({"metrics": ("arm",)}, ValueError, "metrics: arm is a key column"),
        ({"settings": {"sigma": math.nan}}, TypeError, r"settings.sigma: expected plain JSON .* got nan"),
        ({"settings": {"a": [np.float32(1)]}}, TypeError, r"settings.a\[0\]"),
        ({"settings": {1: 2}}, TypeError, "settings: expected texts as names"),
    ],
)
def test_a_wrong_protocol_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(PROTOCOL, **changes)


TWO = dataclasses.replace(PROTOCOL, seeds=(0, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "A7"}, "id: expected paper.number such as sg.A7, got 'A7'"),
        ({"tier": "tpu"}, "tier: got 'tpu'; choose one of cpu, gpu, full"),
        ({"direction": "up"}, "direction: got 'up'; choose one of higher, lower"),
        ({"protocol": None}, "needs a protocol"),
        ({"measure": None}, "needs a protocol and a function"),
        ({"protocol": TWO}, "a trained claim needs at least 3 training seeds, got 2"),
        ({"headline": True}, "a headline claim needs at least 5 training seeds, got 3"),
        ({"primary": "lpips"}, "primary: 'lpips' is not among psnr, hf ratio"),
        ({"null": 0.2}, "smallest: expected at least null = 0.2, got 0.1"),
        ({"null": math.nan}, "smallest: expected at least null"),
        ({"shipped_arms": ("other",), "checkpoints": ("x",)}, "shipped_arms: other is not among guided, wide"),
        ({"shipped_arms": ("wide",)}, "name the checkpoints"),
        ({"counted": True, "effect": dict}, "counted: needs an effect, nothing trained"),
        ({"counted": True, "trained": False, "null": 0.05}, "counted: needs an effect"),
        ({"counted": True, "trained": False, "effect": dict}, r"null in \(0, 1\)"),
        ({"rehearsal": {"step": 2}}, "rehearsal: unknown step; known: arms, data, images"),
        ({"rehearsal": {"settings": {"step": 2}}}, "rehearsal: unknown step"),
        ({"protocol": dataclasses.replace(PROTOCOL, arms=("a",))}, "arms: the effect is the first minus"),
        ({"protocol": dataclasses.replace(PROTOCOL, images=("a/1", "a/2")), "trained": False}, "two photographs"),
        ({"protocol": dataclasses.replace(PROTOCOL, seeds=tuple(range(300)))}, "more than 60,000"),
    ],
)
def test_a_wrong_claim_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        toy(**changes)


def test_enough_seeds_are_accepted_where_they_matter():
    five = dataclasses.replace(PROTOCOL, seeds=(0, 1, 2, 3, 4))
    assert toy(headline=True, protocol=five).headline
    assert toy(trained=False, headline=True, protocol=TWO, smallest=0.0).smallest == 0


def test_the_decorator_registers_and_ids_are_unique(registry):
    fields = {f.name: getattr(toy(), f.name) for f in dataclasses.fields(Claim) if f.name != "measure"}
    assert claims.claim(**fields)(measure) is measure
    assert registry["toy.A1"].measure is measure
    assert claims.find_claim("toy.A1").command == "minirestore claims run toy.A1"
    with pytest.raises(ValueError, match="id: toy.A1 is taken; taken ids: toy.A1"):
        claims.register(toy())
    with pytest.raises(ValueError, match=r"unknown claim 'toy.A2'; did you mean toy.A1\? \(known: toy.A1\)"):
        claims.find_claim("toy.A2")


def test_a_rehearsal_changes_fields_and_single_settings():
    rehearsal = toy().rehearsal_protocol()
    assert (rehearsal.seeds, rehearsal.images) == ((0,), PROTOCOL.images[:2])
    assert rehearsal.as_dict()["settings"] == {"steps": 2, "network": {"widths": [8, 16]}}
    assert toy(rehearsal={"settings": {"steps": 3}}).rehearsal_protocol().settings["steps"] == 3
    assert toy(rehearsal={}).rehearsal_protocol() == PROTOCOL


# ---------------------------------------------------------------- verdicts

# t over the differences 1, 2, 3: mean 2, s = 1, t_{.975, 2} = 4.30265, half-width 4.30265 / sqrt(3) = 2.48414
HALF = 2.484138


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    ("null", "smallest", "expected"),
    [
        (-1.0, 2.0, "supported"),  # low = -0.484 > -1, and the estimate just reaches 2
        (-1.0, 2.001, "not resolved"),  # it does not reach 2.001, which the interval holds
        (0.0, 2.0, "not resolved"),  # the interval holds null
        (-0.4841, 2.0, "not resolved"),  # null is just inside
        (-0.4842, 2.0, "supported"),  # and just outside
        (0.0, 4.4841, "not resolved"),  # smallest is just inside: high = 4.48414
        (0.0, 4.4842, "contradicted"),  # and just outside
        (-1.0, 4.4842, "contradicted"),  # above null, but too small to matter
        (-0.5, -0.5, "supported"),  # "does not hurt": null and smallest coincide
        (5.0, 5.0, "contradicted"),
    ],
)
def test_verdicts_by_hand(trained, null, smallest, expected):
    claim = toy(trained=trained, null=null, smallest=smallest)
    keys = PROTOCOL.seeds if trained else PHOTOS
    assessment = assess(claim, rows_with(claim, dict(zip(keys, (1.0, 2.0, 3.0), strict=True))))
    assert assessment.verdict == expected
    assert (assessment.effect, assessment.n_units, assessment.n_seeds) == (pytest.approx(2.0), 3, 3)
    assert (assessment.low, assessment.high) == (pytest.approx(2 - HALF, abs=1e-6), pytest.approx(2 + HALF, abs=1e-6))
    against = smallest if expected == "contradicted" else null
    assert assessment.p == pytest.approx(stats.ttest_1samp([1, 2, 3], against).pvalue)
    assert len(assessment.intervals) == (1 if trained else 2)


@pytest.mark.parametrize(
    ("estimate", "low", "high", "expected"),
    [
        (0.5, 0.0, 1.0, "not resolved"),  # an interval that touches null is not beyond it
        (0.5, 0.001, 1.0, "supported"),
        (0.25, 0.001, 1.0, "supported"),  # reaching smallest is enough
        (0.2, 0.001, 0.25, "not resolved"),  # an interval that touches smallest does not exclude it
        (0.2, 0.001, 0.249, "contradicted"),
        (-1.0, -2.0, -0.5, "contradicted"),
    ],
)
def test_boundaries_of_a_verdict(estimate, low, high, expected):
    assert verdicts.decide(estimate, low, high, null=0.0, smallest=0.25) == expected


@pytest.mark.parametrize("trained", [True, False])
def test_lower_is_the_mirror_image_of_higher(trained):
    keys = PROTOCOL.seeds if trained else PHOTOS
    up, down = toy(trained=trained, null=-1.0), toy(trained=trained, null=-1.0, direction="lower")
    plus = dict(zip(keys, (1.0, 2.0, 2.5), strict=True))
    minus = {key: -value for key, value in plus.items()}
    rising, falling = assess(up, rows_with(up, plus)), assess(down, rows_with(down, minus))
    assert (rising.verdict, falling.verdict) == ("supported", "supported")
    assert rising.p == pytest.approx(falling.p) and rising.p < 0.05
    assert (falling.effect, falling.low, falling.high) == pytest.approx((-rising.effect, -rising.high, -rising.low))
    assert falling.low < falling.effect < falling.high < 1.0  # raw: the sign of the contrast
    wrong_way = assess(down, rows_with(down, plus))  # oriented -1.83 [-3.73, 0.06], above 0.1 in none of it
    assert wrong_way.verdict == "contradicted" and wrong_way.effect > 0
    assert wrong_way.p == pytest.approx(stats.ttest_1samp([-1.0, -2.0, -2.5], 0.1).pvalue)


def test_photographs_need_both_intervals_and_report_the_wider_hull():
    claim = toy(trained=False, smallest=0.0)
    differences = {"astronaut": 0.5, "coffee": 2.0, "rocket": 3.0}  # bootstrap [0.5, 3], t [-1.29, 4.96]
    assessment = assess(claim, rows_with(claim, differences))
    bootstrap, t = assessment.intervals
    assert bootstrap.low > 0 > t.low and bootstrap.n == 3
    assert assessment.verdict == "not resolved"
    assert (assessment.low, assessment.high) == (min(bootstrap.low, t.low), max(bootstrap.high, t.high))


def test_the_seed_is_the_unit_where_something_is_trained():
    values = {(s, arm, i): (s + len(i)) * (arm == "guided") for s, arm, i in PROTOCOL.cells}
    mean = np.mean([len(image) for image in PROTOCOL.images])
    trained, sampled = toy(), toy(trained=False)
    assert verdicts.effects(trained, rows_of(trained, values)) == pytest.approx({s: s + mean for s in (0, 1, 2)})
    by_image = verdicts.effects(sampled, rows_of(sampled, values))
    assert by_image == pytest.approx({image: 1 + len(image) for image in PROTOCOL.images})


def test_a_claim_may_bring_its_own_effect():
    def slope(rows):
        return {seed: float(seed * 2) for seed in {row["seed"] for row in rows}}

    own = toy(effect=slope)
    assert assess(own, rows_of(own)).effect == 2.0
    for wrong in ({0: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}):
        with pytest.raises(ValueError, match="effect: expected the seeds 0, 1, 2, got 0"):
            assess(toy(effect=lambda rows, wrong=wrong: wrong), rows_of(own))
    with pytest.raises(ValueError, match="expected the photographs astronaut, coffee, rocket, got coffee"):
        assess(toy(trained=False, effect=lambda rows: {"coffee/1": 1.0}), rows_of(own))


@pytest.mark.parametrize(("yes", "verdict"), [(5, "not resolved"), (6, "supported"), (0, "contradicted")])
def test_what_is_counted_gets_the_exact_binomial(yes, verdict):
    counted = {image: float(i < yes) for i, image in enumerate(PROTOCOL.images)}
    claim = toy(trained=False, counted=True, null=0.5, smallest=0.75, effect=lambda rows: counted)
    found = assess(claim, rows_of(claim))
    low = stats.beta.ppf(0.025, yes, 7 - yes) if yes else 0
    high = stats.beta.ppf(0.975, yes + 1, 6 - yes) if yes < 6 else 1
    assert (found.effect, found.low, found.high) == pytest.approx((yes / 6, low, high))
    assert found.p == pytest.approx(stats.binomtest(yes, 6, 0.75 if verdict == "contradicted" else 0.5).pvalue)
    assert (found.n_units, found.verdict) == (6, verdict)


def test_a_count_is_one_or_zero():
    claim = toy(trained=False, counted=True, null=0.5, smallest=0.5, effect=lambda rows: dict.fromkeys(PHOTOS, 0.5))
    with pytest.raises(ValueError, match=r"expected 1 \(yes\) or 0 \(no\), got 0.5"):
        assess(claim, rows_of(claim))


def test_a_missing_partner_is_an_error():
    with pytest.raises(ValueError, match="lacks one of guided and wide"):
        assess(toy(), rows_of(toy())[1:])


def test_holm_column_by_hand():
    tested = {"a": (0.01, "supported"), "b": (0.03, "contradicted"), "c": (0.9, "not resolved")}
    assert verdicts.holm_column(tested) == {"a": "yes", "b": "no", "c": "-"}  # 0.03, 0.06, 0.9
    assert verdicts.holm_column({"b": (0.03, "contradicted")}) == {"b": "yes"}
    assert verdicts.holm_column({}) == {}


# ---------------------------------------------------------------- ledger


def write(claim, folder, rows=None):
    return claims.write_results(
        claim, rows or rows_of(claim), device="CPU, 1 thread(s)", wall_time_s=2.5, ledger=folder
    )


def test_results_survive_the_way_to_disk_and_back(registry, tmp_path):
    claim = claims.register(toy())
    rows = rows_of(claim)
    random.Random(0).shuffle(rows)
    path = write(claim, tmp_path, rows)
    results = claims.read_results("toy.A1", tmp_path)
    assert path.read_text().splitlines()[:2] == ["seed,arm,image,psnr,hf ratio", "0,guided,astronaut/0,32,0.333333"]
    keys = [(row["seed"], row["arm"], row["image"]) for row in results.rows]
    assert keys == sorted(PROTOCOL.cells)
    assert results.card["protocol"] == PROTOCOL.as_dict()
    assert results.card["protocol_hash"] == PROTOCOL.hash
    assert (results.card["device"], results.card["wall_time_s"]) == ("CPU, 1 thread(s)", 2.5)
    assert claims.stale_reason(claim, results.card) == ""
    again = path.read_bytes()
    write(claim, tmp_path, rows_of(claim))
    assert path.read_bytes() == again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.A1.csv", "toy.A1.json"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[1:], "seed 0, arm guided, image astronaut/0 is missing"),
        (lambda rows: [*rows, rows[0]], "image astronaut/0 is there twice"),
        (lambda rows: [*rows, {**rows[0], "seed": 9}], "seed 9, .* is not of the protocol"),
        (lambda rows: [{**rows[0], "psnr": math.inf}, *rows[1:]], "psnr of seed 0, .* is not finite"),
    ],
)
def test_an_incomplete_grid_is_not_written(tmp_path, spoil, message):
    with pytest.raises(ValueError, match=f"rows: toy.A1: .*{message}.*nothing was written"):
        write(toy(), tmp_path, spoil(rows_of(toy())))
    assert not list(tmp_path.iterdir())


def change_card(card_path, **changes):
    card_path.write_text(json.dumps({**json.loads(card_path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c, j: c.write_text(c.read_text()[:-3]), "sha256 differs"),
        (lambda c, j: c.write_text(c.read_text()[:-10]), "line of 4 values, expected 5; is it cut off"),
        (lambda c, j: c.write_text(c.read_text()[:200]), "toy.A1.csv has a line|is missing|could not convert"),
        (lambda c, j: c.write_text(c.read_text().rsplit("\n", 2)[0] + "\n"), "seed 2, arm wide, .* is missing"),
        (lambda c, j: c.write_text(""), "has the columns none"),
        (lambda c, j: c.write_text(c.read_text().replace("hf ratio", "ssim", 1)), "has the columns .*ssim; expected"),
        (lambda c, j: c.write_text(c.read_text().replace("32,", "nan,", 1)), "psnr of seed 0, .* is not finite"),
        (lambda c, j: c.write_text(c.read_text().replace("32,", "33,", 1)), "sha256 differs"),
        (lambda c, j: c.unlink(), "toy.A1.csv"),
        (lambda c, j: j.unlink(), "toy.A1.json"),
        (lambda c, j: j.write_text(j.read_text()[:100]), "damaged"),
        (lambda c, j: j.write_text("{}"), "does not hold exactly"),
        (lambda c, j: change_card(j, protocol_hash="0" * 12), "does not have its hash"),
        (lambda c, j: change_card(j, id="toy.A2"), "of another claim"),
    ],
)
def test_damaged_results_are_refused_with_one_clear_error(registry, tmp_path, damage, message):
    csv_path, card_path = ledgers.paths("toy.A1", tmp_path)
    write(claims.register(toy()), tmp_path)
    damage(csv_path, card_path)
    with pytest.raises(ValueError, match=message) as caught:
        claims.read_results("toy.A1", tmp_path)
    assert "the results of toy.A1" in str(caught.value)
    assert str(caught.value).endswith("measure again: minirestore claims run toy.A1")
    with pytest.raises(ValueError, match="damaged"):
        claims.status_rows(ledger=tmp_path)


def test_a_claim_that_was_not_measured_names_the_command(registry, tmp_path):
    claims.register(toy(tier="full"))
    with pytest.raises(FileNotFoundError, match="measure it: minirestore claims run toy.A1 --profile full"):
        claims.read_results("toy.A1", tmp_path)


def test_results_of_another_protocol_are_stale_and_say_what_changed(registry, tmp_path):
    write(toy(), tmp_path)
    settings = {"network": {"widths": [8, 16]}, "steps": 31, "extra": None}
    claim = claims.register(toy(protocol=dataclasses.replace(PROTOCOL, seeds=(0, 1, 3), settings=settings)))
    (row,) = claims.status_rows(ledger=tmp_path)
    assert (row["verdict"], row["effect"], row["ci"]) == ("stale", None, None)
    assert row["reason"] == "the protocol has changed (seeds, extra, steps)"
    assert row["command"] == claim.command


def test_results_of_another_checkpoint_are_stale(registry, shipped, tmp_path):
    claim = claims.register(toy(checkpoints=("toy",), shipped_arms=("wide",)))
    write(claim, None)
    assert claims.status_rows()[0]["verdict"] == "not resolved"
    card = claims.read_results("toy.A1").card
    assert card["checkpoints"] == {"toy": checkpoints.read_card("toy")["sha256"]}
    shipped(2.0)
    assert claims.status_rows()[0]["reason"] == "the checkpoint has changed (toy)"
    checkpoints.checkpoint_path("toy").unlink()
    assert "checkpoint toy: toy.safetensors not found" in claims.status_rows()[0]["reason"]


def test_status_rows_hold_everything(registry, tmp_path):
    wide = {0: 1.0, 1: 1.1, 2: 1.2}
    noisy = {0: -5.0, 1: 1.0, 2: 5.0}
    first = claims.register(toy())
    second = claims.register(toy(id="toy.A2"))
    claims.register(
        Claim(id="toy.A3", paper="toy", where="Figure 2", statement="s", paper_effect="-", not_testable="No.")
    )
    claims.register(toy(id="other.B1", paper="other"))
    write(first, tmp_path, rows_with(first, wide))
    write(second, tmp_path, rows_with(second, noisy))
    rows = claims.status_rows(ledger=tmp_path)
    assert [row["verdict"] for row in rows] == ["supported", "not resolved", "not testable here", "not run"]
    assert [row["holm"] for row in rows] == ["yes", "-", "-", "-"]
    assert rows[0]["effect"] == pytest.approx(1.1)
    assert rows[0]["ci"] == pytest.approx([1.1 - 0.2484138, 1.1 + 0.2484138], abs=1e-6)
    assert (rows[0]["n_seeds"], rows[0]["n_units"], rows[0]["paper_effect"]) == (3, 3, "PSNR 30.0 -> 31.5")
    assert (rows[2]["effect"], rows[2]["reason"], rows[2]["command"]) == (None, "No.", "")
    assert (rows[3]["effect"], rows[3]["command"]) == (None, "minirestore claims run other.B1")
    assert json.loads(json.dumps(rows)) == rows
    assert claims.status_rows("other", tmp_path) == rows[3:]
    with pytest.raises(ValueError, match="paper: got 'thesis'; choose one of toy, other"):
        claims.status_rows("thesis", tmp_path)


def test_holm_counts_the_claims_of_one_paper_only(registry, tmp_path):
    for id, paper in (("toy.A1", "toy"), ("toy.A2", "toy"), ("other.B1", "other")):
        claim = claims.register(toy(id=id, paper=paper))
        write(claim, tmp_path, rows_with(claim, {0: 2.26, 1: 3.26, 2: 4.26}))  # t = 5.65, p = 0.030
    assert {row["id"]: row["holm"] for row in claims.status_rows(ledger=tmp_path)} == {
        "toy.A1": "no",
        "toy.A2": "no",
        "other.B1": "yes",
    }


# ---------------------------------------------------------------- queue


def test_a_claim_runs_into_the_ledger(registry, places):
    claims.register(toy())
    lines = []
    run = claims.run_claim("toy.A1", log=lines.append, **places)
    assert (run.finished, run.jobs_done, run.jobs, len(run.rows)) == (True, 6, 6, 36)
    results = claims.read_results("toy.A1", places["ledger"])
    assert results.rows == run.rows
    assert results.card["device"].startswith("CPU, ")
    assert 0 <= results.card["wall_time_s"] < 5
    assert assess(claims.CLAIMS["toy.A1"], results.rows).effect == pytest.approx(2.0)
    assert lines[0].startswith("toy.A1: 1 of 6, guided seed 0, 0.0 s; about 0.1 minutes left")
    assert lines[5].startswith("toy.A1: 6 of 6, wide seed 2") and "left" not in lines[5]
    assert lines[6] == f"toy.A1: finished, {places['ledger'] / 'toy.A1.csv'}"


def test_a_claim_that_is_up_to_date_is_left_alone(registry, places):
    calls = []
    claims.register(toy(measure=lambda job, images: calls.append(job.arm) or measure(job, images)))
    claims.run_claim("toy.A1", log=str, **places)
    lines = []
    run = claims.run_claim("toy.A1", log=lines.append, **{**places, "runs": places["runs"] / "elsewhere"})
    assert len(calls) == 6 and run.finished
    assert lines == [
        "toy.A1: the results are up to date; to measure them yourself, name a folder for them (--ledger FOLDER)"
    ]
    ledgers.paths("toy.A1", places["ledger"])[0].write_text("damaged")
    assert claims.run_claim("toy.A1", log=str, **places).finished  # from the parts in runs
    assert len(calls) == 6 and claims.read_results("toy.A1", places["ledger"])


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_a_kill_loses_at_most_one_job(registry, places, stop_at):
    calls, plain = [], claims.register(toy())
    claims.run_claim(
        "toy.A1", log=str, **{**places, "ledger": places["ledger"] / "plain", "runs": places["runs"] / "p"}
    )

    def fragile(job, images):
        calls.append((job.arm, job.seed))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return measure(job, images)

    claims.CLAIMS["toy.A1"] = dataclasses.replace(plain, measure=fragile)
    with pytest.raises(KeyboardInterrupt):
        claims.run_claim("toy.A1", log=str, **places)
    assert not places["ledger"].joinpath("toy.A1.csv").exists()
    run = claims.run_claim("toy.A1", log=str, **places)
    assert run.finished and len(calls) == 7
    assert len(set(calls)) == 6 and calls[stop_at - 1] == calls[stop_at]
    uninterrupted = (places["ledger"] / "plain" / "toy.A1.csv").read_bytes()
    assert (places["ledger"] / "toy.A1.csv").read_bytes() == uninterrupted


def test_a_training_cut_short_goes_on_in_its_own_folder(registry, places, monkeypatch):
    def training(job, images):
        state = job.run_dir / "steps.txt"
        done = int(state.read_text()) + 1 if state.exists() else 1
        state.write_text(str(done))
        clock[0] += 10.0  # seconds that each call trains
        if done < 3:
            raise OutOfTime
        return measure(job, images)

    clock = [1000.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: clock[0])
    claims.register(toy(measure=training))
    lines, counts = [], []
    while not counts or counts[-1] < 6:
        counts.append(claims.run_claim("toy.A1", minutes=1, log=lines.append, **places).jobs_done)
    assert counts == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert lines[0] == "toy.A1: stopped after 0 of 6 jobs; give the same command to go on"
    assert claims.read_results("toy.A1", places["ledger"]).card["wall_time_s"] == 6 * 3 * 10
    folders = sorted(path.name for path in (places["runs"] / "toy.A1" / PROTOCOL.hash).iterdir() if path.is_dir())
    assert folders == sorted(f"{i:02d}-{arm}-seed{s}" for i, arm in enumerate(PROTOCOL.arms) for s in PROTOCOL.seeds)


def test_claims_can_share_a_training(registry, places):
    trained = []

    def training(job, images):
        state = job.shared_dir / f"{job.arm}-{job.seed}.txt"
        if not state.exists():
            state.parent.mkdir(exist_ok=True)
            state.write_text("weights")
            trained.append(state)
        return measure(job, images)

    for id in ("toy.A1", "toy.A2"):
        claims.register(toy(id=id, measure=training))
        claims.run_claim(id, log=str, **places)
    assert len(trained) == 6 and {path.parent for path in trained} == {places["runs"] / "shared"}
    claims.run_claim("toy.A2", "quick", log=str, **places)
    assert len(trained) == 8 and not trained[-1].exists()  # a rehearsal shares nothing with the real runs


def test_the_time_box_starts_nothing_when_it_is_over_and_is_told_to_the_job(registry, places):
    boxes = []
    claims.register(toy(measure=lambda job, images: boxes.append(job.minutes_left()) or measure(job, images)))
    assert claims.run_claim("toy.A1", minutes=0, log=str, **places).jobs_done == 0
    assert boxes == []
    claims.run_claim("toy.A1", minutes=2, log=str, **places)
    assert len(boxes) == 6 and all(1.9 < box <= 2 for box in boxes)
    assert Job(toy(), "wide", 0, PROTOCOL, None).minutes_left() is None
    with pytest.raises(ValueError, match="minutes: expected a number from 0, got -1"):
        claims.run_claim("toy.A1", minutes=-1, **places)


def test_the_rehearsal_is_never_kept(registry, places):
    seen, lines = [], []
    claims.register(toy(measure=lambda job, images: seen.append((job.protocol, job.run_dir)) or measure(job, images)))
    run = claims.run_claim("toy.A1", "quick", log=lines.append, **places)
    assert (run.jobs, len(run.rows)) == (2, 4)
    assert seen[0][0].settings["steps"] == 2
    assert not any(path.exists() for path in (places["ledger"], places["runs"], seen[0][1]))
    assert lines[-1] == "toy.A1: rehearsal of 2 of 2 jobs; nothing was written to the ledger"


def test_parts_of_another_protocol_or_checkpoint_are_measured_again(registry, shipped, places):
    calls = []
    claim = claims.register(
        toy(checkpoints=("toy",), measure=lambda job, images: calls.append(job.arm) or measure(job, images))
    )
    claims.run_claim("toy.A1", log=str, **places)
    shipped(2.0)
    assert claims.run_claim("toy.A1", log=str, **places).finished and len(calls) == 12
    assert claims.status_rows(ledger=places["ledger"])[0]["verdict"] != "stale"
    changed = dataclasses.replace(PROTOCOL, settings={**PROTOCOL.settings, "steps": 31})
    claims.CLAIMS["toy.A1"] = dataclasses.replace(claim, protocol=changed)
    assert claims.run_claim("toy.A1", log=str, **places).finished and len(calls) == 18


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda images: {}, "measured 0 images, expected 6; they differ in 'astronaut/0'"),
        (lambda images: {image: {"psnr": 1.0} for image in images}, "got the metrics psnr; expected psnr, hf ratio"),
        (lambda images: {i: {"psnr": math.nan, "hf ratio": 1.0} for i in images}, "psnr is nan; expected a finite"),
    ],
)
def test_a_wrong_measurement_is_refused_and_not_kept(registry, places, returned, message):
    claims.register(toy(measure=lambda job, images: returned(images)))
    with pytest.raises(ValueError, match=f"toy.A1: arm guided, seed 0: .*{message}"):
        claims.run_claim("toy.A1", **places)
    assert not list(places["runs"].rglob("*.json"))


@pytest.mark.parametrize(
    ("changes", "profile", "message"),
    [
        ({}, "full", r"no protocol at paper scale \(its tier is cpu\); use reduced"),
        ({"tier": "full"}, "reduced", "at paper scale only; use full"),
        ({"not_testable": "Needs GoPro."}, "reduced", "toy.A1: not testable here: Needs GoPro."),
        ({}, "huge", "profile: got 'huge'; choose one of quick, reduced, full"),
    ],
)
def test_what_cannot_be_run_is_refused(registry, places, changes, profile, message):
    claims.register(toy(**changes))
    with pytest.raises(ValueError, match=message):
        claims.run_claim("toy.A1", profile, **places)


def test_a_gpu_claim_on_a_cpu_says_what_to_expect(registry, places, tmp_path):
    claims.register(toy(tier="gpu"))
    lines = []
    claims.run_claim("toy.A1", log=lines.append, **places)
    assert lines[0].startswith("toy.A1: 6 jobs, made with a GPU in mind; a CPU takes many times longer.")
    settings = {**PROTOCOL.settings, "steps": 5}
    claims.CLAIMS["toy.A1"] = toy(tier="gpu", protocol=dataclasses.replace(PROTOCOL, settings=settings))
    claims.run_claim("toy.A1", log=lines.append, **places)
    hint = next(line for line in lines[1:] if "jobs, made" in line)
    assert "minutes on CPU, " in hint  # from the card that is there, although it is stale


def test_a_damaged_part_is_named(registry, places):
    claims.register(toy())
    claims.run_claim("toy.A1", log=str, **places)
    ledgers.paths("toy.A1", places["ledger"])[1].unlink()
    part = places["runs"] / "toy.A1" / PROTOCOL.hash / "01-wide-seed1.json"
    part.write_text(part.read_text()[:50])
    with pytest.raises(ValueError, match="01-wide-seed1.json is damaged; delete it"):
        claims.run_claim("toy.A1", log=str, **places)
    part.unlink()
    assert claims.run_claim("toy.A1", log=str, **places).finished


def test_several_claims_share_the_time_box(registry, places, monkeypatch):
    clock = itertools.count(0, 20.0)  # every look at the clock costs 20 s
    claims.register(toy())
    claims.register(toy(id="toy.A2"))
    claims.register(toy(id="toy.A3", not_testable="No."))
    lines = []
    boxes = []
    monkeypatch.setattr(
        queue,
        "run_claim",
        lambda id, profile, left, **options: boxes.append((id, left)) or queue.Run(id, True, 1, 1, ()),
    )
    monkeypatch.setattr(queue.time, "monotonic", lambda: next(clock))
    queue.run_claims([], "toy", minutes=1, log=lines.append)
    assert [(id, round(left, 6)) for id, left in boxes] == [("toy.A1", 0.666667), ("toy.A2", 0.333333)]
    assert lines == ["toy.A3: left out (toy.A3: not testable here: No.)"]
    with pytest.raises(ValueError, match="not testable here"):
        queue.run_claims(["toy.A1", "toy.A3"])


def test_a_claim_that_fails_does_not_keep_the_others_waiting(registry, places):
    def diverging(job, images):
        raise FloatingPointError("loss is not finite at step 7")

    claims.register(toy(measure=diverging))
    claims.register(toy(id="toy.A2"))
    lines = []
    with pytest.raises(RuntimeError, match=r"toy.A1 failed, as said above"):
        claims.run_claims([], "toy", log=lines.append, **places)
    assert lines[0] == "toy.A1: failed (loss is not finite at step 7)"
    assert claims.read_results("toy.A2", places["ledger"])
    with pytest.raises(FloatingPointError):
        claims.run_claims(["toy.A1"], log=str, **places)
    lines.clear()
    with pytest.raises(ValueError, match="device: expected auto"):
        claims.run_claims([], "toy", log=lines.append, **{**places, "device": "gpu"})
    assert lines == []


# ---------------------------------------------------------------- report


def test_the_report_is_a_table_that_long_texts_do_not_break(registry, tmp_path, capsys):
    words = "a long statement that goes on and on " * 20
    claim = claims.register(toy(statement=words, paper_effect=words, direction="lower", contrast=words))
    claims.register(toy(id="toy.A2", statement="Short."))
    write(claim, tmp_path)
    claims.print_report("toy", tmp_path)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 112
    head, first = out.splitlines()[:2]
    assert head.split("  ")[0] == "claim"
    assert first.split() == ["toy.A1", "not", "resolved", "2.000", "[-0.4841,", "4.484]", "dB", "3", "seeds", "-"]
    assert sum("goes on and" in line for line in out.splitlines()) == 3 * 2  # three long texts, two lines each
    assert "run: minirestore claims run toy.A2" in out
    assert "2 claims: 1 not resolved, 1 not run" in out
    claims.print_report("toy", tmp_path)
    assert capsys.readouterr().out == out


def test_the_report_says_what_decides_with_the_sign_of_the_contrast(registry, tmp_path, capsys):
    claims.register(toy(direction="lower", null=-0.1, smallest=0.25))
    claims.register(toy(id="toy.A2", smallest=0.25))
    claims.print_report("toy", tmp_path)
    out = capsys.readouterr().out
    assert "guided - wide: paper's side below 0.1, smallest effect of interest -0.25 dB" in out
    assert "guided - wide: paper's side above 0, smallest effect of interest 0.25 dB" in out


def test_the_forest_places_our_effect_and_the_papers_on_the_papers_side(registry, tmp_path):
    down = claims.register(toy(direction="lower", null=-1.0, smallest=1.0, paper_value=-3.0))
    write(down, tmp_path, rows_with(down, {0: -0.8, 1: -1.0, 2: -1.2}))  # oriented 1 (+-0.497), from null: 2 of 2
    claims.register(toy(id="toy.A2"))
    figure = claims.forest("toy", tmp_path)
    (axes,) = figure.axes
    positions = {line.get_marker(): float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert positions["o"] == pytest.approx(1.0)  # supported
    assert positions["D"] == pytest.approx(2.0)  # the paper's
    assert positions["|"] == pytest.approx(1.0)  # smallest effect of interest
    interval = next(line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2)
    assert list(interval.get_xdata()) == pytest.approx([1 - 0.2484138, 1 + 0.2484138], abs=1e-5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["toy.A1  guided - wide"]
    text = claims.alt_text("toy", tmp_path)
    assert text.startswith(
        "Forest plot of 1 claims of toy: toy.A1 guided - wide -1.000 [-1.497, -0.5032] dB, supported"
    )


def test_a_forest_without_results_is_an_error(registry, tmp_path):
    claims.register(toy())
    with pytest.raises(ValueError, match="no claim of toy has current results"):
        claims.forest("toy", tmp_path)


# ---------------------------------------------------------------- the committed ledger


def recomputed(claim, text):
    """Verdict, effect, interval and p of a claim straight from its CSV, with scipy and an own bootstrap."""
    table = list(csv.DictReader(text.splitlines()))
    for row in table:
        row.update({k: int(v) if k == "seed" else float(v) for k, v in row.items() if k not in ("arm", "image")})
    if claim.effect:
        effect = claim.effect(table)
    else:
        a, b = claim.protocol.arms[:2]
        value = {(row["seed"], row["image"], row["arm"]): row[claim.primary] for row in table}
        pairs = {(s, i): value[s, i, a] - value[s, i, b] for s, i, arm in value if arm == a}
        axis = 0 if claim.trained else 1
        effect = {k: np.mean([d for key, d in pairs.items() if key[axis] == k]) for k in {key[axis] for key in pairs}}
    flip = -1 if claim.direction == "lower" else 1
    groups = {}
    for key, value in sorted(effect.items()):
        unit = key if claim.trained or claim.counted else key.split("/")[0]
        groups.setdefault(unit, []).append(flip * value)
    units = [np.mean(group) for group in groups.values()]
    estimate = np.mean([value for group in groups.values() for value in group])
    low, high = stats.t.interval(0.95, len(units) - 1, np.mean(units), stats.sem(units))
    if not claim.trained:
        sums, sizes = np.array([(sum(g), len(g)) for g in groups.values()]).T
        draws = np.random.default_rng(12345).integers(len(sums), size=(40_000, len(sums)))
        quantiles = np.quantile(sums[draws].sum(1) / sizes[draws].sum(1), [0.025, 0.975])
        low, high = min(low, quantiles[0]), max(high, quantiles[1])
    if claim.counted:
        yes, n = int(sum(units)), len(units)
        low, high = stats.beta.ppf(0.025, yes, n - yes + 1), stats.beta.ppf(0.975, yes + 1, n - yes)
    verdict = "not resolved"
    if low > claim.null and estimate >= claim.smallest:
        verdict = "supported"
    elif high < claim.smallest:
        verdict = "contradicted"
    against = claim.smallest if verdict == "contradicted" else claim.null
    if claim.counted:
        chances = stats.binom.pmf(range(n + 1), n, against)
        p = chances[chances <= chances[yes] * (1 + 1e-7)].sum()
    else:
        p = stats.ttest_1samp(units, against).pvalue
    return verdict, flip * estimate, sorted((flip * low, flip * high)), p


def check_ledger(folder):
    """Compare every verdict with `recomputed`; sizes; nothing unknown. Raises AssertionError, returns the ids."""
    rows = {row["id"]: row for row in claims.status_rows(ledger=folder)}
    files = sorted(path.name for path in folder.glob("*"))
    ids = sorted({name.rsplit(".", 1)[0] for name in files})
    assert files == sorted(f"{id}.{ending}" for id in ids for ending in ("csv", "json"))
    assert set(ids) <= set(rows), "results of a claim that does not exist"
    adjusted = {}
    for id in ids:
        claim, row = claims.CLAIMS[id], rows[id]
        assert (folder / f"{id}.csv").stat().st_size <= 60_000
        card = json.loads((folder / f"{id}.json").read_text())
        now = {name: checkpoints.read_card(name)["sha256"] for name in claim.checkpoints}
        if card["protocol_hash"] != claim.protocol.hash or card["checkpoints"] != now:
            assert row["verdict"] == "stale"
            continue
        verdict, effect, interval, p = recomputed(claim, (folder / f"{id}.csv").read_text())
        assert row["effect"] == pytest.approx(effect, rel=1e-9)
        assert row["ci"] == pytest.approx(interval, abs=0.02 * (interval[1] - interval[0]) + 1e-12)
        assert row["verdict"] == verdict, id
        assert row["p"] == pytest.approx(p, rel=1e-6, abs=1e-12)
        adjusted.setdefault(claim.paper, []).append((p, id, verdict))
    for tested in adjusted.values():
        highest = 0.0
        for rank, (p, id, verdict) in enumerate(sorted(tested)):
            highest = max(highest, p * (len(tested) - rank))
            expected = "-" if verdict == "not resolved" else "yes" if highest <= 0.05 else "no"
            assert rows[id]["holm"] == expected, id
    return ids


def draw_cell(claim):
    """One (arm, seed, image) of the arms from shipped checkpoints, the same one every time."""
    chance = random.Random(claim.id)
    protocol = claim.protocol
    return chance.choice(claim.shipped_arms), chance.choice(protocol.seeds), chance.choice(protocol.images)


def check_cell(claim, results, run_dir):
    """Measure one cell again and compare it with the ledger."""
    arm, seed, image = draw_cell(claim)
    job = Job(claim, arm, seed, claim.protocol, run_dir / claim.id / claim.protocol.hash / "job")
    measured = claim.measure(job, [image])[image]
    (row,) = [row for row in results.rows if (row["arm"], row["seed"], row["image"]) == (arm, seed, image)]
    assert measured == pytest.approx({m: row[m] for m in claim.protocol.metrics}, rel=1e-3, abs=1e-3), (
        arm,
        seed,
        image,
    )


LEDGER = config.data_root() / "ledger"
MEASURED = sorted(path.name.removesuffix(".csv") for path in LEDGER.glob("*.csv"))


@pytest.mark.skipif(not MEASURED, reason="the ledger is empty")
def test_every_verdict_of_the_ledger_follows_from_its_numbers():
    assert check_ledger(LEDGER) == MEASURED


@pytest.mark.parametrize("id", MEASURED)
def test_a_cell_of_the_ledger_can_be_measured_again(id, tmp_path):
    claim = claims.find_claim(id)
    results = claims.read_results(id)
    if claim.shipped_arms and not claims.stale_reason(claim, results.card):
        check_cell(claim, results, tmp_path)


def fill_toy_ledger(folder):
    """Three claims of each kind; returns the claims."""
    three = [
        claims.register(toy(smallest=0.5)),
        claims.register(toy(id="toy.A2", trained=False, direction="lower")),
        claims.register(toy(id="toy.A3", effect=lambda rows: {row["seed"]: -1.0 - row["seed"] / 9 for row in rows})),
    ]
    for claim, offsets in zip(three, ((1.0, 1.2, 1.4), (-2.0, -2.1, -1.8), (0, 0, 0)), strict=True):
        keys = PROTOCOL.seeds if claim.trained else PHOTOS
        write(claim, folder, rows_with(claim, dict(zip(keys, offsets, strict=True))))
    return three


def test_the_check_of_the_ledger_can_fail(registry, tmp_path, monkeypatch):
    fill_toy_ledger(tmp_path)
    assert check_ledger(tmp_path) == ["toy.A1", "toy.A2", "toy.A3"]
    said = {row["id"]: row["verdict"] for row in claims.status_rows(ledger=tmp_path)}
    assert said == {"toy.A1": "supported", "toy.A2": "supported", "toy.A3": "contradicted"}
    for name, value in (("SUPPORTED", "proven"), ("ALPHA", 1e-9), ("CONTRADICTED", "refuted")):
        with monkeypatch.context() as patch:
            patch.setattr(verdicts, name, value)
            with pytest.raises(AssertionError):
                check_ledger(tmp_path)
    claims.CLAIMS["toy.A1"] = toy(smallest=0.5, direction="lower")
    assert check_ledger(tmp_path)
    del claims.CLAIMS["toy.A1"]
    with pytest.raises(AssertionError, match="does not exist"):
        check_ledger(tmp_path)


def test_the_check_of_a_cell_can_fail(registry, shipped, tmp_path):
    claim = toy(checkpoints=("toy",), shipped_arms=("guided",))
    claims.register(claim)
    write(claim, tmp_path / "ledger")
    results = claims.read_results("toy.A1", tmp_path / "ledger")
    check_cell(claim, results, tmp_path)
    arm, _, image = draw_cell(claim)
    assert arm == "guided" and image in PROTOCOL.images

    def drifted(job, images):
        return {i: {**values, "hf ratio": 0.335} for i, values in measure(job, images).items()}

    with pytest.raises(AssertionError):
        check_cell(dataclasses.replace(claim, measure=drifted), results, tmp_path)
