set role noshi_owner;

-- What an attack on points found.

-- The ids of point expiries are due times, which anybody can guess: a producer that takes one first would leave its schedule without a job.
-- So they are asked for by schedules, and by whoever may trigger one.
create or replace function noshi.job_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if new.key ~ U&'[\0001-\001f\007f-\009f\200b-\200f\202a-\202e\2060-\2069\feff]' or new.key in ('.', '..') then
        raise exception 'an id holds no control characters, none that cannot be seen, and is not . or ..' using errcode = 'NS400';
    elsif jsonb_path_exists(new.args, '$.**{33 to last}') then
        raise exception 'the arguments of % go deeper than 32 levels', new.key using errcode = 'NS400';
    elsif jsonb_path_exists(new.args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then
        raise exception 'the arguments of % hold a number that is too large', new.key using errcode = 'NS400';
    elsif (new.kind = 'point_reversal' or (new.kind = 'gift_issuance' and new.key like 'exchange/%'))
        and not pg_has_role(session_user, 'noshi_worker', 'member') then
        raise exception '% % belongs to an exchange of points, which asks for it by itself', new.kind, new.key using errcode = 'NS400',
            hint = 'Enqueue a point_exchange; a grant''s own id must not begin with exchange/.';
    elsif new.kind = 'point_expiry' and not (pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_operator', 'member')) then
        raise exception 'point_expiry % is asked for by a schedule', new.key using errcode = 'NS403',
            hint = 'An operator sets one, or triggers it: `noshi schedule`.';
    elsif new.kind = 'bulk_grants' then
        if not exists (select from batch b where 'batch/' || b.id = new.key and new.args = jsonb_build_object('batch', b.id) and b.released_at is not null) then
            raise exception 'bulk_grants % is made by the release of its batch', new.key using errcode = 'NS403', hint = 'Submit a file: `noshi batch submit`.';
        end if;
    elsif new.kind = 'gift_issuance' and new.args ? 'grant' and new.key is distinct from new.args ->> 'grant' then
        raise exception 'the id of a gift is its grant: % is not %', new.key, new.args ->> 'grant' using errcode = 'NS400';
    elsif new.kind like 'point\_%' and new.key <> (case new.kind when 'point_grant' then (new.args ->> 'benefit') || ':' || (new.args ->> 'source')
            when 'point_withdrawal' then new.args ->> 'user' when 'point_expiry' then new.args ->> 'due' else new.args ->> 'exchange' end) then
        raise exception 'the id of a % is made of its arguments: % is not what they say', new.kind, new.key using errcode = 'NS400',
            hint = 'point_grant: benefit:source. point_exchange: exchange. point_withdrawal: user.';
    elsif new.kind in ('gift_issuance', 'point_exchange') and new.args -> 'value' ? 'amount' and worth(new.args) is null then
        raise exception 'the amount of % is not a whole number of minor units above 0', new.key using errcode = 'NS400';
    end if;
    return new;
end $$;

-- The list of all zones is read from hundreds of files each time, 40 ms a grant; one zone is one file, read once by a session.
create or replace function noshi.grant_points(p_job bigint) returns table (entry bigint, code text, detail text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_grant');
    now_at timestamptz := clock_timestamp();
    zone constant text := coalesce(a ->> 'zone', 'Asia/Tokyo');
    expires_at timestamptz;
begin
    if a is null then
        return;
    end if;
    begin
        -- A name, and not a rule or an abbreviation, whose signs and seasons mean something else than they seem to.
        if zone = 'UTC' or zone ~ '^[A-Za-z_]+(/[A-Za-z0-9_+-]+)+$' then
            expires_at := point_expiry_of(now_at, (a ->> 'valid_days')::integer, zone);
        end if;
    exception when invalid_parameter_value then
    end;
    if expires_at is null then
        return query select null::bigint, 'points_conflict', format('there is no time zone %s', zone);
        return;
    end if;
    return query select b.entry, point_refusal(b.outcome), b.detail from book_grant(
        now_at, format('acquire:%s:%s', a ->> 'benefit', a ->> 'source'), a ->> 'user', (a ->> 'points')::bigint, a ->> 'benefit', a ->> 'source',
        expires_at, a ->> 'area', p_job) b;
end $$;

-- The gift may be moved out before its points come back: the reversal may have waited for a person.
create or replace function noshi.return_points(p_job bigint) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    a jsonb := running_job(p_job, 'point_reversal');
    returned record;
begin
    -- The gift asked for this in the commit that ended it, and a gift that ended so never begins again.
    if not exists (select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || (a ->> 'exchange') and g.status = 'failed')
        and not exists (select from tombstone g where g.kind = 'gift_issuance' and g.key = 'exchange/' || (a ->> 'exchange') and g.status = 'failed') then
        return null;
    end if;
    select * into strict returned from book_reversal(clock_timestamp(), 'reverse:' || (a ->> 'exchange'), 'use:' || (a ->> 'exchange'),
        make_interval(days => coalesce((a ->> 'grace_days')::integer, 0)), p_job);
    return case when returned.outcome in ('posted', 'replayed') then returned.entry end;
end $$;

-- What the ledger alone cannot know: an exchange whose gift came to nothing has its points back, or a job that is still to see to it.
create function noshi.verify_exchanges() returns table (equation text, subject text, fault text)
language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select 'no gift, so the points are back', format('exchange %s', x.id), 'its gift failed, and nothing returns its points'
    from (select e.id as entry, substr(e.key, 5) as id from point_entry e where e.kind = 'use' and e.job is not null and e.key like 'use:%') x
    where exists (
            select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || x.id and g.status = 'failed'
            union all
            select from tombstone g where g.kind = 'gift_issuance' and g.key = 'exchange/' || x.id and g.status = 'failed')
      and not exists (select from point_entry r where r.reverses = x.entry)
      and not exists (select from job r where r.kind = 'point_reversal' and r.key = x.id and r.status not in ('completed', 'failed', 'cancelled'))
$$;
revoke all on function noshi.verify_exchanges() from public;
grant execute on function noshi.verify_exchanges() to noshi_operator;

-- A row whose id no job can have would stop its whole batch after the release.
alter table noshi.batch_row add constraint key_is_plain
    check (key !~ U&'[\0001-\001f\007f-\009f\200b-\200f\202a-\202e\2060-\2069\feff]' and key not in ('.', '..')) not valid;

-- An instant that no program can hold would hide all schedules.
do $$
declare
    was constant text := 'if p_next is null or p_next < clock_timestamp() - interval ''1 minute'' then';
    body text := pg_get_functiondef('noshi.set_schedule'::regproc);
begin
    if strpos(body, was) = 0 then
        raise exception 'set_schedule does not read as it was written';
    end if;
    execute replace(body, was, 'if p_next > clock_timestamp() + interval ''100 years'' then
        raise exception ''the next due time is over a hundred years away: %'', p_next using errcode = ''NS400'';
    end if;
    if p_priority is null or p_priority not in (0, 1) or coalesce(p_missed, '''') not in (''every'', ''latest'', ''none'') then
        raise exception ''priority is 0 or 1, and missed is every, latest or none'' using errcode = ''NS400'';
    end if;
    ' || was);
end $$;

reset role;
