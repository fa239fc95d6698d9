set role noshi_owner;
set local check_function_bodies = off;

-- A text in at most so many bytes, of whole characters.
create function noshi.cut(p_text text, p_bytes integer) returns text language plpgsql immutable
as $$
declare
    bytes constant bytea := convert_to(p_text, 'UTF8');
    upto integer := p_bytes;
begin
    if octet_length(p_text) <= p_bytes then
        return p_text;
    end if;
    -- A byte that goes on with a character begins with 10.
    while upto > 0 and get_byte(bytes, upto) & 192 = 128 loop
        upto := upto - 1;
    end loop;
    return convert_from(substring(bytes for upto), 'UTF8');
end $$;

-- A reason that noshi puts together from what others wrote: it always fits, in one line, so that no act fails on it. What was cut stands whole where
-- it was written.
create function noshi.composed(p_text text) returns text language sql immutable
set search_path = noshi, pg_temp
as $$ select noshi.cut(regexp_replace($1 collate "C", '[\u0001-\u001f\u007f-\u009f\u2028\u2029]+', ' ', 'g'), 4000) $$;

-- The person behind a login's name: one, however it is written. What caps, approvals and tokens compare is this, and never a login's name itself.
create function noshi.person(p_name text) returns text language plpgsql immutable parallel safe
as $$
begin
    -- Not in SQL, which would be planned anew for each request.
    return case when $1 collate "C" ~ '^[!-@\[-~]+$' then $1
        else regexp_replace(lower(normalize($1 collate "default", NFKC)), '[[:space:]]', '_', 'g') end;
end $$;

-- A span in seconds, with so many days a month.
create function noshi.span(p_span interval, p_month integer) returns numeric language sql immutable parallel safe
as $$
    select (extract(year from $1) * 12 + extract(month from $1)) * $2 * 86400 + extract(day from $1) * 86400
        + extract(hour from $1) * 3600 + extract(minute from $1) * 60 + extract(second from $1)
$$;

-- Whether a span that somebody gives lasts from the one to the other. PostgreSQL compares a month as thirty of its days and reckons it by the calendar, so
-- that one with parts that cancel each other out is of any length: no part may be negative, and a month counts as the shortest, and as the longest.
create function noshi.lasts(p_span interval, p_shortest interval, p_longest interval) returns boolean language sql immutable parallel safe
as $$
    select isfinite($1) and extract(year from $1) >= 0 and extract(month from $1) >= 0 and extract(day from $1) >= 0
        and extract(hour from $1) >= 0 and extract(minute from $1) >= 0 and extract(second from $1) >= 0
        and noshi.span($1, 28) >= noshi.span($2, 28) and noshi.span($1, 31) <= noshi.span($3, 31)
$$;

