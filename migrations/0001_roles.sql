-- Who may do what. Five group roles without login; a deployment grants them to its own logins.
--
--   noshi_owner     owns every object; migrations run as it
--   noshi_worker    claims and settles jobs; cannot change what was asked for, cannot delete, cannot rewrite the journal
--   noshi_producer  may call noshi.enqueue, and nothing else
--   noshi_operator  reads everything but sealed values; steers lanes
--   noshi_reader    reads reporting views
--
-- Roles belong to the whole server, so another database of it may have made them already.
do $$
declare name text;
begin
    foreach name in array array['noshi_owner', 'noshi_worker', 'noshi_producer', 'noshi_operator', 'noshi_reader', 'noshi_webhook', 'noshi_api'] loop
        begin
            execute format('create role %I nologin', name);
        exception when duplicate_object or unique_violation then null;
        end;
    end loop;
    execute format('grant noshi_owner to %I', current_user);
end $$;

create schema noshi authorization noshi_owner;
-- Gift codes and addresses, sealed by the worker before they reach the database.
create schema noshi_sealed authorization noshi_owner;

grant usage on schema noshi to noshi_worker, noshi_producer, noshi_operator, noshi_reader, noshi_webhook, noshi_api;
grant usage on schema noshi_sealed to noshi_worker, noshi_operator, noshi_api;

set role noshi_owner;

-- A function reads its own text and reckons its days the same in any session: neither old rules for backslashes, nor a zone with a change of
-- clocks between, may change what it does. `create or replace` forgets such settings, so this is done after every run of migrations.
create function noshi.pin_functions() returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare f record;
begin
    for f in select p.oid::regprocedure::text as name,
            p.prosrc ~ '\\|U&' and not coalesce('standard_conforming_strings=on' = any (p.proconfig), false) as words,
            p.prosrc ~* 'interval|days|date_trunc|::date|current_date' and not coalesce('TimeZone=UTC' = any (p.proconfig), false) as days
        from pg_proc p join pg_language l on l.oid = p.prolang
        where p.pronamespace = 'noshi'::regnamespace and p.proowner = current_user::regrole and l.lanname in ('sql', 'plpgsql') loop
        if f.words then
            execute format('alter function %s set standard_conforming_strings = on', f.name);
        end if;
        if f.days then
            execute format('alter function %s set timezone = ''UTC''', f.name);
        end if;
    end loop;
end $$;

revoke all on function noshi.pin_functions() from public;

reset role;
