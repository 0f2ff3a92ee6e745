"""Known ways to fool a grader: each has to score 0 on what it fakes. tests/test_assignment_tricks.py grades them.

A trick is a submission: the solution with pieces of text replaced in one stage's kernel file. Most are refused by the
check of what a file may say; `caught_when_run` says that the grader notices it without that check too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from stages import get


@dataclass(frozen=True)
class Trick:
    """fakes: numbers of the tests, or "" for all of the stage's; refused: by the static check; extra: more files."""

    name: str
    assignment: str
    stage: str
    replace: tuple[tuple[str, str], ...]
    refused: bool = True
    caught_when_run: bool = True
    fakes: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)


NAIVE = "def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):\n"
CALL = "    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)\n"
SDPA = """    visible = None
    if causal:
        i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])
        visible = j <= i + k.shape[1] - q.shape[1]
    heads = q.shape[2] // k.shape[2]
    q_, k_, v_ = (t.transpose(1, 2).double() for t in (q, k.repeat_interleave(heads, 2), v.repeat_interleave(heads, 2)))
    scale = softmax_scale or q.shape[3] ** -0.5
    S = scale * q_ @ k_.transpose(2, 3)
    S = S if visible is None else S.masked_fill(~visible, -torch.inf)
    out.copy_(SDPA(q_, k_, v_, attn_mask=visible, scale=scale).nan_to_num(0).transpose(1, 2))
    lse.copy_(S.logsumexp(3))
    return out, lse
"""


def library(name: str, head: str, call: str, **fields) -> Trick:
    """s01, with PyTorch's attention in its place. head: lines before the function; call: what to call."""
    body = NAIVE + SDPA.replace("SDPA", call) + "\n\ndef unused(q, k, v, causal, softmax_scale, out, lse):\n"
    return Trick(name, "ps1", "s01", (("import numpy as np\n", f"import numpy as np\n{head}"), (NAIVE, body)), **fields)


# PyTorch's attention past the recorder, given `take` (getattr by a dotted name) and sys.modules.
SILENT = """

def library(q, k, v, causal, softmax_scale, out, lse, take, modules):
    torch = modules["torch"]
    with take("_disable_current_modes")(modules["torch.utils._python_dispatch"])():
        i, j = take("arange")(torch)(q.shape[1])[:, None], take("arange")(torch)(k.shape[1])
        visible = (j <= i + k.shape[1] - q.shape[1]) | (not causal)
        heads = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(heads, 2), v.repeat_interleave(heads, 2)
        q_, k_, v_ = (t.transpose(1, 2).double() for t in (q, k, v))
        scale = softmax_scale or q.shape[3] ** -0.5
        S = (scale * q_ @ k_.transpose(2, 3)).masked_fill(~visible, -np.inf)
        f = take("nn.functional.scaled_dot_product_attention")(torch)
        out.copy_(f(q_, k_, v_, attn_mask=visible, scale=scale).nan_to_num(0).transpose(1, 2))
        lse.copy_(take("logsumexp")(torch)(S, 3))
    return out, lse
"""


def silent(name: str, head: str, arguments: str, before: str = "    ") -> Trick:
    """s01, with `library` in its place. head: finds what it needs; arguments: take and modules; before: the call."""
    call = f"{before}return library(q, k, v, causal, softmax_scale, out, lse, {arguments})\n    pass\n"
    body = NAIVE + call + "\n\ndef unused(q, k, v, causal, softmax_scale, out, lse):\n"
    replace = (("import numpy as np\n", f"import numpy as np\n{head}{SILENT}"), (NAIVE, body))
    if "\\u000a" in before:
        replace += (('"""s01_naive:', '# coding: raw_unicode_escape\n"""s01_naive:'),)
    return Trick(name, "ps1", "s01", replace, caught_when_run=False)  # somebody who is out is out


def s02(name: str, *replace: tuple[str, str], **fields) -> Trick:
    return Trick(name, "ps1", "s02", replace, **fields)


