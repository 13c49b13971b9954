// Every plain type as f64 and back: exact on the way in, rounded once on the way out.
#pragma once
#include "vendor.cuh"

// The types by number.
enum Type : u32 {
    F64, F32, F16, BF16, F8E4M3, F8E5M2, F8E8M0, F8E4M3FNUZ, F8E5M2FNUZ, I64, I32, I16, I8, U64, U32, U16, U8, BOOL
};

#define F64_NAN double_of(0x7ff8000000000000ull)

// 2^n, for a normal number.
DEVICE double power_of_two(int n) { return double_of((u64)(n + 1023) << 52); }

// A small format: the bits of its fields and its bias. Not numbers are: the codes of the highest exponent (IEEE), all bits set
// (ALL_ONES), or that of −0 (ZERO).
enum Specials { IEEE, ALL_ONES, ZERO };
template <int EXPONENT, int MANTISSA, int BIAS, Specials SPECIALS, bool SATURATES> struct Small {
    static const u32 SIGN = 1u << (EXPONENT + MANTISSA);
    static const u32 LARGEST = SPECIALS == IEEE ? SIGN - 1 - (1u << MANTISSA) : SPECIALS == ALL_ONES ? SIGN - 2 : SIGN - 1;
    static const u32 NOT_A_NUMBER = SPECIALS == ZERO           ? SIGN
                                    : SPECIALS == IEEE && !SATURATES ? LARGEST + 1 + (1u << (MANTISSA - 1))
                                                                     : SIGN - 1;

    static DEVICE double decode(u32 code) {
        const u32 magnitude = code & (SIGN - 1), field = magnitude >> MANTISSA, m = magnitude & ((1u << MANTISSA) - 1);
        const bool negative = (code & SIGN) != 0;
        if (SPECIALS == ALL_ONES && magnitude == SIGN - 1) return F64_NAN;
        if (SPECIALS == ZERO && negative && magnitude == 0) return F64_NAN;
        double value = (double)m * power_of_two(1 - BIAS - MANTISSA);
        if (SPECIALS == IEEE && magnitude > LARGEST) value = m ? F64_NAN : double_of(0x7ff0000000000000ull);
        else if (field) value = (double)((1u << MANTISSA) + m) * power_of_two((int)field - BIAS - MANTISSA);
        return negative ? -value : value;
    }

    static DEVICE u32 encode(double x) {
        if (x != x) return NOT_A_NUMBER;
        const u32 beyond = SATURATES ? LARGEST : LARGEST + 1;
        const double size = fabs(x);
        u32 magnitude = beyond;
        // Beyond twice the largest nothing is to be rounded, and below a steps' exponent is the lowest.
        if (size < power_of_two((int)(LARGEST >> MANTISSA) - BIAS + 2)) {
            int e = (int)(bits_of(size) >> 52) - 1023;
            if (e < 1 - BIAS) e = 1 - BIAS;
            const double steps = rint(size * power_of_two(MANTISSA - e));
            const u32 code = ((u32)(e + BIAS - 1) << MANTISSA) + (u32)steps;
            magnitude = code < beyond ? code : beyond;
        }
        const bool sign = (bits_of(x) >> 63) != 0 && (magnitude != 0 || SPECIALS != ZERO);
        return sign ? magnitude | SIGN : magnitude;
    }
};
typedef Small<5, 10, 15, IEEE, false> SmallF16;
typedef Small<8, 7, 127, IEEE, false> SmallBf16;
typedef Small<4, 3, 7, ALL_ONES, true> SmallE4m3;
typedef Small<5, 2, 15, IEEE, true> SmallE5m2;
typedef Small<4, 3, 8, ZERO, true> SmallE4m3Fnuz;
typedef Small<5, 2, 16, ZERO, true> SmallE5m2Fnuz;

// Powers of two; 255 is no number.
DEVICE double decode_e8m0(u32 code) { return code == 255 ? F64_NAN : power_of_two((int)code - 127); }
// The nearest power, halves upward; no number and negative ones are 255.
DEVICE u32 encode_e8m0(double x) {
    if (x != x || x < 0.0) return 255;
    if (x == 0.0) return 0;
    if (x >= power_of_two(127)) return 254;
    int e = (int)(bits_of(x) >> 52) - 1023;
    if (e < -127) e = -127;
    return (u32)(e + 127) + (x * power_of_two(-e) >= 1.5 ? 1 : 0);
}

