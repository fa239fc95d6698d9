set role noshi_owner;
set local check_function_bodies = off;

-- How long ended jobs are kept at hand. One row; changed by `set_retention`.
create table noshi.retention (
    one          boolean primary key default true check (one),
    -- Jobs that are over, with their journals.
    jobs_for     interval not null default '90 days' check (noshi.lasts(jobs_for, '1 day', '100 years')),
    -- Archived jobs.
    archive_for  interval not null default '2 years' check (noshi.lasts(archive_for, '90 days', '100 years')),
    -- What it was before somebody shortened it, which counts for a week more: what is removed then is gone for ever, and one person says so.
    archive_was   interval check (noshi.lasts(archive_was, '90 days', '100 years')),
    shortened_at  timestamptz,
    -- How often the fleet prunes, and when it last began.
    every        interval not null default '1 hour' check (noshi.lasts(every, '1 second', '100 years')),
    begun_at     timestamptz not null default clock_timestamp(),
    check ((archive_was is null) = (shortened_at is null)),
    constraint times_are_sane check (begun_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (shortened_at is null or shortened_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);

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
    constraint tombstone_key unique (kind, key),
    constraint times_are_sane check (created_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and finished_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and pruned_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index tombstone_batch on noshi.tombstone (batch, row_no) where batch is not null;
create index tombstone_finished on noshi.tombstone using brin (finished_at) with (pages_per_range = 32);
create index tombstone_about on noshi.tombstone (kind, about);

-- The whole row and journal of a pruned job, for as long as `retention` says.
create table noshi.archived_job (
    id         bigint primary key references noshi.tombstone (id),
    job        jsonb not null,
    journal    jsonb not null,
    pruned_at  timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (pruned_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index archived_job_age on noshi.archived_job (pruned_at);

-- How long archived jobs are kept now. Whoever sees that it was shortened has a week to set it back, before anything is removed by it.
create function noshi.archive_kept(r noshi.retention) returns interval language sql stable
set search_path = noshi, pg_temp
as $$
    select case when r.shortened_at > clock_timestamp() - interval '7 days' and clock_timestamp() - r.archive_was < clock_timestamp() - r.archive_for
        then r.archive_was else r.archive_for end
$$;

-- A journal goes only after its job's tombstone and archived row are there; a job only when its key will still be known.
create function noshi.only_what_is_pruned() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare may boolean;
begin
    if tg_op = 'DELETE' then
        case tg_table_name
            when 'job_event' then may := exists (select from archived_job s where s.id = old.job);
            when 'job' then may := exists (select from tombstone t where t.kind = old.kind and t.key = old.key);
            when 'archived_job' then may := old.pruned_at < clock_timestamp() - (select archive_kept(r) from retention r);
        end case;
        if may then
            return old;
        end if;
    end if;
    raise exception '% is append-only but for what was pruned: % refused', tg_table_name, lower(tg_op) using errcode = 'NS001';
end $$;

-- Moves out jobs that are over: looks at the next `p_limit` of them behind (p_after, p_after_id), oldest first, and prunes those that may
-- go. A person's word is nowhere needed for these any more: not parked, not in doubt, not asked for, and of no batch that is not
-- settled as long ago. One process at a time; no row: another one is at it. Begun again from the start, it goes on where it was.
create function noshi.prune(p_limit integer, p_older_than interval default null, p_after timestamptz default '-infinity', p_after_id bigint default 0) returns table (looked_at integer, pruned integer, unarchived integer, after timestamptz, after_id bigint) language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    keep retention;
    before timestamptz;
    seen bigint[];
    gone bigint[];
begin
    perform must('operate');
    select * into strict keep from retention;
    if not lasts(p_older_than, '1 day', '100 years') then
        raise exception 'what was over within the last day is not pruned, and no age has a negative part, or more than 100 years' using errcode = 'NS400', hint = 'Nothing was pruned.';
    end if;
    if p_limit is null or p_limit not between 1 and 5000 then
        raise exception 'from 1 to 5000 jobs a transaction, not %', p_limit using errcode = 'NS400';
    end if;
    perform from turn where act = 'prune' for update skip locked;
    if not found then
        return;
    end if;
    before := clock_timestamp() - coalesce(p_older_than, keep.jobs_for);
    select array_agg(f.id), (array_agg(f.finished_at order by f.finished_at desc, f.id desc))[1], (array_agg(f.id order by f.finished_at desc, f.id desc))[1]
    into seen, after, after_id
    from (select j.id, j.finished_at from job j where j.finished_at < before and (j.finished_at, j.id) > (p_after, p_after_id)
          order by j.finished_at, j.id limit p_limit) f;
    select array_agg(o.id) into gone from (
        select j.id from job j
        where j.id = any(seen) and j.finished_at < before and j.status in ('completed', 'failed', 'cancelled')
          and not j.in_doubt and j.requested_act is null and j.worker is null
          and not exists (select from batch b where b.id = case when j.kind = 'bulk_grants' then (j.args ->> 'batch')::bigint else j.batch end
                          and coalesce(b.settled_at >= before, true))
        order by j.id for update of j skip locked) o;

    insert into tombstone (id, kind, key, fingerprint, status, outcome, code, detail, at, about, batch, row_no, created_at, finished_at)
    select j.id, j.kind, j.key, j.fingerprint, j.status, j.outcome, j.code, coalesce(j.state ->> 'detail', j.state ->> 'reason', j.detail), j.at,
           case j.kind when 'gift_issuance' then j.args ->> 'user' when 'point_grant' then j.args ->> 'user' when 'point_exchange' then j.args ->> 'user' when 'point_withdrawal' then j.args ->> 'user' when 'point_reversal' then j.args ->> 'exchange' when 'email' then j.args ->> 'reference' when 'store_creation' then j.args ->> 'public_id' end,
           j.batch, j.row_no, j.created_at, j.finished_at
    from job j where j.id = any(gone);
    insert into archived_job (id, job, journal)
    select j.id, to_jsonb(j), coalesce(e.lines, '[]')
    from job j left join lateral (
        select jsonb_agg(to_jsonb(e) - 'job' order by e.happened_at, e.step) as lines from job_event e where e.job = j.id) e on true
    where j.id = any(gone);
    delete from job_event e where e.job = any(gone);
    delete from job j where j.id = any(gone);

    delete from archived_job s where s.id in (
        select o.id from archived_job o where o.pruned_at < clock_timestamp() - archive_kept(keep) order by o.pruned_at limit p_limit for update skip locked);
    get diagnostics unarchived = row_count;
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
    perform link_waiting_acts();
    update retention set begun_at = clock_timestamp() where begun_at < clock_timestamp() - every;
    return found;
end $$;

-- How long jobs and archived jobs are kept; null is as before. A shorter time for what is archived counts after a week.
create function noshi.set_retention(p_jobs_for interval, p_archive_for interval, p_every interval, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    was retention;
    kept interval;
    shorter boolean;
begin
    perform must('operate');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'a change of the retention needs a reason' using errcode = 'NS400';
    end if;
    if not (lasts(p_jobs_for, '1 day', '100 years') is not false and lasts(p_archive_for, '90 days', '100 years') is not false and lasts(p_every, '1 second', '100 years') is not false) then
        raise exception 'jobs are kept for a day at least, and archived jobs for 90 days; nothing for more than 100 years, nor with a negative part' using errcode = 'NS400',
            hint = 'Nothing was changed. A month counts as 28 of its days where it must not be too short: say it in days.';
    end if;
    select * into strict was from retention for update;
    if p_archive_for is not null then
        kept := archive_kept(was);
        shorter := clock_timestamp() - p_archive_for > clock_timestamp() - kept;
        update retention set archive_was = case when shorter then kept end, shortened_at = case when shorter then clock_timestamp() end;
    end if;
    update retention set jobs_for = coalesce(p_jobs_for, jobs_for), archive_for = coalesce(p_archive_for, archive_for), every = coalesce(p_every, every);
    perform record('retention', 'jobs', p_reason, to_jsonb(was) - 'one' - 'begun_at', (select to_jsonb(r) - 'one' - 'begun_at' from retention r));
end $$;

create view noshi.gift_grant with (security_barrier) as
    select r.key as grant_id, b.id as batch, r.row_no, b.campaign, r.user_id, r.args ->> 'category' as category, r.args ->> 'provider' as provider,
           r.amount, r.currency, r.args ->> 'area' as area, b.registered_at as granted_at,
           b.registered_at + make_interval(hours => 24 * (r.args ->> 'valid_days')::integer) as lapses_at,
           -- Looked up only where they are asked for.
           coalesce((select j.status::text from noshi.job j where j.kind = 'gift_issuance' and j.key = r.key),
                    (select t.status::text from noshi.tombstone t where t.kind = 'gift_issuance' and t.key = r.key)) as issuance,
           (select max(o.happened_at) from noshi.gift_trade t join noshi.gift_outcome o on o.trade = t.id and o.outcome = 'issued'
            where t.grant_id = r.key) as issued_at
    from noshi.batch b join noshi.batch_row r on r.batch = b.id where b.kind = 'grants' and b.registered_at is not null
      -- As `row_goes_on`, whose tables its callers may not read.
      and (b.cancelled_at is null
        or ((exists (select from noshi.job j where j.kind = 'gift_issuance' and j.key = r.key and j.status <> 'cancelled')
            or exists (select from noshi.tombstone t where t.kind = 'gift_issuance' and t.key = r.key and t.status <> 'cancelled'))
          and not exists (select from noshi.batch_row o join noshi.batch ob on ob.id = o.batch
            where o.key = r.key and ob.kind = 'grants' and ob.registered_at > b.registered_at)));
comment on view noshi.gift_grant is 'Grants (付与) that stand: a row for each.';
comment on column noshi.gift_grant.grant_id is 'The grant''s own id.';
comment on column noshi.gift_grant.batch is 'The batch that granted it.';
comment on column noshi.gift_grant.row_no is 'Its row there.';
comment on column noshi.gift_grant.campaign is 'The campaign of the batch, if it has one.';
comment on column noshi.gift_grant.user_id is 'Who was granted it.';
comment on column noshi.gift_grant.category is 'Kind of gift, such as digital.';
comment on column noshi.gift_grant.provider is 'The provider that the file asks for; null where any will do.';
comment on column noshi.gift_grant.amount is 'Value in minor units of the currency.';
comment on column noshi.gift_grant.currency is 'ISO 4217 code.';
comment on column noshi.gift_grant.area is 'Where alone it may be used; null: anywhere.';
comment on column noshi.gift_grant.granted_at is 'When it was granted, with all others of its batch.';
comment on column noshi.gift_grant.lapses_at is 'Until when it may be asked for; null: without end.';
comment on column noshi.gift_grant.issuance is 'Status of its issuance; null where nobody has asked for it.';
comment on column noshi.gift_grant.issued_at is 'When its gift was issued.';

-- What became of a message. A bounce for now after a delivery, such as an out-of-office reply, is no bounce.
create view noshi.email_history with (security_barrier) as
    select j.job, split_part(j.key, ':', 1) as template, j.reference, j.status, j.at as state, j.in_doubt, j.code,
           coalesce(f.fate, case when j.at = 'accepted' then 'accepted' end) as fate,
           j.batch, j.created_at, case when j.at = 'accepted' then j.finished_at end as accepted_at, f.fate_at, j.pruned
    from (
        select o.id as job, o.key, o.args ->> 'reference' as reference, o.status::text as status, o.at, o.in_doubt, o.code, o.batch,
               o.created_at, o.finished_at, false as pruned
        from noshi.job o where o.kind = 'email'
        union all
        select t.id, t.key, t.about, t.status::text, t.at, false, t.code, t.batch, t.created_at, t.finished_at, true
        from noshi.tombstone t where t.kind = 'email') j
    left join lateral (
        select case e.event when 'delivery' then 'delivered' when 'bounce' then 'bounced' when 'complaint' then 'complained'
                   when 'reject' then 'rejected' when 'rendering_failure' then 'rejected' end as fate,
               coalesce(e.happened_at, e.received_at) as fate_at
        from noshi.email_event e
        where e.job = j.job and e.event in ('delivery', 'bounce', 'complaint', 'reject', 'rendering_failure')
        -- What is worse stays, in whatever order it was told; a bounce for now only where nothing was delivered.
        order by case when e.event = 'complaint' then 1 when e.event = 'bounce' and coalesce(e.detail, '') not like 'Transient/%' then 2
            when e.event in ('reject', 'rendering_failure') then 3 when e.event = 'delivery' then 4 else 5 end, 2 desc limit 1) f on true;
comment on view noshi.email_history is 'Messages and what became of them: a row for each.';
comment on column noshi.email_history.job is 'Number of the job.';
comment on column noshi.email_history.template is 'Which message it is, such as gift_granted.';
comment on column noshi.email_history.reference is 'What it is about, such as a grant.';
comment on column noshi.email_history.status is 'Of the job: scheduled, available, running, retryable, needs_operator, completed, failed or cancelled.';
comment on column noshi.email_history.state is 'Where the job stands in its state table.';
comment on column noshi.email_history.in_doubt is 'It was sent, and whether the mail service took it is not known.';
comment on column noshi.email_history.code is 'The problem, if there is one; ops/runbook has a page for each.';
comment on column noshi.email_history.fate is 'accepted by the mail service; then delivered, bounced, complained or rejected, as it told.';
comment on column noshi.email_history.batch is 'The batch that had it sent.';
comment on column noshi.email_history.created_at is 'When it was asked for.';
comment on column noshi.email_history.accepted_at is 'When the mail service took it.';
comment on column noshi.email_history.fate_at is 'When that became of it.';
comment on column noshi.email_history.pruned is 'The job was moved out; it cannot be acted upon.';

create trigger append_only before update or delete on noshi.job_event for each row execute function noshi.only_what_is_pruned();
create trigger append_only before update or delete on noshi.archived_job for each row execute function noshi.only_what_is_pruned();
create trigger no_truncate before truncate on noshi.archived_job for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.tombstone for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.tombstone for each statement execute function noshi.journal_is_append_only();
create trigger only_pruned before delete on noshi.job for each row execute function noshi.only_what_is_pruned();

insert into noshi.retention default values;

revoke all on function noshi.archive_kept(noshi.retention), noshi.only_what_is_pruned(), noshi.prune(integer, interval, timestamptz, bigint), noshi.prune_is_due(),
    noshi.set_retention(interval, interval, interval, text) from public;
grant execute on function noshi.prune(integer, interval, timestamptz, bigint) to noshi_worker, noshi_operator;
grant execute on function noshi.prune_is_due() to noshi_worker;
grant execute on function noshi.set_retention(interval, interval, interval, text) to noshi_operator;
grant select on noshi.email_history, noshi.gift_grant to noshi_reader, noshi_operator;
grant select on noshi.archived_job, noshi.retention to noshi_operator, noshi_api;
grant select on noshi.tombstone to noshi_worker, noshi_operator, noshi_api;
grant select (kind, key, status, outcome, code, at, finished_at, pruned_at) on noshi.tombstone to noshi_api;

reset role;
