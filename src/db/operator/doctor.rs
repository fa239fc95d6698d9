//! What `noshi doctor` asks the database.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::Executor;

use crate::{
    basics::kinds,
    db::{PgConnection, PgPool},
};

/// The server and its settings, as this login sees them.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Server {
    pub login: String,
    pub version: i32,
    pub in_recovery: bool,
    pub synchronous_commit: String,
    /// Standbys that stream from it, and whether commits wait for one.
    pub standbys: i64,
    pub commits_wait: bool,
    pub fsync: String,
    pub full_page_writes: String,
    pub autovacuum: String,
    pub connections_left: i64,
    pub prepared_transactions: i64,
    /// How full the queue of notifications is, from 0 to 1.
    pub notification_queue: f64,
    /// Statements are logged with their parameters.
    pub logs_parameters: bool,
    /// Unix time in seconds.
    pub clock: f64,
}

pub async fn server(connection: &mut PgConnection) -> Result<Server, sqlx::Error> {
    const SERVER: &str = "select session_user::text as login, current_setting('server_version_num')::int as version, pg_is_in_recovery() as in_recovery,
    (select reset_val from pg_settings where name = 'synchronous_commit') as synchronous_commit,
    (select count(*) from pg_stat_replication) as standbys, current_setting('synchronous_standby_names') <> '' as commits_wait, current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes, current_setting('autovacuum') as autovacuum,
    current_setting('max_connections')::bigint - (select count(*) from pg_stat_activity where datid is not null and usesysid is not null) as connections_left,
    (select count(*) from pg_prepared_xacts) as prepared_transactions, pg_notification_queue_usage() as notification_queue,
    current_setting('log_parameter_max_length') <> '0' and (current_setting('log_statement') in ('mod', 'all') or current_setting('log_min_duration_statement') <> '-1')
        as logs_parameters, extract(epoch from clock_timestamp())::float8 as clock";
    sqlx::query_as(SERVER).fetch_one(connection).await
}

/// The group roles of noshi that this login acts in.
pub async fn roles(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    const ROLES: &str = "select rolname::text from pg_roles where rolname like 'noshi\\_%' and not rolcanlogin and pg_has_role(session_user, oid, 'member') order by 1";
    sqlx::query_scalar(ROLES).fetch_all(connection).await
}

/// How far the database's clock is ahead of ours, give or take the time that asking took.
pub fn clock_lead(server: &Server, asked: Duration) -> f64 {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    server.clock - ours + asked.as_secs_f64() / 2.0
}

/// A session's settings survive to its next statement, also while others work: not so behind a pooler in transaction mode.
pub async fn sessions_hold(url: &str) -> Result<bool, sqlx::Error> {
    let (mut ours, mut other) = (PgConnection::connect(url).await?, PgConnection::connect(url).await?);
    ours.execute("set noshi.doctor = 'here'").await?;
    // A pooler gives the other session the connection that ours has just left.
    let mut busy = other.begin().await?;
    busy.execute("select 1").await?;
    let kept: Option<String> = sqlx::query_scalar("select current_setting('noshi.doctor', true)")
        .persistent(false)
        .fetch_one(&mut ours)
        .await?;
    busy.rollback().await?;
    Ok(kept.as_deref() == Some("here"))
}

/// Orders of texts that the operating system or ICU changed since indexes of ours were built: each as a sentence.
pub async fn changed_orders(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    const CHANGED: &str = "select format('the database''s order of texts was %s, and is %s', d.datcollversion, pg_database_collation_actual_version(d.oid))
    from pg_database d where d.datname = current_database() and d.datcollversion <> pg_database_collation_actual_version(d.oid)
union all
select format('the order %s was %s, and is %s', c.oid::regcollation, c.collversion, pg_collation_actual_version(c.oid))
    from pg_collation c where c.collversion <> pg_collation_actual_version(c.oid) and exists (
        select from pg_index i join pg_class t on t.oid = i.indrelid
        where t.relnamespace::regnamespace::text like 'noshi%' and c.oid = any (i.indcollation::oid[]))";
    sqlx::query_scalar(CHANGED).persistent(false).fetch_all(connection).await
}

