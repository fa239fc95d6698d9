-- Who acts, and what is kept of it. A person or system is known by its login; or, over HTTP, by the owner of the token that it shows.
--
--   noshi_api   serves the HTTP interface: reads what operators read, and acts only in the name of a token
do $$ begin
    execute 'create role noshi_api nologin';
exception when duplicate_object or unique_violation then null;
end $$;
grant usage on schema noshi, noshi_sealed to noshi_api;
set role noshi_owner;

-- Bearer tokens. Of the secret only a digest of its digest is here, so that reading this table lets nobody in.
create table noshi.token (
    id            text primary key check (id ~ '^[a-z0-9]{12}$'),
    -- A login's name, or a system's. In small letters, so that nobody is two people by a capital or a space.
    owner         text not null check (owner ~ '^[^[:space:]]+$' and owner = lower(owner)),
    digest        bytea not null check (octet_length(digest) = 32),
    scopes        text[] not null check (cardinality(scopes) > 0 and scopes <@ array['enqueue', 'read', 'operate', 'approve', 'reveal']),
    -- Requests a second, in each process that serves them.
    per_second    integer not null check (per_second between 1 and 10000),
    created_by    text not null default session_user,
    created_at    timestamptz not null default clock_timestamp(),
    expires_at    timestamptz not null check (expires_at > created_at),
    revoked_by    text,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);

-- The token that this transaction acts by: the setting `noshi.token` holds its id, a dot, and the hex digest of its secret, which
-- nobody else can make up. No row where none is shown; an error where the one shown is not good.
create function noshi.shown_token() returns setof noshi.token language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
declare shown text := coalesce(current_setting('noshi.token', true), '');
begin
    if shown = '' then
        return;
    end if;
    return query select t.* from token t
        where t.id = split_part(shown, '.', 1) and shown ~ '^[a-z0-9]{12}[.][0-9a-f]{64}$'
          and t.digest = sha256(decode(split_part(shown, '.', 2), 'hex'))
          and t.revoked_at is null and t.expires_at > clock_timestamp();
    if not found then
        raise exception 'this token is unknown, expired or revoked' using errcode = 'NS401';
    end if;
end $$;

-- The identity behind this transaction: what caps, approvals and the audit know.
create function noshi.who() returns text language sql stable security definer
set search_path = noshi, pg_temp
as $$ select coalesce((select t.owner from noshi.shown_token() t), session_user) $$;

-- Refuses whoever may not do this. Logins are ruled by what their roles may execute; the HTTP interface acts by a token's scopes only.
create function noshi.must(p_scope text) returns void language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
declare t token;
begin
    select * into t from shown_token();
    if not found then
        if not exists (select from unnest(array['noshi_producer', 'noshi_operator', 'noshi_worker', 'noshi_owner']) r where pg_has_role(session_user, r, 'member')) then
            raise exception 'no token was shown' using errcode = 'NS401';
        end if;
    elsif p_scope <> all (t.scopes) then
        raise exception 'this token may not %', p_scope using errcode = 'NS403', hint = format('It may: %s.', array_to_string(t.scopes, ', '));
    end if;
end $$;

-- The audit: who did what to what and why, what it was and what it became, in the act's own transaction. Insert-only.
create table noshi.audit (
    id           bigint generated always as identity primary key,
    happened_at  timestamptz not null default clock_timestamp(),
    who          text not null,
    -- What the identity was known by.
    login        text not null default session_user,
    token        text,
    act          text not null,
    -- Such as job/7, batch/3, lane/gift/tango_card.
    target       text not null,
    reason       text,
    before       jsonb,
    after        jsonb
);
create index audit_target on noshi.audit (target, id);

-- The chain: each link holds the digest of its act and of the link before, so that no act can be changed, dropped or put in between
-- without every later digest changing. Keep the newest outside of the database: whoever owns it could forge the whole chain.
create table noshi.audit_link (
    seq    bigint primary key,
    audit  bigint not null unique references noshi.audit (id),
    hash   bytea not null
);
create table noshi.audit_head (
    one   boolean primary key default true check (one),
    seq   bigint not null,
    hash  bytea not null
);
insert into noshi.audit_head (seq, hash) values (0, sha256('noshi'));

create function noshi.audit_digest(p_before bytea, a noshi.audit) returns bytea language sql stable
set search_path = noshi, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, YMD' set extra_float_digits = 1
as $$ select sha256($1 || convert_to(to_jsonb($2)::text, 'UTF8')) $$;

-- At the commit, when every other lock is held already: two acts can wait for each other's link, but not in a circle.
create function noshi.link_audit() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    with h as (update audit_head set seq = seq + 1, hash = audit_digest(hash, new) returning seq, hash)
    insert into audit_link (seq, audit, hash) select seq, new.id, hash from h;
    return null;
