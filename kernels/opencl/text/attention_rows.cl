// Attention of any dtypes and head sizes: up to eight rows of one key head and a part of the keys to a group, 32 keys at a time.
// Local memory holds the queries and the weighted values of the rows.

#if GROUP == 1
// One work-item: the rows are the lanes of vectors in scores, elements of values are in what follows.
#define K_KIND KIND_OF(a->k_kind)
#define V_KIND KIND_OF(a->v_kind)
#if defined(ALL_F32)
#define KIND_OF(kind) F32
#else
#define KIND_OF(kind) (kind)
#endif

// Eight elements from i on, of which `left` are there; beyond them zeros.
INLINE float8 numbers_8(__global const uchar *from, uint kind, ulong i, uint left) {
    if (left >= 8) {
        if (kind == F32) return vload8(0, (__global const float *)from + i);
        if (kind == F16) return vload_half8(0, (__global const half *)from + i);
        if (kind == BF16) return as_float8(convert_uint8(vload8(0, (__global const ushort *)from + i)) << 16);
        if (kind == KIND_I8) return convert_float8(vload8(0, (__global const char *)from + i));
        if (kind == KIND_E4M3) return e4m3_8(convert_uint8(vload8(0, from + i)));
    }
    float each[8];
    for (uint e = 0; e < 8; e++) each[e] = e < left ? number_at(from, kind, i + e) : 0.0f;
    return vload8(0, each);
}

// The keys of a step: where they lie, what their codes are multiplied with, and their weights for all rows.
typedef struct {
    ulong k[KEYS], v[KEYS];
    float k_scale[KEYS], v_scale[KEYS];
    float8 weight[KEYS];
    int8 sees[KEYS];
} Step;

// Finds `count` keys; false where one has no place.
INLINE bool find_keys(const Attention *a, const Operands *x, const Tile *t, uint kv_head, int base, uint count,
                             Step *step) {
    for (uint j = 0; j < count; j++) {
        const long2 at = place_of(a, x, t, base + (int)j);
        if (at.y < 0) return false;
        step->k[j] = offset_of(a->k_stride, at, kv_head);
        step->v[j] = offset_of(a->v_stride, at, kv_head);
        step->k_scale[j] = x->k_scale ? x->k_scale[offset_of(a->k_scale_stride, at, kv_head)] : 1.0f;
        step->v_scale[j] = x->v_scale ? x->v_scale[offset_of(a->v_scale_stride, at, kv_head)] : 1.0f;
    }
    for (uint j = count; j < KEYS; j++) step->k[j] = step->k[0];
    return true;
}

// Dot products of four keys with the queries `[d][8]` of all rows.
INLINE void dot_4(const Attention *a, const Operands *x, __local const float *q, const ulong *k, float8 *sums) {
    float8 even[4], odd[4];
    for (uint j = 0; j < 4; j++) even[j] = odd[j] = 0.0f;
    for (uint i = 0; i < a->d; i += 8) {
        const uint left = a->d - i;
        float key[4][8];
        for (uint j = 0; j < 4; j++) vstore8(numbers_8(x->k, K_KIND, k[j] + i, left), 0, key[j]);
        for (uint e = 0; e < 8 && e < left; e += 2) {
            const float8 first = vload8(i + e, q), second = e + 1 < left ? vload8(i + e + 1, q) : 0.0f;
            for (uint j = 0; j < 4; j++) even[j] = mad(key[j][e], first, even[j]);
            for (uint j = 0; j < 4; j++) odd[j] = mad(key[j][e + 1], second, odd[j]);
        }
    }
    for (uint j = 0; j < 4; j++) sums[j] = even[j] + odd[j];
}

// Scores of the keys; -infinity where a row does not see one.
INLINE void score_keys(const Attention *a, const Operands *x, __local const float *q, int base, uint count,
                              int8 low, int8 high, Step *step) {
    for (uint j = 0; j < count; j += 4) {
        dot_4(a, x, q, step->k + j, step->weight + j);
        for (uint i = j; i < j + 4 && i < count; i++) {
            const float8 dot = step->weight[i] * step->k_scale[i] * a->factor;
            const float8 score = a->ceiling == 0.0f ? dot : a->ceiling * tanh(dot);
            const int key = base + (int)i;
            step->sees[i] = key >= low && key < high;
            step->weight[i] = select((float8)(-INFINITY), score, step->sees[i]);
        }
    }
}

