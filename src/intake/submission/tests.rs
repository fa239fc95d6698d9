use std::fs;

use noshi_jobs::{gift_issuance::Args, money::Currency};
use secrecy::ExposeSecret;

use crate::settings::Settings;
use crate::vault::SealedAt;

use super::*;

const HEADER: &str = "grant_id,user_id,name,email,category,provider,amount,currency,valid_days";

const CONFIG: &str = r#"
vault_key_file = "DIR/vault.key"
[gifts.amazon_incentives]
base_url = "http://127.0.0.1:1"
credentials = { partner_id = "Noshi", region = "us-west-2", access_key_id = "A", secret_key_file = "DIR/secret" }
ranges = [{ category = "amazon", currency = "JPY", min = 15, max = 5000 }]
[gifts.gift_on_demand]
base_url = "http://127.0.0.1:1"
credentials = { api_key_file = "DIR/secret" }
ranges = [
    { category = "coffee", currency = "JPY", min = 500, max = 500, product = "small" },
    { category = "convenience", currency = "JPY", min = 500, max = 1000, product = "snack" },
]
"#;

fn gifts() -> Offers {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let key = path("vault.key");
    fs::write(&key, crate::vault::generate_key_line().expose_secret()).unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path("secret"), "secret").unwrap();
    fs::write(path("noshi.toml"), CONFIG.replace("DIR", directory.path().to_str().unwrap())).unwrap();
    Settings::read(Some(&path("noshi.toml"))).unwrap().offers().unwrap()
}

fn rejected(bytes: impl AsRef<[u8]>) -> Vec<String> {
    let checked = check(FileKind::Grants, Encoding::Utf8, bytes.as_ref(), &gifts()).unwrap();
    assert!(!checked.faults.is_empty(), "no fault");
    let text = Rejected { file: "f.csv".to_owned(), faults: checked.faults }.to_string();
    let mut lines = text.lines().map(str::to_owned);
    assert_eq!(lines.next().as_deref(), Some("nothing of f.csv was written:"));
    lines.collect()
}

/// The rows of a good file.
fn taken(kind: FileKind, encoding: Encoding, bytes: &[u8]) -> Vec<Taken> {
    let gifts = gifts();
    assert_eq!(check(kind, encoding, bytes, &gifts).unwrap().faults, []);
    let mut reading = Reading::new(kind, encoding, bytes, Some(&gifts), "7".to_owned());
    let mut faults = vec![];
    assert!(reading.header(&mut faults));
    std::iter::from_fn(|| reading.next(&mut faults)).map(Option::unwrap).collect()
}

fn args(taken: &Taken) -> Args {
    serde_json::from_str(&taken.args).unwrap()
}

fn rows(rows: &str) -> Vec<String> {
    rejected(format!("{HEADER}\n{rows}\n"))
}

