// What the kernels of attention share: the shapes of an operator, where queries and keys lie, and how a row ends.
//
// Rows are query tokens times the query heads that share a key head, token first: row r of a sequence is head r % group of token
// r / group. A tile of rows reads each key once for all of them. Scores are kept in units of log2, so that a weight is
// exp2(score - reference); the reference of a row is its largest score.

// Dtypes beyond those of activations, as the host numbers them.
#define KIND_I8 3
#define KIND_E4M3 4

// Strides count elements. A packed tensor is one block of all its tokens.
typedef struct {
    ulong q_stride[3], y_stride[3];              // token, head, element
    ulong k_stride[3], v_stride[3];              // block, head, token
    ulong k_scale_stride[3], v_scale_stride[3];  // block, head, token
    ulong table_stride[2], cu_stride, len_stride, sinks_stride;
    uint tokens, batch, heads, kv_heads, d, dv;
    uint block_size, blocks, columns, splits;
    uint window;                                 // 0 = unlimited
    uint q_kind, k_kind, v_kind, y_kind, sinks_kind;
    uint wide_cu, wide_len, wide_table;          // whether these are i64
    uint causal, paged, q_whole, y_pairs;
    // A score is factor * dot, or, with a ceiling, ceiling * tanh(factor * dot).
    float factor, ceiling;
} Attention;

#define ATTENTION_PARAMS                                                                                               \
    P(y), P(part), P(q), P(k), P(v), P(k_scale), P(v_scale), P(cu), P(len), P(table), P(sinks), const Attention a
#define OPTIONAL(T, x) (GIVEN(x) ? AT(T, x) : 0)
#define ATTENTION_OPERANDS                                                                                             \
    {AT(uchar, y), OPTIONAL(float, part), AT(uchar, q), AT(uchar, k), AT(uchar, v), OPTIONAL(float, k_scale),          \
     OPTIONAL(float, v_scale), OPTIONAL(uchar, cu), AT(uchar, len), OPTIONAL(uchar, table), OPTIONAL(uchar, sinks)}

typedef struct {
    __global uchar *y;
    __global float *part;
    __global const uchar *q, *k, *v;
    __global const float *k_scale, *v_scale;
    __global const uchar *cu, *len, *table, *sinks;
} Operands;

// Keys that a kernel can count, rows of a tile, keys of a step.
#define MOST_KEYS 0x3fffffff
#define ROWS 8
#define KEYS 32

INLINE float number_at(__global const uchar *from, uint kind, ulong i) {
    if (kind < KIND_I8) return load_as(from, kind, i);
    if (kind == KIND_I8) return (float)((__global const char *)from)[i];
    return kind == KIND_E4M3 ? e4m3_to_f32(from[i]) : e5m2_to_f32(from[i]);
}

INLINE long index_at(__global const uchar *from, ulong i, uint wide) {
    return wide ? ((__global const long *)from)[i] : (long)((__global const int *)from)[i];
}

INLINE int between(long x, int low, int high) { return x < low ? low : x > high ? high : (int)x; }

// A tile of rows of one sequence. Where `rows` is 0 there is nothing to do.
typedef struct {
    uint sequence;
    uint first;        // the sequence's first query token
    uint row, rows;    // the tile's first row in its sequence, and how many
    int queries;       // query tokens of the sequence
    int keys;          // its keys
    ulong start;       // where they start, without a table
    int low, high;     // the keys that some row sees
} Tile;

// The keys that a query token of a sequence sees, from x to before y.
INLINE int2 visible(const Attention *a, const Tile *t, int token) {
    const long after = (long)t->keys - t->queries + token + 1;
    const bool cut = a->causal || a->window > 0;
    const int high = cut ? between(after, 0, t->keys) : t->keys;
    return (int2)(a->window > 0 ? between(after - a->window, 0, high) : 0, high);
}

// The keys of a sequence: at most one more than there is room for, which no place has.
INLINE int keys_of(const Attention *a, const Operands *x, uint sequence, ulong start) {
    const long n = index_at(x->len, sequence * a->len_stride, a->wide_len);
    const ulong room = a->paged ? (ulong)a->columns * a->block_size : a->block_size - start;
    return between(n, 0, room < MOST_KEYS ? (int)room + 1 : MOST_KEYS);
}

// Where the packed keys of a sequence start, at most at their end.
INLINE ulong packed_start(const Attention *a, const Operands *x, uint sequence) {
    ulong sum = 0;
    for (uint b = 0; b < sequence; b++) {
        const long n = index_at(x->len, b * a->len_stride, a->wide_len);
        sum += n < 0 ? 0 : n > (long)a->block_size ? a->block_size : (ulong)n;
    }
    return min(sum, (ulong)a->block_size);
}

