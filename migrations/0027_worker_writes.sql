set role noshi_owner;
set local check_function_bodies = off;

-- Facts are of the job that is in hand, or that this very transaction settles, and say of it what was asked for.
create function noshi.fact_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    here constant xid := pg_current_xact_id()::xid;
    fits boolean;
begin
    case tg_table_name
        when 'gift_trade' then
            select (j.status = 'running' or j.xmin = here) and j.kind = 'gift_issuance' and j.key = new.grant_id and worth(j.args) = new.amount
                   and (j.args -> 'value' ->> 'currency', j.args ->> 'category') is not distinct from (new.currency, new.category)
            into fits from job j where j.id = new.job;
        when 'gift_outcome' then
            -- A person's word is written where one was asked for it, also by the acts that follow a void; or it is known already.
            select (j.status = 'running' or j.xmin = here) and (new.reason is distinct from 'attested'
                   or exists (select from job_event e where e.job = j.id and e.event = 'asked' and e.outcome in ('attest_void', 'reissue', 'reject'))
                   or exists (select from gift_outcome o where o.trade = new.trade and o.outcome = 'void'))
            into fits from gift_trade t join job j on j.id = t.job where t.id = new.trade;
        else
            select (j.status = 'running' or j.xmin = here) and j.kind = 'store_creation' and (j.args ->> 'public_id', j.args ->> 'contact') is not distinct from (new.public_id, new.contact) into fits from job j where j.id = new.job;
    end case;
    if fits is not true then
        raise exception 'this is no fact of a job in hand, or not what that job asks for: %', tg_table_name using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return new;
end $$;

-- A worker asks for what follows from a row that was granted, from points that were used, or from a gift that was paid with them; for nothing of its own.
create function noshi.follows_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare bad record;
begin
    select n.kind, n.key into bad from new_rows n where not case
        when n.kind = 'probe' then true
        when n.batch is not null then exists (
            select from batch b join batch_row r on r.batch = b.id and r.row_no = n.row_no
            where b.id = n.batch and b.cancelled_at is null and case b.kind when 'grants' then b.registered_at else b.released_at end is not null
              and case
                  when n.kind = 'email' then b.kind = 'grants' and b.mails and n.args ->> 'recipient' = b.id || '/' || r.row_no
                  when n.kind = 'gift_issuance' then b.kind = 'grants' and b.issues and n.key = r.key and worth(n.args) = r.amount and n.args -> 'value' ->> 'currency' = r.currency
                      and (n.args ->> 'user', n.args ->> 'category') is not distinct from (r.args ->> 'user', r.args ->> 'category')
                  when n.kind = 'point_grant' then b.kind = 'points'
                      and (n.args ->> 'user', n.args -> 'points', n.args ->> 'benefit', n.args ->> 'source') is not distinct from (r.args ->> 'user', r.args -> 'points', r.args ->> 'benefit', r.args ->> 'source')
                  else false end)
        when n.kind = 'gift_issuance' then exists (
            select from job x join point_entry e on e.key = 'use:' || x.key and e.job = x.id
            where x.kind = 'point_exchange' and n.key = 'exchange/' || x.key and n.args -> 'paid_by' ->> 'exchange' = x.key and worth(n.args) = worth(x.args)
              and (n.args ->> 'user', n.args ->> 'category', n.args -> 'value' ->> 'currency') is not distinct from (x.args ->> 'user', x.args ->> 'category', x.args -> 'value' ->> 'currency'))
        when n.kind = 'point_reversal' then exists (
            select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || n.key and g.args -> 'paid_by' ->> 'exchange' = n.key
              and coalesce(g.args -> 'paid_by' -> 'grace_days', '0') = coalesce(n.args -> 'grace_days', '0'))
        else false end limit 1;
    if found then
        raise exception '% % follows from nothing that was granted', bad.kind, bad.key using errcode = 'NS403', hint = 'Nothing was taken. Producers ask for jobs; workers for what follows.';
    end if;
    return null;
end $$;

-- Into hands comes what is available, by a claim; what waits becomes available in its time; what is at rest stays where it rests.
create function noshi.hands_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if (new.at, new.state, new.undo, new.step, new.writes, new.unsure, new.lost, new.retries, new.asked, new.outcome, new.code, new.lane, new.finished_at)
           is not distinct from (old.at, old.state, old.undo, old.step, old.writes, old.unsure, old.lost, old.retries, old.asked, old.outcome, old.code, old.lane, old.finished_at)
       and (case old.status
           when 'available' then new.status = 'running' and new.lease = old.lease + 1
               and exists (select from worker w where w.id = new.worker and w.dead_at is null and coalesce(w.login, session_user) = session_user)
           when 'scheduled' then new.status = 'available' and old.run_at <= clock_timestamp() and (new.lease, new.worker) is not distinct from (old.lease, old.worker)
           when 'retryable' then new.status = 'available' and old.run_at <= clock_timestamp() and (new.lease, new.worker) is not distinct from (old.lease, old.worker)
           else false end) then
        return new;
    end if;
    raise exception 'job % (%) is moved by no such statement of a worker', old.id, old.status using errcode = 'NS403',
        hint = 'Nothing was written. Workers claim what is available, and settle what they hold.';
end $$;

-- What a worker writes into the journal is what workers do, at the time of the database.
create function noshi.journal_guard() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    raise exception 'a worker writes no % into the journal', new.event using errcode = 'NS403', hint = 'Nothing was written.';
end $$;

create trigger hands before update on noshi.job for each row
    when ((old.status <> 'running' or new.lease <> old.lease or new.step not in (old.step, old.step + 1) or (new.worker is not null and new.worker is distinct from old.worker)
           or (new.asked is not null and new.asked is distinct from old.asked)) and not pg_has_role(current_user, 'noshi_owner', 'member'))
    execute function noshi.hands_guard();
create trigger follows after insert on noshi.job referencing new table as new_rows for each statement
    when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.follows_guard();
create trigger of_a_job_in_hand before insert on noshi.gift_trade for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.fact_guard();
create trigger of_a_job_in_hand before insert on noshi.gift_outcome for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.fact_guard();
create trigger of_a_job_in_hand before insert on noshi.store for each row when (not pg_has_role(current_user, 'noshi_owner', 'member')) execute function noshi.fact_guard();
create trigger of_workers before insert on noshi.job_event for each row
    when (new.event not in ('claimed', 'settled', 'handed_back', 'declined', 'rescued') and not pg_has_role(current_user, 'noshi_owner', 'member'))
    execute function noshi.journal_guard();

revoke all on function noshi.fact_guard(), noshi.follows_guard(), noshi.hands_guard(), noshi.journal_guard() from public;

reset role;
