set role noshi_owner;

-- A lane is the rate budget of one external account, for the whole fleet. The lane '' is for steps without a call.
create table noshi.lane (
    name          text primary key,
    paused        boolean not null default false,
    -- Nobody calls until then: a 429 or Retry-After.
    closed_until  timestamptz,
    -- 'funds': new writes wait. 'credentials': nobody calls. Until an operator opens the lane.
    closed_code   text check (closed_code in ('funds', 'credentials')),
    closed_at     timestamptz,
    -- Start-time fair queueing: the rank last served.
    vtime         bigint not null default 0,
    -- Tokens handed out; every `reserve`-th is offered to inquiries and unwinding first.
    tokens        bigint not null default 0,
    reserve       integer not null default 5 check (reserve > 0),
    -- Timeline and start of the server that last handed out tokens; after a change the budgets are pushed once.
    server        text not null default ''
) with (fillfactor = 50);

-- GCRA by the database's clock: `calls` per `per`, `burst` of them at once, `jitter` for the way to the receiver.
-- The emission interval (per + jitter) / (calls - burst + 1) keeps every window at or below `calls` at the receiver.
create table noshi.lane_budget (
    lane      text not null references noshi.lane (name),
    per       interval not null,
    calls     integer not null check (calls > 0),
    burst     integer not null default 1 check (burst between 1 and calls),
    jitter    interval not null default '50 milliseconds',
    tat       timestamptz not null default '-infinity',
    primary key (lane, per)
) with (fillfactor = 50);

insert into noshi.lane (name) values ('');

-- The server as one word: a new one after a restart, a failover or a restore.
create function noshi.server() returns text language sql stable as $$
    select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || ' ' || extract(epoch from pg_postmaster_start_time())
$$;

grant select, insert on noshi.lane, noshi.lane_budget to noshi_worker;
grant update (closed_until, closed_code, closed_at, vtime, tokens, server) on noshi.lane to noshi_worker;
grant update (tat, calls, burst, jitter) on noshi.lane_budget to noshi_worker;
grant select, update on noshi.lane, noshi.lane_budget to noshi_operator;

reset role;
