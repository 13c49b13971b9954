// Rotary positions: blocks for each token, whose threads take slots of its heads in turn.
#include "rope.cuh"

template <class A>
DEVICE void rope(const void* x, const void* positions, const float* cos, const float* sin, void* y, const RopeShape& s) {
    const u32 token = blockIdx.x;
    const Angles angles(positions, cos, sin, token, s);
    const Slots<A> slots(s);
    for (u32 i = blockIdx.y * blockDim.x + threadIdx.x; i < s.heads * slots.count; i += gridDim.y * blockDim.x) {
        const u32 row = token * s.heads + i / slots.count;
        slots.go(i % slots.count, A(x, s.x, row), A(y, s.y, row), angles, s);
    }
}

#define ROPE(name, A)                                                                                                  \
    KERNEL(128)                                                                                                        \
    rope_##name(const void* x, const void* positions, const float* cos, const float* sin, void* y, RopeShape s) {      \
        take_turn();                                                                                                   \
        rope<A>(x, positions, cos, sin, y, s);                                                                         \
    }

ROPE(f32, Dense<float>)
ROPE(f16, Dense<f16>)
ROPE(bf16, Dense<bf16>)
ROPE(any, Any)
