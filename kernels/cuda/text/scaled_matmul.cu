// Products of int8 codes with exact int32 sums, their scales and what joins them. Weights lie in the tiles of codes of
// a byte; those are fragments of m16n8k32 as they stand, whose lane 4g + t takes inputs 8t.. of a block of activations.
#include "quant.cuh"

// Steps are elements, 0 for a scale that is one for all. y_kind and bias_kind as in quant.cuh.
struct Scaled {
    u64 lda, ldy, sa_step, sb_step, bias_step, joins_step;
    u32 m, n, chunks, tiles, bias_kind, y_kind;
    // Parts of K; whether sums are written for another kernel to join.
    u32 splits, partial;
};

DEVICE void emit(
    const Scaled& p, const float* sa, const float* sb, const void* bias, const i32* joins, void* y, u32 m, u32 n, i32 sum
) {
    const i64 all = (i64)sum + (joins != nullptr ? joins[n * p.joins_step] : 0);
    float v = (float)all * sa[m * p.sa_step] * sb[n * p.sb_step];
    if (bias != nullptr) v += number(bias, n * p.bias_step, p.bias_kind);
    store_number(y, m * p.ldy + n, p.y_kind, v);
}

DEVICE void emit_or_keep(
    const Scaled& p, const float* sa, const float* sb, const void* bias, const i32* joins, void* y, u32 split, u32 m, u32 n, i32 sum
) {
    if (p.partial) {
        static_cast<i32*>(y)[((u64)split * p.m + m) * p.tiles * 16 + n] = sum;
    } else if (n < p.n) {
        emit(p, sa, sb, bias, joins, y, m, n, sum);
    }
}

DEVICE void fragment(const Vec4& v, u32* a) { a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w; }

constexpr u32 WARPS = 8;

// Up to 8 rows: a block has one tile, a warp every eighth chunk, of which two are under way.
KERNEL_BLOCKS(256, 2) scaled_gemv(const u8* w, const i8* a, const float* sa, const float* sb, const void* bias,
                                  const i32* joins, void* y, Scaled p) {
    take_turn();
    SHARED(i32, partial, WARPS * 128);
    const u32 tile = blockIdx.x, lane = lane32(), warp = group32(), column = lane / 4;
    const u8* codes = w + tile * (p.chunks * 2048ull) + lane * 16;
    const i8* row = a + (column < p.m ? column : p.m - 1) * p.lda + lane % 4 * 8;
    i32 acc[4] = {};
    if (warp < p.chunks) {
        Vec4 next[4];
#pragma unroll
        for (int i = 0; i < 4; i++) next[i] = load16_once(codes + warp * 2048ull + 512 * i);
        for (u32 chunk = warp; chunk < p.chunks; chunk += WARPS) {
            const Vec4 now[4] = {next[0], next[1], next[2], next[3]};
            if (chunk + WARPS < p.chunks) {
#pragma unroll
                for (int i = 0; i < 4; i++) next[i] = load16_once(codes + (chunk + WARPS) * 2048ull + 512 * i);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 f[4];
                fragment(now[i], f);
                const Vec2 inputs = load8(row + chunk * CHUNK + 32 * i);
                const u32 b[2] = {inputs.x, inputs.y};
                mma_i8(acc, f, b);
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) partial[warp * 128 + (lane % 4 * 2 + i % 2) * 16 + lane / 4 + i / 2 * 8] = acc[i];
    sync();
    const u32 m = threadIdx.x / 16, n = tile * 16 + threadIdx.x % 16;
    if (m >= p.m || m >= 8) return;
    i32 sum = 0;
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) sum += partial[i * 128 + threadIdx.x];
    emit_or_keep(p, sa, sb, bias, joins, y, 0, m, n, sum);
}

// More rows: a block has eight tiles and 8·BLOCKS·SIDES rows of a, a warp two tiles and 8·BLOCKS rows. A row of staged
// activations takes 160 bytes, so that four rows times 32 bytes lie in all banks.
constexpr u32 STAGED_BYTES = 160;
constexpr u32 OUT_ROWS = 132;

DEVICE void stage_chunk(i8* to, const i8* a, const Scaled& p, u32 first, u32 columns, u32 chunk) {
    for (u32 i = threadIdx.x; i < columns * 8; i += blockDim.x) {
        const u32 column = i / 8, piece = i % 8, m = first + column;
        const bool valid = m < p.m;
        copy_async16(to + column * STAGED_BYTES + piece * 16, a + (valid ? m : 0) * p.lda + chunk * CHUNK + piece * 16, valid);
    }
    copy_async_commit();
}

template <int BLOCKS, int SIDES> DEVICE void tiles(
    const u8* w, const i8* a, const float* sa, const float* sb, const void* bias, const i32* joins, void* y, const Scaled& p
) {
    SHARED_DYNAMIC(i8, staged);
    constexpr u32 COLUMNS = 8 * BLOCKS * SIDES;
    const u32 across = (p.m + COLUMNS - 1) / COLUMNS;
    const u32 first = blockIdx.x % across * COLUMNS, tile0 = blockIdx.x / across * 8;
    const u32 lane = lane32(), side = group32() / 4, band = group32() % 4;
    const u32 from = (u32)((u64)p.chunks * blockIdx.y / p.splits), to = (u32)((u64)p.chunks * (blockIdx.y + 1) / p.splits);
    const u8* codes[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 tile = tile0 + band * 2 + h < p.tiles ? tile0 + band * 2 + h : p.tiles - 1;
        codes[h] = w + tile * (p.chunks * 2048ull) + lane * 16;
    }
    i32 acc[2][BLOCKS][4] = {};
    if (from < to) {
        Vec4 next[2][4];
#pragma unroll
        for (int i = 0; i < 8; i++) next[i / 4][i % 4] = load16_once(codes[i / 4] + from * 2048ull + i % 4 * 512);
        stage_chunk(staged, a, p, first, COLUMNS, from);
#pragma unroll 1
        for (u32 chunk = from; chunk < to; chunk++) {
            const u32 odd = (chunk - from) % 2;
            copy_async_wait<0>();
            sync();
            Vec4 now[2][4];
#pragma unroll
            for (int i = 0; i < 8; i++) now[i / 4][i % 4] = next[i / 4][i % 4];
            if (chunk + 1 < to) {
                stage_chunk(staged + (1 - odd) * COLUMNS * STAGED_BYTES, a, p, first, COLUMNS, chunk + 1);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    next[i / 4][i % 4] = load16_once(codes[i / 4] + (chunk + 1) * 2048ull + i % 4 * 512);
                }
            }
            const i8* rows = staged + (odd * COLUMNS + side * BLOCKS * 8 + lane / 4) * STAGED_BYTES + lane % 4 * 8;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 f[2][4];
                fragment(now[0][i], f[0]);
                fragment(now[1][i], f[1]);
#pragma unroll
                for (int j = 0; j < BLOCKS; j++) {
                    const Vec2 inputs = load8(rows + j * 8 * STAGED_BYTES + i * 32);
                    const u32 b[2] = {inputs.x, inputs.y};
                    mma_i8(acc[0][j], f[0], b);
                    mma_i8(acc[1][j], f[1], b);
                }
            }
        }
    }
    // Through shared memory, 32 rows of a at a time, so that neighbours write neighbours.
    i32* out = reinterpret_cast<i32*>(staged);
