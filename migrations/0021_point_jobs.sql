set role noshi_owner;

-- What the jobs of points do to the ledger. A worker names the job; what is booked, and for whom, is read from the job's own arguments,
-- so that nobody who may run jobs can book what no job asks for. Each is booked once however often it is called.
create function noshi.running_job(p_job bigint, p_kind text) returns jsonb language sql
set search_path = noshi, pg_temp
as $$
    -- Held by the transaction: the job cannot end beside it. Null where it has ended: whoever asks then has lost its lease, and its settle
    -- will be told so.
    select args from job where id = $1 and kind = $2 and status = 'running' for share
$$;

-- A refusal's code, which is the name of a page of the runbook.
create function noshi.point_refusal(p_outcome text) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select case $1 when 'insufficient' then 'points_insufficient' when 'withdrawn' then 'user_withdrawn' when 'conflict' then 'points_conflict' end
$$;

create function noshi.grant_points(p_job bigint) returns table (entry bigint, code text, detail text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_grant');
    now_at timestamptz := clock_timestamp();
begin
    if a is null then
        return;
    end if;
    if not exists (select from pg_timezone_names z where z.name = a ->> 'zone') and coalesce(a ->> 'zone', 'Asia/Tokyo') <> 'Asia/Tokyo' then
        return query select null::bigint, 'points_conflict', format('there is no time zone %s', a ->> 'zone');
        return;
    end if;
    return query select b.entry, point_refusal(b.outcome), b.detail from book_grant(
        now_at, format('acquire:%s:%s', a ->> 'benefit', a ->> 'source'), a ->> 'user', (a ->> 'points')::bigint, a ->> 'benefit', a ->> 'source',
        point_expiry_of(now_at, (a ->> 'valid_days')::integer, coalesce(a ->> 'zone', 'Asia/Tokyo')), a ->> 'area', p_job) b;
end $$;

create function noshi.use_points(p_job bigint) returns table (entry bigint, code text, detail text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare a jsonb := running_job(p_job, 'point_exchange');
begin
    if a is null then
        return;
    end if;
    -- The gift is ordered in this very transaction: one that is there before any points were used is not this exchange's.
    if exists (select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || (a ->> 'exchange'))
       and not exists (select from point_entry e where e.key = 'use:' || (a ->> 'exchange')) then
        return query select null::bigint, 'points_conflict', 'a gift of this exchange is there, and no points were used for it';
        return;
    end if;
    return query select u.entry, point_refusal(u.outcome), u.detail
        from book_use(clock_timestamp(), 'use:' || (a ->> 'exchange'), a ->> 'user', (a ->> 'points')::bigint, a ->> 'area', p_job) u;
end $$;

-- Null: the exchange's gift did not end without being issued, or no points were used for it.
create function noshi.return_points(p_job bigint) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_reversal');
    returned record;
begin
    -- The gift asked for this in the commit that ended it, and a gift that ended so never begins again.
    if not exists (select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || (a ->> 'exchange') and g.status = 'failed') then
        return null;
    end if;
    select * into strict returned from book_reversal(clock_timestamp(), 'reverse:' || (a ->> 'exchange'), 'use:' || (a ->> 'exchange'),
        make_interval(days => coalesce((a ->> 'grace_days')::integer, 0)), p_job);
    return case when returned.outcome in ('posted', 'replayed') then returned.entry end;
end $$;

create function noshi.withdraw_points(p_job bigint) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_withdrawal');
    booked record;
begin
    if a is null then
        return null;
    end if;
    select * into strict booked from book_withdrawal(clock_timestamp(), 'withdraw:' || (a ->> 'user'), a ->> 'user', p_job);
    return booked.entry;
end $$;

-- One page of due lots. No row: `due` is no instant.
create function noshi.expire_points(p_job bigint, p_lots integer) returns table (lots integer, points bigint, more boolean) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_expiry');
    due timestamptz;
begin
    if a is null then
        return query select 0, 0::bigint, true;
        return;
    end if;
    begin
        due := (a ->> 'due')::timestamptz;
    exception when datetime_field_overflow or invalid_datetime_format or invalid_parameter_value then
        return;
    end;
    return query select e.lots, e.points, e.more from book_expiries(due, p_lots, p_job) e;
end $$;

do $$
declare f text;
begin
    for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'noshi'::regnamespace
        and p.proname in ('running_job', 'point_refusal', 'grant_points', 'use_points', 'return_points', 'withdraw_points', 'expire_points') loop
        execute format('revoke all on function %s from public', f);
    end loop;
    foreach f in array array['grant_points(bigint)', 'use_points(bigint)', 'return_points(bigint)', 'withdraw_points(bigint)', 'expire_points(bigint, integer)'] loop
        execute format('grant execute on function noshi.%s to noshi_worker', f);
    end loop;
end $$;

reset role;
