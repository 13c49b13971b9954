// Formats whose elements share bytes. A format is a name of BLOCK_*; it says how many elements and bytes a block has, and how the
// AT_ONCE elements from j on are numbers. Products of a scale and a code are exact in f32, so that a sum of two is rounded once.

INLINE float half_at(__global const uchar *at) { return vload_half(0, (__global const half *)at); }

// Code i of eight bytes: `mask` bits of byte i, from bit `shift` on.
INLINE float code_of(__global const uchar *bytes, uint i, uint shift, uint mask) {
    return (float)(bytes[i] >> shift & mask);
}
INLINE uint bit_of(__global const uchar *bytes, uint bit) { return bytes[bit / 8] >> bit % 8 & 1u; }

// What the codes of IQ4_NL and IQ4_XS stand for, and twice what those of fp4 do.
INLINE float iq4_value(uint code) {
    const ulong half_of = code < 8 ? 0xf6eaddcfbfad9881ul : 0x7159453526190d01ul;
    return (float)(char)(half_of >> 8 * (code & 7));
}
INLINE float fp4_twice(uint code) {
    const float magnitude = (float)(uchar)(0x0c08060403020100ul >> 8 * (code & 7));
    return code & 8 ? -magnitude : magnitude;
}

// The 6-bit scale (x) and minimum (y) of sub-block s of 8, out of 12 bytes.
INLINE float2 scale_and_minimum(__global const uchar *scales, uint s) {
    if (s < 4) return (float2)((float)(scales[s] & 63u), (float)(scales[s + 4] & 63u));
    return (float2)((float)((scales[s + 4] & 15u) | (uint)scales[s - 4] >> 6 << 4),
                    (float)((uint)scales[s + 4] >> 4 | (uint)scales[s] >> 6 << 4));
}

