//! The random draws of one request: any number of independent draws from a single number.

/// The random draws of a request. A draw depends only on the request and the purpose, not on the
/// policy or on other draws.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) const fn new(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the draw for its work, from 0 up to but not including 1.
    pub(super) const fn service(self) -> f64 {
        unit(self.0)
    }

    /// Returns the draw for an error.
    pub(super) const fn error(self) -> f64 {
        unit(mix(self.0 ^ 0x4552_524f_5253))
    }

    /// Returns the draw for a late response.
    pub(super) const fn slow(self) -> f64 {
        unit(mix(self.0 ^ 0x534c_4f57))
    }

    /// Returns the draw for a response without work.
    pub(super) const fn door(self) -> f64 {
        unit(mix(self.0 ^ 0x444f_4f52))
    }

    /// Returns the draw for a cut response.
    pub(super) const fn cut(self) -> f64 {
        unit(mix(self.0 ^ 0x0043_5554))
    }

    /// Returns the draw for its class.
    pub(super) const fn class(self) -> f64 {
        unit(mix(self.0 ^ 0x0043_4c41_5353))
    }

    /// Returns the draw for its upload.
    pub(super) const fn upload(self) -> f64 {
        unit(mix(self.0 ^ 0x5550_4c4f_4144))
    }

    /// Returns the draw for its download.
    pub(super) const fn download(self) -> f64 {
        unit(mix(self.0 ^ 0x444f_574e_4c4f_4144))
    }

    /// Returns the draw for its client's patience.
    pub(super) const fn patience(self) -> f64 {
        unit(mix(self.0 ^ 0x5041_5449_454e_4345))
    }

    /// Returns the draw for its stream.
    pub(super) const fn stream(self) -> f64 {
        unit(mix(self.0 ^ 0x5354_5245_414d))
    }

    /// Returns the draw for its key.
    pub(super) const fn key(self) -> f64 {
        unit(mix(self.0 ^ 0x004b_4559))
    }

    /// Returns the draws of an attempt, numbered from 0. The first attempt has those of the
    /// request.
    pub(super) const fn attempt(self, number: u8) -> Self {
        if number == 0 { self } else { Self(mix(self.0 ^ (0x5245_5452 + number as u64))) }
    }

    /// Returns the index of its proxy among `count`.
    pub(super) const fn proxy(self, count: usize) -> usize {
        if count == 1 {
            return 0;
        }
        ((mix(self.0 ^ 0x0050_524f_5859) as u128 * count as u128) >> 64) as usize
    }
}

/// Derives a seed for one purpose.
pub(super) const fn derive(seed: u64, purpose: u64, index: u64) -> u64 {
    mix(mix(mix(seed) ^ purpose).wrapping_add(index))
}

/// Converts the upper 53 bits to a number from 0 up to but not including 1.
pub(super) const fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// One step of splitmix64 (Steele, Lea and Flood 2014): every input bit affects every output bit.
const fn mix(bits: u64) -> u64 {
    let mut z = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
