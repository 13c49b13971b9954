// Attention of any dtypes and head sizes, by sums in f32, and the kernel that joins split keys.
//
// A block takes up to eight rows of one key head and a part of the keys, 32 at a time: each group of lanes scores every
// fourth key for all rows, then turns the scores of every fourth row into weights; then each thread adds up its
// columns.
#include "attention.cuh"

static const u32 PLAIN_ROWS = 8;
static const u32 PLAIN_KEYS = 32;

// Elements of one dtype, or of one that is known at run time.
template <u32 KIND> struct Elements {
    static DEVICE float at(const void* from, u64 i, u32) { return load_any(from, i, KIND); }
};
static const u32 ANY = 99;
template <> struct Elements<ANY> {
    static DEVICE float at(const void* from, u64 i, u32 kind) { return load_any(from, i, kind); }
};

// Where the keys of a step lie, and what their codes are multiplied with.
struct Step {
    u64 k[PLAIN_KEYS], v[PLAIN_KEYS];
    float k_scale[PLAIN_KEYS], v_scale[PLAIN_KEYS];
    float weight[PLAIN_ROWS][PLAIN_KEYS];
};
struct Rows {
    i32 low[PLAIN_ROWS], high[PLAIN_ROWS];
    float reference[PLAIN_ROWS], sum[PLAIN_ROWS], share[PLAIN_ROWS];
    u32 seen[PLAIN_ROWS];
};

// Finds the keys base + thread; true where one has no place.
DEVICE bool find_keys(const Attention& a, const Operands& x, const Tile& t, u32 kv_head, i32 base, i32 high, Step& step) {
    const u32 i = threadIdx.x;
    if (i >= PLAIN_KEYS || base + (i32)i >= high) return false;
    Place at = {0, 0};
    const bool there = place_of(a, x, t, base + (i32)i, at);
    if (!there) at = {0, 0};
    step.k[i] = offset_of(a.k_stride, at, kv_head);
    step.v[i] = offset_of(a.v_stride, at, kv_head);
    step.k_scale[i] = there && x.k_scale != nullptr ? x.k_scale[offset_of(a.k_scale_stride, at, kv_head)] : 1.0f;
    step.v_scale[i] = there && x.v_scale != nullptr ? x.v_scale[offset_of(a.v_scale_stride, at, kv_head)] : 1.0f;
    return !there;
}

// Scores of `count` keys for all rows; -infinity where a row does not see a key.
template <u32 KIND>
DEVICE void score_keys(const Attention& a, const Operands& x, const float* q, i32 base, u32 count, const Rows& rows, Step& step) {
    for (u32 j = group32(); j < count; j += 4) {
        float sum[PLAIN_ROWS] = {};
        for (u32 i = lane32(); i < a.d; i += 32) {
            const float key = Elements<KIND>::at(x.k, step.k[j] + i, a.k_kind);
#pragma unroll
            for (u32 r = 0; r < PLAIN_ROWS; r++) sum[r] = fmaf(q[r * a.d + i], key, sum[r]);
        }
#pragma unroll
        for (u32 r = 0; r < PLAIN_ROWS; r++) {
            const float score = capped(a, warp_sum(sum[r]) * step.k_scale[j]);
            const i32 key = base + (i32)j;
            if (lane32() == r) step.weight[r][j] = key >= rows.low[r] && key < rows.high[r] ? score : -F32_INF;
        }
    }
}

// Scores become weights; lane j has key j of the step.
DEVICE void weigh_rows(i32 base, u32 count, Rows& rows, Step& step) {
    const i32 key = base + (i32)lane32();
    for (u32 r = group32(); r < PLAIN_ROWS; r += 4) {
        const bool sees = lane32() < count && key >= rows.low[r] && key < rows.high[r];
        const float score = sees ? step.weight[r][lane32()] : -F32_INF;
        const float next = fmaxf(rows.reference[r], warp_max(score));
        const float safe = next == -F32_INF ? 0.0f : next;
        const float weight = fast_exp2(score - safe);
        step.weight[r][lane32()] = weight;
        const float sum = warp_sum(weight);
        const u32 seen = warp_ballot(sees);
        if (lane32() == 0) {
            const float share = fast_exp2(rows.reference[r] - safe);
            rows.share[r] = share;
            rows.sum[r] = rows.sum[r] * share + sum;
            rows.reference[r] = next;
            rows.seen[r] = seen;
        }
    }
}

template <u32 KIND>
DEVICE void add_columns(const Attention& a, const Operands& x, u32 count, const Rows& rows, const Step& step, float* all) {
    for (u32 i = threadIdx.x; i < a.dv; i += 128) {
        float sum[PLAIN_ROWS];
#pragma unroll
        for (u32 r = 0; r < PLAIN_ROWS; r++) sum[r] = all[r * a.dv + i] * rows.share[r];
        for (u32 j = 0; j < count; j++) {
            const float value = Elements<KIND>::at(x.v, step.v[j] + i, a.v_kind) * step.v_scale[j];
#pragma unroll
            for (u32 r = 0; r < PLAIN_ROWS; r++) {
                if (rows.seen[r] >> j & 1) sum[r] = fmaf(step.weight[r][j], value, sum[r]);
            }
        }
#pragma unroll
        for (u32 r = 0; r < PLAIN_ROWS; r++) all[r * a.dv + i] = sum[r];
    }
}

