//! What every command owes to whoever types it. The commands are walked as clap has them, so that one that is added is held to the same.

use std::{
    fs::{File, OpenOptions},
    os::fd::OwnedFd,
    path::Path,
    process::{Output, Stdio},
};

use clap::{Arg, ArgAction, Command, CommandFactory};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::fleet::{Fleet, Terms, fleet};
use noshi::cli::{self, Cli};

/// Commands that run until they are told to stop, or fill the machine for a while.
const SERVING: [&str; 7] = ["worker run", "api run", "console run", "simulate", "demo", "dev", "bench"];

/// Commands without a reason: they look, they print, or they are work and no act. Whatever is not named here is an act, and says why.
const NO_ACT: [&str; 42] = [
    "demo",
    "worker list",
    "worker run",
    "api run",
    "console run",
    "migrate up",
    "migrate status",
    "migrate print",
    "batch submit",
    "batch template",
    "batch list",
    "batch show",
    "batch cap show",
    "proposal list",
    "proposal show",
    "proposal cap show",
    "proposal cap set",
    "batch report",
    "job enqueue",
    "job list",
    "job show",
    "job explain",
    "redrive plan",
    "redrive list",
    "redrive show",
    "redrive cap",
    "audit list",
    "audit verify",
    "lane list",
    "lane show",
    "schedule list",
    "schedule show",
    "doctor",
    "prune",
    "restore show",
    "retention show",
    "vault new-key",
    "vault public",
    "vault seal-contact",
    "vault rotate",
    "token list",
    "simulate",
];
/// More of them, and those whose answers are no table: pages of a manual, scripts, files.
const NO_ACT_EITHER: [&str; 17] = [
    "effect check",
    "effect show",
    "effect test",
    "job submit",
    "dev",
    "new",
    "kind list",
    "kind show",
    "kind page",
    "points balance",
    "points history",
    "points expiring",
    "points verify",
    "completions",
    "man",
    "bench",
    "token create",
];

/// Each command that can be run, by its words.
fn leaves() -> Vec<(Vec<String>, Command)> {
    let mut command = Cli::command();
    command.build();
    let mut leaves = vec![];
    collect(&command, &[], &mut leaves);
    assert!(leaves.len() > 50, "only {} commands were found", leaves.len());
    leaves
}

fn collect(command: &Command, path: &[String], leaves: &mut Vec<(Vec<String>, Command)>) {
    let below: Vec<&Command> = command.get_subcommands().filter(|it| it.get_name() != "help").collect();
    if below.is_empty() {
        leaves.push((path.to_vec(), command.clone()));
    }
    for command in below {
        collect(command, &[path, &[command.get_name().to_owned()]].concat(), leaves);
    }
}

fn takes_a_value(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}

fn value_name(argument: &Arg) -> String {
    argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default()
}

/// Something that the argument takes.
fn example(argument: &Arg) -> String {
    if let Some(value) = argument.get_possible_values().iter().find(|it| !it.is_hide_set()) {
        return value.get_name().to_owned();
    }
    let long = argument.get_long().unwrap_or(argument.get_id().as_str());
    match (value_name(argument).as_str(), long) {
        ("AGE", _) => "90d",
        ("TIME", _) => "2026-10-09",
        ("MILLISECONDS", _) => "5s",
        ("URL", _) => "http://127.0.0.1:1",
        ("ADDRESS", _) | (_, "listen") => "127.0.0.1:0",
        ("PROVIDER=N", _) => "tango_card=1",
        ("SEQ:HASH", _) => "0:0000000000000000000000000000000000000000000000000000000000000000",
        ("JSON", _) => "{}",
        (_, "digest") => "0000000000000000000000000000000000000000000000000000000000000000",
        (_, "cron") => "5 0 * * *",
        (_, "zone") => "Asia/Tokyo",
        (_, "lane") => "gift/gift_on_demand",
        (_, "act") if argument.get_help().is_some_and(|help| help.to_string().contains("Such as")) => "job retry",
        (_, "act") => "retry",
        ("FILE" | "DIR", _) | (_, "file" | "out" | "ids" | "ledger") => "/nonexistent/noshi",
        (_, "currency") => "JPY",
        (_, "scopes") => "read",
        (_, "expires") => "90d",
        (_, "name" | "id" | "user" | "owner" | "reason" | "campaign" | "of" | "target" | "who" | "area") => "x",
        _ => "1",
    }
    .to_owned()
}

