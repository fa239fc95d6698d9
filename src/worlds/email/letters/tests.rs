use secrecy::ExposeSecret;

use super::*;

const LINK: &str = "https://example.jp/gifts/{reference}?from=mail";

fn letters() -> Letters {
    Letters::open(LINK, None).unwrap()
}

fn args(reference: &str, category: &str) -> Args {
    let mut args = sample(Template::GiftGranted);
    args.reference = reference.to_owned();
    args.params.insert("category".to_owned(), category.to_owned());
    args
}

fn parts(rendered: &Rendered) -> [&str; 3] {
    [&rendered.subject, &rendered.text, &rendered.html].map(|part| part.expose_secret())
}

#[test]
fn a_message_greets_names_the_gift_and_leads_to_it() {
    let rendered = letters().render(&args("付与/1&a=b", "Amazonギフト"), Some("山田太郎")).unwrap();
    let [subject, text, html] = parts(&rendered);
    assert_eq!(subject, "ギフトが届きました（Amazonギフト 1,000円）");
    let link = "https://example.jp/gifts/%E4%BB%98%E4%B8%8E%2F1%26a%3Db?from=mail";
    assert!(text.starts_with("山田太郎 様\n") && text.contains(&format!("\n{link}\n")) && text.contains("1,000円"));
    assert!(html.contains("<p>山田太郎 様</p>") && html.contains("%2F1%26a%3Db"));
    let nameless = letters().render(&args("g", "x"), None).unwrap();
    assert!(parts(&nameless)[1].starts_with("お客 様"));
}

#[test]
fn no_value_becomes_markup_or_a_header() {
    let evil = "<script>alert(1)</script>\r\nBcc: evil@example.jp\n\n{{ link }}";
    let rendered = letters().render(&args("g", evil), Some(evil)).unwrap();
    let [subject, text, html] = parts(&rendered);
    assert!(!subject.contains(['\r', '\n']) && subject.contains("Bcc: evil"));
    assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
    assert!(text.lines().all(|line| !line.starts_with("Bcc:")));
    // A value is no template.
    assert!(text.contains("{{ link }}"));
    for separator in ["\u{2028}", "\u{85}", "\u{b}", "\0", "\u{7f}"] {
        assert_eq!(one_line(&format!("a{separator}b")), "a b");
    }
}

#[test]
fn a_template_of_ones_own_replaces_and_a_broken_one_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let open = || Letters::open(LINK, Some(folder.path()));
    write("gift_granted.subject.txt", "{{ name }}様へ\n");
    let rendered = open().unwrap().render(&args("g", "x"), Some("花子")).unwrap();
    assert_eq!(parts(&rendered)[0], "花子様へ");
    for (broken, problem) in [("{{ nmae }}", "cannot be rendered"), ("{{ name", "cannot be used"), (" \n", "empty")] {
        write("gift_granted.subject.txt", broken);
        let error = format!("{:#}", open().err().unwrap());
        assert!(error.contains(problem) && error.contains("gift_granted"), "{error}");
    }
}

#[test]
fn a_link_must_be_one() {
    for link in ["https://example.jp/", "{reference}", "ftp://example.jp/{reference}", "https://a:b@c/{reference}"] {
        assert!(Letters::open(link, None).is_err(), "{link}");
    }
}

#[test]
fn yen_are_written_as_people_do() {
    let said = ["0 JPY", "999 JPY", "1000 JPY", "1234567 JPY", "10.50 USD", "x JPY"].map(spoken);
    assert_eq!(said, ["0円", "999円", "1,000円", "1,234,567円", "10.50 USD", "x JPY"]);
}
