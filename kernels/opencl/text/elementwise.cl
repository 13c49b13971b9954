// Operators that work element by element: arithmetic on two tensors, functions of one. Computed in f32, rounded once.

// Elements of a row that fall to a group, of which `chunks` share a row.
#define SPAN (256 * 2 * 16 / SIZE)

#ifdef BINARY
// Rows of one dtype; a step of 0 repeats one element along a row.
KERNEL(P(a_in), P(b_in), P(y_out), uint op, float clamp, ulong cols, uint chunks, ulong a_row, ulong b_row, ulong y_row,
       uint a_step, uint b_step) {
    const ulong row = get_group_id(0) / chunks, start = (get_group_id(0) % chunks) * (ulong)SPAN;
    const ulong end = min(start + SPAN, cols);
    __global const uchar *a = AT(uchar, a_in) + row * a_row * SIZE, *b = AT(uchar, b_in) + row * b_row * SIZE;
    __global uchar *y = AT(uchar, y_out) + row * y_row * SIZE;
#if defined(HAS_FP16) && T == F16
    // Sums, differences and products of two f16 by f16 instructions have the bits that f32 would round to.
    if (op < 3) {
        __global const half *left = (__global const half *)a, *right = (__global const half *)b;
        for (ulong i = start + get_local_id(0); i < end; i += GROUP) {
            const half p = left[i * a_step], q = right[i * b_step];
            ((__global half *)y)[i] = op == 0 ? p + q : op == 1 ? p - q : p * q;
        }
        return;
    }
#endif
    for (ulong i = start + get_local_id(0); i < end; i += GROUP)
        STORE(y, i, apply2(op, LOAD(a, i * a_step), LOAD(b, i * b_step), clamp));
}
#endif

#ifdef UNARY
KERNEL(P(x_in), P(y_out), uint op, ulong cols, uint chunks, ulong x_row, ulong y_row) {
    const ulong row = get_group_id(0) / chunks, start = (get_group_id(0) % chunks) * (ulong)SPAN;
    const ulong end = min(start + SPAN, cols);
    __global const uchar *x = AT(uchar, x_in) + row * x_row * SIZE;
    __global uchar *y = AT(uchar, y_out) + row * y_row * SIZE;
    for (ulong i = start + get_local_id(0); i < end; i += GROUP) STORE(y, i, apply1(op, LOAD(x, i)));
}
#endif

#ifdef BINARY_ANY
// Any strides, any of the three dtypes.
KERNEL(P(a), P(b), P(y), Walk walk, uint op, float clamp, uint a_type, uint b_type, uint y_type) {
    EACH(i, walk.count) {
        const ulong3 at = walk_to(&walk, i);
        const float left = load_as(AT(uchar, a), a_type, at.x), right = load_as(AT(uchar, b), b_type, at.y);
        store_as(AT(uchar, y), y_type, at.z, apply2(op, left, right, clamp));
    }
}
#endif

#ifdef UNARY_ANY
KERNEL(P(x), P(y), Walk walk, uint op, uint x_type, uint y_type) {
    EACH(i, walk.count) {
        const ulong3 at = walk_to(&walk, i);
        store_as(AT(uchar, y), y_type, at.y, apply1(op, load_as(AT(uchar, x), x_type, at.x)));
    }
}
#endif