end $$;
create constraint trigger link after insert on noshi.audit deferrable initially deferred for each row execute function noshi.link_audit();

create trigger append_only before update or delete on noshi.audit for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.audit for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.audit_link for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.audit_link for each statement execute function noshi.journal_is_append_only();

-- Writes down an act. `p_who` where it is carried out for somebody else, who asked for it earlier.
create function noshi.record(p_act text, p_target text, p_reason text, p_before jsonb default null, p_after jsonb default null, p_who text default null)
returns void language sql security definer
set search_path = noshi, pg_temp
as $$
    insert into audit (who, token, act, target, reason, before, after)
    select coalesce($6, noshi.who()), case when $6 is null then (select t.id from noshi.shown_token() t) end, $1, $2, $3, $4, $5
$$;

-- Every digest computed again, in order. No row: the chain is whole up to its head.
create function noshi.verify_audit() returns table (seq bigint, audit bigint, fault text) language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
declare
    r record;
    h audit_head;
    expected bytea := sha256('noshi');
    next bigint := 1;
begin
    for r in select l.seq, l.audit, l.hash, a as act from audit_link l left join audit a on a.id = l.audit order by l.seq loop
        if r.seq <> next then
            return query select next, null::bigint, 'a link is missing';
            next := r.seq;
        end if;
        if r.act is null then
            return query select r.seq, r.audit, 'its act is missing';
        elsif r.hash is distinct from audit_digest(expected, r.act) then
            return query select r.seq, r.audit, 'the act, or one before it, is not what was written';
        end if;
        expected := r.hash;
        next := next + 1;
    end loop;
    return query select null::bigint, a.id, 'it has no link' from audit a where not exists (select from audit_link l where l.audit = a.id) order by a.id;
    select * into h from audit_head;
    if (h.seq, h.hash) is distinct from (next - 1, expected) then
        return query select h.seq, null::bigint, 'the head is not the last link';
    end if;
end $$;

-- Tokens. An operator makes tokens in no name but their own, and none that enqueues or reveals; the schema's owner makes any.
create function noshi.create_token(p_id text, p_digest bytea, p_owner text, p_scopes text[], p_lasts interval, p_per_second integer) returns timestamptz
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare until timestamptz;
begin
    if not pg_has_role(session_user, 'noshi_owner', 'member') and (p_owner <> session_user or p_scopes && array['enqueue', 'reveal']) then
        raise exception 'a token for %, to %, is made by the login that owns the schema', p_owner, array_to_string(p_scopes, ', ') using errcode = 'NS403',
            hint = 'Tokens in your own name, to read, operate and approve, you make yourself.';
    end if;
    if coalesce(p_owner, '') !~ '^[^[:space:]]+$' or p_owner <> lower(p_owner) then
        raise exception 'an owner is named in small letters and without spaces, not %', coalesce(quote_literal(p_owner), 'null') using errcode = 'NS400',
            hint = 'So that nobody is two people by a capital or a space.';
    end if;
    if p_lasts is null or p_lasts not between interval '1 minute' and interval '400 days' then
        raise exception 'a token lasts from a minute to 400 days, not %', coalesce(p_lasts::text, 'for ever') using errcode = 'NS400';
    end if;
    insert into token (id, owner, digest, scopes, per_second, expires_at)
    values (p_id, p_owner, p_digest, p_scopes, p_per_second, clock_timestamp() + p_lasts) returning expires_at into until;
    perform record('token create', 'token/' || p_id, null, null, jsonb_build_object('owner', p_owner, 'scopes', p_scopes, 'expires_at', until));
    return until;
end $$;

