// Attention of many queries a sequence: FlashAttention-2 (Dao 2023) on tensor cores, over pages where they lie.
//
// A block takes 64 MR rows of one key head and a part of the keys, KEYS at a time: values are on their way while scores
// are computed, and the next keys while values are added. Each of the four groups of lanes has 16 MR rows, so that a
// fragment of keys or values serves MR products. Weights are rounded to halves before they meet the values.
#pragma once

#include "attention_tiles.cuh"

// A tile's rows of halves in shared memory, eight more in each than there are elements so that matrices meet all banks.
template <int DP> struct Pitch { static const int HALVES = DP + 8; };

// Where a step's keys lie, and what their codes are multiplied with; ~0 where there is none.
template <int KEYS> struct Found {
    u64 k[KEYS], v[KEYS];
    float k_scale[KEYS], v_scale[KEYS];
};

template <bool CODES, int KEYS>
DEVICE bool find_step(const Attention& a, const Operands& x, const Tile& t, u32 kv_head, i32 base, Range keys, Found<KEYS>& to) {
    const u32 i = threadIdx.x;
    if (i >= KEYS) return false;
    const i32 key = base + (i32)i;
    Place at = {0, 0};
    const bool asked = key >= keys.low && key < keys.high;
    const bool there = asked && place_of(a, x, t, key, at);
    to.k[i] = there ? offset_of(a.k_stride, at, kv_head) : ~(u64)0;
    to.v[i] = there ? offset_of(a.v_stride, at, kv_head) : ~(u64)0;
    if (CODES) {
        to.k_scale[i] = there && x.k_scale != nullptr ? x.k_scale[offset_of(a.k_scale_stride, at, kv_head)] : 1.0f;
        to.v_scale[i] = there && x.v_scale != nullptr ? x.v_scale[offset_of(a.v_scale_stride, at, kv_head)] : 1.0f;
    }
    return asked && !there;
}

// Four bf16 that f16 holds, too.
template <class T> DEVICE u32 as_halves(u32 pair);
template <> DEVICE u32 as_halves<bf16>(u32 pair) { return pair; }
template <> DEVICE u32 as_halves<f16>(u32 pair) { return pack2<f16>(unpack_low<bf16>(pair), unpack_high<bf16>(pair)); }

// Starts to copy KEYS rows of `size` elements; zeros where there is no row, and behind its end.
template <class T, bool CODES, int DP, int KEYS>
DEVICE void copy_rows(u16* to, const void* from, const u64* places, u32 size, u32 kind) {
    const int CHUNKS = DP / 8;
#pragma unroll
    for (int n = 0; n < (KEYS * CHUNKS + 127) / 128; n++) {
        const u32 i = n * 128 + threadIdx.x;
        if (KEYS * CHUNKS % 128 != 0 && i >= KEYS * CHUNKS) break;
        const u32 row = i / CHUNKS, dim = i % CHUNKS * 8;
        const u64 place = places[row];
        const bool there = place != ~(u64)0 && dim < size;
        u16* at = to + row * Pitch<DP>::HALVES + dim;
        if (CODES) {
            Vec4 x = {0, 0, 0, 0};
            if (there) x = eight<bf16, true>(from, place + dim, kind);
            store16(at, {as_halves<T>(x.x), as_halves<T>(x.y), as_halves<T>(x.z), as_halves<T>(x.w)});
        } else {
            copy_async16(at, static_cast<const u16*>(from) + (there ? place + dim : 0), there);
        }
    }
}

template <class T, int DP, int ROWS>
DEVICE void copy_queries(const Attention& a, const Operands& x, const Tile& t, u32 kv_head, u16* to) {
    if (a.q_whole) {
        for (u32 i = threadIdx.x; i < ROWS * DP / 8; i += 128) {
            const u32 row = i / (DP / 8), dim = i % (DP / 8) * 8;
            const bool there = row < t.rows && dim < a.d;
            const RowAt at = row_at(a, t, there ? row : 0, kv_head);
            const u64 from = at.token * a.q_stride[0] + at.head * a.q_stride[1] + (there ? dim : 0);
            copy_async16(to + row * Pitch<DP>::HALVES + dim, static_cast<const u16*>(x.q) + from, there);
        }
        return;
    }
    for (u32 i = threadIdx.x; i < ROWS * DP; i += 128) {
        const u32 row = i / DP, dim = i % DP;
        u16 bits = 0;
        if (row < t.rows && dim < a.d) {
            const RowAt at = row_at(a, t, row, kv_head);
            bits = static_cast<const u16*>(x.q)[at.token * a.q_stride[0] + at.head * a.q_stride[1] + dim * a.q_stride[2]];
        }
        to[row * Pitch<DP>::HALVES + dim] = bits;
    }
}

