set role noshi_owner;

-- A token is somebody's, and ends with them.

-- The login of that name when the token was made, by its number: a name may be given away or taken again. Null: a system without a login.
alter table noshi.token add column login oid;
update noshi.token t set login = r.oid from pg_roles r where lower(r.rolname) = t.owner;

-- Whether the token's login is still who it was: there, of that name, not locked, and an operator where it made the token itself.
create function noshi.is_theirs(p_login oid, p_owner text, p_created_by text) returns boolean language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select $1 is null or exists (select from pg_roles r where r.oid = $1 and lower(r.rolname) = $2 and r.rolcanlogin
        and (lower($3) <> $2 or pg_has_role(r.oid, 'noshi_operator', 'member') or pg_has_role(r.oid, 'noshi_owner', 'member')))
$$;
revoke all on function noshi.is_theirs(oid, text, text) from public;
grant execute on function noshi.is_theirs(oid, text, text) to noshi_operator;
grant select (login) on noshi.token to noshi_operator;

-- No text that people write is so long that others wait for it.
alter table noshi.audit add constraint reason_is_short check (octet_length(reason) <= 4000) not valid;
alter table noshi.proposal add constraint reasons_are_short check (octet_length(reason) <= 4000 and octet_length(decision_reason) <= 4000) not valid;
alter table noshi.batch_event add constraint reason_is_short check (octet_length(reason) <= 4000) not valid;
alter table noshi.batch add constraint faults_are_few check (octet_length(faults::text) <= 100000) not valid;
alter table noshi.schedule add constraint cron_is_short check (octet_length(cron) <= 200) not valid;

create or replace function noshi.must_be_seen(p_reason text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if octet_length(p_reason) > 4000 then
        raise exception 'a reason has at most 4000 bytes, and this has %', octet_length(p_reason) using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    if p_reason ~ '[^[:space:]]' and text_fault(p_reason, 2147483647) = 'this must not be empty' then
        raise exception 'an act needs a reason that can be seen' using errcode = 'NS400';
    end if;
end $$;

-- What one person asks for alone. Taking a delivered gift back takes value from its user, and counts as well.
create or replace function noshi.count_asked(p_job bigint, p_act text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    currency_of text;
    amount_of bigint;
    delivered boolean;
begin
    select coalesce(args -> 'value' ->> 'currency', ''), coalesce(worth(args), 0), status = 'completed' into currency_of, amount_of, delivered
    from job where id = p_job;
    if p_act not in ('retry', 'inquire', 'rerun') and not (p_act = 'cancel' and delivered) then
        return;
    end if;
    perform in_turn(who());
    if redrive_is_large(who(), 1, case when amount_of > 0 then jsonb_build_object(currency_of, amount_of) else '{}' end) then
        raise exception 'this is more than one person asks for alone within 24 hours' using errcode = 'NS403',
            hint = 'Nothing was asked. Plan a re-drive, which a second person approves: `noshi redrive plan`.';
    end if;
    insert into alone (who, what, target, jobs, currency, amount) values (who(), 'asked', 'job/' || p_job, 1, case when amount_of > 0 then currency_of else '' end, amount_of);
end $$;

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        ('shown_token', 'and t.revoked_at is null and t.expires_at > clock_timestamp();', 'and t.revoked_at is null and t.expires_at > clock_timestamp() and is_theirs(t.login, t.owner, t.created_by);'),
        ('create_token', 'insert into token (id, owner, digest, scopes, per_second, expires_at)
    values (p_id, p_owner, p_digest, p_scopes, p_per_second, clock_timestamp() + p_lasts)', 'insert into token (id, owner, digest, scopes, per_second, expires_at, login)
    values (p_id, p_owner, p_digest, p_scopes, p_per_second, clock_timestamp() + p_lasts, (select r.oid from pg_roles r where lower(r.rolname) = p_owner order by r.rolname <> session_user limit 1))'),
        -- An approval that has run out is none, also where none was needed: what goes counts for whoever lets it go.
        ('release_batch', 'if b.approved_at is null then
        insert into alone', 'if b.approved_at is null or b.approved_until <= clock_timestamp() then
        insert into alone'),
        ('must_be_askable', 'if j.asked is not null then', 'if coalesce(p_act, '''') not in (''retry'', ''inquire'', ''cancel'', ''attest_void'', ''reissue'', ''reject'', ''attest_done'', ''rerun'', ''adopt'') then
        raise exception ''there is no act %'', quote_nullable(p_act) using errcode = ''NS400'', hint = ''Nothing was asked. `noshi job explain` names what may be done with a job.'';
    end if;
    if j.asked is not null then'),
        ('propose', 'perform must(''operate'');', 'perform must(''operate'');
    perform must_be_seen(p_reason);'),
        ('set_schedule', 'perform reason_given(p_reason);', 'perform reason_given(p_reason);
    if octet_length(p_cron) > 200 then
        raise exception ''cron: an expression has at most 200 bytes'' using errcode = ''NS400'', column = ''cron'';
    end if;'),
        ('invalid_batch', 'perform must_be_named(p_file, p_campaign);', 'perform must_be_named(p_file, p_campaign);
    if octet_length(p_faults::text) > 100000 then
        raise exception ''the first faults of a file are enough: they have at most 100,000 bytes'' using errcode = ''NS400'';
    end if;')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
