// RMS norms whose rows are quantised to int8 at once, each by its own largest magnitude. A row lies in registers whole.
#include "codes.cuh"
#include "norms.cuh"

struct CodesShape {
    NormShape norm;
    Rows q, scale;
};

// y is written where somebody else reads it. The codes are those of y as it is stored.
template <int TEAM, class A, bool ADD>
DEVICE void norm_codes(const void* a, const void* b, const void* w, void* sum_to, void* y, i8* q, float* scale_to,
                       const CodesShape& shape) {
    const NormShape& s = shape.norm;
    const u32 row = team_row<TEAM>(), n = row < s.rows ? s.cols : 0, r = n ? row : 0;
    const A from(a, s.a, r), to(y, s.y, r);
    Kept<TEAM, A> kept;
    if (ADD) kept.load(from, A(b, s.b, r), n);
    else kept.load(from, n);
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        sum = squares<A::VEC>(kept.v[c], sum);
        if (ADD && kept.slot(c) < n) A(sum_to, s.sum, r).store(kept.slot(c), n, kept.v[c]);
    }
    const float inv = 1.0f / sqrtf(team_sum<TEAM>(sum) / n + s.eps);
    const Scale<A> scale = {{w, s.weight_dtype, 1.0f}, inv, s.offset, s.round != 0, to};
    u32 most = 0;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        if (kept.slot(c) < n) {
            scale.go(kept.slot(c), n, kept.v[c]);
#pragma unroll
            for (int l = 0; l < A::VEC; l++) kept.v[c][l] = kept.slot(c) + l < n ? to.round(kept.v[c][l]) : 0.0f;
            if (y) to.store(kept.slot(c), n, kept.v[c]);
            most = magnitude<A::VEC>(kept.v[c], most);
        }
    }
    const float step = code_scale(team_join<TEAM>(most, Most()));
    const Codes codes(q, shape.q, r);
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++)
        if (kept.slot(c) < n) codes.store<A::VEC>(kept.slot(c), n, kept.v[c], step);
    if (n && team_lane<TEAM>() == 0) scale_to[shape.scale.at(r)] = step;
}

#define CODES(name, team, threads, A)                                                                                  \
    KERNEL_BLOCKS(threads, 1)                                                                                          \
    rms_norm_codes_##name##_##team(const void* x, const void* w, void* y, i8* q, float* scale, CodesShape s) {         \
        take_turn();                                                                                                   \
        norm_codes<team, A, false>(x, nullptr, w, nullptr, y, q, scale, s);                                            \
    }                                                                                                                  \
    KERNEL_BLOCKS(threads, 1)                                                                                          \
    add_rms_norm_codes_##name##_##team(const void* a, const void* b, const void* w, void* sum, void* y, i8* q,         \
                                       float* scale, CodesShape s) {                                                   \
        take_turn();                                                                                                   \
        norm_codes<team, A, true>(a, b, w, sum, y, q, scale, s);                                                       \
    }
#define TEAMS(name, A)                                                                                                 \
    CODES(name, 32, 128, A)                                                                                            \
    CODES(name, 128, 128, A)                                                                                           \
    CODES(name, 512, 512, A)

TEAMS(f32, Dense<float>)
TEAMS(f16, Dense<f16>)
TEAMS(bf16, Dense<bf16>)
