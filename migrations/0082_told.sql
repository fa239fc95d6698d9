set role noshi_owner;

-- What was recorded under an id is told to whoever asked for it, and to operators: another producer learns that its own differs, and where.
alter table noshi.job add column asked_by text;

-- Which top-level fields two requests differ in, without what they hold.
create function noshi.differing_names(ours jsonb, theirs jsonb) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select string_agg(case when t.value is null then key || ' is missing' when o.value is null then key || ' was not asked for' else key || ' differs' end, '; ' order by key)
    from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
    where o.value is distinct from t.value
$$;
create function noshi.may_be_told(p_asked_by text) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$ select coalesce(p_asked_by = who(), false) or (select coalesce(bool_and('read' = any (t.scopes)), pg_has_role(session_user, 'noshi_operator', 'member')) from shown_token() t) $$;

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('enqueue_rows_into', 'insert into job (kind, key, fingerprint, args, priority, batch, row_no, rank)', 'insert into job (asked_by, kind, key, fingerprint, args, priority, batch, row_no, rank)'),
        ('enqueue_rows_into', 'select p_kind, r.key, sha256(convert_to(r.args::text, ''UTF8'')), r.args, p_priority, p_batch, r.row_no,', 'select asker, p_kind, r.key, sha256(convert_to(r.args::text, ''UTF8'')), r.args, p_priority, p_batch, r.row_no,'),
        ('enqueue_rows_into', E'\ndeclare\n', E'\ndeclare\n    asker constant text := who();\n'),
        ('enqueue_rows_into', 'coalesce(noshi.differing_fields(k.args, r.args),', 'coalesce(case when noshi.may_be_told(coalesce(j.asked_by, t.asked_by)) then noshi.differing_fields(k.args, r.args) else noshi.differing_names(k.args, r.args) end,'),
        ('enqueue_rows_into', 'select t.fingerprint, s.job -> ''args'' as args from tombstone t', 'select t.fingerprint, s.job -> ''args'' as args, s.job ->> ''asked_by'' as asked_by from tombstone t'),
        ('conflicts', 'coalesce(field_differences(coalesce(j.args, t.args), r.args), ''[]'')',
            'coalesce((select jsonb_agg(case when may_be_told(coalesce(j.asked_by, t.asked_by)) then d else d - ''recorded'' end) from jsonb_array_elements(field_differences(coalesce(j.args, t.args), r.args)) d), ''[]'')'),
        ('conflicts', 'select o.fingerprint, s.job -> ''args'' as args from tombstone o', 'select o.fingerprint, s.job -> ''args'' as args, s.job ->> ''asked_by'' as asked_by from tombstone o'),
        -- What stands in a file is its submitter's.
        ('must_be_as_granted', 'detail = differing_fields(g.args, asked)', 'detail = case when may_be_told(null) then differing_fields(g.args, asked) else differing_names(g.args, asked) end')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written: %', change.name, change.old;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;
revoke all on function noshi.differing_names(jsonb, jsonb), noshi.may_be_told(text) from public;

reset role;
