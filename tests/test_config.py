"""Settings are refused unless their name and type are right; folders are found in the documented order."""

import dataclasses

import pytest

from minirestore import config


@dataclasses.dataclass(frozen=True)
class Example:
    steps: int = 4
    eta: float = 0.5
    clip: bool = True
    name: str = "ddim"
    widths: tuple[int, ...] = (1, 2)
    limit: int | None = None
    span: tuple[float, float] = (0.0, 3.0)
    extra: tuple = ()
    factors: tuple[float, ...] = (1.0,)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("steps", "12", 12),
        ("eta", "1", 1.0),
        ("eta", "2.5e-1", 0.25),
        ("clip", "false", False),
        ("name", "3", "3"),
        ("widths", "[3, 4]", (3, 4)),
        ("widths", "(3,)", (3,)),
        ("widths", "3, 4, 5", (3, 4, 5)),
        ("span", "(1, 2.5)", (1.0, 2.5)),
        ("extra", "[1, 'a']", (1, "a")),
        ("factors", "2", (2.0,)),
        ("factors", "2, .5", (2.0, 0.5)),
        ("limit", "7", 7),
        ("limit", "None", None),
    ],
)
def test_override_converts_texts(name, text, expected):
    value = getattr(config.override(Example(), {name: text}), name)
    assert value == expected
    assert repr(value) == repr(expected)  # the elements of a tuple too: 1 is not 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "2.5"),
        ("steps", "many"),
        ("steps", True),
        ("eta", "high"),
        ("clip", "1"),
        ("widths", "3"),
        ("name", 3),
        ("span", 3.0),
    ],
)
def test_override_refuses_wrong_types(name, value):
    with pytest.raises(TypeError, match=f"{name}: expected"):
        config.override(Example(), {name: value})


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("widths", ("a", 3), TypeError, r"widths\[0\]: expected int \(as in 1\), got 'a'"),
        ("widths", "(8, 2.5)", TypeError, r"widths\[1\]: expected int"),
        ("widths", (8, 16, True), TypeError, r"widths\[2\]: expected int"),
        ("widths", "[]", ValueError, r"widths: expected at least one element"),
        ("span", ("low", 1.0), TypeError, r"span\[0\]: expected float"),
        ("span", (1.0,), ValueError, r"span: expected two numbers \(as in \(0.0, 3.0\)\), got \(1.0,\)"),
        ("span", "[1, 2, 3]", ValueError, "span: expected two numbers"),
    ],
)
def test_override_checks_the_elements_of_tuples(name, value, error, message):
    with pytest.raises(error, match=message):
        config.override(Example(), {name: value})


def test_unknown_names_are_refused_with_the_right_ones():
    known = "steps, eta, clip, name, widths, limit, span, extra, factors"
    with pytest.raises(ValueError, match=rf"'step'; did you mean steps\? \(known: {known}\)"):
        config.override(Example(), {"step": 3})


def test_override_wants_an_instance_and_leaves_it_alone():
    with pytest.raises(TypeError, match="dataclass instance"):
        config.override(Example, {})
    original = Example()
    config.override(original, {"steps": 9})
    assert original == Example()


@pytest.mark.parametrize("setting", ["steps", "=3", "a b=1", ""])
def test_settings_need_a_name_and_a_value(setting):
    with pytest.raises(ValueError, match="expected key=value"):
        config.parse_settings([setting])


def test_settings_keep_later_equal_signs_and_refuse_repetition():
    assert config.parse_settings(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(ValueError, match="a is given twice"):
        config.parse_settings(["a=1", "a=2"])


def test_profiles():
    assert [config.check_profile(name) for name in config.PROFILES] == ["quick", "reduced", "full"]
    with pytest.raises(ValueError, match="'fast'; choose one of quick, reduced, full"):
        config.check_profile("fast")


def test_data_root_prefers_the_environment_then_the_clone_then_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRESTORE_DATA", str(tmp_path))
    assert config.data_root() == tmp_path
    monkeypatch.setenv("MINIRESTORE_DATA", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="MINIRESTORE_DATA"):
        config.data_root()
    monkeypatch.delenv("MINIRESTORE_DATA")
    assert config.data_root() == config.repository_root() / "data"
    monkeypatch.setattr(config, "repository_root", lambda: None)
    assert config.data_root().name == "shipped_data"


def test_an_installed_package_finds_the_clone_it_is_used_in(tmp_path, monkeypatch):
    (tmp_path / "site" / "minirestore").mkdir(parents=True)
    monkeypatch.setattr(config, "__file__", str(tmp_path / "site" / "minirestore" / "config.py"))
    monkeypatch.chdir(tmp_path)
    assert config.repository_root() is None
    clone = tmp_path / "clone"
    (clone / "notebooks" / "src").mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    monkeypatch.chdir(clone / "notebooks")
    assert config.repository_root() == clone
