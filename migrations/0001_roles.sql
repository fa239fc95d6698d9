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
    foreach name in array array['noshi_owner', 'noshi_worker', 'noshi_producer', 'noshi_operator', 'noshi_reader'] loop
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

grant usage on schema noshi to noshi_worker, noshi_producer, noshi_operator, noshi_reader;
grant usage on schema noshi_sealed to noshi_worker, noshi_operator;

do $$ begin
    execute format('revoke temporary on database %I from public', current_database());
end $$;
