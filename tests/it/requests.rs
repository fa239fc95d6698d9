//! One definition of what may be asked for, in files, HTTP and SQL. `NOSHI_REDRAW=1` draws the database's part of it anew, into the newest
//! migration that has it: one that was released is never edited, so that from then on a change begins with a copy of those lines in a new one.

use std::{collections::BTreeSet, fmt::Write};

use noshi_jobs::Kind;
use serde_json::{Value, json};

use crate::{api::Api, support::database};
use noshi::{
    basics::{
        requests::{self, Field, Holds, Presence},
        text,
    },
    db::{self, Role},
    vault::{Sealer, contact::sealed_args},
};

const DRAWN_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/0003_request.sql");
const BEGIN: &str = "-- DRAWN by tests/it/requests.rs from src/basics/text.rs and src/basics/requests.rs\n";
const END: &str = "-- END OF WHAT IS DRAWN\n";

/// These code points as a bracket of PostgreSQL's regular expressions has them, in ASCII.
fn bracket(of: impl Fn(char) -> bool) -> String {
    let escaped = |at: u32| if at > 0xffff { format!("\\U{at:08x}") } else { format!("\\u{at:04x}") };
    let mut out = String::new();
    for (first, last) in text::ranges(of) {
        // Surrogates stand in no text, and in no expression either.
        let parts =
            if first < 0xd800 && last > 0xdfff { vec![(first, 0xd7ff), (0xe000, last)] } else { vec![(first, last)] };
        for (first, last) in parts {
            out += &escaped(first);
            if first != last {
                let _ = write!(out, "-{}", escaped(last));
            }
        }
    }
    out
}

fn quoted(sentence: &str) -> String {
    format!("'{}'", sentence.replace('\'', "''"))
}

/// The functions, as the migration has them.
fn drawn() -> String {
    let (unseen, unfit, spaces) = (bracket(text::is_unseen), bracket(text::is_unfit), bracket(char::is_whitespace));
    let mut out = format!(
        r#"-- Why it is no id of at most so many bytes; null where it is one. ASCII that can be seen is the usual case.
create function noshi.id_fault(p_id text, p_max integer) returns text language sql immutable parallel safe
as $$
    select case
        when $1 collate "C" ~ '^[!-~]+$' and octet_length($1) <= $2 and $1 not in ('.', '..') then null
        when $1 = '' then 'this must not be empty'
        when octet_length($1) > $2 then format('this has %s bytes; at most %s fit', octet_length($1), $2)
        when $1 collate "C" ~ '^[{spaces}]|[{spaces}]$' then 'this begins or ends with a space'
        when $1 collate "C" ~ '[{unseen}]' then format('this holds a character that cannot be seen, U+%s; ids hold no control characters, and none that cannot be seen or that mean nothing',
            (select lpad(h, greatest(4, length(h)), '0') from upper(to_hex(ascii(substring($1 collate "C" from '[{unseen}]')))) h))
        when $1 is not nfc normalized then 'this is not in the composed form (Unicode NFC), so that two ids would look alike; write it composed'
        when $1 in ('.', '..') then 'an id is not . or ..: this cannot be part of an address' end
$$;
-- The same of a text that is shown, such as a person's name.
create function noshi.text_fault(p_text text, p_max integer) returns text language sql immutable parallel safe
as $$
    select case
        when octet_length($1) > $2 then format('this has %s bytes; at most %s fit', octet_length($1), $2)
        when $1 collate "C" ~ '[{unfit}]' then format('this holds a control character, such as a tab, or one that no text may hold: U+%s',
            (select lpad(h, greatest(4, length(h)), '0') from upper(to_hex(ascii(substring($1 collate "C" from '[{unfit}]')))) h))
        when $1 collate "C" !~ '[^ {unseen}]' then 'this must not be empty' end
$$;
-- The first fault of a job's arguments, as `field: sentence`; null where there is none, or where the kind reads them itself.
create function noshi.args_fault(p_kind text, p_args jsonb) returns text language plpgsql stable
as $$
begin
    if jsonb_typeof(p_args) is distinct from 'object' then
        return 'args: these must be an object';
    end if;
    return case p_kind
"#
    );
    for kind in Kind::ALL {
        let Some(fields) = requests::fields(kind) else { continue };
        let _ = writeln!(out, "        when '{}' then case", kind.name());
        if kind == Kind::GiftIssuance {
            out.push_str("            when starts_with(p_args ->> 'grant', 'exchange/') and not pg_has_role(session_user, 'noshi_worker', 'member') then 'args.grant: an id that begins with exchange/ belongs to an exchange of points; use another'\n");
        }
        draw_object(&mut out, fields, "p_args", "");
        if kind == Kind::PointGrant {
            out.push_str("            when strpos(p_args ->> 'benefit', ':') > 0 then 'args.benefit: this must not contain a colon'\n");
        }
        out.push_str("            end\n");
    }
    out.push_str("        end;\nend $$;\n");
    out + &usual()
}

