set role noshi_owner;

-- Who asks again, for what was lost after its call, while that loss is being testified: their job was not there yet for the testimony, and the
-- testimony not yet for their job, so nothing was in doubt and the gift was bought a second time. An insert reads `lost_call` and keeps its
-- lock, so a testimony waits for those that are under way; not for longer than a second, since somebody may have gone away in the midst of one.
create function noshi.wait_for_requests() returns void language plpgsql
set search_path = noshi, pg_temp
set lock_timeout = '1s'
as $$
begin
    lock table lost_call in access exclusive mode;
exception when lock_not_available then
end $$;
revoke all on function noshi.wait_for_requests() from public;

do $$
declare body text;
begin
    select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = 'testify';
    if regexp_count(body, E'\nbegin\n') <> 1 then
        raise exception 'testify does not read as it was written';
    end if;
    execute replace(body, E'\nbegin\n', E'\nbegin\n    perform wait_for_requests();\n');
end $$;

reset role;
