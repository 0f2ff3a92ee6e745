"""Compile a CUDA stage for a GPU that need not be there: NVRTC asks for neither a GPU nor a driver."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stages.common.cuda import COMPILE_OPTIONS, source
from stages.common.record import Stage


class CompileError(Exception):
    """The kernel does not compile. The message is the compiler's."""


@dataclass(frozen=True)
class Compiled:
    """One instantiation: the machine code, what the compiler said, registers a thread, bytes spilled to local
    memory."""

    cubin: bytes
    log: str
    registers: int
    spilled: int


def compile_for(stage: Stage, instantiation: str, arch: str) -> Compiled:
    """Compile `instantiation` ("attention_kernel<bf16, 128, true>") of a CUDA stage for `arch` ("80", "89", "90a").

    With the options that CuPy gets when it compiles the stage for a launch. Raises CompileError.
    """
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source(stage), str(stage.kernel_file), (), ())
    try:
        nvrtc.addNameExpression(program, instantiation)
        try:
            nvrtc.compileProgram(program, (*COMPILE_OPTIONS, f"-arch=sm_{arch}", "--ptxas-options=-v"))
        except nvrtc.NVRTCError as error:
            raise CompileError(f"{stage.name}, {instantiation}, sm_{arch}: {nvrtc.getProgramLog(program)}") from error
        log = nvrtc.getProgramLog(program)
        registers = re.search(r"Used (\d+) registers", log)
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", log))
        if registers is None:
            raise CompileError(f"{stage.name}, {instantiation}, sm_{arch}: the compiler reported no registers: {log}")
        return Compiled(nvrtc.getCUBIN(program), log, int(registers.group(1)), spilled)
    finally:
        nvrtc.destroyProgram(program)
