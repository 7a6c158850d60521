//! The luck of one request: as many independent draws as anything asks for, out of one number.

/// A request's luck. What a purpose draws depends on nothing but the request: not on the policy,
/// nor on what other purposes draw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) const fn new(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// How long its work is, from 0 up to and without 1.
    pub(super) const fn service(self) -> f64 {
        unit(self.0)
    }

    /// Whether it meets an error.
    pub(super) const fn error(self) -> f64 {
        unit(mix(self.0 ^ 0x4552_524f_5253))
    }

    /// Whether its answer is late.
    pub(super) const fn slow(self) -> f64 {
        unit(mix(self.0 ^ 0x534c_4f57))
    }

    /// Which of `count` proxies it comes to.
    pub(super) const fn proxy(self, count: usize) -> usize {
        if count == 1 {
            return 0;
        }
        ((mix(self.0 ^ 0x0050_524f_5859) as u128 * count as u128) >> 64) as usize
    }
}

/// A seed for one of many purposes.
pub(super) const fn derive(seed: u64, purpose: u64, index: u64) -> u64 {
    mix(mix(mix(seed) ^ purpose).wrapping_add(index))
}

/// The upper 53 bits as a number from 0 up to and without 1.
pub(super) const fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// One step of splitmix64 (Steele, Lea and Flood 2014): every bit moves every bit.
const fn mix(bits: u64) -> u64 {
    let mut z = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
