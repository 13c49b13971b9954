// The parts of a row, in their order: a group takes a row.

KERNEL(ATTENTION_PARAMS) {
    const Operands x = ATTENTION_OPERANDS;
    const uint2 at = (uint2)(get_group_id(0) / a.heads, get_group_id(0) % a.heads);
    float reference = -INFINITY, sum = 0.0f;
    for (uint s = 0; s < a.splits; s++) reference = fmax(reference, x.part[part_reference(&a, s, at)]);
    const float safe = reference == -INFINITY ? 0.0f : reference;
    for (uint s = 0; s < a.splits; s++) {
        const float own = x.part[part_sum(&a, s, at)];
        if (own != 0.0f) sum += own * exp2(x.part[part_reference(&a, s, at)] - safe);
    }
    const float factor = ending(&a, x.sinks, at.y, reference, sum);
    const ulong start = at.x * a.y_stride[0] + at.y * a.y_stride[1];
    for (uint i = get_local_id(0); i < a.dv; i += GROUP) {
        float value = 0.0f;
        for (uint s = 0; s < a.splits; s++) {
            if (x.part[part_sum(&a, s, at)] == 0.0f) continue;
            const float share = exp2(x.part[part_reference(&a, s, at)] - safe);
            if (share != 0.0f) value += x.part[part_values(&a, s, at) + i] * share;
        }
        store_as(x.y, a.y_kind, start + i * a.y_stride[2], value * factor);
    }
}
