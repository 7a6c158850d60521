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

    /// Returns the draw for its work, from 0 up to and without 1.
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

    /// Whether it is answered at the door.
    pub(super) const fn door(self) -> f64 {
        unit(mix(self.0 ^ 0x444f_4f52))
    }

    /// Whether its response is cut.
    pub(super) const fn cut(self) -> f64 {
        unit(mix(self.0 ^ 0x0043_5554))
    }

    /// Its class.
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

    /// The luck of its attempt of this number, from 0: its own for the first one.
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
