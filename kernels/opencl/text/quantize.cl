// Activations to int8: each row by its own largest magnitude, or all by one given scale.

INLINE void put_code(__global uchar *base, const Rows *rows, ulong at, uint i, float v) {
    ((__global char *)base)[at + i * rows->step] = convert_char_sat_rte(v);
}

#ifdef DYNAMIC
typedef struct {
    Rows x, q, scale;
    uint rows, cols;
} DynamicShape;

KERNEL(P(x), P(q), P(scale_to), DynamicShape s) {
    __local uint part[GROUP];
    EACH_ROW(row) {
        const int live = row < s.rows;
        const uint n = live ? s.cols : 0, r = live ? row : 0;
        const Row from = row_of(AT(uchar, x), &s.x, r);
        // The bits of magnitudes are in order, NaN above all.
        uint8 many = 0;
        EIGHTS(i, n) many = max(many, as_uint8(get8(from, i)) & 0x7fffffffu);
        const uint4 four = max(many.lo, many.hi);
        const uint2 two = max(four.lo, four.hi);
        uint most = max(two.x, two.y);
        ONES(i, n) most = max(most, as_uint(get(from, i)) & 0x7fffffffu);
        const float scale = as_float(team_most(part, most)) / 127.0f;
        const ulong at = row_at(&s.q, r);
        for (uint i = LANE; i < n; i += TEAM)
            put_code(AT(uchar, q), &s.q, at, i, scale == 0.0f ? 0.0f : get(from, i) / scale);
        if (live && LANE == 0) AT(float, scale_to)[row_at(&s.scale, r)] = scale;
    }
}
#endif

#ifdef STATIC
typedef struct {
    Rows x, q;
    uint rows, cols;
} StaticShape;

// As many elements as launches count by: sixteen bytes of a dense row, or one.
#ifdef T
#define SLOT (T == F32 ? 4u : 8u)
#else
#define SLOT 1u
#endif

KERNEL(P(x), P(scale), P(zero), P(q), StaticShape s) {
    const float steps = AT(float, scale)[0], start = GIVEN(zero) ? AT(float, zero)[0] : 0.0f;
    const uint slots = (s.cols + SLOT - 1) / SLOT;
    for (uint c = get_local_id(0); c < 256; c += GROUP) {
        const uint slot = (uint)get_group_id(0) * 256 + c, row = slot / slots, first = slot % slots * SLOT;
        if (row < s.rows) {
            const Row from = row_of(AT(uchar, x), &s.x, row);
            const ulong at = row_at(&s.q, row);
            for (uint i = first; i < min(first + SLOT, s.cols); i++)
                put_code(AT(uchar, q), &s.q, at, i, get(from, i) / steps + start);
        }
    }
}
#endif
