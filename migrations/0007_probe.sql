set role noshi_owner;

-- Facts of the probe, the job that touches nothing outside: a note (cannot conflict) and a tally (a name only one may take).
create table noshi.probe_note (
    job         bigint not null,
    text        text not null,
    written_at  timestamptz not null default clock_timestamp()
);
create table noshi.probe_tally (
    name      text primary key,
    job       bigint not null,
    taken_at  timestamptz not null default clock_timestamp()
);
grant select, insert on noshi.probe_note, noshi.probe_tally to noshi_worker;
grant select on noshi.probe_note, noshi.probe_tally to noshi_operator;

reset role;
