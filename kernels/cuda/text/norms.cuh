// What the kernels of norms share.
#pragma once
#include "rowwise.cuh"

struct NormShape {
    Rows a, b, sum, y;
    u32 rows, cols;
    u32 weight_dtype, bias_dtype;
    float eps, offset;
    // Whether the normalised value is rounded to y's dtype before it meets the weight.
    u32 round;
    u32 unused;
};

template <int VEC> DEVICE float squares(const float* v, float sum) {
#pragma unroll
    for (int l = 0; l < VEC; l++) sum = fmaf(v[l], v[l], sum);
    return sum;
}

// v * inv * (w + offset), in place.
template <class Y> struct Scale {
    Weight weight;
    float inv, offset;
    bool round;
    Y y;

    DEVICE void go(u32 i, u32 n, float* v) const {
        float w[Y::VEC];
        weight.load<Y::VEC>(i, n, w);
#pragma unroll
        for (int l = 0; l < Y::VEC; l++) {
            const float x = v[l] * inv;
            v[l] = (round ? y.round(x) : x) * (w[l] + offset);
        }
    }
};
