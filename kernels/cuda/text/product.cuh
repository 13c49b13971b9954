// What the kernels of dense products share: how a product is described, and what follows its sums.
#pragma once
#include "vendor.cuh"

// Stored dtypes, as the host numbers them.
enum : u32 { IN_F32 = 0, IN_F16 = 1, IN_BF16 = 2 };

// What follows the sums, as the op list numbers it; a bias and a residual are added wherever one is given.
enum : u32 { THEN_SILU_MUL = 3, THEN_GELU = 4 };

// c[m][n] = sum over k of a[m][k] b[n][k], for every batch. Distances are in elements. The host writes it field by
// field.
struct Product {
    u64 a_row, a_col;      // along M, along K
    u64 b_row, b_col;      // along N, along K
    u64 c_row, c_col;      // along M, along the columns of the result
    u64 r_row, r_col;      // the residual's
    u64 bias_step;         // along N
    u64 a_batch[6], b_batch[6], c_batch[6], r_batch[6];
    u32 batch[6];          // sizes of the batch axes, outermost first
    u32 axes, batches;     // how many axes, and the product of their sizes
    u32 m, n, k;
    u32 then;              // the epilogue
    u32 a_type, b_type, c_type, r_type, bias_type;
    u32 wide;              // whether results, residual and bias may be moved 8 elements at a time
    u32 tiles_m, tiles_n;  // tiles of the result
    u32 splits, k_part;    // parts of K, and how long each is
};

// What follows the sums, in memory: bias and residual may be null.
struct Tail {
    const void* bias;
    const void* residual;
    void* c;
};

// Where a batch starts in each operand, in elements.
struct Start { u64 a, b, c, r; };

DEVICE Start start_of(const Product& p, u32 batch) {
    Start at = {0, 0, 0, 0};
#pragma unroll 1
    for (u32 axis = p.axes; axis-- > 0;) {
        const u64 i = batch % p.batch[axis];
        batch /= p.batch[axis];
        at.a += i * p.a_batch[axis];
        at.b += i * p.b_batch[axis];
        at.c += i * p.c_batch[axis];
        at.r += i * p.r_batch[axis];
    }
    return at;
}

// Columns of the result.
DEVICE u32 columns(const Product& p) { return p.then == THEN_SILU_MUL ? p.n / 2 : p.n; }

// Columns of a product stand in tiles by groups of 8. With silu_mul groups of the gate and of the up half take turns,
// so that both halves of a result meet in one tile. The column j of the tiles is the column of the product, or beyond
// n.
DEVICE u32 product_column(const Product& p, u32 j) {
    if (p.then != THEN_SILU_MUL) return j;
    const u32 out = j / 16 * 8 + j % 8;
    return out >= p.n / 2 ? p.n : out + (j / 8 % 2 ? p.n / 2 : 0);
}

DEVICE float load_any(u32 type, const void* from, u64 i) {
    if (type == IN_F32) return static_cast<const float*>(from)[i];
    const u16 bits = static_cast<const u16*>(from)[i];
    return type == IN_F16 ? to_f32(f16{bits}) : to_f32(bf16{bits});
}
DEVICE void store_any(u32 type, void* to, u64 i, float x) {
    if (type == IN_F32) static_cast<float*>(to)[i] = x;
    else if (type == IN_F16) static_cast<f16*>(to)[i] = from_f32<f16>(x);
    else static_cast<bf16*>(to)[i] = from_f32<bf16>(x);
}

// The elements of 16 bytes.
template <class T> DEVICE void unpack16(Vec4 v, float* x) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = unpack_low<T>(words[i]);
        x[2 * i + 1] = unpack_high<T>(words[i]);
    }
}
template <> DEVICE void unpack16<float>(Vec4 v, float* x) {
    x[0] = float_of(v.x);
    x[1] = float_of(v.y);
    x[2] = float_of(v.z);
    x[3] = float_of(v.w);
}

// COUNT elements, 4 or 8, that start on a multiple of their size, or of 16 bytes where they are longer.
template <int COUNT> DEVICE void load_many(u32 type, const void* from, u64 i, float* x) {
    if (type == IN_F32) {
#pragma unroll
        for (int part = 0; part < COUNT; part += 4) {
            unpack16<float>(load16(static_cast<const float*>(from) + i + part), x + part);
        }
        return;
    }
    Vec4 v = {0, 0, 0, 0};
    if (COUNT == 8) {
        v = load16(static_cast<const u16*>(from) + i);
    } else {
        const Vec2 half = load8(static_cast<const u16*>(from) + i);
        v.x = half.x;
        v.y = half.y;
    }
    float all[8];
    if (type == IN_F16) unpack16<f16>(v, all);
    else unpack16<bf16>(v, all);
#pragma unroll
    for (int j = 0; j < COUNT; j++) x[j] = all[j];
}
template <class T> DEVICE Vec4 pack16(const float* x) {
    return {pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7])};
}
DEVICE void store_8(u32 type, void* to, u64 i, const float* x) {
    if (type == IN_F32) {
        float* const at = static_cast<float*>(to) + i;
        store16(at, {bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])});
        store16(at + 4, {bits_of(x[4]), bits_of(x[5]), bits_of(x[6]), bits_of(x[7])});
    } else {
        store16(static_cast<u16*>(to) + i, type == IN_F16 ? pack16<f16>(x) : pack16<bf16>(x));
    }
}

