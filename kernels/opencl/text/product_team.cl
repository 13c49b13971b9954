// Products of up to ROWS rows on a device of many work-items: SLOTS columns to a group. A team has a column: a sub-group where
// there are such, else as many work-items as there are for each; one of it takes every so many 32 inputs.

// A member's share of the sums of a column.
INLINE void share_of(const Product *p, const Start *at, const Column *column, __global const uchar *a,
                            uint member, uint members, float *own) {
    for (uint r = 0; r < ROWS; r++) own[r] = 0.0f;
    for (uint block = member; block * 32 < p->k; block += members) {
        const uint left = p->k - block * 32;
        float16 low, high;
        weights_32(p, column, block, left, &low, &high);
        for (uint r = 0; r < ROWS; r++) {
            float16 x, y;
            inputs_32(p, a, at->a + min(r, p->m - 1) * p->a_row, block * 32, left, &x, &y);
            own[r] += sum_of(mad(high, y, low * x));
        }
    }
}

#if defined(HAS_SUBGROUPS)
#pragma OPENCL EXTENSION cl_khr_subgroups : enable
KERNEL(PRODUCT_PARAMS) {
    __global const uchar *weights = AT(uchar, w), *inputs = AT(uchar, a);
    __global const uchar *more = GIVEN(bias) ? AT(uchar, bias) : 0, *before = GIVEN(residual) ? AT(uchar, residual) : 0;
    __global const uchar *scale = GIVEN(scales) ? AT(uchar, scales) : 0, *zero = GIVEN(zeros) ? AT(uchar, zeros) : 0;
    for (uint batch = get_group_id(1); batch < p.batches; batch += get_num_groups(1)) {
        const Start at = start_of(&p, batch);
        for (uint pair = get_sub_group_id(); pair < SLOTS / 2; pair += get_num_sub_groups()) {
            const uint slot = get_group_id(0) * SLOTS + pair * 2;
            float sums[2][ROWS];
            for (uint s = 0; s < 2; s++) {
                const Column column = column_at(&p, &at, weights, scale, zero, column_of(&p, slot + s));
                float own[ROWS];
                share_of(&p, &at, &column, inputs, get_sub_group_local_id(), get_sub_group_size(), own);
                for (uint r = 0; r < ROWS; r++) sums[s][r] = sub_group_reduce_add(own[r]);
            }
            for (uint r = get_sub_group_local_id(); r < ROWS; r += get_sub_group_size()) {
                finish(&p, &at, more, before, AT(uchar, c), r, slot, sums[0][r], sums[1][r]);
                finish(&p, &at, more, before, AT(uchar, c), r, slot + 1, sums[1][r], sums[1][r]);
            }
        }
    }
}
#else
#define LANES (GROUP / SLOTS)
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
        share_of(&p, &at, &column, inputs, lane, LANES, own);
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
#endif
