set role noshi_owner;
set local check_function_bodies = off;

-- A request as its job has it: what is sealed of it is kept beside it, and the arguments say where. So the same request is the same again,
-- though each sealing differs.
create function noshi.as_kept(p_kind text, p_key text, p_args jsonb) returns jsonb language sql immutable parallel safe
set search_path = noshi, pg_temp
as $$
    select case when $1 = 'store_creation' and jsonb_typeof($3 -> 'contact') = 'object' then $3 || jsonb_build_object('contact', $1 || '/' || $2) else $3 end
$$;

-- The first rows, 20 at most, whose id exists with other arguments: what `enqueue_rows` said NS409 about.
create function noshi.conflicts(p_kind text, keys text[], p_args jsonb[]) returns table (row_no bigint, key text, differences jsonb)
language plpgsql stable security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off
as $$
begin
    perform must('enqueue');
    return query select r.row_no, r.key, coalesce((select jsonb_agg(case when may_be_told(coalesce(j.asked_by, t.asked_by)) then d else d - 'recorded' end) from jsonb_array_elements(field_differences(coalesce(j.args, t.args), r.args)) d), '[]')
        from (select u.key, as_kept(p_kind, u.key, u.args) as args, u.row_no from unnest(keys, p_args) with ordinality as u(key, args, row_no)) r
        left join job j on j.kind = p_kind and j.key = r.key
        left join lateral (
            select o.fingerprint, s.job -> 'args' as args, s.job ->> 'asked_by' as asked_by from tombstone o left join archived_job s on s.id = o.id
            where j.id is null and o.kind = p_kind and o.key = r.key limit 1) t on true
        where coalesce(j.fingerprint, t.fingerprint) <> sha256(convert_to(r.args::text, 'UTF8')) and coalesce(j.args, t.args) is distinct from r.args
        order by r.row_no limit 20;
end $$;

-- Which top-level fields two requests differ in, in words.
create function noshi.differing_fields(ours jsonb, theirs jsonb) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select string_agg(format('%s: recorded %s, now %s', key, coalesce(o.value::text, 'absent'), coalesce(t.value::text, 'absent')),
                      '; ' order by key)
    from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
    where o.value is distinct from t.value
$$;

-- Which top-level fields two requests differ in, without what they hold.
create function noshi.differing_names(ours jsonb, theirs jsonb) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select string_agg(case when t.value is null then key || ' is missing' when o.value is null then key || ' was not asked for' else key || ' differs' end, '; ' order by key)
    from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
    where o.value is distinct from t.value
$$;

-- One job. `args` is an object of the kind's arguments; `key` the producer's own stable id.
--
-- A producer's commit waits for this: what is usual is written by one statement and looked at by one. Everything else is looked at as many are.
create function noshi.enqueue(kind text, key text, args jsonb, priority smallint default 1)
returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare made bigint;
begin
    if coalesce(current_setting('noshi.token', true), '') <> '' or not pg_has_role(session_user, 'noshi_producer', 'member') then
        perform must('enqueue');
    end if;
    if $4 in (0, 1) and is_usual($1, $2, $3) and is_held_to_no_more($1, $2, $3) and current_setting('transaction_isolation') = 'read committed'
       and not exists (select from batch_row r where r.key = $2) then
        insert into job (asked_by, kind, key, fingerprint, args, priority, row_no, rank)
        values (who(), $1, $2, sha256(convert_to($3::text, 'UTF8')), $3, $4, 1, 1 + (select vtime from lane where name = ''))
        on conflict on constraint job_key do nothing returning id into made;
        if made is not null then
            -- Looked at anew: this statement may have waited for the prune, or for a file.
            if exists (select from tombstone t where t.kind = $1 and t.key = $2) or exists (select from lost_call) or exists (select from batch_row r where r.key = $2) then
                made := (admit(array[made]))[1];
            end if;
            if made is not null then
                if exists (select from bell b where b.until > clock_timestamp()) then
                    perform pg_notify('noshi', '');
                end if;
                return made;
            end if;
        end if;
    elsif exists (select from kind k where k.name = $1 and k.for_tests) then
        perform kind_guard($1);
    end if;
    return (select id from enqueue_rows_into($1, array[$2], array[$3], $4) id);