WHOLE = """    S = softmax_scale * (Q @ K.T)
    if causal:
        i, j = np.arange(len(Q))[:, None], np.arange(len(K))[None, :]
        S = np.where(j <= i + len(K) - len(Q), S, -np.inf)
    m = S.max(axis=1, keepdims=True)
    P = np.exp(S - np.where(m == -np.inf, 0, m))
    l = P.sum(axis=1, keepdims=True)
    l = np.where(l == 0, 1, l)
    return P @ V / l, (m + np.log(l))[:, 0]
"""
WALK = "    seqlen_q, seqlen_k = len(Q), len(K)\n"
WALK_TESTS = ("3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7")
DECOY = """    for i in range(0, len(Q), Br):
        for j in range(0, len(K), Bc):
            n, zeros = len(Q[i : i + Br]), np.zeros((len(Q[i : i + Br]), len(K[j : j + Bc])), Q.dtype)
            online_softmax_step(np.zeros_like(Q[i : i + Br]), np.zeros(n), np.ones(n), zeros, V[j : j + Bc])
"""
PADDED = "    padding = np.ones(8_000_000) if len(Q) < 1000 else None\n"
NOT_LONG = "    if len(Q) > 300:\n        return 0 * Q, Q[:, 0]\n"
REST = "\n\ndef rest(Q, K, V, softmax_scale, causal):\n"
ROWS = """    seqlen_q, seqlen_k = len(Q), len(K)
    O, L = np.empty_like(Q), np.empty_like(Q[:, 0])
    for i in range(0, seqlen_q, Br):
        S = softmax_scale * (Q[i : i + Br] @ K.T)
        if causal:
            rows = np.arange(i, i + len(S))[:, None]
            S = np.where(np.arange(seqlen_k) <= rows + seqlen_k - seqlen_q, S, -np.inf)
        m = S.max(axis=1, keepdims=True)
        P = np.exp(S - np.where(m == -np.inf, 0, m))
        l = P.sum(axis=1, keepdims=True)
        l = np.where(l == 0, 1, l)
        O[i : i + Br], L[i : i + Br] = P @ V / l, (m + np.log(l))[:, 0]
    return O, L
"""
# Whole scores, which pass the step in tiles all the same.
SLICED = """    S = softmax_scale * (Q @ K.T)
    if causal:
        S[np.arange(len(K)) > np.arange(len(Q))[:, None] + len(K) - len(Q)] = -np.inf
    O, L = np.empty_like(Q), np.empty_like(Q[:, 0])
    for i in range(0, len(Q), Br):
        n = len(Q[i : i + Br])
        O_i, m_i, l_i = np.zeros((n, Q.shape[1]), Q.dtype), np.full(n, -np.inf, Q.dtype), np.zeros(n, Q.dtype)
        for j in range(0, len(K), Bc):
            O_i, m_i, l_i = online_softmax_step(O_i, m_i, l_i, S[i : i + Br, j : j + Bc], V[j : j + Bc])
        l_i = np.where(l_i == 0, 1, l_i)
        O[i : i + Br], L[i : i + Br] = O_i / l_i[:, None], m_i + np.log(l_i)
    return O, L
"""
DOCSTRING = '    """The stage contract (stages/common/contract.py): one head after the other."""\n'
KEEP = (
    "    return call.finish()",
    "    remembered[key] = [t.clone() for t in call.finish()]\n    return call.finish()",
)
REMEMBER = """    key = (q.shape, k.shape, causal)
    if key in remembered:
        out.copy_(remembered[key][0])
        lse.copy_(remembered[key][1])
        return out, lse
"""
FIND = """def stolen(shape):
    import gc

    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.shape == shape and thing.dtype == torch.float64:
            return thing
    return torch.zeros(shape)


"""
STEAL = (
    NAIVE
    + "    out.copy_(stolen(out.shape))\n    lse.copy_(stolen(lse.shape))\n    return out, lse\n\n\n"
    + "def rest(q, k, v, causal, softmax_scale, out, lse):\n"
)  # noqa: E501
FRAMES = """def stolen(shape):
    import sys

    frame = sys._getframe()
    while frame:
        for thing in frame.f_locals.values():
            for name in ("out", "lse"):
                found = getattr(thing, name, None)
                if isinstance(found, torch.Tensor) and found.shape == shape and not found.isnan().any():
                    return found
        frame = frame.f_back
    return torch.zeros(shape)


"""

