// Operators that work element by element: arithmetic on two tensors, functions of one. Computed in f32, rounded once.
#include "vendor.cuh"
#include "walk.cuh"

#define THREADS 256

// Where e^-x may overflow, the square of e^(x/2) keeps the tail; it doubles the error of the exponential.
DEVICE float silu(float x) {
    if (x < -80.0f) {
        const float h = expf(0.5f * x);
        return x * h * (h / (1.0f + h * h));
    }
    return x / (1.0f + expf(-x));
}
DEVICE float sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
// x·erfc(−x/√2)/2, where nothing cancels.
DEVICE float gelu_erf(float x) { return 0.5f * x * erfcf(-0.70710678118654752f * x); }
// x·sigmoid(2u), u = √(2/π)·(x + 0.044715·x³).
DEVICE float gelu_tanh(float x) {
    const float u = 1.5957691216057308f * x * fmaf(0.044715f * x, x, 1.0f);
    return x * sigmoid(u);
}

DEVICE float apply1(u32 op, float x) {
    switch (op) {
        case 0: return silu(x);
        case 1: return gelu_erf(x);
        case 2: return gelu_tanh(x);
        case 3: return x < 0.0f ? 0.0f : x;
        case 4: return sigmoid(x);
        case 5: return tanhf(x);
        default: return expf(x);
    }
}

// A clamp of 0 is none. What is not a number stays so.
DEVICE float apply2(u32 op, float a, float b, float clamp) {
    switch (op) {
        case 0: return a + b;
        case 1: return a - b;
        case 2: return a * b;
        case 3: return a / b;
        default:
            if (clamp > 0.0f) {
                a = a > clamp ? clamp : a;
                b = b > clamp ? clamp : b < -clamp ? -clamp : b;
            }
            return silu(a) * b;
    }
}

// Where a block works: `chunks` blocks share a row of `cols` elements.
template <class T> struct Chunk {
    static const int UNROLL = 2;
    u64 row, start;
    DEVICE Chunk(u32 chunks) {
        row = blockIdx.x / chunks;
        start = (u64)(blockIdx.x - (u32)row * chunks) * (THREADS * UNROLL * Pack<T>::COUNT);
    }
    DEVICE u64 at(int step) const { return start + (u64)(step * THREADS + threadIdx.x) * Pack<T>::COUNT; }
};

// Rows of one type that start on 16 bytes; a step of 0 repeats one element along a row.
template <class T>
DEVICE void binary_rows(const T* a, const T* b, T* y, u32 op, float clamp, u64 cols, u32 chunks, u64 a_row, u64 b_row,
                        u64 y_row, u32 a_step, u32 b_step) {
    const int COUNT = Pack<T>::COUNT;
    const Chunk<T> chunk(chunks);
    a += chunk.row * a_row, b += chunk.row * b_row, y += chunk.row * y_row;
    const float one_a = a_step ? 0.0f : to_f32(a[0]), one_b = b_step ? 0.0f : to_f32(b[0]);
    Vec4 va[Chunk<T>::UNROLL], vb[Chunk<T>::UNROLL];
#pragma unroll
    for (int step = 0; step < Chunk<T>::UNROLL; step++) {
        const u64 at = chunk.at(step);
        const bool whole = at + COUNT <= cols;
        if (whole && a_step) va[step] = load16(a + at);
        if (whole && b_step) vb[step] = load16(b + at);
    }
#pragma unroll
    for (int step = 0; step < Chunk<T>::UNROLL; step++) {
        const u64 at = chunk.at(step);
        if (at + COUNT <= cols) {
            float x[COUNT], z[COUNT];
            if (a_step) Pack<T>::unpack(va[step], x);
            if (b_step) Pack<T>::unpack(vb[step], z);
#pragma unroll
            for (int i = 0; i < COUNT; i++) x[i] = apply2(op, a_step ? x[i] : one_a, b_step ? z[i] : one_b, clamp);
            store16(y + at, Pack<T>::pack(x));
        } else {
            for (u64 i = at; i < cols; i++) {
                const float left = to_f32(a[i * a_step]), right = to_f32(b[i * b_step]);
                y[i] = from_f32<T>(apply2(op, left, right, clamp));
            }
        }
    }
}

template <class T>
DEVICE void unary_rows(const T* x, T* y, u32 op, u64 cols, u32 chunks, u64 x_row, u64 y_row) {
    const int COUNT = Pack<T>::COUNT;
    const Chunk<T> chunk(chunks);
    x += chunk.row * x_row, y += chunk.row * y_row;
    Vec4 all[Chunk<T>::UNROLL];
#pragma unroll
    for (int step = 0; step < Chunk<T>::UNROLL; step++) {
        const u64 at = chunk.at(step);
        if (at + COUNT <= cols) all[step] = load16(x + at);
    }
#pragma unroll
    for (int step = 0; step < Chunk<T>::UNROLL; step++) {
        const u64 at = chunk.at(step);
        if (at + COUNT <= cols) {
            float v[COUNT];
            Pack<T>::unpack(all[step], v);
#pragma unroll
            for (int i = 0; i < COUNT; i++) v[i] = apply1(op, v[i]);
            store16(y + at, Pack<T>::pack(v));
        } else {
            for (u64 i = at; i < cols; i++) y[i] = from_f32<T>(apply1(op, to_f32(x[i])));
        }
    }
}

#define ROWS(name, T)                                                                                                  \
    KERNEL(THREADS)                                                                                                    \
    binary_##name(const T* a, const T* b, T* y, u32 op, float clamp, u64 cols, u32 chunks, u64 a_row, u64 b_row,       \
                  u64 y_row, u32 a_step, u32 b_step) {                                                                 \
        take_turn();                                                                                                   \
        binary_rows<T>(a, b, y, op, clamp, cols, chunks, a_row, b_row, y_row, a_step, b_step);                         \
    }                                                                                                                  \
    KERNEL(THREADS) unary_##name(const T* x, T* y, u32 op, u64 cols, u32 chunks, u64 x_row, u64 y_row) {               \
        take_turn();                                                                                                   \
        unary_rows<T>(x, y, op, cols, chunks, x_row, y_row);                                                           \
    }

ROWS(f32, float)
ROWS(f16, f16)
ROWS(bf16, bf16)

// Any strides, any of the three types.
KERNEL(THREADS)
binary_any(const void* a, const void* b, void* y, Walk walk, u32 op, float clamp, u32 a_type, u32 b_type, u32 y_type) {
    take_turn();
    for (u64 i = first_thread(); i < walk.count; i += all_threads()) {
        u64 at[3];
        walk_to<3>(walk, i, at);
        const float left = read_number(a, a_type, at[0]), right = read_number(b, b_type, at[1]);
        write_number(y, y_type, at[2], apply2(op, left, right, clamp));
    }
}

KERNEL(THREADS) unary_any(const void* x, void* y, Walk walk, u32 op, u32 x_type, u32 y_type) {
    take_turn();
    for (u64 i = first_thread(); i < walk.count; i += all_threads()) {
        u64 at[2];
        walk_to<2>(walk, i, at);
        write_number(y, y_type, at[1], apply1(op, read_number(x, x_type, at[0])));
    }
}