end $$;

-- The producer's functions ask for the scope too.
create function noshi.enqueue_rows(p_kind text, keys text[], p_args jsonb[], p_priority smallint default 1)
returns setof bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if cardinality(keys) = 1 and cardinality(p_args) = 1 then
        return next enqueue($1, keys[array_lower(keys, 1)], p_args[array_lower(p_args, 1)], $4);
        return;
    end if;
    perform may_enqueue($1);
    return query select * from enqueue_rows_into($1, $2, $3, $4);
end $$;

-- Many requests at once. The kind must be one that there is and the caller's, and each row must be a good request.
create function noshi.enqueue_rows_into(p_kind text, keys text[], p_args jsonb[], p_priority smallint default 1, p_batch bigint default null) returns setof bigint language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_material = off
set jit = off
-- Planned once a session: arrays look alike whatever is in them, and a plan costs more than the rows.
set plan_cache_mode = force_generic_plan
as $$
declare
    asker constant text := who();
    known record;
    taken bigint;
    new_ids bigint[];
    bad record;
    odd_rows bigint[];
    odd_keys text[];
    odd_args jsonb[];
    guarded bigint[];
    as_sealed jsonb[];
    -- Whatever the locale holds for a space, these leave nothing to see.
    visible constant text := '[^[:space:]\u00a0\u3000]';
