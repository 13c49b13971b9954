// Products with quantised weights: few rows by blocks of one tile, more by blocks of eight tiles.
#pragma once
#include "quant.cuh"
#include "several.cuh"

// Finishes one sum: row m of the result and feature n; `up` is the other half's where SiLU joins two.
DEVICE void emit(const Product& p, const void* bias, const void* residual, void* y, u32 m, u32 n, float v, float up) {
    if (bias != nullptr) {
        v += number(bias, n * p.bias_step, p.bias_kind);
        if (p.tail == TAIL_SILU_MUL) up += number(bias, (n + p.half_rows) * p.bias_step, p.bias_kind);
    }
    if (residual != nullptr) v += number(residual, m * p.ld_residual + n, p.residual_kind);
    if (p.tail == TAIL_GELU) v = 0.5f * v * erfcf(-0.70710678f * v);
    if (p.tail == TAIL_SILU_MUL) v = v / (1.0f + expf(-v)) * up;
    store_number(y, m * p.ldy + n, p.y_kind, v);
}

// The sums of 16 rows of a tile that lie `step` apart, of one row of a: the thread of row r writes what comes of it.
DEVICE void emit_row(
    const Product& p, const void* bias, const void* residual, void* y, u32 tile, u32 r, u32 m, u32 split, const float* sums
) {
    if (p.tail == TAIL_PARTIAL) {
        static_cast<float*>(y)[((u64)split * p.m + m) * p.ldy + tile * 16 + r] = sums[r];
        return;
    }
    if (!has_row(p, tile, r) || p.tail == TAIL_SILU_MUL && r >= 8) return;
    emit(p, bias, residual, y, m, row_of(p, tile, r), sums[r], p.tail == TAIL_SILU_MUL ? sums[r + 8] : 0.0f);
}

DEVICE bool is_finite(float x) { return (bits_of(x) & 0x7f800000u) != 0x7f800000u; }

// A sum whose numbers are taken one by one: infinities and numbers near the largest pass as they would through weights,
// though sums of codes overflowed, or a minimum met an infinity.
template <class F, class T> DEVICE float plain_sum(
    const Product& p, const Where& at, const T* a, u32 r, u32 first_chunk, u32 last_chunk
) {
    const u32 last = last_chunk * CHUNK < p.k ? last_chunk * CHUNK : p.k;
    float sum = 0.0f;
    for (u32 k = first_chunk * CHUNK; k < last; k++) sum = fmaf(to_f32(a[k]), F::weight(p, at, r, k), sum);
    return sum;
}

DEVICE Where where(const Product& p, const u8* tile_at, const void* scales, const void* zeros, u32 tile, u32 r) {
    return {tile_at, scales, zeros, {row_of(p, tile, r), row_of(p, tile, r + 8)}};
}

// Multiplies a block's fragments by the activations of eight rows of a, b, and adds the scaled sums.
template <class F, class T> DEVICE void block_product(const Scales& s, const u32 (*a)[4], const u32* b, float* acc) {
    float d[4] = {};
    Mma<T>::go(d, a[0], b);
    if (F::HALVES) {
#pragma unroll
        for (int i = 0; i < 4; i++) acc[i] = fmaf(d[i], s.scale[i / 2][0], acc[i]), d[i] = 0.0f;
    }
    Mma<T>::go(d, a[1], b + 2);
#pragma unroll
    for (int i = 0; i < 4; i++) acc[i] = fmaf(d[i], s.scale[i / 2][F::HALVES], acc[i]);
}

// The sums of a block of activations, in the places of a product of eight of its rows.
template <class T> DEVICE void block_sums(const u32* b, float* sums) {
    const u32 ones[4] = {Ones<T>::ONE, Ones<T>::ONE, Ones<T>::ONE, Ones<T>::ONE};
#pragma unroll
    for (int i = 0; i < 4; i++) sums[i] = 0.0f;
    Mma<T>::go(sums, ones, b);
    Mma<T>::go(sums, ones, b + 2);
}

// The activations of a lane in a block: inputs 8t.. of row a, or 4t.. of both its halves.
template <class F> DEVICE void activations(const void* block, u32* b) {
    const u32 t = lane32() % 4;
    if (F::HALVES) {
        const Vec2 low = load8(static_cast<const u8*>(block) + 8 * t), high = load8(static_cast<const u8*>(block) + 32 + 8 * t);
        b[0] = low.x, b[1] = low.y, b[2] = high.x, b[3] = high.y;
    } else {
        const Vec4 all = load16(static_cast<const u8*>(block) + 16 * t);
        b[0] = all.x, b[1] = all.y, b[2] = all.z, b[3] = all.w;
    }
}

