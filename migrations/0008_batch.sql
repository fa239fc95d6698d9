set role noshi_owner;

-- A batch is one file, submitted once: received → validated or invalid → awaiting approval → released → settled. What it has
-- reached is told by its times; each is set once, by one function below, and by nothing else. Who acts is the login, never an argument.
create table noshi.batch (
    id             bigint generated always as identity primary key,
    -- What a row asks for: a gift for a user (grants), or a store (stores).
    kind           text not null check (kind in ('grants', 'stores')),
    -- grants: one commit for all rows, or none. stores: each row lives and dies alone.
    mode           text not null check (mode in ('all_or_nothing', 'per_row')),
    -- SHA-256 of the file's bytes as they came. The bytes themselves are kept, sealed and unmodified.
    digest         bytea not null check (octet_length(digest) = 32),
    file           text not null,
    encoding       text not null default 'utf-8' check (encoding in ('utf-8', 'shift_jis')),
    campaign       text,
    -- grants: announce each by mail; issue each at once instead of when its user asks.
    mails          boolean not null default false,
    issues         boolean not null default false,
    submitted_by   text not null default session_user,
    received_at    timestamptz not null default clock_timestamp(),
    rows           integer,
    validated_at   timestamptz,
    -- Line, field and sentence of each fault; never what the field held.
    faults         jsonb,
    invalid_at     timestamptz,
    needs_approval boolean not null default false,
    approved_by    text,
    approved_at    timestamptz,
    approved_until timestamptz,
    released_by    text,
    released_at    timestamptz,
    -- grants: the one small commit that grants every row.
    registered_at  timestamptz,
    refused_code   text,
    refused_detail text,
    paused_code    text,
    paused_at      timestamptz,
    cancelled_at   timestamptz,
    -- When nothing was left to be done, and the totals of that moment.
    settled_at     timestamptz,
    totals         jsonb,
    counted_at     timestamptz,
    check (mode = case kind when 'grants' then 'all_or_nothing' else 'per_row' end),
    check (approved_by is null or approved_by <> submitted_by)
);
create unique index batch_once on noshi.batch (kind, digest) where invalid_at is null and cancelled_at is null;
create index batch_registered on noshi.batch (registered_at) where registered_at is not null;
create index batch_unsettled on noshi.batch (id) where released_at is not null and settled_at is null;

-- The journal of batches: who did what, and why.
create table noshi.batch_event (
    batch        bigint not null references noshi.batch (id),
    happened_at  timestamptz not null default clock_timestamp(),
    act          text not null,
    who          text not null default session_user,
    code         text,
    reason       text
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
    check (amount is null or (amount > 0 and key = args ->> 'grant' and coalesce(user_id, '') <> '' and coalesce(currency, '') <> ''))
);
create index batch_row_key on noshi.batch_row (key);

-- What a batch may be. The latest row for a kind and currency holds; there is no update, so the table is its own log.
-- A null limit is none; `approve_from_*` null: no approval on that account.
create table noshi.batch_cap (
    id                 bigint generated always as identity primary key,
    kind               text not null check (kind in ('grants', 'stores')),
    -- '' for stores.
    currency           text not null,
    most_rows          integer,
    most_total         bigint,
    -- In any 24 hours, this batch included.
    most_per_user      bigint,
    most_per_day       bigint,
    approve_from_rows  integer,
    approve_from_total bigint,
    approval_lasts     interval not null default '24 hours',
    set_by             text not null default session_user,
    set_at             timestamptz not null default clock_timestamp()
);
insert into noshi.batch_cap (kind, currency, most_rows, most_total, most_per_user, most_per_day, approve_from_rows, approve_from_total) values
    ('grants', 'JPY', 1000000, 100000000, 100000, 100000000, 100, 100000),
    ('grants', 'USD', 1000000, 100000000, 100000, 100000000, 100, 100000),
    ('stores', '', 10000, null, null, null, null, null);

create trigger append_only before update or delete on noshi.batch_event for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.batch_event for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.batch_row for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.batch_row for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.batch_cap for each row execute function noshi.journal_is_append_only();

