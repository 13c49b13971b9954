// Rows of int8 codes.
#pragma once
#include "rowwise.cuh"

// The largest magnitude so far, as bits: NaN is larger than all.
template <int VEC> DEVICE u32 magnitude(const float* v, u32 most) {
#pragma unroll
    for (int l = 0; l < VEC; l++) most = Most()(bits_of(v[l]) & 0x7fffffffu, most);
    return most;
}
// The scale of a row with this largest magnitude.
DEVICE float code_scale(u32 most) { return float_of(most) / 127.0f; }

// A row of codes with any step.
struct Codes {
    i8* row;
    u64 step;

    DEVICE Codes(i8* base, const Rows& rows, u32 r) : row(base + rows.at(r)), step(rows.step) {}

    // x / scale; zeros where the scale is zero.
    template <int VEC> DEVICE void store(u32 i, u32 n, const float* x, float scale) const {
        float v[VEC];
#pragma unroll
        for (int l = 0; l < VEC; l++) v[l] = scale == 0.0f ? 0.0f : x[l] / scale;
        put<VEC>(i, n, v);
    }
    // v, rounded and saturated.
    template <int VEC> DEVICE void put(u32 i, u32 n, const float* v) const {
        if (VEC >= 4 && step == 1 && i + VEC <= n && (reinterpret_cast<u64>(row + i) & (VEC - 1)) == 0) {
            u32 words[VEC / 4 > 0 ? VEC / 4 : 1] = {};
#pragma unroll
            for (int l = 0; l < VEC; l++) words[l / 4] |= (u32)(u8)from_f32<i8>(v[l]) << 8 * (l % 4);
            if (VEC == 8) store8(row + i, {words[0], words[VEC / 4 > 1 ? 1 : 0]});
            else *reinterpret_cast<u32*>(row + i) = words[0];
            return;
        }
#pragma unroll
        for (int l = 0; l < VEC; l++)
            if (i + l < n) row[(i + l) * step] = from_f32<i8>(v[l]);
    }
};