// ---------------------------------------------------------------------------------------------------- up to 8 rows
// A block has one tile, a warp every eighth chunk of it; AHEAD chunks of codes are under way while one is multiplied.
// The activations come through L1, where the block's warps share them. Of a gate and an up half that are two weights, half
// of the warps have the tile of the one, and half that of the other.
constexpr u32 FEW_WARPS = 8;

template <class F> struct Chunk {
    typename F::Half half[2];
    typename F::Side side;
};
template <class F> DEVICE Chunk<F> load_chunk(const Product& p, const Where& at, u32 chunk) {
    return {{F::load_half(p, at, chunk, 0), F::load_half(p, at, chunk, 1)}, F::load_side(p, at, chunk)};
}

template <class F, class T> DEVICE void gemv_chunk(
    const Product& p, const Where& at, const Chunk<F>& raw, u32 chunk, const T* a, float* acc
) {
    u32 b[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) activations<F>(a + chunk * CHUNK + 32 * i, b[i]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const typename F::Aside aside = F::template beside<T>(p, at, raw.side, chunk, half);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 w[2][4];
            F::template decode<T>(raw.half[half], aside, i, at, w);
            const Scales scales = F::scales(aside, i);
            block_product<F, T>(scales, w, b[half * 2 + i], acc);
            if (F::MINS) {
                float sums[4];
                block_sums<T>(b[half * 2 + i], sums);
#pragma unroll
                for (int j = 0; j < 4; j++) acc[j] = fmaf(-sums[j], scales.min[j / 2], acc[j]);
            }
        }
    }
}

// What each of several products has of its own.
struct Own {
    u64 ldy, bias_step;
    u32 n, limit, bias_kind, y_kind;
};
DEVICE Product with(Product p, const Own& own) {
    p.ldy = own.ldy;
    p.bias_step = own.bias_step;
    p.n = own.n;
    p.limit = own.limit;
    p.bias_kind = own.bias_kind;
    p.y_kind = own.y_kind;
    return p;
}

// The operands of each of several products.
struct Operands {
    const void *w[3], *scales[3], *zeros[3], *bias[3];
    void* y[3];
};

// The product of this index, or, with a gate and an up half, the first two. What is the product's own and not needed until
// the sums are there is read then: registers are short.
template <class F, class T> DEVICE void gemv(
    const Operands& all, const T* a, const void* residual, const Product& shared, const Own& own, u32 index, u32 tile, bool gated
) {
    SHARED(float, partial, FEW_WARPS * 128);
    Product p = shared;
    p.n = own.n;
    const u32 warps = gated ? FEW_WARPS / 2 : FEW_WARPS, side = group32() / warps, warp = group32() % warps;
    const u32 lane = lane32(), column = lane / 4, which = index + side;
    const u8* const w = static_cast<const u8*>(pick(which, all.w)) + tile * F::tile_bytes(p.chunks);
    const Where at = where(p, w, pick(which, all.scales), pick(which, all.zeros), tile, lane / 4);
    const T* row = a + (column < p.m ? column : p.m - 1) * p.lda;
    float acc[4] = {};
    if (warp < p.chunks) {
        Chunk<F> next[F::AHEAD];
        Chunk<F> now = load_chunk<F>(p, at, warp);
#pragma unroll
        for (int i = 0; i < F::AHEAD; i++) {
            const u32 chunk = warp + warps * (i + 1);
            next[i] = load_chunk<F>(p, at, chunk < p.chunks ? chunk : warp);
        }
        for (u32 chunk = warp; chunk < p.chunks; chunk += warps) {
            const u32 ahead = chunk + warps * (F::AHEAD + 1);
            const Chunk<F> last = now;
            now = next[0];
#pragma unroll
            for (int i = 1; i < F::AHEAD; i++) next[i - 1] = next[i];
            if (ahead < p.chunks) next[F::AHEAD - 1] = load_chunk<F>(p, at, ahead);
            gemv_chunk<F, T>(p, at, last, chunk, row, acc);
        }
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) partial[group32() * 128 + (lane % 4 * 2 + i % 2) * 16 + lane / 4 + i / 2 * 8] = acc[i];
    sync();
    // The first half of the threads has the sums of the first weight, the other those of an up half.
    const u32 slot = threadIdx.x % 128, m = slot / 16, r = slot % 16;
    const bool sums = gated || threadIdx.x < 128;
    float sum = 0.0f;
    if (sums) {
        for (u32 i = 0; i < warps; i++) sum += partial[(side * warps + i) * 128 + slot];
        if (!is_finite(sum) && m < p.m) {
            const Where row = where(p, w, at.scales, at.zeros, tile, r % 8);
            sum = plain_sum<F, T>(p, row, a + m * p.lda, r, 0, p.chunks);
        }
        sum += F::taint(p, w, r);
    }
    sync();
    if (sums) partial[threadIdx.x] = sum;
    sync();
    if (threadIdx.x >= 128 || m >= p.m) return;
    const void* const bias = pick(index, all.bias);
    void* const y = pick(index, all.y);
    p = with(shared, own);
    if (!gated) emit_row(p, bias, residual, y, tile, r, m, 0, partial + m * 16);
    else if (has_row(p, tile, r)) emit(p, bias, residual, y, m, row_of(p, tile, r), partial[slot], partial[128 + slot]);
}

