//! Request ids: the client's, or generated.
use crate::config::{RequestIdRules, TakeId};
use crate::mix::mixed;

/// Decides whose id a request gets, and generates ids.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    rules: RequestIdRules,
    /// The number of this instance. It determines the first half of each generated id.
    instance: u64,
    made: u64,
}

impl Ids {
    /// `seed` differs from instance to instance.
    pub(super) fn new(seed: u64) -> Self {
        Self { instance: mixed(seed), ..Self::default() }
    }

    pub(super) fn reconfigure(&mut self, rules: &RequestIdRules) {
        self.rules.clone_from(rules);
    }

    pub(crate) const fn rules(&self) -> &RequestIdRules {
        &self.rules
    }

    /// Whether the field with this name contains the id.
    pub(super) fn is_field(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.rules.field.as_str())
    }

    /// Whether the client's id is used: it must be valid, and the client must be allowed to choose
    /// it.
    pub(super) fn takes(&self, id: &[u8], is_trusted: bool) -> bool {
        let may_choose = match self.rules.take {
            TakeId::Any => true,
            TakeId::Trusted => is_trusted,
            TakeId::None => false,
        };
        may_choose && (1..=ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
    }

    /// Generates an id of 32 hexadecimal digits.
    pub(super) fn make(&mut self) -> [u8; 32] {
        self.made += 1;
        // Mixing is one to one, so the ids of one instance differ.
        let halves = [self.instance, mixed(self.instance ^ self.made)];
        let mut id = [0; 32];
        for (digits, half) in id.chunks_exact_mut(16).zip(halves) {
            digits[..8].copy_from_slice(&eight_digits(half >> 32));
            digits[8..].copy_from_slice(&eight_digits(half & 0xffff_ffff));
        }
        id
    }
}

/// Returns the eight hexadecimal digits of a number below 2^32. Computing them all at once saves
/// 150 instructions for each id.
const fn eight_digits(number: u64) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Each half byte moves to a byte of its own.
    let spread = (number | number << 16) & 0x0000_ffff_0000_ffff;
    let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    let halves = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte of a letter: 6 more than a letter's value reaches 16.
    let letters = (halves + 6 * ONES) >> 4 & ONES;
    (halves + b'0' as u64 * ONES + letters * (b'a' - 10 - b'0') as u64).to_be_bytes()
}

/// The maximum length of a client's id, characters.
const ID_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All ids of two instances differ, and are lower-case hexadecimal.
    #[test]
    fn ids_differ() {
        let mut ids = BTreeSet::new();
        for seed in [1, 2] {
            let mut instance = Ids::new(seed);
            ids.extend((0..1000).map(|_| instance.make()));
        }
        assert_eq!(ids.len(), 2000);
        assert!(ids.iter().flatten().all(u8::is_ascii_hexdigit));
        assert_eq!(ids.iter().filter(|id| id.iter().any(u8::is_ascii_uppercase)).count(), 0);
    }

    /// The digits are those of the standard library.
    #[test]
    fn digits_are_hexadecimal() {
        for number in [0, 9, 10, 15, 0x0123_4567, 0x89ab_cdef, 0xffff_ffff, 0x1000_0000] {
            assert_eq!(eight_digits(number), format!("{number:08x}").as_bytes());
        }
    }

    /// A client's id is used if the client may choose it and it is valid; row by row.
    #[test]
    fn ids_are_taken_by_the_rules() {
        let long = [b'x'; ID_MAX + 1];
        let rows: [(TakeId, bool, &[u8], bool); 10] = [
            (TakeId::Trusted, true, b"a", true),
            (TakeId::Trusted, false, b"a", false),
            (TakeId::Any, false, b"a", true),
            (TakeId::None, true, b"a", false),
            (TakeId::Any, true, b"", false),
            (TakeId::Any, true, b"a b", false),
            (TakeId::Any, true, b"a\xff", false),
            (TakeId::Any, true, b"~\"{}", true),
            (TakeId::Any, true, &long[..ID_MAX], true),
            (TakeId::Any, true, &long, false),
        ];
        for (take, is_trusted, id, expected) in rows {
            let mut ids = Ids::new(1);
            ids.reconfigure(&RequestIdRules { take, ..RequestIdRules::default() });
            assert_eq!(ids.takes(id, is_trusted), expected, "{take:?} {id:?}");
        }
    }
}
