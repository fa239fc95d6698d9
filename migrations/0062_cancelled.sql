set role noshi_owner;

-- What a cancelled batch granted stands only where its gift was asked for before, and goes on: neither caps nor duplicates count the rest.

-- Whether a row of a cancelled batch goes on, or came to an end of its own. One that was granted again is of the later batch.
create function noshi.row_goes_on(b noshi.batch, p_key text) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    select (exists (select from job j where j.kind = k.kind and j.key = p_key and j.status <> 'cancelled')
            or exists (select from tombstone t where t.kind = k.kind and t.key = p_key and t.status <> 'cancelled'))
        and not exists (select from batch_row o join batch ob on ob.id = o.batch
            where o.key = p_key and ob.kind = b.kind and ob.registered_at > b.registered_at)
    from (select case b.kind when 'points' then 'point_grant' when 'grants' then 'gift_issuance' else 'store_creation' end as kind) k
$$;
revoke all on function noshi.row_goes_on(noshi.batch, text) from public;

create or replace view noshi.gift_grant with (security_barrier) as
    select r.key as grant_id, b.id as batch, r.row_no, b.campaign, r.user_id, r.args ->> 'category' as category, r.args ->> 'provider' as provider,
           r.amount, r.currency, r.args ->> 'area' as area, b.registered_at as granted_at,
           b.registered_at + make_interval(hours => 24 * (r.args ->> 'valid_days')::integer) as lapses_at,
           -- Looked up only where they are asked for.
           coalesce((select j.status::text from noshi.job j where j.kind = 'gift_issuance' and j.key = r.key),
                    (select t.status::text from noshi.tombstone t where t.kind = 'gift_issuance' and t.key = r.key)) as issuance,
           (select max(o.happened_at) from noshi.gift_trade t join noshi.gift_outcome o on o.trade = t.id and o.outcome = 'issued'
            where t.grant_id = r.key) as issued_at
    from noshi.batch b join noshi.batch_row r on r.batch = b.id where b.kind = 'grants' and b.registered_at is not null
      -- As `row_goes_on`, whose tables its callers may not read.
      and (b.cancelled_at is null
        or ((exists (select from noshi.job j where j.kind = 'gift_issuance' and j.key = r.key and j.status <> 'cancelled')
            or exists (select from noshi.tombstone t where t.kind = 'gift_issuance' and t.key = r.key and t.status <> 'cancelled'))
          and not exists (select from noshi.batch_row o join noshi.batch ob on ob.id = o.batch
            where o.key = r.key and ob.kind = 'grants' and ob.registered_at > b.registered_at)));

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('batch_objection', 'and o.kind = b.kind and o.id <> b.id', 'and o.kind = b.kind and o.id <> b.id and (o.cancelled_at is null or row_goes_on(o, r.key))'),
        ('batch_objection', 'ob.registered_at is not null', 'ob.registered_at is not null and (ob.cancelled_at is null or row_goes_on(ob, o.key))'),
        -- Of a grant that was cancelled, and granted again by another batch, the second stands.
        ('issue_grant', 'and b.kind = ''grants'' and b.registered_at is not null;', 'and b.kind = ''grants'' and b.registered_at is not null order by b.cancelled_at desc nulls first limit 1;'),
        ('issue_grant', 'and not exists (select from job where', 'and not exists (select from batch_row r join batch b on b.id = r.batch where r.key = p_grant and b.kind = ''grants'' and b.registered_at is not null and b.cancelled_at is null)
        and not exists (select from job where'),
        ('was_taken', 'b.registered_at is not null', 'b.registered_at is not null and b.cancelled_at is null')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
