// The weights of a product's column as numbers, 32 inputs at a time. A format is a name of FORMAT_*, or of BLOCK_* for those that
// are read eight by eight.
//
// Products of a block's scale and a code are exact in f32, so that a weight is rounded once at most, fused or not.

// A column: its row of weights, and what stands beside it.
typedef struct {
    __global const uchar *row, *scales, *zeros;
    ulong scale, zero;
} Column;

INLINE Column column_at(const Product *p, const Start *at, __global const uchar *w, __global const uchar *scales,
                        __global const uchar *zeros, uint column) {
    Column to = {w + at->w + column * p->w_row, scales, zeros, 0, 0};
    if (scales) to.scale = column / p->group_rows * p->scale_row;
    if (zeros) to.zero = column / p->group_rows * p->zero_row;
    return to;
}

// An element of a table of scales or zeros: f32, f16, bf16, u8, i8, u4, i4.
INLINE float number_at(__global const uchar *table, uint type, ulong i) {
    if (type < 3) return load_as(table, type, i);
    if (type == 3) return (float)table[i];
    if (type == 4) return (float)((__global const char *)table)[i];
    const uint code = table[i / 2] >> (i % 2 * 4) & 15;
    return type == 5 ? (float)code : (float)((int)(code ^ 8) - 8);
}

// The scale and the zero of the block that starts at input k.
INLINE float2 group_at(const Product *p, const Column *c, uint k) {
    const uint group = min(k / p->group_size, p->groups - 1);
    const float zero = c->zeros ? number_at(c->zeros, p->zero_type, c->zero + group * p->zero_group) : 0.0f;
    return (float2)(number_at(c->scales, p->scale_type, c->scale + group * p->scale_group), zero);
}

#if defined(FORMAT_F32)
#define STRIDED
INLINE float element_at(__global const uchar *row, ulong i) { return ((__global const float *)row)[i]; }
INLINE float16 elements_at(__global const uchar *row, ulong i) {
    return vload16(0, (__global const float *)row + i);
}
#elif defined(FORMAT_F16)
#define STRIDED
INLINE float element_at(__global const uchar *row, ulong i) { return vload_half(i, (__global const half *)row); }
INLINE float16 elements_at(__global const uchar *row, ulong i) {
    return vload_half16(0, (__global const half *)row + i);
}
#elif defined(FORMAT_BF16)
#define STRIDED
INLINE float element_at(__global const uchar *row, ulong i) {
    return as_float((uint)((__global const ushort *)row)[i] << 16);
}
INLINE float16 elements_at(__global const uchar *row, ulong i) {
    return as_float16(convert_uint16(vload16(0, (__global const ushort *)row + i)) << 16);
}
#elif defined(FORMAT_I8)
#define GROUPED
INLINE float element_at(__global const uchar *row, ulong i) { return (float)((__global const char *)row)[i]; }
INLINE float16 elements_at(__global const uchar *row, ulong i) {
    return convert_float16(vload16(0, (__global const char *)row + i));
}
#elif defined(FORMAT_U8)
#define GROUPED
INLINE float element_at(__global const uchar *row, ulong i) { return (float)row[i]; }
INLINE float16 elements_at(__global const uchar *row, ulong i) { return convert_float16(vload16(0, row + i)); }
#elif defined(FORMAT_F8_E4M3)
#define GROUPED
INLINE float element_at(__global const uchar *row, ulong i) { return e4m3_to_f32(row[i]); }
INLINE float16 elements_at(__global const uchar *row, ulong i) {
    return e4m3_16(convert_uint16(vload16(0, row + i)));
}
#elif defined(FORMAT_I4) || defined(FORMAT_U4)
#define GROUPED
#if defined(FORMAT_I4)
#define CODE_OF(x) (convert_int((x) ^ (uchar)8) - 8)
#define CODES_OF(x) (convert_int16((x) ^ (uchar)8) - 8)
#else
#define CODE_OF(x) convert_int(x)
#define CODES_OF(x) convert_int16(x)
#endif
INLINE float element_at(__global const uchar *row, ulong i) {
    return convert_float(CODE_OF((uchar)(row[i / 2] >> (i % 2 * 4) & 15)));
}
INLINE float16 elements_at(__global const uchar *row, ulong i) {
    const uchar8 both = vload8(0, row + i / 2);
    uchar16 codes;
    codes.even = both & (uchar)15;
    codes.odd = both >> (uchar)4;
    return convert_float16(CODES_OF(codes));
}
#endif

