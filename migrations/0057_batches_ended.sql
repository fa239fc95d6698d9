set role noshi_owner;

-- A released batch can be stopped: what was never called ends, and what has begun goes on. And a rerun asks only what can be run again.

-- Kinds whose state table runs a failed job again; a test compares them with the tables.
create function noshi.reruns(p_kind text) returns boolean language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$ select p_kind in ('bulk_grants', 'email', 'point_exchange', 'point_grant', 'store_creation') $$;

-- What an operator's end is called, by kind.
create function noshi.revoked_code(p_kind text) returns text language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case p_kind when 'gift_issuance' then 'gift_revoked' when 'email' then 'mail_revoked' when 'store_creation' then 'store_revoked'
                       when 'point_grant' then 'points_revoked' end
$$;

-- Whether rows of a batch may be announced: 'paused', 'cancelled', or null. The row is held until the announcement is committed, so that
-- no page comes after a cancel.
create function noshi.batch_stands(p_batch bigint) returns text language sql security definer
set search_path = noshi, pg_temp
as $$
    select case when cancelled_at is not null then 'cancelled' when paused_at is not null then 'paused' end from batch where id = p_batch for share
$$;

create or replace function noshi.cancel_batch(p_batch bigint, p_reason text) returns integer language plpgsql security definer
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
        update job set asked = null, rested = null, status = 'cancelled', outcome = 'cancelled', code = revoked_code(kind), lane = '', relief = false,
            finished_at = clock_timestamp(), worker = null, step = step + 1
        where batch = b.id and status in ('available', 'scheduled', 'retryable') and called_at is null and undo is null and not unsure
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
    perform pg_notify('noshi', '');
    return ended;
end $$;

create or replace function noshi.rerun_batch(p_batch bigint, p_reason text) returns integer language plpgsql security definer
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
        raise exception 'batch % was cancelled', b.id using errcode = 'NS409', hint = 'Submit its file again.';
    end if;
    if b.paused_at is not null then
        raise exception 'batch % is paused', b.id using errcode = 'NS409', hint = 'Resume it first.';
    end if;
    select count(ask(j.id, j.step, 'rerun', p_reason)) into asked from job j
    where j.status = 'failed' and j.asked is null and reruns(j.kind) and not j.unsure
      and (j.batch = b.id or (j.kind = 'bulk_grants' and j.key = 'batch/' || b.id));
    if asked > 0 then
        update batch set settled_at = null, totals = null, counted_at = null, refused_code = null, refused_detail = null where id = b.id;
        perform batch_log(b.id, 'rerun', null, p_reason);
    end if;
    return asked;
end $$;

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        -- What was cancelled, or failed, does not come back; what had begun before goes on, and may need a person.
        ('ask_as', 'b.cancelled_at is not null) then', 'b.cancelled_at is not null) and (j.status = ''cancelled'' or p_act = ''rerun'') then'),
        -- A grant of a cancelled batch that nobody had asked for stands no more.
        ('issue_grant', 'if g.args ->> ''area'' is not null', 'if exists (select from batch_row r join batch b on b.id = r.batch where r.key = p_grant and b.kind = ''grants'' and b.registered_at is not null and b.cancelled_at is not null)
        and not exists (select from job where kind = ''gift_issuance'' and key = p_grant) then
        raise exception ''grant % was cancelled with its batch'', p_grant using errcode = ''NS410'';
    end if;
    if g.args ->> ''area'' is not null')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

revoke all on function noshi.reruns(text), noshi.revoked_code(text), noshi.batch_stands(bigint) from public;
grant execute on function noshi.batch_stands(bigint) to noshi_worker;
grant execute on function noshi.reruns(text) to noshi_operator;

reset role;
