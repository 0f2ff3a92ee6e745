"""What a submission may say: an allow-list over the syntax tree (Python) and over the words (CUDA).

The point of an assignment is to write attention, not to find it. So a submission imports what its stage imports, uses
those modules' plain functions, and does nothing by reflection. It deters; it is no sandbox.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch

from stages import Stage
from stages.common.contract import Call
from stages.common.record import Capability
from stages.common.where import Where


@dataclass(frozen=True)
class Refusal:
    """line: of the submitted file; what: what stands there; why: in a clause."""

    line: int
    what: str
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what} {self.why}"


FRAME = {"stages.common.contract": {"prepare"}, "stages.common": {"interpreter"}, "__future__": {"annotations"},
         "typing": {"Any", "Callable", "Iterator", "List", "Optional", "Sequence", "Tuple", "Union"}}  # fmt: skip
MODULES = {
    "numpy": ("numpy", "math"),
    "triton": ("torch", "triton", "triton.language", "math"),
    "cuda": (),
}
# Of numpy: everything but what reads files, runs code or looks behind arrays.
NOT_OF_NUMPY = {
    "ctypeslib", "lib", "load", "save", "savez", "savez_compressed", "fromfile", "tofile", "memmap", "testing", "f2py",
    "core", "_core", "distutils", "DataSource", "loadtxt", "savetxt", "genfromtxt", "fromregex", "show_config",
    "open_memmap", "info", "source", "lookfor", "rec", "ma", "polynomial", "compat", "random", "getbufsize", "fft",
    "char", "strings", "typing", "exceptions", "dtypes", "emath", "matlib", "matrixlib", "version", "array_api",
    "frompyfunc", "test", "bmat", "record", "recarray", "sys", "os",
}  # fmt: skip
# Of torch: what makes room for results. Nothing that computes.
OF_TORCH = {
    "empty", "empty_like", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "float16", "bfloat16",
    "float32", "float64", "int32", "int64", "inf", "nan", "Tensor", "dtype", "device", "finfo", "cuda",
}  # fmt: skip
OF_TRITON = {"jit", "cdiv", "next_power_of_2", "autotune", "heuristics", "Config", "language", "autotuner"}
OF_TORCH_CUDA = {"get_device_capability", "get_device_properties", "current_device", "is_available"}
NOT_OF_TRITON_LANGUAGE = {"core", "extra", "standard", "semantic", "random", "target_info"}

KNOWN = ("numpy", "math", "torch", "torch.cuda", "triton", "triton.language")
NOT_OF = {"numpy": NOT_OF_NUMPY, "math": set(), "triton.language": NOT_OF_TRITON_LANGUAGE}
OF = {"torch": OF_TORCH, "torch.cuda": OF_TORCH_CUDA, "triton": OF_TRITON}
WHY = {
    "numpy": "is not accepted: it leads out of arrays",
    "torch": "is not accepted: the kernel has to compute the result, and torch only makes room for it",
}
DEEP = {"linalg", "math", "language", "cuda"}  # modules within modules whose members are plain functions
VALUELESS = (*KNOWN, "numpy.linalg", "triton.language.math")  # modules: a dot has to follow
NOT_DEEP = NOT_OF_NUMPY | NOT_OF_TRITON_LANGUAGE | {"linalg", "lapack_lite"}
OF_A_FUNCTION = {"reduce", "at", "accumulate", "outer", "reduceat", "itemsize", "eps", "max", "min", "tiny", "type"}
DTYPE = re.compile(r"(bfloat|float|int|uint)\d+|constexpr|tensor")
# Attributes of anything that lead out of the language's plain part, or out of the arrays.
NO_ATTRIBUTE = {
    "ctypes", "tofile", "dump", "dumps", "tolist", "item", "numpy", "data_ptr", "storage", "untyped_storage", "view_as",
    "mro", "matmul_", "apply_", "map_", "register_hook", "set_", "share_memory_", "sdp_kernel", "ops", "nn", "func",
    "softmax", "logsumexp", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention",
    "resize", "base",
}  # fmt: skip
ONLY_TRITON = {"tolist", "item", "numpy", "softmax", "logsumexp", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"}
PREFIXES = ("f_", "tb_", "gi_", "cr_", "co_", "ag_", "func_", "_")
# Attributes of a value: of arrays, numbers, texts and containers, of the frame's records, of Triton's blocks and of
# what is known of a GPU. A list of what leads astray would never be whole: an exception holds the module it is about.
VALUES = (
    np.ndarray, np.float64, np.int64, np.bool_, np.dtype, np.ufunc, np.finfo, np.iinfo, list, dict, str, tuple, set,
    range, slice, complex, torch.Tensor, torch.dtype, torch.finfo, Exception, Call, Where, Stage, Capability,
)  # fmt: skip
ATTRIBUTES = {name for kind in VALUES for name in dir(kind)} | {
    *(field.name for kind in (Call, Where, Stage, Capability) for field in fields(kind)),
    *("eps", "max", "min", "tiny", "bits", "smallest_normal", "resolution"),
    *("trans", "element_ty", "value", "scalar", "broadcast_to", "expand_dims", "primitive_bitwidth", "cast", "advance"),
    *("is_floating", "is_fp16", "is_bf16", "is_fp32", "is_block", "is_ptr", "exp2", "cumsum", "flip", "warp_size"),
    *("multi_processor_count", "major", "minor", "name", "total_memory", "shared_memory_per_block"),
    *("shared_memory_per_block_optin", "regs_per_multiprocessor", "max_threads_per_multi_processor"),
}
NOT_OWN = set(sys.stdlib_module_names) | NOT_DEEP  # as names of attributes of the file's own
METHODS = {"__init__", "__call__", "__len__", "__iter__", "__next__", "__getitem__", "__repr__", "__str__"}
BUILTINS = {
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "filter", "float", "int", "isinstance", "len", "list",
    "map", "max", "min", "pow", "print", "range", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple",
    "zip", "True", "False", "None", "ValueError", "TypeError", "AssertionError", "NotImplementedError",
    "ZeroDivisionError", "RuntimeError", "frozenset", "repr", "Exception", "object", "property", "staticmethod", "iter",
    "next", "callable", "complex", "IndexError", "KeyError", "ArithmeticError", "FloatingPointError", "OverflowError",
}  # fmt: skip
BUILTIN_NAMES = frozenset(dir(builtins))


def refusals(stage: Stage, source: str, accept: Iterable[str] = ()) -> list[Refusal]:
    """What in `source`, submitted as the stage's kernel file, is not accepted. accept: dotted names that are."""
    if stage.capability.backend == "cuda":
        from tools.assignment.symbols import foreign  # with the emulator, which a NumPy stage has no use for

        return _cuda(source) or [Refusal(1, name, "is not for a kernel to call") for name in foreign(stage, source)]
    check = _Check(stage, set(accept))
    try:
        # As bytes, as the import reads them: in another encoding, which a comment can name, the file says other things.
        check.visit(ast.parse(source.encode("utf-8")))
    except (SyntaxError, ValueError):
        return []  # the import says it better
    except (RecursionError, MemoryError):
        return [Refusal(1, "an expression", "is nested too deeply to be read")]
    return sorted(check.found, key=lambda refusal: refusal.line)


