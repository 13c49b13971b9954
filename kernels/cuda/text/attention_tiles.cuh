// What the tensor-core kernels of attention share: codes as halves, weights in parts, numbers that are not finite.
#pragma once

#include "attention.cuh"

// The bits of two halves of which one is infinite or NaN: some are set.
template <class T> DEVICE u32 unbounded(u32 word);
template <> DEVICE u32 unbounded<f16>(u32 word) { return ((word & 0x7c007c00u) + 0x04000400u) & 0x80008000u; }
template <> DEVICE u32 unbounded<bf16>(u32 word) { return ((word & 0x7f807f80u) + 0x00800080u) & 0x80008000u; }

// The same with zeros for what is not finite.
template <class T> DEVICE u32 bounded(u32 word) {
    const u32 marks = unbounded<T>(word);
    return word & ~((marks >> 15) * 0xffffu);
}

// Four codes as bf16, which holds each of them exactly.
DEVICE Vec2 halves_of(u32 codes, u32 kind) {
    float x[4];
    if (kind == KIND_I8) {
        // A biased byte below 2^23's mantissa is a number.
        const u32 biased = codes ^ 0x80808080u;
#pragma unroll
        for (u32 i = 0; i < 4; i++) x[i] = float_of(0x4b000000u | (biased >> 8 * i & 0xff)) - 8388736.0f;
    } else {
        // Exponents that lie where f32's do count from another zero; the largest of them may be no numbers.
        const bool e4m3 = kind == KIND_E4M3;
        const u32 magnitudes = codes & 0x7f7f7f7fu;
        const bool special = ((magnitudes + (e4m3 ? 0x01010101u : 0x04040404u)) & 0x80808080u) != 0;
        const float scale = float_of(e4m3 ? 247u << 23 : 239u << 23);
        const u32 shift = e4m3 ? 4 : 3;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 top = codes << (24 - 8 * i);
            x[i] = float_of((top & 0x80000000u) | (top & 0x7f000000u) >> shift) * scale;
        }
        if (special) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u8 code = (u8)(codes >> 8 * i);
                x[i] = e4m3 ? to_f32(f8_e4m3{code}) : to_f32(f8_e5m2{code});
            }
        }
    }
    return {bits_of(x[0]) >> 16 | (bits_of(x[1]) & 0xffff0000u), bits_of(x[2]) >> 16 | (bits_of(x[3]) & 0xffff0000u)};
}

// Eight elements in a row of a cache as halves of T: 16 bytes as they are, or eight codes.
template <class T, bool CODES> DEVICE Vec4 eight(const void* cache, u64 at, u32 kind) {
    if (!CODES) return load16_once(static_cast<const T*>(cache) + at);
    const Vec2 codes = load8(static_cast<const u8*>(cache) + at);
    const Vec2 first = halves_of(codes.x, kind), second = halves_of(codes.y, kind);
    return {first.x, first.y, second.x, second.y};
}

// The same over eight halves.
template <class T> DEVICE u32 unbounded(const Vec4& v) {
    return unbounded<T>(v.x) | unbounded<T>(v.y) | unbounded<T>(v.z) | unbounded<T>(v.w);
}
template <class T> DEVICE Vec4 bounded(const Vec4& v) {
    return {bounded<T>(v.x), bounded<T>(v.y), bounded<T>(v.z), bounded<T>(v.w)};
}

// A word of Vec4 by a number that the compiler knows.
DEVICE u32 word(const Vec4& v, u32 i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Two weights as halves; what the halves lack is left in the weights.
template <class T> DEVICE u32 take_part(float& low, float& high) {
    const u32 part = pack2<T>(low, high);
    low -= unpack_low<T>(part);
    high -= unpack_high<T>(part);
    return part;
}

// Constants of a type of halves.
template <class T> struct Part;
// Weights of 2^15 at most keep small ones out of f16's subnormal numbers.
template <> struct Part<f16> { static const int COUNT = 2, SHIFT = 15, KIND = KIND_F16; };
template <> struct Part<bf16> { static const int COUNT = 3, SHIFT = 0, KIND = KIND_BF16; };