-- Bearer tokens. Of the secret only a digest of its digest is here, so that reading this table lets nobody in.
create table noshi.token (
    id            text primary key check (id ~ '^[a-z0-9]{12}$'),
    -- A login's name, or a system's. In small letters, so that nobody is two people by a capital or a space.
    owner         text not null check (owner ~ '^[^[:space:]]+$' and owner = noshi.person(owner) and octet_length(owner) <= 200),
    digest        bytea not null check (octet_length(digest) = 32),
    scopes        text[] not null check (cardinality(scopes) between 1 and 6 and scopes <@ array['enqueue', 'read', 'operate', 'approve', 'reveal', 'personal']),
    -- Requests a second, in each process that serves them.
    per_second    integer not null check (per_second between 1 and 10000),
    created_by    text not null default session_user,
    created_at    timestamptz not null default clock_timestamp(),
    expires_at    timestamptz not null check (expires_at > created_at),
    revoked_by    text,
    revoked_at    timestamptz,
    last_used_at  timestamptz,
    -- The login of that name when the token was made, by its number: a name may be given away or taken again. Null: a system without a login.
    login         oid,
    -- It acts for an operator, and ends when that login is none any more.
    as_operator   boolean not null default false,
    -- Of a session of the console: the token that was shown at the sign-in. It ends with that one, and when nobody has used it for 30 minutes.
    parent        text references noshi.token (id),
    constraint times_are_sane check (created_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and expires_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (revoked_at is null or revoked_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and (last_used_at is null or last_used_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);

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
    after        jsonb,
    -- No text that people write is so long that others wait for it.
    constraint reason_is_short check (octet_length(reason) <= 4000),
    constraint texts_are_short check (octet_length(act) <= 100 and octet_length(target) <= 400 and octet_length(token) <= 100
        and octet_length(before::text) <= 200000 and octet_length(after::text) <= 200000),
    constraint times_are_sane check (happened_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
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

-- Acts of one identity wait in turn for a row that only these functions can lock. A lock by number or text any login of the database could
-- take and keep.
create table noshi.turn (act text primary key);

-- Acts that have no link yet: whoever made them found the head of the chain held by somebody who took their time. The next act links them,
-- or the fleet, or whoever verifies.
create table noshi.audit_unlinked (
    audit  bigint primary key,
    xid    xid8 not null default pg_current_xact_id()
);

-- From here to the end of the transaction whatever is done is done by this token, which must have the scope.
create function noshi.act_by(p_token text, p_scope text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(p_token, '') = '' then
        raise exception 'no token was shown' using errcode = 'NS401';
    end if;
    perform set_config('noshi.token', p_token, true);
    perform must(p_scope);
end $$;

-- Caps are set by the schema's owner, directly.
create function noshi.audit_cap() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform record('batch cap', 'cap/' || new.kind || '/' || new.currency, null, null, to_jsonb(new));
    return null;
end $$;

create function noshi.audit_digest(p_before bytea, a noshi.audit) returns bytea language sql stable
set search_path = noshi, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, YMD' set extra_float_digits = 1
as $$ select sha256($1 || convert_to(to_jsonb($2)::text, 'UTF8')) $$;

-- Tokens. An operator makes tokens in no name but their own, and none that enqueues or reveals; the schema's owner makes any.
create function noshi.create_token(p_id text, p_digest bytea, p_owner text, p_scopes text[], p_lasts interval, p_per_second integer) returns timestamptz
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    until timestamptz;
    logins oid[];
    names text;
begin
    if not pg_has_role(session_user, 'noshi_owner', 'member') and (p_owner is distinct from person(session_user) or p_scopes && array['enqueue', 'reveal', 'personal']) then
        raise exception 'a token for %, to %, is made by the login that owns the schema', p_owner, array_to_string(p_scopes, ', ') using errcode = 'NS403',
            hint = 'Tokens in your own name, to read, operate and approve, you make yourself.';
    end if;
    if coalesce(p_owner, '') !~ '^[^[:space:]]+$' or p_owner <> person(p_owner) or octet_length(p_owner) > 200 then
        raise exception 'an owner is named in small letters and without spaces, not %', coalesce(quote_literal(p_owner), 'null') using errcode = 'NS400',
            hint = 'So that nobody is two people by a capital or a space.';
    end if;
    select array_agg(r.oid), string_agg(quote_ident(r.rolname), ', ' order by r.rolname) into logins, names from pg_roles r where person(r.rolname) = p_owner;
    if cardinality(logins) > 1 then
        raise exception 'the logins % are one person to noshi, so no token is made in that name', names using errcode = 'NS409',
            hint = 'Nothing was changed. Rename or drop the others: names that differ by a capital or a space alone are one.';
    end if;
    -- In letters that this database does not fold a login would be another person than its token.
    if logins is null and p_owner collate "C" !~ '^[!-~]+$' then
        raise exception 'there is no login %, and a system is named in ASCII', quote_literal(p_owner) using errcode = 'NS400',
            hint = 'Nothing was changed. For a person, name their login; for a system, use letters from a to z.';
    end if;
    if cardinality(p_scopes) > 6 then
        raise exception 'a token has each scope once' using errcode = 'NS400';
    end if;
    if p_lasts is null or not lasts(p_lasts, '1 minute', '400 days') then
        raise exception 'a token lasts from a minute to 400 days, not %', coalesce(p_lasts::text, 'for ever') using errcode = 'NS400';
    end if;
    insert into token (id, owner, digest, scopes, per_second, expires_at, login, as_operator)
    values (p_id, p_owner, p_digest, p_scopes, p_per_second, clock_timestamp() + p_lasts, logins[1], coalesce(operates(logins[1]), false)) returning expires_at into until;
    perform record('token create', 'token/' || p_id, null, null, jsonb_build_object('owner', p_owner, 'scopes', p_scopes, 'expires_at', until));
    return until;
end $$;

-- A session of the console, in exchange for the token that is shown: the same owner, no scope that the console has no use for, 8 hours at most.
create function noshi.begin_session(p_id text, p_digest bytea) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    t token;
    cut text[];
    until timestamptz;
begin
    select * into t from shown_token();
    if not found then
        raise exception 'no token was shown' using errcode = 'NS401';
    end if;
    cut := array(select s from unnest(t.scopes) s where s in ('read', 'operate', 'approve'));
    if t.parent is not null or 'read' <> all (cut) then
        raise exception 'this token begins no session' using errcode = 'NS403', hint = 'A session takes a token that may read, and no session.';
    end if;
    until := least(t.expires_at, clock_timestamp() + interval '8 hours');
    insert into token (id, owner, digest, scopes, per_second, expires_at, last_used_at, login, as_operator, parent)
    values (p_id, t.owner, p_digest, cut, t.per_second, until, clock_timestamp(), t.login, t.as_operator, t.id);
    perform record('session begin', 'token/' || p_id, null, null, jsonb_build_object('parent', t.id, 'scopes', cut, 'expires_at', until));
end $$;

-- By its own holder, who needs no reason to leave. Written down first: a token that is revoked acts no more.
create function noshi.end_session() returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare t token;
begin
    select * into t from shown_token();
    if t.parent is not null then
        perform record('session end', 'token/' || t.id, null);
        update token set revoked_at = clock_timestamp(), revoked_by = t.owner where id = t.id;
    end if;
end $$;

-- What the console knows of the session that it was shown. A page that asks again by itself uses nothing: who went away is signed out.
create function noshi.session(p_used boolean) returns table (id text, owner text, scopes text[], begun_at timestamptz, ends_at timestamptz) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if p_used then
        perform use_token();
    end if;
    return query select s.id, s.owner, s.scopes, s.created_at, s.expires_at from shown_token() s where s.parent is not null;
end $$;

-- Whether a session still may: its token is good, and somebody has used it of late. True of what is no session.
create function noshi.session_holds(p_parent text, p_last_used_at timestamptz) returns boolean language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select $1 is null or $2 > clock_timestamp() - interval '30 minutes' and exists (select from token p where p.id = $1
        and p.revoked_at is null and p.expires_at > clock_timestamp() and is_theirs(p.login, p.owner, p.as_operator))
$$;

-- Whether the token's login is still who it was: there, of that name, not locked, and an operator where it was one, whoever made the token.
create function noshi.is_theirs(p_login oid, p_owner text, p_as_operator boolean) returns boolean language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select $1 is null or exists (select from pg_roles r where r.oid = $1 and person(r.rolname) = $2 and may_log_in(r)
        and (not $3 or operates(r.oid)))
$$;

-- Not locked in any of the ways in which a login is.
create function noshi.may_log_in(r pg_roles) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$ select r.rolcanlogin and r.rolconnlimit <> 0 and coalesce(r.rolvaliduntil > clock_timestamp(), true) $$;

-- Whether a login has an operator's role, or the owner's, which has it too.
create function noshi.operates(p_login oid) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$ select pg_has_role($1, 'noshi_operator', 'member') or pg_has_role($1, 'noshi_owner', 'member') $$;

-- Whether a person still operates, by their login; or, where there is none of that name, by a token that is good.
create function noshi.still_operates(p_who text) returns boolean language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select exists (select from pg_roles r where person(r.rolname) = person($1) and may_log_in(r) and operates(r.oid))
        or exists (select from token t where t.owner = person($1) and 'operate' = any (t.scopes) and t.login is null
            and t.parent is null and t.revoked_at is null and t.expires_at > clock_timestamp())
$$;

create function noshi.journal_is_append_only() returns trigger language plpgsql
as $$
begin
    raise exception 'the journal is append-only: % of % refused', lower(tg_op), tg_table_name using errcode = 'NS001';
end $$;

create function noshi.link_act(a noshi.audit) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    with h as (update audit_head set seq = seq + 1, hash = audit_digest(hash, a) returning seq, hash)
    insert into audit_link (seq, audit, hash) select seq, a.id, hash from h;
end $$;

-- At the commit, when every other lock is held already. Nobody's act waits for somebody who went away: it is made, and linked later.
create function noshi.link_audit() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform from audit_head for update skip locked;
    if not found and (exists (select from audit_unlinked u where u.xid = pg_current_xact_id()) or not wait_for_audit_head()) then
        insert into audit_unlinked (audit) values (new.id);
        return null;
    end if;
    if exists (select from audit_unlinked) then
        perform link_unlinked();
    end if;
    with h as (update audit_head set seq = seq + 1, hash = audit_digest(hash, new) returning seq, hash)
    insert into audit_link (seq, audit, hash) select seq, new.id, hash from h;
    return null;
end $$;

-- By whoever holds the head.
create function noshi.link_unlinked() returns bigint language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    a audit;
    linked bigint := 0;
begin
    for a in with d as (delete from audit_unlinked returning audit) select o.* from d join audit o on o.id = d.audit order by o.id loop
        perform link_act(a);
        linked := linked + 1;
    end loop;
    return linked;
end $$;

-- Links what waits for it, unless somebody holds the head now.
create function noshi.link_waiting_acts() returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if not exists (select from audit_unlinked) then
        return 0;
    end if;
    perform from audit_head for update skip locked;
    return case when found then link_unlinked() else 0 end;
end $$;

-- Refuses whoever may not do this. Logins are ruled by what their roles may execute; the HTTP interface acts by a token's scopes only.
create function noshi.must(p_scope text) returns void language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
declare t token;
begin
    if coalesce(current_setting('noshi.token', true), '') = '' then
        if not (pg_has_role(session_user, 'noshi_producer', 'member') or pg_has_role(session_user, 'noshi_operator', 'member')
                or pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_owner', 'member')) then
            raise exception 'no token was shown' using errcode = 'NS401';
        end if;
        return;
    end if;
    select * into t from shown_token();
    if p_scope <> all (t.scopes) then
        raise exception 'this token may not %', p_scope using errcode = 'NS403', hint = format('It may: %s.', array_to_string(t.scopes, ', '));
    end if;
end $$;

create function noshi.reason_given(p_reason text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'reason: an act on a schedule needs one' using errcode = 'NS400';
    end if;
end $$;

-- A session that acts and goes away leaves the head of the audit locked, and with it every other act: not for longer than this. An act that was
-- prepared (two-phase) would hold what it acts on with no session to end, also over restarts: PostgreSQL prepares no transaction that notified. Where
-- nothing can be prepared, nothing is notified, so that an act does not wait for the queue of notifications.
create function noshi.record(p_act text, p_target text, p_reason text, p_before jsonb default null, p_after jsonb default null, p_who text default null) returns void language sql security definer
set search_path = noshi, pg_temp
as $$
    select noshi.must_be_seen($3);
    insert into audit (who, token, act, target, reason, before, after)
    select coalesce($6, noshi.who()), case when $6 is null then (select t.id from noshi.shown_token() t) end, $1, $2, $3, $4, $5;
    select pg_notify('noshi_act', '') where current_setting('max_prepared_transactions') <> '0';
    select set_config('idle_in_transaction_session_timeout', '10s', true);
$$;

create function noshi.revoke_token(p_id text, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare t token;
begin
    perform say_why(p_reason);
    select * into t from token where id = p_id;
    if found and t.owner <> who() and person(t.created_by) <> person(session_user) and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'token % is %''s', p_id, t.owner using errcode = 'NS403',
            hint = 'Nothing was changed. Its owner revokes it, or the login that made it, or the one that owns the schema.';
    end if;
    update token set revoked_at = clock_timestamp(), revoked_by = who() where id = p_id and revoked_at is null;
    if not found then
        raise exception 'there is no token % to revoke', p_id using errcode = 'NS404';
    end if;
    perform record('token revoke', 'token/' || p_id, p_reason);
end $$;

-- Every act of a person says why: the audit is read by whoever comes after them.
create function noshi.say_why(p_reason text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400', hint = 'Nothing was changed. Say why: it is kept with the act.';
    end if;
end $$;

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
    if not coalesce((select r.rolsuper from pg_roles r where r.rolname = session_user), false)
        and (not pg_has_role(session_user, 'noshi_api', 'member') or pg_has_role(session_user, 'noshi_operator', 'member') or pg_has_role(session_user, 'noshi_producer', 'member')) then
        raise exception 'tokens are shown to the HTTP interface, and by its login alone' using errcode = 'NS401';
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'tokens are shown in read committed' using errcode = 'NS401', hint = 'An older snapshot does not see that one was revoked.';
    end if;
    return query select t.* from token t
        where t.id = split_part(shown, '.', 1) and shown ~ '^[a-z0-9]{12}[.][0-9a-f]{64}$'
          and t.digest = sha256(decode(split_part(shown, '.', 2), 'hex'))
          and t.revoked_at is null and t.expires_at > clock_timestamp() and is_theirs(t.login, t.owner, t.as_operator)
          and session_holds(t.parent, t.last_used_at);
    if not found then
        raise exception 'this token is unknown, expired or revoked' using errcode = 'NS401';
    end if;
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
    return query select null::bigint, a.id, 'it has no link' from audit a where not exists (select from audit_link l where l.audit = a.id) and not exists (select from audit_unlinked u where u.audit = a.id) order by a.id;
    select * into h from audit_head;
    if (h.seq, h.hash) is distinct from (next - 1, expected) then
        return query select h.seq, null::bigint, 'the head is not the last link';
    end if;
end $$;

-- True once the head is held here. A second is more than an honest act takes for its commit.
create function noshi.wait_for_audit_head() returns boolean language plpgsql
set search_path = noshi, pg_temp
set lock_timeout = '1s'
as $$
begin
    perform from audit_head for update;
    return true;
exception when lock_not_available then
    return false;
end $$;

-- The identity behind this transaction: what caps, approvals and the audit know; the same by a login and by its token.
create function noshi.who() returns text language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(current_setting('noshi.token', true), '') = '' then
        return person(session_user);
    end if;
    return (select t.owner from shown_token() t);
end $$;

create constraint trigger link after insert on noshi.audit deferrable initially deferred for each row execute function noshi.link_audit();
create trigger append_only before update or delete on noshi.audit for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.audit for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.audit_link for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.audit_link for each statement execute function noshi.journal_is_append_only();

insert into noshi.audit_head (seq, hash) values (0, sha256('noshi'));

insert into noshi.turn (act) values ('register_batch'), ('prune');

insert into noshi.turn (act) select 'store/' || n from generate_series(0, 63) n;

revoke all on function noshi.act_by(text, text), noshi.begin_session(text, bytea), noshi.end_session(), noshi.session(boolean),
    noshi.session_holds(text, timestamptz), noshi.cut(text, integer), noshi.composed(text), noshi.person(text), noshi.span(interval, integer),
    noshi.lasts(interval, interval, interval), noshi.audit_cap(), noshi.audit_digest(bytea, noshi.audit),
    noshi.create_token(text, bytea, text, text[], interval, integer), noshi.is_theirs(oid, text, boolean), noshi.link_act(noshi.audit),
    noshi.link_audit(), noshi.link_unlinked(), noshi.link_waiting_acts(), noshi.may_log_in(pg_roles), noshi.must(text), noshi.operates(oid), noshi.reason_given(text),
    noshi.record(text, text, text, jsonb, jsonb, text), noshi.revoke_token(text, text), noshi.say_why(text), noshi.shown_token(),
    noshi.still_operates(text), noshi.use_token(), noshi.verify_audit(), noshi.wait_for_audit_head(), noshi.who() from public;
grant execute on function noshi.act_by(text, text), noshi.begin_session(text, bytea), noshi.end_session(), noshi.must(text), noshi.session(boolean),
    noshi.use_token() to noshi_api;
grant execute on function noshi.create_token(text, bytea, text, text[], interval, integer), noshi.is_theirs(oid, text, boolean),
    noshi.session_holds(text, timestamptz), noshi.person(text), noshi.revoke_token(text, text), noshi.verify_audit() to noshi_operator;
grant execute on function noshi.link_waiting_acts() to noshi_worker, noshi_operator;
grant execute on function noshi.who() to noshi_operator, noshi_api, noshi_worker, noshi_producer;
grant select on noshi.audit to noshi_api;
grant select on noshi.audit, noshi.audit_head, noshi.audit_link, noshi.audit_unlinked to noshi_operator;
grant select (seq) on noshi.audit_head to noshi_worker;
grant select (id, owner, scopes, per_second, created_by, created_at, expires_at, revoked_by, revoked_at, last_used_at, login, as_operator, parent
   ) on noshi.token to noshi_operator;

reset role;
