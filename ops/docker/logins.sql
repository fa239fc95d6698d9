-- The logins of compose.yaml, made by the schema's owner; their passwords are secrets. People's logins are made by hand, one each:
-- the database knows a submitter and an approver by them.
\set worker_password `cat /run/secrets/worker.password`
\set api_password `cat /run/secrets/api.password`
select format('create role %I login', name) from unnest(array['worker_1', 'api_1']) name
where not exists (select from pg_roles where rolname = name) \gexec
-- A server that logs statements would log these.
set log_statement = 'none';
alter role worker_1 password :'worker_password';
alter role api_1 password :'api_password';
grant noshi_worker to worker_1;
grant noshi_webhook, noshi_api to api_1;
