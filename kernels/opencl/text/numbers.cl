// Elements of every plain dtype as whole numbers times powers of two: exact on the way in, rounded once on the way out, and
// with no number of 64 bits that only some devices compute in.

// The dtypes by the numbers of launches.
enum {
    AS_F64, AS_F32, AS_F16, AS_BF16, AS_F8E4M3, AS_F8E5M2, AS_F8E8M0, AS_F8E4M3FNUZ, AS_F8E5M2FNUZ,
    AS_I64, AS_I32, AS_I16, AS_I8, AS_U64, AS_U32, AS_U16, AS_U8, AS_BOOL
};

// m·2^e, or what is beyond every number, or none.
enum { FINITE, INFINITE, NOT_A_NUMBER };
typedef struct {
    uint kind, negative;
    ulong m;
    int e;
} Number;

// A format: the bits of its fields and its bias. No numbers are: the codes of the highest exponent (IEEE), all bits set (ALL_ONES),
// or that of −0 (ZERO). What is too large is the largest number, or infinite.
enum { IEEE, ALL_ONES, ZERO };
typedef struct {
    int exponent, mantissa, bias, specials, saturates;
} Format;

INLINE Format format_of(uint type) {
    switch (type) {
        case AS_F64: return (Format){11, 52, 1023, IEEE, 0};
        case AS_F32: return (Format){8, 23, 127, IEEE, 0};
        case AS_F16: return (Format){5, 10, 15, IEEE, 0};
        case AS_BF16: return (Format){8, 7, 127, IEEE, 0};
        case AS_F8E4M3: return (Format){4, 3, 7, ALL_ONES, 1};
        case AS_F8E5M2: return (Format){5, 2, 15, IEEE, 1};
        case AS_F8E4M3FNUZ: return (Format){4, 3, 8, ZERO, 1};
        default: return (Format){5, 2, 16, ZERO, 1};
    }
}

INLINE Number decode(Format f, ulong code) {
    const ulong sign = 1ul << (f.exponent + f.mantissa), one = 1ul << f.mantissa;
    const ulong magnitude = code & (sign - 1), fraction = magnitude & (one - 1);
    const int field = (int)(magnitude >> f.mantissa);
    Number x = {FINITE, (code & sign) != 0, fraction, 1 - f.bias - f.mantissa};
    if (field != 0) x.m = fraction | one, x.e = field - f.bias - f.mantissa;
    if (f.specials == IEEE && field == (1 << f.exponent) - 1) x.kind = fraction ? NOT_A_NUMBER : INFINITE;
    if (f.specials == ALL_ONES && magnitude == sign - 1) x.kind = NOT_A_NUMBER;
    if (f.specials == ZERO && x.negative && magnitude == 0) x.kind = NOT_A_NUMBER;
    return x;
}

// m / 2^shift, the nearest whole number, ties to even.
INLINE ulong shifted(ulong m, int shift) {
    if (shift <= 0) return m << -shift;
    if (shift > 64) return 0;
    const ulong whole = shift == 64 ? 0 : m >> shift;
    const ulong rest = shift == 64 ? m : m & ((1ul << shift) - 1), half_way = 1ul << (shift - 1);
    return whole + (rest > half_way || (rest == half_way && (whole & 1)) ? 1 : 0);
}

// The power of two of the highest bit.
INLINE int power_of(Number x) { return 63 - (int)clz(x.m) + x.e; }

INLINE ulong encode(Format f, Number x) {
    const ulong sign = 1ul << (f.exponent + f.mantissa), one = 1ul << f.mantissa;
    const ulong largest = f.specials == IEEE ? sign - 1 - one : f.specials == ALL_ONES ? sign - 2 : sign - 1;
    if (x.kind == NOT_A_NUMBER) {
        if (f.specials == ZERO) return sign;
        return f.specials == IEEE && !f.saturates ? largest + 1 + (one >> 1) : sign - 1;
    }
    const ulong beyond = f.saturates ? largest : largest + 1;
    ulong magnitude = 0;
    if (x.kind == INFINITE) magnitude = beyond;
    else if (x.m != 0) {
        const int e = max(power_of(x), 1 - f.bias);
        magnitude = beyond;
        if (e <= f.bias + 2)
            magnitude = min(((ulong)(e + f.bias - 1) << f.mantissa) + shifted(x.m, e - f.mantissa - x.e), beyond);
    }
    return x.negative && (magnitude != 0 || f.specials != ZERO) ? magnitude | sign : magnitude;
}