/// A command line with what is required, and `with` given so.
fn line(path: &[String], command: &Command, with: Option<(&Arg, &str)>) -> Vec<String> {
    let mut words = vec!["noshi".to_owned()];
    words.extend(path.iter().cloned());
    let mut positional = vec![];
    for argument in command.get_arguments().filter(|it| !it.is_global_set() && takes_a_value(it)) {
        let given = with.filter(|(it, _)| it.get_id() == argument.get_id()).map(|(_, value)| value.to_owned());
        let by_hand = path.concat() == "retentionset" && argument.get_long() == Some("jobs-for")
            || path.concat() == "laneset" && argument.get_long() == Some("calls");
        if given.is_none() && !argument.is_required_set() && !by_hand {
            continue;
        }
        let value = given.unwrap_or_else(|| example(argument));
        match argument.get_long() {
            Some(long) => words.push(format!("--{long}={value}")),
            None => positional.push(value),
        }
    }
    if path.concat() == "redrive" || with.is_some_and(|(it, _)| it.get_id() == "ids") {
        words.push("--kind=probe".to_owned());
    }
    words.extend(positional);
    words
}

/// What clap or we say of it; `None` where it can be read.
fn refusal(words: &[String]) -> Option<String> {
    cli::read(words.iter().map(String::as_str)).err().map(|error| error.to_string())
}

#[test]
fn each_command_can_be_read_and_refuses_what_is_blank() {
    let mut blanks = 0;
    for (path, command) in leaves() {
        let whole = line(&path, &command, None);
        assert_eq!(refusal(&whole), None, "{whole:?}");
        for argument in command.get_arguments().filter(|it| takes_a_value(it)) {
            for blank in ["", " ", "\u{3000}", "\u{200b}"] {
                let words = match argument.is_global_set() {
                    true => [whole.clone(), vec![format!("--{}={blank}", argument.get_long().unwrap())]].concat(),
                    false => line(&path, &command, Some((argument, blank))),
                };
                assert!(refusal(&words).is_some(), "{words:?} is taken");
                blanks += 1;
            }
        }
    }
    assert!(blanks > 500, "only {blanks} were tried");
}

#[test]
fn each_act_demands_its_reason() {
    let mut acts = 0;
    for (path, command) in leaves() {
        let name = path.join(" ");
        let reason = command.get_arguments().find(|it| it.get_long() == Some("reason"));
        if NO_ACT.contains(&name.as_str()) || NO_ACT_EITHER.contains(&name.as_str()) {
            continue;
        }
        assert!(reason.is_some_and(Arg::is_required_set), "`noshi {name}` is an act, and does not ask why");
        acts += 1;
    }
    assert!(acts > 15, "only {acts} acts were found");
}

#[test]
fn each_age_and_each_time_is_read_in_the_same_way() {
    let (mut ages, mut times) = (0, 0);
    for (path, command) in leaves() {
        for argument in command.get_arguments().filter(|it| takes_a_value(it)) {
            let try_each = |values: &[&str], taken: bool| {
                for value in values {
                    let words = line(&path, &command, Some((argument, value)));
                    assert_eq!(refusal(&words).is_none(), taken, "{words:?}");
                }
            };
            match value_name(argument).as_str() {
                "AGE" => {
                    try_each(&["90s", "5m", "2h", "3d", "2w", "1h30m"], true);
                    try_each(&["5", "30x", "-1h", "2 h", "1.5h", "forever", "２h"], false);
                    ages += 1;
                }
                "TIME" => {
                    try_each(
                        &["2026-10-09", "2026-10-09 12:00", "2026-10-09T12:00:00Z", "2026-10-09T12:00:00+09:00"],
                        true,
                    );
                    try_each(&["yesterday", "2026-13-01", "09.10.2026", "12:00"], false);
                    times += 1;
                }
                "MILLISECONDS" => try_each(&["5000", "5s", "1m"], true),
                _ => {}
            }
        }
    }
    assert!(ages >= 9 && times >= 3, "{ages} ages, {times} times");
    // A span or an instant with a parser of its own would be no AGE and no TIME.
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (at, two) in lines.windows(2).enumerate() {
            if two[0].trim_start().starts_with("#[arg(")
                && (two[1].contains("Duration") || two[1].contains("DateTime<"))
            {
                let is_span = two[1].contains("Duration");
                let (parser, name) =
                    if is_span { ("durations::parse", "\"AGE\"") } else { ("instants::parse", "\"TIME\"") };
                assert!(two[0].contains(parser) && two[0].contains(name), "{}:{}: {}", path.display(), at + 2, two[1]);
            }
        }
    }
}