class _Check(ast.NodeVisitor):
    def __init__(self, stage: Stage, accept: set[str]):
        self.backend, self.accept = stage.capability.backend, accept
        self.modules = MODULES[self.backend]
        self.frame = {**FRAME, f"stages.{stage.name}": {"STAGE"}}
        self.found: list[Refusal] = []
        self.aliases: dict[str, str] = {}  # name in the file -> what it is of
        self.defined: set[str] = set()
        self.own: set[str] = set()  # attributes that the file itself defines
        self.as_base: set[int] = set()  # expressions that a dot follows

    def refuse(self, node: ast.AST, what: str, why: str) -> None:
        refusal = Refusal(getattr(node, "lineno", 1), what, why)
        if refusal not in self.found:
            self.found.append(refusal)

    def visit_Module(self, node: ast.Module) -> None:
        for inner in ast.walk(node):
            self.naming(inner)
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self.defined.add(inner.id)
            elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                self.own.add(inner.attr)
            elif isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
                self.defined.add(inner.name)
                body = inner.body if isinstance(inner, ast.ClassDef) else []
                self.own |= {member.name for member in body if isinstance(member, ast.FunctionDef)}
                self.own |= {name.id for member in body for name in ast.walk(member) if isinstance(name, ast.Name)}
            elif isinstance(inner, ast.arg):
                self.defined.add(inner.arg)
            elif isinstance(inner, ast.ExceptHandler) and inner.name:
                self.defined.add(inner.name)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import):
                self.imports(inner)
            elif isinstance(inner, ast.ImportFrom):
                self.imports_from(inner)
        self.generic_visit(node)

    def naming(self, node: ast.AST) -> None:
        """Refuse what gives something a name that Python or a library looks for."""
        names = [getattr(node, key, None) for key in ("name", "arg", "asname", "rest")]
        for name in (*names, *getattr(node, "names", ())):
            if isinstance(name, str) and name.startswith("__") and name not in METHODS:
                self.refuse(node, name, "is not accepted as a name: libraries look for it")

    def imports(self, node: ast.Import) -> None:
        for name in node.names:
            if name.name not in self.modules and name.name not in self.accept:
                accepted = ", ".join(self.modules)
                self.refuse(node, f"import {name.name}", f"is not accepted in this stage; accepted: {accepted}")
            top = name.name.partition(".")[0]
            self.aliases[name.asname or top] = name.name if name.asname else top

    def imports_from(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        for name in node.names:
            known = name.asname or name.name
            if name.name in self.frame.get(module, ()) or f"{module}.{name.name}" in self.accept:
                self.defined.add(known)
            elif module in self.modules and name.name != "*":
                self.aliases[known] = f"{module}.{name.name}"
                self.member(node, self.aliases[known])
            else:
                self.refuse(node, f"from {module} import {name.name}", "is not accepted in this stage")

    def member(self, node: ast.AST, full: str) -> None:
        """Refuse "numpy.lib.x" and its like; what is no member of a known module is not looked at."""
        if full in self.accept or full in KNOWN:
            return
        module = max((m for m in KNOWN if full.startswith(f"{m}.")), key=len, default="")
        first, _, rest = full[len(module) + 1 :].partition(".")
        if not module or not first:
            return
        if module in NOT_OF:
            fine = first not in NOT_OF[module] and not first.startswith("_")
        else:
            fine = first in OF[module]
        if not fine:
            self.refuse(node, f"{module}.{first}", WHY.get(module, "is not accepted in this stage"))
        elif not NOT_DEEP.isdisjoint(rest.split(".")):  # a module again, with others in it
            self.refuse(node, full, "is not accepted in this stage")
        elif rest and first not in DEEP and rest not in OF_A_FUNCTION and not DTYPE.fullmatch(first):
            self.refuse(node, full, "is not accepted in this stage")

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if (
            name.startswith("__")
            and name != "__name__"
            or (name in BUILTIN_NAMES - BUILTINS - {"__name__"} and name not in self.defined | set(self.aliases))
        ):
            self.refuse(node, name, "is not accepted: an assignment needs none of it")
        is_module = self.aliases.get(name) in VALUELESS or name == "interpreter"
        if is_module and id(node) not in self.as_base:
            self.refuse(node, name, "is a module: only its members are accepted")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name, path, base = node.attr, [node.attr], node.value
        while isinstance(base, ast.Attribute):
            path.append(base.attr)
            base = base.value
        root = self.aliases.get(base.id) if isinstance(base, ast.Name) else None
        self.as_base.add(id(node.value))
        if not isinstance(node.ctx, ast.Load):
            self.stored(node)
        if isinstance(base, ast.Name):
            if base.id in ("interpreter", "prepare"):
                self.refuse(node, f"{base.id}.{name}", "is not accepted: it belongs to the frame")
        if root:
            full = ".".join((root, *reversed(path)))
            self.member(node, full)
            if full in VALUELESS and id(node) not in self.as_base:
                self.refuse(node, full, "is a module: only its members are accepted")
        banned = NO_ATTRIBUTE - (ONLY_TRITON if self.backend == "numpy" else set())
        of_a_library = root and root.partition(".")[0] in ("numpy", "math") or root == "triton.language"
        if name in banned and not of_a_library:
            self.refuse(node, f".{name}", "is not accepted in this stage")
        if name.startswith(PREFIXES) and f".{name}" not in self.accept:
            self.refuse(node, f".{name}", "is not accepted: it looks behind Python's objects")
        elif not root and name not in ATTRIBUTES | self.own - NOT_OWN and f".{name}" not in self.accept:
            self.refuse(node, f".{name}", "is not accepted: neither arrays nor the frame have it")
        self.generic_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        self.refuse(node, "a class pattern", "is not accepted: it reads attributes")
        self.generic_visit(node)

    def visit_Global(self, node) -> None:
        self.refuse(node, "global", "is not accepted: a result depends on the arguments alone")

    def visit_AsyncFunctionDef(self, node) -> None:
        self.refuse(node, "async", "is not accepted")

    def stored(self, node: ast.Attribute) -> None:
        """An attribute of a module, of the contract or of the record is nobody's to set, in whatever statement."""
        base = node.value
        if not isinstance(base, ast.Name) or base.id in self.aliases or base.id in ("STAGE", "prepare"):
            self.refuse(node, f"{ast.unparse(node)} = ...", "is not accepted")


# ---- CUDA -----------------------------------------------------------------------------------------------------------

INCLUDES = ('"ptx.cuh"', '"params.cuh"')
# As the compiler divides a text. What a comment seems to be within a string is none.
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>"(?:\\.|[^"\\\n])*")|(?P<char>'(?:\\[^\n][^'\n]*|[^'\\\n])')"""
    r"""|(?P<number>\.?\d(?:[eEpP][+-]|'?[\w.])*)|(?P<word>[^\W\d]\w*)|(?P<space>\s+)|(?P<other>.)""",
    re.S,
)
# What makes compilers read another text than this one: a line that goes on, a trigraph, a carriage return by itself.
OTHERWISE = re.compile(r"\\[^\S\n]*\n|\\\Z|\?\?[=/'()!<>-]|\r")
RAW = re.compile(r'(u8|[uUL])?R"')
# Words that a kernel has no use for: the host's library, the compiler's back doors, the emulator's own names.
NO_WORD = {
    "asm", "__asm__", "system", "popen", "fork", "exec", "execl", "execv", "execve", "fopen", "open", "write", "read",
    "mmap", "munmap", "mprotect", "syscall", "dlopen", "dlsym", "getenv", "std", "printf", "fprintf", "exit", "_exit",
    "abort", "kill", "signal", "raise", "socket", "emulator", "emu", "FILE", "environ", "goto", "new", "delete",
    "malloc", "free", "memcpy", "memset", "memmove", "thread_local", "throw", "try", "catch", "operator", "attribute",
    "__attribute__", "reinterpret_cast", "const_cast", "dynamic_cast", "friend", "virtual", "union", "alignas",
    "volatile", "gnu", "import", "module", "typeid",
}  # fmt: skip
# Of the words that are the compiler's own (`__word` and `_Word`), those of CUDA.
OF_CUDA = {
    "__global__", "__device__", "__host__", "__forceinline__", "__inline__", "__noinline__", "__launch_bounds__",
    "__restrict__", "__shared__", "__align__", "__grid_constant__", "__constant__", "__syncthreads", "__syncwarp",
    "__ballot_sync", "__any_sync", "__all_sync", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
    "__int_as_float", "__float_as_int", "__uint_as_float", "__float_as_uint", "__expf", "__exp10f", "__logf", "__log2f",
    "__powf", "__fdividef", "__fadd_rn", "__fmul_rn", "__fmaf_rn", "__frcp_rn", "__fdiv_rn", "__saturatef", "__popc",
    "__clz", "__ffs", "__brev", "__byte_perm", "__mul24", "__umulhi", "__mulhi", "__ldg", "__activemask",
}  # fmt: skip


