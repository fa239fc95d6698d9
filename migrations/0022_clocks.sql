set role noshi_owner;
set local check_function_bodies = off;

-- False while the clock is over a minute from where trust in it would have brought it. Where no worker has ever looked, there is nothing to hold
-- it against.
create function noshi.clock_holds() returns boolean language sql volatile security definer
set search_path = noshi, pg_temp
as $$
    select s.trusted_at = '-infinity' or clock_timestamp() between s.trusted_at - interval '1 minute' and s.trusted_at + interval '1 minute' from server_seen s
$$;

-- What lies ahead of the clock and cannot be drawn back, for `noshi doctor`: history is only ever added to.
create function noshi.dated_ahead() returns table (what text, many bigint, newest timestamptz) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select 'entries of points', count(*), max(e.at) from point_entry e where e.at > clock_timestamp() + interval '1 minute' having count(*) > 0
$$;

-- Brings back what was stored while the clock was ahead of where it is, and tells what. Nothing of this is ever further ahead than it may be
-- by its own rules; a budget that is brought back still lets one whole period pass. What has no such rule is brought back only where the clock
-- is trusted now: one that is behind will come forward again.
create function noshi.draw_back(p_trusted boolean) returns table (what text, name text, ahead float8) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
#variable_conflict use_column
declare
    slack constant interval := '10 seconds';
    clock constant timestamptz := clock_timestamp();
    s server_seen;
    mark timestamptz;
begin
    -- In the order of claims: the lane first.
    perform from lane l where exists (select from lane_budget b where b.lane = l.name and b.tat > clock + b.per + b.jitter + slack)
        order by l.name for update;
    return query with o as (
            select b.lane, b.per, b.tat from lane_budget b where b.tat > clock + b.per + b.jitter + slack for update)
        update lane_budget b set tat = clock + b.per + b.jitter from o where b.lane = o.lane and b.per = o.per
        returning 'budget', o.lane, extract(epoch from o.tat - clock)::float8;
    -- Partners are obeyed for an hour at most.
    return query with o as (
            select l.name, l.closed_until from lane l where l.closed_until > clock + interval '1 hour' + slack and l.closed_until < 'infinity' for update)
        update lane l set closed_until = clock + interval '1 hour' from o where l.name = o.name
        returning 'closed lane', o.name, extract(epoch from o.closed_until - clock)::float8;
    return query with o as (
            select w.id, w.seen_at from worker w where w.dead_at is null and w.stopped_at is null and w.seen_at > clock + slack for update)
        update worker w set seen_at = clock from o where w.id = o.id
        returning 'heartbeat', o.id::text, extract(epoch from o.seen_at - clock)::float8;
    update metric_snapshot_taken f set next_at = clock, taken_at = least(f.taken_at, clock) where f.next_at > clock + interval '1 minute' + slack;
    select * into s from server_seen;
    if not p_trusted or (s.clock_at <= clock + slack and s.back_by is null) then
        return;
    end if;
    select * into s from server_seen for update;
    mark := s.clock_at;
    if mark > clock + slack then
        return query select 'clock', current_database()::text, extract(epoch from mark - clock)::float8;
        update lane l set closed_until = greatest(clock, l.closed_until - (mark - clock)) where l.closed_until > mark and l.closed_until < 'infinity';
        update batch b set counted_at = null where b.counted_at > clock + slack and b.settled_at is null;
        update redrive r set next_at = clock where r.next_at > clock + slack and r.done_at is null;
        update redrive r set canary_at = clock where r.canary_at > clock + slack and r.done_at is null;
        update retention r set begun_at = clock where r.begun_at > clock + slack;
        update email_quota q set asked_at = clock where q.asked_at > clock + slack;
        update server_seen s set seen_at = least(s.seen_at, clock), clock_at = clock,
            back_by = greatest(mark - clock, s.back_by), back_from = clock + slack;
    end if;
    return query select * from draw_back_jobs(1000);
end $$;

-- A page of the jobs that wait, in the order of their turns: those that were told to wait by a clock that was ahead, as their journals say, wait
-- as long as they were told to, from now on.
create function noshi.draw_back_jobs(p_page integer) returns table (what text, name text, ahead float8) language plpgsql
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
    clock constant timestamptz := clock_timestamp();
    s server_seen;
    upto timestamptz;