fn noshi(fleet: &Fleet, words: &[String], out: impl Into<Stdio>, error: impl Into<Stdio>, columns: bool) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
    command
        .args(&words[1..])
        // What a command makes is gone with the fleet.
        .current_dir(fleet.dir.path())
        .env("DATABASE_URL", &fleet.url)
        .env("NOSHI_CONFIG", fleet.dir.path().join("noshi.toml"))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(error);
    if columns {
        command.env("COLUMNS", "80");
    }
    command.spawn().unwrap().wait_with_output().unwrap()
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe that nobody reads.
fn closed() -> OwnedFd {
    let (_, writer) = std::io::pipe().unwrap();
    writer.into()
}

/// Every command, for real: as JSON, on 80 columns, on a full disk, into a closed pipe, and without anybody to complain to.
#[tokio::test(flavor = "multi_thread")]
async fn each_command_answers_whoever_listens_and_panics_for_nobody() {
    let _turn = crate::support::busy().await;
    let fleet = fleet(Terms::default()).await;
    fleet.gift("G-1", "digital", 500).await;
    let (mut done, mut refused) = (0, 0);
    for (path, command) in leaves() {
        let name = path.join(" ");
        if SERVING.contains(&name.as_str()) || name == "prune" {
            continue;
        }
        let words = line(&path, &command, None);
        let as_json =
            noshi(&fleet, &[words.clone(), vec!["-o=json".to_owned()]].concat(), Stdio::piped(), Stdio::piped(), false);
        let (text, error) = (String::from_utf8_lossy(&as_json.stdout), String::from_utf8_lossy(&as_json.stderr));
        assert!(!error.contains("panicked"), "{words:?}: {error}");
        if as_json.status.success() {
            done += 1;
            let is_page = ["completions", "man"].contains(&name.as_str());
            assert!(is_page || serde_json::from_str::<Value>(&text).is_ok(), "{words:?} answers no JSON: {text}");
        } else {
            refused += 1;
            let last = error.lines().last().unwrap_or_default();
            let told: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{words:?}: {e}: {error}"));
            let sentence = told["error"].as_str().unwrap_or_else(|| panic!("{words:?}: {told}"));
            assert!(!sentence.is_empty() && !sentence.contains("at line "), "{words:?}: {sentence}");
            assert!(!sentence.contains("error returned from database"), "{words:?}: {sentence}");
            assert_eq!(told["status"], as_json.status.code().unwrap(), "{words:?}");
        }
        let shown = noshi(&fleet, &words, Stdio::piped(), Stdio::piped(), true);
        let has_tables = !["completions", "man", "batch template", "migrate print", "token create", "audit verify"]
            .contains(&name.as_str());
        for line in String::from_utf8_lossy(&shown.stdout).lines().filter(|_| has_tables) {
            assert!(line.width() <= 80, "{words:?} is too wide: {line}");
        }
        for (out, error) in [
            (Stdio::from(full()), Stdio::piped()),
            (Stdio::from(closed()), Stdio::piped()),
            (Stdio::from(full()), Stdio::from(full())),
        ] {
            let said = noshi(&fleet, &words, out, error, false);
            let error = String::from_utf8_lossy(&said.stderr).into_owned();
            let code = said.status.code().unwrap_or_else(|| panic!("{words:?} was killed: {error}"));
            assert!(code <= 3 && !error.contains("panicked"), "{words:?} ended with {code}: {error}");
            assert!(code != 3 || error.is_empty() || error.contains("was carried out"), "{words:?}: {error}");
        }
    }
    assert!(done > 20 && refused > 10, "{done} done, {refused} refused");
}

