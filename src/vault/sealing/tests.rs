use std::{fs, io::Write, time::Instant};

use super::*;

const CODE: &str = "CNRY-AAAAAA-BBBB";

fn file(lines: &[&str]) -> tempfile::NamedTempFile {
    // Created with mode 600.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.join("\n").as_bytes()).unwrap();
    file
}

fn vault(lines: &[&str]) -> Vault {
    Vault::open(file(lines).path()).unwrap()
}

fn line(id: &str, byte: u8) -> String {
    format!("{id}:{}", hex::encode([byte; 32]))
}

fn place<'a>(grant: &'a str, provider: &'a str, column: &'a str) -> SealedAt<'a> {
    SealedAt { grant, provider, column }
}

/// Everybody knows it, and it would seal for everybody.
#[test]
fn a_key_of_zeros_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("k1:{}\n", "00".repeat(32))).unwrap();
    let error = format!("{:#}", Vault::open(file.path()).unwrap_err());
    assert!(error.contains("is all zeros"), "{error}");
}

#[test]
fn what_was_sealed_opens_at_its_place_only() {
    let vault = vault(&[&line("a", 1)]);
    let here = place("g1", "tango_card", "gift_code");
    let sealed = vault.seal(&here, &CODE.into());
    assert_eq!(sealed.key_id, "a");
    assert_eq!(vault.unseal(&here, &sealed).unwrap().expose_secret(), CODE);
    for other in [
        place("g2", "tango_card", "gift_code"),
        place("g1", "gift_on_demand", "gift_code"),
        place("g1", "tango_card", "recipient"),
        // The same bytes in a row, cut elsewhere.
        place("g1t", "ango_card", "gift_code"),
    ] {
        let error = vault.unseal(&other, &sealed).unwrap_err().to_string();
        assert!(error.contains("does not open"), "{error}");
        assert!(!error.contains(CODE));
    }
    let again = vault.seal(&here, &CODE.into());
    assert_ne!((again.nonce, again.ciphertext), (sealed.nonce, sealed.ciphertext), "the nonce is fresh");
}

#[test]
fn a_changed_value_does_not_open() {
    let vault = vault(&[&line("a", 1)]);
    let here = place("g1", "tango_card", "gift_code");
    let sealed = vault.seal(&here, &CODE.into());
    for at in 0..sealed.ciphertext.len() {
        let mut changed = sealed.clone();
        changed.ciphertext[at] ^= 1;
        assert!(vault.unseal(&here, &changed).is_err());
    }
    let mut changed = sealed.clone();
    changed.nonce[0] ^= 1;
    assert!(vault.unseal(&here, &changed).is_err());
    changed.nonce.pop();
    assert!(vault.unseal(&here, &changed).unwrap_err().to_string().contains("23 bytes"));
    let mut cut = sealed.clone();
    cut.ciphertext.truncate(3);
    assert!(vault.unseal(&here, &cut).is_err());
}

#[test]
fn who_seals_cannot_open() {
    let vault = vault(&[&line("a", 1)]);
    let sealer = Sealer::parse(&vault.public_line()).unwrap();
    assert_eq!(sealer.public_line(), vault.public_line());
    let here = place("g1", "", "recipient");
    let sealed = sealer.seal(&here, &CODE.into());
    assert_eq!(vault.unseal(&here, &sealed).unwrap().expose_secret(), CODE);
    // All that it has, taken for the secret.
    let public = vault.public_line().replace(":pub:", ":");
    assert!(self::vault(&[&public]).unseal(&here, &sealed).is_err());
    assert!(!format!("{sealer:?}").contains(&public[2..]));
}

