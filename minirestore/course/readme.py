"""The parts of README.md that follow from elsewhere: badges, course map and picture."""

import base64
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat

from minirestore.checkpoints import write_atomically
from minirestore.course.sources import Lesson, tags

PICTURE = Path("docs") / "readme.png"


def repository_url(root: Path) -> str:
    """The address of the repository, from ``[project.urls]`` in pyproject.toml, its only place."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"].rstrip("/")


def colab(url: str, lesson: Lesson) -> str:
    """Address that opens a notebook of a GitHub repository in Colab."""
    return f"https://colab.research.google.com/github/{_slug(url)}/blob/main/notebooks/{lesson.name}.ipynb"


def binder(url: str, lesson: Lesson) -> str:
    """Address that opens a notebook of a GitHub repository in Binder, which reads environment.yml."""
    return f"https://mybinder.org/v2/gh/{_slug(url)}/main?labpath=notebooks/{lesson.name}.ipynb"


def _slug(url: str) -> str:
    owner, name = url.split("/")[-2:]
    return f"{owner}/{name}"


def badges(url: str, lesson: Lesson) -> str:
    """Both badges, opening ``lesson``."""
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab(url, lesson)})\n"
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder(url, lesson)})"
    )


def course_map(url: str, lessons: Sequence[Lesson]) -> str:
    """A table of the notebooks: title, what the reader will be able to do, and where to open it."""
    rows = ["| notebook | you will be able to | open |", "|---|---|---|"]
    for lesson in lessons:
        text = nbformat.read(lesson.notebook, as_version=4).cells[0].source
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        aims = re.findall(r"^- (.+?)[;.]$", text, re.MULTILINE)
        link = f"[{title[1]}](notebooks/{lesson.name}.ipynb)"
        rows.append(
            f"| {link} | {'; '.join(aims[:2])} | [Colab]({colab(url, lesson)}) [Binder]({binder(url, lesson)}) |"
        )
    return "\n".join(rows)


def picture(lesson: Lesson) -> bytes:
    """PNG bytes of the figure under the cell tagged ``readme`` of a built notebook.

    Raises:
        ValueError: the notebook has no such figure.
    """
    for cell in nbformat.read(lesson.notebook, as_version=4).cells:
        for output in cell.get("outputs", ()) if "readme" in tags(cell) else ():
            if png := output.get("data", {}).get("image/png"):
                return base64.b64decode(png)
    raise ValueError(f"{lesson.name}: no figure under a cell tagged readme; tag one and build the notebook")


def render(text: str, root: Path, lessons: Sequence[Lesson]) -> str:
    """``text`` with what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` made anew.

    Raises:
        ValueError: a pair of marks is missing.
    """
    url = repository_url(root)
    blocks = {"badges": badges(url, lessons[0]), "course map": course_map(url, lessons)}
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n)(?:.*?\n)??(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)
        if count != 1:
            raise ValueError(f"README.md: expected one pair of marks <!-- {name} --> and <!-- /{name} -->, got {count}")
    return text


def write(root: Path, lessons: Sequence[Lesson]) -> None:
    """Bring README.md and its picture up to date with the built notebooks."""
    readme = root / "README.md"
    text, png = render(readme.read_text(), root, lessons), picture(lessons[0])
    write_atomically(readme, text.encode())
    write_atomically(root / PICTURE, png)
