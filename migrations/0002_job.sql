set role noshi_owner;

create type noshi.job_status as enum
    ('scheduled', 'available', 'running', 'retryable', 'needs_operator', 'completed', 'failed', 'cancelled');

-- One row is the queue entry and the state machine.
--
-- A job whose `undo` is set is on its way back (compensating), whatever its place in the queue.
create table noshi.job (
    id           bigint generated always as identity primary key,
    kind         text not null,
    key          text not null check (key <> ''),
    fingerprint  bytea not null,
    args         jsonb not null,

    -- Where it stands. `at` is the state's name; `new` until an engine has read the arguments.
    at           text not null default 'new',
    state        jsonb,
    undo         jsonb,
    status       noshi.job_status not null default 'available',
    outcome      text,
    code         text,
    detail       text,

    -- Its place in the queue. The lane '' costs no tokens.
    lane         text not null default '',
    relief       boolean not null default false,
    priority     smallint not null default 1,
    rank         bigint not null default 0,
    run_at       timestamptz not null default clock_timestamp(),

    -- Who holds it: every write is fenced by id, lease, worker and step.
    lease        bigint not null default 0,
    worker       bigint,
    step         integer not null default 0,
    -- Consecutive claims that ended with the death of their worker.
    lost         smallint not null default 0,
    -- `retry` transitions in this state.
    retries      integer not null default 0,

    -- The state's effect is a write; a worker's death in it leaves doubt.
    writes       boolean not null default false,
    -- An earlier call's outcome is not known.
    unsure       boolean not null default false,
    -- The first call that this doubt may go back to.
    called_at    timestamptz,

    batch        bigint,
    row_no       integer not null default 0,
    created_at   timestamptz not null default clock_timestamp(),
    entered_at   timestamptz not null default clock_timestamp(),
    -- Time spent waiting in lanes; it does not count as age.
    waited       interval not null default '0',
    finished_at  timestamptz,

    constraint job_key unique (kind, key)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- A step that stays in its worker's hands changes no indexed column, so its update is heap-only.
create index job_available on noshi.job (lane, relief, priority, rank, id) where status = 'available' and lost = 0;
create index job_suspect on noshi.job (lane, id) where status = 'available' and lost > 0;
create index job_due on noshi.job (run_at) where status in ('scheduled', 'retryable');
create index job_held on noshi.job (worker) where status = 'running';
create index job_parked on noshi.job (code) where status = 'needs_operator';
create index job_unsure on noshi.job (called_at) where unsure;
create index job_batch on noshi.job (batch, row_no) where batch is not null;

-- The journal: every claim, transition, rescue and act, in the order in which it was committed for its job.
create table noshi.job_event (
    job          bigint not null,
    happened_at  timestamptz not null default clock_timestamp(),
    event        text not null,
    lease        bigint not null,
    step         integer not null,
    worker       bigint,
    was          text,
    became       text,
    outcome      text,
    code         text,
    detail       text
);
create index job_event_job on noshi.job_event (job, step);

create function noshi.journal_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the journal is append-only: % of % refused', lower(tg_op), tg_table_name using errcode = 'NS001';
end $$;
create trigger append_only before update or delete on noshi.job_event
    for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.job_event
    for each statement execute function noshi.journal_is_append_only();

grant select on noshi.job to noshi_worker, noshi_operator;
grant insert (kind, key, fingerprint, args, priority, batch, row_no) on noshi.job to noshi_worker;
grant update (at, state, undo, status, outcome, code, detail, lane, relief, rank, run_at, lease, worker, step, lost, retries,
              writes, unsure, called_at, entered_at, waited, finished_at) on noshi.job to noshi_worker;
grant select, insert on noshi.job_event to noshi_worker;
grant select on noshi.job_event to noshi_operator;

reset role;
