// How kernels that work row by row reach their operands: any strides and dtypes, f32 in registers, and a team of threads
// for each row.
//
// A team is a group of 32 lanes, or a whole block. Threads take slots of a row in turn, as many elements at once as 16 bytes
// hold where a row is dense. All threads of a group come to every exchange: a team without a row has a row of no elements.
#pragma once
#include "vendor.cuh"

// The numbers that launches give dtypes.
enum : u32 { AS_F32 = 0, AS_F16 = 1, AS_BF16 = 2 };

// A tensor's rows: `step` elements between neighbours of a row; the outer axes, outermost first.
struct Rows {
    u32 dtype, axes;
    u64 step;
    u32 size[8];
    u64 stride[8];

    // The first element of a row, in elements from the tensor's first.
    DEVICE u64 at(u32 row) const {
        if (axes == 1) return row * stride[0];
        u64 offset = 0;
        for (u32 axis = axes; axis > 0; axis--) {
            offset += (row % size[axis - 1]) * stride[axis - 1];
            row /= size[axis - 1];
        }
        return offset;
    }
};

DEVICE float load_as(const void* base, u32 dtype, u64 at) {
    if (dtype == AS_F32) return static_cast<const float*>(base)[at];
    if (dtype == AS_F16) return to_f32(static_cast<const f16*>(base)[at]);
    return to_f32(static_cast<const bf16*>(base)[at]);
}
DEVICE void store_as(void* base, u32 dtype, u64 at, float v) {
    if (dtype == AS_F32) static_cast<float*>(base)[at] = v;
    else if (dtype == AS_F16) static_cast<f16*>(base)[at] = from_f32<f16>(v);
    else static_cast<bf16*>(base)[at] = from_f32<bf16>(v);
}
// v as the dtype holds it.
DEVICE float round_as(u32 dtype, float v) {
    if (dtype == AS_F16) return to_f32(from_f32<f16>(v));
    if (dtype == AS_BF16) return to_f32(from_f32<bf16>(v));
    return v;
}

// The numbers in sixteen bytes.
template <class T> DEVICE void open16(Vec4 v, float* out) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = unpack_low<T>(words[i]);
        out[2 * i + 1] = unpack_high<T>(words[i]);
    }
}
template <> DEVICE void open16<float>(Vec4 v, float* out) {
    out[0] = float_of(v.x);
    out[1] = float_of(v.y);
    out[2] = float_of(v.z);
    out[3] = float_of(v.w);
}
template <class T> DEVICE Vec4 close16(const float* v) {
    return {pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7])};
}
template <> DEVICE Vec4 close16<float>(const float* v) {
    return {bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])};
}

// The bits of an element in the low bits of a word.
template <class T> DEVICE u32 word_of(T x) { return x.bits; }
template <> DEVICE u32 word_of<float>(float x) { return bits_of(x); }
template <class T> DEVICE T element_of(u32 word) { return {(u16)word}; }
template <> DEVICE float element_of<float>(u32 word) { return float_of(word); }

// A dense row of T, sixteen bytes at a time where they start on a multiple of 16. What lies beyond a row's n elements is
// neither read nor written; it reads as zeros.
template <class T> struct Dense {
    // Elements of a slot, and slots that a thread keeps in registers.
    static constexpr int VEC = 16 / sizeof(T), CHUNKS = 2 * sizeof(T), PER_WORD = 4 / sizeof(T);
    struct Raw { Vec4 v; };
    T* row;

    DEVICE Dense(const void* base, const Rows& rows, u32 r)
        : row(const_cast<T*>(static_cast<const T*>(base)) + rows.at(r)) {}
    DEVICE explicit Dense(T* start) : row(start) {}
    DEVICE bool whole(u32 i, u32 n) const { return i + VEC <= n && (reinterpret_cast<u64>(row + i) & 15) == 0; }
    DEVICE Raw fetch(u32 i, u32 n) const {
        if (whole(i, n)) return {load16(row + i)};
        u32 words[4] = {};
#pragma unroll
        for (int l = 0; l < VEC; l++)
            if (i + l < n) words[l / PER_WORD] |= word_of<T>(row[i + l]) << l % PER_WORD * 16;
        return {{words[0], words[1], words[2], words[3]}};
    }
    // The elements as they were fetched, bit for bit.
    DEVICE void put(u32 i, u32 n, Raw raw) const {
        if (whole(i, n)) return store16(row + i, raw.v);
        const u32 words[4] = {raw.v.x, raw.v.y, raw.v.z, raw.v.w};
#pragma unroll
        for (int l = 0; l < VEC; l++)
            if (i + l < n) row[i + l] = element_of<T>(words[l / PER_WORD] >> l % PER_WORD * 16);
    }
    DEVICE static void open(Raw raw, float* out) { open16<T>(raw.v, out); }
    DEVICE void load(u32 i, u32 n, float* out) const { open(fetch(i, n), out); }
    DEVICE float one(u32 i) const { return to_f32(row[i]); }
    DEVICE void store(u32 i, u32 n, const float* v) const {
        if (whole(i, n)) return store16(row + i, close16<T>(v));
#pragma unroll
        for (int l = 0; l < VEC; l++)
            if (i + l < n) row[i + l] = from_f32<T>(v[l]);
    }
    DEVICE static float round(float v) { return to_f32(from_f32<T>(v)); }
};

