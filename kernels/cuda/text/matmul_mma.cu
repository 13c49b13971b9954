// Products in 16-bit floats, and in f32 where operands may be rounded to tf32, on tensor cores.
//
// The floor is the greater of 2 M N K operations over the tensor cores' rate and the operands' bytes over the
// bandwidth. What holds large products back is the shared memory that feeds the mma units: a group of 32 has 64x64
// sums, so that each row it loads serves 64 columns, and rows lie turned in pieces of 16 bytes, so that no load meets a
// bank twice. Copies run several steps ahead. What holds small products back is bytes in flight, so K goes in parts to
// blocks of their own, whose sums `join` adds in order.
#include "product.cuh"

// The dtype's unit: 32 bytes of K to a step.
template <class T> struct Unit {
    typedef T Stored;
    static DEVICE void prepare(u32*, int) {}
    static DEVICE void multiply(float* d, const u32* a, const u32* b) { Mma<T>::go(d, a, b); }
};
template <> struct Unit<float> {
    typedef float Stored;
    static DEVICE void prepare(u32* words, int count) {
#pragma unroll
        for (int i = 0; i < count; i++) words[i] = to_tf32(words[i]);
    }
    static DEVICE void multiply(float* d, const u32* a, const u32* b) { mma_tf32(d, a, b); }
};

// Where piece `piece` of row `row` lies in a tile of PIECES pieces to a row, in bytes. Eight rows that one load takes
// at the same piece fall into eight different groups of banks.
template <u32 PIECES> DEVICE u32 place(u32 row, u32 piece) {
    const u32 turn = PIECES == 4 ? row >> 1 & 3 : row & 7;
    return (row * PIECES + (piece ^ turn)) * 16;
}