#pragma unroll
    for (u32 part = 0; part < COLUMNS / 32; part++) {
        sync();
#pragma unroll
        for (u32 j = 0; j < BLOCKS; j++) {
            if ((side * BLOCKS + j) / 4 != part) continue;
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const u32 column = (side * BLOCKS + j) % 4 * 8 + lane % 4 * 2 + i % 2;
                out[column * OUT_ROWS + band * 32 + i / 4 * 16 + lane / 4 + i % 4 / 2 * 8] = acc[i / 4][j][i % 4];
            }
        }
        sync();
        for (u32 i = threadIdx.x; i < 32 * 128; i += blockDim.x) {
            const u32 m = first + part * 32 + i / 128, n = tile0 * 16 + i % 128;
            if (m >= p.m || n >= p.tiles * 16) continue;
            emit_or_keep(p, sa, sb, bias, joins, y, blockIdx.y, m, n, out[i / 128 * OUT_ROWS + i % 128]);
        }
    }
}

KERNEL_BLOCKS(128, 2) scaled_few(const u8* w, const i8* a, const float* sa, const float* sb, const void* bias,
                                 const i32* joins, void* y, Scaled p) {
    take_turn();
    tiles<4, 1>(w, a, sa, sb, bias, joins, y, p);
}
KERNEL(256) scaled_many(const u8* w, const i8* a, const float* sa, const float* sb, const void* bias, const i32* joins,
                        void* y, Scaled p) {
    take_turn();
    tiles<8, 2>(w, a, sa, sb, bias, joins, y, p);
}

// Joins the sums `[parts][m][16·tiles]` of parts of K.
KERNEL(256) scaled_finish(const i32* sums, const float* sa, const float* sb, const void* bias, const i32* joins, void* y,
                          Scaled p) {
    take_turn();
    const u64 all = (u64)p.n * p.m, step = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        const u32 m = (u32)(i / p.n), n = (u32)(i % p.n);
        i32 sum = 0;
        for (u32 part = 0; part < p.splits; part++) sum += sums[((u64)part * p.m + m) * p.tiles * 16 + n];
        emit(p, sa, sb, bias, joins, y, m, n, sum);
    }
}
