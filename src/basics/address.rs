//! The address of an e-mail: one definition for what files take and what is sent to, so that nothing is taken that cannot be sent.

use idna::AsciiDenyList;

/// RFC 5321.
const LONGEST: usize = 254;
const LONGEST_NAME: usize = 64;

/// The address as mail carries it: a host beyond ASCII in Punycode, and a name with dots where the rules have none (some old addresses of
/// Japanese carriers) in quotes, which is the same mailbox. The error says what is wrong and repeats nothing.
pub fn sendable(text: &str) -> Result<String, &'static str> {
    let (name, host) = text.rsplit_once('@').ok_or("this is not an e-mail address: it has no @")?;
    let name = local_part(name)?;
    let host = idna::domain_to_ascii_cow(host.as_bytes(), AsciiDenyList::STD3)
        .map_err(|_| "this is not an e-mail address: what follows the @ is no name of a host")?;
    let label = |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    if !host.contains('.') || !host.split('.').all(label) {
        return Err("this is not an e-mail address: what follows the @ is no name of a host, such as example.jp");
    }
    if host.rsplit('.').next().is_some_and(|top| top.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("this is not an e-mail address: a name of a host follows the @, not a number");
    }
    let address = format!("{name}@{host}");
    if address.len() > LONGEST || address.parse::<lettre::Address>().is_err() {
        return Err("this is not an e-mail address that mail can be sent to");
    }
    Ok(address)
}

fn local_part(name: &str) -> Result<String, &'static str> {
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let unfit = "this is not an e-mail address: what stands before the @ holds a sign that mail does not carry there";
    if name.is_empty() {
        return Err("this is not an e-mail address: nothing stands before the @");
    }
    if name.len() > LONGEST_NAME {
        return Err("this is not an e-mail address: at most 64 bytes may stand before the @");
    }
    if let Some(quoted) = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        return if !quoted.is_empty() && quoted.bytes().all(fits) { Ok(name.to_owned()) } else { Err(unfit) };
    }
    if !name.bytes().all(|byte| atom(byte) || byte == b'.') {
        return Err(unfit);
    }
    let regular = name.split('.').all(|part| !part.is_empty());
    Ok(if regular { name.to_owned() } else { format!("\"{name}\"") })
}

#[cfg(test)]
mod tests {
    use super::sendable;

    /// What is taken, mail can carry: as it is, or in the one form that it carries.
    #[test]
    fn addresses_are_taken_as_they_are_sent_or_not_at_all() {
        for (text, sent) in [
            ("taro@example.jp", "taro@example.jp"),
            ("hana+1@mail.example.co.jp", "hana+1@mail.example.co.jp"),
            ("a..b.0511@docomo.ne.jp", "\"a..b.0511\"@docomo.ne.jp"),
            ("abc.@ezweb.ne.jp", "\"abc.\"@ezweb.ne.jp"),
            (".abc@ezweb.ne.jp", "\".abc\"@ezweb.ne.jp"),
            ("\"a..b\"@docomo.ne.jp", "\"a..b\"@docomo.ne.jp"),
            ("taro@日本語.jp", "taro@xn--wgv71a119e.jp"),
            ("taro@ｅｘａｍｐｌｅ.jp", "taro@example.jp"),
            ("taro@bücher.example", "taro@xn--bcher-kva.example"),
        ] {
            assert_eq!(sendable(text).as_deref(), Ok(sent), "{text}");
        }
        for text in [
            "",
            "@",
            "taro",
            "@example.jp",
            "taro@",
            "taro@@example.jp",
            "taro@example.jp,hana@example.jp",
            "taro@example",
            "taro＠example.jp",
            "<taro@example.jp>",
            "taro@example.jp;",
            "太郎@example.jp",
            "ä@example.jp",
            "taro@-bad-.jp",
            "mailto:taro@example.jp",
            "taro@example..jp",
            "taro@example.jp.",
            "taro@192.0.2.1",
            "taro@[192.0.2.1]",
            "ta ro@example.jp",
            "taro@exa mple.jp",
            "taro@example.jp\r\nBcc: x@example.jp",
            "\"\"@example.jp",
            "\"a\"b\"@example.jp",
            "ta\u{200b}ro@example.jp",
            "taro@例え。",
            "山田 太郎 <taro@example.jp>",
            "taro@example_x.jp",
        ] {
            assert!(sendable(text).is_err(), "{text} was taken");
        }
        assert!(sendable(&format!("{}@example.jp", "a".repeat(65))).is_err());
        assert!(sendable(&format!("a@{}.jp", "b".repeat(64))).is_err());
        assert!(sendable(&format!("a@{}jp", "bbbbbbbb.".repeat(40))).is_err());
        // Nothing changes when what is sent is read again.
        for text in ["a..b@docomo.ne.jp", "taro@日本語.jp", "taro@example.jp"] {
            let sent = sendable(text).unwrap();
            assert_eq!(sendable(&sent), Ok(sent.clone()));
        }
    }
}
