-- A gift for a user, asked for in the producer's own transaction: it is there if the order is, and only then.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -v order=42 -f ops/examples/enqueue.sql
--
-- The login needs the role noshi_producer, and nothing else.
\set QUIET on
\pset format unaligned
\pset tuples_only on
begin;
-- insert into shop_order …
select 'job ' || noshi.enqueue('gift_issuance', 'order/' || :'order', jsonb_build_object(
    'grant', 'order/' || :'order', 'user', 'user-7', 'category', 'amazon', 'value', jsonb_build_object('amount', 500, 'currency', 'JPY')));
commit;

-- Sent again, after an answer that was lost, say: the same job.
select 'again job ' || noshi.enqueue('gift_issuance', 'order/' || :'order',
    format('{"grant": "order/%s", "user": "user-7", "category": "amazon", "value": {"amount": 500, "currency": "JPY"}}', :'order')::jsonb);

-- The same id for something else is refused with NS409, and the detail says what differs.
\set ON_ERROR_STOP off
\set VERBOSITY verbose
select noshi.enqueue('gift_issuance', 'order/' || :'order',
    format('{"grant": "order/%s", "user": "user-7", "category": "amazon", "value": {"amount": 600, "currency": "JPY"}}', :'order')::jsonb);
\echo refused :LAST_ERROR_SQLSTATE
