// A stack of its own for each thread of a block, and the switch between them.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

#if defined(__x86_64__)
struct Fiber {
    void* stack;
};
#else
struct Fiber {
    ucontext_t context;
};
#endif

// Leaves `from`, which keeps its place, and goes on in `to`.
void fiber_switch(Fiber& from, Fiber& to);

// Makes a fiber that calls `body` on the stack [low, low + bytes) when it is first switched to; `body` must not return.
void fiber_make(Fiber& fiber, char* low, size_t bytes, void (*body)());

// Stacks of one size with a page below each that may not be touched.
class Stacks {
public:
    static constexpr size_t BYTES = 64 * 1024;

    explicit Stacks(unsigned count);
    ~Stacks();
    Stacks(const Stacks&) = delete;
    // The lowest byte that stack i may use.
    char* low(unsigned i) const;
    // Bytes of stack i, a little different from its neighbours' so that their tops do not share cache lines' sets.
    size_t bytes(unsigned i) const;

private:
    char* base;
    unsigned count;
};

}  // namespace simt