// A group's scores: its rows against the keys of the step.
template <class T, int DP, int MR, int KEYS>
DEVICE void score_step(const u16* q, const u16* k, float (&s)[MR][KEYS / 8][4]) {
    const u32 lane = lane32();
    const u16* q_at = q + (group32() * 16 * MR + lane / 8 % 2 * 8 + lane % 8) * Pitch<DP>::HALVES + lane / 16 * 8;
    const u16* k_at = k + (lane / 16 * 8 + lane % 8) * Pitch<DP>::HALVES + lane / 8 % 2 * 8;
#pragma unroll
    for (int m = 0; m < MR; m++) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
    }
#pragma unroll 2
    for (int step = 0; step < DP / 16; step++) {
        u32 rows[MR][4];
#pragma unroll
        for (int m = 0; m < MR; m++) load_matrix_x4(rows[m], q_at + m * 16 * Pitch<DP>::HALVES + step * 16);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            u32 keys[4];
            load_matrix_x4(keys, k_at + n * 16 * Pitch<DP>::HALVES + step * 16);
#pragma unroll
            for (int m = 0; m < MR; m++) {
                Mma<T>::go(s[m][2 * n], rows[m], keys);
                Mma<T>::go(s[m][2 * n + 1], rows[m], keys + 2);
            }
        }
    }
}

// The running numbers of a group's rows: 16 m + g and 16 m + g + 8.
template <int DP, int MR> struct Sums {
    float o[MR][DP / 8][4];
    float reference[MR][2], sum[MR][2];
};

// Products become weights, and what came before is scaled to them.
template <class P, bool CODES, int DP, int MR, int KEYS>
DEVICE void weigh_step(const Attention& a, const Found<KEYS>& found, const Range* seen, i32 base, bool masked,
                       Sums<DP, MR>& run, float (&s)[MR][KEYS / 8][4]) {
    const u32 c = lane32() & 3;
    if (a.ceiling != 0.0f) {
#pragma unroll
        for (int i = 0; i < MR * KEYS / 2; i++) {
            float& score = s[i / (KEYS / 2)][i / 4 % (KEYS / 8)][i % 4];
            if (CODES) score *= found.k_scale[8 * (i / 4 % (KEYS / 8)) + 2 * c + i % 2];
            score = a.ceiling * tanhf(score * a.factor);
        }
    }
#pragma unroll
    for (int m = 0; m < MR; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const Range row = seen[group32() * 16 * MR + 16 * m + 8 * half + lane32() / 4];
            float most = -F32_INF;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& score = s[m][n][2 * half + e];
                    if (a.ceiling == 0.0f) {
                        if (CODES) score *= found.k_scale[8 * n + 2 * c + e];
                        score *= a.factor;
                    }
                    if (masked) {
                        const i32 key = base + (i32)(8 * n + 2 * c + e);
                        if (key < row.low || key >= row.high) score = -F32_INF;
                    }
                    most = fmaxf(most, score);
                }
            }
            most = fmaxf(most, warp_xor(most, 1));
            most = fmaxf(most, warp_xor(most, 2));
            const float next = fmaxf(run.reference[m][half], most - Part<P>::SHIFT);
            const float safe = next == -F32_INF ? 0.0f : next;
            const float share = fast_exp2(run.reference[m][half] - safe);
            float sum = run.sum[m][half] * share;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& weight = s[m][n][2 * half + e];
                    weight = fast_exp2(weight - safe);
                    sum += weight;
                    if (CODES) weight = weight == 0.0f ? 0.0f : weight * found.v_scale[8 * n + 2 * c + e];
                }
            }
            run.reference[m][half] = next;
            run.sum[m][half] = sum;
            if (share != 1.0f) {
#pragma unroll
                for (int n = 0; n < DP / 8; n++) {
                    run.o[m][n][2 * half] *= share;
                    run.o[m][n][2 * half + 1] *= share;
                }
            }
        }
    }
}