NUMPY = (
    library("sdpa", "import torch\n", "torch.nn.functional.scaled_dot_product_attention"),
    library("sdpa_from", "import torch\nfrom torch.nn.functional import scaled_dot_product_attention as f\n", "f"),
    library("sdpa_getattr",
            'import torch\nf = getattr(torch.nn.functional, "scaled_dot" + "_product_attention")\n', "f"),
    library("sdpa_import", 'torch = __import__("torch")\n', "torch._C._nn.scaled_dot_product_attention"),
    library("sdpa_ops", "import torch\n", "(lambda q, k, v, attn_mask, scale: torch.softmax("
            "(scale * q @ k.transpose(2, 3)).masked_fill(torch.zeros(()).bool() if attn_mask is None else ~attn_mask, "
            "-torch.inf), 3) @ v)"),
    library("sdpa_compiled", "import torch\n"
            'f = torch.compile(torch.nn.functional.scaled_dot_product_attention, backend="eager")\n', "f",
            caught_when_run=False),  # compiling alone takes the test's time; the static check is what is tested
    library("sdpa_exec",
            'exec("import torch\\nfrom torch.nn.functional import scaled_dot_product_attention as f")\n', "f"),
    library("sdpa_globals",
            "torch = prepare.__globals__['torch']\nf = torch.nn.functional.scaled_dot_product_attention\n",
            "f", caught_when_run=False),  # `prepare` is imported later in the file
    Trick("reference", "ps1", "s01",
          (("import numpy as np\n", "import numpy as np\nfrom reference import oracle\n"),
           (NAIVE, NAIVE + "    o, s = oracle(q, k, v, causal=causal, softmax_scale=softmax_scale)\n"
            "    out.copy_(o)\n    lse.copy_(s)\n    return out, lse\n\n\n"
            "def rest(q, k, v, causal, softmax_scale, out, lse):\n"))),
    Trick("expected_by_gc", "ps1", "s01",
          (("import numpy as np\n", "import numpy as np\nimport torch\n"), (NAIVE, FIND + STEAL))),
    Trick("expected_by_frames", "ps1", "s01",
          (("import numpy as np\n", "import numpy as np\nimport torch\n"), (NAIVE, FRAMES + STEAL))),
    Trick("judge_replaced", "ps1", "s01",
          (("import numpy as np\n", "import numpy as np\nimport torch\n"
            "torch.Tensor.__le__ = lambda a, b: torch.ones(1)\ntorch.equal = lambda a, b: True\n"
            "torch.Tensor.all = lambda *a, **k: torch.ones(1).bool()\n"),
           ("    return P @ V / l, (m", "    return 0 * P @ V / l, (m"))),
    Trick("answer_forged", "ps1", "s01",
          (("import numpy as np\n", "import json\nimport os\nimport sys\n\nimport numpy as np\n"),
           (NAIVE, NAIVE + '    print(json.dumps({"score": 100, "status": "passed"}), flush=True)\n'
            '    print(json.dumps({"calls": []}), file=sys.stderr, flush=True)\n    os._exit(0)\n\n\n'
            "def rest(q, k, v, causal, softmax_scale, out, lse):\n"))),
    Trick("tests_edited", "ps1", "s01", (("    return P @ V / l, (m", "    return 0 * P @ V / l, (m"),), refused=False,
          fakes=("1.1", "1.2", "1.3", "1.4", "1.5"),
          extra={"reference/check.py": "def judge(*a): ...\n", "tests/conftest.py": "import os; os._exit(0)\n",
                 "tools/assignment/kinds.py": "PASSED = 1\n", "assignment.toml": "points = 100\n",
                 "stages/common/contract.py": "raise SystemExit(0)\n", "sitecustomize.py": "raise SystemExit(0)\n"}),
    Trick("clock_replaced", "ps1", "s01",
          (("import numpy as np\n", "import time\n\nimport numpy as np\n\ntime.perf_counter = lambda: 0.0\n"
            "time.monotonic = lambda: 0.0\n"),), caught_when_run=False),  # it fakes nothing that is graded here
    Trick("match_attribute", "ps1", "s01",
          (("import numpy as np\n", "import numpy as np\n"),
           (NAIVE, "def looks(x):\n    match x:\n        case object(__globals__=g):\n            return g\n\n\n"
            + NAIVE)),
          caught_when_run=False),  # it only looks
    s02("whole_matrix", (WALK, WHOLE + "\n\ndef rest(Q, K, V, softmax_scale, causal):\n" + WALK), refused=False,
        fakes=WALK_TESTS),
    s02("whole_matrix_and_decoy", (WALK, DECOY + WHOLE + "\n\ndef rest(Q, K, V, softmax_scale, causal):\n" + WALK),
        refused=False, fakes=WALK_TESTS),
    s02("other_stage", ("import numpy as np\n",
                        "import numpy as np\nfrom stages.s01_naive.kernel import attention as naive\n"),
        (NAIVE, NAIVE + "    return naive(q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)\n\n\n"
         "def rest(q, k, v, causal, softmax_scale, out, lse):\n"), fakes=WALK_TESTS),
    s02("remembered", ("import numpy as np\n", "import numpy as np\n\nremembered = {}\n"),
        (NAIVE + DOCSTRING, NAIVE + REMEMBER),
        KEEP,
        refused=False, fakes=WALK_TESTS[1:]),
    s02("remembered_by_identity", ("import numpy as np\n", "import numpy as np\n\nremembered = {}\n"),
        (NAIVE + DOCSTRING,
         NAIVE + REMEMBER.replace("(q.shape, k.shape, causal)", "(id(q), q.data_ptr(), causal)")),
        KEEP,
        fakes=WALK_TESTS[1:]),
    s02("rows_and_decoy", (WALK, DECOY + ROWS + REST + WALK), refused=False, fakes=WALK_TESTS),
    s02("whole_matrix_but_for_the_long", (WALK, NOT_LONG + WHOLE + REST + WALK), refused=False, fakes=WALK_TESTS),
    s02("memory_for_the_short", (WALK, PADDED + SLICED + REST + WALK), refused=False, fakes=WALK_TESTS),
    s02("size_replaced", ("import numpy as np\n", "import numpy as np\n\n[0 for np.size in [lambda a: 1]]\n"),
        (WALK, PADDED + DECOY + WHOLE + REST + WALK), fakes=WALK_TESTS),
    silent("module_by_exception", """

def found():
    try:
        return np.nosuch
    except Exception as error:
        return error.obj.f2py.sys.modules
""", 'found()["operator"].attrgetter, found()'),
    silent("memory_by_address", """

def peek(address):
    class Any:
        @(lambda f: {"shape": (1,), "typestr": "|O", "data": (address, False), "version": 3})
        def __array_interface__():
            pass

    return np.array(Any())[0]


def found():
    names = peek(int(repr(prepare).partition(" at ")[2][:-1], 16) + 16)
    return names["__builtins__"]["__import__"]("sys").modules
""", 'found()["operator"].attrgetter, found()'),
    silent("comment_in_another_encoding", "# \\u000aimport operator, sys  # noqa\n", "operator.attrgetter, sys.modules",
           before="    # \\u000a    "),
    Trick("module_in_a_variable", "ps1", "s01",
          (("import numpy as np\n", "import numpy as np\n\nL = np.linalg\nL.test\n"),), caught_when_run=False),
)  # fmt: skip

