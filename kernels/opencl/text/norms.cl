// Norms along rows.

typedef struct {
    Rows a, b, sum, y;
    uint rows, cols;
    uint weight_dtype, bias_dtype;
    float eps, offset;
    // Whether the normalised value is rounded to y's dtype before it meets the weight.
    uint round;
    uint unused;
} NormShape;

// A vector with one number for each column; none stands for `otherwise`.
INLINE float weight_at(__global const uchar *w, uint dtype, uint i, float otherwise) {
    return w ? load_as(w, dtype, i) : otherwise;
}
INLINE float8 weight8_at(__global const uchar *w, uint dtype, uint i, float otherwise) {
    return w ? load8_as(w, dtype, i) : (float8)otherwise;
}
// The start of a vector, or nothing.
#define VECTOR(w) (GIVEN(w) ? AT(uchar, w) : 0)

#ifdef RMS_NORM
// v·inv·(w + offset).
INLINE float scaled(const NormShape *s, __global const uchar *w, uint dtype, uint i, float v, float inv) {
    const float x = v * inv;
    return (s->round ? round_as(dtype, x) : x) * (weight_at(w, s->weight_dtype, i, 1.0f) + s->offset);
}
INLINE float8 scaled8(const NormShape *s, __global const uchar *w, uint dtype, uint i, float8 v, float inv) {
    const float8 x = v * inv;
    return (s->round ? round8_as(dtype, x) : x) * (weight8_at(w, s->weight_dtype, i, 1.0f) + s->offset);
}

#ifdef ADD
// The sum may be the storage of a or b: a work-item writes what it alone has read.
#define VALUE(i) (get(left, i) + get(right, i))
#define VALUE8(i) (get8(left, i) + get8(right, i))
#define KEEP(i, v) put(total, i, v)
#define KEEP8(i, v) put8(total, i, v)
KERNEL(P(a), P(b), P(w), P(sum_to), P(y), NormShape s) {
#else
#define VALUE(i) get(left, i)
#define VALUE8(i) get8(left, i)
#define KEEP(i, v)
#define KEEP8(i, v)
KERNEL(P(a), P(w), P(y), NormShape s) {
#endif
    __local float part[GROUP];
    __global const uchar *weight = VECTOR(w);
    EACH_ROW(row) {
        const uint n = row < s.rows ? s.cols : 0, r = n ? row : 0;
        const Row left = row_of(AT(uchar, a), &s.a, r), to = row_of(AT(uchar, y), &s.y, r);
#ifdef ADD
        const Row right = row_of(AT(uchar, b), &s.b, r), total = row_of(AT(uchar, sum_to), &s.sum, r);
#endif
        float8 many = 0.0f;
        EIGHTS(i, n) {
            const float8 v = VALUE8(i);
            many = fma(v, v, many);
        }
        float sum = sum8(many);
        ONES(i, n) {
            const float v = VALUE(i);
            sum = fma(v, v, sum);
        }
        const float inv = 1.0f / sqrt(team_sum(part, sum) / n + s.eps);
        EIGHTS(i, n) {
            const float8 v = VALUE8(i);
            KEEP8(i, v);
            put8(to, i, scaled8(&s, weight, to.dtype, i, v, inv));
        }
        ONES(i, n) {
            const float v = VALUE(i);
            KEEP(i, v);
            put(to, i, scaled(&s, weight, to.dtype, i, v, inv));
        }
    }
}
#endif

#ifdef LAYER_NORM
KERNEL(P(x), P(w), P(b), P(y), NormShape s) {
    __local float part[GROUP];
    __global const uchar *weight = VECTOR(w), *bias = VECTOR(b);
    EACH_ROW(row) {
        const uint n = row < s.rows ? s.cols : 0, r = n ? row : 0;
        const Row from = row_of(AT(uchar, x), &s.a, r), to = row_of(AT(uchar, y), &s.y, r);
        float8 many = 0.0f;
        EIGHTS(i, n) many += get8(from, i);
        float sum = sum8(many);
        ONES(i, n) sum += get(from, i);
        const float mean = team_sum(part, sum) / n;
        many = 0.0f;
        EIGHTS(i, n) {
            const float8 d = get8(from, i) - mean;
            many = fma(d, d, many);
        }
        float square = sum8(many);
        ONES(i, n) {
            const float d = get(from, i) - mean;
            square = fma(d, d, square);
        }
        const float inv = 1.0f / sqrt(team_sum(part, square) / n + s.eps);
        EIGHTS(i, n) {
            const float8 v = (get8(from, i) - mean) * inv * weight8_at(weight, s.weight_dtype, i, 1.0f);
            put8(to, i, v + weight8_at(bias, s.bias_dtype, i, 0.0f));
        }
        ONES(i, n) {
            const float v = (get(from, i) - mean) * inv * weight_at(weight, s.weight_dtype, i, 1.0f);
            put(to, i, v + weight_at(bias, s.bias_dtype, i, 0.0f));
        }
    }
}
#endif
