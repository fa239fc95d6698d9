set role noshi_owner;

-- The server's clock may go wrong, and come right again. What was stored meanwhile lies ahead of it then, and would be waited for.

-- How far the database's clock was ahead of the worker's, in seconds, at its last heartbeat.
alter table noshi.worker add column clock_ahead float8;
-- The latest that the fleet has seen of the database's clock: where the clock is before it, it has gone back.
alter table noshi.server_seen add column clock_at timestamptz not null default '-infinity';

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

-- Brings back what was stored while the clock was ahead of where it is, and tells what. Nothing of this is ever further ahead than it may be
-- by its own rules; a budget that is brought back still lets one whole period pass.
create function noshi.draw_back() returns table (what text, name text, ahead float8) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
#variable_conflict use_column
declare
    slack constant interval := '10 seconds';
    clock constant timestamptz := clock_timestamp();
    mark timestamptz;
begin
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
    select s.clock_at into mark from server_seen s;
    if mark between clock - interval '1 second' and clock + slack then
        return;
    end if;
    select s.clock_at into mark from server_seen s for update;
    if mark > clock + slack then
        return query select 'clock', current_database()::text, extract(epoch from mark - clock)::float8;
        return query select * from draw_back_jobs(clock);
        update lane l set closed_until = greatest(clock, l.closed_until - (mark - clock)) where l.closed_until > mark and l.closed_until < 'infinity';
        update batch b set counted_at = null where b.counted_at > clock + slack and b.settled_at is null;
        update redrive r set next_at = clock where r.next_at > clock + slack and r.done_at is null;
        update redrive r set canary_at = clock where r.canary_at > clock + slack and r.done_at is null;
        update retention r set begun_at = clock where r.begun_at > clock + slack;
        update figures_taken f set next_at = clock, taken_at = case when f.taken_at > clock then clock else f.taken_at end where f.next_at > clock + slack;
        update email_quota q set asked_at = clock where q.asked_at > clock + slack;
        update server_seen s set seen_at = least(s.seen_at, clock), clock_at = clock;
    else
        update server_seen s set clock_at = greatest(s.clock_at, clock);
    end if;
end $$;

-- Jobs that were told to wait by a clock that was ahead. Their journals say so.
create function noshi.draw_back_jobs(p_clock timestamptz) returns table (what text, name text, ahead float8) language sql
set search_path = noshi, pg_temp
as $$
    with o as (
        select j.id, j.run_at from job j where j.status in ('scheduled', 'retryable') and j.run_at > p_clock + interval '10 seconds' and j.run_at < 'infinity'
          and (j.entered_at > p_clock or exists (select from job_event e where e.job = j.id and e.happened_at > p_clock))
        order by j.id for update),
    u as (
        update job j set run_at = p_clock, entered_at = least(j.entered_at, p_clock),
            called_at = case when j.called_at > p_clock then p_clock else j.called_at end from o where j.id = o.id
        returning o.run_at)
    select 'waiting jobs', count(*)::text, extract(epoch from max(u.run_at) - p_clock)::float8 from u having count(*) > 0
$$;

-- The next due time lies beyond the first that there is from now on: it was reckoned from a clock that was ahead.
create function noshi.draw_back_schedule(p_name text, p_was timestamptz, p_next timestamptz) returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    update schedule s set next_due = p_next, last_due = case when s.last_due > clock_timestamp() then clock_timestamp() else s.last_due end
    where s.name = p_name and s.next_due = p_was and p_next < p_was and p_next > clock_timestamp() - interval '1 minute';
    return found;
end $$;

-- What lies ahead of the clock and cannot be drawn back, for `noshi doctor`: history is only ever added to.
create function noshi.dated_ahead() returns table (what text, many bigint, newest timestamptz) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select 'entries of points', count(*), max(e.at) from point_entry e where e.at > clock_timestamp() + interval '1 minute' having count(*) > 0
$$;

do $$
declare f text;
begin
    for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'noshi'::regnamespace
        and p.proname in ('report_clock', 'draw_back', 'draw_back_jobs', 'draw_back_schedule', 'dated_ahead') loop
        execute format('revoke all on function %s from public', f);
    end loop;
end $$;
grant execute on function noshi.report_clock(bigint, float8, float8), noshi.draw_back(), noshi.draw_back_schedule(text, timestamptz, timestamptz) to noshi_worker;
grant execute on function noshi.dated_ahead() to noshi_operator;

reset role;
