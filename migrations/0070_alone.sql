set role noshi_owner;

-- Nobody alone: what one person does without a second is counted here, in whatever pieces it comes, and bounded for a day.

-- A row for each person that acts, so that the acts of one are judged in turn. No role reads or locks it but through the functions below.
create table noshi.person (who text primary key);

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
create trigger append_only before update or delete on noshi.alone for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.alone for each statement execute function noshi.journal_is_append_only();

-- What a person did alone in the last 24 hours, by currency.
create function noshi.done_alone(p_who text, p_what text) returns table (target text, jobs bigint, currency text, amount bigint) language sql stable
set search_path = noshi, pg_temp
as $$ select target, jobs, currency, amount from alone where who = $1 and what = $2 and at > clock_timestamp() - interval '24 hours' $$;

-- Jobs that are asked to go on: by re-drives and one by one.

create or replace function noshi.redrive_is_large(p_who text, p_jobs bigint, p_totals jsonb) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    with added as (
        select jobs, currency, amount from done_alone($1, 'asked')
        union all select $2, '', 0
        union all select 0, m.key, m.value::bigint from jsonb_each_text($3) m)
    select (select sum(jobs) from added) > c.jobs or exists (select from added where currency <> '' group by currency having sum(amount) > c.amount)
    from (select * from redrive_cap order by id desc limit 1) c
$$;

