//! The schema as it stands after all migrations, drawn from the catalog of a migrated database: today's shape of each object in one file.
//! `NOSHI_REDRAW=1` draws ops/schema.sql anew. And rules for migrations.

use std::{fs, path::Path};

use crate::support::{database, is_as_drawn};

const HEAD: &str = "-- What stands in the database after all migrations, for reading; `noshi migrate up` makes it. Who may do what with it: roles.md.\n\n";

/// One text for each object: tables with their constraints, indexes and triggers; then views, and functions.
const OBJECTS: &str = r#"
with ours as (select oid, nspname from pg_namespace where nspname in ('noshi', 'noshi_sealed')),
relation as (
    select c.oid, n.nspname || '.' || c.relname as name, c.relkind, c.relpersistence, c.reloptions, n.nspname
    from pg_class c join ours n on n.oid = c.relnamespace where c.relkind in ('r', 'v')),
part as (
    select r.oid, string_agg(part.line, E',\n' order by part.place, part.no, part.line) as lines
    from relation r cross join lateral (
        select 1 as place, a.attnum as no, format('    %I %s', a.attname, format_type(a.atttypid, a.atttypmod))
            || case a.attidentity when 'a' then ' generated always as identity' else '' end
            || case when a.attnotnull and a.attidentity = '' then ' not null' else '' end
            || coalesce(' default ' || (select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d where d.adrelid = r.oid and d.adnum = a.attnum), '') as line
        from pg_attribute a where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        union all
        select 2, case o.contype when 'p' then 0 else 1 end, format('    constraint %I %s', o.conname, pg_get_constraintdef(o.oid, true))
        from pg_constraint o where o.conrelid = r.oid and o.contype in ('p', 'u', 'c', 'f')) part
    where r.relkind = 'r' group by r.oid),
object as (
    select 1 as place, format('%s.%s', n.nspname, t.typname) as name,
           format('create type %s.%s as enum (%s);', n.nspname, t.typname, (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid)) as text
    from pg_type t join ours n on n.oid = t.typnamespace where t.typtype = 'e'
    union all
    select 2, r.name, concat_ws(E'\n',
        format('create %stable %s (', case r.relpersistence when 'u' then 'unlogged ' else '' end, r.name), p.lines,
        ')' || case when r.reloptions <> '{}' then format(' with (%s)', array_to_string(r.reloptions, ', ')) else '' end || ';',
        (select string_agg(pg_get_indexdef(i.indexrelid) || ';', E'\n' order by i.indexrelid::regclass::text) from pg_index i
         where i.indrelid = r.oid and not exists (select from pg_constraint o where o.conindid = i.indexrelid and o.contype in ('p', 'u'))),
        (select string_agg(pg_get_triggerdef(t.oid, true) || ';', E'\n' order by t.tgname) from pg_trigger t
         where t.tgrelid = r.oid and not t.tgisinternal))
    from relation r join part p on p.oid = r.oid
    union all
    select 3, r.name, format(E'create view %s as\n%s', r.name, pg_get_viewdef(r.oid, true)) from relation r where r.relkind = 'v'
    union all
    select 4, format('%s.%s(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)), rtrim(pg_get_functiondef(f.oid), E'\n ') || ';'
    from pg_proc f join ours n on n.oid = f.pronamespace)
select text from object order by place, name collate "C""#;

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_what_the_migrations_make() {
    let db = database().await;
    let objects: Vec<String> =
        sqlx::query_scalar(OBJECTS).persistent(false).fetch_all(&db.pool).await.expect("the objects");
    assert!(objects.len() > 200, "only {} objects", objects.len());
    is_as_drawn("ops/schema.sql", &format!("{HEAD}{}\n", objects.join("\n\n")));
}

/// A replica by logical replication, and whoever prunes under a publication of all tables, must know each row.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_has_a_primary_key_and_knows_its_own_schema_alone() {
    let db = database().await;
    let bare = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname like 'noshi%' and c.relkind in ('r', 'p') and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)";
    let bare: Vec<String> = sqlx::query_scalar(bare).fetch_all(&db.pool).await.expect("tables");
    assert!(bare.is_empty(), "without a primary key: {bare:?}");
    let across = "select o.conname::text from pg_constraint o join pg_class a on a.oid = o.conrelid join pg_class b on b.oid = o.confrelid
        where o.contype = 'f' and a.relnamespace <> b.relnamespace";
    let across: Vec<String> = sqlx::query_scalar(across).fetch_all(&db.pool).await.expect("keys");
    assert!(across.is_empty(), "keys across schemas: {across:?}");
}

/// A body stands whole in one file: nothing is patched by its text, and a file is called by its subject.
#[test]
fn migrations_are_read_by_subject() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for (file, no) in files.iter().zip(1..) {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{no:04}_")), "{name} has no number of its own, or one is left out");
        for vague in ["fixed", "guards.", "scale", "misc", "more", "fix"] {
            assert!(!name.contains(vague), "{name} tells no subject");
        }
        let text = fs::read_to_string(file).unwrap();
        for patch in ["pg_get_functiondef", "pg_get_viewdef", "pg_get_constraintdef"] {
            assert!(!text.contains(patch), "{name} patches a text with {patch}: write the whole object");
        }
    }
}

/// The string literals of a file, as the compiler reads them.
fn literals(source: &str) -> Vec<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let literal = regex::Regex::new(r#"(?s)'"'|"((?:[^"\\]|\\.)*)""#).expect("a good expression");
    let continued = regex::Regex::new(r"\\\n\s*").expect("a good expression");
    let found = literal.captures_iter(&code).filter_map(|captures| captures.get(1));
    found
        .map(|text| {
            continued.replace_all(text.as_str(), "").replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\")
        })
        .collect()
}

/// Every statement of the code is one that this schema takes: no column, table or function of it is gone. What is only the beginning of one, or
/// its end, is not looked at: of those that are put together there are ten, which claim, settle, rescue and list.
#[tokio::test]
async fn the_schema_takes_every_statement_of_the_code() {
    let db = database().await;
    let statement = regex::Regex::new(r"^\s*(select|insert|update|delete|with|lock)\s").expect("a good expression");
    let mut connection = db.pool.acquire().await.unwrap();
    let (mut taken, mut parts, mut refused) = (0, 0, vec![]);
    for file in crate::rules::sources("src/db") {
        let source = std::fs::read_to_string(&file).expect("a source");
        for text in literals(&source).into_iter().filter(|text| statement.is_match(text)) {
            match sqlx::Executor::prepare(
                &mut *connection,
                sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(text.clone())),
            )
            .await
            {
                Ok(_) => taken += 1,
                Err(error) if error.to_string().contains("at end of input") || text.starts_with("\nselect") => {
                    parts += 1
                }
                Err(error) => {
                    refused.push(format!("{}: {error}: {}", file.display(), text.chars().take(200).collect::<String>()))
                }
            }
        }
    }
    assert!(refused.is_empty(), "{taken} are taken; {} are not: {refused:#?}", refused.len());
    assert!(taken > 200 && parts <= 10, "{taken} statements were found whole, {parts} in parts");
}