/// Whether whoever listens between here and the server reads along; by a socket of this machine, or to itself, nobody does.
pub async fn is_in_the_clear(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    const IN_THE_CLEAR: &str =
        "select not coalesce((select s.ssl from pg_stat_ssl s where s.pid = pg_backend_pid()), false)
    and inet_server_addr() is not null and inet_client_addr() <> inet_server_addr()";
    sqlx::query_scalar(IN_THE_CLEAR).fetch_one(connection).await
}

/// What keeps vacuum from its work although no session does: replication slots and prepared transactions, by how many transactions.
pub async fn held_back(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    const HELD: &str = "select format('the replication slot %s%s holds %s transactions back', slot_name, case when active then '' else ', which nobody uses,' end,
        greatest(age(xmin), age(catalog_xmin)))
    from pg_replication_slots where greatest(age(xmin), age(catalog_xmin)) > 1000
union all
select format('the prepared transaction %s of %s holds %s transactions back', gid, owner, age(transaction)) from pg_prepared_xacts where age(transaction) > 1000";
    sqlx::query_scalar(HELD).persistent(false).fetch_all(connection).await
}

/// Prepared transactions of this database that hold locks on tables of ours: each by its name, its owner, and since when.
pub async fn prepared_holders(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    const PREPARED: &str = "select format('%s of %s, since %s', p.gid, p.owner, to_char(p.prepared, 'YYYY-MM-DD HH24:MI'))
from pg_prepared_xacts p where p.database = current_database() and exists (
    select from pg_locks x join pg_locks l on l.virtualtransaction = x.virtualtransaction and l.pid is null join pg_class c on c.oid = l.relation
    where x.pid is null and x.locktype = 'transactionid' and x.transactionid = p.transaction and l.mode <> 'AccessShareLock'
      and c.relnamespace in (select oid from pg_namespace where nspname in ('noshi', 'noshi_sealed')))
order by p.prepared, p.gid";
    sqlx::query_scalar(PREPARED).persistent(false).fetch_all(connection).await
}

/// Tokens that are neither revoked nor expired, and open nothing: their login is gone, locked, or no operator any more.
pub async fn ended_tokens(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    const ENDED: &str = "select format('%s of %s', id, owner) from noshi.token
where revoked_at is null and expires_at > clock_timestamp() and not noshi.is_theirs(login, owner, as_operator) order by owner, id limit 20";
    sqlx::query_scalar(ENDED).fetch_all(pool).await
}

/// Lanes whose place in the queue is beyond what jobs can have led to: within them nobody's turn counts any more.
pub async fn lanes_out_of_turn(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    const BEYOND: &str = "select quote_literal(name) from noshi.lane where vtime > 100000000000000 order by name";
    sqlx::query_scalar(BEYOND).fetch_all(pool).await
}

/// Cards of the last week that more than one gift has: the partner's id of each, and the trades.
pub async fn cards_of_two(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    // No index for it: each gift would pay for that. A week is a range of pages.
    const CARDS: &str = "select format('the card %s of %s is that of %s', o.card, t.provider, string_agg(distinct t.id, ' and ' order by t.id))
from noshi.gift_outcome o join noshi.gift_trade t on t.id = o.trade
where o.happened_at >= clock_timestamp() - interval '7 days' and o.outcome = 'issued' and o.card <> ''
group by t.provider, o.card having count(distinct t.id) > 1 order by min(o.happened_at) limit 20";
    sqlx::query_scalar(CARDS).fetch_all(pool).await
}

