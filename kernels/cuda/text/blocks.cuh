// Block formats, as GGUF stores them: eight neighbouring elements at a time. A format says how many elements and bytes a
// block has, and what every block's address must be a multiple of. Products of a scale and a code are exact in f32, so that
// a sum of two is rounded once, fused or not.
#pragma once
#include "vendor.cuh"

// Eight bytes on a multiple of ALIGN, the first one lowest.
template <int ALIGN> DEVICE u64 bytes8(const u8* at) {
    if (ALIGN >= 8) return *reinterpret_cast<const u64*>(at);
    if (ALIGN >= 4) {
        const u32* words = reinterpret_cast<const u32*>(at);
        return (u64)words[1] << 32 | words[0];
    }
    u64 all = 0;
    if (ALIGN >= 2) {
        const u16* words = reinterpret_cast<const u16*>(at);
#pragma unroll
        for (int i = 3; i >= 0; i--) all = all << 16 | words[i];
    } else {
#pragma unroll
        for (int i = 7; i >= 0; i--) all = all << 8 | at[i];
    }
    return all;
}
// Four bytes on a multiple of two.
DEVICE u32 bytes4(const u8* at) {
    const u16* words = reinterpret_cast<const u16*>(at);
    return (u32)words[1] << 16 | words[0];
}
DEVICE float half_at(const u8* at) { return to_f32(f16{*reinterpret_cast<const u16*>(at)}); }

// Code i of eight: `mask` bits of byte i, from bit `shift` on.
DEVICE u32 code8(u64 bytes, int i, u32 shift, u32 mask) { return (u32)(bytes >> (8 * i + shift)) & mask; }

// What the codes of IQ4_NL and IQ4_XS stand for.
DEVICE float iq4_value(u32 code) {
    const u64 half = code < 8 ? 0xf6eaddcfbfad9881ull : 0x7159453526190d01ull;
    return (float)(i8)(half >> 8 * (code & 7));
}
// Twice what the codes of fp4 stand for.
DEVICE float fp4_twice(u32 code) {
    const float magnitude = (float)(u8)(0x0c08060403020100ull >> 8 * (code & 7));
    return code & 8 ? -magnitude : magnitude;
}
// 2^(code − 127), every code a number; halved, so that the largest fits.
DEVICE float half_power(u32 code) { return float_of(code >= 2 ? (code - 1) << 23 : 0x00200000u << code); }

// The 6-bit scale and minimum of sub-block s of 8, out of 12 bytes.
DEVICE void scale_and_min(const u8* scales, int s, float* scale, float* minimum) {
    if (s < 4) {
        *scale = (float)(scales[s] & 63), *minimum = (float)(scales[s + 4] & 63);
    } else {
        *scale = (float)(scales[s + 4] & 15 | scales[s - 4] >> 6 << 4);
        *minimum = (float)(scales[s + 4] >> 4 | scales[s] >> 6 << 4);
    }
}

