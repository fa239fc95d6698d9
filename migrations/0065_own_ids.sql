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

-- Ids that noshi makes by itself are its own: who took one first would stop the batch that needs it. A message goes to the recipients of a
-- batch, who are known to nobody else, so it is made by the batch. Workers ask in noshi's name; the schema's owner knows what they do.
create function noshi.own_ids() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
-- Each row by the index of its key, whatever was last analyzed.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare bad record;
begin
    if pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_owner', 'member') then
        return null;
    end if;
    -- From the validation to the end: what is granted may be asked for as it was granted, and not otherwise.
    select n.kind, n.key, h.batch into bad
    from new_rows n left join lateral (
        select b.id as batch from batch_row r join batch b on b.id = r.batch
        where r.key = n.key and b.kind = case n.kind when 'gift_issuance' then 'grants' when 'point_grant' then 'points' when 'store_creation' then 'stores' end
          and b.validated_at is not null and b.cancelled_at is null and b.refused_code is null
          and (case b.kind when 'grants' then b.registered_at else b.released_at end is null
               or n.args <> case b.kind when 'points' then r.args - array['grant', 'value'] else r.args end)
        limit 1) h on true
    where n.batch is null and (n.kind = 'email' or h.batch is not null) limit 1;
    if found then
        raise exception '%', case when bad.kind = 'email' then format('the message %s is made by the batch of what it announces', bad.key)
            else format('%s %s stands in batch %s, which asks for it by itself', bad.kind, bad.key, bad.batch) end
            using errcode = 'NS400', hint = 'Nothing was taken. Use an id of your own.';
    end if;
    return null;
end $$;
revoke all on function noshi.kind_guard(text), noshi.own_ids() from public;
create trigger own_ids after insert on noshi.job referencing new table as new_rows for each statement execute function noshi.own_ids();

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('job_guard', E'\nbegin\n', $n$
begin
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
