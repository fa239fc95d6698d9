set role noshi_owner;
set local check_function_bodies = off;

-- A batch is one file, submitted once: received → validated or invalid → awaiting approval → released → settled. What it has
-- reached is told by its times; each is set once, by one function below, and by nothing else. The identity is the login, never an argument.
create table noshi.batch (
    id               bigint generated always as identity primary key,
    -- What a row asks for: a gift for a user (grants), or a store (stores).
    kind             text not null check (kind in ('grants', 'stores', 'points')),
    -- grants: one commit for all rows, or none. stores: each row lives and dies alone.
    mode             text not null check (mode in ('all_or_nothing', 'per_row')),
    -- SHA-256 of the file's bytes as they came. The bytes themselves are kept, sealed and unmodified.
    digest           bytea not null check (octet_length(digest) = 32),
    file             text not null,
    encoding         text not null default 'utf-8' check (encoding in ('utf-8', 'shift_jis')),
    campaign         text,
    -- grants: announce each by mail; issue each at once instead of when its user asks.
    mails            boolean not null default false,
    issues           boolean not null default false,
    submitted_by     text not null default noshi.who(),
    received_at      timestamptz not null default clock_timestamp(),
    rows             integer,
    validated_at     timestamptz,
    -- Line, field and sentence of each fault; never what the field held.
    faults           jsonb,
    invalid_at       timestamptz,
    needs_approval   boolean not null default false,
    approved_by      text,
    approved_at      timestamptz,
    approved_until   timestamptz,
    released_by      text,
    released_at      timestamptz,
    -- grants: the one small commit that grants every row.
    registered_at    timestamptz,
    refused_code     text,
    refused_detail   text,
    paused_code      text,
    paused_at        timestamptz,
    cancelled_at     timestamptz,
    -- When nothing was left to be done, and the totals of that moment.
    settled_at       timestamptz,
    totals           jsonb,
    counted_at       timestamptz,
    -- What an approval is given for: the file, the options that say what is done with it, and the addresses that are written to. Fixed when
    -- the file was received to its end; nothing of all that changes afterwards.
    approval_digest  bytea check (octet_length(approval_digest) = 32),
    check (mode = case kind when 'stores' then 'per_row' else 'all_or_nothing' end),
    check (approved_by is null or approved_by <> submitted_by),
    constraint points_bring_no_gift check (kind <> 'points' or not (mails or issues)),
    constraint faults_are_few check (octet_length(faults::text) <= 100000),
    constraint texts_are_short check (octet_length(file) <= 200 and octet_length(campaign) <= 200 and octet_length(paused_code) <= 100
        and octet_length(refused_code) <= 100 and octet_length(refused_detail) <= 4000 and octet_length(totals::text) <= 10000),
    constraint times_are_sane check (received_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (validated_at is null or validated_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (invalid_at is null or invalid_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (approved_at is null or approved_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (approved_until is null or approved_until between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (released_at is null or released_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (registered_at is null or registered_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (paused_at is null or paused_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (cancelled_at is null or cancelled_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (settled_at is null or settled_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (counted_at is null or counted_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);
-- A file is one batch of its submitter, and of all once it was let go: who only names a digest takes it from nobody.
create unique index batch_once on noshi.batch (kind, digest, submitted_by) where invalid_at is null and cancelled_at is null;
create unique index batch_released_once on noshi.batch (kind, digest) where released_at is not null and cancelled_at is null;
create index batch_registered on noshi.batch (registered_at) where registered_at is not null;
create index batch_unsettled on noshi.batch (id) where released_at is not null and settled_at is null;

-- The journal of batches: who did what, and why.
create table noshi.batch_event (
    id           bigint generated always as identity primary key,
    batch        bigint not null references noshi.batch (id),
    happened_at  timestamptz not null default clock_timestamp(),
    act          text not null,
    who          text not null default noshi.who(),
    code         text,
    reason       text,
    constraint reason_is_short check (octet_length(reason) <= 4000),
    constraint texts_are_short check (octet_length(act) <= 100 and octet_length(code) <= 100),
    constraint times_are_sane check (happened_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index batch_event_batch on noshi.batch_event (batch, happened_at);

-- The rows of a file as they will be enqueued; staged in chunks, and of no effect before their batch is released.
create table noshi.batch_row (
    batch     bigint not null references noshi.batch (id),
    row_no    integer not null check (row_no > 0),
    -- Of the file, where the header is line 1.
    line      integer not null,
    key       text not null,
    args      jsonb not null,
    -- An address is kept for it.
    mailed    boolean not null default false,
    user_id   text generated always as (args ->> 'user') stored,
    amount    bigint generated always as ((args -> 'value' ->> 'amount')::bigint) stored,
    currency  text generated always as (args -> 'value' ->> 'currency') stored,
    primary key (batch, row_no),
    -- Grants: what caps add up and duplicates are told by is what will be asked for.
    check (amount is null or (amount > 0 and key = args ->> 'grant' and coalesce(user_id, '') <> '' and coalesce(currency, '') <> '')),
    -- What caps add up is what will be granted.
    constraint points_add_up check (currency is distinct from 'PT' or ( (args ->> 'points')::bigint is not distinct from amount and key is not distinct from (args ->> 'benefit') || ':' || (args ->> 'source'))),
    -- Rows that a file could not hold break the reports of all.
    constraint days_are_days check (coalesce(args ->> 'valid_days', '1') ~ '^[0-9]{1,4}$')
);
create index batch_row_key on noshi.batch_row (key);
create index batch_row_user on noshi.batch_row (user_id) where user_id is not null;

-- What a batch may be. The latest row for a kind and currency holds; there is no update, so the table is its own log.
-- A null limit is none; `approve_from_*` null: no approval on that account.
create table noshi.batch_cap (
    id                  bigint generated always as identity primary key,
    kind                text not null check (kind in ('grants', 'stores', 'points')),
    -- '' for stores.
    currency            text not null check (octet_length(currency) <= 20),
    max_rows            integer,
    max_total           bigint,
    -- In any 24 hours, this batch included.
    max_per_user        bigint,
    max_per_day         bigint,
    approve_from_rows   integer,
    approve_from_total  bigint,
    approval_lasts      interval not null default '24 hours' check (noshi.lasts(approval_lasts, '0', '366 days')),
    set_by              text not null default noshi.who(),
    set_at              timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (set_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- By a second person, over the very bytes: the digest is of the file. It expires.
create function noshi.approve_batch(p_batch bigint, p_digest bytea, p_reason text) returns timestamptz language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch := batch_locked(p_batch);
    against record;
    until timestamptz;
begin
    perform noshi.must('approve');
    if b.validated_at is null or b.cancelled_at is not null or b.registered_at is not null or not (b.needs_approval or batch_is_large(b, null)) then
        raise exception 'batch % does not await approval', b.id using errcode = 'NS409',
            hint = case when b.invalid_at is not null then 'Its file has faults; a fixed one is a batch of its own.'
                when b.cancelled_at is not null then 'It was cancelled.'
                when b.registered_at is not null then 'It is granted already.'
                when b.validated_at is null then 'It was not received to its end: submit the same file again.'
                else 'It needs no approval, being below the threshold; `noshi batch release` lets it go.' end;
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an approval needs a reason' using errcode = 'NS400';
    end if;
    if b.submitted_by = noshi.who() then
        raise exception 'batch % was submitted by %; another person must approve it', b.id, b.submitted_by using errcode = 'NS403';
    end if;
    if b.approval_digest is distinct from p_digest then
        raise exception 'this digest does not stand for what batch % would do', b.id using errcode = 'NS409',
            hint = 'Approve what you have read: its file, its options and its addresses. `noshi batch show` names the digest that covers them.';
    end if;
    select * into against from batch_objection(b.id);
    if found then
        raise exception 'batch % may not be granted (%): %', b.id, against.code, against.detail using errcode = 'NS403';
    end if;
    select clock_timestamp() + min(c.approval_lasts) into until
    from (select distinct coalesce(currency, '') as currency from batch_row where batch = b.id) r, lateral noshi.batch_cap_for(b.kind, r.currency) c;
    update batch set approved_by = noshi.who(), approved_at = clock_timestamp(), approved_until = until where id = b.id;
    perform batch_log(b.id, 'approve', null, p_reason);
    return until;
end $$;

-- The caps in force for a kind and currency.
create function noshi.batch_cap_for(p_kind text, p_currency text) returns noshi.batch_cap language sql stable
set search_path = noshi, pg_temp
as $$ select c from batch_cap c where kind = $1 and currency = $2 order by id desc limit 1 $$;

-- Why a validated batch may not go on, approval first. No row: it may.
create function noshi.batch_hindrance(b noshi.batch) returns table (code text, detail text) language plpgsql
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
    needed := b.needs_approval or batch_is_large(b, who());
    if needed and b.approved_at is null then
        return query select 'batch_not_approved', case when b.needs_approval then 'a second person must approve it'
            else 'a second person must approve it: it is too much for one, with what was let go without approval in the last 24 hours and by the caps of now' end;
    elsif needed and b.approved_until <= clock_timestamp() then
        return query select 'batch_not_approved', format('the approval by %s ran out at %s', b.approved_by, b.approved_until);
    else
        return query select o.code, o.detail from batch_objection(b.id) o;
    end if;
end $$;

-- Batches are judged on what is committed now: under an older snapshot rows that came later would be released unjudged.
create function noshi.batch_locked(p_batch bigint) returns noshi.batch language plpgsql
set search_path = noshi, pg_temp
as $$
declare b batch;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a batch is acted on in a transaction that is read committed' using errcode = 'NS400';
    end if;
    -- Not `for update`: rows that name the batch, such as a producer's, hold its key for as long as their transaction likes.
    select * into b from batch where id = p_batch for no key update;
    if not found then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    return b;
end $$;

create function noshi.batch_log(p_batch bigint, p_act text, p_code text default null, p_reason text default null) returns void language sql
set search_path = noshi, pg_temp
as $$
    insert into batch_event (batch, act, code, reason) values ($1, $2, $3, $4);
    select noshi.record('batch ' || $2, 'batch/' || $1, $4, null, case when $3 is not null then jsonb_build_object('code', $3) end);
$$;

-- Why this batch may not be granted now: a cap, or grants that exist already. No row: there are no objections.
create function noshi.batch_objection(p_batch bigint) returns table (code text, detail text) language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = on set enable_hashjoin = on set enable_mergejoin = on set work_mem = '64MB'
as $$
declare
    b batch;
    per record;
    cap batch_cap;
    found_text text;
    day_total bigint;
begin
    select * into strict b from batch where id = p_batch;
    for per in select coalesce(r.currency, '') as currency, count(*) as rows, coalesce(sum(r.amount), 0)::bigint as total
               from batch_row r where r.batch = b.id group by 1 loop
        cap := batch_cap_for(b.kind, per.currency);
        if cap.id is null then
            return query select 'batch_over_cap', format('no cap is set for %s in %s, so none may be made', b.kind, per.currency);
            return;
        end if;
        if b.rows > cap.max_rows then
            return query select 'batch_over_cap', format('%s rows; the cap is %s', b.rows, cap.max_rows);
            return;
        end if;
        if per.total > cap.max_total then
            return query select 'batch_over_cap', format('%s %s in all; the cap is %s', per.total, per.currency, cap.max_total);
            return;
        end if;
        select coalesce(sum(r.amount), 0)::bigint into day_total from batch o join batch_row r on r.batch = o.id and r.currency = per.currency
        where o.registered_at > clock_timestamp() - interval '24 hours' and o.kind = b.kind and o.id <> b.id and (o.cancelled_at is null or row_goes_on(o, r.key));
        if day_total + per.total > cap.max_per_day then
            return query select 'batch_over_cap', format('%s %s here and %s in the last 24 hours; the cap for a day is %s', per.total, per.currency, day_total, cap.max_per_day);
            return;
        end if;
        if cap.max_per_user is not null then
            select format('line %s: its user would get %s %s within 24 hours; the cap is %s', min(u.line), u.total + u.before, per.currency, cap.max_per_user)
            into found_text
            from (select m.line, m.total, coalesce(d.before, 0) as before from
                    (select r.user_id, min(r.line) as line, sum(r.amount) as total from batch_row r where r.batch = b.id and r.currency = per.currency group by 1) m
                    left join (select r.user_id, sum(r.amount) as before from batch o join batch_row r on r.batch = o.id and r.currency = per.currency
                               where o.registered_at > clock_timestamp() - interval '24 hours' and o.kind = b.kind and o.id <> b.id and (o.cancelled_at is null or row_goes_on(o, r.key)) group by 1) d using (user_id)
                    where m.total + coalesce(d.before, 0) > cap.max_per_user order by m.line limit 1) u
            group by u.total, u.before;
            if found_text is not null then
                return query select 'batch_over_cap', found_text;
                return;
            end if;
        end if;
    end loop;
    if b.kind <> 'stores' then
        select string_agg(format('line %s', line), ', ' order by line) into found_text from (
            select r.line from batch_row r where r.batch = b.id and exists (
                select from batch_row o join batch ob on ob.id = o.batch and ob.registered_at is not null and (ob.cancelled_at is null or row_goes_on(ob, o.key))
                where o.key = r.key and o.batch <> r.batch and ob.kind = b.kind)
            order by r.line limit 20) d;
        if found_text is not null then
            return query select 'batch_duplicates', format('granted by another batch already: %s', found_text);
            return;
        end if;
        select string_agg(format('line %s', line), ', ' order by line) into found_text from (
            select r.line from batch_row r where r.batch = b.id and (
                exists (select from job j where j.kind = case b.kind when 'points' then 'point_grant' else 'gift_issuance' end and j.key = r.key and j.batch is distinct from b.id)
                or exists (select from tombstone t where t.kind = case b.kind when 'points' then 'point_grant' else 'gift_issuance' end and t.key = r.key and t.batch is distinct from b.id)) order by r.line limit 20) d;
        if found_text is not null then
            return query select 'batch_duplicates', format('asked for by somebody else already: %s. An id names one request for ever, also one that was cancelled: give these rows new ids', found_text);
        end if;
    end if;
end $$;

-- Of a settled batch the frozen totals.
create function noshi.batch_progress(p_batch bigint) returns table (
    batch bigint, status text, rows bigint, completed bigint, failed bigint, cancelled bigint, needs_operator bigint, open bigint,
    skipped bigint, compensated bigint, mails_sent bigint, mails_failed bigint, holds boolean)
language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select f.* from batch b cross join lateral jsonb_to_record(b.totals) as f(
        batch bigint, status text, rows bigint, completed bigint, failed bigint, cancelled bigint, needs_operator bigint, open bigint,
        skipped bigint, compensated bigint, mails_sent bigint, mails_failed bigint, holds boolean)
    where b.id = p_batch and b.settled_at is not null
    union all
    select p.* from batch b cross join lateral batch_progress_of_rows(b.id) p where b.id = p_batch and b.settled_at is null
$$;

create function noshi.batch_progress_of_rows(p_batch bigint) returns table (batch bigint, status text, rows bigint, completed bigint, failed bigint, cancelled bigint, needs_operator bigint, open bigint, skipped bigint, compensated bigint, mails_sent bigint, mails_failed bigint, holds boolean) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    with t as (
        select count(*) as rows, count(*) filter (where r.result = 'completed') as completed, count(*) filter (where r.result = 'failed') as failed,
               count(*) filter (where r.result = 'cancelled') as cancelled, count(*) filter (where r.result = 'needs_operator') as needs_operator,
               count(*) filter (where r.result = 'open') as open, count(*) filter (where r.outcome = 'skipped') as skipped,
               count(*) filter (where r.outcome = 'compensated') as compensated,
               count(*) filter (where r.mail = 'completed') as mails_sent,
               count(*) filter (where r.mail not in ('completed', 'scheduled', 'available', 'running', 'retryable')) as mails_failed,
               coalesce(bool_and(r.jobs <= r.expected), true) as once
        from batch_rows(p_batch) r),
    -- Counted again from the jobs alone, so that a row in two places shows.
    m as (select count(*) as made, count(distinct j.row_no) as distinct_rows from (select o.row_no from job o where o.batch = p_batch union all select t.row_no from tombstone t where t.batch = p_batch) j)
    select b.id,
           case when b.invalid_at is not null then 'invalid' when b.cancelled_at is not null and t.open = 0 then 'cancelled'
                when b.validated_at is null then 'received' when b.paused_at is not null then 'paused'
                when b.refused_code is not null then 'refused'
                when exists (select from job c where c.kind = 'bulk_grants' and c.key = 'batch/' || b.id and c.status = 'needs_operator') then 'parked'
                when b.released_at is not null and t.open = 0 and t.needs_operator = 0 then 'settled'
                when b.released_at is not null then 'released'
                when b.needs_approval and (b.approved_until is null or b.approved_until <= clock_timestamp()) then 'awaiting_approval'
                when b.needs_approval then 'approved' else 'validated' end,
           t.rows, t.completed, t.failed, t.cancelled, t.needs_operator, t.open, t.skipped, t.compensated, t.mails_sent, t.mails_failed,
           t.once and (b.rows is null or b.rows = t.completed + t.failed + t.cancelled + t.needs_operator + t.open)
               and m.distinct_rows <= t.rows and (b.kind <> 'stores' or m.made = m.distinct_rows)
    from batch b cross join t cross join m where b.id = p_batch
$$;

-- Rows come only while their batch is being received, and only from the login that submits it.
create function noshi.batch_row_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare bad record;
begin
    perform noshi.must('enqueue');
    if exists (select from (select distinct batch from new_rows) r left join batch b on b.id = r.batch
               where b.id is null or b.submitted_by <> noshi.who() or b.validated_at is not null or b.invalid_at is not null or b.cancelled_at is not null) then
        raise exception 'rows are taken only while their batch is being received, from the login that submits it' using errcode = 'NS403';
    end if;
    select r.row_no, noshi.request_fault(r.kind, r.key, r.args) as fault into bad from (
        select n.row_no, n.key, case b.kind when 'points' then n.args - array['grant', 'value']
                   when 'stores' then case when n.args ->> 'contact' = n.batch || '/' || n.row_no then n.args - 'contact'
                       when n.args ? 'contact' then n.args || '{"contact": true}' else n.args end
                   else n.args end as args,
               case b.kind when 'grants' then 'gift_issuance' when 'points' then 'point_grant' else 'store_creation' end as kind
        from new_rows n join batch b on b.id = n.batch offset 0) r
    where case when noshi.is_usual(r.kind, r.key, r.args) then false else noshi.request_fault(r.kind, r.key, r.args) is not null end
    order by r.row_no limit 1;
    if found then
        raise exception 'row %: %', bad.row_no, bad.fault using errcode = 'NS400', column = split_part(bad.fault, ': ', 1);
    end if;
    return null;
end $$;

-- What became of each row, from one row of the file to another; of pruned jobs their tombstones tell. A row is done when all jobs that it
-- leads to are done; a mail that failed undoes no grant.
create function noshi.batch_rows(p_batch bigint, p_from integer default 1, p_to integer default 2147483647) returns table (
    row_no integer, line integer, key text, result text, outcome text, code text, detail text, mail text, jobs integer, expected integer)
language sql stable security definer
set search_path = noshi, pg_temp
set enable_seqscan = on set enable_hashjoin = on set work_mem = '64MB'
as $$
    select r.row_no, r.line, r.key,
           case when j.asks then 'needs_operator'
                when j.open then 'open'
                when j.failed then 'failed'
                when j.cancelled then 'cancelled'
                when s.gone then 'cancelled'
                when b.refused_code is not null then 'failed'
                when b.released_at is null or (b.kind <> 'stores' and b.registered_at is null) or (coalesce(j.jobs, 0) < e.expected and b.cancelled_at is null) then 'open'
                else 'completed' end,
           case when s.gone then 'cancelled' else coalesce(j.outcome, case when b.registered_at is not null then 'granted' end) end,
           case when (s.gone or (b.cancelled_at is not null and j.cancelled)) and not (j.asks or j.open or j.failed) is true then 'batch_cancelled' else coalesce(j.code, b.refused_code) end, coalesce(j.detail, b.refused_detail),
           j.mail, coalesce(j.jobs, 0)::integer, e.expected
    from batch b join batch_row r on r.batch = b.id and r.row_no between p_from and p_to
    cross join lateral (select case when b.kind <> 'grants' then 1 else (b.mails and r.mailed)::integer + b.issues::integer end as expected) e
    left join (
        select j.row_no, count(*) as jobs,
               bool_or(j.status = 'needs_operator') as asks,
               bool_or(j.status in ('scheduled', 'available', 'running', 'retryable')) as open,
               bool_or(j.status = 'failed' and j.kind <> 'email') as failed,
               bool_or(j.status = 'cancelled' and j.kind <> 'email') as cancelled,
               max(j.outcome) filter (where j.kind <> 'email') as outcome,
               max(j.code) filter (where j.kind <> 'email' or j.status = 'needs_operator') as code,
               max(j.detail) filter (where j.kind <> 'email') as detail,
               max(case when j.kind = 'email' then coalesce(j.code, j.status::text) end) as mail
        from (select o.row_no, o.kind, o.status, o.outcome, o.code, coalesce(o.state ->> 'detail', o.state ->> 'reason', o.detail) as detail
              from job o where o.batch = p_batch and o.row_no between p_from and p_to
              union all
              select t.row_no, t.kind, t.status, t.outcome, t.code, t.detail
              from tombstone t where t.batch = p_batch and t.row_no between p_from and p_to) j group by j.row_no) j on j.row_no = r.row_no
    cross join lateral (select case when b.cancelled_at is null then false
        when b.kind <> 'grants' or b.registered_at is null then coalesce(j.jobs, 0) = 0
        else not (exists (select from job g where g.kind = 'gift_issuance' and g.key = r.key and g.status <> 'cancelled')
                  or exists (select from tombstone g where g.kind = 'gift_issuance' and g.key = r.key and g.status <> 'cancelled'))
             or exists (select from batch_row o join batch ob on ob.id = o.batch
                where o.key = r.key and ob.kind = 'grants' and ob.registered_at > b.registered_at) end as gone) s
    where b.id = p_batch
$$;

-- Whether rows of a batch may be announced: 'paused', 'cancelled', or null. The row is held until the announcement is committed, so that
-- no page comes after a cancel.
create function noshi.batch_stands(p_batch bigint) returns text language sql security definer
set search_path = noshi, pg_temp
as $$
    select case when cancelled_at is not null then 'cancelled' when paused_at is not null then 'paused' end from batch where id = p_batch for share
$$;

-- Whoever asks for a grant of the batch in a short transaction comes before its cancel, and their job is cancelled with the rest. Nobody is waited for who
-- takes their time: what such a one asked for goes on, as what was on its way does.
create function noshi.batch_alone(p_batch bigint) returns void language plpgsql
set search_path = noshi, pg_temp
set lock_timeout = '1s'
as $$
begin
    perform from batch where id = p_batch for update;
exception when lock_not_available then null;
end $$;

-- Before its release a batch ends here. After it, rows of stores that have not begun do; grants that stand are not taken back.
create function noshi.cancel_batch(p_batch bigint, p_reason text) returns integer language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch;
    ended integer := 0;
begin
    perform must('operate');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400';
    end if;
    perform must_know_the_past();
    b := batch_locked(p_batch);
    perform batch_alone(b.id);
    if b.cancelled_at is not null then
        raise exception 'batch % was cancelled already; nothing changed', b.id using errcode = 'NS409';
    end if;
    -- That it is settled is noted a moment after its last row.
    if b.settled_at is not null or b.invalid_at is not null or (b.released_at is not null and (select p.status = 'settled' from batch_progress(b.id) p)) then
        raise exception 'batch % is over; nothing changed', b.id using errcode = 'NS409', hint = 'Every row of it has its end: `noshi batch show` tells which.';
    end if;
    -- What a pause had set aside is counted with the rest.
    update batch set cancelled_at = clock_timestamp(), paused_at = null, paused_code = null where id = b.id;
    perform batch_log(b.id, 'cancel', null, p_reason);
    with c as (
        update job set requested_act = null, status_before = null, status = 'cancelled', outcome = 'cancelled', code = revoked_code(kind), lane = '', reserved = false,
            finished_at = clock_timestamp(), worker = null, step = step + 1
        where batch = b.id and status in ('available', 'scheduled', 'retryable') and called_at is null and undo is null and not in_doubt
          and at in ('new', 'checking', 'creating', 'routing', 'issuing', 'preparing', 'sending', 'booking') and not (args ? 'paid_by')
          -- Of a mail that may have gone out once already nobody says that it was not sent.
          and coalesce(state ->> 'sends', '0') = '0' and coalesce(state ->> 'send_no', '1') = '1'
          -- After a restore, or a loss, what this database does not remember may have been called.
          and not (kind = 'gift_issuance' and exists (select from server_seen where restored_to is not null or owed > 0))
        returning id, lease, step, at, code),
    t as (
        -- A trade that was saved and never called is void: nothing can come of it.
        insert into gift_outcome (trade, outcome, reason)
        select t.id, 'void', 'revoked' from c join gift_trade t on t.job = c.id
        where not exists (select from gift_outcome o where o.trade = t.id) on conflict do nothing)
    insert into job_event (job, event, lease, step, was, became, outcome, code, detail)
    select id, 'cancelled', lease, step - 1, at, at, 'cancelled', code, p_reason from c;
    get diagnostics ended = row_count;
    -- The others that a pause had set aside have begun: they go on.
    update job set status = 'available', run_at = clock_timestamp() where batch = b.id and status = 'scheduled' and run_at = 'infinity';
    perform ask_as(j.id, j.step, 'retry', p_reason, who()) from job j
    where j.kind = 'bulk_grants' and j.key = 'batch/' || b.id and j.status = 'needs_operator' and j.requested_act is null;
    perform pg_notify('noshi', '');
    return ended;
end $$;

-- One process at a time looks whether a batch is settled, and freezes the totals when it is. Returns the totals of the batch it looked at.
create function noshi.count_next_batch() returns table (batch bigint, status text, open bigint, holds boolean) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b bigint;
    p record;
begin
    select id into b from batch where released_at is not null and settled_at is null
      and (counted_at is null or counted_at < clock_timestamp() - greatest(interval '2 seconds', coalesce(rows, 0) * interval '100 microseconds'))
    order by counted_at nulls first limit 1 for update skip locked;
    if b is null then
        return;
    end if;
    select * into p from batch_progress(b);
    update batch o set counted_at = clock_timestamp(),
        settled_at = case when p.status in ('settled', 'cancelled') then clock_timestamp() end,
        totals = case when p.status in ('settled', 'cancelled') then to_jsonb(p) end
    where o.id = b;
    if p.status in ('settled', 'cancelled') then
        perform batch_log(b, 'settle');
    end if;
    return query select b, p.status, p.open, p.holds;
end $$;

-- A file with faults is recorded with them; nothing of its content is.
create function noshi.invalid_batch(p_kind text, p_mode text, p_digest bytea, p_file text, p_campaign text, p_faults jsonb)
returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare made bigint;
begin
    perform noshi.must('enqueue');
    perform must_be_named(p_file, p_campaign);
    if octet_length(p_faults::text) > 100000 then
        raise exception 'the first faults of a file are enough: they have at most 100,000 bytes' using errcode = 'NS400';
    end if;
    insert into batch (kind, mode, digest, file, campaign, faults, invalid_at)
    values (p_kind, p_mode, p_digest, p_file, p_campaign, p_faults, clock_timestamp()) returning id into made;
    perform batch_log(made, 'invalid');
    return made;
end $$;

-- Before the first row of it is opened.
create function noshi.note_report(p_batch bigint) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform must('personal');
    if not exists (select from batch where id = p_batch) then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    perform record('batch report', 'batch/' || p_batch, null);
end $$;

-- Holds back every row that has not begun a call; what is on its way goes on. Pausing is always safe.
create function noshi.pause_batch(p_batch bigint, p_code text, p_reason text default null) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare b batch := batch_locked(p_batch);
begin
    perform noshi.must('operate');
    if not pg_has_role(session_user, 'noshi_worker', 'member') then
        perform say_why(p_reason);
    end if;
    if b.paused_at is not null or b.settled_at is not null then
        return;
    end if;
    if coalesce(p_code, '') !~ '^[a-z][a-z0-9_]{0,62}$' then
        raise exception 'a code is a lower-case name, not %', coalesce(quote_literal(left(p_code, 100)), 'null') using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    update batch set paused_at = clock_timestamp(), paused_code = p_code where id = b.id;
    perform batch_log(b.id, 'pause', p_code, p_reason);
    update job set status = 'scheduled', run_at = 'infinity'
    where batch = b.id and status = 'available' and undo is null and not in_doubt and crash_count = 0;
end $$;

-- The same file is the same batch: returns the one that was let go, whoever submitted it, or the caller's own, or a new one. What others have only
-- begun or staged under this digest takes nobody's place: it need not be this file. Of two that are the same one is let go.
create function noshi.receive_batch(p_kind text, p_mode text, p_digest bytea, p_file text, p_encoding text, p_campaign text, p_mails boolean, p_issues boolean)
returns table (batch bigint, is_new boolean, submitted_by text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare b batch;
begin
    perform noshi.must('enqueue');
    perform must_be_named(p_file, p_campaign);
    select * into b from batch o where o.kind = p_kind and o.digest = p_digest and o.released_at is not null and o.cancelled_at is null;
    if not found then
        insert into batch (kind, mode, digest, file, encoding, campaign, mails, issues)
        values (p_kind, p_mode, p_digest, p_file, p_encoding, p_campaign, p_mails, p_issues)
        on conflict do nothing returning * into b;
        if found then
            perform batch_log(b.id, 'receive');
            return query select b.id, true, b.submitted_by;
            return;
        end if;
        select * into strict b from batch o
        where o.kind = p_kind and o.digest = p_digest and o.submitted_by = who() and o.invalid_at is null and o.cancelled_at is null;
    end if;
    if b.mode <> p_mode or b.encoding <> p_encoding or b.campaign is distinct from p_campaign or b.mails <> p_mails or b.issues <> p_issues then
        raise exception 'this file is batch % already, with other options (mode %, campaign %, mails %, issues %)',
            b.id, b.mode, coalesce(b.campaign, 'none'), b.mails, b.issues using errcode = 'NS409',
            hint = 'Cancel that batch first, if nothing of it was released.';
    end if;
    return query select b.id, false, b.submitted_by;
end $$;

-- The one commit by which every row of the batch is granted (付与), or none: asked for by the job, decided here. Approval, caps
-- and duplicates hold at this moment, whoever calls; registrations stand in line, so that no two can pass a cap together.
create function noshi.register_batch(p_batch bigint) returns table (code text, detail text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch;
    against record;
begin
    -- Under an older snapshot what others registered meanwhile would not be seen.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a batch is registered in a transaction that is read committed' using errcode = 'NS400';
    end if;
    perform from turn where act = 'register_batch' for update;
    b := batch_locked(p_batch);
    if b.paused_at is not null then
        return query select 'paused', 'it is paused';
        return;
    end if;
    if b.registered_at is not null then
        return;
    end if;
    if b.kind = 'stores' or b.released_at is null then
        return query select 'batch_not_approved', 'it was not released';
        return;
    end if;
    select * into against from batch_hindrance(b);
    if found then
        update batch set refused_code = against.code, refused_detail = against.detail where id = b.id;
        perform batch_log(b.id, 'refuse', against.code, against.detail);
        return query select against.code, against.detail;
        return;
    end if;
    update batch set registered_at = clock_timestamp(), refused_code = null, refused_detail = null where id = b.id;
    perform count_batch(b, null);
    perform batch_log(b.id, 'register');
end $$;

-- Releases the rows: stores become jobs, and grants one job that registers them. Releasing twice is harmless.
create function noshi.release_batch(p_batch bigint, p_reason text default null) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch := batch_locked(p_batch);
    against record;
begin
    perform noshi.must('operate');
    if b.released_at is not null then
        return;
    end if;
    perform in_turn(t.turn) from (
        select noshi.who() as turn where b.kind <> 'stores'
        union select 'stores of ' || w from unnest(array[b.submitted_by, noshi.who()]) w where b.kind = 'stores' order by 1) t;
    select * into against from batch_hindrance(b);
    if found then
        raise exception 'batch % may not be released (%): %', b.id, against.code, against.detail using errcode = 'NS403';
    end if;
    begin
        update batch set released_by = noshi.who(), released_at = clock_timestamp() where id = b.id;
    exception when unique_violation then
        raise exception 'the file of batch % was let go already, as another batch', b.id using errcode = 'NS409',
            hint = 'Nothing was granted by this one. Cancel it: the other grants the same rows.';
    end;
    perform count_batch(b, noshi.who());
    perform batch_log(b.id, 'release', null, p_reason);
    insert into job (kind, key, fingerprint, args, batch, row_no, rank)
    select 'store_creation', r.key, sha256(convert_to(r.args::text, 'UTF8')), r.args, b.id, r.row_no,
           (select vtime from lane where name = '') + r.row_no
    from batch_row r where r.batch = b.id and b.kind = 'stores' order by r.key;
    perform guard_request(j.kind, j.key, j.args, j.batch) from job j where j.batch = b.id order by j.row_no;
    perform admit(array(select id from job j where j.batch = b.id));
    if b.kind = 'stores' and (select count(*) from job j where j.batch = b.id) <> b.rows then
        raise exception 'rows of batch % were asked for before, and are over', b.id using errcode = 'NS409';
    end if;
    insert into job (kind, key, fingerprint, args)
    select 'bulk_grants', 'batch/' || b.id, sha256(convert_to(a.args::text, 'UTF8')), a.args
    from (select jsonb_build_object('batch', b.id) as args) a where b.kind <> 'stores';
    perform pg_notify('noshi', '');
end $$;

-- Asks for another run of every failed job of a batch: its rows, with their mails and issuances, or its refused registration. What was
-- settled is not any more. Returns how many.
create function noshi.rerun_batch(p_batch bigint, p_reason text) returns integer language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch;
    asked integer;
begin
    perform must('operate');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400';
    end if;
    b := batch_locked(p_batch);
    if b.cancelled_at is not null then
        raise exception 'batch % was cancelled', b.id using errcode = 'NS409', hint = 'Submit its rows again; a row whose gift or store was asked for needs a new id.';
    end if;
    if b.paused_at is not null then
        raise exception 'batch % is paused', b.id using errcode = 'NS409', hint = 'Resume it first.';
    end if;
    select count(coalesce(ask(j.id, j.step, 'rerun', p_reason), 0)) into asked from job j
    where j.status = 'failed' and j.requested_act is null and reruns(j.kind) and not j.in_doubt
      and (j.batch = b.id or (j.kind = 'bulk_grants' and j.key = 'batch/' || b.id));
    if asked > 0 then
        update batch set settled_at = null, totals = null, counted_at = null, refused_code = null, refused_detail = null where id = b.id;
        perform batch_log(b.id, 'rerun', null, p_reason);
    end if;
    return asked;
end $$;

-- Kinds whose state table runs a failed job again; a test compares them with the tables.
create function noshi.reruns(p_kind text) returns boolean language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$ select p_kind in ('bulk_grants', 'email', 'point_exchange', 'point_grant', 'store_creation') $$;

-- Grants are judged and counted when they are registered. Stores that were set aside go on here, so here is where they are.
create function noshi.resume_batch(p_batch bigint, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch := batch_locked(p_batch);
    against record;
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400';
    end if;
    perform noshi.must('operate');
    if b.paused_at is null then
        raise exception 'batch % is not paused', b.id using errcode = 'NS409';
    end if;
    if b.kind = 'stores' and exists (select from job j where j.batch = b.id and j.status = 'scheduled' and j.run_at = 'infinity') then
        perform in_turn(t.turn) from (select distinct 'stores of ' || w as turn from unnest(array[b.submitted_by, b.released_by, who()]) w order by 1) t;
        select * into against from batch_hindrance(b);
        if found then
            raise exception 'batch % may not go on (%): %', b.id, against.code, against.detail using errcode = 'NS403',
                hint = 'Nothing was changed: its rows stay set aside. Another person approves it (`noshi batch approve`), then resume it; or cancel it.';
        end if;
        perform count_batch(b, who());
    end if;
    update batch set paused_at = null, paused_code = null where id = b.id;
    perform batch_log(b.id, 'resume', b.paused_code, p_reason);
    update job set status = 'available', run_at = clock_timestamp(), waited = least(waited + greatest(clock_timestamp() - greatest(b.paused_at, entered_at), '0'), '1000 years')
    where batch = b.id and status = 'scheduled' and run_at = 'infinity';
    perform pg_notify('noshi', '');
end $$;

-- What an operator's end is called, by kind.
create function noshi.revoked_code(p_kind text) returns text language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case p_kind when 'gift_issuance' then 'gift_revoked' when 'email' then 'mail_revoked' when 'store_creation' then 'store_revoked'
                       when 'point_grant' then 'points_revoked' end
$$;

-- Whether a row of a cancelled batch goes on, or came to an end of its own. One that was granted again is of the later batch.
create function noshi.row_goes_on(b noshi.batch, p_key text) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    select (exists (select from job j where j.kind = k.kind and j.key = p_key and j.status <> 'cancelled')
            or exists (select from tombstone t where t.kind = k.kind and t.key = p_key and t.status <> 'cancelled'))
        and not exists (select from batch_row o join batch ob on ob.id = o.batch
            where o.key = p_key and ob.kind = b.kind and ob.registered_at > b.registered_at)
    from (select case b.kind when 'points' then 'point_grant' when 'grants' then 'gift_issuance' else 'store_creation' end as kind) k
$$;

-- A batch with a job that is asked for an act is not settled any more.
create function noshi.unsettle_batch() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    update batch set settled_at = null, totals = null, counted_at = null where id = new.batch and settled_at is not null;
    return null;
end $$;

-- All rows are here, and the file was whole and good. Returns whether a second person must approve.
create function noshi.validate_batch(p_batch bigint, p_rows integer) returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = on set enable_hashjoin = on set work_mem = '64MB'
as $$
declare
    b batch := batch_locked(p_batch);
    staged bigint;
    needed boolean;
begin
    perform noshi.must('enqueue');
    if b.validated_at is not null then
        return b.needs_approval;
    end if;
    if b.submitted_by <> noshi.who() then
        raise exception 'batch % was submitted by %', b.id, b.submitted_by using errcode = 'NS403';
    end if;
    if b.invalid_at is not null or b.cancelled_at is not null then
        raise exception 'batch % is not being received', b.id using errcode = 'NS409';
    end if;
    -- Rows that another session of the submitter has inserted and not committed hold its key: these are waited for, so that none comes after the judgement.
    perform from batch where id = b.id for update;
    select count(*) into staged from batch_row where batch = b.id;
    if exists (select from batch_row r where r.batch = b.id and ((b.kind <> 'stores') <> (r.amount is not null) or (b.kind = 'points') <> (r.currency is not distinct from 'PT')))
       or exists (select from batch_row r where r.batch = b.id group by r.key having count(*) > 1) then
        raise exception 'batch % has rows that are no %, or one id twice', b.id, b.kind using errcode = 'NS400';
    end if;
    if staged = 0 or staged is distinct from p_rows then
        raise exception 'batch % has % rows, not the % of its file', b.id, staged, p_rows using errcode = 'NS409';
    end if;
    needed := batch_is_large(b, noshi.who());
    update batch set rows = staged, validated_at = clock_timestamp(), needs_approval = needed, approval_digest = batch_covers(b, staged) where id = b.id;
    perform batch_log(b.id, 'validate', null, case when needed then 'a second person must approve' else 'below the threshold of approval' end);
    return needed;
end $$;

insert into noshi.batch_cap (kind, currency, max_rows, max_total, max_per_user, max_per_day, approve_from_rows, approve_from_total) values
    ('grants', 'JPY', 1000000, 100000000, 100000, 100000000, 100, 100000),
    ('grants', 'USD', 1000000, 100000000, 100000, 100000000, 100, 100000),
    ('stores', '', 10000, null, null, null, null, null);
insert into noshi.batch_cap (kind, currency, max_rows, max_total, max_per_user, max_per_day, approve_from_rows, approve_from_total) values
    ('points', 'PT', 1000000, 100000000, 100000, 100000000, 100, 100000);

create trigger append_only before update or delete on noshi.batch_event for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.batch_event for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.batch_row for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.batch_row for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.batch_cap for each row execute function noshi.journal_is_append_only();
create trigger only_while_received after insert on noshi.batch_row referencing new table as new_rows
    for each statement execute function noshi.batch_row_guard();
create trigger audited after insert on noshi.batch_cap for each row execute function noshi.audit_cap();
create trigger unsettle_batch after update of requested_act on noshi.job for each row
    when (new.requested_act is not null and old.requested_act is null and new.batch is not null) execute function noshi.unsettle_batch();

revoke all on function noshi.approve_batch(bigint, bytea, text), noshi.batch_alone(bigint), noshi.batch_cap_for(text, text),
    noshi.batch_hindrance(noshi.batch), noshi.batch_locked(bigint), noshi.batch_log(bigint, text, text, text),
    noshi.batch_objection(bigint), noshi.batch_progress(bigint), noshi.batch_progress_of_rows(bigint), noshi.batch_row_guard(),
    noshi.batch_rows(bigint, integer, integer), noshi.batch_stands(bigint), noshi.cancel_batch(bigint, text), noshi.count_next_batch(),
    noshi.invalid_batch(text, text, bytea, text, text, jsonb), noshi.note_report(bigint), noshi.pause_batch(bigint, text, text),
    noshi.receive_batch(text, text, bytea, text, text, text, boolean, boolean), noshi.register_batch(bigint),
    noshi.release_batch(bigint, text), noshi.rerun_batch(bigint, text), noshi.reruns(text), noshi.resume_batch(bigint, text),
    noshi.revoked_code(text), noshi.row_goes_on(noshi.batch, text), noshi.unsettle_batch(), noshi.validate_batch(bigint, integer)
    from public;
grant execute on function noshi.approve_batch(bigint, bytea, text), noshi.batch_objection(bigint),
    noshi.batch_progress(bigint), noshi.cancel_batch(bigint, text), noshi.invalid_batch(text, text, bytea, text, text, jsonb),
    noshi.note_report(bigint), noshi.receive_batch(text, text, bytea, text, text, text, boolean, boolean),
    noshi.release_batch(bigint, text), noshi.rerun_batch(bigint, text), noshi.resume_batch(bigint, text),
    noshi.validate_batch(bigint, integer) to noshi_operator, noshi_api;
grant execute on function noshi.batch_rows(bigint, integer, integer) to noshi_operator, noshi_api, noshi_worker;
grant execute on function noshi.batch_stands(bigint), noshi.count_next_batch(), noshi.register_batch(bigint) to noshi_worker;
grant execute on function noshi.pause_batch(bigint, text, text) to noshi_operator, noshi_worker, noshi_api;
grant execute on function noshi.reruns(text) to noshi_operator;
grant select on noshi.batch, noshi.batch_cap, noshi.batch_event to noshi_worker, noshi_operator, noshi_api;
grant select on noshi.batch_row to noshi_worker;
grant insert, select on noshi.batch_row to noshi_operator, noshi_api;

reset role;
