set role noshi_owner;
set local check_function_bodies = off;

-- Whether this login's worker holds the job, or settles it in this very transaction: the line of that settle is there, under the lease that it claimed.
create function noshi.is_at_work(p_job bigint) returns boolean language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select exists (select from job j join worker w on w.login = session_user and w.dead_at is null and w.id = case when j.status = 'running' then j.worker
            else (select e.worker from job_event e join job_event c on c.job = e.job and c.lease = e.lease and c.worker = e.worker and c.event = 'claimed'
                where e.job = j.id and e.step = j.step - 1 and e.lease = j.lease and e.event = 'settled' limit 1) end
        where j.id = p_job and (j.status = 'running' or j.xmin = pg_current_xact_id()::xid))
$$;

-- Facts are of the job that is in flight, or that this very transaction settles, and say of it what was asked for.
create function noshi.fact_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare fits boolean;
begin
    case tg_table_name
        when 'gift_trade' then
            select is_at_work(j.id) and j.kind = 'gift_issuance' and j.key = new.grant_id and worth(j.args) = new.amount
                   and (j.args -> 'value' ->> 'currency', j.args ->> 'category') is not distinct from (new.currency, new.category)
                   -- One at a time: every older one is void.
                   and not exists (select from gift_trade t where t.grant_id = new.grant_id and t.id <> new.id
                       and not exists (select from gift_outcome o where o.trade = t.id and o.outcome = 'void'))
            into fits from job j where j.id = new.job;
        when 'gift_outcome' then
            -- A person's word is written where one was asked for it, also by the acts that follow a void; or it is known already.
            select is_at_work(j.id) and (new.reason is distinct from 'attested'
                   or exists (select from job_event e where e.job = j.id and e.event = 'asked' and e.outcome in ('attest_void', 'reissue', 'reject'))
                   or exists (select from gift_outcome o where o.trade = new.trade and o.outcome = 'void'))
            into fits from gift_trade t join job j on j.id = t.job where t.id = new.trade;
        else
            select is_at_work(j.id) and j.kind = 'store_creation' and (j.args ->> 'public_id', j.args ->> 'contact') is not distinct from (new.public_id, new.contact) into fits from job j where j.id = new.job;
    end case;
    if fits is not true then
        raise exception 'this is no fact of a job in flight, or not what that job asks for: %', tg_table_name using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return new;
end $$;

-- What arguments ask for, as the kind reads them: what is left out is as it is then taken, and what no kind knows is nothing.
create function noshi.asked_for(p_kind text, p_args jsonb) returns jsonb language sql immutable
set search_path = noshi, pg_temp
as $$
    select jsonb_strip_nulls(case p_kind
        when 'gift_issuance' then jsonb_build_object('grant', p_args -> 'grant', 'user', p_args -> 'user', 'category', p_args -> 'category', 'amount', worth(p_args),
            'currency', p_args -> 'value' -> 'currency', 'provider', p_args -> 'provider', 'valid_days', p_args -> 'valid_days', 'area', p_args -> 'area', 'exchange', p_args -> 'paid_by' -> 'exchange',
            'grace_days', case when p_args -> 'paid_by' ->> 'exchange' is not null then coalesce(nullif(p_args -> 'paid_by' -> 'grace_days', 'null'), '0') end)
        when 'point_grant' then jsonb_build_object('benefit', p_args -> 'benefit', 'source', p_args -> 'source', 'user', p_args -> 'user', 'points', p_args -> 'points',
            'valid_days', p_args -> 'valid_days', 'zone', coalesce(p_args ->> 'zone', 'Asia/Tokyo'), 'area', p_args -> 'area')
        when 'point_reversal' then jsonb_build_object('exchange', p_args -> 'exchange', 'grace_days', coalesce(nullif(p_args -> 'grace_days', 'null'), '0'))
    end)
$$;

-- The mail about a row: all of it, so that nothing is written into it, and one for each grant. Another one comes of a later batch alone, where the
-- batch of the first was cancelled.
create function noshi.is_mail_of(r noshi.batch_row, p_key text, p_args jsonb) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    select r.mailed and p_args - 'again_in' = jsonb_build_object('template', 'gift_granted', 'reference', r.key, 'recipient', r.batch || '/' || r.row_no,
            'params', jsonb_build_object('category', r.args -> 'category',
                'value', case r.currency when 'USD' then format('%s.%s USD', r.amount / 100, lpad((r.amount % 100)::text, 2, '0')) else format('%s %s', r.amount, r.currency) end))
        and case when p_args ->> 'again_in' is null then p_key = 'gift_granted:1:' || r.key
            else p_args -> 'again_in' = to_jsonb(r.batch) and p_key = format('gift_granted:1/%s:%s', r.batch, r.key) and exists (
                select from batch o where o.id <> r.batch and o.cancelled_at is not null and o.id = coalesce(
                    (select j.batch from job j where j.kind = 'email' and j.key = 'gift_granted:1:' || r.key),
                    (select t.batch from tombstone t where t.kind = 'email' and t.key = 'gift_granted:1:' || r.key limit 1))) end
