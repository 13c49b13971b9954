// Products of up to 8 rows: every element of b is read once, whatever the number of rows.
//
// The floor is b's bytes over the memory's bandwidth; a and c are small beside it. What holds a kernel back is bytes in
// flight: each thread copies its own 16 bytes of b several steps ahead into a ring in shared memory that nobody else
// reads, so that neither registers nor the compiler's order decide how much is under way. K goes in parts to the groups
// of a block where columns are few; their sums meet in shared memory, in order.
#include "product.cuh"
#include "several.cuh"

// Threads of a block: 8 groups of 32.
#define THREADS 256
#define GROUPS 8
#define ROWS_AT_MOST 8

// What each of several products has of its own.
struct Own {
    u64 c_row, c_col, bias_step;
    u32 n, bias_type, c_type, splits;
};
DEVICE Product with(Product p, const Own& own) {
    p.c_row = own.c_row;
    p.c_col = own.c_col;
    p.bias_step = own.bias_step;
    p.n = own.n;
    p.bias_type = own.bias_type;
    p.c_type = own.c_type;
    p.splits = own.splits;
    return p;
}

DEVICE Vec4 kept(Vec4 v, bool keep) { return {keep ? v.x : 0, keep ? v.y : 0, keep ? v.z : 0, keep ? v.w : 0}; }

// What a thread has asked for of its COUNT streams, DEPTH steps at most. It waits for copies of its own alone.
template <class T, u32 COUNT, u32 DEPTH> struct Ring {
    Vec4* slots;
    const T* from[COUNT];
    u32 write, read;

    // Asks for the elements from k on of every stream, zeros where not `any`.
    DEVICE void ask(u64 k, bool any) {
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            copy_async16_once(slots + (write * COUNT + i) * THREADS, from[i] + (any ? k : 0), any);
        }
        write = write + 1 == DEPTH ? 0 : write + 1;
    }
    // Takes the oldest step, once it is there.
    DEVICE void take(Vec4* v) {
        copy_async_wait<DEPTH - 1>();
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) v[i] = load16(slots + (read * COUNT + i) * THREADS);
        read = read + 1 == DEPTH ? 0 : read + 1;
    }
};

// Adds the parts of each sum and finishes it. sums[group][row][slot]: the groups of a tile stand together. The first
// half of a tile's slots is the gate and the second the up half with silu_mul.
template <int SLOTS>
DEVICE void finish_tiles(const Product& p, const Tail& tail, const Start& at, const float* sums, u32 first, u32 parts) {
    const bool pairs = p.then == THEN_SILU_MUL;
    const u32 width = pairs ? SLOTS / 2 : SLOTS, row_length = GROUPS / parts * width, last = columns(p);
    sync();
#pragma unroll 1
    for (u32 i = threadIdx.x; i < p.m * row_length; i += THREADS) {
        const u32 m = i / row_length, tile = i % row_length / width, slot = i % width;
        const u32 o = (first + tile) * width + slot;
        if (o >= last) continue;
        const float* from = sums + (tile * parts * ROWS_AT_MOST + m) * SLOTS + slot;
        float c = 0.0f, up = 0.0f;
        for (u32 part = 0; part < parts; part++, from += ROWS_AT_MOST * SLOTS) {
            c += from[0];
            if (pairs) up += from[SLOTS / 2];
        }
        finish(p, tail, at, m, o, c, up);
    }
    sync();
}

