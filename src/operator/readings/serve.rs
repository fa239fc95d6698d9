//! A worker opens what is asked for, and seals the answer to whoever asked.

mod parts;

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use noshi_jobs::{
    gift_issuance::{Args, Sealed, State, Trade},
    machine::{Call, Closing},
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, task::JoinSet};
use zeroize::Zeroizing;

use super::{Opened, SealedKey};
use crate::{
    db::{
        self, ActError, PgPool,
        domain::batches::{self, Filed},
        operator::readings::{self, Gift, Taken},
        queue::{
            lanes::{self, Spent},
            slot::Slot,
        },
    },
    engine::Engine,
    intake::{self, Addresses, Encoding, FileKind, Submission, otherwise::Comparison, report},
    partners::{
        Gate,
        gifts::{GiftProvider, Refetch},
    },
    telemetry::metrics::call,
    vault::{SealedAt, Sealer, Vault},
    worlds::outside::{Current, Partners},
};
use parts::Parts;

/// Connections for all of them: claims and heartbeats have their own.
pub const CONNECTIONS: u32 = 2;
/// Served at once, and files of these: what takes long leaves room for what somebody waits for.
const AT_ONCE: usize = 4;
const FILES_AT_ONCE: usize = 2;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How far away the slot of a call may be: somebody waits for the code.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before its horizon ends no call goes out that might arrive after it.
const MARGIN: Duration = Duration::from_secs(15);

/// Why a reading comes to no answer here.
enum Stop {
    /// There is none: a word, a sentence for whoever asked, and when it is worth asking again.
    Trouble(&'static str, String, Duration),
    /// Another worker may have what this one lacks.
    Leave(&'static str),
    /// Its asker is gone, or another worker has it.
    Over,
    Database(sqlx::Error),
}

impl Stop {
    fn trouble(word: &'static str, sentence: impl Into<String>) -> Stop {
        Stop::Trouble(word, sentence.into(), Duration::ZERO)
    }
}

impl From<ActError> for Stop {
    fn from(error: ActError) -> Stop {
        match error {
            ActError::Refused { .. } => Stop::Over,
            ActError::Database(error) => Stop::Database(error),
        }
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Stop {
        ActError::from(error).into()
    }
}

/// Takes readings for as long as the process lives, a few at a time.
pub async fn serve(engine: Arc<Engine>, partners: Arc<Current>, pool: PgPool) {
    let (places, files) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(FILES_AT_ONCE)));
    let (mut hints, mut served) = (engine.hints.readings(), JoinSet::new());
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while served.try_join_next().is_some() {}
        let room = Arc::clone(&files).try_acquire_owned().ok();
        hints.mark_unchanged();
        let taken = match engine.stopping() {
            true => None,
            false => readings::take(&pool, engine.worker, room.is_some()).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the database did not answer about readings; looking again");
                None
            }),
        };
        let Some(held) = taken else {
            drop((place, room));
            let _ = tokio::time::timeout(BETWEEN_LOOKS, hints.changed()).await;
            continue;
        };
        let room = room.filter(|_| held.kind != "code");
        let (engine, pool, partners) = (Arc::clone(&engine), pool.clone(), partners.now());
        served.spawn(async move {
            let reading = Reading { partners, engine, pool, held };
            reading.serve().await;
            let was_file = room.is_some();
            drop((place, room));
            if was_file {
                reading.engine.hints.readings_changed();
            }
        });
    }
}

/// One reading in flight.
struct Reading {
    engine: Arc<Engine>,
    partners: Arc<Partners>,
    pool: PgPool,
    held: Taken,
}

impl Reading {
    async fn serve(&self) {
        let answered = match self.asker() {
            Ok(sealer) => self.answer(&sealer).await,
            Err(stop) => Err(stop),
        };
        let told = match answered {
            Ok(()) | Err(Stop::Over) => Ok(()),
            Err(Stop::Leave(why)) => {
                tracing::warn!(reading = self.held.reading, kind = self.held.kind, why, "left to other workers");
                readings::leave(&self.pool, &self.held, why).await
            }
            Err(Stop::Trouble(word, sentence, wait)) => self.fail(word, &sentence, wait).await,
            Err(Stop::Database(error)) => {
                tracing::warn!(reading = self.held.reading, %error, "the database did not answer in a reading");
                let busy = "The database did not answer the worker. Nothing was changed; ask again.";
                self.fail("busy", busy, Duration::ZERO).await
            }
        };
        if let Err(ActError::Database(error)) = told {
            tracing::warn!(reading = self.held.reading, %error, "what became of a reading could not be told; its asker asks again");
        }
    }

