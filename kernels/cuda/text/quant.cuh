// Quantised weights as the products read them, and how their codes become halves.
//
// A tile is 16 rows of a weight; a chunk is 128 inputs of it, a block 32. Codes lie in the order of the fragments of
// m16n8k16: lane 4g + t owns inputs 8t.. of each block for rows g and g + 8, so that a lane reads 16 bytes, a warp 512
// in order, and no code moves between lanes. Activations are read in their own order, 16 bytes a lane.
//
// Codes become halves by bits: an integer below 2^mantissa, or'd into a half whose last place is 1, and the half's own
// value taken away by one fused multiply-add for two codes. All that is exact, in bf16 as in f16, so products are
// exact, too; scales come in f32 after the sum over a block. Tensor cores are used even for one row: the unit costs
// nothing that memory does not hide, decoding takes 1.5 to 2.5 instructions a weight however many the rows, and f32
// multiply-adds alone would take five, more than an H100 has for 4-bit weights at 3 TB/s.
#pragma once
#include "vendor.cuh"

constexpr u32 CHUNK = 128;

// How a table of numbers is stored.
constexpr u32 KIND_F32 = 0, KIND_F16 = 1, KIND_BF16 = 2, KIND_U8 = 3, KIND_I8 = 4, KIND_U4 = 5, KIND_I4 = 6;

// What follows the sum.
constexpr u32 TAIL_PLAIN = 0, TAIL_GELU = 1, TAIL_SILU_MUL = 2, TAIL_PARTIAL = 3;

// A product as its node has it. Strides are elements.
struct Product {
    u64 lda, ldy, ld_residual, bias_step;
    u64 scale_row, scale_group, zero_row, zero_group;
    // Rows of a, rows of w, inputs.
    u32 m, n, k;
    // Chunks of a row, tiles of w.
    u32 chunks, tiles;
    // Row r of a tile is w's row tile·tile_rows + r % 8 + r / 8·half_rows; it is there where tile·tile_rows + r % 8 is
    // below limit, and the row itself below n.
    u32 tile_rows, half_rows, limit;
    // Blocks in a group, as a power of two; groups; rows of w that share a row of scales.
    u32 group_shift, groups, group_rows;
    u32 scale_kind, zero_kind, bias_kind, residual_kind, y_kind;
    u32 tail;
    // Parts of K, for sums that another kernel joins.
    u32 splits;
};

DEVICE float number(const void* table, u64 i, u32 kind) {
    switch (kind) {
        case KIND_F32: return static_cast<const float*>(table)[i];
        case KIND_F16: return to_f32(static_cast<const f16*>(table)[i]);
        case KIND_BF16: return to_f32(static_cast<const bf16*>(table)[i]);
        case KIND_U8: return (float)static_cast<const u8*>(table)[i];
        case KIND_I8: return (float)static_cast<const i8*>(table)[i];
        default: {
            const u32 code = static_cast<const u8*>(table)[i / 2] >> (i % 2 * 4) & 15;
            return kind == KIND_U4 ? (float)code : (float)((i32)(code ^ 8) - 8);
        }
    }
}

DEVICE void store_number(void* table, u64 i, u32 kind, float x) {
    switch (kind) {
        case KIND_F32: static_cast<float*>(table)[i] = x; break;
        case KIND_F16: static_cast<f16*>(table)[i] = from_f32<f16>(x); break;
        default: static_cast<bf16*>(table)[i] = from_f32<bf16>(x); break;
    }
}

// Row r of a tile in w; of rows that are not there, the last that is.
DEVICE u32 row_of(const Product& p, u32 tile, u32 r) {
    const u32 base = tile * p.tile_rows + r % 8, row = base + r / 8 * p.half_rows;
    return row < p.n ? row : p.n - 1;
}
DEVICE bool has_row(const Product& p, u32 tile, u32 r) {
    const u32 base = tile * p.tile_rows + r % 8;
    return base < p.limit && base + r / 8 * p.half_rows < p.n;
}

// Two halves, each the integer that halves count by ones from: BASE + code for codes of BITS bits.
template <class T> struct Ones;
template <> struct Ones<f16> {
    static constexpr u32 BASE = 0x64006400, MINUS = 0xe400e400, ONE = 0x3c003c00;
};
template <> struct Ones<bf16> {
    static constexpr u32 BASE = 0x43004300, MINUS = 0xc300c300, ONE = 0x3f803f80;
};