// b [N, K] and a of one 16-bit dtype, on tensor cores: columns of c are the rows of the unit's 16x8 result, rows of a
// its columns. The order of K inside a unit is free as long as both operands have it, so that each lane's 16 bytes of b
// and of a are its elements of two units, with no exchange between lanes. HALVES * 8 columns to a group. `up` is where the
// second half of b starts with silu_mul; `axes` is p where its axes are walked, so that p stays in registers.
template <class T, u32 HALVES, u32 DEPTH>
DEVICE void thin(const T* a, const T* b, const T* up, const Tail& tail, const Product& p, const Product& axes, u32 block) {
    SHARED(Vec4, slots, DEPTH * HALVES * THREADS);
    float* const sums = reinterpret_cast<float*>(slots);
    const u32 parts = p.splits, part = group32() % parts, first = block * (GROUPS / parts);
    const u32 tile = first + group32() / parts, g = lane32() / 4, t = lane32() % 4;
    const u32 half = p.then == THEN_SILU_MUL ? p.n / 2 : p.n;
    const u32 stride = 32 * parts, steps = (p.k + stride - 1) / stride;
    for (u32 batch = blockIdx.y; batch < p.batches; batch += gridDim.y) {
        const Start at = start_of(axes, batch);
        Ring<T, HALVES, DEPTH> ring = {slots + threadIdx.x, {}, 0, 0};
#pragma unroll
        for (u32 h = 0; h < HALVES; h++) {
            const u32 n = product_column(p, (tile * HALVES + h) * 8 + g), row = n >= p.n ? 0 : n < half ? n : n - half;
            ring.from[h] = (n >= half && n < p.n ? up : b) + at.b + row * p.b_row;
        }
        // A row of the unit that a lacks repeats the first; nobody reads what comes of it.
        const T* const row = a + at.a + (g < p.m ? g : 0) * p.a_row;
        u32 ahead = part * 32 + t * 8, k = ahead;
#pragma unroll
        for (u32 i = 0; i < DEPTH - 1; i++, ahead += stride) {
            ring.ask(ahead, ahead < p.k);
            copy_async_commit();
        }
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        Vec4 next = load16(row + (k < p.k ? k : 0));
        for (u32 i = 0; i < steps; i++, ahead += stride, k += stride) {
            ring.ask(ahead, ahead < p.k);
            copy_async_commit();
            const Vec4 x = kept(next, k < p.k);
            next = load16(row + (k + stride < p.k ? k + stride : 0));
            Vec4 w[HALVES];
            ring.take(w);
            const Vec4 low = w[0], high = kept(w[HALVES - 1], HALVES == 2);
            const u32 w0[4] = {low.x, high.x, low.y, high.y}, x0[2] = {x.x, x.y};
            const u32 w1[4] = {low.z, high.z, low.w, high.w}, x1[2] = {x.z, x.w};
            Mma<T>::go(d, w0, x0);
            Mma<T>::go(d, w1, x1);
        }
        copy_async_wait<0>();
        sync();
        float* const mine = sums + (group32() * ROWS_AT_MOST + 2 * t) * 8 * HALVES + g;
        mine[0] = d[0];
        mine[8 * HALVES] = d[1];
        if (HALVES == 2) {
            mine[8] = d[2];
            mine[8 * HALVES + 8] = d[3];
        }
        finish_tiles<8 * HALVES>(p, tail, at, sums, first, parts);
    }
}

// b [N, K] of any float dtype, a of any, in f32: 4 columns to a group, a lane's share of K in registers.
template <class T, int ROWS> DEVICE void scalar(const void* a, const T* b, const Tail& tail, const Product& p) {
    constexpr u32 V = 16 / sizeof(T), SLOTS = 4, DEPTH = 3;
    SHARED(Vec4, slots, DEPTH * SLOTS * THREADS);
    float* const sums = reinterpret_cast<float*>(slots);
    const bool pairs = p.then == THEN_SILU_MUL;
    const u32 parts = p.splits, part = group32() % parts, first = blockIdx.x * (GROUPS / parts);
    const u32 tile = first + group32() / parts, stride = 32 * V * parts, steps = (p.k + stride - 1) / stride;
    for (u32 batch = blockIdx.y; batch < p.batches; batch += gridDim.y) {
        const Start at = start_of(p, batch);
        Ring<T, SLOTS, DEPTH> ring = {slots + threadIdx.x, {}, 0, 0};
#pragma unroll
        for (u32 s = 0; s < SLOTS; s++) {
            const u32 n = pairs ? tile * 2 + s % 2 + s / 2 * (p.n / 2) : tile * SLOTS + s;
            ring.from[s] = b + at.b + (n < p.n ? n : 0) * p.b_row;
        }
        u32 ahead = (part * 32 + lane32()) * V, k = ahead;
#pragma unroll
        for (u32 i = 0; i < DEPTH - 1; i++, ahead += stride) {
            ring.ask(ahead, ahead < p.k);
            copy_async_commit();
        }
        float d[ROWS][SLOTS] = {};
        for (u32 i = 0; i < steps; i++, ahead += stride, k += stride) {
            ring.ask(ahead, ahead < p.k);
            copy_async_commit();
            Vec4 w[SLOTS];
            ring.take(w);
            if (k >= p.k) continue;
#pragma unroll
            for (u32 m = 0; m < ROWS; m++) {
                if (m >= p.m) continue;
                float x[V];
                load_many<V>(p.a_type, a, at.a + m * p.a_row + k, x);
#pragma unroll
                for (u32 s = 0; s < SLOTS; s++) {
                    float y[V];
                    unpack16<T>(w[s], y);
#pragma unroll
                    for (u32 j = 0; j < V; j++) d[m][s] = fmaf(x[j], y[j], d[m][s]);
                }
            }
        }
        copy_async_wait<0>();
        sync();
#pragma unroll
        for (u32 m = 0; m < ROWS; m++) {
#pragma unroll
            for (u32 s = 0; s < SLOTS; s++) {
                const float sum = warp_sum(d[m][s]);
                if (lane32() == 0) sums[(group32() * ROWS_AT_MOST + m) * SLOTS + s] = sum;
            }
        }
        finish_tiles<SLOTS>(p, tail, at, sums, first, parts);
    }
}

