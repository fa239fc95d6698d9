set role noshi_owner;

-- Every act of a person says why: the audit is read by whoever comes after them.
create function noshi.say_why(p_reason text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400', hint = 'Nothing was changed. Say why: it is kept with the act.';
    end if;
end $$;
revoke all on function noshi.say_why(text) from public;

do $$
declare
    change record;
    body text;
    asked constant text := E'    perform must(''operate'');\n';
begin
    for change in select * from (values
        ('pause_lane', asked, asked || E'    perform say_why(p_reason);\n'),
        ('resume_lane', asked, asked || E'    perform say_why(p_reason);\n'),
        ('set_lane', asked, asked || E'    perform say_why(p_reason);\n'),
        ('mark_restored', asked, asked || E'    perform say_why(p_reason);\n'),
        ('end_restored', asked, asked || E'    perform say_why(p_reason);\n'),
        -- What stops callers is for who answers for them: people take back their own tokens and those that they made, the schema's owner any.
        ('revoke_token', E'\nbegin\n', $n$
declare t token;
begin
    perform say_why(p_reason);
    select * into t from token where id = p_id;
    if found and t.owner <> who() and t.created_by <> session_user and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'token % is %''s', p_id, t.owner using errcode = 'NS403',
            hint = 'Nothing was changed. Its owner revokes it, or the login that made it, or the one that owns the schema.';
    end if;
$n$),
        -- The fleet pauses by a code of its own, and says no more.
        ('pause_batch', 'if b.paused_at is not null or b.settled_at is not null then', 'if not pg_has_role(session_user, ''noshi_worker'', ''member'') then
        perform say_why(p_reason);
    end if;
    if b.paused_at is not null or b.settled_at is not null then')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written: %', change.name, change.old;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
