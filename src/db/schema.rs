//! Which migrations a database has.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use sqlx::{
    Executor,
    migrate::{MigrateError, Migrator},
};

use super::{MIGRATIONS, own, reach};
use crate::db::{PgConnection, PgPool};

/// One migration, of this program or of the database.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub version: i64,
    pub name: String,
    /// applied, pending, changed (applied, and reads otherwise in this program), failed, or unknown (of another version of this program).
    pub status: &'static str,
    pub applied_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// A migration that the database does not have yet.
#[derive(Debug, Clone, Serialize)]
pub struct Pending {
    pub version: i64,
    pub name: String,
    pub sql: String,
}

#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    description: String,
    installed_on: chrono::DateTime<chrono::Utc>,
    success: bool,
    checksum: Vec<u8>,
}

/// Where the history of our migrations is kept. Not in a schema that a login's search path picks, which may be another after the first
/// migration, and which other applications that use the same library share with us.
const SCHEMA: &str = "noshi_migrations";
const HISTORY: &str = "noshi_migrations._sqlx_migrations";
/// What a person reads who has a database of an unreleased build, whose migrations were written anew for the first release.
const NOT_OURS: &str = "the schema noshi of this database was installed by a build from before the first release, or by something else, and there \
    is no way from it to this program's: create another database for this one, and let that build finish what it has open there; nothing \
    was changed";
/// Another's migration may rewrite a large table.
const LONGEST_TURN: Duration = Duration::from_secs(60 * 60);

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name(HISTORY);
    migrator
}

/// Empty where nothing was migrated, or where this login may not read it.
async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, Applied>, sqlx::Error> {
    const READABLE: &str = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relname = '_sqlx_migrations'
          and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))";
    const ROWS: &str = "select version, description, installed_on, success, checksum from noshi_migrations._sqlx_migrations order by version";
    if !sqlx::query_scalar(READABLE).bind(SCHEMA).persistent(false).fetch_one(&mut *connection).await? {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<Applied> = sqlx::query_as(ROWS).persistent(false).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.version, row)).collect())
}

