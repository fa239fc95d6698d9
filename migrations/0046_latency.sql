-- Latency is normal: whoever usually reaches the slots of its tokens later than their lane forgives has the fleet's calls spaced for that.

set role noshi_owner;

alter table noshi.lane_budget
    add column late interval not null default '0' check (late between '0' and '1 minute'),
    add column late_at timestamptz not null default '-infinity';
comment on column noshi.lane_budget.late is 'How late the slowest claimer usually reaches its slots; it counts half after each minute in which nobody was that late.';
grant update (late, late_at) on noshi.lane_budget to noshi_worker;

-- What is left of it now. A clock that jumped makes it nothing.
create function noshi.lateness(p_late interval, p_late_at timestamptz, p_now timestamptz) returns interval language sql immutable
as $$
    select case when p_late_at between p_now - interval '10 minutes' and p_now + interval '1 minute'
        then p_late / power(2, floor(greatest(0, extract(epoch from p_now - p_late_at)) / 60)) else '0' end
$$;
revoke all on function noshi.lateness(interval, timestamptz, timestamptz) from public;
grant execute on function noshi.lateness(interval, timestamptz, timestamptz) to noshi_worker;

-- What closes a lane until an operator opens it. 'funds': new writes wait. Anything else: nobody calls.
alter table noshi.lane drop constraint lane_closed_code_check;
alter table noshi.lane add constraint lane_closed_code_check
    check (closed_code in ('funds', 'credentials', 'sender', 'tls_unknown_ca', 'tls_expired', 'tls_wrong_host', 'tls_old_version', 'tls_failed'));

-- A token of every budget of a lane, for one call that no job makes. `closed`: not now. `wait`: seconds until the call may be made, or
-- until it is worth asking again. Spends as claims do, and nothing where the slot is further away than `p_within`. `p_late`: how late the
-- caller usually reaches its slots.
create function noshi.spend_token(p_lane text, p_within interval, p_late interval) returns table (closed boolean, wait float8, jitter float8)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    l lane;
    clock timestamptz;
    here text := server();
    slot interval;
    patience interval;
begin
    perform must('reveal');
    select * into l from lane o where o.name = p_lane for update;
    clock := clock_timestamp();
    if not found or l.paused or coalesce(l.closed_code, 'funds') <> 'funds' or l.closed_until > clock then
        return query select true, greatest(1, coalesce(extract(epoch from l.closed_until - clock), 60))::float8, 0::float8;
        return;
    end if;
    with budget as materialized (
        select b.per, e.late, f.jitter, i.emission, p.base, p.base - (b.burst - 1) * i.emission - clock as first
        from lane_budget b
        cross join lateral (select greatest(least(p_late, '1 minute'), lateness(b.late, b.late_at, clock)) as late) e
        cross join lateral (select greatest(b.jitter, e.late) as jitter) f
        cross join lateral (select (b.per + f.jitter) / (b.calls - b.burst + 1) as emission) i
        cross join lateral (select greatest(b.tat, clock, case when l.server not in ('', here)
            then clock + p_within + least(b.per, '1 second') end) as base) p
        where b.lane = p_lane
        for update of b),
    far as (select coalesce(max(first), '0') as first, min(b.jitter) as jitter from budget b),
    spent as (
        update lane_budget t set tat = b.base + b.emission,
            late = case when p_late > t.jitter and p_late >= b.late then b.late else t.late end,
            late_at = case when p_late > t.jitter and p_late >= b.late then clock else t.late_at end
        from budget b, far
        where t.lane = p_lane and t.per = b.per and far.first <= p_within)
    select first, far.jitter into slot, patience from far;
    if slot > p_within then
        return query select true, greatest(1, extract(epoch from slot))::float8, 0::float8;
        return;
    end if;
    update lane o set tokens = o.tokens + 1, server = here where o.name = p_lane;
    return query select false, greatest(0, extract(epoch from slot))::float8, coalesce(extract(epoch from patience), 3600)::float8;
end $$;
revoke all on function noshi.spend_token(text, interval, interval) from public;
grant execute on function noshi.spend_token(text, interval, interval) to noshi_api;

-- As the previous version asks.
create or replace function noshi.spend_token(p_lane text, p_within interval) returns table (closed boolean, wait float8, jitter float8)
language sql security definer
set search_path = noshi, pg_temp
as $$ select * from spend_token(p_lane, p_within, '0') $$;

reset role;