/// The act stands, and the status says that its answer was lost; a look that nobody reads is no failure.
#[tokio::test(flavor = "multi_thread")]
async fn an_act_whose_answer_cannot_be_written_is_done_and_the_status_says_so() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    sqlx::query("insert into noshi.lane (name) values ('gift/x')").execute(&fleet.pool).await.unwrap();
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let pause = words("noshi lane pause gift/x --reason t");
    let said = noshi(&fleet, &pause, full(), Stdio::piped(), false);
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(3), "{error}");
    assert!(error.contains("was carried out") && error.contains("No space left"), "{error}");
    let paused: bool = sqlx::query_scalar("select paused from noshi.lane_now where name = 'gift/x'")
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    assert!(paused);
    for read in ["noshi lane list", "noshi completions zsh", "noshi man"] {
        assert_eq!(noshi(&fleet, &words(read), closed(), Stdio::piped(), false).status.code(), Some(0), "{read}");
        assert_eq!(noshi(&fleet, &words(read), full(), Stdio::piped(), false).status.code(), Some(3), "{read}");
    }
    let unknown = [
        ("noshi job list --kind nope", "invalid value 'nope'"),
        ("noshi job list --code nope", "invalid value 'nope'"),
        ("noshi job list --lane nope", "there is no lane `nope`"),
        ("noshi job list --batch 77", "there is no batch 77"),
        ("noshi audit list --act nope", "no act begins like that"),
        ("noshi job list", "no job is like that"),
        ("noshi audit list --who nobody", "no act is like that"),
    ];
    for (line, expected) in unknown {
        let said = noshi(&fleet, &words(line), Stdio::piped(), Stdio::piped(), false);
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(text.contains(expected), "{line}: {text}");
    }
}

/// Support asks by user, id, number or batch, years later: each look says that it was done, when, and how; and no act says less.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pruned_is_found_by_every_look() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let put = "insert into noshi.tombstone (id, kind, key, fingerprint, status, outcome, at, about, batch, row_no, created_at, finished_at)
        values (900, 'gift_issuance', 'order/1', '', 'completed', 'issued', 'issued', 'user-7', null, 0, '2026-01-01', '2026-01-02')";
    sqlx::query(put).execute(&fleet.pool).await.unwrap();
    let said = |line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let said = noshi(&fleet, &words, Stdio::piped(), Stdio::piped(), false);
        (said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    };
    for name in ["900", "order/1", "user-7", "gift_issuance order/1"] {
        for look in ["show", "explain"] {
            let (done, text) = said(&format!("noshi job {look} {name}"));
            assert!(done && text.contains("pruned at") && text.contains("issued"), "{look} {name}: {text}");
        }
        let (done, text) = said(&format!("noshi job cancel {name} --reason r"));
        assert!(!done && text.contains("was done at 2026-01-02") && text.contains("pruned at"), "{name}: {text}");
    }
    for list in ["noshi job list --of user-7", "noshi job list --of order/1", "noshi job list --of 900"] {
        let (done, text) = said(list);
        assert!(done && text.contains("completed (pruned)") && text.contains("order/1"), "{list}: {text}");
    }
    let (done, text) = said("noshi job list --of user-7 --status failed");
    assert!(done && text.contains("no job is like that"), "{text}");
}

