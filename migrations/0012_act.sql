set role noshi_owner;

-- The acts of operators, each with its row in the audit.

-- An act that is asked for while a worker has the job waits for the end of the step in hand: nobody fences out a live call and loses
-- its answer. `rested` is 'running' until then.
create function noshi.ask_as(p_job bigint, p_step integer, p_act text, p_reason text, p_who text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare j job;
begin
    select * into j from job where id = p_job for update;
    if not found then
        raise exception 'there is no job %', p_job using errcode = 'NS404';
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' or coalesce(p_act, '') !~ '^[a-z_]{1,30}$' then
        raise exception 'an act needs a name and a reason' using errcode = 'NS400';
    end if;
    if j.asked is not null then
        raise exception 'job % was asked to % already', p_job, j.asked using errcode = 'NS409', hint = 'Look at it again in a moment.';
    end if;
    if p_step is distinct from j.step then
        raise exception 'job % has moved on since it was looked at', p_job using errcode = 'NS409', hint = 'Look at it again.';
    end if;
    if j.status = 'scheduled' and j.run_at = 'infinity' then
        raise exception 'job % waits for its batch, which is paused', p_job using errcode = 'NS409', hint = 'Resume the batch first.';
    end if;
    -- What a person attests is about calls that were made: not while one may be on its way.
    if j.status = 'running' and p_act not in ('retry', 'inquire', 'cancel') then
        raise exception 'job % is in a worker''s hands, and a call may be on its way', p_job using errcode = 'NS409', hint = 'Look at it again in a moment.';
    end if;
    if j.status = 'running' then
        update job set asked = p_act, rested = 'running' where id = p_job;
    else
        update job set asked = p_act, status = 'available', lane = '', relief = false, run_at = clock_timestamp(), finished_at = null,
            rested = case when j.status in ('needs_operator', 'completed', 'failed', 'cancelled') then j.status end,
            waited = waited + greatest(clock_timestamp() - coalesce(finished_at, run_at), '0')
        where id = p_job;
    end if;
    insert into job_event (job, event, lease, step, was, became, outcome, detail)
    values (j.id, 'asked', j.lease, j.step, j.at, j.at, p_act, p_who || ': ' || p_reason);
    perform record('job ' || p_act, 'job/' || j.id, p_reason,
        jsonb_build_object('kind', j.kind, 'id', j.key, 'status', j.status, 'at', j.at, 'step', j.step, 'in_doubt', j.unsure, 'code', j.code),
        jsonb_build_object('asked', p_act), p_who);
    perform pg_notify('noshi', '');
end $$;

create or replace function noshi.ask(p_job bigint, p_step integer, p_act text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform must('operate');
    perform ask_as(p_job, p_step, p_act, p_reason, who());
end $$;

-- A lane's budget is what the settings declare, or less where an operator says so: `most` calls of it, until it is taken back.
alter table noshi.lane_budget add column declared_calls integer, add column declared_burst integer,
    add column most integer check (most > 0);
update noshi.lane_budget set declared_calls = calls, declared_burst = burst;
create function noshi.keep_to_most() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    new.declared_calls := new.calls;
    new.declared_burst := new.burst;
    if new.most < new.calls then
        new.calls := new.most;
        new.burst := 1;
    end if;
    return new;
end $$;
create trigger keep_to_most before insert or update of calls, burst on noshi.lane_budget for each row execute function noshi.keep_to_most();

create function noshi.lane_locked(p_lane text) returns noshi.lane language plpgsql
set search_path = noshi, pg_temp
as $$
declare l lane;
begin
    select * into l from lane where name = p_lane for update;
    if not found then
        raise exception 'there is no lane %', quote_literal(p_lane) using errcode = 'NS404', hint = '`noshi lane list` shows them.';
    end if;
    return l;
end $$;
create function noshi.lane_facts(l noshi.lane) returns jsonb language sql stable
set search_path = noshi, pg_temp
as $$ select jsonb_build_object('paused', l.paused, 'closed_until', l.closed_until, 'closed_code', l.closed_code) $$;

-- Stops all calls of a lane: new writes, inquiries and unwinding. Its jobs wait, untouched. Pausing is always safe.
create function noshi.pause_lane(p_lane text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare l lane;
begin
    perform must('operate');
    l := lane_locked(p_lane);
    update lane set paused = true where name = p_lane;
    perform record('lane pause', 'lane/' || p_lane, p_reason, lane_facts(l), jsonb_build_object('paused', true));
end $$;

-- Opens a lane that was paused, throttled, or closed for funds or credentials.
create function noshi.resume_lane(p_lane text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare l lane;
begin
    perform must('operate');
    l := lane_locked(p_lane);
    update lane set paused = false, closed_code = null, closed_at = null, closed_until = null where name = p_lane;
    perform record('lane resume', 'lane/' || p_lane, p_reason, lane_facts(l), jsonb_build_object('paused', false));
    perform pg_notify('noshi', '');
end $$;

-- Fewer calls than the settings declare; null: as declared.
create function noshi.set_lane(p_lane text, p_per interval, p_most integer, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare b lane_budget;
begin
    perform must('operate');
    perform lane_locked(p_lane);
    select * into b from lane_budget where lane = p_lane and per = p_per for update;
    if not found then
        raise exception 'the lane % has no budget per %', quote_literal(p_lane), p_per using errcode = 'NS404';
    end if;
    if p_most > b.declared_calls then
        raise exception 'the settings declare % calls per % for %; more is for them to say', b.declared_calls, p_per, quote_literal(p_lane) using errcode = 'NS403';
    end if;
    if p_most < 1 then
        raise exception 'a budget is one call or more' using errcode = 'NS400', hint = 'To stop a lane, pause it.';
    end if;
    update lane_budget set most = p_most, calls = b.declared_calls, burst = b.declared_burst where lane = p_lane and per = p_per;
    perform record('lane set', 'lane/' || p_lane, p_reason, jsonb_build_object('per', p_per, 'calls', b.calls),
        jsonb_build_object('per', p_per, 'calls', coalesce(p_most, b.declared_calls)));
end $$;

-- The ids of the keys that something is sealed with, found key by key in their index: a retired key must not be missing.
create function noshi.sealed_keys() returns setof text language sql stable security definer
set search_path = noshi, pg_temp
as $$
    with recursive k as (
        select min(key_id) as id from noshi_sealed.sealed
        union all
        select (select min(key_id) from noshi_sealed.sealed where key_id > k.id) from k where k.id is not null)
    select id from k where id is not null
$$;

do $$
declare f text;
begin
    for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'noshi'::regnamespace
        and p.proname in ('ask_as', 'keep_to_most', 'lane_locked', 'lane_facts', 'pause_lane', 'resume_lane', 'set_lane', 'sealed_keys') loop
        execute format('revoke all on function %s from public', f);
    end loop;
    foreach f in array array['noshi.ask(bigint, integer, text, text)', 'noshi.pause_lane(text, text)', 'noshi.resume_lane(text, text)', 'noshi.set_lane(text, interval, integer, text)'] loop
        execute format('grant execute on function %s to noshi_operator, noshi_api', f);
    end loop;
end $$;
grant execute on function noshi.sealed_keys() to noshi_operator;
-- Lanes are steered by these functions alone, so that each act has its row in the audit.
revoke update on noshi.lane, noshi.lane_budget from noshi_operator;

-- Whom a call centre asks about: a user's gifts, a store.
create index job_of_user on noshi.job ((args ->> 'user')) where kind = 'gift_issuance';
create index job_of_store on noshi.job ((args ->> 'public_id')) where kind = 'store_creation';

reset role;