// ---------------------------------------------------------------------------------------------------- more rows
// A block has eight tiles and 8·BLOCKS·SIDES rows of a, a warp two tiles and 8·BLOCKS rows. Activations are staged a
// chunk ahead; codes are decoded in registers, once for all rows of the warp. A row of staged activations takes 320
// bytes, so that eight rows times 64 bytes lie in all banks.
constexpr u32 STAGED = 160;
constexpr u32 OUT_ROWS = 132;

template <class T> DEVICE void stage_chunk(T* to, const T* a, const Product& p, u32 first, u32 columns, u32 chunk) {
    for (u32 i = threadIdx.x; i < columns * 16; i += blockDim.x) {
        const u32 column = i / 16, piece = i % 16, m = first + column;
        const bool valid = m < p.m;
        copy_async16(to + column * STAGED + piece * 8, a + (valid ? m : 0) * p.lda + chunk * CHUNK + piece * 8, valid);
    }
    copy_async_commit();
}

template <class F, class T, int BLOCKS> DEVICE void tile_half(
    const typename F::Aside* aside, const Where* at, const typename F::Half* codes, const T* staged, float (*acc)[BLOCKS][4]
) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u32 w[2][2][4];
#pragma unroll
        for (int h = 0; h < 2; h++) F::template decode<T>(codes[h], aside[h], i, at[h], w[h]);
        const Scales scales[2] = {F::scales(aside[0], i), F::scales(aside[1], i)};
        const T* rows = staged + lane32() / 4 * STAGED + i * 32;
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) {
            u32 b[4];
            activations<F>(rows + j * 8 * STAGED, b);
#pragma unroll
            for (int h = 0; h < 2; h++) block_product<F, T>(scales[h], w[h], b, acc[h][j]);
            if (F::MINS) {
                float sums[4];
                block_sums<T>(b, sums);
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    float& to = acc[e / 4][j][e % 4];
                    to = fmaf(-sums[e % 4], scales[e / 4].min[e % 4 / 2], to);
                }
            }
        }
    }
}

