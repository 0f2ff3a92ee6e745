"""What a submission may say: an allow-list over the syntax tree (Python) and over the words (CUDA).

The point of an assignment is to write attention, not to find it. So a submission imports what its stage imports, uses
those modules' plain functions, and does nothing by reflection. It deters; it is no sandbox.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable
from dataclasses import dataclass

from stages import Stage


@dataclass(frozen=True)
class Refusal:
    """line: of the submitted file; what: what stands there; why: in a clause."""

    line: int
    what: str
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what} {self.why}"


FRAME = {"stages.common.contract": {"prepare"}, "stages.common": {"interpreter"}, "__future__": {"annotations"}}
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
    "frompyfunc",
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
OF_A_FUNCTION = {"reduce", "accumulate", "outer", "reduceat", "itemsize", "eps", "max", "min", "tiny", "type"}
DTYPE = re.compile(r"(bfloat|float|int|uint)\d+|constexpr|tensor")
# Attributes of anything that lead out of the language's plain part, or out of the arrays.
NO_ATTRIBUTE = {
    "ctypes", "tofile", "dump", "dumps", "tolist", "item", "numpy", "data_ptr", "storage", "untyped_storage", "view_as",
    "mro", "matmul_", "apply_", "map_", "register_hook", "set_", "share_memory_", "sdp_kernel", "ops", "nn", "func",
    "softmax", "logsumexp", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention",
}  # fmt: skip
ONLY_TRITON = {"tolist", "item", "numpy", "softmax", "logsumexp", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"}
PREFIXES = ("f_", "tb_", "gi_", "cr_", "co_", "ag_", "func_", "_")
BUILTINS = {
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "filter", "float", "int", "isinstance", "len", "list",
    "map", "max", "min", "pow", "print", "range", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple",
    "zip", "True", "False", "None", "ValueError", "TypeError", "AssertionError", "NotImplementedError",
    "ZeroDivisionError", "RuntimeError", "frozenset", "repr", "Exception",
}  # fmt: skip
BUILTIN_NAMES = frozenset(dir(builtins))


def refusals(stage: Stage, source: str, accept: Iterable[str] = ()) -> list[Refusal]:
    """What in `source`, submitted as the stage's kernel file, is not accepted. accept: dotted names that are."""
    if stage.capability.backend == "cuda":
        return _cuda(source)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # the import says it better
    check = _Check(stage, set(accept))
    check.visit(tree)
    return sorted(check.found, key=lambda refusal: refusal.line)


