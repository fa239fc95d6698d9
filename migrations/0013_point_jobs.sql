set role noshi_owner;
set local check_function_bodies = off;

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

-- The list of all zones is read from hundreds of files each time, 40 ms a grant; one zone is one file, read once by a session.
create function noshi.grant_points(p_job bigint) returns table (entry bigint, code text, detail text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_grant');
    now_at timestamptz := clock_timestamp();
    zone constant text := coalesce(a ->> 'zone', 'Asia/Tokyo');
    expires_at timestamptz;
begin
    if a is null then
        return;
    end if;
    -- As a gift is bought: not where a file grants it otherwise.
    if granted_otherwise(p_job) is not null then
        return query select null::bigint, 'points_conflict', 'a batch grants these points otherwise';
        return;
    end if;
    begin
        -- A name, and not a rule or an abbreviation, whose signs and seasons mean something else than they seem to.
        if zone = 'UTC' or zone ~ '^[A-Za-z_]+(/[A-Za-z0-9_+-]+)+$' then
            expires_at := point_expiry_of(now_at, (a ->> 'valid_days')::integer, zone);
        end if;
    exception when invalid_parameter_value then
    end;
    if expires_at is null then
        return query select null::bigint, 'points_conflict', format('there is no time zone %s', zone);
        return;
    end if;
    return query select b.entry, point_refusal(b.outcome), b.detail from book_grant(
        now_at, format('acquire:%s:%s', a ->> 'benefit', a ->> 'source'), a ->> 'user', (a ->> 'points')::bigint, a ->> 'benefit', a ->> 'source',
        expires_at, a ->> 'area', p_job) b;
end $$;

-- A refusal's code, which is the name of a page of the runbook.
create function noshi.point_refusal(p_outcome text) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select case $1 when 'insufficient' then 'points_insufficient' when 'withdrawn' then 'user_withdrawn' when 'conflict' then 'points_conflict' end
$$;

-- The gift may be moved out before its points come back: the reversal may have waited for a person.
create function noshi.return_points(p_job bigint) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_reversal');
    gift constant text := 'exchange/' || (a ->> 'exchange');
    returned record;
begin
    -- The gift asked for this in the commit that ended it, and a gift that ended so never begins again.
    if (not exists (select from job g where g.kind = 'gift_issuance' and g.key = gift and g.status = 'failed')
        and not exists (select from tombstone g where g.kind = 'gift_issuance' and g.key = gift and g.status = 'failed')) or live_gift(gift) is not null then
        return null;
    end if;
    select * into strict returned from book_reversal(clock_timestamp(), 'reverse:' || (a ->> 'exchange'), 'use:' || (a ->> 'exchange'),
        make_interval(days => coalesce((a ->> 'grace_days')::integer, 0)), p_job);
    return case when returned.outcome in ('posted', 'replayed') then returned.entry end;
end $$;

-- What the jobs of points do to the ledger. A worker names the job; what is booked, and for whom, is read from the job's own arguments,
-- so that nobody who may run jobs can book what no job asks for. Each is booked once however often it is called.
create function noshi.running_job(p_job bigint, p_kind text) returns jsonb language sql
set search_path = noshi, pg_temp
as $$
    -- Held by the transaction: the job cannot end beside it. Null where it has ended: whoever asks then has lost its lease, and its settle
    -- will be told so.
    select args from job where id = $1 and kind = $2 and status = 'running' for share
$$;

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

-- What the ledger alone cannot know: an exchange whose gift came to nothing has its points back, or a job that is still to see to it.
create function noshi.verify_exchanges() returns table (equation text, subject text, fault text)
language sql stable security definer
set search_path = noshi, pg_temp
as $$
    with x as (select e.id as entry, substr(e.key, 5) as id from point_entry e where e.kind = 'use' and e.job is not null and e.key like 'use:%')
    select 'no gift, so the points are back', format('exchange %s', x.id), 'its gift failed, and nothing returns its points'
    from x
    where exists (
            select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || x.id and g.status = 'failed'
            union all
            select from tombstone g where g.kind = 'gift_issuance' and g.key = 'exchange/' || x.id and g.status = 'failed')
      and live_gift('exchange/' || x.id) is null
      and not exists (select from point_entry r where r.reverses = x.entry)
      and not exists (select from job r where r.kind = 'point_reversal' and r.key = x.id and r.status not in ('completed', 'failed', 'cancelled'))
    union all
    select 'the points are back, so there is no gift', format('exchange %s', x.id), format('its points are back, and its gift %s was issued and is not void', live_gift('exchange/' || x.id))
    from x where exists (select from point_entry r where r.reverses = x.entry) and live_gift('exchange/' || x.id) is not null
    union all
    select 'one live gift a grant', format('grant %s', l.grant_id), format('%s of its gifts are live', l.live)
    from (select t.grant_id, count(*) as live from gift_trade t join gift_outcome i on i.trade = t.id and i.outcome = 'issued'
          where t.generation > 0 or exists (select from gift_trade o where o.grant_id = t.grant_id and o.generation > t.generation)
          group by t.grant_id
          having count(*) filter (where not exists (select from gift_outcome v where v.trade = t.id and v.outcome = 'void')) > 1) l
$$;

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

revoke all on function noshi.expire_points(bigint, integer), noshi.grant_points(bigint), noshi.point_refusal(text),
    noshi.return_points(bigint), noshi.running_job(bigint, text), noshi.use_points(bigint), noshi.verify_exchanges(),
    noshi.withdraw_points(bigint) from public;
grant execute on function noshi.expire_points(bigint, integer), noshi.grant_points(bigint), noshi.return_points(bigint),
    noshi.use_points(bigint), noshi.withdraw_points(bigint) to noshi_worker;
grant execute on function noshi.verify_exchanges() to noshi_operator;

reset role;
