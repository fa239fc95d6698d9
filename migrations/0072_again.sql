set role noshi_owner;

-- A released batch that is cancelled: its rows say what became of them, nothing of it stays parked, and what it announced stands in nobody's way.

-- Whom a caller asks about: what brought points.
create index job_of_points_source on noshi.job ((args ->> 'source')) where kind = 'point_grant';

-- An id that a file has granted names that grant for ever, whichever door a request comes by. Before that the file is waited for: whoever
-- comes second sees the first.
create function noshi.must_be_as_granted(p_kind text, p_key text, p_args jsonb) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    g record;
    -- What a file leaves out is written into its rows.
    asked constant jsonb := case p_kind when 'point_grant' then jsonb_build_object('zone', 'Asia/Tokyo') || p_args else p_args end;
begin
    if not exists (select from batch_row r where r.key = p_key) then
        return;
    end if;
    -- One that is about to be registered is waited for, and waits in turn.
    perform from batch b where b.id in (select r.batch from batch_row r where r.key = p_key) and b.registered_at is null
        and b.released_at is not null and b.cancelled_at is null for share;
    for g in select b.id, case b.kind when 'points' then jsonb_build_object('zone', 'Asia/Tokyo') || (r.args - array['grant', 'value']) else r.args end as args
        from batch_row r join batch b on b.id = r.batch
        where r.key = p_key and b.kind = case p_kind when 'point_grant' then 'points' else 'grants' end
          and b.registered_at is not null and b.cancelled_at is null
    loop
        if g.args <> asked and not was_taken(p_kind, p_key, p_args) then
            raise exception '% % exists with other arguments: batch % granted it', p_kind, p_key, g.id
                using errcode = 'NS409', detail = differing_fields(g.args, asked),
                      hint = 'An id names one request for ever. Use a new id for a new request.';
        end if;
    end loop;
end $$;

-- The server's own list of zones is read from hundreds of files each time, and what is in none of them the server takes for a rule.
create table noshi.zone (name text primary key);
insert into noshi.zone select name from pg_timezone_names where name ~ '/' and name !~ '^(posix|right)/' on conflict do nothing;

-- A zone as schedules take it: a name, and not a rule or an abbreviation.
create function noshi.is_zone(p_zone text) returns boolean language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_zone in ('Asia/Tokyo', 'UTC') or exists (select from noshi.zone z where z.name = p_zone)
        -- One that came with a newer server.
        or (p_zone ~ '^[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+)+$' and exists (select from pg_timezone_names z where z.name = p_zone));
end $$;

