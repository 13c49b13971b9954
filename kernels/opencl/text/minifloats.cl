// Numbers of one byte. Subnormal codes are counted, so that a device that flushes subnormals does not flush them.

INLINE float e4m3_to_f32(uint code) {
    const uint size = code & 0x7fu;
    const float value = size < 8 ? (float)size * 0x1p-9f : as_float((size << 20) + (120u << 23));
    return as_float(as_uint(size == 0x7fu ? NAN : value) | (code & 0x80u) << 24);
}
INLINE float e5m2_to_f32(uint code) { return f16_to_f32(code << 8); }

#define E4M3(COUNT)                                                                                                    \
    INLINE float##COUNT e4m3_##COUNT(uint##COUNT code) {                                                               \
        const uint##COUNT size = code & 0x7fu;                                                                         \
        float##COUNT value = as_float##COUNT((size << 20) + (120u << 23));                                             \
        value = select(value, convert_float##COUNT(size) * 0x1p-9f, size < 8u);                                        \
        value = select(value, (float##COUNT)(NAN), size == 0x7fu);                                                     \
        return as_float##COUNT(as_uint##COUNT(value) | (code & 0x80u) << 24);                                          \
    }
E4M3(8)
E4M3(16)