template <class T> DEVICE u32 twice(float x) { return (u32)from_f32<T>(x).bits * 0x10001u; }

// Eight codes of 4 bits of a fragment; `minus` is −(BASE + the code of zero).
template <class T> DEVICE void nibbles(u32 word, u32 minus, u32* a) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 v = (word >> 4 * i & 0x000f000f) | Ones<T>::BASE;
        a[i] = fma2<T>(v, Ones<T>::ONE, minus);
    }
}

// Four signed bytes as four halves.
template <class T> DEVICE void bytes(u32 word, u32& low, u32& high);
template <> DEVICE void bytes<f16>(u32 word, u32& low, u32& high) {
    const u32 shifted = word ^ 0x80808080u, minus = 0xe480e480;  // −(1024 + 128)
    low = fma2<f16>(byte_perm(shifted, 0x64646464u, 0x4140), Ones<f16>::ONE, minus);
    high = fma2<f16>(byte_perm(shifted, 0x64646464u, 0x4342), Ones<f16>::ONE, minus);
}
// Seven bits fit; the eighth is the last bit of the exponent of what is taken away: −128 becomes −256.
DEVICE u32 signed_pair(u32 spread) {
    const u32 v = (spread & 0x007f007f) | Ones<bf16>::BASE, minus = (spread & 0x00800080) | Ones<bf16>::MINUS;
    return fma2<bf16>(v, Ones<bf16>::ONE, minus);
}
template <> DEVICE void bytes<bf16>(u32 word, u32& low, u32& high) {
    low = signed_pair(byte_perm(word, 0, 0x4140));
    high = signed_pair(byte_perm(word, 0, 0x4342));
}

// Four e4m3 codes as four halves, times 2^−8 in f16. NaN is found when weights are packed.
template <class T> DEVICE void minifloats(u32 word, u32& low, u32& high);
template <> DEVICE void minifloats<f16>(u32 word, u32& low, u32& high) {
    const u32 a = byte_perm(word, 0, 0x1404), b = byte_perm(word, 0, 0x3424);
    low = (a >> 1 & 0x3f803f80) | (a & 0x80008000);
    high = (b >> 1 & 0x3f803f80) | (b & 0x80008000);
}
template <> DEVICE void minifloats<bf16>(u32 word, u32& low, u32& high) {
    const u32 a = byte_perm(word, 0, 0x1404), b = byte_perm(word, 0, 0x3424);
    // The exponents' biases lie 120 apart.
    low = fma2<bf16>((a >> 4 & 0x07f007f0) | (a & 0x80008000), 0x7b807b80, 0x80008000);
    high = fma2<bf16>((b >> 4 & 0x07f007f0) | (b & 0x80008000), 0x7b807b80, 0x80008000);
}
template <class T> struct MinifloatScale { static constexpr float VALUE = 1.0f; };
template <> struct MinifloatScale<f16> { static constexpr float VALUE = 256.0f; };

// Where a warp stands: its tile, its lane's two rows, and the tables beside the codes.
struct Where {
    const u8* tile;
    const void* scales;
    const void* zeros;
    u32 rows[2];
};

DEVICE u32 group_of(const Product& p, u32 block) {
    const u32 g = block >> p.group_shift;
    return g < p.groups ? g : p.groups - 1;
}
DEVICE float scale_at(const Product& p, const void* scales, u32 row, u32 group) {
    return number(scales, row / p.group_rows * p.scale_row + group * p.scale_group, p.scale_kind);
}
DEVICE float zero_at(const Product& p, const void* zeros, u32 row, u32 group) {
    if (zeros == nullptr) return 0.0f;
    return number(zeros, row / p.group_rows * p.zero_row + group * p.zero_group, p.zero_kind);
}

// The nibble of row r and input k of a tile: word and shift.
struct Place { u32 word, shift; };
DEVICE Place nibble_place(u32 r, u32 k) {
    const u32 lane = r % 8 * 4 + k % 32 / 8;
    return {k / 64 * 128 + lane * 4 + k % 64 / 32 * 2 + k % 8 / 4, k % 4 / 2 * 8 + r / 8 * 4 + k % 2 * 16};
}
DEVICE Place byte_place(u32 r, u32 k) {
    const u32 lane = r % 8 * 4 + k % 32 / 8;
    return {k / 32 * 128 + lane * 4 + k % 8 / 4 * 2 + r / 8, k % 4 * 8};
}
DEVICE u32 word_at(const u8* tile, u32 word) { return reinterpret_cast<const u32*>(tile)[word]; }
DEVICE u32 nibble_at(const u8* tile, u32 r, u32 k) {
    const Place at = nibble_place(r, k);
    return word_at(tile, at.word) >> at.shift & 15;
}
DEVICE i32 byte_at(const u8* tile, u32 r, u32 k) {
    const Place at = byte_place(r, k);
    return (i8)(word_at(tile, at.word) >> at.shift & 0xff);
}
DEVICE float half_at(const u8* tile, u64 i) { return to_f32(reinterpret_cast<const f16*>(tile)[i]); }

