//! Everything that was read, ordered and indexed for the checks.

use std::collections::{BTreeMap, HashMap};

use crate::{
    options::Options,
    tables::{
        self, Batch, BatchRow, GiftOutcome, GiftTrade, Job, JobEvent, Lane, Line, PointAllocation, PointEntry,
        PointLine, PointLot, Store, Us, Worker,
    },
};

/// What the checker knows of the job that moves money.
pub const GIFT: &str = "gift_issuance";

/// What gives a claim back or takes it away without a step; a handed back one made no call.
pub const HANDED_BACK: &str = "handed_back";

pub struct History {
    pub jobs: BTreeMap<i64, Job>,
    /// Number of journal rows.
    pub events: usize,
    /// Each job's events in the order in which they happened.
    pub journal: BTreeMap<i64, Vec<JobEvent>>,
    pub trades: BTreeMap<String, GiftTrade>,
    pub trades_by_job: HashMap<i64, Vec<String>>,
    pub outcomes: HashMap<String, Vec<GiftOutcome>>,
    pub batches: Vec<Batch>,
    pub batch_rows: Vec<BatchRow>,
    pub stores: Vec<Store>,
    pub point_entries: Vec<PointEntry>,
    pub point_lines: Vec<PointLine>,
    pub point_lots: Vec<PointLot>,
    pub point_allocations: Vec<PointAllocation>,
    pub lanes: HashMap<String, Lane>,
    pub workers: HashMap<i64, Worker>,
    pub ledger: Vec<Line>,
    /// Ledger lines after this moment may be newer than the dump.
    pub seen_until: Us,
}

impl History {
    pub fn read(options: &Options) -> Result<History, String> {
        let dump = &options.dump;
        let ledger = tables::ledger(&options.ledger)?;
        let events: Vec<JobEvent> = tables::table(dump, "job_event")?;
        let trades: Vec<GiftTrade> = tables::table(dump, "gift_trade")?;
        let outcomes: Vec<GiftOutcome> = tables::table(dump, "gift_outcome")?;
        let newest = events.iter().map(|event| event.happened_at).chain(trades.iter().map(|trade| trade.started_at));
        let mut history = History {
            jobs: tables::table::<Job>(dump, "job")?.into_iter().map(|job| (job.id, job)).collect(),
            events: events.len(),
            seen_until: if options.quiescent { Us::MAX } else { newest.max().unwrap_or(Us::MIN) },
            journal: BTreeMap::new(),
            trades: trades.into_iter().map(|trade| (trade.id.clone(), trade)).collect(),
            trades_by_job: HashMap::new(),
            outcomes: HashMap::new(),
            batches: tables::table(dump, "batch")?,
            batch_rows: tables::table(dump, "batch_row")?,
            stores: tables::table(dump, "store")?,
            point_entries: tables::table(dump, "point_entry")?,
            point_lines: tables::table(dump, "point_line")?,
            point_lots: tables::table(dump, "point_lot")?,
            point_allocations: tables::table(dump, "point_allocation")?,
            lanes: tables::table::<Lane>(dump, "lane")?.into_iter().map(|lane| (lane.name.clone(), lane)).collect(),
            workers: tables::table::<Worker>(dump, "worker")?.into_iter().map(|worker| (worker.id, worker)).collect(),
            ledger,
        };
        for event in events {
            history.journal.entry(event.job).or_default().push(event);
        }
        for events in history.journal.values_mut() {
            events.sort_by_key(|event| (event.happened_at, event.step, event.lease));
        }
        let mut by_age: Vec<&GiftTrade> = history.trades.values().collect();
        by_age.sort_by_key(|trade| trade.generation);
        for trade in by_age {
            history.trades_by_job.entry(trade.job).or_default().push(trade.id.clone());
        }
        for outcome in outcomes {
            history.outcomes.entry(outcome.trade.clone()).or_default().push(outcome);
        }
        Ok(history)
    }

    pub fn events_of(&self, job: i64) -> &[JobEvent] {
        self.journal.get(&job).map(Vec::as_slice).unwrap_or_default()
    }

    /// The trades of a job, oldest generation first.
    pub fn trades_of(&self, job: i64) -> impl Iterator<Item = &GiftTrade> {
        let ids = self.trades_by_job.get(&job).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| self.trades.get(id))
    }

    pub fn outcome(&self, trade: &str, name: &str) -> Option<&GiftOutcome> {
        self.outcomes.get(trade)?.iter().find(|outcome| outcome.outcome == name)
    }

    /// Ledger lines that the dump cannot have missed: all of them when nothing runs, else those before its newest row.
    pub fn seen(&self) -> impl Iterator<Item = &Line> {
        self.ledger.iter().filter(|line| line.us <= self.seen_until)
    }
}

/// A moment, for people.
pub fn clock(us: Us) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map_or_else(|| us.to_string(), |time| time.format("%H:%M:%S%.6f").to_string())
}
