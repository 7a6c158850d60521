//! CRC-32 as in zip and PNG (reflected, polynomial 0x04c11db7): detects damage to a block, and
//! certainly any single flipped bit.
//!
//! It is not from a crate, because a table and a loop are smaller than a dependency. It runs on the
//! writer's thread.

/// The checksum of `parts`, one after the other.
pub(super) fn crc32(parts: [&[u8]; 2]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.into_iter().flatten() {
        crc = TABLE[usize::from((crc as u8) ^ byte)] ^ (crc >> 8);
    }
    !crc
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value in the catalogue of parametrised CRC algorithms, in one part and in two.
    #[test]
    fn has_the_published_check_value() {
        assert_eq!(crc32([b"123456789", b""]), 0xcbf4_3926);
        assert_eq!(crc32([b"1234", b"56789"]), 0xcbf4_3926);
        assert_eq!(crc32([b"", b""]), 0);
    }
}