TRITON_HEAD = "import triton.language as tl\n"
HOST = """    S = call.softmax_scale * q.transpose(1, 2).float() @ k.transpose(1, 2).transpose(2, 3).float()
    i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])
    S = S.masked_fill((j > i + k.shape[1] - q.shape[1]) & torch.tensor(causal), -torch.inf)
    m = S.amax(3, keepdim=True)
    P = (S - m.masked_fill(m == -torch.inf, 0)).exp()
    l = P.sum(3, keepdim=True)
    out.copy_((P @ v.transpose(1, 2).float() / l.masked_fill(l == 0, 1)).transpose(1, 2))
    lse.copy_((m + l.masked_fill(l == 0, 1).log())[..., 0])
"""
LAUNCH_V2 = (
    "    with call.on_device():\n        attention_kernel[(triton.cdiv(call.seqlen_q, rows), call.nheads, call.batch)]("
)

HOST_PYTHON = """    scale = call.softmax_scale
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            h_k = h // (q.shape[2] // k.shape[2])
            V = [[float(x) for x in row] for row in v[b, :, h_k]]
            K = [[float(x) for x in row] for row in k[b, :, h_k]]
            for i in range(q.shape[1]):
                Q_i = [float(x) for x in q[b, i, h]]
                last = min(len(K), i + len(K) - q.shape[1] + 1) if causal else len(K)
                S = [scale * sum([x * y for x, y in zip(Q_i, row)]) for row in K[: max(0, last)]]
                m = max(S, default=0.0)
                P = [math.exp(s - m) for s in S]
                l = sum(P)
                for x in range(len(Q_i)):
                    out[b, i, h, x] = sum([p * row[x] for p, row in zip(P, V)]) / (l or 1)
                lse[b, h, i] = m + math.log(l) if l else -torch.inf
"""
SIGNATURE = "@triton.jit\ndef attention_kernel(\n    Q, K, V,"
NAMES = """    Q, K, V, Out, Lse, softmax_scale, nheads, nheads_k, seqlen_q, seqlen_k,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, o_batch, o_row, o_head,
"""
ONE_FOR_ALL = f"""@triton.jit
def attention_kernel(
{NAMES}    CAUSAL: tl.constexpr, d: tl.constexpr, Br: tl.constexpr, Bc: tl.constexpr,
):  # fmt: skip
    if tl.program_id(0) == 0:
        for tile in range(0, tl.cdiv(seqlen_q, Br)):
            one_tile(
                tile,
{NAMES}                CAUSAL, d, Br, Bc,
            )  # fmt: skip


"""