/// What lies ahead of the database's clock for good, and how many living workers are apart from it.
pub async fn dated_ahead(pool: &PgPool) -> Result<(Vec<String>, i64), sqlx::Error> {
    const AHEAD: &str =
        "select format('%s %s, to %s', many, what, to_char(newest, 'YYYY-MM-DD HH24:MI')) from noshi.dated_ahead()";
    const APART: &str =
        "select count(*) from noshi.worker where dead_at is null and stopped_at is null and abs(clock_ahead) > $1";
    let ahead = sqlx::query_scalar(AHEAD).fetch_all(pool).await?;
    Ok((ahead, sqlx::query_scalar(APART).bind(crate::db::queue::clocks::BOUND).fetch_one(pool).await?))
}

/// Who changed the retention within a week, from what to what; and until when a shorter one does not count yet.
pub async fn changed_retention(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    const CHANGED: &str = "select format('%s set it on %s: jobs for %s, archived jobs for %s (before: %s, %s)', a.who, to_char(a.happened_at, 'YYYY-MM-DD HH24:MI'),
        a.after ->> 'jobs_for', a.after ->> 'archive_for', a.before ->> 'jobs_for', a.before ->> 'archive_for')
        || case when r.shortened_at > clock_timestamp() - interval '7 days' and a.id = max(a.id) over ()
            then format('; nothing is removed from the archive by it before %s', to_char(r.shortened_at + interval '7 days', 'YYYY-MM-DD HH24:MI')) else '' end
    from noshi.audit a cross join noshi.retention r
    where a.target = 'jobs' and a.act = 'retention' and a.happened_at > clock_timestamp() - interval '7 days' order by a.id desc limit 5";
    sqlx::query_scalar(CHANGED).fetch_all(pool).await
}

/// Re-drives that cannot go on, and those whose turn has not come for a minute: each as a sentence.
pub async fn stuck_redrives(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    const STUCK: &str = "select case when paused_code = 'fault' then format('re-drive %s cannot go on: %s', id, paused_detail)
        else format('re-drive %s has waited for its turn since %s', id, to_char(next_at, 'YYYY-MM-DD HH24:MI')) end
    from noshi.redrive where applied_at is not null and done_at is null and cancelled_at is null
        and (paused_code = 'fault' or (paused_at is null and next_at < clock_timestamp() - interval '1 minute')) order by id limit 20";
    sqlx::query_scalar(STUCK).fetch_all(pool).await
}

/// Logins that are one person to us.
pub async fn logins_of_one(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    const OF_ONE: &str = "select string_agg(quote_ident(rolname), ' and ' order by rolname) from pg_roles
    where rolcanlogin group by noshi.person(rolname) having count(*) > 1 order by 1 limit 20";
    sqlx::query_scalar(OF_ONE).fetch_all(pool).await
}

/// What vacuum can do for the job table, and what keeps it from it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Vacuum {
    pub live: i64,
    pub dead: i64,
    /// Seconds since the oldest transaction that holds a snapshot began, and its process.
    pub oldest: Option<f64>,
    pub oldest_pid: Option<i32>,
}

/// Whether the host lets anybody read which timeline the server writes; some do not.
pub async fn timeline_is_read(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select noshi.timeline() not like '00000000%'").fetch_one(pool).await
}

pub async fn vacuum(pool: &PgPool) -> Result<Vacuum, sqlx::Error> {
    const VACUUM: &str = "select n_live_tup as live, n_dead_tup as dead, o.age as oldest, o.pid as oldest_pid
from pg_stat_user_tables left join (
    select extract(epoch from clock_timestamp() - xact_start)::float8 as age, pid from pg_stat_activity
    where backend_xmin is not null and pid <> pg_backend_pid() and xact_start is not null order by xact_start limit 1) o on true
where relid = 'noshi.job'::regclass";
    sqlx::query_as(VACUUM).fetch_one(pool).await
}

/// Suppressed addresses that no worker has digested for a minute, by the keys that would open them.
pub async fn undigested_addresses(pool: &PgPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    const UNDIGESTED: &str = "select key_id, count(*) from noshi.suppression
where digest is null and suppressed_at < clock_timestamp() - interval '1 minute' group by key_id order by key_id";
    sqlx::query_as(UNDIGESTED).fetch_all(pool).await
}

