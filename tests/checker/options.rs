//! The command line.

use std::path::PathBuf;

use crate::report::{ALWAYS, QUIESCENT, RETRY_AFTER};

const USAGE: &str =
    "usage: noshi-checker --ledger FILE --dump DIR [--quiescent] [--limit PROVIDER=CALLS …] [--window-ms 1000]
    [--leaks FILE_OR_DIR …] [--canary TEXT …] [--retry-after] [--in-flight-ms 300]";

#[derive(Debug, Clone)]
pub struct Options {
    pub ledger: PathBuf,
    pub dump: PathBuf,
    /// Nothing runs any more and nothing is left to do.
    pub quiescent: bool,
    /// Calls a window that a provider takes.
    pub limits: Vec<(String, usize)>,
    pub window_us: i64,
    /// Files and folders that must not hold a canary.
    pub leaks: Vec<PathBuf>,
    pub canaries: Vec<String>,
    /// Whether Retry-After is judged.
    pub retry_after: bool,
    /// How long after a throttle calls may still arrive that were on their way.
    pub in_flight_us: i64,
}

impl Options {
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            ledger: PathBuf::new(),
            dump: PathBuf::new(),
            quiescent: false,
            limits: vec![],
            window_us: 1_000_000,
            leaks: vec![],
            canaries: vec!["CNRY".to_owned()],
            retry_after: false,
            in_flight_us: 300_000,
        };
        let mut args = args.peekable();
        while let Some(flag) = args.next() {
            let mut values = vec![];
            while let Some(value) = args.next_if(|arg| !arg.starts_with("--")) {
                values.push(value);
            }
            options.take(&flag, values)?;
        }
        if options.ledger.as_os_str().is_empty() || options.dump.as_os_str().is_empty() {
            return Err(format!("--ledger and --dump are needed\n{USAGE}"));
        }
        Ok(options)
    }

    fn take(&mut self, flag: &str, values: Vec<String>) -> Result<(), String> {
        let one = || match values.as_slice() {
            [value] => Ok(value.clone()),
            _ => Err(format!("{flag} takes one value\n{USAGE}")),
        };
        match flag {
            "--ledger" => self.ledger = one()?.into(),
            "--dump" => self.dump = one()?.into(),
            "--window-ms" => self.window_us = milliseconds(flag, &one()?)?,
            "--in-flight-ms" => self.in_flight_us = milliseconds(flag, &one()?)?,
            "--limit" if !values.is_empty() => {
                for value in &values {
                    self.limits.push(limit(value)?);
                }
            }
            "--leaks" if !values.is_empty() => self.leaks.extend(values.into_iter().map(PathBuf::from)),
            "--canary" if values.iter().any(|value| !value.is_empty()) => self.canaries.extend(values),
            "--quiescent" if values.is_empty() => self.quiescent = true,
            "--retry-after" if values.is_empty() => self.retry_after = true,
            _ => return Err(format!("`{flag}` with {} values is not understood\n{USAGE}", values.len())),
        }
        Ok(())
    }

    /// Which invariants this run judges.
    pub fn invariants(&self) -> Vec<&'static str> {
        let quiescent = if self.quiescent { QUIESCENT } else { &[] };
        let retry_after = if self.retry_after { RETRY_AFTER } else { &[] };
        [ALWAYS, quiescent, retry_after].concat()
    }
}

fn milliseconds(flag: &str, value: &str) -> Result<i64, String> {
    let ms: u32 = value.parse().map_err(|_| format!("{flag} takes whole milliseconds, not `{value}`\n{USAGE}"))?;
    Ok(i64::from(ms) * 1000)
}

fn limit(value: &str) -> Result<(String, usize), String> {
    let wrong = || format!("--limit takes PROVIDER=CALLS, not `{value}`\n{USAGE}");
    let (provider, calls) = value.split_once('=').ok_or_else(wrong)?;
    let calls: usize = calls.parse().map_err(|_| wrong())?;
    if provider.is_empty() || calls == 0 {
        return Err(wrong());
    }
    Ok((provider.to_owned(), calls))
}