#if defined(BLOCK_I4) || defined(BLOCK_U4) || defined(BLOCK_F4_E2M1)
#define ELEMS 2
#define BYTES 1
#define AT_ONCE 2
INLINE float nibble_value(uint code) {
#if defined(BLOCK_I4)
    return (float)((int)(code ^ 8) - 8);
#elif defined(BLOCK_U4)
    return (float)code;
#else
    return 0.5f * fp4_twice(code);
#endif
}
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    x[0] = nibble_value(b[0] & 15u);
    x[1] = nibble_value(b[0] >> 4);
}
#else
#define AT_ONCE 8
#define EIGHT for (uint i = 0; i < 8; i++)
#if defined(BLOCK_Q4_0)
#define ELEMS 32
#define BYTES 18
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    EIGHT x[i] = half_at(b) * (code_of(b + 2 + (j & 15), i, j >> 4 << 2, 15) - 8.0f);
}
#elif defined(BLOCK_Q4_1)
#define ELEMS 32
#define BYTES 20
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    EIGHT x[i] = half_at(b) * code_of(b + 4 + (j & 15), i, j >> 4 << 2, 15) + half_at(b + 2);
}
#elif defined(BLOCK_Q5_0)
#define ELEMS 32
#define BYTES 22
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    EIGHT {
        const float high = (float)(bit_of(b + 2, j + i) << 4);
        x[i] = half_at(b) * (code_of(b + 6 + (j & 15), i, j >> 4 << 2, 15) + high - 16.0f);
    }
}
#elif defined(BLOCK_Q5_1)
#define ELEMS 32
#define BYTES 24
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    EIGHT {
        const float high = (float)(bit_of(b + 4, j + i) << 4);
        x[i] = half_at(b) * (code_of(b + 8 + (j & 15), i, j >> 4 << 2, 15) + high) + half_at(b + 2);
    }
}
#elif defined(BLOCK_Q8_0)
#define ELEMS 32
#define BYTES 34
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    EIGHT x[i] = half_at(b) * (float)(char)b[2 + j + i];
}
#elif defined(BLOCK_Q2_K)
#define ELEMS 256
#define BYTES 84
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    const uint s = b[j >> 4];
    const float scale = half_at(b + 80) * (float)(s & 15), minimum = half_at(b + 82) * (float)(s >> 4);
    EIGHT x[i] = scale * code_of(b + 16 + (j >> 7) * 32 + (j & 31), i, (j >> 5 & 3) * 2, 3) - minimum;
}
#elif defined(BLOCK_Q3_K)
#define ELEMS 256
#define BYTES 110
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    __global const uchar *scales = b + 96;
    const uint s = j >> 4, low = s < 8 ? scales[s] & 15u : (uint)scales[s - 8] >> 4;
    const uint code = low | (scales[8 + (s & 3)] >> (s >> 2) * 2 & 3u) << 4;
    const float scale = half_at(b + 108) * ((float)code - 32.0f);
    EIGHT {
        const float lower = code_of(b + (j & 31), i, j >> 5, 1) != 0.0f ? 0.0f : 4.0f;
        x[i] = scale * (code_of(b + 32 + (j >> 7) * 32 + (j & 31), i, (j >> 5 & 3) * 2, 3) - lower);
    }
}
#elif defined(BLOCK_Q4_K)
#define ELEMS 256
#define BYTES 144
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    const float2 by = scale_and_minimum(b + 4, j >> 5) * (float2)(half_at(b), half_at(b + 2));
    EIGHT x[i] = by.x * code_of(b + 16 + (j >> 6) * 32 + (j & 31), i, (j >> 5 & 1) * 4, 15) - by.y;
}
#elif defined(BLOCK_Q5_K)
#define ELEMS 256
#define BYTES 176
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    const float2 by = scale_and_minimum(b + 4, j >> 5) * (float2)(half_at(b), half_at(b + 2));
    EIGHT {
        const float high = code_of(b + 16 + (j & 31), i, j >> 5, 1) * 16.0f;
        x[i] = by.x * (code_of(b + 48 + (j >> 6) * 32 + (j & 31), i, (j >> 5 & 1) * 4, 15) + high) - by.y;
    }
}
#elif defined(BLOCK_Q6_K)
#define ELEMS 256
#define BYTES 210
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    const uint part = j >> 5 & 3, l = j & 31;
    const float scale = half_at(b + 208) * (float)(char)b[192 + (j >> 4)];
    EIGHT {
        const float low = code_of(b + (j >> 7) * 64 + l + 32 * (part & 1), i, part >> 1 << 2, 15);
        x[i] = scale * (low + code_of(b + 128 + (j >> 7) * 32 + l, i, 2 * part, 3) * 16.0f - 32.0f);
    }
}
#elif defined(BLOCK_IQ4_NL)
#define ELEMS 32
#define BYTES 18
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    EIGHT x[i] = half_at(b) * iq4_value(b[2 + (j & 15) + i] >> (j >> 4 << 2) & 15u);
}
#elif defined(BLOCK_IQ4_XS)
#define ELEMS 256
#define BYTES 136
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    const uint s = j >> 5, high = b[2] | (uint)b[3] << 8, low = b[4 + (s >> 1)] >> (s & 1) * 4 & 15u;
    const float scale = half_at(b) * ((float)(low | (high >> 2 * s & 3) << 4) - 32.0f);
    EIGHT x[i] = scale * iq4_value(b[8 + 16 * s + (j & 15) + i] >> (j >> 4 & 1) * 4 & 15u);
}
#elif defined(BLOCK_MXFP4)
#define ELEMS 32
#define BYTES 17
// Half of 2^(code − 127): every code is a number, and the largest fits.
INLINE void unpack(__global const uchar *b, uint j, float *x) {
    const uint code = b[0];
    const float scale = as_float(code >= 2 ? (code - 1) << 23 : 0x00200000u << code);
    EIGHT x[i] = scale * fp4_twice(b[1 + (j & 15) + i] >> (j >> 4 << 2) & 15u);
}
#endif
#endif
