-- A role for the door, which takes events from the network: it executes functions, and reads and writes no table.
do $$ begin
    begin
        create role noshi_door nologin;
    exception when duplicate_object or unique_violation then null;
    end;
end $$;

set role noshi_owner;

grant usage on schema noshi to noshi_door;

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
    detail       text
);
create index email_event_job on noshi.email_event (job, received_at) where job is not null;

-- Addresses that nothing is sent to, as keyed digests. The address itself is sealed, under (suppressed, id), so that key
-- rotation can digest it again.
create table noshi.suppression (
    id             text primary key,
    digest         bytea not null check (octet_length(digest) = 32),
    key_id         text not null,
    reason         text not null check (reason in ('bounced', 'complained')),
    event          text not null references noshi.email_event (id),
    suppressed_at  timestamptz not null default clock_timestamp()
);
create index suppression_digest on noshi.suppression (digest);

-- Keeps an event and makes the job that waits for it due. False: it is here already.
create function noshi.record_email_event(p_id text, p_job bigint, p_event text, p_message text, p_happened_at timestamptz, p_detail text)
returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    insert into email_event (id, job, event, message, happened_at, detail)
    values (p_id, (select j.id from job j where j.id = p_job and j.kind = 'email'), p_event, p_message, p_happened_at, p_detail)
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

-- Suppresses an address because of an event. `p_digests` are its digests under every key in use, the newest first.
create function noshi.suppress_address(p_id text, p_digests bytea[], p_reason text, p_event text, p_key_id text, p_nonce bytea, p_ciphertext bytea)
returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if exists (select from suppression where digest = any(p_digests)) then
        return false;
    end if;
    insert into suppression (id, digest, key_id, reason, event) values (p_id, p_digests[1], p_key_id, p_reason, p_event);
    insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
    values ('suppressed', p_id, p_id, '', p_key_id, p_nonce, p_ciphertext);
    return true;
end $$;

-- The sealed name and address of one message's recipient, for the worker that is about to send it. A worker may read
-- nothing else of what is sealed: no gift code, and no recipient of a job that is at rest or in another's hands.
create function noshi.sealed_recipient(p_job bigint, p_worker bigint)
returns table (grant_id text, key_id text, nonce bytea, ciphertext bytea) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select s.grant_id, s.key_id, s.nonce, s.ciphertext
    from job j join noshi_sealed.sealed s on s.what = 'recipient' and s.subject = j.args ->> 'recipient' and s.grant_id = j.args ->> 'reference'
    where j.id = p_job and j.kind = 'email' and j.status = 'running' and j.worker = p_worker
$$;

revoke all on function noshi.record_email_event(text, bigint, text, text, timestamptz, text) from public;
revoke all on function noshi.suppress_address(text, bytea[], text, text, text, bytea, bytea) from public;
revoke all on function noshi.sealed_recipient(bigint, bigint) from public;
grant execute on function noshi.record_email_event(text, bigint, text, text, timestamptz, text) to noshi_door;
grant execute on function noshi.suppress_address(text, bytea[], text, text, text, bytea, bytea) to noshi_door;
grant execute on function noshi.sealed_recipient(bigint, bigint) to noshi_worker;

grant select on noshi.email_event to noshi_worker, noshi_operator;
grant select on noshi.suppression to noshi_worker, noshi_operator;

-- The account's quota as its service last told it. One process of the fleet asks, claimed through this row.
create table noshi.email_quota (
    lane          text primary key references noshi.lane (name),
    asked_at      timestamptz not null default '-infinity',
    per_second    real,
    per_day       real,
    sent          real,
    told_at       timestamptz
) with (fillfactor = 50);
grant select, insert, update on noshi.email_quota to noshi_worker;
grant select on noshi.email_quota to noshi_operator;

-- Messages and what became of them, for reports: no addresses.
create view noshi.email_history with (security_barrier) as
    select j.id as job, j.args ->> 'template' as template, j.args ->> 'reference' as reference,
           j.status::text as status, j.at as state, j.unsure as in_doubt, j.code,
           coalesce(f.fate, case when j.at = 'accepted' then 'accepted' end) as fate,
           j.created_at, case when j.at = 'accepted' then j.finished_at end as accepted_at, f.fate_at
    from noshi.job j
    left join lateral (
        select case e.event when 'delivery' then 'delivered' when 'bounce' then 'bounced' when 'complaint' then 'complained'
                   when 'reject' then 'rejected' when 'rendering_failure' then 'rejected' end as fate,
               coalesce(e.happened_at, e.received_at) as fate_at
        from noshi.email_event e
        where e.job = j.id and e.event in ('delivery', 'bounce', 'complaint', 'reject', 'rendering_failure')
        -- What is worse stays, in whatever order it was told.
        order by array_position(array['complaint', 'bounce', 'reject', 'rendering_failure', 'delivery'], e.event), 2 desc limit 1) f on true
    where j.kind = 'email';
grant select on noshi.email_history to noshi_reader, noshi_operator;

reset role;
