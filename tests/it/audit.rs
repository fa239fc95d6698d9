//! The audit's chain: whole as long as nobody touches it, and a finger on the place where somebody did.

use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::redrive::Operators;
use noshi::db::operator::audit::{self, Which};

impl Operators {
    /// As whoever owns the machine could: past every trigger.
    async fn tamper(&self, sql: &str) {
        let sql = format!("set session_replication_role = replica; {sql}; set session_replication_role = origin");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.db.pool).await.expect("tampered");
    }

    async fn faults(&self) -> Vec<(Option<i64>, Option<i64>, String)> {
        let (_, faults) = audit::verify(&self.ada, None).await.expect("an answer");
        faults.into_iter().map(|it| (it.seq, it.audit, it.fault)).collect()
    }

    /// Five acts upon lanes, each in its own transaction.
    async fn acted() -> Operators {
        let operators = Operators::open().await;
        for n in 1..=5 {
            let verb = if n % 2 == 1 { "pause" } else { "resume" };
            let sql = format!("select noshi.{verb}_lane('probe', 'number {n}')");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&operators.ada).await.expect("an act");
        }
        assert_eq!(operators.faults().await, []);
        operators
    }
}

const NOT_WRITTEN: &str = "the act, or one before it, is not what was written";

#[tokio::test(flavor = "multi_thread")]
async fn every_act_is_listed_and_none_can_be_changed() {
    let operators = Operators::acted().await;
    let which = |act: Option<&str>, who: Option<&str>| Which {
        act: act.map(str::to_owned),
        who: who.map(str::to_owned),
        target: Some("lane/probe".to_owned()),
        since: Some(std::time::Duration::from_secs(3600)),
    };
    let listed = async |which, most| audit::list(&operators.ada, &which, most).await.expect("a list");
    assert_eq!(listed(which(None, Some("ada")), 100).await.len(), 5);
    assert_eq!(listed(which(Some("lane pause"), None), 100).await.len(), 3);
    assert_eq!(listed(which(None, Some("ben")), 100).await.len(), 0);
    assert_eq!(listed(which(None, None), 1).await[0].reason.as_deref(), Some("number 5"));
    for sql in ["update noshi.audit set who = 'ben'", "delete from noshi.audit_link", "truncate noshi.audit cascade"] {
        let error = sqlx::raw_sql(sql).execute(&operators.db.pool).await.expect_err(sql);
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("NS001"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changed_is_found_where_it_is() {
    let third = async |operators: &Operators| {
        let link = "select l.audit from noshi.audit_link l where l.seq = 3";
        operators.count(link).await
    };
    let operators = Operators::acted().await;
    let act = third(&operators).await;
    operators
        .tamper("update noshi.audit set who = 'ben' where id = (select audit from noshi.audit_link where seq = 3)")
        .await;
    assert_eq!(operators.faults().await, [(Some(3), Some(act), NOT_WRITTEN.to_owned())]);

    let operators = Operators::acted().await;
    let act = third(&operators).await;
    operators.tamper("delete from noshi.audit where id = (select audit from noshi.audit_link where seq = 3)").await;
    assert_eq!(operators.faults().await, [(Some(3), Some(act), "its act is missing".to_owned())]);

    // With its link: the gap shows, and the next digest stands on nothing.
    let operators = Operators::acted().await;
    operators.tamper(
        "with l as (delete from noshi.audit_link where seq = 3 returning audit) delete from noshi.audit where id in (select audit from l)",
    )
    .await;
    let faults = operators.faults().await;
    assert_eq!((faults[0].0, faults[0].2.as_str()), (Some(3), "a link is missing"));

    let operators = Operators::acted().await;
    operators.tamper("insert into noshi.audit (who, act, target) values ('ada', 'job retry', 'job/1')").await;
    let act = operators.count("select max(id) from noshi.audit").await;
    assert_eq!(operators.faults().await, [(None, Some(act), "it has no link".to_owned())]);

    let operators = Operators::acted().await;
    operators.tamper(
        "with l as (delete from noshi.audit_link where seq = 5 returning audit) delete from noshi.audit where id in (select audit from l)",
    )
    .await;
    assert_eq!(operators.faults().await, [(Some(5), None, "the head is not the last link".to_owned())]);
}

/// Whoever owns the database can write the whole chain anew; a link that was kept elsewhere tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_written_anew_is_told_by_a_link_that_was_kept() {
    let operators = Operators::acted().await;
    let noshi = async |arguments: &[&str]| {
        let url = operators.db.url.replacen("//postgres@", "//ada@", 1);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_noshi"));
        let output = command.args(arguments).env("DATABASE_URL", url).output().await.expect("a command");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (whole, kept) = noshi(&["audit", "verify"]).await;
    let kept = kept.lines().last().expect("a link").to_owned();
    assert!(whole && kept.starts_with("5:"), "{kept}");
    sqlx::raw_sql("select noshi.resume_lane('probe', 'one more')").execute(&operators.ada).await.expect("an act");
    assert!(noshi(&["audit", "verify", "--expect", &kept]).await.0);

    operators.tamper(
        "update noshi.audit set who = 'ben' where id = (select audit from noshi.audit_link where seq = 3);
         do $$ declare r record; h bytea := sha256('noshi'); begin
             for r in select l.seq, a as act from noshi.audit_link l join noshi.audit a on a.id = l.audit order by l.seq loop
                 h := noshi.audit_digest(h, r.act);
                 update noshi.audit_link set hash = h where seq = r.seq;
             end loop;
             update noshi.audit_head set hash = h;
         end $$",
    )
    .await;
    assert!(noshi(&["audit", "verify"]).await.0, "the forged chain is whole in itself");
    let (whole, said) = noshi(&["-o", "json", "audit", "verify", "--expect", &kept]).await;
    let said: Value = serde_json::from_str(&said).expect("one JSON document");
    assert_eq!(
        (whole, &said["whole"], &said["faults"][0]["seq"]),
        (false, &Value::Bool(false), &Value::from(5)),
        "{said}"
    );
}
