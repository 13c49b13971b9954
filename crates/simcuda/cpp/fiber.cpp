#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace simt {

namespace {
constexpr size_t PAGE = 4096;
}

#if defined(__x86_64__)

extern "C" void simt_switch(void** from, void* to);
extern "C" void simt_enter();

// What a call must keep lies on the stack; a fiber that has not run has its body in r12.
asm(R"(
.text
.type simt_switch, @function
simt_switch:
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
.size simt_switch, .-simt_switch
.type simt_enter, @function
simt_enter:
    callq *%r12
    ud2
.size simt_enter, .-simt_enter
)");

void fiber_switch(Fiber& from, Fiber& to) { simt_switch(&from.stack, to.stack); }

void fiber_make(Fiber& fiber, char* low, size_t bytes, void (*body)()) {
    auto top = reinterpret_cast<uintptr_t>(low + bytes) & ~uintptr_t(15);
    auto* frame = reinterpret_cast<uintptr_t*>(top) - 7;
    memset(frame, 0, 7 * sizeof(uintptr_t));
    frame[3] = reinterpret_cast<uintptr_t>(body);
    frame[6] = reinterpret_cast<uintptr_t>(&simt_enter);
    fiber.stack = frame;
}

#else

void fiber_switch(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

void fiber_make(Fiber& fiber, char* low, size_t bytes, void (*body)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = low;
    fiber.context.uc_stack.ss_size = bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
}

#endif

Stacks::Stacks(unsigned count) : count(count) {
    void* at = mmap(nullptr, count * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "qiao-simcuda: no room for %u stacks\n", count);
        abort();
    }
    base = static_cast<char*>(at);
    for (unsigned i = 0; i < count; i++) mprotect(base + i * BYTES, PAGE, PROT_NONE);
}

Stacks::~Stacks() { munmap(base, count * BYTES); }

char* Stacks::low(unsigned i) const { return base + i * BYTES + PAGE; }

size_t Stacks::bytes(unsigned i) const { return BYTES - PAGE - (i % 32) * 320; }

}  // namespace simt