class _Check(ast.NodeVisitor):
    def __init__(self, stage: Stage, accept: set[str]):
        self.backend, self.accept = stage.capability.backend, accept
        self.modules = MODULES[self.backend]
        self.frame = {**FRAME, f"stages.{stage.name}": {"STAGE"}}
        self.found: list[Refusal] = []
        self.aliases: dict[str, str] = {}  # name in the file -> what it is of
        self.defined: set[str] = set()
        self.as_base: set[int] = set()  # names that a dot follows

    def refuse(self, node: ast.AST, what: str, why: str) -> None:
        refusal = Refusal(getattr(node, "lineno", 1), what, why)
        if refusal not in self.found:
            self.found.append(refusal)

    def visit_Module(self, node: ast.Module) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self.defined.add(inner.id)
            elif isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
                self.defined.add(inner.name)
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
        elif rest.partition(".")[0] in ("linalg", "lapack_lite"):  # a module again, with others in it
            self.refuse(node, full, "is not accepted in this stage")
        elif rest and first not in DEEP and rest not in OF_A_FUNCTION and not DTYPE.fullmatch(first):
            self.refuse(node, full, "is not accepted in this stage")

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if name.startswith("__") or (name in BUILTIN_NAMES - BUILTINS and name not in self.defined | set(self.aliases)):
            self.refuse(node, name, "is not accepted: an assignment needs none of it")
        is_module = self.aliases.get(name) in KNOWN or name == "interpreter"
        if is_module and id(node) not in self.as_base:
            self.refuse(node, name, "is a module: only its members are accepted")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name, path, base = node.attr, [node.attr], node.value
        while isinstance(base, ast.Attribute):
            path.append(base.attr)
            base = base.value
        root = self.aliases.get(base.id) if isinstance(base, ast.Name) else None
        if isinstance(base, ast.Name):
            self.as_base.add(id(base))
            if base.id in ("interpreter", "prepare"):
                self.refuse(node, f"{base.id}.{name}", "is not accepted: it belongs to the frame")
        if root:
            self.member(node, ".".join((root, *reversed(path))))
        banned = NO_ATTRIBUTE - (ONLY_TRITON if self.backend == "numpy" else set())
        of_a_library = root and root.partition(".")[0] in ("numpy", "math") or root == "triton.language"
        if name in banned and not of_a_library:
            self.refuse(node, f".{name}", "is not accepted in this stage")
        if name.startswith(PREFIXES) and f".{name}" not in self.accept:
            self.refuse(node, f".{name}", "is not accepted: it looks behind Python's objects")
        self.generic_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        self.refuse(node, "a class pattern", "is not accepted: it reads attributes")
        self.generic_visit(node)

    def visit_Global(self, node) -> None:
        self.refuse(node, "global", "is not accepted: a result depends on the arguments alone")

    def visit_AsyncFunctionDef(self, node) -> None:
        self.refuse(node, "async", "is not accepted")

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.target(target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.target(node.target)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.target(node.target)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self.target(node.target)
        self.generic_visit(node)

    def target(self, target: ast.AST) -> None:
        """An attribute of a module, of the contract or of the record is nobody's to set."""
        for inner in ast.walk(target):
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                base = inner.value
                if not isinstance(base, ast.Name) or base.id in self.aliases or base.id in ("STAGE", "prepare"):
                    self.refuse(inner, f"{ast.unparse(inner)} = ...", "is not accepted")


# ---- CUDA -----------------------------------------------------------------------------------------------------------

INCLUDES = ('"ptx.cuh"', '"params.cuh"')
COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
STRINGS = re.compile(r'"(\\.|[^"\\\n])*"')
# Words that a kernel has no use for: the host's library, the compiler's back doors, the emulator's own names.
NO_WORD = {
    "asm", "__asm__", "system", "popen", "fork", "exec", "execl", "execv", "execve", "fopen", "open", "write", "read",
    "mmap", "munmap", "mprotect", "syscall", "dlopen", "dlsym", "getenv", "std", "printf", "fprintf", "exit", "_exit",
    "abort", "kill", "signal", "raise", "socket", "emulator", "emu", "FILE", "environ", "goto", "new", "delete",
    "malloc", "free", "memcpy", "memset", "memmove", "thread_local", "throw", "try", "catch", "operator", "attribute",
    "__attribute__", "reinterpret_cast", "const_cast", "dynamic_cast", "friend", "virtual", "union", "alignas",
    "volatile",
}  # fmt: skip


def _cuda(source: str) -> list[Refusal]:
    found = []
    code = COMMENTS.sub(lambda m: "\n" * m[0].count("\n"), source)
    for number, line in enumerate(code.splitlines(), 1):
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
        words = re.findall(r"[A-Za-z_]\w*", STRINGS.sub('""', line))
        for word in words:
            if word in NO_WORD or word.startswith("__builtin") or word.startswith("EMULATOR"):
                found.append(Refusal(number, word, "is not accepted in a kernel of this course"))
        if "_Pragma" in words:
            found.append(Refusal(number, "_Pragma", "is not accepted; accepted: #pragma unroll"))
        # Shared memory is reached through ptx.cuh alone: what goes round it is neither counted nor checked.
        if "smem" in words and not re.search(r"extern\s+__shared__|shared_address\s*\(\s*smem\s*\)", line):
            found.append(Refusal(number, "smem", "is read and written through ptx.cuh only, by shared_address(smem)"))
        if "__shared__" in words and "extern" not in words:
            found.append(
                Refusal(number, "__shared__", "is not accepted: the launch reserves smem, which is all there is")
            )
        if "static" in words and "constexpr" not in words:
            found.append(Refusal(number, "static", "is not accepted: a result depends on the arguments alone"))
    return found
