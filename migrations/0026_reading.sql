set role noshi_owner;
set local check_function_bodies = off;

-- What is sealed opens in a worker alone. Whoever may see something of it asks a worker through these tables, and brings a key that was made for
-- this one answer and never leaves the asker's memory: the worker seals the answer to it, part by part. Neither table outlives a crash of the
-- server, nor goes into its log: whoever asked asks again.
create unlogged table noshi.reading (
    id          bigint generated always as identity primary key,
    kind        text not null check (kind in ('code', 'report', 'check')),
    -- A grant, or the number of a batch.
    subject     text not null,
    asked_by    text not null default noshi.who(),
    scope       text not null,
    -- The public half of the asker's key, sealed to the vault's: who cannot open that cannot answer.
    public_key  text not null check (octet_length(public_key) between 1 and 1000),
    asked_at    timestamptz not null default clock_timestamp(),
    -- Until then the asker is taken to be there; each look of theirs renews it.
    deadline    timestamptz not null default clock_timestamp() + interval '10 seconds',
    worker      bigint,
    -- How often it was taken. Parts of an earlier time are void.
    take        integer not null default 0,
    -- Workers that cannot open it, and why.
    left_by     bigint[] not null default '{}',
    left_why    text[] not null default '{}',
    ended_at    timestamptz,
    -- Why there is no answer, or no whole one; seconds until it is worth asking again.
    trouble     text check (trouble ~ '^[a-z_]{1,30}$'),
    sentence    text check (octet_length(sentence) <= 1000),
    wait        float8 not null default 0 check (wait between 0 and 86400),
    constraint times_are_sane check (asked_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and deadline between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (ended_at is null or ended_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);

create unlogged table noshi_sealed.reading_part (
    -- No foreign key: none goes from one schema into another. Parts are taken away with their reading.
    reading     bigint not null,
    number      integer not null check (number > 0),
    key_id      text not null check (octet_length(key_id) <= 32),
    nonce       bytea not null check (octet_length(nonce) = 24),
    ciphertext  bytea not null check (octet_length(ciphertext) <= 1048576),
    primary key (reading, number)
);
alter table noshi_sealed.reading_part alter column ciphertext set storage external;

-- Who asked for a reading, so that one person's stand in line before they are counted.
create unlogged table noshi.asker (
    who         text primary key,
    turns       bigint not null default 1,
    -- Codes that were asked for in the hour since then.
    codes       integer not null default 0,
    codes_from  timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (codes_from between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

-- How many codes one person, or one token's owner, may ask for in an hour; '' is everybody who is not named. The schema's owner says otherwise, on record.
create table noshi.reveal_cap (
    who            text primary key,
    max_per_hour  integer not null check (max_per_hour >= 0)
);
insert into noshi.reveal_cap (who, max_per_hour) values ('', 1000);

create function noshi.audit_reveal_cap() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform record('reveal cap', 'reveals/' || coalesce(new.who, old.who), null, to_jsonb(old), to_jsonb(new));
    return null;
end $$;

create function noshi.max_codes(p_who text) returns integer language sql stable
set search_path = noshi, pg_temp
as $$
    select c.max_per_hour from reveal_cap c where c.who in (p_who, '') order by c.who <> '' desc limit 1
$$;

-- A worker that lives, and that this login registered.
create function noshi.is_own_worker(p_worker bigint) returns boolean language sql stable
set search_path = noshi, pg_temp
as $$
    select exists (select from worker w where w.id = p_worker and w.dead_at is null and w.stopped_at is null and w.login = session_user)
$$;

-- Whatever a worker left of it goes with it.
create function noshi.forget_parts() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    delete from noshi_sealed.reading_part p where p.reading = old.id;
    return null;
end $$;

-- Ends a reading for its asker: nothing of it is left. Whether a worker had it in flight, and why others left it.
create function noshi.close_reading(p_reading bigint) returns table (taken boolean, left_why text[]) language sql security definer
set search_path = noshi, pg_temp
as $$
    delete from reading r where r.id = p_reading and r.asked_by = who() returning r.worker is not null, r.left_why
$$;

-- It is answered, or will not be.
create function noshi.end_reading(p_reading bigint, p_worker bigint, p_take integer, p_trouble text, p_sentence text, p_wait float8)
returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform held_reading(p_reading, p_worker, p_take, true);
    update reading set ended_at = clock_timestamp(), trouble = p_trouble, sentence = p_sentence, wait = least(greatest(coalesce(p_wait, 0), 0), 86400)
    where id = p_reading;
    perform pg_notify('noshi_answer', p_reading::text);
end $$;

-- How a reading stands, and its next parts. Those up to `p_after` of this `p_take` have arrived, and are deleted.
create function noshi.fetch_reading(p_reading bigint, p_take integer, p_after integer)
returns table (take integer, taken boolean, ended boolean, trouble text, sentence text, wait float8, left_why text[], nobody_else boolean,
    number integer, key_id text, nonce bytea, ciphertext bytea)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    r reading;
    arrived integer;
begin
    select * into r from reading o where o.id = p_reading and o.asked_by = who() for update;
    if not found then
        raise exception 'there is no reading % of %', p_reading, who() using errcode = 'NS404';
    end if;
    perform must(r.scope);
    if r.take = p_take then
        delete from noshi_sealed.reading_part p where p.reading = r.id and p.number <= p_after;
        get diagnostics arrived = row_count;
        -- Its worker may wait for room.
        if arrived > 0 and r.ended_at is null then
            perform pg_notify('noshi', 'reading');
        end if;
    end if;
    update reading o set deadline = clock_timestamp() + interval '10 seconds' where o.id = r.id;
    return query select r.take, r.worker is not null, r.ended_at is not null, r.trouble, r.sentence, r.wait, r.left_why,
        r.left_by <> '{}' and r.worker is null and not exists (
            select from worker w where w.dead_at is null and w.stopped_at is null and w.id <> all (r.left_by)),
        p.number, p.key_id, p.nonce, p.ciphertext
        from (select 1) one left join lateral (
            select * from noshi_sealed.reading_part o where o.reading = r.id order by o.number limit 4) p on true order by p.number;
end $$;

-- A reading that this worker has taken, whose asker is there. Who writes to it keeps it there until the commit; who only reads holds nobody up.
create function noshi.held_reading(p_reading bigint, p_worker bigint, p_take integer, p_writes boolean) returns noshi.reading language plpgsql
set search_path = noshi, pg_temp
as $$
declare r reading;
begin
    if p_writes then
        perform from reading o where o.id = p_reading for update;
    end if;
    select * into r from reading o where o.id = p_reading and o.worker = p_worker and o.take = p_take and o.ended_at is null
        and o.deadline > clock_timestamp() and is_own_worker(p_worker);
    if not found then
        raise exception 'reading % is over, or in other hands', p_reading using errcode = 'NS410';
    end if;
    return r;
end $$;

-- This worker cannot open it; another one may.
create function noshi.leave_reading(p_reading bigint, p_worker bigint, p_take integer, p_why text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform held_reading(p_reading, p_worker, p_take, true);
    update reading set worker = null, left_by = left_by || p_worker,
        left_why = case when p_why = any (left_why) then left_why else left_why || p_why end where id = p_reading;
    perform pg_notify('noshi', 'reading');
    perform pg_notify('noshi_answer', p_reading::text);
end $$;

-- Opens a reading for whoever has the scope. One person has a few at once, so that they leave room for others'. The update counts whatever snapshot
-- the caller has: an old one fails on it.
create function noshi.open_reading(p_kind text, p_subject text, p_scope text, p_key text) returns bigint language plpgsql
set search_path = noshi, pg_temp
as $$
declare
    made bigint;
    most integer := case p_kind when 'code' then 64 else 4 end;
    mine asker;
begin
    if coalesce(p_key, '') = '' or octet_length(p_key) > 1000 then
        raise exception 'a reading needs a public key to seal its answer to' using errcode = 'NS400';
    end if;
    insert into asker (who, codes) values (who(), (p_kind = 'code')::integer) on conflict (who) do update set turns = asker.turns + 1,
        codes = case when asker.codes_from < clock_timestamp() - interval '1 hour' then 0 else asker.codes end + excluded.codes,
        codes_from = case when asker.codes_from < clock_timestamp() - interval '1 hour' then clock_timestamp() else asker.codes_from end
    returning * into mine;
    if p_kind = 'code' and mine.codes > max_codes(who()) then
        raise exception '% has asked for % codes since %, which is all that may be in an hour', who(), mine.codes - 1, instant(mine.codes_from) using errcode = 'NS409',
            hint = 'Nothing was shown. Ask again when that hour is over; the schema''s owner sets how many one may ask for in noshi.reveal_cap.';
    end if;
    if (select count(*) from reading r where r.asked_by = who() and (r.kind = 'code') = (p_kind = 'code') and r.ended_at is null
        and r.deadline > clock_timestamp()) >= most then
        raise exception '% has % % in reading already', who(), most, case p_kind when 'code' then 'codes' else 'files' end using errcode = 'NS409', hint = 'Nothing was done. Ask again when one of them is through.';
    end if;
    insert into reading (kind, subject, scope, public_key) values (p_kind, p_subject, p_scope, p_key) returning id into made;
    perform pg_notify('noshi', 'reading');
    return made;
end $$;

-- One more part. False: as many wait for the asker as may.
create function noshi.put_reading(p_reading bigint, p_worker bigint, p_take integer, p_number integer, p_key_id text, p_nonce bytea, p_ciphertext bytea)
returns boolean language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform held_reading(p_reading, p_worker, p_take, true);
    if (select count(*) from noshi_sealed.reading_part p where p.reading = p_reading) >= 4 then
        return false;
    end if;
    insert into noshi_sealed.reading_part (reading, number, key_id, nonce, ciphertext) values (p_reading, p_number, p_key_id, p_nonce, p_ciphertext);
    perform pg_notify('noshi_answer', p_reading::text);
    return true;
end $$;

-- Whether a batch is staged as its file has it. Nothing of the file is in the answer.
create function noshi.read_check(p_batch bigint, p_key text) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare submitter text;
begin
    perform must('approve');
    select submitted_by into submitter from batch where id = p_batch;
    if not found then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    -- Who may not approve it has no worker look at it either.
    if submitter = who() then
        raise exception 'batch % was submitted by %; another person must approve it', p_batch, submitter using errcode = 'NS403';
    end if;
    return open_reading('check', p_batch::text, 'approve', p_key);
end $$;

-- The code of a gift, for its user: checked and written down as ever, in the same transaction.
create function noshi.read_code(p_grant text, p_user text, p_reason text, p_key text) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform from reveal_gift(p_grant, p_user, p_reason);
    return open_reading('code', p_grant, 'reveal', p_key);
end $$;

-- The report of a batch, with names and addresses.
create function noshi.read_report(p_batch bigint, p_key text) returns bigint language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform note_report(p_batch);
    return open_reading('report', p_batch::text, 'personal', p_key);
end $$;

-- The sealed bytes of a chunk of the file that is read; none behind the last.
create function noshi.reading_chunk(p_reading bigint, p_worker bigint, p_take integer, p_chunk integer)
returns table (key_id text, nonce bytea, ciphertext bytea) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return query select s.key_id, s.nonce, s.ciphertext from noshi_sealed.sealed s
        where r.kind in ('report', 'check') and s.what = 'file' and s.subject = r.subject || '/' || p_chunk;
end $$;

-- What is needed to show a gift. Where the provider's rule is to ask for the code again none is sealed, and `remembered` tells for how many seconds
-- the same trade id surely gives the same card.
create function noshi.reading_code(p_reading bigint, p_worker bigint, p_take integer)
returns table (state jsonb, args jsonb, remembered float8, key_id text, nonce bytea, ciphertext bytea) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return query
        with j as (
            select o.state, o.args from job o where r.kind = 'code' and o.kind = 'gift_issuance' and o.key = r.subject and o.at = 'issued'
            union all
            select s.job -> 'state', s.job -> 'args' from tombstone t join archived_job s on s.id = t.id
            where r.kind = 'code' and t.kind = 'gift_issuance' and t.key = r.subject and t.at = 'issued')
        select j.state, j.args,
            extract(epoch from t.started_at - clock_timestamp())::float8 + (j.state -> 'trade' -> 'contract' ->> 'horizon_seconds')::float8,
            s.key_id, s.nonce, s.ciphertext
        from j join gift_trade t on t.id = j.state -> 'trade' ->> 'id'
        left join noshi_sealed.sealed s on s.what = 'gift_code' and s.subject = t.id limit 1;
end $$;

-- Rows of a file, as it is read now, beside what was granted of it: those that ask for another thing, and what stands there instead. Whoever
-- submitted the file could have staged anything, and below the thresholds nobody compares the two before they are granted.
create function noshi.rows_otherwise(p_batch bigint, p_rows integer[], p_keys text[], p_args jsonb[]) returns table (row_no integer, granted text)
language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select f.row_no, coalesce(concat_ws(' ', r.key, nullif(r.user_id, ''), r.args ->> 'category', r.amount, r.currency), 'nothing')
    from batch b cross join unnest(p_rows, p_keys, p_args) f(row_no, key, args) left join batch_row r on r.batch = b.id and r.row_no = f.row_no
    where b.id = p_batch and (r.key is distinct from f.key or (case b.kind
        when 'grants' then asked_for('gift_issuance', r.args) is distinct from asked_for('gift_issuance', f.args)
        when 'points' then asked_for('point_grant', r.args) is distinct from asked_for('point_grant', f.args)
        else jsonb_strip_nulls(r.args - 'contact') is distinct from jsonb_strip_nulls(f.args - 'contact') end))
$$;

-- What is approved are the addresses, too, and the contacts of stores: a worker opens them and compares each with its row of the file.
create function noshi.reading_recipients(p_reading bigint, p_worker bigint, p_take integer, p_from integer, p_to integer)
returns table (row_no integer, grant_id text, key_id text, nonce bytea, ciphertext bytea) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return query select n.row_no, s.grant_id, s.key_id, s.nonce, s.ciphertext from generate_series(p_from, p_to) n(row_no)
        join noshi_sealed.sealed s on s.what in ('recipient', 'contact') and s.subject = r.subject || '/' || n.row_no
        where r.kind = 'check' order by 1;
end $$;

-- The next reading for a worker that lives: a code before files, and before all whoever has the fewest in flight. Of one person's files a worker has one in
-- hand at most, and of their codes two: the places beside them are others'. One whose worker is gone is taken again, and begins anew; one that was in three
-- workers' hands when they ended is left to its asker.
create function noshi.take_reading(p_worker bigint, p_long boolean)
returns table (reading bigint, take integer, kind text, subject text, public_key text, asked_by text) language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare r reading;
begin
    if not exists (select from noshi.reading) or not is_own_worker(p_worker) then
        return;
    end if;
    -- Whose asker is gone.
    delete from noshi.reading o where o.id in (
        select l.id from noshi.reading l where l.deadline < clock_timestamp() - interval '10 seconds' for update skip locked);
    select o.* into r from noshi.reading o
    where o.ended_at is null and o.deadline > clock_timestamp() and o.take - cardinality(o.left_by) < 3 and (p_long or o.kind = 'code') and p_worker <> all (o.left_by)
      and (o.worker is null or not exists (select from worker w where w.id = o.worker and w.dead_at is null and w.stopped_at is null))
      and (select count(*) from noshi.reading h where h.asked_by = o.asked_by and h.worker = p_worker and (h.kind = 'code') = (o.kind = 'code')
           and h.ended_at is null and h.deadline > clock_timestamp()) < case o.kind when 'code' then 2 else 1 end
    order by o.kind <> 'code', (select count(*) from noshi.reading h where h.asked_by = o.asked_by and h.worker is not null and h.ended_at is null),
        o.id limit 1 for update skip locked;
    if not found then
        return;
    end if;
    delete from noshi_sealed.reading_part p where p.reading = r.id;
    update noshi.reading o set worker = p_worker, take = o.take + 1 where o.id = r.id;
    return query select r.id, r.take + 1, r.kind, r.subject, r.public_key, r.asked_by;
end $$;

-- Whose readings wait, or are in workers' hands, and for how many seconds. Of what they are about nothing.
create function noshi.readings_open() returns table (asked_by text, waiting bigint, taken bigint, oldest float8) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select r.asked_by, count(*) filter (where r.worker is null), count(*) filter (where r.worker is not null),
        extract(epoch from clock_timestamp() - min(r.asked_at))::float8
    from reading r where r.ended_at is null and r.deadline > clock_timestamp() group by r.asked_by order by 4 desc
$$;

-- Who asked for as many codes as they may within the hour, or nearly: name, how many, how many they may.
create function noshi.reveals_counted() returns table (who text, codes integer, most integer) language sql stable security definer
set search_path = noshi, pg_temp
as $$
    select a.who, a.codes, max_codes(a.who) from asker a
    where a.codes_from > clock_timestamp() - interval '1 hour' and a.codes >= greatest(1, max_codes(a.who) * 0.8) order by 1
$$;

-- Whether somebody else waits for the place that this worker's reading has.
create function noshi.is_waited_for(p_reading bigint, p_worker bigint, p_take integer) returns boolean language plpgsql stable security definer
set search_path = noshi, pg_temp
as $$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return exists (select from reading o where o.worker is null and o.ended_at is null and o.deadline > clock_timestamp() and o.asked_by <> r.asked_by
        and (o.kind = 'code') = (r.kind = 'code') and p_worker <> all (o.left_by));
end $$;

create trigger audited after insert or update or delete on noshi.reveal_cap for each row execute function noshi.audit_reveal_cap();
create trigger forget_parts after delete on noshi.reading for each row execute function noshi.forget_parts();

revoke all on function noshi.audit_reveal_cap(), noshi.is_waited_for(bigint, bigint, integer), noshi.max_codes(text), noshi.reveals_counted(), noshi.rows_otherwise(bigint, integer[], text[], jsonb[]), noshi.close_reading(bigint), noshi.forget_parts(), noshi.end_reading(bigint, bigint, integer, text, text, float8),
    noshi.fetch_reading(bigint, integer, integer), noshi.held_reading(bigint, bigint, integer, boolean), noshi.is_own_worker(bigint), noshi.readings_open(),
    noshi.leave_reading(bigint, bigint, integer, text), noshi.open_reading(text, text, text, text),
    noshi.put_reading(bigint, bigint, integer, integer, text, bytea, bytea), noshi.read_check(bigint, text),
    noshi.read_code(text, text, text, text), noshi.read_report(bigint, text), noshi.reading_chunk(bigint, bigint, integer, integer),
    noshi.reading_code(bigint, bigint, integer), noshi.reading_recipients(bigint, bigint, integer, integer, integer),
    noshi.take_reading(bigint, boolean) from public;
grant execute on function noshi.close_reading(bigint), noshi.fetch_reading(bigint, integer, integer), noshi.read_report(bigint, text)
    to noshi_operator, noshi_api;
grant execute on function noshi.end_reading(bigint, bigint, integer, text, text, float8),
    noshi.leave_reading(bigint, bigint, integer, text), noshi.put_reading(bigint, bigint, integer, integer, text, bytea, bytea),
    noshi.reading_chunk(bigint, bigint, integer, integer), noshi.reading_code(bigint, bigint, integer),
    noshi.reading_recipients(bigint, bigint, integer, integer, integer), noshi.take_reading(bigint, boolean) to noshi_worker;
grant execute on function noshi.read_check(bigint, text) to noshi_api, noshi_operator;
grant execute on function noshi.readings_open(), noshi.reveals_counted() to noshi_operator;
grant execute on function noshi.is_waited_for(bigint, bigint, integer), noshi.rows_otherwise(bigint, integer[], text[], jsonb[]) to noshi_worker;
grant select on noshi.reveal_cap to noshi_operator;
grant execute on function noshi.read_code(text, text, text, text) to noshi_api;

reset role;
