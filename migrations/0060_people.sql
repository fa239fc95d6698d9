set role noshi_owner;

-- The ids of the keys with which a worker opens what is sealed: a rotation waits until each of them has the new one. None: it has no key
-- file. Null: it is of a version that does not say.
alter table noshi.worker add column keys text[];

-- Whoever lets a batch go may say why; and an approval that is not awaited is refused with the one cause.
do $$
declare
    release constant text := pg_get_functiondef('noshi.release_batch(bigint)'::regprocedure);
    logged constant text := 'batch_log(b.id, ''release'')';
    approve constant text := pg_get_functiondef('noshi.approve_batch(bigint, bytea, text)'::regprocedure);
    hint constant text := '''It was not validated, needs none, was cancelled, or is granted already; `noshi batch show` tells.''';
    cause constant text := 'case when b.invalid_at is not null then ''Its file has faults; a mended one is a batch of its own.''
                when b.cancelled_at is not null then ''It was cancelled.''
                when b.registered_at is not null then ''It is granted already.''
                when b.validated_at is null then ''It was not received to its end: submit the same file again.''
                else ''It needs no approval, being below the threshold; `noshi batch release` lets it go.'' end';
begin
    if strpos(release, logged) = 0 or strpos(release, 'release_batch(p_batch bigint)') = 0 or strpos(approve, hint) = 0 then
        raise exception 'release_batch or approve_batch does not read as it was written';
    end if;
    execute replace(replace(release, logged, 'batch_log(b.id, ''release'', null, p_reason)'), '(p_batch bigint)', '(p_batch bigint, p_reason text)');
    execute replace(approve, hint, cause);
end $$;
revoke all on function noshi.release_batch(bigint, text) from public;
grant execute on function noshi.release_batch(bigint, text) to noshi_operator, noshi_api;

-- How a job ended that was moved out, and when that was: its producer may know.
grant select (outcome, code, pruned_at) on noshi.tombstone to noshi_api;

reset role;
