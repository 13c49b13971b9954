// One token a row. A row's order is never sorted: what a filter keeps, and where u falls, is a place in that order, found
// digit by digit from tallies of how many elements have each digit and of their mass. Masses are whole numbers, so that
// sums are exact and the same in every run.
#include "select.cuh"

struct SampleShape {
    Rows logits;
    u32 rows, cols, wide_k;
    u32 unused;
    // Elements from one row's number to the next: u, temperature, top_k, top_p, min_p, y.
    u64 step[6];
};

// The digits of an order: ten bits, eleven, eleven. 16-bit floats differ in the first two only.
constexpr int COARSE = 1024, FINE = 2048;

template <int THREADS, class A> struct Row {
    A from;
    u32 n;
    float top, temperature;

    // Every element of the row, as its index and its number, by some thread, which has AHEAD slots under way at once.
    template <int AHEAD = 1, class F> DEVICE void each(F f) const {
        constexpr u32 STEP = THREADS * A::VEC;
        for (u32 i = threadIdx.x * A::VEC; i < n; i += AHEAD * STEP) {
            typename A::Raw raw[AHEAD];
#pragma unroll
            for (int c = 0; c < AHEAD; c++) raw[c] = from.fetch(i + c * STEP, n);
#pragma unroll
            for (int c = 0; c < AHEAD; c++) {
                float v[A::VEC];
                A::open(raw[c], v);
#pragma unroll
                for (int l = 0; l < A::VEC; l++)
                    if (i + c * STEP + l < n) f(i + c * STEP + l, v[l]);
            }
        }
    }
    // Relative to the largest, which weighs 1 even where it is infinite.
    DEVICE float weight(float v) const {
        const float w = v == top ? 1.0f : expf((v - top) / temperature);
        return is_nan(w) ? 0.0f : fminf(w, 1.0f);
    }
    DEVICE u64 mass(float v) const { return (u64)(weight(v) * 1099511627776.0f); }
};

// The elements of a place: those whose order without its `low` last bits is this, all before them, and how many of them come
// before the place itself.
struct Place {
    u32 order, low;
    Tally before, here;
    u64 nth;

    // The number that they are: the bits left out are those of a 16-bit float.
    DEVICE float value() const {
        const u32 rest = order >> (31 - low) & 1 ? 0 : (1u << low) - 1;
        return value_of(order << low | rest);
    }
    // The mass of all up to the place, which is included.
    DEVICE u64 mass() const { return before.mass + (nth + 1) * (here.mass / here.count); }
};

struct Tables {
    Bins<COARSE> coarse;
    Bins<FINE> fine;
    Shares shares;
};

// The place whose running count or mass is the first to exceed the target; LEVELS digits tell numbers apart.
template <int THREADS, int LEVELS, class A>
DEVICE Place seek(const Row<THREADS, A>& row, Tables& t, bool by_mass, u64 target) {
    Found found = find<THREADS, COARSE>(t.coarse, t.shares, by_mass, target);
    Place place = {found.bin, 11 * (3 - LEVELS), found.before, found.here, 0};
#pragma unroll
    for (int level = 1; level < LEVELS; level++) {
        const u32 known = place.order, shift = level == 1 ? 11 : 0;
        t.fine.template clear<THREADS>();
        row.each([&](u32, float v) {
            const u32 order = order_of(v);
            if (order >> (shift + 11) == known) t.fine.add(order >> shift & (FINE - 1), row.mass(v));
        });
        found = find<THREADS, FINE>(t.fine, t.shares, by_mass, target - place.before.of(by_mass));
        place.order = known << 11 | found.bin;
        place.before = {place.before.count + found.before.count, place.before.mass + found.before.mass};
        place.here = found.here;
    }
    const u64 rest = target - place.before.of(by_mass);
    place.nth = by_mass ? rest / (place.here.mass / place.here.count) : rest;
    return place;
}

// The index of the nth element, by index, of those that have the place's order.
template <int THREADS, int LEVELS, class A> DEVICE u32 pick(const Row<THREADS, A>& row, Tables& t, const Place& place) {
    if (place.nth == 0) {
        u32 first = 0xffffffffu;
        row.each([&](u32 i, float v) {
            if (order_of(v) >> place.low == place.order) first = Least()(first, i);
        });
        return team_join<THREADS>(first, Least());
    }
    u32 shift = 0;
    while ((row.n - 1) >> shift >= FINE) shift++;
    t.fine.template clear<THREADS>();
    row.each([&](u32 i, float v) {
        if (order_of(v) >> place.low == place.order) t.fine.add(FINE - 1 - (i >> shift), 0);
    });
    const Found range = find<THREADS, FINE>(t.fine, t.shares, false, place.nth);
    const u32 from = FINE - 1 - range.bin;
    t.fine.template clear<THREADS>();
    for (u32 i = (from << shift) + threadIdx.x; i < Least()((from + 1) << shift, row.n); i += THREADS) {
        float v[1];
        v[0] = row.from.one(i);
        if (order_of(v[0]) >> place.low == place.order) t.fine.add(FINE - 1 - (i - (from << shift)), 0);
    }
    const Found found = find<THREADS, FINE>(t.fine, t.shares, false, place.nth - range.before.count);
    return (from << shift) + FINE - 1 - found.bin;
}