// Weights as halves, in fragments of 16 keys.
template <class P, int MR, int KEYS>
DEVICE void round_weights(const float (&s)[MR][KEYS / 8][4], u32 (&weights)[KEYS / 16][MR][4]) {
#pragma unroll
    for (int i = 0; i < KEYS / 16 * MR * 4; i++) {
        const int step = i / 4 / MR, m = i / 4 % MR, r = i % 4;
        const float* pair = s[m][2 * step + r / 2] + 2 * (r & 1);
        weights[step][m][r] = pack2<P>(pair[0], pair[1]);
    }
}

template <class P, int DP, int MR, int KEYS>
DEVICE void add_step(const u16* v, const u32 (&weights)[KEYS / 16][MR][4], Sums<DP, MR>& run) {
    const u32 lane = lane32();
    const u16* v_at = v + (lane / 8 % 2 * 8 + lane % 8) * Pitch<DP>::HALVES + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
#pragma unroll
        for (int n = 0; n < DP / 16; n++) {
            u32 values[4];
            load_matrix_x4_trans(values, v_at + step * 16 * Pitch<DP>::HALVES + n * 16);
#pragma unroll
            for (int m = 0; m < MR; m++) {
                Mma<P>::go(run.o[m][2 * n], weights[step][m], values);
                Mma<P>::go(run.o[m][2 * n + 1], weights[step][m], values + 2);
            }
        }
    }
}

// Whether a step's values are all finite. All threads of the block come.
template <class P, int DP, int KEYS> DEVICE bool all_finite(const u16* v, u32* odd) {
    u32 marks = 0;
    for (u32 i = threadIdx.x; i < KEYS * DP / 8; i += 128) {
        const Vec4 x = load16(v + i / (DP / 8) * Pitch<DP>::HALVES + i % (DP / 8) * 8);
        marks |= unbounded<P>(x);
    }
    if (marks != 0) odd[0] = 1;
    sync();
    return odd[0] == 0;
}

// Adds a step's values that are not finite to the rows that see them, and leaves zeros in their place: a weight of 0
// would not hide them from the others. All threads of the block come.
template <class P, int DP, int MR, int KEYS>
DEVICE void take_unbounded(u16* v, const Range* seen, i32 base, Sums<DP, MR>& run, u32* odd) {
    const u32 c = lane32() & 3;
    for (int j = 0; j < KEYS; j++) {
        const i32 key = base + j;
        const u32* value = reinterpret_cast<const u32*>(v + j * Pitch<DP>::HALVES) + c;
#pragma unroll
        for (int n = 0; n < DP / 8; n++) {
            const u32 pair = value[4 * n];
            if (unbounded<P>(pair) == 0) continue;
            const u32 rest = pair & ~bounded<P>(pair);
#pragma unroll
            for (int i = 0; i < 4 * MR; i++) {
                const int m = i / 4, half = i / 2 % 2, e = i % 2;
                const Range row = seen[group32() * 16 * MR + 16 * m + 8 * half + lane32() / 4];
                if (key >= row.low && key < row.high) run.o[m][n][2 * half + e] += e ? unpack_high<P>(rest) : unpack_low<P>(rest);
            }
        }
    }
    sync();
    for (u32 i = threadIdx.x; i < KEYS * DP / 8; i += 128) {
        u16* at = v + i / (DP / 8) * Pitch<DP>::HALVES + i % (DP / 8) * 8;
        store16(at, bounded<P>(load16(at)));
    }
    if (threadIdx.x == 0) odd[0] = 0;
    sync();
}

DEVICE void put_pair(float* to, float low, float high) { store8(to, {bits_of(low), bits_of(high)}); }
template <class Y> DEVICE void put_pair(Y* to, float low, float high) { *reinterpret_cast<u32*>(to) = pack2<Y>(low, high); }

