set role noshi_owner;

-- How long what is over is kept at hand. One row; changed by `set_retention`.
create table noshi.retention (
    one          boolean primary key default true check (one),
    -- Jobs that are over, with their journals.
    jobs_for     interval not null default '90 days' check (jobs_for >= interval '1 day'),
    -- The stories of pruned jobs.
    stories_for  interval not null default '2 years' check (stories_for >= interval '90 days'),
    -- How often the fleet prunes, and when it last began.
    every        interval not null default '1 hour' check (every > interval '0'),
    begun_at     timestamptz not null default clock_timestamp()
);
insert into noshi.retention default values;

-- What is left of a pruned job for years: enough to know a late duplicate, and to answer for its batch and in reports.
create table noshi.tombstone (
    id           bigint primary key,
    kind         text not null,
    key          text not null,
    fingerprint  bytea not null,
    status       noshi.job_status not null check (status in ('completed', 'failed', 'cancelled')),
    outcome      text,
    code         text,
    detail       text,
    at           text not null,
    -- Whom or what it was for: the user of a gift, the reference of a mail, the public id of a store.
    about        text,
    batch        bigint,
    row_no       integer not null,
    created_at   timestamptz not null,
    finished_at  timestamptz not null,
    pruned_at    timestamptz not null default clock_timestamp(),
    constraint tombstone_key unique (kind, key)
);
create index tombstone_batch on noshi.tombstone (batch, row_no) where batch is not null;

-- The whole row and journal of a pruned job, for as long as `retention` says.
create table noshi.job_story (
    id         bigint primary key references noshi.tombstone (id),
    job        jsonb not null,
    journal    jsonb not null,
    pruned_at  timestamptz not null default clock_timestamp()
);
create index job_story_age on noshi.job_story (pruned_at);

-- In the order in which jobs were over. An entry is made once for each job, by the update that ends it, which is in other indexes already.
create index job_finished on noshi.job (finished_at, id) where finished_at is not null;

-- Facts outlive their jobs: what points at a job is its number from now on.
do $$
declare c record;
begin
    for c in select conrelid::regclass as "table", conname from pg_constraint where confrelid = 'noshi.job'::regclass and contype = 'f' loop
        execute format('alter table %s drop constraint %I', c."table", c.conname);
    end loop;
end $$;

-- A journal goes only after its job's tombstone and story are there; a job only when its key will still be known.
create function noshi.only_what_is_pruned() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare may boolean;
begin
    if tg_op = 'DELETE' then
        case tg_table_name
            when 'job_event' then may := exists (select from job_story s where s.id = old.job);
            when 'job' then may := exists (select from tombstone t where t.kind = old.kind and t.key = old.key);
            when 'job_story' then may := old.pruned_at < clock_timestamp() - (select stories_for from retention);
        end case;
        if may then
            return old;
        end if;
    end if;
    raise exception '% is append-only but for what was pruned: % refused', tg_table_name, lower(tg_op) using errcode = 'NS001';
end $$;
revoke all on function noshi.only_what_is_pruned() from public;
drop trigger append_only on noshi.job_event;
create trigger append_only before update or delete on noshi.job_event for each row execute function noshi.only_what_is_pruned();
create trigger append_only before update or delete on noshi.job_story for each row execute function noshi.only_what_is_pruned();
create trigger no_truncate before truncate on noshi.job_story for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.tombstone for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.tombstone for each statement execute function noshi.journal_is_append_only();
create trigger only_pruned before delete on noshi.job for each row execute function noshi.only_what_is_pruned();
create trigger no_truncate before truncate on noshi.job for each statement execute function noshi.journal_is_append_only();

-- An id names one request for ever: whichever way a job comes in, one that a tombstone knows does not stay.
--
-- An insert that waited in the unique index for the prune to commit sees the tombstone here, since each statement of this function
-- has a new snapshot. Under an older snapshot it cannot; but there the pruned job is still to be seen beside the new one.
create function noshi.drop_known() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed'
       and exists (select from new_rows n join job j on j.kind = n.kind and j.key = n.key and j.id <> n.id) then
        raise exception 'a job of this id was pruned meanwhile' using errcode = '40001', hint = 'Run the transaction again.';
    end if;
    delete from job j using new_rows n join tombstone t on t.kind = n.kind and t.key = n.key where j.id = n.id;
    return null;
