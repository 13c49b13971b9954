// One token a row. A row's order is never sorted: what a filter keeps, and where u falls, is a place in that order, found
// byte by byte from tallies of how many elements have each byte and of their mass. Masses are whole numbers, so that sums
// are exact and the same in every run.

typedef struct {
    Rows logits;
    uint rows, cols, wide_k;
    uint unused;
    // Elements from one row's number to the next: u, temperature, top_k, top_p, min_p, y.
    ulong step[6];
} SampleShape;

// Bytes that tell the numbers of a row apart: an f16 has 19 bits of an f32.
#if defined(T) && T == BF16
#define LEVELS 2
#elif defined(T) && T == F16
#define LEVELS 3
#else
#define LEVELS 4
#endif

// How many elements have a byte, and their mass in units of 2^-40 of the largest weight.
typedef struct {
    uint count[256], low[256], high[256];
} Bins;

typedef struct {
    Row from;
    uint n;
    float top, temperature;
} Logits;

// The elements of a place: those whose order begins with these bytes, how many of them and what mass come before them and stand
// here, and how many of them come before the place itself.
typedef struct {
    uint order;
    ulong count_before, mass_before, count, mass, nth;
} Place;

// Relative to the largest, which weighs 1 even where it is infinite.
INLINE float weight(const Logits *row, float v) {
    const float w = v == row->top ? 1.0f : exp((v - row->top) / row->temperature);
    return isnan(w) ? 0.0f : fmin(w, 1.0f);
}
INLINE ulong mass_of(const Logits *row, float v) { return (ulong)(weight(row, v) * 1099511627776.0f); }

#define EVERY(i, row) for (uint i = get_local_id(0); i < (row)->n; i += GROUP)

INLINE void clear(__local Bins *bins) {
    MEET;
    for (uint i = get_local_id(0); i < 256; i += GROUP) bins->count[i] = 0, bins->low[i] = 0, bins->high[i] = 0;
    MEET;
}
INLINE void add(__local Bins *bins, uint bin, ulong mass) {
    add_to(&bins->count[bin], 1);
    const uint part = (uint)mass, old = add_to(&bins->low[bin], part);
    const uint rest = (uint)(mass >> 32) + (old + part < old ? 1 : 0);
    if (rest) add_to(&bins->high[bin], rest);
}
INLINE ulong mass_in(__local const Bins *bins, uint bin) { return (ulong)bins->high[bin] << 32 | bins->low[bin]; }

// The place whose running count or mass is the first to exceed the target, which some place's does.
INLINE Place seek(const Logits *row, __local Bins *bins, int by_mass, ulong target) {
    Place place = {0, 0, 0, 0, 0, 0};
    for (uint level = 0; level < LEVELS; level++) {
        const uint shift = 24 - 8 * level;
        clear(bins);
        EVERY(i, row) {
            const float v = get(row->from, i);
            const uint order = order_of(v);
            if (level == 0 || order >> (shift + 8) == place.order) add(bins, order >> shift & 255, mass_of(row, v));
        }
        MEET;
        uint bin = 255;
        while (bin > 0) {
            const ulong upto = by_mass ? place.mass_before + mass_in(bins, bin) : place.count_before + bins->count[bin];
            if (upto > target) break;
            place.count_before += bins->count[bin];
            place.mass_before += mass_in(bins, bin);
            bin--;
        }
        place.order = place.order << 8 | bin;
        place.count = bins->count[bin];
        place.mass = mass_in(bins, bin);
    }
    const ulong rest = target - (by_mass ? place.mass_before : place.count_before), each = place.mass / max(place.count, 1ul);
    place.nth = by_mass ? rest / max(each, 1ul) : rest;
    return place;
}

// The mass of all up to a place, which is included.
INLINE ulong mass_upto(const Place *place) {
    return place->mass_before + (place->nth + 1) * (place->mass / max(place->count, 1ul));
}
// The number that its elements are: the bytes left out are those of a 16-bit float.
INLINE float value_at(const Place *place) {
    const uint low = 32 - 8 * LEVELS;
    if (low == 0) return value_of(place->order);
    const uint rest = place->order >> (31 - low) & 1 ? 0 : (1u << low) - 1;
    return value_of(place->order << low | rest);
}

