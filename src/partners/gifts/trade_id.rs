//! The id of a trade.

use sha2::{Digest, Sha256};

/// The id under which a provider knows one try to buy one grant: the same for the same grant and generation, wherever
/// and whenever it is computed. Letters and digits only, at most 33 of them: `prefix` (its first 5), 130 bits of the
/// grant's SHA-256 in Crockford's base 32, and the generation as two digits of base 36.
pub fn trade_id(prefix: &str, grant: &str, generation: u8) -> String {
    const BASE_32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const BASE_36: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let digest = Sha256::digest(grant.as_bytes());
    let bit = |at: usize| digest[at / 8] >> (7 - at % 8) & 1;
    let mut id: String = prefix.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
    for letter in 0..26 {
        let five = (0..5).fold(0, |five, at| five << 1 | bit(letter * 5 + at));
        id.push(char::from(BASE_32[usize::from(five)]));
    }
    for digit in [generation / 36, generation % 36] {
        id.push(char::from(BASE_36[usize::from(digit)]));
    }
    id
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::trade_id;

    #[test]
    fn trade_ids_are_the_same_everywhere_and_differ_by_grant_and_generation() {
        // SHA-256("abc") = ba7816bf 8f01cfea 414140de 5dae2223 b0…, computed elsewhere: this value may never change.
        assert_eq!(trade_id("Noshi", "abc", 0), "NoshiQ9W1DFWF077YMGA183F5VBH24E00");
        let mut seen = HashSet::new();
        for grant in 0..1000 {
            for generation in [0, 1, 35, 36, 255] {
                let id = trade_id("Noshi", &grant.to_string(), generation);
                assert!(id.len() == 33 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
                assert!(seen.insert(id));
            }
        }
        assert!(trade_id("", "付与/1", 255).ends_with("73"));
        assert!(trade_id("a-b_cdefg", "x", 0).starts_with("abcde"));
    }
}
