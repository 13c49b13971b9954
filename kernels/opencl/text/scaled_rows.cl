// Products of int8 codes on a processor: ROWS rows by COLUMNS columns at a time, 16 inputs to a step. A work-group is one work-item
// and takes columns that follow each other, and all rows.

KERNEL(SCALED_PARAMS) {
    __global const char *inputs = AT(char, a), *weights = AT(char, b);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0;
    __global const int *join = GIVEN(joins) ? AT(int, joins) : 0;
    const uint strips = (p.n + COLUMNS - 1) / COLUMNS, each = (strips + get_num_groups(0) - 1) / get_num_groups(0);
    const uint from = min((uint)get_group_id(0) * each, strips), end = min(from + each, strips);
    for (uint strip = from; strip < end; strip++) {
        __global const char *column[COLUMNS];
        for (uint j = 0; j < COLUMNS; j++) column[j] = weights + min(strip * COLUMNS + j, p.n - 1) * p.b_row;
        for (uint first = 0; first < p.m; first += ROWS) {
            __global const char *row[ROWS];
            int16 sums[ROWS][COLUMNS];
            for (uint i = 0; i < ROWS; i++) {
                row[i] = inputs + min(first + i, p.m - 1) * p.a_row;
                for (uint j = 0; j < COLUMNS; j++) sums[i][j] = 0;
            }
            for (uint k = 0; k < p.k; k += 16) {
                int16 y[COLUMNS];
                for (uint j = 0; j < COLUMNS; j++) y[j] = convert_int16(codes_16(column[j], p.b_col, k, p.k - k));
                for (uint i = 0; i < ROWS; i++) {
                    const int16 x = convert_int16(codes_16(row[i], p.a_col, k, p.k - k));
                    for (uint j = 0; j < COLUMNS; j++) sums[i][j] += x * y[j];
                }
            }
            for (uint i = 0; i < ROWS; i++) {
                for (uint j = 0; j < COLUMNS; j++) {
                    const int8 s = sums[i][j].lo + sums[i][j].hi;
                    const int4 t = s.lo + s.hi;
                    const int sum = t.x + t.y + t.z + t.w;
                    finish(&p, AT(float, sa), AT(float, sb), more, join, AT(uchar, c), first + i, strip * COLUMNS + j, sum);
                }
            }
        }
    }
}
