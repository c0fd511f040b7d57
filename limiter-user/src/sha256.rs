//! SHA-256, for what has to be told apart or shown to be unchanged, and its text form. Secrets are compared elsewhere, in
//! constant time ([`access`](crate::access)).

/// Of all bytes.
pub(crate) fn of(bytes: &[u8]) -> [u8; 32] {
    finished(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// Of parts that cannot run into one another.
pub(crate) fn of_parts(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    finished(context.finish())
}

fn finished(digest: ring::digest::Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// Two digits for each byte, in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes from 64 digits, in lower case alone, so that each value is written in one way.
pub(crate) fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; 32];
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_256_and_back() {
        // FIPS 180-4, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&of(b"abc")), abc);
        assert_eq!(from_hex(abc), Some(of(b"abc")));
        for wrong in
            ["", &abc[2..], &abc[1..], &abc.to_uppercase(), &format!("{abc}00"), &abc.replace('a', "g")]
        {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn parts_do_not_run_into_one_another() {
        assert_ne!(of_parts(&[b"ab", b"c"]), of_parts(&[b"a", b"bc"]));
        assert_ne!(of_parts(&[b"abc"]), of_parts(&[b"abc", b""]));
    }
}
