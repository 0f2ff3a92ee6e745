"""A stage's page: its card, the step from its parent, what was measured, and its kernel."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import STAGES, Stage, get
from stages.common.record import STAGES_DIR
from tools import diff as kernels
from tools import figures, results
from tools.bench.report import mebibytes, milliseconds

# The part a stage belongs to is the tens digit of its number.
PARTS = {
    0: "The algorithm",
    1: "Triton",
    2: "CUDA: from the instructions up",
    3: "CUDA: specialised and tuned",
    4: "Hopper",
    5: "Hopper, further",
    6: "The library",
    7: "Several GPUs",
}
# What a reader looks for in the index and finds on a stage's page.
INDEXED = {
    "s01_naive": ("attention; naive",),
    "s02_online_softmax": ("softmax; online", "merge rule"),
    "s11_triton_v1": ("loop order; FlashAttention-1",),
    "s12_triton_v2": ("loop order; FlashAttention-2",),
    "s13_triton_tuned": ("tensor descriptors", "autotuning; Triton", "exp2"),
    "s20_mma": ("mma", "ldmatrix", "cp.async", "tensor core"),
    "s21_swizzle": ("swizzle", "bank conflict"),
    "s22_eager_loads": ("cp.async; asked for early",),
    "s23_smem_double_buffer": ("double buffering; of tiles",),
    "s24_fragment_pipeline": ("double buffering; of fragments",),
    "s25_causal_tiles": ("causal mask; classes of tiles",),
    "s26_peel_first_block": ("peeling",),
    "s27_fp32_throughput": ("exp2",),
    "s28_fewer_moves": ("operand B, registers of",),
    "s29_address_math": ("addresses; of a swizzled tile",),
    "s30_static_stride": ("strides; as template arguments",),
    "s31_autotune": ("autotuning; CUDA", "registers"),
    "s32_schedule": ("schedule", "causal mask; order of tiles"),
    "s33_lazy_rescale": ("rescaling; lazy",),
    "s34_fragments_ahead": ("registers; and loads ahead",),
}
PEERS = ("torch_fa2", "torch_cudnn")
LANGUAGE = {
    ".py": "python",
    ".cu": "cuda",
    ".cuh": "cuda",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".css": "css",
    ".toml": "toml",
}


@dataclass(frozen=True)
class Tables:
    """All records, and of each head dim and mask the table of everybody's TFLOP/s, as tools.figures makes it."""

    records: Sequence[dict]
    tflops: Mapping[str, str]

    @classmethod
    def of(cls, records: Sequence[dict]) -> Tables:
        made = {}
        for headdim in (64, 128, 256):
            for causal in (False, True):
                here = [r for r in records if (r["where"], r["headdim"], r["causal"]) == ("gpu", headdim, causal)]
                with contextlib.suppress(results.NoData):
                    table = figures.peers_table(figures.Data(here, ()), headdim, causal)
                    made[f"d{headdim}{', causal' if causal else ''}"] = table
        return cls(records, made)


def part(stage: Stage) -> int:
    return stage.number // 10


def place(stage: Stage) -> str:
    """The stage's page in the book."""
    return f"stages/{stage.name}.md"