#[test]
fn values_that_are_sealed_together_share_a_key_and_nothing_else() {
    let vault = vault(&[&line("a", 1)]);
    let (one, two) = (place("g1", "", "recipient"), place("g2", "", "recipient"));
    let encapsulated = |sealed: &Sealed| sealed.ciphertext[..ENCAPSULATED].to_vec();
    let together = vault.begin();
    let (first, second) = (together.seal(&one, &CODE.into()), together.seal(&two, &CODE.into()));
    assert_eq!(encapsulated(&first), encapsulated(&second));
    assert_ne!(first.nonce, second.nonce);
    assert!(vault.unseal(&two, &first).is_err());
    for (place, sealed) in [(one, &first), (two, &second)] {
        assert_eq!(vault.unseal(&place, sealed).unwrap().expose_secret(), CODE);
    }
    let mut later = vault.seal(&one, &CODE.into());
    assert_ne!(encapsulated(&first), encapsulated(&later));
    // Under the key of others it does not open; nor under one that anybody can make up.
    for other in [encapsulated(&first), vec![9; ENCAPSULATED], vec![0; ENCAPSULATED]] {
        later.ciphertext[..ENCAPSULATED].copy_from_slice(&other);
        assert!(vault.unseal(&one, &later).is_err());
    }
    assert_eq!(vault.keys[0].agreed.lock().unwrap().len(), 1, "what did not open is remembered");
}

/// Permanent: what is in databases opens by whatever version.
#[test]
fn a_value_of_this_format_opens_for_ever() {
    let vault = vault(&[&line("a", 1)]);
    let hex = |digits: &str| hex::decode(digits).unwrap();
    let sealed = Sealed {
        key_id: "a".to_owned(),
        nonce: hex("89dfce0bfc13ea0afe2bc30d15a700b66d11248a096fe516"),
        ciphertext: hex(concat!(
            "9332293c2ec3736e7181ffd35031a120b16ff2cbfcf0ad31a9185055bc565725",
            "987da86d91aa9458318f2181c7df4603568179e2ba66cf2eb3430f6ad50ce8f0"
        )),
    };
    let here = place("g1", "tango_card", "gift_code");
    assert_eq!(vault.unseal(&here, &sealed).unwrap().expose_secret(), CODE);
    assert_eq!(vault.public_line(), "a:pub:a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209");
}

/// Made by a build that had no public keys.
#[test]
fn values_of_the_format_before_open_for_ever() {
    let vault = vault(&[&line("b", 2), &line("a", 1)]);
    let sealed = |nonce: &str, ciphertext: &str| Sealed {
        key_id: "a".to_owned(),
        nonce: hex::decode(nonce).unwrap(),
        ciphertext: hex::decode(ciphertext).unwrap(),
    };
    let code = sealed(
        "2b5dfce1050f91b5ebe6949e8ceffcea1179cb90513dda09",
        "94d56390361dbaefbd2dfd3bae1f5897e8d44a83c9d51caf6a1ca12c03f2d608",
    );
    let here = place("g1", "tango_card", "gift_code");
    assert_eq!(vault.unseal(&here, &code).unwrap().expose_secret(), CODE);
    for elsewhere in [place("g2", "tango_card", "gift_code"), place("g1", "tango_card", "recipient")] {
        assert!(vault.unseal(&elsewhere, &code).is_err());
    }
    let chunk = sealed(
        "d108972f365c1938cc9ebbc264fd6c36cf0a7249b331ba08",
        "cd54733793859992d6b9cac94891051dfa04848a2f30ad0b8fe80359fcfec7ab",
    );
    assert_eq!(*vault.open_bytes(&SealedAt::of_chunk("7/0"), &chunk).unwrap(), CODE.as_bytes());
    let rewrapped = vault.rewrap(&vault.begin(), &here, &code).unwrap();
    assert_eq!((rewrapped.key_id.as_str(), vault.unseal(&here, &rewrapped).unwrap().expose_secret()), ("b", CODE));
    assert_eq!(
        hex::encode(vault.digests(&"hana@example.jp".into())[1]),
        "6963f3868a5995b904625af9299c233be5b3f91d9b32022c210fb37a5671b9bf"
    );
}

#[test]
fn what_a_vault_remembers_is_bounded() {
    let vault = vault(&[&line("a", 1)]);
    let here = place("g1", "", "recipient");
    let first = vault.seal(&here, &CODE.into());
    vault.unseal(&here, &first).unwrap();
    for n in 0..REMEMBERED {
        let mut made_up = [7; ENCAPSULATED];
        made_up[..8].copy_from_slice(&n.to_be_bytes());
        vault.keys[0].agreed.lock().unwrap().insert(made_up, ValueKey::default());
    }
    let second = vault.seal(&here, &CODE.into());
    for sealed in [&second, &first] {
        assert_eq!(vault.unseal(&here, sealed).unwrap().expose_secret(), CODE);
    }
    assert_eq!(vault.keys[0].agreed.lock().unwrap().len(), 2);
}