/// Characters that are seen, stand by themselves, and compose with nothing: those of ASCII, and the usual ones of Japanese. As a bracket
/// has them; the first of a word is no point.
const SEEN: &str = "!-~\\u3005\\u3041-\\u3096\\u30a1-\\u30fa\\u30fc\\u4e00-\\u9fff\\uff01-\\uff5e";
const BEGINS: &str = "!#--/-~\\u3005\\u3041-\\u3096\\u30a1-\\u30fa\\u30fc\\u4e00-\\u9fff\\uff01-\\uff5e";

/// What is good at one look, by few and cheap steps: an expression over many fields would be slower than they are. What it does not know is
/// not refused, but looked at field by field.
fn usual() -> String {
    let longest = requests::LONGEST_KEY;
    let mut out = format!(
        r#"-- Whether a request is good at one look; what is not, may be good too. The texts of a request are looked at as one, each with a space
-- before it: so none is empty, and none begins or ends with a space.
create function noshi.is_usual(p_kind text, p_key text, p_args jsonb) returns boolean language plpgsql immutable parallel safe
as $$
begin
    -- Not in SQL, and not one expression: the one would be planned, the other made ready, anew for each request.
    if (octet_length($2) <= {longest} and ' ' || $2 collate "C" ~ '^(?: [{BEGINS}][{SEEN}]*)+$') is not true then
        return false;
"#
    );
    for kind in Kind::ALL {
        let name = kind.name();
        let Some(fields) = requests::fields(kind) else {
            let _ = writeln!(
                out,
                "    elsif $1 = '{name}' then\n        return jsonb_typeof($3) = 'object' and octet_length($3::text) <= 65536 and strpos($3::text, '.') = 0;"
            );
            continue;
        };
        let mut steps = vec!["jsonb_typeof($3) = 'object'".to_owned()];
        usual_object(&mut steps, fields, "$3");
        if kind == Kind::GiftIssuance {
            steps.push("not starts_with($3 ->> 'grant', 'exchange/')".to_owned());
        } else if kind == Kind::PointGrant {
            steps.push("strpos($3 ->> 'benefit', ':') = 0".to_owned());
        }
        let _ = writeln!(out, "    elsif $1 = '{name}' then\n        return {};", steps.join("\n            and "));
    }
    out.push_str("    end if;\n    return false;\nend $$;\n");
    out
}

fn usual_object(steps: &mut Vec<String>, fields: &[Field], object: &str) {
    let mut texts = vec![];
    for Field { name, presence, holds } in fields {
        let (json, text) = (format!("{object} -> '{name}'"), format!("{object} ->> '{name}'"));
        // Null where the field is missing: then it is not true, and looked at again.
        let mut step = |step: String| {
            steps.push(match presence {
                Presence::Needed => step,
                Presence::Optional | Presence::Defaulted => format!("({step}) is not false"),
            });
        };
        let mut seen = |most: usize| {
            texts.push(match presence {
                Presence::Needed => format!("' ' || ({text})"),
                Presence::Optional | Presence::Defaulted => format!("coalesce(' ' || ({text}), '')"),
            });
            format!("jsonb_typeof({json}) = 'string' and octet_length({text}) <= {most}")
        };
        match *holds {
            Holds::Id { most } | Holds::Text { most } => step(seen(most)),
            Holds::NoAddress { most } => {
                let seen = seen(most);
                step(format!("{seen} and strpos({text}, '@') = 0"));
            }
            Holds::Word { most } => {
                step(format!(
                    "jsonb_typeof({json}) = 'string' and octet_length({text}) <= {most} and ({text}) collate \"C\" ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]*$'"
                ));
            }
            Holds::Phone => {
                step(format!(
                    "jsonb_typeof({json}) = 'string' and octet_length({text}) <= 30 and ({text}) collate \"C\" ~ '^[0-9][0-9+() -]*$'"
                ));
            }
            Holds::Whole { least, most } => step(usual_number(&json, &text, least, most)),
            Holds::Amount => step(usual_number(&json, &text, 1, requests::MAX_MONEY)),
            Holds::OneOf(names) => {
                let names: Vec<String> = names.iter().map(|name| quoted(&format!("\"{name}\""))).collect();
                step(format!("{json} in ({})", names.join(", ")));
            }
            Holds::Object(fields) => {
                step(format!("jsonb_typeof({json}) = 'object'"));
                usual_object(steps, fields, &format!("{object} -> '{name}'"));
            }
            Holds::Texts => step(format!(
                "jsonb_typeof({json}) = 'object' and not jsonb_path_exists({json}, '$.* ? (@.type() != \"string\")')"
            )),
            // It is left out, or looked at by itself: the keys below do not have it.
            Holds::Nothing | Holds::Sealed(_) | Holds::Contact => {}
        }
    }
    if !texts.is_empty() {
        steps.push(format!("({}) collate \"C\" ~ '^(?: [{BEGINS}][{SEEN}]*)+$'", texts.join(" || ")));
    }
    let known =
        fields.iter().filter(|field| !matches!(field.holds, Holds::Nothing | Holds::Sealed(_) | Holds::Contact));
    let keys: Vec<String> = known.map(|field| quoted(field.name)).collect();
    steps.push(format!("({object}) - array[{}] = '{{}}'", keys.join(", ")));
}

