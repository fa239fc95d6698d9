set role noshi_owner;

-- One row a process, new at every start. Declared dead is final.
create table noshi.worker (
    id          bigint generated always as identity primary key,
    name        text not null,
    started_at  timestamptz not null default clock_timestamp(),
    seen_at     timestamptz not null default clock_timestamp(),
    stopped_at  timestamptz,
    dead_at     timestamptz
) with (fillfactor = 50);
create index worker_alive on noshi.worker (seen_at) where dead_at is null and stopped_at is null;

-- The server as the fleet last saw it. No lease expires within one lease time after `seen_at`, and a change of timeline
-- puts every unfinished write in doubt.
create table noshi.server_seen (
    one       boolean primary key default true check (one),
    server    text not null,
    timeline  text not null,
    seen_at   timestamptz not null default clock_timestamp()
);
insert into noshi.server_seen (server, timeline) values (noshi.server(), split_part(noshi.server(), ' ', 1));

grant select, insert, update on noshi.worker to noshi_worker;
grant select, update on noshi.server_seen to noshi_worker;
grant select on noshi.worker, noshi.server_seen to noshi_operator;

reset role;
