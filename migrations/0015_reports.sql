set role noshi_owner;

-- Reports for BI tools (R16): no codes, no addresses. They tell of pruned jobs too, from tombstones and facts. Each column says what it
-- is; ops/reports.md is drawn from that.

-- Facts come in the order of time, and so do tombstones: a range of it is a few pages.
create index gift_outcome_time on noshi.gift_outcome using brin (happened_at) with (pages_per_range = 32);
create index gift_trade_time on noshi.gift_trade using brin (started_at) with (pages_per_range = 32);
create index tombstone_finished on noshi.tombstone using brin (finished_at) with (pages_per_range = 32);
create index tombstone_about on noshi.tombstone (kind, about);
create index batch_row_user on noshi.batch_row (user_id) where user_id is not null;

drop view noshi.gift_issuance_history;
create view noshi.gift_issuance_history with (security_barrier) as
    select j.id as job, j.key as grant_id, j.args ->> 'user' as user_id, t.category, t.provider, t.amount, t.currency, t.id as trade_id, t.generation,
           case when j.status not in ('completed', 'failed', 'cancelled', 'needs_operator') and j.undo is not null then 'compensating' else j.status::text end as status,
           j.at as state, j.unsure as in_doubt, j.code, o.outcome, o.card, j.batch, j.created_at, o.happened_at as ended_at, j.finished_at, false as pruned
    from noshi.job j
    left join noshi.gift_trade t on t.grant_id = j.key
    left join noshi.gift_outcome o on o.trade = t.id
    where j.kind = 'gift_issuance'
    union all
    select j.id, j.key, j.about, t.category, t.provider, t.amount, t.currency, t.id, t.generation, j.status::text,
           j.at, false, j.code, o.outcome, o.card, j.batch, j.created_at, o.happened_at, j.finished_at, true
    from noshi.tombstone j
    left join noshi.gift_trade t on t.grant_id = j.key
    left join noshi.gift_outcome o on o.trade = t.id
    where j.kind = 'gift_issuance';

comment on view noshi.gift_issuance_history is 'Issuances (発券): a row for each trade and how it ended, and one for each issuance that has no trade yet.';
comment on column noshi.gift_issuance_history.job is 'Number of the job.';
comment on column noshi.gift_issuance_history.grant_id is 'The grant whose gift it is.';
comment on column noshi.gift_issuance_history.user_id is 'Whose gift it is.';
comment on column noshi.gift_issuance_history.category is 'Kind of gift, such as digital. Null where no trade was begun.';
comment on column noshi.gift_issuance_history.provider is 'Who issues it. Null where no trade was begun.';
comment on column noshi.gift_issuance_history.amount is 'Value in minor units of the currency. Null where no trade was begun.';
comment on column noshi.gift_issuance_history.currency is 'ISO 4217 code. Null where no trade was begun.';
comment on column noshi.gift_issuance_history.trade_id is 'Our id of the trade, by which the provider knows it.';
comment on column noshi.gift_issuance_history.generation is 'The first trade of a grant is 0; a later one follows a trade that is proven void.';
comment on column noshi.gift_issuance_history.status is 'Of the job: scheduled, available, running, retryable, compensating, needs_operator, completed, failed or cancelled.';
comment on column noshi.gift_issuance_history.state is 'Where the job stands in its state table.';
comment on column noshi.gift_issuance_history.in_doubt is 'A call was made, and whether it took effect is not known.';
comment on column noshi.gift_issuance_history.code is 'The problem, if there is one; ops/runbook has a page for each.';
comment on column noshi.gift_issuance_history.outcome is 'How the trade ended: issued, refused or void. A trade that was issued and taken back later has two rows.';
comment on column noshi.gift_issuance_history.card is 'The provider''s number of the gift. It is no code.';
comment on column noshi.gift_issuance_history.batch is 'The batch that had it issued; null where its user asked.';
comment on column noshi.gift_issuance_history.created_at is 'When it was asked for.';
comment on column noshi.gift_issuance_history.ended_at is 'When the trade ended.';
comment on column noshi.gift_issuance_history.finished_at is 'When the job was over.';
comment on column noshi.gift_issuance_history.pruned is 'The job was moved out; it cannot be acted upon.';

