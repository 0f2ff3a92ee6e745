"""Exercises of notebooks/s23_smem_double_buffer."""

from __future__ import annotations

from tools.lesson.answers import exercise

FIVE_TILES = {"headdim": 64, "seqlen_q": 64, "seqlen_k": 320, "nheads": 1, "nheads_k": 1, "causal": False}


def wait(buffers):
    """At the wait of iteration j, groups 0 to j + buffers - 2 have been committed, and number j is needed."""
    return buffers - 2


@exercise(
    "s23.wait",
    solution=wait,
    wrong=(lambda buffers: 0, lambda buffers: 1, lambda buffers: buffers - 1, lambda buffers: buffers // 2),
    hints=(
        "At the wait of iteration 0, which groups have been committed, and which of them is needed? With two buffers: "
        "group 0, and group 0.",
        "With three, groups 0 and 1 have been committed before the loop, and number 0 is needed. Your `groups` of s22 "
        "knows the rest.",
        "In iteration j the groups 0 to j + buffers − 2 have been committed, and number j is needed.",
    ),
)
def check_wait(answer) -> str:
    from tools.lesson.live import emulated
    from tools.lesson.rings import ring

    for buffers in (2, 3, 4):
        wait = answer(buffers)
        run = emulated(ring(buffers, wait), **FIVE_TILES)
        if not run.ok:
            said = run.report.findings[0] if run.report.findings else run.verdict
            return f"{buffers} buffers, wait<{wait}>: {said}"
        if emulated(ring(buffers, wait + 1), **FIVE_TILES).ok:
            return f"{buffers} buffers, wait<{wait}>: right, but it waits for tiles that nobody needs yet"
    return ""


def blocks(registers, shared):
    """Blocks of 128 threads that a multiprocessor holds: registers of a thread, shared memory of a block in bytes."""
    of_a_warp = -(-32 * registers // 256) * 256
    return min(65536 // (4 * of_a_warp), 228 * 1024 // (shared + 1024))


@exercise(
    "s23.blocks",
    solution=blocks,
    wrong=(
        lambda registers, shared: 65536 // (128 * registers),
        lambda registers, shared: 228 * 1024 // (shared + 1024),
        lambda registers, shared: min(65536 // (128 * registers), 228 * 1024 // (shared + 1024)),
        lambda registers, shared: min(65536 // (32 * registers), 228 * 1024 // (shared + 1024)),
        lambda registers, shared: min(65536 // (128 * (-(-registers // 8) * 8)), 228 * 1024 // shared),
    ),
    hints=(
        "Two questions: how many blocks do the registers allow, and how many the shared memory? The smaller number "
        "counts.",
        "A block has four warps, a warp 32 threads. A warp's registers, 32 · registers, are rounded up to a multiple "
        "of 256.",
        "-(-n // 256) * 256 rounds n up. Shared memory: 228 · 1024 // (shared + 1024).",
    ),
)
def check_blocks(answer) -> str:
    from tools.sass.occupancy import occupancy

    KiB = 1024
    for registers, shared in (
        *((148, 24 * KiB), (174, 40 * KiB), (168, 40 * KiB), (211, 48 * KiB), (255, 80 * KiB)),
        *((170, 40 * KiB), (100, 80 * KiB), (128, 40 * KiB), (128, 57 * KiB), (64, 16 * KiB)),
    ):
        want = occupancy("90a", registers=registers, shared=shared, threads=128).blocks
        got = answer(registers, shared)
        if got != want:
            return f"{registers} registers, {shared // KiB} KiB: you say {got}; it is {want}"
    return ""
