set role noshi_owner;

-- What people look for among ten million jobs that went well: the few that did not. The newest of a status, or of a code, are the end of
-- an index. A job that goes well is never in either, so that these cost nothing where jobs are many.
--
-- On a table of this size each takes a quarter of a minute, in which workers wait. To have none wait, make both before the migration with
-- `create index concurrently`, under these names.
create index if not exists job_stopped on noshi.job (status, id) where status in ('needs_operator', 'failed', 'cancelled');
create index if not exists job_code on noshi.job (code, id) where code is not null;

-- A plan counts what waits in its lanes through their index, and finds each of its jobs by number. Without `lost = 0`, which holds for
-- whatever waits in a lane that has a budget, it read the whole table for every lane: half a minute.
do $$
declare
    setting text;
    plan constant text := 'noshi.plan_redrive(jsonb, bigint[], integer[], text[], text[], text[])';
    body constant text := pg_get_functiondef(plan::regprocedure);
    counted constant text := 'j.lane = c.lane and j.status = ''available''';
begin
    if strpos(body, counted) = 0 then
        raise exception 'plan_redrive does not read as it was written';
    end if;
    execute replace(body, counted, counted || ' and j.lost = 0');
    foreach setting in array array['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit'] loop
        execute format('alter function %s set %I = off', plan, setting);
    end loop;
end $$;

reset role;
