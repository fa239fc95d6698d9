//! What operators see and steer from the command line, beyond acts.

use std::time::Duration;

use serde_json::Value;

use crate::{
    fleet::{Fleet, Terms, fleet},
    processes::until,
};

async fn json(fleet: &Fleet, arguments: &[&str]) -> Value {
    let said = fleet.command(&[arguments, &["-o", "json"]].concat()).await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{arguments:?}: {error}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
}

async fn says(fleet: &Fleet, arguments: &[&str], expected: &str) {
    let said = fleet.command(arguments).await;
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(text.contains(expected), "{arguments:?} does not say {expected:?}: {text}");
}

/// R42: a call centre has a user, a grant, a trade or a public id.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_found_by_whatever_a_caller_knows() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let gift = fleet.gift("G-7", "digital", 500).await;
    let store = fleet.store("O-1", "S-1", "batch-1").await;
    let worker = fleet.worker("w", &[], &[]);
    fleet.at_rest(Duration::from_secs(30)).await.unwrap();
    let trade: String = sqlx::query_scalar("select id from noshi.gift_trade").fetch_one(&fleet.pool).await.unwrap();
    let number = gift.to_string();
    for (name, job) in [("G-7", gift), (trade.as_str(), gift), ("u1", gift), ("S-1", store), (&number, gift)] {
        assert_eq!(json(&fleet, &["job", "show", name]).await["job"]["id"], job, "{name}");
        assert_eq!(json(&fleet, &["job", "list", "--of", name]).await[0]["id"], job, "{name}");
        let why = json(&fleet, &["job", "explain", name]).await["why"].as_str().unwrap().to_owned();
        assert!(why.starts_with("It is over: completed"), "{why}");
    }
    says(&fleet, &["job", "show", "nobody"], "nothing goes by the name of nobody").await;
    fleet.gift("G-8", "digital", 500).await;
    says(&fleet, &["job", "show", "u1"], "2 jobs go by the name of u1; name one by its number").await;
    let code = json(&fleet, &["job", "show", "G-7"]).await.to_string();
    assert!(!code.contains("ciphertext") && !code.contains("SECRET"), "{code}");
    assert!(worker.stop().await.success());
    let workers = json(&fleet, &["worker", "list"]).await;
    assert_eq!(workers[0]["status"], "stopped", "{workers}");

    // A grant that is no job yet.
    let file = fleet.dir.path().join("grants.csv");
    std::fs::write(
        &file,
        "grant_id,user_id,name,email,category,amount,currency\nF-1,u9,Ada,ada@example.jp,digital,500,JPY\n",
    )
    .unwrap();
    let submitted = json(&fleet, &["batch", "submit", &file.display().to_string()]).await;
    assert_eq!((&submitted["status"], &submitted["rows"]), (&"validated".into(), &1.into()));
    says(
        &fleet,
        &["job", "explain", "F-1"],
        "Grant F-1 is line 2 of batch 1, which is validated: it waits for its release",
    )
    .await;
    for listed in [
        ["batch", "list"],
        ["lane", "list"],
        ["job", "list"],
        ["audit", "list"],
        ["redrive", "list"],
        ["token", "list"],
    ] {
        assert!(json(&fleet, &listed).await.is_array(), "{listed:?}");
    }
}

/// Rows of a paused batch are due at no time, and a lane may be closed for ever: every look and every act reads that, on each PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_ever_is_seen_and_acted_upon() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let jobs = [fleet.gift("G-7", "digital", 500).await, fleet.store("O-1", "S-1", "batch-1").await];
    for sql in [
        "insert into noshi.lane (name, closed_until, closed_code) values ('gift/x', '9999-12-01', 'credentials')",
        "update noshi.job set status = 'scheduled', run_at = 'infinity', lane = 'gift/x'",
    ] {
        sqlx::query(sql).execute(&fleet.pool).await.unwrap();
    }
    for name in ["G-7", "S-1", &jobs[0].to_string()] {
        for look in [&["job", "show", name], &["job", "explain", name], &["lane", "show", "gift/x"]] {
            json(&fleet, look).await;
        }
    }
    for look in [&["job", "list"], &["lane", "list"], &["batch", "list"], &["worker", "list"]] {
        json(&fleet, look).await;
    }
    for act in ["retry", "cancel", "inquire", "dismiss", "acknowledge"] {
        for name in ["G-7", "S-1"] {
            let said = fleet.command(&["job", act, name, "--reason", "a look"]).await;
            let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
            assert!(said.status.success() || text.contains("paused") || text.contains("not allowed"), "{act}: {text}");
            assert!(!text.contains("SQLSTATE"), "{act}: {text}");
        }
    }
}

/// A number is a job's number first, and a slip of the pen acts on nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_names_no_other_job() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let first = fleet.gift("G-7", "digital", 500).await;
    let second = fleet.gift(&first.to_string(), "digital", 500).await;
    fleet.gift("900", "digital", 500).await;
    assert_eq!(json(&fleet, &["job", "show", &first.to_string()]).await["job"]["id"], first);
    assert_eq!(json(&fleet, &["job", "show", "gift_issuance", &first.to_string()]).await["job"]["id"], second);
    let asked = "select count(*) from noshi.job where requested_act is not null";
    for arguments in [
        &["job", "show", "900"][..],
        &["job", "explain", "900"],
        &["job", "retry", "900", "--reason", "r"],
        &["job", "cancel", "900", "--reason", "r"],
        &["job", "ack", "900", "--reason", "r"],
        &["job", "resolve", "900", "--as", "rerun", "--reason", "r"],
    ] {
        says(&fleet, arguments, "there is no job with the number 900").await;
        says(&fleet, arguments, "name one by its own number, or by kind and id").await;
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(asked).fetch_one(&fleet.pool).await.unwrap(), 0);
    says(&fleet, &["job", "show", "901"], "nothing goes by the name of 901").await;
}

