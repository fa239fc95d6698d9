create schema refund;

-- Refunds that were made: one for each payment.
create table refund.ledger (
    payment  text primary key,
    amount   bigint not null,
    receipt  text not null,
    job      bigint not null
);

grant usage on schema refund to noshi_worker;
grant insert, select on refund.ledger to noshi_worker;