// Two neighbours of a row of the result.
template <class Y> DEVICE void store_pair(void* y, u64 at, u64 step, bool pairs, float low, float high) {
    Y* to = static_cast<Y*>(y) + at;
    if (pairs) {
        put_pair(to, low, high);
    } else {
        to[0] = from_f32<Y>(low);
        to[step] = from_f32<Y>(high);
    }
}

template <class Y, int DP, int MR>
DEVICE void store_rows(const Attention& a, const Operands& x, const Tile& t, u32 kv_head, const Sums<DP, MR>& run) {
    const u32 lane = lane32(), g = lane / 4, c = lane & 3;
#pragma unroll
    for (int m = 0; m < MR; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const u32 row = group32() * 16 * MR + 16 * m + 8 * half + g;
            if (row >= t.rows) continue;
            const RowAt at = row_at(a, t, row, kv_head);
            const float factor = ending(a, x.sinks, at.head, run.reference[m][half], run.sum[m][half]);
            const u64 start = at.token * a.y_stride[0] + at.head * a.y_stride[1];
#pragma unroll
            for (int n = 0; n < DP / 8; n++) {
                const u32 i = 8 * n + 2 * c;
                if (i >= a.dv) break;
                store_pair<Y>(x.y, start + i * a.y_stride[2], a.y_stride[2], a.y_pairs, run.o[m][n][2 * half] * factor,
                              run.o[m][n][2 * half + 1] * factor);
            }
        }
    }
}

template <int DP, int MR>
DEVICE void store_parts(const Attention& a, const Operands& x, const Tile& t, u32 kv_head, u32 split, const Sums<DP, MR>& run) {
    const u32 lane = lane32(), g = lane / 4, c = lane & 3;
#pragma unroll
    for (int m = 0; m < MR; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const u32 row = group32() * 16 * MR + 16 * m + 8 * half + g;
            if (row >= t.rows) continue;
            const RowAt at = row_at(a, t, row, kv_head);
            if (c == 0) {
                *part_reference(a, x.part, split, at) = run.reference[m][half];
                *part_sum(a, x.part, split, at) = run.sum[m][half];
            }
            float* values = part_values(a, x.part, split, at);
#pragma unroll
            for (int n = 0; n < DP / 8; n++) {
                const u32 i = 8 * n + 2 * c;
                if (i >= a.dv) break;
                store8(values + i, {bits_of(run.o[m][n][2 * half]), bits_of(run.o[m][n][2 * half + 1])});
            }
        }
    }
}

