set role noshi_owner;

-- The point to which the database was last restored, until somebody says that what happened after it is known again. Until then
-- no gift is bought before its partner was asked, or answers the same id with the same gift: calls made after that point left no trace here.
alter table noshi.server_seen add column restored_to timestamptz;

-- Every unfinished write may have been called since that point, whatever its row says; so may that of a job which rests.
create function noshi.mark_restored(p_to timestamptz, p_reason text) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s server_seen;
    doubted bigint;
begin
    perform must('operate');
    if p_to is null or p_to > clock_timestamp() then
        raise exception 'the point of a restore lies in the past' using errcode = 'NS400';
    end if;
    select * into s from server_seen for update;
    update server_seen set restored_to = least(restored_to, p_to);
    with r as (
        update job j set unsure = true, called_at = least(coalesce(called_at, p_to), p_to),
            lease = case when status = 'running' then lease + 1 else lease end,
            status = case when status = 'running' then 'available' else status end, worker = null,
            lane = case when status = 'needs_operator' then lane else '' end, relief = relief and status = 'needs_operator'
        where writes and status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning id, lease, step, at)
    insert into job_event (job, event, lease, step, became) select id, 'restored', lease, step, at from r;
    get diagnostics doubted = row_count;
    perform record('restore mark', 'database', p_reason, jsonb_build_object('restored_to', s.restored_to),
        jsonb_build_object('restored_to', least(s.restored_to, p_to), 'in_doubt', doubted));
    return doubted;
end $$;

create function noshi.end_restored(p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare s server_seen;
begin
    perform must('operate');
    select * into s from server_seen for update;
    if s.restored_to is null then
        raise exception 'no restore is marked' using errcode = 'NS409';
    end if;
    update server_seen set restored_to = null;
    perform record('restore end', 'database', p_reason, jsonb_build_object('restored_to', s.restored_to),
        jsonb_build_object('restored_to', null));
end $$;

revoke execute on function noshi.mark_restored(timestamptz, text), noshi.end_restored(text) from public;
grant execute on function noshi.mark_restored(timestamptz, text), noshi.end_restored(text) to noshi_operator;

reset role;
