// The order in which rows are chosen from: largest first, NaN before all, ties by the lower index.

// A number's place among all numbers: larger for larger ones; zeros of both signs are one, and so are all NaN.
INLINE uint order_of(float v) {
    if (isnan(v)) return 0xffffffffu;
    const uint bits = v == 0.0f ? 0 : as_uint(v);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
INLINE float value_of(uint order) {
    if (order == 0xffffffffu) return NAN;
    return as_float(order ^ (order >> 31 ? 0x80000000u : 0xffffffffu));
}

// An element's place in its row's order: unique, larger for what comes first, and never 0.
INLINE ulong place_of(float v, uint index) { return (ulong)order_of(v) << 32 | (0xffffffffu - index); }
INLINE uint index_of(ulong place) { return 0xffffffffu - (uint)place; }

// Adds to a number that the group shares: what it was before.
INLINE uint add_to(__local uint *number, uint more) {
#if GROUP == 1
    const uint before = *number;
    *number = before + more;
    return before;
#else
    return atomic_add(number, more);
#endif
}
