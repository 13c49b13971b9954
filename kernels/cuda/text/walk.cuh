// Elements of strided tensors, one after the other.
#pragma once
#include "vendor.cuh"

// So many elements, the innermost axis first; up to three tensors step along the axes, in elements.
struct Walk {
    u64 count;
    u64 dims[8];
    u64 steps[3][8];
    u32 rank, pad;
};

// Where element `i` lies in each of the first N tensors.
template <int N> DEVICE void walk_to(const Walk& walk, u64 i, u64* at) {
#pragma unroll
    for (int k = 0; k < N; k++) at[k] = 0;
    if (walk.count <= 0xffffffffu) {
        u32 rest = (u32)i;
        for (u32 axis = 0; axis < walk.rank; axis++) {
            const u32 dim = (u32)walk.dims[axis], outer = rest / dim, index = rest - outer * dim;
#pragma unroll
            for (int k = 0; k < N; k++) at[k] += index * walk.steps[k][axis];
            rest = outer;
        }
    } else {
        u64 rest = i;
        for (u32 axis = 0; axis < walk.rank; axis++) {
            const u64 outer = rest / walk.dims[axis], index = rest - outer * walk.dims[axis];
#pragma unroll
            for (int k = 0; k < N; k++) at[k] += index * walk.steps[k][axis];
            rest = outer;
        }
    }
}

DEVICE u64 first_thread() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE u64 all_threads() { return (u64)gridDim.x * blockDim.x; }

// Numbers of f32 (0), f16 (1) and bf16 (2).
DEVICE float read_number(const void* from, u32 type, u64 at) {
    if (type == 0) return static_cast<const float*>(from)[at];
    if (type == 1) return to_f32(static_cast<const f16*>(from)[at]);
    return to_f32(static_cast<const bf16*>(from)[at]);
}
DEVICE void write_number(void* to, u32 type, u64 at, float x) {
    if (type == 0) static_cast<float*>(to)[at] = x;
    else if (type == 1) static_cast<f16*>(to)[at] = from_f32<f16>(x);
    else static_cast<bf16*>(to)[at] = from_f32<bf16>(x);
}

// Sixteen bytes as numbers.
template <class T> struct Pack {
    static const int COUNT = 16 / sizeof(T);
    static DEVICE void unpack(Vec4 v, float* x) {
        x[0] = unpack_low<T>(v.x), x[1] = unpack_high<T>(v.x), x[2] = unpack_low<T>(v.y), x[3] = unpack_high<T>(v.y);
        x[4] = unpack_low<T>(v.z), x[5] = unpack_high<T>(v.z), x[6] = unpack_low<T>(v.w), x[7] = unpack_high<T>(v.w);
    }
    static DEVICE Vec4 pack(const float* x) {
        return {pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7])};
    }
};
template <> struct Pack<float> {
    static const int COUNT = 4;
    static DEVICE void unpack(Vec4 v, float* x) {
        x[0] = float_of(v.x), x[1] = float_of(v.y), x[2] = float_of(v.z), x[3] = float_of(v.w);
    }
    static DEVICE Vec4 pack(const float* x) { return {bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])}; }
};
