//! Intake: a CSV file of grants becomes jobs, all of them or none.
//!
//! The whole file is checked before anything is written, and every fault found (20 at most) is told with its line. Each
//! grant's id is its job's key, so the same file again means the same jobs. Names and addresses are sealed here, and go
//! nowhere else: no sentence below repeats what a field holds, since a row whose columns slipped has them anywhere.
//!
//! ```text
//! grant_id,user_id,name,email,category,provider,amount,currency,valid_days
//! G-1,U-7,山田太郎,taro@example.jp,amazon,,1000,JPY,90
//! ```
//! The header names the columns, in any order; `name`, `email`, `provider` and `valid_days` may be empty or absent.

mod checks;
mod lines;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, io::BufRead};

use anyhow::{Context, bail};
use noshi_jobs::{
    Kind,
    gift_issuance::{Args, GiftIssuance, Sealed},
    machine::Job,
};
use secrecy::SecretString;
use sqlx::PgPool;

use self::{
    checks::{Checks, Header},
    lines::Lines,
};
use crate::{
    gifts::Gifts,
    store,
    vault::{Place, Vault},
};

/// Faults told at once.
pub const MOST_FAULTS: usize = 20;
/// Rows of one file: it is one transaction, and whoever waits for its locks waits for all of it.
pub const MOST_ROWS: usize = 200_000;

/// A checked row.
#[derive(Debug)]
pub struct Grant {
    /// Of the file, from 1; the header is line 1.
    pub line: u64,
    pub args: Args,
    /// Name and address as JSON, if the row has either.
    pub recipient: Option<SecretString>,
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub line: u64,
    pub field: Option<String>,
    pub sentence: String,
}

/// Why a file was not taken. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub file: String,
    pub faults: Vec<Fault>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing of {} was written:", self.file)?;
        for Fault { line, field, sentence } in &self.faults {
            write!(f, "\n{} line {line}", self.file)?;
            if let Some(field) = field {
                write!(f, ", field `{field}`")?;
            }
            write!(f, ": {sentence}")?;
        }
        if self.faults.len() >= MOST_FAULTS {
            write!(f, "\nthese are the first {MOST_FAULTS}; there may be more")?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}

/// Reads and checks a whole file. `file` is its name, for the faults.
pub fn read(file: &str, input: impl BufRead, gifts: &Gifts) -> Result<Vec<Grant>, Rejected> {
    let mut faults = Vec::new();
    let grants = read_rows(input, gifts, &mut faults);
    if faults.is_empty() {
        return Ok(grants);
    }
    faults.truncate(MOST_FAULTS);
    Err(Rejected { file: file.to_owned(), faults })
}

fn read_rows(input: impl BufRead, gifts: &Gifts, faults: &mut Vec<Fault>) -> Vec<Grant> {
    let mut lines = Lines::new(input);
    let mut grants = Vec::new();
    let header = match lines.next() {
        Some(Ok(first)) => Header::read(&first, faults),
        Some(Err(stopped)) => {
            faults.push(stopped.fault);
            None
        }
        None => {
            let sentence = "the file is empty; its first line must name the columns".to_owned();
            faults.push(Fault { line: 1, field: None, sentence });
            None
        }
    };
    // Without a header no field has a meaning.
    let Some(header) = header.filter(|_| faults.is_empty()) else { return grants };
    let checks = Checks::new(gifts);
    let mut seen = HashMap::new();
    for line in lines {
        match line {
            Ok(row) => {
                grants.extend(checks.grant(&header, &row, &mut seen, faults));
            }
            Err(stopped) => {
                faults.push(stopped.fault);
                if stopped.for_good {
                    break;
                }
            }
        }
        if grants.len() > MOST_ROWS {
            let sentence = format!("the file has more than {MOST_ROWS} grants; split it");
            faults.push(Fault { line: grants.last().map_or(1, |grant| grant.line), field: None, sentence });
        }
        if faults.len() >= MOST_FAULTS || grants.len() > MOST_ROWS {
            break;
        }
    }
    if grants.is_empty() && faults.is_empty() {
        faults.push(Fault { line: 1, field: None, sentence: "no grant follows the header".to_owned() });
    }
    grants
}

/// What became of a file, in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub rows: usize,
    pub new: usize,
    /// The same grant with the same arguments was there already.
    pub already_there: usize,
}

/// Compares with what is recorded, and writes nothing.
pub async fn dry_run(pool: &PgPool, file: &str, grants: &[Grant]) -> anyhow::Result<Counts> {
    let rows = requests(grants)?;
    let mut transaction = pool.begin().await?;
    store::intake::take_time(&mut transaction).await?;
    refuse_differing(&mut transaction, file, grants, &rows).await?;
    let already_there = store::intake::recorded(&mut transaction, Kind::GiftIssuance, &rows).await?;
    transaction.rollback().await?;
    Ok(Counts { rows: rows.len(), new: rows.len() - already_there, already_there })
}

/// Writes recipients and jobs in one transaction.
///
/// A recipient that is recorded already stays as it is: it is sealed, so it cannot be compared.
pub async fn submit(
    pool: &PgPool,
    vault: &Vault,
    file: &str,
    grants: &[Grant],
    interactive: bool,
) -> anyhow::Result<Counts> {
    let rows = requests(grants)?;
    let sealed: Vec<(String, Sealed)> = grants.iter().filter_map(|grant| seal(vault, grant)).collect();
    let mut transaction = pool.begin().await?;
    store::intake::take_time(&mut transaction).await?;
    refuse_differing(&mut transaction, file, grants, &rows).await?;
    store::enqueue::seal_recipients(&mut transaction, &sealed).await.context("the recipients were not taken")?;
    let jobs = store::enqueue::enqueue(&mut transaction, Kind::GiftIssuance, &rows, interactive).await?;
    let new = store::intake::made_here(&mut transaction, &jobs).await?;
    transaction.commit().await.context("whether the file was taken is not known; submit it again, which is safe")?;
    Ok(Counts { rows: rows.len(), new, already_there: rows.len() - new })
}

fn requests(grants: &[Grant]) -> anyhow::Result<Vec<(String, serde_json::Value)>> {
    grants.iter().map(|grant| Ok((GiftIssuance::id(&grant.args).0, serde_json::to_value(&grant.args)?))).collect()
}

fn seal(vault: &Vault, grant: &Grant) -> Option<(String, Sealed)> {
    let place = Place { grant: &grant.args.grant, provider: "", column: "recipient" };
    let sealed = vault.seal(&place, grant.recipient.as_ref()?);
    Some((grant.args.grant.clone(), sealed))
}

/// An id names one request for ever: the rows that exist with other arguments, with the difference.
async fn refuse_differing(
    connection: &mut sqlx::PgConnection,
    file: &str,
    grants: &[Grant],
    rows: &[(String, serde_json::Value)],
) -> anyhow::Result<()> {
    let differing = store::intake::differing(connection, Kind::GiftIssuance, rows, MOST_FAULTS).await?;
    if differing.is_empty() {
        return Ok(());
    }
    let fault = |(row, difference): (usize, String)| Fault {
        line: grants[row].line,
        field: Some(checks::Column::GrantId.name().to_owned()),
        sentence: format!("this grant exists with other arguments ({difference}); a new request needs a new id"),
    };
    bail!(Rejected { file: file.to_owned(), faults: differing.into_iter().map(fault).collect() })
}