// The index of the nth element, by index, of those that have the place's order: byte by byte.
INLINE uint pick(const Logits *row, __local Bins *bins, const Place *place) {
    uint index = 0;
    ulong nth = place->nth;
    for (int shift = 16; shift >= 0; shift -= 8) {
        clear(bins);
        EVERY(i, row) {
            if (order_of(get(row->from, i)) >> (32 - 8 * LEVELS) == place->order && i >> (shift + 8) == index)
                add_to(&bins->count[i >> shift & 255], 1);
        }
        MEET;
        uint bin = 0;
        while (bin < 255 && bins->count[bin] <= nth) nth -= bins->count[bin++];
        index = index << 8 | bin;
    }
    return index;
}

// share·whole as a whole number below `whole`; what is nearly next below, if it would be just that.
INLINE ulong part_of(float share, ulong whole, int next_below) {
    if (!(share > 0.0f)) return 0;
    if (share >= 1.0f) return whole - 1;
    // The share in units of 2^-64.
    const uint bits = as_uint(share);
    const int e = (int)(bits >> 23), shift = (e ? e : 1) - 86;
    const ulong m = (bits & 0x7fffffu) | (e ? 0x800000u : 0);
    const ulong units = shift >= 0 ? m << shift : shift > -64 ? m >> -shift : 0;
    const ulong found = mul_hi(units, whole);
    return min(next_below && units * whole == 0 && found > 0 ? found - 1 : found, whole - 1);
}

// What needs to be done only under a condition of the row. Where work-items meet in it they all go the same way, and its answer is
// left aside.
#if GROUP == 1
#define WHERE(condition) if (condition)
#else
#define WHERE(condition)
#endif

KERNEL(P(logits), P(u), P(temperature), P(top_k), P(top_p), P(min_p), P(y), SampleShape s) {
    __local Bins bins;
    __local ulong part[GROUP];
    const ulong r = get_group_id(0);
    Logits row = {row_of(AT(uchar, logits), &s.logits, (uint)r), s.cols, 0.0f, AT(float, temperature)[r * s.step[1]]};
    ulong best = 0;
    EVERY(i, &row) best = max(best, place_of(get(row.from, i), i));
    best = team_first(part, best);
    row.top = value_of((uint)(best >> 32));
    const int is_plain = row.temperature == 0.0f || isnan(row.top) || row.n == 1;
    const ulong k_at = r * s.step[2];
    const long k = s.wide_k ? AT(long, top_k)[k_at] : (long)AT(int, top_k)[k_at];
    const float p = AT(float, top_p)[r * s.step[3]], least = AT(float, min_p)[r * s.step[4]];
    uint token = index_of(best);
    WHERE(!is_plain) {
        ulong kept = 0, enough = 0;
        EVERY(i, &row) {
            const float v = get(row.from, i);
            const ulong mass = mass_of(&row, v);
            kept += mass;
            if (weight(&row, v) >= least) enough += mass;
        }
        kept = team_total(part, kept);
        enough = team_total(part, enough);
        // The smallest number kept, where one is known to be.
        int cut = 0;
        float smallest = 0.0f;
        const int by_k = k >= 1 && k < (long)row.n, by_p = p < 1.0f;
        WHERE(by_k) {
            const Place place = seek(&row, &bins, 0, by_k ? (ulong)k - 1 : 0);
            kept = by_k ? mass_upto(&place) : kept;
            smallest = value_at(&place);
            cut = by_k;
        }
        WHERE(by_p) {
            const Place place = seek(&row, &bins, 1, part_of(p, kept, 1));
            kept = by_p ? mass_upto(&place) : kept;
            smallest = by_p ? value_at(&place) : smallest;
            cut |= by_p;
        }
        if (least > 0.0f && !(cut && weight(&row, smallest) >= least)) kept = min(kept, max(enough, 1ul << 40));
        const Place place = seek(&row, &bins, 1, part_of(AT(float, u)[r * s.step[0]], kept, 0));
        const uint picked = pick(&row, &bins, &place);
        token = is_plain ? token : picked;
    }
    if (get_local_id(0) == 0) AT(int, y)[r * s.step[5]] = (int)token;
}
