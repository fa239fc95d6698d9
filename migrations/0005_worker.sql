set role noshi_owner;
set local check_function_bodies = off;

-- The timeline that the server writes; 00000000 where the host lets nobody read it, as some do. What then is missing, `noshi doctor` says.
create function noshi.timeline() returns text language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
declare written text := '00000000';
begin
    begin
        written := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
    exception when feature_not_supported or object_not_in_prerequisite_state or insufficient_privilege or undefined_function then null;
    end;
    return written || coalesce((select '.' || s.era from server_seen s where s.era > 0), '');
end $$;

-- One row a process, new at every start. Declared dead is final.
create table noshi.worker (
    id           bigint generated always as identity primary key,
    name         text not null,
    started_at   timestamptz not null default clock_timestamp(),
    seen_at      timestamptz not null default clock_timestamp(),
    stopped_at   timestamptz,
    dead_at      timestamptz,
    -- The last timeline for which it testified, or on which it began.
    timeline     text not null default noshi.timeline(),
    -- Its heartbeats: the newest that was answered must still be here after a failover.
    beats        bigint not null default 0,
    -- Two processes never share an identity, not even where the registration of one was lost and its number was given again.
    token        uuid not null default gen_random_uuid(),
    -- How far the database's clock was ahead of the worker's, in seconds, at its last heartbeat.
    clock_ahead  float8,
    -- The ids of the keys with which a worker opens what is sealed: a rotation waits until each of them has the new one. None: it has no key
    -- file. Null: it is of a version that does not say.
    keys         text[],
    -- A worker is whoever registered it: another login cannot claim in its name.
    login        name default session_user,
    constraint texts_are_short check (octet_length(name) <= 1000 and octet_length(array_to_string(keys, ' ')) <= 10000),
    constraint times_are_sane check (started_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and seen_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (stopped_at is null or stopped_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (dead_at is null or dead_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
) with (fillfactor = 50);
create index worker_alive on noshi.worker (seen_at) where dead_at is null and stopped_at is null;

-- The server as the fleet last saw it. No lease expires within one lease time after `seen_at`, and a change of timeline
-- puts every unfinished write in doubt.
create table noshi.server_seen (
    one          boolean primary key default true check (one),
    server       text not null,
    timeline     text not null,
    seen_at      timestamptz not null default clock_timestamp(),
    -- The point to which the database was last restored, until somebody says that what happened after it is known again. Until then
    -- no gift is bought before its partner was asked, or answers the same id with the same gift: calls made after that point left no trace here.
    restored_to  timestamptz,
    -- Whether commits waited for a standby when the fleet last looked.
    synchronous  boolean not null default false,
    -- First calls since a loss that may be second ones, and the moment of the loss: so many new trades are asked for before they are bought.
    owed         integer not null default 0 check (owed >= 0),
    lost_since   timestamptz,
    -- The latest that the fleet has seen of the database's clock: where the clock is before it, it has gone back.
    clock_at     timestamptz not null default '-infinity',
    -- The same, at the last time that a worker trusted it; -infinity: no worker has said so yet.
    trusted_at   timestamptz not null default '-infinity',
    -- The clock went back by so much, and jobs that wait beyond this moment are still to be looked at; null: none.
    back_by      interval,
    back_from    timestamptz,
    -- A database may go back although its server's timeline stays: an old copy of its files is put in its place. Nothing of the server tells of that.
    -- A worker that lived before knows it by what was acknowledged to it, of which the newest is gone: it says so, and from then on the timeline is another,
    -- with which the fleet deals as with any.
    era          bigint not null default 0,
    -- The start of the server of which that was said last. A copy is put in place beneath a server that is down: of each start it is said once.
    era_of       text,
    constraint times_are_sane check (seen_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (restored_to is null or restored_to between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (lost_since is null or lost_since between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (clock_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00' or clock_at = '-infinity')
        and (trusted_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00' or trusted_at = '-infinity')
        and (back_from is null or back_from between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);

-- The server as one word: a new one after a restart, a failover or a restore.
create function noshi.server() returns text language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select timeline() || ' ' || extract(epoch from pg_postmaster_start_time())
$$;

insert into noshi.server_seen (server, timeline) values (noshi.server(), split_part(noshi.server(), ' ', 1));

-- Workers that have nothing to do, and ask to be rung. NOTIFY takes one lock for all who commit in this database: whoever is at work looks by
-- itself, and producers commit beside each other. What a crash of the server takes from here, workers write again.
create unlogged table noshi.bell (
    worker  bigint primary key,
    until   timestamptz not null,
    constraint times_are_sane check (until between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- Whether this worker is to be rung; for ten seconds, and again before they are over. Its own login says so: another would have it polled instead.
create function noshi.ring_for(p_worker bigint, p_rings boolean) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if not exists (select from worker w where w.id = p_worker and w.login = session_user) then
        raise exception 'worker % is of another login, or there is none', p_worker using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    if p_rings then
        insert into bell (worker, until) values (p_worker, clock_timestamp() + interval '10 seconds')
        on conflict (worker) do update set until = excluded.until;
    else
        delete from bell b where b.worker = p_worker or b.until < clock_timestamp() - interval '1 minute';
    end if;
end $$;

revoke all on function noshi.ring_for(bigint, boolean), noshi.server(), noshi.timeline() from public;
grant execute on function noshi.ring_for(bigint, boolean) to noshi_worker;
grant execute on function noshi.server() to noshi_worker, noshi_operator, noshi_api;
grant execute on function noshi.timeline() to noshi_worker, noshi_operator;
grant select on noshi.server_seen to noshi_worker, noshi_operator;
grant select on noshi.worker to noshi_worker, noshi_operator, noshi_api;
grant insert (name) on noshi.worker to noshi_worker;
grant update (seen_at, stopped_at, dead_at, beats, keys) on noshi.worker to noshi_worker;

reset role;