// What a block's sums are multiplied by for each of a lane's two rows, in halves of the block where each has its own,
// and what is taken away of each input.
struct Scales {
    float scale[2][2];
    float min[2];
};

// A format's traits: HALVES, whether the halves of a block have scales of their own; MINS, whether there is a minimum;
// AHEAD, chunks in flight per warp beside the one at work; Half, the codes of half a chunk in a lane; Side, what its
// tile holds beside the codes of a chunk; Aside, what half a chunk takes of that; scales, what block i of it takes;
// decode, that block as two fragments; weight, one weight by itself; taint, what a row's sum gets for NaN among its
// codes.

struct Nothing {};

// Codes of 4 bits: 1 KiB a chunk.
struct Nibbles {
    static constexpr int AHEAD = 2;
    static constexpr bool HALVES = false, MINS = false;
    static constexpr u64 CODES = 1024;
    struct Half { Vec4 codes; };
    static DEVICE Half load_half(const Product&, const Where& at, u32 chunk, u32 half) {
        return {load16_once(at.tile + chunk * CODES + half * 512 + lane32() * 16)};
    }
    // `zero` is the code of zero.
    template <class T> static DEVICE void fragments(const Vec4& v, int i, u32 zero, u32 (*a)[4]) {
        nibbles<T>(i ? v.z : v.x, Ones<T>::MINUS | zero * 0x10001u, a[0]);
        nibbles<T>(i ? v.w : v.y, Ones<T>::MINUS | zero * 0x10001u, a[1]);
    }
    static DEVICE float taint(const Product&, const u8*, u32) { return 0.0f; }
};

// Codes of 8 bits: 2 KiB a chunk.
struct Bytes {
    static constexpr int AHEAD = 1;
    static constexpr bool HALVES = false, MINS = false;
    static constexpr u64 CODES = 2048;
    struct Half { Vec4 codes[2]; };
    static DEVICE Half load_half(const Product&, const Where& at, u32 chunk, u32 half) {
        const u8* codes = at.tile + chunk * CODES + half * 1024 + lane32() * 16;
        return {{load16_once(codes), load16_once(codes + 512)}};
    }
    template <class T> static DEVICE void fragments(const Half& h, int i, u32 (*a)[4]) {
        bytes<T>(h.codes[i].x, a[0][0], a[0][2]);
        bytes<T>(h.codes[i].y, a[0][1], a[0][3]);
        bytes<T>(h.codes[i].z, a[1][0], a[1][2]);
        bytes<T>(h.codes[i].w, a[1][1], a[1][3]);
    }
    static DEVICE float taint(const Product&, const u8*, u32) { return 0.0f; }
};

// An f16 for each row and block behind all codes: 128 bytes a chunk, for each lane's rows four.
template <class Codes> struct BlockScales : Codes {
    using Side = Vec4;
    using Aside = Vec2;
    static DEVICE u64 tile_bytes(u32 chunks) { return chunks * (Codes::CODES + 128); }
    static DEVICE Side load_side(const Product& p, const Where& at, u32 chunk) {
        return load16_once(at.tile + p.chunks * Codes::CODES + chunk * 128ull + lane32() / 4 * 16);
    }
    template <class T> static DEVICE Aside beside(const Product&, const Where&, const Side& s, u32, u32 half) {
        return {half ? s.y : s.x, half ? s.w : s.z};
    }
    static DEVICE Scales scales(const Aside& s, int i) {
        if (i) return {{{unpack_high<f16>(s.x)}, {unpack_high<f16>(s.y)}}, {}};
        return {{{unpack_low<f16>(s.x)}, {unpack_low<f16>(s.y)}}, {}};
    }
    static DEVICE float scale(const Product& p, const Where& at, u32 r, u32 k) {
        return half_at(at.tile + p.chunks * Codes::CODES, k / 128 * 64 + r % 8 * 8 + r / 8 * 4 + k % 128 / 32);
    }
};