/// Numbers of JSON come before all texts and objects, so that those between two numbers are numbers.
fn usual_number(json: &str, text: &str, least: i64, most: i64) -> String {
    format!("{json} between '{least}' and '{most}' and strpos({text}, '.') = 0")
}

/// What is wrong with an address in plain, or with a contact.
fn sealed(json: &str, is_contact: bool) -> (String, &'static str) {
    if !is_contact {
        let sentence = "this is sealed before it reaches the database: ask over HTTP or by a file, or seal it with `noshi vault seal-contact`; nothing was taken";
        return (format!("jsonb_typeof({json}) <> 'null'"), sentence);
    }
    let matches = |name: &str, pattern: &str| format!("({json} ->> '{name}') collate \"C\" ~ '{pattern}'");
    let steps = [
        format!("({json}) - array['key', 'nonce', 'ciphertext'] = '{{}}'"),
        matches("key", "^[A-Za-z0-9_-]{1,32}$"),
        matches("nonce", "^[A-Za-z0-9+/]{32}$"),
        format!("octet_length({json} ->> 'ciphertext') <= 8000"),
        matches("ciphertext", "^([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    ];
    let steps = steps.join(" and ");
    let condition = format!(
        "case when jsonb_typeof({json}) = 'object' then ({steps}) is not true else jsonb_typeof({json}) <> 'null' end"
    );
    (condition, "this must be what `noshi vault seal-contact` prints")
}

fn draw_object(out: &mut String, fields: &[Field], object: &str, before: &str) {
    for Field { name, presence, holds } in fields {
        let (json, text) = (format!("{object} -> '{name}'"), format!("({object} ->> '{name}')"));
        let path = format!("args.{before}{name}: ");
        let wanted = requests::wanted(*holds);
        let mut when = |condition: String, sentence: &str| {
            let _ = writeln!(out, "            when {condition} then {sentence}");
        };
        let missing = quoted(&format!("{path}this is missing; it must be {wanted}"));
        match presence {
            Presence::Needed => when(format!("coalesce(jsonb_typeof({json}), 'null') = 'null'"), &missing),
            Presence::Defaulted => when(format!("jsonb_typeof({json}) = 'null'"), &missing),
            Presence::Optional => {}
        }
        let other = quoted(&format!("{path}this must be {wanted}"));
        let typed = |name: &str| format!("jsonb_typeof({json}) not in ('null', '{name}')");
        let said = |function: &str, most: usize| {
            let call = format!("noshi.{function}({text}, {most})");
            (format!("{call} is not null"), format!("{} || {call}", quoted(&path)))
        };
        match *holds {
            Holds::Id { most } | Holds::NoAddress { most } => {
                when(typed("string"), &other);
                if matches!(holds, Holds::NoAddress { .. }) {
                    let sentence = quoted(&format!("{path}this looks like an address; use an id of your own"));
                    when(format!("strpos({text}, '@') > 0"), &sentence);
                }
                let (condition, sentence) = said("id_fault", most);
                when(condition, &sentence);
            }
            Holds::Text { most } => {
                when(typed("string"), &other);
                let (condition, sentence) = said("text_fault", most);
                when(condition, &sentence);
            }
            Holds::Word { most } => when(
                format!(
                    "{} or {text} collate \"C\" !~ '^[A-Za-z0-9_.-]{{1,{most}}}$' or {text} in ('.', '..')",
                    typed("string")
                ),
                &other,
            ),
            Holds::Phone => when(
                format!(
                    "{} or {text} collate \"C\" !~ '^[0-9+() -]{{1,30}}$' or {text} collate \"C\" !~ '[0-9]'",
                    typed("string")
                ),
                &other,
            ),
            Holds::Whole { least, most } => when(
                format!(
                    "case when jsonb_typeof({json}) = 'number' then {text}::numeric not between {least} and {most} or {text}::numeric <> trunc({text}::numeric) else jsonb_typeof({json}) <> 'null' end"
                ),
                &other,
            ),
            Holds::Amount => {
                let most = requests::MAX_MONEY;
                when(
                    format!(
                        "case when jsonb_typeof({json}) = 'number' then {text}::numeric not between 1 and {most} or {text}::numeric <> trunc({text}::numeric) else jsonb_typeof({json}) <> 'null' end"
                    ),
                    &other,
                );
            }
            Holds::OneOf(names) => {
                let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                when(format!("{} or {text} not in ({})", typed("string"), names.join(", ")), &other);
            }
            Holds::Object(fields) => {
                when(typed("object"), &other);
                draw_object(out, fields, &format!("{object} -> '{name}'"), &format!("{before}{name}."));
            }
            Holds::Texts => when(
                format!(
                    "{} or case when jsonb_typeof({json}) = 'object' then jsonb_path_exists({json}, '$.* ? (@.type() != \"string\")') end",
                    typed("object")
                ),
                &other,
            ),
            Holds::Nothing => when(
                format!("jsonb_typeof({json}) <> 'null' and not pg_has_role(session_user, 'noshi_worker', 'member')"),
                &other,
            ),
            Holds::Sealed(_) | Holds::Contact => {
                let (condition, sentence) = sealed(&json, matches!(holds, Holds::Contact));
                when(condition, &quoted(&format!("{path}{sentence}")));
            }
        }
    }
    let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
    let keys: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let place = if before.is_empty() { "args".to_owned() } else { format!("args.{}", before.trim_end_matches('.')) };
    let mut sentence = quoted(&format!("{place}: there is a field that is not known; there are {}", names.join(", ")));
    if before.is_empty() {
        // What nobody can hold is named first.
        sentence = format!(
            "case when jsonb_path_exists(p_args, '$.**{{33 to last}}') then 'args: these go deeper than 32 levels'\n                when jsonb_path_exists(p_args, '$.** ? (@.type() == \"number\" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'\n                else {sentence} end"
        );
    }
    let _ = writeln!(out, "            when ({object}) - array[{}] <> '{{}}' then {sentence}", keys.join(", "));
}

#[test]
fn the_migration_has_what_the_code_says() {
    let file = std::fs::read_to_string(DRAWN_IN).unwrap();
    let (before, rest) = file.split_once(BEGIN).expect("where it begins");
    let (there, after) = rest.split_once(END).expect("where it ends");
    let drawn = drawn();
    if std::env::var_os("NOSHI_REDRAW").is_some() {
        std::fs::write(DRAWN_IN, format!("{before}{BEGIN}{drawn}{END}{after}")).unwrap();
        return;
    }
    assert!(
        there == drawn,
        "{DRAWN_IN} is not what src/basics/text.rs and src/basics/requests.rs say; a new migration must say it"
    );
}

/// Over all of Unicode: what is refused here is refused there.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_sees_what_the_code_sees_in_every_character() {
    let db = database().await;
    for (function, ours) in
        [("id_fault", text::id_fault as fn(&str, usize) -> Option<String>), ("text_fault", text::text_fault)]
    {
        let sql = format!(
            "select c, noshi.{function}('a' || chr(c) || 'b', 100) from generate_series(1, 1114111) c where c not between 55296 and 57343 order by c"
        );
        let theirs: Vec<(i32, Option<String>)> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("every character");
        assert_eq!(theirs.len(), 1_114_111 - 2_048);
        for (code, theirs) in theirs {
            let c = char::from_u32(code.unsigned_abs()).expect("a character");
            assert_eq!(ours(&format!("a{c}b"), 100), theirs, "{function}: U+{code:04X}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_knows_the_kinds() {
    let db = database().await;
    let theirs: Vec<(String, bool)> =
        sqlx::query_as("select name, for_tests from noshi.kind order by name").fetch_all(&db.pool).await.unwrap();
    let named = Kind::ALL.into_iter().map(|kind| (kind.name().to_owned(), kind == Kind::Probe));
    // Which comes in as a user's own kind does.
    let ours: BTreeSet<(String, bool)> = named.chain([("effect".to_owned(), false)]).collect();
    assert_eq!(theirs, ours.into_iter().collect::<Vec<_>>());
}

/// One request of each kind that producers ask for, with every field that it may have.
fn whole_requests() -> Vec<(Kind, Value)> {
    let value = json!({"amount": 500, "currency": "JPY"});
    vec![
        (
            Kind::GiftIssuance,
            json!({"grant": "g", "user": "u", "category": "c", "value": value, "provider": "p", "valid_days": 30, "area": "渋谷"}),
        ),
        (
            Kind::PointExchange,
            json!({"exchange": "x", "user": "u", "points": 5, "area": "渋谷", "category": "c", "value": value, "provider": "p", "grace_days": 3}),
        ),
        (
            Kind::PointGrant,
            json!({"benefit": "b", "source": "s", "user": "u", "points": 5, "valid_days": 7, "zone": "Asia/Tokyo", "area": "渋谷"}),
        ),
        (Kind::PointWithdrawal, json!({"user": "u"})),
        (
            Kind::Email,
            json!({"template": "gift_granted", "reference": "r", "recipient": "1/1", "params": {"value": "500円"}}),
        ),
        (
            Kind::StoreCreation,
            json!({"organization": "o", "public_id": "p", "name": "葛\u{e0100}城店", "address": "渋谷 1", "phone": "03-0000", "request": "r"}),
        ),
    ]
}

/// What a field is tried with: every type, every edge, and what looks like something else.
fn tried() -> Vec<Value> {
    let texts = [
        "",
        " ",
        "\u{3000}",
        "x",
        " x",
        "x\u{a0}",
        "x\u{3000}y",
        ".",
        "..",
        "a\tb",
        "a\nb",
        "a\u{200b}b",
        "a\u{2800}b",
        "\u{3164}",
        "a\u{e0041}",
        "a\u{fe0f}",
        "a\u{34f}b",
        "a\u{fffd}",
        "a\u{e000}",
        "か\u{3099}",
        "が",
        "a@b.jp",
        "渋谷",
        "500",
        "JPY",
        "gift_granted",
        "exchange/1",
        "a:b",
        "03 (1)",
        "-",
    ];
    let numbers = [
        "0",
        "1",
        "-1",
        "1.5",
        "500.0",
        "5e2",
        "3650",
        "3651",
        "1000000000",
        "1000000001",
        "9000000000000000",
        "9000000000000001",
        "1e18",
        "9223372036854775808",
    ];
    let mut values: Vec<Value> = texts.into_iter().map(Value::from).collect();
    values.extend(
        [60, 61, 90, 91, 100, 101, 200, 201, 400, 401, 1000, 1001].map(|length| Value::from("x".repeat(length))),
    );
    values.extend(numbers.map(|number| serde_json::from_str(number).unwrap()));
    values.extend([
        json!(null),
        json!(true),
        json!([]),
        json!(["x"]),
        json!([5]),
        json!({}),
        json!({"a": "b"}),
        json!({"a": 1}),
    ]);
    values
}

/// The id that a request has by its arguments, where it is made of them.
fn key_of(kind: Kind, args: &Value) -> String {
    let text = |name: &str| args.get(name).and_then(Value::as_str).unwrap_or("k").to_owned();
    match kind {
        Kind::GiftIssuance => text("grant"),
        Kind::PointExchange => text("exchange"),
        Kind::PointGrant => format!("{}:{}", text("benefit"), text("source")),
        Kind::PointWithdrawal => text("user"),
        Kind::Email
        | Kind::StoreCreation
        | Kind::BulkGrants
        | Kind::PointExpiry
        | Kind::PointReversal
        | Kind::Probe => "k".to_owned(),
    }
}

/// Each of those requests with one field changed, missing, or one more.
fn changed_requests() -> Vec<(Kind, Value)> {
    let mut all = vec![];
    for (kind, whole) in whole_requests() {
        all.push((kind, json!({})));
        let names: Vec<String> = whole.as_object().unwrap().keys().cloned().collect();
        for name in &names {
            let mut without = whole.clone();
            without.as_object_mut().unwrap().remove(name);
            all.push((kind, without));
            for value in tried() {
                let mut changed = whole.clone();
                changed[name] = value.clone();
                all.push((kind, changed));
                if name == "value" {
                    for inner in ["amount", "currency", "more"] {
                        let mut changed = whole.clone();
                        changed[name][inner] = value.clone();
                        all.push((kind, changed));
                    }
                }
            }
        }
        let mut more = whole.clone();
        more["usr"] = json!("u");
        all.push((kind, more));
        all.push((kind, whole));
    }
    all
}

/// Files (whose rows are judged by the code), SQL and HTTP take the same requests, and name the same field of those that they refuse.
#[tokio::test(flavor = "multi_thread")]
async fn the_doors_take_and_refuse_the_same() {
    let api = Api::open().await;
    let token = api.token("shop", &["enqueue"]).await;
    let producer = db::connect(&api.fleet.url, Role::Producer, 1).await.expect("a producer");
    let sealer = Sealer::open(&api.fleet.dir.path().join("vault.pub")).expect("a public key");
    let (mut taken, mut refused, mut usual) = (0, 0, 0);
    for (number, (kind, args)) in changed_requests().into_iter().enumerate() {
        let key = key_of(kind, &args);
        // Of a gift for an exchange, workers alone ask: a superuser's session is one of them.
        if args["grant"].as_str().is_some_and(|grant| grant.starts_with("exchange/")) {
            continue;
        }
        let ours = requests::fault(kind, &args).map(|(field, _)| field);
        let ours = ours.or_else(|| text::id_fault(&key, requests::LONGEST_KEY).map(|_| "id".to_owned()));
        // A zone is looked up, and not looked at.
        let is_zone = ours.as_deref() == Some("zone");
        let at_one_look = sqlx::query_scalar::<_, Option<bool>>("select noshi.is_usual($1, $2, $3)");
        let at_one_look = at_one_look.bind(kind.name()).bind(&key).bind(&args);
        if at_one_look.fetch_one(&api.fleet.pool).await.expect("a look") == Some(true) && !is_zone {
            assert_eq!(ours, None, "{} {key:?} {args}", kind.name());
            usual += 1;
        }
        let mut transaction = producer.begin().await.expect("a transaction");
        // What files and HTTP seal reaches the database sealed.
        let raw = serde_json::value::to_raw_value(&args).unwrap();
        let sealed = sealed_args(kind.into(), &raw, || Ok::<_, ()>(&sealer)).unwrap().filter(|_| ours.is_none());
        let asked = sqlx::query("select noshi.enqueue($1, $2, $3)").bind(kind.name()).bind(&key);
        let asked =
            asked.bind(sealed.map_or_else(|| args.clone(), |sealed| serde_json::from_str(sealed.get()).unwrap()));
        let sql = asked.execute(&mut *transaction).await;
        transaction.rollback().await.expect("undone");
        let field = sql.as_ref().err().map(|error| {
            let error = error.as_database_error().expect("an answer");
            assert_eq!(error.code().as_deref(), Some("NS400"), "{} {args}: {error}", kind.name());
            let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().expect("PostgreSQL");
            error.column().unwrap_or("id").to_owned()
        });
        assert_eq!(ours.is_some(), field.is_some(), "{} {key:?} {args}: {ours:?} {field:?}", kind.name());
        if let (Some(ours), Some(field)) = (&ours, &field) {
            refused += 1;
            // The id may be refused before the field that it is made of; an address in plain before anything of it.
            let same = matches!(field.as_str(), "args.address" | "args.phone")
                || field == "id"
                || field == &format!("args.{ours}")
                || (field == "args" && ours == ".");
            assert!(same, "{} {args}: {ours} {field}", kind.name());
        } else {
            taken += 1;
        }
        // A share of them, since each is a request over the wire.
        if number % 7 == 0 && field.is_some() {
            let body = json!({"kind": kind.name(), "id": key, "args": args});
            let (status, answer) = api.post("/v1/jobs", &token, &body).await;
            assert_eq!(status, 422, "{} {args}: {answer}", kind.name());
            let named = answer["field"].as_str().unwrap_or_default();
            assert!(named.starts_with("args") || named == "id", "{} {args}: {answer}", kind.name());
        }
    }
    assert!(taken > 100 && refused > 1000, "{taken} {refused}");
    // Else it would be slow for all.
    assert!(usual > taken / 2, "{usual} of {taken}");
}

/// 500, 500.0 and 5e2 are one number, by whichever entry point they come, and one job.
#[tokio::test(flavor = "multi_thread")]
async fn an_amount_is_what_it_is_worth() {
    let db = database().await;
    let ask = async |amount: &str| {
        let args = format!(
            r#"{{"grant": "g", "user": "u", "category": "c", "value": {{"amount": {amount}, "currency": "JPY"}}}}"#
        );
        let asked = sqlx::query_scalar::<_, i64>("select noshi.enqueue('gift_issuance', 'g', $1::jsonb)").bind(args);
        asked.fetch_one(&db.pool).await
    };
    let first = ask("500.0").await.expect("a job");
    for same in ["500", "5e2", "500.000", "0.5e3"] {
        assert_eq!(ask(same).await.expect(same), first, "{same}");
    }
    let stored: String =
        sqlx::query_scalar("select args ->> 'value' from noshi.job").fetch_one(&db.pool).await.unwrap();
    assert_eq!(stored, r#"{"amount": 500, "currency": "JPY"}"#);
    let other = ask("500.5").await.expect_err("no whole number").to_string();
    assert!(other.contains("args.value.amount"), "{other}");
    let other = ask("501").await.expect_err("another amount");
    let other = other.as_database_error().expect("an answer");
    assert_eq!(other.code().as_deref(), Some("NS409"));
}

/// A kind that nobody knows is refused at once, and probes are not for producers.
#[tokio::test(flavor = "multi_thread")]
async fn kinds_are_asked_for_by_those_who_may() {
    let db = database().await;
    let refused = async |pool: &noshi::db::PgPool, sql: &'static str| {
        let error = sqlx::query(sql).execute(pool).await.expect_err(sql);
        let error = error.as_database_error().expect("an answer");
        (error.code().unwrap_or_default().into_owned(), error.message().to_owned())
    };
    let (code, said) = refused(&db.pool, "select noshi.enqueue('gift_isuance', 'c2', '{}')").await;
    assert_eq!(code, "NS400");
    assert!(said.contains("there is no kind 'gift_isuance'") && said.contains("gift_issuance"), "{said}");
    let login = format!("shop_{}", db.name);
    let create = format!("create role {login} login in role noshi_producer");
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&db.pool).await.expect("a login");
    let url = db.url.replacen("//postgres@", &format!("//{login}@"), 1);
    let shop = noshi::db::PgPool::connect(&url).await.expect("a session");
    let (code, said) = refused(&shop, "select noshi.enqueue('probe', 'p', '{\"id\": \"p\", \"steps\": 1}')").await;
    assert_eq!(code, "NS403");
    assert!(said.contains("not for producers"), "{said}");
    let jobs: i64 = sqlx::query_scalar("select count(*) from noshi.job").fetch_one(&db.pool).await.unwrap();
    assert_eq!(jobs, 0);
}

/// Null is how many a library writes what it leaves out.
#[tokio::test(flavor = "multi_thread")]
async fn null_is_as_left_out() {
    let db = database().await;
    let ask = async |args: Value| {
        let asked = sqlx::query_scalar::<_, i64>("select noshi.enqueue('gift_issuance', 'g', $1)").bind(args);
        asked.fetch_one(&db.pool).await.unwrap()
    };
    let bare = json!({"grant": "g", "user": "u", "category": "c", "value": {"amount": 500, "currency": "JPY"}});
    let mut nulls = bare.clone();
    for name in ["provider", "area", "valid_days"] {
        nulls[name] = Value::Null;
    }
    let job = ask(nulls.clone()).await;
    assert_eq!(ask(bare.clone()).await, job);
    assert_eq!(ask(nulls).await, job);
    let stored: Value = sqlx::query_scalar("select args from noshi.job").fetch_one(&db.pool).await.unwrap();
    assert_eq!(stored, bare);
    let nothing = sqlx::query("select noshi.enqueue_rows('gift_issuance', null, null)").execute(&db.pool).await;
    assert!(nothing.is_err(), "no rows are asked for");
}

fn gift(grant: &str, amount: i64) -> Value {
    json!({"grant": grant, "user": "u", "category": "digital", "value": {"amount": amount, "currency": "JPY"}})
}

type Asked<'a> = (&'a str, &'a str, &'a Value, i16);

fn requests_of_all_sorts() -> Vec<(&'static str, &'static str, Value, i16)> {
    let points =
        |zone: Value| json!({"benefit": "b", "source": "s", "user": "u", "points": 5, "valid_days": 9, "zone": zone});
    vec![
        ("gift_issuance", "new", gift("new", 500), 1),
        ("gift_issuance", "first", gift("first", 500), 0),
        ("gift_issuance", "odd", gift("odd", 500), 2),
        ("gift_issuance", "known", gift("known", 500), 1),
        ("gift_issuance", "known", gift("known", 600), 1),
        ("gift_issuance", "pruned", gift("pruned", 500), 1),
        ("gift_issuance", "pruned", gift("pruned", 600), 1),
        ("gift_issuance", "lost", gift("lost", 500), 1),
        ("gift_issuance", "filed", gift("filed", 500), 1),
        ("gift_issuance", "filed", gift("filed", 600), 1),
        ("gift_issuance", "another", gift("new", 500), 1),
        ("gift_issuance", ".", gift(".", 500), 1),
        ("gift_issuance", "exchange/x", gift("exchange/x", 500), 1),
        ("gift_issuance", "none", gift("none", 0), 1),
        ("gift_issuance", "a b", gift("a b", 500), 1),
        ("gift_issuance", "付与一", gift("付与一", 500), 1),
        ("gift_issuance", "un\u{200b}seen", gift("un\u{200b}seen", 500), 1),
        ("gift_issuance", "array", json!([]), 1),
        ("point_grant", "b:s", points(json!("Asia/Tokyo")), 1),
        ("point_grant", "b:s", points(json!("Europe/Paris")), 1),
        ("point_grant", "b:s", points(json!("Nowhere/There")), 1),
        ("point_grant", "b:t", points(json!("UTC")), 1),
        (
            "point_exchange",
            "x",
            json!({"exchange": "x", "user": "u", "points": 5, "category": "digital", "value": {"amount": 5, "currency": "JPY"}}),
            1,
        ),
        (
            "point_exchange",
            "y",
            json!({"exchange": "x", "user": "u", "points": 5, "category": "digital", "value": {"amount": 5, "currency": "JPY"}}),
            1,
        ),
        ("point_withdrawal", "u", json!({"user": "u"}), 1),
        ("point_withdrawal", "v", json!({"user": "u"}), 1),
        ("point_reversal", "x", json!({"exchange": "x"}), 1),
        ("point_expiry", "2027-01-01T00:00:00Z", json!({"due": "2027-01-01T00:00:00Z"}), 1),
        ("bulk_grants", "batch/1", json!({"batch": 1}), 1),
        ("email", "m", json!({"template": "gift_granted", "reference": "r", "recipient": "r", "params": {}}), 1),
        ("store_creation", "s", json!({"organization": "o", "public_id": "p", "name": "n", "request": "r"}), 1),
        ("probe", "p", json!({"id": "p"}), 1),
        ("nothing", "n", json!({}), 1),
    ]
}

/// Whether a producer's request is taken, and what stands in its row then, or what is said; nothing of it stays.
async fn asked_by(
    db: &crate::support::TestDatabase,
    asks: &'static str,
    (kind, key, args, priority): Asked<'_>,
) -> (bool, Value) {
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("set local session authorization shop_{}; savepoint s", db.name)))
        .execute(&mut *tx)
        .await
        .unwrap();
    let asked =
        sqlx::query_scalar::<_, i64>(asks).bind(kind).bind(key).bind(args).bind(priority).fetch_one(&mut *tx).await;
    sqlx::raw_sql("reset session authorization").execute(&mut *tx).await.ok();
    let row = match &asked {
        // Only the number and the time differ.
        Ok(id) => {
            let row = "select to_jsonb(j) - array['id', 'run_at', 'created_at', 'entered_at'] from noshi.job j where j.id = $1";
            let row: Option<Value> = sqlx::query_scalar(row).bind(id).fetch_optional(&mut *tx).await.unwrap();
            row.unwrap_or_else(|| json!(id))
        }
        Err(error) => {
            let told = error.as_database_error().expect("an answer");
            json!([told.code(), told.message()])
        }
    };
    tx.rollback().await.unwrap();
    (asked.is_ok(), row)
}

