-- Loads users whose history is so many pairs of a grant of 10 points and a use of 7 of them, one entry every `step`; what is left of each lot
-- expires `lasts` after its grant, some seconds apart from user to user. By the rows alone, without triggers: this is not what is measured.
create function bench_load(prefix text, users integer, pairs integer, begun timestamptz, step interval, lasts interval) returns void
language plpgsql
set search_path = noshi, pg_temp
set session_replication_role = replica
as $$
declare
    e0 constant bigint := coalesce((select max(id) from point_entry), 0);
    l0 constant bigint := coalesce((select max(id) from point_lot), 0);
    x0 constant bigint := coalesce((select max(id) from benefit_exercise), 0);
begin
    insert into point_owner (user_id) select prefix || u from generate_series(0, users - 1) u;
    insert into benefit_exercise (id, benefit, source, user_id, at) overriding system value
    select x0 + 1 + u * pairs + p, 'bench', prefix || u || '/' || p, prefix || u, begun + 2 * p * step
    from generate_series(0, users - 1) u, generate_series(0, pairs - 1) p;
    insert into point_entry (id, key, digest, kind, user_id, seq, at, amount, balance, exercise) overriding system value
    select e0 + 1 + u * 2 * pairs + n, prefix || u || '/' || n, sha256('bench'), case n % 2 when 0 then 'grant' else 'use' end, prefix || u,
           n + 1, begun + n * step, case n % 2 when 0 then 10 else -7 end, n / 2 * 3 + case n % 2 when 0 then 10 else 3 end,
           case n % 2 when 0 then x0 + 1 + u * pairs + n / 2 end
    from generate_series(0, users - 1) u, generate_series(0, 2 * pairs - 1) n;
    insert into point_line (entry, account, side, amount)
    select e.id, a, case when (a = 'user_points') = (e.amount > 0) then 'C' else 'D' end, abs(e.amount)
    from point_entry e, unnest(array['user_points', point_contra(e.kind)]) a where e.id > e0;
    insert into point_lot (id, entry, user_id, amount, remaining, granted_at, expires_at) overriding system value
    select l0 + 1 + u * pairs + p, e0 + 1 + u * 2 * pairs + 2 * p, prefix || u, 10, 3, begun + 2 * p * step,
           begun + 2 * p * step + lasts + make_interval(secs => u % 1000)
    from generate_series(0, users - 1) u, generate_series(0, pairs - 1) p;
    insert into point_allocation (lot, entry, amount)
    select l0 + 1 + u * pairs + p, e0 + 2 + u * 2 * pairs + 2 * p, 7
    from generate_series(0, users - 1) u, generate_series(0, pairs - 1) p;
    perform setval('point_entry_id_seq', (select max(id) from point_entry)), setval('point_lot_id_seq', (select max(id) from point_lot)),
        setval('benefit_exercise_id_seq', (select max(id) from benefit_exercise));
end $$;