/// Whether there is a history that this login may not read: then it cannot tell what is applied.
pub async fn is_hidden(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    const HIDDEN: &str = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relname = '_sqlx_migrations'
          and not (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')))";
    sqlx::query_scalar(HIDDEN).bind(SCHEMA).persistent(false).fetch_one(connection).await
}

/// How many of our migrations are not applied, and how many are applied that we do not know.
pub async fn counts(connection: &mut PgConnection) -> Result<(usize, usize), sqlx::Error> {
    let applied = applied(&mut *connection).await?;
    let ours: BTreeSet<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    let pending = ours.iter().filter(|version| !applied.get(version).is_some_and(|it| it.success)).count();
    let pending = pending + own::pending(connection).await?.len();
    Ok((pending, applied.keys().filter(|version| !ours.contains(version)).count()))
}

/// What a migration reads and writes is the same whatever the server, the database or the login has for its defaults.
const PINNED: &str = "set statement_timeout = 0; set lock_timeout = 0; set default_transaction_isolation = 'read committed';
    set default_transaction_deferrable = off; set standard_conforming_strings = on; set escape_string_warning = on;
    set backslash_quote = safe_encoding; set quote_all_identifiers = off; set datestyle = 'ISO, YMD'; set intervalstyle = postgres;
    set timezone = 'UTC'; set extra_float_digits = 1; set bytea_output = hex; set array_nulls = on; set transform_null_equals = off;
    set xmlbinary = base64; set xmloption = content; set check_function_bodies = on; set row_security = on;
    set default_table_access_method = heap; set jit = off";

/// Brings the schema up to date. Several may try at once: one does it, and the others find it done.
pub async fn migrate(url: &str) -> anyhow::Result<()> {
    let mut connection = reach::login(url).await?;
    // A migration may rewrite a large table.
    connection.lengthen(super::connection::TO_MIGRATE);
    fit_for_us(&mut connection).await?;
    connection.execute(PINNED).await?;
    wait_for_our_turn(&mut connection).await?;
    connection.execute("set lock_timeout = '10s'").await?;
    make_place(&mut connection).await?;
    // A name without a schema is the history's.
    connection.execute("set search_path = noshi_migrations, pg_temp").await?;
    connection.migrate(&migrator()).await.map_err(not_migrated)?;
    settle_rights(&mut connection)
        .await
        .context("the migrations are applied, but not every right is as it should be")?;
    own::migrate(&mut connection).await.map_err(not_migrated).context("noshi's own migrations are applied")?;
    connection.close().await?;
    Ok(())
}

/// The database's own reason, once: the library says it again, with a line of ours.
fn not_migrated(error: MigrateError) -> anyhow::Error {
    if let MigrateError::VersionMissing(version) = error {
        return anyhow::anyhow!(
            "the schema is newer than this noshi, which does not know migration {version}: run the newer one; nothing was changed"
        );
    }
    if let MigrateError::VersionMismatch(version) = error {
        return anyhow::anyhow!(
            "migration {version} was applied, and reads otherwise in this program: run the build that applied it; nothing was changed"
        );
    }
    if let MigrateError::ExecuteMigration(cause, version) = &error {
        let cause = super::sentence(cause);
        return anyhow::anyhow!(
            "migration {version} was not applied, and the database is as it was before it: {cause}"
        );
    }
    if let MigrateError::Execute(cause) = &error {
        return anyhow::anyhow!("the database was not migrated: {}", super::sentence(cause));
    }
    anyhow::Error::new(error).context("the database was not migrated")
}

/// Another reason than a missing right is told as it is.
fn no_schema_made(error: sqlx::Error) -> anyhow::Error {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    let sentence = super::sentence(&error);
    if code != "42501" {
        return anyhow::anyhow!("nothing was migrated: {sentence}");
    }
    anyhow::anyhow!(
        "this login may make no schema in the database: migrate with the login that owns the database; nothing was changed"
    )
}

/// Of several that migrate at once, one does. For this session, until it ends; the library takes the same lock again, which is counted.
///
/// Builds before this one know no other lock, and any login of the database may take this one: so whoever waits is told for whom.
async fn wait_for_our_turn(connection: &mut PgConnection) -> anyhow::Result<()> {
    const HOLDERS: &str = "select string_agg(format('%s (process %s)', a.usename, a.pid), ', ' order by a.pid) from pg_locks l
        join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'advisory' and l.granted and l.database = (select d.oid from pg_database d where d.datname = current_database())";
    connection.execute("set lock_timeout = '10s'").await?;
    let began = Instant::now();
    loop {
        match connection.lock_migrations().await {
            Ok(()) => return Ok(()),
            Err(MigrateError::Execute(error)) if super::is_locked(&error) => {
                let holders: Option<String> =
                    sqlx::query_scalar(HOLDERS).persistent(false).fetch_one(&mut *connection).await?;
                let holders = holders.unwrap_or_else(|| "somebody who is gone by now".to_owned());
                if began.elapsed() > LONGEST_TURN {
                    bail!(
                        "another session holds the lock under which migrations are run: {holders}. If that is no migration, end it, and migrate again; nothing was changed"
                    );
                }
                tracing::warn!(holders, "waiting for another session that holds the lock of migrations");
            }
            Err(error) => return Err(error).context("no lock on the migrations of this database"),
        }
    }
}

/// What holds for the whole schema, whichever migrations were run: functions do the same in any session; whoever may act as the owner may
/// migrate; and the list of migrations can be read by `noshi doctor` and the probes of each process.
async fn settle_rights(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const OWNED: &str = "select pg_get_userbyid(relowner) = 'noshi_owner' from pg_class where oid = 'noshi_migrations._sqlx_migrations'::regclass";
    if !sqlx::query_scalar(OWNED).persistent(false).fetch_one(&mut *connection).await? {
        const OWN: &str = "grant usage, create on schema noshi_migrations to noshi_owner;
            alter table noshi_migrations._sqlx_migrations owner to noshi_owner;
            grant usage on schema noshi_migrations to noshi_operator, noshi_worker, noshi_webhook, noshi_api";
        connection.execute(OWN).await?;
    }
    const SETTLED: &str = "set role noshi_owner;
        do $$ begin execute format('grant select, insert, update on noshi_migrations._sqlx_migrations to %I', session_user); end $$;
        grant select on noshi_migrations._sqlx_migrations to noshi_operator, noshi_worker, noshi_webhook, noshi_api;
        select noshi.pin_functions();
        reset role";
    connection.execute(SETTLED).await.map(|_| ())
}

/// Before anything is made: what no migration could fix.
async fn fit_for_us(connection: &mut PgConnection) -> anyhow::Result<()> {
    const PLACE: &str = "select current_setting('server_version_num')::int, pg_is_in_recovery(), getdatabaseencoding()::text, current_database()::text";
    let (version, in_recovery, encoding, name): (i32, bool, String, String) =
        sqlx::query_as(PLACE).persistent(false).fetch_one(&mut *connection).await?;
    ensure!(
        version >= 150_000,
        "this is PostgreSQL {}; noshi needs 15 or newer; nothing was changed",
        version / 10_000
    );
    ensure!(!in_recovery, "this server is a standby and takes no writes: connect to the primary; nothing was changed");
    ensure!(
        encoding == "UTF8",
        "the database {name} has the encoding {encoding}, and noshi needs UTF8, or names and ids could not be kept as they are: \
         create another one, with `create database … encoding 'UTF8' template template0`; nothing was changed"
    );
    may_pass_on(connection).await
}

/// Since PostgreSQL 16 a login that may make roles governs only those that it made; ours belong to the whole server.
async fn may_pass_on(connection: &mut PgConnection) -> anyhow::Result<()> {
    const KEPT: &str = "select session_user::text, format('grant %s to %I with admin option', string_agg(r.rolname, ', ' order by r.rolname), session_user)
        from pg_roles r join pg_roles me on me.rolname = session_user and not me.rolsuper
        where r.rolname in ('noshi_owner', 'noshi_worker', 'noshi_producer', 'noshi_operator', 'noshi_reader', 'noshi_webhook', 'noshi_api')
            and current_setting('server_version_num')::int >= 160000 and not pg_has_role(session_user, r.oid, 'member with admin option')
        having bool_or(r.rolname = 'noshi_owner')";
    let kept: Option<(String, String)> = sqlx::query_as(KEPT).persistent(false).fetch_optional(connection).await?;
    if let Some((login, grant)) = kept {
        bail!(
            "another login has installed noshi in this server before, and made the roles that all its databases share; {login} may not pass \
             them on. As that login, or as a superuser, say: {grant}; then migrate again. Nothing was changed"
        );
    }
    Ok(())
}

/// Makes the place of our history. A schema that others than these migrations made is refused.
async fn make_place(connection: &mut PgConnection) -> anyhow::Result<()> {
    const MADE: &str = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = $1 and c.relname = '_sqlx_migrations'),
        to_regnamespace($1) is not null, to_regnamespace('noshi') is not null";
    let (table, schema, installed): (bool, bool, bool) =
        sqlx::query_as(MADE).bind(SCHEMA).persistent(false).fetch_one(&mut *connection).await?;
    let begun = if table { applied(connection).await? } else { BTreeMap::new() };
    let first = MIGRATIONS.iter().next().expect("a program has migrations");
    match begun.get(&first.version) {
        Some(theirs) => ensure!(theirs.checksum == *first.checksum, NOT_OURS),
        None => ensure!(!installed, NOT_OURS),
    }
    let mut change = connection.begin().await?;
    if !schema {
        change.execute("create schema noshi_migrations").await.map_err(no_schema_made)?;
    }
    if !table {
        // As the library would make it.
        const TABLE: &str = "create table noshi_migrations._sqlx_migrations (version bigint primary key, description text not null,
            installed_on timestamptz not null default now(), success boolean not null, checksum bytea not null, execution_time bigint not null)";
        change.execute(TABLE).await?;
    }
    change.commit().await?;
    Ok(())
}

