set role noshi_owner;

-- What people look for among ten million jobs that went well: the few that did not. The newest of a status, or of a code, are the end of
-- an index. A job that goes well is never in either, so that these cost nothing where jobs are many.
--
-- On a table of this size each takes a quarter of a minute, in which workers wait. To have none wait, make both before the migration with
-- `create index concurrently`, under these names.
create index if not exists job_stopped on noshi.job (status, id) where status in ('needs_operator', 'failed', 'cancelled');
create index if not exists job_code on noshi.job (code, id) where code is not null;

reset role;
