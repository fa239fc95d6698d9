//! Asks a worker for what it alone can open, and waits for the answer.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Seek, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use noshi_jobs::gift_issuance::Sealed;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::JoinHandle,
};
use zeroize::Zeroizing;

use super::{MORE, Part, SealedKey, WHOLE};
use crate::{
    basics::terminal::progress::Progress,
    db::{
        self, ActError, PgPool, Transaction,
        operator::{
            readings,
            tokens::{self, Caller},
        },
    },
    vault::{Sealer, Vault},
};

/// Somebody waits for a code.
const FOR_A_CODE: Duration = Duration::from_secs(15);
/// For a sign of life of whoever reads a file.
const FOR_A_SIGN: Duration = Duration::from_secs(30);
/// Between looks, where no hint is heard. The asker is taken to be gone after ten of them.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// More hints than this at once are a reason to look.
const HINTS: usize = 256;

/// Hears that something was answered: never needed, always faster. And whom it is asked: whoever opens what is sealed to this key.
pub struct Ears {
    vault: Option<Sealer>,
    hints: broadcast::Sender<Option<i64>>,
    listens: JoinHandle<()>,
}

impl Ears {
    pub fn open(url: String, vault: Option<Sealer>) -> Ears {
        let (hints, _) = broadcast::channel(HINTS);
        let tells = hints.clone();
        let listens = tokio::spawn(async move {
            loop {
                if let Ok(mut listener) = db::pool::Listener::connect(&url, "noshi_answer").await {
                    // What was answered meanwhile was not heard of.
                    let _ = tells.send(None);
                    while let Ok(hint) = listener.hear().await {
                        let _ = tells.send(hint.payload().parse().ok());
                    }
                }
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        });
        Ears { vault, hints, listens }
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

/// In whose name it is asked.
#[derive(Clone, Copy)]
pub enum By<'a> {
    Login(&'a PgPool),
    Token { pool: &'a PgPool, caller: &'a Caller, scope: &'a str },
}

impl By<'_> {
    async fn begin(&self) -> Result<Transaction, ActError> {
        Ok(match self {
            By::Login(pool) => pool.begin().await?,
            By::Token { pool, caller, scope } => tokens::begin(pool, caller, scope).await?,
        })
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    Code { grant: &'a str, user: &'a str, reason: &'a str },
    Report { batch: i64 },
    Check { batch: i64 },
}

impl What<'_> {
    fn named(&self) -> (&'static str, String) {
        match self {
            What::Code { grant, .. } => ("code", (*grant).to_owned()),
            What::Report { batch } => ("report", batch.to_string()),
            What::Check { batch } => ("check", batch.to_string()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// A worker says so: in a word, and in a sentence.
    #[error("{sentence}")]
    Says { word: String, sentence: String, wait: Duration },
    #[error("{0}")]
    Nobody(String),
}

/// What comes next of an answer.
pub enum Next {
    Part(Zeroizing<Vec<u8>>),
    /// Another worker begins anew: what came before is void.
    Again,
    End,
}

/// An answer on its way.
pub struct Answer<'a> {
    by: By<'a>,
    what: What<'a>,
    hints: broadcast::Receiver<Option<i64>>,
    key: Vault,
    reading: i64,
    take: i32,
    /// The last part that was handed out.
    after: i32,
    parts: VecDeque<(i32, Sealed)>,
    /// The last part said that this was all.
    whole: bool,
    ended: bool,
    patient_until: Instant,
}

/// Asks. It is on record then, whatever comes of it.
pub async fn ask<'a>(by: By<'a>, ears: &Ears, what: What<'a>) -> anyhow::Result<Answer<'a>> {
    let vault = ears.vault.as_ref().ok_or_else(|| {
        Unread::Nobody(
            "There is no public key file here (vault_public_key_file), so no worker can be asked what is sealed."
                .to_owned(),
        )
    })?;
    let hints = ears.hints.subscribe();
    let key = Vault::ephemeral();
    let mut transaction = by.begin().await?;
    let (kind, subject) = what.named();
    let line = SealedKey::seal(vault, kind, &subject, &key).line();
    let asked = match what {
        What::Code { grant, user, reason } => {
            readings::ask_for_code(&mut transaction, grant, user, reason, &line).await
        }
        What::Report { batch } => readings::ask_for_report(&mut transaction, batch, &line).await,
        What::Check { batch } => readings::ask_for_check(&mut transaction, batch, &line).await,
    };
    let reading = asked.map_err(ActError::from)?;
    transaction.commit().await.map_err(ActError::from)?;
    let mut answer = Answer {
        by,
        what,
        hints,
        key,
        reading,
        take: 0,
        after: 0,
        parts: VecDeque::new(),
        whole: false,
        ended: false,
        patient_until: Instant::now() + FOR_A_CODE,
    };
    answer.sign_of_life();
    Ok(answer)
}

impl Answer<'_> {
    pub async fn next(&mut self) -> anyhow::Result<Next> {
        loop {
            if let Some((number, sealed)) = self.parts.pop_front() {
                ensure!(number == self.after + 1, "a part of the answer is missing; ask again");
                self.after = number;
                let opened = self.key.open_bytes(&Part::of(self.reading, self.take, number).place(), &sealed);
                match opened.as_ref().ok().and_then(|opened| opened.split_first()) {
                    Some((&MORE, piece)) if !self.whole => return Ok(Next::Part(Zeroizing::new(piece.to_vec()))),
                    Some((&WHOLE, [])) if !self.whole => self.whole = true,
                    Some(_) | None => return Err(self.broken().await?.into()),
                }
                continue;
            }
            if self.ended && !self.whole {
                return Err(self.broken().await?.into());
            }
            if self.ended {
                self.close().await?;
                return Ok(Next::End);
            }
            if self.look().await? {
                return Ok(Next::Again);
            }
            if self.parts.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    /// All of it in one piece.
    pub async fn whole(mut self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let mut all = Zeroizing::new(vec![]);
        loop {
            match self.next().await? {
                Next::Part(part) => all.extend_from_slice(&part),
                Next::Again => all.clear(),
                Next::End => return Ok(all),
            }
        }
    }

    /// All of it into an empty file.
    pub async fn write_to(mut self, mut file: &File, rows: Option<u64>) -> anyhow::Result<()> {
        let cannot = "the report cannot be written";
        let mut progress = Progress::begin("writing rows of the report", rows)
            .kept(|_, _| "it only looks; nothing is changed, and no file was written".to_owned());
        loop {
            match self.next().await? {
                Next::Part(part) => {
                    file.write_all(&part).context(cannot)?;
                    progress.advance(part.iter().filter(|byte| **byte == b'\n').count() as u64);
                }
                Next::Again => {
                    file.set_len(0).and_then(|()| file.rewind()).context(cannot)?;
                    progress.at(0);
                }
                Next::End => return file.flush().context(cannot),
            }
        }
    }

    /// Takes what is there. True: what came before is void.
    async fn look(&mut self) -> anyhow::Result<bool> {
        let mut transaction = self.by.begin().await?;
        let fetched = readings::fetch(&mut transaction, self.reading, self.take, self.after).await;
        let state = fetched.map_err(ActError::from)?;
        transaction.commit().await.map_err(ActError::from)?;
        if let Some((word, sentence, wait)) = state.trouble {
            self.close().await?;
            return Err(Unread::Says { word, sentence, wait }.into());
        }
        let again = state.take != self.take && self.after > 0;
        if state.take != self.take || !state.parts.is_empty() {
            self.sign_of_life();
        }
        if state.take != self.take {
            (self.take, self.after, self.whole) = (state.take, 0, false);
        }
        self.ended = state.ended && state.parts.len() < readings::PARTS;
        self.parts = state.parts.into();
        let late = self.parts.is_empty() && !state.ended && Instant::now() >= self.patient_until;
        if late || state.nobody_else {
            let closed = self.close().await?;
            let (taken, left) = closed.unwrap_or_default();
            return Err(Unread::Nobody(nobody(self.what, taken, &left)).into());
        }
        Ok(again)
    }

    /// It ended, and is no answer.
    async fn broken(&self) -> Result<Unread, ActError> {
        self.close().await?;
        tracing::error!(
            reading = self.reading,
            "a reading ended without a whole answer; look who has the logins of workers"
        );
        let sentence =
            "What came is not the whole answer of a worker that has the key. It counts for nothing; ask again.";
        Ok(Unread::Nobody(sentence.to_owned()))
    }

    /// Whoever reads a file is at it. A code is there in time, or is not waited for.
    fn sign_of_life(&mut self) {
        match self.what {
            What::Code { .. } => {}
            What::Report { .. } | What::Check { .. } => self.patient_until = Instant::now() + FOR_A_SIGN,
        }
    }

    async fn close(&self) -> Result<Option<(bool, Vec<String>)>, ActError> {
        let mut transaction = self.by.begin().await?;
        let closed = readings::close(&mut transaction, self.reading).await?;
        transaction.commit().await?;
        Ok(closed)
    }

    /// Until there may be something new.
    async fn wait(&mut self) {
        let (ours, hints) = (self.reading, &mut self.hints);
        let heard = async {
            loop {
                match hints.recv().await {
                    Ok(Some(reading)) if reading != ours => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let left = self.patient_until.saturating_duration_since(Instant::now());
        let _ = tokio::time::timeout(BETWEEN_LOOKS.min(left), heard).await;
    }
}

/// What it means that nobody answered, and for the money.
fn nobody(what: What<'_>, taken: bool, left: &[String]) -> String {
    let (means, begun) = match what {
        What::Code { .. } => (
            "The gift is as it was, and nothing was asked of its partner",
            "The gift is as it was; its partner may have been asked for the code once more, by the gift's own id, which buys nothing",
        ),
        What::Report { .. } => ("There is no report, and nothing was changed", "Nothing was changed"),
        What::Check { .. } => ("Nothing was approved", "Nothing was approved"),
    };
    if taken {
        return format!("A worker began, and did not answer in time. {begun}; ask again.");
    }
    if left.is_empty() {
        return format!("No worker answered in time. {means}; ask again, and see that workers run.");
    }
    let why: Vec<&str> = left.iter().map(|why| why_left(why)).collect();
    format!(
        "No worker that runs can open it: {}. {means}; its operators give the workers what they lack.",
        why.join("; ")
    )
}

fn why_left(word: &str) -> &'static str {
    match word {
        "no_key" => "none has the key that it is sealed to",
        "no_provider" => "none has its partner in the settings",
        "kept_away" => "none is fit to call its partner now",
        "unreadable" => "a newer version wrote it",
        _ => "a newer version says why",
    }
}
