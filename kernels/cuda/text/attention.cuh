// What the kernels of attention share: the shapes of an operator, where queries and keys lie, and how a row ends.
//
// Rows are query tokens times the query heads that share a key head, token first: row r of a sequence is head r % group
// of token r / group. A tile of rows reads each key once for all of them. Scores are kept in units of log2, so that a
// weight is exp2(score - reference); the reference of a row is its largest score, less a constant of the kernel.
#pragma once

#include "vendor.cuh"

enum Kind { KIND_F32, KIND_F16, KIND_BF16, KIND_I8, KIND_E4M3, KIND_E5M2 };

// Strides count elements. A packed tensor is one block of all its tokens.
struct Attention {
    u64 q_stride[3], y_stride[3];              // token, head, element
    u64 k_stride[3], v_stride[3];              // block, head, token
    u64 k_scale_stride[3], v_scale_stride[3];  // block, head, token
    u64 table_stride[2], cu_stride, len_stride, sinks_stride;
    u32 tokens, batch, heads, kv_heads, d, dv;
    u32 block_size, blocks, columns, splits;
    u32 window;                                // 0 = unlimited
    u32 q_kind, k_kind, v_kind, y_kind, sinks_kind;
    u32 wide_cu, wide_len, wide_table;         // whether these are i64
    u32 causal, paged, q_whole, y_pairs;       // queries in whole 16 bytes; results in whole pairs
    // A score is factor * dot, or, with a ceiling, ceiling * tanh(factor * dot).
    float factor, ceiling;
};

#define ATTENTION_PARAMS                                                                                               \
    void *y, float *part, const void *q, const void *k, const void *v, const float *k_scale, const float *v_scale,     \
        const void *cu, const void *len, const void *table, const void *sinks, const Attention a
#define ATTENTION_OPERANDS                                                                                             \
    { y, part, q, k, v, k_scale, v_scale, cu, len, table, sinks }

struct Operands {
    void* y;
    float* part;
    const void *q, *k, *v;
    const float *k_scale, *v_scale;
    const void *cu, *len, *table, *sinks;
};

// Keys that a kernel can count.
static const i32 MOST_KEYS = 0x3fffffff;

// Parts that the keys of a row are cut into.
static const u32 MOST_SPLITS = 128;

static const float LOG2E = 1.44269504088896f;

DEVICE float load_any(const void* from, u64 i, u32 kind) {
    switch (kind) {
        case KIND_F32: return static_cast<const float*>(from)[i];
        case KIND_F16: return to_f32(static_cast<const f16*>(from)[i]);
        case KIND_BF16: return to_f32(static_cast<const bf16*>(from)[i]);
        case KIND_I8: return to_f32(static_cast<const i8*>(from)[i]);
        case KIND_E4M3: return to_f32(static_cast<const f8_e4m3*>(from)[i]);
        default: return to_f32(static_cast<const f8_e5m2*>(from)[i]);
    }
}

DEVICE void store_any(void* to, u64 i, u32 kind, float x) {
    if (kind == KIND_F32) static_cast<float*>(to)[i] = x;
    else if (kind == KIND_F16) static_cast<f16*>(to)[i] = from_f32<f16>(x);
    else static_cast<bf16*>(to)[i] = from_f32<bf16>(x);
}

DEVICE i64 index_at(const void* from, u64 i, u32 wide) {
    return wide ? static_cast<const i64*>(from)[i] : (i64)static_cast<const i32*>(from)[i];
}

DEVICE i32 between(i64 x, i32 low, i32 high) { return x < low ? low : x > high ? high : (i32)x; }

// A tile of rows of one sequence. Where `rows` is 0 there is nothing to do.
struct Tile {
    u32 sequence;
    u32 first;        // the sequence's first query token
    u32 row, rows;    // the tile's first row in its sequence, and how many
    i32 queries;      // query tokens of the sequence
    i32 keys;         // its keys
    u64 start;        // where they start, without a table
    i32 low, high;    // the keys that some row sees
};

struct Range { i32 low, high; };

// The keys that a query token of a sequence sees.
DEVICE Range visible(const Attention& a, const Tile& t, i32 token) {
    const i64 after = (i64)t.keys - t.queries + token + 1;
    const bool cut = a.causal || a.window > 0;
    const i32 high = cut ? between(after, 0, t.keys) : t.keys;
    return {a.window > 0 ? between(after - a.window, 0, high) : 0, high};
}

// The keys of a sequence: at most one more than there is room for, which no place has.
DEVICE i32 keys_of(const Attention& a, const Operands& x, u32 sequence, u64 start) {
    const i64 n = index_at(x.len, sequence * a.len_stride, a.wide_len);
    const u64 room = a.paged ? (u64)a.columns * a.block_size : a.block_size - start;
    return between(n, 0, room < (u64)MOST_KEYS ? (i32)room + 1 : MOST_KEYS);
}

// Where the packed keys of a sequence start, at most at their end. All lanes of a group come.
DEVICE u64 packed_start(const Attention& a, const Operands& x, u32 sequence) {
    u64 sum = 0;
    for (u32 b = lane32(); b < sequence; b += 32) {
        const i64 n = index_at(x.len, b * a.len_stride, a.wide_len);
        sum += n < 0 ? 0 : n > (i64)a.block_size ? a.block_size : (u64)n;
    }
    sum = warp_sum(sum);
    return sum < a.block_size ? sum : a.block_size;
}

