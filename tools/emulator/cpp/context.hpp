// Contexts: a stack and where on it a computation stands. Switching from one to another by hand takes some 10 ns, and
// ucontext's swapcontext 300 ns, because it asks the kernel for the signal mask: it is here for other CPUs
// (-DEMULATOR_UCONTEXT).
#pragma once
#include <cstdint>
#include <cstring>

#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT
#endif

#ifdef EMULATOR_UCONTEXT

#include <ucontext.h>

namespace emulator {

struct Context {
  ucontext_t state;
};

inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

inline void make_context(Context& context, char* stack, size_t bytes, void (*function)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = bytes;
  context.state.uc_link = nullptr;
  makecontext(&context.state, function, 0);
}

}  // namespace emulator

#else

namespace emulator {

struct Context {
  void* stack_pointer = nullptr;  // what the calling convention preserves lies there
};

}  // namespace emulator

// emulator_switch(save, load): push what a function has to preserve, note the stack pointer in *save, go on from `load`.
#define EMULATOR_TEXT(x) EMULATOR_TEXT_(x)
#define EMULATOR_TEXT_(x) #x
#define EMULATOR_SWITCH EMULATOR_TEXT(__USER_LABEL_PREFIX__) "emulator_switch"

#if defined(__x86_64__)
asm(".text\n.p2align 4\n" EMULATOR_SWITCH ":\n"
    R"(
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
asm(".text\n.p2align 4\n" EMULATOR_SWITCH ":\n"
    R"(
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#endif

extern "C" void emulator_switch(void** save, void* load);

namespace emulator {

inline void switch_context(Context& from, Context& to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }

// A stack that looks as if `function` had just been interrupted before its first instruction.
inline void make_context(Context& context, char* stack, size_t bytes, void (*function)()) {
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(63));
#if defined(__x86_64__)
  constexpr int SAVED = 7, RETURN_ADDRESS = 6;
  --top;  // at a function's first instruction the stack pointer is 8 off a multiple of 16
#else
  constexpr int SAVED = 20, RETURN_ADDRESS = 11;
#endif
  top -= SAVED;
  memset(top, 0, (SAVED + (SAVED == 7)) * sizeof(void*));
  top[RETURN_ADDRESS] = reinterpret_cast<void*>(function);
  context.stack_pointer = top;
}

}  // namespace emulator

#endif