/// What cannot be taken back is told before it is done; what changes nothing says so; who is unknown has no balance.
#[tokio::test(flavor = "multi_thread")]
async fn acts_tell_what_they_would_do_and_that_nothing_changed() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    sqlx::query("insert into noshi.lane (name) values ('gift/x')").execute(&fleet.pool).await.unwrap();
    let said = |words: &[&str]| {
        let words: Vec<String> = std::iter::once("noshi").chain(words.iter().copied()).map(str::to_owned).collect();
        let said = noshi(&fleet, &words, Stdio::piped(), Stdio::piped(), false);
        (said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    };
    for (to, expected) in [("2999-01-01", "in the future"), ("2001-01-01", "before noshi was installed")] {
        let (done, text) = said(&["restore", "mark", "--to", to, "--reason", "r", "--yes"]);
        assert!(!done && text.contains(expected), "{to}: {text}");
    }
    let now: String =
        sqlx::query_scalar("select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    let (done, text) = said(&["restore", "mark", "--to", &now, "--reason", "r"]);
    assert!(!done && text.contains("0 unfinished writes would be in doubt") && text.contains("--yes"), "{text}");
    assert!(said(&["restore", "show"]).1.contains("no restore is marked"));
    assert!(said(&["restore", "mark", "--to", &now, "--reason", "r", "--yes"]).0);
    let (done, text) = said(&["lane", "resume", "gift/x", "--reason", "r"]);
    assert!(done && text.contains("nothing changed"), "{text}");
    assert!(said(&["lane", "pause", "gift/x", "--reason", "their desk asked"]).0);
    let (done, text) = said(&["lane", "pause", "gift/x", "--reason", "again"]);
    assert!(done && text.contains("nothing changed"), "{text}");
    let (_, text) = said(&["lane", "list"]);
    assert!(text.contains("WAITING") && text.contains("their desk asked"), "{text}");
    let (done, text) = said(&["points", "balance", "nobody"]);
    assert!(!done && text.contains("unknown"), "{text}");
    assert!(said(&["redrive", "list"]).0);
    let put = "insert into noshi.batch (kind, mode, digest, file, submitted_by, rows, cancelled_at, mails, issues)
        select 'grants', 'all_or_nothing', sha256(f::bytea), f, 'sato', 1, now(), false, true from unnest(array['older', 'newer']) f";
    sqlx::query(put).execute(&fleet.pool).await.unwrap();
    let newest: i64 = sqlx::query_scalar("select max(id) from noshi.batch").fetch_one(&fleet.pool).await.unwrap();
    let (_, text) = said(&["batch", "list", "--before", &newest.to_string()]);
    assert!(text.contains("older") && !text.contains("newer"), "{text}");
    assert!(!said(&["batch", "list", "--limit", "1"]).1.contains("older"));
    let (done, text) = said(&["batch", "pause", &newest.to_string(), "--reason", "r"]);
    assert!(done && text.contains("cancelled already; nothing changed"), "{text}");
    for act in ["release", "resume"] {
        let (done, text) = said(&["batch", act, &newest.to_string(), "--reason", "r"]);
        assert!(done && text.contains("nothing changed"), "{act}: {text}");
    }
    // A paused one is not released, and who waits for that learns it by the exit code.
    let put = "insert into noshi.batch (kind, mode, digest, file, submitted_by, rows, validated_at, paused_at, mails, issues)
        select 'grants', 'all_or_nothing', sha256('paused'), 'paused', 'sato', 1, now(), now(), false, true returning id";
    let paused: i64 = sqlx::query_scalar(put).fetch_one(&fleet.pool).await.unwrap();
    let (done, text) = said(&["batch", "release", &paused.to_string(), "--reason", "r", "--yes"]);
    assert!(!done && text.contains("is paused, and nothing was released") && text.contains("batch resume"), "{text}");
    let put = "insert into noshi.batch (kind, mode, digest, file, submitted_by, rows, validated_at, mails, issues)
        select 'stores', 'per_row', sha256('s'), 'stores.csv', 'sato', 0, now(), false, false returning id";
    let small: i64 = sqlx::query_scalar(put).fetch_one(&fleet.pool).await.unwrap();
    let (done, text) = said(&["batch", "release", &small.to_string(), "--reason", "r"]);
    assert!(!done && text.contains("0 rows would begin") && text.contains("--yes"), "{text}");
    assert!(said(&["batch", "release", &small.to_string(), "--reason", "their shops open", "--yes"]).0);
    let (_, text) = said(&["audit", "list", "--act", "batch release"]);
    assert!(text.contains("their shops open"), "{text}");
    let (done, text) = said(&["batch", "cap", "show"]);
    assert!(done && text.contains("1000000") && text.lines().all(|line| line.len() <= 100), "{text}");
    assert!(said(&["batch", "cap", "show", "-o", "json"]).1.starts_with('['));
}

/// Whoever asks from a terminal hears what came of it, and a script by the status; what goes on without them is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_asked_for_and_waited_for() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let ask = |id: &str, more: &[&str]| {
        let args = format!(
            r#"{{"grant": "{id}", "user": "u", "category": "digital", "value": {{"amount": 500, "currency": "JPY"}}}}"#
        );
        let words = [&["noshi", "job", "enqueue", "gift_issuance", "--id", id, "--args", &args], more].concat();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let said = noshi(&fleet, &words, Stdio::piped(), Stdio::piped(), true);
        (said.status.code(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    };
    let (status, text) = ask("g1", &[]);
    assert!(status == Some(0) && text.contains("is asked for"), "{text}");
    let worker = fleet.worker("w", &[], &[]);
    let (status, text) = ask("g1", &["--wait"]);
    assert!(status == Some(0) && text.contains("completed at issued"), "{status:?} {text}");
    let (_, text) = ask("g1", &["--wait", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["status"], "completed", "{text}");
    assert!(worker.stop().await.success());
    let put = "insert into noshi.tombstone (id, kind, key, fingerprint, status, outcome, at, about, batch, row_no, created_at, finished_at)
        select 900, 'gift_issuance', 'g0', sha256(convert_to(a::text, 'UTF8')), 'failed', 'refused', 'rejected', 'u', null, 0, '2026-01-01', '2026-01-02'
        from (select replace(args::text, 'g1', 'g0')::jsonb as a from noshi.job where key = 'g1') j";
    sqlx::query(put).execute(&fleet.pool).await.unwrap();
    let (status, text) = ask("g0", &["--wait"]);
    assert!(
        status == Some(1) && text.contains("was done at 2026-01-02") && text.contains("was failed"),
        "{status:?} {text}"
    );
    let parked =
        "update noshi.job set status = 'needs_operator', code = 'out_of_tries', finished_at = null where key = 'g2'";
    assert_eq!(ask("g2", &[]).0, Some(0));
    let mut connection = fleet.pool.acquire().await.unwrap();
    sqlx::raw_sql("set session_replication_role = replica").execute(&mut *connection).await.unwrap();
    sqlx::query(parked).execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("reset session_replication_role").execute(&mut *connection).await.unwrap();
    let (status, text) = ask("g2", &["--wait"]);
    assert!(status == Some(4) && text.contains("waits for a person"), "{status:?} {text}");
}

/// What is sealed under a key that a worker does not have, it cannot open: nothing is sealed so before all have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_waits_until_each_worker_has_the_key() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let rotate = async |more: &[&str]| -> (bool, String) {
        let said = fleet.command(&[&["vault", "rotate"], more].concat()).await;
        (said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    };
    let put = "insert into noshi.worker (name, keys) values ('old', null), ('other', array['another'])";
    sqlx::query(put).execute(&fleet.pool).await.unwrap();
    let (done, text) = rotate(&["--yes"]).await;
    assert!(!done && text.contains("do not have the key") && text.contains("(other)"), "{text}");
    sqlx::query("update noshi.worker set stopped_at = now() where name = 'other'").execute(&fleet.pool).await.unwrap();
    let (done, text) = rotate(&[]).await;
    assert!(!done && text.contains("do not say") && text.contains("--yes"), "{text}");
    sqlx::query("update noshi.worker set stopped_at = now()").execute(&fleet.pool).await.unwrap();
    let audited = async || -> i64 {
        let rows = "select count(*) from noshi.audit where act = 'vault rotate'";
        sqlx::query_scalar(rows).fetch_one(&fleet.pool).await.unwrap()
    };
    assert_eq!(audited().await, 0);
    let worker = fleet.worker("w", &[], &[]);
    crate::processes::until("its keys", std::time::Duration::from_secs(20), async || {
        let told = "select exists (select from noshi.worker where keys <> '{}')";
        sqlx::query_scalar(told).fetch_one(&fleet.pool).await.unwrap()
    })
    .await;
    let (done, text) = rotate(&[]).await;
    assert!(done, "{text}");
    assert_eq!(audited().await, 1);
    assert!(worker.stop().await.success());
}

/// A terminal in Shift_JIS, a file's name of another system: bytes that are no text are refused in a sentence, by every command.
#[test]
fn what_is_no_text_is_refused_and_never_a_panic() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let no_text = OsStr::from_bytes(b"\x8a\xae");
    let run = |words: &[&OsStr], database: &OsStr| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        command.args(words).env("DATABASE_URL", database).env_remove("NOSHI_CONFIG");
        let said = command.output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!error.contains("panicked"), "{words:?}: {error}");
        (said.status.code(), error)
    };
    let nowhere = OsStr::new("postgres://nobody@127.0.0.1:1/x");
    for (path, _) in leaves().into_iter().filter(|(path, _)| !SERVING.contains(&path.join(" ").as_str())) {
        for more in
            [&[no_text][..], &[OsStr::new("--reason"), no_text], &[OsStr::new("-o"), OsStr::new("json"), no_text]]
        {
            let words: Vec<&OsStr> = path.iter().map(OsStr::new).chain(more.iter().copied()).collect();
            let (status, error) = run(&words, nowhere);
            assert!(matches!(status, Some(1 | 2)), "{words:?}: {status:?} {error}");
        }
    }
    for words in [&["job", "ack", "3", "--reason"][..], &[]] {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([no_text]).collect();
        assert_eq!(run(&words, nowhere).0, Some(2));
    }
    let (_, error) =
        run(&["job", "ack", "3", "--reason"].map(OsStr::new).into_iter().chain([no_text]).collect::<Vec<_>>(), nowhere);
    assert!(error.contains("is no UTF-8") && error.contains("Nothing was done"), "{error}");
    let (status, error) = run(&[OsStr::new("job"), OsStr::new("list")], no_text);
    assert!(status == Some(2) && error.contains("the environment variable DATABASE_URL is no UTF-8"), "{error}");
}