#if defined(STRIDED) || defined(GROUPED)
// The weights of inputs 32·block and on, of which `left` are there; beyond them zeros.
INLINE void weights_32(const Product *p, const Column *c, uint block, uint left, float16 *low, float16 *high) {
    const ulong first = (ulong)block * 32;
    if (left >= 32 && p->w_col == 1) {
        *low = elements_at(c->row, first);
        *high = elements_at(c->row, first + 16);
    } else {
        float each[32];
        for (uint i = 0; i < 32; i++) each[i] = i < left ? element_at(c->row, (first + i) * p->w_col) : 0.0f;
        *low = vload16(0, each);
        *high = vload16(1, each);
    }
#if defined(GROUPED)
    const float2 by = group_at(p, c, block * 32);
    *low = (*low - by.y) * by.x;
    *high = (*high - by.y) * by.x;
    if (left < 32) {
        // What is beyond the last input is no weight, whatever its zero.
        const int16 count = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        *low = select((float16)(0.0f), *low, count < (int)left);
        *high = select((float16)(0.0f), *high, count + 16 < (int)left);
    }
#endif
}
#elif defined(FORMAT_Q8_0)
INLINE void weights_32(const Product *p, const Column *c, uint block, uint left, float16 *low, float16 *high) {
    __global const uchar *at = c->row + (ulong)block * 34;
    const float d = half_at(at);
    *low = convert_float16(vload16(0, (__global const char *)at + 2)) * d;
    *high = convert_float16(vload16(0, (__global const char *)at + 18)) * d;
}
#elif defined(FORMAT_Q4_0)
INLINE void weights_32(const Product *p, const Column *c, uint block, uint left, float16 *low, float16 *high) {
    __global const uchar *at = c->row + (ulong)block * 18;
    const float d = half_at(at);
    const uchar16 codes = vload16(0, at + 2);
    *low = convert_float16(convert_int16(codes & (uchar)15) - 8) * d;
    *high = convert_float16(convert_int16(codes >> (uchar)4) - 8) * d;
}
#elif defined(FORMAT_Q4_K)
INLINE void weights_32(const Product *p, const Column *c, uint block, uint left, float16 *low, float16 *high) {
    __global const uchar *at = c->row + (ulong)(block / 8) * 144;
    __global const uchar *s = at + 4;
    const uint i = block % 8;
    const uint scale = i < 4 ? s[i] & 63u : (s[i + 4] & 15u) | (uint)s[i - 4] >> 6 << 4;
    const uint minimum = i < 4 ? s[i + 4] & 63u : (uint)s[i + 4] >> 4 | (uint)s[i] >> 6 << 4;
    const float d = half_at(at) * (float)scale, less = half_at(at + 2) * (float)minimum;
    __global const uchar *codes = at + 16 + i / 2 * 32;
    const uchar shift = i % 2 * 4;
    *low = convert_float16(vload16(0, codes) >> shift & (uchar)15) * d - less;
    *high = convert_float16(vload16(1, codes) >> shift & (uchar)15) * d - less;
}
#elif defined(FORMAT_Q6_K)
INLINE void weights_32(const Product *p, const Column *c, uint block, uint left, float16 *low, float16 *high) {
    __global const uchar *at = c->row + (ulong)(block / 8) * 210;
    const uint i = block % 8, part = i % 4;
    __global const uchar *fours = at + i / 4 * 64 + part % 2 * 32, *twos = at + 128 + i / 4 * 32;
    __global const char *scales = (__global const char *)at + 192 + 2 * i;
    const uchar shift4 = part / 2 * 4, shift2 = 2 * part;
    const float d = half_at(at + 208);
    const uchar16 first = (vload16(0, fours) >> shift4 & (uchar)15) | (vload16(0, twos) >> shift2 & (uchar)3) << (uchar)4;
    const uchar16 second = (vload16(1, fours) >> shift4 & (uchar)15) | (vload16(1, twos) >> shift2 & (uchar)3) << (uchar)4;
    *low = convert_float16(convert_int16(first) - 32) * (d * (float)scales[0]);
    *high = convert_float16(convert_int16(second) - 32) * (d * (float)scales[1]);
}
#else
INLINE void weights_32(const Product *p, const Column *c, uint block, uint left, float16 *low, float16 *high) {
    const uint per = ELEMS / 32;
    __global const uchar *at = c->row + (ulong)(block / per) * BYTES;
    float each[32];
    for (uint j = 0; j < 32; j += AT_ONCE) unpack(at, block % per * 32 + j, each + j);
    *low = vload16(0, each);
    *high = vload16(1, each);
}
#endif