/// Points too are found by whom and by what they are about.
#[tokio::test(flavor = "multi_thread")]
async fn points_are_found_by_user_and_source() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let job = crate::point_jobs::grant(&fleet.pool, "order-3", "u3", 5).await;
    for name in ["u3", "order-3", "test:order-3"] {
        assert_eq!(json(&fleet, &["job", "show", name]).await["job"]["id"], job, "{name}");
        assert_eq!(json(&fleet, &["job", "list", "--of", name]).await[0]["id"], job, "{name}");
    }
    let exchange = crate::point_jobs::exchange(&fleet.pool, "X-1", "u4", 500, 500).await;
    assert_eq!(json(&fleet, &["job", "list", "--of", "u4"]).await[0]["id"], exchange);
}

/// The command line reads arguments as the other entry points do: no field twice, and every digit of a number.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reads_money_as_every_entry_point() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let args = |user: &str, amount: &str| {
        format!(r#"{{"grant": "g1", {user}, "category": "digital", "value": {{{amount}, "currency": "JPY"}}}}"#)
    };
    let (user, amount) = (r#""user": "u9""#, r#""amount": 500"#);
    for (user, amount, place) in [
        (user, r#""amount": 500.00000000000000000000000000000001"#, "amount"),
        (user, r#""amount": 500, "amount": 5000"#, "amount"),
        (r#""user": "u9", "user": "u10""#, amount, "user"),
        (user, r#""amount": "500""#, "amount"),
    ] {
        let text = args(user, amount);
        let asked = ["job", "enqueue", "gift_issuance", "--id", "g1", "--args", &text];
        let said = fleet.command(&asked).await;
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && error.contains(place) && !error.contains("line 1"), "{text}: {error}");
    }
    let none = "select count(*) from noshi.job";
    assert_eq!(sqlx::query_scalar::<_, i64>(none).fetch_one(&fleet.pool).await.unwrap(), 0);
    let good = args(user, r#""amount": 500.0"#);
    says(&fleet, &["job", "enqueue", "gift_issuance", "--id", "g1", "--args", &good], "is asked for").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_lowered_by_an_operator_and_never_raised_above_its_settings() {
    let _turn = crate::support::turn().await;
    let fleet = fleet(Terms::default()).await;
    let worker = fleet.worker("w", &[], &[]);
    let lane = "gift/gift_on_demand";
    let calls = async || -> Option<i32> {
        let calls = "select calls from noshi.lane_budget where lane = 'gift/gift_on_demand'";
        sqlx::query_scalar(calls).fetch_optional(&fleet.pool).await.unwrap()
    };
    until("the lane", Duration::from_secs(10), async || calls().await.is_some()).await;
    let declared = calls().await.unwrap();
    let set = |calls: String| async {
        let calls = calls;
        fleet.command(&["lane", "set", lane, "--calls", &calls, "--reason", "they are slow today"]).await
    };
    assert!(set("5".to_owned()).await.status.success());
    // Claims keep to it at once; the row is the workers' own.
    until("the order carried over", Duration::from_secs(10), async || calls().await == Some(5)).await;
    let shown = json(&fleet, &["lane", "show", lane]).await;
    assert_eq!(shown["budgets"], format!("5 per 00:00:01 (of {declared})"));
    let more = set((declared + 1).to_string()).await;
    let said = String::from_utf8_lossy(&more.stderr).into_owned();
    assert!(!more.status.success() && said.contains("the settings declare"), "{said}");
    // A worker that starts declares the settings' budget; what the operator said holds.
    assert!(worker.stop().await.success());
    let worker = fleet.worker("again", &[], &[]);
    fleet.gift("g", "digital", 500).await;
    fleet.at_rest(Duration::from_secs(20)).await.unwrap();
    assert_eq!(calls().await, Some(5));
    assert!(fleet.command(&["lane", "set", lane, "--as-declared", "--reason", "they are well"]).await.status.success());
    until("the order carried over", Duration::from_secs(10), async || calls().await == Some(declared)).await;
    says(&fleet, &["lane", "pause", "gift/nobody", "--reason", "a drill"], "there is no lane 'gift/nobody'").await;
    let audited = json(&fleet, &["audit", "list", "--target", "lane/gift/gift_on_demand"]).await;
    let acts: Vec<&str> = audited.as_array().unwrap().iter().filter_map(|act| act["act"].as_str()).collect();
    assert_eq!(acts, ["lane set", "lane set"], "what was refused is not on record: {audited}");
    assert!(audited[1]["before"]["calls"] == declared && audited[1]["after"]["calls"] == 5, "{audited}");
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_its_page_and_its_completion() {
    let run = |arguments: &'static [&'static str]| {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_noshi")).args(arguments).output().expect("it runs");
        assert!(ran.status.success());
        String::from_utf8(ran.stdout).expect("text")
    };
    let pages = tempfile::tempdir().unwrap();
    let written =
        std::process::Command::new(env!("CARGO_BIN_EXE_noshi")).args(["man", "--dir"]).arg(pages.path()).status();
    assert!(written.unwrap().success());
    let completions = run(&["completions", "bash"]);
    for command in
        ["job-explain", "lane-set", "redrive-apply", "batch-approve", "token-create", "audit-verify", "prune", "doctor"]
    {
        assert!(pages.path().join(format!("noshi-{command}.1")).is_file(), "{command}");
        assert!(completions.contains(&command.replace('-', "__subcmd__")), "{command}");
    }
    assert!(run(&["man"]).contains(".TH noshi 1"));
}
