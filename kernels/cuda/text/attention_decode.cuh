// Attention of one query a sequence: flash decoding (Dao et al. 2023) on tensor cores.
//
// A block takes up to 16 query heads of one key head and a part of a sequence's keys. Each of its four groups of lanes
// takes 16 keys at a time straight from memory into the fragments of the products: lane (g, c) reads eight elements of
// keys g and g + 8 and of values 2c, 2c + 1, 2c + 8 and 2c + 9, and the queries lie so that they fit. Nothing is
// rounded on the way: queries and weights are sums of two or three halves.
#pragma once

#include "attention_tiles.cuh"

static const u32 DECODE_ROWS = 16;
static const i32 DECODE_KEYS = 64;

// Queries in fragments: [part][step of 16 elements][lane][4].
template <class T, int STEPS>
DEVICE void load_queries(const Attention& a, const Operands& x, const Tile& t, u32 kv_head, u32 parts, u32* to) {
    for (u32 i = threadIdx.x; i < STEPS * 128; i += 128) {
        const u32 r = i & 3, lane = i >> 2 & 31, step = i >> 7;
        const u32 row = lane / 4 + 8 * (r & 1), dim = 32 * (step / 2) + 8 * (lane & 3) + 4 * (step & 1) + 2 * (r >> 1);
        float low = 0.0f, high = 0.0f;
        if (row < t.rows && dim < a.d) {
            const RowAt at = row_at(a, t, row, kv_head);
            const u64 start = at.token * a.q_stride[0] + at.head * a.q_stride[1];
            low = load_any(x.q, start + dim * a.q_stride[2], a.q_kind);
            high = load_any(x.q, start + (dim + 1) * a.q_stride[2], a.q_kind);
        }
        for (u32 part = 0; part < parts; part++) {
            const bool infinite = fabsf(low) == F32_INF, also = fabsf(high) == F32_INF;
            to[part * STEPS * 128 + i] = take_part<T>(low, high);
            if (infinite) low = 0.0f;
            if (also) high = 0.0f;
        }
    }
}

// The running numbers of a group of lanes: rows g and g + 8.
template <int TILES> struct Running {
    float o[TILES][4];
    float reference[2], sum[2];
};

// Scores of 16 keys become weights, and what came before is scaled to them.
template <class T, int TILES> DEVICE void weigh(Running<TILES>& run, float (&s)[2][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
        most = fmaxf(most, warp_xor(most, 1));
        most = fmaxf(most, warp_xor(most, 2));
        const float next = fmaxf(run.reference[half], most - Part<T>::SHIFT);
        const float safe = next == -F32_INF ? 0.0f : next;
        const float share = fast_exp2(run.reference[half] - safe);
        run.reference[half] = next;
        run.sum[half] *= share;
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[n][e] = fast_exp2(s[n][e] - safe);
                run.sum[half] += s[n][e];
            }
        }
        if (share != 1.0f) {
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                run.o[n][2 * half] *= share;
                run.o[n][2 * half + 1] *= share;
            }
        }
    }
}

// Adds 64 columns of 16 weighted values. A number that is not finite meets the first part of its weight alone: the
// others may be 0 or negative.
template <class T>
DEVICE void add_values(float (*o)[4], const u32 (&p)[Part<T>::COUNT][4], Vec4 (&v)[4]) {
    u32 marks = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) marks |= unbounded<T>(v[j]);
#pragma unroll
    for (int part = 0; part < Part<T>::COUNT; part++) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
            u32 b[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const u32 even = word(v[2 * i], n / 2), odd = word(v[2 * i + 1], n / 2);
                b[i] = n & 1 ? even >> 16 | (odd & 0xffff0000u) : (even & 0xffffu) | odd << 16;
            }
            Mma<T>::go(o[n], p[part], b);
        }
        if (part == 0 && marks != 0) {
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = bounded<T>(v[j]);
        }
    }
}