end $$;
revoke all on function noshi.drop_known() from public;
create trigger drop_known after insert on noshi.job referencing new table as new_rows
    for each statement execute function noshi.drop_known();

-- As before, and answered from tombstones where jobs are pruned.
create or replace function noshi.enqueue_rows_into(p_kind text, keys text[], p_args jsonb[], p_priority smallint default 1, p_batch bigint default null)
returns setof bigint language plpgsql security definer
set search_path = noshi, pg_temp
-- Each row by the index of its key, whatever was last analyzed.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off
as $$
declare
    bad record;
    -- Whatever the locale holds for a space, these leave nothing to see.
    visible constant text := '[^[:space:]\u00a0\u3000]';
begin
    if p_kind is null or p_kind !~ '^[a-z][a-z0-9_]{0,62}$' then
        raise exception 'a kind is a lower-case name, not %', coalesce(quote_literal(p_kind), 'null') using errcode = 'NS400';
    end if;
    if p_priority is null or p_priority not in (0, 1) then
        raise exception 'a priority is 0, where a person waits, or 1, not %', coalesce(p_priority::text, 'null') using errcode = 'NS400';
    end if;
    if cardinality(keys) <> cardinality(p_args) then
        raise exception '% keys but % args', cardinality(keys), cardinality(p_args) using errcode = 'NS400';
    end if;
    select row_no, key, args into bad from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    where key is null or key !~ visible or octet_length(key) > 200
       or args is null or jsonb_typeof(args) <> 'object' or octet_length(args::text) > 65536
    order by row_no limit 1;
    if found then
        raise exception 'row %: %', bad.row_no, case
            when bad.key is null or bad.key !~ visible then 'the id is empty'
            when octet_length(bad.key) > 200 then 'the id is longer than 200 bytes'
            when bad.args is null or jsonb_typeof(bad.args) <> 'object' then 'the arguments are not a JSON object'
            else 'the arguments are larger than 64 KiB' end using errcode = 'NS400';
    end if;

    insert into job (kind, key, fingerprint, args, priority, batch, row_no, rank)
    select p_kind, r.key, sha256(convert_to(r.args::text, 'UTF8')), r.args, p_priority, p_batch, r.row_no,
           case when p_priority = 0 then 0 else l.vtime + r.row_no end
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    cross join (select coalesce(max(vtime), 0) as vtime from lane where name = '') l
    order by r.key
    on conflict on constraint job_key do nothing;

    select r.row_no, r.key, coalesce(noshi.differing_fields(k.args, r.args), 'the recorded arguments are no longer kept') as difference into bad
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    left join job j on j.kind = p_kind and j.key = r.key
    left join lateral (
        select t.fingerprint, s.job -> 'args' as args from tombstone t left join job_story s on s.id = t.id
        where j.id is null and t.kind = p_kind and t.key = r.key limit 1) t on true
    cross join lateral (select coalesce(j.args, t.args) as args) k
    where coalesce(j.fingerprint, t.fingerprint) <> sha256(convert_to(r.args::text, 'UTF8'))
    order by r.row_no limit 1;
    if found then
        raise exception 'row %: % % exists with other arguments', bad.row_no, p_kind, bad.key
            using errcode = 'NS409', detail = bad.difference,
                  hint = 'An id names one request for ever. Use a new id for a new request.';
    end if;

    -- A hint without payload; PostgreSQL folds equal ones of a transaction into one.
    perform pg_notify('noshi', '');
    return query select coalesce(j.id, t.id) from unnest(keys) with ordinality as r(key, row_no)
        left join job j on j.kind = p_kind and j.key = r.key
        left join lateral (select t.id from tombstone t where j.id is null and t.kind = p_kind and t.key = r.key limit 1) t on true
        order by r.row_no;
end $$;

-- Moves out jobs that are over: looks at the next `p_most` of them behind (p_after, p_after_id), oldest first, and prunes those that may
-- go. A person's word is nowhere needed for these any more: not parked, not in doubt, not asked for, and of no batch that is not
-- settled as long ago. One process at a time; no row: another one is at it. Begun again from the start, it goes on where it was.
create function noshi.prune(p_most integer, p_older_than interval default null, p_after timestamptz default '-infinity', p_after_id bigint default 0)
returns table (looked_at integer, pruned integer, stories integer, after timestamptz, after_id bigint) language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    keep retention;
    before timestamptz;
    seen bigint[];
    gone bigint[];
