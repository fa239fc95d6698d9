set role noshi_owner;
set local check_function_bodies = off;

create function noshi.end_restored_as(p_reason text, p_who text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare s server_seen;
begin
    
    perform say_why(p_reason);
    select * into s from server_seen for update;
    if s.restored_to is null then
        raise exception 'no restore is marked' using errcode = 'NS409';
    end if;
    update server_seen set restored_to = null;
    perform record('restore end', 'database', p_reason, jsonb_build_object('restored_to', s.restored_to),
        jsonb_build_object('restored_to', null), p_who);
end $$;

-- The first moment that there was anything to be restored.
create function noshi.installed_at() returns timestamptz language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
begin
    return (select least((select min(m.installed_on) from noshi_migrations._sqlx_migrations m where isfinite(m.installed_on)),
        (select min(a.happened_at) from audit a)));
end $$;

create function noshi.mark_restored_as(p_to timestamptz, p_reason text, p_who text) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    s server_seen;
    doubted bigint;
begin
    
    perform say_why(p_reason);
    if p_to is null or not isfinite(p_to) or p_to > clock_timestamp() then
        raise exception 'the point of a restore lies in the past' using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    if p_to < installed_at() then
        raise exception 'noshi was installed here at %, so no database of it can have gone back to %', installed_at(), p_to using errcode = 'NS400',
            hint = 'Nothing was changed.';
    end if;
    select * into s from server_seen for update;
    update server_seen set restored_to = least(restored_to, p_to);
    with r as (
        update job j set in_doubt = true, called_at = least(coalesce(called_at, p_to), p_to),
            lease = case when status = 'running' then lease + 1 else lease end,
            status = case when status = 'running' then 'available' else status end, worker = null,
            lane = case when status = 'needs_operator' then lane else '' end, reserved = reserved and status = 'needs_operator'
        where writes and status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning id, lease, step, at)
    insert into job_event (job, event, lease, step, became) select id, 'restored', lease, step, at from r;
    get diagnostics doubted = row_count;
    perform record('restore mark', 'database', p_reason, jsonb_build_object('restored_to', s.restored_to),
        jsonb_build_object('restored_to', least(s.restored_to, p_to), 'in_doubt', doubted), p_who);
    return doubted;
end $$;

revoke all on function noshi.end_restored_as(text, text), noshi.installed_at(), noshi.mark_restored_as(timestamptz, text, text) from public;

reset role;
