// Kernels that show what threads do together, and kernels that do it wrong.
#include "vendor.cuh"

KERNEL(256) add_one(float* y, const float* x, u32 n) {
    take_turn();
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) y[i] = x[i] + 1.0f;
}

// Each thread reads what another wrote before the barrier, in both directions.
KERNEL(256) turn_round(u32* y, const u32* x) {
    take_turn();
    SHARED(u32, held, 256);
    held[threadIdx.x] = x[blockIdx.x * 256 + threadIdx.x];
    sync();
    y[blockIdx.x * 256 + threadIdx.x] = held[255 - threadIdx.x];
}

KERNEL(96) lanes(u32* y, float* sums) {
    take_turn();
    const u32 v = threadIdx.x * 3 + 1;
    y[threadIdx.x * 4] = warp_xor(v, 5u);
    y[threadIdx.x * 4 + 1] = warp_from(v, 7u);
    y[threadIdx.x * 4 + 2] = warp_ballot(lane32() % 3 == group32());
    y[threadIdx.x * 4 + 3] = (u32)(warp_from((u64)v << 32 | 9u, lane32() + 1) >> 32);
    sums[threadIdx.x * 3] = warp_sum((float)v);
    sums[threadIdx.x * 3 + 1] = block_sum<96>((float)v) + block_sum<96>(1.0f);
    sums[threadIdx.x * 3 + 2] = block_max<96>(-(float)v);
}

struct Scale {
    float by;
    u32 from;
    u64 offset;
};
KERNEL(32) letters(float* y, Scale scale, i32 i, u32 u, u64 l, float f) {
    take_turn();
    if (threadIdx.x == 0) y[0] = scale.by * (float)(scale.from + scale.offset) + (float)i + (float)u + (float)l + f;
}

#define MMA(name, go, sum)                                                                                             \
    KERNEL(64) name(sum* d, const u32* a, const u32* b) {                                                              \
        take_turn();                                                                                                   \
        const u32 g = lane32() / 4, t = lane32() % 4;                                                                  \
        const u32 ra[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};                \
        const u32 rb[2] = {b[g * 8 + t], b[g * 8 + t + 4]};                                                            \
        sum acc[4] = {0, 0, 0, 0};                                                                                     \
        go(acc, ra, rb);                                                                                               \
        d += group32() * 128;                                                                                          \
        d[g * 8 + 2 * t] = acc[0];                                                                                     \
        d[g * 8 + 2 * t + 1] = acc[1];                                                                                 \
        d[(g + 8) * 8 + 2 * t] = acc[2];                                                                               \
        d[(g + 8) * 8 + 2 * t + 1] = acc[3];                                                                           \
    }
MMA(mma_of_f16, mma_f16, float)
MMA(mma_of_bf16, mma_bf16, float)
MMA(mma_of_i8, mma_i8, i32)
MMA(mma_of_e4m3, mma_e4m3, float)

KERNEL(32) matrices(u32* straight, u32* turned, const void* from) {
    take_turn();
    SHARED_DYNAMIC(u16, held);
    copy_async16(held + lane32() * 8, static_cast<const u16*>(from) + lane32() * 8, lane32() != 31);
    copy_async_commit();
    copy_async_wait<0>();
    sync();
    load_matrix_x4(straight + lane32() * 4, held + lane32() * 8);
    load_matrix_x4_trans(turned + lane32() * 4, held + lane32() * 8);
}

// Two groups of copies; y tells what was there after a wait for the first and after a wait for both.
KERNEL(32) copies(u32* y, const u32* x) {
    take_turn();
    SHARED(u32, held, 256);
    copy_async16(held + lane32() * 4, x + lane32() * 4, true);
    copy_async_commit();
    copy_async16(held + 128 + lane32() * 4, x + 128 + lane32() * 4, true);
    copy_async_commit();
    copy_async_wait<1>();
    y[lane32() * 4] = held[lane32() * 4];
    y[lane32() * 4 + 1] = held[128 + lane32() * 4];
    copy_async_wait<0>();
    y[lane32() * 4 + 2] = held[128 + lane32() * 4];
    y[lane32() * 4 + 3] = held[lane32() * 4 + 3];
}

#define TO(name, T)                                                                                                    \
    KERNEL(32) to_##name(T* y, const float* x, u32 n) {                                                                \
        take_turn();                                                                                                   \
        for (u32 i = threadIdx.x; i < n; i += 32) y[i] = from_f32<T>(x[i]);                                            \
    }                                                                                                                  \
    KERNEL(32) of_##name(float* y, const T* x, u32 n) {                                                                \
        take_turn();                                                                                                   \
        for (u32 i = threadIdx.x; i < n; i += 32) y[i] = to_f32(x[i]);                                                 \
    }
TO(f16, f16)
TO(bf16, bf16)
TO(e4m3, f8_e4m3)
TO(e5m2, f8_e5m2)
TO(i8, i8)
TO(u8, u8)

// What goes wrong.
KERNEL(64) half_at_a_shuffle(float* y) {
    take_turn();
    if (lane32() < 16) y[threadIdx.x] = warp_sum(1.0f);
    sync();
}
KERNEL(64) some_end_before_a_shuffle(float* y) {
    take_turn();
    if (threadIdx.x == 40) return;
    y[threadIdx.x] = warp_sum(1.0f);
}
KERNEL(64) some_end_before_a_barrier(float* y) {
    take_turn();
    if (threadIdx.x >= 32) return;
    sync();
    y[threadIdx.x] = 1.0f;
}
KERNEL(32) no_wait(u32* y, const u32* x) {
    take_turn();
    SHARED(u32, held, 128);
    copy_async16(held + lane32() * 4, x + lane32() * 4, true);
    copy_async_commit();
    y[lane32()] = held[lane32() * 4];
}
KERNEL(32) beyond_shared(float* y) {
    take_turn();
    SHARED(float, held, 32);
    held[lane32() + 1] = 1.0f;
    sync();
    y[lane32()] = held[lane32()];
}
KERNEL(32) much_shared(float* y) {
    take_turn();
    SHARED(float, held, 20000);
    held[lane32()] = 1.0f;
    y[lane32()] = held[lane32()];
}
KERNEL(32) beyond(float* y, u32 n) {
    take_turn();
    y[n + lane32()] = 1.0f;
}
KERNEL(32) through_null(float* y) {
    take_turn();
    y[lane32()] = 1.0f;
}
KERNEL(32) unwritten(float* y, const float* x) {
    take_turn();
    y[lane32()] = x[lane32()] * 2.0f;
}
KERNEL(32) deep(u32* y) {
    take_turn();
    u32 rows[20000];
    for (u32 i = 0; i < 20000; i++) rows[i] = i * y[0];
    for (u32 i = 0; i < 20000; i++) y[lane32()] += rows[i * 7919 % 20000];
}
// Every block adds to one number, and the last to come writes how many came.
KERNEL(64) last_block(u32* counter, u32* y) {
    take_turn();
    SHARED(u32, place, 1);
    if (threadIdx.x == 0) place[0] = atomic_add(counter, 1u);
    sync();
    if (threadIdx.x == 63 && place[0] == gridDim.x * gridDim.y - 1) y[0] = place[0] + 1;
    fence();
}
