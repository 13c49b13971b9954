// argmax and top_k.
#include "select.cuh"

struct ArgmaxShape {
    Rows x, y;
    u32 rows, cols;
    // Blocks a row, and elements that each of them sees.
    u32 parts, span;
};

// Without parts the index goes to y, else each part's place to `places`.
template <int TEAM, class A> DEVICE void argmax(const void* x, i32* y, u64* places, const ArgmaxShape& s) {
    const u32 team = team_row<TEAM>(), row = team / s.parts, first = team % s.parts * s.span;
    const bool live = row < s.rows;
    const u32 n = live ? Least()(s.cols, first + s.span) : 0;
    const A from(x, s.x, live ? row : 0);
    u64 best = 0;
#pragma unroll 4
    for (u32 i = first + team_lane<TEAM>() * A::VEC; i < n; i += TEAM * A::VEC) {
        float v[A::VEC];
        from.load(i, n, v);
#pragma unroll
        for (int l = 0; l < A::VEC; l++)
            if (i + l < n) best = Most()(best, place_of(v[l], i + l));
    }
    best = team_join<TEAM>(best, Most());
    if (!live || team_lane<TEAM>() != 0) return;
    if (places) places[team] = best;
    else y[s.y.at(row)] = (i32)index_of(best);
}

// The largest of each row's parts.
KERNEL(128) argmax_join(i32* y, const u64* places, ArgmaxShape s) {
    take_turn();
    const u32 row = team_row<32>(), n = row < s.rows ? s.parts : 0;
    u64 best = 0;
    for (u32 i = lane32(); i < n; i += 32) best = Most()(best, places[(u64)row * s.parts + i]);
    best = team_join<32>(best, Most());
    if (n && lane32() == 0) y[s.y.at(row)] = (i32)index_of(best);
}

struct TopKShape {
    Rows x, values, indices;
    u32 rows, cols, k;
    // Blocks a row; each sees SPAN elements.
    u32 parts;
    // The power of two that holds k.
    u32 room;
    u32 unused;
};

constexpr int CHOOSERS = 512, HELD = 16, SPAN = CHOOSERS * HELD;

// The j-th largest of a row, as value and index.
DEVICE void put_choice(const void* x, void* values, i32* indices, const TopKShape& s, u32 row, u32 j, u64 place) {
    const u32 index = index_of(place);
    const float v = load_as(x, s.x.dtype, s.x.at(row) + index * s.x.step);
    store_as(values, s.values.dtype, s.values.at(row) + j * s.values.step, v);
    indices[s.indices.at(row) + j * s.indices.step] = (i32)index;
}

// The least of the `want` largest of the places that the block's threads hold: byte by byte from the highest, until a byte
// parts them.
DEVICE u64 least_wanted(const u64* held, u32 want) {
    SHARED(u32, count, 256);
    SHARED(u32, answer, 2);
    u64 known = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        sync();
        if (threadIdx.x < 256) count[threadIdx.x] = 0;
        sync();
#pragma unroll
        for (int i = 0; i < HELD; i++)
            if (held[i] != 0 && (shift == 56 || held[i] >> (shift + 8) == known)) {
                atomic_add(&count[held[i] >> shift & 255], 1u);
            }
        sync();
        if (group32() == 0) {
            // Eight bins a lane, from the highest.
            u32 mine = 0;
            for (u32 i = 0; i < 8; i++) mine += count[255 - lane32() * 8 - i];
            const u32 upto = (u32)running_sum(mine);
            if (upto >= want && upto - mine < want) {
                u32 before = upto - mine, bin = 255 - lane32() * 8;
                while (before + count[bin] < want) before += count[bin--];
                answer[0] = bin;
                answer[1] = want - before;
            }
        }
        sync();
        known = known << 8 | answer[0];
        want = answer[1];
        if (count[answer[0]] == want) return known << shift;
    }
    return known;
}