// T: the queries' halves; P: those of weights and values.
template <class T, class P, bool CODES, int DP, int MR, int KEYS>
DEVICE void attention_prefill(const Attention& a, const Operands& x) {
    const int ROWS = 64 * MR, PITCH = Pitch<DP>::HALVES;
    SHARED_DYNAMIC(u16, q);
    u16* k = q + ROWS * PITCH;
    u16* v = k + KEYS * PITCH;
    SHARED(Found<KEYS>, found, 2);
    SHARED(Range, seen, ROWS);
    SHARED(u32, odd, 2);
    SHARED(Tile, tile, 1);

    // Later tiles see more keys: they start first.
    const Tile found_tile = find_tile(a, x, gridDim.x - 1 - blockIdx.x, ROWS);
    if (found_tile.rows == 0) return;
    if (threadIdx.x == 0) tile[0] = found_tile;
    sync();
    const Tile& t = tile[0];
    const u32 kv_head = blockIdx.y, group = a.heads / a.kv_heads;
    const Range keys = split_of(a, t, blockIdx.z, KEYS, 256);
    // A part without keys has no values: `attention_join` reads none where the sum is 0.
    if (a.splits > 1 && keys.low >= keys.high) {
        if (threadIdx.x < t.rows) {
            const RowAt at = row_at(a, t, threadIdx.x, kv_head);
            *part_reference(a, x.part, blockIdx.z, at) = -F32_INF;
            *part_sum(a, x.part, blockIdx.z, at) = 0.0f;
        }
        return;
    }
    const Range asked = {keys.low > t.low ? keys.low : t.low, keys.high};

    Sums<DP, MR> run;
#pragma unroll
    for (int m = 0; m < MR; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            run.reference[m][half] = -F32_INF;
            run.sum[m][half] = 0.0f;
        }
#pragma unroll
        for (int n = 0; n < DP / 8; n++) run.o[m][n][0] = run.o[m][n][1] = run.o[m][n][2] = run.o[m][n][3] = 0.0f;
    }
    // Keys that all rows see need no masks.
    const i32 open_low = visible(a, t, (i32)((t.row + t.rows - 1) / group)).low;
    const i32 open_high = visible(a, t, (i32)(t.row / group)).high;

    for (u32 row = threadIdx.x; row < ROWS; row += 128) {
        seen[row] = row < t.rows ? visible(a, t, (i32)((t.row + row) / group)) : Range{0, 0};
    }
    if (threadIdx.x < 2) odd[threadIdx.x] = 0;
    sync();
    if (keys.low < keys.high) {
        if (find_step<CODES>(a, x, t, kv_head, keys.low, asked, found[0])) odd[1] = 1;
        sync();
        copy_queries<T, DP, ROWS>(a, x, t, kv_head, q);
        copy_rows<T, CODES, DP, KEYS>(k, x.k, found[0].k, a.d, a.k_kind);
        copy_async_commit();
    }
    u32 turn = 0;
    for (i32 base = keys.low; base < keys.high; base += KEYS, turn ^= 1) {
        const bool masked = base < open_low || base + KEYS > open_high;
        copy_async_wait<0>();
        sync();
        copy_rows<P, CODES, DP, KEYS>(v, x.v, found[turn].v, a.dv, a.v_kind);
        copy_async_commit();
        if (base + KEYS < keys.high && find_step<CODES>(a, x, t, kv_head, base + KEYS, asked, found[turn ^ 1])) odd[1] = 1;
        u32 weights[KEYS / 16][MR][4];
        {
            float s[MR][KEYS / 8][4];
            score_step<T, DP, MR, KEYS>(q, k, s);
            weigh_step<P, CODES, DP, MR, KEYS>(a, found[turn], seen, base, masked, run, s);
            round_weights<P, MR, KEYS>(s, weights);
        }
        copy_async_wait<0>();
        sync();
        if (masked && !all_finite<P, DP, KEYS>(v, odd)) take_unbounded<P, DP, MR, KEYS>(v, seen, base, run, odd);
        if (base + KEYS < keys.high) copy_rows<T, CODES, DP, KEYS>(k, x.k, found[turn ^ 1].k, a.d, a.k_kind);
        copy_async_commit();
        add_step<P, DP, MR, KEYS>(v, weights, run);
    }
    sync();
#pragma unroll
    for (int m = 0; m < MR; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float& sum = run.sum[m][half];
            sum += warp_xor(sum, 1);
            sum += warp_xor(sum, 2);
            if (odd[1] != 0) sum = F32_NAN;
        }
    }
    if (a.splits > 1) store_parts<DP, MR>(a, x, t, kv_head, blockIdx.z, run);
    else if (a.y_kind == KIND_F32) store_rows<float, DP, MR>(a, x, t, kv_head, run);
    else if (a.y_kind == KIND_F16) store_rows<f16, DP, MR>(a, x, t, kv_head, run);
    else store_rows<bf16, DP, MR>(a, x, t, kv_head, run);
}

// Rows are 64 MR, keys of a step KEYS: ops/attention.rs asks for the shared memory of them.
#define ATTENTION_PREFILL(name, T, P, CODES, size, MR, KEYS)                                                           \
    KERNEL(128) name##_##size(ATTENTION_PARAMS) {                                                                      \
        take_turn();                                                                                                   \
        attention_prefill<T, P, CODES, size, MR, KEYS>(a, Operands ATTENTION_OPERANDS);                                \
    }
#define ATTENTION_PREFILL_SIZES(name, T, P, CODES)                                                                     \
    ATTENTION_PREFILL(name, T, P, CODES, 64, 2, 64)                                                                    \
    ATTENTION_PREFILL(name, T, P, CODES, 96, 2, 32)                                                                    \
    ATTENTION_PREFILL(name, T, P, CODES, 128, 2, CODES ? 32 : 64)                                                      \
    ATTENTION_PREFILL(name, T, P, CODES, 256, 1, 32)
