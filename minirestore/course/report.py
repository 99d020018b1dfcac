"""Run the whole course and write an index of every figure."""

import base64
import html
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from minirestore import plots
from minirestore.course.build import figure_texts
from minirestore.course.run import Outcome, run
from minirestore.course.sources import Lesson

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; }
"""


def run_course(
    lessons: Sequence[Lesson], folder: Path, *, jobs: int = 2, log: Callable[[str], None] = print
) -> list[Outcome]:
    """Run ``lessons`` at profile quick, ``jobs`` side by side, and write notebooks and ``index.html`` into ``folder``.

    ``log`` gets a line when a notebook ends. The outcomes come back in the order of the lessons.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    folder.mkdir(parents=True, exist_ok=True)

    def one(lesson: Lesson) -> Outcome:
        outcome = run(lesson, folder, log=log)
        log(f"{outcome.name}: {outcome.status} after {outcome.seconds:.1f} s")
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(one, lessons))
    (folder / "index.html").write_text(index(outcomes), encoding="utf-8")
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Notebook, seconds and status, one line each; the reason of a failure stands behind its status."""
    width = max([len(outcome.name) for outcome in outcomes] + [8])
    lines = [f"{'notebook':<{width}}  {'seconds':>7}  status"]
    for outcome in outcomes:
        reason = "" if outcome.status == "ok" else f"  {outcome.message}"
        lines.append(f"{outcome.name:<{width}}  {outcome.seconds:7.1f}  {outcome.status}{reason}")
    return "\n".join(lines)


def index(outcomes: Sequence[Outcome]) -> str:
    """One self-contained page: the table, then every figure of every notebook with its text alternative."""
    rows = "".join(
        f'<tr><td><a href="#{outcome.name}">{outcome.name}</a></td><td>{outcome.seconds:.1f}</td>'
        f"<td>{outcome.status} {html.escape('' if outcome.status == 'ok' else outcome.message)}</td></tr>"
        for outcome in outcomes
    )
    sections = "".join(_section(outcome) for outcome in outcomes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The course</title>'
        f"<style>{STYLE}</style></head>"
        f"<body><h1>The course</h1><table><tr><th>notebook</th><th>seconds</th><th>status</th></tr>{rows}</table>"
        f"{sections}</body></html>\n"
    )


def _section(outcome: Outcome) -> str:
    """Heading with a link to the executed notebook, and its figures."""
    figures = []
    if outcome.output.is_file():
        for cell in nbformat.read(outcome.output, as_version=4).cells:
            pictures = [
                output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
            ]
            figures += [_figure(png, text) for png, text in zip(pictures, figure_texts(cell), strict=True)]
    link = f'<a href="{html.escape(outcome.output.name)}">{outcome.name}</a>'
    return f'<h2 id="{outcome.name}">{link}</h2>{"".join(figures)}'


def _figure(png: str, text: str) -> str:
    alt = html.escape(text.removeprefix(plots.FIGURE_PREFIX))
    data = base64.b64encode(base64.b64decode(png)).decode()
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{alt}</figcaption></figure>'
