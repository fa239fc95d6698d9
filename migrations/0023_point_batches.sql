set role noshi_owner;

-- Bulk grants of points: the same file, approval, caps and one commit as for gifts; each row then is one point_grant. Their unit is PT.
alter table noshi.batch drop constraint batch_kind_check, drop constraint batch_check;
alter table noshi.batch
    add constraint batch_kind_check check (kind in ('grants', 'stores', 'points')),
    add constraint batch_check check (mode = case kind when 'stores' then 'per_row' else 'all_or_nothing' end),
    add constraint points_bring_no_gift check (kind <> 'points' or not (mails or issues));
alter table noshi.batch_cap drop constraint batch_cap_kind_check;
alter table noshi.batch_cap add constraint batch_cap_kind_check check (kind in ('grants', 'stores', 'points'));
-- As with those before it, what the schema comes with is nobody's act.
alter table noshi.batch_cap disable trigger audited;
insert into noshi.batch_cap (kind, currency, most_rows, most_total, most_per_user, most_per_day, approve_from_rows, approve_from_total) values
    ('points', 'PT', 1000000, 100000000, 100000, 100000000, 100, 100000);
alter table noshi.batch_cap enable trigger audited;
-- What caps add up is what will be granted.
alter table noshi.batch_row add constraint points_add_up check (currency is distinct from 'PT' or (
    (args ->> 'points')::bigint is not distinct from amount and key is not distinct from (args ->> 'benefit') || ':' || (args ->> 'source')));

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('batch_objection', 'if b.kind = ''grants'' then', 'if b.kind <> ''stores'' then'),
        ('batch_objection', 'ob.kind = ''grants''', 'ob.kind = b.kind'),
        ('batch_objection', 'j.kind = ''gift_issuance''', 'j.kind = case b.kind when ''points'' then ''point_grant'' else ''gift_issuance'' end'),
        ('batch_objection', 't.kind = ''gift_issuance''', 't.kind = case b.kind when ''points'' then ''point_grant'' else ''gift_issuance'' end'),
        ('validate_batch', '(b.kind = ''grants'') <> (r.amount is not null)',
         '((b.kind <> ''stores'') <> (r.amount is not null) or (b.kind = ''points'') <> (r.currency is not distinct from ''PT''))'),
        ('release_batch', 'a where b.kind = ''grants''', 'a where b.kind <> ''stores'''),
        ('register_batch', 'b.kind <> ''grants''', 'b.kind = ''stores'''),
        ('batch_rows', '(b.kind = ''grants'' and b.registered_at is null)', '(b.kind <> ''stores'' and b.registered_at is null)'),
        ('batch_rows', 'case when b.kind = ''stores'' then 1 else', 'case when b.kind <> ''grants'' then 1 else'),
        -- Whom a pruned job was about.
        ('prune', 'case j.kind when ''gift_issuance'' then j.args ->> ''user''',
         'case j.kind when ''gift_issuance'' then j.args ->> ''user'' when ''point_grant'' then j.args ->> ''user'' when ''point_exchange'' then j.args ->> ''user'' when ''point_withdrawal'' then j.args ->> ''user'' when ''point_reversal'' then j.args ->> ''exchange''')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

-- Whom a call centre asks about: a user's points too.
create index job_of_points_user on noshi.job ((args ->> 'user')) where kind in ('point_grant', 'point_exchange', 'point_withdrawal');

reset role;
