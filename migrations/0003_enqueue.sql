set role noshi_owner;

-- Which top-level fields two requests differ in, in words.
create function noshi.differing_fields(ours jsonb, theirs jsonb) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select string_agg(format('%s: recorded %s, now %s', key, coalesce(o.value::text, 'absent'), coalesce(t.value::text, 'absent')),
                      '; ' order by key)
    from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
    where o.value is distinct from t.value
$$;

-- Enqueues many jobs in the producer's own transaction: all of them, or none. Row i has keys[i] and args[i].
--
-- A key that exists with equal arguments is the same job; with other arguments it is an error that shows the difference
-- (SQLSTATE NS409). Malformed requests raise NS400. Returns the jobs' ids, row by row.
create function noshi.enqueue_rows(p_kind text, keys text[], p_args jsonb[], p_priority smallint default 1, p_batch bigint default null)
returns setof bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    bad record;
    -- Whatever the locale holds for a space, these leave nothing to see.
    visible constant text := '[^[:space:]\u00a0\u3000]';
begin
    if p_kind is null or p_kind !~ '^[a-z][a-z0-9_]{0,62}$' then
        raise exception 'a kind is a lower-case name, not %', coalesce(quote_literal(p_kind), 'null') using errcode = 'NS400';
    end if;
    if p_priority is null or p_priority not in (0, 1) then
        raise exception 'a priority is 0, where a person waits, or 1, not %', coalesce(p_priority::text, 'null') using errcode = 'NS400';
    end if;
    if cardinality(keys) <> cardinality(p_args) then
        raise exception '% keys but % args', cardinality(keys), cardinality(p_args) using errcode = 'NS400';
    end if;
    select row_no, key, args into bad from unnest(keys, p_args) with ordinality as r(key, args, row_no)
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

    insert into job (kind, key, fingerprint, args, priority, batch, row_no, rank)
    select p_kind, r.key, sha256(convert_to(r.args::text, 'UTF8')), r.args, p_priority, p_batch, r.row_no,
           case when p_priority = 0 then 0 else l.vtime + r.row_no end
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    cross join (select coalesce(max(vtime), 0) as vtime from lane where name = '') l
    order by r.key
    on conflict on constraint job_key do nothing;

    select r.row_no, r.key, noshi.differing_fields(j.args, r.args) as difference into bad
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    join job j on j.kind = p_kind and j.key = r.key
    where j.fingerprint <> sha256(convert_to(r.args::text, 'UTF8'))
    order by r.row_no limit 1;
    if found then
        raise exception 'row %: % % exists with other arguments', bad.row_no, p_kind, bad.key
            using errcode = 'NS409', detail = bad.difference,
                  hint = 'An id names one request for ever. Use a new id for a new request.';
    end if;

    -- A hint without payload; PostgreSQL folds equal ones of a transaction into one.
    perform pg_notify('noshi', '');
    return query select j.id from unnest(keys) with ordinality as r(key, row_no)
        join job j on j.kind = p_kind and j.key = r.key order by r.row_no;
end $$;

-- One job. `args` is an object of the kind's arguments; `key` the producer's own stable id.
create function noshi.enqueue(kind text, key text, args jsonb, priority smallint default 1)
returns bigint language sql security definer
set search_path = noshi, pg_temp
as $$ select noshi.enqueue_rows($1, array[$2], array[$3], $4) $$;

revoke all on function noshi.enqueue_rows(text, text[], jsonb[], smallint, bigint) from public;
revoke all on function noshi.enqueue(text, text, jsonb, smallint) from public;
grant execute on function noshi.enqueue_rows(text, text[], jsonb[], smallint, bigint) to noshi_producer, noshi_operator;
grant execute on function noshi.enqueue(text, text, jsonb, smallint) to noshi_producer, noshi_operator;

reset role;