/// Every migration that this program or the database knows, in order.
pub async fn status(url: &str) -> anyhow::Result<Vec<Line>> {
    let mut connection = reach::login(url).await?;
    let mut applied = applied(&mut connection).await?;
    let mut lines: Vec<Line> = MIGRATIONS
        .iter()
        .map(|ours| {
            let theirs = applied.remove(&ours.version);
            let status = match &theirs {
                None => "pending",
                Some(theirs) if !theirs.success => "failed",
                Some(theirs) if theirs.checksum != *ours.checksum => "changed",
                Some(_) => "applied",
            };
            let applied_at = theirs.map(|theirs| theirs.installed_on);
            Line { version: ours.version, name: ours.description.to_string(), status, applied_at }
        })
        .collect();
    lines.extend(applied.into_values().map(|theirs| Line {
        version: theirs.version,
        name: theirs.description,
        status: "unknown",
        applied_at: Some(theirs.installed_on),
    }));
    lines.sort_by_key(|line| line.version);
    lines.extend(own::status(&mut connection).await?);
    Ok(lines)
}

/// What `migrate up` would run, in order.
pub async fn pending(url: &str) -> anyhow::Result<Vec<Pending>> {
    let mut connection = reach::login(url).await?;
    let applied = applied(&mut connection).await?;
    let ours = MIGRATIONS.iter().filter(|ours| !applied.contains_key(&ours.version));
    let ours =
        ours.map(|m| Pending { version: m.version, name: m.description.to_string(), sql: m.sql.as_str().to_owned() });
    Ok(ours.chain(own::pending(&mut connection).await?).collect())
}