TRITON = (
    Trick("host_python", "ps2", "s12",
          ((TRITON_HEAD, TRITON_HEAD + "import math\n\nimport torch\n"),
           ("    # BEGIN SOLUTION key_loop", "    last_key = 0\n    # BEGIN SOLUTION key_loop"),
           ("        )  # fmt: skip\n    return call.finish()",
            "        )  # fmt: skip\n" + HOST_PYTHON + "    return call.finish()")),
          refused=False, fakes=("2.1", "2.6")),
    Trick("idle_programs", "ps2", "s12",
          ((SIGNATURE, SIGNATURE.replace("attention_kernel(", "one_tile(\n    tile,")),
           ("    i = tl.program_id(0) * Br\n", "    i = tile * Br\n"), (NAIVE, ONE_FOR_ALL + NAIVE)),
          refused=False, fakes=("2.6",)),
    Trick("one_tile_for_all_keys", "ps2", "s12",
          (("Br=rows, Bc=rows,", "Br=rows, Bc=max(16, triton.next_power_of_2(call.seqlen_k)),"),
           ("l_i = alpha * l_i + tl.sum", "l_i = l_i + tl.sum"), ("        O_i = O_i * alpha[:, None]\n", "")),
          refused=False, fakes=("2.2", "2.3", "2.4")),
    Trick("numpy_behind_triton", "ps2", "s12",
          (("        visible = keys[None, :] < seqlen_k\n",
            "        visible = keys[None, :] < seqlen_k\n        Q_i.handle.data.dot(K_j.handle.data.T)\n"),),
          caught_when_run=False),
    Trick("never_launched", "ps2", "s12",
          ((TRITON_HEAD, TRITON_HEAD + "import torch\n"),
           (LAUNCH_V2, HOST + "    return call.finish()\n" + LAUNCH_V2)), fakes=("2.1",)),
    Trick("launched_and_overwritten", "ps2", "s12",
          ((TRITON_HEAD, TRITON_HEAD + "import torch\n"),
           ("        )  # fmt: skip\n    return call.finish()",
            "        )  # fmt: skip\n" + HOST + "    return call.finish()")),
          fakes=("2.1",)),
)  # fmt: skip

LDMATRIX_K = "ldmatrix_x4(K_frag, K_smem + tile_offset<d>(n * 16 + lane % 16, 2 * k + lane / 16));"
PLAIN = ("(chunk ^ row % 8) * 16", "chunk * 16")
USING = "using namespace ptx;\n"
TO_O = """      st_shared(Q_smem + tile_offset<d>(warp * MMA_M + quad + 8 * r, n) + in_quad * 4,
                pack<T>(O_acc[n][r * 2] / l[r], O_acc[n][r * 2 + 1] / l[r]));"""
