// Operators that move elements without looking at them: as many bytes at a time as every address and every step allows.
#include "vendor.cuh"
#include "walk.cuh"

#define THREADS 256

struct Unit16 { Vec4 all; };

template <class T> DEVICE T pattern_of(u64 pattern) { return (T)pattern; }
template <> DEVICE Unit16 pattern_of<Unit16>(u64 pattern) {
    const u32 low = (u32)pattern, high = (u32)(pattern >> 32);
    return {{low, high, low, high}};
}

template <class T> DEVICE void move_units(const T* x, T* y, const Walk& walk) {
    if (walk.rank == 1 && walk.steps[0][0] == 1 && walk.steps[1][0] == 1) {
        for (u64 i = first_thread(); i < walk.count; i += all_threads()) y[i] = x[i];
        return;
    }
    for (u64 i = first_thread(); i < walk.count; i += all_threads()) {
        u64 at[2];
        walk_to<2>(walk, i, at);
        y[at[1]] = x[at[0]];
    }
}

template <class T> DEVICE void fill_units(T* y, const Walk& walk, u64 pattern) {
    const T value = pattern_of<T>(pattern);
    for (u64 i = first_thread(); i < walk.count; i += all_threads()) {
        u64 at[1];
        walk_to<1>(walk, i, at);
        y[at[0]] = value;
    }
}

// The id of an entry, or `rows` and more for one that is no row.
DEVICE u64 id_at(const void* ids, u32 wide, u64 at) {
    return wide ? (u64) static_cast<const i64*>(ids)[at] : (u64)(i64) static_cast<const i32*>(ids)[at];
}

// The walk steps through a row of the table, through the ids, and through the result.
template <class T>
DEVICE void gather_units(const T* table, const void* ids, T* y, const Walk& walk, u64 rows, u64 row_step, u32 wide,
                         u64 missing) {
    for (u64 i = first_thread(); i < walk.count; i += all_threads()) {
        u64 at[3];
        walk_to<3>(walk, i, at);
        const u64 id = id_at(ids, wide, at[1]);
        y[at[2]] = id < rows ? table[id * row_step + at[0]] : pattern_of<T>(missing);
    }
}

#define UNIT(bytes, T)                                                                                                 \
    KERNEL(THREADS) move_##bytes(const T* x, T* y, Walk walk) {                                                        \
        take_turn();                                                                                                   \
        move_units<T>(x, y, walk);                                                                                     \
    }                                                                                                                  \
    KERNEL(THREADS) fill_##bytes(T* y, Walk walk, u64 pattern) {                                                       \
        take_turn();                                                                                                   \
        fill_units<T>(y, walk, pattern);                                                                               \
    }                                                                                                                  \
    KERNEL(THREADS)                                                                                                    \
    gather_##bytes(const T* table, const void* ids, T* y, Walk walk, u64 rows, u64 row_step, u32 wide, u64 missing) {  \
        take_turn();                                                                                                   \
        gather_units<T>(table, ids, y, walk, rows, row_step, wide, missing);                                           \
    }

UNIT(1, u8)
UNIT(2, u16)
UNIT(4, u32)
UNIT(8, u64)
UNIT(16, Unit16)