begin
    perform must('operate');
    select * into strict keep from retention;
    if p_older_than < interval '1 day' then
        raise exception 'what was over within the last day is not pruned' using errcode = 'NS400';
    end if;
    if p_most is null or p_most not between 1 and 5000 then
        raise exception 'from 1 to 5000 jobs a transaction, not %', p_most using errcode = 'NS400';
    end if;
    if not pg_try_advisory_xact_lock(hashtext('noshi.prune')) then
        return;
    end if;
    before := clock_timestamp() - coalesce(p_older_than, keep.jobs_for);
    select array_agg(f.id), (array_agg(f.finished_at order by f.finished_at desc, f.id desc))[1], (array_agg(f.id order by f.finished_at desc, f.id desc))[1]
    into seen, after, after_id
    from (select j.id, j.finished_at from job j where j.finished_at < before and (j.finished_at, j.id) > (p_after, p_after_id)
          order by j.finished_at, j.id limit p_most) f;
    select array_agg(o.id) into gone from (
        select j.id from job j
        where j.id = any(seen) and j.finished_at < before and j.status in ('completed', 'failed', 'cancelled')
          and not j.unsure and j.asked is null and j.worker is null
          and not exists (select from batch b where b.id = case when j.kind = 'bulk_grants' then (j.args ->> 'batch')::bigint else j.batch end
                          and coalesce(b.settled_at >= before, true))
        order by j.id for update of j skip locked) o;

    insert into tombstone (id, kind, key, fingerprint, status, outcome, code, detail, at, about, batch, row_no, created_at, finished_at)
    select j.id, j.kind, j.key, j.fingerprint, j.status, j.outcome, j.code, coalesce(j.state ->> 'detail', j.state ->> 'reason', j.detail), j.at,
           case j.kind when 'gift_issuance' then j.args ->> 'user' when 'email' then j.args ->> 'reference' when 'store_creation' then j.args ->> 'public_id' end,
           j.batch, j.row_no, j.created_at, j.finished_at
    from job j where j.id = any(gone);
    insert into job_story (id, job, journal)
    select j.id, to_jsonb(j), coalesce(e.lines, '[]')
    from job j left join lateral (
        select jsonb_agg(to_jsonb(e) - 'job' order by e.happened_at, e.step) as lines from job_event e where e.job = j.id) e on true
    where j.id = any(gone);
    delete from job_event e where e.job = any(gone);
    delete from job j where j.id = any(gone);

    delete from job_story s where s.id in (
        select o.id from job_story o where o.pruned_at < clock_timestamp() - keep.stories_for order by o.pruned_at limit p_most for update skip locked);
    get diagnostics stories = row_count;
    after := coalesce(after, p_after);
    after_id := coalesce(after_id, p_after_id);
    looked_at := coalesce(cardinality(seen), 0);
    pruned := coalesce(cardinality(gone), 0);
    if p_older_than is not null and pruned > 0 then
        perform record('prune', 'jobs', null, null, jsonb_build_object('jobs', pruned, 'older_than', p_older_than));
    end if;
    return next;
end $$;

-- Whether it is this process's turn to prune by the schedule.
create function noshi.prune_is_due() returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    update retention set begun_at = clock_timestamp() where begun_at < clock_timestamp() - every;
    return found;
end $$;