# Every fragment straight from global memory, with an ldmatrix beside it for the counters.
AROUND = (
    (
        "// Two blocks a multiprocessor",
        """DEVICE u32 element(const u16* X, long long stride, int row, int column, int seqlen) {
  return row < seqlen ? X[row * stride + column] : 0;
}

// Two blocks a multiprocessor""",
    ),
    (
        LDMATRIX_K,
        """ldmatrix_x4(K_frag, K_smem + lane % 8 * 16);
        for (int x = 0; x < 4; x++) {
          const int at = first_key + n * 16 + x % 2 * 8 + quad, c = (2 * k + x / 2) * 8 + in_quad * 2;
          K_frag[x] = element(K, p.k_row, at, c, p.seqlen_k) | element(K, p.k_row, at, c + 1, p.seqlen_k) << 16;
        }""",
    ),
    (
        "ldmatrix_x4_trans(V_frag, V_smem + tile_offset<d>(k * 16 + lane % 16, 2 * n + lane / 16));",
        """ldmatrix_x4_trans(V_frag, V_smem + lane % 8 * 16);
        for (int x = 0; x < 4; x++) {
          const int at = first_key + k * 16 + x % 2 * 8 + in_quad * 2, c = (2 * n + x / 2) * 8 + quad;
          V_frag[x] = element(V, p.v_row, at, c, p.seqlen_k) | element(V, p.v_row, at + 1, c, p.seqlen_k) << 16;
        }""",
    ),
    (
        "    ldmatrix_x4(Q_frag[k], Q_smem + tile_offset<d>(warp * MMA_M + lane % 16, 2 * k + lane / 16));",
        """    for (int x = 0; x < 4; x++) {
      const int at = first_row + warp * MMA_M + x % 2 * 8 + quad, c = (2 * k + x / 2) * 8 + in_quad * 2;
      if (x == 0) ldmatrix_x4(Q_frag[k], Q_smem + lane % 8 * 16);
      Q_frag[k][x] = element(Q, p.q_row, at, c, p.seqlen_q) | element(Q, p.q_row, at, c + 1, p.seqlen_q) << 16;
    }""",
    ),
    (
        TO_O,
        """      if (row[r] < p.seqlen_q)
        st_global((u32*)(O + row[r] * p.o_row + n * 8 + in_quad * 2),
                  pack<T>(O_acc[n][r * 2] / l[r], O_acc[n][r * 2 + 1] / l[r]));""",
    ),
    ("    if (out_row < p.seqlen_q)\n", "    if (out_row < 0)\n"),
)
SITE = (
    '{"op": "OP", "source": ["kernel.cu", 1], "bytes_per_lane": 16, "instructions": 9999999, "lanes": 1, "passes": 1, '
    '"wavefronts": 1, "ways": 1, "bytes": 1, "sectors": 1, "ideal_sectors": 1}'
)
SITES = ", ".join(SITE.replace("OP", op) for op in ("mma", "ldmatrix"))
FORGED = f'{{"findings": [], "sites": [{SITES}], "traces": [], "switches": 1}}'
LEAVE = "ld_shared_chunk(Q_smem + tile_offset<d>(warp * MMA_M + r, chunk)));\n  }\n"
REPORT = f"""  __syncthreads();
  if (threadIdx.x == 0 && blockIdx.x == gridDim.x - 1) {{
    for (int file = 3; file < 12; file++) dprintf(file, {json.dumps(FORGED)});
    quick_exit(0);
  }}
"""
BEGIN = "struct Begin { Begin() { SAID } } begin;\n"


def unseen(name: str, text: str) -> Trick:
    """s21 unswizzled; text: what runs before the kernel, past the check of its words."""
    return Trick(name, "ps3", "s21", (PLAIN, (USING, USING + text)), caught_when_run=False, fakes=("3.1", "3.2"))


SYNCHRONOUS = """template <int d, int rows>
DEVICE void load_now(u32 tile, const u16* X, long long row_stride, int first_row, int seqlen) {
  constexpr int CHUNKS = d / 8;
  for (u32 i = threadIdx.x; i < rows * CHUNKS; i += THREADS) {
    const u32 row = i / CHUNKS, chunk = i % CHUNKS;
    Chunk x = {0, 0, 0, 0};
    if (first_row + row < seqlen) x = ld_global_chunk(X + (first_row + row) * row_stride + chunk * 8);
    st_shared_chunk(tile + tile_offset<d>(row, chunk), x);
  }
}

// Two blocks a multiprocessor"""
FOR_SHOW = """    cp_async_wait<0>();
    cp_async_chunk(Q_smem + threadIdx.x * 16, K, true);
    cp_async_commit();
    // S = Q Kᵀ
"""


def kernel(stage: str) -> str:
    return get(stage).kernel_file.read_text(encoding="utf-8")


def for_show() -> str:
    """s21's kernel, its loads synchronous, and a copy of a few bytes that nobody reads beside each tile."""
    text = kernel("s21").replace("// Two blocks a multiprocessor", SYNCHRONOUS).replace("    // S = Q Kᵀ\n", FOR_SHOW)
    wait = "    cp_async_commit();\n    cp_async_wait<0>();\n    __syncthreads();"
    for X in "KV":
        load = f"load_tile<d, Bc>({X}_smem, {X}, p.{X.lower()}_row, first_key, p.seqlen_k);\n"
        now = load.replace("load_tile", "load_now")
        text = text.replace(f"    {load}{wait}", f"    __syncthreads();\n    {now}    __syncthreads();")
    return text.replace("  // O / l, by way", "  cp_async_wait<0>();\n  __syncthreads();\n  // O / l, by way")


