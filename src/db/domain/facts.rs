//! Facts: inserted, never updated, written in a group with other jobs' facts. And the local operations, each in its own transaction.

use noshi_jobs::{effect, gift_issuance, machine::Never, probe, store_creation};
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;

use crate::{
    basics::chaos::{Bug, planted},
    db::{PgConnection, PgPool},
};

/// A fact of any kind of job.
#[derive(Debug, Clone)]
pub enum Fact {
    Gift(gift_issuance::Fact),
    Probe(probe::Note),
    Store(store_creation::Fact),
    Own(OwnFact),
}

/// A fact of a job of somebody's own: a row of `noshi.fact`. It holds no secret, and neither a code nor an address.
#[derive(Debug, Clone)]
pub struct OwnFact {
    name: &'static str,
    body: Value,
}

impl Fact {
    /// A fact of a job of one's own, under a permanent name; a step records one of each name at most.
    pub fn own(name: &'static str, body: &impl Serialize) -> Fact {
        Fact::Own(OwnFact { name, body: serde_json::to_value(body).unwrap_or_default() })
    }
}

impl From<gift_issuance::Fact> for Fact {
    fn from(fact: gift_issuance::Fact) -> Self {
        Fact::Gift(fact)
    }
}

impl From<probe::Note> for Fact {
    fn from(note: probe::Note) -> Self {
        Fact::Probe(note)
    }
}

impl From<store_creation::Fact> for Fact {
    fn from(fact: store_creation::Fact) -> Self {
        Fact::Store(fact)
    }
}

impl From<effect::Fact> for Fact {
    fn from(fact: effect::Fact) -> Self {
        Fact::own("effect_done", &fact)
    }
}

impl From<Never> for Fact {
    fn from(never: Never) -> Self {
        match never {}
    }
}

/// One row of `gift_outcome`.
struct Outcome<'a> {
    trade: &'a str,
    outcome: &'static str,
    card: Option<&'a str>,
    reason: Option<&'a str>,
}

const OUTCOMES: &str = "insert into noshi.gift_outcome (trade, outcome, card, reason)
select o.* from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as o(trade, outcome, card, reason)
-- A person's word adds nothing to an end that is recorded already.
where coalesce(o.reason <> all($5), true) or not exists (select from noshi.gift_outcome g where g.trade = o.trade and g.outcome = o.outcome)";

const CODES: &str = "insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
select 'gift_code', * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[])";

const NOTES: &str = "insert into noshi.probe_note (job, text) select * from unnest($1::bigint[], $2::text[])";

// Under the step that was settled a moment ago.
const OWN: &str = "insert into noshi.fact (job, step, name, kind, key, body)
select j.id, j.step - 1, f.name, j.kind, j.key, f.body from unnest($1::bigint[], $2::text[], $3::jsonb[]) f(job, name, body) join noshi.job j on j.id = f.job";

pub async fn insert(connection: &mut PgConnection, facts: &[(i64, &Fact)]) -> Result<(), sqlx::Error> {
    let (mut gifts, mut notes, mut refusing, mut own) = (vec![], vec![], vec![], vec![]);
    for (job, fact) in facts {
        match fact {
            Fact::Gift(gift) => gifts.push((*job, gift)),
            Fact::Probe(note) => notes.push((*job, note.text.as_str())),
            Fact::Store(store_creation::Fact::OrganizationRefused { .. }) => refusing.push(*job),
            Fact::Own(fact) => own.push((*job, (fact.name, &fact.body))),
        }
    }
    if !refusing.is_empty() {
        super::batches::pause_of_jobs(connection, &refusing, "organization_refused").await?;
    }
    if !own.is_empty() {
        let (jobs, (names, bodies)): (Vec<i64>, (Vec<&str>, Vec<&Value>)) = own.into_iter().unzip();
        sqlx::query(OWN).bind(jobs).bind(names).bind(bodies).execute(&mut *connection).await?;
    }
    if !gifts.is_empty() {
        insert_gifts(connection, &gifts).await?;
    }
    if !notes.is_empty() {
        let (jobs, texts): (Vec<i64>, Vec<&str>) = notes.into_iter().unzip();
        sqlx::query(NOTES).bind(jobs).bind(texts).execute(connection).await?;
    }
    Ok(())
}

