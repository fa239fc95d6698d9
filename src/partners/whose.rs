//! Whose fact an answer states. What follows from it follows for its owner alone: only an account's fact closes a lane, a recipient's holds
//! nobody else up, and a process's ends with the process. Each adapter's file opens with the table of its answers.

/// The owner of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This message, gift or shop: another may fare better.
    Message,
    /// Whoever it is for.
    Recipient,
    /// Our account, or the partner's whole service: the next call meets it too.
    Account,
    /// This process: its clock, its keys.
    Process,
    /// Nobody's: the way there, or something on it that answers in the partner's place.
    Network,
}

impl Whose {
    pub const fn name(self) -> &'static str {
        match self {
            Whose::Message => "message",
            Whose::Recipient => "recipient",
            Whose::Account => "account",
            Whose::Process => "process",
            Whose::Network => "network",
        }
    }
}

/// An answer, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict<T> {
    pub whose: Whose,
    pub means: T,
}

impl<T> Verdict<T> {
    pub const fn new(whose: Whose, means: T) -> Self {
        Verdict { whose, means }
    }
}

/// Draws the table at the top of an adapter's file from what its code does, or says that it is another.
#[cfg(test)]
pub fn assert_drawn(file: &str, rows: &[[String; 4]]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let source = std::fs::read_to_string(&path).unwrap();
    let mut table = "//! | asked | answer | whose fact | comes to |\n//! |---|---|---|---|\n".to_owned();
    for row in rows {
        table += &format!("//! | {} |\n", row.join(" | "));
    }
    if source.contains(&table) {
        return;
    }
    assert!(
        std::env::var_os("NOSHI_REDRAW").is_some(),
        "{file} does not open with this table; NOSHI_REDRAW=1 draws it:\n{table}"
    );
    let lines: Vec<&str> = source.lines().collect();
    let is_table = |line: &&str| line.starts_with("//! |") || *line == "//! TABLE";
    let first = lines.iter().position(is_table).expect("no line `//! TABLE` to replace");
    let last = lines.iter().rposition(is_table).unwrap();
    std::fs::write(&path, format!("{}\n{table}{}\n", lines[..first].join("\n"), lines[last + 1..].join("\n"))).unwrap();
}
