set role noshi_owner;

-- Figures that only the database knows, taken by one process of the fleet at a time and on a budget; every process shows them from
-- here, so that what a scrape costs does not grow with the backlog.
create table noshi.figure (
    name    text not null,
    labels  jsonb not null default '{}',
    value   float8 not null,
    primary key (name, labels)
) with (fillfactor = 50);

-- Whose turn it is: at the earliest 10 s after the last, and at least twenty times as long as that took.
create table noshi.figures_taken (
    one        boolean primary key default true check (one),
    next_at    timestamptz not null default clock_timestamp(),
    taken_at   timestamptz,
    took       interval,
    -- The oldest snapshot that anything held, and since when it has been seen: its session's start is for superusers.
    oldest     xid8,
    oldest_at  timestamptz
);
insert into noshi.figures_taken default values;

grant select, insert, update on noshi.figure to noshi_worker;
grant select, update on noshi.figures_taken to noshi_worker;
grant select (applied_at, done_at, cancelled_at) on noshi.redrive to noshi_worker;
grant select (seq) on noshi.audit_head to noshi_worker;
grant select on noshi.figure, noshi.figures_taken to noshi_operator, noshi_api;

-- What became of messages lately.
create index email_event_received on noshi.email_event (received_at);

reset role;