$$;

-- A worker asks for what follows from a row that was granted, from points that were used, or from a gift that was paid with them; for nothing of its own.
create function noshi.follows_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare bad record;
begin
    -- Under an older snapshot what was cancelled meanwhile would not be seen. What is seen is held until the commit.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'workers ask in transactions that are read committed' using errcode = 'NS400', hint = 'Nothing was taken.';
    end if;
    perform guard_request(n.kind, n.key, n.args, n.batch) from new_rows n order by n.id;
    perform admit(array(select n.id from new_rows n));
    perform from batch b where b.id in (select n.batch from new_rows n where n.batch is not null) order by b.id for share;
    select n.kind, n.key into bad from new_rows n where not case
        when n.kind = 'probe' then true
        when n.fingerprint <> sha256(convert_to(n.args::text, 'UTF8')) then false
        -- What follows from jobs of one's own, and that those are asked for as their fields have it.
        when n.batch is null and exists (select from kind k where k.name = n.kind and k.own) then own_fault(n.kind, n.key, n.args) is null
        when n.batch is not null then exists (
            select from batch b join batch_row r on r.batch = b.id and r.row_no = n.row_no
            where b.id = n.batch and b.registered_at is not null and b.cancelled_at is null and b.paused_at is null
              and case
                  when n.kind = 'email' then b.kind = 'grants' and b.mails and is_mail_of(r, n.key, n.args)
                  when n.kind = 'gift_issuance' then b.kind = 'grants' and b.issues and n.key = r.key and asked_for(n.kind, n.args) = asked_for(n.kind, r.args)
                  when n.kind = 'point_grant' then b.kind = 'points' and n.key = r.key and asked_for(n.kind, n.args) = asked_for(n.kind, r.args)
                  else false end)
        when n.kind = 'gift_issuance' then exists (
            select from job x join point_entry e on e.key = 'use:' || x.key and e.job = x.id
            where x.kind = 'point_exchange' and n.key = 'exchange/' || x.key and x.key = n.args -> 'paid_by' ->> 'exchange'
              and asked_for(n.kind, n.args) = asked_for(n.kind, x.args || jsonb_build_object('grant', n.key, 'valid_days', null,
                  'paid_by', jsonb_build_object('exchange', x.key, 'grace_days', x.args -> 'grace_days'))))
        when n.kind = 'point_reversal' then exists (
            select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || n.key and asked_for(n.kind, n.args) = asked_for(n.kind, g.args -> 'paid_by')
              and n.args ->> 'exchange' = n.key)
        else false end limit 1;
    if found then
        raise exception '% % follows from nothing that was granted', bad.kind, bad.key using errcode = 'NS403', hint = 'Nothing was taken. Producers ask for jobs; workers for what follows.';
    end if;
    return null;
end $$;

-- Into hands comes what is available, by a claim; out of them it goes by the login whose worker holds it, or by anybody once that worker is dead or gone.
-- What waits becomes available in its time; what is at rest stays where it rests.
--
-- It is asked of each row of each settle: so it runs as its caller, with every name in full, and nothing to be set and put back.
create function noshi.hands_guard() returns trigger language plpgsql
as $$
declare
    ours constant boolean := old.status = 'running' and exists (select from noshi.worker w where w.id = old.worker and w.login = session_user and w.dead_at is null);
begin
    if old.status = 'running' and new.step = old.step + 1 then
        -- A settle, by whoever holds it. No act is asked for by it.
        if ours and new.lease = old.lease and (new.status = 'running') = (new.worker is not null) and (new.worker is null or new.worker = old.worker)
           and (new.requested_act is null or new.requested_act is not distinct from old.requested_act) and new.crash_count between 0 and old.crash_count then
            return new;
        end if;
    elsif (new.at, new.state, new.undo, new.step, new.retries, new.writes, new.outcome, new.detail, new.rank, new.entered_at, new.finished_at)
          is not distinct from (old.at, old.state, old.undo, old.step, old.retries, old.writes, old.outcome, old.detail, old.rank, old.entered_at, old.finished_at) then
        if (new.in_doubt, new.crash_count, new.requested_act, new.code, new.lane, new.reserved, new.run_at) is not distinct from (old.in_doubt, old.crash_count, old.requested_act, old.code, old.lane, old.reserved, old.run_at) then
            if (case
                when old.status = 'available' then new.status = 'running' and new.lease = old.lease + 1
                    and exists (select from noshi.worker w where w.id = new.worker and w.dead_at is null and w.login = session_user)
                when old.status = 'running' then ours and (new.lease, new.status_before, new.waited) is not distinct from (old.lease, old.status_before, old.waited)
                    -- Given back untouched; or it is noted from when on a call may have been made.
                    and case when new.worker is null then new.status = 'available' and new.called_at is not distinct from old.called_at
                        else (new.worker, new.status) is not distinct from (old.worker, old.status) end
                when old.status in ('scheduled', 'retryable') then new.status = 'available' and old.run_at <= clock_timestamp()
                    and (new.lease, new.worker, new.status_before, new.waited, new.called_at) is not distinct from (old.lease, old.worker, old.status_before, old.waited, old.called_at)
                else false end) then
                return new;
            end if;
        elsif old.status = 'running' and (new.crash_count, new.in_doubt, new.lease, new.lane, new.reserved, new.waited, new.called_at)
                is not distinct from ((old.crash_count + 1)::smallint, old.in_doubt or old.writes, old.lease, '', false, old.waited, old.called_at)
            and new.worker is null and new.status in ('available', 'needs_operator')
            and (new.status = 'needs_operator' or (new.requested_act, new.status_before, new.code) is not distinct from (old.requested_act, old.status_before, old.code))
            and (ours or exists (select from noshi.worker w where w.id = old.worker and (w.dead_at is not null or w.stopped_at is not null))) then
            -- A rescue.
            return new;
        end if;
    end if;
    raise exception 'job % (%) is moved by no such statement of a worker', old.id, old.status using errcode = 'NS403',
        hint = 'Nothing was written. Workers claim what is available, and settle what they hold.';
