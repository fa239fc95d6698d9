set role noshi_owner;

-- What is known of the past of a gift whose first trade here may not be its first: at whom it may have been called, and whether that was settled
-- since, by an answer or by a person's evidence. Kept beside the job, so that neither a retry nor other settings forget it.
create table noshi.gift_past (
    job         bigint not null,
    generation  smallint not null,
    -- Each partner that may have been called under this id.
    partners    text[] not null,
    -- One of the calls that a loss left open: it is spent once this one is proven.
    owed        boolean not null,
    noted_at    timestamptz not null default clock_timestamp(),
    proven_at   timestamptz,
    primary key (job, generation)
);
grant select, insert on noshi.gift_past to noshi_worker;
grant select on noshi.gift_past to noshi_operator;

create function noshi.prove_past() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare spent integer;
begin
    with p as (update gift_past set proven_at = clock_timestamp() where job = new.id and proven_at is null returning owed)
    select count(*) filter (where p.owed) into spent from p;
    if spent > 0 then
        update server_seen set owed = greatest(0, owed - spent) where owed > 0;
    end if;
    return null;
end $$;
revoke all on function noshi.prove_past() from public;
create trigger prove_past after update of unsure on noshi.job for each row
    when (old.unsure and not new.unsure and new.kind = 'gift_issuance') execute function noshi.prove_past();

reset role;