// What a group of lanes makes of every fourth 16 of the keys; true where a key has no place.
template <class T, bool CODES, int CHUNKS, int HALVES>
DEVICE bool decode_keys(const Attention& a, const Operands& x, const Tile& t, u32 kv_head, Range keys, u32 parts,
                        const u32* queries, Running<HALVES * 8>& run) {
    const u32 lane = lane32(), g = lane / 4, c = lane & 3;
    bool lost = false;
    for (i32 base = keys.low + 16 * (i32)group32(); base < keys.high; base += DECODE_KEYS) {
        // Each lane finds one key; lanes 16 on find those again.
        const i32 mine = base + (i32)(lane & 15);
        Place at = {0, 0};
        bool there = mine < keys.high;
        if (there && !place_of(a, x, t, mine, at)) {
            lost = true;
            there = false;
        }
        const u64 none = ~(u64)0;
        const u64 k_at = there ? offset_of(a.k_stride, at, kv_head) : none;
        const u64 v_at = there ? offset_of(a.v_stride, at, kv_head) : none;
        float k_scale = 1.0f, v_scale = 1.0f;
        if (CODES && there && x.k_scale != nullptr) k_scale = x.k_scale[offset_of(a.k_scale_stride, at, kv_head)];
        if (CODES && there && x.v_scale != nullptr) v_scale = x.v_scale[offset_of(a.v_scale_stride, at, kv_head)];

        Vec4 k[2][CHUNKS];
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const u64 key = warp_from(k_at, g + 8 * n);
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                const u32 dim = 32 * i + 8 * c;
                k[n][i] = key != none && dim < a.d ? eight<T, CODES>(x.k, key + dim, a.k_kind) : Vec4{0, 0, 0, 0};
            }
        }
        u64 value[4];
#pragma unroll
        for (int j = 0; j < 4; j++) value[j] = warp_from(v_at, 2 * c + (j & 1) + 8 * (j >> 1));
        Vec4 v[HALVES == 4 ? 1 : HALVES][4];
        auto load_values = [&](int h, Vec4 (&to)[4]) {
            const u32 dim = 64 * h + 8 * g;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                to[j] = value[j] != none && dim < a.dv ? eight<T, CODES>(x.v, value[j] + dim, a.v_kind) : Vec4{0, 0, 0, 0};
            }
        };
        if (HALVES < 4) {
#pragma unroll
            for (int h = 0; h < HALVES; h++) load_values(h, v[h < HALVES ? h : 0]);
        }

        float s[2][4] = {};
        for (u32 part = 0; part < parts; part++) {
#pragma unroll
            for (int step = 0; step < 2 * CHUNKS; step++) {
                const Vec4 q = load16(queries + ((part * 2 * CHUNKS + step) * 32 + lane) * 4);
                const u32 fragment[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    const Vec4& row = k[n][step / 2];
                    const u32 b[2] = {step & 1 ? row.z : row.x, step & 1 ? row.w : row.y};
                    Mma<T>::go(s[n], fragment, b);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u32 key = 8 * n + 2 * c + (e & 1);
                if (CODES) s[n][e] *= warp_from(k_scale, key);
                s[n][e] = base + (i32)key < keys.high ? capped(a, s[n][e]) : -F32_INF;
            }
        }
        weigh<T>(run, s);
        if (CODES) {
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const u32 key = 8 * n + 2 * c + (e & 1);
                    const float scale = warp_from(v_scale, key);
                    s[n][e] = base + (i32)key < keys.high ? s[n][e] * scale : 0.0f;
                }
            }
        }
        u32 p[Part<T>::COUNT][4];
#pragma unroll
        for (int part = 0; part < Part<T>::COUNT; part++) {
#pragma unroll
            for (int i = 0; i < 4; i++) p[part][i] = take_part<T>(s[i >> 1][2 * (i & 1)], s[i >> 1][2 * (i & 1) + 1]);
        }
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            if (HALVES == 4) load_values(h, v[0]);
            add_values<T>(run.o + 8 * h, p, v[HALVES == 4 ? 0 : h]);
        }
    }
    return lost;
}

// Joins the four groups' weighted values in `all`, [16][8 TILES + 1], in their order, beside the references and sums of
// each.
template <int TILES>
DEVICE void join_groups(Running<TILES>& run, float* all, float (*references)[DECODE_ROWS], float (*sums)[DECODE_ROWS]) {
    const int COLUMNS = TILES * 8 + 1;
    const u32 lane = lane32(), g = lane / 4, c = lane & 3, group = group32();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        run.sum[half] += warp_xor(run.sum[half], 1);
        run.sum[half] += warp_xor(run.sum[half], 2);
        if (c == 0) {
            references[group][g + 8 * half] = run.reference[half];
            sums[group][g + 8 * half] = run.sum[half];
        }
    }
    sync();
    float share[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const u32 row = g + 8 * half;
        float most = references[0][row];
#pragma unroll
        for (int i = 1; i < 4; i++) most = fmaxf(most, references[i][row]);
        share[half] = fast_exp2(run.reference[half] - (most == -F32_INF ? 0.0f : most));
    }
    for (u32 turn = 0; turn < 4; turn++) {
        if (group == turn) {
#pragma unroll
            for (int n = 0; n < TILES; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    // Column n of eight lies in eight places: the lanes' own.
                    const u32 column = 64 * (n / 8) + 8 * (2 * c + (e & 1)) + n % 8;
                    float* to = all + (g + 8 * (e >> 1)) * COLUMNS + column;
                    const float x = run.o[n][e] * share[e >> 1];
                    *to = turn == 0 ? x : *to + x;
                }
            }
        }
        sync();
    }
}

