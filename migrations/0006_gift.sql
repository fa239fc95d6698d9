set role noshi_owner;

-- Facts of gift issuance: inserted, never updated.

-- A trade id, saved before its first call whatever the answer may be (R11).
create table noshi.gift_trade (
    id          text primary key,
    grant_id    text not null,
    generation  smallint not null,
    job         bigint not null references noshi.job (id),
    provider    text not null,
    category    text not null,
    amount      bigint not null check (amount > 0),
    currency    text not null,
    started_at  timestamptz not null default clock_timestamp(),
    unique (grant_id, generation)
);

-- How a trade ended, if it did: issued, refused or void.
create table noshi.gift_outcome (
    trade        text not null references noshi.gift_trade (id),
    outcome      text not null check (outcome in ('issued', 'refused', 'void')),
    card         text,
    reason       text,
    happened_at  timestamptz not null default clock_timestamp(),
    primary key (trade, outcome)
);

-- Sealed values: ciphertext only. `what` is gift_code (subject: the trade) or recipient (subject: the grant).
create table noshi_sealed.sealed (
    what        text not null check (what in ('gift_code', 'recipient')),
    subject     text not null,
    grant_id    text not null,
    provider    text not null,
    key_id      text not null,
    nonce       bytea not null,
    ciphertext  bytea not null,
    sealed_at   timestamptz not null default clock_timestamp(),
    primary key (what, subject)
);
create index sealed_key on noshi_sealed.sealed (key_id);

grant select, insert on noshi.gift_trade, noshi.gift_outcome to noshi_worker;
grant select on noshi.gift_trade, noshi.gift_outcome to noshi_operator;
grant insert on noshi_sealed.sealed to noshi_worker, noshi_operator;

-- Issuance history for reports (R16): no codes, no addresses.
create view noshi.gift_issuance_history with (security_barrier) as
    select j.key as grant_id, j.args ->> 'user' as user_id, t.category, t.provider, t.amount, t.currency, t.id as trade_id, t.generation,
           case when j.status in ('completed', 'failed', 'cancelled', 'needs_operator') then j.status::text
                when j.undo is not null then 'compensating' else j.status::text end as status,
           j.at as state, j.unsure as in_doubt, j.code, o.outcome, o.card, j.created_at, o.happened_at as ended_at
    from noshi.job j
    left join noshi.gift_trade t on t.job = j.id
    left join noshi.gift_outcome o on o.trade = t.id
    where j.kind = 'gift_issuance';
grant select on noshi.gift_issuance_history to noshi_reader, noshi_operator;

reset role;
