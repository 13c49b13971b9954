// Products of few rows on a processor with weights whose columns lie side by side, as of [K, N]: ROWS rows by WIDE columns at a
// time, of which 32 by 32 inputs are in hand. A work-group is one work-item and takes columns that follow each other. There are at
// least 32 columns, and no gates among them.

KERNEL(PRODUCT_PARAMS) {
    __global const uchar *weights = AT(uchar, w), *inputs = AT(uchar, a);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0, *before = GIVEN(residual) ? AT(uchar, residual) : 0;
    __global uchar *to = AT(uchar, c);
    float totals[ROWS * WIDE];
    const uint spans = (p.n + WIDE - 1) / WIDE, each = (spans + get_num_groups(0) - 1) / get_num_groups(0);
    const uint from = min((uint)get_group_id(0) * each, spans), end = min(from + each, spans);
    for (uint batch = get_group_id(1); batch < p.batches; batch += get_num_groups(1)) {
        const Start at = start_of(&p, batch);
        for (uint span = from; span < end; span++) {
            const uint slot = span * WIDE, width = min(p.n - slot, (uint)WIDE);
            for (uint first = 0; first < p.m; first += ROWS) {
                for (uint i = 0; i < ROWS * WIDE; i++) totals[i] = 0.0f;
                for (uint block = 0; block * 32 < p.k; block++) {
                    const uint left = p.k - block * 32, deep = min(left, 32u);
                    float x[ROWS * 32];
                    for (uint r = 0; r < ROWS; r++) {
                        float16 low, high;
                        const ulong row = at.a + min(first + r, p.m - 1) * p.a_row;
                        inputs_32(&p, inputs, row, block * 32, left, &low, &high);
                        vstore16(low, 0, x + r * 32);
                        vstore16(high, 1, x + r * 32);
                    }
                    for (uint c = 0; c < width; c += 32) {
                        // Where fewer than 32 columns are left, the last 32 are read.
                        const uint column = min(slot + c, p.n - 32);
                        float16 low[ROWS], high[ROWS];
                        for (uint r = 0; r < ROWS; r++) low[r] = 0.0f, high[r] = 0.0f;
                        for (uint k = 0; k < deep; k++) {
                            const ulong i = (ulong)(block * 32 + k) * p.w_col + column;
                            const float16 u = elements_at(weights + at.w, i), v = elements_at(weights + at.w, i + 16);
                            for (uint r = 0; r < ROWS; r++) {
                                const float16 by = x[r * 32 + k];
                                low[r] = mad(by, u, low[r]);
                                high[r] = mad(by, v, high[r]);
                            }
                        }
                        for (uint r = 0; r < ROWS; r++) {
                            float *sums = totals + r * WIDE + c;
                            vstore16(vload16(0, sums) + low[r], 0, sums);
                            vstore16(vload16(1, sums) + high[r], 1, sums);
                        }
                    }
                }
                for (uint r = 0; r < ROWS; r++) {
                    for (uint c = 0; c < width; c++) {
                        const uint start = min(slot + c / 32 * 32, p.n - 32);
                        const float sum = totals[r * WIDE + c / 32 * 32 + slot + c - start];
                        finish(&p, &at, more, before, to, first + r, slot + c, sum, sum);
                    }
                }
            }
        }
    }
}
