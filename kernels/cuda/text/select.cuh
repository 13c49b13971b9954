// The order in which rows are chosen from: largest first, NaN before all, ties by the lower index.
#pragma once
#include "rowwise.cuh"

// A number's place among all numbers: larger for larger ones; zeros of both signs are one, and so are all NaN.
DEVICE u32 order_of(float v) {
    if (is_nan(v)) return 0xffffffffu;
    const u32 bits = bits_of(v == 0.0f ? 0.0f : v);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
DEVICE float value_of(u32 order) {
    if (order == 0xffffffffu) return F32_NAN;
    return float_of(order ^ (order >> 31 ? 0x80000000u : 0xffffffffu));
}

// An element's place in its row's order: unique, larger for what comes first, and never 0.
DEVICE u64 place_of(float v, u32 index) { return (u64)order_of(v) << 32 | (0xffffffffu - index); }
DEVICE u32 index_of(u64 place) { return 0xffffffffu - (u32)place; }

// Inclusive sums over the lanes of a group.
DEVICE u64 running_sum(u64 v) {
#pragma unroll
    for (u32 d = 1; d < 32; d <<= 1) {
        const u64 before = warp_from(v, lane32() - d);
        if (lane32() >= d) v += before;
    }
    return v;
}

// How many elements, and their mass in units of 2^-40 of the largest weight: whole numbers, whose sums do not depend on
// their order.
struct Tally {
    u64 count, mass;
    DEVICE u64 of(bool by_mass) const { return by_mass ? mass : count; }
};

// A place in the descending order of bins: the first whose running tally exceeds the target (the last where none does), and
// the tally before it.
struct Found {
    u32 bin;
    Tally before, here;
};

// Tallies of BINS bins in shared memory.
template <int BINS> struct Bins {
    u32 count[BINS], low[BINS], high[BINS];

    DEVICE void add(u32 bin, u64 mass) {
        atomic_add(&count[bin], 1u);
        const u32 part = (u32)mass, old = atomic_add(&low[bin], part);
        const u32 rest = (u32)(mass >> 32) + (old + part < old ? 1 : 0);
        if (rest) atomic_add(&high[bin], rest);
    }
    DEVICE Tally at(u32 bin) const { return {count[bin], (u64)high[bin] << 32 | low[bin]}; }
    template <int THREADS> DEVICE void clear() {
        sync();
        for (u32 i = threadIdx.x; i < BINS; i += THREADS) count[i] = low[i] = high[i] = 0;
        sync();
    }
};

// Where each group's share of the bins adds up.
struct Shares {
    u64 count[32], mass[32];
};

// This lane's part of a running tally: the first lane where it exceeds the target, or the last, in every lane of the group.
DEVICE u32 crossing(Tally mine, bool by_mass, u64 target, u32 last, Tally& before) {
    const Tally upto = {before.count + running_sum(mine.count), before.mass + running_sum(mine.mass)};
    const u32 lane = team_join<32>(upto.of(by_mass) > target ? lane32() : last, Least());
    before = {warp_from(upto.count - mine.count, lane), warp_from(upto.mass - mine.mass, lane)};
    return lane;
}

// Searches the bins from the highest to the lowest. All threads of the block must come, and get one answer.
template <int THREADS, int BINS> DEVICE Found find(const Bins<BINS>& bins, Shares& shares, bool by_mass, u64 target) {
    constexpr u32 GROUPS = THREADS / 32, PER_GROUP = BINS / GROUPS, PER_LANE = PER_GROUP / 32;
    sync();
    Tally mine = {0, 0};
    const u32 top = BINS - 1 - (group32() * PER_GROUP + lane32() * PER_LANE);
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) {
        const Tally t = bins.at(top - i);
        mine = {mine.count + t.count, mine.mass + t.mass};
    }
    mine = {warp_sum(mine.count), warp_sum(mine.mass)};
    if (lane32() == 0) {
        shares.count[group32()] = mine.count;
        shares.mass[group32()] = mine.mass;
    }
    sync();
    const bool held = lane32() < GROUPS;
    Found found = {0, {0, 0}, {0, 0}};
    const Tally share = {held ? shares.count[lane32()] : 0, held ? shares.mass[lane32()] : 0};
    const u32 group = crossing(share, by_mass, target, GROUPS - 1, found.before);
    // The bins of that group, lane by lane, then bin by bin.
    const u32 first = BINS - 1 - group * PER_GROUP;
    Tally part = {0, 0};
    for (u32 i = 0; i < PER_LANE; i++) {
        const Tally t = bins.at(first - lane32() * PER_LANE - i);
        part = {part.count + t.count, part.mass + t.mass};
    }
    const u32 lane = crossing(part, by_mass, target, 31, found.before);
    for (u32 i = 0; i < PER_LANE; i++) {
        found.bin = first - lane * PER_LANE - i;
        found.here = bins.at(found.bin);
        if (i + 1 == PER_LANE || found.before.of(by_mass) + found.here.of(by_mass) > target) break;
        found.before = {found.before.count + found.here.count, found.before.mass + found.here.mass};
    }
    return found;
}

// Sorts a power of two of places, largest first.
template <int THREADS> DEVICE void sort_places(u64* places, u32 count) {
    for (u32 run = 2; run <= count; run <<= 1) {
        for (u32 apart = run / 2; apart > 0; apart >>= 1) {
            sync();
            for (u32 t = threadIdx.x; t < count / 2; t += THREADS) {
                const u32 a = 2 * t - (t & (apart - 1)), b = a + apart;
                const u64 x = places[a], y = places[b];
                if ((x < y) == ((a & run) == 0)) {
                    places[a] = y;
                    places[b] = x;
                }
            }
        }
    }
    sync();
}