// The nearest power of two, halves upward; no number and negative ones are 255.
INLINE uint encode_e8m0(Number x) {
    if (x.kind == NOT_A_NUMBER || (x.negative && (x.kind == INFINITE || x.m != 0))) return 255;
    if (x.kind == INFINITE) return 254;
    if (x.m == 0) return 0;
    const int e = power_of(x);
    if (e >= 127) return 254;
    if (e < -127) return 0;
    return (uint)(e + 127) + (((x.m << clz(x.m)) >> 62) == 3 ? 1 : 0);
}

// The nearest whole number within these magnitudes below and above 0; 0 for what is no number.
INLINE ulong whole(Number x, ulong below, ulong above) {
    const ulong most = x.negative ? below : above;
    ulong held = 0;
    if (x.kind == INFINITE) held = most;
    else if (x.kind == FINITE && x.m != 0)
        held = power_of(x) > 63 ? most : power_of(x) < -1 ? 0 : min(shifted(x.m, -x.e), most);
    return x.negative ? 0 - held : held;
}

INLINE Number of_integer(ulong bits, int is_signed) {
    const uint negative = is_signed && (bits >> 63);
    return (Number){FINITE, negative, negative ? 0 - bits : bits, 0};
}
INLINE Number of_f32(float x) { return decode(format_of(AS_F32), as_uint(x)); }

INLINE Number read_number(__global const uchar *from, uint type, ulong at) {
    switch (type) {
        case AS_F64: return decode(format_of(type), ((__global const ulong *)from)[at]);
        case AS_F32: return decode(format_of(type), ((__global const uint *)from)[at]);
        case AS_F16:
        case AS_BF16: return decode(format_of(type), ((__global const ushort *)from)[at]);
        case AS_F8E8M0: return from[at] == 255 ? (Number){NOT_A_NUMBER, 0, 0, 0} : (Number){FINITE, 0, 1, (int)from[at] - 127};
        case AS_I64: return of_integer(((__global const ulong *)from)[at], 1);
        case AS_I32: return of_integer((ulong)(long)((__global const int *)from)[at], 1);
        case AS_I16: return of_integer((ulong)(long)((__global const short *)from)[at], 1);
        case AS_I8: return of_integer((ulong)(long)((__global const char *)from)[at], 1);
        case AS_U64: return of_integer(((__global const ulong *)from)[at], 0);
        case AS_U32: return of_integer(((__global const uint *)from)[at], 0);
        case AS_U16: return of_integer(((__global const ushort *)from)[at], 0);
        case AS_U8: return of_integer(from[at], 0);
        case AS_BOOL: return of_integer(from[at] != 0, 0);
        default: return decode(format_of(type), from[at]);
    }
}

INLINE void write_number(__global uchar *to, uint type, ulong at, Number x) {
    switch (type) {
        case AS_F64: ((__global ulong *)to)[at] = encode(format_of(type), x); break;
        case AS_F32: ((__global uint *)to)[at] = (uint)encode(format_of(type), x); break;
        case AS_F16:
        case AS_BF16: ((__global ushort *)to)[at] = (ushort)encode(format_of(type), x); break;
        case AS_F8E8M0: to[at] = (uchar)encode_e8m0(x); break;
        case AS_I64: ((__global ulong *)to)[at] = whole(x, 1ul << 63, (1ul << 63) - 1); break;
        case AS_I32: ((__global uint *)to)[at] = (uint)whole(x, 1ul << 31, (1ul << 31) - 1); break;
        case AS_I16: ((__global ushort *)to)[at] = (ushort)whole(x, 1ul << 15, (1ul << 15) - 1); break;
        case AS_I8: to[at] = (uchar)whole(x, 128, 127); break;
        case AS_U64: ((__global ulong *)to)[at] = whole(x, 0, ~0ul); break;
        case AS_U32: ((__global uint *)to)[at] = (uint)whole(x, 0, 0xfffffffful); break;
        case AS_U16: ((__global ushort *)to)[at] = (ushort)whole(x, 0, 0xfffful); break;
        case AS_U8: to[at] = (uchar)whole(x, 0, 255); break;
        case AS_BOOL: to[at] = whole(x, 0, 1) ? 1 : 0; break;
        default: to[at] = (uchar)encode(format_of(type), x);
    }
}
