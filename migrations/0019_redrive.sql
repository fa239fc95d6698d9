set role noshi_owner;
set local check_function_bodies = off;

-- A re-drive: an exact set of jobs, frozen with the step at which each was looked at, and what each is asked to do. Planned by a
-- person, applied by one, and carried out by the fleet. Same job, same trade id: no act of a re-drive starts a new trade.
create table noshi.redrive (
    id              bigint generated always as identity primary key,
    -- As the jobs were found to be; of a file of ids their number.
    filter          jsonb not null,
    planned_by      text not null default noshi.who(),
    planned_at      timestamptz not null default clock_timestamp(),
    -- Unless it is applied by then.
    expires_at      timestamptz not null default clock_timestamp() + interval '1 hour',
    jobs            integer not null,
    refused         integer not null,
    -- Minor units a currency; calls a lane, at the least; how long the lanes take for them, and for what waits there now.
    totals          jsonb not null,
    tokens          jsonb not null,
    lasts           interval not null,
    -- Of the filter, and of each job its step, its act, its lane or why it gets none, in order: what was read is what is approved and applied.
    digest          bytea not null check (octet_length(digest) = 32),
    needs_approval  boolean not null,
    approved_by     text,
    approved_at     timestamptz,
    applied_by      text,
    applied_at      timestamptz,
    reason          text,
    per_minute      integer check (per_minute between 1 and 1000000),
    -- So many are asked first; the others wait until these are answered.
    canary          integer check (canary > 0),
    canary_at       timestamptz,
    next_at         timestamptz,
    paused_code     text check (paused_code in ('operator', 'canary', 'fault')),
    -- Why it could not go on.
    paused_detail   text,
    paused_at       timestamptz,
    cancelled_at    timestamptz,
    -- When no row was left to be asked.
    done_at         timestamptz,
    check (approved_by <> planned_by and approved_by <> applied_by),
    constraint texts_are_short check (octet_length(filter::text) <= 2000 and octet_length(reason) <= 4000 and octet_length(paused_detail) <= 4000
        and octet_length(totals::text) <= 10000 and octet_length(tokens::text) <= 50000),
    constraint times_are_sane check (planned_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and expires_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (approved_at is null or approved_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (applied_at is null or applied_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (canary_at is null or canary_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (next_at is null or next_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (paused_at is null or paused_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (cancelled_at is null or cancelled_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (done_at is null or done_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);
create index redrive_open on noshi.redrive (next_at) where applied_at is not null and done_at is null and cancelled_at is null and paused_at is null;

create table noshi.redrive_row (
    redrive    bigint not null references noshi.redrive (id),
    n          integer not null,
    job        bigint not null,
    step       integer not null,
    act        text check (act in ('retry', 'inquire', 'rerun')),
    refusal    text,
    amount     bigint,
    currency   text,
    lane       text,
    status     text not null check (status in ('refused', 'waiting', 'asked', 'drifted')),
    -- When it was asked or found moved, and where it was found.
    marked_at  timestamptz,
    note       text,
    primary key (redrive, n),
    unique (redrive, job),
    constraint texts_are_short check (octet_length(refusal) <= 2000 and octet_length(currency) <= 20 and octet_length(lane) <= 200 and octet_length(note) <= 4000),
    check ((status = 'refused') = (refusal is not null) and (act is null) = (refusal is not null)),
    constraint times_are_sane check ((marked_at is null or marked_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);
create index redrive_row_waiting on noshi.redrive_row (redrive, n) where status = 'waiting';

-- Above so many jobs, or so many minor units of any currency, a second person approves: of what one person applies within 24 hours
-- without one, so that no plan gets below it by being cut in parts. The latest row holds; the schema's owner adds one.
create table noshi.redrive_cap (
    id      bigint generated always as identity primary key,
    jobs    integer not null check (jobs >= 0),
    amount  bigint not null check (amount >= 0),
    set_by  text not null default noshi.who(),
    set_at  timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (set_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- The next jobs of one re-drive are asked, each in one transaction with its mark and its row in the audit; one that moved meanwhile is
-- marked as drifted and left alone. One process at a time, whichever; killed at any point, another goes on. A re-drive that cannot go on is paused
-- with its reason, and one that is held up for now has its turn later: neither stands before the others.
create function noshi.advance_redrive() returns table (redrive bigint, asked integer, drifted integer, event text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    r redrive;
    why text;
begin
    select * into r from redrive o where o.applied_at is not null and o.done_at is null and o.cancelled_at is null and o.paused_at is null
        and o.next_at <= clock_timestamp() order by o.next_at limit 1 for update skip locked;
    if not found then
        return;
    end if;
    begin
        return query select * from advance_one(r);
        return;
    -- One that takes longer than a worker waits is no other's delay either.
    exception when query_canceled or others then
        why := composed(sqlerrm);
        -- What another transaction, or the server, was busy with: a lock, a deadlock, no room, a shutdown.
        if left(sqlstate, 2) in ('40', '53', '55', '57') then
            update redrive o set next_at = clock_timestamp() + case left(sqlstate, 2) when '40' then interval '200 milliseconds' else interval '5 seconds' end where o.id = r.id;
            return query select r.id, 0, 0, 'put_off';
            return;
        end if;
    end;
    update redrive o set paused_at = clock_timestamp(), paused_code = 'fault', paused_detail = why where o.id = r.id;
    perform record('redrive pause', 'redrive/' || r.id, composed('it cannot go on: ' || why), null, null, 'noshi');
    return query select r.id, 0, 0, 'paused_by_fault';
end $$;

create function noshi.advance_one(r noshi.redrive) returns table (redrive bigint, asked integer, drifted integer, event text) language plpgsql
set search_path = noshi, pg_temp
set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
    w redrive_row;
    j job;
    found_bad record;
    most integer := 100;
    took integer := 0;
    left_alone integer := 0;
    b bigint;
    moved text;
    happened text;
begin
    if r.canary is not null and r.canary_at is null then
        select least(most, r.canary - count(*)) into most from redrive_row where redrive = r.id and status = 'asked';
        if most <= 0 then
            select * into found_bad from redrive_answers(r.id);
            if found_bad.unanswered > 0 then
                update redrive set next_at = clock_timestamp() + interval '1 second' where id = r.id;
                return;
            end if;
            if found_bad.bad is not null then
                update redrive set paused_at = clock_timestamp(), paused_code = 'canary' where id = r.id;
                perform record('redrive pause', 'redrive/' || r.id, 'the canary stands still again', null,
                    jsonb_build_object('jobs', found_bad.bad), 'noshi');
                return query select r.id, 0, 0, 'paused_by_canary';
                return;
            end if;
            update redrive set canary_at = clock_timestamp() where id = r.id;
            most := 100;
        end if;
    end if;
    if r.per_minute is not null then
        -- A fleet that was away does not catch up all at once.
        r.next_at := greatest(r.next_at, clock_timestamp() - interval '5 seconds');
        most := least(most, 1 + floor(extract(epoch from clock_timestamp() - r.next_at) * r.per_minute / 60)::integer);
    end if;
    for w in select * from redrive_row where redrive = r.id and status = 'waiting' order by n limit most loop
        select * into j from job where id = w.job for update;
        b := (select o.id from batch o where o.id = j.batch and o.paused_at is not null);
        moved := case when j.id is null then 'gone' when b is not null then format('batch %s is paused', b) when j.requested_act is not null then format('asked to %s already', j.requested_act)
                      when j.step <> w.step or j.status not in ('needs_operator', 'failed') then format('%s at step %s', j.status, j.step) end;
        if moved is null then
            begin
                update redrive_row set status = 'asked', marked_at = clock_timestamp() where redrive = r.id and n = w.n;
                perform ask_as(j.id, j.step, w.act, composed(format('re-drive %s: %s', r.id, r.reason)), r.applied_by);
            exception when sqlstate 'NS409' then
                -- Whatever else forbids it: one job does not hold up the others.
                moved := composed(sqlerrm);
            end;
        end if;
        if moved is not null then
            update redrive_row set status = 'drifted', marked_at = clock_timestamp(), note = moved where redrive = r.id and n = w.n;
            left_alone := left_alone + 1;
            continue;
        end if;
        took := took + 1;
        if w.act = 'rerun' then
            -- A batch that was settled is not any more.
            update batch o set settled_at = null, totals = null, counted_at = null, refused_code = null, refused_detail = null
            where (o.id = j.batch or (j.kind = 'bulk_grants' and j.key = 'batch/' || o.id)) and (o.settled_at is not null or o.refused_code is not null);
        end if;
    end loop;
    if not exists (select from redrive_row where redrive = r.id and status = 'waiting') then
        happened := 'done';
        perform record('redrive done', 'redrive/' || r.id, null, null,
            (select jsonb_build_object('asked', count(*) filter (where status = 'asked'), 'drifted', count(*) filter (where status = 'drifted'))
             from redrive_row where redrive = r.id), 'noshi');
    end if;
    update redrive set done_at = case when happened = 'done' then clock_timestamp() end,
        next_at = case when per_minute is null then clock_timestamp() else r.next_at + took * interval '1 minute' / per_minute end
    where id = r.id;
    return query select r.id, took, left_alone, happened;
end $$;

-- Starts it. The fleet goes on from here, whatever becomes of whoever called this.
create function noshi.apply_redrive(p_redrive bigint, p_reason text, p_digest bytea, p_per_minute integer, p_canary integer, p_max_amount bigint)
returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    r redrive;
    moved bigint;
    named text;
begin
    perform must('operate');
    -- One of a person's plans after the other, so that no two pass the cap together; under an older snapshot the other would not be seen.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a re-drive is applied in a transaction that is read committed' using errcode = 'NS400';
    end if;
    perform in_turn(who());
    r := redrive_locked(p_redrive, true, p_reason);
    if p_digest is distinct from r.digest and p_digest is not null then
        raise exception 'this is not the digest of re-drive %', r.id using errcode = 'NS409';
    end if;
    if r.jobs = 0 then
        raise exception 're-drive % has no job that may be asked', r.id using errcode = 'NS409', hint = '`noshi redrive show` says why.';
    end if;
    select string_agg(format('%s %s', value, key), ', ') into named from jsonb_each_text(r.totals) where value::bigint > p_max_amount;
    if named is not null then
        raise exception 're-drive % is worth % (minor units), which is more than %', r.id, named, p_max_amount using errcode = 'NS403';
    end if;
    if r.approved_by is null and (r.needs_approval or redrive_is_large(who(), r.jobs, r.totals)) then
        raise exception 're-drive % is too large for one person (% jobs, %)', r.id, r.jobs, r.totals using errcode = 'NS403',
            hint = 'A second person reads it and approves it: `noshi redrive approve`.';
    end if;
    if r.approved_by = who() then
        raise exception 're-drive % was approved by you; somebody else applies it', r.id using errcode = 'NS403';
    end if;
    select count(*), string_agg(w.job::text, ', ' order by w.n) filter (where w.nth <= 20) into moved, named
    from (select w.job, w.n, row_number() over (order by w.n) as nth from redrive_row w left join job j on j.id = w.job
          where w.redrive = r.id and w.status = 'waiting'
            and (j.id is null or j.step <> w.step or j.requested_act is not null or j.status not in ('needs_operator', 'failed'))) w;
    if moved > 0 then
        raise exception '% of the % jobs of re-drive % have moved on since it was planned: job %', moved, r.jobs, r.id, named using errcode = 'NS409', hint = 'Plan again.';
    end if;
    update redrive set applied_by = who(), applied_at = clock_timestamp(), next_at = clock_timestamp(), reason = p_reason, per_minute = p_per_minute, canary = p_canary
    where id = r.id;
    if r.approved_by is null then
        perform count_redrive(who(), r.id, r.jobs, r.totals);
    end if;
    perform record('redrive apply', 'redrive/' || r.id, p_reason, null,
        jsonb_build_object('digest', encode(r.digest, 'hex'), 'per_minute', p_per_minute, 'canary', p_canary, 'max_amount', p_max_amount, 'approved_by', r.approved_by));
end $$;

-- A second person, over the digest of what that person has read.
create function noshi.approve_redrive(p_redrive bigint, p_digest bytea, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r redrive;
begin
    perform must('approve');
    r := redrive_locked(p_redrive, true, p_reason);
    if r.approved_by is not null then
        raise exception 're-drive % was approved by % already', r.id, r.approved_by using errcode = 'NS409';
    end if;
    if r.planned_by = who() then
        raise exception 're-drive % was planned by you; a second person approves it', r.id using errcode = 'NS403';
    end if;
    if p_digest is distinct from r.digest then
        raise exception 'this is not the digest of re-drive %', r.id using errcode = 'NS409', hint = '`noshi redrive show` names it, with what it stands for.';
    end if;
    update redrive set approved_by = who(), approved_at = clock_timestamp() where id = r.id;
    perform record('redrive approve', 'redrive/' || r.id, p_reason, null, jsonb_build_object('digest', encode(r.digest, 'hex')));
end $$;

create function noshi.audit_redrive_cap() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform record('redrive cap', 'cap/redrive', null, null, to_jsonb(new));
    return null;
end $$;

-- Ends it: whoever was not asked is not asked any more. What was asked goes on.
create function noshi.cancel_redrive(p_redrive bigint, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r redrive;
begin
    perform must('operate');
    r := redrive_locked(p_redrive, false, p_reason);
    update redrive set cancelled_at = clock_timestamp() where id = r.id;
    perform record('redrive cancel', 'redrive/' || r.id, p_reason);
end $$;

create function noshi.count_redrive(p_who text, p_redrive bigint, p_jobs bigint, p_totals jsonb) returns void language sql
set search_path = noshi, pg_temp
as $$
    insert into alone (who, what, target, jobs, currency, amount)
    select $1, 'asked', 'redrive/' || $2, $3, '', 0
    union all select $1, 'asked', 'redrive/' || $2, 0, m.key, m.value::bigint from jsonb_each_text($4) m
$$;

-- No further job is asked until it is resumed; what was asked goes on.
create function noshi.pause_redrive(p_redrive bigint, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r redrive;
begin
    perform must('operate');
    r := redrive_locked(p_redrive, false, p_reason);
    if r.applied_at is null or r.paused_at is not null then
        raise exception 're-drive % does not run', r.id using errcode = 'NS409';
    end if;
    update redrive set paused_at = clock_timestamp(), paused_code = 'operator' where id = r.id;
    perform record('redrive pause', 'redrive/' || r.id, p_reason);
end $$;

-- Whoever approves reads first which jobs they are said to be: so they are. A job that is left out by its refusal has only its kind in common with a
-- file of ids.
create function noshi.must_be_as_filtered(p_filter jsonb, p_jobs bigint[], p_acts text[]) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare other bigint;
begin
    if p_filter is null or jsonb_typeof(p_filter) <> 'object' or octet_length(p_filter::text) > 2000
       or p_filter - array['kind', 'code', 'status', 'since', 'batch', 'ids', 'act'] <> '{}'
       or exists (select from jsonb_each(p_filter) f where jsonb_typeof(f.value) <> case when f.key in ('since', 'batch', 'ids') then 'number' else 'string' end) then
        raise exception 'a filter has kind, code, status, since, batch, ids and act, and nothing else' using errcode = 'NS400', hint = 'Nothing was planned.';
    end if;
    select s.job into other from unnest(p_jobs, p_acts) as s(job, act) join job j on j.id = s.job
    where j.kind <> p_filter ->> 'kind' or (p_filter ? 'code' and j.code is distinct from p_filter ->> 'code') or j.status::text <> p_filter ->> 'status'
       or (p_filter ? 'batch' and j.batch is distinct from (p_filter ->> 'batch')::bigint
           and not (j.kind = 'bulk_grants' and j.key = 'batch/' || (p_filter ->> 'batch')))
       -- They were looked at a moment ago, and seconds are whole.
       or coalesce(j.finished_at, j.run_at) <= now() - ((p_filter ->> 'since')::numeric + 1) * interval '1 second'
       or s.act <> p_filter ->> 'act'
    order by 1 limit 1;
    if other is not null or (p_filter ->> 'ids')::numeric <> cardinality(p_jobs) then
        raise exception 'these jobs are not those of the filter %: %', p_filter, coalesce('job ' || other, 'it names another number of them') using errcode = 'NS400',
            hint = 'Nothing was planned. What a plan says of its jobs must be so: whoever approves it reads that first.';
    end if;
end $$;

-- Freezes a plan. The jobs, each with the step at which it was looked at, and its act or why it gets none; the lane that the act draws
-- from. Money is counted here. Must run in the snapshot in which the jobs were looked at.
create function noshi.plan_redrive(p_filter jsonb, p_jobs bigint[], p_steps integer[], p_acts text[], p_refusals text[], p_lanes text[])
returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    made bigint;
    wrong record;
begin
    perform must('operate');
    if cardinality(p_jobs) > 100000 then
        raise exception 'a plan has at most 100000 jobs' using errcode = 'NS400', hint = 'Nothing was planned. Plan in parts.';
    end if;
    if coalesce(cardinality(p_jobs), 0) = 0 then
        raise exception 'no job is like that, so there is nothing to plan' using errcode = 'NS404';
    end if;
    select s.job, s.act, j.status, j.in_doubt into wrong
    from unnest(p_jobs, p_steps, p_acts, p_refusals) as s(job, step, act, refusal) left join job j on j.id = s.job and j.step = s.step
    where j.id is null
       or (s.refusal is null and (coalesce(s.act, '') not in ('retry', 'inquire', 'rerun') or j.status not in ('needs_operator', 'failed')
           or j.requested_act is not null or (j.in_doubt and s.act = 'rerun')))
    order by s.job limit 1;
    if wrong.job is not null then
        raise exception 'job % (%) may not be re-driven by %', wrong.job, coalesce(wrong.status::text, 'moved on'), coalesce(wrong.act, 'nothing')
            using errcode = 'NS409', hint = case when wrong.in_doubt then 'It is in doubt.'
                else 'Only a job that is parked or failed, at the step at which it was looked at, and by retry, inquire or rerun.' end;
    end if;
    perform must_be_as_filtered(p_filter, p_jobs, p_acts);
    if exists (select from unnest(p_refusals) x where octet_length(x) > 2000 or text_fault(x, 2000) is not null)
       or exists (select from unnest(p_lanes) x where x <> '' and (octet_length(x) > 200 or text_fault(x, 200) is not null))
       or (select count(distinct x) from unnest(p_lanes) x) > 100 then
        raise exception 'a refusal has at most 2000 bytes and a lane 200, each in one line, and a plan has at most 100 lanes' using errcode = 'NS400', hint = 'Nothing was planned.';
    end if;
    insert into redrive (filter, jobs, refused, totals, tokens, lasts, digest, needs_approval)
    with s as materialized (
        select s.job, s.step, s.act, s.lane, s.refusal, noshi.worth(j.args) as amount, j.args -> 'value' ->> 'currency' as currency
        from unnest(p_jobs, p_steps, p_acts, p_refusals, p_lanes) as s(job, step, act, refusal, lane) join job j on j.id = s.job),
    e as (select * from s where refusal is null),
    money as (select currency, sum(amount)::bigint as total from e where amount is not null group by 1),
    calls as (select lane, count(*) as tokens from e where coalesce(lane, '') <> '' group by 1)
    select p_filter, (select count(*) from e), (select count(*) from s) - (select count(*) from e),
        coalesce((select jsonb_object_agg(currency, total) from money), '{}'), coalesce((select jsonb_object_agg(lane, tokens) from calls), '{}'),
        coalesce((select max((c.tokens + w.waiting) * b.each) from calls c
            cross join lateral (select max((b.per + b.jitter) / b.calls) as each from lane_budget b where b.lane = c.lane) b
            cross join lateral (select count(*) as waiting from job j where j.lane = c.lane and j.status = 'available' and j.crash_count = 0) w), '0'),
        sha256(convert_to(p_filter::text || E'\n' || coalesce((select string_agg(format('%s %s %s %s', job, step,
            case when refusal is null then act else 'refused: ' || refusal end, case when refusal is null then lane end), E'\n' order by job) from s), ''), 'UTF8')),
        redrive_is_large(who(), (select count(*) from e), coalesce((select jsonb_object_agg(currency, total) from money), '{}'))
    returning id into made;
    insert into redrive_row (redrive, n, job, step, act, refusal, amount, currency, lane, status)
    select made, row_number() over (order by s.job), s.job, s.step, case when s.refusal is null then s.act end, s.refusal,
        noshi.worth(j.args), j.args -> 'value' ->> 'currency', nullif(s.lane, ''), case when s.refusal is null then 'waiting' else 'refused' end
    from unnest(p_jobs, p_steps, p_acts, p_refusals, p_lanes) as s(job, step, act, refusal, lane) join job j on j.id = s.job;
    perform record('redrive plan', 'redrive/' || made, null, null,
        (select jsonb_build_object('filter', r.filter, 'jobs', r.jobs, 'refused', r.refused, 'totals', r.totals, 'digest', encode(r.digest, 'hex')) from redrive r where r.id = made));
    return made;
end $$;

-- What the canary found: how many of the jobs asked are not at rest yet, and which stand still again or failed again.
create function noshi.redrive_answers(p_redrive bigint) returns table (unanswered bigint, bad bigint[]) language sql stable
set search_path = noshi, pg_temp
as $$
    select count(*) filter (where j.requested_act is not null or j.status not in ('needs_operator', 'completed', 'failed', 'cancelled')),
           array_agg(w.job order by w.n) filter (where j.requested_act is null and (j.status = 'needs_operator' or (j.status = 'failed' and w.act = 'rerun')))
    from redrive_row w join job j on j.id = w.job where w.redrive = $1 and w.status = 'asked'
$$;

-- Whether so much more, applied by this person alone, is over the cap.
create function noshi.redrive_is_large(p_who text, p_jobs bigint, p_totals jsonb, p_but text default null) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    with added as (
        select jobs, currency, amount from done_alone($1, 'asked') where target is distinct from $4
        union all select $2, '', 0
        union all select 0, m.key, m.value::bigint from jsonb_each_text($3) m)
    select (select sum(jobs) from added) > c.jobs or exists (select from added where currency <> '' group by currency having sum(amount) > c.amount)
    from (select * from redrive_cap order by id desc limit 1) c
$$;

-- The re-drive, locked; or an error that says why nothing can be done to it any more.
create function noshi.redrive_locked(p_redrive bigint, p_unapplied boolean, p_reason text) returns noshi.redrive language plpgsql
set search_path = noshi, pg_temp
as $$
declare r redrive;
begin
    select * into r from redrive where id = p_redrive for update;
    if not found then
        raise exception 'there is no re-drive %', p_redrive using errcode = 'NS404', hint = '`noshi redrive list` shows them.';
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'say why: a reason is kept with every act' using errcode = 'NS400';
    end if;
    if r.cancelled_at is not null then
        raise exception 're-drive % is cancelled', r.id using errcode = 'NS409', hint = 'Plan again.';
    end if;
    if r.done_at is not null then
        raise exception 're-drive % is done: every job of it was asked', r.id using errcode = 'NS409';
    end if;
    if p_unapplied and r.applied_at is not null then
        raise exception 're-drive % was applied by % already', r.id, r.applied_by using errcode = 'NS409';
    end if;
    if p_unapplied and r.expires_at <= clock_timestamp() then
        raise exception 'the plan of re-drive % is too old to be applied: what it froze may have changed', r.id using errcode = 'NS410', hint = 'Plan again.';
    end if;
    return r;
end $$;

-- Frozen: a row that waits is marked once, and nothing else of it changes.
create function noshi.redrive_row_guard() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if tg_op = 'DELETE' or old.status <> 'waiting' or new.status not in ('asked', 'drifted')
       or (new.redrive, new.n, new.job, new.step, new.act, new.amount, new.currency, new.lane, new.refusal)
          is distinct from (old.redrive, old.n, old.job, old.step, old.act, old.amount, old.currency, old.lane, old.refusal) then
        raise exception 'the rows of a re-drive are frozen: % refused', lower(tg_op) using errcode = 'NS001';
    end if;
    return new;
end $$;

-- Goes on. Where its canary paused it, a person has looked, and the canary is over. What nobody else approved counts again, for whoever applied it and
-- whoever resumes it: plans of several days that were paused are not asked on one.
create function noshi.resume_redrive(p_redrive bigint, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    r redrive;
    w record;
begin
    perform must('operate');
    perform in_turn(who());
    r := redrive_locked(p_redrive, false, p_reason);
    if r.paused_at is null then
        raise exception 're-drive % is not paused', r.id using errcode = 'NS409';
    end if;
    if r.approved_by is null then
        for w in select distinct u.who from unnest(array[r.applied_by, who()]) as u(who) order by 1 loop
            if redrive_is_large(w.who, r.jobs, r.totals, 'redrive/' || r.id) then
                raise exception 're-drive % may not go on: with what % asked for alone in the last 24 hours it is too large for one person', r.id, w.who using errcode = 'NS403',
                    hint = 'Nothing was changed, and no further job is asked. Resume it later; or cancel it and plan its jobs again, which a second person approves.';
            end if;
            perform count_redrive(w.who, r.id, r.jobs, r.totals);
        end loop;
    end if;
    update redrive set paused_at = null, paused_code = null, paused_detail = null, next_at = clock_timestamp(),
        canary_at = case when r.paused_code = 'canary' then clock_timestamp() else canary_at end
    where id = r.id;
    perform record('redrive resume', 'redrive/' || r.id, p_reason, jsonb_build_object('paused', r.paused_code));
end $$;

insert into noshi.redrive_cap (jobs, amount) values (100, 100000);

create trigger frozen before update or delete on noshi.redrive_row for each row execute function noshi.redrive_row_guard();
create trigger no_truncate before truncate on noshi.redrive_row for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.redrive_cap for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.redrive_cap for each statement execute function noshi.journal_is_append_only();
create trigger audited after insert on noshi.redrive_cap for each row execute function noshi.audit_redrive_cap();

revoke all on function noshi.advance_redrive(), noshi.advance_one(noshi.redrive), noshi.must_be_as_filtered(jsonb, bigint[], text[]), noshi.apply_redrive(bigint, text, bytea, integer, integer, bigint),
    noshi.approve_redrive(bigint, bytea, text), noshi.audit_redrive_cap(), noshi.cancel_redrive(bigint, text), noshi.count_redrive(text, bigint, bigint, jsonb),
    noshi.pause_redrive(bigint, text), noshi.plan_redrive(jsonb, bigint[], integer[], text[], text[], text[]),
    noshi.redrive_answers(bigint), noshi.redrive_is_large(text, bigint, jsonb, text), noshi.redrive_locked(bigint, boolean, text),
    noshi.redrive_row_guard(), noshi.resume_redrive(bigint, text) from public;
grant execute on function noshi.advance_redrive() to noshi_worker;
grant execute on function noshi.apply_redrive(bigint, text, bytea, integer, integer, bigint),
    noshi.approve_redrive(bigint, bytea, text), noshi.cancel_redrive(bigint, text), noshi.pause_redrive(bigint, text),
    noshi.plan_redrive(jsonb, bigint[], integer[], text[], text[], text[]), noshi.resume_redrive(bigint, text) to noshi_operator, noshi_api;
grant select on noshi.redrive, noshi.redrive_cap, noshi.redrive_row to noshi_operator, noshi_api;
grant select (applied_at, cancelled_at, done_at) on noshi.redrive to noshi_worker;

reset role;
