set role noshi_owner;

-- The door seals an address that bounced, and can digest none: only workers have the keys. Until one of them has digested it, nobody finds it.
alter table noshi.suppression alter column digest drop not null;
-- When a worker looked at it last: one that does not open keeps none of the others waiting.
alter table noshi.suppression add column tried_at timestamptz;
alter table noshi.suppression drop constraint times_are_sane;
alter table noshi.suppression add constraint times_are_sane check (
    suppressed_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
    and (tried_at is null or tried_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')) not valid;
create index suppression_undigested on noshi.suppression (tried_at nulls first) where digest is null;

-- Its earlier form took digests.
drop function noshi.suppress_address(text, bytea[], text, text, text, bytea, bytea);
create function noshi.suppress_address(p_id text, p_reason text, p_event text, p_key_id text, p_nonce bytea, p_ciphertext bytea)
returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    insert into suppression (id, key_id, reason, event) values (p_id, p_key_id, p_reason, p_event);
    insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
    values ('suppressed', p_id, p_id, '', p_key_id, p_nonce, p_ciphertext);
end $$;
revoke all on function noshi.suppress_address(text, text, text, text, bytea, bytea) from public;
grant execute on function noshi.suppress_address(text, text, text, text, bytea, bytea) to noshi_door;

-- The next sealed addresses without a digest that these keys open, for a worker; its own until its transaction ends.
create function noshi.undigested_addresses(p_keys text[])
returns table (id text, key_id text, nonce bytea, ciphertext bytea) language sql security definer
set search_path = noshi, pg_temp
as $$
    with next as (
        select s.id from suppression s
        where s.digest is null and s.key_id = any(p_keys)
          and (s.tried_at is null or s.tried_at not between clock_timestamp() - interval '1 minute' and clock_timestamp())
        order by s.tried_at nulls first limit 100 for update skip locked),
    tried as (update suppression s set tried_at = clock_timestamp() from next where s.id = next.id returning s.id)
    select t.id, s.key_id, s.nonce, s.ciphertext
    from tried t join noshi_sealed.sealed s on s.what = 'suppressed' and s.subject = t.id
$$;

-- From now on it is found. `p_digests` are its digests under every key in use, the newest first. False: it was suppressed before, and is once.
create function noshi.digest_address(p_id text, p_digests bytea[], p_key_id text)
returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if not exists (select from suppression where digest = any(p_digests)) then
        update suppression set digest = p_digests[1], key_id = p_key_id where id = p_id and digest is null;
        return found;
    end if;
    delete from suppression where id = p_id and digest is null;
    if found then
        delete from noshi_sealed.sealed where what = 'suppressed' and subject = p_id;
    end if;
    return false;
end $$;
revoke all on function noshi.undigested_addresses(text[]), noshi.digest_address(text, bytea[], text) from public;
grant execute on function noshi.undigested_addresses(text[]), noshi.digest_address(text, bytea[], text) to noshi_worker;

reset role;
