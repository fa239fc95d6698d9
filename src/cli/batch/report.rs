//! The report of a batch, fetched and written.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Seek, Write},
    path::Path,
};

use super::{BatchReport, one, open, said};
use crate::{
    basics::terminal,
    cli::out::Out,
    db::{PgPool, domain::batches::Progress},
    intake,
    operator::readings::ask::{self, By, Ears, What},
    settings::Settings,
};

pub(super) async fn report(settings: &Settings, out: Out, args: BatchReport) -> anyhow::Result<()> {
    let pool = open(&args.name.database).await?;
    let batch = one(&pool, args.name.batch).await?;
    let ears = Ears::open(args.name.database.url()?.to_owned(), Some(settings.sealer()?));
    if let Some(path) = &args.out {
        let written = write_report(&pool, &ears, &batch, path, args.force).await?;
        let path = path.display().to_string();
        let sentence = format!("the report of batch {} is in {path}", batch.id);
        return said(out, json!({"batch": batch.id, "file": path, "bytes": written}), sentence);
    }
    // Whole before the first of it is shown: another worker may have to begin anew. It has no name on the disk.
    let mut whole = tempfile::tempfile().context("the report cannot be written")?;
    fetch_report(&pool, &ears, &batch, &whole).await?;
    whole.rewind()?;
    match out {
        Out::Table => {
            let mut shown = BufWriter::new(terminal::Stdout);
            std::io::copy(&mut whole, &mut shown).and_then(|_| shown.flush()).context("the report cannot be written")
        }
        Out::Json => {
            let rows = report_rows(BufReader::new(whole))?;
            out.one(&rows, |_| String::new())
        }
    }
}

/// A worker writes it, which has the keys; nothing on this machine opens what is sealed.
pub(super) async fn fetch_report(pool: &PgPool, ears: &Ears, batch: &Progress, into: &File) -> anyhow::Result<()> {
    let answer = ask::ask(By::Login(pool), ears, What::Report { batch: batch.id }).await?;
    answer.write_to(into, u64::try_from(batch.rows).ok()).await
}

/// The report as objects by its header.
pub(super) fn report_rows(text: impl Read) -> anyhow::Result<Vec<serde_json::Map<String, Value>>> {
    // The reader passes over its mark.
    let mut read = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let heads = read.headers()?.clone();
    read.records()
        .map(|row| {
            let row = row?;
            Ok(heads.iter().zip(&row).map(|(head, field)| (head.to_owned(), Value::from(field))).collect())
        })
        .collect()
}

/// Beside its place first, so that nobody finds half a report there; and never over what is there already, unless that was said. The bytes.
pub(super) async fn write_report(
    pool: &PgPool,
    ears: &Ears,
    batch: &Progress,
    path: &Path,
    force: bool,
) -> anyhow::Result<u64> {
    if let Ok(there) = fs::symlink_metadata(path) {
        let shown = path.display();
        ensure!(
            force,
            "{shown} is there already, and is left as it is; name another file, or say --force to replace it"
        );
        ensure!(there.is_file(), "{shown} is no plain file, and is left as it is; name another one");
        let digest = intake::digest_of(path)?;
        ensure!(
            hex::encode(digest) != batch.digest,
            "{shown} is the very file that was submitted as batch {}, and is left as it is; name another one",
            batch.id
        );
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("cannot write {}; it is as it was", path.display());
    let beside = tempfile::Builder::new().prefix(".noshi-report-").tempfile_in(folder).with_context(cannot)?;
    let unfinished = terminal::leftovers::unfinished(beside.path());
    fetch_report(pool, ears, batch, beside.as_file()).await.with_context(cannot)?;
    beside.as_file().sync_all().with_context(cannot)?;
    let bytes = beside.as_file().metadata()?.len();
    match force {
        true => beside.persist(path).map(|_| ()).map_err(|error| error.error),
        // Somebody may have made it meanwhile.
        false => beside.persist_noclobber(path).map(|_| ()).map_err(|error| error.error),
    }
    .with_context(cannot)?;
    drop(unfinished);
    Ok(bytes)
}
