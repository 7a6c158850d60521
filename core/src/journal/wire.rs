//! Encodes numbers: LEB128 varints, little-endian floats, and a cursor that reads them.

/// Appends a number as a varint: seven bits per byte, the lowest first.
pub(super) fn put_varint(out: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Like [`put_varint`] for 128 bits: durations in nanoseconds need up to 94.
pub(super) fn put_varint_wide(out: &mut Vec<u8>, number: u128) {
    let mut rest = number;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a float with all its bits.
pub(super) fn put_f64(out: &mut Vec<u8>, number: f64) {
    out.extend_from_slice(&number.to_bits().to_le_bytes());
}

/// Reads numbers written by the functions above. `Err` is the fault.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn byte(&mut self) -> Result<u8, &'static str> {
        let byte = self.bytes.get(self.at).copied().ok_or("a record ends too early")?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn varint(&mut self) -> Result<u64, &'static str> {
        u64::try_from(self.varint_wide()?).map_err(|_| "a number of more than 64 bits")
    }

    pub(super) fn varint_wide(&mut self) -> Result<u128, &'static str> {
        let (mut number, mut shift) = (0_u128, 0);
        loop {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if shift >= 126 {
                return Err("a number that does not end");
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    /// Reads a varint and converts it to the type.
    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, &'static str> {
        T::try_from(self.varint()?).map_err(|_| "a number out of its range")
    }

    pub(super) fn f64(&mut self) -> Result<f64, &'static str> {
        let bytes = self.take(8)?;
        let bytes = bytes.try_into().map_err(|_| "a float has eight bytes")?;
        Ok(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let end = self.at.checked_add(len).ok_or("a length beyond memory")?;
        let bytes = self.bytes.get(self.at..end).ok_or("a record ends too early")?;
        self.at = end;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers at every length boundary are read back as written, and the cursor stops at their
    /// ends.
    #[test]
    fn numbers_come_back() {
        let mut numbers = vec![0, 1, u64::MAX];
        for bits in 1..64 {
            numbers.extend([(1_u64 << bits) - 1, 1 << bits, (1 << bits) + 1]);
        }
        for number in numbers {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(bytes.len(), (64 - number.leading_zeros()).max(1).div_ceil(7) as usize);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.varint(), Ok(number));
            assert!(cursor.is_at_end());
            assert!(Cursor::new(&bytes[..bytes.len() - 1]).varint().is_err());
        }
    }

    /// Values too long for their type are errors and never wrap.
    #[test]
    fn overlong_numbers_are_refused() {
        let mut bytes = Vec::new();
        put_varint_wide(&mut bytes, 1 << 64);
        assert!(Cursor::new(&bytes).varint().is_err());
        assert_eq!(Cursor::new(&bytes).varint_wide(), Ok(1 << 64));
        assert!(Cursor::new(&[0xff; 64]).varint_wide().is_err());
        assert!(Cursor::new(&[0x80, 0x02]).small::<u8>().is_err());
    }
}