template <class F, class T, int BLOCKS, int SIDES> DEVICE void tiles(
    const u8* w, const void* scales, const void* zeros, const T* a, const void* bias, const void* residual, void* y, const Product& p
) {
    SHARED_DYNAMIC(T, staged);
    constexpr u32 COLUMNS = 8 * BLOCKS * SIDES;
    const u32 across = (p.m + COLUMNS - 1) / COLUMNS;
    const u32 first = blockIdx.x % across * COLUMNS, tile0 = blockIdx.x / across * 8;
    const u32 lane = lane32(), side_of = group32() / 4, band = group32() % 4;
    const u64 bytes = F::tile_bytes(p.chunks);
    const u32 from = (u32)((u64)p.chunks * blockIdx.y / p.splits), to = (u32)((u64)p.chunks * (blockIdx.y + 1) / p.splits);
    Where at[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 tile = tile0 + band * 2 + h < p.tiles ? tile0 + band * 2 + h : p.tiles - 1;
        at[h] = where(p, w + tile * bytes, scales, zeros, tile, lane / 4);
    }
    float acc[2][BLOCKS][4] = {};
    if (from < to) {
        // Half a chunk is at work while the next is under way: registers are short.
        typename F::Half now[2], next[2];
        typename F::Side side[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            now[h] = F::load_half(p, at[h], from, 0);
            next[h] = F::load_half(p, at[h], from, 1);
            side[h] = F::load_side(p, at[h], from);
        }
        stage_chunk(staged, a, p, first, COLUMNS, from);
#pragma unroll 1
        for (u32 step = 2 * from; step < 2 * to; step++) {
            const u32 chunk = step / 2, half = step % 2;
            const T* rows = staged + (chunk - from) % 2 * COLUMNS * STAGED;
            if (half == 0) {
                copy_async_wait<0>();
                sync();
                T* other = staged + (1 - (chunk - from) % 2) * COLUMNS * STAGED;
                if (chunk + 1 < to) stage_chunk(other, a, p, first, COLUMNS, chunk + 1);
            }
            typename F::Aside aside[2];
#pragma unroll
            for (int h = 0; h < 2; h++) aside[h] = F::template beside<T>(p, at[h], side[h], chunk, half);
            if (!F::MINS && half == 1 && chunk + 1 < to) {
#pragma unroll
                for (int h = 0; h < 2; h++) side[h] = F::load_side(p, at[h], chunk + 1);
            }
            tile_half<F, T, BLOCKS>(aside, at, now, rows + side_of * BLOCKS * 8 * STAGED + half * 64, acc);
            // A format with minima has no registers left until the half is done.
            if (F::MINS && half == 1 && chunk + 1 < to) {
#pragma unroll
                for (int h = 0; h < 2; h++) side[h] = F::load_side(p, at[h], chunk + 1);
            }
            const u32 after = chunk + 1 < to ? chunk + 1 : chunk;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                now[h] = next[h];
                next[h] = F::load_half(p, at[h], after, half);
            }
        }
    }
    sync();
    float* out = reinterpret_cast<float*>(staged);
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u32 column = side_of * BLOCKS * 8 + j * 8 + lane % 4 * 2 + i % 2;
                out[column * OUT_ROWS + band * 32 + h * 16 + lane / 4 + i / 2 * 8] = acc[h][j][i];
            }
        }
    }
    sync();
    const u32 columns = p.m - first < COLUMNS ? p.m - first : COLUMNS;
    for (u32 i = threadIdx.x; i < columns * 128; i += blockDim.x) {
        const u32 r = i % 128, m = first + i / 128, tile = tile0 + r / 16;
        if (tile >= p.tiles) continue;
        const Where here = where(p, w + tile * bytes, scales, zeros, tile, r % 8);
        float& sum = out[i / 128 * OUT_ROWS + r];
        if (!is_finite(sum)) sum = plain_sum<F, T>(p, here, a + m * p.lda, r % 16, from, to);
        if (blockIdx.y == 0) sum += F::taint(p, here.tile, r % 16);
    }
    sync();
    for (u32 i = threadIdx.x; i < columns * 128; i += blockDim.x) {
        const u32 r = i % 128, m = first + i / 128, tile = tile0 + r / 16;
        if (tile >= p.tiles) continue;
        emit_row(p, bias, residual, y, tile, r % 16, m, blockIdx.y, out + i / 128 * OUT_ROWS + r / 16 * 16);
    }
}

// The three kernels of a format and a dtype of activations.
#define QUANT_KERNELS(name, format, type)                                                                              \
    KERNEL_BLOCKS(256, 2) quant_gemv_##name##_##type(                                                                  \
        const type* a, const void* residual, const void* w0, const void* scales0, const void* zeros0,                  \
        const void* bias0, void* y0, const void* w1, const void* scales1, const void* zeros1, const void* bias1,       \
        void* y1, const void* w2, const void* scales2, const void* zeros2, const void* bias2, void* y2,                \
        Several<Product, Own> all                                                                                      \
    ) {                                                                                                                \
        take_turn();                                                                                                   \
        const u32 i = product_of(all);                                                                                 \
        const Operands operands = {                                                                                    \
            {w0, w1, w2}, {scales0, scales1, scales2}, {zeros0, zeros1, zeros2}, {bias0, bias1, bias2}, {y0, y1, y2}   \
        };                                                                                                             \
        gemv<format, type>(operands, a, residual, all.shared, all.own[i], i, block_of(all, i), all.gated != 0);        \
    }                                                                                                                  \
    KERNEL_BLOCKS(128, 2) quant_few_##name##_##type(const u8* w, const void* scales, const void* zeros, const type* a,           \
                                          const void* bias, const void* residual, void* y, Product p) {               \
        take_turn();                                                                                                   \
        tiles<format, type, 4, 1>(w, scales, zeros, a, bias, residual, y, p);                                          \
    }                                                                                                                  \
    KERNEL(256) quant_many_##name##_##type(const u8* w, const void* scales, const void* zeros, const type* a,          \
                                           const void* bias, const void* residual, void* y, Product p) {              \
        take_turn();                                                                                                   \
        tiles<format, type, 8, 2>(w, scales, zeros, a, bias, residual, y, p);                                          \
    }
