-- Events are matched by message, not by number alone: numbers are the same in every installation.

set role noshi_owner;

alter table noshi.email_event add column oddity text check (oddity in ('foreign', 'unread'));
comment on column noshi.email_event.oddity is 'foreign: about a message of another installation, it settles nothing. unread: some part of it was not understood.';

-- Keeps an event, and makes the job that waits for it due. A mail's event carries its mark, or names the message that its job knows; any other
-- is another installation's, whatever number it has. 'again': it is here already.
create function noshi.record_email_event(p_id text, p_job bigint, p_mark text, p_foreign boolean, p_unread boolean, p_event text, p_message text,
    p_happened_at timestamptz, p_detail text)
returns text language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    ours boolean := false;
    alien boolean := p_foreign;
begin
    if p_job is not null and not alien then
        select coalesce(p_mark = mail_mark(m.id, m.key, m.created_at), false) or (p_mark is null and p_message is not null and p_message = m.message),
               p_mark is not null and p_mark <> mail_mark(m.id, m.key, m.created_at)
            or p_mark is null and m.message is not null and p_message is distinct from m.message
        into ours, alien
        from (select j.id, j.key, j.created_at, j.state ->> 'message' as message from job j where j.id = p_job and j.kind = 'email'
              union all
              select t.id, t.key, t.created_at, (select e.message from email_event e where e.job = t.id and e.oddity is null and e.message is not null
                  order by e.received_at limit 1) from tombstone t where t.id = p_job and t.kind = 'email') m;
        if not found then
            ours := false;
            alien := p_mark is not null;
        end if;
    end if;
    insert into email_event (id, job, event, message, happened_at, detail, oddity)
    values (p_id, case when ours then p_job end, p_event, p_message, p_happened_at, p_detail,
        case when alien then 'foreign' when p_unread or (p_job is not null and not ours) then 'unread' end)
    on conflict do nothing;
    if not found then
        return 'again';
    end if;
    if ours then
        update job set run_at = clock_timestamp()
        where id = p_job and kind = 'email' and at = 'waiting' and status = 'scheduled' and run_at > clock_timestamp();
        if found then
            perform pg_notify('noshi', '');
        end if;
    end if;
    return case when alien then 'foreign' when ours then 'ours' else 'other' end;
end $$;
revoke all on function noshi.record_email_event(text, bigint, text, boolean, boolean, text, text, timestamptz, text) from public;
grant execute on function noshi.record_email_event(text, bigint, text, boolean, boolean, text, text, timestamptz, text) to noshi_door;

-- What became of a message. A bounce for now after a delivery, such as an out-of-office reply, is no bounce.
create or replace view noshi.email_history with (security_barrier) as
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
        -- What is worse stays, in whatever order it was told; a bounce for now only where nothing was delivered.
        order by case when e.event = 'complaint' then 1 when e.event = 'bounce' and coalesce(e.detail, '') not like 'Transient/%' then 2
            when e.event in ('reject', 'rendering_failure') then 3 when e.event = 'delivery' then 4 else 5 end, 2 desc limit 1) f on true;

reset role;