create view noshi.gift_trade_history with (security_barrier) as
    select t.id as trade_id, t.grant_id, t.generation, t.category, t.provider, t.amount, t.currency, t.started_at, o.outcome, o.happened_at as ended_at
    from noshi.gift_trade t left join noshi.gift_outcome o on o.trade = t.id;

comment on view noshi.gift_trade_history is 'Trades with providers, for sums of money: facts alone. Name a range of started_at, and a wider one of ended_at too: then only that part of the tables is read.';
comment on column noshi.gift_trade_history.trade_id is 'Our id of the trade, by which the provider knows it.';
comment on column noshi.gift_trade_history.grant_id is 'The grant whose gift it is.';
comment on column noshi.gift_trade_history.generation is 'The first trade of a grant is 0; a later one follows a trade that is proven void.';
comment on column noshi.gift_trade_history.category is 'Kind of gift, such as digital.';
comment on column noshi.gift_trade_history.provider is 'Who issues it.';
comment on column noshi.gift_trade_history.amount is 'Value in minor units of the currency.';
comment on column noshi.gift_trade_history.currency is 'ISO 4217 code.';
comment on column noshi.gift_trade_history.started_at is 'When its id was saved, before the first call.';
comment on column noshi.gift_trade_history.outcome is 'How it ended: issued, refused or void; null: not yet. One that was issued and taken back later has two rows.';
comment on column noshi.gift_trade_history.ended_at is 'When it ended.';

drop view noshi.gift_grant;
create view noshi.gift_grant with (security_barrier) as
    select r.key as grant_id, b.id as batch, r.row_no, b.campaign, r.user_id, r.args ->> 'category' as category, r.args ->> 'provider' as provider,
           r.amount, r.currency, r.args ->> 'area' as area, b.registered_at as granted_at,
           b.registered_at + make_interval(days => (r.args ->> 'valid_days')::integer) as lapses_at,
           -- Looked up only where they are asked for.
           coalesce((select j.status::text from noshi.job j where j.kind = 'gift_issuance' and j.key = r.key),
                    (select t.status::text from noshi.tombstone t where t.kind = 'gift_issuance' and t.key = r.key)) as issuance,
           (select max(o.happened_at) from noshi.gift_trade t join noshi.gift_outcome o on o.trade = t.id and o.outcome = 'issued'
            where t.grant_id = r.key) as issued_at
    from noshi.batch b join noshi.batch_row r on r.batch = b.id where b.kind = 'grants' and b.registered_at is not null;

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

drop view noshi.email_history;
create view noshi.email_history with (security_barrier) as
    select j.job, split_part(j.key, ':', 1) as template, j.reference, j.status, j.at as state, j.in_doubt, j.code,
           coalesce(f.fate, case when j.at = 'accepted' then 'accepted' end) as fate,
           j.batch, j.created_at, case when j.at = 'accepted' then j.finished_at end as accepted_at, f.fate_at, j.pruned
    from (
        select o.id as job, o.key, o.args ->> 'reference' as reference, o.status::text as status, o.at, o.unsure as in_doubt, o.code, o.batch,
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
        -- What is worse stays, in whatever order it was told.
        order by array_position(array['complaint', 'bounce', 'reject', 'rendering_failure', 'delivery'], e.event), 2 desc limit 1) f on true;

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

comment on view noshi.store_report is 'Stores (店舗) as they were created, and as the platform names them now: a row for each.';
comment on column noshi.store_report.public_id is 'The customer''s own id of the store.';
comment on column noshi.store_report.organization is 'The platform''s id of its organisation.';
comment on column noshi.store_report.organization_name is 'The organisation''s name as the platform told it last; its id where it told none.';
comment on column noshi.store_report.shop is 'The platform''s id of the shop.';
comment on column noshi.store_report.name is 'Its name as the platform told it last.';
comment on column noshi.store_report.deleted is 'The platform told that it is gone.';
comment on column noshi.store_report.job is 'Number of the job that created it.';
comment on column noshi.store_report.created_at is 'When it was created.';