#[test]
fn an_answer_is_sealed_to_who_asked() {
    let (asker, other) = (Vault::ephemeral(), Vault::ephemeral());
    let here = place("1", "", "answer");
    let sealed = Sealer::parse(&asker.public_line()).unwrap().seal_bytes(&here, b"bytes");
    assert_eq!(asker.open_bytes(&here, &sealed).unwrap().as_slice(), b"bytes");
    assert!(other.open_bytes(&here, &sealed).is_err());
}

/// Numbers to look at, of an unoptimized build.
#[test]
fn the_cost_is_told() {
    let vault = vault(&[&line("a", 1)]);
    let here = place("g1", "", "recipient");
    let rounds = 50;
    let time = |what: &str, run: &mut dyn FnMut()| {
        let began = Instant::now();
        (0..rounds).for_each(|_| run());
        println!("{what}: {:?}", began.elapsed() / rounds);
    };
    let together = vault.begin();
    time("sealing alone", &mut || drop(vault.seal(&here, &CODE.into())));
    time("sealing together", &mut || drop(together.seal(&here, &CODE.into())));
    let apart: Vec<Sealed> = (0..rounds).map(|_| vault.seal(&here, &CODE.into())).collect();
    let mut next = apart.iter();
    time("opening what was sealed alone", &mut || drop(vault.unseal(&here, next.next().unwrap()).unwrap()));
    let one = together.seal(&here, &CODE.into());
    time("opening what was sealed together", &mut || drop(vault.unseal(&here, &one).unwrap()));
}

#[test]
fn keys_are_rotated_by_rewrapping() {
    let old = vault(&[&line("old", 1)]);
    let new = vault(&["# newest first", "", &line("new", 2), &line("old", 1)]);
    let here = place("g1", "tango_card", "gift_code");
    let sealed = old.seal(&here, &CODE.into());
    assert!(!old.needs_rewrap(&sealed));
    assert!(new.needs_rewrap(&sealed));
    let wrapped = new.rewrap(&new.begin(), &here, &sealed).unwrap();
    assert!(!new.needs_rewrap(&wrapped));
    assert_eq!(new.unseal(&here, &wrapped).unwrap().expose_secret(), CODE);
    assert!(new.rewrap(&new.begin(), &place("g2", "tango_card", "gift_code"), &sealed).is_err());
    let error = old.unseal(&here, &wrapped).unwrap_err().to_string();
    assert!(error.contains("the key `new`"), "{error}");
    // The right id over another key opens nothing.
    let liar = vault(&[&line("new", 3)]);
    assert!(liar.unseal(&here, &wrapped).is_err());
}

#[test]
fn a_bad_key_file_is_refused_without_showing_it() {
    let digits = hex::encode([7; 32]);
    for (lines, says) in [
        (vec![String::new()], "holds no key"),
        (vec![digits.clone()], "line 1"),
        (vec![format!("a:{}", &digits[1..])], "line 1"),
        (vec![format!("a b:{digits}")], "line 1"),
        (vec![format!(":{digits}")], "line 1"),
        (vec![format!("a:{digits}"), "a:".to_owned()], "line 2"),
        (vec![format!("a:{digits}"), format!("a:{digits}")], "twice"),
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let error = format!("{:#}", Vault::open(file(&lines).path()).unwrap_err());
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("0707"), "{error}");
    }
    let missing = format!("{:#}", Vault::open(Path::new("/nowhere/keys")).unwrap_err());
    assert!(missing.contains("/nowhere/keys"), "{missing}");
}