    /// The key of whoever asked: an answer to any other is none to them.
    fn asker(&self) -> Result<Sealer, Stop> {
        let bad = || Stop::trouble("bad_key", "The key that came with it is none that anything can be sealed to.");
        let key = SealedKey::parse(&self.held.public_key).ok_or_else(bad)?;
        key.open(self.vault(&key.0)?, &self.held.kind, &self.held.subject).map_err(|_| bad())
    }

    async fn fail(&self, word: &str, sentence: &str, wait: Duration) -> Result<(), ActError> {
        readings::fail(&self.pool, &self.held, word, sentence, wait).await
    }

    async fn answer(&self, sealer: &Sealer) -> Result<(), Stop> {
        let mut parts = Parts { reading: self, sealer, number: 0, waited: Duration::ZERO };
        match self.held.kind.as_str() {
            "code" => self.code(&mut parts).await?,
            "report" => self.report(&mut parts).await?,
            "check" => self.check(&mut parts).await?,
            _ => return Err(Stop::Leave("unreadable")),
        }
        parts.end().await?;
        Ok(readings::end(&self.pool, &self.held).await?)
    }

    fn vault(&self, sealed: &Sealed) -> Result<&Vault, Stop> {
        let vault = self.partners.vault.as_deref().filter(|vault| vault.knows(&sealed.key_id));
        vault.ok_or(Stop::Leave("no_key"))
    }

    async fn code(&self, parts: &mut Parts<'_>) -> Result<(), Stop> {
        let Some(gift) = readings::gift(&self.pool, &self.held).await? else {
            return Err(Stop::trouble("moved_on", "The gift has moved on since it was asked for; look at it again."));
        };
        let unreadable = |_| Stop::Leave("unreadable");
        let args: Args = serde_json::from_value(gift.args.clone()).map_err(unreadable)?;
        let State::Issued { trade, card } = serde_json::from_value(gift.state.clone()).map_err(unreadable)? else {
            return Err(Stop::Leave("unreadable"));
        };
        let code = match &gift.sealed {
            Some(sealed) => {
                let place = SealedAt { grant: &self.held.subject, provider: &trade.provider, column: "gift_code" };
                self.vault(sealed)?.unseal(&place, sealed).map_err(|error| self.does_not_open(&error))?
            }
            None => self.refetch(&args, &trade, &card, &gift).await?,
        };
        let opened = Opened {
            provider: trade.provider,
            category: args.category,
            amount: args.value.amount,
            currency: args.value.currency.code().to_owned(),
            code: code.expose_secret().to_owned(),
        };
        let opened = Zeroizing::new(serde_json::to_vec(&opened).unwrap_or_default());
        parts.put(&opened).await
    }

    fn does_not_open(&self, error: &anyhow::Error) -> Stop {
        tracing::error!(reading = self.held.reading, error = %format!("{error:#}"), "what is sealed does not open");
        Stop::trouble(
            "does_not_open",
            "What is sealed does not open with the workers' keys; its operators find why in the log of a worker.",
        )
    }

    /// Asks the provider again with the same trade id, as its rules have it, by a token of its lane.
    async fn refetch(&self, args: &Args, trade: &Trade, card: &str, gift: &Gift) -> Result<SecretString, Stop> {
        if gift.remembered < MARGIN {
            return Err(Stop::trouble(
                "forgotten",
                "The provider may have forgotten this gift's id by now, and asking again might buy another one. \
                 Look the card up in the provider's own console.",
            ));
        }
        let provider = self.partners.gifts.provider(&trade.provider).ok_or(Stop::Leave("no_provider"))?;
        let lane = format!("gift/{}", trade.provider);
        if self.engine.is_away(&lane) {
            return Err(Stop::Leave("kept_away"));
        }
        let (lateness, sent) = (&self.engine.lateness, Instant::now());
        let (wait, jitter) = match lanes::spend_token(&self.pool, &lane, PATIENCE, lateness.allowance(&lane)).await? {
            Spent::Slot { wait, jitter } => (wait, jitter),
            Spent::Closed(wait) => {
                let closed = "The provider's lane has no room now. Nothing was asked; ask again later.";
                return Err(Stop::Trouble("lane_closed", closed.to_owned(), wait));
            }
        };
        tokio::time::sleep(wait).await;
        let slot = sent.checked_add(wait).map(|due| Slot::new(&lane, due, jitter, lateness));
        let clock = Arc::clone(&self.engine.clock);
        let gate = Gate::new(move || clock.may_call()).beginning(move || slot.as_ref().is_none_or(Slot::holds));
        self.ask_again(provider, args, trade, card, &gate).await
    }

