set role noshi_owner;
set local check_function_bodies = off;

-- One row a change of timeline.
create table noshi.failover (
    timeline       text primary key,
    was            text not null,
    seen_at        timestamptz not null default clock_timestamp(),
    -- The newest moment of the timeline before of which anything arrived here.
    known_to       timestamptz not null,
    -- Acknowledged writes that witnesses did not find.
    missing        bigint not null default 0,
    -- Workers that could not testify: they died with the server.
    silent         integer not null default 0,
    -- A witness no longer remembered everything that is missing.
    overrun        boolean not null default false,
    doubted        bigint not null default 0,
    -- 'whole' or 'lost', once the fleet has dealt with it.
    verdict        text check (verdict in ('whole', 'lost')),
    dealt_at       timestamptz,
    -- A large loss is dealt with page by page, so that no statement outlasts a heartbeat. Until the last page nothing is claimed.
    dealing_since  timestamptz,
    -- How many were put in doubt so far, by lane, and how far the pages of all jobs have come.
    paged          jsonb not null default '{}',
    reached        bigint not null default 0,
    -- The login whose worker said that the database is an older copy; null: the server's timeline shows it.
    said_by        name,
    windowed       boolean not null default false,
    constraint times_are_sane check (seen_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and known_to between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (dealt_at is null or dealt_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (dealing_since is null or dealing_since between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);

-- Calls whose claims were acknowledged and are gone: a job of this id is in doubt, also one that is asked for again.
create table noshi.lost_call (
    kind       text not null,
    key        text not null,
    lease      bigint not null,
    called_at  timestamptz not null,
    timeline   text not null,
    primary key (kind, key),
    constraint times_are_sane check (called_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- What a witness missed: claims that had been acknowledged to it.
create table noshi.testimony (
    timeline   text not null,
    worker     bigint not null,
    job        bigint not null,
    lease      bigint not null,
    kind       text not null,
    key        text not null,
    calls      boolean not null,
    called_at  timestamptz not null,
    -- Whose worker said so.
    login      name not null default session_user,
    primary key (timeline, worker, job, lease),
    constraint times_are_sane check (called_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- Deals with a new timeline, a page at a time. 'goes_on': there is more to be done before anything is claimed.
create function noshi.deal_with_page(p_page bigint, out verdict text, out missing bigint, out silent integer, out doubted bigint)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s server_seen;
    f failover;
    done record;
    here text := timeline();
    forgotten boolean;
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
    -- That more is missing than is remembered is one worker's word. What it forgot was called after the last that arrived here of anybody: where that is a
    -- moment ago, the lanes' budgets bound it as they bound what a dead worker began. Where it is longer ago, the database itself shows a gap.
    forgotten := f.overrun and f.seen_at - f.known_to > interval '1 minute';
    -- Dead before the failover is seen means that its jobs were rescued before.
    select count(*) into silent from worker w where w.timeline <> here and w.dead_at >= f.seen_at and w.stopped_at is null;
    -- Commits waited for a standby, and nothing that anybody remembers is missing: nothing was lost.
    verdict := case when f.missing > 0 or (silent > 0 and not s.synchronous) then 'lost' else 'whole' end;
    f.dealing_since := coalesce(f.dealing_since, clock_timestamp());
    if verdict = 'lost' and (silent > 0 or f.overrun) and not f.windowed then
        select * into done from doubt_window_page(f, p_page);
        update failover set dealing_since = f.dealing_since, paged = done.paged, windowed = done.is_last, doubted = f.doubted + done.doubted
        where failover.timeline = here returning * into f;
        -- Everybody else has their turn between two pages.
        if not done.is_last then
            verdict := 'goes_on';
            return;
        end if;
    end if;
    if forgotten then
        select * into done from doubt_everything_page(f, p_page);
        update failover set dealing_since = f.dealing_since, reached = coalesce(done.reached, f.reached), doubted = f.doubted + done.doubted
        where failover.timeline = here returning * into f;
        if done.reached is not null then
            verdict := 'goes_on';
            return;
        end if;
        update server_seen set restored_to = least(restored_to, f.known_to);
        -- Nobody proposed it: so it is on record whose worker said so.
        perform record('restore mark', 'database', 'workers testified that more was lost than they remember', jsonb_build_object('restored_to', s.restored_to),
            jsonb_build_object('restored_to', least(s.restored_to, f.known_to), 'in_doubt', f.doubted), who());
    end if;
    doubted := f.doubted;
    -- Numbers that were given to what is lost are never given again.
    perform setval(pg_get_serial_sequence('noshi.job', 'id'), nextval(pg_get_serial_sequence('noshi.job', 'id')) + 1000000);
    perform setval(pg_get_serial_sequence('noshi.worker', 'id'), nextval(pg_get_serial_sequence('noshi.worker', 'id')) + 1000);
    update server_seen set timeline = here;
    update failover set verdict = deal_with_page.verdict, silent = deal_with_page.silent, dealt_at = clock_timestamp() where failover.timeline = here;
end $$;

-- A page of what is put in doubt, in the order of numbers. As many rows are read, whatever they are.
create function noshi.doubt_everything_page(f noshi.failover, p_page bigint, out doubted bigint, out reached bigint)
language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    select max(id) into reached from (select j.id from job j where j.id > f.reached order by j.id limit p_page) page;
    with r as (
        update job j set in_doubt = true, called_at = least(j.called_at, f.known_to),
            lease = case when status = 'running' then lease + 1 else lease end,
            status = case when status = 'running' then 'available' else status end, worker = null,
            lane = case when status = 'needs_operator' then lane else '' end, reserved = reserved and status = 'needs_operator'
        where j.id > f.reached and j.id <= doubt_everything_page.reached
          and writes and status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning id, lease, step, at)
    insert into job_event (job, event, lease, step, became, detail)
    select id, 'timeline_changed', lease, step, at, 'more was lost than the workers remember' from r;
    get diagnostics doubted = row_count;
end $$;

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
    for l in select name, max_calls(name, f.seen_at - f.known_to) as most from lane where name <> '' order by name loop
        if l.name like 'gift/%' then
            gifts := gifts + coalesce(l.most, 0);
        end if;
        with head as (
            select j.id from job j where j.lane = l.name and not j.reserved and j.writes and j.created_at <= f.dealing_since
              and (j.status = 'available' or (j.status in ('scheduled', 'retryable') and j.run_at <= f.seen_at))
            order by j.status = 'available' desc, j.priority, j.rank, j.id
            limit greatest(0, least(p_page - doubted, l.most - coalesce((paged ->> l.name)::bigint, 0))) for update),
        r as (
            update job j set in_doubt = true, called_at = least(j.called_at, f.known_to), lane = '', reserved = false
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
        select j.id from job j where j.lane = '' and not j.reserved and not j.in_doubt and j.created_at <= f.dealing_since
          -- What the silent had in flight may have come to its lane, and been called, in what was lost.
          and (j.status = 'available' or (j.status = 'running'
              and exists (select from worker w where w.id = j.worker and w.timeline <> timeline() and w.dead_at >= f.seen_at)))
          and j.kind = 'gift_issuance' and j.at in ('new', 'routing')
        order by j.status = 'running' or j.crash_count > 0 desc, j.priority, j.rank, j.id
        limit greatest(0, least(p_page - doubted, gifts - coalesce((paged ->> '')::bigint, 0))) for update),
    r as (
        update job j set in_doubt = true, called_at = f.known_to from head where j.id = head.id returning j.id, j.lease, j.step, j.at)
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

-- How many calls a lane can have begun within a span; null where it has no budget.
create function noshi.max_calls(p_lane text, p_span interval) returns bigint language sql stable set search_path = noshi, pg_temp
as $$
    select min(b.burst + ceil(least(extract(epoch from p_span) / (extract(epoch from b.per + b.jitter) / (b.calls - b.burst + 1)), 1e9)))::bigint
    from lane_budget b where b.lane = p_lane
$$;

-- Notes a restart or a failover. The timeline itself is taken over only once it is dealt with; until then no claim is answered.
create function noshi.see_server() returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s server_seen;
    here text := timeline();
    waits boolean := current_setting('synchronous_standby_names') <> '';
begin
    select * into s from server_seen;
    if s.server <> server() or (s.timeline = here and s.synchronous <> waits) then
        select * into s from server_seen for update;
        update server_seen set server = server(), synchronous = case when timeline = here then waits else synchronous end,
            seen_at = case when server <> server() then clock_timestamp() else seen_at end;
    end if;
    if s.timeline <> here then
        insert into failover (timeline, was, known_to)
        select here, s.timeline, least(clock_timestamp(), greatest(s.seen_at, max(w.seen_at))) from worker w where w.timeline <> here
        on conflict do nothing;
    end if;
    return s.timeline <> here;
end $$;

-- What a worker remembers, against what is here. Called once for each change of timeline by each process that lived before it, known here or not.
--
-- A job that was claimed for a call, and whose claim is missing, is in doubt. Leases that were handed out before are never handed out
-- again, also where a number now belongs to another job, so that no settle under them can fit.
create function noshi.testify(p_worker bigint, p_beats bigint, p_newest interval, p_overrun boolean,
    p_jobs bigint[], p_leases bigint[], p_kinds text[], p_keys text[], p_calls boolean[], p_ago interval[],
    p_settled bigint[], p_settled_leases bigint[], p_settled_steps integer[])
returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    here text := timeline();
    lost bigint;
    n bigint;
    newest timestamptz;
begin
    -- No worker remembers more (src/engine/witness.rs).
    if cardinality(p_jobs) > 100000 or cardinality(p_settled) > 1000 then
        raise exception 'worker % remembers more than a worker does', p_worker using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    -- Of a change of timeline that is there to be told of, by the login whose worker it was; a registration may be lost with the rest.
    if not pg_has_role(session_user, 'noshi_owner', 'member') and (not exists (select from failover f where f.timeline = here)
            or exists (select from worker w where w.id = p_worker and w.login is distinct from session_user)
            or exists (select from unnest(p_leases) l where l is null or l not between 1 and 1000000000)) then
        raise exception 'worker % has nothing to testify here', p_worker using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    perform wait_for_requests();
    insert into testimony
    select here, p_worker, c.job, c.lease, c.kind, c.key, c.calls, clock_timestamp() - c.ago
    from unnest(p_jobs, p_leases, p_kinds, p_keys, p_calls, p_ago) as c(job, lease, kind, key, calls, ago)
    where not exists (select from job_event e where e.job = c.job and e.lease = c.lease and e.worker = p_worker and e.event = 'claimed')
      and not exists (select from lost_call k where k.kind = c.kind and k.key = c.key and k.lease >= c.lease)
    on conflict do nothing;
    get diagnostics lost = row_count;

    insert into lost_call (kind, key, lease, called_at, timeline)
    select kind, key, max(lease), min(called_at), here from testimony t
    where t.timeline = here and t.worker = p_worker and calls group by kind, key order by kind, key
    on conflict (kind, key) do update set lease = greatest(lost_call.lease, excluded.lease),
        called_at = least(lost_call.called_at, excluded.called_at), timeline = excluded.timeline;

    -- A row that fell back to before its call is in doubt wherever it stands now; one that is over has ended without that call.
    with m as (
        select kind, key, max(lease) as lease, bool_or(calls) as calls, min(called_at) filter (where calls) as called_at
        from testimony t where t.timeline = here and t.worker = p_worker group by kind, key),
    d as (
        update job j set lease = greatest(j.lease, m.lease) + 1, in_doubt = j.in_doubt or m.calls,
            called_at = least(j.called_at, m.called_at), worker = null,
            status = case when j.status = 'running' then 'available' else j.status end,
            lane = case when m.calls and j.status <> 'needs_operator' then '' else j.lane end,
            reserved = j.reserved and not (m.calls and j.status <> 'needs_operator')
        from m where j.kind = m.kind and j.key = m.key and j.status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning j.id, j.lease, j.step, j.at, m.calls)
    insert into job_event (job, event, lease, step, became, detail)
    select id, 'timeline_changed', lease, step, at, case when calls then 'its claim for a call was lost' else 'its claim was lost' end from d;
    get diagnostics n = row_count;
    update job j set lease = m.lease + 1 from testimony m
    where m.timeline = here and m.worker = p_worker and j.id = m.job and j.lease <= m.lease and (j.kind, j.key) <> (m.kind, m.key)
      and j.status in ('scheduled', 'available', 'retryable', 'needs_operator');

    select lost + count(*) into lost
    from unnest(p_settled, p_settled_leases, p_settled_steps) as s(job, lease, step)
    where not exists (select from job_event e where e.job = s.job and e.lease = s.lease and e.step = s.step and e.worker = p_worker and e.event = 'settled');
    if not exists (select from worker w where w.id = p_worker and w.beats >= p_beats) then
        lost := lost + 1;
    end if;
    -- The newest that is here of this worker, by the database's own clock: a worker's word for it would hide a gap.
    select max(there.at) into newest from (
        select w.seen_at as at from worker w where w.id = p_worker
        union all select e.happened_at from unnest(p_settled, p_settled_leases) s(job, lease) join job_event e on e.job = s.job and e.lease = s.lease and e.worker = p_worker
        union all select e.happened_at from unnest(p_jobs, p_leases) c(job, lease) join job_event e on e.job = c.job and e.lease = c.lease and e.worker = p_worker) there;
    update failover f set missing = f.missing + lost, doubted = f.doubted + n, overrun = f.overrun or (p_overrun and lost > 0),
        -- Everything that was acknowledged to a witness is here: so is everything before it.
        known_to = case when lost = 0 and p_newest is not null
            -- Nor was anything missing when this was said before, and its answer was lost.
            and not exists (select from testimony t where t.timeline = here and t.worker = p_worker) then greatest(f.known_to, least(f.seen_at, clock_timestamp() - p_newest, newest)) else f.known_to end
    where f.timeline = here;
    update worker set timeline = here where id = p_worker;
    -- It is believed, since nobody else can know; so it is on record whose worker it was, also where it is the only one.
    if lost > 0 then
        perform record('restore loss', 'database', format('worker %s says that acknowledged writes are missing', p_worker), null,
            jsonb_build_object('timeline', here, 'missing', lost, 'in_doubt', n), session_user);
    end if;
    return lost;
end $$;

-- Who asks again, for what was lost after its call, while that loss is being testified: their job was not there yet for the testimony, and the
-- testimony not yet for their job, so nothing was in doubt and the gift was bought a second time. An insert reads `lost_call` and keeps its
-- lock, so a testimony waits for those that are under way; not for longer than a second, since somebody may have gone away in the midst of one.
create function noshi.wait_for_requests() returns void language plpgsql
set search_path = noshi, pg_temp
set lock_timeout = '1s'
as $$
begin
    lock table lost_call in access exclusive mode;
exception when lock_not_available then
end $$;

-- Says that this database is older than what was acknowledged to the caller. The server from then on.
create function noshi.went_back() returns text language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s server_seen;
    start constant text := extract(epoch from pg_postmaster_start_time())::text;
begin
    select * into s from server_seen for update;
    -- Who comes second finds the change, and testifies for it.
    if s.timeline = timeline() then
        -- A copy is put in place beneath a server that is down. So nobody makes the fleet stop and look again and again.
        if s.era_of = start then
            raise exception 'of this start of the server that was said, and the fleet has dealt with it' using errcode = 'NS403',
                hint = 'Nothing was changed. This worker claims nothing: start it anew, and see who said it by `noshi doctor` and `noshi audit list`.';
        end if;
        update server_seen set era = greatest(s.era + 1, floor(extract(epoch from clock_timestamp()))::bigint), era_of = start;
        perform see_server();
        update failover set said_by = session_user where timeline = timeline();
        perform record('restore copy', 'database', 'a worker says that this database is older than what it acknowledged', null,
            jsonb_build_object('timeline', timeline()), session_user);
    end if;
    return server();
end $$;

revoke all on function noshi.deal_with_page(bigint), noshi.doubt_everything_page(noshi.failover, bigint),
    noshi.doubt_window_page(noshi.failover, bigint), noshi.max_calls(text, interval), noshi.see_server(),
    noshi.testify(bigint, bigint, interval, boolean, bigint[], bigint[], text[], text[], boolean[], interval[], bigint[], bigint[], integer[]),
    noshi.wait_for_requests(), noshi.went_back() from public;
grant execute on function noshi.deal_with_page(bigint), noshi.see_server(),
    noshi.testify(bigint, bigint, interval, boolean, bigint[], bigint[], text[], text[], boolean[], interval[], bigint[], bigint[], integer[]),
    noshi.went_back() to noshi_worker;
grant select on noshi.failover, noshi.lost_call, noshi.testimony to noshi_worker, noshi_operator;

reset role;
