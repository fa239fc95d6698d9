//! What the server is told in postgresql.conf.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, bail};

/// How a private server is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A commit is on the disk before it is answered, as in production. `false` is for tests only: a commit is then
    /// with the operating system, which a crash of the server survives and a crash of the machine does not.
    pub durable: bool,
    pub max_connections: u16,
    /// In MB.
    pub shared_buffers: u32,
    /// Further lines of postgresql.conf, by name and plain value; they win over ours.
    pub extra: Vec<(String, String)>,
    /// What the server's processes have in their environment besides the search path. For tests.
    pub environment: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { durable: true, max_connections: 200, shared_buffers: 128, extra: Vec::new(), environment: Vec::new() }
    }
}

impl Settings {
    pub(super) fn lines(&self, directory: &Path) -> Result<String> {
        let on = |it: bool| (if it { "on" } else { "off" }).to_owned();
        let own = [
            ("listen_addresses", String::new()),
            ("port", "5432".to_owned()),
            ("unix_socket_directories", quoted_in_list(&directory.display().to_string())),
            ("unix_socket_permissions", "0700".to_owned()),
            ("max_connections", self.max_connections.to_string()),
            ("shared_buffers", format!("{}MB", self.shared_buffers)),
            ("fsync", on(self.durable)),
            // Also where nothing is synced: `off` would lose a third of a second when the server crashes.
            ("synchronous_commit", on(true)),
            ("full_page_writes", on(self.durable)),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("log_line_prefix", "%m [%p] ".to_owned()),
        ];
        let mut lines = String::new();
        let extra = self.extra.iter().map(|(name, value)| (name.as_str(), value));
        for (name, value) in own.iter().map(|(name, value)| (*name, value)).chain(extra) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
            if name.is_empty() || !name.chars().all(plain) {
                bail!("{name:?} is no name of a PostgreSQL setting");
            }
            if value.contains(['\n', '\r', '\0']) {
                bail!("the PostgreSQL setting {name} must be one line");
            }
            // Writing to a String does not fail.
            let _ = writeln!(lines, "{name} = '{}'", escaped(value));
        }
        Ok(lines)
    }
}

/// postgresql.conf knows both the doubled quote and C's backslashes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('\'', "''")
}

/// `unix_socket_directories` is a list: a comma or a space would end its item.
fn quoted_in_list(item: &str) -> String {
    format!("\"{}\"", item.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_values_that_postgresql_reads_back() {
        let settings = Settings { extra: vec![("log_line_prefix".into(), r"it's a\b".into())], ..Settings::default() };
        let lines = settings.lines(Path::new("/tmp/a, b")).unwrap();
        assert!(lines.ends_with("log_line_prefix = 'it''s a\\\\b'\n"), "{lines}");
        assert!(lines.contains("unix_socket_directories = '\"/tmp/a, b\"'\n"), "{lines}");
    }

    #[test]
    fn refuses_what_would_become_another_line() {
        for (name, value) in [("a", "1\nfsync = off"), ("a = 1\nb", "2"), ("", "1")] {
            let settings = Settings { extra: vec![(name.into(), value.into())], ..Settings::default() };
            assert!(settings.lines(Path::new("/tmp")).is_err(), "{name:?} {value:?}");
        }
    }
}
