"""Known ways to fool a grader: each has to score 0 on what it fakes. tests/test_assignment_tricks.py grades them.

A trick is a submission: the solution with pieces of text replaced in one stage's kernel file. Most are refused by the
check of what a file may say; `caught_when_run` says that the grader notices it without that check too.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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

TRITON = (
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
CUDA = (
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
