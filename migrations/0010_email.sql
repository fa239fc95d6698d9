set role noshi_owner;
set local check_function_bodies = off;

-- What a mail service told about a message: inserted, never updated. No addresses.
create table noshi.email_event (
    -- The sender's id of the notification: it is delivered at least once.
    id           text primary key check (octet_length(id) between 1 and 200),
    -- The job of the tag; null where the event has none of ours.
    job          bigint,
    event        text not null check (event ~ '^[a-z][a-z_]{0,62}$'),
    -- The service's own id of the message.
    message      text,
    happened_at  timestamptz,
    received_at  timestamptz not null default clock_timestamp(),
    -- Such as the kind of a bounce.
    detail       text,
    oddity       text check (oddity in ('foreign', 'unread')),
    -- The number that an event without a mark names, where nothing else tells yet whether it is ours.
    awaits       bigint,
    constraint texts_are_short check (octet_length(message) <= 1000 and octet_length(detail) <= 4000),
    constraint times_are_sane check ((happened_at is null or happened_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and received_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index email_event_job on noshi.email_event (job, received_at) where job is not null;
-- What became of messages lately.
create index email_event_received on noshi.email_event (received_at);
-- Events without our mark are known by the service's id of the message; those that came before our own answer was settled, as soon as it is.
create index email_event_unmatched on noshi.email_event (message) where job is null and message is not null;
comment on column noshi.email_event.oddity is 'foreign: about a message of another installation, it settles nothing. unread: some part of it was not understood.';

-- Addresses that nothing is sent to, as keyed digests. The address itself is sealed, under (suppressed, id), so that key
-- rotation can digest it again.
create table noshi.suppression (
    id             text primary key check (octet_length(id) <= 200),
    digest         bytea check (octet_length(digest) = 32),
    key_id         text not null check (octet_length(key_id) <= 200),
    reason         text not null check (reason in ('bounced', 'complained')),
    event          text not null references noshi.email_event (id),
    suppressed_at  timestamptz not null default clock_timestamp(),
    -- When a worker looked at it last: one that does not open keeps none of the others waiting.
    tried_at       timestamptz,
    constraint times_are_sane check (suppressed_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (tried_at is null or tried_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);
create index suppression_digest on noshi.suppression (digest);
create index suppression_undigested on noshi.suppression (tried_at nulls first) where digest is null;

-- The account's quota as its service last told it. One process of the fleet asks, claimed through this row.
create table noshi.email_quota (
    lane        text primary key references noshi.lane (name),
    asked_at    timestamptz not null default '-infinity',
    per_second  real,
    per_day     real,
    sent        real,
    told_at     timestamptz,
    -- -1: without a limit.
    constraint quota_is_sane check (per_second between -1 and 1000000000 and per_day between -1 and 1000000000000 and sent between -1 and 1000000000000),
    constraint times_are_sane check ((asked_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00' or asked_at = '-infinity')
        and (told_at is null or told_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
) with (fillfactor = 50);

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

create function noshi.mail_mark(p_job bigint, p_key text, p_created_at timestamptz) returns text language sql stable
as $$
    select substr(encode(sha256(convert_to(format('noshi mail %s %s %s', p_job, extract(epoch from p_created_at), p_key), 'utf8')), 'hex'), 1, 24)
$$;

create function noshi.match_email_events() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    -- With a mark, or of another configuration set, it was told whose it is.
    update email_event set job = new.id where job is null and message = new.state ->> 'message' and awaits = new.id;
    return null;
end $$;

-- Keeps an event and makes the job that waits for it due. False: it is here already.
create function noshi.record_email_event(p_id text, p_job bigint, p_event text, p_message text, p_happened_at timestamptz, p_detail text)
returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    insert into email_event (id, job, event, message, happened_at, detail)
    values (p_id, coalesce((select j.id from job j where j.id = p_job and j.kind = 'email'), (select t.id from tombstone t where t.id = p_job and t.kind = 'email')), p_event, p_message, p_happened_at, p_detail)
    on conflict do nothing;
    if not found then
        return false;
    end if;
    update job set run_at = clock_timestamp()
    where id = p_job and kind = 'email' and at = 'waiting' and status = 'scheduled' and run_at > clock_timestamp();
    if found then
        perform pg_notify('noshi', '');
    end if;
    return true;
end $$;

-- Keeps an event, and makes the job that waits for it due. A mail's event carries its mark, or names the message that its job knows; any other
-- is another installation's, whatever number it has. 'again': it is here already.
create function noshi.record_email_event(p_id text, p_job bigint, p_mark text, p_foreign boolean, p_unread boolean, p_event text, p_message text,
    p_happened_at timestamptz, p_detail text)
returns text language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    ours boolean := false;
    alien boolean := p_foreign;
begin
    if p_job is not null and not alien then
        perform from job j where j.id = p_job and j.kind = 'email' and p_mark is null for no key update;
        select coalesce(p_mark = mail_mark(m.id, m.key, m.created_at), false) or (p_mark is null and p_message is not null and p_message = m.message),
               p_mark is not null and p_mark <> mail_mark(m.id, m.key, m.created_at)
            or p_mark is null and m.message is not null and p_message is distinct from m.message
        into ours, alien
        from (select j.id, j.key, j.created_at, j.state ->> 'message' as message from job j where j.id = p_job and j.kind = 'email'
              union all
              select t.id, t.key, t.created_at, (select coalesce((select y.job -> 'state' ->> 'message' from archived_job y where y.id = t.id),
                  (select e.message from email_event e where e.job = t.id and e.oddity is null and e.message is not null order by e.received_at limit 1))) from tombstone t where t.id = p_job and t.kind = 'email') m;
        if not found then
            ours := false;
            alien := p_mark is not null;
        end if;
    end if;
    insert into email_event (id, job, event, message, happened_at, detail, oddity, awaits)
    values (p_id, case when ours then p_job end, p_event, p_message, p_happened_at, cut(p_detail, 4000),
        case when alien then 'foreign' when p_unread or (p_job is not null and not ours) then 'unread' end,
        case when ours is not true and not alien and p_mark is null and p_message is not null then p_job end)
    on conflict do nothing;
    if not found then
        return 'again';
    end if;
    if ours then
        update job set run_at = clock_timestamp()
        where id = p_job and kind = 'email' and at = 'waiting' and status = 'scheduled' and run_at > clock_timestamp();
        if found then
            perform pg_notify('noshi', '');
        end if;
    end if;
    return case when alien then 'foreign' when ours then 'ours' else 'other' end;
end $$;

-- A recipient, for the worker that has the job in flight, where the journal has the claim: whoever opens a recipient has left word of it.
create function noshi.sealed_recipient(p_job bigint, p_worker bigint)
returns table (grant_id text, key_id text, nonce bytea, ciphertext bytea) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select s.grant_id, s.key_id, s.nonce, s.ciphertext
    from job j join noshi_sealed.sealed s on s.what = 'recipient' and s.subject = j.args ->> 'recipient' and s.grant_id = j.args ->> 'reference'
    where j.id = p_job and j.kind = 'email' and j.status = 'running' and j.worker = p_worker
      and exists (select from worker w where w.id = p_worker and w.dead_at is null and coalesce(w.login, session_user) = session_user)
      and exists (select from job_event e where e.job = j.id and e.lease = j.lease and e.worker = p_worker and e.event = 'claimed')
$$;

-- Suppresses an address because of an event. `p_digests` are its digests under every key in use, the newest first.
create function noshi.suppress_address(p_id text, p_reason text, p_event text, p_key_id text, p_nonce bytea, p_ciphertext bytea)
returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    insert into suppression (id, key_id, reason, event) values (p_id, p_key_id, p_reason, p_event);
    insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
    values ('suppressed', p_id, p_id, '', p_key_id, p_nonce, p_ciphertext);
end $$;

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

create trigger match_email_events after update of state on noshi.job for each row
    when (new.kind = 'email' and new.at = 'accepted' and old.at <> 'accepted') execute function noshi.match_email_events();

revoke all on function noshi.digest_address(text, bytea[], text), noshi.mail_mark(bigint, text, timestamptz),
    noshi.match_email_events(), noshi.record_email_event(text, bigint, text, text, timestamptz, text),
    noshi.record_email_event(text, bigint, text, boolean, boolean, text, text, timestamptz, text),
    noshi.sealed_recipient(bigint, bigint), noshi.suppress_address(text, text, text, text, bytea, bytea),
    noshi.undigested_addresses(text[]) from public;
grant execute on function noshi.digest_address(text, bytea[], text), noshi.mail_mark(bigint, text, timestamptz),
    noshi.sealed_recipient(bigint, bigint), noshi.undigested_addresses(text[]) to noshi_worker;
grant execute on function noshi.record_email_event(text, bigint, text, text, timestamptz, text),
    noshi.record_email_event(text, bigint, text, boolean, boolean, text, text, timestamptz, text),
    noshi.suppress_address(text, text, text, text, bytea, bytea) to noshi_webhook;
grant select on noshi.email_event, noshi.suppression to noshi_worker, noshi_operator;
grant insert, select, update on noshi.email_quota to noshi_worker;
grant select on noshi.email_quota to noshi_operator;

reset role;