// Tile number `index`. Query tokens behind the last sequence are one without keys.
INLINE Tile find_tile(const Attention *a, const Operands *x, uint index) {
    const uint group = a->heads / a->kv_heads;
    Tile t = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    if (!x->cu) {
        const uint each = (group + ROWS - 1) / ROWS;
        t.sequence = t.first = index / each;
        t.row = index % each * ROWS;
        t.queries = 1;
    } else {
        uint end = 0;
        bool found = false;
        for (uint b = 0; b <= a->batch && !found; b++) {
            const int from = between(index_at(x->cu, b * a->cu_stride, a->wide_cu), 0, (int)a->tokens);
            int to = (int)a->tokens;
            if (b < a->batch) to = between(index_at(x->cu, (b + 1) * a->cu_stride, a->wide_cu), from, to);
            const uint tiles = (uint)(((ulong)(to - from) * group + ROWS - 1) / ROWS);
            if (end + tiles > index) {
                t.sequence = b;
                t.first = (uint)from;
                t.queries = to - from;
                t.row = (index - end) * ROWS;
                found = true;
            }
            end += tiles;
        }
        if (!found) return t;
    }
    t.rows = (uint)min((ulong)t.queries * group - t.row, (ulong)ROWS);
    if (t.sequence < a->batch) {
        t.start = a->paged ? 0 : packed_start(a, x, t.sequence);
        t.keys = keys_of(a, x, t.sequence, t.start);
        t.low = visible(a, &t, (int)(t.row / group)).x;
        t.high = max(t.low, visible(a, &t, (int)((t.row + t.rows - 1) / group)).y);
    }
    return t;
}

// The part of a tile's keys that split `index` takes.
INLINE int2 split_of(const Attention *a, const Tile *t, uint index) {
    const int low = t->low / KEYS * KEYS;
    const int each = (t->high - low + (int)a->splits - 1) / (int)a->splits;
    const int width = max(4 * KEYS, (each + KEYS - 1) / KEYS * KEYS);
    const long from = low + (long)width * index;
    const int high = (int)min(from + width, (long)t->high);
    return from < high ? (int2)(max((int)from, t->low), high) : (int2)(high, high);
}

// The block (x) and the token in it (y) of a key; a token of -1 where the table or the tensor has no such place.
INLINE long2 place_of(const Attention *a, const Operands *x, const Tile *t, int key) {
    if (!a->paged) {
        const ulong token = t->start + (ulong)key;
        return (long2)(0, token < a->block_size ? (long)token : -1);
    }
    const uint column = (uint)key / a->block_size;
    if (column >= a->columns) return (long2)(0, -1);
    const ulong at = t->sequence * a->table_stride[0] + column * a->table_stride[1];
    const long block = index_at(x->table, at, a->wide_table);
    return block < 0 || block >= (long)a->blocks ? (long2)(0, -1) : (long2)(block, (uint)key - column * a->block_size);
}
INLINE ulong offset_of(const ulong *stride, long2 at, uint head) {
    return (ulong)at.x * stride[0] + head * stride[1] + (ulong)at.y * stride[2];
}

// Which token (x) and head (y) a row is.
INLINE uint2 row_at(const Attention *a, const Tile *t, uint row, uint kv_head) {
    const uint group = a->heads / a->kv_heads, r = t->row + row;
    return (uint2)(t->first + r / group, kv_head * group + r % group);
}

// What the weighted values of a row are multiplied with: 1 / the sum of its weights, which a sink may join.
INLINE float ending(const Attention *a, __global const uchar *sinks, uint head, float reference, float sum) {
    if (sum == 0.0f) return 0.0f;
    if (!sinks) return 1.0f / sum;
    const float sink = load_as(sinks, a->sinks_kind, head * a->sinks_stride) * 1.44269504088896f;
    const float most = fmax(reference, sink);
    const float share = exp2(reference - most);
    return share / (sum * share + exp2(sink - most));
}

// Where the running numbers of split rows lie: references, sums, and weighted values.
INLINE ulong split_rows(const Attention *a) { return (ulong)a->tokens * a->heads; }
INLINE ulong part_reference(const Attention *a, uint split, uint2 at) {
    return split * split_rows(a) + (ulong)at.x * a->heads + at.y;
}
INLINE ulong part_sum(const Attention *a, uint split, uint2 at) {
    return part_reference(a, a->splits + split, at);
}
INLINE ulong part_values(const Attention *a, uint split, uint2 at) {
    return 2 * a->splits * split_rows(a) + part_reference(a, split, at) * a->dv;
}

// Writes columns first, first + step, … of a row whose weighted values are these: its result, or its part.
INLINE void end_row(const Attention *a, const Operands *x, uint2 at, uint split, float reference, float sum,
                    __local const float *values, uint first, uint step) {
    if (a->splits > 1) {
        for (uint i = first; sum != 0.0f && i < a->dv; i += step) x->part[part_values(a, split, at) + i] = values[i];
        if (first == 0) {
            x->part[part_reference(a, split, at)] = reference;
            x->part[part_sum(a, split, at)] = sum;
        }
        return;
    }
    const float factor = ending(a, x->sinks, at.y, reference, sum);
    const ulong start = at.x * a->y_stride[0] + at.y * a->y_stride[1];
    for (uint i = first; i < a->dv; i += step) store_as(x->y, a->y_kind, start + i * a->y_stride[2], values[i] * factor);
}