def page(stage: Stage, card: str, tables: Tables, rung: str, notebook: str | None) -> str:
    """The page as MyST Markdown.

    card: the card's text, its links already those of the book; rung: the image of its place on the ladder; notebook:
    the name of its file, if there is one.
    """
    title, _, rest = card.partition("\n")
    sections = [
        title,
        _where(stage, notebook),
        rest.strip(),
        _step(stage),
        _results(stage, tables, rung),
        _kernel(stage),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _where(stage: Stage, notebook: str | None) -> str:
    """One line under the title: where one is, and what the page has."""
    number = part(stage)
    items = [f"Part {number}: {PARTS[number]}"]
    if stage.parent:
        parent = get(stage.parent)
        items.append(f"after [{parent.short}]({parent.name}.md)")
    if notebook:
        items.append(f"[the lesson](../notebooks/{notebook}), a notebook")
    items += [f"[the step](#{stage.short}-step)"] if stage.parent else []
    items += [f"[results](#{stage.short}-results)", f"[the kernel](#{stage.short}-kernel)"]
    line = f":::{{div}} stage-line\n{' · '.join(items)}\n:::"
    tree = f"\n\n```{{toctree}}\n:hidden:\n\nThe lesson <../notebooks/{notebook}>\n```" if notebook else ""
    entries = ", ".join(f"single: {entry}" for entry in (stage.name, *INDEXED.get(stage.name, ())))
    return f"```{{index}} {entries}\n```\n\n{line}{tree}"


@functools.cache
def _compared(stage: Stage) -> tuple[kernels.Diff, list[kernels.Gain]]:
    """A stage and its parent: the diff, and what it bought."""
    return kernels.compute(stage.parent, stage), kernels.bought(stage.parent, stage.name)


def _step(stage: Stage) -> str:
    if stage.parent is None:
        return ""
    parent = get(stage.parent)
    diff, gains = _compared(stage)
    wide = f'<a href="../diffs/{stage.name}.html">side by side on a page of its own</a>'
    command = f"`make diff FROM={parent.short} TO={stage.short}`"
    parts = [f"({stage.short}-step)=\n## The step from {parent.short}"]
    if diff.is_comparable and not stage.new_base:
        parts.append(f"In a terminal: {command}. With more room: {wide}.")
        parts.append(raw(kernels.to_html(diff, unified=True)))
    else:
        parts.append(
            f"{stage.short} starts afresh. A diff of the two kernels has little in common: {wide}, or {command}."
        )
    parts.append("### What the step bought")
    first = [gain for gain in gains if gain.title == gains[0].title]  # the time
    parts.append(_bought(diff, first))
    if len(first) < len(gains):
        rest = _bought(diff, gains[len(first) :])
        parts.append(f"::::{{dropdown}} Counters, machine code, instructions\n\n{rest}\n\n::::")
    return "\n\n".join(parts)


def _bought(diff: kernels.Diff, gains: Sequence[kernels.Gain]) -> str:
    return raw(f'<section class="diff">\n{kernels.bought_to_html(diff, gains)}\n</section>')


def diff_page(stage: Stage) -> str:
    """The step side by side: an HTML page that needs nothing else, with a way back."""
    html = kernels.page(*_compared(stage))
    back = f'<p><a href="../stages/{stage.name}.html">{stage.short} in the book</a></p>'
    before, start, after = html.partition("<h1>")
    return f"{before}{back}\n{start}{after}"


def _results(stage: Stage, tables: Tables, rung: str) -> str:
    head = f"({stage.short}-results)=\n## Results\n"
    if stage.capability.backend == "numpy":
        return f"{head}\n{_host_table(stage, tables.records)}"
    names = [stage.name, *([stage.parent] if stage.parent else []), *PEERS]
    tabs = [(label, _rows_of(names, table)) for label, table in tables.tflops.items()]
    tabs = [f"::::{{tab-item}} {label}\n\n{table}\n\n::::" for label, table in tabs if table]
    if not tabs:
        return f"{head}\nNot measured on a GPU yet: `make bench` does it."
    date, device = max((r["run"][:10], r["device"]) for r in results.entries(tables.records, stage.name))
    said = (
        f"TFLOP/s by length on {device}, {date}, bf16, in one run with the peers; × FA2 is the harmonic mean of the "
        "ratios over 1k to 16k. All stages and peers: [Performance](../performance.md)."
    )
    return f"{head}\n{rung}\n\n{said}\n\n:::::{{tab-set}}\n" + "\n".join(tabs) + "\n:::::"


def _rows_of(names: Sequence[str], table: str) -> str:
    """A Markdown table with the rows of `names` alone; "" if the first has none."""
    lines = table.splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines[2:]}
    if names[0] not in rows:
        return ""
    return "\n".join([*lines[:2], *(rows[name] for name in names if name in rows)])


def _host_table(stage: Stage, records: Sequence[dict]) -> str:
    found = sorted(results.entries(records, stage.name, headdim=64, causal=False), key=lambda r: r["seqlen_q"])
    if not found:
        return "Not measured yet: `make bench` does it."
    rows = [[f"{r['seqlen_q']:,}", milliseconds(r["ms_median"]), mebibytes(r["peak_bytes"])] for r in found]
    where = f"{found[0]['device']}, {found[0]['run'][:10]}"
    said = f"Float32, {found[0]['nheads']} heads of 64, on the CPU, one thread ({where})."
    return f"{said}\n\n{figures.table(['seqlen', 'time', 'peak memory'], rows, text_columns=0)}"


def _kernel(stage: Stage) -> str:
    files = [stage.kernel_file] + ([stage.folder / "stage.py"] if stage.capability.backend == "cuda" else [])
    parts = [f"({stage.short}-kernel)=\n## The kernel"]
    for path in files:
        name = path.relative_to(STAGES_DIR.parent).as_posix()
        parts.append(f"::::{{dropdown}} `{name}`\n{included(name)}\n::::")
    return "\n\n".join(parts)


def included(path: str) -> str:
    """A file of the repository, whole, with the numbers of its lines."""
    language = LANGUAGE.get(Path(path).suffix, "text")
    options = (f":language: {language}", ":linenos:", ":force:")  # lexers do not know all of CUDA's words
    return "\n".join([f"```{{literalinclude}} /_repo/{path}", *options, "```"])


def raw(html: str) -> str:
    """HTML as it is."""
    return f"``````{{raw}} html\n{html}\n``````"


def parts_of_the_book() -> dict[int, list[Stage]]:
    """The stages of each part, in order."""
    found: dict[int, list[Stage]] = {}
    for stage in STAGES:
        found.setdefault(part(stage), []).append(stage)
    return found


def diff_styles() -> str:
    """The style sheet of the diffs, dark where the book is and not where the system is."""
    css = kernels.styles()
    dark = re.compile(r"@media screen and \(prefers-color-scheme: dark\) \{\n(?P<rules>.*?)\n\}\n", re.DOTALL)
    return dark.sub(lambda match: f'html[data-theme="dark"] {{\n{match["rules"]}\n}}\n', css)