// An element; 64-bit integers are rounded.
DEVICE double read_element(const void* from, u32 type, u64 at) {
    switch (type) {
        case F64: return static_cast<const double*>(from)[at];
        case F32: return (double)static_cast<const float*>(from)[at];
        case F16: return (double)to_f32(static_cast<const f16*>(from)[at]);
        case BF16: return (double)to_f32(static_cast<const bf16*>(from)[at]);
        case F8E4M3: return SmallE4m3::decode(static_cast<const u8*>(from)[at]);
        case F8E5M2: return SmallE5m2::decode(static_cast<const u8*>(from)[at]);
        case F8E8M0: return decode_e8m0(static_cast<const u8*>(from)[at]);
        case F8E4M3FNUZ: return SmallE4m3Fnuz::decode(static_cast<const u8*>(from)[at]);
        case F8E5M2FNUZ: return SmallE5m2Fnuz::decode(static_cast<const u8*>(from)[at]);
        case I64: return (double)static_cast<const i64*>(from)[at];
        case I32: return (double)static_cast<const i32*>(from)[at];
        case I16: return (double)static_cast<const i16*>(from)[at];
        case I8: return (double)static_cast<const i8*>(from)[at];
        case U64: return (double)static_cast<const u64*>(from)[at];
        case U32: return (double)static_cast<const u32*>(from)[at];
        case U16: return (double)static_cast<const u16*>(from)[at];
        case U8: return (double)static_cast<const u8*>(from)[at];
        default: return static_cast<const u8*>(from)[at] ? 1.0 : 0.0;
    }
}

// A whole number between two; what is no number is 0.
DEVICE i64 whole(double x, double low, double high) {
    if (x != x) return 0;
    x = rint(x);
    return (i64)(x < low ? low : x > high ? high : x);
}

// A value as an element: half to even, integers saturating.
DEVICE void write_element(void* to, u32 type, u64 at, double x) {
    switch (type) {
        case F64: static_cast<double*>(to)[at] = x; break;
        case F32: static_cast<float*>(to)[at] = (float)x; break;
        case F16: static_cast<u16*>(to)[at] = (u16)SmallF16::encode(x); break;
        case BF16: static_cast<u16*>(to)[at] = (u16)SmallBf16::encode(x); break;
        case F8E4M3: static_cast<u8*>(to)[at] = (u8)SmallE4m3::encode(x); break;
        case F8E5M2: static_cast<u8*>(to)[at] = (u8)SmallE5m2::encode(x); break;
        case F8E8M0: static_cast<u8*>(to)[at] = (u8)encode_e8m0(x); break;
        case F8E4M3FNUZ: static_cast<u8*>(to)[at] = (u8)SmallE4m3Fnuz::encode(x); break;
        case F8E5M2FNUZ: static_cast<u8*>(to)[at] = (u8)SmallE5m2Fnuz::encode(x); break;
        case I64:
            static_cast<u64*>(to)[at] = x >= 9223372036854775808.0 ? 0x7fffffffffffffffull
                                                                   : (u64)whole(x, -9223372036854775808.0, 9223372036854774784.0);
            break;
        case I32: static_cast<i32*>(to)[at] = (i32)whole(x, -2147483648.0, 2147483647.0); break;
        case I16: static_cast<i16*>(to)[at] = (i16)whole(x, -32768.0, 32767.0); break;
        case I8: static_cast<i8*>(to)[at] = (i8)whole(x, -128.0, 127.0); break;
        case U64:
            static_cast<u64*>(to)[at] = x >= 18446744073709551616.0 ? 0xffffffffffffffffull
                                        : x >= 9223372036854775808.0 ? (u64)rint(x)
                                                                     : (u64)whole(x, 0.0, 9223372036854775808.0);
            break;
        case U32: static_cast<u32*>(to)[at] = (u32)whole(x, 0.0, 4294967295.0); break;
        case U16: static_cast<u16*>(to)[at] = (u16)whole(x, 0.0, 65535.0); break;
        case U8: static_cast<u8*>(to)[at] = (u8)whole(x, 0.0, 255.0); break;
        default: static_cast<u8*>(to)[at] = whole(x, 0.0, 1.0) ? 1 : 0;
    }
}

// A whole number of 64 bits as an element, rounded once although it may have more bits than f64: where it does, its lowest
// bit that f64 keeps is set, so that one more rounding to fewer bits is the right one (Boldo and Melquiond 2008).
DEVICE void write_wide(void* to, u32 type, u64 at, bool negative, u64 magnitude) {
    if (type == I64 || type == U64) {
        u64 most = type == U64 ? (negative ? 0 : ~0ull) : negative ? 1ull << 63 : (1ull << 63) - 1;
        const u64 held = magnitude < most ? magnitude : most;
        static_cast<u64*>(to)[at] = negative ? 0 - held : held;
        return;
    }
    double x = (double)magnitude;
    if (type != F64 && magnitude >> 53) {
        int extra = 0;
        while (extra < 11 && magnitude >> (53 + extra)) extra++;
        const u64 kept = magnitude >> extra;
        const u64 odd = kept | (kept << extra != magnitude ? 1 : 0);
        x = (double)odd * power_of_two(extra);
    }
    write_element(to, type, at, negative ? -x : x);
}
