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

-- The job of a batch is made by the batch's release alone: a producer could take its id, or name a batch that never was. And a gift's id
-- is its grant: by it the code is sealed, shown, and issued at most once.
create function noshi.job_guard() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    if new.kind = 'bulk_grants' then
        if not exists (select from batch b where 'batch/' || b.id = new.key and new.args = jsonb_build_object('batch', b.id) and b.released_at is not null) then
            raise exception 'bulk_grants % is made by the release of its batch', new.key using errcode = 'NS403', hint = 'Submit a file: `noshi batch submit`.';
        end if;
    elsif new.key is distinct from new.args ->> 'grant' then
        raise exception 'the id of a gift is its grant: % is not %', new.key, coalesce(new.args ->> 'grant', 'nothing') using errcode = 'NS400';
    end if;
    return new;
end $$;
revoke all on function noshi.job_guard() from public;
create trigger guard before insert on noshi.job for each row
    when (new.kind = 'bulk_grants' or (new.kind = 'gift_issuance' and new.key is distinct from new.args ->> 'grant')) execute function noshi.job_guard();

reset role;
