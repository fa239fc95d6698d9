//! I6: a canary, which every gift code carries, stands nowhere in the tables or in what else was written.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use crate::{options::Options, report::I6, report::Report};

const BLOCK: usize = 1 << 20;

pub fn check(options: &Options, report: &mut Report) -> Result<(), String> {
    let needles: Vec<Needle> = options.canaries.iter().flat_map(|canary| Needle::of(canary)).collect();
    let mut files = vec![];
    for path in options.leaks.iter().chain([&options.dump]) {
        collect(path, &mut files).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    }
    files.sort();
    files.dedup();
    for path in files {
        search(&path, &needles, report).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    }
    Ok(())
}

/// A canary as it may be written: as it is, or as PostgreSQL prints bytes.
struct Needle {
    bytes: Vec<u8>,
    how: &'static str,
}

impl Needle {
    fn of(canary: &str) -> [Needle; 3] {
        let lower: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
        let upper = lower.to_uppercase();
        [(canary.to_owned(), "in the clear"), (lower, "in hex"), (upper, "in hex")]
            .map(|(text, how)| Needle { bytes: text.into_bytes(), how })
    }

    fn find(&self, hay: &[u8]) -> Option<usize> {
        let mut from = 0;
        while let Some(at) = hay[from..].iter().position(|byte| *byte == self.bytes[0]) {
            if hay[from + at..].starts_with(&self.bytes) {
                return Some(from + at);
            }
            from += at + 1;
        }
        None
    }
}

/// All regular files in and under a path. One that goes away meanwhile holds nothing any more.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Names the first place of each needle; what stands there is not repeated.
fn search(path: &Path, needles: &[Needle], report: &mut Report) -> std::io::Result<()> {
    let mut file = match File::open(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    // A needle may lie across two blocks, so the end of each is kept.
    let keep = needles.iter().map(|needle| needle.bytes.len()).max().unwrap_or(1) - 1;
    let mut open: Vec<&Needle> = needles.iter().collect();
    let (mut hay, mut start) = (Vec::with_capacity(BLOCK + keep), 0);
    loop {
        let read = file.by_ref().take(BLOCK as u64).read_to_end(&mut hay)?;
        open.retain(|needle| {
            let Some(at) = needle.find(&hay) else { return true };
            let place = start + at;
            report.add(I6, format!("{}: a canary {} at byte {place}", path.display(), needle.how));
            false
        });
        if read == 0 || open.is_empty() {
            return Ok(());
        }
        let gone = hay.len().saturating_sub(keep);
        hay.drain(..gone);
        start += gone;
    }
}
