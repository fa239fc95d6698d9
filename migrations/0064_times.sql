set role noshi_owner;

-- A time that nobody can mean stops whoever computes with it: one infinite `called_at` made every claim of its lane fail, and a time beyond
-- what programs can hold ended them. So each column that holds one says so, and what was let in before is drawn back to what is known.
update noshi.server_seen set restored_to = (select coalesce(min(a.happened_at), clock_timestamp()) from noshi.audit a)
where restored_to < '1900-01-01 00:00:00+00';
update noshi.job set called_at = created_at where called_at < '1900-01-01 00:00:00+00';

-- Four mean "never yet" by -infinity, and one means "not until somebody says so" by infinity: they are compared, and not computed with.
-- Not looked at for the rows that are there, which may be many.
do $$
declare t record;
begin
    for t in select a.attrelid::regclass as name, string_agg(format($f$(%1$I is null or %1$I between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'%2$s)$f$,
                a.attname, case when a.attname in ('tat', 'late_at', 'clock_at', 'trusted_at', 'asked_at') then format(' or %I = ''-infinity''', a.attname)
                    when c.relname = 'job' and a.attname = 'run_at' then ' or run_at = ''infinity''' else '' end), ' and ' order by a.attnum) as holds
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace in ('noshi'::regnamespace, 'noshi_sealed'::regnamespace) and c.relkind = 'r' and a.atttypid = 'timestamptz'::regtype
          and not a.attisdropped
        group by a.attrelid loop
        execute format('alter table %s add constraint times_are_sane check (%s) not valid', t.name, t.holds);
    end loop;
end $$;

-- The first moment that there was anything to be restored.
create function noshi.installed_at() returns timestamptz language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
begin
    return (select least((select min(m.installed_on) from noshi_migrations._sqlx_migrations m where isfinite(m.installed_on)),
        (select min(a.happened_at) from audit a)));
end $$;
revoke all on function noshi.installed_at() from public;

do $$
declare
    body text := pg_get_functiondef('noshi.mark_restored(timestamptz, text)'::regprocedure);
    old constant text := $o$    if p_to is null or p_to > clock_timestamp() then
        raise exception 'the point of a restore lies in the past' using errcode = 'NS400';
    end if;$o$;
    new constant text := $n$    if p_to is null or not isfinite(p_to) or p_to > clock_timestamp() then
        raise exception 'the point of a restore lies in the past' using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    if p_to < installed_at() then
        raise exception 'noshi was installed here at %, so no database of it can have gone back to %', installed_at(), p_to using errcode = 'NS400',
            hint = 'Nothing was changed.';
    end if;$n$;
begin
    if strpos(body, old) = 0 then
        raise exception 'mark_restored does not read as it was written';
    end if;
    execute replace(body, old, new);
end $$;

reset role;
