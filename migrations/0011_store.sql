set role noshi_owner;
set local check_function_bodies = off;

-- Facts of store creation: inserted once a shop of ours stands at the organisation platform and its organisation has the service.
create table noshi.store (
    public_id     text primary key,
    organization  text not null,
    -- The platform's id of it.
    shop          text not null unique,
    name          text not null,
    -- Under which subject its sealed address and phone are kept; null where it has neither.
    contact       text,
    job           bigint not null unique,
    created_at    timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (created_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- What the organisation platform says of its shops and organisations now (R61): copies of what is owned there, told by its events.
-- They may come before our own row, twice, and in any order: only a higher version wins.
create table noshi.store_cache (
    shop          text primary key,
    organization  text not null,
    public_id     text not null,
    name          text,
    deleted       boolean not null,
    version       bigint not null check (version > 0),
    told_at       timestamptz not null default clock_timestamp(),
    constraint texts_are_short check (octet_length(shop) <= 200 and octet_length(organization) <= 200 and octet_length(public_id) <= 200
        and octet_length(name) <= 1000),
    constraint times_are_sane check (told_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index store_cache_public_id on noshi.store_cache (public_id);

create table noshi.organization_cache (
    organization  text primary key,
    name          text,
    version       bigint not null check (version > 0),
    told_at       timestamptz not null default clock_timestamp(),
    constraint texts_are_short check (octet_length(organization) <= 200 and octet_length(name) <= 1000),
    constraint times_are_sane check (told_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

create function noshi.keep_organization_event(p_organization text, p_name text, p_version bigint)
returns boolean language plpgsql security definer set search_path = noshi, pg_temp
as $$
begin
    insert into organization_cache as c (organization, name, version) values (p_organization, cut(p_name, 1000), p_version)
    on conflict (organization) do update set name = coalesce(excluded.name, c.name), version = excluded.version, told_at = clock_timestamp()
    where c.version < excluded.version;
    return found;
end $$;

-- Whether the event was news. What an event leaves out (the name, when a shop is deleted) stays as it was.
create function noshi.keep_shop_event(p_shop text, p_organization text, p_public_id text, p_name text, p_deleted boolean, p_version bigint)
returns boolean language plpgsql security definer set search_path = noshi, pg_temp
as $$
begin
    insert into store_cache as c (shop, organization, public_id, name, deleted, version)
    values (p_shop, p_organization, p_public_id, cut(p_name, 1000), p_deleted, p_version)
    on conflict (shop) do update set organization = excluded.organization, public_id = excluded.public_id,
        name = coalesce(excluded.name, c.name), deleted = excluded.deleted, version = excluded.version, told_at = clock_timestamp()
    where c.version < excluded.version;
    return found;
end $$;

-- The address and phone of a store that is asked for, and of the one that is here, for the worker that has the job in flight, where the
-- journal has the claim.
create function noshi.sealed_contacts(p_job bigint, p_worker bigint)
returns table (subject text, key_id text, nonce bytea, ciphertext bytea) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select s.subject, s.key_id, s.nonce, s.ciphertext
    from job j join noshi_sealed.sealed s on s.what = 'contact' and s.grant_id = j.args ->> 'public_id'
        and s.subject in (j.args ->> 'contact', (select t.contact from store t where t.public_id = j.args ->> 'public_id'))
    where j.id = p_job and j.kind = 'store_creation' and j.status = 'running' and j.worker = p_worker
      and exists (select from worker w where w.id = p_worker and w.dead_at is null and coalesce(w.login, session_user) = session_user)
      and exists (select from job_event e where e.job = j.id and e.lease = j.lease and e.worker = p_worker and e.event = 'claimed')
$$;

-- One job of a public id at a time, until its transaction ends; others share its turn now and then.
create function noshi.take_store_turn(p_public_id text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform from turn where act = 'store/' || (hashtextextended(p_public_id, 0) & 63) for update;
end $$;

-- Stores for reports: as they were created, and as the platform names them now. No address, no phone.
create view noshi.store_report with (security_barrier) as
    select s.public_id, s.organization, coalesce(o.name, s.organization) as organization_name, s.shop, coalesce(c.name, s.name) as name,
           coalesce(c.deleted, false) as deleted, s.job, s.created_at
    from noshi.store s
    left join noshi.store_cache c on c.shop = s.shop
    left join noshi.organization_cache o on o.organization = s.organization;
comment on view noshi.store_report is 'Stores (店舗) as they were created, and as the platform names them now: a row for each.';
comment on column noshi.store_report.public_id is 'The customer''s own id of the store.';
comment on column noshi.store_report.organization is 'The platform''s id of its organisation.';
comment on column noshi.store_report.organization_name is 'The organisation''s name as the platform told it last; its id where it told none.';
comment on column noshi.store_report.shop is 'The platform''s id of the shop.';
comment on column noshi.store_report.name is 'Its name as the platform told it last.';
comment on column noshi.store_report.deleted is 'The platform told that it is gone.';
comment on column noshi.store_report.job is 'Number of the job that created it.';
comment on column noshi.store_report.created_at is 'When it was created.';

create trigger append_only before update or delete on noshi.store for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.store for each statement execute function noshi.journal_is_append_only();

revoke all on function noshi.keep_organization_event(text, text, bigint),
    noshi.keep_shop_event(text, text, text, text, boolean, bigint), noshi.sealed_contacts(bigint, bigint), noshi.take_store_turn(text) from public;
grant execute on function noshi.keep_organization_event(text, text, bigint),
    noshi.keep_shop_event(text, text, text, text, boolean, bigint) to noshi_webhook;
grant execute on function noshi.sealed_contacts(bigint, bigint), noshi.take_store_turn(text) to noshi_worker;
grant select on noshi.organization_cache, noshi.store, noshi.store_cache to noshi_worker, noshi_operator;
grant select on noshi.store_report to noshi_reader, noshi_operator;
grant insert (public_id, organization, shop, name, contact, job) on noshi.store to noshi_worker;

reset role;