// x as a whole number below `end`.
DEVICE u64 below(double x, u64 end) {
    const u64 whole = x > 0.0 ? (x < 1.8e19 ? (u64)x : end) : 0;
    return Least()(whole, end - 1);
}

template <int THREADS, int LEVELS, class A>
DEVICE u32 sample(Row<THREADS, A>& row, Tables& t, float u, i64 top_k, float top_p, float min_p) {
    u64 best = 0;
    row.template each<4>([&](u32 i, float v) { best = Most()(best, place_of(v, i)); });
    best = team_join<THREADS>(best, Most());
    row.top = value_of((u32)(best >> 32));
    if (row.temperature == 0.0f || is_nan(row.top) || row.n == 1) return index_of(best);

    t.coarse.template clear<THREADS>();
    row.each([&](u32, float v) { t.coarse.add(order_of(v) >> 22, row.mass(v)); });
    const u64 all = 0xffffffffffffffffull;
    const Found last = find<THREADS, COARSE>(t.coarse, t.shares, true, all);
    u64 kept = last.before.mass + last.here.mass;
    // The smallest number kept, where one is known to be.
    bool cut = false;
    float smallest = 0.0f;
    if (top_k >= 1 && top_k < (i64)row.n) {
        const Place place = seek<THREADS, LEVELS>(row, t, false, (u64)top_k - 1);
        kept = place.mass();
        cut = true;
        smallest = place.value();
    }
    if (top_p < 1.0f) {
        const Place place = seek<THREADS, LEVELS>(row, t, true, below(ceil((double)top_p * (double)kept) - 1.0, kept));
        kept = place.mass();
        cut = true;
        smallest = place.value();
    }
    if (min_p > 0.0f && !(cut && row.weight(smallest) >= min_p)) {
        u64 enough = 0;
        row.each([&](u32, float v) {
            if (row.weight(v) >= min_p) enough += row.mass(v);
        });
        enough = team_join<THREADS>(enough, Sum());
        kept = Least()(kept, Most()(enough, (u64)1 << 40));
    }
    const Place place = seek<THREADS, LEVELS>(row, t, true, below((double)u * (double)kept, kept));
    return pick<THREADS, LEVELS>(row, t, place);
}

template <int THREADS, int LEVELS, class A>
DEVICE void sample_row(const void* logits, const float* u, const float* temperature, const void* top_k,
                       const float* top_p, const float* min_p, i32* y, const SampleShape& s) {
    SHARED(Tables, tables, 1);
    const u64 r = blockIdx.x;
    Row<THREADS, A> row = {A(logits, s.logits, blockIdx.x), s.cols, 0.0f, temperature[r * s.step[1]]};
    const u64 at = r * s.step[2];
    const i64 k = s.wide_k ? static_cast<const i64*>(top_k)[at] : (i64) static_cast<const i32*>(top_k)[at];
    const u32 token =
        sample<THREADS, LEVELS>(row, tables[0], u[r * s.step[0]], k, top_p[r * s.step[3]], min_p[r * s.step[4]]);
    if (threadIdx.x == 0) y[r * s.step[5]] = (i32)token;
}

#define SAMPLE(name, threads, levels, A)                                                                               \
    KERNEL_BLOCKS(threads, 1)                                                                                          \
    sample_##name##_##threads(const void* logits, const float* u, const float* temperature, const void* top_k,         \
                              const float* top_p, const float* min_p, i32* y, SampleShape s) {                         \
        take_turn();                                                                                                   \
        sample_row<threads, levels, A>(logits, u, temperature, top_k, top_p, min_p, y, s);                             \
    }
#define SIZES(name, levels, A)                                                                                         \
    SAMPLE(name, 256, levels, A)                                                                                       \
    SAMPLE(name, 1024, levels, A)

SIZES(f32, 3, Dense<float>)
SIZES(f16, 2, Dense<f16>)
SIZES(bf16, 2, Dense<bf16>)
SIZES(any, 3, Any)
