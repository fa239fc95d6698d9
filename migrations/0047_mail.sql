-- What tells a message from every other, also from those of another installation whose numbers are the same: it travels with the
-- message, and comes back with its events.

set role noshi_owner;

create function noshi.mail_mark(p_job bigint, p_key text, p_created_at timestamptz) returns text language sql stable
as $$
    select substr(encode(sha256(convert_to(format('noshi mail %s %s %s', p_job, extract(epoch from p_created_at), p_key), 'utf8')), 'hex'), 1, 24)
$$;
revoke all on function noshi.mail_mark(bigint, text, timestamptz) from public;
grant execute on function noshi.mail_mark(bigint, text, timestamptz) to noshi_worker;

reset role;
