//! A part of a line: words and numbers that together have a bounded length.
//!
//! They are assembled in place, and the part is appended to the lines at once. Appending each word
//! and number separately takes more instructions.

/// The longest part is the counts and times of a JSON line: 130 bytes of words, 9 numbers of up to
/// 20 digits and 6 of 3 digits, 328 bytes in total.
const ROOM: usize = 400;

/// Room for a part.
#[derive(Debug)]
pub(super) struct Part {
    bytes: [u8; ROOM],
    len: usize,
}

impl Part {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; ROOM], len: 0 }
    }

    /// Begins another part.
    pub(super) const fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Adds a word of known length.
    pub(super) fn word<const N: usize>(&mut self, word: &[u8; N]) {
        if let Some(room) = self.take(N).and_then(|room| room.first_chunk_mut()) {
            *room = *word;
        }
    }

    /// Adds a number in decimal.
    pub(super) fn number(&mut self, number: u64) {
        match number {
            0..10 => self.word(&[digit(number)]),
            10..100 => self.word(&two_digits(number)),
            100..1000 => self.thousandths(number),
            _ => self.long_number(number),
        }
    }

    fn long_number(&mut self, mut number: u64) {
        let len = number.ilog10() as usize + 1;
        let Some(room) = self.take(len) else { return };
        let mut pairs = room.rchunks_exact_mut(2);
        for pair in &mut pairs {
            pair.copy_from_slice(&two_digits(number % 100));
            number /= 100;
        }
        if let [first] = pairs.into_remainder() {
            *first = digit(number);
        }
    }

    /// Adds the last three digits of a number.
    pub(super) fn thousandths(&mut self, number: u64) {
        let [tens, ones] = two_digits(number % 100);
        self.word(&[digit(number / 100 % 10), tens, ones]);
    }

    /// Takes room for `len` bytes. Every part is shorter than the room, as a test shows for the
    /// largest numbers.
    fn take(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = self.len + len;
        let room = self.bytes.get_mut(self.len..end);
        debug_assert!(room.is_some(), "the room is sufficient for the longest part");
        self.len = if room.is_some() { end } else { self.len };
        room
    }
}

/// The digit of a number below 10.
const fn digit(number: u64) -> u8 {
    b'0' + number as u8
}

/// The digits of a number below 100.
const fn two_digits(number: u64) -> [u8; 2] {
    [digit(number / 10), digit(number % 10)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers have all their digits and no others.
    #[test]
    fn numbers_are_exact() {
        let powers = (0..20).flat_map(|power| [10_u64.pow(power) - 1, 10_u64.pow(power)]);
        for number in powers.chain([7, 42, 305, 12_345, 67_890_123, u64::MAX - 1, u64::MAX]) {
            let mut part = Part::new();
            part.word(b"<");
            part.number(number);
            part.word(b">");
            assert_eq!(part.bytes(), format!("<{number}>").as_bytes());
        }
        for (number, text) in [(0, b"000"), (7, b"007"), (42, b"042"), (999, b"999")] {
            let mut part = Part::new();
            part.thousandths(number);
            assert_eq!(part.bytes(), text);
        }
    }
}
