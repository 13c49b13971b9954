// Products of many rows on a device of many work-items: a group has a tile of TILE rows by TILE columns, DEEP inputs to a
// step, and each work-item four by four of it. Activations may lie anyhow.

#define ACROSS (TILE / 4)
#define PITCH (TILE + 4)

KERNEL(PRODUCT_PARAMS) {
    __global const uchar *weights = AT(uchar, w), *inputs = AT(uchar, a);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0, *before = GIVEN(residual) ? AT(uchar, residual) : 0;
    __global const uchar *scale = GIVEN(scales) ? AT(uchar, scales) : 0, *zero = GIVEN(zeros) ? AT(uchar, zeros) : 0;
    __global uchar *to = AT(uchar, c);
    __local float xs[DEEP * PITCH], ws[DEEP * PITCH];
    const uint bands = (p.m + TILE - 1) / TILE, id = get_local_id(0), tx = id % ACROSS * 4, ty = id / ACROSS * 4;
    const uint slot = get_group_id(0) / bands * TILE, first = get_group_id(0) % bands * TILE;
    for (uint batch = get_group_id(1); batch < p.batches; batch += get_num_groups(1)) {
        const Start at = start_of(&p, batch);
        float4 d[4];
        for (uint i = 0; i < 4; i++) d[i] = 0.0f;
        for (uint from = 0; from < p.deep; from += DEEP) {
            const uint deep = min(p.deep - from, (uint)DEEP);
            if (id < TILE) {
                const Column column = column_at(&p, &at, weights, scale, zero, column_of(&p, slot + id));
                for (uint step = 0; step < deep; step += 32) {
                    float16 low, high;
                    float each[32];
                    weights_32(&p, &column, (from + step) / 32, p.k - from - step, &low, &high);
                    vstore16(low, 0, each);
                    vstore16(high, 1, each);
                    for (uint k = 0; k < 32; k++) ws[(step + k) * PITCH + id] = each[k];
                }
            } else {
                for (uint i = id - TILE; i < TILE * DEEP; i += GROUP - TILE) {
                    const uint r = i / DEEP, k = from + i % DEEP;
                    const ulong x = at.a + min(first + r, p.m - 1) * p.a_row + k * p.a_col;
                    xs[i % DEEP * PITCH + r] = k < p.k ? load_as(inputs, p.a_type, x) : 0.0f;
                }
            }
            MEET;
            for (uint k = 0; k < deep; k++) {
                const float4 x = vload4(0, xs + k * PITCH + ty), y = vload4(0, ws + k * PITCH + tx);
                d[0] = mad(x.s0, y, d[0]);
                d[1] = mad(x.s1, y, d[1]);
                d[2] = mad(x.s2, y, d[2]);
                d[3] = mad(x.s3, y, d[3]);
            }
            MEET;
        }
        for (uint i = 0; i < 4; i++) {
            finish(&p, &at, more, before, to, first + ty + i, slot + tx, d[i].s0, d[i].s1);
            finish(&p, &at, more, before, to, first + ty + i, slot + tx + 1, d[i].s1, d[i].s1);
            finish(&p, &at, more, before, to, first + ty + i, slot + tx + 2, d[i].s2, d[i].s3);
            finish(&p, &at, more, before, to, first + ty + i, slot + tx + 3, d[i].s3, d[i].s3);
        }
    }
}
