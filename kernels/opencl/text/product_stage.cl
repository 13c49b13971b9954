// Rows of activations as f32, side by side, with zeros behind the last input up to a multiple of 32.

KERNEL(P(a), P(to), const Product p) {
    __global const uchar *from = AT(uchar, a);
    __global float *rows = AT(float, to);
    const ulong all = (ulong)p.batches * p.m * p.deep;
    for (ulong i = get_global_id(0); i < all; i += get_global_size(0)) {
        const ulong row = i / p.deep;
        const uint k = (uint)(i - row * p.deep);
        const Start at = start_of(&p, (uint)(row / p.m));
        rows[i] = k < p.k ? load_as(from, p.a_type, at.a + row % p.m * p.a_row + k * p.a_col) : 0.0f;
    }
}
