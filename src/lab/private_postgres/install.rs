//! The server programs are absent: install them (root on Debian and its kin) or say which command does.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::account::Account;

const DEBIAN: &str = "apt-get update && apt-get install -y --no-install-recommends postgresql";

const DEBIAN_VERSION: &str = "/etc/debian_version";

/// Read by the package when it is configured. Managed by ucf, which is told to keep the file that it finds.
const CLUSTER_CONF: &str = "/etc/postgresql-common/createcluster.conf";
const NO_CLUSTER: &str = "create_main_cluster = false\n";

/// Only root on Debian: elsewhere it takes a password, or a choice between sources, that is not ours to make.
pub(super) fn is_possible(server: &Account) -> bool {
    server.dropped && is_debian() && Path::new("/usr/bin/apt-get").exists()
}

/// One sentence, without its full stop.
pub(super) fn advice() -> String {
    if cfg!(target_os = "macos") {
        "Install them with `brew install postgresql@17`".to_owned()
    } else if is_debian() {
        format!("Install them with `sudo sh -c '{DEBIAN}'`")
    } else if Path::new("/usr/bin/dnf").exists() {
        "Install them with `sudo dnf install -y postgresql-server`".to_owned()
    } else {
        "Install your system's PostgreSQL server package".to_owned()
    }
}

fn is_debian() -> bool {
    Path::new(DEBIAN_VERSION).exists()
}

/// Blocks while another thread or process installs. Any file that every Debian has will do to hold the lock.
pub(super) fn turn() -> Result<File> {
    let file = File::open(DEBIAN_VERSION).and_then(|it| it.lock().map(|()| it));
    file.with_context(|| format!("cannot lock {DEBIAN_VERSION}"))
}

/// About 40 seconds. Standard output stays the caller's: what apt says goes to standard error.
pub(super) fn run() -> Result<()> {
    crate::basics::terminal::note!("noshi: no PostgreSQL server programs on this machine; installing them: {DEBIAN}");
    let no_cluster = NoCluster::ask();
    let outcome = Command::new("/bin/sh")
        .args(["-c", &format!("exec >&2; {DEBIAN}")])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("UCF_FORCE_CONFFOLD", "1")
        .stdin(Stdio::null())
        .status();
    no_cluster.take_back();
    let status = outcome.context("cannot run /bin/sh to install PostgreSQL")?;
    if !status.success() {
        bail!(
            "installing PostgreSQL failed ({status}); what apt-get said is above. Run it yourself: {DEBIAN}; \
             or set PG_BIN_DIR to the folder with initdb, pg_ctl and postgres"
        );
    }
    Ok(())
}

/// The Debian package makes and starts a cluster of its own on port 5432; nobody asked for one. Where its settings
/// are already there they are the administrator's, and stay.
struct NoCluster {
    written: bool,
}

impl NoCluster {
    fn ask() -> Self {
        let conf = Path::new(CLUSTER_CONF);
        if conf.exists() {
            return Self { written: false };
        }
        let written = conf.parent().is_some_and(|folder| fs::create_dir_all(folder).is_ok())
            && fs::write(conf, NO_CLUSTER).is_ok();
        Self { written }
    }

    /// A later `apt-get install postgresql-NN` by a person shall behave as documented, so the package's own file
    /// (which ucf has put beside ours) takes its place.
    fn take_back(self) {
        let ours = self.written && fs::read_to_string(CLUSTER_CONF).is_ok_and(|it| it == NO_CLUSTER);
        if !ours {
            return;
        }
        let packaged = format!("{CLUSTER_CONF}.ucf-dist");
        if fs::rename(packaged, CLUSTER_CONF).is_err()
            && let Err(e) = fs::remove_file(CLUSTER_CONF)
        {
            crate::basics::terminal::note!("noshi: {CLUSTER_CONF} could not be removed ({e}); it may be deleted");
        }
    }
}