// The weighted values `[8][dv]`, those so far times `share`, with those of the step.
INLINE void add_values(const Attention *a, const Operands *x, uint count, float8 share, const Step *step,
                       __local float *values) {
    float shares[ROWS], weight[KEYS][ROWS];
    int sees[KEYS][ROWS];
    bool whole[KEYS];
    vstore8(share, 0, shares);
    for (uint j = 0; j < count; j++) {
        vstore8(step->weight[j], 0, weight[j]);
        vstore8(step->sees[j], 0, sees[j]);
        whole[j] = all(step->sees[j]);
    }
    for (uint i = 0; i < a->dv; i += 8) {
        const uint left = a->dv - i;
        float8 sum[ROWS];
        for (uint r = 0; r < ROWS; r++) {
            float each[8];
            for (uint e = 0; e < 8; e++) each[e] = e < left ? values[r * a->dv + i + e] : 0.0f;
            sum[r] = vload8(0, each) * shares[r];
        }
        for (uint j = 0; j < count; j++) {
            const float8 value = numbers_8(x->v, V_KIND, step->v[j] + i, left) * step->v_scale[j];
            if (whole[j]) {
                for (uint r = 0; r < ROWS; r++) sum[r] = mad(weight[j][r], value, sum[r]);
            } else {
                for (uint r = 0; r < ROWS; r++) {
                    if (sees[j][r]) sum[r] = mad(weight[j][r], value, sum[r]);
                }
            }
        }
        for (uint r = 0; r < ROWS; r++) {
            float each[8];
            vstore8(sum[r], 0, each);
            for (uint e = 0; e < 8 && e < left; e++) values[r * a->dv + i + e] = each[e];
        }
    }
}

KERNEL(ATTENTION_PARAMS, __local uchar *shared) {
    const Operands x = ATTENTION_OPERANDS;
    const Tile t = find_tile(&a, &x, get_num_groups(0) - 1 - get_group_id(0));
    const uint kv_head = get_group_id(1), split = get_group_id(2), group = a.heads / a.kv_heads;
    if (t.rows == 0) return;
    __local float *queries = (__local float *)shared, *values = queries + ROWS * a.d;
    int lows[ROWS], highs[ROWS];
    // Rows that are not there are the first once more.
    for (uint r = 0; r < ROWS; r++) {
        const uint row = r < t.rows ? r : 0;
        const int2 seen = visible(&a, &t, (int)((t.row + row) / group));
        lows[r] = seen.x;
        highs[r] = seen.y;
        const uint2 at = row_at(&a, &t, row, kv_head);
        const ulong start = at.x * a.q_stride[0] + at.y * a.q_stride[1];
        for (uint i = 0; i < a.d; i++) queries[i * ROWS + r] = load_as(x.q, a.q_kind, start + i * a.q_stride[2]);
        for (uint i = 0; i < a.dv; i++) values[r * a.dv + i] = 0.0f;
    }
    const int8 low = vload8(0, lows), high = vload8(0, highs);
    const int2 keys = split_of(&a, &t, split);
    float8 reference = -INFINITY, sum = 0.0f;
    Step step;
    for (int base = keys.x; base < keys.y; base += KEYS) {
        const uint count = min((uint)(keys.y - base), (uint)KEYS);
        if (!find_keys(&a, &x, &t, kv_head, base, count, &step)) {
            sum = NAN;
            break;
        }
        score_keys(&a, &x, queries, base, count, low, high, &step);
        float8 next = reference;
        for (uint j = 0; j < count; j++) next = fmax(next, step.weight[j]);
        const float8 safe = select(next, (float8)(0.0f), next == -INFINITY), share = exp2(reference - safe);
        sum *= share;
        for (uint j = 0; j < count; j++) {
            step.weight[j] = exp2(step.weight[j] - safe);
            sum += step.weight[j];
        }
        reference = next;
        add_values(&a, &x, count, share, &step, values);
    }
    float references[ROWS], sums[ROWS];
    vstore8(reference, 0, references);
    vstore8(sum, 0, sums);
    for (uint r = 0; r < t.rows; r++) {
        end_row(&a, &x, row_at(&a, &t, r, kv_head), split, references[r], sums[r], values + r * a.dv, 0, 1);
    }
}
#else
// Many work-items: each has some pairs of rows and keys in scores, some columns in what follows.
typedef struct {
    ulong k[KEYS], v[KEYS];
    float k_scale[KEYS], v_scale[KEYS];
    float weight[ROWS][KEYS];
    int low[ROWS], high[ROWS];
    float reference[ROWS], sum[ROWS], share[ROWS];
    int lost;
} Step;

INLINE bool sees(__local const Step *step, uint r, int key) {
    return key >= step->low[r] && key < step->high[r];
}

// Finds the keys of a step; says so where one has no place.
INLINE void find_keys(const Attention *a, const Operands *x, const Tile *t, uint kv_head, int base, uint count,
                      __local Step *step) {
    for (uint j = get_local_id(0); j < count; j += GROUP) {
        long2 at = place_of(a, x, t, base + (int)j);
        const bool there = at.y >= 0;
        if (!there) {
            step->lost = 1;
            at = (long2)(0, 0);
        }
        step->k[j] = offset_of(a->k_stride, at, kv_head);
        step->v[j] = offset_of(a->v_stride, at, kv_head);
        step->k_scale[j] = there && x->k_scale ? x->k_scale[offset_of(a->k_scale_stride, at, kv_head)] : 1.0f;
        step->v_scale[j] = there && x->v_scale ? x->v_scale[offset_of(a->v_scale_stride, at, kv_head)] : 1.0f;
    }
}