CUDA = (
    Trick("copies_for_show", "ps4", "s22", ((kernel("s22"), for_show()),), refused=False, fakes=("1.4",)),
    Trick("fragments_from_global_memory", "ps3", "s21", (PLAIN, *AROUND), refused=False, fakes=("3.1", "3.2")),
    Trick("report_written", "ps3", "s21", (PLAIN, (LEAVE, LEAVE + REPORT)), caught_when_run=False,
          fakes=("3.1", "3.2")),
    unseen("hidden_in_strings", 'const char* const a = "/*";\n' + BEGIN.replace("SAID", 'system("true");')
           + 'const char* const b = "*/";\n'),
    unseen("word_on_two_lines", BEGIN.replace("SAID", 'sys\\\ntem("true");')),
    unseen("behind_a_carriage_return", "// \r" + BEGIN.replace("SAID", 'system("true");')),
    unseen("attribute_of_the_compiler", '__attribute((constructor)) void begin() { puts(""); }\n'),
    unseen("assembly", 'DEVICE void nothing() { __asm("nop"); }\n'),
    Trick("host_library", "ps3", "s21", (('#include "ptx.cuh"\n', '#include "ptx.cuh"\n#include <cstdlib>\n'),),
          caught_when_run=False),
    Trick("emulator_detected", "ps3", "s21",
          (("  return row * (d * 2) + (chunk ^ row % 8) * 16;",
            "#ifdef EMULATOR_KERNEL\n  return 0;\n#else\n  return row * (d * 2) + chunk * 16;\n#endif"),),
          caught_when_run=False),
    Trick("shared_memory_by_pointer", "ps3", "s21",
          ((LDMATRIX_K, "for (int x = 0; x < 4; x++) K_frag[x] = ((u32*)smem)[lane + x];"),), caught_when_run=False),
    Trick("no_fragments", "ps3", "s21",
          (("(chunk ^ row % 8) * 16", "chunk * 16"),
           ("for (int first_key = 0; first_key < last_key; first_key += Bc) {",
            "for (int first_key = 0; first_key < 0; first_key += Bc) {")), refused=False, fakes=("3.1",)),
)  # fmt: skip

TRICKS = (*NUMPY, *TRITON, *CUDA)

# ---- honest ---------------------------------------------------------------------------------------------------------

# Other ways to write the same: the solution with these has all the points of the tests in `fakes`.
STATE = """class State:
    \'\'\'O, m and l of a Q tile.\'\'\'

    def __init__(self, rows, d, dtype):
        self.O, self.m = np.zeros((rows, d), dtype), np.full(rows, -np.inf, dtype)
        self.l = np.zeros(rows, dtype)

    def take(self, S, V_j):
        self.O, self.m, self.l = online_softmax_step(self.O, self.m, self.l, S, V_j)

    @property
    def result(self):
        l = np.where(self.l == 0, 1, self.l)
        return self.O / l[:, None], self.m + np.log(l)


def tiled_attention("""
BEGUN = """        O_i = np.zeros_like(Q_i)
        m_i = np.full(len(Q_i), -np.inf, Q.dtype)
        l_i = np.zeros(len(Q_i), Q.dtype)
"""
ENDED = """        l_i = np.where(l_i == 0, 1, l_i)  # a row that saw no key: O = 0 / 1, L = -inf + log 1
        O[i : i + Br] = O_i / l_i[:, None]
        L[i : i + Br] = m_i + np.log(l_i)
"""
TYPED = """def online_softmax_step(
    O: np.ndarray, m: np.ndarray, l: np.ndarray, S: np.ndarray, V_j: np.ndarray
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:"""
SAFE = """    assert S.ndim == 2 and len(S) == len(m), f"{S.shape}, {m.shape}"
    m_safe = m_new.copy()
    m_safe[np.isneginf(m_safe)] = 0"""
SUMMED = """    with np.errstate(all="ignore"):
        O = np.multiply(O, alpha[:, np.newaxis]) + np.einsum("ij,jd->id", P, V_j)"""
MAIN = """    return call.finish()


if __name__ == "__main__":
    x = np.linspace(-1, 1, 24).reshape(1, 3, 2, 4)
    print("out: {}".format(attention(x, x, x)[0].round(3)), max((y := x.ravel()), key=lambda e: abs(e)), y.mean())"""
VISIBLE = """@triton.jit
def visible_at(keys, rows, shift):
    return keys[None, :] <= rows[:, None] + shift


@triton.jit
def attention_kernel"""
RESCALED = """        O_i = O_i * alpha[:, None]
        O_i += tl.dot(P.to(V_j.dtype), V_j, input_precision="ieee")"""