// A row of any dtype with any step, element by element.
struct Any {
    static constexpr int VEC = 1, CHUNKS = 8;
    struct Raw { float v; };
    void* base;
    u64 at, step;
    u32 dtype;

    DEVICE Any(const void* from, const Rows& rows, u32 r) {
        base = const_cast<void*>(from);
        at = rows.at(r);
        step = rows.step;
        dtype = rows.dtype;
    }
    DEVICE Raw fetch(u32 i, u32 n) const { return {i < n ? load_as(base, dtype, at + i * step) : 0.0f}; }
    DEVICE static void open(Raw raw, float* out) { out[0] = raw.v; }
    DEVICE void load(u32 i, u32 n, float* out) const { open(fetch(i, n), out); }
    DEVICE float one(u32 i) const { return load_as(base, dtype, at + i * step); }
    DEVICE void store(u32 i, u32 n, const float* v) const {
        if (i < n) store_as(base, dtype, at + i * step, v[0]);
    }
    DEVICE float round(float v) const { return round_as(dtype, v); }
};

// A weight, one number for each column; none stands for `otherwise`.
struct Weight {
    const void* base;
    u32 dtype;
    float otherwise;

    template <int VEC> DEVICE void load(u32 i, u32 n, float* out) const {
        const u64 bytes = (u64)i * (dtype == AS_F32 ? 4 : 2);
        const u8* from = static_cast<const u8*>(base) + bytes;
        const bool whole = base && i + VEC <= n && (reinterpret_cast<u64>(from) & 15) == 0;
        if (VEC == 8 && whole && dtype == AS_F16) return open16<f16>(load16(from), out);
        if (VEC == 8 && whole && dtype == AS_BF16) return open16<bf16>(load16(from), out);
        if (VEC >= 4 && whole && dtype == AS_F32) {
#pragma unroll
            for (int l = 0; l < VEC; l += 4) open16<float>(load16(from + 4 * l), out + l);
            return;
        }
#pragma unroll
        for (int l = 0; l < VEC; l++) out[l] = base && i + l < n ? load_as(base, dtype, i + l) : otherwise;
    }
};

// What joins numbers.
struct Sum {
    template <class V> DEVICE V operator()(V a, V b) const { return a + b; }
};
// NaN is larger than all.
struct Larger { DEVICE float operator()(float a, float b) const { return is_nan(a) || a > b ? a : b; } };
struct Most {
    template <class V> DEVICE V operator()(V a, V b) const { return a > b ? a : b; }
};
struct Least {
    template <class V> DEVICE V operator()(V a, V b) const { return a < b ? a : b; }
};

// One value of each of TEAM threads joined; every thread of the team gets the same bits.
template <int TEAM, class V, class Join> DEVICE V team_join(V v, Join join) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask >>= 1) v = join(v, warp_xor(v, mask));
    if (TEAM <= 32) return v;
    SHARED(V, part, TEAM / 32 > 0 ? TEAM / 32 : 1);
    sync();
    if (lane32() == 0) part[group32()] = v;
    sync();
    v = part[0];
#pragma unroll
    for (int i = 1; i < TEAM / 32; i++) v = join(v, part[i]);
    return v;
}
template <int TEAM> DEVICE float team_sum(float v) { return team_join<TEAM>(v, Sum()); }

// This thread's place in its team, and the row that its team has; blocks of 128 threads hold four teams of 32.
template <int TEAM> DEVICE u32 team_lane() { return TEAM == 32 ? lane32() : threadIdx.x; }
template <int TEAM> DEVICE u32 team_row() { return TEAM == 32 ? blockIdx.x * 4 + group32() : blockIdx.x; }

// What of a row stays in a thread's registers.
template <int TEAM, class A> struct Kept {
    static constexpr int VEC = A::VEC, CHUNKS = A::CHUNKS;
    float v[CHUNKS][VEC];

    DEVICE static u32 slot(int chunk) { return (chunk * TEAM + team_lane<TEAM>()) * VEC; }
    // The first slot of this thread behind those.
    DEVICE static u32 beyond() { return slot(CHUNKS); }

    DEVICE void load(const A& a, u32 n) {
        typename A::Raw raw[CHUNKS];
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
            if (slot(c) < n) raw[c] = a.fetch(slot(c), n);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            if (slot(c) < n) A::open(raw[c], v[c]);
            else clear(c);
        }
    }
    // The sum of two rows.
    DEVICE void load(const A& a, const A& b, u32 n) {
        typename A::Raw left[CHUNKS], right[CHUNKS];
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            if (slot(c) < n) {
                left[c] = a.fetch(slot(c), n);
                right[c] = b.fetch(slot(c), n);
            }
        }
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            if (slot(c) < n) {
                float t[VEC];
                A::open(left[c], v[c]);
                A::open(right[c], t);
#pragma unroll
                for (int l = 0; l < VEC; l++) v[c][l] += t[l];
            } else {
                clear(c);
            }
        }
    }
    DEVICE void clear(int c) {
#pragma unroll
        for (int l = 0; l < VEC; l++) v[c][l] = 0.0f;
    }
};
