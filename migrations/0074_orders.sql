set role noshi_owner;

-- What operators order of a lane is not what claims lock. An order is a row of its own, which claims read and never wait for; workers carry it over
-- to the lane's row, which is theirs alone. A transaction that orders and then sleeps holds up other orders for that lane, and no call.

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
create table noshi.lane_most (
    lane  text not null,
    per   interval not null,
    most  integer check (most > 0),
    primary key (lane, per)
);
insert into noshi.lane_most select lane, per, most from noshi.lane_budget where most is not null;
alter table noshi.lane add column obeyed bigint not null default 0;

-- A lane as it was ordered to be, carried over or not.
create view noshi.lane_now as
    select l.name, coalesce(o.paused, l.paused) as paused,
           case when o.opened > l.obeyed then null else l.closed_until end as closed_until,
           case when o.opened > l.obeyed then null else l.closed_code end as closed_code,
           case when o.opened > l.obeyed then null else l.closed_at end as closed_at,
           l.vtime, l.tokens
    from noshi.lane l left join noshi.lane_order o on o.lane = l.name and o.no > l.obeyed;
comment on view noshi.lane_now is 'Each lane as it stands: what operators ordered, and what closed it since.';
grant select on noshi.lane_order, noshi.lane_most, noshi.lane_now to noshi_worker, noshi_operator, noshi_api;

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
        from lane_most m where b.lane = l.name and m.lane = b.lane and m.per = b.per and b.most is distinct from m.most;
    end loop;
end $$;

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

create or replace function noshi.pause_lane(p_lane text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare was jsonb;
begin
    perform must('operate');
    perform say_why(p_reason);
    was := lane_steered(p_lane);
    update lane_order set no = no + 1, paused = true where lane = p_lane;
    perform record('lane pause', 'lane/' || p_lane, p_reason, was, jsonb_build_object('paused', true));
end $$;

create or replace function noshi.resume_lane(p_lane text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare was jsonb;
begin
    perform must('operate');
    perform say_why(p_reason);
    was := lane_steered(p_lane);
    update lane_order set no = no + 1, opened = no + 1, paused = false where lane = p_lane;
    perform record('lane resume', 'lane/' || p_lane, p_reason, was, jsonb_build_object('paused', false));
    perform pg_notify('noshi', '');
end $$;

create or replace function noshi.set_lane(p_lane text, p_per interval, p_most integer, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    was jsonb;
    declared integer;
    most_before integer;
begin
    perform must('operate');
    perform say_why(p_reason);
    was := lane_steered(p_lane);
    select b.declared_calls into declared from lane_budget b where b.lane = p_lane and b.per = p_per;
    if not found then
        raise exception 'the lane % has no budget per %', quote_literal(p_lane), p_per using errcode = 'NS404';
    end if;
    if p_most > declared then
        raise exception 'the settings declare % calls per % for %; more is for them to say', declared, p_per, quote_literal(p_lane) using errcode = 'NS403';
    end if;
    if p_most < 1 then
        raise exception 'a budget is one call or more' using errcode = 'NS400', hint = 'To stop a lane, pause it.';
    end if;
    select m.most into most_before from lane_most m where m.lane = p_lane and m.per = p_per;
    insert into lane_most values (p_lane, p_per, p_most) on conflict (lane, per) do update set most = excluded.most;
    update lane_order set no = no + 1, paused = (was ->> 'paused')::boolean where lane = p_lane;
    perform record('lane set', 'lane/' || p_lane, p_reason, jsonb_build_object('per', p_per, 'calls', least(declared, most_before)),
        jsonb_build_object('per', p_per, 'calls', coalesce(p_most, declared)));
end $$;
drop function noshi.lane_locked(text), noshi.lane_facts(noshi.lane);

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        -- At every heartbeat, of workers of earlier versions, too: these know nothing of orders.
        ('see_clock', 'end if;
end', 'end if;
    perform obey_orders();
end'),
        ('spend_token', 'select * into l from lane o where', 'perform obey_orders(p_lane);
    select * into l from lane o where'),
        ('throttle_lane', 'update lane set', 'perform obey_orders(p_lane);
    update lane set')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name
            and (p.proname <> 'spend_token' or p.pronargs = 3);
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

revoke all on function noshi.obey_orders(text), noshi.lane_steered(text) from public;
grant execute on function noshi.obey_orders(text) to noshi_worker;

reset role;