// x / (1 + e^-x), of which neither part overflows.
DEVICE float silu_of(float x) {
    const float e = expf(-fabsf(x));
    return x < 0.0f ? x * e / (1.0f + e) : x / (1.0f + e);
}
DEVICE float gelu_of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

// The result of a sum that has its bias, before the residual.
DEVICE float activated(u32 then, float c, float up) {
    if (then == THEN_SILU_MUL) return silu_of(c) * up;
    return then == THEN_GELU ? gelu_of(c) : c;
}

// Writes column o of row m. c is its sum, and up that of the column's other half with silu_mul.
DEVICE void finish(const Product& p, const Tail& tail, const Start& at, u32 m, u32 o, float c, float up) {
    if (tail.bias) {
        c += load_any(p.bias_type, tail.bias, o * p.bias_step);
        if (p.then == THEN_SILU_MUL) up += load_any(p.bias_type, tail.bias, (o + p.n / 2) * p.bias_step);
    }
    c = activated(p.then, c, up);
    if (tail.residual) c += load_any(p.r_type, tail.residual, at.r + m * p.r_row + o * p.r_col);
    store_any(p.c_type, tail.c, at.c + m * p.c_row + o * p.c_col, c);
}

// The same of columns o to o + 7; o is a multiple of 8. Columns beyond the last are left out.
DEVICE void finish_8(const Product& p, const Tail& tail, const Start& at, u32 m, u32 o, float* c, float* up) {
    const u32 width = columns(p);
    if (!p.wide || o + 8 > width) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            if (o + i < width) finish(p, tail, at, m, o + i, c[i], up[i]);
        }
        return;
    }
    float more[8];
    if (tail.bias) {
        load_many<8>(p.bias_type, tail.bias, o, more);
#pragma unroll
        for (int i = 0; i < 8; i++) c[i] += more[i];
        if (p.then == THEN_SILU_MUL) {
            load_many<8>(p.bias_type, tail.bias, o + p.n / 2, more);
#pragma unroll
            for (int i = 0; i < 8; i++) up[i] += more[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) c[i] = activated(p.then, c[i], up[i]);
    if (tail.residual) {
        load_many<8>(p.r_type, tail.residual, at.r + m * p.r_row + o, more);
#pragma unroll
        for (int i = 0; i < 8; i++) c[i] += more[i];
    }
    store_8(p.c_type, tail.c, at.c + m * p.c_row + o, c);
}

// The tile of the result that a block has. Blocks that run together share rows of a and of b: eight rows of tiles at a
// time.
struct Spot { u32 m, n; };
DEVICE Spot spot_of(const Product& p, u32 id) {
    const u32 band = 8 * p.tiles_n, first = id / band * 8, left = p.tiles_m - first;
    const u32 rows = left < 8 ? left : 8, rest = id % band;
    return {first + rest % rows, rest / rows};
}

// Writes rows of a tile whose sums lie in shared memory, `pitch` floats apart: ROWS rows from row m, COLUMNS columns
// from column j of the tiles. With K in parts the sums go to `partial`, for `join`.
template <int ROWS, int COLUMNS, int THREADS>
DEVICE void finish_rows(const Product& p, const Tail& tail, const Start& at, float* partial, u32 batch, u32 split,
                        const float* sums, u32 pitch, u32 m, u32 j) {
    const bool parts = p.splits > 1;
    const u32 pairs = !parts && p.then == THEN_SILU_MUL ? 2 : 1, groups = COLUMNS / (8 * pairs);
    const u32 rows = m >= p.m ? 0 : p.m - m < ROWS ? p.m - m : ROWS;
    const u64 row_length = (u64)p.tiles_n * COLUMNS;
    float* const part = partial + ((u64)split * p.batches + batch) * p.m * row_length;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < rows * groups; i += THREADS) {
        const u32 row = i / groups, group = i % groups;
        const float* const from = sums + row * pitch + group * 8 * pairs;
        if (parts) {
            float* const to = part + (m + row) * row_length + j + group * 8;
            store16(to, load16(from));
            store16(to + 4, load16(from + 4));
            continue;
        }
        float c[8], up[8];
        load_many<8>(IN_F32, from, 0, c);
        load_many<8>(IN_F32, from + 8 * (pairs - 1), 0, up);
        finish_8(p, tail, at, m + row, j / pairs + group * 8, c, up);
    }
}