// `d·(q − 8)`.
struct Q4_0 : BlockScales<Nibbles> {
    template <class T> static DEVICE void decode(const Half& h, const Aside&, int i, const Where&, u32 (*a)[4]) {
        fragments<T>(h.codes, i, 8, a);
    }
    static DEVICE float weight(const Product& p, const Where& at, u32 r, u32 k) {
        return scale(p, at, r, k) * (float)((i32)nibble_at(at.tile, r, k) - 8);
    }
};

// `d·q`.
struct Q8_0 : BlockScales<Bytes> {
    template <class T> static DEVICE void decode(const Half& h, const Aside&, int i, const Where&, u32 (*a)[4]) {
        fragments<T>(h, i, a);
    }
    static DEVICE float weight(const Product& p, const Where& at, u32 r, u32 k) {
        return scale(p, at, r, k) * (float)byte_at(at.tile, r, k);
    }
};

// Byte i of a word, times d: the byte is or'd into 2^23, whose multiple of d is taken away in the same rounding.
DEVICE float byte_times(u32 word, u32 i, float d) {
    return fmaf(float_of(byte_perm(word, 0x4b000000u, 0x7440 | i)), d, -8388608.0f * d);
}
// Byte i of a word as a signed number.
DEVICE float signed_byte(u32 word, u32 i) {
    return float_of(byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7440 | i)) - 8388736.0f;
}

// `d·sc·q − dmin·mn`: behind all codes, for each row and 256 inputs, d, dmin and eight pairs of 6 bits as GGUF packs
// them.
struct Q4_K : Nibbles {
    static constexpr bool MINS = true;
    struct Side { Vec4 rows[2]; };
    struct Aside { u32 scales[2], mins[2], d[2], first; };
    static DEVICE u64 tile_bytes(u32 chunks) { return chunks * (CODES + 128); }
    static DEVICE Side load_side(const Product& p, const Where& at, u32 chunk) {
        const u8* scales = at.tile + p.chunks * CODES + chunk / 2 * 256ull + lane32() / 4 * 16;
        return {{load16(scales), load16(scales + 128)}};
    }
    template <class T> static DEVICE Aside beside(const Product&, const Where&, const Side& side, u32 chunk, u32 half) {
        Aside to;
        to.first = half * 2;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const Vec4& s = side.rows[h];
            to.d[h] = s.x;
            to.scales[h] = chunk % 2 ? (s.w & 0x0f0f0f0f) | (s.y >> 2 & 0x30303030) : s.y & 0x3f3f3f3f;
            to.mins[h] = chunk % 2 ? (s.w >> 4 & 0x0f0f0f0f) | (s.z >> 2 & 0x30303030) : s.z & 0x3f3f3f3f;
        }
        return to;
    }
    static DEVICE Scales scales(const Aside& s, int i) {
        Scales to;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            to.scale[h][0] = byte_times(s.scales[h], s.first + i, unpack_low<f16>(s.d[h]));
            to.min[h] = byte_times(s.mins[h], s.first + i, unpack_high<f16>(s.d[h]));
        }
        return to;
    }
    template <class T> static DEVICE void decode(const Half& h, const Aside&, int i, const Where&, u32 (*a)[4]) {
        fragments<T>(h.codes, i, 0, a);
    }
    static DEVICE float weight(const Product& p, const Where& at, u32 r, u32 k) {
        const u8* head = at.tile + p.chunks * CODES + k / 256 * 256ull + r * 16;
        const u8* s = head + 4;
        const u32 i = k % 256 / 32;
        const u32 sc = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
        const u32 mn = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4;
        return half_at(head, 0) * (float)sc * (float)nibble_at(at.tile, r, k) - half_at(head, 1) * (float)mn;
    }
};

