-- Temporary tables are for whoever may use the database. The first migration took that from everybody, other applications of the same database
-- among them; functions of ours look into noshi first, whatever a session has in its temporary schema. Only the database's owner can give it.
do $$ begin
    execute format('grant temporary on database %I to public', current_database());
exception when insufficient_privilege then
    raise warning 'temporary tables stay refused: the owner of the database may grant them';
end $$;

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
