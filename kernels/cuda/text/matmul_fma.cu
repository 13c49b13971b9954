// Products by multiply-add in f32: those of f32 operands, and whatever the other kernels leave.
//
// The floor is 2 M N K operations over the rate of f32 multiply-add. What holds the kernels back is shared memory,
// which feeds 8x8 sums of a thread with 16 floats for 64 operations; a step's operands are loaded while those of the
// step before are multiplied. The kernel for any strides and dtypes loads element by element and is meant to be right.
#include "product.cuh"

#define THREADS 256

// How an operand lies: f32 in fours along K or along its rows or columns, or anyhow.
enum Lie { ALONG_K, ACROSS, ANYHOW };

// One operand of a tile: ROWS rows of a, or columns of the product, by DEEP elements of K.
template <u32 ROWS, u32 DEEP, Lie LIE, bool IS_B> struct Panel {
    static constexpr u32 COUNT = ROWS * DEEP / THREADS, PITCH = ROWS + 4;

    const void* base;
    u64 start, row_step, k_step;
    u32 type, first, rows, end;

    // Where row j of the tile starts, or a row beyond the last.
    DEVICE u32 row(const Product& p, u32 j) const { return IS_B ? product_column(p, first + j) : first + j; }

    // The step that starts at k, into registers; zeros beyond the operand.
    DEVICE void load(const Product& p, u32 k, float* x) const {
        if constexpr (LIE == ANYHOW) {
            // Threads that follow each other take elements that do.
            const bool along = k_step <= row_step;
#pragma unroll
            for (u32 i = 0; i < COUNT; i++) {
                const u32 at = threadIdx.x + i * THREADS, j = row(p, along ? at / DEEP : at % ROWS);
                const u32 from = k + (along ? at % DEEP : at / ROWS);
                x[i] = j < rows && from < end ? load_any(type, base, start + j * row_step + from * k_step) : 0.0f;
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < COUNT; i += 4) {
                const u32 at = threadIdx.x + i / 4 * THREADS;
                const u32 j = row(p, LIE == ALONG_K ? at / (DEEP / 4) : at % (ROWS / 4) * 4);
                const u32 from = k + (LIE == ALONG_K ? at % (DEEP / 4) * 4 : at / (ROWS / 4));
                const bool valid = j < rows && from < end;
                const float* const four = (const float*)base + (valid ? start + j * row_step + from * k_step : start);
                const Vec4 v = load16(four);
                x[i] = valid ? float_of(v.x) : 0.0f;
                x[i + 1] = valid ? float_of(v.y) : 0.0f;
                x[i + 2] = valid ? float_of(v.z) : 0.0f;
                x[i + 3] = valid ? float_of(v.w) : 0.0f;
            }
        }
    }

    // The registers into shared memory, [DEEP][PITCH].
    DEVICE void store(const float* x, float* to) const {
        if constexpr (LIE == ACROSS) {
#pragma unroll
            for (u32 i = 0; i < COUNT; i += 4) {
                const u32 at = threadIdx.x + i / 4 * THREADS;
                store16(to + at / (ROWS / 4) * PITCH + at % (ROWS / 4) * 4,
                        {bits_of(x[i]), bits_of(x[i + 1]), bits_of(x[i + 2]), bits_of(x[i + 3])});
            }
        } else if constexpr (LIE == ALONG_K) {
#pragma unroll
            for (u32 i = 0; i < COUNT; i++) {
                const u32 at = threadIdx.x + i / 4 * THREADS;
                to[(at % (DEEP / 4) * 4 + i % 4) * PITCH + at / (DEEP / 4)] = x[i];
            }
        } else {
            const bool along = k_step <= row_step;
#pragma unroll
            for (u32 i = 0; i < COUNT; i++) {
                const u32 at = threadIdx.x + i * THREADS;
                to[(along ? at % DEEP : at / ROWS) * PITCH + (along ? at / DEEP : at % ROWS)] = x[i];
            }
        }
    }
};