/// One request takes a shorter way than many do, and comes to the same: what is written, what is known, and every refusal.
#[tokio::test]
async fn one_is_asked_as_many_are() {
    let db = database().await;
    let producer = crate::peace::login(&db, "shop", "noshi_producer").await;
    let known = "select noshi.enqueue('gift_issuance', 'known', $1)";
    sqlx::query(known).bind(gift("known", 500)).execute(&producer).await.unwrap();
    let before = "insert into noshi.tombstone (id, kind, key, fingerprint, status, at, row_no, created_at, finished_at)
            select 1000000, 'gift_issuance', 'pruned', sha256(convert_to($1::jsonb::text, 'UTF8')), 'completed', 'issued', 1, now(), now()";
    sqlx::query(before).bind(gift("pruned", 500)).execute(&db.pool).await.unwrap();
    sqlx::raw_sql(
        "insert into noshi.lost_call values ('gift_issuance', 'lost', 4, now() - interval '1 hour', '00000001')",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let file =
        "insert into noshi.batch (kind, mode, digest, file) values ('grants', 'all_or_nothing', sha256('f'), 'f');";
    sqlx::raw_sql(file).execute(&db.pool).await.unwrap();
    let row =
        "insert into noshi.batch_row (batch, row_no, line, key, args) select id, 1, 2, 'filed', $1 from noshi.batch";
    sqlx::query(row).bind(gift("filed", 500)).execute(&db.pool).await.unwrap();
    sqlx::raw_sql("update noshi.batch set validated_at = now(), rows = 1").execute(&db.pool).await.unwrap();
    let (mut taken, mut refused) = (0, 0);
    for (kind, key, args, priority) in requests_of_all_sorts() {
        let asked = (kind, key, &args, priority);
        let one = asked_by(&db, "select noshi.enqueue($1, $2, $3, $4::smallint)", asked).await;
        let many =
            asked_by(&db, "select noshi.enqueue_rows($1, array[$2, $2], array[$3, $3], $4::smallint) limit 1", asked)
                .await;
        assert_eq!(one, many, "{kind} {key} {args}");
        if one.0 { taken += 1 } else { refused += 1 }
    }
    assert!(taken > 8 && refused > 12, "{taken} were taken, {refused} refused");
}
