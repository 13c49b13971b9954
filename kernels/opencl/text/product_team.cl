// Products of up to ROWS rows on a device of many work-items: eight columns to a group, eight work-items to a column, of which
// each takes every eighth 32 inputs.

#define LANES 8
#define SLOTS (GROUP / LANES)

KERNEL(PRODUCT_PARAMS) {
    __global const uchar *weights = AT(uchar, w), *inputs = AT(uchar, a);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0, *before = GIVEN(residual) ? AT(uchar, residual) : 0;
    __global const uchar *scale = GIVEN(scales) ? AT(uchar, scales) : 0, *zero = GIVEN(zeros) ? AT(uchar, zeros) : 0;
    __global uchar *to = AT(uchar, c);
    __local float sums[ROWS * GROUP];
    const uint id = get_local_id(0), lane = id % LANES, slot = get_group_id(0) * SLOTS + id / LANES;
    for (uint batch = get_group_id(1); batch < p.batches; batch += get_num_groups(1)) {
        const Start at = start_of(&p, batch);
        const Column column = column_at(&p, &at, weights, scale, zero, column_of(&p, slot));
        float own[ROWS];
        for (uint r = 0; r < ROWS; r++) own[r] = 0.0f;
        for (uint block = lane; block * 32 < p.k; block += LANES) {
            const uint left = p.k - block * 32;
            float16 low, high;
            weights_32(&p, &column, block, left, &low, &high);
            for (uint r = 0; r < ROWS; r++) {
                float16 x, y;
                inputs_32(&p, inputs, at.a + min(r, p.m - 1) * p.a_row, block * 32, left, &x, &y);
                own[r] += sum_of(mad(high, y, low * x));
            }
        }
        for (uint r = 0; r < ROWS; r++) sums[r * GROUP + id] = own[r];
        MEET;
        for (uint step = LANES / 2; step > 0; step /= 2) {
            for (uint r = 0; r < ROWS; r++) {
                if (lane < step) sums[r * GROUP + id] += sums[r * GROUP + id + step];
            }
            MEET;
        }
        for (uint i = id; i < ROWS * SLOTS; i += GROUP) {
            const uint r = i / SLOTS, s = i % SLOTS;
            const float up = sums[r * GROUP + (s | 1) * LANES];
            finish(&p, &at, more, before, to, r, get_group_id(0) * SLOTS + s, sums[r * GROUP + s * LANES], up);
        }
        MEET;
    }
}