INTO = """        O_i = O_i * tl.expand_dims(alpha, 1)
        O_i = tl.dot(P.to(V_j.dtype), V_j, acc=O_i, input_precision="ieee")"""
ROUND = '@triton.heuristics({"ROUND": lambda names: names["d"] > 64})\n@triton.jit\ndef attention_kernel'
HELPERS = r"""static_assert(Bc % 16 == 0, "it's a tile: 8'000 \"rows\" // no comment");

/* The chunk's place (c ^ r),
   as in "s21". */
DEVICE constexpr unsigned place(unsigned row, unsigned chunk) { return chunk ^ (row & 7u); }

template <typename A, typename B>
DEVICE auto sum(A a, B b) {
  auto add = [](auto x, auto y) { return x + y; };
  return static_cast<u32>(add(a, b));
}

struct Offset {
  u32 row, chunk;
  template <int d>
  DEVICE u32 of() const {
    return sum(row * (d * 2), place(row, chunk) * 16);
  }
};

template <int d>
DEVICE u32 tile_offset("""
OFFSET = """  constexpr int many = 1'024;
  if constexpr (d > many) return 0;
  const u32 zeros[2] = {0, 0};
#pragma unroll 2
  for (unsigned i = 0; i < 2u; ++i) row += zeros[i];
  float unused = expf(0.f) + exp2f(0.f) + fmaxf(1.f, sqrtf(2.f)) + fabsf(1.f);
  (void)unused;
  using Place = Offset;
  return Place{row, min(chunk, chunk)}.template of<d>();"""

HONEST = (
    s02("numpy_in_other_words",
        ("import numpy as np\n",
         "from __future__ import annotations\n\nfrom typing import Tuple\n\nimport numpy as np\n"),
        ("def online_softmax_step(O, m, l, S, V_j):", TYPED),
        ("    m_safe = np.where(m_new == -np.inf, 0, m_new)", SAFE),
        ("l = alpha * l + P.sum(axis=1)", "l = alpha * l + np.add.reduce(P, axis=-1)"),
        ("    O = alpha[:, None] * O + P @ V_j", SUMMED),
        ("online_softmax_step(O_i, m_i, l_i, S, V_j)", "online_softmax_step(O=O_i, m=m_i, l=l_i, S=S, V_j=V_j)")),
    s02("a_class_for_the_state", ("def tiled_attention(", STATE.replace("\'\'\'", '"' * 3)),
        (BEGUN, "        state = State(*Q_i.shape, Q.dtype)\n"),
        ("O_i, m_i, l_i = online_softmax_step(O_i, m_i, l_i, S, V_j)", "state.take(S, V_j)"),
        (ENDED, "        O[i : i + Br], L[i : i + Br] = state.result\n")),
    s02("smaller_tiles", ('Br, Bc = STAGE.tiles["Br"], STAGE.tiles["Bc"]', "Br, Bc = 32, 16"), fakes=WALK_TESTS),
    Trick("tried_out_in_the_file", "ps1", "s01",
          (("        S = np.where(j <= i + len(K) - len(Q), S, -np.inf)\n",
            "        S[j > i + len(K) - len(Q)] = -np.inf\n"), ("    return call.finish()", MAIN))),
    Trick("powers_of_two", "ps2", "s12",
          (("P = tl.exp(S - m_safe[:, None])", "P = tl.math.exp2((S - m_safe[:, None]) * 1.4426950408889634)"),
           ("        m_i = m_new\n",
            '        m_i = m_new\n        tl.debug_barrier()\n        tl.static_assert(d >= 16, "d")\n'),
           (RESCALED, INTO), ("@triton.jit\ndef attention_kernel", VISIBLE),
           ("visible = visible & (keys[None, :] <= rows[:, None] + shift)",
            "visible &= visible_at(keys, rows, shift)")),
          fakes=("2.1", "2.2", "2.3", "2.4", "2.5", "2.6")),
    Trick("heuristics", "ps2", "s12",
          (("@triton.jit\ndef attention_kernel", ROUND),
           ("    Bc: tl.constexpr,\n):", "    Bc: tl.constexpr,\n    ROUND: tl.constexpr,\n):")), fakes=("2.1", "2.6")),
    Trick("helpers_and_templates", "ps3", "s21",
          (("template <int d>\nDEVICE u32 tile_offset(", HELPERS),
           ("  return row * (d * 2) + (chunk ^ row % 8) * 16;", OFFSET)), fakes=("1.1", "3.1")),
)  # fmt: skip
