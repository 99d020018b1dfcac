"""The commands on claims: list, run, report."""

import dataclasses
import json

import pytest
from PIL import Image

from minirestore import claims, cli
from minirestore.claims import Protocol, definitions

PROTOCOL = Protocol(
    data=("none",), images=("a", "b", "c"), arms=("ours", "theirs"), seeds=(0, 1, 2), metrics=("psnr",), settings={}
)


def measure(job, images):
    """The first arm wins by 1 dB and a little more with every seed."""
    return {image: {"psnr": 20.0 + (job.arm == "ours") * (1 + job.seed / 10)} for image in images}


@pytest.fixture(autouse=True)
def toy_claims(monkeypatch, tmp_path):
    """Three toy claims in place of the papers'; ledger and runs go to a temporary folder."""
    monkeypatch.setattr(definitions, "PAPERS", ())
    monkeypatch.setenv("MINIRESTORE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    kept = dict(claims.CLAIMS)
    claims.CLAIMS.clear()
    fields = {
        "paper": "toy",
        "where": "Table 1",
        "statement": "Ours is better than theirs on every photograph, in every light and in every season. " * 3,
        "paper_effect": "+1.5 dB",
        "paper_value": 1.5,
        "protocol": PROTOCOL,
        "rehearsal": {"seeds": (0,)},
        "primary": "psnr",
        "contrast": "ours - theirs",
        "unit": "dB",
        "smallest": 0.5,
        "trained": True,
    }
    claims.claim(id="toy.A1", **fields)(measure)
    claims.claim(id="toy.A2", **fields)(measure)
    claims.register(definitions.Claim(**{**fields, "id": "toy.A3", "not_testable": "Needs 61 people."}))
    yield
    claims.CLAIMS.clear()
    claims.CLAIMS.update(kept)


def run(capsys, *words):
    code = cli.main(["claims", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def listed(capsys, *words):
    code, out, _ = run(capsys, "list", "--json", *words)
    assert code == 0
    return {row["id"]: row for row in json.loads(out)}


def test_list_run_list_report(capsys, tmp_path):
    before = listed(capsys)
    fields = {
        "id",
        "paper",
        "tier",
        "verdict",
        "effect",
        "ci",
        "n_seeds",
        "paper_effect",
        "statement",
        "holm",
        "command",
    }
    assert all(fields <= set(row) for row in before.values())
    assert (before["toy.A1"]["verdict"], before["toy.A1"]["effect"], before["toy.A1"]["ci"]) == ("not run", None, None)
    assert before["toy.A3"]["verdict"] == "not testable here"
    code, out, _ = run(capsys, *before["toy.A1"]["command"].split()[2:], "--device", "cpu")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 7 and lines[5].startswith("toy.A1: 6 of 6, theirs seed 2")
    assert (tmp_path / "runs" / "claims" / "toy.A1").is_dir()
    after = listed(capsys)
    assert after["toy.A1"]["verdict"] == "supported"
    assert after["toy.A1"]["effect"] == pytest.approx(1.1)
    assert after["toy.A1"]["ci"] == pytest.approx([1.1 - 0.248414, 1.1 + 0.248414], abs=1e-5)
    assert (after["toy.A1"]["n_seeds"], after["toy.A1"]["holm"]) == (3, "yes")
    assert after["toy.A2"] == before["toy.A2"]
    code, out, _ = run(capsys, "report", "--paper", "toy", "--output", "forest.png")
    assert code == 0
    assert "toy.A1  supported          1.100 [0.8516, 1.348] dB  3 seeds  yes" in out
    assert out.endswith("forest plot: forest.png\n")
    with Image.open(tmp_path / "forest.png") as picture:
        assert picture.format == "PNG" and picture.width > 600


def test_the_list_is_a_table(capsys):
    code, out, _ = run(capsys, "list", "--paper", "toy")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["claim", "tier", "verdict", "effect", "[95", "%", "interval]", "Holm", "statement"]
    assert max(map(len, lines)) <= 112 and lines[1].endswith(" ...")
    assert lines[3].split()[:5] == ["toy.A3", "-", "not", "testable", "here"]


def test_a_paper_runs_as_a_whole_without_what_cannot_be_tested(capsys):
    code, out, _ = run(capsys, "run", "--paper", "toy", "--device", "cpu")
    assert code == 0
    assert "toy.A3: left out (toy.A3: not testable here: Needs 61 people.)" in out
    assert [row["verdict"] for row in listed(capsys).values()] == ["supported", "supported", "not testable here"]


def test_a_rehearsal_and_a_time_box_leave_the_ledger_alone(capsys, tmp_path):
    code, out, _ = run(capsys, "run", "toy.A1", "toy.A2", "--profile", "quick", "--device", "cpu")
    assert code == 0 and out.count("nothing was written to the ledger") == 2
    code, out, _ = run(capsys, "run", "toy.A1", "--minutes", 0, "--device", "cpu")
    assert (code, out) == (0, "toy.A1: stopped after 0 of 6 jobs; give the same command to go on\n")
    assert not (tmp_path / "ledger").exists()


def test_a_ledger_of_ones_own(capsys, tmp_path):
    assert run(capsys, "run", "toy.A2", "--ledger", "mine", "--device", "cpu")[0] == 0
    assert listed(capsys)["toy.A2"]["verdict"] == "not run"
    assert listed(capsys, "--ledger", "mine")["toy.A2"]["verdict"] == "supported"
    assert "toy.A2  supported" in run(capsys, "report", "--ledger", "mine")[1]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["toy.A2.csv", "toy.A2.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "toy.A9"], "unknown claim 'toy.A9'; did you mean toy.A"),
        (["run", "toy.A3"], "toy.A3: not testable here: Needs 61 people."),
        (["run", "toy.A1", "toy.A3"], "toy.A3: not testable here"),
        (["run"], "name the claims, such as sg.A7, or all of a paper with --paper"),
        (["run", "toy.A1", "--paper", "toy"], "not both"),
        (["run", "--paper", "thesis"], "paper: got 'thesis'; choose one of toy"),
        (["run", "toy.A1", "--profile", "full"], "no protocol at paper scale"),
        (["run", "toy.A1", "--minutes", "-1"], "minutes: expected a number from 0, got -1.0"),
        (["run", "toy.A1", "--device", "abacus"], "device: expected auto, cpu, cuda"),
        (["list", "--paper", "thesis"], "paper: got 'thesis'"),
        (["report", "--output", "x.jpg"], "--output: expected a name that ends in .png"),
        (["report", "--output", "x"], "has no ending"),
        (["report", "--output", "x.png"], "no claim of any paper has current results"),
        ([], "required: COMMAND"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, tmp_path, words, message):
    try:
        code = cli.main(["claims", *words])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_raises_is_one_line_and_goes_on_afterwards(capsys, monkeypatch):
    calls = []

    def failing(job, images):
        calls.append(job.seed)
        if len(calls) == 3:
            raise FloatingPointError("loss is not finite at step 7")
        return measure(job, images)

    monkeypatch.setitem(claims.CLAIMS, "toy.A1", dataclasses.replace(claims.CLAIMS["toy.A1"], measure=failing))
    code, out, err = run(capsys, "run", "toy.A1", "--device", "cpu")
    assert (code, len(out.splitlines())) == (2, 2)
    assert err == "minirestore: error: loss is not finite at step 7\n"
    code, out, _ = run(capsys, "run", "toy.A1", "--device", "cpu")
    assert code == 0 and out.splitlines()[0].startswith("toy.A1: 3 of 6") and len(calls) == 7


def test_damaged_results_are_one_line(capsys, tmp_path):
    run(capsys, "run", "toy.A1", "--device", "cpu")
    path = tmp_path / "ledger" / "toy.A1.csv"
    path.write_text(path.read_text()[:60])
    code, out, err = run(capsys, "list")
    assert (code, out) == (2, "")
    assert "the results of toy.A1" in err and "measure again: minirestore claims run toy.A1" in err
