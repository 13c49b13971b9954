// argmax and top_k.

#if defined(ARGMAX) || defined(ARGMAX_JOIN)
typedef struct {
    Rows x, y;
    uint rows, cols;
    // Teams a row, and elements that each of them sees.
    uint parts, span;
} ArgmaxShape;
#endif

#ifdef ARGMAX
// Without parts the index goes to y, else each part's place to `places`.
KERNEL(P(x), P(y), P(places), ArgmaxShape s) {
    __local ulong part[GROUP];
    EACH_ROW(team) {
        const uint row = team / s.parts, first = team % s.parts * s.span;
        const int live = row < s.rows;
        const uint n = live ? min(s.cols, first + s.span) : 0;
        const Row from = row_of(AT(uchar, x), &s.x, live ? row : 0);
        ulong best = 0;
        for (uint i = first + LANE; i < n; i += TEAM) best = max(best, place_of(get(from, i), i));
        best = team_first(part, best);
        if (live && LANE == 0) {
            if (GIVEN(places)) AT(ulong, places)[team] = best;
            else AT(int, y)[row_at(&s.y, row)] = (int)index_of(best);
        }
    }
}
#endif

#ifdef ARGMAX_JOIN
// The largest of each row's parts.
KERNEL(P(y), P(places), ArgmaxShape s) {
    __local ulong part[GROUP];
    EACH_ROW(row) {
        const uint n = row < s.rows ? s.parts : 0;
        ulong best = 0;
        for (uint i = LANE; i < n; i += TEAM) best = max(best, AT(ulong, places)[(ulong)row * s.parts + i]);
        best = team_first(part, best);
        if (n && LANE == 0) AT(int, y)[row_at(&s.y, row)] = (int)index_of(best);
    }
}
#endif

#if defined(TOP_K) || defined(TOP_K_PLACES) || defined(TOP_K_FEW)
typedef struct {
    Rows x, values, indices;
    uint rows, cols, k;
    // Groups a row; each sees SPAN elements.
    uint parts;
    // The power of two that holds k.
    uint room;
    uint unused;
} TopKShape;

#define SPAN 8192u

// The j-th largest of a row, as value and index.
INLINE void put_choice(__global uchar *x, __global uchar *values, __global int *indices, const TopKShape *s, uint row, uint j,
                       ulong place) {
    const uint index = index_of(place);
    put(any_row(values, &s->values, row), j, get(any_row(x, &s->x, row), index));
    indices[row_at(&s->indices, row) + j * s->indices.step] = (int)index;
}
#endif

#ifdef TOP_K_FEW
// Short rows and small k: the largest is taken k times.
KERNEL(P(x), P(values), P(indices), TopKShape s) {
    __local ulong part[GROUP];
    EACH_ROW(row) {
        const uint n = row < s.rows ? s.cols : 0, r = n ? row : 0;
        const Row from = row_of(AT(uchar, x), &s.x, r);
        ulong last = 0;
        for (uint j = 0; j < s.k; j++) {
            ulong best = 0;
            for (uint i = LANE; i < n; i += TEAM) {
                const ulong place = place_of(get(from, i), i);
                best = max(best, j == 0 || place < last ? place : 0);
            }
            last = team_first(part, best);
            if (n && LANE == 0) put_choice(AT(uchar, x), AT(uchar, values), AT(int, indices), &s, r, j, last);
        }
    }
}
#endif

#if defined(TOP_K) || defined(TOP_K_PLACES)
// Groups see parts of a row, or of the places that groups before have left: `cols` to a row, some of them 0, with at least k
// that are not. The k largest go to the results, or to `places` in no order.
#ifdef TOP_K_PLACES
#define PLACE(i) AT(ulong, from_in)[(ulong)row * s.cols + (i)]
KERNEL(P(from_in), P(x), P(values), P(indices), P(places), TopKShape s, __local ulong *list) {
#else
#define PLACE(i) place_of(get(from, i), i)
KERNEL(P(x), P(values), P(indices), P(places), TopKShape s, __local ulong *list) {
#endif
    __local uint count[256];
    __local uint there, taken;
    const uint row = (uint)get_group_id(0) / s.parts, lane = get_local_id(0);
    const uint first = (uint)get_group_id(0) % s.parts * SPAN, end = min(s.cols, first + SPAN);
    const Row from = row_of(AT(uchar, x), &s.x, row);
    if (lane == 0) there = 0, taken = 0;
    MEET;
    uint mine = 0;
    for (uint i = first + lane; i < end; i += GROUP) mine += PLACE(i) != 0;
    add_to(&there, mine);
    MEET;
    // The least of the k largest: byte by byte from the highest. Every work-item finds the same.
    const uint want = min(there, s.k);
    ulong least = 0;
    uint left = want;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (uint i = lane; i < 256; i += GROUP) count[i] = 0;
        MEET;
        for (uint i = first + lane; i < end; i += GROUP) {
            const ulong place = PLACE(i);
            if (place != 0 && (shift == 56 || place >> (shift + 8) == least)) add_to(&count[place >> shift & 255], 1);
        }
        MEET;
        uint bin = 255;
        while (bin > 0 && count[bin] < left) left -= count[bin--];
        least = least << 8 | bin;
        MEET;
    }
    for (uint i = want + lane; i < s.room; i += GROUP) list[i] = 0;
    for (uint i = first + lane; i < end; i += GROUP) {
        const ulong place = PLACE(i);
        if (place != 0 && place >= least) list[add_to(&taken, 1)] = place;
    }
    // A power of two of places, largest first.
    for (uint run = 2; run <= s.room; run <<= 1) {
        for (uint apart = run / 2; apart > 0; apart >>= 1) {
            MEET;
            for (uint t = lane; t < s.room / 2; t += GROUP) {
                const uint a = 2 * t - (t & (apart - 1)), b = a + apart;
                const ulong p = list[a], q = list[b];
                const int swap = (p < q) == ((a & run) == 0);
                list[a] = swap ? q : p;
                list[b] = swap ? p : q;
            }
        }
    }
    MEET;
    for (uint j = lane; j < s.k; j += GROUP) {
        if (GIVEN(places)) AT(ulong, places)[(ulong)get_group_id(0) * s.k + j] = j < want ? list[j] : 0;
        else put_choice(AT(uchar, x), AT(uchar, values), AT(int, indices), &s, row, j, list[j]);
    }
}
#endif