begin
    if p_kind is null or p_kind !~ '^[a-z][a-z0-9_]{0,62}$' then
        raise exception 'a kind is a lower-case name, not %', coalesce(quote_literal(p_kind), 'null') using errcode = 'NS400';
    end if;
    select k.for_tests into known from kind k where k.name = p_kind;
    if not found then
        raise exception 'kind: there is no kind %, so nothing was taken; there are %', quote_literal(p_kind),
            (select string_agg(k.name, ', ' order by k.name) from kind k where not k.for_tests) using errcode = 'NS400', column = 'kind';
    end if;
    if known.for_tests and not (pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_operator', 'member')) then
        raise exception 'kind: % is for trying out and measuring, and not for producers', p_kind using errcode = 'NS403', column = 'kind';
    end if;
    if p_priority is null or p_priority not in (0, 1) then
        raise exception 'a priority is 0, where a person waits, or 1, not %', coalesce(p_priority::text, 'null') using errcode = 'NS400';
    end if;
    if keys is null or cardinality(keys) is distinct from cardinality(p_args) then
        raise exception '% keys but % args', cardinality(keys), cardinality(p_args) using errcode = 'NS400';
    end if;
    -- What is usual is good at one look. The rest is looked at field by field, and only to name the fault; and held to what is asked of its kind beside.
    select array_agg(r.row_no) filter (where not u.usual), array_agg(r.key) filter (where not u.usual), array_agg(r.args) filter (where not u.usual), array_agg(r.row_no)
    into odd_rows, odd_keys, odd_args, guarded
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    cross join lateral (select is_usual(p_kind, r.key, r.args) is true as usual offset 0) u
    where not u.usual or is_held_to_no_more(p_kind, r.key, r.args) is not true
       or p_batch is null and exists (select from batch_row b where b.key = r.key);
    if odd_rows is not null then
        select row_no, key, args into bad from unnest(odd_keys, odd_args, odd_rows) as r(key, args, row_no)
        where key is null or key !~ visible or octet_length(key) > 200
           or args is null or jsonb_typeof(args) <> 'object' or octet_length(args::text) > 65536
        order by row_no limit 1;
        if found then
            raise exception 'row %: %', bad.row_no, case
                when bad.key is null or bad.key !~ visible then 'the id is empty'
                when octet_length(bad.key) > 200 then 'the id is longer than 200 bytes'
                when bad.args is null or jsonb_typeof(bad.args) <> 'object' then 'the arguments are not a JSON object'
                else 'the arguments are larger than 64 KiB' end using errcode = 'NS400';
        end if;
        -- Numbers by their value, before anything is compared.
        if exists (select from unnest(odd_args) a where a::text ~ '[0-9][.][0-9]*0') then
            p_args := (select array_agg(case when r.args::text ~ '[0-9][.][0-9]*0' then noshi.by_value(r.args) else r.args end order by r.n)
                       from unnest(p_args) with ordinality as r(args, n));
        end if;
        select r.row_no, f.fault into bad from unnest(odd_keys, odd_args, odd_rows) as r(key, args, row_no)
        cross join lateral (select noshi.request_fault(p_kind, r.key, r.args) as fault offset 0) f
        where f.fault is not null order by r.row_no limit 1;
        if found then
            raise exception 'row %: %', bad.row_no, bad.fault using errcode = 'NS400', column = split_part(bad.fault, ': ', 1),
                hint = 'Nothing of this request was written. Fix the field, and ask again.';
        end if;
        if p_kind <> 'probe' and exists (select from unnest(odd_args) a where jsonb_path_exists(a, '$.* ? (@ == null)')) then
            p_args := (select array_agg(case when jsonb_path_exists(r.args, '$.* ? (@ == null)') then jsonb_strip_nulls(r.args) else r.args end order by r.n)
                       from unnest(p_args) with ordinality as r(args, n));
        end if;
    end if;

    if p_kind = 'point_grant' then
        select r.row_no into bad from unnest(keys, p_args) with ordinality as r(key, args, row_no)
        where r.args ->> 'zone' <> 'Asia/Tokyo' and not is_zone(r.args ->> 'zone') order by r.row_no limit 1;
        if found then
            raise exception 'row %: args.zone: there is no such time zone; name one as Asia/Tokyo or UTC are named', bad.row_no
                using errcode = 'NS400', column = 'args.zone';
        end if;
    end if;

    if p_kind = 'store_creation' then
        as_sealed := p_args;
        p_args := (select array_agg(as_kept(p_kind, r.key, r.args) order by r.n) from unnest(keys, p_args) with ordinality as r(key, args, n));
    end if;

    if guarded is not null then
        perform guard_request(p_kind, r.key, r.args, p_batch) from unnest(keys, p_args) with ordinality as r(key, args, row_no) where r.row_no = any (guarded);
    end if;

    with made as (
    insert into job (asked_by, kind, key, fingerprint, args, priority, batch, row_no, rank)
    select asker, p_kind, r.key, sha256(convert_to(r.args::text, 'UTF8')), r.args, p_priority, p_batch, r.row_no,
           -- Whatever its priority: within one, a flood of one producer is in line with the others.
           l.vtime + r.row_no
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    cross join (select coalesce(max(vtime), 0) as vtime from lane where name = '') l
    order by r.key
    on conflict on constraint job_key do nothing returning id, row_no)
    select array_agg(m.id order by m.row_no), count(*) into new_ids, taken from made m;
    if taken > 0 then
        new_ids := admit(new_ids);
    end if;

    -- Of a request that comes again the first one's stands, and of one that is refused below nothing stays.
    if as_sealed is not null then
        insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
        select 'contact', j.args ->> 'contact', j.args ->> 'public_id', '', r.args -> 'contact' ->> 'key',
               decode(r.args -> 'contact' ->> 'nonce', 'base64'), decode(r.args -> 'contact' ->> 'ciphertext', 'base64')
        from unnest(keys, as_sealed) as r(key, args)
        cross join lateral (select * from job j where j.kind = p_kind and j.key = r.key offset 0) j
        where jsonb_typeof(r.args -> 'contact') = 'object' and j.args ->> 'contact' = p_kind || '/' || r.key on conflict do nothing;
    end if;

    -- A hint without payload; PostgreSQL folds equal ones of a transaction into one.
    if exists (select from bell b where b.until > clock_timestamp()) then
        perform pg_notify('noshi', '');
    end if;
    -- The usual: all of them are new, and none of them is one that a tombstone knows.
    if cardinality(new_ids) = cardinality(keys) then
        return query select unnest(new_ids);
        return;
    end if;

    select r.row_no, r.key, coalesce(case when noshi.may_be_told(coalesce(j.asked_by, t.asked_by)) then noshi.differing_fields(k.args, r.args) else noshi.differing_names(k.args, r.args) end, 'the recorded arguments are no longer kept') as difference into bad
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    left join lateral (select * from job j where j.kind = p_kind and j.key = r.key offset 0) j on true
    left join lateral (
        select t.fingerprint, s.job -> 'args' as args, s.job ->> 'asked_by' as asked_by from tombstone t left join archived_job s on s.id = t.id
        where j.id is null and t.kind = p_kind and t.key = r.key limit 1) t on true
    cross join lateral (select coalesce(j.args, t.args) as args) k
    where coalesce(j.fingerprint, t.fingerprint) <> sha256(convert_to(r.args::text, 'UTF8')) and k.args is distinct from r.args
    order by r.row_no limit 1;
    if found then
        raise exception 'row %: % % exists with other arguments', bad.row_no, p_kind, bad.key
            using errcode = 'NS409', detail = bad.difference,
                  hint = 'An id names one request for ever. Use a new id for a new request.';
    end if;

    return query select coalesce(j.id, t.id) from unnest(keys) with ordinality as r(key, row_no)
        left join lateral (select * from job j where j.kind = p_kind and j.key = r.key offset 0) j on true
        left join lateral (select t.id from tombstone t where j.id is null and t.kind = p_kind and t.key = r.key limit 1) t on true
        order by r.row_no;
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

-- The ids of point expiries are due times, which anybody can guess: a producer that takes one first would leave its schedule without a job.
-- So they are asked for by schedules, and by whoever may trigger one.
create function noshi.guard_request(p_kind text, p_key text, p_args jsonb, p_batch bigint) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    -- Of what is tried out, lanes of its own: it takes no turn of another's budget. The owner measures what they like.
    if p_kind = 'probe' and coalesce(p_args ->> 'lane', 'probe') !~ '^probe(/|$)' and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'args.lane: the lane of a probe is probe, or begins with probe/' using errcode = 'NS400', column = 'args.lane';
    end if;
    if (p_key collate "C" !~ '^[!-~]+$' and noshi.id_fault(p_key, 1000) is not null and not pg_has_role(session_user, 'noshi_worker', 'member'))
        or p_key in ('.', '..') then
        raise exception 'an id holds no control characters, none that cannot be seen, and is not . or ..' using errcode = 'NS400';
    elsif jsonb_path_exists(p_args, '$.**{33 to last}') then
        raise exception 'the arguments of % go deeper than 32 levels', p_key using errcode = 'NS400';
    elsif jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then
        raise exception 'the arguments of % hold a number that is too large', p_key using errcode = 'NS400';
    elsif (p_kind = 'point_reversal' or (p_kind = 'gift_issuance' and p_key like 'exchange/%'))
        and not pg_has_role(session_user, 'noshi_worker', 'member') then
        raise exception '% % belongs to an exchange of points, which asks for it by itself', p_kind, p_key using errcode = 'NS400',
            hint = 'Enqueue a point_exchange; a grant''s own id must not begin with exchange/.';
    elsif p_kind = 'point_expiry' and not (pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_operator', 'member')) then
        raise exception 'point_expiry % is asked for by a schedule', p_key using errcode = 'NS403',
            hint = 'An operator sets one, or triggers it: `noshi schedule`.';
    elsif p_kind = 'bulk_grants' then
        if not exists (select from batch b where 'batch/' || b.id = p_key and p_args = jsonb_build_object('batch', b.id) and b.released_at is not null) then
            raise exception 'bulk_grants % is made by the release of its batch', p_key using errcode = 'NS403', hint = 'Submit a file: `noshi batch submit`.';
        end if;
    elsif p_kind = 'gift_issuance' and p_args ? 'grant' and p_key is distinct from p_args ->> 'grant' then
        raise exception 'the id of a gift is its grant: % is not %', p_key, p_args ->> 'grant' using errcode = 'NS400';
    elsif p_kind like 'point\_%' and p_key <> (case p_kind when 'point_grant' then (p_args ->> 'benefit') || ':' || (p_args ->> 'source')
            when 'point_withdrawal' then p_args ->> 'user' when 'point_expiry' then p_args ->> 'due' else p_args ->> 'exchange' end) then
        raise exception 'the id of a % is made of its arguments: % is not what they say', p_kind, p_key using errcode = 'NS400',
            hint = 'point_grant: benefit:source. point_exchange: exchange. point_withdrawal: user.';
    elsif p_kind in ('gift_issuance', 'point_exchange') and p_args -> 'value' ? 'amount' and worth(p_args) is null then
        raise exception 'the amount of % is not a whole number of minor units above 0', p_key using errcode = 'NS400';
    end if;
    if p_batch is null and p_kind in ('gift_issuance', 'point_grant') and exists (select from batch_row r where r.key = p_key) then
        perform must_be_as_granted(p_kind, p_key, p_args);
    end if;
end $$;

-- Whether a usual request is held to nothing that `guard_request` asks beyond: it is a producer's, and its id is what its arguments say.
create function noshi.is_held_to_no_more(p_kind text, p_key text, p_args jsonb) returns boolean language plpgsql immutable parallel safe
as $$
begin
    return $2 not in ('.', '..') and case $1
        when 'gift_issuance' then $2 = $3 ->> 'grant'
        when 'point_grant' then $2 = ($3 ->> 'benefit') || ':' || ($3 ->> 'source') and coalesce($3 ->> 'zone', 'Asia/Tokyo') = 'Asia/Tokyo'
        when 'point_exchange' then $2 = $3 ->> 'exchange'
        when 'point_withdrawal' then $2 = $3 ->> 'user'
        else false end;
end $$;

-- Kinds for trying out and measuring are asked for by whoever owns the schema, since they wait in lanes as they are told.
create function noshi.kind_guard(p_kind text) returns void language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
begin
    if exists (select from kind k where k.name = p_kind and k.for_tests) and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'kind: % is for trying out and measuring, and not for producers', p_kind using errcode = 'NS403', column = 'kind',
            hint = 'Nothing was taken. The login that owns the schema may ask for it.';
    end if;
end $$;

-- Who shows a token needs its scope.
create function noshi.may_enqueue(p_kind text) returns void language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(current_setting('noshi.token', true), '') <> '' or not pg_has_role(session_user, 'noshi_producer', 'member') then
        perform must('enqueue');
    end if;
    if exists (select from kind k where k.name = p_kind and k.for_tests) then
        perform kind_guard(p_kind);
    end if;
end $$;

create function noshi.may_be_told(p_asked_by text) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$ select coalesce(p_asked_by = who(), false) or (select coalesce(bool_and('read' = any (t.scopes)), pg_has_role(session_user, 'noshi_operator', 'member')) from shown_token() t) $$;

-- What is looked at once for all that an insert brings, whichever way it came. Returns what stays of it, in the given order.
create function noshi.admit(p_ids bigint[]) returns bigint[] language plpgsql security definer
set search_path = noshi, pg_temp
-- Each row by the index of its key, whatever was last analyzed.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    stay bigint[] := p_ids;
    gone bigint[];
    bad record;
begin
    -- An id names one request for ever: one that a tombstone knows does not stay. An insert that waited in the unique index for the prune to
    -- commit sees the tombstone here, since each statement of this function has a new snapshot. Under an older snapshot it cannot; but there
    -- the pruned job is still to be seen beside the new one: two rows of one key, which a planner that trusts the key's uniqueness (PostgreSQL
    -- 18 joins no table with itself by a unique key) would never find. So they are counted, behind a fence.
    if current_setting('transaction_isolation') <> 'read committed'
       and exists (select from unnest(p_ids) i join job n on n.id = i
                   cross join lateral (select from job j where j.kind = n.kind and j.key = n.key offset 1) twice) then
        raise exception 'a job of this id was pruned meanwhile' using errcode = '40001', hint = 'Run the transaction again.';
    end if;
    gone := (select array_agg(n.id) from unnest(p_ids) i join job n on n.id = i join tombstone t on t.kind = n.kind and t.key = n.key);
    if gone is not null then
        delete from job where id = any (gone);
        stay := (select array_agg(i order by n) from unnest(p_ids) with ordinality as u(i, n) where i <> all (gone));
    end if;
    -- Whoever asks again for what was lost after its call gets a job in doubt, and not a second gift.
    if exists (select from lost_call) then
        update job j set in_doubt = true, called_at = k.called_at, lease = greatest(j.lease, k.lease + 1)
        from unnest(stay) i join job n on n.id = i join lost_call k on k.kind = n.kind and k.key = n.key where j.id = n.id;
    end if;
    -- Ids that noshi makes by itself are its own: who took one first would stop the batch that needs it. A message goes to the recipients of
    -- a batch, who are known to nobody else, so it is made by the batch. Workers ask in noshi's name; the schema's owner knows what they do.
    if pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_owner', 'member') then
        return stay;
    end if;
    -- From the validation to the end: what is granted may be asked for as it was granted, and not otherwise.
    select n.kind, n.key, h.batch into bad
    from unnest(stay) i join job n on n.id = i left join lateral (
        select b.id as batch from batch_row r join batch b on b.id = r.batch
        where r.key = n.key and b.kind = case n.kind when 'gift_issuance' then 'grants' when 'point_grant' then 'points' when 'store_creation' then 'stores' end
          and b.validated_at is not null and b.cancelled_at is null and b.refused_code is null
          and (case b.kind when 'grants' then b.registered_at else b.released_at end is null
               or n.args <> case b.kind when 'points' then r.args - array['grant', 'value'] else r.args end)
        limit 1) h on true
    where n.batch is null and (n.kind = 'email' or h.batch is not null) limit 1;
    if found then
        raise exception '%', case when bad.kind = 'email' then format('the message %s is made by the batch of what it announces', bad.key)
            else format('%s %s stands in batch %s, which asks for it by itself', bad.kind, bad.key, bad.batch) end
            using errcode = 'NS400', hint = 'Nothing was taken. Use an id of your own.';
    end if;
    return stay;
end $$;

revoke all on function noshi.admit(bigint[]), noshi.guard_request(text, text, jsonb, bigint), noshi.is_held_to_no_more(text, text, jsonb), noshi.as_kept(text, text, jsonb), noshi.conflicts(text, text[], jsonb[]), noshi.differing_names(jsonb, jsonb),
    noshi.enqueue(text, text, jsonb, smallint), noshi.enqueue_rows(text, text[], jsonb[], smallint),
    noshi.enqueue_rows_into(text, text[], jsonb[], smallint, bigint), noshi.field_differences(jsonb, jsonb, text),
    noshi.kind_guard(text), noshi.may_be_told(text), noshi.may_enqueue(text) from public;
grant execute on function noshi.conflicts(text, text[], jsonb[]) to noshi_api;
grant execute on function noshi.enqueue(text, text, jsonb, smallint), noshi.enqueue_rows(text, text[], jsonb[], smallint)
    to noshi_producer, noshi_api;

reset role;
