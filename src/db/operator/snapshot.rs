//! The metric snapshot: each number from a partial index or a small table, none from the history.

use std::time::{Duration, Instant};

use noshi_jobs::Problem;
use sqlx::types::Json;

use crate::{
    basics::kinds,
    db::{PgConnection, PgPool, take_time},
};

pub type Labels = Vec<(String, String)>;

/// One series and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

/// Statuses of open jobs, as metrics and views show them.
pub const OPEN_STATUSES: [&str; 6] =
    ["scheduled", "available", "running", "retryable", "needs_operator", "compensating"];

const TURN: &str = "update noshi.metric_snapshot_taken set next_at = clock_timestamp() + interval '1 minute' where next_at <= clock_timestamp() or next_at > clock_timestamp() + interval '1 day' returning one";
const WRITE: &str =
    "insert into noshi.metric_snapshot (name, labels, value) select * from unnest($1::text[], $2::jsonb[], $3::float8[])
on conflict (name, labels) do update set value = excluded.value";
const TAKEN: &str = "update noshi.metric_snapshot_taken set taken_at = clock_timestamp(), took = make_interval(secs => $1), next_at = clock_timestamp() + make_interval(secs => greatest(10, 20 * $1))";

/// Takes the samples if it is this process's turn.
pub async fn take(pool: &PgPool) -> Result<bool, sqlx::Error> {
    if sqlx::query(TURN).fetch_optional(pool).await?.is_none() {
        return Ok(false);
    }
    let mut transaction = pool.begin().await?;
    take_time(&mut transaction).await?;
    // What counts as its price is the counting, and not the wait for a place among this process's connections: the next waits twenty times as long.
    let begun = Instant::now();
    let mut samples = vec![];
    open_jobs(&mut transaction, &mut samples).await?;
    parked(&mut transaction, &mut samples).await?;
    lanes(&mut transaction, &mut samples).await?;
    single(&mut transaction, &mut samples).await?;
    let labels: Vec<Json<serde_json::Map<_, _>>> = samples
        .iter()
        .map(|sample| Json(sample.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()))
        .collect();
    sqlx::query(WRITE)
        .bind(samples.iter().map(|sample| sample.name.as_str()).collect::<Vec<_>>())
        .bind(labels)
        .bind(samples.iter().map(|sample| sample.value).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
    sqlx::query(TAKEN).bind(begun.elapsed().as_secs_f64()).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

fn labels<const N: usize>(labels: [(&str, &str); N]) -> Labels {
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn sample(name: &str, labels: Labels, value: f64) -> Sample {
    Sample { name: name.to_owned(), labels, value }
}

// One branch for each partial index: with `status in (…)` alone the whole history would be read.
const OPEN: &str = "select kind, status, sum(jobs)::float8 as jobs, sum(jobs) filter (where stuck)::float8 as stuck from (
    select kind, status::text, undo is not null as undoing, code = 'compensation_stuck' as stuck, count(*) as jobs from noshi.job where status = 'available' and crash_count = 0 group by 1, 2, 3, 4
    union all
    select kind, status::text, undo is not null, code = 'compensation_stuck', count(*) from noshi.job where status = 'available' and crash_count > 0 group by 1, 2, 3, 4
    union all
    select kind, status::text, undo is not null, code = 'compensation_stuck', count(*) from noshi.job where status in ('scheduled', 'retryable') group by 1, 2, 3, 4
    union all
    select kind, status::text, undo is not null, code = 'compensation_stuck', count(*) from noshi.job where status = 'running' group by 1, 2, 3, 4
    union all
    select kind, status::text, false, false, count(*) from noshi.job where status = 'needs_operator' group by 1, 2) o(kind, queued, undoing, stuck, jobs)
cross join lateral (select case when undoing then 'compensating' else queued end as status) s group by 1, 2";

async fn open_jobs(connection: &mut PgConnection, samples: &mut Vec<Sample>) -> Result<(), sqlx::Error> {
    let open: Vec<(String, String, f64, Option<f64>)> = sqlx::query_as(OPEN).fetch_all(connection).await?;
    for kind in kinds::names().iter().copied() {
        for status in OPEN_STATUSES {
            let jobs = open.iter().filter(|(k, s, ..)| k == kind && s == status).map(|(_, _, jobs, _)| jobs).sum();
            samples.push(sample("noshi_open_jobs", labels([("kind", kind), ("status", status)]), jobs));
        }
    }
    let stuck = open.iter().filter_map(|(.., stuck)| *stuck).sum();
    samples.push(sample("noshi_compensation_stuck_jobs", vec![], stuck));
    Ok(())
}

async fn parked(connection: &mut PgConnection, samples: &mut Vec<Sample>) -> Result<(), sqlx::Error> {
    const PARKED: &str = "select coalesce(code, ''), count(*) filter (where acknowledged is distinct from step)::float8,
    coalesce(max(extract(epoch from clock_timestamp() - entered_at)) filter (where acknowledged is distinct from step), 0)::float8,
    count(*) filter (where acknowledged = step)::float8
from noshi.job where status = 'needs_operator' group by 1";
    let parked: Vec<(String, f64, f64, f64)> = sqlx::query_as(PARKED).fetch_all(connection).await?;
    for code in Problem::known().iter().map(|problem| problem.code()) {
        let of_code = parked.iter().find(|(of, ..)| of == code);
        let (jobs, oldest, seen) = of_code.map_or((0.0, 0.0, 0.0), |(_, n, age, seen)| (*n, *age, *seen));
        samples.push(sample("noshi_parked_jobs", labels([("code", code)]), jobs));
        samples.push(sample("noshi_parked_oldest_seconds", labels([("code", code)]), oldest));
        samples.push(sample("noshi_parked_acknowledged_jobs", labels([("code", code)]), seen));
    }
    Ok(())
}

async fn lanes(connection: &mut PgConnection, samples: &mut Vec<Sample>) -> Result<(), sqlx::Error> {
    const SHUT: [&str; 6] = ["paused", "throttled", "funds", "credentials", "sender", "tls"];
    for lane in crate::db::queue::lanes::standing(&mut *connection).await? {
        let shut = [
            lane.paused,
            lane.closed_for.is_some(),
            lane.closed_code.as_deref() == Some("funds"),
            lane.closed_code.as_deref() == Some("credentials"),
            lane.closed_code.as_deref() == Some("sender"),
            lane.closed_code.as_deref().is_some_and(|code| code.starts_with("tls_")),
        ];
        let name = lane.name.as_str();
        let open = f64::from(u8::from(!shut.contains(&true)));
        samples.push(sample("noshi_lane_open", labels([("lane", name)]), open));
        for (why, shut) in SHUT.into_iter().zip(shut) {
            samples.push(sample("noshi_lane_shut", labels([("lane", name), ("why", why)]), f64::from(u8::from(shut))));
        }
        samples.push(sample("noshi_lane_tokens", labels([("lane", name)]), lane.tokens as f64));
        let oldest = lane.oldest_available.unwrap_or_default().max(0.0);
        samples.push(sample("noshi_oldest_available_seconds", labels([("lane", name)]), oldest));
    }
    Ok(())
}

// Snapshots hold vacuum back, whoever holds them: a session, a prepared transaction, a slot. How long is told from when it was seen first.
const OLDEST: &str = "with now as (
    select min(x)::text::xid8 as oldest from (
        select backend_xmin::text::bigint as x from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid()
        union all select backend_xid::text::bigint from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
        union all select transaction::text::bigint from pg_prepared_xacts
        union all select xmin::text::bigint from pg_replication_slots where xmin is not null) h)
update noshi.metric_snapshot_taken t set oldest = now.oldest, oldest_at = case when t.oldest = now.oldest then t.oldest_at when now.oldest is not null then clock_timestamp() end
from now returning coalesce(extract(epoch from clock_timestamp() - t.oldest_at), 0)::float8";

macro_rules! samples {
    ($($name:literal = $value:literal),+ $(,)?) => {
        const SINGLE_NAMES: &[&str] = &[$($name),+];
        const SINGLE: &str = concat!("select array[", $("(", $value, ")::float8,",)+ " 0]");
    };
}

samples! {
    "noshi_in_doubt_jobs" = "select count(*) from noshi.job where in_doubt",
    "noshi_in_doubt_oldest_seconds" = "select coalesce(extract(epoch from clock_timestamp() - min(called_at)), 0) from noshi.job where in_doubt and status <> 'needs_operator'",
    "noshi_batches_awaiting_approval" = "select count(*) from noshi.batch where needs_approval and validated_at is not null and released_at is null and cancelled_at is null
        and coalesce(approved_until <= clock_timestamp(), true)",
    "noshi_batches_paused" = "select count(*) from noshi.batch where paused_at is not null and settled_at is null",
    "noshi_batches_open" = "select count(*) from noshi.batch where released_at is not null and settled_at is null and refused_code is null",
    "noshi_redrives_open" = "select count(*) from noshi.redrive where applied_at is not null and done_at is null and cancelled_at is null",
    "noshi_schedule_late_seconds" = "select greatest(extract(epoch from clock_timestamp() - min(next_due)), 0) from noshi.schedule where paused_at is null",
    "noshi_workers_alive" = "select count(*) from noshi.worker where dead_at is null and stopped_at is null and seen_at > clock_timestamp() - interval '10 seconds'",
    "noshi_leases_held" = "select count(*) from noshi.job where status = 'running'",
    "noshi_points_expiry_late_seconds" = "select expiry_late_seconds from noshi.point_metrics()",
    "noshi_points_due_lots" = "select due_lots from noshi.point_metrics()",
    "noshi_mail_bounces_last_hour" = "select count(*) from noshi.email_event where received_at > now() - interval '1 hour' and (event = 'complaint' or event = 'bounce' and coalesce(detail, 'Permanent') not like 'Transient%')",
    "noshi_mail_events_unread_last_day" = "select count(*) from noshi.email_event where received_at > now() - interval '1 day' and oddity = 'unread'",
    "noshi_mail_events_foreign_last_day" = "select count(*) from noshi.email_event where received_at > now() - interval '1 day' and oddity = 'foreign'",
    "noshi_mail_sends_last_hour" = "select count(*) from noshi.email_event where received_at > now() - interval '1 hour' and event = 'send'",
    "noshi_database_dead_rows" = "select n_dead_tup from pg_stat_user_tables where relid = 'noshi.job'::regclass",
    "noshi_database_live_rows" = "select n_live_tup from pg_stat_user_tables where relid = 'noshi.job'::regclass",
    "noshi_database_connections_left" = "select current_setting('max_connections')::int - (select count(*) from pg_stat_activity where datid is not null and usesysid is not null)",
    "noshi_database_prepared_transactions" = "select count(*) from pg_prepared_xacts",
    "noshi_database_notification_queue" = "select pg_notification_queue_usage()",
    "noshi_database_standbys" = "select count(*) from pg_stat_replication",
    "noshi_restore_marked" = "select count(*) from noshi.server_seen where restored_to is not null",
    "noshi_audit_links" = "select seq from noshi.audit_head",
}

async fn single(connection: &mut PgConnection, samples: &mut Vec<Sample>) -> Result<(), sqlx::Error> {
    let oldest: f64 = sqlx::query_scalar(OLDEST).fetch_one(&mut *connection).await?;
    samples.push(sample("noshi_database_oldest_snapshot_seconds", vec![], oldest));
    let values: Vec<f64> = sqlx::query_scalar(SINGLE).fetch_one(connection).await?;
    samples.extend(SINGLE_NAMES.iter().zip(values).map(|(name, value)| sample(name, vec![], value)));
    Ok(())
}

/// The samples as they were last taken, how long ago that was, and the database's clock in Unix seconds.
pub async fn read(pool: &PgPool) -> Result<(Vec<Sample>, Duration, f64), sqlx::Error> {
    const READ: &str = "select name, labels, value from noshi.metric_snapshot order by name, labels";
    const AGE: &str = "select coalesce(extract(epoch from clock_timestamp() - taken_at), 0)::float8, extract(epoch from clock_timestamp())::float8 from noshi.metric_snapshot_taken";
    type Row = (String, Json<std::collections::BTreeMap<String, String>>, f64);
    let rows: Vec<Row> = sqlx::query_as(READ).fetch_all(pool).await?;
    let (age, clock): (f64, f64) = sqlx::query_as(AGE).fetch_one(pool).await?;
    let read = |(name, labels, value): Row| Sample { name, labels: labels.0.into_iter().collect(), value };
    Ok((rows.into_iter().map(read).collect(), crate::db::seconds(age), clock))
}