async fn insert_gifts(connection: &mut PgConnection, facts: &[(i64, &gift_issuance::Fact)]) -> Result<(), sqlx::Error> {
    use gift_issuance::Fact;
    let mut outcomes = vec![];
    let mut codes = vec![];
    for (job, fact) in facts {
        outcomes.push(match fact {
            Fact::Issued { trade, grant, provider, card, code, value: _ } => {
                if let Some(code) = code {
                    codes.push((trade.as_str(), grant.as_str(), provider.as_str(), code));
                }
                if planted(Bug::CodeInJournal) {
                    leak(connection, *job, card).await?;
                }
                Outcome { trade, outcome: "issued", card: Some(card), reason: None }
            }
            Fact::Voided { trade, reason } => Outcome { trade, outcome: "void", card: None, reason: Some(reason) },
            Fact::Refused { trade, reason } => Outcome { trade, outcome: "refused", card: None, reason: Some(reason) },
        });
    }
    sqlx::query(OUTCOMES)
        .bind(outcomes.iter().map(|o| o.trade).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.outcome).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.card).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| o.reason).collect::<Vec<_>>())
        .bind([gift_issuance::ATTESTED, gift_issuance::REVOKED].as_slice())
        .execute(&mut *connection)
        .await?;
    if codes.is_empty() {
        return Ok(());
    }
    sqlx::query(CODES)
        .bind(codes.iter().map(|(trade, ..)| *trade).collect::<Vec<_>>())
        .bind(codes.iter().map(|(_, grant, ..)| *grant).collect::<Vec<_>>())
        .bind(codes.iter().map(|(_, _, provider, _)| *provider).collect::<Vec<_>>())
        .bind(codes.iter().map(|(.., code)| code.key_id.as_str()).collect::<Vec<_>>())
        .bind(codes.iter().map(|(.., code)| code.nonce.as_slice()).collect::<Vec<_>>())
        .bind(codes.iter().map(|(.., code)| code.ciphertext.as_slice()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// The planted bug `code_in_journal`: a canary in a place where no code may ever be.
async fn leak(connection: &mut PgConnection, job: i64, card: &str) -> Result<(), sqlx::Error> {
    const LEAK: &str =
        "insert into noshi.job_event (job, event, lease, step, detail) values ($1, 'leak', 0, 0, 'CNRY-' || $2)";
    sqlx::query(LEAK).bind(job).bind(card).execute(connection).await?;
    Ok(())
}

/// Which providers may start new trades: their lane is neither paused nor closed.
const OPEN_LANES: &str = "select name from noshi.lane_now where name = any($1) and not paused and closed_code is null";

pub async fn open_lanes(connection: &mut PgConnection, lanes: &[String]) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(OPEN_LANES).bind(lanes).fetch_all(connection).await
}

/// A trade about to be saved.
#[derive(Debug)]
pub struct NewTrade<'a> {
    pub id: &'a str,
    pub grant: &'a str,
    pub generation: i16,
    pub job: i64,
    pub provider: &'a str,
    pub category: &'a str,
    pub amount: i64,
    pub currency: &'a str,
}

