//! HTTP basic authentication (RFC 7617), checked.

/// Whether the header's value is `Basic` and this pair.
pub fn is(header: &str, user: &str, password: &str) -> bool {
    let given = header.strip_prefix("Basic ").and_then(decode);
    given.is_some_and(|given| given == format!("{user}:{password}").into_bytes())
}

/// Base64 with the standard alphabet, padding optional.
fn decode(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0u32);
    for letter in text.trim_end_matches('=').bytes() {
        let six = ALPHABET.iter().position(|known| *known == letter)?;
        bits = (bits << 6 | u32::try_from(six).ok()?) & 0xfff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::is;

    #[test]
    fn the_example_of_the_rfc() {
        assert!(is("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin", "open sesame"));
        assert!(is("Basic dGVzdDoxMjPCow==", "test", "123£"));
    }

    #[test]
    fn another_pair_or_scheme_is_not_it() {
        for wrong in ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Bearer dGVzdDoxMjPCow==", "Basic dGVzdDoxMjPC!w==", ""] {
            assert!(!is(wrong, "test", "123£"), "{wrong}");
        }
    }
}
