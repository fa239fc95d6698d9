set role noshi_owner;

-- Kinds for trying out and measuring are asked for by whoever owns the schema, since they wait in lanes as they are told.
create function noshi.kind_guard(p_kind text) returns void language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
begin
    if exists (select from kind k where k.name = p_kind and k.for_tests) and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'kind: % is for trying out and measuring, and not for producers', p_kind using errcode = 'NS403', column = 'kind',
            hint = 'Nothing was taken. The login that owns the schema may ask for it.';
    end if;
end $$;
create or replace function noshi.enqueue_rows(p_kind text, keys text[], p_args jsonb[], p_priority smallint default 1)
returns setof bigint language sql security definer
set search_path = noshi, pg_temp
as $$
    select noshi.must('enqueue');
    select noshi.kind_guard($1);
    select noshi.enqueue_rows_into($1, $2, $3, $4, null);
$$;

-- Why a request is not for whoever asks, neither a worker nor the schema's owner; null where it is. Ids that noshi makes by itself are its
-- own: who took one first would stop the batch or the schedule that needs it. A message goes to the recipients of a batch, who are known
-- to nobody else, so it is made by the batch.
create function noshi.stranger_fault(p_kind text, p_key text, p_args jsonb) returns text language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
declare held bigint;
begin
    if p_kind = 'email' then
        return format('the message %s is made by the batch of what it announces', p_key);
    end if;
    if p_kind not in ('gift_issuance', 'point_grant', 'store_creation') then
        return null;
    end if;
    -- From the validation to the end: what is granted may be asked for as it was granted, and not otherwise.
    select b.id into held from batch_row r join batch b on b.id = r.batch
    where r.key = p_key and b.kind = case p_kind when 'gift_issuance' then 'grants' when 'point_grant' then 'points' else 'stores' end
      and b.validated_at is not null and b.cancelled_at is null and b.refused_code is null
      and (case b.kind when 'grants' then b.registered_at else b.released_at end is null
           or p_args <> case b.kind when 'points' then r.args - array['grant', 'value'] else r.args end)
      and not exists (select from job j where j.kind = p_kind and j.key = p_key)
    order by b.id limit 1;
    return case when held is not null then format('%s %s stands in batch %s, which asks for it by itself', p_kind, p_key, held) end;
end $$;
revoke all on function noshi.kind_guard(text), noshi.stranger_fault(text, text, jsonb) from public;

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('job_guard', E'\nbegin\n', $n$
declare fault text;
begin
    if new.batch is null and not pg_has_role(session_user, 'noshi_worker', 'member') and not pg_has_role(session_user, 'noshi_owner', 'member') then
        fault := stranger_fault(new.kind, new.key, new.args);
        if fault is not null then
            raise exception '%', fault using errcode = 'NS400', hint = 'Nothing was taken. Use an id of your own.';
        end if;
    end if;
    -- Of what is tried out, lanes of its own: it takes no turn of another's budget. The owner measures what they like.
    if new.kind = 'probe' and coalesce(new.args ->> 'lane', 'probe') !~ '^probe(/|$)' and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'args.lane: the lane of a probe is probe, or begins with probe/' using errcode = 'NS400', column = 'args.lane';
    end if;
$n$),
        ('set_schedule', $o$    if coalesce(strpos(p_key, '{due}'), 0) = 0 then$o$, $n$    perform kind_guard(p_kind);
    if p_kind = 'probe' and coalesce(p_args ->> 'lane', 'probe') !~ '^probe(/|$)' then
        raise exception 'args.lane: the lane of a probe is probe, or begins with probe/' using errcode = 'NS400', column = 'args.lane';
    end if;
    if coalesce(strpos(p_key, '{due}'), 0) = 0 then$n$)
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written: %', change.name, change.old;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
