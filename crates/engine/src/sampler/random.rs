//! Uniform numbers by position: a counter run through a mixing function.

/// The stream of uniform numbers of a seed. Number n depends on seed and n alone, so a generation that is interrupted, moved or
/// replayed draws the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uniforms {
    state: u64,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Uniforms {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Uniforms {
        Uniforms { state: mix(seed.wrapping_add(GOLDEN)) }
    }

    /// The n-th number, in [0, 1), a multiple of 2⁻²⁴.
    pub fn at(&self, n: u64) -> f32 {
        let bits = mix(self.state.wrapping_add(n.wrapping_add(1).wrapping_mul(GOLDEN)));
        (bits >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_enough_and_below_one() {
        let uniforms = Uniforms::new(7);
        let mut buckets = [0usize; 16];
        for n in 0..160_000 {
            let u = uniforms.at(n);
            assert!((0.0..1.0).contains(&u));
            buckets[(u * 16.0) as usize] += 1;
        }
        // 10,000 expected in each; five standard deviations are 484.
        assert!(buckets.iter().all(|count| count.abs_diff(10_000) < 484), "{buckets:?}");
    }

    #[test]
    fn neighbouring_seeds_are_unrelated() {
        let near = (0..64).filter(|n| (Uniforms::new(0).at(*n) - Uniforms::new(1).at(*n)).abs() < 0.01).count();
        assert!(near < 8, "{near}");
        assert_eq!(Uniforms::new(3).at(5), Uniforms::new(3).at(5));
    }

    #[test]
    fn the_mixer_is_the_published_one() {
        // First output of SplitMix64 seeded with 0.
        assert_eq!(mix(GOLDEN), 0xE220_A839_7B1D_CDAF);
    }
}
