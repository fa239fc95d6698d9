set role noshi_owner;

-- The report of a batch has the names and addresses of its file: whoever reads it over HTTP has a scope of its own for that, which no operator
-- gives themselves, and each time is on record.
alter table noshi.token drop constraint token_scopes_check;
alter table noshi.token add constraint token_scopes_check
    check (cardinality(scopes) > 0 and scopes <@ array['enqueue', 'read', 'operate', 'approve', 'reveal', 'personal']);
do $$
declare
    was constant text := 'array[''enqueue'', ''reveal'']';
    body text := pg_get_functiondef('noshi.create_token(text, bytea, text, text[], interval, integer)'::regprocedure);
begin
    if strpos(body, was) = 0 then
        raise exception 'create_token does not read as it was written';
    end if;
    execute replace(body, was, 'array[''enqueue'', ''reveal'', ''personal'']');
end $$;

-- Before the first row of it is opened.
create function noshi.note_report(p_batch bigint) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform must('personal');
    if not exists (select from batch where id = p_batch) then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    perform record('batch report', 'batch/' || p_batch, null);
end $$;
revoke all on function noshi.note_report(bigint) from public;
grant execute on function noshi.note_report(bigint) to noshi_operator, noshi_api;

reset role;
