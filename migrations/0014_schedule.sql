set role noshi_owner;
set local check_function_bodies = off;

-- Kinds that a schedule may ask for by itself: those that give nobody anything of value. What gives value comes from producers, or in
-- batches with their caps and approvals. More are added by the schema's owner, directly.
create table noshi.schedule_kind (
    kind    text primary key check (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
    set_by  text not null default noshi.who(),
    set_at  timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (set_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- A recurring job. Each due time is one job: `{due}` in the id and the arguments stands for the due time, in UTC. When the next due
-- time is, workers compute; that it fires once, the transaction sees to that moves `next_due`.
create table noshi.schedule (
    name           text primary key check (name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    kind           text not null references noshi.schedule_kind (kind),
    key            text not null check (strpos(key, '{due}') > 0 and octet_length(key) <= 160),
    args           jsonb not null check (jsonb_typeof(args) = 'object'),
    priority       smallint not null check (priority in (0, 1)),
    -- As cron(8) has it, in this time zone.
    cron           text not null,
    zone           text not null,
    -- What becomes of due times that nobody could take, for whatever reason. The names are permanent.
    missed         text not null check (missed in ('every', 'latest', 'none')),
    next_due       timestamptz not null,
    last_due       timestamptz,
    last_job       bigint,
    fired          bigint not null default 0,
    skipped        bigint not null default 0,
    -- Why its due time cannot be fired: it waits for a person, and its lateness shows.
    stuck          text,
    paused_by      text,
    paused_at      timestamptz,
    paused_reason  text,
    created_by     text not null default noshi.who(),
    created_at     timestamptz not null default clock_timestamp(),
    changed_by     text not null default noshi.who(),
    changed_at     timestamptz not null default clock_timestamp(),
    constraint cron_is_short check (octet_length(cron) <= 200),
    constraint texts_are_short check (octet_length(zone) <= 100 and octet_length(args::text) <= 65536 and octet_length(stuck) <= 4000
        and octet_length(paused_reason) <= 4000),
    constraint times_are_sane check (next_due between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (last_due is null or last_due between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (paused_at is null or paused_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and created_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and changed_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

create function noshi.audit_schedule_kind() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform record('schedule kind', 'schedule_kind/' || new.kind, null, null, to_jsonb(new));
    return null;
end $$;

-- One job for each of these due times. Outside of strings JSON never holds `{due}`, and a due time needs no quotes.
create function noshi.enqueue_scheduled(s noshi.schedule, p_dues timestamptz[]) returns setof bigint language sql
set search_path = noshi, pg_temp
as $$
    select noshi.enqueue_rows_into($1.kind, array_agg(replace($1.key, '{due}', instant(d)) order by d),
        array_agg(replace($1.args::text, '{due}', instant(d))::jsonb order by d), $1.priority, null)
    from unnest($2) d having count(*) > 0
$$;

-- Enqueues the jobs of these due times and goes on to the next, all or nothing. False: somebody else did, it is paused or gone, or
-- it is stuck from now on.
create function noshi.fire_schedule(p_name text, p_was timestamptz, p_next timestamptz, p_dues timestamptz[], p_skipped bigint)
returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s schedule;
    last timestamptz := (select max(d) from unnest(p_dues) d);
    job bigint;
begin
    select * into s from schedule o where o.name = p_name and o.next_due = p_was and o.paused_at is null and o.stuck is null for update;
    if not found then
        return false;
    end if;
    -- The rarest of all days, the 29th of February, comes after eight years at the latest.
    if p_was > clock_timestamp() or p_next is null or p_next <= p_was or p_next > clock_timestamp() + interval '9 years' or p_skipped < 0
       or exists (select from unnest(p_dues) d where d < p_was or d >= p_next or d > clock_timestamp() or d is null) then
        raise exception 'these are no due times of the schedule %: % and then %', p_name, p_dues, p_next using errcode = 'NS400';
    end if;
    begin
        select max(j) into job from enqueue_scheduled(s, p_dues) j;
        update schedule o set next_due = p_next, last_due = coalesce(last, o.last_due), last_job = coalesce(job, o.last_job),
            fired = o.fired + cardinality(p_dues), skipped = o.skipped + p_skipped where o.name = p_name;
    exception when others then
        -- A lock, a deadlock, no room, a shutdown: it is tried again.
        if left(sqlstate, 2) in ('40', '53', '55', '57') then
            raise;
        end if;
        -- Such as an id that exists with other arguments. The others go on, whatever it is; this one is for a person.
        update schedule o set stuck = composed(sqlerrm) where o.name = p_name;
        return false;
    end;
    return true;
end $$;

-- An instant as ids have it, whatever the session's settings.
create function noshi.instant(p_at timestamptz) returns text language sql stable
set search_path = noshi, pg_temp
as $$
    select to_char(p_at at time zone 'UTC', case when p_at = date_trunc('second', p_at, 'UTC') then 'YYYY-MM-DD"T"HH24:MI:SS"Z"'
        else 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"' end)
$$;

-- Fires nothing until it is resumed. Its due times go by, and are then missed ones.
create function noshi.pause_schedule(p_name text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare was schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    was := schedule_locked(p_name);
    update schedule o set paused_by = who(), paused_at = clock_timestamp(), paused_reason = p_reason where o.name = p_name and o.paused_at is null;
    perform record('schedule pause', 'schedule/' || p_name, p_reason, schedule_facts(was), jsonb_build_object('paused', true));
end $$;

-- The jobs that it fired stay.
create function noshi.remove_schedule(p_name text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare was schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    was := schedule_locked(p_name);
    delete from schedule o where o.name = p_name;
    perform record('schedule remove', 'schedule/' || p_name, p_reason, schedule_facts(was) || jsonb_build_object('fired', was.fired, 'skipped', was.skipped));
end $$;

create function noshi.resume_schedule(p_name text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare was schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    was := schedule_locked(p_name);
    update schedule o set paused_by = null, paused_at = null, paused_reason = null, stuck = null where o.name = p_name;
    perform record('schedule resume', 'schedule/' || p_name, p_reason, schedule_facts(was), jsonb_build_object('paused', false));
    perform pg_notify('noshi', 'schedule');
end $$;

create function noshi.schedule_facts(s noshi.schedule) returns jsonb language sql stable
set search_path = noshi, pg_temp
as $$
    select to_jsonb($1) - array['name', 'created_by', 'created_at', 'changed_by', 'changed_at', 'fired', 'skipped', 'last_job']
$$;

create function noshi.schedule_locked(p_name text) returns noshi.schedule language plpgsql
set search_path = noshi, pg_temp
as $$
declare s schedule;
begin
    select * into s from schedule where name = p_name for update;
    if not found then
        raise exception 'there is no schedule %', quote_literal(p_name) using errcode = 'NS404', hint = '`noshi schedule list` shows them.';
    end if;
    return s;
end $$;

-- Creates a schedule or changes it; true where it is new. Its next due time is drawn anew only where its times change. One that was
-- stuck tries again.
create function noshi.set_schedule(p_name text, p_kind text, p_key text, p_args jsonb, p_priority smallint, p_cron text, p_zone text, p_missed text,
    p_next timestamptz, p_reason text) returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    was schedule;
    s schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    if octet_length(p_cron) > 200 then
        raise exception 'cron: an expression has at most 200 bytes' using errcode = 'NS400', column = 'cron';
    end if;
    if is_zone(p_zone) is not true then
        raise exception 'zone: % is no time zone', coalesce(quote_literal(left(p_zone, 100)), 'null') using errcode = 'NS400', column = 'zone',
            hint = 'Nothing was changed. It is a name such as Asia/Tokyo.';
    end if;
    if octet_length(p_args::text) > 65536 then
        raise exception 'args: the arguments are larger than 64 KiB' using errcode = 'NS400', column = 'args', hint = 'Nothing was changed.';
    end if;
    if coalesce(p_name, '') !~ '^[a-z0-9][a-z0-9_.-]{0,62}$' then
        raise exception 'name: % is no name of a schedule', coalesce(quote_literal(p_name), 'null') using errcode = 'NS400',
            hint = 'Small letters, digits, and _ . - such as point-expiry.';
    end if;
    if not exists (select from schedule_kind k where k.kind = p_kind) then
        raise exception 'kind: jobs of the kind % are not for schedules', quote_nullable(p_kind) using errcode = 'NS403',
            hint = format('These are: %s. What gives value comes from producers or in batches; the schema''s owner may add a kind to noshi.schedule_kind.',
                (select string_agg(k.kind, ', ' order by k.kind) from schedule_kind k));
    end if;
    perform kind_guard(p_kind);
    if p_kind = 'probe' and coalesce(p_args ->> 'lane', 'probe') !~ '^probe(/|$)' then
        raise exception 'args.lane: the lane of a probe is probe, or begins with probe/' using errcode = 'NS400', column = 'args.lane';
    end if;
    if p_args ? 'contact' then
        raise exception 'args.contact: a schedule keeps nothing that is sealed' using errcode = 'NS400', column = 'args.contact';
    end if;
    if coalesce(strpos(p_key, '{due}'), 0) = 0 then
        raise exception 'args: without {due} two due times would be one job' using errcode = 'NS400';
    end if;
    if strpos(p_args ->> 'due', '{due}') > 0 and p_args ->> 'due' <> '{due}' then
        raise exception 'args.due: a due time is {due}, with nothing before or behind it' using errcode = 'NS400', column = 'args.due';
    end if;
    if p_next > clock_timestamp() + interval '100 years' then
        raise exception 'the next due time is over a hundred years away: %', p_next using errcode = 'NS400';
    end if;
    if p_priority is null or p_priority not in (0, 1) or coalesce(p_missed, '') not in ('every', 'latest', 'none') then
        raise exception 'priority is 0 or 1, and missed is every, latest or none' using errcode = 'NS400';
    end if;
    if p_next is null or p_next < clock_timestamp() - interval '1 minute' then
        raise exception 'the next due time lies in the past: %', coalesce(p_next::text, 'null') using errcode = 'NS400', hint = 'Try again.';
    end if;
    if coalesce(noshi.id_fault(replace(p_key, '{due}', instant(p_next)), 200),
                noshi.args_fault(p_kind, replace(p_args::text, '{due}', instant(p_next))::jsonb)) is not null then
        raise exception '%', coalesce('args: as an id, ' || noshi.id_fault(replace(p_key, '{due}', instant(p_next)), 200),
            noshi.args_fault(p_kind, replace(p_args::text, '{due}', instant(p_next))::jsonb)) using errcode = 'NS400';
    end if;
    insert into schedule (name, kind, key, args, priority, cron, zone, missed, next_due)
    values (p_name, p_kind, p_key, p_args, p_priority, p_cron, p_zone, p_missed, p_next)
    on conflict (name) do nothing returning * into s;
    if not found then
        was := schedule_locked(p_name);
        update schedule o set kind = p_kind, key = p_key, args = p_args, priority = p_priority, cron = p_cron, zone = p_zone, missed = p_missed,
            next_due = case when (o.cron, o.zone) = (p_cron, p_zone) then o.next_due else p_next end,
            stuck = null, changed_by = who(), changed_at = clock_timestamp()
        where o.name = p_name returning * into s;
    end if;
    perform record('schedule set', 'schedule/' || p_name, p_reason, case when was.name is not null then schedule_facts(was) end, schedule_facts(s));
    perform pg_notify('noshi', 'schedule');
    return was.name is null;
end $$;

-- Workers cannot tell when it is due next.
create function noshi.stick_schedule(p_name text, p_was timestamptz, p_why text) returns void language sql security definer
set search_path = noshi, pg_temp
as $$ update schedule set stuck = noshi.composed($3) where name = $1 and next_due = $2 $$;

-- The schedule that has been due longest and that nobody else has in flight, locked; and the clock that its due times are held against.
-- `p_kinds`: what this worker knows.
create function noshi.take_due_schedule(p_kinds text[]) returns table (name text, cron text, zone text, missed text, next_due timestamptz, clock timestamptz)
language sql security definer
set search_path = noshi, pg_temp
as $$
    select s.name, s.cron, s.zone, s.missed, s.next_due, clock_timestamp() from schedule s
    where s.paused_at is null and s.stuck is null and s.next_due <= clock_timestamp() and s.kind = any ($1)
    order by s.next_due, s.name limit 1 for update skip locked
$$;

-- Once, now, beside its due times and also while it is paused.
create function noshi.trigger_schedule(p_name text, p_reason text) returns table (job bigint, id text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s schedule;
    due timestamptz;
    fired_job bigint;
begin
    perform must('operate');
    perform reason_given(p_reason);
    s := schedule_locked(p_name);
    -- Under the lock, so that no two are at one instant.
    due := clock_timestamp();
    select j into fired_job from enqueue_scheduled(s, array[due]) j;
    update schedule o set last_job = fired_job, fired = o.fired + 1 where o.name = p_name;
    perform record('schedule trigger', 'schedule/' || p_name, p_reason, null, jsonb_build_object('due', instant(due), 'job', fired_job));
    return query select fired_job, replace(s.key, '{due}', instant(due));
end $$;

insert into noshi.schedule_kind (kind) values ('point_expiry'), ('probe');

create trigger audited after insert on noshi.schedule_kind for each row execute function noshi.audit_schedule_kind();

revoke all on function noshi.audit_schedule_kind(), noshi.enqueue_scheduled(noshi.schedule, timestamptz[]),
    noshi.fire_schedule(text, timestamptz, timestamptz, timestamptz[], bigint), noshi.instant(timestamptz),
    noshi.pause_schedule(text, text), noshi.remove_schedule(text, text), noshi.resume_schedule(text, text),
    noshi.schedule_facts(noshi.schedule), noshi.schedule_locked(text),
    noshi.set_schedule(text, text, text, jsonb, smallint, text, text, text, timestamptz, text),
    noshi.stick_schedule(text, timestamptz, text), noshi.take_due_schedule(text[]), noshi.trigger_schedule(text, text) from public;
grant execute on function noshi.fire_schedule(text, timestamptz, timestamptz, timestamptz[], bigint),
    noshi.stick_schedule(text, timestamptz, text), noshi.take_due_schedule(text[]) to noshi_worker;
grant execute on function noshi.pause_schedule(text, text), noshi.remove_schedule(text, text), noshi.resume_schedule(text, text),
    noshi.set_schedule(text, text, text, jsonb, smallint, text, text, text, timestamptz, text), noshi.trigger_schedule(text, text)
    to noshi_operator;
grant select on noshi.schedule to noshi_operator, noshi_worker, noshi_api;
grant select on noshi.schedule_kind to noshi_operator;

reset role;