#[test]
fn a_public_key_file_seals_with_its_first_key() {
    let secret = vault(&[&line("new", 2), &line("old", 1)]);
    let mut lines = vec!["# newest first".to_owned(), String::new()];
    lines.extend(secret.public_lines());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let sealer = Sealer::open(file(&lines).path()).unwrap();
    assert_eq!((sealer.current_key(), secret.current_key()), ("new", "new"));
    let here = place("g1", "", "recipient");
    assert_eq!(secret.unseal(&here, &sealer.seal(&here, &CODE.into())).unwrap().expose_secret(), CODE);
}

#[test]
fn a_bad_public_key_file_is_refused_by_its_line() {
    let (good, digits) = (vault(&[&line("a", 7)]).public_line(), hex::encode([7; 32]));
    for (lines, says) in [
        (vec![String::new()], "holds no key"),
        (vec![good.clone(), format!("b:pub:{}", &digits[1..])], "line 2"),
        (vec!["# newest".to_owned(), format!("a b:pub:{digits}")], "line 2"),
        (vec![format!("b:{}", &digits[1..])], "line 1"),
        (vec![good.clone(), format!("b:pub:{}", hex::encode([0; 32]))], "line 2"),
        // A file with secrets, from where others may read it.
        (vec![good, format!("a:{digits}")], "line 2 of the public key file"),
        (vec![format!("a:{digits}")], "is a secret key"),
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let error = format!("{:#}", Sealer::open(file(&lines).path()).unwrap_err());
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("0707"), "{error}");
    }
    let missing = format!("{:#}", Sealer::open(Path::new("/nowhere/keys")).unwrap_err());
    assert!(missing.contains("/nowhere/keys"), "{missing}");
}

#[test]
fn a_public_key_file_is_no_key_file() {
    let public = vault(&[&line("a", 7)]).public_line();
    let error = format!("{:#}", Vault::open(file(&[&public]).path()).unwrap_err());
    assert!(error.contains("line 1") && error.contains("vault_public_key_file"), "{error}");
}

/// Whoever could put another key there would be sealed to.
#[cfg(unix)]
#[test]
fn a_public_key_file_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let file = file(&[&vault(&[&line("a", 1)]).public_line()]);
    for (mode, taken) in [(0o644, true), (0o440, true), (0o664, false), (0o646, false)] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let opened = Sealer::open(file.path());
        assert_eq!(opened.is_ok(), taken, "{mode:o}");
        assert!(opened.map_or_else(|error| format!("{error:#}").contains("chmod go-w"), |_| true));
    }
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let file = file(&[&line("a", 1)]);
    for mode in [0o640, 0o604, 0o620, 0o602] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = format!("{:#}", Vault::open(file.path()).unwrap_err());
        assert!(error.contains("chmod 600") && error.contains(&format!("{mode:03o}")), "{error}");
    }
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o400)).unwrap();
    assert!(Vault::open(file.path()).is_ok());
}

#[cfg(unix)]
#[test]
fn a_key_file_that_root_hands_to_our_group_is_taken() {
    let (root, us) = (0, 65_532);
    assert!(crate::vault::files::is_closed(0o440, root, us));
    for (mode, owner, we) in
        [(0o444, root, us), (0o460, root, us), (0o440, us, us), (0o440, root, root), (0o440, 7, us)]
    {
        assert!(!crate::vault::files::is_closed(mode, owner, we), "{mode:o} of {owner} for {we}");
    }
}

#[test]
fn a_generated_line_opens_and_differs_each_time() {
    let (a, b) = (generate_key_line(), generate_key_line());
    assert_ne!(a.expose_secret(), b.expose_secret());
    let vault = vault(&[a.expose_secret(), b.expose_secret()]);
    let here = place("g1", "tango_card", "gift_code");
    let sealed = vault.seal(&here, &CODE.into());
    assert!(a.expose_secret().starts_with(&format!("{}:", sealed.key_id)));
    assert_eq!(vault.unseal(&here, &sealed).unwrap().expose_secret(), CODE);
}

#[test]
fn debug_shows_nothing() {
    let digits = hex::encode([7; 32]);
    let vault = vault(&[&format!("a:{digits}")]);
    assert_eq!(format!("{vault:?}"), "Vault(..)");
    assert!(!format!("{:?}", generate_key_line()).contains(':'));
}
