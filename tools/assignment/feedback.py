"""A page of feedback for a student, and a summary in Markdown, both from results.json alone."""

from __future__ import annotations

from html import escape

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; margin-bottom: 0; } .score { font-size: 1.2rem; margin-top: .3rem; }
section { border-left: 4px solid #8a8a8a; padding: .1rem 0 .1rem .9rem; margin: 1rem 0; }
section.passed { border-color: #1b7837; } section.failed { border-color: #b2182b; }
h2 { font-size: 1rem; margin: 0; display: flex; justify-content: space-between; gap: 1rem; }
pre { white-space: pre-wrap; margin: .3rem 0 0; font: 14px/1.45 ui-monospace, monospace; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #e6e6e6; } }
"""


def marks(test: dict) -> str:
    """ "3 / 5", or that it was not graded."""
    if "score" not in test:
        return "not graded"
    if not test.get("max_score"):
        return f"{test['score']:g} (bonus)"
    return f"{test['score']:g} / {test['max_score']:g}"


def word(test: dict) -> str:
    return test.get("status", "not graded")


def page(data: dict, title: str, who: str) -> str:
    """HTML, complete in itself."""
    points = data.get("extra_data", {}).get("points", 0)
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: {escape(who)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="score">{escape(who)}: <strong>{data.get("score", 0):g}</strong> of {points:g} points</p>',
    ]
    if data.get("output"):
        parts.append(f"<pre>{escape(data['output'])}</pre>")
    for test in data["tests"]:
        head = f"<span>{escape(test['number'])} {escape(test['name'])}: {word(test)}</span><span>{marks(test)}</span>"
        parts.append(f'<section class="{test.get("status", "none")}"><h2>{head}</h2>')
        parts.append(f"<pre>{escape(test.get('output', ''))}</pre></section>")
    return "\n".join([*parts, "</body></html>", ""])


def summary(data: dict) -> str:
    """Markdown: a table, and what the failed tests say."""
    points = data.get("extra_data", {}).get("points", 0)
    lines = [f"**{data.get('score', 0):g} of {points:g} points**", ""]
    if data.get("output"):
        lines += [data["output"], ""]
    lines += ["| test | | points |", "| --- | --- | ---: |"]
    for test in data["tests"]:
        lines.append(f"| {test['number']} {test['name']} | {word(test)} | {marks(test)} |")
    for test in data["tests"]:
        if test.get("status") == "failed":
            lines += ["", f"{test['number']} {test['name']}", "", "```", test.get("output", ""), "```"]
    return "\n".join(lines) + "\n"
