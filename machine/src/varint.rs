//! Integers of variable length.

/// A varint has this many bits of its number in each byte. A further bit says that more follow.
const VARINT_BITS: usize = 7;
const VARINT_MORE: u8 = 1 << VARINT_BITS;

/// Encodes a varint.
pub(crate) fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= u64::from(VARINT_MORE) {
        let bits = number % u64::from(VARINT_MORE);
        bytes.push(u8::try_from(bits).expect("seven bits fit into a byte") | VARINT_MORE);
        number >>= VARINT_BITS;
    }
    bytes.push(u8::try_from(number).expect("seven bits fit into a byte"));
}

/// Decodes a varint. Rejects overlong encodings, so that equal content has equal bytes.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(VARINT_BITS) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte % VARINT_MORE);
        // The last byte has room for fewer bits.
        if bits > u64::MAX >> shift || shift > 0 && *byte == 0 {
            return None;
        }
        number |= bits << shift;
        if byte & VARINT_MORE == 0 {
            return Some(number);
        }
    }
    None
}
