// Joins the sums of parts of K and of the parts of f32 activations, and what follows a product.
#include "quant_product.cuh"

// Sums `[parts][planes][m][16·tiles]` in the order of the tiles' rows; p.m counts the rows of the result, p.lda the
// planes, of which each counts 2^−8 of the one before.
KERNEL(256) quant_finish(const float* sums, const void* bias, const void* residual, void* y, Product p) {
    take_turn();
    const u64 features = p.tail == TAIL_SILU_MUL ? p.limit : p.n, all = features * p.m, width = (u64)p.tiles * 16;
    const u64 step = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        const u32 m = (u32)(i / features), n = (u32)(i % features);
        const u64 column = (u64)(n / p.tile_rows) * 16 + n % p.tile_rows;
        float sum[2] = {};
        for (u32 part = 0; part < p.splits; part++) {
            float unit = 1.0f;
            for (u32 plane = 0; plane < p.lda; plane++, unit *= 0.00390625f) {
                const float* row = sums + ((u64)(part * p.lda + plane) * p.m + m) * width + column;
                sum[0] = fmaf(row[0], unit, sum[0]);
                if (p.tail == TAIL_SILU_MUL) sum[1] = fmaf(row[8], unit, sum[1]);
            }
        }
        emit(p, bias, residual, y, m, n, sum[0], sum[1]);
    }
}
