"""A page of feedback for a student, and a summary in Markdown, both from results.json alone."""

from __future__ import annotations

import re
from html import escape

# Prose in the reader's own type, code alone monospaced. What a colour says, a sign and a word say too.
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #666; --line: #bbb; --box: #f3f5f8;
  --good: #0b6fb3; --bad: #b45309; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --faint: #a5a5a5; --line: #555;
  --box: #22262b; --good: #6db7ec; --bad: #f0a04b; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; } h2 { font-size: 1.1rem; margin: 0 0 .4rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; } .faint { color: var(--faint); font-size: .9rem; }
.score { font-size: 1.2rem; margin: .3rem 0; }
.first { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .9rem 1.1rem;
  margin: 1.2rem 0; }
.first ol { margin: .3rem 0 0; padding-left: 1.4rem; } .first li { margin: .4rem 0; }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .875em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--box); padding: .5rem .7rem; margin: .4rem 0;
  border-radius: 4px; line-height: 1.4; }
details { border-left: 4px solid var(--line); padding: .15rem 0 .15rem .9rem; margin: .7rem 0; break-inside: avoid; }
details.passed { border-left-style: double; border-color: var(--good); } details.failed { border-color: var(--bad); }
summary { cursor: pointer; display: flex; gap: .6rem; align-items: baseline; }
summary::-webkit-details-marker { display: none; }
summary::before { content: "▸"; color: var(--faint); } details[open] > summary::before { content: "▾"; }
summary .sign { flex: none; width: 1.1em; font-weight: 700; } .passed .sign { color: var(--good); }
.failed .sign { color: var(--bad); } summary .name { flex: 1; } summary .marks { flex: none; text-align: right; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } summary::before { content: none; }
  details::details-content { content-visibility: visible; block-size: auto; } pre, .first { border: 1px solid #999; } }
"""
SIGNS = {"passed": "✓", "failed": "✗"}
# What becomes of a failed test whose result nobody has looked at.
NOT_COUNTED = ("refused", "missing")
MOST_CAUSES = 6
WHOLE = "0 points, because of the file as a whole: "  # how a test begins that has no more to say than the whole has


def marks(test: dict) -> str:
    """ "3 / 5", or that it was not graded."""
    if "score" not in test:
        return word(test)
    if not test.get("max_score"):
        return f"{test['score']:g} (bonus)"
    return f"{test['score']:g} / {test['max_score']:g}"


def word(test: dict) -> str:
    status = test.get("extra_data", {}).get("status", "")
    if "status" not in test:
        return status or "not graded"
    return "not counted" if status in NOT_COUNTED or by_reference(test) else test["status"]


def by_reference(test: dict) -> bool:
    """Whether the test says no more than that its file as a whole is no good."""
    return test.get("output", "").startswith(WHOLE)


def lost(data: dict) -> list[tuple[str, float, list[str]]]:
    """(cause, points, tests) of what was lost, the dearest first. A test that several may explain counts for the one
    that explains the most."""
    left = {}
    for test in data["tests"]:
        points = test.get("max_score", 0) - test.get("score", 0)
        causes = test.get("extra_data", {}).get("causes") or []
        if points > 0 and causes:
            left[test["number"]] = (points, causes)
    found = []
    while left:
        totals: dict[str, float] = {}
        for points, causes in left.values():
            for cause in causes:
                totals[cause] = totals.get(cause, 0) + points
        cause = max(totals, key=totals.__getitem__)
        numbers = [number for number, (_, causes) in left.items() if cause in causes]
        found.append((cause, sum(left.pop(number)[0] for number in numbers), numbers))
    return sorted(found, key=lambda one: -one[1])


def origin(data: dict) -> str:
    """When it was graded and by what, or ""."""
    about = data.get("extra_data", {})
    if not about.get("graded"):
        return ""
    return f"Graded {about['graded']}, {about.get('assignment', '')} build {about.get('build', '')}"


def page(data: dict, title: str, who: str) -> str:
    """HTML, complete in itself, without a script."""
    points = data.get("extra_data", {}).get("points", 0)
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: {escape(who)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="score">{escape(who)}: <strong>{data.get("score", 0):g}</strong> of {points:g} points</p>',
    ]
    if origin(data):
        parts.append(f'<p class="faint">{escape(origin(data))}</p>')
    parts += _first(data)
    for test in data["tests"]:
        status = test.get("status", "none")
        name = f"{escape(test['number'])} {_inline(test['name'])}: {word(test)}"
        shut = status == "passed" or by_reference(test)
        parts.append(f'<details class="{status}"{"" if shut else " open"}><summary>')
        parts.append(f'<span class="sign" aria-hidden="true">{SIGNS.get(status, "–")}</span>')
        parts.append(f'<span class="name">{name}</span><span class="marks">{marks(test)}</span></summary>')
        parts.append(f"{prose(test.get('output', ''))}</details>")
    return "\n".join([*parts, "</body></html>", ""])


def _first(data: dict) -> list[str]:
    """The box at the top: what is said of the whole, and what to repair first."""
    said, causes = prose(data.get("output", "")), lost(data)
    if not said and not causes:
        return []
    parts = ['<section class="first">', said]
    if causes:
        parts.append("<h2>What to repair first</h2><ol>")
        for cause, points, numbers in causes[:MOST_CAUSES]:
            tests = f"test{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
            cost = f"{points:g} point{'' if points == 1 else 's'}"
            parts.append(
                f'<li><strong>{cost}</strong>: {_inline(cause)} <span class="faint">({escape(tests)})</span></li>'
            )
        parts.append("</ol>")
        rest = causes[MOST_CAUSES:]
        if rest:
            parts.append(f"<p>And {len(rest)} more, of {sum(p for _, p, _ in rest):g} points together.</p>")
    return [*parts, "</section>"]


def prose(text: str) -> str:
    """A message as paragraphs; lines that are indented are code."""
    parts = []
    for code, lines in _blocks(text.split("\n")):
        body = "\n".join(lines)
        parts.append(f"<pre>{escape(body)}</pre>" if code else "".join(f"<p>{_inline(line)}</p>" for line in lines))
    return "".join(parts)


def _blocks(lines: list[str]) -> list[tuple[bool, list[str]]]:
    """Consecutive lines that are code, or are not, without the empty ones around them."""
    found: list[tuple[bool, list[str]]] = []
    for line in lines:
        if not line.strip():
            continue
        code = line.startswith("  ")
        if not found or found[-1][0] != code:
            found.append((code, []))
        found[-1][1].append(line)
    return [(code, _dedented(own) if code else own) for code, own in found]


def _dedented(lines: list[str]) -> list[str]:
    least = min(len(line) - len(line.lstrip(" ")) for line in lines)
    return [line[least:] for line in lines]


def _inline(text: str) -> str:
    """`code` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def summary(data: dict) -> str:
    """Markdown: a table, and what the failed tests say."""
    points = data.get("extra_data", {}).get("points", 0)
    lines = [f"**{data.get('score', 0):g} of {points:g} points**", ""]
    if origin(data):
        lines += [origin(data), ""]
    if data.get("output"):
        lines += [data["output"], ""]
    lines += ["| test | | points |", "| --- | --- | ---: |"]
    for test in data["tests"]:
        lines.append(f"| {test['number']} {test['name']} | {word(test)} | {marks(test)} |")
    for test in data["tests"]:
        if test.get("status") == "failed":
            lines += ["", f"{test['number']} {test['name']}", "", "```", test.get("output", ""), "```"]
    return "\n".join(lines) + "\n"
