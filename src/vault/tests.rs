use std::io::Write;

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

fn place<'a>(grant: &'a str, provider: &'a str, column: &'a str) -> Place<'a> {
    Place { grant, provider, column }
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
fn keys_are_rotated_by_rewrapping() {
    let old = vault(&[&line("old", 1)]);
    let new = vault(&["# newest first", "", &line("new", 2), &line("old", 1)]);
    let here = place("g1", "tango_card", "gift_code");
    let sealed = old.seal(&here, &CODE.into());
    assert!(!old.needs_rewrap(&sealed));
    assert!(new.needs_rewrap(&sealed));
    let wrapped = new.rewrap(&here, &sealed).unwrap();
    assert!(!new.needs_rewrap(&wrapped));
    assert_eq!(new.unseal(&here, &wrapped).unwrap().expose_secret(), CODE);
    assert!(new.rewrap(&place("g2", "tango_card", "gift_code"), &sealed).is_err());
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
    assert!(super::is_closed(0o440, root, us));
    for (mode, owner, we) in
        [(0o444, root, us), (0o460, root, us), (0o440, us, us), (0o440, root, root), (0o440, 7, us)]
    {
        assert!(!super::is_closed(mode, owner, we), "{mode:o} of {owner} for {we}");
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