#[test]
fn a_good_file_is_read_to_the_letter() {
    let text = format!(
        "\u{feff}{HEADER}\r\n\
         G-1,U-1,山田太郎,taro@example.jp,amazon,,1000,JPY,90\r\n\
         \r\n\
         G-2,U-2,\"O'Neil, \"\"Jr.\"\"\",,convenience,gift_on_demand,500,JPY,"
    );
    let grants = taken(FileKind::Grants, Encoding::Utf8, text.as_bytes());
    let [first, second] = grants.as_slice() else { panic!("{} grants", grants.len()) };
    assert_eq!((first.line, second.line), (2, 4));
    let expected = Args {
        grant: "G-1".to_owned(),
        user: "U-1".to_owned(),
        category: "amazon".to_owned(),
        value: noshi_jobs::money::Money { amount: 1000, currency: Currency::Jpy },
        provider: None,
        valid_days: Some(90),
        area: None,
        paid_by: None,
    };
    assert_eq!(args(first), expected);
    assert_eq!(first.key, "G-1");
    assert_eq!(args(second).provider.as_deref(), Some("gift_on_demand"));
    assert_eq!(args(second).valid_days, None);
    let json = |grant: &Taken| grant.private.as_ref().unwrap().plain.expose_secret().to_owned();
    assert_eq!(json(first), r#"{"name":"山田太郎","email":"taro@example.jp"}"#);
    assert_eq!(json(second), r#"{"name":"O'Neil, \"Jr.\"","email":""}"#);
    let told = format!("{first:?}");
    assert!(!told.contains("山田") && !told.contains("example.jp"), "{told}");
}

#[test]
fn columns_may_come_in_any_order_and_the_optional_ones_not_at_all() {
    let text = "amount,currency,category,user_id,grant_id\n500,JPY,coffee,U-1,G-1\n";
    let grants = taken(FileKind::Grants, Encoding::Utf8, text.as_bytes());
    assert_eq!(args(&grants[0]).grant, "G-1");
    assert_eq!(args(&grants[0]).value.amount, 500);
    assert!(grants[0].private.is_none());
}

#[test]
fn a_bad_header_is_refused() {
    assert_eq!(rejected(""), ["f.csv line 1: the file is empty; its first line must name the columns"]);
    assert_eq!(rejected(format!("{HEADER}\n")), ["f.csv line 1: no row follows the header"]);
    let no_header = rejected("G-1,U-1,山田太郎,taro@example.jp,amazon,,1000,JPY,90\n").join("\n");
    assert!(no_header.starts_with("f.csv line 1: the first line must name the columns: grant_id,"), "{no_header}");
    assert!(!no_header.contains("山田") && !no_header.contains("taro"), "{no_header}");
    let typo = rejected("grant_id,user_id,category,amount,curency\n");
    assert!(
        typo[0].starts_with("f.csv line 1, field `curency`: column 5 is not known; there are grant_id,"),
        "{typo:?}"
    );
    assert_eq!(typo[1], "f.csv line 1, field `currency`: this column is missing");
    let twice = rejected("grant_id,user_id,category,amount,currency,amount\n");
    assert_eq!(twice, ["f.csv line 1, field `amount`: this column stands there twice"]);
}

#[test]
fn every_kind_of_bad_field_is_refused_with_its_line_and_name() {
    let long = "G".repeat(101);
    for (row, field, sentence) in [
        (",U,,,amazon,,1000,JPY,", "grant_id", "must not be empty"),
        ("G,,,,amazon,,1000,JPY,", "user_id", "must not be empty"),
        (&format!("{long},U,,,amazon,,1000,JPY,"), "grant_id", "has 101 bytes; at most 100 fit"),
        ("G\t1,U,,,amazon,,1000,JPY,", "grant_id", "control character"),
        ("exchange/G,U,,,amazon,,1000,JPY,", "grant_id", "belong to exchanges"),
        ("G,U,山\u{7}田,,amazon,,1000,JPY,", "name", "control character"),
        (" G,U,,,amazon,,1000,JPY,", "grant_id", "begins or ends with a space"),
        ("G\u{200b}1,U,,,amazon,,1000,JPY,", "grant_id", "a character that cannot be seen, U+200B"),
        ("G,U\u{202e},,,amazon,,1000,JPY,", "user_id", "a character that cannot be seen, U+202E"),
        (".,U,,,amazon,,1000,JPY,", "grant_id", "cannot be part of an address"),
        ("G,taro@example.jp,,,amazon,,1000,JPY,", "user_id", "looks like an address"),
        ("G,U,,taro,amazon,,1000,JPY,", "email", "not an e-mail address"),
        ("G,U,,,,,1000,JPY,", "category", "must not be empty"),
        ("G,U,,,tea,,1000,JPY,", "category", "nobody offers this category; there are amazon, coffee, convenience"),
        ("G,U,,,amazon,gift_on_demand,1000,JPY,", "category", "this provider does not offer the category; there are"),
        ("G,U,,,amazon,gods,1000,JPY,", "provider", "not known; there are amazon_incentives, gift_on_demand"),
        ("G,U,,,amazon,,5001,JPY,", "amount", "from 15 JPY to 5000 JPY, not of 5001 JPY"),
        ("G,U,,,coffee,,499,JPY,", "amount", "of 500 JPY, not of 499 JPY"),
        ("G,U,,,amazon,,500.5,JPY,", "amount", "`500.5` has a fraction, and JPY has none"),
        ("G,U,,,amazon,,\"1,000\",JPY,", "amount", "`1,000` is not an amount; write digits, such as 500"),
        ("G,U,,,amazon,,千円,JPY,", "amount", "this is not an amount; write digits, such as 500"),
        ("G,U,,,amazon,,,JPY,", "amount", "must not be empty"),
        ("G,U,,,amazon,,0,JPY,", "amount", "must be more than 0"),
        ("G,U,,,amazon,,-5,JPY,", "amount", "`-5` is not an amount"),
        ("G,U,,,amazon,,1000,jpy,", "currency", "not known; write JPY or USD"),
        ("G,U,,,amazon,,10,USD,", "currency", "offers `amazon` in JPY, not in USD"),
        ("G,U,,,amazon,,1000,JPY,0", "valid_days", "from 1 to 3650"),
        ("G,U,,,amazon,,1000,JPY,3651", "valid_days", "from 1 to 3650"),
        ("G,U,,,amazon,,1000,JPY,+3", "valid_days", "from 1 to 3650"),
        ("G,U,,,amazon,,1000,JPY,1.5", "valid_days", "from 1 to 3650"),
    ] {
        let faults = rows(row);
        let [fault] = faults.as_slice() else { panic!("{row}: {faults:?}") };
        assert!(fault.starts_with(&format!("f.csv line 2, field `{field}`: ")), "{row}: {fault}");
        assert!(fault.contains(sentence), "{row}: {fault}");
    }
}

#[test]
fn slipped_columns_do_not_bring_names_or_addresses_into_the_faults() {
    let faults = rows("G,U,amazon,1000,山田太郎,taro@example.jp,花子,hanako@example.jp,Yamada").join("\n");
    for personal in ["山田", "taro", "花子", "hanako", "Yamada"] {
        assert!(!faults.contains(personal), "{faults}");
    }
    assert!(faults.contains("field `email`") && faults.contains("field `currency`"), "{faults}");
}

#[test]
fn an_id_that_stands_there_twice_names_both_lines() {
    let faults = rows("G,U,,,amazon,,1000,JPY,\nH,U,,,amazon,,1000,JPY,\nG,U,,,amazon,,1000,JPY,");
    assert_eq!(faults, ["f.csv line 4, field `grant_id`: line 2 has the same id; an id names one row"]);
}

#[test]
fn lines_that_are_not_csv_are_refused_and_the_lines_behind_them_still_read() {
    let faults = rows(
        "G,U,,,amazon,,1000,JPY\n\
         H,U,\"山田,,amazon,,1000,JPY,\n\
         I,U,,,amazon,,\"50\"0,JPY,\n\
         J,U,a\"b,,amazon,,1000,JPY,\n\
         K,U,,,tea,,1000,JPY,",
    );
    assert_eq!(faults.len(), 5, "{faults:?}");
    assert_eq!(faults[0], "f.csv line 2: the line has 8 fields, and the header names 9");
    assert!(faults[1].starts_with("f.csv line 3: the quote of field 3 is not closed on this line"), "{}", faults[1]);
    assert_eq!(faults[2], "f.csv line 4: text follows the closing quote of field 7");
    assert!(faults[3].starts_with("f.csv line 5: field 3 has a quote in it"), "{}", faults[3]);
    assert!(faults[4].starts_with("f.csv line 6, field `category`"), "{}", faults[4]);
}

#[test]
fn the_encoding_is_named_or_utf_8() {
    let (shift_jis, _, _) = encoding_rs::SHIFT_JIS.encode("G,U,山田太郎,,amazon,,1000,JPY,\n");
    let bytes = [HEADER.as_bytes(), b"\nF,U,,,tea,,1000,JPY,\n", &*shift_jis].concat();
    let faults = rejected(bytes);
    assert!(faults[0].starts_with("f.csv line 2, field `category`"), "{faults:?}");
    assert!(
        faults[1].starts_with(
            "f.csv line 3: the line is not UTF-8 but looks like Shift_JIS; say so with `--encoding shift_jis`"
        ),
        "{faults:?}"
    );
    assert_eq!(faults.len(), 2);

    let faults = rejected([HEADER.as_bytes(), b"\nG,U,\xff\xfe,,amazon,,1000,JPY,\n"].concat());
    assert!(faults[0].starts_with("f.csv line 2: the line is not UTF-8; save the file as CSV UTF-8"), "{faults:?}");

    let (named, _, _) =
        encoding_rs::SHIFT_JIS.encode("grant_id,user_id,name,category,amount,currency\nG,U,表示太郎,amazon,1000,JPY\n");
    let rows = taken(FileKind::Grants, Encoding::ShiftJis, &named);
    assert!(rows[0].private.as_ref().unwrap().plain.expose_secret().contains("表示太郎"));
    let broken = check(FileKind::Grants, Encoding::ShiftJis, &b"grant_id\xff\n"[..], &gifts()).unwrap();
    assert!(broken.faults[0].sentence.contains("not Shift_JIS"), "{broken:?}");

    let utf_16: Vec<u8> = "\u{feff}grant_id".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(rejected(utf_16), ["f.csv line 1: the file is UTF-16; save it as CSV in UTF-8"]);
}

#[test]
fn an_endless_line_is_not_read_to_its_end() {
    let faults = rejected(format!("{HEADER}\n{}", "x".repeat(1_000_000)));
    assert_eq!(faults, ["f.csv line 2: the line is longer than 64 KiB; is this a CSV file?"]);
}

#[test]
fn twenty_faults_are_told_and_no_more() {
    let faults = rows(&"G,,,,,,1000,JPY,\n".repeat(100));
    assert_eq!(faults.len(), MAX_FAULTS + 1);
    assert_eq!(faults[MAX_FAULTS], "these are the first 20; there may be more");
}

#[test]
fn a_file_of_stores_is_read_and_its_faults_named() {
    let text = "organization_id,public_id,name,address,phone\norg-1,s-1,渋谷本店,東京都 1-2-3,03-0000-0000\norg-1,s-2,\"=1+1\",,\n";
    let rows = taken(FileKind::Stores, Encoding::Utf8, text.as_bytes());
    assert_eq!((rows[0].key.as_str(), rows[1].key.as_str()), ("org-1/s-1/7", "org-1/s-2/7"));
    let contact = rows[0].private.as_ref().unwrap();
    assert_eq!(contact.plain.expose_secret(), r#"{"address":"東京都 1-2-3","phone":"03-0000-0000"}"#);
    assert_eq!(contact.place(), SealedAt { grant: "s-1", provider: "", column: "contact" });
    assert!(rows[0].args.contains(r#""contact":"7/1""#) && !rows[0].args.contains("東京都"), "{}", rows[0].args);
    assert!(rows[1].private.is_none() && !rows[1].args.contains("contact"));
    let bad = "organization_id,public_id,name,phone\norg 1,s/1,,abc\norg-1,s-2,x,\norg-1,s-2,y,\n";
    let checked = check(FileKind::Stores, Encoding::Utf8, bad.as_bytes(), &gifts()).unwrap();
    let told: Vec<(u64, &str)> = checked.faults.iter().map(|f| (f.line, f.field.as_deref().unwrap())).collect();
    assert_eq!(told, [(2, "name"), (2, "organization_id"), (2, "public_id"), (2, "phone"), (4, "public_id")]);
}

#[test]
fn the_digest_is_of_the_whole_file_whatever_is_wrong_with_it() {
    for text in [format!("{HEADER}\n{}", "G,,,,,,1000,JPY,\n".repeat(100)), "x".repeat(1_000_000), String::new()] {
        let checked = check(FileKind::Grants, Encoding::Utf8, text.as_bytes(), &gifts()).unwrap();
        assert_eq!(checked.digest[..], Sha256::digest(text.as_bytes())[..]);
    }
}

#[test]
fn a_template_is_a_file_that_is_taken() {
    assert_eq!(taken(FileKind::Stores, Encoding::Utf8, FileKind::Stores.template().as_bytes()).len(), 1);
    assert_eq!(taken(FileKind::Grants, Encoding::Utf8, FileKind::Grants.template().as_bytes()).len(), 1);
}

#[test]
fn a_file_of_points_is_read_and_its_faults_named() {
    let text = "benefit,source,user_id,points,valid_days,area\nautumn,U-1,U-1,500,180,\nautumn,U-2,U-2,5,7,渋谷\n";
    let rows = taken(FileKind::Points, Encoding::Utf8, text.as_bytes());
    assert_eq!(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["autumn:U-1", "autumn:U-2"]);
    let args: serde_json::Value = serde_json::from_str(&rows[1].args).unwrap();
    assert_eq!(args["value"], serde_json::json!({"amount": 5, "currency": "PT"}));
    // What is staged reads as the job's own arguments.
    let job: noshi_jobs::point_grant::Args = serde_json::from_value(args).unwrap();
    assert_eq!((job.points, job.valid_days, job.area.as_deref()), (5, 7, Some("渋谷")));
    for (row, field, part) in [
        ("autumn,U-1,U-1,0,180,", "points", "from 1 to"),
        ("autumn,U-1,U-1,-5,180,", "points", "whole number"),
        ("autumn,U-1,U-1,1.5,180,", "points", "whole number"),
        ("autumn,U-1,U-1,99999999999999999999,180,", "points", "whole number"),
        ("autumn,U-1,U-1,5,,", "valid_days", "must not be empty"),
        ("autumn,U-1,U-1,5,x,", "valid_days", "whole number"),
        ("a:b,U-1,U-1,5,7,", "benefit", "colon"),
        ("autumn,taro@example.jp,U-1,5,7,", "source", "looks like an address"),
    ] {
        let bad = format!("benefit,source,user_id,points,valid_days,area\n{row}\n");
        let checked = check(FileKind::Points, Encoding::Utf8, bad.as_bytes(), &gifts()).unwrap();
        let told = checked.faults.iter().any(|f| f.field.as_deref() == Some(field) && f.sentence.contains(part));
        assert!(told, "{row}: {:?}", checked.faults);
    }
    let twice = "benefit,source,user_id,points,valid_days\nautumn,U-1,U-1,5,7\nautumn,U-1,U-2,5,7\n";
    let checked = check(FileKind::Points, Encoding::Utf8, twice.as_bytes(), &gifts()).unwrap();
    assert!(checked.faults[0].sentence.contains("line 2 has the same id"), "{:?}", checked.faults);
    assert_eq!(taken(FileKind::Points, Encoding::Utf8, FileKind::Points.template().as_bytes()).len(), 1);
}

/// A file says in its bytes what it is: what contradicts the encoding that was named, or for a file of another kind, is told.
#[test]
fn the_bytes_speak_against_the_encoding_that_was_named() {
    let text = "grant_id,user_id,name,category,amount,currency\nG,U,山田太郎,amazon,1000,JPY\n";
    let (euc_jp, _, _) = encoding_rs::EUC_JP.encode(text);
    let (shift_jis, _, _) = encoding_rs::SHIFT_JIS.encode(text);
    let (iso_2022_jp, _, _) = encoding_rs::ISO_2022_JP.encode(text);
    let marked = format!("\u{feff}{text}").into_bytes();
    let of = |bytes: &[u8], encoding| {
        let checked = check(FileKind::Grants, encoding, bytes, &gifts()).unwrap();
        checked.faults.into_iter().map(|fault| fault.sentence).collect::<Vec<_>>().join("; ")
    };
    let plain = |rest: &[u8]| [rest, b"\n"].concat();
    for (bytes, encoding, said) in [
        (&*euc_jp, Encoding::Utf8, "EUC-JP"),
        (&*euc_jp, Encoding::ShiftJis, "EUC-JP"),
        (&*iso_2022_jp, Encoding::Utf8, "ISO-2022-JP"),
        (&*iso_2022_jp, Encoding::ShiftJis, "ISO-2022-JP"),
        (text.as_bytes(), Encoding::ShiftJis, "the line is UTF-8"),
        (&*marked, Encoding::ShiftJis, "the mark of UTF-8"),
        (&*shift_jis, Encoding::Utf8, "looks like Shift_JIS"),
        (&plain(b"PK\x03\x04\x14\0\x06\0[Content_Types].xml"), Encoding::Utf8, "(.xlsx)"),
        (&plain(b"PK\x03\x04\x14\0\0\0Index/Document.iwa"), Encoding::Utf8, "(.numbers)"),
        (&plain(b"PK\x03\x04\x14\0\0\0other"), Encoding::Utf8, "zip"),
        (&plain(b"\xd0\xcf\x11\xe0\xa1\xb1"), Encoding::ShiftJis, "(.xls)"),
        (&plain(b"%PDF-1.7"), Encoding::Utf8, "PDF"),
        (&plain(b"\x1f\x8b\x08"), Encoding::Utf8, "gzip"),
        (&plain(b"<!DOCTYPE html>"), Encoding::Utf8, "HTML"),
    ] {
        let told = of(bytes, encoding);
        assert!(told.contains(said), "{said}: {told}");
        assert!(said != "EUC-JP" || !told.contains("--encoding shift_jis"), "{told}");
    }
    // What they are, they may be; half-width letters too.
    assert_eq!(of(text.as_bytes(), Encoding::Utf8), "");
    assert_eq!(of(&marked, Encoding::Utf8), "");
    assert_eq!(of(&shift_jis, Encoding::ShiftJis), "");
    let (half, _, _) =
        encoding_rs::SHIFT_JIS.encode("grant_id,user_id,name,category,amount,currency\nG,U,ﾔﾏﾀﾞ ﾀﾛｳ,amazon,1000,JPY\n");
    assert_eq!(of(&half, Encoding::ShiftJis), "");
    let (signs, _, _) = encoding_rs::SHIFT_JIS
        .encode("grant_id,user_id,name,category,amount,currency\nG,U,～①㈱髙﨑,amazon,1000,JPY\n");
    assert_eq!(of(&signs, Encoding::ShiftJis), "");
}

/// Nothing of an id is unseen, shortened by a spreadsheet, or written in two forms.
#[test]
fn ids_are_what_they_look_like() {
    for unseen in [
        "\u{ad}",
        "\u{34f}",
        "\u{61c}",
        "\u{115f}",
        "\u{180e}",
        "\u{2028}",
        "\u{2800}",
        "\u{3164}",
        "\u{fe0f}",
        "\u{ffa0}",
        "\u{fff9}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{e000}",
        "\u{378}",
        "\u{1d173}",
        "\u{e0041}",
        "\u{e0100}",
        "\u{a0}",
        "\u{3000}",
        "\u{2003}",
    ] {
        for id in [format!("G{unseen}1"), format!("{unseen}G"), format!("G{unseen}")] {
            let faults = rows(&format!("{id},U,,,amazon,,1000,JPY,"));
            let [fault] = faults.as_slice() else { panic!("{id:?}: {faults:?}") };
            assert!(fault.starts_with("f.csv line 2, field `grant_id`: "), "{id:?}: {fault}");
        }
    }
    for (id, said) in [("か\u{3099}", "NFC"), ("4.90123E+12", "shortened"), ("1E+05", "shortened")] {
        let faults = rows(&format!("G,{id},,,amazon,,1000,JPY,"));
        assert!(faults.len() == 1 && faults[0].contains("`user_id`") && faults[0].contains(said), "{id}: {faults:?}");
    }
    for id in ["が", "渋谷", "1E5", "E+1", "4.9.1E+2", "G-1/2:3", "é"] {
        assert_eq!(
            taken(FileKind::Grants, Encoding::Utf8, format!("{HEADER}\nG,{id},,,amazon,,1000,JPY,\n").as_bytes()).len(),
            1,
            "{id}"
        );
    }
}
