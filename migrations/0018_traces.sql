-- Which migrations there are, for the probes of every process. The list belongs to the login that migrates.
grant select on _sqlx_migrations to noshi_worker, noshi_operator, noshi_door, noshi_api;

set role noshi_owner;

-- W3C's traceparent as it is kept: of version 00, whatever newer version it came in (the first four parts are the same), and with the one
-- flag that has a meaning. Null where it is malformed: such a one is ignored, and nothing is ever refused for it.
create function noshi.traceparent(given text) returns text language sql immutable
set search_path = noshi, pg_temp
as $$
    select format('00-%s-%s-0%s', m[2], m[3], case when m[4] ~ '[13579bdf]$' then 1 else 0 end)
    from regexp_match(given, '^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$') m
    where m[1] <> 'ff' and (m[1] <> '00' or m[5] is null) and m[2] <> repeat('0', 32) and m[3] <> repeat('0', 16)
$$;
revoke all on function noshi.traceparent(text) from public;
grant execute on function noshi.traceparent(text) to noshi_worker, noshi_producer, noshi_operator, noshi_api;

-- The trace that a job belongs to: its producer's, or that of the job which it follows. Null: its own, computed from its number.
--
-- A producer gives it as a setting of the transaction, so that every door takes it and no call has another parameter:
--     select set_config('noshi.traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', true);
-- It is no part of what a request is: the same id with the same arguments is the same job, and keeps the trace that it came with.
alter table noshi.job add column traceparent text;
alter table noshi.job alter column traceparent
    set default case when current_setting('noshi.traceparent', true) <> '' then noshi.traceparent(current_setting('noshi.traceparent', true)) end;
-- Not valid: jobs from before have none, and looking at each would lock the table for that long.
alter table noshi.job add constraint job_traceparent check (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$') not valid;
grant insert (traceparent) on noshi.job to noshi_worker;

reset role;