// `d·sc·(q − 32)`: a plane of nibbles and one of pairs of bits; then a signed byte for each row and 16 inputs, then d
// for each row and 256. Lane 4g + t owns inputs 4t.. of each half of a block.
struct Q6_K {
    static constexpr int AHEAD = 1;
    static constexpr bool HALVES = true, MINS = false;
    struct Half { Vec4 codes; Vec2 high; };
    struct Side { Vec4 scales; u32 d; };
    struct Aside { u32 top, bottom, d; };
    static DEVICE u64 tile_bytes(u32 chunks) { return chunks * (1024ull + 512 + 128 + 16); }
    static DEVICE Half load_half(const Product& p, const Where& at, u32 chunk, u32 half) {
        const u8* high = at.tile + p.chunks * 1024ull + chunk * 512ull + half * 256 + lane32() * 8;
        return {load16_once(at.tile + chunk * 1024ull + half * 512 + lane32() * 16), load8(high)};
    }
    static DEVICE Side load_side(const Product& p, const Where& at, u32 chunk) {
        const u8* d = at.tile + p.chunks * 1664ull + chunk / 2 * 32ull + lane32() / 4 * 4;
        return {load16_once(at.tile + p.chunks * 1536ull + chunk * 128ull + lane32() / 4 * 16),
                *reinterpret_cast<const u32*>(d)};
    }
    template <class T> static DEVICE Aside beside(const Product&, const Where&, const Side& s, u32, u32 half) {
        return {half ? s.scales.y : s.scales.x, half ? s.scales.w : s.scales.z, s.d};
    }
    static DEVICE Scales scales(const Aside& s, int i) {
        const float d0 = unpack_low<f16>(s.d), d1 = unpack_high<f16>(s.d);
        return {{{signed_byte(s.top, 2 * i) * d0, signed_byte(s.top, 2 * i + 1) * d0},
                 {signed_byte(s.bottom, 2 * i) * d1, signed_byte(s.bottom, 2 * i + 1) * d1}},
                {}};
    }
    template <class T> static DEVICE void six(u32 low, u32 high, int field, u32* a) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int f = 2 * (field * 4 + i);
            const u32 top = f < 4 ? high << (4 - f) : high >> (f - 4);
            const u32 v = (low >> 4 * i & 0x000f000f) | (top & 0x00300030) | Ones<T>::BASE;
            a[i] = fma2<T>(v, Ones<T>::ONE, Ones<T>::MINUS | 0x00200020);
        }
    }
    template <class T> static DEVICE void decode(const Half& h, const Aside&, int i, const Where&, u32 (*a)[4]) {
        six<T>(i ? h.codes.z : h.codes.x, i ? h.high.y : h.high.x, 0, a[0]);
        six<T>(i ? h.codes.w : h.codes.y, i ? h.high.y : h.high.x, 1, a[1]);
    }
    // The nibble's place, and the pair's in the second plane.
    static DEVICE Place low_place(u32 r, u32 k) {
        const u32 lane = r % 8 * 4 + k % 16 / 4;
        return {k / 64 * 128 + lane * 4 + k % 64 / 16, k % 4 / 2 * 8 + r / 8 * 4 + k % 2 * 16};
    }
    static DEVICE Place high_place(u32 r, u32 k) {
        const u32 lane = r % 8 * 4 + k % 16 / 4;
        return {k / 64 * 64 + lane * 2 + k % 64 / 32, k % 32 / 16 * 8 + k % 4 / 2 * 4 + r / 8 * 2 + k % 2 * 16};
    }
    static DEVICE float weight(const Product& p, const Where& at, u32 r, u32 k) {
        const Place low = low_place(r, k), high = high_place(r, k);
        const u32 code = (word_at(at.tile, low.word) >> low.shift & 15) |
                         (word_at(at.tile + p.chunks * 1024ull, high.word) >> high.shift & 3) << 4;
        const i8 s = (i8)at.tile[p.chunks * 1536ull + k / 128 * 128ull + r % 8 * 16 + r / 8 * 8 + k % 128 / 16];
        const float d = half_at(at.tile + p.chunks * 1664ull, k / 256 * 16 + r % 8 * 2 + r / 8);
        return d * (float)s * (float)((i32)code - 32);
    }
    static DEVICE float taint(const Product&, const u8*, u32) { return 0.0f; }
};

