set role noshi_owner;
set local check_function_bodies = off;

-- A trade id, saved before its first call whatever the answer may be (R11).
create table noshi.gift_trade (
    id          text primary key,
    grant_id    text not null,
    generation  smallint not null,
    job         bigint not null,
    provider    text not null,
    category    text not null,
    amount      bigint not null check (amount > 0),
    currency    text not null,
    started_at  timestamptz not null default clock_timestamp(),
    unique (grant_id, generation),
    constraint times_are_sane check (started_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index gift_trade_time on noshi.gift_trade using brin (started_at) with (pages_per_range = 32);

-- How a trade ended, if it did: issued, refused or void.
create table noshi.gift_outcome (
    trade        text not null references noshi.gift_trade (id),
    outcome      text not null check (outcome in ('issued', 'refused', 'void')),
    card         text,
    reason       text,
    happened_at  timestamptz not null default clock_timestamp(),
    primary key (trade, outcome),
    constraint times_are_sane check (happened_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
-- Facts come in the order of time, and so do tombstones: a range of it is a few pages.
create index gift_outcome_time on noshi.gift_outcome using brin (happened_at) with (pages_per_range = 32);

-- Sealed values: ciphertext only. `what` is gift_code (subject: the trade), recipient or contact (subject: batch and row; of a contact that was
-- asked for without a file, the job), file or suppressed.
create table noshi_sealed.sealed (
    what        text not null check (what in ('gift_code', 'recipient', 'contact', 'file', 'suppressed')),
    subject     text not null,
    grant_id    text not null,
    provider    text not null,
    key_id      text not null,
    nonce       bytea not null,
    -- No larger than what we write: whoever inserts one has workers open it.
    ciphertext  bytea not null,
    sealed_at   timestamptz not null default clock_timestamp(),
    primary key (what, subject),
    constraint key_is_named check (key_id ~ '^[A-Za-z0-9_-]{1,32}$'),
    constraint texts_are_short check (octet_length(subject) <= 400 and octet_length(grant_id) <= 400 and octet_length(provider) <= 200),
    constraint is_no_larger check (octet_length(nonce) <= 24 and octet_length(ciphertext) <= case what when 'file' then 33554432 else 16384 end),
    constraint times_are_sane check (sealed_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index sealed_key on noshi_sealed.sealed (key_id);

-- A user asks for the gift of a grant (発券): before all bulk work. The area is where the user would use it.
create function noshi.issue_grant(p_grant text, p_user text, p_area text default null) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    g record;
begin
    -- Locked, so that a batch that was cancelled since this transaction began is not taken for what it was; a cancel waits a
    -- second for it, and no other act does.
    select r.args, b.registered_at into g from batch_row r join batch b on b.id = r.batch
    where r.key = p_grant and b.kind = 'grants' and b.registered_at is not null order by b.cancelled_at desc nulls first limit 1 for key share of b;
    if not found or g.args ->> 'user' is distinct from p_user then
        raise exception 'this user has no grant %', p_grant using errcode = 'NS404';
    end if;
    if exists (select from batch_row r join batch b on b.id = r.batch where r.key = p_grant and b.kind = 'grants' and b.registered_at is not null and b.cancelled_at is not null)
        and not exists (select from batch_row r join batch b on b.id = r.batch where r.key = p_grant and b.kind = 'grants' and b.registered_at is not null and b.cancelled_at is null)
        and not exists (select from job where kind = 'gift_issuance' and key = p_grant and status <> 'cancelled')
        and not exists (select from tombstone where kind = 'gift_issuance' and key = p_grant and status <> 'cancelled') then
        raise exception 'grant % was cancelled with its batch', p_grant using errcode = 'NS410';
    end if;
    if g.args ->> 'area' is not null and g.args ->> 'area' is distinct from p_area then
        raise exception 'grant % is for the area %', p_grant, g.args ->> 'area' using errcode = 'NS403';
    end if;
    if g.registered_at + make_interval(days => (g.args ->> 'valid_days')::integer) < clock_timestamp() then
        raise exception 'grant % has lapsed', p_grant using errcode = 'NS410';
    end if;
    return enqueue('gift_issuance', p_grant, g.args, 0::smallint);
end $$;

-- The batch that grants what this job asks for otherwise than it asks, if one does. Asked before anything is bought or booked: what asked for it may
-- have been written under a snapshot from before that file, and a worker's statement sees what is committed.
create function noshi.granted_otherwise(p_job bigint) returns bigint language plpgsql stable security definer
set search_path = noshi, pg_temp
-- By the index of the key, also where the plan is from a time when there were no files.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    return (select b.id from job j join batch_row r on r.key = j.key join batch b on b.id = r.batch
        where j.id = p_job and j.batch is null and b.validated_at is not null and b.cancelled_at is null and b.refused_code is null
          and case j.kind
              when 'gift_issuance' then b.kind = 'grants' and r.args <> j.args
              when 'point_grant' then b.kind = 'points'
                  and jsonb_build_object('zone', 'Asia/Tokyo') || (r.args - array['grant', 'value']) <> jsonb_build_object('zone', 'Asia/Tokyo') || j.args
              else false end
        limit 1);
end $$;

create function noshi.bought_as_granted() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare other constant bigint := granted_otherwise(new.job);
begin
    if other is not null then
        raise exception 'batch % grants % otherwise than this job asks', other, new.grant_id using errcode = 'NS409',
            hint = 'Nothing was bought. See who asked for it, and cancel the job.';
    end if;
    return new;
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
    select o.at, o.status::text, o.undo is not null as unwinding, o.requested_act, o.args, o.state into j
    from job o where o.kind = 'gift_issuance' and o.key = p_grant for share;
    if not found then
        select t.at, t.status::text, nullif(s.job -> 'undo', 'null') is not null as unwinding, null::text as requested_act,
               coalesce(s.job -> 'args', jsonb_build_object('user', t.about)) as args, s.job -> 'state' as state into j
        from tombstone t left join archived_job s on s.id = t.id where t.kind = 'gift_issuance' and t.key = p_grant;
    end if;
    if not found or j.args ->> 'user' is distinct from p_user then
        raise exception 'this user has no gift of grant %', p_grant using errcode = 'NS404';
    end if;
    if j.at <> 'issued' or j.status <> 'completed' or j.unwinding or j.requested_act is not null then
        raise exception 'the gift of grant % is not issued (it is % at %)', p_grant, j.status, j.at using errcode = 'NS409';
    end if;
    if j.state is null then
        raise exception 'the gift of grant % is so old that its journal is no longer kept', p_grant using errcode = 'NS410';
    end if;
    trade := j.state -> 'trade' ->> 'id';
    perform record('reveal', 'gift/' || p_grant, p_reason, null, jsonb_build_object('user', p_user, 'trade', trade));
    return query select j.state, j.args,
        extract(epoch from t.started_at - clock_timestamp())::float8 + (j.state -> 'trade' -> 'contract' ->> 'horizon_seconds')::float8,
        s.key_id, s.nonce, s.ciphertext
        from gift_trade t left join noshi_sealed.sealed s on s.what = 'gift_code' and s.subject = t.id
        where t.id = trade;
end $$;

-- Sealed values come from functions of ours, from workers, each with the gift that it issues, and with the files, recipients and contacts of a
-- batch from whoever submits it, while it is received.
create function noshi.sealed_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if pg_has_role(session_user, 'noshi_owner', 'member') then
        return null;
    end if;
    perform from batch b where b.id in (select split_part(subject, '/', 1)::bigint from new_rows where what in ('file', 'recipient', 'contact') and subject ~ '^[0-9]{1,18}/') order by b.id for share;
    if exists (select from (select distinct what, split_part(subject, '/', 1) as batch from new_rows where what <> 'gift_code') n where not case
            when n.what = 'suppressed' then pg_has_role(session_user, 'noshi_webhook', 'member')
            else exists (
                select from batch b where b.id::text = n.batch and b.submitted_by = who() and b.validated_at is null and b.invalid_at is null and b.cancelled_at is null) end) then
        raise exception 'sealed values are taken with a batch that is being received, from whoever submits it' using errcode = 'NS403';
    end if;
    if exists (select from new_rows n where n.what = 'gift_code' and not exists (
            select from gift_trade t where t.id = n.subject and (t.grant_id, t.provider) = (n.grant_id, n.provider) and is_at_work(t.job))) then
        raise exception 'a code is taken with its gift, from the worker that issues it' using errcode = 'NS403';
    end if;
    return null;
end $$;

-- The ids of the keys that something is sealed with, found key by key in their index: a retired key must not be missing.
create function noshi.sealed_keys() returns setof text language sql stable security definer
set search_path = noshi, pg_temp
as $$
    with recursive k as (
        select min(key_id) as id from noshi_sealed.sealed
        union all
        select (select min(key_id) from noshi_sealed.sealed where key_id > k.id) from k where k.id is not null)
    select id from k where id is not null
$$;

-- Which key an id means: the digest of its public half, as the first worker said that had it. An id that is given to another key opens nothing.
create table noshi.vault_key (
    id       text primary key check (octet_length(id) between 1 and 32),
    print    text not null check (print ~ '^[0-9a-f]{64}$'),
    login    name not null default session_user check (octet_length(login) < 64),
    told_at  timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (told_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- What a worker's keys are worth here: those whose id means another key, and whether any of them opens something that is stored, if there is anything.
create function noshi.know_keys(p_ids text[], p_prints text[], out others text[], out opens boolean) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if cardinality(p_ids) > 100 then
        raise exception 'a worker has no more than 100 keys' using errcode = 'NS400';
    end if;
    insert into vault_key (id, print) select k.id, k.print from unnest(p_ids, p_prints) k(id, print) order by k.id on conflict do nothing;
    select coalesce(array_agg(v.id order by v.id), '{}') into others
    from unnest(p_ids, p_prints) k(id, print) join vault_key v on v.id = k.id and v.print <> k.print;
    opens := not exists (select from sealed_keys()) or exists (select from sealed_keys() s(id) where s.id = any (p_ids) and s.id <> all (others));
end $$;

-- Keys that something is sealed to, and that no living worker has. Where one does not say what it has, or none lives, nothing is known.
create function noshi.unopened_keys() returns setof text language sql stable security definer
set search_path = noshi, pg_temp
as $$
    with w as (select keys from worker where dead_at is null and stopped_at is null)
    select s.id from sealed_keys() s(id) where exists (select from w) and not exists (select from w where w.keys is null or s.id = any (w.keys))
$$;

create trigger bought_as_granted before insert on noshi.gift_trade for each row execute function noshi.bought_as_granted();
create trigger only_with_a_batch after insert on noshi_sealed.sealed referencing new table as new_rows
    for each statement when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.sealed_guard();

revoke all on function noshi.bought_as_granted(), noshi.granted_otherwise(bigint), noshi.issue_grant(text, text, text), noshi.reveal_gift(text, text, text), noshi.sealed_guard(),
    noshi.know_keys(text[], text[]), noshi.sealed_keys(), noshi.unopened_keys() from public;
grant execute on function noshi.know_keys(text[], text[]) to noshi_worker;
grant execute on function noshi.issue_grant(text, text, text) to noshi_producer, noshi_api;
grant execute on function noshi.sealed_keys(), noshi.unopened_keys() to noshi_operator;
grant select on noshi.vault_key to noshi_operator, noshi_api;
grant select on noshi.gift_outcome, noshi.gift_trade to noshi_worker, noshi_operator, noshi_api;
grant insert on noshi_sealed.sealed to noshi_worker, noshi_operator, noshi_api;
grant insert (trade, outcome, card, reason) on noshi.gift_outcome to noshi_worker;
grant insert (id, grant_id, generation, job, provider, category, amount, currency) on noshi.gift_trade to noshi_worker;

reset role;