// Tile number `index` of at most `most` rows each. Query tokens behind the last sequence are one without keys. All
// lanes of a group come.
DEVICE Tile find_tile(const Attention& a, const Operands& x, u32 index, u32 most) {
    const u32 group = a.heads / a.kv_heads;
    Tile t = {};
    if (x.cu == nullptr) {
        const u32 each = (group + most - 1) / most;
        t.sequence = t.first = index / each;
        t.row = index % each * most;
        t.queries = 1;
    } else {
        bool found = false;
        u32 end = 0;
        for (u32 first = 0; first <= a.batch && !found; first += 32) {
            const u32 b = first + lane32();
            i32 from = 0, to = 0;
            if (b <= a.batch) {
                from = between(index_at(x.cu, b * a.cu_stride, a.wide_cu), 0, (i32)a.tokens);
                to = (i32)a.tokens;
                if (b < a.batch) to = between(index_at(x.cu, (b + 1) * a.cu_stride, a.wide_cu), from, to);
            }
            const u32 tiles = (u32)(((u64)(to - from) * group + most - 1) / most);
            u32 before = tiles;
#pragma unroll
            for (u32 step = 1; step < 32; step *= 2) {
                const u32 other = warp_from(before, lane32() - step);
                if (lane32() >= step) before += other;
            }
            const u32 here = warp_ballot(end + before > index);
            if (here != 0) {
                u32 lane = 0;
                while ((here >> lane & 1) == 0) lane++;
                t.sequence = first + lane;
                t.first = (u32)warp_from(from, lane);
                t.queries = warp_from(to, lane) - (i32)t.first;
                t.row = (index - (end + warp_from(before, lane) - warp_from(tiles, lane))) * most;
                found = true;
            }
            end += warp_from(before, 31);
        }
        if (!found) return t;
    }
    const u64 rows = (u64)t.queries * group - t.row;
    t.rows = rows < most ? (u32)rows : most;
    if (t.sequence < a.batch) {
        t.start = a.paged ? 0 : packed_start(a, x, t.sequence);
        t.keys = keys_of(a, x, t.sequence, t.start);
        t.low = visible(a, t, (i32)(t.row / group)).low;
        t.high = visible(a, t, (i32)((t.row + t.rows - 1) / group)).high;
        if (t.high < t.low) t.high = t.low;
    }
    return t;
}

// The part of a tile's keys that split `index` takes, in steps of `step` keys and `least` at least.
DEVICE Range split_of(const Attention& a, const Tile& t, u32 index, i32 step, i32 least) {
    const i32 low = t.low / step * step;
    const i32 each = (t.high - low + (i32)a.splits - 1) / (i32)a.splits;
    const i32 width = each < least ? least : (each + step - 1) / step * step;
    const i64 from = low + (i64)width * index;
    const i64 to = from + width;
    const i32 high = to < t.high ? (i32)to : t.high;
    return {from < high ? (i32)from : high, high};
}

// The block and the token in it of a key; false where the table or the tensor has no such place.
struct Place { u64 block; u32 token; };
DEVICE bool place_of(const Attention& a, const Operands& x, const Tile& t, i32 key, Place& at) {
    if (!a.paged) {
        const u64 token = t.start + (u64)key;
        at = {0, (u32)token};
        return token < a.block_size;
    }
    const u32 column = (u32)key / a.block_size;
    if (column >= a.columns) return false;
    const i64 block = index_at(x.table, t.sequence * a.table_stride[0] + column * a.table_stride[1], a.wide_table);
    at = {(u64)block, (u32)key - column * a.block_size};
    return block >= 0 && block < (i64)a.blocks;
}
DEVICE u64 offset_of(const u64* stride, Place at, u32 head) {
    return at.block * stride[0] + head * stride[1] + at.token * stride[2];
}

// A score in units of log2.
DEVICE float capped(const Attention& a, float dot) {
    return a.ceiling == 0.0f ? dot * a.factor : a.ceiling * tanhf(dot * a.factor);
}

// Which head and token a row is.
struct RowAt { u32 token, head; };
DEVICE RowAt row_at(const Attention& a, const Tile& t, u32 row, u32 kv_head) {
    const u32 group = a.heads / a.kv_heads, r = t.row + row;
    return {t.first + r / group, kv_head * group + r % group};
}

// What the weighted values of a row are multiplied with: 1 / the sum of its weights, which a sink may join.
DEVICE float ending(const Attention& a, const void* sinks, u32 head, float reference, float sum) {
    if (sum == 0.0f) return 0.0f;
    if (sinks == nullptr) return 1.0f / sum;
    const float sink = load_any(sinks, head * a.sinks_stride, a.sinks_kind) * LOG2E;
    const float most = fmaxf(reference, sink);
    const float share = fast_exp2(reference - most);
    return share / (sum * share + fast_exp2(sink - most));
}

// Where the running numbers of split rows lie: references, sums, and weighted values.
DEVICE u64 split_rows(const Attention& a) { return (u64)a.tokens * a.heads; }
DEVICE float* part_reference(const Attention& a, float* part, u32 split, RowAt at) {
    return part + split * split_rows(a) + (u64)at.token * a.heads + at.head;
}
DEVICE float* part_sum(const Attention& a, float* part, u32 split, RowAt at) {
    return part_reference(a, part, a.splits + split, at);
}
DEVICE float* part_values(const Attention& a, float* part, u32 split, RowAt at) {
    const u64 row = split * split_rows(a) + (u64)at.token * a.heads + at.head;
    return part + 2 * a.splits * split_rows(a) + row * a.dv;
}
