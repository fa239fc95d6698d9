set role noshi_owner;
set local check_function_bodies = off;

-- What is known of the past of a gift whose first trade here may not be its first: at whom it may have been called, and whether that was settled
-- since, by an answer or by a person's evidence. Kept beside the job, so that neither a retry nor other settings forget it.
create table noshi.gift_past (
    job         bigint not null,
    generation  smallint not null,
    -- Each partner that may have been called under this id.
    partners    text[] not null,
    -- One of the calls that a loss left open: it is spent once this one is proven.
    owed        boolean not null,
    noted_at    timestamptz not null default clock_timestamp(),
    proven_at   timestamptz,
    primary key (job, generation),
    constraint times_are_sane check (noted_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (proven_at is null or proven_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);

-- Somebody has seen it. It stays where it is, and no alert counts it until it is parked anew.
create function noshi.acknowledge_as(p_job bigint, p_step integer, p_reason text, p_who text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare j job := looked_at(p_job, p_step, p_reason);
begin
    if j.status <> 'needs_operator' then
        raise exception 'job % is %: only a job that is parked is acknowledged', p_job, j.status using errcode = 'NS409';
    end if;
    if j.acknowledged is not distinct from j.step then
        raise exception 'job % is acknowledged already', p_job using errcode = 'NS409', hint = '`noshi audit list --target job/` and its number tell by whom, and why.';
    end if;
    update job set acknowledged = j.step where id = p_job;
    insert into job_event (job, event, lease, step, was, became, outcome, code, detail)
    values (j.id, 'acknowledged', j.lease, j.step, j.at, j.at, 'acknowledged', j.code, p_who || ': ' || p_reason);
    perform record('job acknowledge', 'job/' || j.id, p_reason, job_facts(j), jsonb_build_object('acknowledged', true), p_who);
end $$;

create function noshi.ask(p_job bigint, p_step integer, p_act text, p_reason text) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare made bigint;
begin
    perform must('operate');
    if exists (select from word_act w where w.act = p_act) then
        select p.made into made from propose(p_act, p_job, p_step, null, p_reason) p;
        return made;
    end if;
    case p_act
        when 'dismiss' then perform dismiss_as(p_job, p_step, p_reason, who());
        when 'acknowledge' then perform acknowledge_as(p_job, p_step, p_reason, who());
        else
            perform count_asked(p_job, p_act);
            perform ask_as(p_job, p_step, p_act, p_reason, who());
    end case;
    return null;
end $$;

-- An act that is asked for while a worker has the job waits for the end of the step in flight: nobody fences out a live call and loses
-- its answer. `status_before` is 'running' until then.
create function noshi.ask_as(p_job bigint, p_step integer, p_act text, p_reason text, p_who text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare j job := job_locked(p_job);
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' or coalesce(p_act, '') !~ '^[a-z_]{1,30}$' then
        raise exception 'an act needs a name and a reason' using errcode = 'NS400';
    end if;
    perform must_be_askable(j, p_step, p_act);
    if j.status = 'running' then
        update job set requested_act = p_act, status_before = 'running' where id = p_job;
    else
        update job set requested_act = p_act, status = 'available', lane = '', reserved = false, run_at = clock_timestamp(), finished_at = null,
            status_before = case when j.status in ('needs_operator', 'completed', 'failed', 'cancelled') then j.status end,
            waited = least(waited + greatest(clock_timestamp() - coalesce(finished_at, run_at), '0'), '1000 years')
        where id = p_job;
    end if;
    insert into job_event (job, event, lease, step, was, became, outcome, detail)
    values (j.id, 'asked', j.lease, j.step, j.at, j.at, p_act, p_who || ': ' || p_reason);
    perform record('job ' || p_act, 'job/' || j.id, p_reason, job_facts(j), jsonb_build_object('asked', p_act), p_who);
    perform pg_notify('noshi', '');
end $$;

-- Ends it, by the database alone: no worker can read it.
create function noshi.dismiss_as(p_job bigint, p_step integer, p_reason text, p_who text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare j job := looked_at(p_job, p_step, p_reason);
begin
    perform must_know_the_past();
    if j.in_doubt then
        raise exception 'job % is in doubt: a call was made, and whether it took effect is not known', p_job using errcode = 'NS409',
            hint = 'Inquire, or attest with evidence.';
    end if;
    if not dismissable(j) then
        raise exception 'job % is % at %: only a row that nobody can read, and that never began, is dismissed', p_job, j.status, j.at using errcode = 'NS409',
            hint = '`noshi job explain` names the acts that are allowed.';
    end if;
    update job set status = 'cancelled', outcome = 'dismissed', lane = '', reserved = false, step = j.step + 1, finished_at = clock_timestamp() where id = p_job;
    insert into job_event (job, event, lease, step, was, became, outcome, code, detail)
    values (j.id, 'dismissed', j.lease, j.step, j.at, j.at, 'dismissed', j.code, p_who || ': ' || p_reason);
    perform record('job dismiss', 'job/' || j.id, p_reason, job_facts(j), jsonb_build_object('status', 'cancelled'), p_who);
end $$;

-- A row that nobody can read and that never began, or a probe's: it may be ended, since nothing was called for it and it owes nobody
-- anything. What is in doubt, what left something behind, and what was paid for with points may not.
create function noshi.dismissable(j noshi.job) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    select (j.status = 'needs_operator' or (j.status in ('available', 'scheduled', 'retryable') and not known_kind(j.kind)))
       and not j.in_doubt and j.undo is null and (j.called_at is null or j.kind = 'probe')
       and (j.state is null or j.kind = 'probe' or not known_kind(j.kind))
       and not (j.args ? 'paid_by') and j.kind not in ('point_reversal', 'bulk_grants')
$$;

create function noshi.job_facts(j noshi.job) returns jsonb language sql stable
set search_path = noshi, pg_temp
as $$
    select jsonb_build_object('kind', j.kind, 'id', j.key, 'status', j.status, 'at', j.at, 'step', j.step, 'in_doubt', j.in_doubt, 'code', j.code)
$$;

-- The job, locked to the end of the transaction. The settle of one that a worker has leased waits for that, and its slot with it: so one person
-- holds one such job, in however many transactions, and not all slots of the fleet.
create function noshi.job_locked(p_job bigint) returns noshi.job language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    j job;
    leased boolean;
    turn constant text := 'leased job of ' || who();
begin
    select o.status = 'running' into leased from job o where o.id = p_job;
    if leased then
        perform in_turn(turn);
        update person set holds = p_job, held_in = pg_current_xact_id() where who = turn and (held_in is distinct from pg_current_xact_id() or holds = p_job);
        if not found then
            raise exception 'job % is leased by a worker, and this transaction holds another such job', p_job using errcode = 'NS409',
                hint = 'Nothing was asked of it. A worker waits for each: commit first, then ask for the next.';
        end if;
    end if;
    select * into j from job where id = p_job for no key update;
    if not found then
        raise exception 'there is no job %', p_job using errcode = 'NS404';
    end if;
    if j.status = 'running' and leased is not true then
        raise exception 'job % was leased by a worker just now', p_job using errcode = 'NS409', hint = 'Nothing was asked of it. Look at it again, and ask again.';
    end if;
    return j;
end $$;

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

-- Whether some version of the fleet can run it: the kinds that may be asked for.
create function noshi.known_kind(p_kind text) returns boolean language sql stable parallel safe
set search_path = noshi, pg_temp
as $$
    select exists (select from kind k where k.name = p_kind)
$$;

-- The job at the step at which somebody looked at it, locked; with a reason, as every act.
create function noshi.looked_at(p_job bigint, p_step integer, p_reason text) returns noshi.job language plpgsql
set search_path = noshi, pg_temp
as $$
declare j job := job_locked(p_job);
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a name and a reason' using errcode = 'NS400';
    end if;
    if j.requested_act is not null then
        raise exception 'job % was asked to % already', p_job, j.requested_act using errcode = 'NS409', hint = 'Look at it again in a moment.';
    end if;
    if p_step is distinct from j.step then
        raise exception 'job % has moved on since it was looked at', p_job using errcode = 'NS409', hint = 'Look at it again.';
    end if;
    return j;
end $$;

-- Before the workers have told what was lost with a server, nobody can say that a job was never called.
create function noshi.must_know_the_past() returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if (select s.timeline from server_seen s) <> timeline() then
        raise exception 'another server took over, and the workers have not yet told what was lost with the old one; nothing changed' using errcode = 'NS409',
            hint = 'Ask again in a minute; a worker must be running.';
    end if;
end $$;

-- What an operator ended does not come back: who did it, and why, is told to whoever asks.
create function noshi.must_not_be_ended(j noshi.job) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare e record;
begin
    if j.status = 'cancelled' then
        select o.event, o.detail into e from job_event o where o.job = j.id and o.event in ('cancelled', 'dismissed') order by o.happened_at desc limit 1;
        raise exception 'job % was %, and nothing brings it back', j.id,
            coalesce(e.event, 'cancelled') || case when j.batch is not null and e.event = 'cancelled' then ' with batch ' || j.batch else '' end || coalesce(' (' || e.detail || ')', '')
            using errcode = 'NS409', hint = 'If it is wanted after all, it has to be asked for anew, under another id.';
    end if;
end $$;

-- What is parked anew counts anew, also where no step was made between.
create function noshi.parked_anew() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    new.acknowledged := null;
    return new;
end $$;

-- Stops all calls of a lane: new writes, inquiries and unwinding. Its jobs wait, untouched. Pausing is always safe.
create function noshi.pause_lane(p_lane text, p_reason text) returns void language plpgsql security definer
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

create function noshi.prove_past() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare spent integer;
begin
    with p as (update gift_past set proven_at = clock_timestamp() where job = new.id and proven_at is null returning owed)
    select count(*) filter (where p.owed) into spent from p;
    if spent > 0 then
        update server_seen set owed = greatest(0, owed - spent) where owed > 0;
    end if;
    return null;
end $$;

-- Opens a lane that was paused, throttled, or closed for funds or credentials.
create function noshi.resume_lane(p_lane text, p_reason text) returns void language plpgsql security definer
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

-- Fewer calls than the settings declare; null: as declared.
create function noshi.set_lane(p_lane text, p_per interval, p_max integer, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    was jsonb;
    declared integer;
    as_kept interval;
    max_before integer;
begin
    perform must('operate');
    perform say_why(p_reason);
    was := lane_steered(p_lane);
    -- As the budget has it: equal spans are written in many ways.
    select b.declared_calls, b.per into declared, as_kept from lane_budget b where b.lane = p_lane and b.per = p_per;
    if not found then
        raise exception 'the lane % has no budget per %', quote_literal(p_lane), p_per using errcode = 'NS404';
    end if;
    p_per := as_kept;
    if p_max > declared then
        raise exception 'the settings declare % calls per % for %; more is for them to say', declared, p_per, quote_literal(p_lane) using errcode = 'NS403';
    end if;
    if p_max < 1 then
        raise exception 'a budget is one call or more' using errcode = 'NS400', hint = 'To stop a lane, pause it.';
    end if;
    select m.most into max_before from lane_limit m where m.lane = p_lane and m.per = p_per;
    insert into lane_limit values (p_lane, p_per, p_max) on conflict (lane, per) do update set most = excluded.most;
    update lane_order set no = no + 1, paused = (was ->> 'paused')::boolean where lane = p_lane;
    perform record('lane set', 'lane/' || p_lane, p_reason, jsonb_build_object('per', p_per, 'calls', least(declared, max_before)),
        jsonb_build_object('per', p_per, 'calls', coalesce(p_max, declared)));
end $$;

-- What an amount of arguments is worth, in minor units; null where it is no whole positive number of a size that can be money.
create function noshi.worth(args jsonb) returns bigint language plpgsql immutable
as $$
begin
    return case when jsonb_path_exists($1, '$.value.amount ? (@.type() == "number" && @ >= 1 && @ <= 9000000000000000 && @ == @.floor())')
        then ($1 -> 'value' ->> 'amount')::numeric::bigint end;
end $$;

create trigger keep_to_most before insert or update of calls, burst on noshi.lane_budget for each row execute function noshi.keep_to_most();
create trigger prove_past after update of in_doubt on noshi.job for each row
    when (old.in_doubt and not new.in_doubt and new.kind = 'gift_issuance') execute function noshi.prove_past();
create trigger parked_anew before update of status on noshi.job for each row
    when (new.status = 'needs_operator' and old.status <> 'needs_operator' and new.acknowledged is not null) execute function noshi.parked_anew();

revoke all on function noshi.acknowledge_as(bigint, integer, text, text), noshi.ask(bigint, integer, text, text),
    noshi.ask_as(bigint, integer, text, text, text), noshi.dismiss_as(bigint, integer, text, text), noshi.dismissable(noshi.job),
    noshi.job_facts(noshi.job), noshi.job_locked(bigint), noshi.keep_to_most(), noshi.known_kind(text), noshi.looked_at(bigint, integer, text),
    noshi.must_know_the_past(), noshi.must_not_be_ended(noshi.job), noshi.parked_anew(), noshi.pause_lane(text, text),
    noshi.prove_past(), noshi.resume_lane(text, text), noshi.set_lane(text, interval, integer, text), noshi.worth(jsonb) from public;
grant execute on function noshi.ask(bigint, integer, text, text), noshi.pause_lane(text, text), noshi.resume_lane(text, text),
    noshi.set_lane(text, interval, integer, text) to noshi_operator, noshi_api;
grant select on noshi.gift_past to noshi_worker, noshi_operator;
grant insert (job, generation, partners, owed) on noshi.gift_past to noshi_worker;

reset role;
