// What turns heads: slots of a head are pairs that turn, what passes before them, and what passes behind them.
#pragma once
#include "rowwise.cuh"

struct RopeShape {
    // Heads as rows: tokens outermost.
    Rows x, y;
    u32 heads, dim, half, offset;
    u32 interleaved, wide_positions, table_rows;
    u32 unused;
    u64 position_step;
    u64 cos_pitch, cos_step, sin_pitch, sin_step;
};

// A token's row of cosines and sines; a position out of range gives NaN.
struct Angles {
    const float* cos;
    const float* sin;
    u64 cos_step, sin_step;
    bool known;

    DEVICE Angles(const void* positions, const float* c, const float* s, u32 token, const RopeShape& shape) {
        const u64 at = token * shape.position_step;
        const i64 position =
            shape.wide_positions ? static_cast<const i64*>(positions)[at] : (i64) static_cast<const i32*>(positions)[at];
        known = position >= 0 && position < (i64)shape.table_rows;
        cos = c + (known ? (u64)position * shape.cos_pitch : 0);
        sin = s + (known ? (u64)position * shape.sin_pitch : 0);
        cos_step = shape.cos_step;
        sin_step = shape.sin_step;
    }
    // Of this pair, below `half`.
    DEVICE void of(u32 pair, float& c, float& s) const {
        c = known ? cos[pair * cos_step] : F32_NAN;
        s = known ? sin[pair * sin_step] : F32_NAN;
    }
};

DEVICE void turn(const Angles& angles, u32 pair, float& a, float& b) {
    float c, s;
    angles.of(pair, c, s);
    const float x = a * c - b * s;
    b = b * c + a * s;
    a = x;
}

// A slot of a head: pairs, as many as sixteen bytes hold.
template <class A> DEVICE void half_split(const A& from, const A& to, const Angles& angles, u32 j, const RopeShape& s) {
    constexpr int VEC = A::VEC;
    const u32 first = s.offset, second = s.offset + s.half;
    float a[VEC], b[VEC];
    from.load(first + j, second, a);
    from.load(second + j, second + s.half, b);
#pragma unroll
    for (int l = 0; l < VEC; l++)
        if (j + l < s.half) turn(angles, j + l, a[l], b[l]);
    to.store(first + j, second, a);
    to.store(second + j, second + s.half, b);
}

template <class A> DEVICE void interleaved(const A& from, const A& to, const Angles& angles, u32 j, const RopeShape& s) {
    constexpr int PAIRS = A::VEC == 1 ? 1 : A::VEC / 2;
    const u32 first = s.offset + 2 * j, end = s.offset + 2 * s.half;
    float v[2 * PAIRS];
#pragma unroll
    for (int l = 0; l < 2 * PAIRS; l += A::VEC) from.load(first + l, end, v + l);
#pragma unroll
    for (int p = 0; p < PAIRS; p++)
        if (j + p < s.half) turn(angles, j + p, v[2 * p], v[2 * p + 1]);
#pragma unroll
    for (int l = 0; l < 2 * PAIRS; l += A::VEC) to.store(first + l, end, v + l);
}

template <class A> struct Slots {
    static constexpr u32 VEC = A::VEC;
    u32 pairs, behind, turning, before, count;

    DEVICE explicit Slots(const RopeShape& s)
        : pairs(s.interleaved && VEC > 1 ? VEC / 2 : VEC),
          behind(s.offset + 2 * s.half),
          turning((s.half + pairs - 1) / pairs),
          before((s.offset + VEC - 1) / VEC),
          count(turning + before + (s.dim - behind + VEC - 1) / VEC) {}

    // One slot of a head.
    DEVICE void go(u32 slot, const A& from, const A& to, const Angles& angles, const RopeShape& s) const {
        if (slot < turning) {
            if (s.interleaved) interleaved(from, to, angles, slot * pairs, s);
            else half_split(from, to, angles, slot * pairs, s);
            return;
        }
        const bool early = slot < turning + before;
        const u32 at = early ? (slot - turning) * VEC : behind + (slot - turning - before) * VEC;
        const u32 end = early ? s.offset : s.dim;
        float v[VEC];
        from.load(at, end, v);
        to.store(at, end, v);
    }
};