template <class T, bool CODES, int CHUNKS, int HALVES>
DEVICE void attention_decode(const Attention& a, const Operands& x) {
    const int TILES = HALVES * 8, COLUMNS = TILES * 8 + 1;
    SHARED(Vec4, queries, 3 * 2 * CHUNKS * 32);
    SHARED(float, all, DECODE_ROWS * COLUMNS);
    SHARED(float, references, 4 * DECODE_ROWS);
    SHARED(float, sums, 4 * DECODE_ROWS);
    SHARED(u32, lost, 1);

    const Tile t = find_tile(a, x, blockIdx.x, DECODE_ROWS);
    const u32 kv_head = blockIdx.y, split = blockIdx.z;
    const Range keys = split_of(a, t, split, DECODE_KEYS, 2 * DECODE_KEYS);
    if (keys.low >= keys.high && (a.splits > 1 && split > 0)) {
        if (threadIdx.x < t.rows) {
            const RowAt at = row_at(a, t, threadIdx.x, kv_head);
            *part_reference(a, x.part, split, at) = -F32_INF;
            *part_sum(a, x.part, split, at) = 0.0f;
        }
        return;
    }
    const u32 parts = a.q_kind == (u32)Part<T>::KIND ? 1 : a.q_kind == KIND_F32 ? 3 : 2;
    if (threadIdx.x == 0) lost[0] = 0;
    load_queries<T, 2 * CHUNKS>(a, x, t, kv_head, parts, reinterpret_cast<u32*>(queries));
    sync();
    const Range seen = {keys.low > t.low ? keys.low : t.low, keys.high};
    Running<TILES> run = {};
    run.reference[0] = run.reference[1] = -F32_INF;
    if (decode_keys<T, CODES, CHUNKS, HALVES>(a, x, t, kv_head, seen, parts, reinterpret_cast<const u32*>(queries), run)) {
        lost[0] = 1;
    }
    join_groups<TILES>(run, all, reinterpret_cast<float(*)[DECODE_ROWS]>(references),
                       reinterpret_cast<float(*)[DECODE_ROWS]>(sums));

    for (u32 row = group32(); row < t.rows; row += 4) {
        float reference = references[row], sum = 0.0f;
        for (u32 i = 1; i < 4; i++) reference = fmaxf(reference, references[i * DECODE_ROWS + row]);
        const float safe = reference == -F32_INF ? 0.0f : reference;
        for (u32 i = 0; i < 4; i++) sum += sums[i * DECODE_ROWS + row] * fast_exp2(references[i * DECODE_ROWS + row] - safe);
        if (lost[0] != 0) sum = F32_NAN;
        const RowAt at = row_at(a, t, row, kv_head);
        if (a.splits > 1) {
            float* values = part_values(a, x.part, split, at);
            for (u32 i = lane32(); i < a.dv; i += 32) values[i] = all[row * COLUMNS + i];
            if (lane32() == 0) {
                *part_reference(a, x.part, split, at) = reference;
                *part_sum(a, x.part, split, at) = sum;
            }
        } else {
            const float factor = ending(a, x.sinks, at.head, reference, sum);
            const u64 start = at.token * a.y_stride[0] + at.head * a.y_stride[1];
            for (u32 i = lane32(); i < a.dv; i += 32) {
                store_any(x.y, start + i * a.y_stride[2], a.y_kind, all[row * COLUMNS + i] * factor);
            }
        }
    }
}

// BOUNDS: how the kernels are declared, which says how many registers they may have.
#define ATTENTION_DECODE(name, T, CODES, BOUNDS, size, chunks, halves)                                                 \
    BOUNDS name##_##size(ATTENTION_PARAMS) {                                                                           \
        take_turn();                                                                                                   \
        attention_decode<T, CODES, chunks, halves>(a, Operands ATTENTION_OPERANDS);                                    \
    }
#define ATTENTION_DECODE_SIZES(name, T, CODES, BOUNDS)                                                                 \
    ATTENTION_DECODE(name, T, CODES, BOUNDS, 64, 2, 1)                                                                 \
    ATTENTION_DECODE(name, T, CODES, BOUNDS, 96, 3, 2)                                                                 \
    ATTENTION_DECODE(name, T, CODES, BOUNDS, 128, 4, 2)                                                                \
    ATTENTION_DECODE(name, T, CODES, BOUNDS, 256, 8, 4)
