// Elements in another dtype.

#ifdef CAST
// Both sides contiguous; FROM and TO are dtypes of activations.
KERNEL(P(x), P(y), ulong count) {
    const ulong start = get_group_id(0) * 2048ul, end = min(start + 2048, count);
    for (ulong i = start + get_local_id(0); i < end; i += GROUP)
        store_as(AT(uchar, y), TO, i, load_as(AT(uchar, x), FROM, i));
}
#endif

#ifdef CAST_ANY
KERNEL(P(x), P(y), Walk walk, uint from, uint to) {
    EACH(i, walk.count) {
        const ulong3 at = walk_to(&walk, i);
        write_number(AT(uchar, y), to, at.y, read_number(AT(uchar, x), from, at.x));
    }
}
#endif

#ifdef GATHER_ANY
// Rows of a table in another dtype than the result: the walk steps through a row, through the ids, and through the result.
KERNEL(P(table), P(ids), P(y), Walk walk, ulong rows, ulong row_step, uint wide, uint from, uint to) {
    EACH(i, walk.count) {
        const ulong3 at = walk_to(&walk, i);
        const ulong id = id_at(AT(uchar, ids), wide, at.y);
        Number x = {NOT_A_NUMBER, 0, 0, 0};
        if (id < rows) x = read_number(AT(uchar, table), from, id * row_step + at.x);
        write_number(AT(uchar, y), to, at.z, x);
    }
}
#endif
