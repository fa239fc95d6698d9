set role noshi_owner;
set local check_function_bodies = off;

-- A row for each person that acts, so that the acts of one are judged in turn. No role reads or locks it but through the functions below.
create table noshi.person (
    who      text primary key,
    -- The job that a worker has leased and this person asked for an act, and the transaction that did.
    holds    bigint,
    held_in  xid8
);

create table noshi.alone (
    id        bigint generated always as identity primary key,
    who       text not null,
    at        timestamptz not null default clock_timestamp(),
    -- The kind of a batch; jobs that were asked to go on, one by one or by a re-drive; a person's word about money.
    what      text not null check (what in ('grants', 'points', 'stores', 'asked', 'word')),
    target    text not null,
    jobs      bigint not null,
    -- '' for what is worth nothing in itself, such as a store.
    currency  text not null,
    amount    bigint not null,
    constraint times_are_sane check (at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index alone_of on noshi.alone (who, what, at);

create function noshi.batch_covers(b noshi.batch, p_rows bigint) returns bytea language sql stable
set search_path = noshi, pg_temp
as $$
    select sha256(convert_to(jsonb_build_object('file', encode(b.digest, 'hex'), 'kind', b.kind, 'mode', b.mode, 'encoding', b.encoding, 'campaign', b.campaign,
        'mails', b.mails, 'issues', b.issues, 'rows', p_rows,
        'recipients', (select encode(sha256(string_agg(sha256(s.nonce || s.ciphertext), '' order by r.row_no)), 'hex')
                       from batch_row r join noshi_sealed.sealed s on s.what = case b.kind when 'stores' then 'contact' else 'recipient' end and s.subject = b.id || '/' || r.row_no
                       where (b.mails or b.kind = 'stores') and r.batch = b.id))::text, 'UTF8'))
$$;

-- Whether a second person must approve a batch: for its own size, and for what whoever lets it go has let go in 24 hours without one.
-- Judged by the caps of this moment. `p_who` null: by whoever has done most.
create function noshi.batch_is_large(b noshi.batch, p_who text) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    with here as (select coalesce(currency, '') as currency, count(*) as jobs, coalesce(sum(amount), 0) as amount from batch_row where batch = b.id group by 1),
    people as (select b.submitted_by as who union select b.released_by where b.released_by is not null union select p_who where p_who is not null
               union select a.who from alone a where p_who is null and a.what = b.kind and a.at > clock_timestamp() - interval '24 hours'),
    before as (select p.who, d.* from people p cross join lateral done_alone(p.who, b.kind) d where d.target <> 'batch/' || b.id),
    every as (select p.who, coalesce(sum(d.jobs), 0) + (select sum(jobs) from here) as jobs from people p left join before d on d.who = p.who group by p.who)
    select coalesce(bool_or(c.id is null or e.jobs >= c.approve_from_rows
        or h.amount + coalesce((select sum(d.amount) from before d where d.who = e.who and d.currency = h.currency), 0) >= c.approve_from_total), false)
    from here h cross join every e left join lateral batch_cap_for(b.kind, h.currency) c on true
$$;

-- What one person asks for alone. Taking a delivered gift back takes value from its user, and counts as well.
create function noshi.count_asked(p_job bigint, p_act text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    currency_of text;
    amount_of bigint;
    delivered boolean;
begin
    select coalesce(args -> 'value' ->> 'currency', ''), coalesce(worth(args), 0), status = 'completed' into currency_of, amount_of, delivered
    from job where id = p_job;
    if p_act not in ('retry', 'inquire', 'rerun') and not (p_act = 'cancel' and delivered) then
        return;
    end if;
    perform in_turn(who());
    if redrive_is_large(who(), 1, case when amount_of > 0 then jsonb_build_object(currency_of, amount_of) else '{}' end) then
        raise exception 'this is more than one person asks for alone within 24 hours' using errcode = 'NS403',
            hint = 'Nothing was asked. Plan a re-drive, which a second person approves: `noshi redrive plan`.';
    end if;
    insert into alone (who, what, target, jobs, currency, amount) values (who(), 'asked', 'job/' || p_job, 1, case when amount_of > 0 then currency_of else '' end, amount_of);
end $$;

-- What no approval covers at this moment counts from now on, for whoever submitted it, let it go, and lets it go on: a release counts when its rows
-- are granted, too, however long after.
create function noshi.count_batch(b noshi.batch, p_who text) returns void language sql
set search_path = noshi, pg_temp
as $$
    insert into alone (who, what, target, jobs, currency, amount)
    select p.who, b.kind, 'batch/' || b.id, count(*), coalesce(r.currency, ''), coalesce(sum(r.amount), 0)
    from batch_row r, (select distinct w as who from unnest(array[b.submitted_by, b.released_by, p_who]) w where w is not null) p
    where r.batch = b.id and (b.approved_at is null or b.approved_until <= clock_timestamp()) group by p.who, coalesce(r.currency, '')
$$;

-- What a person did alone in the last 24 hours, by currency. A file or a re-drive that went, was held back and went on counts once, at its last time;
-- a job as often as it was asked.
create function noshi.done_alone(p_who text, p_what text) returns table (target text, jobs bigint, currency text, amount bigint) language sql stable
set search_path = noshi, pg_temp
as $$
    select target, max(jobs), currency, max(amount) from alone where who = $1 and what = $2 and at > clock_timestamp() - interval '24 hours'
    group by target, currency, case when target !~ '^(batch|redrive)/' then id end
$$;

-- Must come before anything is counted. Under an older snapshot what the same person did meanwhile would not be seen.
create function noshi.in_turn(p_who text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'this act belongs in a transaction that is read committed' using errcode = 'NS400';
    end if;
    insert into person values (p_who) on conflict do nothing;
    perform from person where who = p_who for update;
end $$;

create trigger append_only before update or delete on noshi.alone for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.alone for each statement execute function noshi.journal_is_append_only();

revoke all on function noshi.batch_covers(noshi.batch, bigint), noshi.batch_is_large(noshi.batch, text), noshi.count_batch(noshi.batch, text),
    noshi.count_asked(bigint, text), noshi.done_alone(text, text), noshi.in_turn(text) from public;
grant select on noshi.alone to noshi_operator, noshi_api;

reset role;