end $$;

-- A gift is called under a trade that is saved, at the partner that it was saved for.
create function noshi.trade_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if not exists (select from gift_trade t where t.id = new.state -> 'trade' ->> 'id' and t.job = new.id and t.provider = new.state -> 'trade' ->> 'provider') then
        raise exception 'job % is called under no trade that was saved for it', new.id using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return new;
end $$;

-- A worker is its login's. Another may say of it that it is dead, once nothing was heard of it for about the shortest lease. That is final.
create function noshi.worker_guard() returns trigger language plpgsql
as $$
begin
    if old.login = session_user and (old.dead_at is null or new.dead_at = old.dead_at)
            -- When it was heard is now: how much a failover lost is judged by it.
            and (new.seen_at = old.seen_at or new.seen_at between clock_timestamp() - interval '5 seconds' and clock_timestamp()) or (old.dead_at is null and new.dead_at is not null and old.seen_at < clock_timestamp() - interval '400 milliseconds'
        and (new.seen_at, new.stopped_at, new.beats, new.keys) is not distinct from (old.seen_at, old.stopped_at, old.beats, old.keys)) then
        return new;
    end if;
    raise exception 'worker % is of another login', old.id using errcode = 'NS403', hint = 'Nothing was written.';
end $$;

-- What a worker writes into the journal is what it did in this very transaction, at the time of the database and in its own name.
create function noshi.journal_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    bad record;
    here constant xid := pg_current_xact_id()::xid;
begin
    if exists (select from (select distinct worker from new_rows) n where n.worker is not null and not exists (select from worker w where w.id = n.worker and w.login = session_user)) then
        raise exception 'a worker writes into the journal in its own name' using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    select n.event, n.job into bad from new_rows n left join job j on j.id = n.job and j.xmin = here and j.lease = n.lease where case
        when n.event in ('settled', 'declined') then n.worker is not null and j.step = n.step + 1
        when n.event = 'claimed' then j.worker = n.worker and j.step = n.step
        when n.event = 'handed_back' then n.worker is not null and j.worker is null and j.step = n.step
        when n.event = 'rescued' then n.worker is null and j.worker is null and j.crash_count > 0 and j.step = n.step
        else false end is not true limit 1;
    if found then
        raise exception 'job % was not % in this transaction by a worker of this login', bad.job, bad.event using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return null;
end $$;

create trigger hands before update on noshi.job for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.hands_guard();
create trigger of_a_saved_trade before update on noshi.job for each row
    when (new.kind = 'gift_issuance' and new.at in ('issuing', 'inquiring', 'pending', 'cancelling') and new.state -> 'trade' is distinct from old.state -> 'trade'
          and not pg_has_role(current_user, 'noshi_owner', 'member'))
    execute function noshi.trade_guard();
create trigger of_its_login before update on noshi.worker for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.worker_guard();
-- The one trigger of an insert, since each costs a producer a tenth: what noshi's own functions insert, they have looked at.
create trigger follows after insert on noshi.job referencing new table as new_rows for each statement
    when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.follows_guard();
create trigger of_a_job_in_flight before insert on noshi.gift_trade for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.fact_guard();
create trigger of_a_job_in_flight before insert on noshi.gift_outcome for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.fact_guard();
create trigger of_a_job_in_flight before insert on noshi.store for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.fact_guard();
create trigger of_workers after insert on noshi.job_event referencing new table as new_rows for each statement
    when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.journal_guard();

revoke all on function noshi.asked_for(text, jsonb), noshi.fact_guard(), noshi.follows_guard(), noshi.hands_guard(),
    noshi.is_at_work(bigint), noshi.is_mail_of(noshi.batch_row, text, jsonb), noshi.journal_guard(), noshi.trade_guard(), noshi.worker_guard() from public;

reset role;