/// Readings that are open for long: whose, how many wait and are in workers' hands, and for how many seconds.
pub async fn long_readings(pool: &PgPool) -> Result<Vec<(String, i64, i64, f64)>, sqlx::Error> {
    const LONG: &str = "select asked_by, waiting, taken, oldest from noshi.readings_open() where oldest > 5";
    sqlx::query_as(LONG).fetch_all(pool).await
}

/// The keys that something is sealed with.
pub async fn sealed_keys(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select noshi.sealed_keys()").fetch_all(pool).await
}

/// Keys that something is sealed to, and that no living worker has.
pub async fn unopened_keys(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select noshi.unopened_keys()").fetch_all(pool).await
}

/// Of these keys those whose ids mean other keys to the workers.
pub async fn other_prints(pool: &PgPool, keys: &[(String, String)]) -> Result<Vec<String>, sqlx::Error> {
    const OTHERS: &str = "select v.id from unnest($1::text[], $2::text[]) k(id, print) join noshi.vault_key v on v.id = k.id and v.print <> k.print order by 1";
    let (ids, prints): (Vec<String>, Vec<String>) = keys.iter().cloned().unzip();
    sqlx::query_scalar(OTHERS).bind(ids).bind(prints).fetch_all(pool).await
}

/// Who asked for as many codes within the hour as they may, or nearly: name, how many, how many they may.
pub async fn reveals_counted(pool: &PgPool) -> Result<Vec<(String, i32, i32)>, sqlx::Error> {
    sqlx::query_as("select who, codes, most from noshi.reveals_counted()").fetch_all(pool).await
}

/// What workers said of the database within a week that nobody else can know: who, what, and how much is in doubt for it.
pub async fn told_losses(pool: &PgPool) -> Result<Vec<(String, String, i64)>, sqlx::Error> {
    const TOLD: &str = "select who, case act when 'restore copy' then 'this is an older copy' else (after ->> 'missing') || ' writes are missing' end,
    coalesce((after ->> 'in_doubt')::bigint, 0)
from noshi.audit where target = 'database' and act in ('restore copy', 'restore loss') and happened_at > clock_timestamp() - interval '7 days' order by id desc limit 20";
    sqlx::query_as(TOLD).fetch_all(pool).await
}

/// Lanes that jobs wait in and that no worker has opened, kinds that jobs wait for and that this program does not know, and jobs that ask
/// for a person, with those in doubt.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Waiting {
    pub unknown_lanes: Vec<String>,
    pub unknown_kinds: Vec<String>,
    pub parked: i64,
    pub in_doubt: i64,
}

pub async fn waiting(pool: &PgPool) -> Result<Waiting, sqlx::Error> {
    // Lane by lane and kind by kind through their indexes: the backlog may be long.
    const WAITING: &str = "with recursive l as (
    select min(lane) as lane from noshi.job where status = 'available' and crash_count = 0
    union all
    select (select min(lane) from noshi.job where status = 'available' and crash_count = 0 and lane > l.lane) from l where l.lane is not null),
k as (
    select min(kind) as kind from noshi.job
    union all
    select (select min(kind) from noshi.job where kind > k.kind) from k where k.kind is not null)
select coalesce((select array_agg(lane order by lane) from l where lane is not null and not exists (select from noshi.lane n where n.name = l.lane)), '{}') as unknown_lanes,
    coalesce((select array_agg(kind order by kind) from k where kind <> all ($1)
        and exists (select from noshi.job j where j.kind = k.kind and j.status = 'available')), '{}') as unknown_kinds,
    (select count(*) from noshi.job where status = 'needs_operator') as parked, (select count(*) from noshi.job where in_doubt) as in_doubt";
    sqlx::query_as(WAITING).bind(kinds::names()).fetch_one(pool).await
}