-- One job that a person asks to go on. As much as a re-drive may do without a second person, and no more.
create function noshi.count_asked(p_job bigint, p_act text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    currency_of text;
    amount_of bigint;
begin
    if p_act not in ('retry', 'inquire', 'rerun') then
        return;
    end if;
    perform in_turn(who());
    select coalesce(args -> 'value' ->> 'currency', ''), coalesce(worth(args), 0) into currency_of, amount_of from job where id = p_job;
    if redrive_is_large(who(), 1, case when amount_of > 0 then jsonb_build_object(currency_of, amount_of) else '{}' end) then
        raise exception 'this is more than one person asks for alone within 24 hours' using errcode = 'NS403',
            hint = 'Plan a re-drive, which a second person approves: `noshi redrive plan`.';
    end if;
    insert into alone (who, what, target, jobs, currency, amount) values (who(), 'asked', 'job/' || p_job, 1, case when amount_of > 0 then currency_of else '' end, amount_of);
end $$;

-- Batches.

-- What an approval is given for: the file, the options that say what is done with it, and the addresses that are written to. Fixed when
-- the file was received to its end; nothing of all that changes afterwards.
alter table noshi.batch add column approval_digest bytea check (octet_length(approval_digest) = 32);
create function noshi.batch_covers(b noshi.batch, p_rows bigint) returns bytea language sql stable
set search_path = noshi, pg_temp
as $$
    select sha256(convert_to(jsonb_build_object('file', encode(b.digest, 'hex'), 'kind', b.kind, 'mode', b.mode, 'encoding', b.encoding, 'campaign', b.campaign,
        'mails', b.mails, 'issues', b.issues, 'rows', p_rows,
        'recipients', (select encode(sha256(string_agg(sha256(s.nonce || s.ciphertext), '' order by r.row_no)), 'hex')
                       from batch_row r join noshi_sealed.sealed s on s.what = 'recipient' and s.subject = b.id || '/' || r.row_no where b.mails and r.batch = b.id))::text, 'UTF8'))
$$;

-- Whether a second person must approve a batch: for its own size, and for what whoever lets it go has let go in 24 hours without one.
-- Judged by the caps of this moment. `p_who` null: by whoever has done most.
create function noshi.batch_is_large(b noshi.batch, p_who text) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    with here as (select coalesce(currency, '') as currency, count(*) as jobs, coalesce(sum(amount), 0) as amount from batch_row where batch = b.id group by 1),
    people as (select b.submitted_by as who union select p_who where p_who is not null
               union select a.who from alone a where p_who is null and a.what = b.kind and a.at > clock_timestamp() - interval '24 hours'),
    before as (select p.who, d.* from people p cross join lateral done_alone(p.who, b.kind) d where d.target <> 'batch/' || b.id),
    every as (select p.who, coalesce(sum(d.jobs), 0) + (select sum(jobs) from here) as jobs from people p left join before d on d.who = p.who group by p.who)
    select coalesce(bool_or(c.id is null or e.jobs >= c.approve_from_rows
        or h.amount + coalesce((select sum(d.amount) from before d where d.who = e.who and d.currency = h.currency), 0) >= c.approve_from_total), false)
    from here h cross join every e left join lateral batch_cap_for(b.kind, h.currency) c on true
$$;

create or replace function noshi.batch_hindrance(b noshi.batch) returns table (code text, detail text) language plpgsql
set search_path = noshi, pg_temp
as $$
declare needed boolean;
begin
    if b.cancelled_at is not null then
        return query select 'batch_cancelled', 'it was cancelled';
        return;
    elsif b.validated_at is null then
        return query select 'batch_not_approved', 'it was not validated';
        return;
    elsif b.rows is distinct from (select count(*) from batch_row r where r.batch = b.id) then
        return query select 'batch_not_approved', 'it has other rows than those that were judged; cancel it';
        return;
    end if;
    needed := b.needs_approval or batch_is_large(b, coalesce(b.released_by, who()));
    if needed and b.approved_at is null then
        return query select 'batch_not_approved', case when b.needs_approval then 'a second person must approve it'
            else 'a second person must approve it: it is too much for one, with what was let go without approval in the last 24 hours and by the caps of now' end;
    elsif needed and b.approved_until <= clock_timestamp() then
        return query select 'batch_not_approved', format('the approval by %s ran out at %s', b.approved_by, b.approved_until);
    else
        return query select o.code, o.detail from batch_objection(b.id) o;
    end if;
end $$;

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('validate_batch', 'select coalesce(bool_or(c.id is null or r.rows >= c.approve_from_rows or r.total >= c.approve_from_total), false) into needed
    from (select coalesce(currency, '''') as currency, count(*) as rows, sum(amount) as total from batch_row where batch = b.id group by 1) r
    left join lateral noshi.batch_cap_for(b.kind, r.currency) c on true;', 'needed := batch_is_large(b, noshi.who());'),
        ('validate_batch', 'needs_approval = needed where', 'needs_approval = needed, approval_digest = batch_covers(b, staged) where'),
        ('approve_batch', 'or not b.needs_approval then', 'or not (b.needs_approval or batch_is_large(b, null)) then'),
        ('approve_batch', 'if b.digest is distinct from p_digest then
        raise exception ''the digest is not that of batch %'', b.id using errcode = ''NS409'',
            hint = ''Approve what you have read: take the digest from your own copy of the file.'';',
            'if b.approval_digest is distinct from p_digest then
        raise exception ''this digest does not stand for what batch % would do'', b.id using errcode = ''NS409'',
            hint = ''Approve what you have read: its file, its options and its addresses. `noshi batch show` names the digest that covers them.'';'),
        ('release_batch', 'p_reason text)', 'p_reason text default null)'),
        ('release_batch', 'select * into against from batch_hindrance(b);', 'perform in_turn(p.who) from (select distinct w as who from unnest(array[b.submitted_by, noshi.who()]) w order by w) p;
    select * into against from batch_hindrance(b);'),
        ('release_batch', 'perform batch_log(b.id, ''release'', null, p_reason);', 'if b.approved_at is null then
        insert into alone (who, what, target, jobs, currency, amount)
        select p.who, b.kind, ''batch/'' || b.id, count(*), coalesce(r.currency, ''''), coalesce(sum(r.amount), 0)
        from batch_row r, (select distinct w as who from unnest(array[b.submitted_by, noshi.who()]) w) p where r.batch = b.id group by p.who, coalesce(r.currency, '''');
    end if;
    perform batch_log(b.id, ''release'', null, p_reason);'),
        ('apply_redrive', 'perform record(''redrive apply''', 'if r.approved_by is null then
        insert into alone (who, what, target, jobs, currency, amount)
        select who(), ''asked'', ''redrive/'' || r.id, r.jobs, '''', 0
        union all select who(), ''asked'', ''redrive/'' || r.id, 0, m.key, m.value::bigint from jsonb_each_text(r.totals) m;
    end if;
    perform record(''redrive apply'''),
        ('apply_redrive', 'insert into turn (act) values (''apply_redrive '' || who()) on conflict do nothing;
    perform from turn where act = ''apply_redrive '' || who() for update;', 'perform in_turn(who());'),
        -- Addresses come while their batch is being received: that is held until they are committed.
        ('sealed_guard', 'if exists (select from (select distinct what', 'perform from batch b where b.id in (select split_part(subject, ''/'', 1)::bigint from new_rows where what in (''file'', ''recipient'') and subject ~ ''^[0-9]{1,18}/'') order by b.id for share;
    if exists (select from (select distinct what'),
        ('rerun_batch', 'count(ask(j.id, j.step, ''rerun'', p_reason))', 'count(coalesce(ask(j.id, j.step, ''rerun'', p_reason), 0))'),
        -- Whoever reads a digest of a token in a log is not its owner: it is shown by the interface alone, whose login does nothing in its own name.
        ('shown_token', 'return query select t.* from token t', 'if not coalesce((select r.rolsuper from pg_roles r where r.rolname = session_user), false)
        and (not pg_has_role(session_user, ''noshi_api'', ''member'') or pg_has_role(session_user, ''noshi_operator'', ''member'') or pg_has_role(session_user, ''noshi_producer'', ''member'')) then
        raise exception ''tokens are shown to the HTTP interface, and by its login alone'' using errcode = ''NS401'';
    end if;
    return query select t.* from token t')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name
            and (p.proname <> 'release_batch' or p.pronargs = 2);
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;
-- It asked for no reason, and its caller was judged by nothing of the above.
drop function noshi.release_batch(bigint);

do $$
declare f text;
begin
    for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'noshi'::regnamespace
        and p.proname in ('in_turn', 'done_alone', 'count_asked', 'batch_covers', 'batch_is_large') loop
        execute format('revoke all on function %s from public', f);
    end loop;
end $$;
grant select on noshi.alone to noshi_operator, noshi_api;

reset role;
