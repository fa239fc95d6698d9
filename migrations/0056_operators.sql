set role noshi_owner;

-- An operator can end what is wrong: rows that nobody can read are dismissed, parked jobs are acknowledged, and a trade that somebody
-- attested to be void is recorded as void.

-- The step at which somebody said that they saw the job parked. Every settle makes a step: what is parked anew is not acknowledged.
alter table noshi.job add column acknowledged integer;

-- Whether some version of the fleet can run it: the kinds that may be asked for.
create function noshi.known_kind(p_kind text) returns boolean language sql stable parallel safe
set search_path = noshi, pg_temp
as $$
    select exists (select from kind k where k.name = p_kind)
$$;

-- A row that nobody can read and that never began, or a probe's: it may be ended, since nothing was called for it and it owes nobody
-- anything. What is in doubt, what left something behind, and what was paid for with points may not.
create function noshi.dismissable(j noshi.job) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    select (j.status = 'needs_operator' or (j.status in ('available', 'scheduled', 'retryable') and not known_kind(j.kind)))
       and not j.unsure and j.undo is null and (j.called_at is null or j.kind = 'probe')
       and (j.state is null or j.kind = 'probe' or not known_kind(j.kind))
       and not (j.args ? 'paid_by') and j.kind not in ('point_reversal', 'bulk_grants')
$$;

-- The job at the step at which somebody looked at it, locked; with a reason, as every act.
create function noshi.looked_at(p_job bigint, p_step integer, p_reason text) returns noshi.job language plpgsql
set search_path = noshi, pg_temp
as $$
declare j job;
begin
    select * into j from job where id = p_job for update;
    if not found then
        raise exception 'there is no job %', p_job using errcode = 'NS404';
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a name and a reason' using errcode = 'NS400';
    end if;
    if j.asked is not null then
        raise exception 'job % was asked to % already', p_job, j.asked using errcode = 'NS409', hint = 'Look at it again in a moment.';
    end if;
    if p_step is distinct from j.step then
        raise exception 'job % has moved on since it was looked at', p_job using errcode = 'NS409', hint = 'Look at it again.';
    end if;
    return j;
end $$;

create function noshi.job_facts(j noshi.job) returns jsonb language sql stable
set search_path = noshi, pg_temp
as $$
    select jsonb_build_object('kind', j.kind, 'id', j.key, 'status', j.status, 'at', j.at, 'step', j.step, 'in_doubt', j.unsure, 'code', j.code)
$$;

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
revoke all on function noshi.must_know_the_past() from public;

-- Ends it, by the database alone: no worker can read it.
create function noshi.dismiss_as(p_job bigint, p_step integer, p_reason text, p_who text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare j job := looked_at(p_job, p_step, p_reason);
begin
    perform must_know_the_past();
    if j.unsure then
        raise exception 'job % is in doubt: a call was made, and whether it took effect is not known', p_job using errcode = 'NS409',
            hint = 'Inquire, or attest with evidence.';
    end if;
    if not dismissable(j) then
        raise exception 'job % is % at %: only a row that nobody can read, and that never began, is dismissed', p_job, j.status, j.at using errcode = 'NS409',
            hint = '`noshi job explain` names the acts that are allowed.';
    end if;
    update job set status = 'cancelled', outcome = 'dismissed', lane = '', relief = false, step = j.step + 1, finished_at = clock_timestamp() where id = p_job;
    insert into job_event (job, event, lease, step, was, became, outcome, code, detail)
    values (j.id, 'dismissed', j.lease, j.step, j.at, j.at, 'dismissed', j.code, p_who || ': ' || p_reason);
    perform record('job dismiss', 'job/' || j.id, p_reason, job_facts(j), jsonb_build_object('status', 'cancelled'), p_who);
end $$;

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

create or replace function noshi.ask(p_job bigint, p_step integer, p_act text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform must('operate');
    case p_act
        when 'dismiss' then perform dismiss_as(p_job, p_step, p_reason, who());
        when 'acknowledge' then perform acknowledge_as(p_job, p_step, p_reason, who());
        else perform ask_as(p_job, p_step, p_act, p_reason, who());
    end case;
end $$;

-- Trades that were attested to be void by versions that did not record it: without that no other trade could follow, and the user could
-- never get the gift. The trade is the job's newest at that moment.
insert into noshi.gift_outcome (trade, outcome, reason)
select distinct t.id, 'void', 'attested'
from noshi.job_event e
cross join lateral (select t.id from noshi.gift_trade t where t.job = e.job and t.started_at <= e.happened_at order by t.generation desc limit 1) t
where e.event = 'settled' and e.outcome = 'attest_void' and e.became = 'void'
on conflict do nothing;

do $$
declare f text;
begin
    for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'noshi'::regnamespace
        and p.proname in ('known_kind', 'dismissable', 'looked_at', 'job_facts', 'dismiss_as', 'acknowledge_as') loop
        execute format('revoke all on function %s from public', f);
    end loop;
end $$;

reset role;