create function noshi.revoke_token(p_id text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    update token set revoked_at = clock_timestamp(), revoked_by = who() where id = p_id and revoked_at is null;
    if not found then
        raise exception 'there is no token % to revoke', p_id using errcode = 'NS404';
    end if;
    perform record('token revoke', 'token/' || p_id, p_reason);
end $$;

-- What the HTTP interface knows of the token that it was shown, and that it was used.
create function noshi.use_token() returns table (id text, owner text, scopes text[], per_second integer) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    update token t set last_used_at = clock_timestamp() from shown_token() s
    where t.id = s.id and coalesce(t.last_used_at < clock_timestamp() - interval '1 minute', true);
    return query select s.id, s.owner, s.scopes, s.per_second from shown_token() s;
end $$;

-- The producer's functions ask for the scope too.
create or replace function noshi.enqueue_rows(p_kind text, keys text[], p_args jsonb[], p_priority smallint default 1)
returns setof bigint language sql security definer
set search_path = noshi, pg_temp
as $$
    select noshi.must('enqueue');
    select noshi.enqueue_rows_into($1, $2, $3, $4, null);
$$;
create or replace function noshi.enqueue(kind text, key text, args jsonb, priority smallint default 1)
returns bigint language sql security definer
set search_path = noshi, pg_temp
as $$ select noshi.enqueue_rows($1, array[$2], array[$3], $4) $$;

-- Batches knew their people by `session_user`; from now on by who(), and each function asks for its scope.
alter table noshi.batch alter column submitted_by set default noshi.who();
alter table noshi.batch_event alter column who set default noshi.who();
alter table noshi.batch_cap alter column set_by set default noshi.who();
do $$
declare
    f record;
    body text;
begin
    for f in select * from (values
        ('receive_batch', 'enqueue'), ('invalid_batch', 'enqueue'), ('validate_batch', 'enqueue'), ('batch_row_guard', 'enqueue'),
        ('approve_batch', 'approve'), ('release_batch', 'operate'), ('pause_batch', 'operate'), ('resume_batch', 'operate'),
        ('cancel_batch', 'operate'), ('rerun_batch', 'operate')) as f(name, scope) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = f.name;
        body := replace(body, 'session_user', 'noshi.who()');
        execute regexp_replace(body, E'\nbegin\n', format(E'\nbegin\n    perform noshi.must(%L);\n', f.scope));
    end loop;
end $$;
create or replace function noshi.batch_log(p_batch bigint, p_act text, p_code text default null, p_reason text default null) returns void language sql
set search_path = noshi, pg_temp
as $$
    insert into batch_event (batch, act, code, reason) values ($1, $2, $3, $4);
    select noshi.record('batch ' || $2, 'batch/' || $1, $4, null, case when $3 is not null then jsonb_build_object('code', $3) end);
$$;
-- Caps are set by the schema's owner, directly.
create function noshi.audit_cap() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform record('batch cap', 'cap/' || new.kind || '/' || new.currency, null, null, to_jsonb(new));
    return null;
end $$;
create trigger audited after insert on noshi.batch_cap for each row execute function noshi.audit_cap();

do $$
declare f text;
begin
    for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'noshi'::regnamespace
        and p.proname in ('shown_token', 'who', 'must', 'audit_digest', 'link_audit', 'record', 'verify_audit', 'create_token', 'revoke_token', 'use_token', 'audit_cap') loop
        execute format('revoke all on function %s from public', f);
    end loop;
    foreach f in array array['noshi.who()', 'noshi.verify_audit()', 'noshi.create_token(text, bytea, text, text[], interval, integer)', 'noshi.revoke_token(text, text)'] loop
        execute format('grant execute on function %s to noshi_operator', f);
    end loop;
    foreach f in array array[
        'noshi.who()', 'noshi.must(text)', 'noshi.use_token()', 'noshi.enqueue(text, text, jsonb, smallint)', 'noshi.enqueue_rows(text, text[], jsonb[], smallint)', 'noshi.issue_grant(text, text, text)',
        'noshi.receive_batch(text, text, bytea, text, text, text, boolean, boolean)', 'noshi.invalid_batch(text, text, bytea, text, text, jsonb)',
        'noshi.batch_objection(bigint)', 'noshi.validate_batch(bigint, integer)', 'noshi.approve_batch(bigint, bytea, text)', 'noshi.release_batch(bigint)',
        'noshi.pause_batch(bigint, text, text)', 'noshi.resume_batch(bigint, text)', 'noshi.cancel_batch(bigint, text)', 'noshi.rerun_batch(bigint, text)',
        'noshi.batch_rows(bigint, integer, integer)', 'noshi.batch_progress(bigint)', 'noshi.batch_file(bigint, integer)'] loop
        execute format('grant execute on function %s to noshi_api', f);
    end loop;
end $$;
-- Defaults are computed with the inserting role's rights.
grant execute on function noshi.who() to noshi_worker, noshi_producer;
grant select (id, owner, scopes, per_second, created_by, created_at, expires_at, revoked_by, revoked_at, last_used_at) on noshi.token to noshi_operator;
grant select on noshi.audit, noshi.audit_link, noshi.audit_head to noshi_operator;
grant select on noshi.job, noshi.job_event, noshi.lane, noshi.lane_budget, noshi.worker, noshi.gift_trade, noshi.gift_outcome,
    noshi.batch, noshi.batch_row, noshi.batch_event, noshi.batch_cap to noshi_api;
grant insert on noshi.batch_row to noshi_api;
grant insert on noshi_sealed.sealed to noshi_api;

reset role;