// Scales and zeros that lie beside the codes as the checkpoint has them: one for both blocks of half a chunk, or one
// for each.
template <class Codes> struct Grouped : Codes {
    using Side = Nothing;
    struct Aside { float scale[2][2], zero[2][2]; };
    static DEVICE u64 tile_bytes(u32 chunks) { return chunks * Codes::CODES; }
    static DEVICE Side load_side(const Product&, const Where&, u32) { return {}; }
    // Scales times `unit`, zeros plus `shift`.
    static DEVICE Aside tables(const Product& p, const Where& at, u32 chunk, u32 half, float unit, float shift) {
        Aside to;
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (i && p.group_shift > 0) {
                    to.scale[h][1] = to.scale[h][0], to.zero[h][1] = to.zero[h][0];
                } else {
                    const u32 g = group_of(p, chunk * 4 + half * 2 + i);
                    to.scale[h][i] = scale_at(p, at.scales, at.rows[h], g) * unit;
                    to.zero[h][i] = zero_at(p, at.zeros, at.rows[h], g) + shift;
                }
            }
        }
        return to;
    }
    static DEVICE Scales scales(const Aside& s, int i) { return {{{s.scale[0][i]}, {s.scale[1][i]}}, {}}; }
    // Takes a group's zero from the codes of both rows.
    template <class T> static DEVICE void take_zeros(const Aside& s, int i, u32 (*a)[4]) {
        const u32 minus[2] = {twice<T>(-s.zero[0][i]), twice<T>(-s.zero[1][i])};
#pragma unroll
        for (int e = 0; e < 8; e++) a[e / 4][e % 4] = fma2<T>(a[e / 4][e % 4], Ones<T>::ONE, minus[e % 2]);
    }
    static DEVICE float grouped(const Product& p, const Where& at, u32 r, u32 k, float code) {
        const u32 row = at.rows[r / 8], g = group_of(p, k / 32);
        return (code - zero_at(p, at.zeros, row, g)) * scale_at(p, at.scales, row, g);
    }
};

// 4-bit codes. SIGNED ones are stored plus 8.
template <bool SIGNED> struct Codes4 : Grouped<Nibbles> {
    template <class T> static DEVICE Aside beside(const Product& p, const Where& at, const Side&, u32 chunk, u32 half) {
        return tables(p, at, chunk, half, 1.0f, 0.0f);
    }
    template <class T> static DEVICE void decode(const Half& h, const Aside& s, int i, const Where& at, u32 (*a)[4]) {
        fragments<T>(h.codes, i, SIGNED ? 8 : 0, a);
        if (at.zeros != nullptr) take_zeros<T>(s, i, a);
    }
    static DEVICE float weight(const Product& p, const Where& at, u32 r, u32 k) {
        return grouped(p, at, r, k, (float)((i32)nibble_at(at.tile, r, k) - (SIGNED ? 8 : 0)));
    }
};

// Bytes. Unsigned ones are stored less 128.
template <bool SIGNED> struct Codes8 : Grouped<Bytes> {
    template <class T> static DEVICE Aside beside(const Product& p, const Where& at, const Side&, u32 chunk, u32 half) {
        return tables(p, at, chunk, half, 1.0f, SIGNED ? 0.0f : -128.0f);
    }
    template <class T> static DEVICE void decode(const Half& h, const Aside& s, int i, const Where& at, u32 (*a)[4]) {
        fragments<T>(h, i, a);
        if (!SIGNED || at.zeros != nullptr) take_zeros<T>(s, i, a);
    }
    static DEVICE float weight(const Product& p, const Where& at, u32 r, u32 k) {
        return grouped(p, at, r, k, (float)(byte_at(at.tile, r, k) + (SIGNED ? 0 : 128)));
    }
};

// e4m3 codes; behind them, for each row of the tile, 0 or the NaN that its codes hold.
struct E4m3 : Grouped<Bytes> {
    static DEVICE u64 tile_bytes(u32 chunks) { return chunks * CODES + 64; }
    template <class T> static DEVICE Aside beside(const Product& p, const Where& at, const Side&, u32 chunk, u32 half) {
        return tables(p, at, chunk, half, MinifloatScale<T>::VALUE, 0.0f);
    }
    template <class T> static DEVICE void decode(const Half& h, const Aside&, int i, const Where&, u32 (*a)[4]) {
        minifloats<T>(h.codes[i].x, a[0][0], a[0][2]);
        minifloats<T>(h.codes[i].y, a[0][1], a[0][3]);
        minifloats<T>(h.codes[i].z, a[1][0], a[1][2]);
        minifloats<T>(h.codes[i].w, a[1][1], a[1][3]);
    }
    static DEVICE float weight(const Product& p, const Where& at, u32 r, u32 k) {
        return grouped(p, at, r, k, to_f32(f8_e4m3{(u8)byte_at(at.tile, r, k)}));
    }
    static DEVICE float taint(const Product& p, const u8* tile, u32 r) {
        return reinterpret_cast<const float*>(tile + p.chunks * CODES)[r];
    }
};
