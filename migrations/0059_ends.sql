set role noshi_owner;

-- What is parked anew counts anew, also where no step was made between.
create function noshi.parked_anew() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    new.acknowledged := null;
    return new;
end $$;
revoke all on function noshi.parked_anew() from public;
create trigger parked_anew before update of status on noshi.job for each row
    when (new.status = 'needs_operator' and old.status <> 'needs_operator' and new.acknowledged is not null) execute function noshi.parked_anew();

-- What an operator ended does not come back: who did it, and why, is told to whoever asks.
create function noshi.must_not_be_ended(j noshi.job) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare e record;
begin
    if j.status = 'cancelled' then
        select o.event, o.detail into e from job_event o where o.job = j.id and o.event in ('cancelled', 'dismissed') order by o.happened_at desc limit 1;
        raise exception 'job % was %, and nothing brings it back', j.id,
            coalesce(e.event, 'cancelled') || case when j.batch is not null and e.event = 'cancelled' then ' with batch ' || j.batch else '' end || coalesce(' (' || e.detail || ')', '')
            using errcode = 'NS409', hint = 'If it is wanted after all, it has to be asked for anew, under another id.';
    end if;
end $$;
revoke all on function noshi.must_not_be_ended(noshi.job) from public;

do $$
declare
    anchor constant text := 'if p_step is distinct from j.step then';
    body text;
begin
    select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = 'ask_as';
    if strpos(body, anchor) = 0 then
        raise exception 'ask_as does not read as it was written';
    end if;
    execute replace(body, anchor, E'perform must_not_be_ended(j);\n    ' || anchor);
end $$;

reset role;
