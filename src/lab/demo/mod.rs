//! `noshi demo`: the whole of it on one machine, with nothing installed or configured before.
//!
//! A private PostgreSQL; three simulated gift providers, an organisation platform and a mail service that fail on purpose;
//! two worker processes that are killed in mid-run; files of 1,000 grants and 330 stores, submitted by one person and
//! approved by another; then the partners' ledger is held against our database. Nothing is left behind.

mod grants;
mod points;
mod practice;
mod progress;
pub(crate) mod reconcile;
pub(crate) mod script;
mod stores;
mod table;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use noshi_jobs::email::Template;

use self::{
    progress::{Progress, Tally},
    reconcile::{Books, Reconciliation, reconcile},
    script::Script,
};
use crate::{
    basics::terminal::say,
    db::{self, PgPool, Role, operator::reconcile as tables},
    lab::{
        fleet::{
            papers,
            stage::{self, Manners, Stage},
            workers::{self, Fleet},
        },
        private_postgres::{PrivatePostgres, Settings as ServerSettings},
    },
};

/// Shares of the grants at rest, in percent, at which a worker is killed.
const KILLS: [u64; 2] = [25, 60];
const WORKERS: usize = 2;
/// Between two looks at the database.
const LOOK: Duration = Duration::from_millis(200);
/// No job came to rest for so long: something is stuck, and waiting longer shows nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Issues 1,000 gifts over failing providers, killing workers meanwhile, and reconciles. Needs nothing, leaves nothing.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// Grants to issue; the example file is cut, or repeated under new ids
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Decides which calls meet which fault
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Let the providers answer every call as they should; workers are killed all the same
    #[arg(long)]
    no_faults: bool,
    /// Instead, set up a small incident to practise on, and wait for Ctrl-C
    #[arg(long, conflicts_with_all = ["count", "seed", "no_faults", "keep"])]
    practice: bool,
    /// The same incident, with the console in the browser: prints its address, and a token for each of two people
    #[arg(long, conflicts_with_all = ["count", "seed", "no_faults", "keep"])]
    console: bool,
    /// Copy ledger, logs, jobs and journal to this directory at the end
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// How the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every promise was kept.
    Sound,
    Interrupted,
}

/// Runs until everything is at rest and reconciled, or until `stopped`. Broken promises are an error, after their list.
pub async fn run(args: DemoArgs, json: bool, stopped: impl Future<Output = ()>) -> anyhow::Result<End> {
    tokio::pin!(stopped);
    if let Some(keep) = &args.keep {
        fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
    }
    let server = PrivatePostgres::start(ServerSettings { durable: true, ..ServerSettings::default() });
    tokio::pin!(server);
    let postgres = tokio::select! {
        postgres = &mut server => postgres?,
        () = &mut stopped => {
            // It cannot be stopped halfway; an error means that there is none.
            if let Ok(postgres) = server.await {
                postgres.stop().await?;
            }
            return Ok(End::Interrupted);
        }
    };
    // What the run holds (workers, simulator) ends with it, whichever branch is taken.
    let ran = tokio::select! {
        ran = run_on(&args, json, &postgres) => ran.map(|()| End::Sound),
        () = &mut stopped => Ok(End::Interrupted),
    };
    postgres.stop().await?;
    ran
}

async fn run_on(args: &DemoArgs, json: bool, postgres: &PrivatePostgres) -> anyhow::Result<()> {
    if args.practice || args.console {
        return practice::run(postgres, args.console).await;
    }
    let begun = Instant::now();
    let manners = Manners {
        seed: args.seed,
        faults: !args.no_faults,
        limits: stage::LIMITS,
        jitter: stage::JITTER,
        lag: stage::SETTLE,
    };
    let mut stage = Stage::set(postgres, &manners).await?;
    if !json {
        introduce(args);
    }
    let mut fleet = Fleet::start(&stage, WORKERS)?;
    let api = stage.start_api().await?;
    let pool = db::connect(&stage.url, Role::Operator, 2).await?;
    let mut script = Script::begin(&stage, &pool, args.count as usize).await?;
    let mut ran = Ran::default();
    let at_rest = run_to_rest(&pool, &mut fleet, &mut script, &mut ran).await;
    let (grants, cast) = (script.grants, script.points);
    let bad = fleet.stop().await;
    // Calls whose connections are gone may still land, for as long as the providers say.
    tokio::time::sleep(stage::SETTLE).await;
    let Stage { simulator, directory, ledger, url, .. } = stage;
    simulator.stop().await?;
    api.abort();
    ran.elapsed = begun.elapsed();

    let books = Books {
        ledger: papers::ledger(&ledger)?,
        jobs: tables::gift_jobs(&pool).await?,
        trades: tables::gift_trades(&pool).await?,
        limits: stage::LIMITS,
        grants,
    };
    let mut it = reconcile(&books);
    it.broken.extend(at_rest.err().map(|error| format!("{error:#}")));
    it.broken.extend(bad.iter().map(|number| format!("worker {number} did not stop in order")));
    it.broken.extend(script::wrong_batches(&pool).await?);
    let (jobs, stores) = (tables::store_jobs(&pool).await?, tables::stores(&pool).await?);
    let (shops, broken) = reconcile::shops::check(&books.ledger, &jobs, &stores, stage::SHOP_LIMIT);
    it.broken.extend(broken);
    let jobs = tables::mail_jobs(&pool).await?;
    let max_sends = Template::GiftGranted.max_sends().into();
    let (mails, broken) = reconcile::mails::check(&books.ledger, &jobs, max_sends, stage::MAIL_LIMIT);
    it.broken.extend(broken);
    let (points, broken) = points::check(&url, cast).await?;
    it.broken.extend(broken);
    papers::write(&directory, &pool).await?;
    it.broken.extend(papers::leaks(&directory)?);
    let rescued = tables::rescued(&pool).await?;
    if let Some(keep) = &args.keep {
        papers::keep(&directory, keep)?;
    }
    match json {
        true => say_json(&ran, &it, rescued)?,
        false => {
            say!("\nThe partners' ledger against our database:\n\n{}", table::text(&it, &shops, &mails, &points));
            tell(&ran, &it, rescued);
            if let Some(keep) = &args.keep {
                say!("Ledger, logs, jobs and journal are in {}.", keep.display());
            }
        }
    }
    match it.broken.len() {
        0 => {
            if !json {
                say!("Every promise was kept.");
            }
            Ok(())
        }
        broken => bail!("{broken} promises were broken; the list stands above"),
    }
}

