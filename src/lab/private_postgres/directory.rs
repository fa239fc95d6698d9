//! A server's directory: data, socket, logs. One per server, in the temp directory, and nobody else's to enter.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result, bail};

use super::{account::Account, watcher::clear_away};

const SOCKET: &str = ".s.PGSQL.5432";

/// `sun_path` has 104 bytes on macOS and 108 on Linux, with the closing zero.
const LONGEST_SOCKET_PATH: usize = 103;

/// A directory with its lock held. The lock is on the open directory itself and is shared by the owner and the
/// watcher: whoever can take it knows that both are gone.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) lock: File,
}

impl Directory {
    /// The temp directory, or `/tmp` where that is too deep for a socket or closed to the server's user.
    pub(super) fn create(account: &Account, programs: &Path) -> Result<Self> {
        let parents = [env::temp_dir(), PathBuf::from("/tmp")];
        let parent = parents
            .iter()
            .filter_map(|parent| absolute(parent).ok())
            .find(|parent| fits(parent, account))
            .with_context(|| {
                format!(
                    "neither {} nor /tmp can hold a PostgreSQL server: {} must be able to write there, and its path \
                     must be short and without quotes and dollar signs; set TMPDIR",
                    parents[0].display(),
                    account.name
                )
            })?;
        sweep(&parent, account, programs);
        for _ in 0..100 {
            if let Some(directory) = Self::try_create(&parent, account)
                .with_context(|| format!("cannot make a directory in {}", parent.display()))?
            {
                return Ok(directory);
            }
        }
        bail!("cannot make a directory in {}: something removes it each time", parent.display())
    }

    /// Writes a file into it, and hands both over to the server's user. In this order, and once: what belongs to another user may hold a
    /// link of theirs by any name, and root would write where it leads. Where it fails, nothing is left.
    pub(super) fn hand_over_with(&self, name: &str, text: &str, account: &Account) -> Result<()> {
        let path = self.path.join(name);
        let given = || -> io::Result<()> {
            // A name that is there already is refused, whatever it leads to.
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())?;
            hand_over(&file, account)?;
            hand_over(&self.lock, account)
        };
        given().with_context(|| {
            let _ = fs::remove_file(&path).and_then(|()| fs::remove_dir(&self.path));
            format!("cannot write {}", path.display())
        })
    }

    /// `None`: the name was taken, or the sweep of another process took the directory before it was locked.
    fn try_create(parent: &Path, account: &Account) -> io::Result<Option<Self>> {
        let path = parent.join(format!("{}{:08x}", prefix(account), rand::random::<u32>()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(e) => return Err(e),
        }
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if lock.try_lock().is_err() || !is_still_there(&path, &lock) {
            return Ok(None);
        }
        Ok(Some(Self { path, lock }))
    }
}

/// What is open here, whatever its name has become.
fn hand_over(file: &File, account: &Account) -> io::Result<()> {
    if account.dropped {
        fchown(file, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}

fn prefix(account: &Account) -> String {
    format!("noshi-pg-{}-", account.uid)
}

fn fits(parent: &Path, account: &Account) -> bool {
    let socket = parent.join(format!("{}{:08x}", prefix(account), 0)).join(SOCKET);
    let open_to_server = || {
        account
            .command("/bin/sh")
            .args(["-c", r#"test -d "$1" && test -w "$1" && test -x "$1""#, "sh"])
            .arg(parent)
            .status()
            .is_ok_and(|status| status.success())
    };
    let short = socket.as_os_str().len() <= LONGEST_SOCKET_PATH;
    // pg_ctl passes the path to a shell within double quotes.
    let plain = |text: &str| !text.contains(['"', '$', '`', '\\', '\n']);
    short && parent.to_str().is_some_and(plain) && open_to_server()
}

/// Removes what a crash of the machine, or a SIGKILL of owner and watcher at once, has left. What cannot be removed
/// stays: it is in nobody's way.
fn sweep(parent: &Path, account: &Account, programs: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix(account)));
        if !named {
            continue;
        }
        let path = entry.path();
        // Not through a link: anybody can put a name into a temp directory.
        let owned = fs::symlink_metadata(&path).is_ok_and(|it| it.is_dir() && it.uid() == account.uid);
        if !owned {
            continue;
        }
        let Ok(lock) = File::open(&path) else {
            continue;
        };
        if lock.try_lock().is_ok() && is_still_there(&path, &lock) {
            let serving = UnixStream::connect(path.join(SOCKET)).is_ok();
            let _ = clear_away(account, programs, &path, &lock, serving);
        }
    }
}

/// A path is a name, a lock is on the thing: they are compared once the lock is held.
fn is_still_there(path: &Path, lock: &File) -> bool {
    match (fs::symlink_metadata(path), lock.metadata()) {
        (Ok(named), Ok(locked)) => named.dev() == locked.dev() && named.ino() == locked.ino(),
        (Ok(_), Err(_)) | (Err(_), Ok(_) | Err(_)) => false,
    }
}
