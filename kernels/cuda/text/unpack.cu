// Rows of a format whose elements share bytes, as numbers: those that ids name, or one after the other.
#include "vendor.cuh"
#include "walk.cuh"
#include "blocks.cuh"
#include "convert.cuh"

#define THREADS 256

// Formats of two nibbles a byte, as blocks of one byte.
template <class F> struct Nibbles {
    static const int ELEMS = 2, BYTES = 1, ALIGN = 1, AT_ONCE = 2;
    static DEVICE void decode(const u8* b, int, float* x) { x[0] = F::value(b[0] & 15), x[1] = F::value(b[0] >> 4); }
};
struct ValueI4 { static DEVICE float value(u32 code) { return (float)((int)(code ^ 8) - 8); } };
struct ValueU4 { static DEVICE float value(u32 code) { return (float)code; } };
struct ValueF4 { static DEVICE float value(u32 code) { return 0.5f * fp4_twice(code); } };
template <class B> struct Whole : B { static const int AT_ONCE = 8; };

// The walk steps over rows: in bytes through the packed operand, through the ids, in elements through the result. Without ids
// every row is taken. A row that is none is not a number.
template <class B>
DEVICE void unpack_rows(const u8* x, const void* ids, u32 wide, u64 rows, u64 row_bytes, void* y, u32 type, Walk walk,
                        u64 groups, u64 y_step) {
    for (u64 i = first_thread(); i < walk.count * groups; i += all_threads()) {
        const u64 row = walk.count * groups <= 0xffffffffu ? (u32)i / (u32)groups : i / groups;
        const u64 element = (i - row * groups) * B::AT_ONCE;
        u64 at[3];
        walk_to<3>(walk, row, at);
        const u8* from = x + at[0];
        float v[B::AT_ONCE];
        bool is_row = true;
        if (ids) {
            const u64 id = wide ? (u64) static_cast<const i64*>(ids)[at[1]] : (u64)(i64) static_cast<const i32*>(ids)[at[1]];
            is_row = id < rows;
            from += id * row_bytes;
        }
        if (is_row) {
            B::decode(from + element / B::ELEMS * B::BYTES, (int)(element % B::ELEMS), v);
        } else {
#pragma unroll
            for (int k = 0; k < B::AT_ONCE; k++) v[k] = F32_NAN;
        }
        const u64 to = at[2] + element * y_step;
        if (type == F32 && y_step == 1 && B::AT_ONCE == 8 && (reinterpret_cast<u64>(static_cast<float*>(y) + to) & 15) == 0) {
            store16(static_cast<float*>(y) + to, Pack<float>::pack(v));
            store16(static_cast<float*>(y) + to + 4, Pack<float>::pack(v + B::AT_ONCE / 2));
        } else if (y_step == 1 && B::AT_ONCE == 8 && (type == F16 || type == BF16) &&
                   (reinterpret_cast<u64>(static_cast<u16*>(y) + to) & 15) == 0) {
            Vec4 all = type == F16 ? Pack<f16>::pack(v) : Pack<bf16>::pack(v);
            store16(static_cast<u16*>(y) + to, all);
        } else {
#pragma unroll
            for (int k = 0; k < B::AT_ONCE; k++) {
                const u64 place = to + k * y_step;
                if (type == F32) static_cast<float*>(y)[place] = v[k];
                else if (type == F16) static_cast<f16*>(y)[place] = from_f32<f16>(v[k]);
                else if (type == BF16) static_cast<bf16*>(y)[place] = from_f32<bf16>(v[k]);
                else write_element(y, type, place, (double)v[k]);
            }
        }
    }
}

#define FORMAT(name, B)                                                                                                \
    KERNEL(THREADS)                                                                                                    \
    unpack_##name(const u8* x, const void* ids, u32 wide, u64 rows, u64 row_bytes, void* y, u32 type, Walk walk,       \
                  u64 groups, u64 y_step) {                                                                            \
        take_turn();                                                                                                   \
        unpack_rows<B>(x, ids, wide, rows, row_bytes, y, type, walk, groups, y_step);                                  \
    }

FORMAT(q4_0, Whole<BlockQ4_0>)
FORMAT(q4_1, Whole<BlockQ4_1>)
FORMAT(q5_0, Whole<BlockQ5_0>)
FORMAT(q5_1, Whole<BlockQ5_1>)
FORMAT(q8_0, Whole<BlockQ8_0>)
FORMAT(q2_k, Whole<BlockQ2K>)
FORMAT(q3_k, Whole<BlockQ3K>)
FORMAT(q4_k, Whole<BlockQ4K>)
FORMAT(q5_k, Whole<BlockQ5K>)
FORMAT(q6_k, Whole<BlockQ6K>)
FORMAT(iq4_nl, Whole<BlockIq4Nl>)
FORMAT(iq4_xs, Whole<BlockIq4Xs>)
FORMAT(mxfp4, Whole<BlockMxfp4>)
FORMAT(i4, Nibbles<ValueI4>)
FORMAT(u4, Nibbles<ValueU4>)
FORMAT(f4_e2m1, Nibbles<ValueF4>)
