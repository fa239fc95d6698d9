-- What was pruned is still its user's: codes are shown, and conflicts told, from the stories of jobs.
set role noshi_owner;

create or replace function noshi.conflicts(p_kind text, keys text[], p_args jsonb[]) returns table (row_no bigint, key text, differences jsonb)
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

create or replace function noshi.reveal_gift(p_grant text, p_user text, p_reason text)
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
    from job o where o.kind = 'gift_issuance' and o.key = p_grant;
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

-- Only that it was, and how it ended.
grant select (kind, key, status, at, finished_at) on noshi.tombstone to noshi_api;

reset role;
