set role noshi_owner;
set local check_function_bodies = off;

-- A type, not a reference: every operation of the fleet would share-lock the same five rows.
create type noshi.point_account_code as enum ('user_points', 'points_granted', 'points_used', 'points_expired', 'points_withdrawn');

-- Why points were granted (特典行使). A new campaign is another benefit: the ledger does not know what it means (R32).
create table noshi.benefit_exercise (
    id       bigint generated always as identity primary key,
    benefit  text not null check (benefit <> ''),
    -- What entitled the user, in the benefit's own words: each source once (R34).
    source   text not null check (source <> ''),
    user_id  text not null,
    at       timestamptz not null,
    constraint benefit_exercised_once unique (benefit, source),
    constraint times_are_sane check (at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- The chart of accounts (勘定科目).
create table noshi.point_account (
    code    noshi.point_account_code primary key,
    name    text not null,
    -- On which side it grows.
    normal  text not null check (normal in ('D', 'C'))
);

-- Whoever ever held points. Every operation locks its row first.
create table noshi.point_owner (
    user_id  text primary key check (user_id <> '')
);

create table noshi.point_entry (
    id           bigint generated always as identity primary key,
    key          text not null constraint point_entry_key unique,
    -- Of what was asked for: the same key with other content is a conflict, not a replay.
    digest       bytea not null check (octet_length(digest) = 32),
    kind         text not null check (kind in ('grant', 'use', 'reverse', 'expire', 'withdraw')),
    user_id      text not null references noshi.point_owner (user_id),
    -- Of its user's entries the first, the second, and so on, without gaps; `at` never goes back along it.
    seq          bigint not null check (seq > 0),
    -- When it took effect. An expiry takes effect when it was due, however late it is booked.
    at           timestamptz not null,
    recorded_at  timestamptz not null default clock_timestamp(),
    -- What it changed, and the balance after it.
    amount       bigint not null,
    balance      bigint not null check (balance >= 0),
    -- Where points were used, if that is a limited area.
    area         text check (area <> '' and (area is null or kind = 'use')),
    exercise     bigint unique references noshi.benefit_exercise (id) check ((exercise is not null) = (kind = 'grant')),
    -- The use that was taken back: at most once, and wholly.
    reverses     bigint unique references noshi.point_entry (id) check ((reverses is not null) = (kind = 'reverse')),
    -- Number of the job that did it.
    job          bigint,
    constraint point_entry_seq unique (user_id, seq),
    check (case kind when 'grant' then amount > 0 when 'reverse' then amount > 0 when 'withdraw' then amount <= 0 else amount < 0 end),
    check ((kind = 'expire') = starts_with(key, 'expire:')),
    constraint times_are_sane check (at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and recorded_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);
create index point_entry_user_at on noshi.point_entry (user_id, at, seq);
create index point_entry_at on noshi.point_entry (at, id);

create table noshi.point_line (
    entry    bigint not null references noshi.point_entry (id),
    account  noshi.point_account_code not null,
    -- Debit (借方) or credit (貸方).
    side     text not null check (side in ('D', 'C')),
    amount   bigint not null check (amount > 0),
    primary key (entry, account)
);

create table noshi.point_lot (
    id          bigint generated always as identity primary key,
    entry       bigint not null references noshi.point_entry (id),
    user_id     text not null,
    amount      bigint not null check (amount > 0),
    -- The amount without what was allocated. Only an allocation changes it.
    remaining   bigint not null check (remaining between 0 and amount),
    granted_at  timestamptz not null,
    expires_at  timestamptz not null,
    -- Null: points may be used anywhere (R40).
    area        text check (area <> ''),
    -- What indexes know of `remaining`: a use that leaves something changes none of them.
    open        boolean not null generated always as (remaining > 0) stored,
    constraint times_are_sane check (granted_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and expires_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
create index point_lot_entry on noshi.point_lot (entry);
-- In the order in which they are used.
create index point_lot_open on noshi.point_lot (user_id, expires_at, granted_at, id) where open;
create index point_lot_due on noshi.point_lot (expires_at, id) where open;
create index point_lot_area on noshi.point_lot (user_id, expires_at) where area is not null;

create table noshi.point_allocation (
    lot     bigint not null references noshi.point_lot (id),
    entry   bigint not null references noshi.point_entry (id),
    amount  bigint not null check (amount > 0),
    primary key (lot, entry)
);
create index point_allocation_entry on noshi.point_allocation (entry);

-- A benefit was exercised for a source already, with another key: a conflict.
create function noshi.benefit_exercised(p_key text, p_benefit text, p_source text) returns table (outcome text, entry bigint, detail text)
language sql stable
set search_path = noshi, pg_temp
as $$
    select 'conflict', e.id, format('source %s of benefit %s was exercised before, with the key %s', $3, $2, e.key)
    from benefit_exercise x join point_entry e on e.exercise = x.id where x.benefit = $2 and x.source = $3 and e.key <> $1
$$;

-- Expiries that are due, of owners that the caller has locked: the first lots of each, an entry for each lot at the instant it was due.
create function noshi.book_due(p_users text[], p_due timestamptz, p_lots integer, p_job bigint) returns table (lots integer, points bigint)
language plpgsql
set search_path = noshi, pg_temp
as $$
#variable_conflict use_column
declare
    entries point_entry[];
    allocations point_allocation[];
    taken bigint;
begin
    select array_agg(row(n.entry, 'expire:' || n.id, point_digest(array['expire', n.id::text]), 'expire', n.user_id,
                         n.seq + n.nth, n.expires_at, null, -n.remaining, n.balance - n.so_far, null, null, null, p_job)::point_entry),
           array_agg(row(n.id, n.entry, n.remaining)::point_allocation),
           sum(n.remaining)
    into entries, allocations, taken
    from (select d.*, nextval('noshi.point_entry_id_seq') as entry, row_number() over w as nth, (sum(d.remaining) over w)::bigint as so_far
          from (select u.user_id, e.seq, e.balance, l.id, l.remaining, l.granted_at, l.expires_at
                from unnest(p_users) as u(user_id)
                cross join lateral (
                    select o.seq, o.balance from point_entry o where o.user_id = u.user_id order by o.seq desc limit 1) e
                cross join lateral (
                    select o.id, o.remaining, o.granted_at, o.expires_at from point_lot o
                    where o.user_id = u.user_id and o.open and o.expires_at <= p_due
                    order by o.expires_at, o.granted_at, o.id limit p_lots) l
                order by l.expires_at, l.granted_at, l.id limit p_lots) d
          window w as (partition by d.user_id order by d.expires_at, d.granted_at, d.id)) n;
    if entries is not null then
        perform post_points(entries, null, allocations);
    end if;
    return query select coalesce(cardinality(entries), 0), coalesce(taken, 0);
end $$;

-- A page of expiries (失効) over all users, of at most so many lots; never of what is due later than now. Whoever is at work on a user's
-- points keeps them: that user's turn comes with a later page. `more`: due lots are left.
create function noshi.book_expiries(p_due timestamptz, p_lots integer, p_job bigint default null) returns table (lots integer, points bigint, more boolean) language plpgsql
set search_path = noshi, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    due constant timestamptz := least(p_due, clock_timestamp());
    users text[];
    booked record;
begin
    if p_due is null or p_lots is null or p_lots < 1 then
        raise exception 'expiries are booked up to an instant, at least one lot at a time' using errcode = 'NS400';
    end if;
    if not clock_holds() then
        raise exception 'the server''s clock has jumped: points neither move nor expire until the fleet trusts it again' using errcode = '55000';
    end if;
    select array_agg(distinct o.user_id) into users from (
        select o.user_id from point_lot l join point_owner o on o.user_id = l.user_id
        where l.open and l.expires_at <= due order by l.expires_at, l.id limit p_lots for update of o skip locked) o;
    select b.lots, b.points into booked from book_due(coalesce(users, '{}'), due, p_lots, p_job) b;
    -- A statement of its own: it sees what was just booked.
    return query select booked.lots, booked.points, exists (select from point_lot l where l.open and l.expires_at <= due);
end $$;

-- Grants points (付与) for a benefit that is exercised. posted, replayed, conflict, withdrawn; or expired: they would have expired already.
create function noshi.book_grant(p_at timestamptz, p_key text, p_user text, p_amount bigint, p_benefit text, p_source text,
    p_expires_at timestamptz, p_area text, p_job bigint) returns table (outcome text, entry bigint, detail text)
language plpgsql
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['grant', p_user, p_amount::text, p_benefit, p_source, extract(epoch from p_expires_at)::text, p_area]);
    content constant jsonb := jsonb_build_object('kind', 'grant', 'user', p_user, 'amount', p_amount, 'benefit', p_benefit,
        'source', p_source, 'expires_at', p_expires_at, 'area', p_area);
    turn record;
    exercised text;
    e point_entry;
    l point_lot;
begin
    perform check_point_key(p_key, p_user), check_points(p_amount);
    if coalesce(p_benefit, '') = '' or coalesce(p_source, '') = '' or p_expires_at is null or p_area = '' then
        raise exception 'a grant of points names its benefit, its source and its expiry, and an area is not empty' using errcode = 'NS400';
    end if;
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    return query select * from benefit_exercised(p_key, p_benefit, p_source);
    if found then
        return;
    end if;
    turn := take_point_turn(p_user, p_at, p_job);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    if turn.withdrawn then
        return query select 'withdrawn', null::bigint, 'the user has withdrawn'::text;
        return;
    end if;
    if p_expires_at <= turn.at then
        return query select 'expired', null::bigint, format('they would have expired at %s already', p_expires_at);
        return;
    end if;
    insert into benefit_exercise (benefit, source, user_id, at) values (p_benefit, p_source, p_user, turn.at)
    on conflict do nothing returning id into e.exercise;
    if not found then
        return query select * from benefit_exercised(p_key, p_benefit, p_source);
        return;
    end if;
    e.id := nextval('noshi.point_entry_id_seq');
    e.key := p_key;
    e.digest := digest;
    e.kind := 'grant';
    e.user_id := p_user;
    e.seq := turn.seq + 1;
    e.at := turn.at;
    e.amount := p_amount;
    e.balance := turn.balance + p_amount;
    e.job := p_job;
    l.entry := e.id;
    l.user_id := p_user;
    l.amount := p_amount;
    l.granted_at := turn.at;
    l.expires_at := p_expires_at;
    l.area := p_area;
    perform post_points(array[e], array[l], null);
    return query select 'posted', e.id, null::text;
end $$;

-- All that is left is lost, in a turn that was taken.
create function noshi.book_rest(p_at timestamptz, p_seq bigint, p_balance bigint, p_key text, p_user text, p_job bigint)
returns bigint language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    e point_entry;
    allocations point_allocation[];
begin
    e.id := nextval('noshi.point_entry_id_seq');
    select array_agg(row(l.id, e.id, l.remaining)::point_allocation order by l.id) into allocations
    from point_lot l where l.user_id = p_user and l.open;
    e.key := p_key;
    e.digest := point_digest(array['withdraw', p_user]);
    e.kind := 'withdraw';
    e.user_id := p_user;
    e.seq := p_seq + 1;
    e.at := p_at;
    e.amount := -p_balance;
    e.balance := 0;
    e.job := p_job;
    perform post_points(array[e], null, allocations);
    return e.id;
end $$;

-- Takes a use back (取消), wholly: a new lot for each allocation, with the original expiry, or the end of the grace where that is later.
-- Who has withdrawn loses what comes back at once. posted, replayed, conflict, not_found.
create function noshi.book_reversal(p_at timestamptz, p_key text, p_use_key text, p_grace interval, p_job bigint)
returns table (outcome text, entry bigint, detail text)
language plpgsql
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['reverse', p_use_key, encode(interval_send(p_grace), 'hex')]);
    content constant jsonb := jsonb_build_object('kind', 'reverse', 'use', p_use_key);
    used point_entry;
    turn record;
    e point_entry;
    lots point_lot[];
begin
    if p_use_key is null or p_grace is null or p_grace < interval '0' then
        raise exception 'a reversal names the use that it takes back, and a grace of 0 or more' using errcode = 'NS400';
    end if;
    perform check_point_key(p_key, '-');
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    select * into used from point_entry o where o.key = p_use_key and o.kind = 'use';
    if not found then
        return query select 'not_found', null::bigint, format('no use of points has the key %s', p_use_key);
        return;
    end if;
    turn := take_point_turn(used.user_id, p_at, p_job);
    return query select * from point_known(p_key, digest, content)
        union all select 'conflict', o.id, format('that use was taken back before, with the key %s', o.key)
        from point_entry o where o.reverses = used.id and o.key <> p_key;
    if found then
        return;
    end if;
    e.id := nextval('noshi.point_entry_id_seq');
    select array_agg(row(null, e.id, used.user_id, a.amount, a.amount, l.granted_at,
                         greatest(l.expires_at, turn.at + p_grace), l.area, null)::point_lot order by l.id)
    into lots from point_allocation a join point_lot l on l.id = a.lot where a.entry = used.id;
    e.key := p_key;
    e.digest := digest;
    e.kind := 'reverse';
    e.user_id := used.user_id;
    e.seq := turn.seq + 1;
    e.at := turn.at;
    e.amount := -used.amount;
    e.balance := turn.balance - used.amount;
    e.reverses := used.id;
    e.job := p_job;
    perform post_points(array[e], lots, null);
    if turn.withdrawn then
        -- What is due at this very moment expires; the rest is withdrawn.
        turn := take_point_turn(used.user_id, p_at, p_job);
        perform book_rest(turn.at, turn.seq, turn.balance, 'withdraw_again:' || e.id, used.user_id, p_job);
    end if;
    return query select 'posted', e.id, null::text;
end $$;

-- Uses points (利用): earliest expiry first, then earliest grant; without an area only such points as are good anywhere.
-- posted, replayed, conflict, insufficient, withdrawn.
create function noshi.book_use(p_at timestamptz, p_key text, p_user text, p_amount bigint, p_area text, p_job bigint)
returns table (outcome text, entry bigint, detail text)
language plpgsql
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['use', p_user, p_amount::text, p_area]);
    content constant jsonb := jsonb_build_object('kind', 'use', 'user', p_user, 'amount', p_amount, 'area', p_area);
    turn record;
    lot record;
    wanted bigint := p_amount;
    e point_entry;
    allocations point_allocation[];
begin
    perform check_point_key(p_key, p_user), check_points(p_amount);
    if p_area = '' then
        raise exception 'an area is not empty' using errcode = 'NS400';
    end if;
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    turn := take_point_turn(p_user, p_at, p_job);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    if turn.withdrawn then
        return query select 'withdrawn', null::bigint, 'the user has withdrawn'::text;
        return;
    end if;
    if turn.balance < p_amount then
        return query select 'insufficient', null::bigint, format('the balance is %s, asked for are %s', turn.balance, p_amount);
        return;
    end if;
    e.id := nextval('noshi.point_entry_id_seq');
    for lot in select l.id, l.remaining from point_lot l
               where l.user_id = p_user and l.open and (l.area is null or l.area = p_area)
               order by l.expires_at, l.granted_at, l.id loop
        allocations := allocations || row(lot.id, e.id, least(lot.remaining, wanted))::point_allocation;
        wanted := wanted - least(lot.remaining, wanted);
        exit when wanted = 0;
    end loop;
    if wanted > 0 then
        return query select 'insufficient', null::bigint,
            format('%s of the balance of %s may be used %s, asked for are %s', p_amount - wanted, turn.balance,
                   coalesce('in ' || p_area, 'without an area'), p_amount);
        return;
    end if;
    e.key := p_key;
    e.digest := digest;
    e.kind := 'use';
    e.user_id := p_user;
    e.seq := turn.seq + 1;
    e.at := turn.at;
    e.amount := -p_amount;
    e.balance := turn.balance - p_amount;
    e.area := p_area;
    e.job := p_job;
    perform post_points(array[e], null, allocations);
    return query select 'posted', e.id, null::text;
end $$;

-- A user leaves (退会): what is left is lost, and the history stays (R47, R48). posted, replayed, conflict.
create function noshi.book_withdrawal(p_at timestamptz, p_key text, p_user text, p_job bigint)
returns table (outcome text, entry bigint, detail text)
language plpgsql
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['withdraw', p_user]);
    content constant jsonb := jsonb_build_object('kind', 'withdraw', 'user', p_user);
    turn record;
begin
    perform check_point_key(p_key, p_user);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    turn := take_point_turn(p_user, p_at, p_job);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    return query select 'posted', book_rest(turn.at, turn.seq, turn.balance, p_key, p_user, p_job), null::text;
end $$;

-- A caller's key never takes the place of one that the ledger gives itself.
create function noshi.check_point_key(p_key text, p_user text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if coalesce(p_key, '') !~ '[^[:space:]]' or octet_length(p_key) > 300 or p_key ~ '^(expire|withdraw_again):' then
        raise exception 'a key of a points operation has 1 to 300 bytes and does not begin with expire: or withdraw_again:, not %',
            coalesce(quote_literal(left(p_key, 60)), 'null') using errcode = 'NS400';
    end if;
    if coalesce(p_user, '') !~ '[^[:space:]]' or octet_length(p_user) > 200 then
        raise exception 'a user id has 1 to 200 bytes, not %', coalesce(quote_literal(left(p_user, 60)), 'null') using errcode = 'NS400';
    end if;
end $$;

create function noshi.check_points(p_amount bigint) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if p_amount is null or p_amount not between 1 and 1000000000000 then
        raise exception 'points are counted from 1 to 1,000,000,000,000, not %', coalesce(p_amount::text, 'null') using errcode = 'NS400';
    end if;
end $$;

-- The one place where `remaining` changes. A lot never gives more than it has; nor to another user, after its expiry, or elsewhere.
create function noshi.point_allocations_add_up() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
declare bad bigint;
begin
    update point_lot l set remaining = l.remaining - n.amount
    from (select lot, sum(amount)::bigint as amount from new_rows group by lot) n where l.id = n.lot;
    select e.id into bad
    from (select distinct entry from new_rows) n join point_entry e on e.id = n.entry
    cross join lateral (
        select sum(a.amount) as amount, bool_or(l.user_id <> e.user_id or case e.kind
            when 'expire' then l.expires_at <> e.at
            when 'use' then l.expires_at <= e.at or l.area <> coalesce(e.area, '')
            else l.expires_at <= e.at end) as strange
        from point_allocation a join point_lot l on l.id = a.lot where a.entry = e.id) s
    where s.amount <> -e.amount or s.strange
    limit 1;
    if found then
        raise exception 'the ledger would not add up: the allocations of entry % are not what it takes', bad using errcode = 'NS001';
    end if;
    return null;
end $$;

-- What a user may spend at an instant, past or future, in an area or (null) without one; now, where none is given. What is due by then
-- does not count, booked or not. Nothing is added up but what no entry after it tells: dues that are not booked, and lots of other areas.
create function noshi.point_balance(p_user text, p_at timestamptz default null, p_area text default null) returns bigint language plpgsql stable security definer
set search_path = noshi, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    -- An operation of now takes effect no earlier than the one before it.
    newest constant timestamptz := (select e.at from point_entry e where e.user_id = p_user order by e.seq desc limit 1);
    instant constant timestamptz := coalesce(p_at, greatest(clock_timestamp(), newest));
    balance constant bigint := (
        select e.balance from point_entry e where e.user_id = p_user and e.at <= instant order by e.at desc, e.seq desc limit 1);
    due constant numeric := (select sum(l.remaining) from point_lot l where l.user_id = p_user and l.open and l.expires_at <= instant);
    elsewhere numeric;
begin
    if instant >= newest then
        select sum(l.remaining) into elsewhere from point_lot l
        where l.user_id = p_user and l.area is not null and l.expires_at > instant and l.area is distinct from p_area;
    else
        select sum(l.amount - coalesce(taken.amount, 0)) into elsewhere
        from point_lot l join point_entry e on e.id = l.entry and e.at <= instant
        cross join lateral (
            select sum(a.amount) as amount from point_allocation a join point_entry t on t.id = a.entry where a.lot = l.id and t.at <= instant) taken
        where l.user_id = p_user and l.area is not null and l.expires_at > instant and l.area is distinct from p_area;
    end if;
    return coalesce(balance, 0) - coalesce(due, 0) - coalesce(elsewhere, 0);
end $$;

-- The account against which a kind of entry moves the users' points.
create function noshi.point_contra(p_kind text) returns noshi.point_account_code language sql immutable
as $$
    select case $1 when 'grant' then 'points_granted'::noshi.point_account_code when 'use' then 'points_used' when 'reverse' then 'points_used'
           when 'expire' then 'points_expired' when 'withdraw' then 'points_withdrawn' end
$$;

create function noshi.point_digest(p_content text[]) returns bytea language sql immutable
as $$ select sha256(convert_to(to_jsonb($1)::text, 'UTF8')) $$;

-- What an entry needs beside itself is there at the end of the statement that inserts it; that it adds up the other triggers see to.
create function noshi.point_entries_are_whole() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
declare bad text;
begin
    select format('entry %s of %s', n.id, n.user_id) into bad
    from new_rows n left join point_entry p on p.user_id = n.user_id and p.seq = n.seq - 1
    where n.balance <> coalesce(p.balance, 0) + n.amount or n.at < p.at or (p.id is null) <> (n.seq = 1)
       or (n.amount <> 0 and not exists (select from point_line l where l.entry = n.id))
       or (n.amount > 0 and not exists (select from point_lot l where l.entry = n.id))
       or (n.amount < 0 and not exists (select from point_allocation a where a.entry = n.id))
    limit 1;
    if found then
        raise exception 'the ledger would not add up: % does not follow the one before it, or lacks lines, lots or allocations', bad
            using errcode = 'NS001';
    end if;
    return null;
end $$;

-- Local midnight after the day and N more: granted on the 1st for 7 days, points are good until the 8th is over (R51).
create function noshi.point_expiry_of(p_at timestamptz, p_valid_days integer, p_zone text) returns timestamptz language sql stable
set search_path = noshi, pg_temp
as $$ select (($1 at time zone $3)::date + $2 + 1)::timestamp at time zone $3 $$;

-- What happened to a user's points, the newest first, before an entry's number of the user (null: from the newest), with the balance after each.
create function noshi.point_history(p_user text, p_before_seq bigint, p_limit integer)
returns table (seq bigint, at timestamptz, recorded_at timestamptz, kind text, amount bigint, balance bigint, key text, entry bigint,
    benefit text, source text, expires_at timestamptz, area text, reverses text, job bigint)
language sql stable security definer
set search_path = noshi, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
    select e.seq, e.at, e.recorded_at, e.kind, e.amount, e.balance, e.key, e.id, x.benefit, x.source,
           case e.kind when 'grant' then l.expires_at end, coalesce(e.area, case e.kind when 'grant' then l.area end), u.key, e.job
    from (select * from point_entry o where o.user_id = $1 and o.seq < coalesce($2, 9223372036854775807)
          order by o.seq desc limit least(greatest($3, 1), 1000)) e
    left join benefit_exercise x on x.id = e.exercise
    left join lateral (select o.expires_at, o.area from point_lot o where o.entry = e.id and e.kind = 'grant') l on true
    left join point_entry u on u.id = e.reverses
    order by e.seq desc
$$;

-- What a key stands for already: nothing (no row), the same operation, or another one and what differs.
create function noshi.point_known(p_key text, p_digest bytea, p_content jsonb) returns table (outcome text, entry bigint, detail text)
language plpgsql stable
set search_path = noshi, pg_temp
as $$
#variable_conflict use_column
declare
    e point_entry;
    recorded jsonb;
begin
    select * into e from point_entry o where o.key = p_key;
    if not found then
        return;
    end if;
    if e.digest = p_digest then
        return query select 'replayed', e.id, null::text;
        return;
    end if;
    recorded := jsonb_build_object('kind', e.kind) || case e.kind
        when 'grant' then (
            select jsonb_build_object('user', e.user_id, 'amount', e.amount, 'benefit', x.benefit, 'source', x.source,
                                      'expires_at', l.expires_at, 'area', l.area)
            from benefit_exercise x join point_lot l on l.entry = e.id where x.id = e.exercise)
        when 'use' then jsonb_build_object('user', e.user_id, 'amount', -e.amount, 'area', e.area)
        when 'reverse' then (select jsonb_build_object('use', u.key) from point_entry u where u.id = e.reverses)
        else jsonb_build_object('user', e.user_id) end;
    if p_content ->> 'kind' <> e.kind then
        recorded := jsonb_build_object('kind', e.kind);
        p_content := jsonb_build_object('kind', p_content -> 'kind');
    end if;
    -- Of what is asked for only the grace of a reversal is nowhere but in the digest.
    return query select 'conflict', e.id, coalesce(differing_fields(recorded, p_content), 'grace: now another');
end $$;

-- Debits are credits, also when a line is added later.
create function noshi.point_lines_balance() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
declare bad bigint;
begin
    select e.id into bad
    from (select distinct entry from new_rows) n join point_entry e on e.id = n.entry
    cross join lateral (
        select sum(l.amount) filter (where l.side = 'D') as debit, sum(l.amount) filter (where l.side = 'C') as credit,
               sum(case l.side when 'C' then l.amount else -l.amount end) filter (where l.account = 'user_points') as held
        from point_line l where l.entry = e.id) s
    where (s.debit, s.credit, s.held) is distinct from (abs(e.amount)::numeric, abs(e.amount)::numeric, e.amount::numeric)
    limit 1;
    if found then
        raise exception 'the ledger would not add up: debits, credits and amount of entry % differ', bad using errcode = 'NS001';
    end if;
    return null;
end $$;

create function noshi.point_lots_add_up() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
declare bad bigint;
begin
    select e.id into bad
    from (select distinct entry from new_rows) n join point_entry e on e.id = n.entry
    cross join lateral (
        select sum(l.amount) as amount,
               bool_or(l.user_id <> e.user_id or l.remaining <> l.amount or l.granted_at > e.at or l.expires_at < e.at) as strange
        from point_lot l where l.entry = e.id) s
    where s.amount <> e.amount or s.strange
    limit 1;
    if found then
        raise exception 'the ledger would not add up: the lots of entry % are not what it gives', bad using errcode = 'NS001';
    end if;
    return null;
end $$;

-- Points that are a user's at an instant (now, where none is given) and expire after it, up to another: when, where they are good, and how many.
create function noshi.points_expiring(p_user text, p_before timestamptz, p_at timestamptz default null) returns table (expires_at timestamptz, area text, points bigint) language plpgsql stable security definer
set search_path = noshi, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    newest constant timestamptz := (select e.at from point_entry e where e.user_id = p_user order by e.seq desc limit 1);
    instant constant timestamptz := coalesce(p_at, greatest(clock_timestamp(), newest));
begin
    if instant >= newest then
        return query select l.expires_at, l.area, sum(l.remaining)::bigint from point_lot l
            where l.user_id = p_user and l.open and l.expires_at > instant and l.expires_at <= p_before
            group by l.expires_at, l.area order by l.expires_at, l.area nulls first;
    else
        return query select l.expires_at, l.area, sum(l.amount - coalesce(taken.amount, 0))::bigint
            from point_entry e join point_lot l on l.entry = e.id
            cross join lateral (
                select sum(a.amount) as amount from point_allocation a join point_entry t on t.id = a.entry where a.lot = l.id and t.at <= instant) taken
            where e.user_id = p_user and e.at <= instant and l.expires_at > instant and l.expires_at <= p_before
            group by l.expires_at, l.area having sum(l.amount - coalesce(taken.amount, 0)) > 0
            order by l.expires_at, l.area nulls first;
    end if;
end $$;

-- The one writer of the ledger: entries with their lines, lots and allocations in one statement. Their numbers are given.
create function noshi.post_points(p_entries noshi.point_entry[], p_lots noshi.point_lot[], p_allocations noshi.point_allocation[])
returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare posted bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'points are booked in read committed transactions: in others an operation would not see the one it waited for' using errcode = 'NS400';
    end if;
    with e as (
        insert into point_entry (id, key, digest, kind, user_id, seq, at, amount, balance, area, exercise, reverses, job)
        overriding system value
        select n.id, n.key, n.digest, n.kind, n.user_id, n.seq, n.at, n.amount, n.balance, n.area, n.exercise, n.reverses, n.job
        from unnest(p_entries) n on conflict do nothing returning id, kind, amount),
    line as (
        insert into point_line (entry, account, side, amount)
        select e.id, l.account, case when (l.account = 'user_points') = (e.amount > 0) then 'C' else 'D' end, abs(e.amount)
        from e cross join lateral unnest(array['user_points', point_contra(e.kind)]) as l(account) where e.amount <> 0),
    lot as (
        insert into point_lot (entry, user_id, amount, remaining, granted_at, expires_at, area)
        select n.entry, n.user_id, n.amount, n.amount, n.granted_at, n.expires_at, n.area from unnest(p_lots) n
        where (select count(*) from e) = cardinality(p_entries)),
    allocation as (
        insert into point_allocation (lot, entry, amount) select n.lot, n.entry, n.amount from unnest(p_allocations) n
        where (select count(*) from e) = cardinality(p_entries))
    select count(*) into posted from e;
    if posted <> cardinality(p_entries) then
        -- The owner's lock and a look at the key came first: only the same key for two users at the same moment gets here.
        raise exception 'another operation with the same key came at this very moment; nothing was booked, do it again' using errcode = '40001';
    end if;
end $$;

-- No entry is ever dated by a clock that is not trusted: those after it would be dated no earlier, and what lapses between would be gone.
create function noshi.take_point_turn(p_user text, p_at timestamptz, p_job bigint,
    out at timestamptz, out seq bigint, out balance bigint, out withdrawn boolean)
language plpgsql
set search_path = noshi, pg_temp
as $$
#variable_conflict use_column
declare last record;
begin
    if not clock_holds() then
        raise exception 'the server''s clock has jumped: points neither move nor expire until the fleet trusts it again' using errcode = '55000';
    end if;
    perform from point_owner o where o.user_id = p_user for update;
    if not found then
        insert into point_owner (user_id) values (p_user) on conflict do nothing;
        perform from point_owner o where o.user_id = p_user for update;
    end if;
    select e.at, e.seq, e.balance, e.kind into last from point_entry e where e.user_id = p_user order by e.seq desc limit 1;
    at := greatest(p_at, last.at);
    if last.balance > 0 and exists (select from point_lot l where l.user_id = p_user and l.open and l.expires_at <= greatest(p_at, last.at)) then
        perform book_due(array[p_user], at, null, p_job);
        select e.at, e.seq, e.balance, e.kind into last from point_entry e where e.user_id = p_user order by e.seq desc limit 1;
    end if;
    seq := coalesce(last.seq, 0);
    balance := coalesce(last.balance, 0);
    withdrawn := coalesce(last.kind = 'withdraw', false);
end $$;

-- Every equation of the ledger, computed again from all of it. No row: it holds.
create function noshi.verify_points() returns table (equation text, subject text, fault text)
language sql stable security definer
set search_path = noshi, pg_temp
set work_mem = '64MB'
as $$
    with last as materialized (select distinct on (user_id) user_id, balance, at from point_entry order by user_id, seq desc)
    select 'guards', format('trigger %s of %s', t.tgname, t.tgrelid::regclass), 'it is disabled'
    from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where c.relnamespace = 'noshi'::regnamespace and (c.relname like 'point\_%' or c.relname = 'benefit_exercise') and t.tgenabled <> 'O'
    union all
    select 'debits = credits = amount', format('entry %s', e.id),
           format('amount %s, debits %s, credits %s, users %s', e.amount, coalesce(s.debit, 0), coalesce(s.credit, 0), coalesce(s.held, 0))
    from point_entry e left join (
        select l.entry, sum(l.amount) filter (where l.side = 'D') as debit, sum(l.amount) filter (where l.side = 'C') as credit,
               sum(case l.side when 'C' then l.amount else -l.amount end) filter (where l.account = 'user_points') as held
        from point_line l group by l.entry) s on s.entry = e.id
    where (coalesce(s.debit, 0), coalesce(s.credit, 0), coalesce(s.held, 0)) is distinct from (abs(e.amount)::numeric, abs(e.amount)::numeric, e.amount::numeric)
    union all
    select 'accounts of its kind', format('entry %s', e.id), format('a %s on %s', e.kind, l.account)
    from point_line l join point_entry e on e.id = l.entry where l.account not in ('user_points', point_contra(e.kind))
    union all
    select 'amount = lots - allocations', format('entry %s', e.id),
           format('%s of %s, lots %s, allocations %s', e.kind, e.amount, coalesce(l.amount, 0), coalesce(a.amount, 0))
    from point_entry e
    left join (select entry, sum(amount) as amount from point_lot group by entry) l on l.entry = e.id
    left join (select entry, sum(amount) as amount from point_allocation group by entry) a on a.entry = e.id
    where coalesce(l.amount, 0) <> greatest(e.amount, 0) or coalesce(a.amount, 0) <> greatest(-e.amount, 0)
    union all
    select 'remaining = amount - allocations', format('lot %s', l.id),
           format('%s of %s remain, allocated are %s', l.remaining, l.amount, coalesce(a.amount, 0))
    from point_lot l left join (select lot, sum(amount) as amount from point_allocation group by lot) a on a.lot = l.id
    where l.remaining <> l.amount - coalesce(a.amount, 0)
    union all
    select 'balance = open lots', format('user %s', coalesce(e.user_id, l.user_id)),
           format('balance %s, open lots %s', coalesce(e.balance, 0), coalesce(l.remaining, 0))
    from last e full join (select user_id, sum(remaining) as remaining from point_lot where open group by user_id) l on l.user_id = e.user_id
    where coalesce(e.balance, 0) <> coalesce(l.remaining, 0)
    union all
    select 'entry follows entry', format('entry %s', e.id),
           format('number %s after %s, balance %s after %s and %s, at %s after %s', e.seq, coalesce(e.seq_before, 0), e.balance,
                  coalesce(e.balance_before, 0), e.amount, e.at, e.at_before)
    from (select id, seq, balance, amount, at, lag(seq) over w as seq_before, lag(balance) over w as balance_before, lag(at) over w as at_before
          from point_entry window w as (partition by user_id order by seq)) e
    where e.seq <> coalesce(e.seq_before, 0) + 1 or e.balance <> coalesce(e.balance_before, 0) + e.amount or e.at < e.at_before
    union all
    select 'lots of their entry', format('lot %s', l.id), format('of %s, granted at %s until %s, by a %s of %s at %s',
           l.user_id, l.granted_at, l.expires_at, e.kind, e.user_id, e.at)
    from point_lot l join point_entry e on e.id = l.entry
    where l.user_id <> e.user_id or l.granted_at > e.at or l.expires_at < e.at or (e.kind = 'grant' and l.granted_at <> e.at)
    union all
    select 'spent by its owner, in time, in its area', format('lot %s, entry %s', l.id, e.id),
           format('lot of %s until %s in %s, %s of %s at %s in %s', l.user_id, l.expires_at, coalesce(l.area, 'any area'),
                  e.kind, e.user_id, e.at, coalesce(e.area, 'no area'))
    from point_allocation a join point_lot l on l.id = a.lot join point_entry e on e.id = a.entry join point_entry g on g.id = l.entry
    where l.user_id <> e.user_id or e.at < g.at
       or case e.kind when 'expire' then l.expires_at <> e.at or e.key <> 'expire:' || l.id
                      when 'use' then l.expires_at <= e.at or l.area <> coalesce(e.area, '')
                      else l.expires_at <= e.at end
    union all
    select 'no entry overtakes an expiry', format('lot %s', l.id), format('due at %s, %s has an entry at %s', l.expires_at, l.user_id, e.at)
    from point_lot l join last e on e.user_id = l.user_id
    where l.open and l.expires_at < e.at
    union all
    select 'a use is taken back as it was', format('entry %s', r.id), format('%s of %s takes back %s of %s', r.amount, r.user_id, u.amount, u.user_id)
    from point_entry r join point_entry u on u.id = r.reverses
    where u.kind <> 'use' or r.user_id <> u.user_id or r.amount <> -u.amount
       or (select array_agg((l.amount, l.granted_at, l.area) order by l.amount, l.granted_at, l.area) from point_lot l where l.entry = r.id)
          is distinct from (select array_agg((a.amount, l.granted_at, l.area) order by a.amount, l.granted_at, l.area)
                            from point_allocation a join point_lot l on l.id = a.lot where a.entry = u.id)
    union all
    select 'a grant exercises a benefit', format('exercise %s', x.id), format('%s of %s by %s', x.benefit, x.source, x.user_id)
    from benefit_exercise x left join point_entry e on e.exercise = x.id
    where e.id is null or e.user_id <> x.user_id or e.at <> x.at
    union all
    select 'nothing after a withdrawal', format('user %s', w.user_id), format('withdrawn by entry %s, then entry %s', w.id, e.id)
    from (select distinct on (user_id) user_id, id, seq from point_entry where kind = 'withdraw' order by user_id, seq) w
    join point_entry e on e.user_id = w.user_id and e.seq > w.seq
    where e.kind in ('grant', 'use')
       or (e.kind <> 'withdraw' and not exists (select from point_entry n where n.user_id = e.user_id and n.seq > e.seq))
$$;

-- The journal for accounting: a row for each line, to be read by ranges of `at`.
create view noshi.point_journal with (security_barrier) as
    select e.id as entry, e.at, e.recorded_at, e.kind, e.user_id, l.account::text as account, a.name as account_name, l.side, l.amount, e.job
    from noshi.point_entry e join noshi.point_line l on l.entry = e.id join noshi.point_account a on a.code = l.account;
comment on view noshi.point_journal is 'The journal of points (仕訳): a row for each debit and credit. Expiries are booked with the instant at which they were due, which may lie before their `recorded_at`.';
comment on column noshi.point_journal.entry is 'Number of the entry: its debits are its credits.';
comment on column noshi.point_journal.at is 'When it took effect.';
comment on column noshi.point_journal.recorded_at is 'When it was booked.';
comment on column noshi.point_journal.kind is 'grant, use, reverse, expire or withdraw.';
comment on column noshi.point_journal.user_id is 'Whose points.';
comment on column noshi.point_journal.account is 'The account''s code (勘定科目コード).';
comment on column noshi.point_journal.account_name is 'The account in words.';
comment on column noshi.point_journal.side is 'D: debit (借方), C: credit (貸方).';
comment on column noshi.point_journal.amount is 'Points.';
comment on column noshi.point_journal.job is 'Number of the job that booked it, if one did.';

create trigger append_only before delete on noshi.point_lot for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.point_lot for each statement execute function noshi.journal_is_append_only();
-- From outside of the trigger of allocations nothing of a lot changes, and by it only `remaining`, and only down.
create trigger only_allocations before update on noshi.point_lot for each row
    when (pg_trigger_depth() = 0 or new.remaining >= old.remaining
        or (new.id, new.entry, new.user_id, new.amount, new.granted_at, new.expires_at, new.area)
            is distinct from (old.id, old.entry, old.user_id, old.amount, old.granted_at, old.expires_at, old.area))
    execute function noshi.journal_is_append_only();
create trigger whole after insert on noshi.point_entry referencing new table as new_rows
    for each statement execute function noshi.point_entries_are_whole();
create trigger balance after insert on noshi.point_line referencing new table as new_rows
    for each statement execute function noshi.point_lines_balance();
create trigger add_up after insert on noshi.point_lot referencing new table as new_rows
    for each statement execute function noshi.point_lots_add_up();
create trigger add_up after insert on noshi.point_allocation referencing new table as new_rows
    for each statement execute function noshi.point_allocations_add_up();
create trigger append_only before update or delete on noshi.benefit_exercise
    for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.benefit_exercise
    for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.point_account
    for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.point_account
    for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.point_allocation
    for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.point_allocation
    for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.point_entry
    for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.point_entry
    for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.point_line
    for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.point_line
    for each statement execute function noshi.journal_is_append_only();
create trigger append_only before update or delete on noshi.point_owner
    for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.point_owner
    for each statement execute function noshi.journal_is_append_only();

insert into noshi.point_account (code, name, normal) values
    ('user_points', 'Points that users hold (未使用ポイント)', 'C'),
    ('points_granted', 'Points granted (ポイント付与)', 'D'),
    ('points_used', 'Points used (ポイント利用)', 'C'),
    ('points_expired', 'Points expired (ポイント失効)', 'C'),
    ('points_withdrawn', 'Points lost by withdrawal (退会失効)', 'C');

revoke all on function noshi.benefit_exercised(text, text, text), noshi.book_due(text[], timestamptz, integer, bigint),
    noshi.book_expiries(timestamptz, integer, bigint),
    noshi.book_grant(timestamptz, text, text, bigint, text, text, timestamptz, text, bigint),
    noshi.book_rest(timestamptz, bigint, bigint, text, text, bigint), noshi.book_reversal(timestamptz, text, text, interval, bigint),
    noshi.book_use(timestamptz, text, text, bigint, text, bigint), noshi.book_withdrawal(timestamptz, text, text, bigint),
    noshi.check_point_key(text, text), noshi.check_points(bigint), noshi.point_allocations_add_up(),
    noshi.point_balance(text, timestamptz, text), noshi.point_contra(text), noshi.point_digest(text[]), noshi.point_entries_are_whole(),
    noshi.point_expiry_of(timestamptz, integer, text), noshi.point_history(text, bigint, integer),
    noshi.point_known(text, bytea, jsonb), noshi.point_lines_balance(), noshi.point_lots_add_up(),
    noshi.points_expiring(text, timestamptz, timestamptz),
    noshi.post_points(noshi.point_entry[], noshi.point_lot[], noshi.point_allocation[]),
    noshi.take_point_turn(text, timestamptz, bigint), noshi.verify_points() from public;
grant execute on function noshi.point_balance(text, timestamptz, text), noshi.point_history(text, bigint, integer),
    noshi.points_expiring(text, timestamptz, timestamptz), noshi.verify_points() to noshi_operator, noshi_api, noshi_reader;
grant select on noshi.benefit_exercise, noshi.point_account, noshi.point_allocation, noshi.point_entry, noshi.point_line,
    noshi.point_lot, noshi.point_owner to noshi_operator;
grant select on noshi.point_journal to noshi_reader, noshi_operator, noshi_api;

reset role;