    async fn ask_again(
        &self,
        provider: &dyn GiftProvider,
        args: &Args,
        trade: &Trade,
        card: &str,
        gate: &Gate,
    ) -> Result<SecretString, Stop> {
        match call(provider.name(), "refetch", provider.refetch(args, trade, gate)).await {
            Refetch::Code { card: again, code } if again == card => Ok(code),
            Refetch::Code { .. } => {
                tracing::error!(
                    trade = trade.id,
                    "the provider answered a known trade id with another card; ask it for both"
                );
                Err(Stop::trouble(
                    "other_card",
                    "The provider answered with another card than the one recorded; it is not shown. Tell the operators.",
                ))
            }
            Refetch::Dead => Err(Stop::trouble("dead", "The card was cancelled or has expired at the provider.")),
            Refetch::Throttled(wait) => {
                self.engine.close_lane(&format!("gift/{}", trade.provider), Closing::Throttled(wait)).await;
                Err(Stop::Trouble("throttled", "The provider asked for a pause. Ask again later.".to_owned(), wait))
            }
            Refetch::NoAnswer => {
                Err(Stop::trouble("no_answer", "The provider did not answer. The gift is as it was; ask again."))
            }
            Refetch::Never => Err(Stop::trouble(
                "never",
                "No code is kept for this gift, and its provider does not show it again. Tell the operators.",
            )),
        }
    }

    async fn batch(&self) -> Result<Filed, Stop> {
        let filed = match self.held.subject.parse() {
            Ok(batch) => batches::filed(&self.pool, batch).await?,
            Err(_) => None,
        };
        filed.ok_or_else(|| Stop::trouble("no_batch", "There is no such batch."))
    }

    /// A chunk of the file, opened; `None` behind the last.
    async fn chunk(&self, batch: i64, number: i32) -> Result<Option<Zeroizing<Vec<u8>>>, Stop> {
        let Some(sealed) = readings::chunk(&self.pool, &self.held, number).await? else { return Ok(None) };
        let name = batches::chunk_name(batch, number);
        let opened = self.vault(&sealed)?.open_bytes(&SealedAt::of_chunk(&name), &sealed);
        opened.map(Some).map_err(|error| self.does_not_open(&error))
    }

    async fn report(&self, parts: &mut Parts<'_>) -> Result<(), Stop> {
        let batch = self.batch().await?;
        if let Some(faults) = &batch.faults {
            let report = report::of_faults(faults).map_err(|error| self.unwritable(error))?;
            return parts.put(&report).await;
        }
        let file = self.original(&batch, parts).await?;
        let kind = FileKind::from_name(&batch.kind).ok_or(Stop::Leave("unreadable"))?;
        let read_as = (kind, Encoding::from_name(&batch.encoding));
        let compared = Comparison::begin(&self.pool, batch.id, read_as, &file);
        let mut compared = compared.map_err(|error| self.unwritable(error))?;
        while compared.go_on().await.map_err(|error| self.unwritable(error))? {
            // Nothing of it: a sign of life.
            parts.put(&[]).await?;
        }
        let otherwise = compared.found();
        if !otherwise.is_empty() {
            tracing::error!(
                batch = batch.id,
                rows = otherwise.len(),
                "a batch was staged otherwise than its file has it: its report says so"
            );
        }
        let mut report = report::Report::begin(&self.pool, &batch, otherwise);
        for number in 0.. {
            let Some(bytes) = self.chunk(batch.id, number).await? else { break };
            let rows = report.of_chunk(&bytes).await.map(Zeroizing::new);
            parts.put(&rows.map_err(|error| self.unwritable(error))?).await?;
        }
        let beyond = report.beyond_the_file().await.map_err(|error| self.unwritable(error))?;
        if !beyond.is_empty() {
            parts.put(&beyond).await?;
        }
        match report.is_whole() {
            true => Ok(()),
            false => {
                Err(Stop::trouble("not_whole", "The file of this batch was never received whole; submit it again."))
            }
        }
    }