begin
    select * into s from server_seen for update;
    -- All of one moment belong to one page.
    select j.run_at into upto from job j
    where j.status in ('scheduled', 'retryable') and j.run_at > s.back_from and j.run_at < 'infinity' order by j.run_at offset p_page - 1 limit 1;
    return query with o as (
            select j.id, j.run_at from job j
            where j.status in ('scheduled', 'retryable') and j.run_at > s.back_from and j.run_at <= coalesce(upto, timestamptz '9999-01-01')
              and (j.entered_at > clock or exists (select from job_event e where e.job = j.id and e.happened_at > clock))
            for update),
        u as (
            update job j set run_at = greatest(clock, o.run_at - s.back_by), entered_at = least(j.entered_at, clock),
                called_at = case when j.called_at > clock then clock else j.called_at end from o where j.id = o.id
            returning o.run_at)
        select 'waiting jobs', count(*)::text, extract(epoch from max(u.run_at) - clock)::float8 from u having count(*) > 0;
    update server_seen set back_from = upto, back_by = case when upto is null then null else back_by end;
end $$;

-- The next due time lies beyond the first that there is from now on: it was reckoned from a clock that was ahead.
create function noshi.draw_back_schedule(p_name text, p_was timestamptz, p_next timestamptz) returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    update schedule s set next_due = p_next, last_due = case when s.last_due > clock_timestamp() then clock_timestamp() else s.last_due end
    where s.name = p_name and s.next_due = p_was and p_next < p_was and p_next > clock_timestamp() - interval '1 minute';
    return found;
end $$;

-- A worker's clock beside the database's. True where at least half of the workers that say so are within `p_bound` seconds of the database: a
-- single clock that is wrong must not hold up the fleet, and a database whose clock is wrong must not lead it.
create function noshi.report_clock(p_worker bigint, p_ahead float8, p_bound float8) returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare agree boolean;
begin
    update worker set clock_ahead = p_ahead where id = p_worker and abs(coalesce(clock_ahead, 1e9) - p_ahead) > 0.5;
    select count(*) filter (where abs(w.clock_ahead) <= p_bound) * 2 >= count(*) into agree
    from worker w where w.dead_at is null and w.stopped_at is null and w.clock_ahead is not null;
    return agree;
end $$;

-- Notes the clock, after a look at it: p_trusted says what the worker thinks of it. A clock that went on by more than the fleet's heartbeats
-- explain, or a fleet that was away, gives everybody one more lease time: no heartbeat is old because the clock came right.
create function noshi.see_clock(p_lease interval, p_trusted boolean) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    clock constant timestamptz := clock_timestamp();
    every constant interval := least(interval '1 second', p_lease / 10);
    s server_seen;
begin
    select * into s from server_seen;
    -- Once a second for the whole fleet, or as often as the lease time asks for.
    if clock >= s.clock_at + every or (p_trusted and clock >= s.trusted_at + every) or s.trusted_at > clock + interval '10 seconds' then
        select * into s from server_seen for update;
        update server_seen set
            seen_at = case when s.clock_at > '-infinity' and clock > s.clock_at + p_lease * 0.6 then clock else seen_at end,
            clock_at = greatest(clock_at, clock),
            trusted_at = case when p_trusted then clock else trusted_at end;
    end if;
    perform obey_orders();
end $$;

revoke all on function noshi.clock_holds(), noshi.dated_ahead(), noshi.draw_back(boolean), noshi.draw_back_jobs(integer),
    noshi.draw_back_schedule(text, timestamptz, timestamptz), noshi.report_clock(bigint, float8, float8),
    noshi.see_clock(interval, boolean) from public;
grant execute on function noshi.clock_holds(), noshi.draw_back(boolean), noshi.draw_back_schedule(text, timestamptz, timestamptz),
    noshi.report_clock(bigint, float8, float8), noshi.see_clock(interval, boolean) to noshi_worker;
grant execute on function noshi.dated_ahead() to noshi_operator;

reset role;
