set role noshi_owner;

-- A large loss is dealt with page by page, so that no statement outlasts a heartbeat. Until the last page nothing is claimed.
alter table noshi.failover
    add column dealing_since timestamptz,
    -- How many were put in doubt so far, by lane, and how far the pages of all jobs have come.
    add column paged jsonb not null default '{}',
    add column reached bigint not null default 0,
    add column windowed boolean not null default false;

-- A page of what `doubt_window` puts in doubt. What came after the first page is no part of it: what was lost can have called none of that.
create function noshi.doubt_window_page(f noshi.failover, p_page bigint, out doubted bigint, out paged jsonb, out is_last boolean)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    l record;
    n bigint;
    gifts bigint := 0;
begin
    doubted := 0;
    paged := f.paged;
    is_last := false;
    for l in select name, most_calls(name, f.seen_at - f.known_to) as most from lane where name <> '' order by name loop
        if l.name like 'gift/%' then
            gifts := gifts + coalesce(l.most, 0);
        end if;
        with head as (
            select j.id from job j where j.lane = l.name and not j.relief and j.writes and j.created_at <= f.dealing_since
              and (j.status = 'available' or (j.status in ('scheduled', 'retryable') and j.run_at <= f.seen_at))
            order by j.status = 'available' desc, j.priority, j.rank, j.id
            limit greatest(0, least(p_page - doubted, l.most - coalesce((paged ->> l.name)::bigint, 0))) for update),
        r as (
            update job j set unsure = true, called_at = least(j.called_at, f.known_to), lane = '', relief = false
            from head where j.id = head.id returning j.id, j.lease, j.step, j.at)
        insert into job_event (job, event, lease, step, became, detail)
        select id, 'timeline_changed', lease, step, at, 'a worker that died with the server may have called' from r;
        get diagnostics n = row_count;
        doubted := doubted + n;
        paged := paged || jsonb_build_object(l.name, coalesce((paged ->> l.name)::bigint, 0) + n);
        if doubted >= p_page then
            return;
        end if;
    end loop;
    with head as (
        select j.id from job j where j.lane = '' and not j.relief and not j.unsure and j.created_at <= f.dealing_since
          -- What the silent had in hand may have come to its lane, and been called, in what was lost.
          and (j.status = 'available' or (j.status = 'running'
              and exists (select from worker w where w.id = j.worker and w.timeline <> timeline() and w.dead_at >= f.seen_at)))
          and j.kind = 'gift_issuance' and j.at in ('new', 'routing')
        order by j.status = 'running' or j.lost > 0 desc, j.priority, j.rank, j.id
        limit greatest(0, least(p_page - doubted, gifts - coalesce((paged ->> '')::bigint, 0))) for update),
    r as (
        update job j set unsure = true, called_at = f.known_to from head where j.id = head.id returning j.id, j.lease, j.step, j.at)
    insert into job_event (job, event, lease, step, became, detail)
    select id, 'timeline_changed', lease, step, at, 'a worker that died with the server may have called' from r;
    get diagnostics n = row_count;
    doubted := doubted + n;
    paged := paged || jsonb_build_object('', coalesce((paged ->> '')::bigint, 0) + n);
    if doubted < p_page then
        is_last := true;
        update server_seen set owed = least(owed + gifts, 1000000000)::integer, lost_since = least(lost_since, f.known_to);
    end if;
end $$;

-- A page of what `doubt_everything` puts in doubt, in the order of numbers. As many rows are read, whatever they are.
create function noshi.doubt_everything_page(f noshi.failover, p_page bigint, out doubted bigint, out reached bigint)
language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    select max(id) into reached from (select j.id from job j where j.id > f.reached order by j.id limit p_page) page;
    with r as (
        update job j set unsure = true, called_at = least(j.called_at, f.known_to),
            lease = case when status = 'running' then lease + 1 else lease end,
            status = case when status = 'running' then 'available' else status end, worker = null,
            lane = case when status = 'needs_operator' then lane else '' end, relief = relief and status = 'needs_operator'
        where j.id > f.reached and j.id <= doubt_everything_page.reached
          and writes and status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning id, lease, step, at)
    insert into job_event (job, event, lease, step, became, detail)
    select id, 'timeline_changed', lease, step, at, 'more was lost than the workers remember' from r;
    get diagnostics doubted = row_count;
end $$;

-- As `deal_with_timeline`, a page at a time. 'goes_on': there is more to be done before anything is claimed.
create function noshi.deal_with_page(p_page bigint, out verdict text, out missing bigint, out silent integer, out doubted bigint)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s server_seen;
    f failover;
    done record;
    here text := timeline();
