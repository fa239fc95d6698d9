set role noshi_owner;
set local check_function_bodies = off;

-- Facts of the probe, the job that touches nothing outside: a note (cannot conflict) and a tally (a name only one may take).
create table noshi.probe_note (
    id          bigint generated always as identity primary key,
    job         bigint not null,
    text        text not null,
    written_at  timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (written_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

create table noshi.probe_tally (
    name      text primary key,
    job       bigint not null,
    taken_at  timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (taken_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

grant insert, select on noshi.probe_note, noshi.probe_tally to noshi_worker;
grant select on noshi.probe_note, noshi.probe_tally to noshi_operator;

reset role;