-- Rows come only while their batch is being received, and only from the login that submits it.
create function noshi.batch_row_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if exists (select from (select distinct batch from new_rows) r left join batch b on b.id = r.batch
               where b.id is null or b.submitted_by <> session_user or b.validated_at is not null or b.invalid_at is not null or b.cancelled_at is not null) then
        raise exception 'rows are taken only while their batch is being received, from the login that submits it' using errcode = 'NS403';
    end if;
    return null;
end $$;
create trigger only_while_received after insert on noshi.batch_row referencing new table as new_rows
    for each statement execute function noshi.batch_row_guard();

-- The chunks of files are sealed like codes and recipients. subject: batch/chunk, or batch/row of a recipient.
alter table noshi_sealed.sealed drop constraint sealed_what_check;
alter table noshi_sealed.sealed add constraint sealed_what_check check (what in ('gift_code', 'recipient', 'file', 'suppressed'));

-- The batch, locked; or an error that names it.
create function noshi.batch_locked(p_batch bigint) returns noshi.batch language plpgsql
set search_path = noshi, pg_temp
as $$
declare b batch;
begin
    select * into b from batch where id = p_batch for update;
    if not found then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    return b;
end $$;

create function noshi.batch_log(p_batch bigint, p_act text, p_code text default null, p_reason text default null) returns void language sql
set search_path = noshi, pg_temp
as $$ insert into batch_event (batch, act, code, reason) values ($1, $2, $3, $4) $$;

