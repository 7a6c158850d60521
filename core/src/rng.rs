//! Random numbers from a seed: the same seed gives the same numbers in every version.
//!
//! The generator is not from a crate, because recordings depend on the stream: a crate that
//! improves its generator in a new version would make old recordings replay differently.

/// A small seeded generator: xoshiro256++ by Blackman and Vigna (public domain,
/// <https://prng.di.unimi.it/xoshiro256plusplus.c>). Its state is filled by their splitmix64.
///
/// Not suitable for secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A generator that yields the stream of this seed.
    pub fn new(seed: u64) -> Self {
        let mut counter = seed;
        // splitmix64 never yields four zeros in a row, the one state that xoshiro cannot leave.
        Self { state: [(); 4].map(|()| splitmix64(&mut counter)) }
    }

    /// The next 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number from 0 up to, but not including, `bound`; 0 when `bound` is 0.
    ///
    /// The high half of a 128-bit product (Lemire 2019, without the rejection step): its bias is
    /// below `bound / 2^64`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }

    /// A number from 0 up to, but not including, 1, in steps of 2^-53.
    pub const fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

const fn splitmix64(counter: &mut u64) -> u64 {
    *counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *counter;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arithmetic is as published: the first outputs from state 1, 2, 3, 4 are those of the
    /// authors' C program, and splitmix64 is checked from 0.
    #[test]
    fn follows_the_published_streams() {
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let expected = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        for number in expected {
            assert_eq!(rng.next_u64(), number);
        }
        let mut counter = 0;
        assert_eq!(splitmix64(&mut counter), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(&mut counter), 0x6e78_9e6a_a1b9_65f4);
    }

    /// Bounded draws stay in their range and reach both ends; a bound of 0 is harmless.
    #[test]
    fn draws_stay_in_range() {
        let mut rng = Rng::new(7);
        let mut seen = [0_u32; 3];
        for _ in 0..3000 {
            seen[rng.below(3) as usize] += 1;
            assert!((0.0..1.0).contains(&rng.unit()));
        }
        assert!(seen.iter().all(|count| (900..1100).contains(count)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }
}
