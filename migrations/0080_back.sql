set role noshi_owner;

-- A database may go back although its server's timeline stays: an old copy of its files is put in its place. Nothing of the server tells of that.
-- A worker that lived before knows it by what was acknowledged to it, of which the newest is gone: it says so, and from then on the timeline is another,
-- with which the fleet deals as with any.
alter table noshi.server_seen add column era bigint not null default 0;
create or replace function noshi.timeline() returns text language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || coalesce((select '.' || s.era from server_seen s where s.era > 0), '')
$$;
create or replace function noshi.server() returns text language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select timeline() || ' ' || extract(epoch from pg_postmaster_start_time())
$$;

-- Says that this database is older than what was acknowledged to the caller. The server from then on.
create function noshi.went_back() returns text language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare s server_seen;
begin
    select * into s from server_seen for update;
    -- Who comes second finds the change, and testifies for it.
    if s.timeline = timeline() then
        update server_seen set era = greatest(s.era + 1, floor(extract(epoch from clock_timestamp()))::bigint);
        perform see_server();
    end if;
    return server();
end $$;
revoke all on function noshi.went_back(), noshi.server() from public;
grant execute on function noshi.server() to noshi_worker, noshi_operator, noshi_api;
grant execute on function noshi.went_back() to noshi_worker;

reset role;