-- What a file and its campaign are called: shown to whoever approves, so all of it can be seen.
create function noshi.must_be_named(p_file text, p_campaign text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare fault text := coalesce('file: ' || case when p_file ~ '[/\\]' then 'this holds a slash; a name is no path' else text_fault(p_file, 200) end,
    'campaign: ' || text_fault(p_campaign, 200));
begin
    if fault is not null then
        raise exception '%', fault using errcode = 'NS400', column = split_part(fault, ': ', 1);
    end if;
end $$;

-- A reason that nobody can see is none, whichever act it is for. Blank ones are refused where they are given.
create function noshi.must_be_seen(p_reason text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if p_reason ~ '[^[:space:]]' and text_fault(p_reason, 2147483647) = 'this must not be empty' then
        raise exception 'an act needs a reason that can be seen' using errcode = 'NS400';
    end if;
end $$;
revoke all on function noshi.must_be_as_granted(text, text, jsonb), noshi.is_zone(text), noshi.must_be_named(text, text), noshi.must_be_seen(text) from public;

do $$
declare
    change record;
    body text;
begin
    -- One function is mended in several places.
    perform set_config('check_function_bodies', 'off', true);
    for change in select * from (values
        -- Of a cancelled batch a grant stands where its gift was asked for, and goes on; as `row_goes_on`.
        ('batch_rows', 'when coalesce(j.jobs, 0) = 0 and b.cancelled_at is not null then ''cancelled''', 'when s.gone then ''cancelled'''),
        ('batch_rows', 'or coalesce(j.jobs, 0) < e.expected then ''open''', 'or (coalesce(j.jobs, 0) < e.expected and b.cancelled_at is null) then ''open'''),
        ('batch_rows', 'coalesce(j.outcome, case when b.registered_at is not null then ''granted'' end), coalesce(j.code, b.refused_code)',
         'case when s.gone then ''cancelled'' else coalesce(j.outcome, case when b.registered_at is not null then ''granted'' end) end,
           case when (s.gone or (b.cancelled_at is not null and j.cancelled)) and not (j.asks or j.open or j.failed) is true then ''batch_cancelled'' else coalesce(j.code, b.refused_code) end'),
        ('batch_rows', 'group by j.row_no) j on j.row_no = r.row_no', 'group by j.row_no) j on j.row_no = r.row_no
    cross join lateral (select case when b.cancelled_at is null then false
        when b.kind <> ''grants'' or b.registered_at is null then coalesce(j.jobs, 0) = 0
        else not (exists (select from job g where g.kind = ''gift_issuance'' and g.key = r.key and g.status <> ''cancelled'')
                  or exists (select from tombstone g where g.kind = ''gift_issuance'' and g.key = r.key and g.status <> ''cancelled''))
             or exists (select from batch_row o join batch ob on ob.id = o.batch
                where o.key = r.key and ob.kind = ''grants'' and ob.registered_at > b.registered_at) end as gone) s'),
        ('issue_grant', 'and not exists (select from job where kind = ''gift_issuance'' and key = p_grant) then',
         'and not exists (select from job where kind = ''gift_issuance'' and key = p_grant and status <> ''cancelled'')
        and not exists (select from tombstone where kind = ''gift_issuance'' and key = p_grant and status <> ''cancelled'') then'),
        -- Parked, and with nothing left to do: it ends at its next step.
        ('cancel_batch', 'perform pg_notify(''noshi'', '''');', 'perform ask_as(j.id, j.step, ''retry'', p_reason, who()) from job j
    where j.kind = ''bulk_grants'' and j.key = ''batch/'' || b.id and j.status = ''needs_operator'' and j.asked is null;
    perform pg_notify(''noshi'', '''');'),
        ('batch_objection', 'format(''asked for by somebody else already: %s'', found_text)',
         'format(''asked for by somebody else already: %s. An id names one request for ever, also one that was cancelled: give these rows new ids'', found_text)'),
        ('rerun_batch', 'Submit its file again.', 'Submit its rows again; a row whose gift or store was asked for needs a new id.'),
        ('must_be_askable', 'Submit its file again.', 'Submit its rows again; a row whose gift or store was asked for needs a new id.'),
        ('job_guard', '    return new;', '    if new.batch is null and new.kind in (''gift_issuance'', ''point_grant'') then
        perform must_be_as_granted(new.kind, new.key, new.args);
    end if;
    return new;'),
        ('receive_batch', '    insert into batch (', '    perform must_be_named(p_file, p_campaign);
    insert into batch ('),
        ('invalid_batch', '    insert into batch (', '    perform must_be_named(p_file, p_campaign);
    insert into batch ('),
        ('record', '    insert into audit', '    select noshi.must_be_seen($3);
    insert into audit'),
        ('enqueue_rows_into', 'if cardinality(keys) <> cardinality(p_args) then', 'if keys is null or cardinality(keys) is distinct from cardinality(p_args) then'),
        -- Null is how many a library writes what it leaves out.
        ('enqueue_rows_into', '    insert into job (kind, key, fingerprint, args, priority', '    if p_kind <> ''probe'' and exists (select from unnest(odd_args) a where jsonb_path_exists(a, ''$.* ? (@ == null)'')) then
        p_args := (select array_agg(case when jsonb_path_exists(r.args, ''$.* ? (@ == null)'') and not was_taken(p_kind, r.key, r.args)
                                    then jsonb_strip_nulls(r.args) else r.args end order by r.n)
                   from unnest(keys, p_args) with ordinality as r(key, args, n));
    end if;

    if p_kind = ''point_grant'' then
        select r.row_no into bad from unnest(keys, p_args) with ordinality as r(key, args, row_no)
        where r.args ->> ''zone'' <> ''Asia/Tokyo'' and not is_zone(r.args ->> ''zone'') and not was_taken(p_kind, r.key, r.args) order by r.row_no limit 1;
        if found then
            raise exception ''row %: args.zone: there is no such time zone; name one as Asia/Tokyo or UTC are named'', bad.row_no
                using errcode = ''NS400'', column = ''args.zone'';
        end if;
    end if;

    insert into job (kind, key, fingerprint, args, priority')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written: %', change.name, change.old;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
