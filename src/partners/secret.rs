//! Files that hold one secret each.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::vault;

/// The content of a file that holds one secret, without the line end.
pub(in crate::partners) fn secret(provider: &str, what: &str, file: &Path) -> anyhow::Result<SecretString> {
    let name = file.display();
    // Before it is read: a pipe that nobody feeds would be waited for.
    vault::check_permissions(file)
        .with_context(|| format!("the file {name} with the {what} of {provider} cannot be used as a secret"))?;
    let text = fs::read_to_string(file).with_context(|| format!("cannot read the {what} of {provider} from {name}"))?;
    let text = Zeroizing::new(text);
    let secret = text.trim_end_matches(['\r', '\n']);
    ensure!(!secret.is_empty(), "the file {name} with the {what} of {provider} is empty");
    // It goes into a header.
    let fits = secret.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(fits, "the file {name} with the {what} of {provider} must hold one line of printable ASCII without spaces");
    Ok(SecretString::from(secret))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_is_read_from_its_file_and_never_shown() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"s3cr3t\r\n").unwrap();
        let key = secret("test", "API key", file.path()).unwrap();
        assert_eq!(key.expose_secret(), "s3cr3t");
        assert!(!format!("{key:?}").contains("s3cr3t"));
        file.write_all(b"second line").unwrap();
        let error = secret("test", "API key", file.path()).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()) && !error.contains("s3cr3t"), "{error}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(secret("test", "API key", empty.path()).unwrap_err().to_string().contains("is empty"));
        let missing = format!("{:#}", secret("test", "API key", Path::new("/nowhere/key")).unwrap_err());
        assert!(missing.contains("/nowhere/key") && missing.contains("API key of test"), "{missing}");
    }

    /// A pipe that nobody feeds is refused, and not waited for; nor is a device read that never ends.
    #[cfg(unix)]
    #[test]
    fn a_secret_is_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let (told, answer) = (std::sync::mpsc::channel(), path.to_owned());
            std::thread::spawn(move || told.0.send(format!("{:#}", secret("x", "token", &answer).unwrap_err())));
            let error = told.1.recv_timeout(std::time::Duration::from_secs(5)).expect("an answer in time");
            assert!(error.contains("is no file but"), "{error}");
        }
    }

    /// As the vault's: what others may read, or belongs to somebody else, is no secret of ours.
    #[cfg(unix)]
    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "s3cret\n").unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = format!("{:#}", secret("x", "token", file.path()).map(|_| ()).unwrap_err());
            assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{mode:o}: {error}");
        }
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(secret("x", "token", file.path()).is_ok());
        // Only root can give it away.
        if rustix::process::geteuid().is_root() {
            chown(file.path(), Some(65_534), None).unwrap();
            let error = format!("{:#}", secret("x", "token", file.path()).map(|_| ()).unwrap_err());
            assert!(error.contains("belongs to user 65534"), "{error}");
        }
    }
}