/// Why this program cannot work with a schema.
#[derive(Debug)]
pub struct Unfit {
    pub why: String,
    /// Not only older: a migration that was applied reads otherwise in this program.
    pub is_of_others: bool,
}

impl Unfit {
    const fn older(why: String) -> Unfit {
        Unfit { why, is_of_others: false }
    }
}

/// `None` where it can work with the database as it is migrated. Newer migrations do no harm.
pub async fn unfit(pool: &PgPool) -> Result<Option<Unfit>, sqlx::Error> {
    const UNLIKE: &str =
        "select o.version, m.version is not null from unnest($1::bigint[], $2::bytea[]) o(version, checksum)
        left join noshi_migrations._sqlx_migrations m on m.version = o.version and m.success
        where m.checksum is distinct from o.checksum order by o.version";
    let (versions, checksums): (Vec<i64>, Vec<&[u8]>) =
        MIGRATIONS.iter().map(|ours| (ours.version, &*ours.checksum)).unzip();
    let unlike = sqlx::query_as::<_, (i64, bool)>(UNLIKE).bind(versions).bind(checksums).fetch_all(pool).await;
    match unlike {
        Ok(unlike) if unlike.is_empty() => {
            let older = |own: Pending| {
                Unfit::older(format!("the schema lacks {} of this program; run its `migrate up`", own.name))
            };
            Ok(own::lacking(pool).await?.map(older))
        }
        Ok(unlike) if unlike.iter().any(|(_, applied)| *applied) => Ok(Some(Unfit {
            why: "the schema was migrated by a build whose migrations read otherwise than this program's; `noshi migrate status` names them"
                .to_owned(),
            is_of_others: true,
        })),
        Ok(missing) => {
            let missing = missing.iter().map(|(version, _)| version.to_string()).collect::<Vec<_>>().join(", ");
            Ok(Some(Unfit::older(format!("the schema lacks the migrations {missing}; run `noshi migrate up`"))))
        }
        // Not there, or from before this login could read it.
        Err(error)
            if matches!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("42P01" | "42501")) =>
        {
            Ok(Some(Unfit::older("the schema is older than this program; run `noshi migrate up`".to_owned())))
        }
        Err(error) => Err(error),
    }
}