begin
    select * into s from server_seen for update;
    select * into f from failover where failover.timeline = here for update;
    verdict := 'same';
    if s.timeline = here or f.timeline is null then
        return;
    end if;
    if exists (select from worker w where w.timeline <> here and w.dead_at is null and w.stopped_at is null) then
        verdict := 'waits';
        return;
    end if;
    missing := f.missing;
    -- Dead before the failover is seen means that its jobs were rescued before.
    select count(*) into silent from worker w where w.timeline <> here and w.dead_at >= f.seen_at and w.stopped_at is null;
    -- Commits waited for a standby, and nothing that anybody remembers is missing: nothing was lost.
    verdict := case when f.missing > 0 or (silent > 0 and not s.synchronous) then 'lost' else 'whole' end;
    f.dealing_since := coalesce(f.dealing_since, clock_timestamp());
    if verdict = 'lost' and silent > 0 and not f.windowed then
        select * into done from doubt_window_page(f, p_page);
        update failover set dealing_since = f.dealing_since, paged = done.paged, windowed = done.is_last, doubted = f.doubted + done.doubted
        where failover.timeline = here returning * into f;
        -- Everybody else has their turn between two pages.
        if not done.is_last then
            verdict := 'goes_on';
            return;
        end if;
    end if;
    if f.overrun then
        select * into done from doubt_everything_page(f, p_page);
        update failover set dealing_since = f.dealing_since, reached = coalesce(done.reached, f.reached), doubted = f.doubted + done.doubted
        where failover.timeline = here returning * into f;
        if done.reached is not null then
            verdict := 'goes_on';
            return;
        end if;
        update server_seen set restored_to = least(restored_to, f.known_to);
    end if;
    doubted := f.doubted;
    -- Numbers that were given to what is lost are never given again.
    perform setval(pg_get_serial_sequence('noshi.job', 'id'), nextval(pg_get_serial_sequence('noshi.job', 'id')) + 1000000);
    perform setval(pg_get_serial_sequence('noshi.worker', 'id'), nextval(pg_get_serial_sequence('noshi.worker', 'id')) + 1000);
    update server_seen set timeline = here;
    update failover set verdict = deal_with_page.verdict, silent = deal_with_page.silent, dealt_at = clock_timestamp() where failover.timeline = here;
end $$;

-- For workers of an older version, which know of no pages.
create or replace function noshi.deal_with_timeline(out verdict text, out missing bigint, out silent integer, out doubted bigint)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    loop
        select d.verdict, d.missing, d.silent, d.doubted into verdict, missing, silent, doubted from deal_with_page(10000) d;
        exit when verdict <> 'goes_on';
    end loop;
end $$;
drop function noshi.doubt_window(timestamptz, timestamptz), noshi.doubt_everything(timestamptz);
revoke all on function noshi.doubt_window_page(noshi.failover, bigint), noshi.doubt_everything_page(noshi.failover, bigint), noshi.deal_with_page(bigint) from public;
grant execute on function noshi.deal_with_page(bigint) to noshi_worker;

-- What waits becomes due by no clock that is not trusted.
grant execute on function noshi.clock_holds() to noshi_worker;

-- A build before the marks sent mails without one. Their events are known by the service's id of the message; those that came before our own
-- answer was settled, as soon as it is.
create index email_event_unmatched on noshi.email_event (message) where job is null and message is not null;

create function noshi.match_email_events() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    -- With a mark, or of another configuration set, it was told whose it is.
    update email_event set job = new.id where job is null and message = new.state ->> 'message' and awaits = new.id;
    return null;
end $$;
revoke all on function noshi.match_email_events() from public;
create trigger match_email_events after update of state on noshi.job for each row
    when (new.kind = 'email' and new.at = 'accepted' and old.at <> 'accepted') execute function noshi.match_email_events();

-- The number that an event without a mark names, where nothing else tells yet whether it is ours.
alter table noshi.email_event add column awaits bigint;

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        -- The tombstone's story knows the message also where no event came before.
        ('select e.message from email_event e where e.job = t.id and e.oddity is null and e.message is not null
                  order by e.received_at limit 1)', 'select coalesce((select y.job -> ''state'' ->> ''message'' from job_story y where y.id = t.id),
                  (select e.message from email_event e where e.job = t.id and e.oddity is null and e.message is not null order by e.received_at limit 1)))'),
        -- Neither this nor the settle that it waits for misses the other.
        ('if p_job is not null and not alien then', 'if p_job is not null and not alien then
        perform from job j where j.id = p_job and j.kind = ''email'' and p_mark is null for no key update;'),
        ('insert into email_event (id, job, event, message, happened_at, detail, oddity)', 'insert into email_event (id, job, event, message, happened_at, detail, oddity, awaits)'),
        ('when p_unread or (p_job is not null and not ours) then ''unread'' end)', 'when p_unread or (p_job is not null and not ours) then ''unread'' end,
        case when ours is not true and not alien and p_mark is null and p_message is not null then p_job end)')
    ) as c(old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = 'record_email_event' and p.pronargs = 9;
        if strpos(body, change.old) = 0 then
            raise exception 'record_email_event does not read as it was written: %', change.old;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
