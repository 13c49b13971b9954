// Activations to int8: each row by its own largest magnitude, or all by one given scale.
#include "rowwise.cuh"
#include "codes.cuh"

struct DynamicShape {
    Rows x, q, scale;
    u32 rows, cols;
};

template <int TEAM, class A> DEVICE void dynamic(const void* x, i8* q, float* scale_to, const DynamicShape& s) {
    constexpr int VEC = A::VEC;
    const u32 row = team_row<TEAM>();
    const bool live = row < s.rows;
    const u32 n = live ? s.cols : 0, r = live ? row : 0;
    const A from(x, s.x, r);
    const Codes to(q, s.q, r);
    Kept<TEAM, A> kept;
    kept.load(from, n);
    u32 most = 0;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) most = magnitude<VEC>(kept.v[c], most);
    for (u32 i = kept.beyond(); i < n; i += TEAM * VEC) {
        float v[VEC];
        from.load(i, n, v);
        most = magnitude<VEC>(v, most);
    }
    const float scale = code_scale(team_join<TEAM>(most, Most()));
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++)
        if (kept.slot(c) < n) to.store<VEC>(kept.slot(c), n, kept.v[c], scale);
    for (u32 i = kept.beyond(); i < n; i += TEAM * VEC) {
        float v[VEC];
        from.load(i, n, v);
        to.store<VEC>(i, n, v, scale);
    }
    if (live && team_lane<TEAM>() == 0) scale_to[s.scale.at(r)] = scale;
}

struct StaticShape {
    Rows x, q;
    u32 rows, cols;
};

// A slot for each thread.
template <class A>
DEVICE void fixed(const void* x, const float* scale, const float* zero, i8* q, const StaticShape& s) {
    constexpr int VEC = A::VEC;
    const u32 slots = (s.cols + VEC - 1) / VEC, slot = blockIdx.x * 256 + threadIdx.x;
    const u32 row = slot / slots, i = slot % slots * VEC;
    if (row >= s.rows) return;
    const float steps = scale[0], start = zero ? zero[0] : 0.0f;
    float v[VEC];
    A(x, s.x, row).load(i, s.cols, v);
#pragma unroll
    for (int l = 0; l < VEC; l++) v[l] = v[l] / steps + start;
    Codes(q, s.q, row).put<VEC>(i, s.cols, v);
}

#define DYNAMIC(name, team, threads, A)                                                                                \
    KERNEL_BLOCKS(threads, 1) quantize_dynamic_##name##_##team(const void* x, i8* q, float* scale, DynamicShape s) {   \
        take_turn();                                                                                                   \
        dynamic<team, A>(x, q, scale, s);                                                                              \
    }
#define STATIC(name, A)                                                                                                \
    KERNEL(256) quantize_static_##name(const void* x, const float* scale, const float* zero, i8* q, StaticShape s) {   \
        take_turn();                                                                                                   \
        fixed<A>(x, scale, zero, q, s);                                                                                \
    }
#define ALL(name, A)                                                                                                   \
    DYNAMIC(name, 32, 128, A)                                                                                          \
    DYNAMIC(name, 512, 512, A)                                                                                         \
    STATIC(name, A)

ALL(f32, Dense<float>)
ALL(f16, Dense<f16>)
ALL(bf16, Dense<bf16>)
ALL(any, Any)
