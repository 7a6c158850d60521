//! SHA-256 (FIPS 180-4) in Base64, the form in which a Content-Security-Policy names a script. It
//! guards no secret: the browser compares it with its own.

/// Returns the SHA-256 of a text in Base64.
pub(crate) fn hash_base64(text: &str) -> String {
    base64(&sha256(text.as_bytes()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((bytes.len() as u64 * 8).to_be_bytes());
    let (mut state, constants) = (fractions(2, 8), fractions(3, 64));
    for block in padded.chunks_exact(64) {
        add_block(&mut state, &constants, block);
    }
    let mut digest = [0; 32];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn add_block(state: &mut [u32], constants: &[u32], block: &[u8]) {
    let mut words: Vec<u32> = block
        .chunks_exact(4)
        .map(|bytes| bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
        .collect();
    for at in 16..64 {
        let (early, late) = (words[at - 15], words[at - 2]);
        let low = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
        let high = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
        words.push(words[at - 16].wrapping_add(low).wrapping_add(words[at - 7]).wrapping_add(high));
    }
    let mut round = [0; 8];
    round.copy_from_slice(state);
    for (word, constant) in words.iter().zip(constants) {
        let [a, b, c, d, e, f, g, h] = round;
        let mix = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let first =
            h.wrapping_add(mix).wrapping_add(choice).wrapping_add(*constant).wrapping_add(*word);
        let mix = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let second = mix.wrapping_add(majority);
        round = [first.wrapping_add(second), a, b, c, d.wrapping_add(first), e, f, g];
    }
    for (word, add) in state.iter_mut().zip(round) {
        *word = word.wrapping_add(add);
    }
}

/// Returns the first 32 bits of the fractions of the roots of the first primes, which are the
/// constants of SHA-256: square roots for the state, cube roots for the rounds.
fn fractions(root: u32, count: usize) -> Vec<u32> {
    let is_prime = |number: &u128| (2..*number).all(|divisor| !number.is_multiple_of(divisor));
    let primes = (2..).filter(is_prime).take(count);
    let of_prime = |prime: u128| {
        // The largest number whose power is at most prime * 2^(32 * root): its low bits are the
        // fraction.
        let most = prime << (32 * root);
        let (mut low, mut high) = (0_u128, 1 << 37);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if middle.pow(root) <= most { low = middle } else { high = middle }
        }
        low as u32
    };
    primes.map(of_prime).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*group.get(at).unwrap_or(&0)));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            let is_filler = digit > group.len();
            text.push(if is_filler { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of FIPS 180-4, and lengths on both sides of a block's end, as `openssl dgst
    /// -sha256` has them.
    #[test]
    fn known_texts_have_their_hash() {
        assert_eq!(hash_base64("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        let rows = [
            (0, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
            (3, "mDSHbc+wXLFnpcJJU+uljErImxrfV/KPL50JrxB+6PA="),
            (55, "n0OQ+NMMLdkuyfCVtl4rmumwqSWlJY4kHJ8ekQ9zQxg="),
            (56, "s1Q5pKxvCUi21vnjxq8PX1kM4g8b3nCQ73lwaG7Gc4o="),
            (63, "fT50oF19sVvOStnsBljqmOPwbu7PFrTG//LaRX3cLzQ="),
            (64, "/+BU/nrgy23GXDr5th1SCfQ5hR20PQulmXM33xVGaOs="),
            (119, "MeulHDE6XAgiat8Y1KNZz9/Y0ugWsT9K+VL36mWE3Ps="),
            (120, "Lz0zVDLHC1gK8Ojhs2dKfAINaDql9zqq7f3FWvkEwhw="),
        ];
        for (length, expected) in rows {
            assert_eq!(hash_base64(&"a".repeat(length)), expected, "{length}");
        }
    }
}
