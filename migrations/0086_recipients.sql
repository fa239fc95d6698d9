set role noshi_owner;

-- What is approved are the addresses, too: a worker opens them and compares each with its row of the file.
create function noshi.reading_recipients(p_reading bigint, p_worker bigint, p_take integer, p_from integer, p_to integer)
returns table (row_no integer, grant_id text, key_id text, nonce bytea, ciphertext bytea) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return query select n.row_no, s.grant_id, s.key_id, s.nonce, s.ciphertext from generate_series(p_from, p_to) n(row_no)
        join noshi_sealed.sealed s on s.what = 'recipient' and s.subject = r.subject || '/' || n.row_no
        where r.kind = 'check' order by 1;
end $$;
revoke all on function noshi.reading_recipients(bigint, bigint, integer, integer, integer) from public;
grant execute on function noshi.reading_recipients(bigint, bigint, integer, integer, integer) to noshi_worker;

-- By the commands as over HTTP: an operator has a copy of the file, and opens no address.
grant execute on function noshi.read_check(bigint, text) to noshi_operator;

reset role;
