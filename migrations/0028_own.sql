set role noshi_owner;
set local check_function_bodies = off;

-- Facts of jobs that are not built in: what a step recorded beside its transition, in the same commit. They are inserted, and never changed.
create table noshi.fact (
    job          bigint not null,
    step         integer not null,
    name         text not null,
    kind         text not null,
    key          text not null,
    body         jsonb not null,
    recorded_at  timestamptz not null default clock_timestamp(),
    primary key (job, step, name),
    constraint job_is_named check (kind ~ '^[a-z][a-z0-9_]{0,62}$' and octet_length(key) <= 1000),
    constraint name_is_one check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    constraint body_is_small check (octet_length(body::text) <= 65536),
    constraint times_are_sane check (recorded_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index fact_key on noshi.fact (kind, key);

create trigger append_only before update or delete on noshi.fact for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.fact for each statement execute function noshi.journal_is_append_only();

-- A fact is of a job of one's own, which this worker has leased or settles in this very transaction.
create function noshi.own_fact_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if not exists (select from job j join kind k on k.name = j.kind and k.own where j.id = new.job and (j.kind, j.key) = (new.kind, new.key) and is_at_work(j.id)) then
        raise exception 'this is no fact of a job in flight: %', new.name using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return new;
end $$;

create trigger of_a_job_in_flight before insert on noshi.fact for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.own_fact_guard();

-- Which kinds a program has of its own, by the owner of the schema. A kind that was declared stays: its jobs are still there.
create function noshi.declare_kinds(p_kinds jsonb) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare taken text;
begin
    select d.name into taken from jsonb_to_recordset(p_kinds) as d(name text) join kind k on k.name = d.name and not k.own;
    if found then
        raise exception 'kind: % is one of noshi''s own', taken using errcode = 'NS400', hint = 'Nothing was declared. Give it another name.';
    end if;
    insert into kind (name, own, for_producers, id_field, fields)
    select d.name, true, d.for_producers, d.id_field, d.fields from jsonb_to_recordset(p_kinds) as d(name text, for_producers boolean, id_field text, fields jsonb)
    on conflict (name) do update set for_producers = excluded.for_producers, id_field = excluded.id_field, fields = excluded.fields;
end $$;

-- What is wrong with one field of a declared kind; null where nothing is. `p_is` is there, and not null.
create function noshi.own_field_fault(p_field jsonb, p_is jsonb) returns text language plpgsql stable
set search_path = noshi, pg_temp
as $$
declare
    said constant text := p_is #>> '{}';
    most constant bigint := p_field ->> 'most';
    other constant text := 'this must be ' || (p_field ->> 'wanted');
begin
    case p_field ->> 'holds'
        when 'whole' then
            if jsonb_typeof(p_is) <> 'number' then return other; end if;
            return case when said::numeric = trunc(said::numeric) and said::numeric between (p_field ->> 'least')::bigint and most then null else other end;
        when 'one_of' then
            return case when p_field -> 'one_of' @> p_is and jsonb_typeof(p_is) = 'string' then null else other end;
        when 'texts' then
            return case when jsonb_typeof(p_is) = 'object' and not jsonb_path_exists(p_is, '$.* ? (@.type() != "string")') then null else other end;
        else
            if jsonb_typeof(p_is) <> 'string' then return other; end if;
    end case;
    return case p_field ->> 'holds'
        when 'word' then case when octet_length(said) <= most and said ~ '^[A-Za-z0-9_.-]+$' and said not in ('.', '..') then null else other end
        when 'text' then text_fault(said, most::integer)
        when 'no_address' then case when strpos(said, '@') > 0 then 'this looks like an address; use an id of your own' else id_fault(said, most::integer) end
        when 'id' then id_fault(said, most::integer)
        else other end;
end $$;

-- The first fault of a request for a declared kind, as `field: sentence`; null where there is none, and for every built-in kind.
create function noshi.own_fault(p_kind text, p_key text, p_args jsonb) returns text language plpgsql stable
set search_path = noshi, pg_temp
as $$
declare
    k record;
    fault text;
begin
    select for_producers, id_field, fields into k from kind where name = p_kind and own;
    if not found then
        return null;
    end if;
    if not k.for_producers and not pg_has_role(session_user, 'noshi_worker', 'member') then
        return 'kind: producers may not ask for ' || p_kind || '; it follows from other jobs';
    end if;
    select format('args.%s: %s', f.name, d.fault) into fault
    from jsonb_array_elements(k.fields) with ordinality as r(field, n)
    cross join lateral (select r.field ->> 'name' as name, p_args -> (r.field ->> 'name') as holds) f
    cross join lateral (select case
        when f.holds is null and (r.field ->> 'needed')::bool or f.holds = 'null' and not (r.field ->> 'nullable')::bool
            then 'this is missing; it must be ' || (r.field ->> 'wanted')
        when f.holds is null or f.holds = 'null' then null
        else own_field_fault(r.field, f.holds) end as fault) d
    where d.fault is not null order by r.n limit 1;
    if found then
        return fault;
    end if;
    if p_args - array(select r ->> 'name' from jsonb_array_elements(k.fields) r) <> '{}' then
        return 'args: there is a field that is not known; there are ' || (select string_agg(r.f ->> 'name', ', ' order by r.n) from jsonb_array_elements(k.fields) with ordinality as r(f, n));
    end if;
    if k.id_field is not null and p_args ->> k.id_field is distinct from p_key then
        return 'id: this must be what args.' || k.id_field || ' is';
    end if;
    return null;
end $$;

revoke all on function noshi.declare_kinds(jsonb), noshi.own_fact_guard(), noshi.own_fault(text, text, jsonb), noshi.own_field_fault(jsonb, jsonb) from public;
grant insert (job, step, name, kind, key, body) on noshi.fact to noshi_worker;
grant select on noshi.fact to noshi_worker, noshi_operator;

reset role;