fn say_json(ran: &Ran, it: &Reconciliation, rescued: u64) -> anyhow::Result<()> {
    let accounts = it.accounts.iter().map(|(provider, account)| {
        serde_json::json!({
            "provider": provider.name(), "grants": account.grants, "issued_once": account.issued_once,
            "refused": account.refused, "needs_operator": account.needs_operator, "duplicates": account.duplicates,
            "calls": account.calls, "max_calls_in_a_second": account.max_calls, "limit": account.limit,
        })
    });
    let answer = serde_json::json!({
        "providers": accounts.collect::<Vec<_>>(), "workers_killed": ran.kills, "workers_ended": ran.ended,
        "jobs_taken_over": rescued, "answers_spoiled": it.faults, "gifts_in_doubt": it.in_doubt,
        "seconds": ran.elapsed.as_secs(), "broken": it.broken,
    });
    say!("{}", serde_json::to_string_pretty(&answer)?);
    Ok(())
}

fn tell(ran: &Ran, it: &Reconciliation, rescued: u64) {
    say!(
        "Workers killed: {}, ended by themselves: {}; jobs taken over: {rescued}; answers spoiled: {}; gifts in doubt: {}; {} s in all.",
        ran.kills,
        ran.ended,
        it.faults,
        it.in_doubt,
        ran.elapsed.as_secs()
    );
}

fn introduce(args: &DemoArgs) {
    let faults = if args.no_faults { "no faults" } else { "about 12 % of all issue calls meet a fault" };
    let limits = stage::LIMITS;
    say!(
        "{} grants to be mailed and issued, stores to be created, points to be granted, exchanged and expired; {WORKERS} workers, two killed on the way; three \
         simulated gift providers, an organisation platform and SES ({faults}; seed {}).",
        args.count,
        args.seed
    );
    say!(
        "Scaled for a demo: {}, {} and {} calls per second (amazon_incentives, gift_on_demand, tango_card); late \
         effects land within {} s; trade ids are remembered for {} s; accepted gifts are asked for every {} s; calls \
         time out after {} s; a silent worker is dead after {} s.\n",
        limits.amazon_incentives,
        limits.gift_on_demand,
        limits.tango_card,
        stage::SETTLE.as_secs(),
        stage::HORIZON.as_secs(),
        stage::POLL.as_secs(),
        stage::CALL_TIMEOUT.as_secs(),
        workers::LEASE.as_secs()
    );
}

/// What happened on the way.
#[derive(Debug, Default, Clone, Copy)]
struct Ran {
    kills: usize,
    /// Workers that ended without being killed by us.
    ended: usize,
    elapsed: Duration,
}

async fn run_to_rest(pool: &PgPool, fleet: &mut Fleet, script: &mut Script<'_>, ran: &mut Ran) -> anyhow::Result<()> {
    let total = script.jobs;
    let mut progress = Progress::start(total);
    let mut last = (Tally::default(), Instant::now());
    loop {
        let tally = Tally::of(&tables::standings(pool).await?);
        progress.show(tally);
        if tally.open == 0 && tally.at_rest() >= total {
            progress.end();
            return Ok(());
        }
        if KILLS.get(ran.kills).is_some_and(|percent| tally.at_rest() * 100 >= percent * total) {
            let victim = ran.kills % WORKERS + 1;
            fleet.kill(victim).await?;
            ran.kills += 1;
            progress.say(&format!("worker {victim} was killed (SIGKILL), and another started in its place"));
        }
        if let Some(done) = script.go_on().await? {
            progress.say(&done);
        }
        for (number, status) in fleet.look_after()? {
            ran.ended += 1;
            progress.say(&format!("worker {number} ended by itself ({status}), and another started in its place"));
        }
        if last.0.at_rest() != tally.at_rest() {
            last = (tally, Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            progress.end();
            bail!("no job came to rest for {} s, and {} are open", PATIENCE.as_secs(), tally.open);
        }
        tokio::time::sleep(LOOK).await;
    }
}
