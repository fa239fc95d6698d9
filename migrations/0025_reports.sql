set role noshi_owner;
set local check_function_bodies = off;

create view noshi.gift_issuance_history with (security_barrier) as
    select j.id as job, j.key as grant_id, j.args ->> 'user' as user_id, t.category, t.provider, t.amount, t.currency, t.id as trade_id, t.generation,
           case when j.status not in ('completed', 'failed', 'cancelled', 'needs_operator') and j.undo is not null then 'compensating' else j.status::text end as status,
           j.at as state, j.in_doubt, j.code, o.outcome, o.card, j.batch, j.created_at, o.happened_at as ended_at, j.finished_at, false as pruned
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

grant select on noshi.batch_report, noshi.gift_issuance_history, noshi.gift_trade_history to noshi_reader, noshi_operator;

reset role;
