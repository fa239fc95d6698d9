set role noshi_owner;
set local check_function_bodies = off;

-- A lane is the rate budget of one external account, for the whole fleet. The lane '' is for steps without a call.
create table noshi.lane (
    name          text primary key,
    paused        boolean not null default false,
    -- Nobody calls until then: a 429 or Retry-After.
    closed_until  timestamptz,
    -- 'funds': new writes wait. 'credentials': nobody calls. Until an operator opens the lane.
    closed_code   text check (closed_code in ('funds', 'credentials', 'sender', 'tls_unknown_ca', 'tls_expired', 'tls_wrong_host', 'tls_old_version', 'tls_failed')),
    closed_at     timestamptz,
    -- Start-time fair queueing: the rank last served.
    vtime         bigint not null default 0,
    -- Tokens handed out; every `reserve`-th is offered to inquiries and unwinding first.
    tokens        bigint not null default 0,
    reserve       integer not null default 5 check (reserve > 0),
    -- Timeline and start of the server that last handed out tokens; after a change the budgets are pushed once.
    server        text not null default '',
    obeyed        bigint not null default 0,
    constraint times_are_sane check ((closed_until is null or closed_until between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (closed_at is null or closed_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')),
    -- Workers write these: no value of theirs may make the next claim or request fail. Claims keep to the same bounds.
    constraint counts_are_sane check (vtime between 0 and 1000000000000000 and tokens between 0 and 1000000000000000
        and octet_length(server) <= 200 and octet_length(name) <= 200)
) with (fillfactor = 50);

-- GCRA by the database's clock: `calls` per `per`, `burst` of them at once, `jitter` for the way to the receiver.
-- The emission interval (per + jitter) / (calls - burst + 1) keeps every window at or below `calls` at the receiver.
create table noshi.lane_budget (
    lane            text not null references noshi.lane (name),
    per             interval not null,
    calls           integer not null check (calls > 0),
    burst           integer not null default 1 check (burst between 1 and calls),
    jitter          interval not null default '50 milliseconds',
    tat             timestamptz not null default '-infinity',
    -- A lane's budget is what the settings declare, or less where an operator says so: `most` calls of it, until it is taken back.
    declared_calls  integer,
    declared_burst  integer,
    most            integer check (most > 0),
    late            interval not null default '0' check (late between '0' and '1 minute'),
    late_at         timestamptz not null default '-infinity',
    primary key (lane, per),
    -- The lane '' costs no tokens. None waits longer than anybody means, and none is reckoned in months: those compare as other than they last.
    constraint budgets_are_sane check (lane <> '' and date_part('year', per) = 0 and date_part('month', per) = 0 and date_part('year', jitter) = 0 and date_part('month', jitter) = 0
        and date_part('year', late) = 0 and date_part('month', late) = 0 and per between '1 millisecond' and '31 days' and jitter between '0' and '1 hour'),
    -- No token without time between, which nothing can be divided by, and no burst of centuries.
    constraint emission_is_sane check ((per + jitter) / (calls - burst + 1) >= interval '1 microsecond'
        and extract(epoch from per + jitter) * (burst - 1) / (calls - burst + 1) <= 100000000000),
    constraint times_are_sane check ((tat between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00' or tat = '-infinity')
        and (late_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00' or late_at = '-infinity'))
) with (fillfactor = 50);
comment on column noshi.lane_budget.late is 'How late the slowest claimer usually reaches its slots; it counts half after each minute in which nobody was that late.';

create table noshi.lane_order (
    -- No foreign key: its check would lock the lane's row.
    lane    text primary key,
    -- Orders so far. Those above `obeyed` of the lane are not carried over yet.
    no      bigint not null default 0,
    -- The last of them that opened the lane: whatever had closed it before it was carried over, a throttle, too, is void.
    opened  bigint not null default 0,
    paused  boolean not null default false
);

-- Fewer calls than the settings declare; null: as declared.
create table noshi.lane_limit (
    lane  text not null,
    per   interval not null,
    most  integer check (most > 0),
    primary key (lane, per)
);

-- Whoever orders comes after whoever ordered before. What the lane was, for the audit.
create function noshi.lane_steered(p_lane text) returns jsonb language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if not exists (select from lane where name = p_lane) then
        raise exception 'there is no lane %', quote_literal(p_lane) using errcode = 'NS404', hint = '`noshi lane list` shows them.';
    end if;
    insert into lane_order (lane) values (p_lane) on conflict do nothing;
    perform from lane_order where lane = p_lane for update;
    return (select jsonb_build_object('paused', l.paused, 'closed_until', l.closed_until, 'closed_code', l.closed_code) from lane_now l where l.name = p_lane);
end $$;

-- What is left of it now. A clock that jumped makes it nothing.
create function noshi.lateness(p_late interval, p_late_at timestamptz, p_now timestamptz) returns interval language sql immutable
as $$
    select case when p_late_at between p_now - interval '10 minutes' and p_now + interval '1 minute'
        then p_late / power(2, floor(greatest(0, extract(epoch from p_now - p_late_at)) / 60)) else '0' end
$$;

-- Carries orders over: of one lane, or of every one that nobody holds.
create function noshi.obey_orders(p_lane text default null) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare l record;
begin
    for l in select a.name from lane_order o join lane a on a.name = o.lane
             where o.no > a.obeyed and (p_lane is null or o.lane = p_lane) order by a.name loop
        -- As claims: the lane first, then its budgets.
        if p_lane is null then
            perform from lane where name = l.name for update skip locked;
            continue when not found;
        else
            perform from lane where name = l.name for update;
        end if;
        update lane a set paused = n.paused, closed_until = n.closed_until, closed_code = n.closed_code, closed_at = n.closed_at, obeyed = o.no
        from lane_order o, lane_now n where a.name = l.name and o.lane = a.name and n.name = a.name;
        update lane_budget b set most = m.most, calls = b.declared_calls, burst = b.declared_burst
        from lane_limit m where b.lane = l.name and m.lane = b.lane and m.per = b.per and b.most is distinct from m.most;
    end loop;
end $$;

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
    perform obey_orders(p_lane);
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
    update lane o set tokens = (o.tokens + 1) % 1000000000000000, server = here where o.name = p_lane;
    return query select false, greatest(0, extract(epoch from slot))::float8, coalesce(extract(epoch from patience), 3600)::float8;
end $$;

-- A lane as it was ordered to be, carried over or not.
create view noshi.lane_now as
    select l.name, coalesce(o.paused, l.paused) as paused,
           case when o.opened > l.obeyed then null else l.closed_until end as closed_until,
           case when o.opened > l.obeyed then null else l.closed_code end as closed_code,
           case when o.opened > l.obeyed then null else l.closed_at end as closed_at,
           l.vtime, l.tokens
    from noshi.lane l left join noshi.lane_order o on o.lane = l.name and o.no > l.obeyed;
comment on view noshi.lane_now is 'Each lane as it stands: what operators ordered, and what closed it since.';

insert into noshi.lane (name) values ('');

revoke all on function noshi.lane_steered(text), noshi.lateness(interval, timestamptz, timestamptz), noshi.obey_orders(text),
    noshi.spend_token(text, interval, interval) from public;
grant execute on function noshi.lateness(interval, timestamptz, timestamptz), noshi.obey_orders(text) to noshi_worker;
grant execute on function noshi.spend_token(text, interval, interval) to noshi_worker;
grant select on noshi.lane, noshi.lane_budget, noshi.lane_limit, noshi.lane_now, noshi.lane_order to noshi_worker, noshi_operator, noshi_api;
grant insert (name) on noshi.lane to noshi_worker;
grant update (closed_until, closed_code, closed_at, vtime, tokens, server) on noshi.lane to noshi_worker;
grant insert (lane, per, calls, burst, jitter) on noshi.lane_budget to noshi_worker;
grant update (calls, burst, jitter, tat, late, late_at) on noshi.lane_budget to noshi_worker;

reset role;