// A tile of BM x BN sums over steps of BK bytes of K; a group of 32 has WM x WN of them. KN: b is [K, N].
template <class T, u32 BM_, u32 BN_, u32 BK, u32 WM, u32 WN, u32 STAGES_, bool KN> struct Tile {
    static constexpr u32 BM = BM_, BN = BN_, STAGES = STAGES_, V = 16 / sizeof(T), DEEP = BK / sizeof(T);
    static constexpr u32 THREADS = 32 * (BM / WM) * (BN / WN), MI = WM / 16, NI = WN / 8;
    static constexpr u32 A_PIECES = BK / 16, A_STEP = THREADS / A_PIECES, A_COUNT = BM / A_STEP;
    static constexpr u32 B_PIECES = KN ? BN / V : BK / 16, B_STEP = THREADS / B_PIECES;
    static constexpr u32 B_COUNT = (KN ? DEEP : BN) / B_STEP;
    static constexpr u32 A_BYTES = BM * BK, STAGE = A_BYTES + BN * BK, PITCH = BN + 8;
    static_assert(THREADS == 128, "a block has four groups of 32");
    static_assert(BM % A_STEP == 0 && (KN ? DEEP : BN) % B_STEP == 0, "threads share a tile evenly");
    static_assert(KN || B_STEP % 16 == 0, "rows of b that a thread copies lie in one half of a result");

    // What a thread copies of each operand: every A_STEP-th row of a, every B_STEP-th row of b, at one piece.
    struct Source {
        const T* a;
        const T* b;
        const T* nothing;  // may be read
        u64 a_step, b_step;
        u32 a_rows, b_rows;  // rows that there are, counted in steps of this thread; for KN all or none
        u32 b_k;             // the first row of b that it copies, where b is [K, N]
        u32 a_to, b_to;      // where the first goes
        u32 k, end;          // the first element of K that it copies of an operand that lies along K; where K ends
    };

    static DEVICE u32 share(u32 rows, u32 first, u32 step) { return rows > first ? (rows - first + step - 1) / step : 0; }

    static DEVICE Source source(const Product& p, const T* a, const T* b, Spot spot, u32 start, u32 end) {
        Source s;
        const u32 row = threadIdx.x / A_PIECES, piece = threadIdx.x % A_PIECES, left = p.m - spot.m * BM;
        s.nothing = b;
        s.a = a + (spot.m * BM + row) * p.a_row;
        s.a_step = A_STEP * p.a_row;
        s.a_rows = share(left, row, A_STEP);
        s.a_to = place<A_PIECES>(row, piece);
        s.k = start + piece * V;
        s.end = end;
        const bool pairs = p.then == THEN_SILU_MUL;
        const u32 b_row = threadIdx.x / B_PIECES, b_piece = threadIdx.x % B_PIECES;
        s.b_to = A_BYTES + place<B_PIECES>(b_row, b_piece);
        if (KN) {
            const u32 column = product_column(p, spot.n * BN + b_piece * V);
            s.b_k = start + b_row;
            s.b = b + column + s.b_k * p.b_col;
            s.b_step = B_STEP * p.b_col;
            s.b_rows = column < p.n ? B_COUNT : 0;
        } else {
            // Within a thread's column of the tile the columns of the result are B_STEP apart, or half as many with
            // pairs.
            const u32 j = spot.n * BN + b_row, out = pairs ? j / 16 * 8 + j % 8 : j, width = columns(p);
            const u32 step = pairs ? B_STEP / 2 : B_STEP;
            s.b = b + (u64)(out + (pairs && j / 8 % 2 ? p.n / 2 : 0)) * p.b_row;
            s.b_step = step * p.b_row;
            s.b_rows = share(width, out, step);
        }
        return s;
    }

    // Asks for the step of K that starts `k` elements on.
    static DEVICE void ask(const Product& p, const Source& s, u8* stage, u32 k) {
        const bool any = s.k + k < s.end;
#pragma unroll
        for (u32 i = 0; i < A_COUNT; i++) {
            const bool valid = any && i < s.a_rows;
            copy_async16(stage + s.a_to + i * A_STEP * BK, valid ? s.a + i * s.a_step + s.k + k : s.nothing, valid);
        }
#pragma unroll
        for (u32 i = 0; i < B_COUNT; i++) {
            const bool valid = i < s.b_rows && (KN ? s.b_k + k + i * B_STEP < s.end : any);
            const T* const from = s.b + i * s.b_step + (KN ? (u64)k * p.b_col : s.k + k);
            copy_async16(stage + s.b_to + i * B_STEP * B_PIECES * 16, valid ? from : s.nothing, valid);
        }
    }

    static DEVICE void multiply(float (*d)[NI][4], const u8* stage, u32 wm, u32 wn) {
        const u32 lane = lane32();
#pragma unroll
        for (u32 step = 0; step < BK / 32; step++) {
            u32 a[MI][4], b[NI][2];
#pragma unroll
            for (u32 i = 0; i < MI; i++) {
                load_matrix_x4(a[i], stage + place<A_PIECES>(wm + i * 16 + lane % 16, step * 2 + lane / 16));
                Unit<T>::prepare(a[i], 4);
            }
#pragma unroll
            for (u32 j = 0; j < NI; j += 2) {
                const u8* const tile = stage + A_BYTES;
                if (KN) {
                    load_matrix_x4_trans(b[j], tile + place<B_PIECES>(step * 16 + lane % 16, (wn + j * 8) / 8 + lane / 16));
                } else {
                    const u32 row = wn + j * 8 + lane % 8 + lane / 16 * 8;
                    load_matrix_x4(b[j], tile + place<B_PIECES>(row, step * 2 + lane / 8 % 2));
                }
                Unit<T>::prepare(b[j], 4);
            }
#pragma unroll
            for (u32 i = 0; i < MI; i++) {
#pragma unroll
                for (u32 j = 0; j < NI; j++) Unit<T>::multiply(d[i][j], a[i], b[j]);
            }
        }
    }

    static DEVICE void run(const void* a, const void* b, const Tail& tail, float* partial, const Product& p) {
        SHARED_DYNAMIC(u8, stages);
        constexpr u32 WARPS_M = BM / WM;
        const u32 wm = group32() % WARPS_M * WM, wn = group32() / WARPS_M * WN, split = blockIdx.z;
        const Spot spot = spot_of(p, blockIdx.x);
        const u32 start = split * p.k_part, end = p.k - start < p.k_part ? p.k : start + p.k_part;
        const u32 steps = (end - start + DEEP - 1) / DEEP;
        for (u32 batch = blockIdx.y; batch < p.batches; batch += gridDim.y) {
            const Start at = start_of(p, batch);
            const Source s = source(p, (const T*)a + at.a, (const T*)b + at.b, spot, start, end);
#pragma unroll
            for (u32 i = 0; i < STAGES - 1; i++) {
                if (i < steps) ask(p, s, stages + i * STAGE, i * DEEP);
                copy_async_commit();
            }
            float d[MI][NI][4] = {};
            u32 read = 0, write = STAGES - 1;
#pragma unroll 1
            for (u32 i = 0; i < steps; i++) {
                copy_async_wait<STAGES - 2>();
                sync();
                if (i + STAGES - 1 < steps) ask(p, s, stages + write * STAGE, (i + STAGES - 1) * DEEP);
                copy_async_commit();
                multiply(d, stages + read * STAGE, wm, wn);
                read = read + 1 == STAGES ? 0 : read + 1;
                write = write + 1 == STAGES ? 0 : write + 1;
            }
            copy_async_wait<0>();
            sync();
            float* const sums = reinterpret_cast<float*>(stages);
            const u32 g = lane32() / 4, t = lane32() % 4;
#pragma unroll
            for (u32 i = 0; i < MI; i++) {
#pragma unroll
                for (u32 j = 0; j < NI; j++) {
                    float* const to = sums + (wm + i * 16 + g) * PITCH + wn + j * 8 + 2 * t;
                    store8(to, {bits_of(d[i][j][0]), bits_of(d[i][j][1])});
                    store8(to + 8 * PITCH, {bits_of(d[i][j][2]), bits_of(d[i][j][3])});
                }
            }
            sync();
            finish_rows<BM, BN, THREADS>(p, tail, at, partial, batch, split, sums, PITCH, spot.m * BM, spot.n * BN);
            sync();
        }
    }
};

