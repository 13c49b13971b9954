// Norms along rows: the row is read once and kept in registers, and what is longer than those is read again.
#include "norms.cuh"

template <int TEAM, class A> DEVICE void rms_norm(const void* x, const void* w, void* y, const NormShape& s) {
    const u32 row = team_row<TEAM>(), n = row < s.rows ? s.cols : 0, r = n ? row : 0;
    const A from(x, s.a, r), to(y, s.y, r);
    Kept<TEAM, A> kept;
    kept.load(from, n);
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) sum = squares<A::VEC>(kept.v[c], sum);
    for (u32 i = kept.beyond(); i < n; i += TEAM * A::VEC) {
        float v[A::VEC];
        from.load(i, n, v);
        sum = squares<A::VEC>(v, sum);
    }
    const float inv = 1.0f / sqrtf(team_sum<TEAM>(sum) / n + s.eps);
    const Scale<A> scale = {{w, s.weight_dtype, 1.0f}, inv, s.offset, s.round != 0, to};
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        if (kept.slot(c) < n) {
            scale.go(kept.slot(c), n, kept.v[c]);
            to.store(kept.slot(c), n, kept.v[c]);
        }
    }
    for (u32 i = kept.beyond(); i < n; i += TEAM * A::VEC) {
        float v[A::VEC];
        from.load(i, n, v);
        scale.go(i, n, v);
        to.store(i, n, v);
    }
}

// The sum may be the storage of a or b: a thread writes what it alone has read, and what it reads again it has not written.
template <int TEAM, class A>
DEVICE void add_rms_norm(const void* a, const void* b, const void* w, void* sum_to, void* y, const NormShape& s) {
    const u32 row = team_row<TEAM>(), n = row < s.rows ? s.cols : 0, r = n ? row : 0;
    const A left(a, s.a, r), right(b, s.b, r), total(sum_to, s.sum, r), to(y, s.y, r);
    Kept<TEAM, A> kept;
    kept.load(left, right, n);
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        sum = squares<A::VEC>(kept.v[c], sum);
        if (kept.slot(c) < n) total.store(kept.slot(c), n, kept.v[c]);
    }
    for (u32 i = kept.beyond(); i < n; i += TEAM * A::VEC) {
        float v[A::VEC], t[A::VEC];
        left.load(i, n, v);
        right.load(i, n, t);
        for (int l = 0; l < A::VEC; l++) v[l] += t[l];
        sum = squares<A::VEC>(v, sum);
    }
    const float inv = 1.0f / sqrtf(team_sum<TEAM>(sum) / n + s.eps);
    const Scale<A> scale = {{w, s.weight_dtype, 1.0f}, inv, s.offset, s.round != 0, to};
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        if (kept.slot(c) < n) {
            scale.go(kept.slot(c), n, kept.v[c]);
            to.store(kept.slot(c), n, kept.v[c]);
        }
    }
    for (u32 i = kept.beyond(); i < n; i += TEAM * A::VEC) {
        float v[A::VEC], t[A::VEC];
        left.load(i, n, v);
        right.load(i, n, t);
        for (int l = 0; l < A::VEC; l++) v[l] += t[l];
        total.store(i, n, v);
        scale.go(i, n, v);
        to.store(i, n, v);
    }
}

// The sum of v - mean, or of its squares, over the elements of a slot that exist.
template <int VEC> DEVICE float spread(const float* v, u32 i, u32 n, float mean, float sum) {
#pragma unroll
    for (int l = 0; l < VEC; l++) {
        const float d = v[l] - mean;
        if (i + l < n) sum = fmaf(d, d, sum);
    }
    return sum;
}

template <int VEC>
DEVICE void deviate(const Weight& weight, const Weight& bias, float mean, float inv, u32 i, u32 n, float* v) {
    float w[VEC], b[VEC];
    weight.load<VEC>(i, n, w);
    bias.load<VEC>(i, n, b);
#pragma unroll
    for (int l = 0; l < VEC; l++) v[l] = (v[l] - mean) * inv * w[l] + b[l];
}

template <int TEAM, class A>
DEVICE void layer_norm(const void* x, const void* w, const void* b, void* y, const NormShape& s) {
    const u32 row = team_row<TEAM>(), n = row < s.rows ? s.cols : 0, r = n ? row : 0;
    const A from(x, s.a, r), to(y, s.y, r);
    Kept<TEAM, A> kept;
    kept.load(from, n);
    float sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++)
#pragma unroll
        for (int l = 0; l < A::VEC; l++) sum += kept.v[c][l];
    for (u32 i = kept.beyond(); i < n; i += TEAM * A::VEC) {
        float v[A::VEC];
        from.load(i, n, v);
        for (int l = 0; l < A::VEC; l++) sum += v[l];
    }
    const float mean = team_sum<TEAM>(sum) / n;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) square = spread<A::VEC>(kept.v[c], kept.slot(c), n, mean, square);
    for (u32 i = kept.beyond(); i < n; i += TEAM * A::VEC) {
        float v[A::VEC];
        from.load(i, n, v);
        square = spread<A::VEC>(v, i, n, mean, square);
    }
    const float inv = 1.0f / sqrtf(team_sum<TEAM>(square) / n + s.eps);
    const Weight weight = {w, s.weight_dtype, 1.0f}, bias = {b, s.bias_dtype, 0.0f};
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        if (kept.slot(c) < n) {
            deviate<A::VEC>(weight, bias, mean, inv, kept.slot(c), n, kept.v[c]);
            to.store(kept.slot(c), n, kept.v[c]);
        }
    }
    for (u32 i = kept.beyond(); i < n; i += TEAM * A::VEC) {
        float v[A::VEC];
        from.load(i, n, v);
        deviate<A::VEC>(weight, bias, mean, inv, i, n, v);
        to.store(i, n, v);
    }
}

#define NORMS(name, team, threads, A)                                                                                  \
    KERNEL_BLOCKS(threads, 1) rms_norm_##name##_##team(const void* x, const void* w, void* y, NormShape s) {                     \
        take_turn();                                                                                                   \
        rms_norm<team, A>(x, w, y, s);                                                                                 \
    }                                                                                                                  \
    KERNEL_BLOCKS(threads, 1)                                                                                                    \
    add_rms_norm_##name##_##team(const void* a, const void* b, const void* w, void* sum, void* y, NormShape s) {       \
        take_turn();                                                                                                   \
        add_rms_norm<team, A>(a, b, w, sum, y, s);                                                                     \
    }                                                                                                                  \
    KERNEL_BLOCKS(threads, 1) layer_norm_##name##_##team(const void* x, const void* w, const void* b, void* y, NormShape s) {    \
        take_turn();                                                                                                   \
        layer_norm<team, A>(x, w, b, y, s);                                                                            \
    }
#define TEAMS(name, A)                                                                                                 \
    NORMS(name, 32, 128, A)                                                                                            \
    NORMS(name, 128, 128, A)                                                                                           \
    NORMS(name, 512, 512, A)

TEAMS(f32, Dense<float>)
TEAMS(f16, Dense<f16>)
TEAMS(bf16, Dense<bf16>)
NORMS(any, 32, 128, Any)
NORMS(any, 512, 512, Any)
