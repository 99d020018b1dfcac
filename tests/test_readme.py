"""README.md: what it says follows from the project, and its commands exist."""

import re
from pathlib import Path

import pytest

from minirestore import cli
from minirestore.course import readme, sources

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_badges_and_course_map_are_up_to_date():
    assert readme.render(TEXT, ROOT, sources.lessons()) == TEXT


def test_the_repository_is_named_in_one_place():
    url = readme.repository_url(ROOT)
    slug = "/".join(url.split("/")[-2:])
    for path in [*ROOT.glob("*.*"), *ROOT.glob("minirestore/**/*.py"), *ROOT.glob("notebooks/src/*.py")]:
        if path.is_file() and path.name not in ("pyproject.toml", "README.md") and path.suffix != ".lock":
            assert slug not in path.read_text(errors="ignore"), path.name


def test_every_notebook_is_in_the_map_and_opens_in_both_places():
    for lesson in sources.lessons():
        assert f"notebooks/{lesson.name}.ipynb)" in TEXT
        assert readme.colab(readme.repository_url(ROOT), lesson) in TEXT
        assert readme.binder(readme.repository_url(ROOT), lesson) in TEXT


def test_links_to_files_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) >= 8
    for link in links:
        assert (ROOT / link).exists(), link


def test_commands_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^ *make (\w+)", TEXT, re.MULTILINE)
    assert {"course", "test", "lab"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    lines = re.findall(r"minirestore ((?:run|course|restore|methods|train|params)\b[^\n`#]*)", TEXT)
    assert len(lines) >= 3
    for line in lines:
        cli.build_parser().parse_args(line.split())


def test_writing_brings_text_and_picture_up_to_date(tmp_path):
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    stale = re.sub(r"(<!-- course map -->\n).*?(\n<!-- /course map -->)", r"\1stale\2", TEXT, flags=re.DOTALL)
    assert stale != TEXT
    (tmp_path / "README.md").write_text(stale)
    readme.write(tmp_path, sources.lessons())
    assert (tmp_path / "README.md").read_text() == TEXT
    assert (tmp_path / readme.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / readme.PICTURE).is_file()


def test_a_missing_mark_is_an_error():
    with pytest.raises(ValueError, match="course map"):
        readme.render(TEXT.replace("<!-- /course map -->", ""), ROOT, sources.lessons())
