set role noshi_owner;

-- Who acts in turn waits for a row that only these functions can lock. A lock by number or text, as before, any login of the database could
-- take and keep: a reader stopped every batch. While two versions run side by side, an older worker still takes such a lock for a store,
-- and the platform's key keeps the two apart.
create table noshi.turn (act text primary key);
insert into noshi.turn (act) values ('register_batch'), ('prune');
insert into noshi.turn (act) select 'store/' || n from generate_series(0, 63) n;

-- One job of a public id at a time, until its transaction ends; others share its turn now and then.
create function noshi.take_store_turn(p_public_id text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform from turn where act = 'store/' || (hashtextextended(p_public_id, 0) & 63) for update;
end $$;
revoke all on function noshi.take_store_turn(text) from public;
grant execute on function noshi.take_store_turn(text) to noshi_worker;

-- Acts that have no link yet: whoever made them found the head of the chain held by somebody who took their time. The next act links them,
-- or the fleet, or whoever verifies.
create table noshi.audit_unlinked (
    audit  bigint primary key,
    xid    xid8 not null default pg_current_xact_id()
);
grant select on noshi.audit_unlinked to noshi_operator;

create function noshi.link_act(a noshi.audit) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    with h as (update audit_head set seq = seq + 1, hash = audit_digest(hash, a) returning seq, hash)
    insert into audit_link (seq, audit, hash) select seq, a.id, hash from h;
end $$;

-- By whoever holds the head.
create function noshi.link_unlinked() returns bigint language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    a audit;
    linked bigint := 0;
begin
    for a in with d as (delete from audit_unlinked returning audit) select o.* from d join audit o on o.id = d.audit order by o.id loop
        perform link_act(a);
        linked := linked + 1;
    end loop;
    return linked;
end $$;

-- True once the head is held here. A second is more than an honest act takes for its commit.
create function noshi.wait_for_audit_head() returns boolean language plpgsql
set search_path = noshi, pg_temp
set lock_timeout = '1s'
as $$
begin
    perform from audit_head for update;
    return true;
exception when lock_not_available then
    return false;
end $$;

-- At the commit, when every other lock is held already. Nobody's act waits for somebody who went away: it is made, and linked later.
create or replace function noshi.link_audit() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform from audit_head for update skip locked;
    if not found and (exists (select from audit_unlinked u where u.xid = pg_current_xact_id()) or not wait_for_audit_head()) then
        insert into audit_unlinked (audit) values (new.id);
        return null;
    end if;
    if exists (select from audit_unlinked) then
        perform link_unlinked();
    end if;
    with h as (update audit_head set seq = seq + 1, hash = audit_digest(hash, new) returning seq, hash)
    insert into audit_link (seq, audit, hash) select seq, new.id, hash from h;
    return null;
end $$;

-- Links what waits for it, unless somebody holds the head now.
create function noshi.link_waiting_acts() returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if not exists (select from audit_unlinked) then
        return 0;
    end if;
    perform from audit_head for update skip locked;
    return case when found then link_unlinked() else 0 end;
end $$;
revoke all on function noshi.link_act(noshi.audit), noshi.link_unlinked(), noshi.wait_for_audit_head(), noshi.link_waiting_acts() from public;
grant execute on function noshi.link_waiting_acts() to noshi_worker, noshi_operator;

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('register_batch', 'perform pg_advisory_xact_lock(hashtext(''noshi.register_batch''));', 'perform from turn where act = ''register_batch'' for update;'),
        ('prune', $o$    if not pg_try_advisory_xact_lock(hashtext('noshi.prune')) then$o$, $n$    perform from turn where act = 'prune' for update skip locked;
    if not found then$n$),
        ('apply_redrive', 'perform pg_advisory_xact_lock(hashtextextended(''noshi.apply_redrive '' || who(), 0));',
            'insert into turn (act) values (''apply_redrive '' || who()) on conflict do nothing;
    perform from turn where act = ''apply_redrive '' || who() for update;'),
        -- Every ten seconds of each process.
        ('prune_is_due', E'\nbegin\n', E'\nbegin\n    perform link_waiting_acts();\n'),
        ('verify_audit', 'where not exists (select from audit_link l where l.audit = a.id)',
            'where not exists (select from audit_link l where l.audit = a.id) and not exists (select from audit_unlinked u where u.audit = a.id)')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written: %', change.name, change.old;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
