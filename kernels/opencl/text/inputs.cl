// Activations of a product as numbers, 32 inputs at a time.

INLINE float16 inputs_16(__global const uchar *a, uint type, ulong at) {
    if (type == 0) return vload16(0, (__global const float *)a + at);
    if (type == 1) return vload_half16(0, (__global const half *)a + at);
    return as_float16(convert_uint16(vload16(0, (__global const ushort *)a + at)) << 16);
}

// Inputs k to k + 31 of a row, of which `left` are there.
INLINE void inputs_32(const Product *p, __global const uchar *a, ulong row, uint k, uint left, float16 *low,
                             float16 *high) {
    if (left >= 32 && p->a_col == 1) {
        *low = inputs_16(a, p->a_type, row + k);
        *high = inputs_16(a, p->a_type, row + k + 16);
    } else {
        float each[32];
        for (uint i = 0; i < 32; i++) each[i] = i < left ? load_as(a, p->a_type, row + (ulong)(k + i) * p->a_col) : 0.0f;
        *low = vload16(0, each);
        *high = vload16(1, each);
    }
}