// b [K, N]: 4 lanes lie along N and 64 threads along K, so that a load of b is whole sectors and a block has all of K.
template <class T, int ROWS> DEVICE void upright(const void* a, const T* b, const Tail& tail, const Product& p) {
    constexpr u32 V = 16 / sizeof(T), SLOTS = 4 * V, DEPTH = 8, STEP = THREADS / 4;
    SHARED(Vec4, slots, DEPTH * THREADS);
    float* const sums = reinterpret_cast<float*>(slots);
    const bool pairs = p.then == THEN_SILU_MUL;
    const u32 t = lane32() % 4, tile = blockIdx.x, steps = (p.k + STEP - 1) / STEP;
    const u32 o = pairs ? tile * 2 * V + t % 2 * V : (tile * 4 + t) * V;
    const u32 n = o >= columns(p) ? 0 : pairs && t >= 2 ? p.n / 2 + o : o;
    for (u32 batch = blockIdx.y; batch < p.batches; batch += gridDim.y) {
        const Start at = start_of(p, batch);
        Ring<T, 1, DEPTH> ring = {slots + threadIdx.x, {b + at.b + n}, 0, 0};
        u32 k = threadIdx.x / 4, ahead = k;
#pragma unroll
        for (u32 i = 0; i < DEPTH - 1; i++, ahead += STEP) {
            ring.ask(ahead * p.b_col, ahead < p.k);
            copy_async_commit();
        }
        float d[ROWS][V] = {};
        for (u32 i = 0; i < steps; i++, ahead += STEP, k += STEP) {
            ring.ask(ahead * p.b_col, ahead < p.k);
            copy_async_commit();
            Vec4 w;
            ring.take(&w);
            if (k >= p.k) continue;
            float y[V];
            unpack16<T>(w, y);
#pragma unroll
            for (u32 m = 0; m < ROWS; m++) {
                if (m >= p.m) continue;
                const float x = load_any(p.a_type, a, at.a + m * p.a_row + k * p.a_col);
#pragma unroll
                for (u32 j = 0; j < V; j++) d[m][j] = fmaf(x, y[j], d[m][j]);
            }
        }
        copy_async_wait<0>();
        sync();
#pragma unroll
        for (u32 m = 0; m < ROWS; m++) {
#pragma unroll
            for (u32 j = 0; j < V; j++) {
                float sum = d[m][j];
                sum += warp_xor(sum, 4);
                sum += warp_xor(sum, 8);
                sum += warp_xor(sum, 16);
                if (lane32() < 4) sums[(group32() * ROWS_AT_MOST + m) * SLOTS + t * V + j] = sum;
            }
        }
        finish_tiles<SLOTS>(p, tail, at, sums, tile, GROUPS);
    }
}

#define ARGUMENTS const void *a, const void *b, const void *bias, const void *residual, void *c, Product p
#define THIN(dtype, columns, depth)                                                                                    \
    KERNEL_BLOCKS(THREADS, 4) matmul_thin_##dtype##_8x##columns(                                                       \
        const void* a, const void* residual, const void* b0, const void* bias0, void* c0, const void* b1,              \
        const void* bias1, void* c1, const void* b2, const void* bias2, void* c2, Several<Product, Own> all            \
    ) {                                                                                                                \
        take_turn();                                                                                                   \
        const u32 i = product_of(all);                                                                                 \
        const void *const weights[3] = {b0, b1, b2}, *const biases[3] = {bias0, bias1, bias2};                         \
        void* const results[3] = {c0, c1, c2};                                                                         \
        const Tail tail = {pick(i, biases), residual, pick(i, results)};                                               \
        const void* const b = pick(i, weights);                                                                        \
        thin<dtype, columns / 8, depth>(                                                                               \
            (const dtype*)a, (const dtype*)b, (const dtype*)b1, tail, with(all.shared, all.own[i]), all.shared,        \
            block_of(all, i)                                                                                           \
        );                                                                                                             \
    }
#define SCALAR(name, T, rows)                                                                                          \
    KERNEL_BLOCKS(THREADS, 2) matmul_gemv_##name##_nk_##rows(ARGUMENTS) {                                              \
        take_turn();                                                                                                   \
        const Tail tail = {bias, residual, c};                                                                         \
        scalar<T, rows>(a, (const T*)b, tail, p);                                                                      \
    }
#define UPRIGHT(name, T, rows)                                                                                         \
    KERNEL_BLOCKS(THREADS, 2) matmul_gemv_##name##_kn_##rows(ARGUMENTS) {                                              \
        take_turn();                                                                                                   \
        const Tail tail = {bias, residual, c};                                                                         \
        upright<T, rows>(a, (const T*)b, tail, p);                                                                     \
    }

THIN(f16, 8, 12)
THIN(f16, 16, 6)
THIN(bf16, 8, 12)
THIN(bf16, 16, 6)

SCALAR(f32, float, 1)
SCALAR(f32, float, 4)
SCALAR(f32, float, 8)
SCALAR(f16, f16, 1)
SCALAR(f16, f16, 4)
SCALAR(f16, f16, 8)
SCALAR(bf16, bf16, 1)
SCALAR(bf16, bf16, 4)
SCALAR(bf16, bf16, 8)

UPRIGHT(f32, float, 1)
UPRIGHT(f32, float, 8)
UPRIGHT(f16, f16, 1)
UPRIGHT(f16, f16, 8)
UPRIGHT(bf16, bf16, 1)
UPRIGHT(bf16, bf16, 8)