    fn unwritable(&self, error: anyhow::Error) -> Stop {
        match error.downcast::<ActError>() {
            Ok(ActError::Database(error)) => Stop::Database(error),
            Ok(error @ ActError::Refused { .. }) => {
                Stop::trouble("unwritable", format!("There is no report: {error}."))
            }
            Err(error) => Stop::trouble("unwritable", format!("There is no report: {error}.")),
        }
    }

    /// What is approved is what is staged: whoever submitted the file could have staged anything.
    async fn check(&self, parts: &mut Parts<'_>) -> Result<(), Stop> {
        let batch = self.batch().await?;
        let held = self.original(&batch, parts).await?;
        let kind = FileKind::from_name(&batch.kind).ok_or(Stop::Leave("unreadable"))?;
        let submission = Submission {
            path: Path::new(&batch.file),
            held: Some(&held),
            kind,
            encoding: Encoding::from_name(&batch.encoding),
            campaign: None,
            mails: false,
            issues: false,
        };
        let mut addresses = Compared { reading: self, parts, stopped: None };
        let verified = intake::verify(&self.pool, None, &submission, batch.id, Some(&mut addresses)).await;
        verified.map_err(|error| match (addresses.stopped, error.downcast()) {
            (Some(stop), _) => stop,
            (None, Ok(ActError::Database(error))) if db::is_transient(&error) => Stop::Database(error),
            (None, Ok(_) | Err(_)) => differs(),
        })
    }

    /// Whether each row has the recipient or the contact that its line of the file has, sealed for it, and no other row one.
    async fn addresses(&self, page: &[(i32, intake::Taken)], parts: &mut Parts<'_>) -> Result<(), Stop> {
        let (Some((from, _)), Some((to, _))) = (page.first(), page.last()) else { return Ok(()) };
        let mut kept = readings::recipients(&self.pool, &self.held, (*from, *to)).await?.into_iter().peekable();
        for (row, taken) in page {
            let kept = kept.next_if(|(of, ..)| of == row);
            let same = match (kept, &taken.private) {
                (None, None) => true,
                (Some((_, _, sealed)), Some(wanted)) => {
                    let opened = self.vault(&sealed)?.unseal(&wanted.place(), &sealed);
                    opened.is_ok_and(|opened| opened.expose_secret() == wanted.plain.expose_secret())
                }
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                return Err(differs());
            }
        }
        // Nothing of it: a sign of life.
        parts.put(&[]).await
    }

    /// The file as it was submitted, without a name on the disk, so that nothing of it outlives us.
    async fn original(&self, batch: &Filed, parts: &mut Parts<'_>) -> Result<File, Stop> {
        let no_disk = |_| {
            tracing::warn!("a temporary file could not be written");
            Stop::trouble(
                "no_disk",
                "The worker could not keep the file now. Nothing was approved or written; ask again.",
            )
        };
        let mut file = tempfile::tempfile().map_err(no_disk)?;
        let mut digest = Sha256::new();
        for number in 0.. {
            let Some(bytes) = self.chunk(batch.id, number).await? else { break };
            digest.update(&*bytes);
            file.write_all(&bytes).map_err(no_disk)?;
            // Nothing of it: a sign of life.
            parts.put(&[]).await?;
        }
        match hex::encode(digest.finalize()) == batch.digest {
            true => Ok(file),
            false => Err(Stop::trouble(
                "other_file",
                "The stored file is not the one that was submitted, or not all of it came. Nothing was approved or written; cancel the batch.",
            )),
        }
    }
}

/// The addresses of a batch, compared with its file.
struct Compared<'a, 'p> {
    reading: &'a Reading,
    parts: &'a mut Parts<'p>,
    stopped: Option<Stop>,
}

impl Addresses for Compared<'_, '_> {
    fn compare<'a>(&'a mut self, page: &'a [(i32, intake::Taken)]) -> Call<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let Err(stop) = self.reading.addresses(page, self.parts).await else { return Ok(()) };
            self.stopped = Some(stop);
            anyhow::bail!("the addresses were not compared")
        })
    }
}

fn differs() -> Stop {
    Stop::trouble("differs", "What is staged of this batch is not what its file has. Nothing was approved; cancel it.")
}