// After a restore, or where commits were lost with a server, a call for this job may have been made that is not known here: it may be as old
// as the moment from which on things are missing. A job in doubt before its first trade was claimed for a call that was lost. At whom it may
// have been made is noted once: a partner that is taken out of the settings afterwards may still have been called.
macro_rules! past_sql {
    ($then:literal) => {
        concat!(
            "with point as materialized (
    select j.id, w.owed is not null as owed, j.in_doubt or (s.restored_to is not null and p.proven_at is null) or (p.job is not null and p.proven_at is null) as known,
        least(j.called_at, s.restored_to, w.owed) as called_at, array(select unnest($3::text[] || p.partners) union select substr(l.name, 6)
            from noshi.lane l where $5 and l.name like 'gift/%' and l.tokens > 0 and substr(l.name, 6) <> all($4::text[])) as partners
    from noshi.job j cross join noshi.server_seen s left join noshi.gift_past p on p.job = j.id and p.generation = $2
    cross join lateral (select case when s.owed > 0 and not j.in_doubt and j.created_at > s.lost_since and p.job is null then s.lost_since end as owed) w
    where j.id = $1),
doubted as (
    update noshi.job j set called_at = coalesce(point.called_at, clock_timestamp())
    from point where j.id = point.id and (point.known or point.owed) returning point.*),
noted as (
    insert into noshi.gift_past (job, generation, partners, owed) select id, $2, partners, owed from doubted on conflict do nothing)",
            $then
        )
    };
}

const SAVE_TRADE: &str = past_sql!(
    ",
saved as (
    insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
    select $6, $7, $2, $1, $8, $9, $10, $11
    where not exists (select from doubted where partners <> array[$8]) and not exists (
        -- At most one live trade per grant: every older one must be proven void.
        select from noshi.gift_trade t where t.grant_id = $7 and t.id <> $6
        and not exists (select from noshi.gift_outcome o where o.trade = t.id and o.outcome = 'void'))
    on conflict do nothing returning id)
select exists (select from saved), exists (select from doubted), exists (select from doubted where partners <> array[$8])"
);

const NOTE_PAST: &str = past_sql!(
    "
select exists (select from doubted)"
);

const PAST: &str = "select partners from noshi.gift_past where job = $1 and generation = $2 and proven_at is null";

const BIND_TRADE: &str =
    "insert into noshi.gift_trade (id, grant_id, generation, job, provider, category, amount, currency)
select $6, $7, $2, $1, $8, $3, $4, $5 where not exists (
    select from noshi.gift_trade t where t.grant_id = $7 and t.id <> $6
    and not exists (select from noshi.gift_outcome o where o.trade = t.id and o.outcome = 'void'))
on conflict do nothing returning id";

/// What became of a trade that was to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    Saved,
    /// And a call under its id may have been made before, in what a restore has forgotten; the settle raises the doubt.
    InDoubt,
    /// That, and it could have been made at another provider: not saved.
    Unclear,
    /// The grant has a live trade already: not saved.
    Occupied,
}

/// Who may have been called for a trade before.
#[derive(Debug)]
pub struct Partners<'a> {
    /// Those that offer the gift.
    pub able: &'a [String],
    /// All that the settings name; of one that they name no more nobody can say what it offered.
    pub known: &'a [String],
    /// The producer insists on none.
    pub any: bool,
}

/// Saves a trade id before its first call (R11).
pub async fn save_trade(
    connection: &mut PgConnection,
    trade: &NewTrade<'_>,
    partners: &Partners<'_>,
) -> Result<Saved, sqlx::Error> {
    let saved: (bool, bool, bool) = sqlx::query_as(SAVE_TRADE)
        .bind(trade.job)
        .bind(trade.generation)
        .bind(partners.able)
        .bind(partners.known)
        .bind(partners.any)
        .bind(trade.id)
        .bind(trade.grant)
        .bind(trade.provider)
        .bind(trade.category)
        .bind(trade.amount)
        .bind(trade.currency)
        .fetch_one(connection)
        .await?;
    Ok(match saved {
        (_, _, true) => Saved::Unclear,
        (false, ..) => Saved::Occupied,
        (true, true, _) => Saved::InDoubt,
        (true, false, _) => Saved::Saved,
    })
}

/// Where nothing is to be bought: whether it may have been called before. At whom is noted, as for a trade.
pub async fn note_past(
    connection: &mut PgConnection,
    job: i64,
    generation: i16,
    partners: &Partners<'_>,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(NOTE_PAST)
        .bind(job)
        .bind(generation)
        .bind(partners.able)
        .bind(partners.known)
        .bind(partners.any)
        .fetch_one(connection)
        .await
}

