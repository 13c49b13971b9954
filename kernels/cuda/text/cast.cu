// Elements in another type.
#include "vendor.cuh"
#include "walk.cuh"
#include "convert.cuh"

#define THREADS 256

// Eight elements a thread, both sides contiguous from a multiple of 16 bytes on.
template <class From, class To> DEVICE void cast_plain(const From* x, To* y, u64 count) {
    const u64 at = first_thread() * 8;
    if (at + 8 <= count) {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i += Pack<From>::COUNT) Pack<From>::unpack(load16(x + at + i), v + i);
#pragma unroll
        for (int i = 0; i < 8; i += Pack<To>::COUNT) store16(y + at + i, Pack<To>::pack(v + i));
    } else {
        for (u64 i = at; i < count; i++) y[i] = from_f32<To>(to_f32(x[i]));
    }
}

#define PLAIN(from, From, to, To)                                                                                      \
    KERNEL(THREADS) cast_##from##_##to(const From* x, To* y, u64 count) {                                              \
        take_turn();                                                                                                   \
        cast_plain<From, To>(x, y, count);                                                                             \
    }

PLAIN(f32, float, f16, f16)
PLAIN(f32, float, bf16, bf16)
PLAIN(f16, f16, f32, float)
PLAIN(bf16, bf16, f32, float)
PLAIN(f16, f16, bf16, bf16)
PLAIN(bf16, bf16, f16, f16)

KERNEL(THREADS) cast_any(const void* x, void* y, Walk walk, u32 from, u32 to) {
    take_turn();
    for (u64 i = first_thread(); i < walk.count; i += all_threads()) {
        u64 at[2];
        walk_to<2>(walk, i, at);
        if (from == U64) {
            write_wide(y, to, at[1], false, static_cast<const u64*>(x)[at[0]]);
        } else if (from == I64) {
            const i64 v = static_cast<const i64*>(x)[at[0]];
            write_wide(y, to, at[1], v < 0, v < 0 ? 0 - (u64)v : (u64)v);
        } else {
            write_element(y, to, at[1], read_element(x, from, at[0]));
        }
    }
}

// Rows of a table in another type than the result: the walk steps through a row, through the ids, and through the result.
KERNEL(THREADS)
gather_any(const void* table, const void* ids, void* y, Walk walk, u64 rows, u64 row_step, u32 wide, u32 from, u32 to) {
    take_turn();
    for (u64 i = first_thread(); i < walk.count; i += all_threads()) {
        u64 at[3];
        walk_to<3>(walk, i, at);
        const u64 id = wide ? (u64) static_cast<const i64*>(ids)[at[1]] : (u64)(i64) static_cast<const i32*>(ids)[at[1]];
        write_element(y, to, at[2], id < rows ? read_element(table, from, id * row_step + at[0]) : F64_NAN);
    }
}
