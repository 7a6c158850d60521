//! Mixes bits, so that similar numbers yield dissimilar results.

/// Mixes the bits of a number, one to one: each bit of the result depends on every bit of the
/// number (a step of splitmix64, Steele, Lea and Flood 2014).
pub(crate) const fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}
