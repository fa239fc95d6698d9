set role noshi_owner;

-- What an attack found, one guard for each.

-- Batches are judged on what is committed now: under an older snapshot rows that came later would be released unjudged.
create or replace function noshi.batch_locked(p_batch bigint) returns noshi.batch language plpgsql
set search_path = noshi, pg_temp
as $$
declare b batch;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a batch is acted on in a transaction that is read committed' using errcode = 'NS400';
    end if;
    select * into b from batch where id = p_batch for update;
    if not found then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    return b;
end $$;

-- A second wall: the rows that go are those that were judged.
do $$
declare body text;
begin
    body := pg_get_functiondef('noshi.batch_hindrance(noshi.batch)'::regprocedure);
    if strpos(body, 'elsif b.needs_approval and b.approved_at is null then') = 0 then
        raise exception 'batch_hindrance does not read as it was written';
    end if;
    execute replace(body, 'elsif b.needs_approval and b.approved_at is null then',
        'elsif b.rows is distinct from (select count(*) from batch_row r where r.batch = b.id) then
        return query select ''batch_not_approved'', ''it has other rows than those that were judged; cancel it'';
    elsif b.needs_approval and b.approved_at is null then');
end $$;

-- What an amount of arguments is worth, in minor units; null where it is no whole positive number of a size that can be money.
create function noshi.worth(args jsonb) returns bigint language sql immutable
set search_path = noshi, pg_temp
as $$
    select case when jsonb_path_exists($1, '$.value.amount ? (@.type() == "number" && @ >= 1 && @ <= 9000000000000000 && @ == @.floor())')
        then ($1 -> 'value' ->> 'amount')::numeric::bigint end
$$;

-- Requests that nobody can mean, refused before they are jobs. The job of a batch is made by the batch's release alone: a producer could
-- take its id, or name a batch that never was. A gift's id is its grant: by it the code is sealed, shown, and issued at most once. What no
-- reader can hold (a number beyond doubles, depth without end) or show (control characters, reversed text) would hide other jobs. A gift
-- that points pay for is ordered by its exchange, and points are asked back by that gift, and by nobody else: an id would be taken that
-- they need, or points would come back that are not owed.
create function noshi.job_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if new.key ~ U&'[\0001-\001f\007f-\009f\200b-\200f\202a-\202e\2060-\2069\feff]' or new.key in ('.', '..') then
        raise exception 'an id holds no control characters, none that cannot be seen, and is not . or ..' using errcode = 'NS400';
    elsif jsonb_path_exists(new.args, '$.**{33 to last}') then
        raise exception 'the arguments of % go deeper than 32 levels', new.key using errcode = 'NS400';
    elsif jsonb_path_exists(new.args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then
        raise exception 'the arguments of % hold a number that is too large', new.key using errcode = 'NS400';
    elsif (new.kind = 'point_reversal' or (new.kind = 'gift_issuance' and new.key like 'exchange/%'))
        and not pg_has_role(session_user, 'noshi_worker', 'member') then
        raise exception '% % belongs to an exchange of points, which asks for it by itself', new.kind, new.key using errcode = 'NS400',
            hint = 'Enqueue a point_exchange; a grant''s own id must not begin with exchange/.';
    elsif new.kind = 'bulk_grants' then
        if not exists (select from batch b where 'batch/' || b.id = new.key and new.args = jsonb_build_object('batch', b.id) and b.released_at is not null) then
            raise exception 'bulk_grants % is made by the release of its batch', new.key using errcode = 'NS403', hint = 'Submit a file: `noshi batch submit`.';
        end if;
    elsif new.kind = 'gift_issuance' and new.args ? 'grant' and new.key is distinct from new.args ->> 'grant' then
        raise exception 'the id of a gift is its grant: % is not %', new.key, new.args ->> 'grant' using errcode = 'NS400';
    elsif new.kind in ('gift_issuance', 'point_exchange') and new.args -> 'value' ? 'amount' and worth(new.args) is null then
        raise exception 'the amount of % is not a whole number of minor units above 0', new.key using errcode = 'NS400';
    end if;
    return new;
end $$;
create trigger guard before insert on noshi.job for each row execute function noshi.job_guard();

-- Rows that a file could not hold break the reports of all.
alter table noshi.batch_row add constraint days_are_days check (coalesce(args ->> 'valid_days', '1') ~ '^[0-9]{1,4}$') not valid;

-- Sealed values come from workers, and with the files and recipients of a batch from whoever submits it, while it is received.
create function noshi.sealed_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_owner', 'member') then
        return null;
    end if;
    if exists (select from (select distinct what, split_part(subject, '/', 1) as batch from new_rows) n where not case
            when n.what = 'suppressed' then pg_has_role(session_user, 'noshi_door', 'member')
            when n.what in ('file', 'recipient') then exists (
                select from batch b where b.id::text = n.batch and b.submitted_by = who() and b.validated_at is null and b.invalid_at is null and b.cancelled_at is null)
            else false end) then
        raise exception 'sealed values are taken with a batch that is being received, from whoever submits it' using errcode = 'NS403';
    end if;
    return null;
end $$;
create trigger only_with_a_batch after insert on noshi_sealed.sealed referencing new table as new_rows
    for each statement execute function noshi.sealed_guard();

-- Who acts and goes away leaves the head of the audit locked, and with it every other act: not for longer than this.
create or replace function noshi.record(p_act text, p_target text, p_reason text, p_before jsonb default null, p_after jsonb default null, p_who text default null)
returns void language sql security definer
set search_path = noshi, pg_temp
as $$
    insert into audit (who, token, act, target, reason, before, after)
    select coalesce($6, noshi.who()), case when $6 is null then (select t.id from noshi.shown_token() t) end, $1, $2, $3, $4, $5;
    select set_config('idle_in_transaction_session_timeout', '10s', true);
$$;

do $$
declare
    change record;
    body text;
    said constant text := E'\n    if coalesce(p_reason, '''') !~ ''[^[:space:]]'' then\n        raise exception ''an act needs a reason'' using errcode = ''NS400'';\n    end if;';
begin
    for change in select * from (values
        -- What is cancelled was asked for nothing, and does not come back by itself.
        ('cancel_batch', 'set status = ''cancelled'', outcome', 'set asked = null, rested = null, status = ''cancelled'', outcome'),
        ('cancel_batch', E'\nbegin\n', E'\nbegin' || said || E'\n'),
        ('resume_batch', E'\nbegin\n', E'\nbegin' || said || E'\n'),
        ('rerun_batch', 'if b.paused_at is not null then', 'if b.cancelled_at is not null then
        raise exception ''batch % was cancelled'', b.id using errcode = ''NS409'', hint = ''Submit its file again.'';
    end if;
    if b.paused_at is not null then'),
        ('ask_as', 'if j.asked is not null then', 'if exists (select from batch b where b.id = j.batch and b.cancelled_at is not null) then
        raise exception ''job % belongs to batch %, which was cancelled'', p_job, j.batch using errcode = ''NS409'', hint = ''Submit its file again.'';
    end if;
    if exists (select from batch b where b.id = j.batch and b.paused_at is not null) then
        raise exception ''job % belongs to batch %, which is paused'', p_job, j.batch using errcode = ''NS409'', hint = ''Resume the batch first.'';
    end if;
    if j.asked is not null then'),
        ('set_retention', 'or p_every <= interval ''0'' then', 'or p_every <= interval ''0'' or greatest(p_jobs_for, p_stories_for, p_every) > interval ''100 years'' then'),
        ('set_retention', 'and their stories for 90 days''', 'and their stories for 90 days; nothing for more than 100 years'''),
        ('plan_redrive', '(j.args -> ''value'' ->> ''amount'')::bigint', 'noshi.worth(j.args)')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;
revoke all on function noshi.job_guard(), noshi.sealed_guard(), noshi.worth(jsonb) from public;

reset role;
