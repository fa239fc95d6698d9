set role noshi_owner;

-- How late expiries are booked: the age of the oldest lot that is due and open, and how many are, up to 10,000. By the index of due lots.
create function noshi.point_figures(out expiry_late_seconds double precision, out due_lots bigint) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select coalesce(extract(epoch from clock_timestamp() - (select min(l.expires_at) from point_lot l where l.open and l.expires_at <= clock_timestamp())), 0)::double precision,
           (select count(*) from (select from point_lot l where l.open and l.expires_at <= clock_timestamp() limit 10000) d)
$$;
revoke all on function noshi.point_figures() from public;
grant execute on function noshi.point_figures() to noshi_worker, noshi_operator;

reset role;