// Adds the products of one step to a thread's sums: quads of rows 64 apart by quads of columns 64 apart.
template <u32 QM, u32 QN, u32 DEEP>
DEVICE void multiply(float (*d)[4 * QN], const float* a, const float* b, u32 ty, u32 tx) {
#pragma unroll
    for (u32 k = 0; k < DEEP; k++) {
        float x[4 * QM], y[4 * QN];
#pragma unroll
        for (u32 q = 0; q < QM; q++) load_many<4>(IN_F32, a + k * (64 * QM + 4) + q * 64 + ty * 4, 0, x + 4 * q);
#pragma unroll
        for (u32 q = 0; q < QN; q++) load_many<4>(IN_F32, b + k * (64 * QN + 4) + q * 64 + tx * 4, 0, y + 4 * q);
#pragma unroll
        for (u32 i = 0; i < 4 * QM; i++) {
#pragma unroll
            for (u32 j = 0; j < 4 * QN; j++) d[i][j] = fmaf(x[i], y[j], d[i][j]);
        }
    }
}

// A tile of 64 QM x 64 QN sums.
template <u32 QM, u32 QN, u32 DEEP, Lie A, Lie B>
DEVICE void tile(const void* a, const void* b, const Tail& tail, float* partial, const Product& p) {
    constexpr u32 BM = 64 * QM, BN = 64 * QN, A_FLOATS = DEEP * (BM + 4), STAGE = A_FLOATS + DEEP * (BN + 4);
    constexpr u32 PITCH = BN + 8, FLOATS = 2 * STAGE > 64 * PITCH ? 2 * STAGE : 64 * PITCH;
    static_assert(A_FLOATS % 4 == 0 && STAGE % 4 == 0 && PITCH % 4 == 0 && FLOATS % 4 == 0, "floats move in fours");
    SHARED(Vec4, fours, FLOATS / 4);
    float* const shared = reinterpret_cast<float*>(fours);
    const u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16, split = blockIdx.z;
    const Spot spot = spot_of(p, blockIdx.x);
    const u32 start = split * p.k_part, end = p.k - start < p.k_part ? p.k : start + p.k_part;
    for (u32 batch = blockIdx.y; batch < p.batches; batch += gridDim.y) {
        const Start at = start_of(p, batch);
        const Panel<BM, DEEP, A, false> rows = {a, at.a, p.a_row, p.a_col, p.a_type, spot.m * BM, p.m, end};
        const Panel<BN, DEEP, B, true> cols = {b, at.b, p.b_row, p.b_col, p.b_type, spot.n * BN, p.n, end};
        float d[4 * QM][4 * QN] = {};
        float x[Panel<BM, DEEP, A, false>::COUNT], y[Panel<BN, DEEP, B, true>::COUNT];
        if (start < end) {
            rows.load(p, start, x);
            cols.load(p, start, y);
        }
        u32 side = 0;
#pragma unroll 1
        for (u32 k = start; k < end; k += DEEP) {
            float* const stage = shared + side * STAGE;
            rows.store(x, stage);
            cols.store(y, stage + A_FLOATS);
            sync();
            if (k + DEEP < end) {
                rows.load(p, k + DEEP, x);
                cols.load(p, k + DEEP, y);
            }
            multiply<QM, QN, DEEP>(d, stage, stage + A_FLOATS, ty, tx);
            side ^= 1;
        }
        sync();
#pragma unroll
        for (u32 q = 0; q < QM; q++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 j = 0; j < QN; j++) {
                    const float* const from = d[4 * q + i] + 4 * j;
                    store16(shared + (ty * 4 + i) * PITCH + j * 64 + tx * 4,
                            {bits_of(from[0]), bits_of(from[1]), bits_of(from[2]), bits_of(from[3])});
                }
            }
            sync();
            finish_rows<64, BN, THREADS>(p, tail, at, partial, batch, split, shared, PITCH, spot.m * BM + q * 64,
                                         spot.n * BN);
            sync();
        }
    }
}

#define ARGUMENTS const void *a, const void *b, const void *bias, const void *residual, void *c, float *partial, Product p
#define TILE(name, qm, qn, deep, lie_a, lie_b)                                                                         \
    KERNEL_BLOCKS(THREADS, 2) matmul_fma_##name(ARGUMENTS) {                                                           \
        take_turn();                                                                                                   \
        const Tail tail = {bias, residual, c};                                                                         \
        tile<qm, qn, deep, lie_a, lie_b>(a, b, tail, partial, p);                                                      \
    }

TILE(f32_128x128_nk, 2, 2, 8, ALONG_K, ALONG_K)
TILE(f32_128x128_kn, 2, 2, 8, ALONG_K, ACROSS)
TILE(f32_64x64_nk, 1, 1, 16, ALONG_K, ALONG_K)
TILE(f32_64x64_kn, 1, 1, 16, ALONG_K, ACROSS)
TILE(any_64x64, 1, 1, 16, ANYHOW, ANYHOW)
