//! 4-bit integers, two a byte, element 0 in the low nibble.

/// Signed code j of a row of nibbles, −8..=7.
pub fn i4(bytes: &[u8], j: usize) -> i8 {
    ((u4(bytes, j) << 4) as i8) >> 4
}

/// Unsigned code j of a row of nibbles, 0..=15.
pub fn u4(bytes: &[u8], j: usize) -> u8 {
    bytes[j / 2] >> (4 * (j % 2)) & 15
}

/// Unpacks signed codes: `out[j]` is nibble j of `bytes`. Panics when `bytes` holds fewer.
pub fn unpack_i4(bytes: &[u8], out: &mut [i8]) {
    for (j, x) in out.iter_mut().enumerate() {
        *x = i4(bytes, j);
    }
}

/// Unpacks unsigned codes: `out[j]` is nibble j of `bytes`. Panics when `bytes` holds fewer.
pub fn unpack_u4(bytes: &[u8], out: &mut [u8]) {
    for (j, x) in out.iter_mut().enumerate() {
        *x = u4(bytes, j);
    }
}

/// Packs the low four bits of each code, signed or not, element 0 in the low nibble; an odd end leaves a zero nibble.
pub fn pack(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|c| c[0] & 15 | c.get(1).map_or(0, |h| h << 4)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_element_is_the_low_nibble() {
        // Values −8..−1 of a little-endian word 0x76543210 offset by 8 are nibbles 8..15 as two's complement.
        let mut x = [0i8; 4];
        unpack_i4(&[0x98, 0x7f], &mut x);
        assert_eq!(x, [-8, -7, -1, 7]);
        let mut x = [0u8; 4];
        unpack_u4(&[0x10, 0x32], &mut x);
        assert_eq!(x, [0, 1, 2, 3]);
    }

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut codes = vec![0u8; 512];
        unpack_u4(&bytes, &mut codes);
        assert_eq!(pack(&codes), bytes);
        let mut signed = vec![0i8; 512];
        unpack_i4(&bytes, &mut signed);
        assert_eq!(pack(&signed.iter().map(|&c| c as u8).collect::<Vec<_>>()), bytes);
        assert_eq!(pack(&[3]), [3]);
    }
}