create view noshi.batch_report with (security_barrier) as
    select b.id as batch, b.kind, b.mode, b.campaign, b.file,
           case when b.invalid_at is not null then 'invalid' when b.settled_at is not null then coalesce(b.totals ->> 'status', 'settled')
                when b.cancelled_at is not null then 'cancelled' when b.validated_at is null then 'received' when b.paused_at is not null then 'paused'
                when b.refused_code is not null then 'refused' when b.released_at is not null then 'released'
                when b.needs_approval and b.approved_at is null then 'awaiting_approval' else 'validated' end as status,
           b.submitted_by, b.approved_by, b.released_by, b.refused_code as code, b.rows,
           (b.totals ->> 'completed')::bigint as completed, (b.totals ->> 'failed')::bigint as failed, (b.totals ->> 'cancelled')::bigint as cancelled,
           (b.totals ->> 'skipped')::bigint as skipped, (b.totals ->> 'compensated')::bigint as compensated,
           (b.totals ->> 'mails_sent')::bigint as mails_sent, (b.totals ->> 'mails_failed')::bigint as mails_failed,
           b.received_at, b.validated_at, b.approved_at, b.released_at, b.registered_at, b.cancelled_at, b.settled_at
    from noshi.batch b;

comment on view noshi.batch_report is 'Batches: a row for each file.';
comment on column noshi.batch_report.batch is 'Its number.';
comment on column noshi.batch_report.kind is 'What its rows ask for: grants or stores.';
comment on column noshi.batch_report.mode is 'all_or_nothing or per_row.';
comment on column noshi.batch_report.campaign is 'The campaign, if it was submitted for one.';
comment on column noshi.batch_report.file is 'The file''s name.';
comment on column noshi.batch_report.status is 'invalid, received, validated, awaiting_approval, released, paused, refused, cancelled or settled.';
comment on column noshi.batch_report.submitted_by is 'Who submitted it.';
comment on column noshi.batch_report.approved_by is 'Who approved it, if that was needed.';
comment on column noshi.batch_report.released_by is 'Who let it go.';
comment on column noshi.batch_report.code is 'Why it was refused at the commit that would have granted it.';
comment on column noshi.batch_report.rows is 'Rows of the file.';
comment on column noshi.batch_report.completed is 'Rows that are done, once the batch is settled; null before, as are the next six.';
comment on column noshi.batch_report.failed is 'Rows that failed, cleanly.';
comment on column noshi.batch_report.cancelled is 'Rows that were cancelled.';
comment on column noshi.batch_report.skipped is 'Of the completed: what they ask for was here already.';
comment on column noshi.batch_report.compensated is 'Of the failed: what they had begun was taken back.';
comment on column noshi.batch_report.mails_sent is 'Mails that were accepted.';
comment on column noshi.batch_report.mails_failed is 'Mails that were not.';
comment on column noshi.batch_report.received_at is 'When the file came.';
comment on column noshi.batch_report.validated_at is 'When it was found whole and good.';
comment on column noshi.batch_report.approved_at is 'When it was approved.';
comment on column noshi.batch_report.released_at is 'When it was let go.';
comment on column noshi.batch_report.registered_at is 'When its rows were granted, all in one commit.';
comment on column noshi.batch_report.cancelled_at is 'When it was cancelled.';
comment on column noshi.batch_report.settled_at is 'When nothing was left to be done.';

grant select on noshi.gift_issuance_history, noshi.gift_trade_history, noshi.gift_grant, noshi.email_history, noshi.store_report, noshi.batch_report to noshi_reader, noshi_operator;

reset role;