-- The same file is the same batch: returns the one that exists, or a new one. One that another login is still submitting is refused.
create function noshi.receive_batch(p_kind text, p_mode text, p_digest bytea, p_file text, p_encoding text, p_campaign text, p_mails boolean, p_issues boolean)
returns table (batch bigint, is_new boolean, submitted_by text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare b batch;
begin
    insert into batch (kind, mode, digest, file, encoding, campaign, mails, issues)
    values (p_kind, p_mode, p_digest, p_file, p_encoding, p_campaign, p_mails, p_issues)
    on conflict (kind, digest) where invalid_at is null and cancelled_at is null do nothing returning * into b;
    if found then
        perform batch_log(b.id, 'receive');
        return query select b.id, true, b.submitted_by;
        return;
    end if;
    select * into strict b from batch o where o.kind = p_kind and o.digest = p_digest and o.invalid_at is null and o.cancelled_at is null;
    if b.mode <> p_mode or b.encoding <> p_encoding or b.campaign is distinct from p_campaign or b.mails <> p_mails or b.issues <> p_issues then
        raise exception 'this file is batch % already, with other options (mode %, campaign %, mails %, issues %)',
            b.id, b.mode, coalesce(b.campaign, 'none'), b.mails, b.issues using errcode = 'NS409',
            hint = 'Cancel that batch first, if nothing of it was released.';
    end if;
    if b.validated_at is null and b.submitted_by <> session_user then
        raise exception 'this file is batch %, which % is submitting', b.id, b.submitted_by using errcode = 'NS409';
    end if;
    return query select b.id, false, b.submitted_by;
end $$;

-- A file with faults is recorded with them; nothing of its content is.
create function noshi.invalid_batch(p_kind text, p_mode text, p_digest bytea, p_file text, p_campaign text, p_faults jsonb)
returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare made bigint;
begin
    insert into batch (kind, mode, digest, file, campaign, faults, invalid_at)
    values (p_kind, p_mode, p_digest, p_file, p_campaign, p_faults, clock_timestamp()) returning id into made;
    perform batch_log(made, 'invalid');
    return made;
end $$;

-- The caps in force for a kind and currency.
create function noshi.batch_cap_for(p_kind text, p_currency text) returns noshi.batch_cap language sql stable
set search_path = noshi, pg_temp
as $$ select c from batch_cap c where kind = $1 and currency = $2 order by id desc limit 1 $$;

-- Why this batch may not be granted now: a cap, or grants that exist already. No row: nothing speaks against it.
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
        if b.rows > cap.most_rows then
            return query select 'batch_over_cap', format('%s rows; the cap is %s', b.rows, cap.most_rows);
            return;
        end if;
        if per.total > cap.most_total then
            return query select 'batch_over_cap', format('%s %s in all; the cap is %s', per.total, per.currency, cap.most_total);
            return;
        end if;
        select coalesce(sum(r.amount), 0)::bigint into day_total from batch o join batch_row r on r.batch = o.id and r.currency = per.currency
        where o.registered_at > clock_timestamp() - interval '24 hours' and o.kind = b.kind and o.id <> b.id;
        if day_total + per.total > cap.most_per_day then
            return query select 'batch_over_cap', format('%s %s here and %s in the last 24 hours; the cap for a day is %s', per.total, per.currency, day_total, cap.most_per_day);
            return;
        end if;
        if cap.most_per_user is not null then
            select format('line %s: its user would get %s %s within 24 hours; the cap is %s', min(u.line), u.total + u.before, per.currency, cap.most_per_user)
            into found_text
            from (select m.line, m.total, coalesce(d.before, 0) as before from
                    (select r.user_id, min(r.line) as line, sum(r.amount) as total from batch_row r where r.batch = b.id and r.currency = per.currency group by 1) m
                    left join (select r.user_id, sum(r.amount) as before from batch o join batch_row r on r.batch = o.id and r.currency = per.currency
                               where o.registered_at > clock_timestamp() - interval '24 hours' and o.kind = b.kind and o.id <> b.id group by 1) d using (user_id)
                    where m.total + coalesce(d.before, 0) > cap.most_per_user order by m.line limit 1) u
            group by u.total, u.before;
            if found_text is not null then
                return query select 'batch_over_cap', found_text;
                return;
            end if;
        end if;
    end loop;
    if b.kind = 'grants' then
        select string_agg(format('line %s', line), ', ' order by line) into found_text from (
            select r.line from batch_row r where r.batch = b.id and exists (
                select from batch_row o join batch ob on ob.id = o.batch and ob.registered_at is not null
                where o.key = r.key and o.batch <> r.batch and ob.kind = 'grants')
            order by r.line limit 20) d;
        if found_text is not null then
            return query select 'batch_duplicates', format('granted by another batch already: %s', found_text);
            return;
        end if;
        select string_agg(format('line %s', line), ', ' order by line) into found_text from (
            select r.line from batch_row r join job j on j.kind = 'gift_issuance' and j.key = r.key
            where r.batch = b.id and j.batch is distinct from b.id order by r.line limit 20) d;
        if found_text is not null then
            return query select 'batch_duplicates', format('asked for by somebody else already: %s', found_text);
        end if;
    end if;
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
    if b.validated_at is not null then
        return b.needs_approval;
    end if;
    if b.submitted_by <> session_user then
        raise exception 'batch % was submitted by %', b.id, b.submitted_by using errcode = 'NS403';
    end if;
    if b.invalid_at is not null or b.cancelled_at is not null then
        raise exception 'batch % is not being received', b.id using errcode = 'NS409';
    end if;
    select count(*) into staged from batch_row where batch = b.id;
    if exists (select from batch_row r where r.batch = b.id and (b.kind = 'grants') <> (r.amount is not null))
       or exists (select from batch_row r where r.batch = b.id group by r.key having count(*) > 1) then
        raise exception 'batch % has rows that are no %, or one id twice', b.id, b.kind using errcode = 'NS400';
    end if;
    if staged = 0 or staged is distinct from p_rows then
        raise exception 'batch % has % rows, not the % of its file', b.id, staged, p_rows using errcode = 'NS409';
    end if;
    select coalesce(bool_or(c.id is null or r.rows >= c.approve_from_rows or r.total >= c.approve_from_total), false) into needed
    from (select coalesce(currency, '') as currency, count(*) as rows, sum(amount) as total from batch_row where batch = b.id group by 1) r
    left join lateral noshi.batch_cap_for(b.kind, r.currency) c on true;
    update batch set rows = staged, validated_at = clock_timestamp(), needs_approval = needed where id = b.id;
    perform batch_log(b.id, 'validate', null, case when needed then 'a second person must approve' else 'below the threshold of approval' end);
    return needed;
end $$;

-- By a second person, over the very bytes: the digest is of the file. It expires.
create function noshi.approve_batch(p_batch bigint, p_digest bytea, p_reason text) returns timestamptz language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch := batch_locked(p_batch);
    against record;
    until timestamptz;
begin
    if b.validated_at is null or b.cancelled_at is not null or b.registered_at is not null or not b.needs_approval then
        raise exception 'batch % does not await approval', b.id using errcode = 'NS409',
            hint = 'It was not validated, needs none, was cancelled, or is granted already; `noshi batch show` tells.';
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an approval needs a reason' using errcode = 'NS400';
    end if;
    if b.submitted_by = session_user then
        raise exception 'batch % was submitted by %; another person must approve it', b.id, b.submitted_by using errcode = 'NS403';
    end if;
    if b.digest is distinct from p_digest then
        raise exception 'the digest is not that of batch %', b.id using errcode = 'NS409',
            hint = 'Approve what you have read: take the digest from your own copy of the file.';
    end if;
    select * into against from batch_objection(b.id);
    if found then
        raise exception 'batch % may not be granted (%): %', b.id, against.code, against.detail using errcode = 'NS403';
    end if;
    select clock_timestamp() + min(c.approval_lasts) into until
    from (select distinct coalesce(currency, '') as currency from batch_row where batch = b.id) r, lateral noshi.batch_cap_for(b.kind, r.currency) c;
    update batch set approved_by = session_user, approved_at = clock_timestamp(), approved_until = until where id = b.id;
    perform batch_log(b.id, 'approve', null, p_reason);
    return until;
end $$;

-- Why a validated batch may not go on, approval first. No row: it may.
create function noshi.batch_hindrance(b noshi.batch) returns table (code text, detail text) language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if b.cancelled_at is not null then
        return query select 'batch_cancelled', 'it was cancelled';
    elsif b.validated_at is null then
        return query select 'batch_not_approved', 'it was not validated';
    elsif b.needs_approval and b.approved_at is null then
        return query select 'batch_not_approved', 'a second person must approve it';
    elsif b.needs_approval and b.approved_until <= clock_timestamp() then
        return query select 'batch_not_approved', format('the approval by %s ran out at %s', b.approved_by, b.approved_until);
    else
        return query select o.code, o.detail from batch_objection(b.id) o;
    end if;
end $$;

-- Lets the rows go: stores become jobs, and grants one job that registers them. Releasing twice is harmless.
create function noshi.release_batch(p_batch bigint) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch := batch_locked(p_batch);
    against record;
begin
    if b.released_at is not null then
        return;
    end if;
    select * into against from batch_hindrance(b);
    if found then
        raise exception 'batch % may not be released (%): %', b.id, against.code, against.detail using errcode = 'NS403';
    end if;
    update batch set released_by = session_user, released_at = clock_timestamp() where id = b.id;
    perform batch_log(b.id, 'release');
    insert into job (kind, key, fingerprint, args, batch, row_no, rank)
    select 'store_creation', r.key, sha256(convert_to(r.args::text, 'UTF8')), r.args, b.id, r.row_no,
           (select vtime from lane where name = '') + r.row_no
    from batch_row r where r.batch = b.id and b.kind = 'stores' order by r.key;
    insert into job (kind, key, fingerprint, args)
    select 'bulk_grants', 'batch/' || b.id, sha256(convert_to(a.args::text, 'UTF8')), a.args
    from (select jsonb_build_object('batch', b.id) as args) a where b.kind = 'grants';
    perform pg_notify('noshi', '');
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
    perform pg_advisory_xact_lock(hashtext('noshi.register_batch'));
    b := batch_locked(p_batch);
    if b.registered_at is not null then
        return;
    end if;
    if b.kind <> 'grants' or b.released_at is null then
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
    perform batch_log(b.id, 'register');
end $$;

-- Holds back every row that has not begun a call; what is on its way goes on. Pausing is always safe.
create function noshi.pause_batch(p_batch bigint, p_code text, p_reason text default null) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare b batch := batch_locked(p_batch);
begin
    if b.paused_at is not null or b.settled_at is not null then
        return;
    end if;
    update batch set paused_at = clock_timestamp(), paused_code = p_code where id = b.id;
    perform batch_log(b.id, 'pause', p_code, p_reason);
    update job set status = 'scheduled', run_at = 'infinity'
    where batch = b.id and status = 'available' and undo is null and not unsure and lost = 0;
end $$;

create function noshi.resume_batch(p_batch bigint, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare b batch := batch_locked(p_batch);
begin
    if b.paused_at is null then
        raise exception 'batch % is not paused', b.id using errcode = 'NS409';
    end if;
    update batch set paused_at = null, paused_code = null where id = b.id;
    perform batch_log(b.id, 'resume', b.paused_code, p_reason);
    update job set status = 'available', run_at = clock_timestamp(), waited = waited + (clock_timestamp() - greatest(b.paused_at, entered_at))
    where batch = b.id and status = 'scheduled' and run_at = 'infinity';
    perform pg_notify('noshi', '');
end $$;

-- Before its release a batch ends here. After it, rows of stores that have not begun do; grants that stand are not taken back.
create function noshi.cancel_batch(p_batch bigint, p_reason text) returns integer language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch := batch_locked(p_batch);
    ended integer := 0;
begin
    if b.registered_at is not null or b.settled_at is not null or b.invalid_at is not null then
        raise exception 'batch % is past cancelling', b.id using errcode = 'NS409',
            hint = 'Its grants stand, or its rows are done. Pause it to hold back what has not begun.';
    end if;
    update batch set cancelled_at = coalesce(cancelled_at, clock_timestamp()) where id = b.id;
    perform batch_log(b.id, 'cancel', null, p_reason);
    with c as (
        update job set status = 'cancelled', outcome = 'cancelled', finished_at = clock_timestamp(), worker = null, step = step + 1
        where batch = b.id and status in ('available', 'scheduled') and at in ('new', 'checking', 'creating') and called_at is null
          and undo is null and not unsure
        returning id, lease, step, at)
    insert into job_event (job, event, lease, step, was, became, outcome, detail)
    select id, 'cancelled', lease, step - 1, at, at, 'cancelled', p_reason from c;
    get diagnostics ended = row_count;
    return ended;
end $$;

-- What became of each row, from one row of the file to another. A row is done when all jobs that it leads to are done; a mail that failed undoes no grant.
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
                when coalesce(j.jobs, 0) = 0 and b.cancelled_at is not null then 'cancelled'
                when b.refused_code is not null then 'failed'
                when b.released_at is null or (b.kind = 'grants' and b.registered_at is null) or coalesce(j.jobs, 0) < e.expected then 'open'
                else 'completed' end,
           coalesce(j.outcome, case when b.registered_at is not null then 'granted' end), coalesce(j.code, b.refused_code), coalesce(j.detail, b.refused_detail),
           j.mail, coalesce(j.jobs, 0)::integer, e.expected
    from batch b join batch_row r on r.batch = b.id and r.row_no between p_from and p_to
    cross join lateral (select case when b.kind = 'stores' then 1 else (b.mails and r.mailed)::integer + b.issues::integer end as expected) e
    left join (
        select j.row_no, count(*) as jobs,
               bool_or(j.status = 'needs_operator') as asks,
               bool_or(j.status in ('scheduled', 'available', 'running', 'retryable')) as open,
               bool_or(j.status = 'failed' and j.kind <> 'email') as failed,
               bool_or(j.status = 'cancelled' and j.kind <> 'email') as cancelled,
               max(j.outcome) filter (where j.kind <> 'email') as outcome,
               max(j.code) filter (where j.kind <> 'email' or j.status = 'needs_operator') as code,
               max(coalesce(j.state ->> 'detail', j.state ->> 'reason', j.detail)) filter (where j.kind <> 'email') as detail,
               max(case when j.kind = 'email' then coalesce(j.code, j.status::text) end) as mail
        from job j where j.batch = p_batch and j.row_no between p_from and p_to group by j.row_no) j on j.row_no = r.row_no
    where b.id = p_batch
$$;

-- Progress, computed from the rows. `holds`: rows = completed + failed + cancelled + needs_operator + open, and no row led to more
-- jobs than it should.
create function noshi.batch_progress(p_batch bigint) returns table (
    batch bigint, status text, rows bigint, completed bigint, failed bigint, cancelled bigint, needs_operator bigint, open bigint,
    skipped bigint, compensated bigint, mails_sent bigint, mails_failed bigint, holds boolean)
language sql stable security definer
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
    m as (select count(*) as made, count(distinct j.row_no) as distinct_rows from job j where j.batch = p_batch)
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

-- One process at a time looks whether a batch is settled, and freezes the totals when it is. Returns the figures of the batch it looked at.
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

-- A user asks for the gift of a grant (発券): before all bulk work. The area is where the user would use it.
create function noshi.issue_grant(p_grant text, p_user text, p_area text default null) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    g record;
begin
    select r.args, b.registered_at into g from batch_row r join batch b on b.id = r.batch
    where r.key = p_grant and b.kind = 'grants' and b.registered_at is not null;
    if not found or g.args ->> 'user' is distinct from p_user then
        raise exception 'this user has no grant %', p_grant using errcode = 'NS404';
    end if;
    if g.args ->> 'area' is not null and g.args ->> 'area' is distinct from p_area then
        raise exception 'grant % is for the area %', p_grant, g.args ->> 'area' using errcode = 'NS403';
    end if;
    if g.registered_at + make_interval(days => (g.args ->> 'valid_days')::integer) < clock_timestamp() then
        raise exception 'grant % has lapsed', p_grant using errcode = 'NS410';
    end if;
    return enqueue('gift_issuance', p_grant, g.args, 0::smallint);
end $$;

-- Grants that stand, for reports: no names, no addresses, no codes.
create view noshi.gift_grant with (security_barrier) as
    select r.key as grant_id, b.id as batch, r.row_no, b.campaign, r.user_id, r.args ->> 'category' as category, r.args ->> 'provider' as provider,
           r.amount, r.currency, r.args ->> 'area' as area, b.registered_at as granted_at,
           b.registered_at + make_interval(days => (r.args ->> 'valid_days')::integer) as lapses_at
    from noshi.batch b join noshi.batch_row r on r.batch = b.id where b.kind = 'grants' and b.registered_at is not null;

-- The sealed bytes of a file, chunk by chunk, for its report.
create function noshi.batch_file(p_batch bigint, p_chunk integer)
returns table (key_id text, nonce bytea, ciphertext bytea) language sql stable security definer
set search_path = noshi, pg_temp
as $$ select key_id, nonce, ciphertext from noshi_sealed.sealed where what = 'file' and subject = p_batch || '/' || p_chunk $$;

-- Operators ask for an act; a worker, which knows the state tables, carries it out or refuses it. A job's own word for where it rested
-- is kept meanwhile.
alter table noshi.job add column asked text, add column rested noshi.job_status;

create function noshi.ask(p_job bigint, p_step integer, p_act text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare j job;
begin
    select * into j from job where id = p_job for update;
    if not found then
        raise exception 'there is no job %', p_job using errcode = 'NS404';
    end if;
    if p_step is distinct from j.step or j.asked is not null then
        raise exception 'job % has moved on since it was looked at', p_job using errcode = 'NS409', hint = 'Look at it again.';
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' or coalesce(p_act, '') !~ '^[a-z_]{1,30}$' then
        raise exception 'an act needs a name and a reason' using errcode = 'NS400';
    end if;
    if j.status not in ('needs_operator', 'failed', 'completed') then
        raise exception 'job % is %, not at rest', p_job, j.status using errcode = 'NS409';
    end if;
    update job set asked = p_act, rested = status, status = 'available', lane = '', relief = false, run_at = clock_timestamp(),
        waited = waited + (clock_timestamp() - coalesce(finished_at, run_at)), finished_at = null
    where id = p_job;
    insert into job_event (job, event, lease, step, was, became, outcome, detail)
    values (j.id, 'asked', j.lease, j.step, j.at, j.at, p_act, session_user || ': ' || p_reason);
    perform pg_notify('noshi', '');
end $$;

-- Asks for another run of every failed job of a batch: its rows, with their mails and issuances, or its refused registration. What was
-- settled is not any more. Returns how many.
create function noshi.rerun_batch(p_batch bigint, p_reason text) returns integer language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    b batch := batch_locked(p_batch);
    asked integer;
begin
    if b.paused_at is not null then
        raise exception 'batch % is paused', b.id using errcode = 'NS409', hint = 'Resume it first.';
    end if;
    select count(ask(j.id, j.step, 'rerun', p_reason)) into asked from job j
    where j.status = 'failed' and j.asked is null and (j.batch = b.id or (j.kind = 'bulk_grants' and j.key = 'batch/' || b.id));
    if asked > 0 then
        update batch set settled_at = null, totals = null, counted_at = null, refused_code = null, refused_detail = null where id = b.id;
        perform batch_log(b.id, 'rerun', null, p_reason);
    end if;
    return asked;
end $$;

do $$
declare f text;
begin
    foreach f in array array[
        'noshi.batch_locked(bigint)', 'noshi.batch_log(bigint, text, text, text)', 'noshi.batch_cap_for(text, text)', 'noshi.batch_hindrance(noshi.batch)',
        'noshi.receive_batch(text, text, bytea, text, text, text, boolean, boolean)', 'noshi.invalid_batch(text, text, bytea, text, text, jsonb)',
        'noshi.batch_objection(bigint)', 'noshi.validate_batch(bigint, integer)', 'noshi.approve_batch(bigint, bytea, text)', 'noshi.release_batch(bigint)',
        'noshi.register_batch(bigint)', 'noshi.pause_batch(bigint, text, text)', 'noshi.resume_batch(bigint, text)', 'noshi.cancel_batch(bigint, text)',
        'noshi.batch_rows(bigint, integer, integer)', 'noshi.batch_progress(bigint)', 'noshi.count_next_batch()', 'noshi.issue_grant(text, text, text)',
        'noshi.batch_file(bigint, integer)', 'noshi.ask(bigint, integer, text, text)', 'noshi.rerun_batch(bigint, text)', 'noshi.batch_row_guard()'] loop
        execute format('revoke all on function %s from public', f);
    end loop;
    foreach f in array array[
        'noshi.receive_batch(text, text, bytea, text, text, text, boolean, boolean)', 'noshi.invalid_batch(text, text, bytea, text, text, jsonb)',
        'noshi.batch_objection(bigint)', 'noshi.validate_batch(bigint, integer)', 'noshi.approve_batch(bigint, bytea, text)', 'noshi.release_batch(bigint)',
        'noshi.pause_batch(bigint, text, text)', 'noshi.resume_batch(bigint, text)', 'noshi.cancel_batch(bigint, text)',
        'noshi.batch_rows(bigint, integer, integer)', 'noshi.batch_progress(bigint)', 'noshi.batch_file(bigint, integer)', 'noshi.ask(bigint, integer, text, text)', 'noshi.rerun_batch(bigint, text)'] loop
        execute format('grant execute on function %s to noshi_operator', f);
    end loop;
    foreach f in array array['noshi.register_batch(bigint)', 'noshi.pause_batch(bigint, text, text)', 'noshi.count_next_batch()'] loop
        execute format('grant execute on function %s to noshi_worker', f);
    end loop;
end $$;
grant execute on function noshi.issue_grant(text, text, text) to noshi_producer;
-- What an operator starts comes in batches, whose caps and approvals the database enforces; and no producer puts a job into one.
revoke execute on function noshi.enqueue(text, text, jsonb, smallint) from noshi_operator;
alter function noshi.enqueue_rows(text, text[], jsonb[], smallint, bigint) rename to enqueue_rows_into;
revoke execute on function noshi.enqueue_rows_into(text, text[], jsonb[], smallint, bigint) from noshi_producer, noshi_operator;
-- Many jobs in the producer's own transaction, all of them or none: as `enqueue_rows_into` says, and into no batch.
create function noshi.enqueue_rows(p_kind text, keys text[], p_args jsonb[], p_priority smallint default 1)
returns setof bigint language sql security definer
set search_path = noshi, pg_temp
as $$ select noshi.enqueue_rows_into($1, $2, $3, $4, null) $$;
revoke all on function noshi.enqueue_rows(text, text[], jsonb[], smallint) from public;
grant execute on function noshi.enqueue_rows(text, text[], jsonb[], smallint) to noshi_producer;

grant select on noshi.batch, noshi.batch_row, noshi.batch_event, noshi.batch_cap to noshi_worker, noshi_operator;
grant insert on noshi.batch_row to noshi_operator;
grant select on noshi.gift_grant to noshi_reader, noshi_operator;
grant insert (rank) on noshi.job to noshi_worker;
grant update (asked, rested) on noshi.job to noshi_worker;

reset role;