/// The partners that may have been called, while that is not settled; `None`: nothing is noted.
pub async fn past(
    connection: &mut PgConnection,
    job: i64,
    generation: i16,
) -> Result<Option<Vec<String>>, sqlx::Error> {
    sqlx::query_scalar(PAST).bind(job).bind(generation).fetch_optional(connection).await
}

/// Saves a trade that its partner knows, whatever others may have been called. False: the grant has another live one.
pub async fn bind_trade(connection: &mut PgConnection, trade: &NewTrade<'_>) -> Result<bool, sqlx::Error> {
    let bound = sqlx::query(BIND_TRADE)
        .bind(trade.job)
        .bind(trade.generation)
        .bind(trade.category)
        .bind(trade.amount)
        .bind(trade.currency)
        .bind(trade.id)
        .bind(trade.grant)
        .bind(trade.provider);
    Ok(bound.fetch_optional(connection).await?.is_some())
}

const TALLY: &str = "insert into noshi.probe_tally (name, job) values ($1, $2) on conflict do nothing returning name";

pub async fn tally(connection: &mut PgConnection, name: &str, job: i64) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(TALLY).bind(name).bind(job).fetch_optional(connection).await?.is_some())
}

// By the index of keys, each looked at once; a key that nothing is under any more costs nothing.
const OTHER_KEYS: &str = "with recursive k(id) as (
    select min(key_id) from noshi_sealed.sealed
    union all select (select min(key_id) from noshi_sealed.sealed s where s.key_id > k.id) from k where k.id is not null)
select id from k where id <> all ($1) limit 21";
// In the order of its primary key, and no more at once than a little memory holds; one that is larger alone.
const SEALED_UNDER: &str = "with next as (
    select * from noshi_sealed.sealed where key_id = any($1) and (what, subject) > ($2, $3) order by what, subject limit 200),
sized as (select *, row_number() over w as n, sum(octet_length(ciphertext)) over w as size from next window w as (order by what, subject))
select what, subject, grant_id, provider, key_id, nonce, ciphertext from sized where n = 1 or size <= 4194304 order by n";
// Waits for a row that another rotation holds, and passes over what it has done.
const REWRAP: &str = "update noshi_sealed.sealed set key_id = $3, nonce = $4, ciphertext = $5 where what = $1 and subject = $2 and nonce = $6 and key_id = $7";

/// A sealed value in its place.
#[derive(Debug)]
pub struct SealedRow {
    pub what: String,
    pub subject: String,
    pub grant: String,
    pub provider: String,
    pub sealed: gift_issuance::Sealed,
}

/// Keys under which there are sealed values, and that are none of these; 21 at most.
pub async fn other_keys(pool: &PgPool, known: &[String]) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(OTHER_KEYS).bind(known).fetch_all(pool).await
}

/// The next sealed values under these keys, behind this one (what, subject).
pub async fn sealed_under(
    pool: &PgPool,
    keys: &[String],
    (what, subject): &(String, String),
) -> Result<Vec<SealedRow>, sqlx::Error> {
    let rows = sqlx::query(SEALED_UNDER).bind(keys).bind(what).bind(subject).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(SealedRow {
                what: row.try_get("what")?,
                subject: row.try_get("subject")?,
                grant: row.try_get("grant_id")?,
                provider: row.try_get("provider")?,
                sealed: crate::db::sealed(row)?,
            })
        })
        .collect()
}

/// False: another rotation has done it.
pub async fn replace_sealed(
    connection: &mut PgConnection,
    row: &SealedRow,
    sealed: &gift_issuance::Sealed,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(REWRAP)
        .bind(&row.what)
        .bind(&row.subject)
        .bind(&sealed.key_id)
        .bind(&sealed.nonce)
        .bind(&sealed.ciphertext)
        .bind(&row.sealed.nonce)
        .bind(&row.sealed.key_id)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}
