-- The raw-SQL baseline: the same rows, fence and journal, moved in batches inside PostgreSQL, by two connections at once.
-- What a worker outside can reach is measured as a share of it.
drop table if exists floor_job, floor_event cascade;
create table floor_job (
    id bigint generated always as identity primary key, kind text not null, key text not null, at text not null default 'a',
    status smallint not null default 0, run_at timestamptz not null default now(), tries int not null default 0, lease bigint,
    args jsonb not null default '{}', unique (kind, key)
) with (fillfactor = 70);
create index on floor_job (run_at) where status = 0;
create table floor_event (job bigint not null, at timestamptz not null default clock_timestamp(), was text, became text, detail jsonb);
create index on floor_event (job);
insert into floor_job (kind, key, args)
select 'gift', 'trade-' || g, jsonb_build_object('amount', 500, 'user', g) from generate_series(1, 30000) g;
analyze floor_job;
drop procedure if exists drain(int);
create procedure drain(size int) language plpgsql as $$
declare
    ids bigint[];
    next text;
begin
    loop
        with due as (select id from floor_job where status = 0 and run_at <= now() order by run_at limit size for update skip locked),
             claimed as (
                update floor_job j set status = 1, lease = 1, tries = tries + 1 from due where j.id = due.id returning j.id)
        select array_agg(id) into ids from claimed;
        exit when ids is null;
        commit;
        foreach next in array array['b', 'c', 'd'] loop
            with settled as (
                update floor_job j set at = next, status = case when next = 'd' then 2 else 1 end
                from unnest(ids) x(id) where j.id = x.id and j.lease = 1 returning j.id)
            insert into floor_event (job, was, became) select id, 'x', next from settled;
            commit;
        end loop;
    end loop;
end $$;
