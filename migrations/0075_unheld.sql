set role noshi_owner;

-- Nobody holds what somebody else needs.

do $$
declare
    change record;
    body text;
begin
    for change in select * from (values
        -- The turn of whoever lets a batch go is theirs alone. What counts for the other, too, is judged again at the commit that grants, where
        -- all of it is seen: of two that passed the cap together neither is granted. Stores are asked for at once: for them both have a turn,
        -- for stores alone.
        ('release_batch', 'perform in_turn(p.who) from (select distinct w as who from unnest(array[b.submitted_by, noshi.who()]) w order by w) p;',
            'perform in_turn(t.turn) from (
        select noshi.who() as turn where b.kind <> ''stores''
        union select ''stores of '' || w from unnest(array[b.submitted_by, noshi.who()]) w where b.kind = ''stores'' order by 1) t;'),
        -- It looks at what the file grants, and takes no lock: from the validation on nobody asks for what a file will grant, and what an older
        -- transaction asked for meets the job''s unique key when the row is asked for.
        ('must_be_as_granted', 'if not exists (select from batch_row r where r.key = p_key) then
        return;
    end if;
    -- One that is about to be registered is waited for, and waits in turn.
    perform from batch b where b.id in (select r.batch from batch_row r where r.key = p_key) and b.registered_at is null
        and b.released_at is not null and b.cancelled_at is null for share;
', '')
    ) as c(name, old, new) loop
        select pg_get_functiondef(p.oid) into strict body from pg_proc p where p.pronamespace = 'noshi'::regnamespace and p.proname = change.name;
        if strpos(body, change.old) = 0 then
            raise exception '% does not read as it was written', change.name;
        end if;
        execute replace(body, change.old, change.new);
    end loop;
end $$;

reset role;
