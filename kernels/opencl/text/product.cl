// What the kernels of products share: how a product is described, and what follows its sums.

// What follows the sums, as the op list numbers it; a bias and a residual are added wherever one is given.
#define THEN_SILU_MUL 3
#define THEN_GELU 4

// c[m][n] = sum over k of a[m][k] w[n][k], for every batch. Distances are in elements, those of w's rows in bytes. The host
// writes it field by field.
typedef struct {
    ulong a_row, a_col;                        // along M, along K
    ulong w_row, w_col;                        // along N, along K
    ulong c_row, c_col;                        // along M, along the columns of the result
    ulong r_row, r_col;                        // the residual's
    ulong bias_step;                           // along N
    ulong scale_row, scale_group, zero_row, zero_group;
    ulong a_batch[6], w_batch[6], c_batch[6], r_batch[6];
    uint batch[6];                             // sizes of the batch axes, outermost first
    uint axes, batches;                        // how many axes, and the product of their sizes
    uint m, n, k, deep;                        // deep: k on a multiple of 32
    uint then;                                 // the epilogue
    uint a_type, c_type, r_type, bias_type, scale_type, zero_type;
    uint group_size, groups, group_rows;       // inputs and rows of w that share a scale; groups of a row
} Product;

#define PRODUCT_PARAMS P(w), P(scales), P(zeros), P(a), P(bias), P(residual), P(c), const Product p

// Where a batch starts in each operand: in elements, in w in bytes.
typedef struct { ulong a, w, c, r; } Start;

INLINE Start start_of(const Product *p, uint batch) {
    Start at = {0, 0, 0, 0};
    for (uint axis = p->axes; axis-- > 0;) {
        const ulong i = batch % p->batch[axis];
        batch /= p->batch[axis];
        at.a += i * p->a_batch[axis];
        at.w += i * p->w_batch[axis];
        at.c += i * p->c_batch[axis];
        at.r += i * p->r_batch[axis];
    }
    return at;
}

// Columns of the product stand in slots. With silu_mul a gate and its partner of the up half stand side by side.
INLINE uint slots_of(const Product *p) { return p->n; }
INLINE uint column_of(const Product *p, uint slot) {
    const uint column = p->then == THEN_SILU_MUL ? slot / 2 + slot % 2 * (p->n / 2) : slot;
    return column < p->n ? column : p->n - 1;
}

// x / (1 + e^-x), of which neither part overflows.
INLINE float silu_of(float x) {
    const float e = exp(-fabs(x));
    return x < 0.0f ? x * e / (1.0f + e) : x / (1.0f + e);
}
INLINE float gelu_of(float x) { return 0.5f * x * (1.0f + erf(x * 0.70710678118654752f)); }

// Writes the result of row m whose sum stands in a slot; `up` is the sum in the next slot. A slot of the up half writes nothing.
INLINE void finish(const Product *p, const Start *at, __global const uchar *bias, __global const uchar *residual,
                   __global uchar *c, uint m, uint slot, float sum, float up) {
    const bool pairs = p->then == THEN_SILU_MUL;
    if (m >= p->m || slot >= p->n || (pairs && slot % 2 == 1)) return;
    const uint o = pairs ? slot / 2 : slot;
    if (bias) {
        sum += load_as(bias, p->bias_type, o * p->bias_step);
        if (pairs) up += load_as(bias, p->bias_type, (o + p->n / 2) * p->bias_step);
    }
    if (pairs) sum = silu_of(sum) * up;
    else if (p->then == THEN_GELU) sum = gelu_of(sum);
    if (residual) sum += load_as(residual, p->r_type, at->r + m * p->r_row + o * p->r_col);
    store_as(c, p->c_type, at->c + m * p->c_row + o * p->c_col, sum);
}

INLINE float sum_of(float16 v) {
    const float8 a = v.lo + v.hi;
    const float4 b = a.lo + a.hi;
    const float2 d = b.lo + b.hi;
    return d.x + d.y;
}
