//! What a program brings for jobs of its own: its migrations, with a history of their own, and what the database is told of its kinds.

use std::{collections::BTreeMap, sync::OnceLock};

use noshi_jobs::{Field, Holds, Presence};
use serde_json::{Value, json};
use sqlx::{
    Executor, Row,
    migrate::{MigrateError, Migrator},
};

use super::schema::{Line, Pending};
use crate::{
    basics::{
        kinds::{self, AnyKind},
        requests::{MAX_MONEY, wanted},
    },
    db::{PgConnection, PgPool},
};

const HISTORY: &str = "noshi_migrations.own_migrations";

static OWN: OnceLock<&'static Migrator> = OnceLock::new();

/// Adds the program's migrations, once.
pub fn add(migrations: &'static Migrator) {
    OWN.get_or_init(|| migrations);
}

type Applied = BTreeMap<i64, (bool, Vec<u8>, chrono::DateTime<chrono::Utc>)>;

async fn applied(connection: &mut PgConnection) -> Result<Applied, sqlx::Error> {
    const READABLE: &str = "select coalesce(has_table_privilege(to_regclass($1)::oid, 'select'), false)";
    // It is there where a program has brought migrations, and nowhere else.
    const ROWS: &str = "table noshi_migrations.own_migrations";
    if !sqlx::query_scalar(READABLE).bind(HISTORY).persistent(false).fetch_one(&mut *connection).await? {
        return Ok(Applied::new());
    }
    let rows = sqlx::query(ROWS).persistent(false).fetch_all(connection).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        let applied = (row.try_get("success")?, row.try_get("checksum")?, row.try_get("installed_on")?);
        Ok((row.try_get("version")?, applied))
    };
    rows.iter().map(read).collect()
}

/// Each migration of the program, and what became of it.
pub(super) async fn status(connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let Some(own) = OWN.get() else { return Ok(vec![]) };
    let applied = applied(connection).await?;
    let line = |ours: &sqlx::migrate::Migration| {
        let theirs = applied.get(&ours.version);
        let status = match theirs {
            None => "pending",
            Some((false, ..)) => "failed",
            Some((_, checksum, _)) if *checksum != *ours.checksum => "changed",
            Some(_) => "applied",
        };
        let name = format!("own: {}", ours.description);
        Line { version: ours.version, name, status, applied_at: theirs.map(|(.., at)| *at) }
    };
    Ok(own.iter().map(line).collect())
}

/// Those of the program that are to come, in order.
pub(super) async fn pending(connection: &mut PgConnection) -> Result<Vec<Pending>, sqlx::Error> {
    let Some(own) = OWN.get() else { return Ok(vec![]) };
    let applied = applied(connection).await?;
    let to_come = own.iter().filter(|ours| !applied.contains_key(&ours.version));
    Ok(to_come
        .map(|m| Pending {
            version: m.version,
            name: format!("own: {}", m.description),
            sql: m.sql.as_str().to_owned(),
        })
        .collect())
}

/// The first of the program's migrations that is to come.
pub(super) async fn lacking(pool: &PgPool) -> Result<Option<Pending>, sqlx::Error> {
    match OWN.get() {
        None => Ok(None),
        Some(_) => Ok(pending(&mut *pool.acquire().await?).await?.into_iter().next()),
    }
}

/// Runs the program's migrations, and tells the database which kinds it has.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    if let Some(own) = OWN.get() {
        let mut migrator = Migrator::with_migrations(own.iter().cloned().collect());
        migrator.dangerous_set_table_name(HISTORY);
        connection.migrate(&migrator).await?;
        const SEEN: &str = "grant select on noshi_migrations.own_migrations to noshi_operator, noshi_worker, noshi_webhook, noshi_api, noshi_owner";
        connection.execute(SEEN).await?;
    }
    let own: Vec<Value> = kinds::all().iter().filter(|kind| kind.is_own()).map(|kind| told(&**kind)).collect();
    if !own.is_empty() {
        connection.execute("set role noshi_owner").await?;
        sqlx::query("select noshi.declare_kinds($1)")
            .bind(Value::from(own))
            .persistent(false)
            .execute(&mut *connection)
            .await?;
        connection.execute("reset role").await?;
    }
    Ok(())
}

fn told(kind: &dyn AnyKind) -> Value {
    let fields: Vec<Value> = kind.fields().unwrap_or_default().iter().map(field).collect();
    json!({"name": kind.kind().name(), "for_producers": kind.is_for_producers(), "id_field": kind.id_field(), "fields": fields})
}

/// A field, as `noshi.own_fault` reads it.
fn field(field: &Field) -> Value {
    let (holds, least, most, one_of) = match field.holds {
        Holds::Id { most } => ("id", None, i64::try_from(most).ok(), None),
        Holds::NoAddress { most } => ("no_address", None, i64::try_from(most).ok(), None),
        Holds::Word { most } => ("word", None, i64::try_from(most).ok(), None),
        Holds::Text { most } => ("text", None, i64::try_from(most).ok(), None),
        Holds::Whole { least, most } => ("whole", Some(least), Some(most), None),
        Holds::Amount => ("whole", Some(1), Some(MAX_MONEY), None),
        Holds::OneOf(names) => ("one_of", None, None, Some(names)),
        Holds::Texts => ("texts", None, None, None),
        // A program with such a field does not begin.
        Holds::Phone | Holds::Object(_) | Holds::Nothing | Holds::Sealed(_) | Holds::Contact => {
            ("nothing", None, None, None)
        }
    };
    json!({"name": field.name, "needed": field.presence == Presence::Needed, "nullable": field.presence == Presence::Optional,
        "holds": holds, "least": least, "most": most, "one_of": one_of, "wanted": wanted(field.holds)})
}
