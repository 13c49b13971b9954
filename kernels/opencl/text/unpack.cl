// Rows of a format whose elements share bytes, as numbers: those that ids name, or one after the other.

// The walk steps over rows: in bytes through the packed operand, through the ids, in elements through the result. Without ids
// every row is taken. A row that is none is not a number.
KERNEL(P(x), P(ids), uint wide, ulong rows, ulong row_bytes, P(y), uint type, const Walk walk, ulong groups, ulong y_step) {
    EACH(i, walk.count * groups) {
        const ulong row = i / groups, element = (i - row * groups) * AT_ONCE;
        const ulong3 at = walk_to(&walk, row);
        __global const uchar *from = AT(uchar, x) + at.s0;
        bool is_row = true;
        if (GIVEN(ids)) {
            const ulong id = id_at(AT(uchar, ids), wide, at.s1);
            is_row = id < rows;
            from += id * row_bytes;
        }
        float v[AT_ONCE];
        for (uint k = 0; k < AT_ONCE; k++) v[k] = NAN;
        if (is_row) unpack(from + element / ELEMS * BYTES, (uint)(element % ELEMS), v);
        for (uint k = 0; k < AT_ONCE; k++) {
            const ulong to = at.s2 + (element + k) * y_step;
            if (type == AS_F32) AT(float, y)[to] = v[k];
            else write_number(AT(uchar, y), type, to, of_f32(v[k]));
        }
    }
}
