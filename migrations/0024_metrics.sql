set role noshi_owner;
set local check_function_bodies = off;

-- The metric snapshot: what only the database knows, taken by one process of the fleet at a time and on a budget; every process shows them from
-- here, so that what a scrape costs does not grow with the backlog.
create table noshi.metric_snapshot (
    name    text not null,
    labels  jsonb not null default '{}',
    value   float8 not null,
    primary key (name, labels),
    constraint texts_are_short check (octet_length(name) <= 200 and octet_length(labels::text) <= 2000)
) with (fillfactor = 50);

-- Whose turn it is: at the earliest 10 s after the last, and at least twenty times as long as that took.
create table noshi.metric_snapshot_taken (
    one        boolean primary key default true check (one),
    next_at    timestamptz not null default clock_timestamp(),
    taken_at   timestamptz,
    took       interval,
    -- The oldest snapshot that anything held, and since when it has been seen: its session's start is for superusers.
    oldest     xid8,
    oldest_at  timestamptz,
    constraint times_are_sane check (next_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (taken_at is null or taken_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (oldest_at is null or oldest_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);

-- How late expiries are booked: the age of the oldest lot that is due and open, and how many are, up to 10,000. By the index of due lots.
create function noshi.point_metrics(out expiry_late_seconds double precision, out due_lots bigint) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select coalesce(extract(epoch from clock_timestamp() - (select min(l.expires_at) from point_lot l where l.open and l.expires_at <= clock_timestamp())), 0)::double precision,
           (select count(*) from (select from point_lot l where l.open and l.expires_at <= clock_timestamp() limit 10000) d)
$$;

insert into noshi.metric_snapshot_taken default values;

revoke all on function noshi.point_metrics() from public;
grant execute on function noshi.point_metrics() to noshi_worker, noshi_operator;
grant insert, select, update on noshi.metric_snapshot to noshi_worker;
grant select on noshi.metric_snapshot, noshi.metric_snapshot_taken to noshi_operator, noshi_api;
grant select, update on noshi.metric_snapshot_taken to noshi_worker;

reset role;
