set role noshi_owner;
set local check_function_bodies = off;

create type noshi.job_status as enum
    ('scheduled', 'available', 'running', 'retryable', 'needs_operator', 'completed', 'failed', 'cancelled');

-- W3C's traceparent as it is kept: of version 00, whatever newer version it came in (the first four parts are the same), and with the one
-- flag that has a meaning. Null where it is malformed: such a one is ignored, and nothing is ever refused for it.
create function noshi.traceparent(given text) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select format('00-%s-%s-0%s', m[2], m[3], case when m[4] ~ '[13579bdf]$' then 1 else 0 end)
    from regexp_match(given, '^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$') m
    where m[1] <> 'ff' and (m[1] <> '00' or m[5] is null) and m[2] <> repeat('0', 32) and m[3] <> repeat('0', 16)
$$;

-- One row is the queue entry and the state machine.
--
-- A job whose `undo` is set is on its way back (compensating), whatever its place in the queue.
create table noshi.job (
    id            bigint generated always as identity primary key,
    kind          text not null,
    key           text not null check (key <> ''),
    fingerprint   bytea not null,
    args          jsonb not null,

    -- Where it stands. `at` is the state's name; `new` until an engine has read the arguments.
    at            text not null default 'new',
    state         jsonb,
    undo          jsonb,
    status        noshi.job_status not null default 'available',
    outcome       text,
    code          text,
    detail        text,

    -- Its place in the queue. The lane '' costs no tokens.
    lane          text not null default '',
    reserved      boolean not null default false,
    priority      smallint not null default 1,
    rank          bigint not null default 0,
    run_at        timestamptz not null default clock_timestamp(),

    -- Who holds it: every write is fenced by id, lease, worker and step.
    lease         bigint not null default 0,
    worker        bigint,
    step          integer not null default 0,
    -- Consecutive claims that ended with the death of their worker.
    crash_count   smallint not null default 0,
    -- `retry` transitions in this state.
    retries       integer not null default 0,

    -- The state's effect is a write; a worker's death in it leaves doubt.
    writes        boolean not null default false,
    -- An earlier call's outcome is not known.
    in_doubt      boolean not null default false,
    -- The first call that this doubt may go back to.
    called_at     timestamptz,

    batch         bigint,
    row_no        integer not null default 0,
    created_at    timestamptz not null default clock_timestamp(),
    entered_at    timestamptz not null default clock_timestamp(),
    -- Time spent waiting in lanes; it does not count as age.
    waited        interval not null default '0',
    finished_at   timestamptz,
    -- Operators ask for an act; a worker, which knows the state tables, carries it out or refuses it. A job's own word for where it was at rest
    -- is kept meanwhile.
    requested_act text,
    status_before noshi.job_status,
    -- The trace that a job belongs to: its producer's, or that of the job which it follows. Null: its own, computed from its number.
    --
    -- A producer gives it as a setting of the transaction, so that every entry point takes it and no call has another parameter:
    --     select set_config('noshi.traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', true);
    -- It is no part of what a request is: the same id with the same arguments is the same job, and keeps the trace that it came with.
    traceparent   text default case when current_setting('noshi.traceparent', true) <> ''
        then noshi.traceparent(current_setting('noshi.traceparent', true)) end,
    -- The step at which somebody said that they saw the job parked. Every settle makes a step: what is parked anew is not acknowledged.
    acknowledged  integer,
    -- What was recorded under an id is told to whoever asked for it, and to operators: another producer learns that its own differs, and where.
    asked_by      text,
    constraint job_key unique (kind, key),
    constraint job_traceparent check (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$'),
    -- Workers write these: a value at which the next claim fails would stop its lane.
    constraint place_is_sane check (rank between 0 and 4000000000000000 and waited between interval '0' and interval '1000 years'),
    constraint times_are_sane check ((run_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00' or run_at = 'infinity')
        and (called_at is null or called_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and created_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and entered_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (finished_at is null or finished_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
-- A step that stays with its worker changes no indexed column, so its update is heap-only.
create index job_available on noshi.job (lane, reserved, priority, rank, id) where status = 'available' and crash_count = 0;
create index job_suspect on noshi.job (lane, id) where status = 'available' and crash_count > 0;
create index job_due on noshi.job (run_at) where status in ('scheduled', 'retryable');
create index job_held on noshi.job (worker) where status = 'running';
create index job_parked on noshi.job (code) where status = 'needs_operator';
create index job_in_doubt on noshi.job (called_at) where in_doubt;
create index job_batch on noshi.job (batch, row_no) where batch is not null;
-- Which jobs of a public id are at work: a store is created by one job at a time.
create index job_store on noshi.job ((args ->> 'public_id')) where kind = 'store_creation' and status not in ('completed', 'failed', 'cancelled');
-- Whom a call centre asks about: a user's gifts, a store.
create index job_of_user on noshi.job ((args ->> 'user')) where kind = 'gift_issuance';
create index job_of_store on noshi.job ((args ->> 'public_id')) where kind = 'store_creation';
-- In the order in which jobs were over. An entry is made once for each job, by the update that ends it, which is in other indexes already.
create index job_finished on noshi.job (finished_at, id) where finished_at is not null;
-- What people look for among ten million jobs that went well: the few that did not. The newest of a status, or of a code, are the end of
-- an index. A job that goes well is never in either, so that these cost nothing where jobs are many.
--
-- On a table of this size each takes a quarter of a minute, in which workers wait. To have none wait, make both before the migration with
-- `create index concurrently`, under these names.
create index job_stopped on noshi.job (status, id) where status in ('needs_operator', 'failed', 'cancelled');
create index job_code on noshi.job (code, id) where code is not null;
-- Whom a call centre asks about: a user's points too.
create index job_of_points_user on noshi.job ((args ->> 'user')) where kind in ('point_grant', 'point_exchange', 'point_withdrawal');
-- Whom a caller asks about: what brought points.
create index job_of_points_source on noshi.job ((args ->> 'source')) where kind = 'point_grant';

-- The journal: every claim, transition, rescue and act, in the order in which it was committed for its job.
create table noshi.job_event (
    job          bigint not null,
    id           bigint generated always as identity,
    happened_at  timestamptz not null default clock_timestamp(),
    event        text not null,
    lease        bigint not null,
    step         integer not null,
    worker       bigint,
    was          text,
    became       text,
    outcome      text,
    code         text,
    detail       text,
    primary key (job, step, id),
    constraint times_are_sane check (happened_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

create trigger no_truncate before truncate on noshi.job_event
    for each statement execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.job for each statement execute function noshi.journal_is_append_only();

revoke all on function noshi.traceparent(text) from public;
grant execute on function noshi.traceparent(text) to noshi_worker, noshi_producer, noshi_operator, noshi_api;
grant select on noshi.job, noshi.job_event to noshi_worker, noshi_operator, noshi_api;
grant insert (kind, key, fingerprint, args, priority, rank, batch, row_no, traceparent) on noshi.job to noshi_worker;
grant update (at, state, undo, status, outcome, code, detail, lane, reserved, rank, run_at, lease, worker, step, crash_count, retries, writes,
    in_doubt, called_at, entered_at, waited, finished_at, requested_act, status_before) on noshi.job to noshi_worker;
grant insert (job, event, lease, step, worker, was, became, outcome, code, detail) on noshi.job_event to noshi_worker;

reset role;
