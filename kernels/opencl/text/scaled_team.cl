// Products of int8 codes on a device of many work-items: up to ROWS rows by SLOTS columns to a group, LANES work-items to a
// column, of which each takes every so many 16 inputs.

#define SLOTS (GROUP / LANES)

// The sum of c and of four products of codes.
INLINE int dot_4(uint a, uint b, int c) {
#if defined(HAS_DOT)
    return c + dot_4x8packed_ss_int(a, b);
#else
    const int4 products = convert_int4(as_char4(a)) * convert_int4(as_char4(b));
    return c + products.x + products.y + products.z + products.w;
#endif
}

KERNEL(SCALED_PARAMS) {
    __global const char *inputs = AT(char, a), *weights = AT(char, b);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0;
    __global const int *join = GIVEN(joins) ? AT(int, joins) : 0;
    __local int sums[ROWS * GROUP];
    const uint id = get_local_id(0), lane = id % LANES, column = get_group_id(0) * SLOTS + id / LANES;
    __global const char *codes = weights + min(column, p.n - 1) * p.b_row;
    const uint first = get_group_id(1) * ROWS;
    int own[ROWS];
    for (uint r = 0; r < ROWS; r++) own[r] = 0;
    for (uint k = lane * 16; k < p.k; k += LANES * 16) {
        const uint4 y = as_uint4(codes_16(codes, p.b_col, k, p.k - k));
        for (uint r = 0; r < ROWS; r++) {
            const uint4 x = as_uint4(codes_16(inputs + min(first + r, p.m - 1) * p.a_row, p.a_col, k, p.k - k));
            own[r] = dot_4(x.s0, y.s0, dot_4(x.s1, y.s1, dot_4(x.s2, y.s2, dot_4(x.s3, y.s3, own[r]))));
        }
    }
    for (uint r = 0; r < ROWS; r++) sums[r * GROUP + id] = own[r];
    MEET;
    for (uint i = id; i < ROWS * SLOTS; i += GROUP) {
        const uint r = i / SLOTS, s = i % SLOTS;
        int sum = 0;
        for (uint l = 0; l < LANES; l++) sum += sums[r * GROUP + s * LANES + l];
        finish(&p, AT(float, sa), AT(float, sb), more, join, AT(uchar, c), first + r, get_group_id(0) * SLOTS + s, sum);
    }
}
