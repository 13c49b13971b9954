// Softmax along rows, and reductions along an axis.
#include "rowwise.cuh"

struct SoftmaxShape {
    Rows x, mask, y;
    u32 rows, cols;
    // Rows of a matrix of scores; row i of one sees columns j <= cols - queries + i where causal.
    u32 queries, causal;
    float scale;
    u32 unused;
};

// scale * x + mask of a slot; columns that are not seen have no score.
template <class A> struct Scores {
    A x;
    const void* mask;
    u64 mask_at, mask_step;
    u32 mask_dtype, seen;
    float scale;

    DEVICE void of(u32 i, float* v) const {
#pragma unroll
        for (int l = 0; l < A::VEC; l++) {
            v[l] *= scale;
            if (mask && i + l < seen) v[l] += load_as(mask, mask_dtype, mask_at + (i + l) * mask_step);
            if (i + l >= seen) v[l] = -F32_INF;
        }
    }
};

template <int VEC> DEVICE float largest(const float* v, float most) {
#pragma unroll
    for (int l = 0; l < VEC; l++) most = Larger()(v[l], most);
    return most;
}
// v becomes e^(v - most).
template <int VEC> DEVICE float exponentials(float* v, float most, float sum) {
#pragma unroll
    for (int l = 0; l < VEC; l++) {
        v[l] = v[l] == -F32_INF ? 0.0f : expf(v[l] - most);
        sum += v[l];
    }
    return sum;
}
template <int VEC> DEVICE void share(float* v, u32 i, u32 seen, float inv) {
#pragma unroll
    for (int l = 0; l < VEC; l++) v[l] = i + l < seen ? v[l] * inv : 0.0f;
}

template <int TEAM, class A> DEVICE void softmax(const void* x, const void* mask, void* y, const SoftmaxShape& s) {
    constexpr int VEC = A::VEC;
    const u32 row = team_row<TEAM>(), n = row < s.rows ? s.cols : 0, r = n ? row : 0;
    const u32 visible = r % s.queries + s.cols + 1, hidden = s.queries;
    const u32 seen = !n ? 0 : s.causal ? (visible > hidden ? Least()(visible - hidden, n) : 0) : n;
    const A from(x, s.x, r), to(y, s.y, r);
    const Scores<A> scores = {from, mask, s.mask.at(r), s.mask.step, s.mask.dtype, seen, s.scale};
    Kept<TEAM, A> kept;
    kept.load(from, seen);
    float most = -F32_INF, sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        scores.of(kept.slot(c), kept.v[c]);
        most = largest<VEC>(kept.v[c], most);
    }
    for (u32 i = kept.beyond(); i < seen; i += TEAM * VEC) {
        float v[VEC];
        from.load(i, seen, v);
        scores.of(i, v);
        most = largest<VEC>(v, most);
    }
    most = team_join<TEAM>(most, Larger());
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) sum = exponentials<VEC>(kept.v[c], most, sum);
    for (u32 i = kept.beyond(); i < seen; i += TEAM * VEC) {
        float v[VEC];
        from.load(i, seen, v);
        scores.of(i, v);
        sum = exponentials<VEC>(v, most, sum);
    }
    sum = team_sum<TEAM>(sum);
    const float inv = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
    for (int c = 0; c < kept.CHUNKS; c++) {
        if (kept.slot(c) < n) {
            share<VEC>(kept.v[c], kept.slot(c), seen, inv);
            to.store(kept.slot(c), n, kept.v[c]);
        }
    }
    for (u32 i = kept.beyond(); i < n; i += TEAM * VEC) {
        float v[VEC];
        from.load(i, seen, v);
        scores.of(i, v);
        exponentials<VEC>(v, most, 0.0f);
        share<VEC>(v, i, seen, inv);
        to.store(i, n, v);
    }
}

struct ReduceShape {
    // The reduced axis as rows of x, one for each result; results as rows of y.
    Rows x, y;
    u32 count, n;
    u32 kind;
    u32 unused;
};

enum : u32 { SUM = 0, MEAN = 1, MAX = 2 };

DEVICE float begin(u32 kind) { return kind == MAX ? -F32_INF : 0.0f; }
DEVICE float take(u32 kind, float a, float b) { return kind == MAX ? Larger()(a, b) : a + b; }
struct Take {
    u32 kind;
    DEVICE float operator()(float a, float b) const { return take(kind, a, b); }
};
DEVICE void finish(const ReduceShape& s, void* y, u32 r, float v) {
    store_as(y, s.y.dtype, s.y.at(r), s.kind == MEAN ? v / s.n : v);
}

template <int TEAM, class A> DEVICE void reduce(const void* x, void* y, const ReduceShape& s) {
    const u32 row = team_row<TEAM>(), n = row < s.count ? s.n : 0, r = n ? row : 0;
    const A from(x, s.x, r);
    float v = begin(s.kind);
#pragma unroll 4
    for (u32 i = team_lane<TEAM>() * A::VEC; i < n; i += TEAM * A::VEC) {
        float t[A::VEC];
        from.load(i, n, t);
#pragma unroll
        for (int l = 0; l < A::VEC; l++)
            if (i + l < n) v = take(s.kind, v, t[l]);
    }
    v = team_join<TEAM>(v, Take{s.kind});
    if (n && team_lane<TEAM>() == 0) finish(s, y, r, v);
}

// 32 results a block, whose elements lie side by side; each of its eight groups takes every eighth along the axis.
KERNEL(256) reduce_columns(const void* x, void* y, ReduceShape s) {
    take_turn();
    SHARED(float, part, 256);
    const u32 row = blockIdx.x * 32 + lane32(), n = row < s.count ? s.n : 0, r = n ? row : 0;
    const Any from(x, s.x, r);
    float v = begin(s.kind);
#pragma unroll 4
    for (u32 i = group32(); i < n; i += 8) {
        float t;
        from.load(i, n, &t);
        v = take(s.kind, v, t);
    }
    part[threadIdx.x] = v;
    sync();
    if (group32() != 0 || n == 0) return;
    for (u32 g = 1; g < 8; g++) v = take(s.kind, v, part[g * 32 + lane32()]);
    finish(s, y, r, v);
}

#define ROWS(name, team, threads, A)                                                                                   \
    KERNEL_BLOCKS(threads, 1) softmax_##name##_##team(const void* x, const void* mask, void* y, SoftmaxShape s) {      \
        take_turn();                                                                                                   \
        softmax<team, A>(x, mask, y, s);                                                                               \
    }                                                                                                                  \
    KERNEL_BLOCKS(threads, 1) reduce_##name##_##team(const void* x, void* y, ReduceShape s) {                          \
        take_turn();                                                                                                   \
        reduce<team, A>(x, y, s);                                                                                      \
    }
#define TEAMS(name, A)                                                                                                 \
    ROWS(name, 32, 128, A)                                                                                             \
    ROWS(name, 512, 512, A)

TEAMS(f32, Dense<float>)
TEAMS(f16, Dense<f16>)
TEAMS(bf16, Dense<bf16>)
TEAMS(any, Any)
