// Softmax along rows, and reductions along an axis.

#ifdef SOFTMAX
typedef struct {
    Rows x, mask, y;
    uint rows, cols;
    // Rows of a matrix of scores; row i of one sees columns j <= cols - queries + i where causal.
    uint queries, causal;
    float scale;
    uint unused;
} SoftmaxShape;

KERNEL(P(x), P(mask), P(y), SoftmaxShape s) {
    __local float part[GROUP];
    EACH_ROW(row) {
        const uint n = row < s.rows ? s.cols : 0, r = n ? row : 0;
        const uint visible = r % s.queries + s.cols + 1, hidden = s.queries;
        const uint seen = !n ? 0 : s.causal ? (visible > hidden ? min(visible - hidden, n) : 0) : n;
        const Row from = row_of(AT(uchar, x), &s.x, r), to = row_of(AT(uchar, y), &s.y, r);
        const Row more = any_row(AT(uchar, mask), &s.mask, r);
        const int masked = GIVEN(mask);
#define SCORE(i) (get(from, i) * s.scale + (masked ? get(more, i) : 0.0f))
        float most = -INFINITY, sum = 0.0f;
        for (uint i = LANE; i < seen; i += TEAM) most = larger(SCORE(i), most);
        most = team_larger(part, most);
        for (uint i = LANE; i < seen; i += TEAM) {
            const float v = SCORE(i);
            sum += v == -INFINITY ? 0.0f : exp(v - most);
        }
        sum = team_sum(part, sum);
        const float inv = sum == 0.0f ? 0.0f : 1.0f / sum;
        for (uint i = LANE; i < n; i += TEAM) {
            const float v = i < seen ? SCORE(i) : -INFINITY, e = v == -INFINITY ? 0.0f : exp(v - most);
            put(to, i, i < seen ? e * inv : 0.0f);
        }
    }
}
#endif

#if defined(REDUCE) || defined(REDUCE_COLUMNS)
typedef struct {
    // The reduced axis as rows of x, one for each result; results as rows of y.
    Rows x, y;
    uint count, n;
    uint kind;
    uint unused;
} ReduceShape;

enum { SUM, MEAN, MAX };

INLINE float taken(uint kind, float a, float b) { return kind == MAX ? larger(a, b) : a + b; }
INLINE void finish(const ReduceShape *s, __global uchar *y, uint r, float v) {
    store_as(y, s->y.dtype, row_at(&s->y, r), s->kind == MEAN ? v / s->n : v);
}
#endif

#ifdef REDUCE
KERNEL(P(x), P(y), ReduceShape s) {
    __local float part[GROUP];
    EACH_ROW(row) {
        const uint n = row < s.count ? s.n : 0, r = n ? row : 0;
        const Row from = row_of(AT(uchar, x), &s.x, r);
        float8 many = 0.0f;
        float sum = 0.0f, most = -INFINITY;
        if (s.kind == MAX) {
            for (uint i = LANE; i < n; i += TEAM) most = larger(most, get(from, i));
        } else {
            EIGHTS(i, n) many += get8(from, i);
            ONES(i, n) sum += get(from, i);
        }
        sum = team_sum(part, sum + sum8(many));
        most = team_larger(part, most);
        if (n && LANE == 0) finish(&s, AT(uchar, y), r, s.kind == MAX ? most : sum);
    }
}
#endif

#ifdef REDUCE_COLUMNS
// 32 results a group, whose elements lie side by side: a work-item takes every so many of them.
KERNEL(P(x), P(y), ReduceShape s) {
    for (uint c = get_local_id(0); c < 32; c += GROUP) {
        const uint r = (uint)get_group_id(0) * 32 + c;
        if (r < s.count) {
            const Row from = any_row(AT(uchar, x), &s.x, r);
            float v = s.kind == MAX ? -INFINITY : 0.0f;
            for (uint i = 0; i < s.n; i++) v = taken(s.kind, v, get(from, i));
            finish(&s, AT(uchar, y), r, v);
        }
    }
}
#endif