// Each `decode` gives elements j..j + 8 of a block, j a multiple of 8.
struct BlockQ4_0 {
    static const int ELEMS = 32, BYTES = 18, ALIGN = 2;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const float d = half_at(b);
        const u64 q = bytes8<ALIGN>(b + 2 + (j & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = d * ((float)code8(q, i, j >> 4 << 2, 15) - 8.0f);
    }
};
struct BlockQ4_1 {
    static const int ELEMS = 32, BYTES = 20, ALIGN = 4;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const float d = half_at(b), m = half_at(b + 2);
        const u64 q = bytes8<ALIGN>(b + 4 + (j & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = d * (float)code8(q, i, j >> 4 << 2, 15) + m;
    }
};
struct BlockQ5_0 {
    static const int ELEMS = 32, BYTES = 22, ALIGN = 2;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const float d = half_at(b);
        const u32 high = bytes4(b + 2) >> j;
        const u64 q = bytes8<ALIGN>(b + 6 + (j & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = d * ((float)(code8(q, i, j >> 4 << 2, 15) | (high >> i & 1) << 4) - 16.0f);
    }
};
struct BlockQ5_1 {
    static const int ELEMS = 32, BYTES = 24, ALIGN = 4;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const float d = half_at(b), m = half_at(b + 2);
        const u32 high = bytes4(b + 4) >> j;
        const u64 q = bytes8<ALIGN>(b + 8 + (j & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = d * (float)(code8(q, i, j >> 4 << 2, 15) | (high >> i & 1) << 4) + m;
    }
};
struct BlockQ8_0 {
    static const int ELEMS = 32, BYTES = 34, ALIGN = 2;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const float d = half_at(b);
        const u64 q = bytes8<ALIGN>(b + 2 + j);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = d * (float)(i8)(q >> 8 * i);
    }
};
struct BlockQ2K {
    static const int ELEMS = 256, BYTES = 84, ALIGN = 4;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const u32 s = b[j >> 4];
        const float scale = half_at(b + 80) * (float)(s & 15), minimum = half_at(b + 82) * (float)(s >> 4);
        const u64 q = bytes8<ALIGN>(b + 16 + (j >> 7) * 32 + (j & 31));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = scale * (float)code8(q, i, (j >> 5 & 3) * 2, 3) - minimum;
    }
};
struct BlockQ3K {
    static const int ELEMS = 256, BYTES = 110, ALIGN = 2;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const u8* scales = b + 96;
        const int s = j >> 4;
        const u32 low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
        const float scale = half_at(b + 108) * ((float)(low | (scales[8 + (s & 3)] >> (s >> 2) * 2 & 3) << 4) - 32.0f);
        const u64 q = bytes8<ALIGN>(b + 32 + (j >> 7) * 32 + (j & 31)), high = bytes8<ALIGN>(b + (j & 31));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float lower = code8(high, i, j >> 5, 1) ? 0.0f : 4.0f;
            x[i] = scale * ((float)code8(q, i, (j >> 5 & 3) * 2, 3) - lower);
        }
    }
};
struct BlockQ4K {
    static const int ELEMS = 256, BYTES = 144, ALIGN = 8;
    static DEVICE void decode(const u8* b, int j, float* x) {
        float scale, minimum;
        scale_and_min(b + 4, j >> 5, &scale, &minimum);
        scale *= half_at(b), minimum *= half_at(b + 2);
        const u64 q = bytes8<ALIGN>(b + 16 + (j >> 6) * 32 + (j & 31));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = scale * (float)code8(q, i, (j >> 5 & 1) * 4, 15) - minimum;
    }
};
struct BlockQ5K {
    static const int ELEMS = 256, BYTES = 176, ALIGN = 8;
    static DEVICE void decode(const u8* b, int j, float* x) {
        float scale, minimum;
        scale_and_min(b + 4, j >> 5, &scale, &minimum);
        scale *= half_at(b), minimum *= half_at(b + 2);
        const u64 q = bytes8<ALIGN>(b + 48 + (j >> 6) * 32 + (j & 31)), high = bytes8<ALIGN>(b + 16 + (j & 31));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 code = code8(q, i, (j >> 5 & 1) * 4, 15) | code8(high, i, j >> 5, 1) << 4;
            x[i] = scale * (float)code - minimum;
        }
    }
};
struct BlockQ6K {
    static const int ELEMS = 256, BYTES = 210, ALIGN = 2;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const int half = j >> 7, k = j >> 5 & 3, l = j & 31;
        const float scale = half_at(b + 208) * (float)(i8)b[192 + (j >> 4)];
        const u64 low = bytes8<ALIGN>(b + half * 64 + l + 32 * (k & 1)), high = bytes8<ALIGN>(b + 128 + half * 32 + l);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 code = code8(low, i, k >> 1 << 2, 15) | code8(high, i, 2 * k, 3) << 4;
            x[i] = scale * ((float)code - 32.0f);
        }
    }
};
struct BlockIq4Nl {
    static const int ELEMS = 32, BYTES = 18, ALIGN = 2;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const float d = half_at(b);
        const u64 q = bytes8<ALIGN>(b + 2 + (j & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = d * iq4_value(code8(q, i, j >> 4 << 2, 15));
    }
};
struct BlockIq4Xs {
    static const int ELEMS = 256, BYTES = 136, ALIGN = 8;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const int s = j >> 5;
        const u32 high = *reinterpret_cast<const u16*>(b + 2);
        const u32 low = b[4 + (s >> 1)] >> (s & 1) * 4 & 15;
        const float scale = half_at(b) * ((float)(low | (high >> 2 * s & 3) << 4) - 32.0f);
        const u64 q = bytes8<ALIGN>(b + 8 + 16 * s + (j & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = scale * iq4_value(code8(q, i, (j >> 4 & 1) * 4, 15));
    }
};
struct BlockMxfp4 {
    static const int ELEMS = 32, BYTES = 17, ALIGN = 1;
    static DEVICE void decode(const u8* b, int j, float* x) {
        const float scale = half_power(b[0]);
        const u64 q = bytes8<ALIGN>(b + 1 + (j & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = scale * fp4_twice(code8(q, i, j >> 4 << 2, 15));
    }
};