template <u32 K_KIND, u32 V_KIND> DEVICE void attention_plain(const Attention& a, const Operands& x) {
    SHARED_DYNAMIC(float, q);
    SHARED(Step, steps, 1);
    SHARED(Rows, row, 1);
    SHARED(u32, lost, 1);
    Step& step = steps[0];
    Rows& rows = row[0];
    float* all = q + PLAIN_ROWS * a.d;

    // Later tiles see more keys: they start first.
    const Tile t = find_tile(a, x, gridDim.x - 1 - blockIdx.x, PLAIN_ROWS);
    if (t.rows == 0) return;
    const u32 kv_head = blockIdx.y, group = a.heads / a.kv_heads;
    Range keys = split_of(a, t, blockIdx.z, PLAIN_KEYS, 4 * PLAIN_KEYS);
    if (keys.low < t.low) keys.low = t.low;
    if (threadIdx.x == 0) lost[0] = 0;
    if (threadIdx.x < PLAIN_ROWS) {
        const u32 r = threadIdx.x;
        const Range seen = r < t.rows ? visible(a, t, (i32)((t.row + r) / group)) : Range{0, 0};
        rows.low[r] = seen.low;
        rows.high[r] = seen.high;
        rows.reference[r] = -F32_INF;
        rows.sum[r] = 0.0f;
    }
    for (u32 i = threadIdx.x; i < PLAIN_ROWS * a.d; i += 128) {
        const u32 r = i / a.d;
        const RowAt at = row_at(a, t, r < t.rows ? r : 0, kv_head);
        const u64 start = at.token * a.q_stride[0] + at.head * a.q_stride[1];
        q[i] = load_any(x.q, start + i % a.d * a.q_stride[2], a.q_kind);
    }
    for (u32 i = threadIdx.x; i < PLAIN_ROWS * a.dv; i += 128) all[i] = 0.0f;
    for (i32 base = keys.low; base < keys.high; base += PLAIN_KEYS) {
        const u32 count = (u32)(keys.high - base) < PLAIN_KEYS ? keys.high - base : PLAIN_KEYS;
        sync();
        if (find_keys(a, x, t, kv_head, base, keys.high, step)) lost[0] = 1;
        sync();
        if (lost[0] != 0) break;
        score_keys<K_KIND>(a, x, q, base, count, rows, step);
        sync();
        weigh_rows(base, count, rows, step);
        sync();
        add_columns<V_KIND>(a, x, count, rows, step, all);
    }
    sync();

    for (u32 r = group32(); r < t.rows; r += 4) {
        const RowAt at = row_at(a, t, r, kv_head);
        const float sum = lost[0] != 0 ? F32_NAN : rows.sum[r];
        if (a.splits > 1) {
            const bool some = sum != 0.0f;
            float* values = part_values(a, x.part, blockIdx.z, at);
            for (u32 i = lane32(); some && i < a.dv; i += 32) values[i] = all[r * a.dv + i];
            if (lane32() == 0) {
                *part_reference(a, x.part, blockIdx.z, at) = rows.reference[r];
                *part_sum(a, x.part, blockIdx.z, at) = sum;
            }
        } else {
            const float factor = ending(a, x.sinks, at.head, rows.reference[r], sum);
            const u64 start = at.token * a.y_stride[0] + at.head * a.y_stride[1];
            for (u32 i = lane32(); i < a.dv; i += 32) {
                store_any(x.y, start + i * a.y_stride[2], a.y_kind, all[r * a.dv + i] * factor);
            }
        }
    }
}

KERNEL_BLOCKS(128, 4) attention_plain_f32(ATTENTION_PARAMS) {
    take_turn();
    attention_plain<KIND_F32, KIND_F32>(a, Operands ATTENTION_OPERANDS);
}
KERNEL_BLOCKS(128, 4) attention_plain_any(ATTENTION_PARAMS) {
    take_turn();
    attention_plain<ANY, ANY>(a, Operands ATTENTION_OPERANDS);
}

// The parts of a row, in their order: a block takes a row, and each group of lanes finds the weights of all its parts.
KERNEL(128) attention_join(ATTENTION_PARAMS) {
    take_turn();
    const Operands x = ATTENTION_OPERANDS;
    const RowAt at = {blockIdx.x / a.heads, blockIdx.x % a.heads};
    const int TURNS = MOST_SPLITS / 32;
    float references[TURNS], sums[TURNS];
    float reference = -F32_INF;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const u32 s = 32 * i + lane32();
        references[i] = s < a.splits ? *part_reference(a, x.part, s, at) : -F32_INF;
        sums[i] = s < a.splits ? *part_sum(a, x.part, s, at) : 0.0f;
        reference = fmaxf(reference, references[i]);
    }
    reference = warp_max(reference);
    const float safe = reference == -F32_INF ? 0.0f : reference;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        references[i] = sums[i] == 0.0f ? 0.0f : fast_exp2(references[i] - safe);
        sum += sums[i] * references[i];
    }
    const float factor = ending(a, x.sinks, at.head, reference, warp_sum(sum));
    const u64 start = at.token * a.y_stride[0] + at.head * a.y_stride[1];
    for (u32 first = 0; first < a.dv; first += 128) {
        const u32 column = first + threadIdx.x;
        float value = 0.0f;
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const u32 count = a.splits < 32u * i ? 0 : a.splits - 32 * i < 32 ? a.splits - 32 * i : 32;
#pragma unroll 8
            for (u32 lane = 0; lane < count; lane++) {
                const float share = warp_from(references[i], lane);
                if (share != 0.0f && column < a.dv) value += part_values(a, x.part, 32 * i + lane, at)[column] * share;
            }
        }
        if (column < a.dv) store_any(x.y, start + column * a.y_stride[2], a.y_kind, value * factor);
    }
}
