-- What the HTTP interface needs of the database beside what others use too. It acts as noshi_api, in the name of a token.
set role noshi_owner;

-- From here to the end of the transaction whatever is done is done by this token, which must have the scope.
create function noshi.act_by(p_token text, p_scope text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(p_token, '') = '' then
        raise exception 'no token was shown' using errcode = 'NS401';
    end if;
    perform set_config('noshi.token', p_token, true);
    perform must(p_scope);
end $$;

-- Which fields two requests differ in, down to single values: [{"field": "value.amount", "recorded": 500, "now": 600}]. A side that
-- does not have the field does not name it.
create function noshi.field_differences(ours jsonb, theirs jsonb, p_path text default '') returns jsonb language plpgsql immutable
set search_path = noshi, pg_temp
as $$
declare
    found_all jsonb := '[]';
    f record;
begin
    for f in select p_path || key as field, o.value as ours, t.value as theirs
             from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
             where o.value is distinct from t.value order by key loop
        if jsonb_typeof(f.ours) = 'object' and jsonb_typeof(f.theirs) = 'object' then
            found_all := found_all || field_differences(f.ours, f.theirs, f.field || '.');
        else
            found_all := found_all || jsonb_build_array(jsonb_build_object('field', f.field)
                || case when f.ours is null then '{}' else jsonb_build_object('recorded', f.ours) end
                || case when f.theirs is null then '{}' else jsonb_build_object('now', f.theirs) end);
        end if;
    end loop;
    return found_all;
end $$;

-- The first rows, 20 at most, whose id exists with other arguments: what `enqueue_rows` said NS409 about.
create function noshi.conflicts(p_kind text, keys text[], p_args jsonb[]) returns table (row_no bigint, key text, differences jsonb)
language plpgsql stable security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off
as $$
begin
    perform must('enqueue');
    return query select r.row_no, r.key, coalesce(field_differences(coalesce(j.args, t.args), r.args), '[]')
        from unnest(keys, p_args) with ordinality as r(key, args, row_no)
        left join job j on j.kind = p_kind and j.key = r.key
        left join lateral (
            select o.fingerprint, s.job -> 'args' as args from tombstone o left join job_story s on s.id = o.id
            where j.id is null and o.kind = p_kind and o.key = r.key limit 1) t on true
        where coalesce(j.fingerprint, t.fingerprint) <> sha256(convert_to(r.args::text, 'UTF8'))
        order by r.row_no limit 20;
end $$;

-- A token of every budget of a lane, for one call that no job makes. `closed`: not now. `wait`: seconds until the call may be made, or
-- until it is worth asking again. Spends as claims do, and nothing where the slot is further away than `p_within`.
create function noshi.spend_token(p_lane text, p_within interval) returns table (closed boolean, wait float8, jitter float8)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    l lane;
    clock timestamptz;
    here text := server();
    slot interval;
begin
    perform must('reveal');
    select * into l from lane o where o.name = p_lane for update;
    clock := clock_timestamp();
    if not found or l.paused or l.closed_code = 'credentials' or l.closed_until > clock then
        return query select true, greatest(1, coalesce(extract(epoch from l.closed_until - clock), 60))::float8, 0::float8;
        return;
    end if;
    with budget as materialized (
        select b.per, i.emission, p.base, p.base - (b.burst - 1) * i.emission - clock as first
        from lane_budget b
        cross join lateral (select (b.per + b.jitter) / (b.calls - b.burst + 1) as emission) i
        cross join lateral (select greatest(b.tat, clock, case when l.server not in ('', here)
            then clock + p_within + least(b.per, '1 second') end) as base) p
        where b.lane = p_lane
        for update of b),
    far as (select coalesce(max(first), '0') as first from budget),
    spent as (
        update lane_budget t set tat = b.base + b.emission from budget b, far
        where t.lane = p_lane and t.per = b.per and far.first <= p_within)
    select first into slot from far;
    if slot > p_within then
        return query select true, greatest(1, extract(epoch from slot))::float8, 0::float8;
        return;
    end if;
    update lane o set tokens = o.tokens + 1, server = here where o.name = p_lane;
    return query select false, greatest(0, extract(epoch from slot))::float8,
        coalesce((select min(extract(epoch from b.jitter)) from lane_budget b where b.lane = p_lane), 3600)::float8;
end $$;

-- The provider asked for a pause: for the whole fleet.
create function noshi.throttle_lane(p_lane text, p_wait interval) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform must('reveal');
    update lane set closed_until = greatest(closed_until, clock_timestamp() + p_wait) where name = p_lane;
end $$;

-- Hands out what is needed to show a gift to its user, and writes that down in the same transaction. The code is sealed; where the
-- provider's rule is to ask for it again there is none, and `remembered` tells for how many seconds the same trade id surely gives the
-- same card.
create function noshi.reveal_gift(p_grant text, p_user text, p_reason text)
returns table (state jsonb, args jsonb, remembered float8, key_id text, nonce bytea, ciphertext bytea)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    j record;
    trade text;
begin
    perform must('reveal');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'to reveal a gift needs a reason' using errcode = 'NS400';
    end if;
    select o.at, o.status::text, o.undo is not null as unwinding, o.asked, o.args, o.state into j
    from job o where o.kind = 'gift_issuance' and o.key = p_grant for share;
    if not found then
        select t.at, t.status::text, nullif(s.job -> 'undo', 'null') is not null as unwinding, null::text as asked,
               coalesce(s.job -> 'args', jsonb_build_object('user', t.about)) as args, s.job -> 'state' as state into j
        from tombstone t left join job_story s on s.id = t.id where t.kind = 'gift_issuance' and t.key = p_grant;
    end if;
    if not found or j.args ->> 'user' is distinct from p_user then
        raise exception 'this user has no gift of grant %', p_grant using errcode = 'NS404';
    end if;
    if j.at <> 'issued' or j.status <> 'completed' or j.unwinding or j.asked is not null then
        raise exception 'the gift of grant % is not issued (it is % at %)', p_grant, j.status, j.at using errcode = 'NS409';
    end if;
    if j.state is null then
        raise exception 'the gift of grant % is so old that its story is no longer kept', p_grant using errcode = 'NS410';
    end if;
    trade := j.state -> 'trade' ->> 'id';
    perform record('reveal', 'gift/' || p_grant, p_reason, null, jsonb_build_object('user', p_user, 'trade', trade));
    return query select j.state, j.args,
        extract(epoch from t.started_at - clock_timestamp())::float8 + (j.state -> 'trade' -> 'contract' ->> 'horizon_seconds')::float8,
        s.key_id, s.nonce, s.ciphertext
        from gift_trade t left join noshi_sealed.sealed s on s.what = 'gift_code' and s.subject = t.id
        where t.id = trade;
end $$;

do $$
declare f text;
begin
    foreach f in array array['noshi.act_by(text, text)', 'noshi.field_differences(jsonb, jsonb, text)', 'noshi.conflicts(text, text[], jsonb[])',
        'noshi.spend_token(text, interval)', 'noshi.throttle_lane(text, interval)', 'noshi.reveal_gift(text, text, text)'] loop
        execute format('revoke all on function %s from public', f);
    end loop;
    foreach f in array array['noshi.act_by(text, text)', 'noshi.conflicts(text, text[], jsonb[])',
        'noshi.spend_token(text, interval)', 'noshi.throttle_lane(text, interval)', 'noshi.reveal_gift(text, text, text)'] loop
        execute format('grant execute on function %s to noshi_api', f);
    end loop;
    -- Whatever arguments it has by now.
    for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = 'ask' loop
        execute format('grant execute on function %s to noshi_api', f);
    end loop;
end $$;

-- Only that it was, and how it ended.
grant select (kind, key, status, at, finished_at) on noshi.tombstone to noshi_api;

reset role;
