// Products of many rows on a processor. A work-group is one work-item: it turns SLOTS columns of weights into numbers, DEEP
// inputs at a time, and multiplies BAND rows with them, BLOCK_ROWS by BLOCK_COLUMNS. Rows are f32, side by side along K, with
// zeros behind their last input up to a multiple of 32.

KERNEL(PRODUCT_PARAMS) {
    __global const uchar *weights = AT(uchar, w);
    __global const float *inputs = AT(float, a);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0, *before = GIVEN(residual) ? AT(uchar, residual) : 0;
    __global const uchar *scale = GIVEN(scales) ? AT(uchar, scales) : 0, *zero = GIVEN(zeros) ? AT(uchar, zeros) : 0;
    __global uchar *to = AT(uchar, c);
    float panel[SLOTS * DEEP], sums[BAND * SLOTS];
    const uint bands = (p.m + BAND - 1) / BAND, strip = get_group_id(0) / bands, first = get_group_id(0) % bands * BAND;
    for (uint batch = get_group_id(1); batch < p.batches; batch += get_num_groups(1)) {
        const Start at = start_of(&p, batch);
        for (uint i = 0; i < BAND * SLOTS; i++) sums[i] = 0.0f;
        for (uint from = 0; from < p.deep; from += DEEP) {
            const uint deep = min(p.deep - from, (uint)DEEP);
            for (uint s = 0; s < SLOTS; s++) {
                const Column column = column_at(&p, &at, weights, scale, zero, column_of(&p, strip * SLOTS + s));
                for (uint k = 0; k < deep; k += 32) {
                    float16 low, high;
                    weights_32(&p, &column, (from + k) / 32, p.k - from - k, &low, &high);
                    vstore16(low, 0, panel + s * DEEP + k);
                    vstore16(high, 1, panel + s * DEEP + k);
                }
            }
            for (uint r = 0; r < BAND && first + r < p.m; r += BLOCK_ROWS) {
                __global const float *row[BLOCK_ROWS];
                for (uint i = 0; i < BLOCK_ROWS; i++) row[i] = inputs + at.a + min(first + r + i, p.m - 1) * p.a_row + from;
                for (uint s = 0; s < SLOTS; s += BLOCK_COLUMNS) {
                    float16 d[BLOCK_ROWS][BLOCK_COLUMNS];
                    for (uint i = 0; i < BLOCK_ROWS; i++)
                        for (uint j = 0; j < BLOCK_COLUMNS; j++) d[i][j] = 0.0f;
                    for (uint k = 0; k < deep; k += 16) {
                        float16 y[BLOCK_COLUMNS];
                        for (uint j = 0; j < BLOCK_COLUMNS; j++) y[j] = vload16(0, panel + (s + j) * DEEP + k);
                        for (uint i = 0; i < BLOCK_ROWS; i++) {
                            const float16 x = vload16(0, row[i] + k);
                            for (uint j = 0; j < BLOCK_COLUMNS; j++) d[i][j] = mad(x, y[j], d[i][j]);
                        }
                    }
                    for (uint i = 0; i < BLOCK_ROWS; i++)
                        for (uint j = 0; j < BLOCK_COLUMNS; j++) sums[(r + i) * SLOTS + s + j] += sum_of(d[i][j]);
                }
            }
        }
        for (uint r = 0; r < BAND; r++) {
            for (uint s = 0; s < SLOTS; s++) {
                const float up = sums[r * SLOTS + (s | 1)];
                finish(&p, &at, more, before, to, first + r, strip * SLOTS + s, sums[r * SLOTS + s], up);
            }
        }
    }
}