// Of the places that the block holds, the k largest: to the results, or to `places` in no order.
DEVICE void choose(const u64* held, u32 n, u32 row, const void* x, void* values, i32* indices, u64* places,
                   const TopKShape& s) {
    SHARED_DYNAMIC(u64, list);
    SHARED(u32, taken, 1);
    const u32 want = Least()(n, s.k);
    const u64 least = want == n ? 1 : least_wanted(held, want);
    if (threadIdx.x == 0) taken[0] = 0;
    for (u32 i = want + threadIdx.x; i < s.room; i += CHOOSERS) list[i] = 0;
    sync();
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if (held[i] >= least) list[atomic_add(&taken[0], 1u)] = held[i];
    if (places) {
        sync();
        for (u32 j = threadIdx.x; j < s.k; j += CHOOSERS) places[(u64)blockIdx.x * s.k + j] = j < want ? list[j] : 0;
        return;
    }
    sort_places<CHOOSERS>(list, s.room);
    for (u32 j = threadIdx.x; j < want; j += CHOOSERS) put_choice(x, values, indices, s, row, j, list[j]);
}

template <class A>
DEVICE void top_k(const void* x, void* values, i32* indices, u64* places, const TopKShape& s) {
    const u32 row = blockIdx.x / s.parts, first = blockIdx.x % s.parts * SPAN, n = Least()(s.cols, first + SPAN);
    const A from(x, s.x, row);
    u64 held[HELD];
#pragma unroll
    for (int c = 0; c < HELD / A::VEC; c++) {
        const u32 i = first + (c * CHOOSERS + threadIdx.x) * A::VEC;
        float v[A::VEC];
        from.load(i, n, v);
#pragma unroll
        for (int l = 0; l < A::VEC; l++) held[c * A::VEC + l] = i + l < n ? place_of(v[l], i + l) : 0;
    }
    choose(held, n - first, row, x, values, indices, places, s);
}

// The same of places that blocks before have left: `cols` to a row, some of them 0, with at least k that are not.
KERNEL_BLOCKS(512, 1)
top_k_places(const u64* from, const void* x, void* values, i32* indices, u64* places, TopKShape s) {
    take_turn();
    SHARED(u32, there, 1);
    const u32 row = blockIdx.x / s.parts, first = blockIdx.x % s.parts * SPAN, n = Least()(s.cols, first + SPAN);
    if (threadIdx.x == 0) there[0] = 0;
    sync();
    u64 held[HELD];
    u32 mine = 0;
#pragma unroll
    for (int c = 0; c < HELD; c++) {
        const u32 i = first + c * CHOOSERS + threadIdx.x;
        held[c] = i < n ? from[(u64)row * s.cols + i] : 0;
        mine += held[c] != 0;
    }
    atomic_add(&there[0], mine);
    sync();
    choose(held, there[0], row, x, values, indices, places, s);
}

// Short rows and small k: a group of lanes a row, the largest taken k times.
KERNEL(128) top_k_few(const void* x, void* values, i32* indices, TopKShape s) {
    take_turn();
    const u32 row = team_row<32>(), n = row < s.rows ? s.cols : 0, r = n ? row : 0;
    const Any from(x, s.x, r);
    u64 held[HELD];
#pragma unroll
    for (int c = 0; c < HELD; c++) {
        const u32 i = c * 32 + lane32();
        float v;
        from.load(i, n, &v);
        held[c] = i < n ? place_of(v, i) : 0;
    }
    for (u32 j = 0; j < s.k; j++) {
        u64 best = 0;
#pragma unroll
        for (int c = 0; c < HELD; c++) best = Most()(best, held[c]);
        best = team_join<32>(best, Most());
#pragma unroll
        for (int c = 0; c < HELD; c++)
            if (held[c] == best) held[c] = 0;
        if (n && lane32() == 0) put_choice(x, values, indices, s, r, j, best);
    }
}

#define ARGMAX(name, team, threads, A)                                                                                 \
    KERNEL(threads) argmax_##name##_##team(const void* x, i32* y, u64* places, ArgmaxShape s) {                        \
        take_turn();                                                                                                   \
        argmax<team, A>(x, y, places, s);                                                                              \
    }
#define CHOICES(name, A)                                                                                               \
    ARGMAX(name, 32, 128, A)                                                                                           \
    ARGMAX(name, 512, 512, A)                                                                                          \
    KERNEL_BLOCKS(512, 1)                                                                                              \
    top_k_##name(const void* x, void* values, i32* indices, u64* places, TopKShape s) {                                \
        take_turn();                                                                                                   \
        top_k<A>(x, values, indices, places, s);                                                                       \
    }

CHOICES(f32, Dense<float>)
CHOICES(f16, Dense<f16>)
CHOICES(bf16, Dense<bf16>)
CHOICES(any, Any)
