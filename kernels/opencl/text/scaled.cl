// What the products of int8 codes share: sums are exact in int32; scales, and what joins the sum, come after.

// Distances are in elements; steps of scales are 0 where one is for all.
typedef struct {
    ulong a_row, a_col, b_row, b_col, c_row, c_col;
    ulong sa_step, sb_step, bias_step, joins_step;
    uint m, n, k, bias_type, c_type, unused;
} Scaled;

#define SCALED_PARAMS P(b), P(a), P(sa), P(sb), P(bias), P(joins), P(c), const Scaled p

// Sixteen codes from k on, of which `left` are there; beyond them zeros.
INLINE char16 codes_16(__global const char *row, ulong step, uint k, uint left) {
    if (left >= 16 && step == 1) return vload16(0, row + k);
    char each[16];
    for (uint i = 0; i < 16; i++) each[i] = i < left ? row[(k + i) * step] : 0;
    return vload16(0, each);
}

// Writes the result of row m and column n.
INLINE void finish(const Scaled *p, __global const float *sa, __global const float *sb,
                          __global const uchar *bias, __global const int *joins, __global uchar *c, uint m, uint n, int sum) {
    if (m >= p->m || n >= p->n) return;
    const long all = (long)sum + (joins ? joins[n * p->joins_step] : 0);
    float v = (float)all * sa[m * p->sa_step] * sb[n * p->sb_step];
    if (bias) v += load_as(bias, p->bias_type, n * p->bias_step);
    store_as(c, p->c_type, m * p->c_row + n * p->c_col, v);
}