-- How long jobs and stories are kept from now on; null is as before.
create function noshi.set_retention(p_jobs_for interval, p_stories_for interval, p_every interval, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare was retention;
begin
    perform must('operate');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'a change of the retention needs a reason' using errcode = 'NS400';
    end if;
    if p_jobs_for < interval '1 day' or p_stories_for < interval '90 days' or p_every <= interval '0' then
        raise exception 'jobs are kept for a day at least, and their stories for 90 days' using errcode = 'NS400';
    end if;
    select * into strict was from retention for update;
    update retention set jobs_for = coalesce(p_jobs_for, jobs_for), stories_for = coalesce(p_stories_for, stories_for), every = coalesce(p_every, every);
    perform record('retention', 'jobs', p_reason, to_jsonb(was) - 'one' - 'begun_at', (select to_jsonb(r) - 'one' - 'begun_at' from retention r));
end $$;

-- What became of each row, from one row of the file to another; of pruned jobs their tombstones tell. A row is done when all jobs that it
-- leads to are done; a mail that failed undoes no grant.
create or replace function noshi.batch_rows(p_batch bigint, p_from integer default 1, p_to integer default 2147483647) returns table (
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
               max(j.detail) filter (where j.kind <> 'email') as detail,
               max(case when j.kind = 'email' then coalesce(j.code, j.status::text) end) as mail
        from (select o.row_no, o.kind, o.status, o.outcome, o.code, coalesce(o.state ->> 'detail', o.state ->> 'reason', o.detail) as detail
              from job o where o.batch = p_batch and o.row_no between p_from and p_to
              union all
              select t.row_no, t.kind, t.status, t.outcome, t.code, t.detail
              from tombstone t where t.batch = p_batch and t.row_no between p_from and p_to) j group by j.row_no) j on j.row_no = r.row_no
    where b.id = p_batch
$$;

-- Progress as the rows say; `batch_progress` asks for it until the batch is settled.
alter function noshi.batch_progress(bigint) rename to batch_progress_of_rows;
do $$
declare body text;
begin
    body := pg_get_functiondef('noshi.batch_progress_of_rows(bigint)'::regprocedure);
    if body not like '%from job j where j.batch = p_batch)%' then
        raise exception 'batch_progress does not read as it was written';
    end if;
    execute replace(body, 'from job j where j.batch = p_batch)',
        'from (select o.row_no from job o where o.batch = p_batch union all select t.row_no from tombstone t where t.batch = p_batch) j)');
end $$;
revoke all on function noshi.batch_progress_of_rows(bigint) from public, noshi_operator, noshi_api;

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
revoke all on function noshi.batch_progress(bigint) from public;
grant execute on function noshi.batch_progress(bigint) to noshi_operator, noshi_api;

-- A batch with a job that is asked for an act is not settled any more.
create function noshi.unsettle_batch() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    update batch set settled_at = null, totals = null, counted_at = null where id = new.batch and settled_at is not null;
    return null;
end $$;
revoke all on function noshi.unsettle_batch() from public;
create trigger unsettle_batch after update of asked on noshi.job for each row
    when (new.asked is not null and old.asked is null and new.batch is not null) execute function noshi.unsettle_batch();

-- What looks for a job by its key or number looks among what was pruned too; and stores are released all, or none.
do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('batch_objection',
         'from batch_row r join job j on j.kind = ''gift_issuance'' and j.key = r.key
            where r.batch = b.id and j.batch is distinct from b.id order by',
         'from batch_row r where r.batch = b.id and (
                exists (select from job j where j.kind = ''gift_issuance'' and j.key = r.key and j.batch is distinct from b.id)
                or exists (select from tombstone t where t.kind = ''gift_issuance'' and t.key = r.key and t.batch is distinct from b.id)) order by'),
        ('record_email_event',
         '(select j.id from job j where j.id = p_job and j.kind = ''email'')',
         'coalesce((select j.id from job j where j.id = p_job and j.kind = ''email''), (select t.id from tombstone t where t.id = p_job and t.kind = ''email''))'),
        ('release_batch',
         'where r.batch = b.id and b.kind = ''stores'' order by r.key;',
         'where r.batch = b.id and b.kind = ''stores'' order by r.key;
    if b.kind = ''stores'' and (select count(*) from job j where j.batch = b.id) <> b.rows then
        raise exception ''rows of batch % were asked for before, and are over'', b.id using errcode = ''NS409'';
    end if;')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

revoke all on function noshi.prune(integer, interval, timestamptz, bigint), noshi.prune_is_due(), noshi.set_retention(interval, interval, interval, text) from public;
grant execute on function noshi.prune(integer, interval, timestamptz, bigint) to noshi_worker, noshi_operator;
grant execute on function noshi.prune_is_due() to noshi_worker;
grant execute on function noshi.set_retention(interval, interval, interval, text) to noshi_operator;
grant select on noshi.tombstone to noshi_worker;
grant select on noshi.tombstone, noshi.job_story, noshi.retention to noshi_operator, noshi_api;

reset role;
