//! Every metric: its name, type, labels and what it means. `ops/metrics.md` is drawn from here.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// Who knows the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Each process for itself: add them up.
    Process,
    /// The fleet: one process takes it, and each shows the same.
    Fleet,
}

#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub r#type: Type,
    pub of: Of,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! metrics {
    ($($type:ident $of:ident $name:ident [$($label:literal),*] $help:literal;)+) => {
        pub const METRICS: &[Metric] = &[$(Metric {
            name: stringify!($name), r#type: Type::$type, of: Of::$of, labels: &[$($label),*], help: $help,
        }),+];
    };
}

metrics! {
    Counter Process noshi_jobs_total ["kind", "outcome"] "Jobs that came to rest, by outcome.";
    Counter Process noshi_problems_total ["code"] "Jobs that came to rest with a problem, by its code.";
    Counter Process noshi_steps_total ["kind"] "Steps settled.";
    Counter Process noshi_stale_settles_total ["kind"] "Settles refused because the lease was lost.";
    Counter Process noshi_rescues_total [] "Jobs taken back from dead workers.";
    Counter Process noshi_timeline_changes_total [] "Changes of the server's timeline that this process dealt with for the fleet.";
    Counter Process noshi_commits_lost_total [] "Of these, those after which acknowledged commits were, or may be, missing.";
    Counter Process noshi_stuck_jobs_total [] "Jobs given up in this process because their step did not end in time.";
    Counter Process noshi_batches_settled_total [] "Batches with nothing left to be done.";
    Counter Process noshi_batch_equation_broken_total [] "Looks at a batch whose rows did not add up.";
    Counter Process noshi_redrive_jobs_asked_total [] "Jobs that re-drives asked to go on.";
    Counter Process noshi_redrive_jobs_drifted_total [] "Jobs of re-drives that had moved on by themselves, and were left alone.";
    Counter Process noshi_redrive_canary_pauses_total [] "Re-drives paused because their first jobs stood still again.";
    Counter Process noshi_jobs_pruned_total [] "Jobs moved out because they were over long ago.";
    Counter Process noshi_schedule_fired_total [] "Due times of schedules that became jobs.";
    Counter Process noshi_schedule_skipped_total [] "Due times of schedules that were missed, and by their policy stay so.";
    Counter Process noshi_provider_requests_total ["provider", "op", "outcome"] "Calls to providers, by operation and outcome.";
    Counter Process noshi_lane_tokens_forfeited_total ["lane"] "Tokens given up because their slot came too late.";
    Histogram Process noshi_settle_group_size [] "Settles that travelled in one statement.";
    Histogram Process noshi_settle_seconds [] "How long a group of settles took to be durable.";
    Histogram Process noshi_provider_request_seconds ["provider"] "How long calls to providers took, answered or not.";
    Histogram Process noshi_job_duration_seconds ["kind"] "From a job's request to its end, without waits in lanes.";
    Gauge Process noshi_jobs_in_flight [] "Jobs that this process has in flight.";
    Gauge Process noshi_heartbeat_age_seconds [] "Since this process's last heartbeat was answered.";
    Gauge Process noshi_clock_ahead_seconds [] "How far the database's clock is ahead of this machine's.";
    Gauge Process noshi_process_kept_away ["lane", "why"] "1 while this process leaves the lane to others, because of its own clock, keys or trusted authorities.";
    Counter Process noshi_instants_drawn_back_total [] "Instants that were stored ahead of the database's clock, such as before it was set back, and that this process drew back.";
    Gauge Process noshi_pool_connections ["state"] "Connections of the work pool.";
    Counter Process noshi_connections_thrown_away_total ["why"] "Connections to the database given up: nothing came back (`silent`), or the server was not the one to write to (`unfit`).";
    Gauge Process noshi_build_info ["version"] "1.";
    Gauge Fleet noshi_metric_snapshot_age_seconds [] "Since the metric snapshot of the fleet were taken.";
    Gauge Fleet noshi_open_jobs ["kind", "status"] "Open jobs, by status.";
    Gauge Fleet noshi_parked_jobs ["code"] "Jobs that wait for a person and that nobody has acknowledged, by problem code.";
    Gauge Fleet noshi_parked_oldest_seconds ["code"] "How long the first of them has been waiting.";
    Gauge Fleet noshi_parked_acknowledged_jobs ["code"] "Jobs that wait for a person and that somebody has acknowledged: no alert counts them.";
    Gauge Fleet noshi_compensation_stuck_jobs [] "Jobs whose taking back has been failing for an hour.";
    Gauge Fleet noshi_in_doubt_jobs [] "Jobs with a call whose outcome is not known.";
    Gauge Fleet noshi_in_doubt_oldest_seconds [] "Age of the oldest doubt that is being inquired; those that wait for a person are told by their codes.";
    Gauge Fleet noshi_lane_open ["lane"] "1 if the lane takes new writes.";
    Gauge Fleet noshi_lane_shut ["lane", "why"] "1 if the lane is shut for this reason.";
    Gauge Fleet noshi_lane_tokens ["lane"] "Tokens handed out by the lane since it exists.";
    Gauge Fleet noshi_oldest_available_seconds ["lane"] "How long the next job of the lane has been waiting.";
    Gauge Fleet noshi_batches_awaiting_approval [] "Batches that wait for a second person.";
    Gauge Fleet noshi_batches_paused [] "Batches that are held back.";
    Gauge Fleet noshi_batches_open [] "Released batches with something left to be done.";
    Gauge Fleet noshi_redrives_open [] "Re-drives that were applied and are not done.";
    Gauge Fleet noshi_points_expiry_late_seconds [] "How long the first of the lots of points that are due has waited for its expiry to be booked.";
    Gauge Fleet noshi_points_due_lots [] "Lots of points that are due and not booked as expired, up to 10,000.";
    Gauge Fleet noshi_schedule_late_seconds [] "How long the schedule that has been due longest waits to be fired; paused ones do not count.";
    Gauge Fleet noshi_workers_alive [] "Workers heard from within 10 seconds.";
    Gauge Fleet noshi_leases_held [] "Jobs in workers' hands.";
    Gauge Fleet noshi_mail_sends_last_hour [] "Messages that the mail service reported as sent.";
    Gauge Fleet noshi_mail_bounces_last_hour [] "Bounces and complaints that it reported.";
    Gauge Fleet noshi_mail_events_unread_last_day [] "Events of the mail service of which some part was not understood; they are kept.";
    Gauge Fleet noshi_mail_events_foreign_last_day [] "Events of the mail service about messages of another installation; they settle nothing here.";
    Gauge Fleet noshi_database_oldest_snapshot_seconds [] "How long the oldest snapshot has been holding vacuum back.";
    Gauge Fleet noshi_database_dead_rows [] "Dead rows of the job table.";
    Gauge Fleet noshi_database_live_rows [] "Live rows of the job table.";
    Gauge Fleet noshi_database_connections_left [] "Connections that the server still takes.";
    Gauge Fleet noshi_database_prepared_transactions [] "Prepared transactions, which noshi never makes.";
    Gauge Fleet noshi_database_notification_queue [] "How full the server's queue of notifications is, from 0 to 1; whoever notifies fails where it is full.";
    Gauge Fleet noshi_database_standbys [] "Standbys that stream from this server.";
    Gauge Fleet noshi_restore_marked [] "1 while the database counts as restored to an earlier point.";
    Gauge Fleet noshi_audit_links [] "Acts in the audit's chain.";
}

/// Tells the recorder what each means.
pub fn describe() {
    for metric in METRICS {
        match metric.r#type {
            Type::Counter => metrics::describe_counter!(metric.name, metric.help),
            Type::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Type::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// The page for people.
pub fn page() -> String {
    let mut page = "# Metrics\n\nDrawn from `src/telemetry/metrics/catalogue.rs`; a test compares it with what a worker serves. Labels come from closed sets, and every series is there at\n\
        0 from the start. The metric snapshot of the fleet is taken by one process at a time, on a budget; each process shows the same value, so take the `max`,\n\
        not the `sum`. Metrics of processes add up. `process_*` are those that every Prometheus client has.\n\n\
        | metric | type | of | labels | meaning |\n|---|---|---|---|---|\n"
        .to_owned();
    for metric in METRICS {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (r#type, of) = (format!("{:?}", metric.r#type).to_lowercase(), format!("{:?}", metric.of).to_lowercase());
        page += &format!("| `{}` | {type} | {of} | {labels} | {} |\n", metric.name, metric.help);
    }
    page
}
