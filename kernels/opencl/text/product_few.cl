// Products of few rows on a processor: ROWS rows by COLUMNS columns at a time, 32 inputs to a step. Each weight is read once for
// ROWS rows. A work-group is one work-item and takes columns that follow each other.

KERNEL(PRODUCT_PARAMS) {
    __global const uchar *weights = AT(uchar, w), *inputs = AT(uchar, a);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0, *before = GIVEN(residual) ? AT(uchar, residual) : 0;
    __global const uchar *scale = GIVEN(scales) ? AT(uchar, scales) : 0, *zero = GIVEN(zeros) ? AT(uchar, zeros) : 0;
    __global uchar *to = AT(uchar, c);
    const uint strips = (p.n + COLUMNS - 1) / COLUMNS, each = (strips + get_num_groups(0) - 1) / get_num_groups(0);
    const uint from = min((uint)get_group_id(0) * each, strips), end = min(from + each, strips);
    for (uint batch = get_group_id(1); batch < p.batches; batch += get_num_groups(1)) {
        const Start at = start_of(&p, batch);
        for (uint strip = from; strip < end; strip++) {
            Column column[COLUMNS];
            for (uint s = 0; s < COLUMNS; s++) column[s] = column_at(&p, &at, weights, scale, zero, column_of(&p, strip * COLUMNS + s));
            for (uint first = 0; first < p.m; first += ROWS) {
                ulong row[ROWS];
                float16 sums[ROWS][COLUMNS];
                for (uint r = 0; r < ROWS; r++) {
                    row[r] = at.a + min(first + r, p.m - 1) * p.a_row;
                    for (uint s = 0; s < COLUMNS; s++) sums[r][s] = 0.0f;
                }
                for (uint block = 0; block * 32 < p.k; block++) {
                    const uint left = p.k - block * 32;
                    float16 low[COLUMNS], high[COLUMNS];
                    for (uint s = 0; s < COLUMNS; s++) weights_32(&p, &column[s], block, left, &low[s], &high[s]);
                    for (uint r = 0; r < ROWS; r++) {
                        float16 x, y;
                        inputs_32(&p, inputs, row[r], block * 32, left, &x, &y);
                        for (uint s = 0; s < COLUMNS; s++) sums[r][s] = mad(high[s], y, mad(low[s], x, sums[r][s]));
                    }
                }
                for (uint r = 0; r < ROWS; r++) {
                    float sum[COLUMNS];
                    for (uint s = 0; s < COLUMNS; s++) sum[s] = sum_of(sums[r][s]);
                    for (uint s = 0; s < COLUMNS; s++) {
                        finish(&p, &at, more, before, to, first + r, strip * COLUMNS + s, sum[s], sum[s | 1]);
                    }
                }
            }
        }
    }
}