def _cuda(source: str) -> list[Refusal]:
    found = []
    for strange in OTHERWISE.finditer(source):
        line = source.count("\n", 0, strange.start()) + 1
        found.append(Refusal(line, repr(strange[0]), "is not accepted: it makes compilers read another text"))
    code = TOKEN.sub(lambda m: ("\n" * m[0].count("\n") or " ") if m["comment"] else m[0], source)
    for number, line in enumerate(code.split("\n"), 1):
        bare = line.strip()
        if bare.startswith("#") or bare.startswith("%:"):
            directive = re.sub(r"^#\s*", "#", bare)
            if directive.startswith("#include"):
                if directive[len("#include") :].strip() not in INCLUDES:
                    found.append(Refusal(number, bare, f"is not accepted; accepted: {' and '.join(INCLUDES)}"))
            elif not directive.startswith("#pragma unroll"):
                found.append(
                    Refusal(number, bare.split()[0], "is not accepted: the kernel is one text for every compiler")
                )
            continue
        words = [token["word"] for token in TOKEN.finditer(line) if token["word"]]
        for word in words:
            reserved = re.match("__|_[A-Z]", word) and word not in (*OF_CUDA, "_Pragma")
            if word in NO_WORD or reserved or word.startswith("EMULATOR"):
                found.append(Refusal(number, word, "is not accepted in a kernel of this course"))
        if RAW.search(line):
            found.append(Refusal(number, "a raw string", "is not accepted in a kernel of this course"))
        if "_Pragma" in words:
            found.append(Refusal(number, "_Pragma", "is not accepted; accepted: #pragma unroll"))
        # Shared memory is reached through ptx.cuh alone: what goes round it is neither counted nor checked.
        if "smem" in words and not re.search(r"extern\s+__shared__|shared_address\s*\(\s*smem\s*\)", line):
            found.append(Refusal(number, "smem", "is read and written through ptx.cuh only, by shared_address(smem)"))
        if "__shared__" in words and "extern" not in words:
            found.append(
                Refusal(number, "__shared__", "is not accepted: the launch reserves smem, which is all there is")
            )
        if "extern" in words and "__shared__" not in words:
            found.append(Refusal(number, "extern", "is not accepted: a kernel calls what is in it and in ptx.cuh"))
        if "static" in words and "constexpr" not in words:
            found.append(Refusal(number, "static", "is not accepted: a result depends on the arguments alone"))
    return found