// Scores of the keys; -infinity where a row does not see one.
INLINE void score_keys(const Attention *a, const Operands *x, __local const float *q, int base, uint count,
                       __local Step *step) {
    for (uint i = get_local_id(0); i < ROWS * KEYS; i += GROUP) {
        const uint r = i / KEYS, j = i % KEYS;
        float sum = 0.0f;
        if (j < count) {
            for (uint e = 0; e < a->d; e++) sum = mad(q[r * a->d + e], number_at(x->k, a->k_kind, step->k[j] + e), sum);
            sum *= step->k_scale[j] * a->factor;
            if (a->ceiling != 0.0f) sum = a->ceiling * tanh(sum);
        }
        step->weight[r][j] = j < count && sees(step, r, base + (int)j) ? sum : -INFINITY;
    }
}

// Scores become weights.
INLINE void weigh_rows(__local Step *step) {
    for (uint r = get_local_id(0); r < ROWS; r += GROUP) {
        float next = step->reference[r];
        for (uint j = 0; j < KEYS; j++) next = fmax(next, step->weight[r][j]);
        const float safe = next == -INFINITY ? 0.0f : next, share = exp2(step->reference[r] - safe);
        float sum = step->sum[r] * share;
        for (uint j = 0; j < KEYS; j++) {
            const float weight = exp2(step->weight[r][j] - safe);
            step->weight[r][j] = weight;
            sum += weight;
        }
        step->share[r] = share;
        step->sum[r] = sum;
        step->reference[r] = next;
    }
}

INLINE void add_values(const Attention *a, const Operands *x, int base, uint count, __local const Step *step,
                       __local float *all) {
    for (uint i = get_local_id(0); i < a->dv; i += GROUP) {
        float sum[ROWS];
        for (uint r = 0; r < ROWS; r++) sum[r] = all[r * a->dv + i] * step->share[r];
        for (uint j = 0; j < count; j++) {
            const float value = number_at(x->v, a->v_kind, step->v[j] + i) * step->v_scale[j];
            for (uint r = 0; r < ROWS; r++) {
                if (sees(step, r, base + (int)j)) sum[r] = mad(step->weight[r][j], value, sum[r]);
            }
        }
        for (uint r = 0; r < ROWS; r++) all[r * a->dv + i] = sum[r];
    }
}

KERNEL(ATTENTION_PARAMS, __local uchar *shared) {
    const Operands x = ATTENTION_OPERANDS;
    const Tile t = find_tile(&a, &x, get_num_groups(0) - 1 - get_group_id(0));
    const uint kv_head = get_group_id(1), split = get_group_id(2), group = a.heads / a.kv_heads, id = get_local_id(0);
    __local float *queries = (__local float *)shared, *values = queries + ROWS * a.d;
    __local Step step;
    for (uint r = id; r < ROWS; r += GROUP) {
        const int2 seen = r < t.rows ? visible(&a, &t, (int)((t.row + r) / group)) : (int2)(0, 0);
        step.low[r] = seen.x;
        step.high[r] = seen.y;
        step.reference[r] = -INFINITY;
        step.sum[r] = 0.0f;
    }
    if (id == 0) step.lost = 0;
    for (uint i = id; i < ROWS * a.d; i += GROUP) {
        const uint r = i / a.d;
        const uint2 at = row_at(&a, &t, r < t.rows ? r : 0, kv_head);
        const ulong start = at.x * a.q_stride[0] + at.y * a.q_stride[1];
        queries[i] = t.rows > 0 ? load_as(x.q, a.q_kind, start + i % a.d * a.q_stride[2]) : 0.0f;
    }
    for (uint i = id; i < ROWS * a.dv; i += GROUP) values[i] = 0.0f;
    const int2 keys = t.rows > 0 ? split_of(&a, &t, split) : (int2)(0, 0);
    MEET;
    for (int base = keys.x; base < keys.y; base += KEYS) {
        const uint wanted = min((uint)(keys.y - base), (uint)KEYS);
        find_keys(&a, &x, &t, kv_head, base, wanted, &step);
        MEET;
        // Where a key is lost nothing is read any more; its rows end as no number.
        const uint count = step.lost ? 0 : wanted;
        score_keys(&a, &x, queries, base, count, &step);
        MEET;
        weigh_rows(&step);
        MEET;
        add_values(&a, &x, base, count, &step, values);
        MEET;
    }
    for (uint r = 0; r < t.rows; r++) {
        const float sum = step.lost ? NAN : step.sum[r];
        end_row(&a, &x, row_at(&a, &t, r, kv_head), split, step.reference[r], sum, values + r * a.dv, id, GROUP);
    }
}
#endif