#define ARGUMENTS const void *a, const void *b, const void *bias, const void *residual, void *c, float *partial, Product p
#define TILE(name, T, bm, bn, bk, wm, wn, stages, layout, kn)                                                          \
    KERNEL_BLOCKS(128, 2) matmul_mma_##name##_##bm##x##bn##_##layout(ARGUMENTS) {                                      \
        take_turn();                                                                                                   \
        const Tail tail = {bias, residual, c};                                                                         \
        Tile<T, bm, bn, bk, wm, wn, stages, kn>::run(a, b, tail, partial, p);                                          \
    }
#define TILES(dtype)                                                                                                   \
    TILE(dtype, dtype, 128, 128, 64, 64, 64, 4, nk, false)                                                             \
    TILE(dtype, dtype, 128, 128, 64, 64, 64, 4, kn, true)                                                              \
    TILE(dtype, dtype, 64, 64, 128, 32, 32, 4, nk, false)                                                              \
    TILE(dtype, dtype, 64, 64, 128, 32, 32, 4, kn, true)                                                               \
    TILE(dtype, dtype, 16, 64, 128, 16, 16, 6, nk, false)                                                              \
    TILE(dtype, dtype, 16, 64, 128, 16, 16, 6, kn, true)

TILES(f16)
TILES(bf16)
TILE(tf32, float, 128, 128, 64, 64, 64, 4, nk, false)
TILE(tf32, float, 64, 64, 128, 32, 32, 4, nk, false)

// Adds the parts of each sum, in order, and finishes it: 8 columns to a thread.
KERNEL(256) matmul_join(const void* bias, const void* residual, void* c, const float* partial, u32 row_length, Product p) {
    take_turn();
    const Tail tail = {bias, residual, c};
    const bool pairs = p.then == THEN_SILU_MUL;
    const u32 groups = (columns(p) + 7) / 8;
    const u64 rows = (u64)p.batches * p.m, part = rows * row_length, all = rows * groups;
    for (u64 i = blockIdx.x * 256ull + threadIdx.x; i < all; i += gridDim.x * 256ull) {
        const u64 row = i / groups;
        const u32 group = i % groups;
        const float* from = partial + row * row_length + group * (pairs ? 16 : 8);
        float sums[8] = {}, up[8] = {};
        for (u32 split = 0; split < p.splits; split++, from += part) {
            float more[8];
            load_many<8>(IN_F32, from, 0, more);
#pragma unroll
            for (int j = 0; j < 8; j++) sums[j] += more[j];
            if (!pairs) continue;
            load_many<8>(IN_F32, from, 8, more);
#pragma unroll
            for (int j = 0; j < 8; j++) up[j] += more[j];
        }
        finish_8(p, tail, start_of(p, row / p.m), row % p.m, group * 8, sums, up);
    }
}

// Finishes sums that lie as the product has them, n to a row: 8 columns to a thread. n is a multiple of 8.
KERNEL(256) matmul_tail(const void* bias, const void* residual, void* c, const float* sums, Product p) {
    take_turn();
    const Tail tail = {bias, residual, c};
    const bool pairs = p.then == THEN_SILU_MUL;
    const Start at = {0, 0, 0, 0};
    const u32 width = columns(p), groups = (width + 7) / 8;
    const u64 all = (u64)p.m * groups;
    for (u64 i = blockIdx.x * 256ull + threadIdx.x; i < all; i += gridDim.x * 256ull) {
        const u32 m = i / groups, o = i % groups * 8;
        const float* const from = sums + (u64)m * p.n + o;
        float x[8], up[8];
        load_many<8>(IN_F32, from, 0, x);
        load_many<8>(IN_F32, from + (pairs ? width : 0), 0, up);
        finish_8(p, tail, at, m, o, x, up);
    }
}
