-- What stands in the database after all migrations, for reading; `noshi migrate up` makes it. Who may do what with it: roles.md.

create type noshi.job_status as enum ('scheduled', 'available', 'running', 'retryable', 'needs_operator', 'completed', 'failed', 'cancelled');

create type noshi.point_account_code as enum ('user_points', 'points_granted', 'points_used', 'points_expired', 'points_withdrawn');

create table noshi.alone (
    id bigint generated always as identity,
    who text not null,
    at timestamp with time zone not null default clock_timestamp(),
    what text not null,
    target text not null,
    jobs bigint not null,
    currency text not null,
    amount bigint not null,
    constraint alone_pkey PRIMARY KEY (id),
    constraint alone_what_check CHECK (what = ANY (ARRAY['grants'::text, 'points'::text, 'stores'::text, 'asked'::text, 'word'::text])),
    constraint times_are_sane CHECK (at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX alone_of ON noshi.alone USING btree (who, what, at);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.alone FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.alone FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.archived_job (
    id bigint not null,
    job jsonb not null,
    journal jsonb not null,
    pruned_at timestamp with time zone not null default clock_timestamp(),
    constraint archived_job_pkey PRIMARY KEY (id),
    constraint archived_job_id_fkey FOREIGN KEY (id) REFERENCES noshi.tombstone(id),
    constraint times_are_sane CHECK (pruned_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND pruned_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX archived_job_age ON noshi.archived_job USING btree (pruned_at);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.archived_job FOR EACH ROW EXECUTE FUNCTION noshi.only_what_is_pruned();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.archived_job FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create unlogged table noshi.asker (
    who text not null,
    turns bigint not null default 1,
    codes integer not null default 0,
    codes_from timestamp with time zone not null default clock_timestamp(),
    constraint asker_pkey PRIMARY KEY (who),
    constraint times_are_sane CHECK (codes_from >= '1900-01-01 00:00:00+00'::timestamp with time zone AND codes_from <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.audit (
    id bigint generated always as identity,
    happened_at timestamp with time zone not null default clock_timestamp(),
    who text not null,
    login text not null default SESSION_USER,
    token text,
    act text not null,
    target text not null,
    reason text,
    before jsonb,
    after jsonb,
    constraint audit_pkey PRIMARY KEY (id),
    constraint reason_is_short CHECK (octet_length(reason) <= 4000),
    constraint texts_are_short CHECK (octet_length(act) <= 100 AND octet_length(target) <= 400 AND octet_length(token) <= 100 AND octet_length(before::text) <= 200000 AND octet_length(after::text) <= 200000),
    constraint times_are_sane CHECK (happened_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND happened_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX audit_target ON noshi.audit USING btree (target, id);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.audit FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE CONSTRAINT TRIGGER link AFTER INSERT ON noshi.audit DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION noshi.link_audit();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.audit FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.audit_head (
    one boolean not null default true,
    seq bigint not null,
    hash bytea not null,
    constraint audit_head_pkey PRIMARY KEY (one),
    constraint audit_head_one_check CHECK (one)
);

create table noshi.audit_link (
    seq bigint not null,
    audit bigint not null,
    hash bytea not null,
    constraint audit_link_pkey PRIMARY KEY (seq),
    constraint audit_link_audit_fkey FOREIGN KEY (audit) REFERENCES noshi.audit(id),
    constraint audit_link_audit_key UNIQUE (audit)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.audit_link FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.audit_link FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.audit_unlinked (
    audit bigint not null,
    xid xid8 not null default pg_current_xact_id(),
    constraint audit_unlinked_pkey PRIMARY KEY (audit)
);

create table noshi.batch (
    id bigint generated always as identity,
    kind text not null,
    mode text not null,
    digest bytea not null,
    file text not null,
    encoding text not null default 'utf-8'::text,
    campaign text,
    mails boolean not null default false,
    issues boolean not null default false,
    submitted_by text not null default noshi.who(),
    received_at timestamp with time zone not null default clock_timestamp(),
    rows integer,
    validated_at timestamp with time zone,
    faults jsonb,
    invalid_at timestamp with time zone,
    needs_approval boolean not null default false,
    approved_by text,
    approved_at timestamp with time zone,
    approved_until timestamp with time zone,
    released_by text,
    released_at timestamp with time zone,
    registered_at timestamp with time zone,
    refused_code text,
    refused_detail text,
    paused_code text,
    paused_at timestamp with time zone,
    cancelled_at timestamp with time zone,
    settled_at timestamp with time zone,
    totals jsonb,
    counted_at timestamp with time zone,
    approval_digest bytea,
    constraint batch_pkey PRIMARY KEY (id),
    constraint batch_approval_digest_check CHECK (octet_length(approval_digest) = 32),
    constraint batch_check CHECK (mode =
CASE kind
    WHEN 'stores'::text THEN 'per_row'::text
    ELSE 'all_or_nothing'::text
END),
    constraint batch_check1 CHECK (approved_by IS NULL OR approved_by <> submitted_by),
    constraint batch_digest_check CHECK (octet_length(digest) = 32),
    constraint batch_encoding_check CHECK (encoding = ANY (ARRAY['utf-8'::text, 'shift_jis'::text])),
    constraint batch_kind_check CHECK (kind = ANY (ARRAY['grants'::text, 'stores'::text, 'points'::text])),
    constraint batch_mode_check CHECK (mode = ANY (ARRAY['all_or_nothing'::text, 'per_row'::text])),
    constraint faults_are_few CHECK (octet_length(faults::text) <= 100000),
    constraint points_bring_no_gift CHECK (kind <> 'points'::text OR NOT (mails OR issues)),
    constraint texts_are_short CHECK (octet_length(file) <= 200 AND octet_length(campaign) <= 200 AND octet_length(paused_code) <= 100 AND octet_length(refused_code) <= 100 AND octet_length(refused_detail) <= 4000 AND octet_length(totals::text) <= 10000),
    constraint times_are_sane CHECK (received_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND received_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (validated_at IS NULL OR validated_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND validated_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (invalid_at IS NULL OR invalid_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND invalid_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (approved_at IS NULL OR approved_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND approved_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (approved_until IS NULL OR approved_until >= '1900-01-01 00:00:00+00'::timestamp with time zone AND approved_until <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (released_at IS NULL OR released_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND released_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (registered_at IS NULL OR registered_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND registered_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (paused_at IS NULL OR paused_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND paused_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (cancelled_at IS NULL OR cancelled_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND cancelled_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (settled_at IS NULL OR settled_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND settled_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (counted_at IS NULL OR counted_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND counted_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);
CREATE UNIQUE INDEX batch_once ON noshi.batch USING btree (kind, digest, submitted_by) WHERE ((invalid_at IS NULL) AND (cancelled_at IS NULL));
CREATE INDEX batch_registered ON noshi.batch USING btree (registered_at) WHERE (registered_at IS NOT NULL);
CREATE UNIQUE INDEX batch_released_once ON noshi.batch USING btree (kind, digest) WHERE ((released_at IS NOT NULL) AND (cancelled_at IS NULL));
CREATE INDEX batch_unsettled ON noshi.batch USING btree (id) WHERE ((released_at IS NOT NULL) AND (settled_at IS NULL));

create table noshi.batch_cap (
    id bigint generated always as identity,
    kind text not null,
    currency text not null,
    max_rows integer,
    max_total bigint,
    max_per_user bigint,
    max_per_day bigint,
    approve_from_rows integer,
    approve_from_total bigint,
    approval_lasts interval not null default '24:00:00'::interval,
    set_by text not null default noshi.who(),
    set_at timestamp with time zone not null default clock_timestamp(),
    constraint batch_cap_pkey PRIMARY KEY (id),
    constraint batch_cap_approval_lasts_check CHECK (noshi.lasts(approval_lasts, '00:00:00'::interval, '366 days'::interval)),
    constraint batch_cap_currency_check CHECK (octet_length(currency) <= 20),
    constraint batch_cap_kind_check CHECK (kind = ANY (ARRAY['grants'::text, 'stores'::text, 'points'::text])),
    constraint times_are_sane CHECK (set_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND set_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.batch_cap FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER audited AFTER INSERT ON noshi.batch_cap FOR EACH ROW EXECUTE FUNCTION noshi.audit_cap();

create table noshi.batch_event (
    id bigint generated always as identity,
    batch bigint not null,
    happened_at timestamp with time zone not null default clock_timestamp(),
    act text not null,
    who text not null default noshi.who(),
    code text,
    reason text,
    constraint batch_event_pkey PRIMARY KEY (id),
    constraint batch_event_batch_fkey FOREIGN KEY (batch) REFERENCES noshi.batch(id),
    constraint reason_is_short CHECK (octet_length(reason) <= 4000),
    constraint texts_are_short CHECK (octet_length(act) <= 100 AND octet_length(code) <= 100),
    constraint times_are_sane CHECK (happened_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND happened_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX batch_event_batch ON noshi.batch_event USING btree (batch, happened_at);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.batch_event FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.batch_event FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.batch_row (
    batch bigint not null,
    row_no integer not null,
    line integer not null,
    key text not null,
    args jsonb not null,
    mailed boolean not null default false,
    user_id text default (args ->> 'user'::text),
    amount bigint default (((args -> 'value'::text) ->> 'amount'::text))::bigint,
    currency text default ((args -> 'value'::text) ->> 'currency'::text),
    constraint batch_row_pkey PRIMARY KEY (batch, row_no),
    constraint batch_row_batch_fkey FOREIGN KEY (batch) REFERENCES noshi.batch(id),
    constraint batch_row_check CHECK (amount IS NULL OR amount > 0 AND key = (args ->> 'grant'::text) AND COALESCE(user_id, ''::text) <> ''::text AND COALESCE(currency, ''::text) <> ''::text),
    constraint batch_row_row_no_check CHECK (row_no > 0),
    constraint days_are_days CHECK (COALESCE(args ->> 'valid_days'::text, '1'::text) ~ '^[0-9]{1,4}$'::text),
    constraint points_add_up CHECK (currency IS DISTINCT FROM 'PT'::text OR NOT ((args ->> 'points'::text)::bigint) IS DISTINCT FROM amount AND NOT key IS DISTINCT FROM (((args ->> 'benefit'::text) || ':'::text) || (args ->> 'source'::text)))
);
CREATE INDEX batch_row_key ON noshi.batch_row USING btree (key);
CREATE INDEX batch_row_user ON noshi.batch_row USING btree (user_id) WHERE (user_id IS NOT NULL);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.batch_row FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.batch_row FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER only_while_received AFTER INSERT ON noshi.batch_row REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION noshi.batch_row_guard();

create unlogged table noshi.bell (
    worker bigint not null,
    until timestamp with time zone not null,
    constraint bell_pkey PRIMARY KEY (worker),
    constraint times_are_sane CHECK (until >= '1900-01-01 00:00:00+00'::timestamp with time zone AND until <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.benefit_exercise (
    id bigint generated always as identity,
    benefit text not null,
    source text not null,
    user_id text not null,
    at timestamp with time zone not null,
    constraint benefit_exercise_pkey PRIMARY KEY (id),
    constraint benefit_exercise_benefit_check CHECK (benefit <> ''::text),
    constraint benefit_exercise_source_check CHECK (source <> ''::text),
    constraint benefit_exercised_once UNIQUE (benefit, source),
    constraint times_are_sane CHECK (at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.benefit_exercise FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.benefit_exercise FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.email_event (
    id text not null,
    job bigint,
    event text not null,
    message text,
    happened_at timestamp with time zone,
    received_at timestamp with time zone not null default clock_timestamp(),
    detail text,
    oddity text,
    awaits bigint,
    constraint email_event_pkey PRIMARY KEY (id),
    constraint email_event_event_check CHECK (event ~ '^[a-z][a-z_]{0,62}$'::text),
    constraint email_event_id_check CHECK (octet_length(id) >= 1 AND octet_length(id) <= 200),
    constraint email_event_oddity_check CHECK (oddity = ANY (ARRAY['foreign'::text, 'unread'::text])),
    constraint texts_are_short CHECK (octet_length(message) <= 1000 AND octet_length(detail) <= 4000),
    constraint times_are_sane CHECK ((happened_at IS NULL OR happened_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND happened_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND received_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND received_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX email_event_job ON noshi.email_event USING btree (job, received_at) WHERE (job IS NOT NULL);
CREATE INDEX email_event_received ON noshi.email_event USING btree (received_at);
CREATE INDEX email_event_unmatched ON noshi.email_event USING btree (message) WHERE ((job IS NULL) AND (message IS NOT NULL));

create table noshi.email_quota (
    lane text not null,
    asked_at timestamp with time zone not null default '-infinity'::timestamp with time zone,
    per_second real,
    per_day real,
    sent real,
    told_at timestamp with time zone,
    constraint email_quota_pkey PRIMARY KEY (lane),
    constraint email_quota_lane_fkey FOREIGN KEY (lane) REFERENCES noshi.lane(name),
    constraint quota_is_sane CHECK (per_second >= '-1'::integer::double precision AND per_second <= 1000000000::double precision AND per_day >= '-1'::integer::double precision AND per_day <= '1000000000000'::bigint::double precision AND sent >= '-1'::integer::double precision AND sent <= '1000000000000'::bigint::double precision),
    constraint times_are_sane CHECK ((asked_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND asked_at <= '9999-12-31 00:00:00+00'::timestamp with time zone OR asked_at = '-infinity'::timestamp with time zone) AND (told_at IS NULL OR told_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND told_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
) with (fillfactor=50);

create table noshi.fact (
    job bigint not null,
    step integer not null,
    name text not null,
    kind text not null,
    key text not null,
    body jsonb not null,
    recorded_at timestamp with time zone not null default clock_timestamp(),
    constraint fact_pkey PRIMARY KEY (job, step, name),
    constraint body_is_small CHECK (octet_length(body::text) <= 65536),
    constraint job_is_named CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'::text AND octet_length(key) <= 1000),
    constraint name_is_one CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'::text),
    constraint times_are_sane CHECK (recorded_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND recorded_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX fact_key ON noshi.fact USING btree (kind, key);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.fact FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.fact FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER of_a_job_in_flight BEFORE INSERT ON noshi.fact FOR EACH ROW WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.own_fact_guard();

create table noshi.failover (
    timeline text not null,
    was text not null,
    seen_at timestamp with time zone not null default clock_timestamp(),
    known_to timestamp with time zone not null,
    missing bigint not null default 0,
    silent integer not null default 0,
    overrun boolean not null default false,
    doubted bigint not null default 0,
    verdict text,
    dealt_at timestamp with time zone,
    dealing_since timestamp with time zone,
    paged jsonb not null default '{}'::jsonb,
    reached bigint not null default 0,
    said_by name,
    windowed boolean not null default false,
    constraint failover_pkey PRIMARY KEY (timeline),
    constraint failover_verdict_check CHECK (verdict = ANY (ARRAY['whole'::text, 'lost'::text])),
    constraint times_are_sane CHECK (seen_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND seen_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND known_to >= '1900-01-01 00:00:00+00'::timestamp with time zone AND known_to <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (dealt_at IS NULL OR dealt_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND dealt_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (dealing_since IS NULL OR dealing_since >= '1900-01-01 00:00:00+00'::timestamp with time zone AND dealing_since <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);

create table noshi.gift_outcome (
    trade text not null,
    outcome text not null,
    card text,
    reason text,
    happened_at timestamp with time zone not null default clock_timestamp(),
    constraint gift_outcome_pkey PRIMARY KEY (trade, outcome),
    constraint gift_outcome_outcome_check CHECK (outcome = ANY (ARRAY['issued'::text, 'refused'::text, 'void'::text])),
    constraint gift_outcome_trade_fkey FOREIGN KEY (trade) REFERENCES noshi.gift_trade(id),
    constraint times_are_sane CHECK (happened_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND happened_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX gift_outcome_time ON noshi.gift_outcome USING brin (happened_at) WITH (pages_per_range='32');
CREATE TRIGGER of_a_job_in_flight BEFORE INSERT ON noshi.gift_outcome FOR EACH ROW WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.fact_guard();
CREATE TRIGGER word_is_not_against_a_fact BEFORE INSERT ON noshi.gift_outcome FOR EACH ROW WHEN (new.outcome = 'void'::text AND new.reason = 'attested'::text) EXECUTE FUNCTION noshi.word_guard();

create table noshi.gift_past (
    job bigint not null,
    generation smallint not null,
    partners text[] not null,
    owed boolean not null,
    noted_at timestamp with time zone not null default clock_timestamp(),
    proven_at timestamp with time zone,
    constraint gift_past_pkey PRIMARY KEY (job, generation),
    constraint times_are_sane CHECK (noted_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND noted_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (proven_at IS NULL OR proven_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND proven_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);

create table noshi.gift_trade (
    id text not null,
    grant_id text not null,
    generation smallint not null,
    job bigint not null,
    provider text not null,
    category text not null,
    amount bigint not null,
    currency text not null,
    started_at timestamp with time zone not null default clock_timestamp(),
    constraint gift_trade_pkey PRIMARY KEY (id),
    constraint gift_trade_amount_check CHECK (amount > 0),
    constraint gift_trade_grant_id_generation_key UNIQUE (grant_id, generation),
    constraint times_are_sane CHECK (started_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND started_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX gift_trade_time ON noshi.gift_trade USING brin (started_at) WITH (pages_per_range='32');
CREATE TRIGGER bought_as_granted BEFORE INSERT ON noshi.gift_trade FOR EACH ROW EXECUTE FUNCTION noshi.bought_as_granted();
CREATE TRIGGER of_a_job_in_flight BEFORE INSERT ON noshi.gift_trade FOR EACH ROW WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.fact_guard();

create table noshi.job (
    id bigint generated always as identity,
    kind text not null,
    key text not null,
    fingerprint bytea not null,
    args jsonb not null,
    at text not null default 'new'::text,
    state jsonb,
    undo jsonb,
    status noshi.job_status not null default 'available'::noshi.job_status,
    outcome text,
    code text,
    detail text,
    lane text not null default ''::text,
    reserved boolean not null default false,
    priority smallint not null default 1,
    rank bigint not null default 0,
    run_at timestamp with time zone not null default clock_timestamp(),
    lease bigint not null default 0,
    worker bigint,
    step integer not null default 0,
    crash_count smallint not null default 0,
    retries integer not null default 0,
    writes boolean not null default false,
    in_doubt boolean not null default false,
    called_at timestamp with time zone,
    batch bigint,
    row_no integer not null default 0,
    created_at timestamp with time zone not null default clock_timestamp(),
    entered_at timestamp with time zone not null default clock_timestamp(),
    waited interval not null default '00:00:00'::interval,
    finished_at timestamp with time zone,
    requested_act text,
    status_before noshi.job_status,
    traceparent text default 
CASE
    WHEN (current_setting('noshi.traceparent'::text, true) <> ''::text) THEN noshi.traceparent(current_setting('noshi.traceparent'::text, true))
    ELSE NULL::text
END,
    acknowledged integer,
    asked_by text,
    constraint job_pkey PRIMARY KEY (id),
    constraint job_key UNIQUE (kind, key),
    constraint job_key_check CHECK (key <> ''::text),
    constraint job_traceparent CHECK (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$'::text),
    constraint place_is_sane CHECK (rank >= 0 AND rank <= '4000000000000000'::bigint AND waited >= '00:00:00'::interval AND waited <= '1000 years'::interval),
    constraint times_are_sane CHECK ((run_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND run_at <= '9999-12-31 00:00:00+00'::timestamp with time zone OR run_at = 'infinity'::timestamp with time zone) AND (called_at IS NULL OR called_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND called_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND created_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND created_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND entered_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND entered_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (finished_at IS NULL OR finished_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND finished_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
) with (fillfactor=70, autovacuum_vacuum_scale_factor=0.01, autovacuum_vacuum_threshold=1000);
CREATE INDEX job_available ON noshi.job USING btree (lane, reserved, priority, rank, id) WHERE ((status = 'available'::noshi.job_status) AND (crash_count = 0));
CREATE INDEX job_batch ON noshi.job USING btree (batch, row_no) WHERE (batch IS NOT NULL);
CREATE INDEX job_code ON noshi.job USING btree (code, id) WHERE (code IS NOT NULL);
CREATE INDEX job_due ON noshi.job USING btree (run_at) WHERE (status = ANY (ARRAY['scheduled'::noshi.job_status, 'retryable'::noshi.job_status]));
CREATE INDEX job_finished ON noshi.job USING btree (finished_at, id) WHERE (finished_at IS NOT NULL);
CREATE INDEX job_held ON noshi.job USING btree (worker) WHERE (status = 'running'::noshi.job_status);
CREATE INDEX job_in_doubt ON noshi.job USING btree (called_at) WHERE in_doubt;
CREATE INDEX job_of_points_source ON noshi.job USING btree (((args ->> 'source'::text))) WHERE (kind = 'point_grant'::text);
CREATE INDEX job_of_points_user ON noshi.job USING btree (((args ->> 'user'::text))) WHERE (kind = ANY (ARRAY['point_grant'::text, 'point_exchange'::text, 'point_withdrawal'::text]));
CREATE INDEX job_of_store ON noshi.job USING btree (((args ->> 'public_id'::text))) WHERE (kind = 'store_creation'::text);
CREATE INDEX job_of_user ON noshi.job USING btree (((args ->> 'user'::text))) WHERE (kind = 'gift_issuance'::text);
CREATE INDEX job_parked ON noshi.job USING btree (code) WHERE (status = 'needs_operator'::noshi.job_status);
CREATE INDEX job_stopped ON noshi.job USING btree (status, id) WHERE (status = ANY (ARRAY['needs_operator'::noshi.job_status, 'failed'::noshi.job_status, 'cancelled'::noshi.job_status]));
CREATE INDEX job_store ON noshi.job USING btree (((args ->> 'public_id'::text))) WHERE ((kind = 'store_creation'::text) AND (status <> ALL (ARRAY['completed'::noshi.job_status, 'failed'::noshi.job_status, 'cancelled'::noshi.job_status])));
CREATE INDEX job_suspect ON noshi.job USING btree (lane, id) WHERE ((status = 'available'::noshi.job_status) AND (crash_count > 0));
CREATE TRIGGER follows AFTER INSERT ON noshi.job REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.follows_guard();
CREATE TRIGGER hands BEFORE UPDATE ON noshi.job FOR EACH ROW WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.hands_guard();
CREATE TRIGGER match_email_events AFTER UPDATE OF state ON noshi.job FOR EACH ROW WHEN (new.kind = 'email'::text AND new.at = 'accepted'::text AND old.at <> 'accepted'::text) EXECUTE FUNCTION noshi.match_email_events();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.job FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER of_a_saved_trade BEFORE UPDATE ON noshi.job FOR EACH ROW WHEN (new.kind = 'gift_issuance'::text AND (new.at = ANY (ARRAY['issuing'::text, 'inquiring'::text, 'pending'::text, 'cancelling'::text])) AND (new.state -> 'trade'::text) IS DISTINCT FROM (old.state -> 'trade'::text) AND NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.trade_guard();
CREATE TRIGGER only_pruned BEFORE DELETE ON noshi.job FOR EACH ROW EXECUTE FUNCTION noshi.only_what_is_pruned();
CREATE TRIGGER parked_anew BEFORE UPDATE OF status ON noshi.job FOR EACH ROW WHEN (new.status = 'needs_operator'::noshi.job_status AND old.status <> 'needs_operator'::noshi.job_status AND new.acknowledged IS NOT NULL) EXECUTE FUNCTION noshi.parked_anew();
CREATE TRIGGER prove_past AFTER UPDATE OF in_doubt ON noshi.job FOR EACH ROW WHEN (old.in_doubt AND NOT new.in_doubt AND new.kind = 'gift_issuance'::text) EXECUTE FUNCTION noshi.prove_past();
CREATE TRIGGER unsettle_batch AFTER UPDATE OF requested_act ON noshi.job FOR EACH ROW WHEN (new.requested_act IS NOT NULL AND old.requested_act IS NULL AND new.batch IS NOT NULL) EXECUTE FUNCTION noshi.unsettle_batch();

create table noshi.job_event (
    job bigint not null,
    id bigint generated always as identity,
    happened_at timestamp with time zone not null default clock_timestamp(),
    event text not null,
    lease bigint not null,
    step integer not null,
    worker bigint,
    was text,
    became text,
    outcome text,
    code text,
    detail text,
    constraint job_event_pkey PRIMARY KEY (job, step, id),
    constraint times_are_sane CHECK (happened_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND happened_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.job_event FOR EACH ROW EXECUTE FUNCTION noshi.only_what_is_pruned();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.job_event FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER of_workers AFTER INSERT ON noshi.job_event REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.journal_guard();

create table noshi.kind (
    name text not null,
    for_tests boolean not null default false,
    own boolean not null default false,
    for_producers boolean not null default true,
    id_field text,
    fields jsonb not null default '[]'::jsonb,
    constraint kind_pkey PRIMARY KEY (name),
    constraint kind_fields_check CHECK (octet_length(fields::text) <= 65536),
    constraint kind_id_field_check CHECK (id_field ~ '^[a-z][a-z0-9_]{0,62}$'::text),
    constraint kind_name_check CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'::text)
);

create table noshi.lane (
    name text not null,
    paused boolean not null default false,
    closed_until timestamp with time zone,
    closed_code text,
    closed_at timestamp with time zone,
    vtime bigint not null default 0,
    tokens bigint not null default 0,
    reserve integer not null default 5,
    server text not null default ''::text,
    obeyed bigint not null default 0,
    constraint lane_pkey PRIMARY KEY (name),
    constraint counts_are_sane CHECK (vtime >= 0 AND vtime <= '1000000000000000'::bigint AND tokens >= 0 AND tokens <= '1000000000000000'::bigint AND octet_length(server) <= 200 AND octet_length(name) <= 200),
    constraint lane_closed_code_check CHECK (closed_code = ANY (ARRAY['funds'::text, 'credentials'::text, 'sender'::text, 'tls_unknown_ca'::text, 'tls_expired'::text, 'tls_wrong_host'::text, 'tls_old_version'::text, 'tls_failed'::text])),
    constraint lane_reserve_check CHECK (reserve > 0),
    constraint times_are_sane CHECK ((closed_until IS NULL OR closed_until >= '1900-01-01 00:00:00+00'::timestamp with time zone AND closed_until <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (closed_at IS NULL OR closed_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND closed_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
) with (fillfactor=50);

create table noshi.lane_budget (
    lane text not null,
    per interval not null,
    calls integer not null,
    burst integer not null default 1,
    jitter interval not null default '00:00:00.05'::interval,
    tat timestamp with time zone not null default '-infinity'::timestamp with time zone,
    declared_calls integer,
    declared_burst integer,
    most integer,
    late interval not null default '00:00:00'::interval,
    late_at timestamp with time zone not null default '-infinity'::timestamp with time zone,
    constraint lane_budget_pkey PRIMARY KEY (lane, per),
    constraint budgets_are_sane CHECK (lane <> ''::text AND date_part('year'::text, per) = 0::double precision AND date_part('month'::text, per) = 0::double precision AND date_part('year'::text, jitter) = 0::double precision AND date_part('month'::text, jitter) = 0::double precision AND date_part('year'::text, late) = 0::double precision AND date_part('month'::text, late) = 0::double precision AND per >= '00:00:00.001'::interval AND per <= '31 days'::interval AND jitter >= '00:00:00'::interval AND jitter <= '01:00:00'::interval),
    constraint emission_is_sane CHECK (((per + jitter) / (calls - burst + 1)::double precision) >= '00:00:00.000001'::interval AND (EXTRACT(epoch FROM per + jitter) * (burst - 1)::numeric / (calls - burst + 1)::numeric) <= '100000000000'::bigint::numeric),
    constraint lane_budget_calls_check CHECK (calls > 0),
    constraint lane_budget_check CHECK (burst >= 1 AND burst <= calls),
    constraint lane_budget_lane_fkey FOREIGN KEY (lane) REFERENCES noshi.lane(name),
    constraint lane_budget_late_check CHECK (late >= '00:00:00'::interval AND late <= '00:01:00'::interval),
    constraint lane_budget_most_check CHECK (most > 0),
    constraint times_are_sane CHECK ((tat >= '1900-01-01 00:00:00+00'::timestamp with time zone AND tat <= '9999-12-31 00:00:00+00'::timestamp with time zone OR tat = '-infinity'::timestamp with time zone) AND (late_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND late_at <= '9999-12-31 00:00:00+00'::timestamp with time zone OR late_at = '-infinity'::timestamp with time zone))
) with (fillfactor=50);
CREATE TRIGGER keep_to_most BEFORE INSERT OR UPDATE OF calls, burst ON noshi.lane_budget FOR EACH ROW EXECUTE FUNCTION noshi.keep_to_most();

create table noshi.lane_limit (
    lane text not null,
    per interval not null,
    most integer,
    constraint lane_limit_pkey PRIMARY KEY (lane, per),
    constraint lane_limit_most_check CHECK (most > 0)
);

create table noshi.lane_order (
    lane text not null,
    no bigint not null default 0,
    opened bigint not null default 0,
    paused boolean not null default false,
    constraint lane_order_pkey PRIMARY KEY (lane)
);

create table noshi.lost_call (
    kind text not null,
    key text not null,
    lease bigint not null,
    called_at timestamp with time zone not null,
    timeline text not null,
    constraint lost_call_pkey PRIMARY KEY (kind, key),
    constraint times_are_sane CHECK (called_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND called_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.metric_snapshot (
    name text not null,
    labels jsonb not null default '{}'::jsonb,
    value double precision not null,
    constraint metric_snapshot_pkey PRIMARY KEY (name, labels),
    constraint texts_are_short CHECK (octet_length(name) <= 200 AND octet_length(labels::text) <= 2000)
) with (fillfactor=50);

create table noshi.metric_snapshot_taken (
    one boolean not null default true,
    next_at timestamp with time zone not null default clock_timestamp(),
    taken_at timestamp with time zone,
    took interval,
    oldest xid8,
    oldest_at timestamp with time zone,
    constraint metric_snapshot_taken_pkey PRIMARY KEY (one),
    constraint metric_snapshot_taken_one_check CHECK (one),
    constraint times_are_sane CHECK (next_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND next_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (taken_at IS NULL OR taken_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND taken_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (oldest_at IS NULL OR oldest_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND oldest_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);

create table noshi.organization_cache (
    organization text not null,
    name text,
    version bigint not null,
    told_at timestamp with time zone not null default clock_timestamp(),
    constraint organization_cache_pkey PRIMARY KEY (organization),
    constraint organization_cache_version_check CHECK (version > 0),
    constraint texts_are_short CHECK (octet_length(organization) <= 200 AND octet_length(name) <= 1000),
    constraint times_are_sane CHECK (told_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND told_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.person (
    who text not null,
    holds bigint,
    held_in xid8,
    constraint person_pkey PRIMARY KEY (who)
);

create table noshi.point_account (
    code noshi.point_account_code not null,
    name text not null,
    normal text not null,
    constraint point_account_pkey PRIMARY KEY (code),
    constraint point_account_normal_check CHECK (normal = ANY (ARRAY['D'::text, 'C'::text]))
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.point_account FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.point_account FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.point_allocation (
    lot bigint not null,
    entry bigint not null,
    amount bigint not null,
    constraint point_allocation_pkey PRIMARY KEY (lot, entry),
    constraint point_allocation_amount_check CHECK (amount > 0),
    constraint point_allocation_entry_fkey FOREIGN KEY (entry) REFERENCES noshi.point_entry(id),
    constraint point_allocation_lot_fkey FOREIGN KEY (lot) REFERENCES noshi.point_lot(id)
);
CREATE INDEX point_allocation_entry ON noshi.point_allocation USING btree (entry);
CREATE TRIGGER add_up AFTER INSERT ON noshi.point_allocation REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION noshi.point_allocations_add_up();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.point_allocation FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.point_allocation FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.point_entry (
    id bigint generated always as identity,
    key text not null,
    digest bytea not null,
    kind text not null,
    user_id text not null,
    seq bigint not null,
    at timestamp with time zone not null,
    recorded_at timestamp with time zone not null default clock_timestamp(),
    amount bigint not null,
    balance bigint not null,
    area text,
    exercise bigint,
    reverses bigint,
    job bigint,
    constraint point_entry_pkey PRIMARY KEY (id),
    constraint point_entry_balance_check CHECK (balance >= 0),
    constraint point_entry_check CHECK (area <> ''::text AND (area IS NULL OR kind = 'use'::text)),
    constraint point_entry_check1 CHECK ((exercise IS NOT NULL) = (kind = 'grant'::text)),
    constraint point_entry_check2 CHECK ((reverses IS NOT NULL) = (kind = 'reverse'::text)),
    constraint point_entry_check3 CHECK (
CASE kind
    WHEN 'grant'::text THEN amount > 0
    WHEN 'reverse'::text THEN amount > 0
    WHEN 'withdraw'::text THEN amount <= 0
    ELSE amount < 0
END),
    constraint point_entry_check4 CHECK ((kind = 'expire'::text) = starts_with(key, 'expire:'::text)),
    constraint point_entry_digest_check CHECK (octet_length(digest) = 32),
    constraint point_entry_exercise_fkey FOREIGN KEY (exercise) REFERENCES noshi.benefit_exercise(id),
    constraint point_entry_exercise_key UNIQUE (exercise),
    constraint point_entry_key UNIQUE (key),
    constraint point_entry_kind_check CHECK (kind = ANY (ARRAY['grant'::text, 'use'::text, 'reverse'::text, 'expire'::text, 'withdraw'::text])),
    constraint point_entry_reverses_fkey FOREIGN KEY (reverses) REFERENCES noshi.point_entry(id),
    constraint point_entry_reverses_key UNIQUE (reverses),
    constraint point_entry_seq UNIQUE (user_id, seq),
    constraint point_entry_seq_check CHECK (seq > 0),
    constraint point_entry_user_id_fkey FOREIGN KEY (user_id) REFERENCES noshi.point_owner(user_id),
    constraint times_are_sane CHECK (at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND recorded_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND recorded_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX point_entry_at ON noshi.point_entry USING btree (at, id);
CREATE INDEX point_entry_user_at ON noshi.point_entry USING btree (user_id, at, seq);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.point_entry FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.point_entry FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER whole AFTER INSERT ON noshi.point_entry REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION noshi.point_entries_are_whole();

create table noshi.point_line (
    entry bigint not null,
    account noshi.point_account_code not null,
    side text not null,
    amount bigint not null,
    constraint point_line_pkey PRIMARY KEY (entry, account),
    constraint point_line_amount_check CHECK (amount > 0),
    constraint point_line_entry_fkey FOREIGN KEY (entry) REFERENCES noshi.point_entry(id),
    constraint point_line_side_check CHECK (side = ANY (ARRAY['D'::text, 'C'::text]))
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.point_line FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER balance AFTER INSERT ON noshi.point_line REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION noshi.point_lines_balance();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.point_line FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.point_lot (
    id bigint generated always as identity,
    entry bigint not null,
    user_id text not null,
    amount bigint not null,
    remaining bigint not null,
    granted_at timestamp with time zone not null,
    expires_at timestamp with time zone not null,
    area text,
    open boolean not null default (remaining > 0),
    constraint point_lot_pkey PRIMARY KEY (id),
    constraint point_lot_amount_check CHECK (amount > 0),
    constraint point_lot_area_check CHECK (area <> ''::text),
    constraint point_lot_check CHECK (remaining >= 0 AND remaining <= amount),
    constraint point_lot_entry_fkey FOREIGN KEY (entry) REFERENCES noshi.point_entry(id),
    constraint times_are_sane CHECK (granted_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND granted_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND expires_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND expires_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
) with (fillfactor=80, autovacuum_vacuum_scale_factor=0.01, autovacuum_vacuum_threshold=1000);
CREATE INDEX point_lot_area ON noshi.point_lot USING btree (user_id, expires_at) WHERE (area IS NOT NULL);
CREATE INDEX point_lot_due ON noshi.point_lot USING btree (expires_at, id) WHERE open;
CREATE INDEX point_lot_entry ON noshi.point_lot USING btree (entry);
CREATE INDEX point_lot_open ON noshi.point_lot USING btree (user_id, expires_at, granted_at, id) WHERE open;
CREATE TRIGGER add_up AFTER INSERT ON noshi.point_lot REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION noshi.point_lots_add_up();
CREATE TRIGGER append_only BEFORE DELETE ON noshi.point_lot FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.point_lot FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER only_allocations BEFORE UPDATE ON noshi.point_lot FOR EACH ROW WHEN (pg_trigger_depth() = 0 OR new.remaining >= old.remaining OR new.id IS DISTINCT FROM old.id OR new.entry IS DISTINCT FROM old.entry OR new.user_id IS DISTINCT FROM old.user_id OR new.amount IS DISTINCT FROM old.amount OR new.granted_at IS DISTINCT FROM old.granted_at OR new.expires_at IS DISTINCT FROM old.expires_at OR new.area IS DISTINCT FROM old.area) EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.point_owner (
    user_id text not null,
    constraint point_owner_pkey PRIMARY KEY (user_id),
    constraint point_owner_user_id_check CHECK (user_id <> ''::text)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.point_owner FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.point_owner FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.probe_note (
    id bigint generated always as identity,
    job bigint not null,
    text text not null,
    written_at timestamp with time zone not null default clock_timestamp(),
    constraint probe_note_pkey PRIMARY KEY (id),
    constraint times_are_sane CHECK (written_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND written_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.probe_tally (
    name text not null,
    job bigint not null,
    taken_at timestamp with time zone not null default clock_timestamp(),
    constraint probe_tally_pkey PRIMARY KEY (name),
    constraint times_are_sane CHECK (taken_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND taken_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.proposal (
    id bigint generated always as identity,
    act text not null,
    target text not null,
    job bigint,
    step integer,
    kind text,
    key text,
    at text,
    in_doubt boolean,
    restored_to timestamp with time zone,
    amount bigint,
    currency text not null,
    reason text not null,
    proposed_by text not null,
    proposed_at timestamp with time zone not null default clock_timestamp(),
    expires_at timestamp with time zone not null default (clock_timestamp() + '24:00:00'::interval),
    digest bytea not null,
    decision text,
    decided_by text,
    decided_at timestamp with time zone,
    decision_reason text,
    constraint proposal_pkey PRIMARY KEY (id),
    constraint proposal_act_fkey FOREIGN KEY (act) REFERENCES noshi.word_act(act),
    constraint proposal_check CHECK ((decision IS NULL) = (decided_at IS NULL)),
    constraint proposal_check1 CHECK ((act ~~ 'restore%'::text) = (job IS NULL)),
    constraint proposal_check2 CHECK (decision <> 'confirmed'::text OR decided_by <> proposed_by),
    constraint proposal_decision_check CHECK (decision = ANY (ARRAY['confirmed'::text, 'alone'::text, 'refused'::text, 'lapsed'::text])),
    constraint proposal_digest_check CHECK (octet_length(digest) = 32),
    constraint reasons_are_short CHECK (octet_length(reason) <= 4000 AND octet_length(decision_reason) <= 4000),
    constraint times_are_sane CHECK ((restored_to IS NULL OR restored_to >= '1900-01-01 00:00:00+00'::timestamp with time zone AND restored_to <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND proposed_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND proposed_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND expires_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND expires_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (decided_at IS NULL OR decided_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND decided_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);
CREATE INDEX proposal_of ON noshi.proposal USING btree (proposed_by, proposed_at);
CREATE INDEX proposal_of_job ON noshi.proposal USING btree (job) WHERE (job IS NOT NULL);
CREATE UNIQUE INDEX proposal_open ON noshi.proposal USING btree (target) WHERE (decision IS NULL);
CREATE TRIGGER frozen BEFORE DELETE OR UPDATE ON noshi.proposal FOR EACH ROW EXECUTE FUNCTION noshi.proposal_guard();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.proposal FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create unlogged table noshi.reading (
    id bigint generated always as identity,
    kind text not null,
    subject text not null,
    asked_by text not null default noshi.who(),
    scope text not null,
    public_key text not null,
    asked_at timestamp with time zone not null default clock_timestamp(),
    deadline timestamp with time zone not null default (clock_timestamp() + '00:00:10'::interval),
    worker bigint,
    take integer not null default 0,
    left_by bigint[] not null default '{}'::bigint[],
    left_why text[] not null default '{}'::text[],
    ended_at timestamp with time zone,
    trouble text,
    sentence text,
    wait double precision not null default 0,
    constraint reading_pkey PRIMARY KEY (id),
    constraint reading_kind_check CHECK (kind = ANY (ARRAY['code'::text, 'report'::text, 'check'::text])),
    constraint reading_public_key_check CHECK (octet_length(public_key) >= 1 AND octet_length(public_key) <= 1000),
    constraint reading_sentence_check CHECK (octet_length(sentence) <= 1000),
    constraint reading_trouble_check CHECK (trouble ~ '^[a-z_]{1,30}$'::text),
    constraint reading_wait_check CHECK (wait >= 0::double precision AND wait <= 86400::double precision),
    constraint times_are_sane CHECK (asked_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND asked_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND deadline >= '1900-01-01 00:00:00+00'::timestamp with time zone AND deadline <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (ended_at IS NULL OR ended_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND ended_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);
CREATE TRIGGER forget_parts AFTER DELETE ON noshi.reading FOR EACH ROW EXECUTE FUNCTION noshi.forget_parts();

create table noshi.redrive (
    id bigint generated always as identity,
    filter jsonb not null,
    planned_by text not null default noshi.who(),
    planned_at timestamp with time zone not null default clock_timestamp(),
    expires_at timestamp with time zone not null default (clock_timestamp() + '01:00:00'::interval),
    jobs integer not null,
    refused integer not null,
    totals jsonb not null,
    tokens jsonb not null,
    lasts interval not null,
    digest bytea not null,
    needs_approval boolean not null,
    approved_by text,
    approved_at timestamp with time zone,
    applied_by text,
    applied_at timestamp with time zone,
    reason text,
    per_minute integer,
    canary integer,
    canary_at timestamp with time zone,
    next_at timestamp with time zone,
    paused_code text,
    paused_detail text,
    paused_at timestamp with time zone,
    cancelled_at timestamp with time zone,
    done_at timestamp with time zone,
    constraint redrive_pkey PRIMARY KEY (id),
    constraint redrive_canary_check CHECK (canary > 0),
    constraint redrive_check CHECK (approved_by <> planned_by AND approved_by <> applied_by),
    constraint redrive_digest_check CHECK (octet_length(digest) = 32),
    constraint redrive_paused_code_check CHECK (paused_code = ANY (ARRAY['operator'::text, 'canary'::text, 'fault'::text])),
    constraint redrive_per_minute_check CHECK (per_minute >= 1 AND per_minute <= 1000000),
    constraint texts_are_short CHECK (octet_length(filter::text) <= 2000 AND octet_length(reason) <= 4000 AND octet_length(paused_detail) <= 4000 AND octet_length(totals::text) <= 10000 AND octet_length(tokens::text) <= 50000),
    constraint times_are_sane CHECK (planned_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND planned_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND expires_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND expires_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (approved_at IS NULL OR approved_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND approved_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (applied_at IS NULL OR applied_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND applied_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (canary_at IS NULL OR canary_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND canary_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (next_at IS NULL OR next_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND next_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (paused_at IS NULL OR paused_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND paused_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (cancelled_at IS NULL OR cancelled_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND cancelled_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (done_at IS NULL OR done_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND done_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);
CREATE INDEX redrive_open ON noshi.redrive USING btree (next_at) WHERE ((applied_at IS NOT NULL) AND (done_at IS NULL) AND (cancelled_at IS NULL) AND (paused_at IS NULL));

create table noshi.redrive_cap (
    id bigint generated always as identity,
    jobs integer not null,
    amount bigint not null,
    set_by text not null default noshi.who(),
    set_at timestamp with time zone not null default clock_timestamp(),
    constraint redrive_cap_pkey PRIMARY KEY (id),
    constraint redrive_cap_amount_check CHECK (amount >= 0),
    constraint redrive_cap_jobs_check CHECK (jobs >= 0),
    constraint times_are_sane CHECK (set_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND set_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.redrive_cap FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER audited AFTER INSERT ON noshi.redrive_cap FOR EACH ROW EXECUTE FUNCTION noshi.audit_redrive_cap();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.redrive_cap FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.redrive_row (
    redrive bigint not null,
    n integer not null,
    job bigint not null,
    step integer not null,
    act text,
    refusal text,
    amount bigint,
    currency text,
    lane text,
    status text not null,
    marked_at timestamp with time zone,
    note text,
    constraint redrive_row_pkey PRIMARY KEY (redrive, n),
    constraint redrive_row_act_check CHECK (act = ANY (ARRAY['retry'::text, 'inquire'::text, 'rerun'::text])),
    constraint redrive_row_check CHECK ((status = 'refused'::text) = (refusal IS NOT NULL) AND (act IS NULL) = (refusal IS NOT NULL)),
    constraint redrive_row_redrive_fkey FOREIGN KEY (redrive) REFERENCES noshi.redrive(id),
    constraint redrive_row_redrive_job_key UNIQUE (redrive, job),
    constraint redrive_row_status_check CHECK (status = ANY (ARRAY['refused'::text, 'waiting'::text, 'asked'::text, 'drifted'::text])),
    constraint texts_are_short CHECK (octet_length(refusal) <= 2000 AND octet_length(currency) <= 20 AND octet_length(lane) <= 200 AND octet_length(note) <= 4000),
    constraint times_are_sane CHECK (marked_at IS NULL OR marked_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND marked_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX redrive_row_waiting ON noshi.redrive_row USING btree (redrive, n) WHERE (status = 'waiting'::text);
CREATE TRIGGER frozen BEFORE DELETE OR UPDATE ON noshi.redrive_row FOR EACH ROW EXECUTE FUNCTION noshi.redrive_row_guard();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.redrive_row FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.retention (
    one boolean not null default true,
    jobs_for interval not null default '90 days'::interval,
    archive_for interval not null default '2 years'::interval,
    archive_was interval,
    shortened_at timestamp with time zone,
    every interval not null default '01:00:00'::interval,
    begun_at timestamp with time zone not null default clock_timestamp(),
    constraint retention_pkey PRIMARY KEY (one),
    constraint retention_archive_for_check CHECK (noshi.lasts(archive_for, '90 days'::interval, '100 years'::interval)),
    constraint retention_archive_was_check CHECK (noshi.lasts(archive_was, '90 days'::interval, '100 years'::interval)),
    constraint retention_check CHECK ((archive_was IS NULL) = (shortened_at IS NULL)),
    constraint retention_every_check CHECK (noshi.lasts(every, '00:00:01'::interval, '100 years'::interval)),
    constraint retention_jobs_for_check CHECK (noshi.lasts(jobs_for, '1 day'::interval, '100 years'::interval)),
    constraint retention_one_check CHECK (one),
    constraint times_are_sane CHECK (begun_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND begun_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (shortened_at IS NULL OR shortened_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND shortened_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);

create table noshi.reveal_cap (
    who text not null,
    max_per_hour integer not null,
    constraint reveal_cap_pkey PRIMARY KEY (who),
    constraint reveal_cap_max_per_hour_check CHECK (max_per_hour >= 0)
);
CREATE TRIGGER audited AFTER INSERT OR DELETE OR UPDATE ON noshi.reveal_cap FOR EACH ROW EXECUTE FUNCTION noshi.audit_reveal_cap();

create table noshi.schedule (
    name text not null,
    kind text not null,
    key text not null,
    args jsonb not null,
    priority smallint not null,
    cron text not null,
    zone text not null,
    missed text not null,
    next_due timestamp with time zone not null,
    last_due timestamp with time zone,
    last_job bigint,
    fired bigint not null default 0,
    skipped bigint not null default 0,
    stuck text,
    paused_by text,
    paused_at timestamp with time zone,
    paused_reason text,
    created_by text not null default noshi.who(),
    created_at timestamp with time zone not null default clock_timestamp(),
    changed_by text not null default noshi.who(),
    changed_at timestamp with time zone not null default clock_timestamp(),
    constraint schedule_pkey PRIMARY KEY (name),
    constraint cron_is_short CHECK (octet_length(cron) <= 200),
    constraint schedule_args_check CHECK (jsonb_typeof(args) = 'object'::text),
    constraint schedule_key_check CHECK (strpos(key, '{due}'::text) > 0 AND octet_length(key) <= 160),
    constraint schedule_kind_fkey FOREIGN KEY (kind) REFERENCES noshi.schedule_kind(kind),
    constraint schedule_missed_check CHECK (missed = ANY (ARRAY['every'::text, 'latest'::text, 'none'::text])),
    constraint schedule_name_check CHECK (name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'::text),
    constraint schedule_priority_check CHECK (priority = ANY (ARRAY[0, 1])),
    constraint texts_are_short CHECK (octet_length(zone) <= 100 AND octet_length(args::text) <= 65536 AND octet_length(stuck) <= 4000 AND octet_length(paused_reason) <= 4000),
    constraint times_are_sane CHECK (next_due >= '1900-01-01 00:00:00+00'::timestamp with time zone AND next_due <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (last_due IS NULL OR last_due >= '1900-01-01 00:00:00+00'::timestamp with time zone AND last_due <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (paused_at IS NULL OR paused_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND paused_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND created_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND created_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND changed_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND changed_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.schedule_kind (
    kind text not null,
    set_by text not null default noshi.who(),
    set_at timestamp with time zone not null default clock_timestamp(),
    constraint schedule_kind_pkey PRIMARY KEY (kind),
    constraint schedule_kind_kind_check CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'::text),
    constraint times_are_sane CHECK (set_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND set_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE TRIGGER audited AFTER INSERT ON noshi.schedule_kind FOR EACH ROW EXECUTE FUNCTION noshi.audit_schedule_kind();

create table noshi.server_seen (
    one boolean not null default true,
    server text not null,
    timeline text not null,
    seen_at timestamp with time zone not null default clock_timestamp(),
    restored_to timestamp with time zone,
    synchronous boolean not null default false,
    owed integer not null default 0,
    lost_since timestamp with time zone,
    clock_at timestamp with time zone not null default '-infinity'::timestamp with time zone,
    trusted_at timestamp with time zone not null default '-infinity'::timestamp with time zone,
    back_by interval,
    back_from timestamp with time zone,
    era bigint not null default 0,
    era_of text,
    constraint server_seen_pkey PRIMARY KEY (one),
    constraint server_seen_one_check CHECK (one),
    constraint server_seen_owed_check CHECK (owed >= 0),
    constraint times_are_sane CHECK (seen_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND seen_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (restored_to IS NULL OR restored_to >= '1900-01-01 00:00:00+00'::timestamp with time zone AND restored_to <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (lost_since IS NULL OR lost_since >= '1900-01-01 00:00:00+00'::timestamp with time zone AND lost_since <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (clock_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND clock_at <= '9999-12-31 00:00:00+00'::timestamp with time zone OR clock_at = '-infinity'::timestamp with time zone) AND (trusted_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND trusted_at <= '9999-12-31 00:00:00+00'::timestamp with time zone OR trusted_at = '-infinity'::timestamp with time zone) AND (back_from IS NULL OR back_from >= '1900-01-01 00:00:00+00'::timestamp with time zone AND back_from <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);

create table noshi.store (
    public_id text not null,
    organization text not null,
    shop text not null,
    name text not null,
    contact text,
    job bigint not null,
    created_at timestamp with time zone not null default clock_timestamp(),
    constraint store_pkey PRIMARY KEY (public_id),
    constraint store_job_key UNIQUE (job),
    constraint store_shop_key UNIQUE (shop),
    constraint times_are_sane CHECK (created_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND created_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.store FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.store FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER of_a_job_in_flight BEFORE INSERT ON noshi.store FOR EACH ROW WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.fact_guard();

create table noshi.store_cache (
    shop text not null,
    organization text not null,
    public_id text not null,
    name text,
    deleted boolean not null,
    version bigint not null,
    told_at timestamp with time zone not null default clock_timestamp(),
    constraint store_cache_pkey PRIMARY KEY (shop),
    constraint store_cache_version_check CHECK (version > 0),
    constraint texts_are_short CHECK (octet_length(shop) <= 200 AND octet_length(organization) <= 200 AND octet_length(public_id) <= 200 AND octet_length(name) <= 1000),
    constraint times_are_sane CHECK (told_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND told_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX store_cache_public_id ON noshi.store_cache USING btree (public_id);

create table noshi.suppression (
    id text not null,
    digest bytea,
    key_id text not null,
    reason text not null,
    event text not null,
    suppressed_at timestamp with time zone not null default clock_timestamp(),
    tried_at timestamp with time zone,
    constraint suppression_pkey PRIMARY KEY (id),
    constraint suppression_digest_check CHECK (octet_length(digest) = 32),
    constraint suppression_event_fkey FOREIGN KEY (event) REFERENCES noshi.email_event(id),
    constraint suppression_id_check CHECK (octet_length(id) <= 200),
    constraint suppression_key_id_check CHECK (octet_length(key_id) <= 200),
    constraint suppression_reason_check CHECK (reason = ANY (ARRAY['bounced'::text, 'complained'::text])),
    constraint times_are_sane CHECK (suppressed_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND suppressed_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (tried_at IS NULL OR tried_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND tried_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
);
CREATE INDEX suppression_digest ON noshi.suppression USING btree (digest);
CREATE INDEX suppression_undigested ON noshi.suppression USING btree (tried_at NULLS FIRST) WHERE (digest IS NULL);

create table noshi.testimony (
    timeline text not null,
    worker bigint not null,
    job bigint not null,
    lease bigint not null,
    kind text not null,
    key text not null,
    calls boolean not null,
    called_at timestamp with time zone not null,
    login name not null default SESSION_USER,
    constraint testimony_pkey PRIMARY KEY (timeline, worker, job, lease),
    constraint times_are_sane CHECK (called_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND called_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);

create table noshi.token (
    id text not null,
    owner text not null,
    digest bytea not null,
    scopes text[] not null,
    per_second integer not null,
    created_by text not null default SESSION_USER,
    created_at timestamp with time zone not null default clock_timestamp(),
    expires_at timestamp with time zone not null,
    revoked_by text,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    login oid,
    as_operator boolean not null default false,
    parent text,
    constraint token_pkey PRIMARY KEY (id),
    constraint times_are_sane CHECK (created_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND created_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND expires_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND expires_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (revoked_at IS NULL OR revoked_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND revoked_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (last_used_at IS NULL OR last_used_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND last_used_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)),
    constraint token_check CHECK (expires_at > created_at),
    constraint token_digest_check CHECK (octet_length(digest) = 32),
    constraint token_id_check CHECK (id ~ '^[a-z0-9]{12}$'::text),
    constraint token_owner_check CHECK (owner ~ '^[^[:space:]]+$'::text AND owner = noshi.person(owner) AND octet_length(owner) <= 200),
    constraint token_parent_fkey FOREIGN KEY (parent) REFERENCES noshi.token(id),
    constraint token_per_second_check CHECK (per_second >= 1 AND per_second <= 10000),
    constraint token_scopes_check CHECK (cardinality(scopes) >= 1 AND cardinality(scopes) <= 6 AND scopes <@ ARRAY['enqueue'::text, 'read'::text, 'operate'::text, 'approve'::text, 'reveal'::text, 'personal'::text])
);

create table noshi.tombstone (
    id bigint not null,
    kind text not null,
    key text not null,
    fingerprint bytea not null,
    status noshi.job_status not null,
    outcome text,
    code text,
    detail text,
    at text not null,
    about text,
    batch bigint,
    row_no integer not null,
    created_at timestamp with time zone not null,
    finished_at timestamp with time zone not null,
    pruned_at timestamp with time zone not null default clock_timestamp(),
    constraint tombstone_pkey PRIMARY KEY (id),
    constraint times_are_sane CHECK (created_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND created_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND finished_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND finished_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND pruned_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND pruned_at <= '9999-12-31 00:00:00+00'::timestamp with time zone),
    constraint tombstone_key UNIQUE (kind, key),
    constraint tombstone_status_check CHECK (status = ANY (ARRAY['completed'::noshi.job_status, 'failed'::noshi.job_status, 'cancelled'::noshi.job_status]))
);
CREATE INDEX tombstone_about ON noshi.tombstone USING btree (kind, about);
CREATE INDEX tombstone_batch ON noshi.tombstone USING btree (batch, row_no) WHERE (batch IS NOT NULL);
CREATE INDEX tombstone_finished ON noshi.tombstone USING brin (finished_at) WITH (pages_per_range='32');
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.tombstone FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.tombstone FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.turn (
    act text not null,
    constraint turn_pkey PRIMARY KEY (act)
);

create table noshi.vault_key (
    id text not null,
    print text not null,
    login name not null default SESSION_USER,
    told_at timestamp with time zone not null default clock_timestamp(),
    constraint vault_key_pkey PRIMARY KEY (id),
    constraint times_are_sane CHECK (told_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND told_at <= '9999-12-31 00:00:00+00'::timestamp with time zone),
    constraint vault_key_id_check CHECK (octet_length(id) >= 1 AND octet_length(id) <= 32),
    constraint vault_key_login_check CHECK (octet_length(login::text) < 64),
    constraint vault_key_print_check CHECK (print ~ '^[0-9a-f]{64}$'::text)
);

create table noshi.word_act (
    act text not null,
    what text not null,
    constraint word_act_pkey PRIMARY KEY (act)
);

create table noshi.word_cap (
    id bigint generated always as identity,
    currency text not null,
    alone bigint not null,
    most bigint,
    set_by text not null default noshi.who(),
    set_at timestamp with time zone not null default clock_timestamp(),
    constraint word_cap_pkey PRIMARY KEY (id),
    constraint times_are_sane CHECK (set_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND set_at <= '9999-12-31 00:00:00+00'::timestamp with time zone),
    constraint word_cap_alone_check CHECK (alone >= 0),
    constraint word_cap_check CHECK (most >= alone),
    constraint word_cap_currency_check CHECK (currency ~ '^([A-Z]{3})?$'::text)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON noshi.word_cap FOR EACH ROW EXECUTE FUNCTION noshi.journal_is_append_only();
CREATE TRIGGER audited AFTER INSERT ON noshi.word_cap FOR EACH ROW EXECUTE FUNCTION noshi.audit_word_cap();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON noshi.word_cap FOR EACH STATEMENT EXECUTE FUNCTION noshi.journal_is_append_only();

create table noshi.worker (
    id bigint generated always as identity,
    name text not null,
    started_at timestamp with time zone not null default clock_timestamp(),
    seen_at timestamp with time zone not null default clock_timestamp(),
    stopped_at timestamp with time zone,
    dead_at timestamp with time zone,
    timeline text not null default noshi.timeline(),
    beats bigint not null default 0,
    token uuid not null default gen_random_uuid(),
    clock_ahead double precision,
    keys text[],
    login name default SESSION_USER,
    constraint worker_pkey PRIMARY KEY (id),
    constraint texts_are_short CHECK (octet_length(name) <= 1000 AND octet_length(array_to_string(keys, ' '::text)) <= 10000),
    constraint times_are_sane CHECK (started_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND started_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND seen_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND seen_at <= '9999-12-31 00:00:00+00'::timestamp with time zone AND (stopped_at IS NULL OR stopped_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND stopped_at <= '9999-12-31 00:00:00+00'::timestamp with time zone) AND (dead_at IS NULL OR dead_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND dead_at <= '9999-12-31 00:00:00+00'::timestamp with time zone))
) with (fillfactor=50);
CREATE INDEX worker_alive ON noshi.worker USING btree (seen_at) WHERE ((dead_at IS NULL) AND (stopped_at IS NULL));
CREATE TRIGGER of_its_login BEFORE UPDATE ON noshi.worker FOR EACH ROW WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.worker_guard();

create table noshi.zone (
    name text not null,
    constraint zone_pkey PRIMARY KEY (name)
);

create unlogged table noshi_sealed.reading_part (
    reading bigint not null,
    number integer not null,
    key_id text not null,
    nonce bytea not null,
    ciphertext bytea not null,
    constraint reading_part_pkey PRIMARY KEY (reading, number),
    constraint reading_part_ciphertext_check CHECK (octet_length(ciphertext) <= 1048576),
    constraint reading_part_key_id_check CHECK (octet_length(key_id) <= 32),
    constraint reading_part_nonce_check CHECK (octet_length(nonce) = 24),
    constraint reading_part_number_check CHECK (number > 0)
);

create table noshi_sealed.sealed (
    what text not null,
    subject text not null,
    grant_id text not null,
    provider text not null,
    key_id text not null,
    nonce bytea not null,
    ciphertext bytea not null,
    sealed_at timestamp with time zone not null default clock_timestamp(),
    constraint sealed_pkey PRIMARY KEY (what, subject),
    constraint is_no_larger CHECK (octet_length(nonce) <= 24 AND octet_length(ciphertext) <=
CASE what
    WHEN 'file'::text THEN 33554432
    ELSE 16384
END),
    constraint key_is_named CHECK (key_id ~ '^[A-Za-z0-9_-]{1,32}$'::text),
    constraint sealed_what_check CHECK (what = ANY (ARRAY['gift_code'::text, 'recipient'::text, 'contact'::text, 'file'::text, 'suppressed'::text])),
    constraint texts_are_short CHECK (octet_length(subject) <= 400 AND octet_length(grant_id) <= 400 AND octet_length(provider) <= 200),
    constraint times_are_sane CHECK (sealed_at >= '1900-01-01 00:00:00+00'::timestamp with time zone AND sealed_at <= '9999-12-31 00:00:00+00'::timestamp with time zone)
);
CREATE INDEX sealed_key ON noshi_sealed.sealed USING btree (key_id);
CREATE TRIGGER only_with_a_batch AFTER INSERT ON noshi_sealed.sealed REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT WHEN (NOT pg_has_role(CURRENT_USER, 'noshi_owner'::name, 'member'::text)) EXECUTE FUNCTION noshi.sealed_guard();

create view noshi.batch_report as
 SELECT b.id AS batch,
    b.kind,
    b.mode,
    b.campaign,
    b.file,
        CASE
            WHEN b.invalid_at IS NOT NULL THEN 'invalid'::text
            WHEN b.settled_at IS NOT NULL THEN COALESCE(b.totals ->> 'status'::text, 'settled'::text)
            WHEN b.cancelled_at IS NOT NULL THEN 'cancelled'::text
            WHEN b.validated_at IS NULL THEN 'received'::text
            WHEN b.paused_at IS NOT NULL THEN 'paused'::text
            WHEN b.refused_code IS NOT NULL THEN 'refused'::text
            WHEN b.released_at IS NOT NULL THEN 'released'::text
            WHEN b.needs_approval AND b.approved_at IS NULL THEN 'awaiting_approval'::text
            ELSE 'validated'::text
        END AS status,
    b.submitted_by,
    b.approved_by,
    b.released_by,
    b.refused_code AS code,
    b.rows,
    (b.totals ->> 'completed'::text)::bigint AS completed,
    (b.totals ->> 'failed'::text)::bigint AS failed,
    (b.totals ->> 'cancelled'::text)::bigint AS cancelled,
    (b.totals ->> 'skipped'::text)::bigint AS skipped,
    (b.totals ->> 'compensated'::text)::bigint AS compensated,
    (b.totals ->> 'mails_sent'::text)::bigint AS mails_sent,
    (b.totals ->> 'mails_failed'::text)::bigint AS mails_failed,
    b.received_at,
    b.validated_at,
    b.approved_at,
    b.released_at,
    b.registered_at,
    b.cancelled_at,
    b.settled_at
   FROM noshi.batch b;

create view noshi.email_history as
 SELECT j.job,
    split_part(j.key, ':'::text, 1) AS template,
    j.reference,
    j.status,
    j.at AS state,
    j.in_doubt,
    j.code,
    COALESCE(f.fate,
        CASE
            WHEN j.at = 'accepted'::text THEN 'accepted'::text
            ELSE NULL::text
        END) AS fate,
    j.batch,
    j.created_at,
        CASE
            WHEN j.at = 'accepted'::text THEN j.finished_at
            ELSE NULL::timestamp with time zone
        END AS accepted_at,
    f.fate_at,
    j.pruned
   FROM ( SELECT o.id AS job,
            o.key,
            o.args ->> 'reference'::text AS reference,
            o.status::text AS status,
            o.at,
            o.in_doubt,
            o.code,
            o.batch,
            o.created_at,
            o.finished_at,
            false AS pruned
           FROM noshi.job o
          WHERE o.kind = 'email'::text
        UNION ALL
         SELECT t.id,
            t.key,
            t.about,
            t.status::text AS status,
            t.at,
            false,
            t.code,
            t.batch,
            t.created_at,
            t.finished_at,
            true
           FROM noshi.tombstone t
          WHERE t.kind = 'email'::text) j
     LEFT JOIN LATERAL ( SELECT
                CASE e.event
                    WHEN 'delivery'::text THEN 'delivered'::text
                    WHEN 'bounce'::text THEN 'bounced'::text
                    WHEN 'complaint'::text THEN 'complained'::text
                    WHEN 'reject'::text THEN 'rejected'::text
                    WHEN 'rendering_failure'::text THEN 'rejected'::text
                    ELSE NULL::text
                END AS fate,
            COALESCE(e.happened_at, e.received_at) AS fate_at
           FROM noshi.email_event e
          WHERE e.job = j.job AND (e.event = ANY (ARRAY['delivery'::text, 'bounce'::text, 'complaint'::text, 'reject'::text, 'rendering_failure'::text]))
          ORDER BY (
                CASE
                    WHEN e.event = 'complaint'::text THEN 1
                    WHEN e.event = 'bounce'::text AND COALESCE(e.detail, ''::text) !~~ 'Transient/%'::text THEN 2
                    WHEN e.event = ANY (ARRAY['reject'::text, 'rendering_failure'::text]) THEN 3
                    WHEN e.event = 'delivery'::text THEN 4
                    ELSE 5
                END), (COALESCE(e.happened_at, e.received_at)) DESC
         LIMIT 1) f ON true;

create view noshi.gift_grant as
 SELECT r.key AS grant_id,
    b.id AS batch,
    r.row_no,
    b.campaign,
    r.user_id,
    r.args ->> 'category'::text AS category,
    r.args ->> 'provider'::text AS provider,
    r.amount,
    r.currency,
    r.args ->> 'area'::text AS area,
    b.registered_at AS granted_at,
    b.registered_at + make_interval(hours => 24 * ((r.args ->> 'valid_days'::text)::integer)) AS lapses_at,
    COALESCE(( SELECT j.status::text AS status
           FROM noshi.job j
          WHERE j.kind = 'gift_issuance'::text AND j.key = r.key), ( SELECT t.status::text AS status
           FROM noshi.tombstone t
          WHERE t.kind = 'gift_issuance'::text AND t.key = r.key)) AS issuance,
    ( SELECT max(o.happened_at) AS max
           FROM noshi.gift_trade t
             JOIN noshi.gift_outcome o ON o.trade = t.id AND o.outcome = 'issued'::text
          WHERE t.grant_id = r.key) AS issued_at
   FROM noshi.batch b
     JOIN noshi.batch_row r ON r.batch = b.id
  WHERE b.kind = 'grants'::text AND b.registered_at IS NOT NULL AND (b.cancelled_at IS NULL OR ((EXISTS ( SELECT
           FROM noshi.job j
          WHERE j.kind = 'gift_issuance'::text AND j.key = r.key AND j.status <> 'cancelled'::noshi.job_status)) OR (EXISTS ( SELECT
           FROM noshi.tombstone t
          WHERE t.kind = 'gift_issuance'::text AND t.key = r.key AND t.status <> 'cancelled'::noshi.job_status))) AND NOT (EXISTS ( SELECT
           FROM noshi.batch_row o
             JOIN noshi.batch ob ON ob.id = o.batch
          WHERE o.key = r.key AND ob.kind = 'grants'::text AND ob.registered_at > b.registered_at)));

create view noshi.gift_issuance_history as
 SELECT j.id AS job,
    j.key AS grant_id,
    j.args ->> 'user'::text AS user_id,
    t.category,
    t.provider,
    t.amount,
    t.currency,
    t.id AS trade_id,
    t.generation,
        CASE
            WHEN (j.status <> ALL (ARRAY['completed'::noshi.job_status, 'failed'::noshi.job_status, 'cancelled'::noshi.job_status, 'needs_operator'::noshi.job_status])) AND j.undo IS NOT NULL THEN 'compensating'::text
            ELSE j.status::text
        END AS status,
    j.at AS state,
    j.in_doubt,
    j.code,
    o.outcome,
    o.card,
    j.batch,
    j.created_at,
    o.happened_at AS ended_at,
    j.finished_at,
    false AS pruned
   FROM noshi.job j
     LEFT JOIN noshi.gift_trade t ON t.grant_id = j.key
     LEFT JOIN noshi.gift_outcome o ON o.trade = t.id
  WHERE j.kind = 'gift_issuance'::text
UNION ALL
 SELECT j.id AS job,
    j.key AS grant_id,
    j.about AS user_id,
    t.category,
    t.provider,
    t.amount,
    t.currency,
    t.id AS trade_id,
    t.generation,
    j.status::text AS status,
    j.at AS state,
    false AS in_doubt,
    j.code,
    o.outcome,
    o.card,
    j.batch,
    j.created_at,
    o.happened_at AS ended_at,
    j.finished_at,
    true AS pruned
   FROM noshi.tombstone j
     LEFT JOIN noshi.gift_trade t ON t.grant_id = j.key
     LEFT JOIN noshi.gift_outcome o ON o.trade = t.id
  WHERE j.kind = 'gift_issuance'::text;

create view noshi.gift_trade_history as
 SELECT t.id AS trade_id,
    t.grant_id,
    t.generation,
    t.category,
    t.provider,
    t.amount,
    t.currency,
    t.started_at,
    o.outcome,
    o.happened_at AS ended_at
   FROM noshi.gift_trade t
     LEFT JOIN noshi.gift_outcome o ON o.trade = t.id;

create view noshi.lane_now as
 SELECT l.name,
    COALESCE(o.paused, l.paused) AS paused,
        CASE
            WHEN o.opened > l.obeyed THEN NULL::timestamp with time zone
            ELSE l.closed_until
        END AS closed_until,
        CASE
            WHEN o.opened > l.obeyed THEN NULL::text
            ELSE l.closed_code
        END AS closed_code,
        CASE
            WHEN o.opened > l.obeyed THEN NULL::timestamp with time zone
            ELSE l.closed_at
        END AS closed_at,
    l.vtime,
    l.tokens
   FROM noshi.lane l
     LEFT JOIN noshi.lane_order o ON o.lane = l.name AND o.no > l.obeyed;

create view noshi.point_journal as
 SELECT e.id AS entry,
    e.at,
    e.recorded_at,
    e.kind,
    e.user_id,
    l.account::text AS account,
    a.name AS account_name,
    l.side,
    l.amount,
    e.job
   FROM noshi.point_entry e
     JOIN noshi.point_line l ON l.entry = e.id
     JOIN noshi.point_account a ON a.code = l.account;

create view noshi.store_report as
 SELECT s.public_id,
    s.organization,
    COALESCE(o.name, s.organization) AS organization_name,
    s.shop,
    COALESCE(c.name, s.name) AS name,
    COALESCE(c.deleted, false) AS deleted,
    s.job,
    s.created_at
   FROM noshi.store s
     LEFT JOIN noshi.store_cache c ON c.shop = s.shop
     LEFT JOIN noshi.organization_cache o ON o.organization = s.organization;

CREATE OR REPLACE FUNCTION noshi.acknowledge_as(p_job bigint, p_step integer, p_reason text, p_who text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare j job := looked_at(p_job, p_step, p_reason);
begin
    if j.status <> 'needs_operator' then
        raise exception 'job % is %: only a job that is parked is acknowledged', p_job, j.status using errcode = 'NS409';
    end if;
    if j.acknowledged is not distinct from j.step then
        raise exception 'job % is acknowledged already', p_job using errcode = 'NS409', hint = '`noshi audit list --target job/` and its number tell by whom, and why.';
    end if;
    update job set acknowledged = j.step where id = p_job;
    insert into job_event (job, event, lease, step, was, became, outcome, code, detail)
    values (j.id, 'acknowledged', j.lease, j.step, j.at, j.at, 'acknowledged', j.code, p_who || ': ' || p_reason);
    perform record('job acknowledge', 'job/' || j.id, p_reason, job_facts(j), jsonb_build_object('acknowledged', true), p_who);
end $function$;

CREATE OR REPLACE FUNCTION noshi.act_by(p_token text, p_scope text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if coalesce(p_token, '') = '' then
        raise exception 'no token was shown' using errcode = 'NS401';
    end if;
    perform set_config('noshi.token', p_token, true);
    perform must(p_scope);
end $function$;

CREATE OR REPLACE FUNCTION noshi.admit(p_ids bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
    stay bigint[] := p_ids;
    gone bigint[];
    bad record;
begin
    -- An id names one request for ever: one that a tombstone knows does not stay. An insert that waited in the unique index for the prune to
    -- commit sees the tombstone here, since each statement of this function has a new snapshot. Under an older snapshot it cannot; but there
    -- the pruned job is still to be seen beside the new one: two rows of one key, which a planner that trusts the key's uniqueness (PostgreSQL
    -- 18 joins no table with itself by a unique key) would never find. So they are counted, behind a fence.
    if current_setting('transaction_isolation') <> 'read committed'
       and exists (select from unnest(p_ids) i join job n on n.id = i
                   cross join lateral (select from job j where j.kind = n.kind and j.key = n.key offset 1) twice) then
        raise exception 'a job of this id was pruned meanwhile' using errcode = '40001', hint = 'Run the transaction again.';
    end if;
    gone := (select array_agg(n.id) from unnest(p_ids) i join job n on n.id = i join tombstone t on t.kind = n.kind and t.key = n.key);
    if gone is not null then
        delete from job where id = any (gone);
        stay := (select array_agg(i order by n) from unnest(p_ids) with ordinality as u(i, n) where i <> all (gone));
    end if;
    -- Whoever asks again for what was lost after its call gets a job in doubt, and not a second gift.
    if exists (select from lost_call) then
        update job j set in_doubt = true, called_at = k.called_at, lease = greatest(j.lease, k.lease + 1)
        from unnest(stay) i join job n on n.id = i join lost_call k on k.kind = n.kind and k.key = n.key where j.id = n.id;
    end if;
    -- Ids that noshi makes by itself are its own: who took one first would stop the batch that needs it. A message goes to the recipients of
    -- a batch, who are known to nobody else, so it is made by the batch. Workers ask in noshi's name; the schema's owner knows what they do.
    if pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_owner', 'member') then
        return stay;
    end if;
    -- From the validation to the end: what is granted may be asked for as it was granted, and not otherwise.
    select n.kind, n.key, h.batch into bad
    from unnest(stay) i join job n on n.id = i left join lateral (
        select b.id as batch from batch_row r join batch b on b.id = r.batch
        where r.key = n.key and b.kind = case n.kind when 'gift_issuance' then 'grants' when 'point_grant' then 'points' when 'store_creation' then 'stores' end
          and b.validated_at is not null and b.cancelled_at is null and b.refused_code is null
          and (case b.kind when 'grants' then b.registered_at else b.released_at end is null
               or n.args <> case b.kind when 'points' then r.args - array['grant', 'value'] else r.args end)
        limit 1) h on true
    where n.batch is null and (n.kind = 'email' or h.batch is not null) limit 1;
    if found then
        raise exception '%', case when bad.kind = 'email' then format('the message %s is made by the batch of what it announces', bad.key)
            else format('%s %s stands in batch %s, which asks for it by itself', bad.kind, bad.key, bad.batch) end
            using errcode = 'NS400', hint = 'Nothing was taken. Use an id of your own.';
    end if;
    return stay;
end $function$;

CREATE OR REPLACE FUNCTION noshi.advance_one(r noshi.redrive)
 RETURNS TABLE(redrive bigint, asked integer, drifted integer, event text)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET lock_timeout TO '2s'
 SET "TimeZone" TO 'UTC'
AS $function$
#variable_conflict use_column
declare
    w redrive_row;
    j job;
    found_bad record;
    most integer := 100;
    took integer := 0;
    left_alone integer := 0;
    b bigint;
    moved text;
    happened text;
begin
    if r.canary is not null and r.canary_at is null then
        select least(most, r.canary - count(*)) into most from redrive_row where redrive = r.id and status = 'asked';
        if most <= 0 then
            select * into found_bad from redrive_answers(r.id);
            if found_bad.unanswered > 0 then
                update redrive set next_at = clock_timestamp() + interval '1 second' where id = r.id;
                return;
            end if;
            if found_bad.bad is not null then
                update redrive set paused_at = clock_timestamp(), paused_code = 'canary' where id = r.id;
                perform record('redrive pause', 'redrive/' || r.id, 'the canary stands still again', null,
                    jsonb_build_object('jobs', found_bad.bad), 'noshi');
                return query select r.id, 0, 0, 'paused_by_canary';
                return;
            end if;
            update redrive set canary_at = clock_timestamp() where id = r.id;
            most := 100;
        end if;
    end if;
    if r.per_minute is not null then
        -- A fleet that was away does not catch up all at once.
        r.next_at := greatest(r.next_at, clock_timestamp() - interval '5 seconds');
        most := least(most, 1 + floor(extract(epoch from clock_timestamp() - r.next_at) * r.per_minute / 60)::integer);
    end if;
    for w in select * from redrive_row where redrive = r.id and status = 'waiting' order by n limit most loop
        select * into j from job where id = w.job for update;
        b := (select o.id from batch o where o.id = j.batch and o.paused_at is not null);
        moved := case when j.id is null then 'gone' when b is not null then format('batch %s is paused', b) when j.requested_act is not null then format('asked to %s already', j.requested_act)
                      when j.step <> w.step or j.status not in ('needs_operator', 'failed') then format('%s at step %s', j.status, j.step) end;
        if moved is null then
            begin
                update redrive_row set status = 'asked', marked_at = clock_timestamp() where redrive = r.id and n = w.n;
                perform ask_as(j.id, j.step, w.act, composed(format('re-drive %s: %s', r.id, r.reason)), r.applied_by);
            exception when sqlstate 'NS409' then
                -- Whatever else forbids it: one job does not hold up the others.
                moved := composed(sqlerrm);
            end;
        end if;
        if moved is not null then
            update redrive_row set status = 'drifted', marked_at = clock_timestamp(), note = moved where redrive = r.id and n = w.n;
            left_alone := left_alone + 1;
            continue;
        end if;
        took := took + 1;
        if w.act = 'rerun' then
            -- A batch that was settled is not any more.
            update batch o set settled_at = null, totals = null, counted_at = null, refused_code = null, refused_detail = null
            where (o.id = j.batch or (j.kind = 'bulk_grants' and j.key = 'batch/' || o.id)) and (o.settled_at is not null or o.refused_code is not null);
        end if;
    end loop;
    if not exists (select from redrive_row where redrive = r.id and status = 'waiting') then
        happened := 'done';
        perform record('redrive done', 'redrive/' || r.id, null, null,
            (select jsonb_build_object('asked', count(*) filter (where status = 'asked'), 'drifted', count(*) filter (where status = 'drifted'))
             from redrive_row where redrive = r.id), 'noshi');
    end if;
    update redrive set done_at = case when happened = 'done' then clock_timestamp() end,
        next_at = case when per_minute is null then clock_timestamp() else r.next_at + took * interval '1 minute' / per_minute end
    where id = r.id;
    return query select r.id, took, left_alone, happened;
end $function$;

CREATE OR REPLACE FUNCTION noshi.advance_redrive()
 RETURNS TABLE(redrive bigint, asked integer, drifted integer, event text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    r redrive;
    why text;
begin
    select * into r from redrive o where o.applied_at is not null and o.done_at is null and o.cancelled_at is null and o.paused_at is null
        and o.next_at <= clock_timestamp() order by o.next_at limit 1 for update skip locked;
    if not found then
        return;
    end if;
    begin
        return query select * from advance_one(r);
        return;
    -- One that takes longer than a worker waits is no other's delay either.
    exception when query_canceled or others then
        why := composed(sqlerrm);
        -- What another transaction, or the server, was busy with: a lock, a deadlock, no room, a shutdown.
        if left(sqlstate, 2) in ('40', '53', '55', '57') then
            update redrive o set next_at = clock_timestamp() + case left(sqlstate, 2) when '40' then interval '200 milliseconds' else interval '5 seconds' end where o.id = r.id;
            return query select r.id, 0, 0, 'put_off';
            return;
        end if;
    end;
    update redrive o set paused_at = clock_timestamp(), paused_code = 'fault', paused_detail = why where o.id = r.id;
    perform record('redrive pause', 'redrive/' || r.id, composed('it cannot go on: ' || why), null, null, 'noshi');
    return query select r.id, 0, 0, 'paused_by_fault';
end $function$;

CREATE OR REPLACE FUNCTION noshi.apply_redrive(p_redrive bigint, p_reason text, p_digest bytea, p_per_minute integer, p_canary integer, p_max_amount bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    r redrive;
    moved bigint;
    named text;
begin
    perform must('operate');
    -- One of a person's plans after the other, so that no two pass the cap together; under an older snapshot the other would not be seen.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a re-drive is applied in a transaction that is read committed' using errcode = 'NS400';
    end if;
    perform in_turn(who());
    r := redrive_locked(p_redrive, true, p_reason);
    if p_digest is distinct from r.digest and p_digest is not null then
        raise exception 'this is not the digest of re-drive %', r.id using errcode = 'NS409';
    end if;
    if r.jobs = 0 then
        raise exception 're-drive % has no job that may be asked', r.id using errcode = 'NS409', hint = '`noshi redrive show` says why.';
    end if;
    select string_agg(format('%s %s', value, key), ', ') into named from jsonb_each_text(r.totals) where value::bigint > p_max_amount;
    if named is not null then
        raise exception 're-drive % is worth % (minor units), which is more than %', r.id, named, p_max_amount using errcode = 'NS403';
    end if;
    if r.approved_by is null and (r.needs_approval or redrive_is_large(who(), r.jobs, r.totals)) then
        raise exception 're-drive % is too large for one person (% jobs, %)', r.id, r.jobs, r.totals using errcode = 'NS403',
            hint = 'A second person reads it and approves it: `noshi redrive approve`.';
    end if;
    if r.approved_by = who() then
        raise exception 're-drive % was approved by you; somebody else applies it', r.id using errcode = 'NS403';
    end if;
    select count(*), string_agg(w.job::text, ', ' order by w.n) filter (where w.nth <= 20) into moved, named
    from (select w.job, w.n, row_number() over (order by w.n) as nth from redrive_row w left join job j on j.id = w.job
          where w.redrive = r.id and w.status = 'waiting'
            and (j.id is null or j.step <> w.step or j.requested_act is not null or j.status not in ('needs_operator', 'failed'))) w;
    if moved > 0 then
        raise exception '% of the % jobs of re-drive % have moved on since it was planned: job %', moved, r.jobs, r.id, named using errcode = 'NS409', hint = 'Plan again.';
    end if;
    update redrive set applied_by = who(), applied_at = clock_timestamp(), next_at = clock_timestamp(), reason = p_reason, per_minute = p_per_minute, canary = p_canary
    where id = r.id;
    if r.approved_by is null then
        perform count_redrive(who(), r.id, r.jobs, r.totals);
    end if;
    perform record('redrive apply', 'redrive/' || r.id, p_reason, null,
        jsonb_build_object('digest', encode(r.digest, 'hex'), 'per_minute', p_per_minute, 'canary', p_canary, 'max_amount', p_max_amount, 'approved_by', r.approved_by));
end $function$;

CREATE OR REPLACE FUNCTION noshi.approve_batch(p_batch bigint, p_digest bytea, p_reason text)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    b batch := batch_locked(p_batch);
    against record;
    until timestamptz;
begin
    perform noshi.must('approve');
    if b.validated_at is null or b.cancelled_at is not null or b.registered_at is not null or not (b.needs_approval or batch_is_large(b, null)) then
        raise exception 'batch % does not await approval', b.id using errcode = 'NS409',
            hint = case when b.invalid_at is not null then 'Its file has faults; a fixed one is a batch of its own.'
                when b.cancelled_at is not null then 'It was cancelled.'
                when b.registered_at is not null then 'It is granted already.'
                when b.validated_at is null then 'It was not received to its end: submit the same file again.'
                else 'It needs no approval, being below the threshold; `noshi batch release` lets it go.' end;
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an approval needs a reason' using errcode = 'NS400';
    end if;
    if b.submitted_by = noshi.who() then
        raise exception 'batch % was submitted by %; another person must approve it', b.id, b.submitted_by using errcode = 'NS403';
    end if;
    if b.approval_digest is distinct from p_digest then
        raise exception 'this digest does not stand for what batch % would do', b.id using errcode = 'NS409',
            hint = 'Approve what you have read: its file, its options and its addresses. `noshi batch show` names the digest that covers them.';
    end if;
    select * into against from batch_objection(b.id);
    if found then
        raise exception 'batch % may not be granted (%): %', b.id, against.code, against.detail using errcode = 'NS403';
    end if;
    select clock_timestamp() + min(c.approval_lasts) into until
    from (select distinct coalesce(currency, '') as currency from batch_row where batch = b.id) r, lateral noshi.batch_cap_for(b.kind, r.currency) c;
    update batch set approved_by = noshi.who(), approved_at = clock_timestamp(), approved_until = until where id = b.id;
    perform batch_log(b.id, 'approve', null, p_reason);
    return until;
end $function$;

CREATE OR REPLACE FUNCTION noshi.approve_redrive(p_redrive bigint, p_digest bytea, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r redrive;
begin
    perform must('approve');
    r := redrive_locked(p_redrive, true, p_reason);
    if r.approved_by is not null then
        raise exception 're-drive % was approved by % already', r.id, r.approved_by using errcode = 'NS409';
    end if;
    if r.planned_by = who() then
        raise exception 're-drive % was planned by you; a second person approves it', r.id using errcode = 'NS403';
    end if;
    if p_digest is distinct from r.digest then
        raise exception 'this is not the digest of re-drive %', r.id using errcode = 'NS409', hint = '`noshi redrive show` names it, with what it stands for.';
    end if;
    update redrive set approved_by = who(), approved_at = clock_timestamp() where id = r.id;
    perform record('redrive approve', 'redrive/' || r.id, p_reason, null, jsonb_build_object('digest', encode(r.digest, 'hex')));
end $function$;

CREATE OR REPLACE FUNCTION noshi.archive_kept(r noshi.retention)
 RETURNS interval
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select case when r.shortened_at > clock_timestamp() - interval '7 days' and clock_timestamp() - r.archive_was < clock_timestamp() - r.archive_for
        then r.archive_was else r.archive_for end
$function$;

CREATE OR REPLACE FUNCTION noshi.args_fault(p_kind text, p_args jsonb)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET "TimeZone" TO 'UTC'
AS $function$
begin
    if jsonb_typeof(p_args) is distinct from 'object' then
        return 'args: these must be an object';
    end if;
    return case p_kind
        when 'bulk_grants' then case
            when coalesce(jsonb_typeof(p_args -> 'batch'), 'null') = 'null' then 'args.batch: this is missing; it must be a whole number from 1 to 9223372036854775807'
            when case when jsonb_typeof(p_args -> 'batch') = 'number' then (p_args ->> 'batch')::numeric not between 1 and 9223372036854775807 or (p_args ->> 'batch')::numeric <> trunc((p_args ->> 'batch')::numeric) else jsonb_typeof(p_args -> 'batch') <> 'null' end then 'args.batch: this must be a whole number from 1 to 9223372036854775807'
            when (p_args) - array['batch'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are batch' end
            end
        when 'email' then case
            when coalesce(jsonb_typeof(p_args -> 'template'), 'null') = 'null' then 'args.template: this is missing; it must be one of gift_granted'
            when jsonb_typeof(p_args -> 'template') not in ('null', 'string') or (p_args ->> 'template') not in ('gift_granted') then 'args.template: this must be one of gift_granted'
            when coalesce(jsonb_typeof(p_args -> 'reference'), 'null') = 'null' then 'args.reference: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'reference') not in ('null', 'string') then 'args.reference: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'reference'), 100) is not null then 'args.reference: ' || noshi.id_fault((p_args ->> 'reference'), 100)
            when coalesce(jsonb_typeof(p_args -> 'recipient'), 'null') = 'null' then 'args.recipient: this is missing; it must be an id of 1 to 200 bytes'
            when jsonb_typeof(p_args -> 'recipient') not in ('null', 'string') then 'args.recipient: this must be an id of 1 to 200 bytes'
            when noshi.id_fault((p_args ->> 'recipient'), 200) is not null then 'args.recipient: ' || noshi.id_fault((p_args ->> 'recipient'), 200)
            when jsonb_typeof(p_args -> 'params') = 'null' then 'args.params: this is missing; it must be an object of texts'
            when jsonb_typeof(p_args -> 'params') not in ('null', 'object') or case when jsonb_typeof(p_args -> 'params') = 'object' then jsonb_path_exists(p_args -> 'params', '$.* ? (@.type() != "string")') end then 'args.params: this must be an object of texts'
            when (p_args) - array['template', 'reference', 'recipient', 'params'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are template, reference, recipient, params' end
            end
        when 'gift_issuance' then case
            when starts_with(p_args ->> 'grant', 'exchange/') and not pg_has_role(session_user, 'noshi_worker', 'member') then 'args.grant: an id that begins with exchange/ belongs to an exchange of points; use another'
            when coalesce(jsonb_typeof(p_args -> 'grant'), 'null') = 'null' then 'args.grant: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'grant') not in ('null', 'string') then 'args.grant: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'grant'), '@') > 0 then 'args.grant: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'grant'), 100) is not null then 'args.grant: ' || noshi.id_fault((p_args ->> 'grant'), 100)
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 100) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 100)
            when coalesce(jsonb_typeof(p_args -> 'category'), 'null') = 'null' then 'args.category: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'category') not in ('null', 'string') then 'args.category: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'category'), 100) is not null then 'args.category: ' || noshi.id_fault((p_args ->> 'category'), 100)
            when coalesce(jsonb_typeof(p_args -> 'value'), 'null') = 'null' then 'args.value: this is missing; it must be an object'
            when jsonb_typeof(p_args -> 'value') not in ('null', 'object') then 'args.value: this must be an object'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'amount'), 'null') = 'null' then 'args.value.amount: this is missing; it must be a whole number of minor units above 0, and at most 9000000000000000'
            when case when jsonb_typeof(p_args -> 'value' -> 'amount') = 'number' then (p_args -> 'value' ->> 'amount')::numeric not between 1 and 9000000000000000 or (p_args -> 'value' ->> 'amount')::numeric <> trunc((p_args -> 'value' ->> 'amount')::numeric) else jsonb_typeof(p_args -> 'value' -> 'amount') <> 'null' end then 'args.value.amount: this must be a whole number of minor units above 0, and at most 9000000000000000'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'currency'), 'null') = 'null' then 'args.value.currency: this is missing; it must be one of JPY, USD'
            when jsonb_typeof(p_args -> 'value' -> 'currency') not in ('null', 'string') or (p_args -> 'value' ->> 'currency') not in ('JPY', 'USD') then 'args.value.currency: this must be one of JPY, USD'
            when (p_args -> 'value') - array['amount', 'currency'] <> '{}' then 'args.value: there is a field that is not known; there are amount, currency'
            when jsonb_typeof(p_args -> 'provider') not in ('null', 'string') then 'args.provider: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'provider'), 100) is not null then 'args.provider: ' || noshi.id_fault((p_args ->> 'provider'), 100)
            when case when jsonb_typeof(p_args -> 'valid_days') = 'number' then (p_args ->> 'valid_days')::numeric not between 1 and 3650 or (p_args ->> 'valid_days')::numeric <> trunc((p_args ->> 'valid_days')::numeric) else jsonb_typeof(p_args -> 'valid_days') <> 'null' end then 'args.valid_days: this must be a whole number from 1 to 3650'
            when jsonb_typeof(p_args -> 'area') not in ('null', 'string') then 'args.area: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'area'), 100) is not null then 'args.area: ' || noshi.id_fault((p_args ->> 'area'), 100)
            when jsonb_typeof(p_args -> 'paid_by') <> 'null' and not pg_has_role(session_user, 'noshi_worker', 'member') then 'args.paid_by: this must be left out: noshi sets it'
            when (p_args) - array['grant', 'user', 'category', 'value', 'provider', 'valid_days', 'area', 'paid_by'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are grant, user, category, value, provider, valid_days, area, paid_by' end
            end
        when 'point_exchange' then case
            when coalesce(jsonb_typeof(p_args -> 'exchange'), 'null') = 'null' then 'args.exchange: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'exchange') not in ('null', 'string') then 'args.exchange: this must be an id of 1 to 90 bytes'
            when strpos((p_args ->> 'exchange'), '@') > 0 then 'args.exchange: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'exchange'), 90) is not null then 'args.exchange: ' || noshi.id_fault((p_args ->> 'exchange'), 90)
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 90 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 90) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 90)
            when coalesce(jsonb_typeof(p_args -> 'points'), 'null') = 'null' then 'args.points: this is missing; it must be a whole number from 1 to 1000000000'
            when case when jsonb_typeof(p_args -> 'points') = 'number' then (p_args ->> 'points')::numeric not between 1 and 1000000000 or (p_args ->> 'points')::numeric <> trunc((p_args ->> 'points')::numeric) else jsonb_typeof(p_args -> 'points') <> 'null' end then 'args.points: this must be a whole number from 1 to 1000000000'
            when jsonb_typeof(p_args -> 'area') not in ('null', 'string') then 'args.area: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'area'), 100) is not null then 'args.area: ' || noshi.id_fault((p_args ->> 'area'), 100)
            when coalesce(jsonb_typeof(p_args -> 'category'), 'null') = 'null' then 'args.category: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'category') not in ('null', 'string') then 'args.category: this must be an id of 1 to 90 bytes'
            when noshi.id_fault((p_args ->> 'category'), 90) is not null then 'args.category: ' || noshi.id_fault((p_args ->> 'category'), 90)
            when coalesce(jsonb_typeof(p_args -> 'value'), 'null') = 'null' then 'args.value: this is missing; it must be an object'
            when jsonb_typeof(p_args -> 'value') not in ('null', 'object') then 'args.value: this must be an object'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'amount'), 'null') = 'null' then 'args.value.amount: this is missing; it must be a whole number of minor units above 0, and at most 9000000000000000'
            when case when jsonb_typeof(p_args -> 'value' -> 'amount') = 'number' then (p_args -> 'value' ->> 'amount')::numeric not between 1 and 9000000000000000 or (p_args -> 'value' ->> 'amount')::numeric <> trunc((p_args -> 'value' ->> 'amount')::numeric) else jsonb_typeof(p_args -> 'value' -> 'amount') <> 'null' end then 'args.value.amount: this must be a whole number of minor units above 0, and at most 9000000000000000'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'currency'), 'null') = 'null' then 'args.value.currency: this is missing; it must be one of JPY, USD'
            when jsonb_typeof(p_args -> 'value' -> 'currency') not in ('null', 'string') or (p_args -> 'value' ->> 'currency') not in ('JPY', 'USD') then 'args.value.currency: this must be one of JPY, USD'
            when (p_args -> 'value') - array['amount', 'currency'] <> '{}' then 'args.value: there is a field that is not known; there are amount, currency'
            when jsonb_typeof(p_args -> 'provider') not in ('null', 'string') then 'args.provider: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'provider'), 100) is not null then 'args.provider: ' || noshi.id_fault((p_args ->> 'provider'), 100)
            when jsonb_typeof(p_args -> 'grace_days') = 'null' then 'args.grace_days: this is missing; it must be a whole number from 0 to 3650'
            when case when jsonb_typeof(p_args -> 'grace_days') = 'number' then (p_args ->> 'grace_days')::numeric not between 0 and 3650 or (p_args ->> 'grace_days')::numeric <> trunc((p_args ->> 'grace_days')::numeric) else jsonb_typeof(p_args -> 'grace_days') <> 'null' end then 'args.grace_days: this must be a whole number from 0 to 3650'
            when (p_args) - array['exchange', 'user', 'points', 'area', 'category', 'value', 'provider', 'grace_days'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are exchange, user, points, area, category, value, provider, grace_days' end
            end
        when 'point_expiry' then case
            when coalesce(jsonb_typeof(p_args -> 'due'), 'null') = 'null' then 'args.due: this is missing; it must be an id of 1 to 40 bytes'
            when jsonb_typeof(p_args -> 'due') not in ('null', 'string') then 'args.due: this must be an id of 1 to 40 bytes'
            when noshi.id_fault((p_args ->> 'due'), 40) is not null then 'args.due: ' || noshi.id_fault((p_args ->> 'due'), 40)
            when (p_args) - array['due'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are due' end
            end
        when 'point_grant' then case
            when coalesce(jsonb_typeof(p_args -> 'benefit'), 'null') = 'null' then 'args.benefit: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'benefit') not in ('null', 'string') then 'args.benefit: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'benefit'), 100) is not null then 'args.benefit: ' || noshi.id_fault((p_args ->> 'benefit'), 100)
            when coalesce(jsonb_typeof(p_args -> 'source'), 'null') = 'null' then 'args.source: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'source') not in ('null', 'string') then 'args.source: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'source'), '@') > 0 then 'args.source: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'source'), 100) is not null then 'args.source: ' || noshi.id_fault((p_args ->> 'source'), 100)
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 100) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 100)
            when coalesce(jsonb_typeof(p_args -> 'points'), 'null') = 'null' then 'args.points: this is missing; it must be a whole number from 1 to 1000000000'
            when case when jsonb_typeof(p_args -> 'points') = 'number' then (p_args ->> 'points')::numeric not between 1 and 1000000000 or (p_args ->> 'points')::numeric <> trunc((p_args ->> 'points')::numeric) else jsonb_typeof(p_args -> 'points') <> 'null' end then 'args.points: this must be a whole number from 1 to 1000000000'
            when coalesce(jsonb_typeof(p_args -> 'valid_days'), 'null') = 'null' then 'args.valid_days: this is missing; it must be a whole number from 0 to 3650'
            when case when jsonb_typeof(p_args -> 'valid_days') = 'number' then (p_args ->> 'valid_days')::numeric not between 0 and 3650 or (p_args ->> 'valid_days')::numeric <> trunc((p_args ->> 'valid_days')::numeric) else jsonb_typeof(p_args -> 'valid_days') <> 'null' end then 'args.valid_days: this must be a whole number from 0 to 3650'
            when jsonb_typeof(p_args -> 'zone') = 'null' then 'args.zone: this is missing; it must be an id of 1 to 60 bytes'
            when jsonb_typeof(p_args -> 'zone') not in ('null', 'string') then 'args.zone: this must be an id of 1 to 60 bytes'
            when noshi.id_fault((p_args ->> 'zone'), 60) is not null then 'args.zone: ' || noshi.id_fault((p_args ->> 'zone'), 60)
            when jsonb_typeof(p_args -> 'area') not in ('null', 'string') then 'args.area: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'area'), 100) is not null then 'args.area: ' || noshi.id_fault((p_args ->> 'area'), 100)
            when (p_args) - array['benefit', 'source', 'user', 'points', 'valid_days', 'zone', 'area'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are benefit, source, user, points, valid_days, zone, area' end
            when strpos(p_args ->> 'benefit', ':') > 0 then 'args.benefit: this must not contain a colon'
            end
        when 'point_reversal' then case
            when coalesce(jsonb_typeof(p_args -> 'exchange'), 'null') = 'null' then 'args.exchange: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'exchange') not in ('null', 'string') then 'args.exchange: this must be an id of 1 to 90 bytes'
            when strpos((p_args ->> 'exchange'), '@') > 0 then 'args.exchange: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'exchange'), 90) is not null then 'args.exchange: ' || noshi.id_fault((p_args ->> 'exchange'), 90)
            when jsonb_typeof(p_args -> 'grace_days') = 'null' then 'args.grace_days: this is missing; it must be a whole number from 0 to 3650'
            when case when jsonb_typeof(p_args -> 'grace_days') = 'number' then (p_args ->> 'grace_days')::numeric not between 0 and 3650 or (p_args ->> 'grace_days')::numeric <> trunc((p_args ->> 'grace_days')::numeric) else jsonb_typeof(p_args -> 'grace_days') <> 'null' end then 'args.grace_days: this must be a whole number from 0 to 3650'
            when (p_args) - array['exchange', 'grace_days'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are exchange, grace_days' end
            end
        when 'point_withdrawal' then case
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 100) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 100)
            when (p_args) - array['user'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are user' end
            end
        when 'store_creation' then case
            when coalesce(jsonb_typeof(p_args -> 'organization'), 'null') = 'null' then 'args.organization: this is missing; it must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when jsonb_typeof(p_args -> 'organization') not in ('null', 'string') or (p_args ->> 'organization') collate "C" !~ '^[A-Za-z0-9_.-]{1,60}$' or (p_args ->> 'organization') in ('.', '..') then 'args.organization: this must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when coalesce(jsonb_typeof(p_args -> 'public_id'), 'null') = 'null' then 'args.public_id: this is missing; it must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when jsonb_typeof(p_args -> 'public_id') not in ('null', 'string') or (p_args ->> 'public_id') collate "C" !~ '^[A-Za-z0-9_.-]{1,60}$' or (p_args ->> 'public_id') in ('.', '..') then 'args.public_id: this must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when coalesce(jsonb_typeof(p_args -> 'name'), 'null') = 'null' then 'args.name: this is missing; it must be a text of 1 to 400 bytes'
            when jsonb_typeof(p_args -> 'name') not in ('null', 'string') then 'args.name: this must be a text of 1 to 400 bytes'
            when noshi.text_fault((p_args ->> 'name'), 400) is not null then 'args.name: ' || noshi.text_fault((p_args ->> 'name'), 400)
            when jsonb_typeof(p_args -> 'address') <> 'null' then 'args.address: this is sealed before it reaches the database: ask over HTTP or by a file, or seal it with `noshi vault seal-contact`; nothing was taken'
            when jsonb_typeof(p_args -> 'phone') <> 'null' then 'args.phone: this is sealed before it reaches the database: ask over HTTP or by a file, or seal it with `noshi vault seal-contact`; nothing was taken'
            when case when jsonb_typeof(p_args -> 'contact') = 'object' then ((p_args -> 'contact') - array['key', 'nonce', 'ciphertext'] = '{}' and (p_args -> 'contact' ->> 'key') collate "C" ~ '^[A-Za-z0-9_-]{1,32}$' and (p_args -> 'contact' ->> 'nonce') collate "C" ~ '^[A-Za-z0-9+/]{32}$' and octet_length(p_args -> 'contact' ->> 'ciphertext') <= 8000 and (p_args -> 'contact' ->> 'ciphertext') collate "C" ~ '^([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$') is not true else jsonb_typeof(p_args -> 'contact') <> 'null' end then 'args.contact: this must be what `noshi vault seal-contact` prints'
            when coalesce(jsonb_typeof(p_args -> 'request'), 'null') = 'null' then 'args.request: this is missing; it must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when jsonb_typeof(p_args -> 'request') not in ('null', 'string') or (p_args ->> 'request') collate "C" !~ '^[A-Za-z0-9_.-]{1,60}$' or (p_args ->> 'request') in ('.', '..') then 'args.request: this must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when (p_args) - array['organization', 'public_id', 'name', 'address', 'phone', 'contact', 'request'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are organization, public_id, name, address, phone, contact, request' end
            end
        end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.as_kept(p_kind text, p_key text, p_args jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select case when $1 = 'store_creation' and jsonb_typeof($3 -> 'contact') = 'object' then $3 || jsonb_build_object('contact', $1 || '/' || $2) else $3 end
$function$;

CREATE OR REPLACE FUNCTION noshi.ask(p_job bigint, p_step integer, p_act text, p_reason text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare made bigint;
begin
    perform must('operate');
    if exists (select from word_act w where w.act = p_act) then
        select p.made into made from propose(p_act, p_job, p_step, null, p_reason) p;
        return made;
    end if;
    case p_act
        when 'dismiss' then perform dismiss_as(p_job, p_step, p_reason, who());
        when 'acknowledge' then perform acknowledge_as(p_job, p_step, p_reason, who());
        else
            perform count_asked(p_job, p_act);
            perform ask_as(p_job, p_step, p_act, p_reason, who());
    end case;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.ask_as(p_job bigint, p_step integer, p_act text, p_reason text, p_who text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare j job := job_locked(p_job);
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' or coalesce(p_act, '') !~ '^[a-z_]{1,30}$' then
        raise exception 'an act needs a name and a reason' using errcode = 'NS400';
    end if;
    perform must_be_askable(j, p_step, p_act);
    if j.status = 'running' then
        update job set requested_act = p_act, status_before = 'running' where id = p_job;
    else
        update job set requested_act = p_act, status = 'available', lane = '', reserved = false, run_at = clock_timestamp(), finished_at = null,
            status_before = case when j.status in ('needs_operator', 'completed', 'failed', 'cancelled') then j.status end,
            waited = least(waited + greatest(clock_timestamp() - coalesce(finished_at, run_at), '0'), '1000 years')
        where id = p_job;
    end if;
    insert into job_event (job, event, lease, step, was, became, outcome, detail)
    values (j.id, 'asked', j.lease, j.step, j.at, j.at, p_act, p_who || ': ' || p_reason);
    perform record('job ' || p_act, 'job/' || j.id, p_reason, job_facts(j), jsonb_build_object('asked', p_act), p_who);
    perform pg_notify('noshi', '');
end $function$;

CREATE OR REPLACE FUNCTION noshi.asked_for(p_kind text, p_args jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select jsonb_strip_nulls(case p_kind
        when 'gift_issuance' then jsonb_build_object('grant', p_args -> 'grant', 'user', p_args -> 'user', 'category', p_args -> 'category', 'amount', worth(p_args),
            'currency', p_args -> 'value' -> 'currency', 'provider', p_args -> 'provider', 'valid_days', p_args -> 'valid_days', 'area', p_args -> 'area', 'exchange', p_args -> 'paid_by' -> 'exchange',
            'grace_days', case when p_args -> 'paid_by' ->> 'exchange' is not null then coalesce(nullif(p_args -> 'paid_by' -> 'grace_days', 'null'), '0') end)
        when 'point_grant' then jsonb_build_object('benefit', p_args -> 'benefit', 'source', p_args -> 'source', 'user', p_args -> 'user', 'points', p_args -> 'points',
            'valid_days', p_args -> 'valid_days', 'zone', coalesce(p_args ->> 'zone', 'Asia/Tokyo'), 'area', p_args -> 'area')
        when 'point_reversal' then jsonb_build_object('exchange', p_args -> 'exchange', 'grace_days', coalesce(nullif(p_args -> 'grace_days', 'null'), '0'))
    end)
$function$;

CREATE OR REPLACE FUNCTION noshi.audit_cap()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform record('batch cap', 'cap/' || new.kind || '/' || new.currency, null, null, to_jsonb(new));
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.audit_digest(p_before bytea, a noshi.audit)
 RETURNS bytea
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
 SET extra_float_digits TO '1'
AS $function$ select sha256($1 || convert_to(to_jsonb($2)::text, 'UTF8')) $function$;

CREATE OR REPLACE FUNCTION noshi.audit_redrive_cap()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform record('redrive cap', 'cap/redrive', null, null, to_jsonb(new));
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.audit_reveal_cap()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform record('reveal cap', 'reveals/' || coalesce(new.who, old.who), null, to_jsonb(old), to_jsonb(new));
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.audit_schedule_kind()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform record('schedule kind', 'schedule_kind/' || new.kind, null, null, to_jsonb(new));
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.audit_word_cap()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform record('proposal cap', 'cap/word/' || new.currency, null, null, to_jsonb(new));
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.batch_alone(p_batch bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET lock_timeout TO '1s'
AS $function$
begin
    perform from batch where id = p_batch for update;
exception when lock_not_available then null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.batch_cap_for(p_kind text, p_currency text)
 RETURNS noshi.batch_cap
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$ select c from batch_cap c where kind = $1 and currency = $2 order by id desc limit 1 $function$;

CREATE OR REPLACE FUNCTION noshi.batch_covers(b noshi.batch, p_rows bigint)
 RETURNS bytea
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select sha256(convert_to(jsonb_build_object('file', encode(b.digest, 'hex'), 'kind', b.kind, 'mode', b.mode, 'encoding', b.encoding, 'campaign', b.campaign,
        'mails', b.mails, 'issues', b.issues, 'rows', p_rows,
        'recipients', (select encode(sha256(string_agg(sha256(s.nonce || s.ciphertext), '' order by r.row_no)), 'hex')
                       from batch_row r join noshi_sealed.sealed s on s.what = case b.kind when 'stores' then 'contact' else 'recipient' end and s.subject = b.id || '/' || r.row_no
                       where (b.mails or b.kind = 'stores') and r.batch = b.id))::text, 'UTF8'))
$function$;

CREATE OR REPLACE FUNCTION noshi.batch_hindrance(b noshi.batch)
 RETURNS TABLE(code text, detail text)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare needed boolean;
begin
    if b.cancelled_at is not null then
        return query select 'batch_cancelled', 'it was cancelled';
        return;
    elsif b.validated_at is null then
        return query select 'batch_not_approved', 'it was not validated';
        return;
    elsif b.rows is distinct from (select count(*) from batch_row r where r.batch = b.id) then
        return query select 'batch_not_approved', 'it has other rows than those that were judged; cancel it';
        return;
    end if;
    needed := b.needs_approval or batch_is_large(b, who());
    if needed and b.approved_at is null then
        return query select 'batch_not_approved', case when b.needs_approval then 'a second person must approve it'
            else 'a second person must approve it: it is too much for one, with what was let go without approval in the last 24 hours and by the caps of now' end;
    elsif needed and b.approved_until <= clock_timestamp() then
        return query select 'batch_not_approved', format('the approval by %s ran out at %s', b.approved_by, b.approved_until);
    else
        return query select o.code, o.detail from batch_objection(b.id) o;
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.batch_is_large(b noshi.batch, p_who text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    with here as (select coalesce(currency, '') as currency, count(*) as jobs, coalesce(sum(amount), 0) as amount from batch_row where batch = b.id group by 1),
    people as (select b.submitted_by as who union select b.released_by where b.released_by is not null union select p_who where p_who is not null
               union select a.who from alone a where p_who is null and a.what = b.kind and a.at > clock_timestamp() - interval '24 hours'),
    before as (select p.who, d.* from people p cross join lateral done_alone(p.who, b.kind) d where d.target <> 'batch/' || b.id),
    every as (select p.who, coalesce(sum(d.jobs), 0) + (select sum(jobs) from here) as jobs from people p left join before d on d.who = p.who group by p.who)
    select coalesce(bool_or(c.id is null or e.jobs >= c.approve_from_rows
        or h.amount + coalesce((select sum(d.amount) from before d where d.who = e.who and d.currency = h.currency), 0) >= c.approve_from_total), false)
    from here h cross join every e left join lateral batch_cap_for(b.kind, h.currency) c on true
$function$;

CREATE OR REPLACE FUNCTION noshi.batch_locked(p_batch bigint)
 RETURNS noshi.batch
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare b batch;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a batch is acted on in a transaction that is read committed' using errcode = 'NS400';
    end if;
    -- Not `for update`: rows that name the batch, such as a producer's, hold its key for as long as their transaction likes.
    select * into b from batch where id = p_batch for no key update;
    if not found then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    return b;
end $function$;

CREATE OR REPLACE FUNCTION noshi.batch_log(p_batch bigint, p_act text, p_code text DEFAULT NULL::text, p_reason text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    insert into batch_event (batch, act, code, reason) values ($1, $2, $3, $4);
    select noshi.record('batch ' || $2, 'batch/' || $1, $4, null, case when $3 is not null then jsonb_build_object('code', $3) end);
$function$;

CREATE OR REPLACE FUNCTION noshi.batch_objection(p_batch bigint)
 RETURNS TABLE(code text, detail text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'on'
 SET enable_hashjoin TO 'on'
 SET enable_mergejoin TO 'on'
 SET work_mem TO '64MB'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    b batch;
    per record;
    cap batch_cap;
    found_text text;
    day_total bigint;
begin
    select * into strict b from batch where id = p_batch;
    for per in select coalesce(r.currency, '') as currency, count(*) as rows, coalesce(sum(r.amount), 0)::bigint as total
               from batch_row r where r.batch = b.id group by 1 loop
        cap := batch_cap_for(b.kind, per.currency);
        if cap.id is null then
            return query select 'batch_over_cap', format('no cap is set for %s in %s, so none may be made', b.kind, per.currency);
            return;
        end if;
        if b.rows > cap.max_rows then
            return query select 'batch_over_cap', format('%s rows; the cap is %s', b.rows, cap.max_rows);
            return;
        end if;
        if per.total > cap.max_total then
            return query select 'batch_over_cap', format('%s %s in all; the cap is %s', per.total, per.currency, cap.max_total);
            return;
        end if;
        select coalesce(sum(r.amount), 0)::bigint into day_total from batch o join batch_row r on r.batch = o.id and r.currency = per.currency
        where o.registered_at > clock_timestamp() - interval '24 hours' and o.kind = b.kind and o.id <> b.id and (o.cancelled_at is null or row_goes_on(o, r.key));
        if day_total + per.total > cap.max_per_day then
            return query select 'batch_over_cap', format('%s %s here and %s in the last 24 hours; the cap for a day is %s', per.total, per.currency, day_total, cap.max_per_day);
            return;
        end if;
        if cap.max_per_user is not null then
            select format('line %s: its user would get %s %s within 24 hours; the cap is %s', min(u.line), u.total + u.before, per.currency, cap.max_per_user)
            into found_text
            from (select m.line, m.total, coalesce(d.before, 0) as before from
                    (select r.user_id, min(r.line) as line, sum(r.amount) as total from batch_row r where r.batch = b.id and r.currency = per.currency group by 1) m
                    left join (select r.user_id, sum(r.amount) as before from batch o join batch_row r on r.batch = o.id and r.currency = per.currency
                               where o.registered_at > clock_timestamp() - interval '24 hours' and o.kind = b.kind and o.id <> b.id and (o.cancelled_at is null or row_goes_on(o, r.key)) group by 1) d using (user_id)
                    where m.total + coalesce(d.before, 0) > cap.max_per_user order by m.line limit 1) u
            group by u.total, u.before;
            if found_text is not null then
                return query select 'batch_over_cap', found_text;
                return;
            end if;
        end if;
    end loop;
    if b.kind <> 'stores' then
        select string_agg(format('line %s', line), ', ' order by line) into found_text from (
            select r.line from batch_row r where r.batch = b.id and exists (
                select from batch_row o join batch ob on ob.id = o.batch and ob.registered_at is not null and (ob.cancelled_at is null or row_goes_on(ob, o.key))
                where o.key = r.key and o.batch <> r.batch and ob.kind = b.kind)
            order by r.line limit 20) d;
        if found_text is not null then
            return query select 'batch_duplicates', format('granted by another batch already: %s', found_text);
            return;
        end if;
        select string_agg(format('line %s', line), ', ' order by line) into found_text from (
            select r.line from batch_row r where r.batch = b.id and (
                exists (select from job j where j.kind = case b.kind when 'points' then 'point_grant' else 'gift_issuance' end and j.key = r.key and j.batch is distinct from b.id)
                or exists (select from tombstone t where t.kind = case b.kind when 'points' then 'point_grant' else 'gift_issuance' end and t.key = r.key and t.batch is distinct from b.id)) order by r.line limit 20) d;
        if found_text is not null then
            return query select 'batch_duplicates', format('asked for by somebody else already: %s. An id names one request for ever, also one that was cancelled: give these rows new ids', found_text);
        end if;
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.batch_progress(p_batch bigint)
 RETURNS TABLE(batch bigint, status text, rows bigint, completed bigint, failed bigint, cancelled bigint, needs_operator bigint, open bigint, skipped bigint, compensated bigint, mails_sent bigint, mails_failed bigint, holds boolean)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select f.* from batch b cross join lateral jsonb_to_record(b.totals) as f(
        batch bigint, status text, rows bigint, completed bigint, failed bigint, cancelled bigint, needs_operator bigint, open bigint,
        skipped bigint, compensated bigint, mails_sent bigint, mails_failed bigint, holds boolean)
    where b.id = p_batch and b.settled_at is not null
    union all
    select p.* from batch b cross join lateral batch_progress_of_rows(b.id) p where b.id = p_batch and b.settled_at is null
$function$;

CREATE OR REPLACE FUNCTION noshi.batch_progress_of_rows(p_batch bigint)
 RETURNS TABLE(batch bigint, status text, rows bigint, completed bigint, failed bigint, cancelled bigint, needs_operator bigint, open bigint, skipped bigint, compensated bigint, mails_sent bigint, mails_failed bigint, holds boolean)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    with t as (
        select count(*) as rows, count(*) filter (where r.result = 'completed') as completed, count(*) filter (where r.result = 'failed') as failed,
               count(*) filter (where r.result = 'cancelled') as cancelled, count(*) filter (where r.result = 'needs_operator') as needs_operator,
               count(*) filter (where r.result = 'open') as open, count(*) filter (where r.outcome = 'skipped') as skipped,
               count(*) filter (where r.outcome = 'compensated') as compensated,
               count(*) filter (where r.mail = 'completed') as mails_sent,
               count(*) filter (where r.mail not in ('completed', 'scheduled', 'available', 'running', 'retryable')) as mails_failed,
               coalesce(bool_and(r.jobs <= r.expected), true) as once
        from batch_rows(p_batch) r),
    -- Counted again from the jobs alone, so that a row in two places shows.
    m as (select count(*) as made, count(distinct j.row_no) as distinct_rows from (select o.row_no from job o where o.batch = p_batch union all select t.row_no from tombstone t where t.batch = p_batch) j)
    select b.id,
           case when b.invalid_at is not null then 'invalid' when b.cancelled_at is not null and t.open = 0 then 'cancelled'
                when b.validated_at is null then 'received' when b.paused_at is not null then 'paused'
                when b.refused_code is not null then 'refused'
                when exists (select from job c where c.kind = 'bulk_grants' and c.key = 'batch/' || b.id and c.status = 'needs_operator') then 'parked'
                when b.released_at is not null and t.open = 0 and t.needs_operator = 0 then 'settled'
                when b.released_at is not null then 'released'
                when b.needs_approval and (b.approved_until is null or b.approved_until <= clock_timestamp()) then 'awaiting_approval'
                when b.needs_approval then 'approved' else 'validated' end,
           t.rows, t.completed, t.failed, t.cancelled, t.needs_operator, t.open, t.skipped, t.compensated, t.mails_sent, t.mails_failed,
           t.once and (b.rows is null or b.rows = t.completed + t.failed + t.cancelled + t.needs_operator + t.open)
               and m.distinct_rows <= t.rows and (b.kind <> 'stores' or m.made = m.distinct_rows)
    from batch b cross join t cross join m where b.id = p_batch
$function$;

CREATE OR REPLACE FUNCTION noshi.batch_row_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare bad record;
begin
    perform noshi.must('enqueue');
    if exists (select from (select distinct batch from new_rows) r left join batch b on b.id = r.batch
               where b.id is null or b.submitted_by <> noshi.who() or b.validated_at is not null or b.invalid_at is not null or b.cancelled_at is not null) then
        raise exception 'rows are taken only while their batch is being received, from the login that submits it' using errcode = 'NS403';
    end if;
    select r.row_no, noshi.request_fault(r.kind, r.key, r.args) as fault into bad from (
        select n.row_no, n.key, case b.kind when 'points' then n.args - array['grant', 'value']
                   when 'stores' then case when n.args ->> 'contact' = n.batch || '/' || n.row_no then n.args - 'contact'
                       when n.args ? 'contact' then n.args || '{"contact": true}' else n.args end
                   else n.args end as args,
               case b.kind when 'grants' then 'gift_issuance' when 'points' then 'point_grant' else 'store_creation' end as kind
        from new_rows n join batch b on b.id = n.batch offset 0) r
    where case when noshi.is_usual(r.kind, r.key, r.args) then false else noshi.request_fault(r.kind, r.key, r.args) is not null end
    order by r.row_no limit 1;
    if found then
        raise exception 'row %: %', bad.row_no, bad.fault using errcode = 'NS400', column = split_part(bad.fault, ': ', 1);
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.batch_rows(p_batch bigint, p_from integer DEFAULT 1, p_to integer DEFAULT 2147483647)
 RETURNS TABLE(row_no integer, line integer, key text, result text, outcome text, code text, detail text, mail text, jobs integer, expected integer)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'on'
 SET enable_hashjoin TO 'on'
 SET work_mem TO '64MB'
AS $function$
    select r.row_no, r.line, r.key,
           case when j.asks then 'needs_operator'
                when j.open then 'open'
                when j.failed then 'failed'
                when j.cancelled then 'cancelled'
                when s.gone then 'cancelled'
                when b.refused_code is not null then 'failed'
                when b.released_at is null or (b.kind <> 'stores' and b.registered_at is null) or (coalesce(j.jobs, 0) < e.expected and b.cancelled_at is null) then 'open'
                else 'completed' end,
           case when s.gone then 'cancelled' else coalesce(j.outcome, case when b.registered_at is not null then 'granted' end) end,
           case when (s.gone or (b.cancelled_at is not null and j.cancelled)) and not (j.asks or j.open or j.failed) is true then 'batch_cancelled' else coalesce(j.code, b.refused_code) end, coalesce(j.detail, b.refused_detail),
           j.mail, coalesce(j.jobs, 0)::integer, e.expected
    from batch b join batch_row r on r.batch = b.id and r.row_no between p_from and p_to
    cross join lateral (select case when b.kind <> 'grants' then 1 else (b.mails and r.mailed)::integer + b.issues::integer end as expected) e
    left join (
        select j.row_no, count(*) as jobs,
               bool_or(j.status = 'needs_operator') as asks,
               bool_or(j.status in ('scheduled', 'available', 'running', 'retryable')) as open,
               bool_or(j.status = 'failed' and j.kind <> 'email') as failed,
               bool_or(j.status = 'cancelled' and j.kind <> 'email') as cancelled,
               max(j.outcome) filter (where j.kind <> 'email') as outcome,
               max(j.code) filter (where j.kind <> 'email' or j.status = 'needs_operator') as code,
               max(j.detail) filter (where j.kind <> 'email') as detail,
               max(case when j.kind = 'email' then coalesce(j.code, j.status::text) end) as mail
        from (select o.row_no, o.kind, o.status, o.outcome, o.code, coalesce(o.state ->> 'detail', o.state ->> 'reason', o.detail) as detail
              from job o where o.batch = p_batch and o.row_no between p_from and p_to
              union all
              select t.row_no, t.kind, t.status, t.outcome, t.code, t.detail
              from tombstone t where t.batch = p_batch and t.row_no between p_from and p_to) j group by j.row_no) j on j.row_no = r.row_no
    cross join lateral (select case when b.cancelled_at is null then false
        when b.kind <> 'grants' or b.registered_at is null then coalesce(j.jobs, 0) = 0
        else not (exists (select from job g where g.kind = 'gift_issuance' and g.key = r.key and g.status <> 'cancelled')
                  or exists (select from tombstone g where g.kind = 'gift_issuance' and g.key = r.key and g.status <> 'cancelled'))
             or exists (select from batch_row o join batch ob on ob.id = o.batch
                where o.key = r.key and ob.kind = 'grants' and ob.registered_at > b.registered_at) end as gone) s
    where b.id = p_batch
$function$;

CREATE OR REPLACE FUNCTION noshi.batch_stands(p_batch bigint)
 RETURNS text
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select case when cancelled_at is not null then 'cancelled' when paused_at is not null then 'paused' end from batch where id = p_batch for share
$function$;

CREATE OR REPLACE FUNCTION noshi.begin_session(p_id text, p_digest bytea)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    t token;
    cut text[];
    until timestamptz;
begin
    select * into t from shown_token();
    if not found then
        raise exception 'no token was shown' using errcode = 'NS401';
    end if;
    cut := array(select s from unnest(t.scopes) s where s in ('read', 'operate', 'approve'));
    if t.parent is not null or 'read' <> all (cut) then
        raise exception 'this token begins no session' using errcode = 'NS403', hint = 'A session takes a token that may read, and no session.';
    end if;
    until := least(t.expires_at, clock_timestamp() + interval '8 hours');
    insert into token (id, owner, digest, scopes, per_second, expires_at, last_used_at, login, as_operator, parent)
    values (p_id, t.owner, p_digest, cut, t.per_second, until, clock_timestamp(), t.login, t.as_operator, t.id);
    perform record('session begin', 'token/' || p_id, null, null, jsonb_build_object('parent', t.id, 'scopes', cut, 'expires_at', until));
end $function$;

CREATE OR REPLACE FUNCTION noshi.benefit_exercised(p_key text, p_benefit text, p_source text)
 RETURNS TABLE(outcome text, entry bigint, detail text)
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select 'conflict', e.id, format('source %s of benefit %s was exercised before, with the key %s', $3, $2, e.key)
    from benefit_exercise x join point_entry e on e.exercise = x.id where x.benefit = $2 and x.source = $3 and e.key <> $1
$function$;

CREATE OR REPLACE FUNCTION noshi.book_due(p_users text[], p_due timestamp with time zone, p_lots integer, p_job bigint)
 RETURNS TABLE(lots integer, points bigint)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    entries point_entry[];
    allocations point_allocation[];
    taken bigint;
begin
    select array_agg(row(n.entry, 'expire:' || n.id, point_digest(array['expire', n.id::text]), 'expire', n.user_id,
                         n.seq + n.nth, n.expires_at, null, -n.remaining, n.balance - n.so_far, null, null, null, p_job)::point_entry),
           array_agg(row(n.id, n.entry, n.remaining)::point_allocation),
           sum(n.remaining)
    into entries, allocations, taken
    from (select d.*, nextval('noshi.point_entry_id_seq') as entry, row_number() over w as nth, (sum(d.remaining) over w)::bigint as so_far
          from (select u.user_id, e.seq, e.balance, l.id, l.remaining, l.granted_at, l.expires_at
                from unnest(p_users) as u(user_id)
                cross join lateral (
                    select o.seq, o.balance from point_entry o where o.user_id = u.user_id order by o.seq desc limit 1) e
                cross join lateral (
                    select o.id, o.remaining, o.granted_at, o.expires_at from point_lot o
                    where o.user_id = u.user_id and o.open and o.expires_at <= p_due
                    order by o.expires_at, o.granted_at, o.id limit p_lots) l
                order by l.expires_at, l.granted_at, l.id limit p_lots) d
          window w as (partition by d.user_id order by d.expires_at, d.granted_at, d.id)) n;
    if entries is not null then
        perform post_points(entries, null, allocations);
    end if;
    return query select coalesce(cardinality(entries), 0), coalesce(taken, 0);
end $function$;

CREATE OR REPLACE FUNCTION noshi.book_expiries(p_due timestamp with time zone, p_lots integer, p_job bigint DEFAULT NULL::bigint)
 RETURNS TABLE(lots integer, points bigint, more boolean)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
    due constant timestamptz := least(p_due, clock_timestamp());
    users text[];
    booked record;
begin
    if p_due is null or p_lots is null or p_lots < 1 then
        raise exception 'expiries are booked up to an instant, at least one lot at a time' using errcode = 'NS400';
    end if;
    if not clock_holds() then
        raise exception 'the server''s clock has jumped: points neither move nor expire until the fleet trusts it again' using errcode = '55000';
    end if;
    select array_agg(distinct o.user_id) into users from (
        select o.user_id from point_lot l join point_owner o on o.user_id = l.user_id
        where l.open and l.expires_at <= due order by l.expires_at, l.id limit p_lots for update of o skip locked) o;
    select b.lots, b.points into booked from book_due(coalesce(users, '{}'), due, p_lots, p_job) b;
    -- A statement of its own: it sees what was just booked.
    return query select booked.lots, booked.points, exists (select from point_lot l where l.open and l.expires_at <= due);
end $function$;

CREATE OR REPLACE FUNCTION noshi.book_grant(p_at timestamp with time zone, p_key text, p_user text, p_amount bigint, p_benefit text, p_source text, p_expires_at timestamp with time zone, p_area text, p_job bigint)
 RETURNS TABLE(outcome text, entry bigint, detail text)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['grant', p_user, p_amount::text, p_benefit, p_source, extract(epoch from p_expires_at)::text, p_area]);
    content constant jsonb := jsonb_build_object('kind', 'grant', 'user', p_user, 'amount', p_amount, 'benefit', p_benefit,
        'source', p_source, 'expires_at', p_expires_at, 'area', p_area);
    turn record;
    exercised text;
    e point_entry;
    l point_lot;
begin
    perform check_point_key(p_key, p_user), check_points(p_amount);
    if coalesce(p_benefit, '') = '' or coalesce(p_source, '') = '' or p_expires_at is null or p_area = '' then
        raise exception 'a grant of points names its benefit, its source and its expiry, and an area is not empty' using errcode = 'NS400';
    end if;
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    return query select * from benefit_exercised(p_key, p_benefit, p_source);
    if found then
        return;
    end if;
    turn := take_point_turn(p_user, p_at, p_job);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    if turn.withdrawn then
        return query select 'withdrawn', null::bigint, 'the user has withdrawn'::text;
        return;
    end if;
    if p_expires_at <= turn.at then
        return query select 'expired', null::bigint, format('they would have expired at %s already', p_expires_at);
        return;
    end if;
    insert into benefit_exercise (benefit, source, user_id, at) values (p_benefit, p_source, p_user, turn.at)
    on conflict do nothing returning id into e.exercise;
    if not found then
        return query select * from benefit_exercised(p_key, p_benefit, p_source);
        return;
    end if;
    e.id := nextval('noshi.point_entry_id_seq');
    e.key := p_key;
    e.digest := digest;
    e.kind := 'grant';
    e.user_id := p_user;
    e.seq := turn.seq + 1;
    e.at := turn.at;
    e.amount := p_amount;
    e.balance := turn.balance + p_amount;
    e.job := p_job;
    l.entry := e.id;
    l.user_id := p_user;
    l.amount := p_amount;
    l.granted_at := turn.at;
    l.expires_at := p_expires_at;
    l.area := p_area;
    perform post_points(array[e], array[l], null);
    return query select 'posted', e.id, null::text;
end $function$;

CREATE OR REPLACE FUNCTION noshi.book_rest(p_at timestamp with time zone, p_seq bigint, p_balance bigint, p_key text, p_user text, p_job bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    e point_entry;
    allocations point_allocation[];
begin
    e.id := nextval('noshi.point_entry_id_seq');
    select array_agg(row(l.id, e.id, l.remaining)::point_allocation order by l.id) into allocations
    from point_lot l where l.user_id = p_user and l.open;
    e.key := p_key;
    e.digest := point_digest(array['withdraw', p_user]);
    e.kind := 'withdraw';
    e.user_id := p_user;
    e.seq := p_seq + 1;
    e.at := p_at;
    e.amount := -p_balance;
    e.balance := 0;
    e.job := p_job;
    perform post_points(array[e], null, allocations);
    return e.id;
end $function$;

CREATE OR REPLACE FUNCTION noshi.book_reversal(p_at timestamp with time zone, p_key text, p_use_key text, p_grace interval, p_job bigint)
 RETURNS TABLE(outcome text, entry bigint, detail text)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET "TimeZone" TO 'UTC'
AS $function$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['reverse', p_use_key, encode(interval_send(p_grace), 'hex')]);
    content constant jsonb := jsonb_build_object('kind', 'reverse', 'use', p_use_key);
    used point_entry;
    turn record;
    e point_entry;
    lots point_lot[];
begin
    if p_use_key is null or p_grace is null or p_grace < interval '0' then
        raise exception 'a reversal names the use that it takes back, and a grace of 0 or more' using errcode = 'NS400';
    end if;
    perform check_point_key(p_key, '-');
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    select * into used from point_entry o where o.key = p_use_key and o.kind = 'use';
    if not found then
        return query select 'not_found', null::bigint, format('no use of points has the key %s', p_use_key);
        return;
    end if;
    turn := take_point_turn(used.user_id, p_at, p_job);
    return query select * from point_known(p_key, digest, content)
        union all select 'conflict', o.id, format('that use was taken back before, with the key %s', o.key)
        from point_entry o where o.reverses = used.id and o.key <> p_key;
    if found then
        return;
    end if;
    e.id := nextval('noshi.point_entry_id_seq');
    select array_agg(row(null, e.id, used.user_id, a.amount, a.amount, l.granted_at,
                         greatest(l.expires_at, turn.at + p_grace), l.area, null)::point_lot order by l.id)
    into lots from point_allocation a join point_lot l on l.id = a.lot where a.entry = used.id;
    e.key := p_key;
    e.digest := digest;
    e.kind := 'reverse';
    e.user_id := used.user_id;
    e.seq := turn.seq + 1;
    e.at := turn.at;
    e.amount := -used.amount;
    e.balance := turn.balance - used.amount;
    e.reverses := used.id;
    e.job := p_job;
    perform post_points(array[e], lots, null);
    if turn.withdrawn then
        -- What is due at this very moment expires; the rest is withdrawn.
        turn := take_point_turn(used.user_id, p_at, p_job);
        perform book_rest(turn.at, turn.seq, turn.balance, 'withdraw_again:' || e.id, used.user_id, p_job);
    end if;
    return query select 'posted', e.id, null::text;
end $function$;

CREATE OR REPLACE FUNCTION noshi.book_use(p_at timestamp with time zone, p_key text, p_user text, p_amount bigint, p_area text, p_job bigint)
 RETURNS TABLE(outcome text, entry bigint, detail text)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['use', p_user, p_amount::text, p_area]);
    content constant jsonb := jsonb_build_object('kind', 'use', 'user', p_user, 'amount', p_amount, 'area', p_area);
    turn record;
    lot record;
    wanted bigint := p_amount;
    e point_entry;
    allocations point_allocation[];
begin
    perform check_point_key(p_key, p_user), check_points(p_amount);
    if p_area = '' then
        raise exception 'an area is not empty' using errcode = 'NS400';
    end if;
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    turn := take_point_turn(p_user, p_at, p_job);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    if turn.withdrawn then
        return query select 'withdrawn', null::bigint, 'the user has withdrawn'::text;
        return;
    end if;
    if turn.balance < p_amount then
        return query select 'insufficient', null::bigint, format('the balance is %s, asked for are %s', turn.balance, p_amount);
        return;
    end if;
    e.id := nextval('noshi.point_entry_id_seq');
    for lot in select l.id, l.remaining from point_lot l
               where l.user_id = p_user and l.open and (l.area is null or l.area = p_area)
               order by l.expires_at, l.granted_at, l.id loop
        allocations := allocations || row(lot.id, e.id, least(lot.remaining, wanted))::point_allocation;
        wanted := wanted - least(lot.remaining, wanted);
        exit when wanted = 0;
    end loop;
    if wanted > 0 then
        return query select 'insufficient', null::bigint,
            format('%s of the balance of %s may be used %s, asked for are %s', p_amount - wanted, turn.balance,
                   coalesce('in ' || p_area, 'without an area'), p_amount);
        return;
    end if;
    e.key := p_key;
    e.digest := digest;
    e.kind := 'use';
    e.user_id := p_user;
    e.seq := turn.seq + 1;
    e.at := turn.at;
    e.amount := -p_amount;
    e.balance := turn.balance - p_amount;
    e.area := p_area;
    e.job := p_job;
    perform post_points(array[e], null, allocations);
    return query select 'posted', e.id, null::text;
end $function$;

CREATE OR REPLACE FUNCTION noshi.book_withdrawal(p_at timestamp with time zone, p_key text, p_user text, p_job bigint)
 RETURNS TABLE(outcome text, entry bigint, detail text)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
    digest constant bytea := point_digest(array['withdraw', p_user]);
    content constant jsonb := jsonb_build_object('kind', 'withdraw', 'user', p_user);
    turn record;
begin
    perform check_point_key(p_key, p_user);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    turn := take_point_turn(p_user, p_at, p_job);
    return query select * from point_known(p_key, digest, content);
    if found then
        return;
    end if;
    return query select 'posted', book_rest(turn.at, turn.seq, turn.balance, p_key, p_user, p_job), null::text;
end $function$;

CREATE OR REPLACE FUNCTION noshi.bought_as_granted()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare other constant bigint := granted_otherwise(new.job);
begin
    if other is not null then
        raise exception 'batch % grants % otherwise than this job asks', other, new.grant_id using errcode = 'NS409',
            hint = 'Nothing was bought. See who asked for it, and cancel the job.';
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.by_value(p_json jsonb, p_depth integer DEFAULT 0)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
    return case
        when p_depth > 32 then p_json
        when jsonb_typeof(p_json) = 'number' then to_jsonb(trim_scale((p_json #>> '{}')::numeric))
        when jsonb_typeof(p_json) = 'object' then
            (select coalesce(jsonb_object_agg(o.key, noshi.by_value(o.value, p_depth + 1)), '{}') from jsonb_each(p_json) o)
        when jsonb_typeof(p_json) = 'array' then
            (select coalesce(jsonb_agg(noshi.by_value(a.value, p_depth + 1) order by a.n), '[]') from jsonb_array_elements(p_json) with ordinality a(value, n))
        else p_json end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.cancel_batch(p_batch bigint, p_reason text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    b batch;
    ended integer := 0;
begin
    perform must('operate');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400';
    end if;
    perform must_know_the_past();
    b := batch_locked(p_batch);
    perform batch_alone(b.id);
    if b.cancelled_at is not null then
        raise exception 'batch % was cancelled already; nothing changed', b.id using errcode = 'NS409';
    end if;
    -- That it is settled is noted a moment after its last row.
    if b.settled_at is not null or b.invalid_at is not null or (b.released_at is not null and (select p.status = 'settled' from batch_progress(b.id) p)) then
        raise exception 'batch % is over; nothing changed', b.id using errcode = 'NS409', hint = 'Every row of it has its end: `noshi batch show` tells which.';
    end if;
    -- What a pause had set aside is counted with the rest.
    update batch set cancelled_at = clock_timestamp(), paused_at = null, paused_code = null where id = b.id;
    perform batch_log(b.id, 'cancel', null, p_reason);
    with c as (
        update job set requested_act = null, status_before = null, status = 'cancelled', outcome = 'cancelled', code = revoked_code(kind), lane = '', reserved = false,
            finished_at = clock_timestamp(), worker = null, step = step + 1
        where batch = b.id and status in ('available', 'scheduled', 'retryable') and called_at is null and undo is null and not in_doubt
          and at in ('new', 'checking', 'creating', 'routing', 'issuing', 'preparing', 'sending', 'booking') and not (args ? 'paid_by')
          -- Of a mail that may have gone out once already nobody says that it was not sent.
          and coalesce(state ->> 'sends', '0') = '0' and coalesce(state ->> 'send_no', '1') = '1'
          -- After a restore, or a loss, what this database does not remember may have been called.
          and not (kind = 'gift_issuance' and exists (select from server_seen where restored_to is not null or owed > 0))
        returning id, lease, step, at, code),
    t as (
        -- A trade that was saved and never called is void: nothing can come of it.
        insert into gift_outcome (trade, outcome, reason)
        select t.id, 'void', 'revoked' from c join gift_trade t on t.job = c.id
        where not exists (select from gift_outcome o where o.trade = t.id) on conflict do nothing)
    insert into job_event (job, event, lease, step, was, became, outcome, code, detail)
    select id, 'cancelled', lease, step - 1, at, at, 'cancelled', code, p_reason from c;
    get diagnostics ended = row_count;
    -- The others that a pause had set aside have begun: they go on.
    update job set status = 'available', run_at = clock_timestamp() where batch = b.id and status = 'scheduled' and run_at = 'infinity';
    perform ask_as(j.id, j.step, 'retry', p_reason, who()) from job j
    where j.kind = 'bulk_grants' and j.key = 'batch/' || b.id and j.status = 'needs_operator' and j.requested_act is null;
    perform pg_notify('noshi', '');
    return ended;
end $function$;

CREATE OR REPLACE FUNCTION noshi.cancel_redrive(p_redrive bigint, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r redrive;
begin
    perform must('operate');
    r := redrive_locked(p_redrive, false, p_reason);
    update redrive set cancelled_at = clock_timestamp() where id = r.id;
    perform record('redrive cancel', 'redrive/' || r.id, p_reason);
end $function$;

CREATE OR REPLACE FUNCTION noshi.carry_out(p noshi.proposal, p_reason text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare doubted bigint;
begin
    case p.act
        when 'restore_mark' then
            doubted := mark_restored_as(p.restored_to, p_reason, p.proposed_by);
            return format('%s unfinished writes are in doubt', doubted);
        when 'restore_end' then
            perform end_restored_as(p_reason, p.proposed_by);
            return 'no restore is marked any more';
        else
            perform ask_as(p.job, p.step, p.act, p_reason, p.proposed_by);
            return format('job %s is asked to %s', p.job, p.act);
    end case;
end $function$;

CREATE OR REPLACE FUNCTION noshi.check_point_key(p_key text, p_user text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if coalesce(p_key, '') !~ '[^[:space:]]' or octet_length(p_key) > 300 or p_key ~ '^(expire|withdraw_again):' then
        raise exception 'a key of a points operation has 1 to 300 bytes and does not begin with expire: or withdraw_again:, not %',
            coalesce(quote_literal(left(p_key, 60)), 'null') using errcode = 'NS400';
    end if;
    if coalesce(p_user, '') !~ '[^[:space:]]' or octet_length(p_user) > 200 then
        raise exception 'a user id has 1 to 200 bytes, not %', coalesce(quote_literal(left(p_user, 60)), 'null') using errcode = 'NS400';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.check_points(p_amount bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if p_amount is null or p_amount not between 1 and 1000000000000 then
        raise exception 'points are counted from 1 to 1,000,000,000,000, not %', coalesce(p_amount::text, 'null') using errcode = 'NS400';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.clock_holds()
 RETURNS boolean
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select s.trusted_at = '-infinity' or clock_timestamp() between s.trusted_at - interval '1 minute' and s.trusted_at + interval '1 minute' from server_seen s
$function$;

CREATE OR REPLACE FUNCTION noshi.close_reading(p_reading bigint)
 RETURNS TABLE(taken boolean, left_why text[])
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    delete from reading r where r.id = p_reading and r.asked_by = who() returning r.worker is not null, r.left_why
$function$;

CREATE OR REPLACE FUNCTION noshi.composed(p_text text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET standard_conforming_strings TO 'on'
AS $function$ select noshi.cut(regexp_replace($1 collate "C", '[\u0001-\u001f\u007f-\u009f\u2028\u2029]+', ' ', 'g'), 4000) $function$;

CREATE OR REPLACE FUNCTION noshi.confirm_proposal(p_proposal bigint, p_digest bytea, p_reason text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    p proposal;
    j job;
begin
    perform must('approve');
    perform in_turn(who());
    p := proposal_open(p_proposal, p_reason);
    if p.proposed_by = who() then
        raise exception 'proposal % is your own; a second person confirms it', p.id using errcode = 'NS403';
    end if;
    if p.expires_at <= clock_timestamp() then
        raise exception 'proposal % is too old to be confirmed', p.id using errcode = 'NS410', hint = 'It has to be proposed anew.';
    end if;
    if not still_operates(p.proposed_by) then
        raise exception 'proposal % is by %, who is no operator any more', p.id, p.proposed_by using errcode = 'NS409',
            hint = 'Nothing was done. If it is still needed, refuse this one, and somebody who operates proposes it anew.';
    end if;
    if p_digest is distinct from p.digest then
        raise exception 'this digest does not stand for what proposal % would do', p.id using errcode = 'NS409', hint = '`noshi proposal show` names it, with what it stands for.';
    end if;
    if p.job is not null then
        j := job_locked(p.job);
        if (j.step, j.at, j.in_doubt) is distinct from (p.step, p.at, p.in_doubt) then
            raise exception 'job % has moved on since that was proposed', p.job using errcode = 'NS409', hint = 'Look at it; if it is still needed, it has to be proposed anew.';
        end if;
    end if;
    update proposal set decision = 'confirmed', decided_by = who(), decided_at = clock_timestamp(), decision_reason = p_reason where id = p.id;
    perform record('proposal confirm', 'proposal/' || p.id, p_reason, null, jsonb_build_object('act', p.act, 'target', p.target, 'proposed_by', p.proposed_by, 'digest', encode(p.digest, 'hex')));
    -- Both reasons are kept whole with the proposal.
    return carry_out(p, composed(format('%s (proposal %s, confirmed by %s: %s)', cut(p.reason, 1800), p.id, who(), cut(p_reason, 1800))));
end $function$;

CREATE OR REPLACE FUNCTION noshi.conflicts(p_kind text, keys text[], p_args jsonb[])
 RETURNS TABLE(row_no bigint, key text, differences jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_material TO 'off'
 SET jit TO 'off'
AS $function$
begin
    perform must('enqueue');
    return query select r.row_no, r.key, coalesce((select jsonb_agg(case when may_be_told(coalesce(j.asked_by, t.asked_by)) then d else d - 'recorded' end) from jsonb_array_elements(field_differences(coalesce(j.args, t.args), r.args)) d), '[]')
        from (select u.key, as_kept(p_kind, u.key, u.args) as args, u.row_no from unnest(keys, p_args) with ordinality as u(key, args, row_no)) r
        left join job j on j.kind = p_kind and j.key = r.key
        left join lateral (
            select o.fingerprint, s.job -> 'args' as args, s.job ->> 'asked_by' as asked_by from tombstone o left join archived_job s on s.id = o.id
            where j.id is null and o.kind = p_kind and o.key = r.key limit 1) t on true
        where coalesce(j.fingerprint, t.fingerprint) <> sha256(convert_to(r.args::text, 'UTF8')) and coalesce(j.args, t.args) is distinct from r.args
        order by r.row_no limit 20;
end $function$;

CREATE OR REPLACE FUNCTION noshi.count_asked(p_job bigint, p_act text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    currency_of text;
    amount_of bigint;
    delivered boolean;
begin
    select coalesce(args -> 'value' ->> 'currency', ''), coalesce(worth(args), 0), status = 'completed' into currency_of, amount_of, delivered
    from job where id = p_job;
    if p_act not in ('retry', 'inquire', 'rerun') and not (p_act = 'cancel' and delivered) then
        return;
    end if;
    perform in_turn(who());
    if redrive_is_large(who(), 1, case when amount_of > 0 then jsonb_build_object(currency_of, amount_of) else '{}' end) then
        raise exception 'this is more than one person asks for alone within 24 hours' using errcode = 'NS403',
            hint = 'Nothing was asked. Plan a re-drive, which a second person approves: `noshi redrive plan`.';
    end if;
    insert into alone (who, what, target, jobs, currency, amount) values (who(), 'asked', 'job/' || p_job, 1, case when amount_of > 0 then currency_of else '' end, amount_of);
end $function$;

CREATE OR REPLACE FUNCTION noshi.count_batch(b noshi.batch, p_who text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    insert into alone (who, what, target, jobs, currency, amount)
    select p.who, b.kind, 'batch/' || b.id, count(*), coalesce(r.currency, ''), coalesce(sum(r.amount), 0)
    from batch_row r, (select distinct w as who from unnest(array[b.submitted_by, b.released_by, p_who]) w where w is not null) p
    where r.batch = b.id and (b.approved_at is null or b.approved_until <= clock_timestamp()) group by p.who, coalesce(r.currency, '')
$function$;

CREATE OR REPLACE FUNCTION noshi.count_next_batch()
 RETURNS TABLE(batch bigint, status text, open bigint, holds boolean)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    b bigint;
    p record;
begin
    select id into b from batch where released_at is not null and settled_at is null
      and (counted_at is null or counted_at < clock_timestamp() - greatest(interval '2 seconds', coalesce(rows, 0) * interval '100 microseconds'))
    order by counted_at nulls first limit 1 for update skip locked;
    if b is null then
        return;
    end if;
    select * into p from batch_progress(b);
    update batch o set counted_at = clock_timestamp(),
        settled_at = case when p.status in ('settled', 'cancelled') then clock_timestamp() end,
        totals = case when p.status in ('settled', 'cancelled') then to_jsonb(p) end
    where o.id = b;
    if p.status in ('settled', 'cancelled') then
        perform batch_log(b, 'settle');
    end if;
    return query select b, p.status, p.open, p.holds;
end $function$;

CREATE OR REPLACE FUNCTION noshi.count_redrive(p_who text, p_redrive bigint, p_jobs bigint, p_totals jsonb)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    insert into alone (who, what, target, jobs, currency, amount)
    select $1, 'asked', 'redrive/' || $2, $3, '', 0
    union all select $1, 'asked', 'redrive/' || $2, 0, m.key, m.value::bigint from jsonb_each_text($4) m
$function$;

CREATE OR REPLACE FUNCTION noshi.create_token(p_id text, p_digest bytea, p_owner text, p_scopes text[], p_lasts interval, p_per_second integer)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    until timestamptz;
    logins oid[];
    names text;
begin
    if not pg_has_role(session_user, 'noshi_owner', 'member') and (p_owner is distinct from person(session_user) or p_scopes && array['enqueue', 'reveal', 'personal']) then
        raise exception 'a token for %, to %, is made by the login that owns the schema', p_owner, array_to_string(p_scopes, ', ') using errcode = 'NS403',
            hint = 'Tokens in your own name, to read, operate and approve, you make yourself.';
    end if;
    if coalesce(p_owner, '') !~ '^[^[:space:]]+$' or p_owner <> person(p_owner) or octet_length(p_owner) > 200 then
        raise exception 'an owner is named in small letters and without spaces, not %', coalesce(quote_literal(p_owner), 'null') using errcode = 'NS400',
            hint = 'So that nobody is two people by a capital or a space.';
    end if;
    select array_agg(r.oid), string_agg(quote_ident(r.rolname), ', ' order by r.rolname) into logins, names from pg_roles r where person(r.rolname) = p_owner;
    if cardinality(logins) > 1 then
        raise exception 'the logins % are one person to noshi, so no token is made in that name', names using errcode = 'NS409',
            hint = 'Nothing was changed. Rename or drop the others: names that differ by a capital or a space alone are one.';
    end if;
    -- In letters that this database does not fold a login would be another person than its token.
    if logins is null and p_owner collate "C" !~ '^[!-~]+$' then
        raise exception 'there is no login %, and a system is named in ASCII', quote_literal(p_owner) using errcode = 'NS400',
            hint = 'Nothing was changed. For a person, name their login; for a system, use letters from a to z.';
    end if;
    if cardinality(p_scopes) > 6 then
        raise exception 'a token has each scope once' using errcode = 'NS400';
    end if;
    if p_lasts is null or not lasts(p_lasts, '1 minute', '400 days') then
        raise exception 'a token lasts from a minute to 400 days, not %', coalesce(p_lasts::text, 'for ever') using errcode = 'NS400';
    end if;
    insert into token (id, owner, digest, scopes, per_second, expires_at, login, as_operator)
    values (p_id, p_owner, p_digest, p_scopes, p_per_second, clock_timestamp() + p_lasts, logins[1], coalesce(operates(logins[1]), false)) returning expires_at into until;
    perform record('token create', 'token/' || p_id, null, null, jsonb_build_object('owner', p_owner, 'scopes', p_scopes, 'expires_at', until));
    return until;
end $function$;

CREATE OR REPLACE FUNCTION noshi.cut(p_text text, p_bytes integer)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
declare
    bytes constant bytea := convert_to(p_text, 'UTF8');
    upto integer := p_bytes;
begin
    if octet_length(p_text) <= p_bytes then
        return p_text;
    end if;
    -- A byte that goes on with a character begins with 10.
    while upto > 0 and get_byte(bytes, upto) & 192 = 128 loop
        upto := upto - 1;
    end loop;
    return convert_from(substring(bytes for upto), 'UTF8');
end $function$;

CREATE OR REPLACE FUNCTION noshi.dated_ahead()
 RETURNS TABLE(what text, many bigint, newest timestamp with time zone)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select 'entries of points', count(*), max(e.at) from point_entry e where e.at > clock_timestamp() + interval '1 minute' having count(*) > 0
$function$;

CREATE OR REPLACE FUNCTION noshi.deal_with_page(p_page bigint, OUT verdict text, OUT missing bigint, OUT silent integer, OUT doubted bigint)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    s server_seen;
    f failover;
    done record;
    here text := timeline();
    forgotten boolean;
begin
    select * into s from server_seen for update;
    select * into f from failover where failover.timeline = here for update;
    verdict := 'same';
    if s.timeline = here or f.timeline is null then
        return;
    end if;
    if exists (select from worker w where w.timeline <> here and w.dead_at is null and w.stopped_at is null) then
        verdict := 'waits';
        return;
    end if;
    missing := f.missing;
    -- That more is missing than is remembered is one worker's word. What it forgot was called after the last that arrived here of anybody: where that is a
    -- moment ago, the lanes' budgets bound it as they bound what a dead worker began. Where it is longer ago, the database itself shows a gap.
    forgotten := f.overrun and f.seen_at - f.known_to > interval '1 minute';
    -- Dead before the failover is seen means that its jobs were rescued before.
    select count(*) into silent from worker w where w.timeline <> here and w.dead_at >= f.seen_at and w.stopped_at is null;
    -- Commits waited for a standby, and nothing that anybody remembers is missing: nothing was lost.
    verdict := case when f.missing > 0 or (silent > 0 and not s.synchronous) then 'lost' else 'whole' end;
    f.dealing_since := coalesce(f.dealing_since, clock_timestamp());
    if verdict = 'lost' and (silent > 0 or f.overrun) and not f.windowed then
        select * into done from doubt_window_page(f, p_page);
        update failover set dealing_since = f.dealing_since, paged = done.paged, windowed = done.is_last, doubted = f.doubted + done.doubted
        where failover.timeline = here returning * into f;
        -- Everybody else has their turn between two pages.
        if not done.is_last then
            verdict := 'goes_on';
            return;
        end if;
    end if;
    if forgotten then
        select * into done from doubt_everything_page(f, p_page);
        update failover set dealing_since = f.dealing_since, reached = coalesce(done.reached, f.reached), doubted = f.doubted + done.doubted
        where failover.timeline = here returning * into f;
        if done.reached is not null then
            verdict := 'goes_on';
            return;
        end if;
        update server_seen set restored_to = least(restored_to, f.known_to);
        -- Nobody proposed it: so it is on record whose worker said so.
        perform record('restore mark', 'database', 'workers testified that more was lost than they remember', jsonb_build_object('restored_to', s.restored_to),
            jsonb_build_object('restored_to', least(s.restored_to, f.known_to), 'in_doubt', f.doubted), who());
    end if;
    doubted := f.doubted;
    -- Numbers that were given to what is lost are never given again.
    perform setval(pg_get_serial_sequence('noshi.job', 'id'), nextval(pg_get_serial_sequence('noshi.job', 'id')) + 1000000);
    perform setval(pg_get_serial_sequence('noshi.worker', 'id'), nextval(pg_get_serial_sequence('noshi.worker', 'id')) + 1000);
    update server_seen set timeline = here;
    update failover set verdict = deal_with_page.verdict, silent = deal_with_page.silent, dealt_at = clock_timestamp() where failover.timeline = here;
end $function$;

CREATE OR REPLACE FUNCTION noshi.declare_kinds(p_kinds jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare taken text;
begin
    select d.name into taken from jsonb_to_recordset(p_kinds) as d(name text) join kind k on k.name = d.name and not k.own;
    if found then
        raise exception 'kind: % is one of noshi''s own', taken using errcode = 'NS400', hint = 'Nothing was declared. Give it another name.';
    end if;
    insert into kind (name, own, for_producers, id_field, fields)
    select d.name, true, d.for_producers, d.id_field, d.fields from jsonb_to_recordset(p_kinds) as d(name text, for_producers boolean, id_field text, fields jsonb)
    on conflict (name) do update set for_producers = excluded.for_producers, id_field = excluded.id_field, fields = excluded.fields;
end $function$;

CREATE OR REPLACE FUNCTION noshi.differing_fields(ours jsonb, theirs jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select string_agg(format('%s: recorded %s, now %s', key, coalesce(o.value::text, 'absent'), coalesce(t.value::text, 'absent')),
                      '; ' order by key)
    from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
    where o.value is distinct from t.value
$function$;

CREATE OR REPLACE FUNCTION noshi.differing_names(ours jsonb, theirs jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select string_agg(case when t.value is null then key || ' is missing' when o.value is null then key || ' was not asked for' else key || ' differs' end, '; ' order by key)
    from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
    where o.value is distinct from t.value
$function$;

CREATE OR REPLACE FUNCTION noshi.digest_address(p_id text, p_digests bytea[], p_key_id text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if not exists (select from suppression where digest = any(p_digests)) then
        update suppression set digest = p_digests[1], key_id = p_key_id where id = p_id and digest is null;
        return found;
    end if;
    delete from suppression where id = p_id and digest is null;
    if found then
        delete from noshi_sealed.sealed where what = 'suppressed' and subject = p_id;
    end if;
    return false;
end $function$;

CREATE OR REPLACE FUNCTION noshi.dismiss_as(p_job bigint, p_step integer, p_reason text, p_who text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare j job := looked_at(p_job, p_step, p_reason);
begin
    perform must_know_the_past();
    if j.in_doubt then
        raise exception 'job % is in doubt: a call was made, and whether it took effect is not known', p_job using errcode = 'NS409',
            hint = 'Inquire, or attest with evidence.';
    end if;
    if not dismissable(j) then
        raise exception 'job % is % at %: only a row that nobody can read, and that never began, is dismissed', p_job, j.status, j.at using errcode = 'NS409',
            hint = '`noshi job explain` names the acts that are allowed.';
    end if;
    update job set status = 'cancelled', outcome = 'dismissed', lane = '', reserved = false, step = j.step + 1, finished_at = clock_timestamp() where id = p_job;
    insert into job_event (job, event, lease, step, was, became, outcome, code, detail)
    values (j.id, 'dismissed', j.lease, j.step, j.at, j.at, 'dismissed', j.code, p_who || ': ' || p_reason);
    perform record('job dismiss', 'job/' || j.id, p_reason, job_facts(j), jsonb_build_object('status', 'cancelled'), p_who);
end $function$;

CREATE OR REPLACE FUNCTION noshi.dismissable(j noshi.job)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select (j.status = 'needs_operator' or (j.status in ('available', 'scheduled', 'retryable') and not known_kind(j.kind)))
       and not j.in_doubt and j.undo is null and (j.called_at is null or j.kind = 'probe')
       and (j.state is null or j.kind = 'probe' or not known_kind(j.kind))
       and not (j.args ? 'paid_by') and j.kind not in ('point_reversal', 'bulk_grants')
$function$;

CREATE OR REPLACE FUNCTION noshi.done_alone(p_who text, p_what text)
 RETURNS TABLE(target text, jobs bigint, currency text, amount bigint)
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select target, max(jobs), currency, max(amount) from alone where who = $1 and what = $2 and at > clock_timestamp() - interval '24 hours'
    group by target, currency, case when target !~ '^(batch|redrive)/' then id end
$function$;

CREATE OR REPLACE FUNCTION noshi.doubt_everything_page(f noshi.failover, p_page bigint, OUT doubted bigint, OUT reached bigint)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
begin
    select max(id) into reached from (select j.id from job j where j.id > f.reached order by j.id limit p_page) page;
    with r as (
        update job j set in_doubt = true, called_at = least(j.called_at, f.known_to),
            lease = case when status = 'running' then lease + 1 else lease end,
            status = case when status = 'running' then 'available' else status end, worker = null,
            lane = case when status = 'needs_operator' then lane else '' end, reserved = reserved and status = 'needs_operator'
        where j.id > f.reached and j.id <= doubt_everything_page.reached
          and writes and status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning id, lease, step, at)
    insert into job_event (job, event, lease, step, became, detail)
    select id, 'timeline_changed', lease, step, at, 'more was lost than the workers remember' from r;
    get diagnostics doubted = row_count;
end $function$;

CREATE OR REPLACE FUNCTION noshi.doubt_window_page(f noshi.failover, p_page bigint, OUT doubted bigint, OUT paged jsonb, OUT is_last boolean)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    l record;
    n bigint;
    gifts bigint := 0;
begin
    doubted := 0;
    paged := f.paged;
    is_last := false;
    for l in select name, max_calls(name, f.seen_at - f.known_to) as most from lane where name <> '' order by name loop
        if l.name like 'gift/%' then
            gifts := gifts + coalesce(l.most, 0);
        end if;
        with head as (
            select j.id from job j where j.lane = l.name and not j.reserved and j.writes and j.created_at <= f.dealing_since
              and (j.status = 'available' or (j.status in ('scheduled', 'retryable') and j.run_at <= f.seen_at))
            order by j.status = 'available' desc, j.priority, j.rank, j.id
            limit greatest(0, least(p_page - doubted, l.most - coalesce((paged ->> l.name)::bigint, 0))) for update),
        r as (
            update job j set in_doubt = true, called_at = least(j.called_at, f.known_to), lane = '', reserved = false
            from head where j.id = head.id returning j.id, j.lease, j.step, j.at)
        insert into job_event (job, event, lease, step, became, detail)
        select id, 'timeline_changed', lease, step, at, 'a worker that died with the server may have called' from r;
        get diagnostics n = row_count;
        doubted := doubted + n;
        paged := paged || jsonb_build_object(l.name, coalesce((paged ->> l.name)::bigint, 0) + n);
        if doubted >= p_page then
            return;
        end if;
    end loop;
    with head as (
        select j.id from job j where j.lane = '' and not j.reserved and not j.in_doubt and j.created_at <= f.dealing_since
          -- What the silent had in flight may have come to its lane, and been called, in what was lost.
          and (j.status = 'available' or (j.status = 'running'
              and exists (select from worker w where w.id = j.worker and w.timeline <> timeline() and w.dead_at >= f.seen_at)))
          and j.kind = 'gift_issuance' and j.at in ('new', 'routing')
        order by j.status = 'running' or j.crash_count > 0 desc, j.priority, j.rank, j.id
        limit greatest(0, least(p_page - doubted, gifts - coalesce((paged ->> '')::bigint, 0))) for update),
    r as (
        update job j set in_doubt = true, called_at = f.known_to from head where j.id = head.id returning j.id, j.lease, j.step, j.at)
    insert into job_event (job, event, lease, step, became, detail)
    select id, 'timeline_changed', lease, step, at, 'a worker that died with the server may have called' from r;
    get diagnostics n = row_count;
    doubted := doubted + n;
    paged := paged || jsonb_build_object('', coalesce((paged ->> '')::bigint, 0) + n);
    if doubted < p_page then
        is_last := true;
        update server_seen set owed = least(owed + gifts, 1000000000)::integer, lost_since = least(lost_since, f.known_to);
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.draw_back(p_trusted boolean)
 RETURNS TABLE(what text, name text, ahead double precision)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
#variable_conflict use_column
declare
    slack constant interval := '10 seconds';
    clock constant timestamptz := clock_timestamp();
    s server_seen;
    mark timestamptz;
begin
    -- In the order of claims: the lane first.
    perform from lane l where exists (select from lane_budget b where b.lane = l.name and b.tat > clock + b.per + b.jitter + slack)
        order by l.name for update;
    return query with o as (
            select b.lane, b.per, b.tat from lane_budget b where b.tat > clock + b.per + b.jitter + slack for update)
        update lane_budget b set tat = clock + b.per + b.jitter from o where b.lane = o.lane and b.per = o.per
        returning 'budget', o.lane, extract(epoch from o.tat - clock)::float8;
    -- Partners are obeyed for an hour at most.
    return query with o as (
            select l.name, l.closed_until from lane l where l.closed_until > clock + interval '1 hour' + slack and l.closed_until < 'infinity' for update)
        update lane l set closed_until = clock + interval '1 hour' from o where l.name = o.name
        returning 'closed lane', o.name, extract(epoch from o.closed_until - clock)::float8;
    return query with o as (
            select w.id, w.seen_at from worker w where w.dead_at is null and w.stopped_at is null and w.seen_at > clock + slack for update)
        update worker w set seen_at = clock from o where w.id = o.id
        returning 'heartbeat', o.id::text, extract(epoch from o.seen_at - clock)::float8;
    update metric_snapshot_taken f set next_at = clock, taken_at = least(f.taken_at, clock) where f.next_at > clock + interval '1 minute' + slack;
    select * into s from server_seen;
    if not p_trusted or (s.clock_at <= clock + slack and s.back_by is null) then
        return;
    end if;
    select * into s from server_seen for update;
    mark := s.clock_at;
    if mark > clock + slack then
        return query select 'clock', current_database()::text, extract(epoch from mark - clock)::float8;
        update lane l set closed_until = greatest(clock, l.closed_until - (mark - clock)) where l.closed_until > mark and l.closed_until < 'infinity';
        update batch b set counted_at = null where b.counted_at > clock + slack and b.settled_at is null;
        update redrive r set next_at = clock where r.next_at > clock + slack and r.done_at is null;
        update redrive r set canary_at = clock where r.canary_at > clock + slack and r.done_at is null;
        update retention r set begun_at = clock where r.begun_at > clock + slack;
        update email_quota q set asked_at = clock where q.asked_at > clock + slack;
        update server_seen s set seen_at = least(s.seen_at, clock), clock_at = clock,
            back_by = greatest(mark - clock, s.back_by), back_from = clock + slack;
    end if;
    return query select * from draw_back_jobs(1000);
end $function$;

CREATE OR REPLACE FUNCTION noshi.draw_back_jobs(p_page integer)
 RETURNS TABLE(what text, name text, ahead double precision)
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
    clock constant timestamptz := clock_timestamp();
    s server_seen;
    upto timestamptz;
begin
    select * into s from server_seen for update;
    -- All of one moment belong to one page.
    select j.run_at into upto from job j
    where j.status in ('scheduled', 'retryable') and j.run_at > s.back_from and j.run_at < 'infinity' order by j.run_at offset p_page - 1 limit 1;
    return query with o as (
            select j.id, j.run_at from job j
            where j.status in ('scheduled', 'retryable') and j.run_at > s.back_from and j.run_at <= coalesce(upto, timestamptz '9999-01-01')
              and (j.entered_at > clock or exists (select from job_event e where e.job = j.id and e.happened_at > clock))
            for update),
        u as (
            update job j set run_at = greatest(clock, o.run_at - s.back_by), entered_at = least(j.entered_at, clock),
                called_at = case when j.called_at > clock then clock else j.called_at end from o where j.id = o.id
            returning o.run_at)
        select 'waiting jobs', count(*)::text, extract(epoch from max(u.run_at) - clock)::float8 from u having count(*) > 0;
    update server_seen set back_from = upto, back_by = case when upto is null then null else back_by end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.draw_back_schedule(p_name text, p_was timestamp with time zone, p_next timestamp with time zone)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
begin
    update schedule s set next_due = p_next, last_due = case when s.last_due > clock_timestamp() then clock_timestamp() else s.last_due end
    where s.name = p_name and s.next_due = p_was and p_next < p_was and p_next > clock_timestamp() - interval '1 minute';
    return found;
end $function$;

CREATE OR REPLACE FUNCTION noshi.end_reading(p_reading bigint, p_worker bigint, p_take integer, p_trouble text, p_sentence text, p_wait double precision)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform held_reading(p_reading, p_worker, p_take, true);
    update reading set ended_at = clock_timestamp(), trouble = p_trouble, sentence = p_sentence, wait = least(greatest(coalesce(p_wait, 0), 0), 86400)
    where id = p_reading;
    perform pg_notify('noshi_answer', p_reading::text);
end $function$;

CREATE OR REPLACE FUNCTION noshi.end_restored_as(p_reason text, p_who text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare s server_seen;
begin
    
    perform say_why(p_reason);
    select * into s from server_seen for update;
    if s.restored_to is null then
        raise exception 'no restore is marked' using errcode = 'NS409';
    end if;
    update server_seen set restored_to = null;
    perform record('restore end', 'database', p_reason, jsonb_build_object('restored_to', s.restored_to),
        jsonb_build_object('restored_to', null), p_who);
end $function$;

CREATE OR REPLACE FUNCTION noshi.end_session()
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare t token;
begin
    select * into t from shown_token();
    if t.parent is not null then
        perform record('session end', 'token/' || t.id, null);
        update token set revoked_at = clock_timestamp(), revoked_by = t.owner where id = t.id;
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.enqueue(kind text, key text, args jsonb, priority smallint DEFAULT 1)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare made bigint;
begin
    if coalesce(current_setting('noshi.token', true), '') <> '' or not pg_has_role(session_user, 'noshi_producer', 'member') then
        perform must('enqueue');
    end if;
    if $4 in (0, 1) and is_usual($1, $2, $3) and is_held_to_no_more($1, $2, $3) and current_setting('transaction_isolation') = 'read committed'
       and not exists (select from batch_row r where r.key = $2) then
        insert into job (asked_by, kind, key, fingerprint, args, priority, row_no, rank)
        values (who(), $1, $2, sha256(convert_to($3::text, 'UTF8')), $3, $4, 1, 1 + (select vtime from lane where name = ''))
        on conflict on constraint job_key do nothing returning id into made;
        if made is not null then
            -- Looked at anew: this statement may have waited for the prune, or for a file.
            if exists (select from tombstone t where t.kind = $1 and t.key = $2) or exists (select from lost_call) or exists (select from batch_row r where r.key = $2) then
                made := (admit(array[made]))[1];
            end if;
            if made is not null then
                if exists (select from bell b where b.until > clock_timestamp()) then
                    perform pg_notify('noshi', '');
                end if;
                return made;
            end if;
        end if;
    elsif exists (select from kind k where k.name = $1 and k.for_tests) then
        perform kind_guard($1);
    end if;
    return (select id from enqueue_rows_into($1, array[$2], array[$3], $4) id);
end $function$;

CREATE OR REPLACE FUNCTION noshi.enqueue_rows(p_kind text, keys text[], p_args jsonb[], p_priority smallint DEFAULT 1)
 RETURNS SETOF bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if cardinality(keys) = 1 and cardinality(p_args) = 1 then
        return next enqueue($1, keys[array_lower(keys, 1)], p_args[array_lower(p_args, 1)], $4);
        return;
    end if;
    perform may_enqueue($1);
    return query select * from enqueue_rows_into($1, $2, $3, $4);
end $function$;

CREATE OR REPLACE FUNCTION noshi.enqueue_rows_into(p_kind text, keys text[], p_args jsonb[], p_priority smallint DEFAULT 1, p_batch bigint DEFAULT NULL::bigint)
 RETURNS SETOF bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_material TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
 SET standard_conforming_strings TO 'on'
AS $function$
declare
    asker constant text := who();
    known record;
    taken bigint;
    new_ids bigint[];
    bad record;
    odd_rows bigint[];
    odd_keys text[];
    odd_args jsonb[];
    guarded bigint[];
    as_sealed jsonb[];
    -- Whatever the locale holds for a space, these leave nothing to see.
    visible constant text := '[^[:space:]\u00a0\u3000]';
begin
    if p_kind is null or p_kind !~ '^[a-z][a-z0-9_]{0,62}$' then
        raise exception 'a kind is a lower-case name, not %', coalesce(quote_literal(p_kind), 'null') using errcode = 'NS400';
    end if;
    select k.for_tests into known from kind k where k.name = p_kind;
    if not found then
        raise exception 'kind: there is no kind %, so nothing was taken; there are %', quote_literal(p_kind),
            (select string_agg(k.name, ', ' order by k.name) from kind k where not k.for_tests) using errcode = 'NS400', column = 'kind';
    end if;
    if known.for_tests and not (pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_operator', 'member')) then
        raise exception 'kind: % is for trying out and measuring, and not for producers', p_kind using errcode = 'NS403', column = 'kind';
    end if;
    if p_priority is null or p_priority not in (0, 1) then
        raise exception 'a priority is 0, where a person waits, or 1, not %', coalesce(p_priority::text, 'null') using errcode = 'NS400';
    end if;
    if keys is null or cardinality(keys) is distinct from cardinality(p_args) then
        raise exception '% keys but % args', cardinality(keys), cardinality(p_args) using errcode = 'NS400';
    end if;
    -- What is usual is good at one look. The rest is looked at field by field, and only to name the fault; and held to what is asked of its kind beside.
    select array_agg(r.row_no) filter (where not u.usual), array_agg(r.key) filter (where not u.usual), array_agg(r.args) filter (where not u.usual), array_agg(r.row_no)
    into odd_rows, odd_keys, odd_args, guarded
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    cross join lateral (select is_usual(p_kind, r.key, r.args) is true as usual offset 0) u
    where not u.usual or is_held_to_no_more(p_kind, r.key, r.args) is not true
       or p_batch is null and exists (select from batch_row b where b.key = r.key);
    if odd_rows is not null then
        select row_no, key, args into bad from unnest(odd_keys, odd_args, odd_rows) as r(key, args, row_no)
        where key is null or key !~ visible or octet_length(key) > 200
           or args is null or jsonb_typeof(args) <> 'object' or octet_length(args::text) > 65536
        order by row_no limit 1;
        if found then
            raise exception 'row %: %', bad.row_no, case
                when bad.key is null or bad.key !~ visible then 'the id is empty'
                when octet_length(bad.key) > 200 then 'the id is longer than 200 bytes'
                when bad.args is null or jsonb_typeof(bad.args) <> 'object' then 'the arguments are not a JSON object'
                else 'the arguments are larger than 64 KiB' end using errcode = 'NS400';
        end if;
        -- Numbers by their value, before anything is compared.
        if exists (select from unnest(odd_args) a where a::text ~ '[0-9][.][0-9]*0') then
            p_args := (select array_agg(case when r.args::text ~ '[0-9][.][0-9]*0' then noshi.by_value(r.args) else r.args end order by r.n)
                       from unnest(p_args) with ordinality as r(args, n));
        end if;
        select r.row_no, f.fault into bad from unnest(odd_keys, odd_args, odd_rows) as r(key, args, row_no)
        cross join lateral (select noshi.request_fault(p_kind, r.key, r.args) as fault offset 0) f
        where f.fault is not null order by r.row_no limit 1;
        if found then
            raise exception 'row %: %', bad.row_no, bad.fault using errcode = 'NS400', column = split_part(bad.fault, ': ', 1),
                hint = 'Nothing of this request was written. Fix the field, and ask again.';
        end if;
        if p_kind <> 'probe' and exists (select from unnest(odd_args) a where jsonb_path_exists(a, '$.* ? (@ == null)')) then
            p_args := (select array_agg(case when jsonb_path_exists(r.args, '$.* ? (@ == null)') then jsonb_strip_nulls(r.args) else r.args end order by r.n)
                       from unnest(p_args) with ordinality as r(args, n));
        end if;
    end if;

    if p_kind = 'point_grant' then
        select r.row_no into bad from unnest(keys, p_args) with ordinality as r(key, args, row_no)
        where r.args ->> 'zone' <> 'Asia/Tokyo' and not is_zone(r.args ->> 'zone') order by r.row_no limit 1;
        if found then
            raise exception 'row %: args.zone: there is no such time zone; name one as Asia/Tokyo or UTC are named', bad.row_no
                using errcode = 'NS400', column = 'args.zone';
        end if;
    end if;

    if p_kind = 'store_creation' then
        as_sealed := p_args;
        p_args := (select array_agg(as_kept(p_kind, r.key, r.args) order by r.n) from unnest(keys, p_args) with ordinality as r(key, args, n));
    end if;

    if guarded is not null then
        perform guard_request(p_kind, r.key, r.args, p_batch) from unnest(keys, p_args) with ordinality as r(key, args, row_no) where r.row_no = any (guarded);
    end if;

    with made as (
    insert into job (asked_by, kind, key, fingerprint, args, priority, batch, row_no, rank)
    select asker, p_kind, r.key, sha256(convert_to(r.args::text, 'UTF8')), r.args, p_priority, p_batch, r.row_no,
           -- Whatever its priority: within one, a flood of one producer is in line with the others.
           l.vtime + r.row_no
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    cross join (select coalesce(max(vtime), 0) as vtime from lane where name = '') l
    order by r.key
    on conflict on constraint job_key do nothing returning id, row_no)
    select array_agg(m.id order by m.row_no), count(*) into new_ids, taken from made m;
    if taken > 0 then
        new_ids := admit(new_ids);
    end if;

    -- Of a request that comes again the first one's stands, and of one that is refused below nothing stays.
    if as_sealed is not null then
        insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
        select 'contact', j.args ->> 'contact', j.args ->> 'public_id', '', r.args -> 'contact' ->> 'key',
               decode(r.args -> 'contact' ->> 'nonce', 'base64'), decode(r.args -> 'contact' ->> 'ciphertext', 'base64')
        from unnest(keys, as_sealed) as r(key, args)
        cross join lateral (select * from job j where j.kind = p_kind and j.key = r.key offset 0) j
        where jsonb_typeof(r.args -> 'contact') = 'object' and j.args ->> 'contact' = p_kind || '/' || r.key on conflict do nothing;
    end if;

    -- A hint without payload; PostgreSQL folds equal ones of a transaction into one.
    if exists (select from bell b where b.until > clock_timestamp()) then
        perform pg_notify('noshi', '');
    end if;
    -- The usual: all of them are new, and none of them is one that a tombstone knows.
    if cardinality(new_ids) = cardinality(keys) then
        return query select unnest(new_ids);
        return;
    end if;

    select r.row_no, r.key, coalesce(case when noshi.may_be_told(coalesce(j.asked_by, t.asked_by)) then noshi.differing_fields(k.args, r.args) else noshi.differing_names(k.args, r.args) end, 'the recorded arguments are no longer kept') as difference into bad
    from unnest(keys, p_args) with ordinality as r(key, args, row_no)
    left join lateral (select * from job j where j.kind = p_kind and j.key = r.key offset 0) j on true
    left join lateral (
        select t.fingerprint, s.job -> 'args' as args, s.job ->> 'asked_by' as asked_by from tombstone t left join archived_job s on s.id = t.id
        where j.id is null and t.kind = p_kind and t.key = r.key limit 1) t on true
    cross join lateral (select coalesce(j.args, t.args) as args) k
    where coalesce(j.fingerprint, t.fingerprint) <> sha256(convert_to(r.args::text, 'UTF8')) and k.args is distinct from r.args
    order by r.row_no limit 1;
    if found then
        raise exception 'row %: % % exists with other arguments', bad.row_no, p_kind, bad.key
            using errcode = 'NS409', detail = bad.difference,
                  hint = 'An id names one request for ever. Use a new id for a new request.';
    end if;

    return query select coalesce(j.id, t.id) from unnest(keys) with ordinality as r(key, row_no)
        left join lateral (select * from job j where j.kind = p_kind and j.key = r.key offset 0) j on true
        left join lateral (select t.id from tombstone t where j.id is null and t.kind = p_kind and t.key = r.key limit 1) t on true
        order by r.row_no;
end $function$;

CREATE OR REPLACE FUNCTION noshi.enqueue_scheduled(s noshi.schedule, p_dues timestamp with time zone[])
 RETURNS SETOF bigint
 LANGUAGE sql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select noshi.enqueue_rows_into($1.kind, array_agg(replace($1.key, '{due}', instant(d)) order by d),
        array_agg(replace($1.args::text, '{due}', instant(d))::jsonb order by d), $1.priority, null)
    from unnest($2) d having count(*) > 0
$function$;

CREATE OR REPLACE FUNCTION noshi.expire_points(p_job bigint, p_lots integer)
 RETURNS TABLE(lots integer, points bigint, more boolean)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    a jsonb := running_job(p_job, 'point_expiry');
    due timestamptz;
begin
    if a is null then
        return query select 0, 0::bigint, true;
        return;
    end if;
    begin
        due := (a ->> 'due')::timestamptz;
    exception when datetime_field_overflow or invalid_datetime_format or invalid_parameter_value then
        return;
    end;
    return query select e.lots, e.points, e.more from book_expiries(due, p_lots, p_job) e;
end $function$;

CREATE OR REPLACE FUNCTION noshi.fact_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare fits boolean;
begin
    case tg_table_name
        when 'gift_trade' then
            select is_at_work(j.id) and j.kind = 'gift_issuance' and j.key = new.grant_id and worth(j.args) = new.amount
                   and (j.args -> 'value' ->> 'currency', j.args ->> 'category') is not distinct from (new.currency, new.category)
                   -- One at a time: every older one is void.
                   and not exists (select from gift_trade t where t.grant_id = new.grant_id and t.id <> new.id
                       and not exists (select from gift_outcome o where o.trade = t.id and o.outcome = 'void'))
            into fits from job j where j.id = new.job;
        when 'gift_outcome' then
            -- A person's word is written where one was asked for it, also by the acts that follow a void; or it is known already.
            select is_at_work(j.id) and (new.reason is distinct from 'attested'
                   or exists (select from job_event e where e.job = j.id and e.event = 'asked' and e.outcome in ('attest_void', 'reissue', 'reject'))
                   or exists (select from gift_outcome o where o.trade = new.trade and o.outcome = 'void'))
            into fits from gift_trade t join job j on j.id = t.job where t.id = new.trade;
        else
            select is_at_work(j.id) and j.kind = 'store_creation' and (j.args ->> 'public_id', j.args ->> 'contact') is not distinct from (new.public_id, new.contact) into fits from job j where j.id = new.job;
    end case;
    if fits is not true then
        raise exception 'this is no fact of a job in flight, or not what that job asks for: %', tg_table_name using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.fetch_reading(p_reading bigint, p_take integer, p_after integer)
 RETURNS TABLE(take integer, taken boolean, ended boolean, trouble text, sentence text, wait double precision, left_why text[], nobody_else boolean, number integer, key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    r reading;
    arrived integer;
begin
    select * into r from reading o where o.id = p_reading and o.asked_by = who() for update;
    if not found then
        raise exception 'there is no reading % of %', p_reading, who() using errcode = 'NS404';
    end if;
    perform must(r.scope);
    if r.take = p_take then
        delete from noshi_sealed.reading_part p where p.reading = r.id and p.number <= p_after;
        get diagnostics arrived = row_count;
        -- Its worker may wait for room.
        if arrived > 0 and r.ended_at is null then
            perform pg_notify('noshi', 'reading');
        end if;
    end if;
    update reading o set deadline = clock_timestamp() + interval '10 seconds' where o.id = r.id;
    return query select r.take, r.worker is not null, r.ended_at is not null, r.trouble, r.sentence, r.wait, r.left_why,
        r.left_by <> '{}' and r.worker is null and not exists (
            select from worker w where w.dead_at is null and w.stopped_at is null and w.id <> all (r.left_by)),
        p.number, p.key_id, p.nonce, p.ciphertext
        from (select 1) one left join lateral (
            select * from noshi_sealed.reading_part o where o.reading = r.id order by o.number limit 4) p on true order by p.number;
end $function$;

CREATE OR REPLACE FUNCTION noshi.field_differences(ours jsonb, theirs jsonb, p_path text DEFAULT ''::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    found_all jsonb := '[]';
    f record;
begin
    for f in select p_path || key as field, o.value as ours, t.value as theirs
             from jsonb_each(ours) o full join jsonb_each(theirs) t using (key)
             where o.value is distinct from t.value order by key loop
        if jsonb_typeof(f.ours) = 'object' and jsonb_typeof(f.theirs) = 'object' then
            found_all := found_all || field_differences(f.ours, f.theirs, f.field || '.');
        else
            found_all := found_all || jsonb_build_array(jsonb_build_object('field', f.field)
                || case when f.ours is null then '{}' else jsonb_build_object('recorded', f.ours) end
                || case when f.theirs is null then '{}' else jsonb_build_object('now', f.theirs) end);
        end if;
    end loop;
    return found_all;
end $function$;

CREATE OR REPLACE FUNCTION noshi.fire_schedule(p_name text, p_was timestamp with time zone, p_next timestamp with time zone, p_dues timestamp with time zone[], p_skipped bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    s schedule;
    last timestamptz := (select max(d) from unnest(p_dues) d);
    job bigint;
begin
    select * into s from schedule o where o.name = p_name and o.next_due = p_was and o.paused_at is null and o.stuck is null for update;
    if not found then
        return false;
    end if;
    -- The rarest of all days, the 29th of February, comes after eight years at the latest.
    if p_was > clock_timestamp() or p_next is null or p_next <= p_was or p_next > clock_timestamp() + interval '9 years' or p_skipped < 0
       or exists (select from unnest(p_dues) d where d < p_was or d >= p_next or d > clock_timestamp() or d is null) then
        raise exception 'these are no due times of the schedule %: % and then %', p_name, p_dues, p_next using errcode = 'NS400';
    end if;
    begin
        select max(j) into job from enqueue_scheduled(s, p_dues) j;
        update schedule o set next_due = p_next, last_due = coalesce(last, o.last_due), last_job = coalesce(job, o.last_job),
            fired = o.fired + cardinality(p_dues), skipped = o.skipped + p_skipped where o.name = p_name;
    exception when others then
        -- A lock, a deadlock, no room, a shutdown: it is tried again.
        if left(sqlstate, 2) in ('40', '53', '55', '57') then
            raise;
        end if;
        -- Such as an id that exists with other arguments. The others go on, whatever it is; this one is for a person.
        update schedule o set stuck = composed(sqlerrm) where o.name = p_name;
        return false;
    end;
    return true;
end $function$;

CREATE OR REPLACE FUNCTION noshi.follows_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET "TimeZone" TO 'UTC'
AS $function$
declare bad record;
begin
    -- Under an older snapshot what was cancelled meanwhile would not be seen. What is seen is held until the commit.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'workers ask in transactions that are read committed' using errcode = 'NS400', hint = 'Nothing was taken.';
    end if;
    perform guard_request(n.kind, n.key, n.args, n.batch) from new_rows n order by n.id;
    perform admit(array(select n.id from new_rows n));
    perform from batch b where b.id in (select n.batch from new_rows n where n.batch is not null) order by b.id for share;
    select n.kind, n.key into bad from new_rows n where not case
        when n.kind = 'probe' then true
        when n.fingerprint <> sha256(convert_to(n.args::text, 'UTF8')) then false
        -- What follows from jobs of one's own, and that those are asked for as their fields have it.
        when n.batch is null and exists (select from kind k where k.name = n.kind and k.own) then own_fault(n.kind, n.key, n.args) is null
        when n.batch is not null then exists (
            select from batch b join batch_row r on r.batch = b.id and r.row_no = n.row_no
            where b.id = n.batch and b.registered_at is not null and b.cancelled_at is null and b.paused_at is null
              and case
                  when n.kind = 'email' then b.kind = 'grants' and b.mails and is_mail_of(r, n.key, n.args)
                  when n.kind = 'gift_issuance' then b.kind = 'grants' and b.issues and n.key = r.key and asked_for(n.kind, n.args) = asked_for(n.kind, r.args)
                  when n.kind = 'point_grant' then b.kind = 'points' and n.key = r.key and asked_for(n.kind, n.args) = asked_for(n.kind, r.args)
                  else false end)
        when n.kind = 'gift_issuance' then exists (
            select from job x join point_entry e on e.key = 'use:' || x.key and e.job = x.id
            where x.kind = 'point_exchange' and n.key = 'exchange/' || x.key and x.key = n.args -> 'paid_by' ->> 'exchange'
              and asked_for(n.kind, n.args) = asked_for(n.kind, x.args || jsonb_build_object('grant', n.key, 'valid_days', null,
                  'paid_by', jsonb_build_object('exchange', x.key, 'grace_days', x.args -> 'grace_days'))))
        when n.kind = 'point_reversal' then exists (
            select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || n.key and asked_for(n.kind, n.args) = asked_for(n.kind, g.args -> 'paid_by')
              and n.args ->> 'exchange' = n.key)
        else false end limit 1;
    if found then
        raise exception '% % follows from nothing that was granted', bad.kind, bad.key using errcode = 'NS403', hint = 'Nothing was taken. Producers ask for jobs; workers for what follows.';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.forget_parts()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    delete from noshi_sealed.reading_part p where p.reading = old.id;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.grant_points(p_job bigint)
 RETURNS TABLE(entry bigint, code text, detail text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    a jsonb := running_job(p_job, 'point_grant');
    now_at timestamptz := clock_timestamp();
    zone constant text := coalesce(a ->> 'zone', 'Asia/Tokyo');
    expires_at timestamptz;
begin
    if a is null then
        return;
    end if;
    -- As a gift is bought: not where a file grants it otherwise.
    if granted_otherwise(p_job) is not null then
        return query select null::bigint, 'points_conflict', 'a batch grants these points otherwise';
        return;
    end if;
    begin
        -- A name, and not a rule or an abbreviation, whose signs and seasons mean something else than they seem to.
        if zone = 'UTC' or zone ~ '^[A-Za-z_]+(/[A-Za-z0-9_+-]+)+$' then
            expires_at := point_expiry_of(now_at, (a ->> 'valid_days')::integer, zone);
        end if;
    exception when invalid_parameter_value then
    end;
    if expires_at is null then
        return query select null::bigint, 'points_conflict', format('there is no time zone %s', zone);
        return;
    end if;
    return query select b.entry, point_refusal(b.outcome), b.detail from book_grant(
        now_at, format('acquire:%s:%s', a ->> 'benefit', a ->> 'source'), a ->> 'user', (a ->> 'points')::bigint, a ->> 'benefit', a ->> 'source',
        expires_at, a ->> 'area', p_job) b;
end $function$;

CREATE OR REPLACE FUNCTION noshi.granted_otherwise(p_job bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
begin
    return (select b.id from job j join batch_row r on r.key = j.key join batch b on b.id = r.batch
        where j.id = p_job and j.batch is null and b.validated_at is not null and b.cancelled_at is null and b.refused_code is null
          and case j.kind
              when 'gift_issuance' then b.kind = 'grants' and r.args <> j.args
              when 'point_grant' then b.kind = 'points'
                  and jsonb_build_object('zone', 'Asia/Tokyo') || (r.args - array['grant', 'value']) <> jsonb_build_object('zone', 'Asia/Tokyo') || j.args
              else false end
        limit 1);
end $function$;

CREATE OR REPLACE FUNCTION noshi.guard_request(p_kind text, p_key text, p_args jsonb, p_batch bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET standard_conforming_strings TO 'on'
AS $function$
begin
    -- Of what is tried out, lanes of its own: it takes no turn of another's budget. The owner measures what they like.
    if p_kind = 'probe' and coalesce(p_args ->> 'lane', 'probe') !~ '^probe(/|$)' and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'args.lane: the lane of a probe is probe, or begins with probe/' using errcode = 'NS400', column = 'args.lane';
    end if;
    if (p_key collate "C" !~ '^[!-~]+$' and noshi.id_fault(p_key, 1000) is not null and not pg_has_role(session_user, 'noshi_worker', 'member'))
        or p_key in ('.', '..') then
        raise exception 'an id holds no control characters, none that cannot be seen, and is not . or ..' using errcode = 'NS400';
    elsif jsonb_path_exists(p_args, '$.**{33 to last}') then
        raise exception 'the arguments of % go deeper than 32 levels', p_key using errcode = 'NS400';
    elsif jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then
        raise exception 'the arguments of % hold a number that is too large', p_key using errcode = 'NS400';
    elsif (p_kind = 'point_reversal' or (p_kind = 'gift_issuance' and p_key like 'exchange/%'))
        and not pg_has_role(session_user, 'noshi_worker', 'member') then
        raise exception '% % belongs to an exchange of points, which asks for it by itself', p_kind, p_key using errcode = 'NS400',
            hint = 'Enqueue a point_exchange; a grant''s own id must not begin with exchange/.';
    elsif p_kind = 'point_expiry' and not (pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_operator', 'member')) then
        raise exception 'point_expiry % is asked for by a schedule', p_key using errcode = 'NS403',
            hint = 'An operator sets one, or triggers it: `noshi schedule`.';
    elsif p_kind = 'bulk_grants' then
        if not exists (select from batch b where 'batch/' || b.id = p_key and p_args = jsonb_build_object('batch', b.id) and b.released_at is not null) then
            raise exception 'bulk_grants % is made by the release of its batch', p_key using errcode = 'NS403', hint = 'Submit a file: `noshi batch submit`.';
        end if;
    elsif p_kind = 'gift_issuance' and p_args ? 'grant' and p_key is distinct from p_args ->> 'grant' then
        raise exception 'the id of a gift is its grant: % is not %', p_key, p_args ->> 'grant' using errcode = 'NS400';
    elsif p_kind like 'point\_%' and p_key <> (case p_kind when 'point_grant' then (p_args ->> 'benefit') || ':' || (p_args ->> 'source')
            when 'point_withdrawal' then p_args ->> 'user' when 'point_expiry' then p_args ->> 'due' else p_args ->> 'exchange' end) then
        raise exception 'the id of a % is made of its arguments: % is not what they say', p_kind, p_key using errcode = 'NS400',
            hint = 'point_grant: benefit:source. point_exchange: exchange. point_withdrawal: user.';
    elsif p_kind in ('gift_issuance', 'point_exchange') and p_args -> 'value' ? 'amount' and worth(p_args) is null then
        raise exception 'the amount of % is not a whole number of minor units above 0', p_key using errcode = 'NS400';
    end if;
    if p_batch is null and p_kind in ('gift_issuance', 'point_grant') and exists (select from batch_row r where r.key = p_key) then
        perform must_be_as_granted(p_kind, p_key, p_args);
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.hands_guard()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
declare
    ours constant boolean := old.status = 'running' and exists (select from noshi.worker w where w.id = old.worker and w.login = session_user and w.dead_at is null);
begin
    if old.status = 'running' and new.step = old.step + 1 then
        -- A settle, by whoever holds it. No act is asked for by it.
        if ours and new.lease = old.lease and (new.status = 'running') = (new.worker is not null) and (new.worker is null or new.worker = old.worker)
           and (new.requested_act is null or new.requested_act is not distinct from old.requested_act) and new.crash_count between 0 and old.crash_count then
            return new;
        end if;
    elsif (new.at, new.state, new.undo, new.step, new.retries, new.writes, new.outcome, new.detail, new.rank, new.entered_at, new.finished_at)
          is not distinct from (old.at, old.state, old.undo, old.step, old.retries, old.writes, old.outcome, old.detail, old.rank, old.entered_at, old.finished_at) then
        if (new.in_doubt, new.crash_count, new.requested_act, new.code, new.lane, new.reserved, new.run_at) is not distinct from (old.in_doubt, old.crash_count, old.requested_act, old.code, old.lane, old.reserved, old.run_at) then
            if (case
                when old.status = 'available' then new.status = 'running' and new.lease = old.lease + 1
                    and exists (select from noshi.worker w where w.id = new.worker and w.dead_at is null and w.login = session_user)
                when old.status = 'running' then ours and (new.lease, new.status_before, new.waited) is not distinct from (old.lease, old.status_before, old.waited)
                    -- Given back untouched; or it is noted from when on a call may have been made.
                    and case when new.worker is null then new.status = 'available' and new.called_at is not distinct from old.called_at
                        else (new.worker, new.status) is not distinct from (old.worker, old.status) end
                when old.status in ('scheduled', 'retryable') then new.status = 'available' and old.run_at <= clock_timestamp()
                    and (new.lease, new.worker, new.status_before, new.waited, new.called_at) is not distinct from (old.lease, old.worker, old.status_before, old.waited, old.called_at)
                else false end) then
                return new;
            end if;
        elsif old.status = 'running' and (new.crash_count, new.in_doubt, new.lease, new.lane, new.reserved, new.waited, new.called_at)
                is not distinct from ((old.crash_count + 1)::smallint, old.in_doubt or old.writes, old.lease, '', false, old.waited, old.called_at)
            and new.worker is null and new.status in ('available', 'needs_operator')
            and (new.status = 'needs_operator' or (new.requested_act, new.status_before, new.code) is not distinct from (old.requested_act, old.status_before, old.code))
            and (ours or exists (select from noshi.worker w where w.id = old.worker and (w.dead_at is not null or w.stopped_at is not null))) then
            -- A rescue.
            return new;
        end if;
    end if;
    raise exception 'job % (%) is moved by no such statement of a worker', old.id, old.status using errcode = 'NS403',
        hint = 'Nothing was written. Workers claim what is available, and settle what they hold.';
end $function$;

CREATE OR REPLACE FUNCTION noshi.held_reading(p_reading bigint, p_worker bigint, p_take integer, p_writes boolean)
 RETURNS noshi.reading
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r reading;
begin
    if p_writes then
        perform from reading o where o.id = p_reading for update;
    end if;
    select * into r from reading o where o.id = p_reading and o.worker = p_worker and o.take = p_take and o.ended_at is null
        and o.deadline > clock_timestamp() and is_own_worker(p_worker);
    if not found then
        raise exception 'reading % is over, or in other hands', p_reading using errcode = 'NS410';
    end if;
    return r;
end $function$;

CREATE OR REPLACE FUNCTION noshi.id_fault(p_id text, p_max integer)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET standard_conforming_strings TO 'on'
AS $function$
    select case
        when $1 collate "C" ~ '^[!-~]+$' and octet_length($1) <= $2 and $1 not in ('.', '..') then null
        when $1 = '' then 'this must not be empty'
        when octet_length($1) > $2 then format('this has %s bytes; at most %s fit', octet_length($1), $2)
        when $1 collate "C" ~ '^[\u0009-\u000d\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028-\u2029\u202f\u205f\u3000]|[\u0009-\u000d\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028-\u2029\u202f\u205f\u3000]$' then 'this begins or ends with a space'
        when $1 collate "C" ~ '[\u0001-\u001f\u007f-\u00a0\u00ad\u034f\u0378-\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0590\u05ca-\u05cf\u05eb-\u05ee\u05f5-\u0605\u061c\u06dd\u070e-\u070f\u074b-\u074c\u07b2-\u07bf\u07fb-\u07fc\u082e-\u082f\u083f\u085c-\u085d\u085f\u086b-\u086f\u0890-\u0896\u08e2\u0984\u098d-\u098e\u0991-\u0992\u09a9\u09b1\u09b3-\u09b5\u09ba-\u09bb\u09c5-\u09c6\u09c9-\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4-\u09e5\u09ff-\u0a00\u0a04\u0a0b-\u0a0e\u0a11-\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a-\u0a3b\u0a3d\u0a43-\u0a46\u0a49-\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e\u0a92\u0aa9\u0ab1\u0ab4\u0aba-\u0abb\u0ac6\u0aca\u0ace-\u0acf\u0ad1-\u0adf\u0ae4-\u0ae5\u0af2-\u0af8\u0b00\u0b04\u0b0d-\u0b0e\u0b11-\u0b12\u0b29\u0b31\u0b34\u0b3a-\u0b3b\u0b45-\u0b46\u0b49-\u0b4a\u0b4e-\u0b52\u0b58-\u0b5b\u0b5e\u0b64-\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9\u0bce-\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a-\u0c3b\u0c45\u0c49\u0c4e-\u0c54\u0c57\u0c5b\u0c5e-\u0c5f\u0c64-\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4\u0cba-\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdb\u0cdf\u0ce4-\u0ce5\u0cf0\u0cf4-\u0cff\u0d0d\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64-\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe-\u0dbf\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0-\u0df1\u0df5-\u0e00\u0e3b-\u0e3e\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe-\u0ebf\u0ec5\u0ec7\u0ecf\u0eda-\u0edb\u0ee0-\u0eff\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce-\u10cf\u115f-\u1160\u1249\u124e-\u124f\u1257\u1259\u125e-\u125f\u1289\u128e-\u128f\u12b1\u12b6-\u12b7\u12bf\u12c1\u12c6-\u12c7\u12d7\u1311\u1316-\u1317\u135b-\u135c\u137d-\u137f\u139a-\u139f\u13f6-\u13f7\u13fe-\u13ff\u1680\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771\u1774-\u177f\u17b4-\u17b5\u17de-\u17df\u17ea-\u17ef\u17fa-\u17ff\u180b-\u180f\u181a-\u181f\u1879-\u187f\u18ab-\u18af\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e-\u196f\u1975-\u197f\u19ac-\u19af\u19ca-\u19cf\u19db-\u19dd\u1a1c-\u1a1d\u1a5f\u1a7d-\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae-\u1aaf\u1af1-\u1aff\u1b4d\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c8b-\u1c8f\u1cbb-\u1cbc\u1cc8-\u1ccf\u1cfb-\u1cff\u1f16-\u1f17\u1f1e-\u1f1f\u1f46-\u1f47\u1f4e-\u1f4f\u1f58\u1f5a\u1f5c\u1f5e\u1f7e-\u1f7f\u1fb5\u1fc5\u1fd4-\u1fd5\u1fdc\u1ff0-\u1ff1\u1ff5\u1fff-\u200f\u2028-\u202f\u205f-\u206f\u2072-\u2073\u20c5-\u20cf\u20f1-\u20ff\u218c-\u218f\u242a-\u243f\u244b-\u245f\u2800\u2b74-\u2b75\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e-\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e5f\u2e64-\u2e7f\u2e9a\u2ef4-\u2eff\u2fd6-\u2fef\u3000\u3040\u3097-\u3098\u3100-\u3104\u3130\u3164\u318f\u31e6-\u31ee\u321f\ua48d-\ua48f\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7de-\ua7e1\ua7e3-\ua7f0\ua82d-\ua82f\ua83a-\ua83f\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff\uaa37-\uaa3f\uaa4e-\uaa4f\uaa5a-\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07-\uab08\uab0f-\uab10\uab17-\uab1f\uab27\uab2f\uab6e-\uab6f\uabee-\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e-\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f\ufb42\ufb45\ufdd0-\ufdef\ufe00-\ufe0f\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffa0\uffbf-\uffc1\uffc8-\uffc9\uffd0-\uffd1\uffd8-\uffd9\uffdd-\uffdf\uffe7\uffef-\uffff\U0001000c\U00010027\U0001003b\U0001003e\U0001004e-\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7\U000103d6-\U000103ff\U0001049e-\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105bf\U000105f4-\U000105ff\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1\U000107c0-\U000107ff\U00010806-\U00010807\U00010809\U00010836\U00010839-\U0001083b\U0001083d-\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U0001095a-\U0001097f\U000109b8-\U000109bb\U000109d0-\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18\U00010a36-\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38\U00010b56-\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9\U00010d28-\U00010d2f\U00010d3a-\U00010d3f\U00010d66-\U00010d68\U00010d86-\U00010d8d\U00010d90-\U00010e5f\U00010e7f\U00010eaa\U00010eae-\U00010eaf\U00010eb2-\U00010ec1\U00010ec8\U00010eef\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f\U000111e0\U000111f5-\U000111ff\U00011212\U00011242-\U0001127f\U00011287\U00011289\U0001128e\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304\U0001130d-\U0001130e\U00011311-\U00011312\U00011329\U00011331\U00011334\U0001133a\U00011345-\U00011346\U00011349-\U0001134a\U0001134e-\U0001134f\U00011351-\U00011356\U00011358-\U0001135c\U00011364-\U00011365\U0001136d-\U0001136f\U00011375-\U0001137f\U0001138a\U0001138c-\U0001138d\U0001138f\U000113b6\U000113c1\U000113c3-\U000113c4\U000113c6\U000113cb\U000113d6\U000113d9-\U000113e0\U000113e3-\U000113ff\U0001145c\U00011462-\U0001147f\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6-\U000115b7\U000115de-\U000115ff\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf\U000116ca-\U000116cf\U000116e4-\U000116ff\U0001171b-\U0001171c\U0001172c-\U0001172f\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907-\U00011908\U0001190a-\U0001190b\U00011914\U00011917\U00011936\U00011939-\U0001193a\U00011947-\U0001194f\U0001195a-\U0001199f\U000119a8-\U000119a9\U000119d8-\U000119d9\U000119e5-\U000119ff\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011aff\U00011b0b-\U00011b5f\U00011b68-\U00011bbf\U00011be2-\U00011bef\U00011bfa-\U00011bff\U00011c09\U00011c37\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90-\U00011c91\U00011ca8\U00011cb7-\U00011cff\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f\U00011daa-\U00011daf\U00011ddc-\U00011ddf\U00011dea-\U00011def\U00011df2-\U00011edf\U00011ef9-\U00011eff\U00011f11\U00011f3b-\U00011f3d\U00011f5b-\U00011faf\U00011fb1-\U00011fbf\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U00012544-\U0001254f\U00012687-\U00012f8f\U00012ff3-\U00012fff\U00013430-\U0001343f\U00013441-\U00013442\U00013456-\U0001345f\U000143fb-\U000143ff\U00014647-\U000160ff\U0001613a-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d\U00016abf\U00016aca-\U00016acf\U00016aee-\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016d3f\U00016d7a-\U00016e3f\U00016e9b-\U00016e9f\U00016eb9-\U00016eba\U00016ed4-\U00016eff\U00016f4b-\U00016f4e\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe4-\U00016fef\U00016ff7-\U00016fff\U00018cdb-\U00018cfe\U00018d21-\U00018d7f\U00018df3-\U00018dff\U00019192-\U0001919f\U000191d3-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b129-\U0001b131\U0001b133-\U0001b14f\U0001b153-\U0001b154\U0001b156-\U0001b163\U0001b169-\U0001b16f\U0001b2fc-\U0001bbff\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a-\U0001bc9b\U0001bca0-\U0001cbff\U0001ccfd-\U0001ccff\U0001ceb4-\U0001ceb9\U0001ced1\U0001ced5-\U0001cedc\U0001cefe-\U0001ceff\U0001cf2e-\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff\U0001d0f6-\U0001d0ff\U0001d159\U0001d173-\U0001d17a\U0001d246-\U0001d24f\U0001d282-\U0001d2bf\U0001d2d4-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455\U0001d49d\U0001d4a0-\U0001d4a1\U0001d4a3-\U0001d4a4\U0001d4a7-\U0001d4a8\U0001d4ad\U0001d4ba\U0001d4bc\U0001d4c4\U0001d506\U0001d50b-\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a7\U0001d7cc-\U0001d7cd\U0001da8c-\U0001da9a\U0001daa0\U0001dab0-\U0001daff\U0001db1d-\U0001deff\U0001df82-\U0001df8f\U0001df97-\U0001dfcc\U0001e007\U0001e019-\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e02f\U0001e06e-\U0001e08e\U0001e090-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e-\U0001e13f\U0001e14a-\U0001e14d\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e4cf\U0001e4fa-\U0001e5cf\U0001e5fb-\U0001e5fe\U0001e600-\U0001e6bf\U0001e6df\U0001e6f6-\U0001e6fd\U0001e700-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5-\U0001e8c6\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25-\U0001ee26\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55-\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c\U0001ee5e\U0001ee60\U0001ee63\U0001ee65-\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af-\U0001f0b0\U0001f0c0\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1af-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6da-\U0001f6db\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f7dc-\U0001f7df\U0001f7ec-\U0001f7ef\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8af\U0001f8bc-\U0001f8bf\U0001f8c2-\U0001f8cf\U0001f8d9-\U0001f8ff\U0001fa58-\U0001fa5f\U0001fa6e-\U0001fa6f\U0001fa7d-\U0001fa7f\U0001fac7\U0001fac9-\U0001facb\U0001fade\U0001faec-\U0001faee\U0001fafb-\U0001faff\U0001fb93\U0001fbfb-\U0001ffff\U0002a6e0-\U0002a6ff\U0002b81f\U0002ceae-\U0002ceaf\U0002ebe1-\U0002ebef\U0002ee5e-\U0002f7ff\U0002fa1e-\U0002ffff\U0003134b-\U0003134f\U0003347a-\U0003cfff\U0003fc40-\U0010ffff]' then format('this holds a character that cannot be seen, U+%s; ids hold no control characters, and none that cannot be seen or that mean nothing',
            (select lpad(h, greatest(4, length(h)), '0') from upper(to_hex(ascii(substring($1 collate "C" from '[\u0001-\u001f\u007f-\u00a0\u00ad\u034f\u0378-\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0590\u05ca-\u05cf\u05eb-\u05ee\u05f5-\u0605\u061c\u06dd\u070e-\u070f\u074b-\u074c\u07b2-\u07bf\u07fb-\u07fc\u082e-\u082f\u083f\u085c-\u085d\u085f\u086b-\u086f\u0890-\u0896\u08e2\u0984\u098d-\u098e\u0991-\u0992\u09a9\u09b1\u09b3-\u09b5\u09ba-\u09bb\u09c5-\u09c6\u09c9-\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4-\u09e5\u09ff-\u0a00\u0a04\u0a0b-\u0a0e\u0a11-\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a-\u0a3b\u0a3d\u0a43-\u0a46\u0a49-\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e\u0a92\u0aa9\u0ab1\u0ab4\u0aba-\u0abb\u0ac6\u0aca\u0ace-\u0acf\u0ad1-\u0adf\u0ae4-\u0ae5\u0af2-\u0af8\u0b00\u0b04\u0b0d-\u0b0e\u0b11-\u0b12\u0b29\u0b31\u0b34\u0b3a-\u0b3b\u0b45-\u0b46\u0b49-\u0b4a\u0b4e-\u0b52\u0b58-\u0b5b\u0b5e\u0b64-\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9\u0bce-\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a-\u0c3b\u0c45\u0c49\u0c4e-\u0c54\u0c57\u0c5b\u0c5e-\u0c5f\u0c64-\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4\u0cba-\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdb\u0cdf\u0ce4-\u0ce5\u0cf0\u0cf4-\u0cff\u0d0d\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64-\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe-\u0dbf\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0-\u0df1\u0df5-\u0e00\u0e3b-\u0e3e\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe-\u0ebf\u0ec5\u0ec7\u0ecf\u0eda-\u0edb\u0ee0-\u0eff\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce-\u10cf\u115f-\u1160\u1249\u124e-\u124f\u1257\u1259\u125e-\u125f\u1289\u128e-\u128f\u12b1\u12b6-\u12b7\u12bf\u12c1\u12c6-\u12c7\u12d7\u1311\u1316-\u1317\u135b-\u135c\u137d-\u137f\u139a-\u139f\u13f6-\u13f7\u13fe-\u13ff\u1680\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771\u1774-\u177f\u17b4-\u17b5\u17de-\u17df\u17ea-\u17ef\u17fa-\u17ff\u180b-\u180f\u181a-\u181f\u1879-\u187f\u18ab-\u18af\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e-\u196f\u1975-\u197f\u19ac-\u19af\u19ca-\u19cf\u19db-\u19dd\u1a1c-\u1a1d\u1a5f\u1a7d-\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae-\u1aaf\u1af1-\u1aff\u1b4d\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c8b-\u1c8f\u1cbb-\u1cbc\u1cc8-\u1ccf\u1cfb-\u1cff\u1f16-\u1f17\u1f1e-\u1f1f\u1f46-\u1f47\u1f4e-\u1f4f\u1f58\u1f5a\u1f5c\u1f5e\u1f7e-\u1f7f\u1fb5\u1fc5\u1fd4-\u1fd5\u1fdc\u1ff0-\u1ff1\u1ff5\u1fff-\u200f\u2028-\u202f\u205f-\u206f\u2072-\u2073\u20c5-\u20cf\u20f1-\u20ff\u218c-\u218f\u242a-\u243f\u244b-\u245f\u2800\u2b74-\u2b75\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e-\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e5f\u2e64-\u2e7f\u2e9a\u2ef4-\u2eff\u2fd6-\u2fef\u3000\u3040\u3097-\u3098\u3100-\u3104\u3130\u3164\u318f\u31e6-\u31ee\u321f\ua48d-\ua48f\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7de-\ua7e1\ua7e3-\ua7f0\ua82d-\ua82f\ua83a-\ua83f\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff\uaa37-\uaa3f\uaa4e-\uaa4f\uaa5a-\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07-\uab08\uab0f-\uab10\uab17-\uab1f\uab27\uab2f\uab6e-\uab6f\uabee-\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e-\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f\ufb42\ufb45\ufdd0-\ufdef\ufe00-\ufe0f\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffa0\uffbf-\uffc1\uffc8-\uffc9\uffd0-\uffd1\uffd8-\uffd9\uffdd-\uffdf\uffe7\uffef-\uffff\U0001000c\U00010027\U0001003b\U0001003e\U0001004e-\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7\U000103d6-\U000103ff\U0001049e-\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105bf\U000105f4-\U000105ff\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1\U000107c0-\U000107ff\U00010806-\U00010807\U00010809\U00010836\U00010839-\U0001083b\U0001083d-\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U0001095a-\U0001097f\U000109b8-\U000109bb\U000109d0-\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18\U00010a36-\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38\U00010b56-\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9\U00010d28-\U00010d2f\U00010d3a-\U00010d3f\U00010d66-\U00010d68\U00010d86-\U00010d8d\U00010d90-\U00010e5f\U00010e7f\U00010eaa\U00010eae-\U00010eaf\U00010eb2-\U00010ec1\U00010ec8\U00010eef\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f\U000111e0\U000111f5-\U000111ff\U00011212\U00011242-\U0001127f\U00011287\U00011289\U0001128e\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304\U0001130d-\U0001130e\U00011311-\U00011312\U00011329\U00011331\U00011334\U0001133a\U00011345-\U00011346\U00011349-\U0001134a\U0001134e-\U0001134f\U00011351-\U00011356\U00011358-\U0001135c\U00011364-\U00011365\U0001136d-\U0001136f\U00011375-\U0001137f\U0001138a\U0001138c-\U0001138d\U0001138f\U000113b6\U000113c1\U000113c3-\U000113c4\U000113c6\U000113cb\U000113d6\U000113d9-\U000113e0\U000113e3-\U000113ff\U0001145c\U00011462-\U0001147f\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6-\U000115b7\U000115de-\U000115ff\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf\U000116ca-\U000116cf\U000116e4-\U000116ff\U0001171b-\U0001171c\U0001172c-\U0001172f\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907-\U00011908\U0001190a-\U0001190b\U00011914\U00011917\U00011936\U00011939-\U0001193a\U00011947-\U0001194f\U0001195a-\U0001199f\U000119a8-\U000119a9\U000119d8-\U000119d9\U000119e5-\U000119ff\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011aff\U00011b0b-\U00011b5f\U00011b68-\U00011bbf\U00011be2-\U00011bef\U00011bfa-\U00011bff\U00011c09\U00011c37\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90-\U00011c91\U00011ca8\U00011cb7-\U00011cff\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f\U00011daa-\U00011daf\U00011ddc-\U00011ddf\U00011dea-\U00011def\U00011df2-\U00011edf\U00011ef9-\U00011eff\U00011f11\U00011f3b-\U00011f3d\U00011f5b-\U00011faf\U00011fb1-\U00011fbf\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U00012544-\U0001254f\U00012687-\U00012f8f\U00012ff3-\U00012fff\U00013430-\U0001343f\U00013441-\U00013442\U00013456-\U0001345f\U000143fb-\U000143ff\U00014647-\U000160ff\U0001613a-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d\U00016abf\U00016aca-\U00016acf\U00016aee-\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016d3f\U00016d7a-\U00016e3f\U00016e9b-\U00016e9f\U00016eb9-\U00016eba\U00016ed4-\U00016eff\U00016f4b-\U00016f4e\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe4-\U00016fef\U00016ff7-\U00016fff\U00018cdb-\U00018cfe\U00018d21-\U00018d7f\U00018df3-\U00018dff\U00019192-\U0001919f\U000191d3-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b129-\U0001b131\U0001b133-\U0001b14f\U0001b153-\U0001b154\U0001b156-\U0001b163\U0001b169-\U0001b16f\U0001b2fc-\U0001bbff\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a-\U0001bc9b\U0001bca0-\U0001cbff\U0001ccfd-\U0001ccff\U0001ceb4-\U0001ceb9\U0001ced1\U0001ced5-\U0001cedc\U0001cefe-\U0001ceff\U0001cf2e-\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff\U0001d0f6-\U0001d0ff\U0001d159\U0001d173-\U0001d17a\U0001d246-\U0001d24f\U0001d282-\U0001d2bf\U0001d2d4-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455\U0001d49d\U0001d4a0-\U0001d4a1\U0001d4a3-\U0001d4a4\U0001d4a7-\U0001d4a8\U0001d4ad\U0001d4ba\U0001d4bc\U0001d4c4\U0001d506\U0001d50b-\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a7\U0001d7cc-\U0001d7cd\U0001da8c-\U0001da9a\U0001daa0\U0001dab0-\U0001daff\U0001db1d-\U0001deff\U0001df82-\U0001df8f\U0001df97-\U0001dfcc\U0001e007\U0001e019-\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e02f\U0001e06e-\U0001e08e\U0001e090-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e-\U0001e13f\U0001e14a-\U0001e14d\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e4cf\U0001e4fa-\U0001e5cf\U0001e5fb-\U0001e5fe\U0001e600-\U0001e6bf\U0001e6df\U0001e6f6-\U0001e6fd\U0001e700-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5-\U0001e8c6\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25-\U0001ee26\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55-\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c\U0001ee5e\U0001ee60\U0001ee63\U0001ee65-\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af-\U0001f0b0\U0001f0c0\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1af-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6da-\U0001f6db\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f7dc-\U0001f7df\U0001f7ec-\U0001f7ef\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8af\U0001f8bc-\U0001f8bf\U0001f8c2-\U0001f8cf\U0001f8d9-\U0001f8ff\U0001fa58-\U0001fa5f\U0001fa6e-\U0001fa6f\U0001fa7d-\U0001fa7f\U0001fac7\U0001fac9-\U0001facb\U0001fade\U0001faec-\U0001faee\U0001fafb-\U0001faff\U0001fb93\U0001fbfb-\U0001ffff\U0002a6e0-\U0002a6ff\U0002b81f\U0002ceae-\U0002ceaf\U0002ebe1-\U0002ebef\U0002ee5e-\U0002f7ff\U0002fa1e-\U0002ffff\U0003134b-\U0003134f\U0003347a-\U0003cfff\U0003fc40-\U0010ffff]')))) h))
        when $1 is not nfc normalized then 'this is not in the composed form (Unicode NFC), so that two ids would look alike; write it composed'
        when $1 in ('.', '..') then 'an id is not . or ..: this cannot be part of an address' end
$function$;

CREATE OR REPLACE FUNCTION noshi.in_turn(p_who text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'this act belongs in a transaction that is read committed' using errcode = 'NS400';
    end if;
    insert into person values (p_who) on conflict do nothing;
    perform from person where who = p_who for update;
end $function$;

CREATE OR REPLACE FUNCTION noshi.installed_at()
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    return (select least((select min(m.installed_on) from noshi_migrations._sqlx_migrations m where isfinite(m.installed_on)),
        (select min(a.happened_at) from audit a)));
end $function$;

CREATE OR REPLACE FUNCTION noshi.instant(p_at timestamp with time zone)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select to_char(p_at at time zone 'UTC', case when p_at = date_trunc('second', p_at, 'UTC') then 'YYYY-MM-DD"T"HH24:MI:SS"Z"'
        else 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"' end)
$function$;

CREATE OR REPLACE FUNCTION noshi.invalid_batch(p_kind text, p_mode text, p_digest bytea, p_file text, p_campaign text, p_faults jsonb)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare made bigint;
begin
    perform noshi.must('enqueue');
    perform must_be_named(p_file, p_campaign);
    if octet_length(p_faults::text) > 100000 then
        raise exception 'the first faults of a file are enough: they have at most 100,000 bytes' using errcode = 'NS400';
    end if;
    insert into batch (kind, mode, digest, file, campaign, faults, invalid_at)
    values (p_kind, p_mode, p_digest, p_file, p_campaign, p_faults, clock_timestamp()) returning id into made;
    perform batch_log(made, 'invalid');
    return made;
end $function$;

CREATE OR REPLACE FUNCTION noshi.is_at_work(p_job bigint)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select exists (select from job j join worker w on w.login = session_user and w.dead_at is null and w.id = case when j.status = 'running' then j.worker
            else (select e.worker from job_event e join job_event c on c.job = e.job and c.lease = e.lease and c.worker = e.worker and c.event = 'claimed'
                where e.job = j.id and e.step = j.step - 1 and e.lease = j.lease and e.event = 'settled' limit 1) end
        where j.id = p_job and (j.status = 'running' or j.xmin = pg_current_xact_id()::xid))
$function$;

CREATE OR REPLACE FUNCTION noshi.is_held_to_no_more(p_kind text, p_key text, p_args jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
AS $function$
begin
    return $2 not in ('.', '..') and case $1
        when 'gift_issuance' then $2 = $3 ->> 'grant'
        when 'point_grant' then $2 = ($3 ->> 'benefit') || ':' || ($3 ->> 'source') and coalesce($3 ->> 'zone', 'Asia/Tokyo') = 'Asia/Tokyo'
        when 'point_exchange' then $2 = $3 ->> 'exchange'
        when 'point_withdrawal' then $2 = $3 ->> 'user'
        else false end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.is_mail_of(r noshi.batch_row, p_key text, p_args jsonb)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select r.mailed and p_args - 'again_in' = jsonb_build_object('template', 'gift_granted', 'reference', r.key, 'recipient', r.batch || '/' || r.row_no,
            'params', jsonb_build_object('category', r.args -> 'category',
                'value', case r.currency when 'USD' then format('%s.%s USD', r.amount / 100, lpad((r.amount % 100)::text, 2, '0')) else format('%s %s', r.amount, r.currency) end))
        and case when p_args ->> 'again_in' is null then p_key = 'gift_granted:1:' || r.key
            else p_args -> 'again_in' = to_jsonb(r.batch) and p_key = format('gift_granted:1/%s:%s', r.batch, r.key) and exists (
                select from batch o where o.id <> r.batch and o.cancelled_at is not null and o.id = coalesce(
                    (select j.batch from job j where j.kind = 'email' and j.key = 'gift_granted:1:' || r.key),
                    (select t.batch from tombstone t where t.kind = 'email' and t.key = 'gift_granted:1:' || r.key limit 1))) end
$function$;

CREATE OR REPLACE FUNCTION noshi.is_own_worker(p_worker bigint)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select exists (select from worker w where w.id = p_worker and w.dead_at is null and w.stopped_at is null and w.login = session_user)
$function$;

CREATE OR REPLACE FUNCTION noshi.is_theirs(p_login oid, p_owner text, p_as_operator boolean)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select $1 is null or exists (select from pg_roles r where r.oid = $1 and person(r.rolname) = $2 and may_log_in(r)
        and (not $3 or operates(r.oid)))
$function$;

CREATE OR REPLACE FUNCTION noshi.is_usual(p_kind text, p_key text, p_args jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
 SET standard_conforming_strings TO 'on'
 SET "TimeZone" TO 'UTC'
AS $function$
begin
    -- Not in SQL, and not one expression: the one would be planned, the other made ready, anew for each request.
    if (octet_length($2) <= 200 and ' ' || $2 collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$') is not true then
        return false;
    elsif $1 = 'bulk_grants' then
        return jsonb_typeof($3) = 'object'
            and $3 -> 'batch' between '1' and '9223372036854775807' and strpos($3 ->> 'batch', '.') = 0
            and ($3) - array['batch'] = '{}';
    elsif $1 = 'email' then
        return jsonb_typeof($3) = 'object'
            and $3 -> 'template' in ('"gift_granted"')
            and jsonb_typeof($3 -> 'reference') = 'string' and octet_length($3 ->> 'reference') <= 100
            and jsonb_typeof($3 -> 'recipient') = 'string' and octet_length($3 ->> 'recipient') <= 200
            and (jsonb_typeof($3 -> 'params') = 'object' and not jsonb_path_exists($3 -> 'params', '$.* ? (@.type() != "string")')) is not false
            and (' ' || ($3 ->> 'reference') || ' ' || ($3 ->> 'recipient')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['template', 'reference', 'recipient', 'params'] = '{}';
    elsif $1 = 'gift_issuance' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'grant') = 'string' and octet_length($3 ->> 'grant') <= 100 and strpos($3 ->> 'grant', '@') = 0
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 100 and strpos($3 ->> 'user', '@') = 0
            and jsonb_typeof($3 -> 'category') = 'string' and octet_length($3 ->> 'category') <= 100
            and jsonb_typeof($3 -> 'value') = 'object'
            and $3 -> 'value' -> 'amount' between '1' and '9000000000000000' and strpos($3 -> 'value' ->> 'amount', '.') = 0
            and $3 -> 'value' -> 'currency' in ('"JPY"', '"USD"')
            and ($3 -> 'value') - array['amount', 'currency'] = '{}'
            and (jsonb_typeof($3 -> 'provider') = 'string' and octet_length($3 ->> 'provider') <= 100) is not false
            and ($3 -> 'valid_days' between '1' and '3650' and strpos($3 ->> 'valid_days', '.') = 0) is not false
            and (jsonb_typeof($3 -> 'area') = 'string' and octet_length($3 ->> 'area') <= 100) is not false
            and (' ' || ($3 ->> 'grant') || ' ' || ($3 ->> 'user') || ' ' || ($3 ->> 'category') || coalesce(' ' || ($3 ->> 'provider'), '') || coalesce(' ' || ($3 ->> 'area'), '')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['grant', 'user', 'category', 'value', 'provider', 'valid_days', 'area'] = '{}'
            and not starts_with($3 ->> 'grant', 'exchange/');
    elsif $1 = 'point_exchange' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'exchange') = 'string' and octet_length($3 ->> 'exchange') <= 90 and strpos($3 ->> 'exchange', '@') = 0
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 90 and strpos($3 ->> 'user', '@') = 0
            and $3 -> 'points' between '1' and '1000000000' and strpos($3 ->> 'points', '.') = 0
            and (jsonb_typeof($3 -> 'area') = 'string' and octet_length($3 ->> 'area') <= 100) is not false
            and jsonb_typeof($3 -> 'category') = 'string' and octet_length($3 ->> 'category') <= 90
            and jsonb_typeof($3 -> 'value') = 'object'
            and $3 -> 'value' -> 'amount' between '1' and '9000000000000000' and strpos($3 -> 'value' ->> 'amount', '.') = 0
            and $3 -> 'value' -> 'currency' in ('"JPY"', '"USD"')
            and ($3 -> 'value') - array['amount', 'currency'] = '{}'
            and (jsonb_typeof($3 -> 'provider') = 'string' and octet_length($3 ->> 'provider') <= 100) is not false
            and ($3 -> 'grace_days' between '0' and '3650' and strpos($3 ->> 'grace_days', '.') = 0) is not false
            and (' ' || ($3 ->> 'exchange') || ' ' || ($3 ->> 'user') || coalesce(' ' || ($3 ->> 'area'), '') || ' ' || ($3 ->> 'category') || coalesce(' ' || ($3 ->> 'provider'), '')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['exchange', 'user', 'points', 'area', 'category', 'value', 'provider', 'grace_days'] = '{}';
    elsif $1 = 'point_expiry' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'due') = 'string' and octet_length($3 ->> 'due') <= 40
            and (' ' || ($3 ->> 'due')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['due'] = '{}';
    elsif $1 = 'point_grant' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'benefit') = 'string' and octet_length($3 ->> 'benefit') <= 100
            and jsonb_typeof($3 -> 'source') = 'string' and octet_length($3 ->> 'source') <= 100 and strpos($3 ->> 'source', '@') = 0
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 100 and strpos($3 ->> 'user', '@') = 0
            and $3 -> 'points' between '1' and '1000000000' and strpos($3 ->> 'points', '.') = 0
            and $3 -> 'valid_days' between '0' and '3650' and strpos($3 ->> 'valid_days', '.') = 0
            and (jsonb_typeof($3 -> 'zone') = 'string' and octet_length($3 ->> 'zone') <= 60) is not false
            and (jsonb_typeof($3 -> 'area') = 'string' and octet_length($3 ->> 'area') <= 100) is not false
            and (' ' || ($3 ->> 'benefit') || ' ' || ($3 ->> 'source') || ' ' || ($3 ->> 'user') || coalesce(' ' || ($3 ->> 'zone'), '') || coalesce(' ' || ($3 ->> 'area'), '')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['benefit', 'source', 'user', 'points', 'valid_days', 'zone', 'area'] = '{}'
            and strpos($3 ->> 'benefit', ':') = 0;
    elsif $1 = 'point_reversal' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'exchange') = 'string' and octet_length($3 ->> 'exchange') <= 90 and strpos($3 ->> 'exchange', '@') = 0
            and ($3 -> 'grace_days' between '0' and '3650' and strpos($3 ->> 'grace_days', '.') = 0) is not false
            and (' ' || ($3 ->> 'exchange')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['exchange', 'grace_days'] = '{}';
    elsif $1 = 'point_withdrawal' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 100 and strpos($3 ->> 'user', '@') = 0
            and (' ' || ($3 ->> 'user')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['user'] = '{}';
    elsif $1 = 'probe' then
        return jsonb_typeof($3) = 'object' and octet_length($3::text) <= 65536 and strpos($3::text, '.') = 0;
    elsif $1 = 'store_creation' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'organization') = 'string' and octet_length($3 ->> 'organization') <= 60 and ($3 ->> 'organization') collate "C" ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]*$'
            and jsonb_typeof($3 -> 'public_id') = 'string' and octet_length($3 ->> 'public_id') <= 60 and ($3 ->> 'public_id') collate "C" ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]*$'
            and jsonb_typeof($3 -> 'name') = 'string' and octet_length($3 ->> 'name') <= 400
            and jsonb_typeof($3 -> 'request') = 'string' and octet_length($3 ->> 'request') <= 60 and ($3 ->> 'request') collate "C" ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]*$'
            and (' ' || ($3 ->> 'name')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['organization', 'public_id', 'name', 'request'] = '{}';
    end if;
    return false;
end $function$;

CREATE OR REPLACE FUNCTION noshi.is_waited_for(p_reading bigint, p_worker bigint, p_take integer)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return exists (select from reading o where o.worker is null and o.ended_at is null and o.deadline > clock_timestamp() and o.asked_by <> r.asked_by
        and (o.kind = 'code') = (r.kind = 'code') and p_worker <> all (o.left_by));
end $function$;

CREATE OR REPLACE FUNCTION noshi.is_zone(p_zone text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
    return p_zone in ('Asia/Tokyo', 'UTC') or exists (select from noshi.zone z where z.name = p_zone)
        -- One that came with a newer server.
        or (p_zone ~ '^[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+)+$' and exists (select from pg_timezone_names z where z.name = p_zone));
end $function$;

CREATE OR REPLACE FUNCTION noshi.issue_grant(p_grant text, p_user text, p_area text DEFAULT NULL::text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    g record;
begin
    -- Locked, so that a batch that was cancelled since this transaction began is not taken for what it was; a cancel waits a
    -- second for it, and no other act does.
    select r.args, b.registered_at into g from batch_row r join batch b on b.id = r.batch
    where r.key = p_grant and b.kind = 'grants' and b.registered_at is not null order by b.cancelled_at desc nulls first limit 1 for key share of b;
    if not found or g.args ->> 'user' is distinct from p_user then
        raise exception 'this user has no grant %', p_grant using errcode = 'NS404';
    end if;
    if exists (select from batch_row r join batch b on b.id = r.batch where r.key = p_grant and b.kind = 'grants' and b.registered_at is not null and b.cancelled_at is not null)
        and not exists (select from batch_row r join batch b on b.id = r.batch where r.key = p_grant and b.kind = 'grants' and b.registered_at is not null and b.cancelled_at is null)
        and not exists (select from job where kind = 'gift_issuance' and key = p_grant and status <> 'cancelled')
        and not exists (select from tombstone where kind = 'gift_issuance' and key = p_grant and status <> 'cancelled') then
        raise exception 'grant % was cancelled with its batch', p_grant using errcode = 'NS410';
    end if;
    if g.args ->> 'area' is not null and g.args ->> 'area' is distinct from p_area then
        raise exception 'grant % is for the area %', p_grant, g.args ->> 'area' using errcode = 'NS403';
    end if;
    if g.registered_at + make_interval(days => (g.args ->> 'valid_days')::integer) < clock_timestamp() then
        raise exception 'grant % has lapsed', p_grant using errcode = 'NS410';
    end if;
    return enqueue('gift_issuance', p_grant, g.args, 0::smallint);
end $function$;

CREATE OR REPLACE FUNCTION noshi.job_facts(j noshi.job)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select jsonb_build_object('kind', j.kind, 'id', j.key, 'status', j.status, 'at', j.at, 'step', j.step, 'in_doubt', j.in_doubt, 'code', j.code)
$function$;

CREATE OR REPLACE FUNCTION noshi.job_locked(p_job bigint)
 RETURNS noshi.job
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    j job;
    leased boolean;
    turn constant text := 'leased job of ' || who();
begin
    select o.status = 'running' into leased from job o where o.id = p_job;
    if leased then
        perform in_turn(turn);
        update person set holds = p_job, held_in = pg_current_xact_id() where who = turn and (held_in is distinct from pg_current_xact_id() or holds = p_job);
        if not found then
            raise exception 'job % is leased by a worker, and this transaction holds another such job', p_job using errcode = 'NS409',
                hint = 'Nothing was asked of it. A worker waits for each: commit first, then ask for the next.';
        end if;
    end if;
    select * into j from job where id = p_job for no key update;
    if not found then
        raise exception 'there is no job %', p_job using errcode = 'NS404';
    end if;
    if j.status = 'running' and leased is not true then
        raise exception 'job % was leased by a worker just now', p_job using errcode = 'NS409', hint = 'Nothing was asked of it. Look at it again, and ask again.';
    end if;
    return j;
end $function$;

CREATE OR REPLACE FUNCTION noshi.journal_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
    bad record;
    here constant xid := pg_current_xact_id()::xid;
begin
    if exists (select from (select distinct worker from new_rows) n where n.worker is not null and not exists (select from worker w where w.id = n.worker and w.login = session_user)) then
        raise exception 'a worker writes into the journal in its own name' using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    select n.event, n.job into bad from new_rows n left join job j on j.id = n.job and j.xmin = here and j.lease = n.lease where case
        when n.event in ('settled', 'declined') then n.worker is not null and j.step = n.step + 1
        when n.event = 'claimed' then j.worker = n.worker and j.step = n.step
        when n.event = 'handed_back' then n.worker is not null and j.worker is null and j.step = n.step
        when n.event = 'rescued' then n.worker is null and j.worker is null and j.crash_count > 0 and j.step = n.step
        else false end is not true limit 1;
    if found then
        raise exception 'job % was not % in this transaction by a worker of this login', bad.job, bad.event using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.journal_is_append_only()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
    raise exception 'the journal is append-only: % of % refused', lower(tg_op), tg_table_name using errcode = 'NS001';
end $function$;

CREATE OR REPLACE FUNCTION noshi.keep_organization_event(p_organization text, p_name text, p_version bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    insert into organization_cache as c (organization, name, version) values (p_organization, cut(p_name, 1000), p_version)
    on conflict (organization) do update set name = coalesce(excluded.name, c.name), version = excluded.version, told_at = clock_timestamp()
    where c.version < excluded.version;
    return found;
end $function$;

CREATE OR REPLACE FUNCTION noshi.keep_shop_event(p_shop text, p_organization text, p_public_id text, p_name text, p_deleted boolean, p_version bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    insert into store_cache as c (shop, organization, public_id, name, deleted, version)
    values (p_shop, p_organization, p_public_id, cut(p_name, 1000), p_deleted, p_version)
    on conflict (shop) do update set organization = excluded.organization, public_id = excluded.public_id,
        name = coalesce(excluded.name, c.name), deleted = excluded.deleted, version = excluded.version, told_at = clock_timestamp()
    where c.version < excluded.version;
    return found;
end $function$;

CREATE OR REPLACE FUNCTION noshi.keep_to_most()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    new.declared_calls := new.calls;
    new.declared_burst := new.burst;
    if new.most < new.calls then
        new.calls := new.most;
        new.burst := 1;
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.kind_guard(p_kind text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if exists (select from kind k where k.name = p_kind and k.for_tests) and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'kind: % is for trying out and measuring, and not for producers', p_kind using errcode = 'NS403', column = 'kind',
            hint = 'Nothing was taken. The login that owns the schema may ask for it.';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.know_keys(p_ids text[], p_prints text[], OUT others text[], OUT opens boolean)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if cardinality(p_ids) > 100 then
        raise exception 'a worker has no more than 100 keys' using errcode = 'NS400';
    end if;
    insert into vault_key (id, print) select k.id, k.print from unnest(p_ids, p_prints) k(id, print) order by k.id on conflict do nothing;
    select coalesce(array_agg(v.id order by v.id), '{}') into others
    from unnest(p_ids, p_prints) k(id, print) join vault_key v on v.id = k.id and v.print <> k.print;
    opens := not exists (select from sealed_keys()) or exists (select from sealed_keys() s(id) where s.id = any (p_ids) and s.id <> all (others));
end $function$;

CREATE OR REPLACE FUNCTION noshi.known_issued(p_job bigint)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select t.id from gift_trade t join gift_outcome i on i.trade = t.id and i.outcome = 'issued'
    where t.job = $1 and not exists (select from gift_outcome v where v.trade = t.id and v.outcome = 'void') order by t.generation desc limit 1
$function$;

CREATE OR REPLACE FUNCTION noshi.known_kind(p_kind text)
 RETURNS boolean
 LANGUAGE sql
 STABLE PARALLEL SAFE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select exists (select from kind k where k.name = p_kind)
$function$;

CREATE OR REPLACE FUNCTION noshi.lane_steered(p_lane text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if not exists (select from lane where name = p_lane) then
        raise exception 'there is no lane %', quote_literal(p_lane) using errcode = 'NS404', hint = '`noshi lane list` shows them.';
    end if;
    insert into lane_order (lane) values (p_lane) on conflict do nothing;
    perform from lane_order where lane = p_lane for update;
    return (select jsonb_build_object('paused', l.paused, 'closed_until', l.closed_until, 'closed_code', l.closed_code) from lane_now l where l.name = p_lane);
end $function$;

CREATE OR REPLACE FUNCTION noshi.lasts(p_span interval, p_shortest interval, p_longest interval)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    select isfinite($1) and extract(year from $1) >= 0 and extract(month from $1) >= 0 and extract(day from $1) >= 0
        and extract(hour from $1) >= 0 and extract(minute from $1) >= 0 and extract(second from $1) >= 0
        and noshi.span($1, 28) >= noshi.span($2, 28) and noshi.span($1, 31) <= noshi.span($3, 31)
$function$;

CREATE OR REPLACE FUNCTION noshi.lateness(p_late interval, p_late_at timestamp with time zone, p_now timestamp with time zone)
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE
 SET "TimeZone" TO 'UTC'
AS $function$
    select case when p_late_at between p_now - interval '10 minutes' and p_now + interval '1 minute'
        then p_late / power(2, floor(greatest(0, extract(epoch from p_now - p_late_at)) / 60)) else '0' end
$function$;

CREATE OR REPLACE FUNCTION noshi.leave_reading(p_reading bigint, p_worker bigint, p_take integer, p_why text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform held_reading(p_reading, p_worker, p_take, true);
    update reading set worker = null, left_by = left_by || p_worker,
        left_why = case when p_why = any (left_why) then left_why else left_why || p_why end where id = p_reading;
    perform pg_notify('noshi', 'reading');
    perform pg_notify('noshi_answer', p_reading::text);
end $function$;

CREATE OR REPLACE FUNCTION noshi.link_act(a noshi.audit)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    with h as (update audit_head set seq = seq + 1, hash = audit_digest(hash, a) returning seq, hash)
    insert into audit_link (seq, audit, hash) select seq, a.id, hash from h;
end $function$;

CREATE OR REPLACE FUNCTION noshi.link_audit()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform from audit_head for update skip locked;
    if not found and (exists (select from audit_unlinked u where u.xid = pg_current_xact_id()) or not wait_for_audit_head()) then
        insert into audit_unlinked (audit) values (new.id);
        return null;
    end if;
    if exists (select from audit_unlinked) then
        perform link_unlinked();
    end if;
    with h as (update audit_head set seq = seq + 1, hash = audit_digest(hash, new) returning seq, hash)
    insert into audit_link (seq, audit, hash) select seq, new.id, hash from h;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.link_unlinked()
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    a audit;
    linked bigint := 0;
begin
    for a in with d as (delete from audit_unlinked returning audit) select o.* from d join audit o on o.id = d.audit order by o.id loop
        perform link_act(a);
        linked := linked + 1;
    end loop;
    return linked;
end $function$;

CREATE OR REPLACE FUNCTION noshi.link_waiting_acts()
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if not exists (select from audit_unlinked) then
        return 0;
    end if;
    perform from audit_head for update skip locked;
    return case when found then link_unlinked() else 0 end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.live_gift(p_grant text)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select t.id from gift_trade t join gift_outcome i on i.trade = t.id and i.outcome = 'issued'
    where t.grant_id = $1 and not exists (select from gift_outcome v where v.trade = t.id and v.outcome = 'void' and v.reason is distinct from 'attested')
    order by t.generation desc limit 1
$function$;

CREATE OR REPLACE FUNCTION noshi.looked_at(p_job bigint, p_step integer, p_reason text)
 RETURNS noshi.job
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare j job := job_locked(p_job);
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a name and a reason' using errcode = 'NS400';
    end if;
    if j.requested_act is not null then
        raise exception 'job % was asked to % already', p_job, j.requested_act using errcode = 'NS409', hint = 'Look at it again in a moment.';
    end if;
    if p_step is distinct from j.step then
        raise exception 'job % has moved on since it was looked at', p_job using errcode = 'NS409', hint = 'Look at it again.';
    end if;
    return j;
end $function$;

CREATE OR REPLACE FUNCTION noshi.mail_mark(p_job bigint, p_key text, p_created_at timestamp with time zone)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
    select substr(encode(sha256(convert_to(format('noshi mail %s %s %s', p_job, extract(epoch from p_created_at), p_key), 'utf8')), 'hex'), 1, 24)
$function$;

CREATE OR REPLACE FUNCTION noshi.mark_restored_as(p_to timestamp with time zone, p_reason text, p_who text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    s server_seen;
    doubted bigint;
begin
    
    perform say_why(p_reason);
    if p_to is null or not isfinite(p_to) or p_to > clock_timestamp() then
        raise exception 'the point of a restore lies in the past' using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    if p_to < installed_at() then
        raise exception 'noshi was installed here at %, so no database of it can have gone back to %', installed_at(), p_to using errcode = 'NS400',
            hint = 'Nothing was changed.';
    end if;
    select * into s from server_seen for update;
    update server_seen set restored_to = least(restored_to, p_to);
    with r as (
        update job j set in_doubt = true, called_at = least(coalesce(called_at, p_to), p_to),
            lease = case when status = 'running' then lease + 1 else lease end,
            status = case when status = 'running' then 'available' else status end, worker = null,
            lane = case when status = 'needs_operator' then lane else '' end, reserved = reserved and status = 'needs_operator'
        where writes and status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning id, lease, step, at)
    insert into job_event (job, event, lease, step, became) select id, 'restored', lease, step, at from r;
    get diagnostics doubted = row_count;
    perform record('restore mark', 'database', p_reason, jsonb_build_object('restored_to', s.restored_to),
        jsonb_build_object('restored_to', least(s.restored_to, p_to), 'in_doubt', doubted), p_who);
    return doubted;
end $function$;

CREATE OR REPLACE FUNCTION noshi.match_email_events()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    -- With a mark, or of another configuration set, it was told whose it is.
    update email_event set job = new.id where job is null and message = new.state ->> 'message' and awaits = new.id;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.max_calls(p_lane text, p_span interval)
 RETURNS bigint
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select min(b.burst + ceil(least(extract(epoch from p_span) / (extract(epoch from b.per + b.jitter) / (b.calls - b.burst + 1)), 1e9)))::bigint
    from lane_budget b where b.lane = p_lane
$function$;

CREATE OR REPLACE FUNCTION noshi.max_codes(p_who text)
 RETURNS integer
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select c.max_per_hour from reveal_cap c where c.who in (p_who, '') order by c.who <> '' desc limit 1
$function$;

CREATE OR REPLACE FUNCTION noshi.may_be_told(p_asked_by text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$ select coalesce(p_asked_by = who(), false) or (select coalesce(bool_and('read' = any (t.scopes)), pg_has_role(session_user, 'noshi_operator', 'member')) from shown_token() t) $function$;

CREATE OR REPLACE FUNCTION noshi.may_enqueue(p_kind text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if coalesce(current_setting('noshi.token', true), '') <> '' or not pg_has_role(session_user, 'noshi_producer', 'member') then
        perform must('enqueue');
    end if;
    if exists (select from kind k where k.name = p_kind and k.for_tests) then
        perform kind_guard(p_kind);
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.may_log_in(r pg_roles)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$ select r.rolcanlogin and r.rolconnlimit <> 0 and coalesce(r.rolvaliduntil > clock_timestamp(), true) $function$;

CREATE OR REPLACE FUNCTION noshi.must(p_scope text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare t token;
begin
    if coalesce(current_setting('noshi.token', true), '') = '' then
        if not (pg_has_role(session_user, 'noshi_producer', 'member') or pg_has_role(session_user, 'noshi_operator', 'member')
                or pg_has_role(session_user, 'noshi_worker', 'member') or pg_has_role(session_user, 'noshi_owner', 'member')) then
            raise exception 'no token was shown' using errcode = 'NS401';
        end if;
        return;
    end if;
    select * into t from shown_token();
    if p_scope <> all (t.scopes) then
        raise exception 'this token may not %', p_scope using errcode = 'NS403', hint = format('It may: %s.', array_to_string(t.scopes, ', '));
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.must_be_as_filtered(p_filter jsonb, p_jobs bigint[], p_acts text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare other bigint;
begin
    if p_filter is null or jsonb_typeof(p_filter) <> 'object' or octet_length(p_filter::text) > 2000
       or p_filter - array['kind', 'code', 'status', 'since', 'batch', 'ids', 'act'] <> '{}'
       or exists (select from jsonb_each(p_filter) f where jsonb_typeof(f.value) <> case when f.key in ('since', 'batch', 'ids') then 'number' else 'string' end) then
        raise exception 'a filter has kind, code, status, since, batch, ids and act, and nothing else' using errcode = 'NS400', hint = 'Nothing was planned.';
    end if;
    select s.job into other from unnest(p_jobs, p_acts) as s(job, act) join job j on j.id = s.job
    where j.kind <> p_filter ->> 'kind' or (p_filter ? 'code' and j.code is distinct from p_filter ->> 'code') or j.status::text <> p_filter ->> 'status'
       or (p_filter ? 'batch' and j.batch is distinct from (p_filter ->> 'batch')::bigint
           and not (j.kind = 'bulk_grants' and j.key = 'batch/' || (p_filter ->> 'batch')))
       -- They were looked at a moment ago, and seconds are whole.
       or coalesce(j.finished_at, j.run_at) <= now() - ((p_filter ->> 'since')::numeric + 1) * interval '1 second'
       or s.act <> p_filter ->> 'act'
    order by 1 limit 1;
    if other is not null or (p_filter ->> 'ids')::numeric <> cardinality(p_jobs) then
        raise exception 'these jobs are not those of the filter %: %', p_filter, coalesce('job ' || other, 'it names another number of them') using errcode = 'NS400',
            hint = 'Nothing was planned. What a plan says of its jobs must be so: whoever approves it reads that first.';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.must_be_as_granted(p_kind text, p_key text, p_args jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    g record;
    -- What a file leaves out is written into its rows.
    asked constant jsonb := case p_kind when 'point_grant' then jsonb_build_object('zone', 'Asia/Tokyo') || p_args else p_args end;
begin
        for g in select b.id, case b.kind when 'points' then jsonb_build_object('zone', 'Asia/Tokyo') || (r.args - array['grant', 'value']) else r.args end as args
        from batch_row r join batch b on b.id = r.batch
        where r.key = p_key and b.kind = case p_kind when 'point_grant' then 'points' else 'grants' end
          and b.registered_at is not null and b.cancelled_at is null
    loop
        if g.args <> asked then
            raise exception '% % exists with other arguments: batch % granted it', p_kind, p_key, g.id
                using errcode = 'NS409', detail = case when may_be_told(null) then differing_fields(g.args, asked) else differing_names(g.args, asked) end,
                      hint = 'An id names one request for ever. Use a new id for a new request.';
        end if;
    end loop;
end $function$;

CREATE OR REPLACE FUNCTION noshi.must_be_askable(j noshi.job, p_step integer, p_act text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare trade text;
begin
    if exists (select from batch b where b.id = j.batch and b.cancelled_at is not null) and (j.status = 'cancelled' or p_act = 'rerun') then
        raise exception 'job % belongs to batch %, which was cancelled', j.id, j.batch using errcode = 'NS409', hint = 'Submit its rows again; a row whose gift or store was asked for needs a new id.';
    end if;
    if exists (select from batch b where b.id = j.batch and b.paused_at is not null) then
        raise exception 'job % belongs to batch %, which is paused', j.id, j.batch using errcode = 'NS409', hint = 'Resume the batch first.';
    end if;
    if coalesce(p_act, '') not in ('retry', 'inquire', 'cancel', 'attest_void', 'reissue', 'reject', 'attest_done', 'rerun', 'adopt') then
        raise exception 'there is no act %', quote_nullable(p_act) using errcode = 'NS400', hint = 'Nothing was asked. `noshi job explain` names what may be done with a job.';
    end if;
    if j.requested_act is not null then
        raise exception 'job % was asked to % already', j.id, j.requested_act using errcode = 'NS409', hint = 'Look at it again in a moment.';
    end if;
    perform must_not_be_ended(j);
    if p_step is distinct from j.step then
        raise exception 'job % has moved on since it was looked at', j.id using errcode = 'NS409', hint = 'Look at it again.';
    end if;
    if j.status = 'scheduled' and j.run_at = 'infinity' then
        raise exception 'job % waits for its batch, which is paused', j.id using errcode = 'NS409', hint = 'Resume the batch first.';
    end if;
    -- What a person attests is about calls that were made: not while one may be on its way.
    if j.status = 'running' and p_act not in ('retry', 'inquire', 'cancel') then
        raise exception 'job % is leased by a worker, and a call may be on its way', j.id using errcode = 'NS409', hint = 'Look at it again in a moment.';
    end if;
    trade := known_issued(j.id);
    if p_act = 'attest_void' and (trade is not null or coalesce(j.state ->> 'card', '') <> '') then
        raise exception 'job %: trade % was issued, and nobody''s word makes it void', j.id, coalesce(trade, 'of the card') using errcode = 'NS409',
            hint = 'Cancel it: its partner takes it back, or says that it is dead. Or keep it.';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.must_be_named(p_file text, p_campaign text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET standard_conforming_strings TO 'on'
AS $function$
declare fault text := coalesce('file: ' || case when p_file ~ '[/\\]' then 'this holds a slash; a name is no path' else text_fault(p_file, 200) end,
    'campaign: ' || text_fault(p_campaign, 200));
begin
    if fault is not null then
        raise exception '%', fault using errcode = 'NS400', column = split_part(fault, ': ', 1);
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.must_be_seen(p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if octet_length(p_reason) > 4000 then
        raise exception 'a reason has at most 4000 bytes, and this has %', octet_length(p_reason) using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    if p_reason ~ '[^[:space:]]' and text_fault(p_reason, 2147483647) = 'this must not be empty' then
        raise exception 'an act needs a reason that can be seen' using errcode = 'NS400';
    end if;
    if text_fault(p_reason, 2147483647) like '%control character%' then
        raise exception 'a reason is one line, without control characters: %', text_fault(p_reason, 2147483647) using errcode = 'NS400',
            hint = 'Nothing was changed. Write it in one line.';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.must_know_the_past()
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if (select s.timeline from server_seen s) <> timeline() then
        raise exception 'another server took over, and the workers have not yet told what was lost with the old one; nothing changed' using errcode = 'NS409',
            hint = 'Ask again in a minute; a worker must be running.';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.must_not_be_ended(j noshi.job)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare e record;
begin
    if j.status = 'cancelled' then
        select o.event, o.detail into e from job_event o where o.job = j.id and o.event in ('cancelled', 'dismissed') order by o.happened_at desc limit 1;
        raise exception 'job % was %, and nothing brings it back', j.id,
            coalesce(e.event, 'cancelled') || case when j.batch is not null and e.event = 'cancelled' then ' with batch ' || j.batch else '' end || coalesce(' (' || e.detail || ')', '')
            using errcode = 'NS409', hint = 'If it is wanted after all, it has to be asked for anew, under another id.';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.note_report(p_batch bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform must('personal');
    if not exists (select from batch where id = p_batch) then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    perform record('batch report', 'batch/' || p_batch, null);
end $function$;

CREATE OR REPLACE FUNCTION noshi.obey_orders(p_lane text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare l record;
begin
    for l in select a.name from lane_order o join lane a on a.name = o.lane
             where o.no > a.obeyed and (p_lane is null or o.lane = p_lane) order by a.name loop
        -- As claims: the lane first, then its budgets.
        if p_lane is null then
            perform from lane where name = l.name for update skip locked;
            continue when not found;
        else
            perform from lane where name = l.name for update;
        end if;
        update lane a set paused = n.paused, closed_until = n.closed_until, closed_code = n.closed_code, closed_at = n.closed_at, obeyed = o.no
        from lane_order o, lane_now n where a.name = l.name and o.lane = a.name and n.name = a.name;
        update lane_budget b set most = m.most, calls = b.declared_calls, burst = b.declared_burst
        from lane_limit m where b.lane = l.name and m.lane = b.lane and m.per = b.per and b.most is distinct from m.most;
    end loop;
end $function$;

CREATE OR REPLACE FUNCTION noshi.only_what_is_pruned()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare may boolean;
begin
    if tg_op = 'DELETE' then
        case tg_table_name
            when 'job_event' then may := exists (select from archived_job s where s.id = old.job);
            when 'job' then may := exists (select from tombstone t where t.kind = old.kind and t.key = old.key);
            when 'archived_job' then may := old.pruned_at < clock_timestamp() - (select archive_kept(r) from retention r);
        end case;
        if may then
            return old;
        end if;
    end if;
    raise exception '% is append-only but for what was pruned: % refused', tg_table_name, lower(tg_op) using errcode = 'NS001';
end $function$;

CREATE OR REPLACE FUNCTION noshi.open_reading(p_kind text, p_subject text, p_scope text, p_key text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    made bigint;
    most integer := case p_kind when 'code' then 64 else 4 end;
    mine asker;
begin
    if coalesce(p_key, '') = '' or octet_length(p_key) > 1000 then
        raise exception 'a reading needs a public key to seal its answer to' using errcode = 'NS400';
    end if;
    insert into asker (who, codes) values (who(), (p_kind = 'code')::integer) on conflict (who) do update set turns = asker.turns + 1,
        codes = case when asker.codes_from < clock_timestamp() - interval '1 hour' then 0 else asker.codes end + excluded.codes,
        codes_from = case when asker.codes_from < clock_timestamp() - interval '1 hour' then clock_timestamp() else asker.codes_from end
    returning * into mine;
    if p_kind = 'code' and mine.codes > max_codes(who()) then
        raise exception '% has asked for % codes since %, which is all that may be in an hour', who(), mine.codes - 1, instant(mine.codes_from) using errcode = 'NS409',
            hint = 'Nothing was shown. Ask again when that hour is over; the schema''s owner sets how many one may ask for in noshi.reveal_cap.';
    end if;
    if (select count(*) from reading r where r.asked_by = who() and (r.kind = 'code') = (p_kind = 'code') and r.ended_at is null
        and r.deadline > clock_timestamp()) >= most then
        raise exception '% has % % in reading already', who(), most, case p_kind when 'code' then 'codes' else 'files' end using errcode = 'NS409', hint = 'Nothing was done. Ask again when one of them is through.';
    end if;
    insert into reading (kind, subject, scope, public_key) values (p_kind, p_subject, p_scope, p_key) returning id into made;
    perform pg_notify('noshi', 'reading');
    return made;
end $function$;

CREATE OR REPLACE FUNCTION noshi.operates(p_login oid)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$ select pg_has_role($1, 'noshi_operator', 'member') or pg_has_role($1, 'noshi_owner', 'member') $function$;

CREATE OR REPLACE FUNCTION noshi.own_fact_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if not exists (select from job j join kind k on k.name = j.kind and k.own where j.id = new.job and (j.kind, j.key) = (new.kind, new.key) and is_at_work(j.id)) then
        raise exception 'this is no fact of a job in flight: %', new.name using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.own_fault(p_kind text, p_key text, p_args jsonb)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    k record;
    fault text;
begin
    select for_producers, id_field, fields into k from kind where name = p_kind and own;
    if not found then
        return null;
    end if;
    if not k.for_producers and not pg_has_role(session_user, 'noshi_worker', 'member') then
        return 'kind: producers may not ask for ' || p_kind || '; it follows from other jobs';
    end if;
    select format('args.%s: %s', f.name, d.fault) into fault
    from jsonb_array_elements(k.fields) with ordinality as r(field, n)
    cross join lateral (select r.field ->> 'name' as name, p_args -> (r.field ->> 'name') as holds) f
    cross join lateral (select case
        when f.holds is null and (r.field ->> 'needed')::bool or f.holds = 'null' and not (r.field ->> 'nullable')::bool
            then 'this is missing; it must be ' || (r.field ->> 'wanted')
        when f.holds is null or f.holds = 'null' then null
        else own_field_fault(r.field, f.holds) end as fault) d
    where d.fault is not null order by r.n limit 1;
    if found then
        return fault;
    end if;
    if p_args - array(select r ->> 'name' from jsonb_array_elements(k.fields) r) <> '{}' then
        return 'args: there is a field that is not known; there are ' || (select string_agg(r.f ->> 'name', ', ' order by r.n) from jsonb_array_elements(k.fields) with ordinality as r(f, n));
    end if;
    if k.id_field is not null and p_args ->> k.id_field is distinct from p_key then
        return 'id: this must be what args.' || k.id_field || ' is';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.own_field_fault(p_field jsonb, p_is jsonb)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    said constant text := p_is #>> '{}';
    most constant bigint := p_field ->> 'most';
    other constant text := 'this must be ' || (p_field ->> 'wanted');
begin
    case p_field ->> 'holds'
        when 'whole' then
            if jsonb_typeof(p_is) <> 'number' then return other; end if;
            return case when said::numeric = trunc(said::numeric) and said::numeric between (p_field ->> 'least')::bigint and most then null else other end;
        when 'one_of' then
            return case when p_field -> 'one_of' @> p_is and jsonb_typeof(p_is) = 'string' then null else other end;
        when 'texts' then
            return case when jsonb_typeof(p_is) = 'object' and not jsonb_path_exists(p_is, '$.* ? (@.type() != "string")') then null else other end;
        else
            if jsonb_typeof(p_is) <> 'string' then return other; end if;
    end case;
    return case p_field ->> 'holds'
        when 'word' then case when octet_length(said) <= most and said ~ '^[A-Za-z0-9_.-]+$' and said not in ('.', '..') then null else other end
        when 'text' then text_fault(said, most::integer)
        when 'no_address' then case when strpos(said, '@') > 0 then 'this looks like an address; use an id of your own' else id_fault(said, most::integer) end
        when 'id' then id_fault(said, most::integer)
        else other end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.parked_anew()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    new.acknowledged := null;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.pause_batch(p_batch bigint, p_code text, p_reason text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare b batch := batch_locked(p_batch);
begin
    perform noshi.must('operate');
    if not pg_has_role(session_user, 'noshi_worker', 'member') then
        perform say_why(p_reason);
    end if;
    if b.paused_at is not null or b.settled_at is not null then
        return;
    end if;
    if coalesce(p_code, '') !~ '^[a-z][a-z0-9_]{0,62}$' then
        raise exception 'a code is a lower-case name, not %', coalesce(quote_literal(left(p_code, 100)), 'null') using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    update batch set paused_at = clock_timestamp(), paused_code = p_code where id = b.id;
    perform batch_log(b.id, 'pause', p_code, p_reason);
    update job set status = 'scheduled', run_at = 'infinity'
    where batch = b.id and status = 'available' and undo is null and not in_doubt and crash_count = 0;
end $function$;

CREATE OR REPLACE FUNCTION noshi.pause_lane(p_lane text, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare was jsonb;
begin
    perform must('operate');
    perform say_why(p_reason);
    was := lane_steered(p_lane);
    update lane_order set no = no + 1, paused = true where lane = p_lane;
    perform record('lane pause', 'lane/' || p_lane, p_reason, was, jsonb_build_object('paused', true));
end $function$;

CREATE OR REPLACE FUNCTION noshi.pause_redrive(p_redrive bigint, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r redrive;
begin
    perform must('operate');
    r := redrive_locked(p_redrive, false, p_reason);
    if r.applied_at is null or r.paused_at is not null then
        raise exception 're-drive % does not run', r.id using errcode = 'NS409';
    end if;
    update redrive set paused_at = clock_timestamp(), paused_code = 'operator' where id = r.id;
    perform record('redrive pause', 'redrive/' || r.id, p_reason);
end $function$;

CREATE OR REPLACE FUNCTION noshi.pause_schedule(p_name text, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare was schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    was := schedule_locked(p_name);
    update schedule o set paused_by = who(), paused_at = clock_timestamp(), paused_reason = p_reason where o.name = p_name and o.paused_at is null;
    perform record('schedule pause', 'schedule/' || p_name, p_reason, schedule_facts(was), jsonb_build_object('paused', true));
end $function$;

CREATE OR REPLACE FUNCTION noshi.person(p_name text)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
 SET standard_conforming_strings TO 'on'
AS $function$
begin
    -- Not in SQL, which would be planned anew for each request.
    return case when $1 collate "C" ~ '^[!-@\[-~]+$' then $1
        else regexp_replace(lower(normalize($1 collate "default", NFKC)), '[[:space:]]', '_', 'g') end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.pin_functions()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET standard_conforming_strings TO 'on'
 SET "TimeZone" TO 'UTC'
AS $function$
declare f record;
begin
    for f in select p.oid::regprocedure::text as name,
            p.prosrc ~ '\\|U&' and not coalesce('standard_conforming_strings=on' = any (p.proconfig), false) as words,
            p.prosrc ~* 'interval|days|date_trunc|::date|current_date' and not coalesce('TimeZone=UTC' = any (p.proconfig), false) as days
        from pg_proc p join pg_language l on l.oid = p.prolang
        where p.pronamespace = 'noshi'::regnamespace and p.proowner = current_user::regrole and l.lanname in ('sql', 'plpgsql') loop
        if f.words then
            execute format('alter function %s set standard_conforming_strings = on', f.name);
        end if;
        if f.days then
            execute format('alter function %s set timezone = ''UTC''', f.name);
        end if;
    end loop;
end $function$;

CREATE OR REPLACE FUNCTION noshi.plan_redrive(p_filter jsonb, p_jobs bigint[], p_steps integer[], p_acts text[], p_refusals text[], p_lanes text[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET standard_conforming_strings TO 'on'
AS $function$
declare
    made bigint;
    wrong record;
begin
    perform must('operate');
    if cardinality(p_jobs) > 100000 then
        raise exception 'a plan has at most 100000 jobs' using errcode = 'NS400', hint = 'Nothing was planned. Plan in parts.';
    end if;
    if coalesce(cardinality(p_jobs), 0) = 0 then
        raise exception 'no job is like that, so there is nothing to plan' using errcode = 'NS404';
    end if;
    select s.job, s.act, j.status, j.in_doubt into wrong
    from unnest(p_jobs, p_steps, p_acts, p_refusals) as s(job, step, act, refusal) left join job j on j.id = s.job and j.step = s.step
    where j.id is null
       or (s.refusal is null and (coalesce(s.act, '') not in ('retry', 'inquire', 'rerun') or j.status not in ('needs_operator', 'failed')
           or j.requested_act is not null or (j.in_doubt and s.act = 'rerun')))
    order by s.job limit 1;
    if wrong.job is not null then
        raise exception 'job % (%) may not be re-driven by %', wrong.job, coalesce(wrong.status::text, 'moved on'), coalesce(wrong.act, 'nothing')
            using errcode = 'NS409', hint = case when wrong.in_doubt then 'It is in doubt.'
                else 'Only a job that is parked or failed, at the step at which it was looked at, and by retry, inquire or rerun.' end;
    end if;
    perform must_be_as_filtered(p_filter, p_jobs, p_acts);
    if exists (select from unnest(p_refusals) x where octet_length(x) > 2000 or text_fault(x, 2000) is not null)
       or exists (select from unnest(p_lanes) x where x <> '' and (octet_length(x) > 200 or text_fault(x, 200) is not null))
       or (select count(distinct x) from unnest(p_lanes) x) > 100 then
        raise exception 'a refusal has at most 2000 bytes and a lane 200, each in one line, and a plan has at most 100 lanes' using errcode = 'NS400', hint = 'Nothing was planned.';
    end if;
    insert into redrive (filter, jobs, refused, totals, tokens, lasts, digest, needs_approval)
    with s as materialized (
        select s.job, s.step, s.act, s.lane, s.refusal, noshi.worth(j.args) as amount, j.args -> 'value' ->> 'currency' as currency
        from unnest(p_jobs, p_steps, p_acts, p_refusals, p_lanes) as s(job, step, act, refusal, lane) join job j on j.id = s.job),
    e as (select * from s where refusal is null),
    money as (select currency, sum(amount)::bigint as total from e where amount is not null group by 1),
    calls as (select lane, count(*) as tokens from e where coalesce(lane, '') <> '' group by 1)
    select p_filter, (select count(*) from e), (select count(*) from s) - (select count(*) from e),
        coalesce((select jsonb_object_agg(currency, total) from money), '{}'), coalesce((select jsonb_object_agg(lane, tokens) from calls), '{}'),
        coalesce((select max((c.tokens + w.waiting) * b.each) from calls c
            cross join lateral (select max((b.per + b.jitter) / b.calls) as each from lane_budget b where b.lane = c.lane) b
            cross join lateral (select count(*) as waiting from job j where j.lane = c.lane and j.status = 'available' and j.crash_count = 0) w), '0'),
        sha256(convert_to(p_filter::text || E'\n' || coalesce((select string_agg(format('%s %s %s %s', job, step,
            case when refusal is null then act else 'refused: ' || refusal end, case when refusal is null then lane end), E'\n' order by job) from s), ''), 'UTF8')),
        redrive_is_large(who(), (select count(*) from e), coalesce((select jsonb_object_agg(currency, total) from money), '{}'))
    returning id into made;
    insert into redrive_row (redrive, n, job, step, act, refusal, amount, currency, lane, status)
    select made, row_number() over (order by s.job), s.job, s.step, case when s.refusal is null then s.act end, s.refusal,
        noshi.worth(j.args), j.args -> 'value' ->> 'currency', nullif(s.lane, ''), case when s.refusal is null then 'waiting' else 'refused' end
    from unnest(p_jobs, p_steps, p_acts, p_refusals, p_lanes) as s(job, step, act, refusal, lane) join job j on j.id = s.job;
    perform record('redrive plan', 'redrive/' || made, null, null,
        (select jsonb_build_object('filter', r.filter, 'jobs', r.jobs, 'refused', r.refused, 'totals', r.totals, 'digest', encode(r.digest, 'hex')) from redrive r where r.id = made));
    return made;
end $function$;

CREATE OR REPLACE FUNCTION noshi.point_allocations_add_up()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare bad bigint;
begin
    update point_lot l set remaining = l.remaining - n.amount
    from (select lot, sum(amount)::bigint as amount from new_rows group by lot) n where l.id = n.lot;
    select e.id into bad
    from (select distinct entry from new_rows) n join point_entry e on e.id = n.entry
    cross join lateral (
        select sum(a.amount) as amount, bool_or(l.user_id <> e.user_id or case e.kind
            when 'expire' then l.expires_at <> e.at
            when 'use' then l.expires_at <= e.at or l.area <> coalesce(e.area, '')
            else l.expires_at <= e.at end) as strange
        from point_allocation a join point_lot l on l.id = a.lot where a.entry = e.id) s
    where s.amount <> -e.amount or s.strange
    limit 1;
    if found then
        raise exception 'the ledger would not add up: the allocations of entry % are not what it takes', bad using errcode = 'NS001';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.point_balance(p_user text, p_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_area text DEFAULT NULL::text)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
    -- An operation of now takes effect no earlier than the one before it.
    newest constant timestamptz := (select e.at from point_entry e where e.user_id = p_user order by e.seq desc limit 1);
    instant constant timestamptz := coalesce(p_at, greatest(clock_timestamp(), newest));
    balance constant bigint := (
        select e.balance from point_entry e where e.user_id = p_user and e.at <= instant order by e.at desc, e.seq desc limit 1);
    due constant numeric := (select sum(l.remaining) from point_lot l where l.user_id = p_user and l.open and l.expires_at <= instant);
    elsewhere numeric;
begin
    if instant >= newest then
        select sum(l.remaining) into elsewhere from point_lot l
        where l.user_id = p_user and l.area is not null and l.expires_at > instant and l.area is distinct from p_area;
    else
        select sum(l.amount - coalesce(taken.amount, 0)) into elsewhere
        from point_lot l join point_entry e on e.id = l.entry and e.at <= instant
        cross join lateral (
            select sum(a.amount) as amount from point_allocation a join point_entry t on t.id = a.entry where a.lot = l.id and t.at <= instant) taken
        where l.user_id = p_user and l.area is not null and l.expires_at > instant and l.area is distinct from p_area;
    end if;
    return coalesce(balance, 0) - coalesce(due, 0) - coalesce(elsewhere, 0);
end $function$;

CREATE OR REPLACE FUNCTION noshi.point_contra(p_kind text)
 RETURNS noshi.point_account_code
 LANGUAGE sql
 IMMUTABLE
AS $function$
    select case $1 when 'grant' then 'points_granted'::noshi.point_account_code when 'use' then 'points_used' when 'reverse' then 'points_used'
           when 'expire' then 'points_expired' when 'withdraw' then 'points_withdrawn' end
$function$;

CREATE OR REPLACE FUNCTION noshi.point_digest(p_content text[])
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE
AS $function$ select sha256(convert_to(to_jsonb($1)::text, 'UTF8')) $function$;

CREATE OR REPLACE FUNCTION noshi.point_entries_are_whole()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare bad text;
begin
    select format('entry %s of %s', n.id, n.user_id) into bad
    from new_rows n left join point_entry p on p.user_id = n.user_id and p.seq = n.seq - 1
    where n.balance <> coalesce(p.balance, 0) + n.amount or n.at < p.at or (p.id is null) <> (n.seq = 1)
       or (n.amount <> 0 and not exists (select from point_line l where l.entry = n.id))
       or (n.amount > 0 and not exists (select from point_lot l where l.entry = n.id))
       or (n.amount < 0 and not exists (select from point_allocation a where a.entry = n.id))
    limit 1;
    if found then
        raise exception 'the ledger would not add up: % does not follow the one before it, or lacks lines, lots or allocations', bad
            using errcode = 'NS001';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.point_expiry_of(p_at timestamp with time zone, p_valid_days integer, p_zone text)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$ select (($1 at time zone $3)::date + $2 + 1)::timestamp at time zone $3 $function$;

CREATE OR REPLACE FUNCTION noshi.point_history(p_user text, p_before_seq bigint, p_limit integer)
 RETURNS TABLE(seq bigint, at timestamp with time zone, recorded_at timestamp with time zone, kind text, amount bigint, balance bigint, key text, entry bigint, benefit text, source text, expires_at timestamp with time zone, area text, reverses text, job bigint)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
    select e.seq, e.at, e.recorded_at, e.kind, e.amount, e.balance, e.key, e.id, x.benefit, x.source,
           case e.kind when 'grant' then l.expires_at end, coalesce(e.area, case e.kind when 'grant' then l.area end), u.key, e.job
    from (select * from point_entry o where o.user_id = $1 and o.seq < coalesce($2, 9223372036854775807)
          order by o.seq desc limit least(greatest($3, 1), 1000)) e
    left join benefit_exercise x on x.id = e.exercise
    left join lateral (select o.expires_at, o.area from point_lot o where o.entry = e.id and e.kind = 'grant') l on true
    left join point_entry u on u.id = e.reverses
    order by e.seq desc
$function$;

CREATE OR REPLACE FUNCTION noshi.point_known(p_key text, p_digest bytea, p_content jsonb)
 RETURNS TABLE(outcome text, entry bigint, detail text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    e point_entry;
    recorded jsonb;
begin
    select * into e from point_entry o where o.key = p_key;
    if not found then
        return;
    end if;
    if e.digest = p_digest then
        return query select 'replayed', e.id, null::text;
        return;
    end if;
    recorded := jsonb_build_object('kind', e.kind) || case e.kind
        when 'grant' then (
            select jsonb_build_object('user', e.user_id, 'amount', e.amount, 'benefit', x.benefit, 'source', x.source,
                                      'expires_at', l.expires_at, 'area', l.area)
            from benefit_exercise x join point_lot l on l.entry = e.id where x.id = e.exercise)
        when 'use' then jsonb_build_object('user', e.user_id, 'amount', -e.amount, 'area', e.area)
        when 'reverse' then (select jsonb_build_object('use', u.key) from point_entry u where u.id = e.reverses)
        else jsonb_build_object('user', e.user_id) end;
    if p_content ->> 'kind' <> e.kind then
        recorded := jsonb_build_object('kind', e.kind);
        p_content := jsonb_build_object('kind', p_content -> 'kind');
    end if;
    -- Of what is asked for only the grace of a reversal is nowhere but in the digest.
    return query select 'conflict', e.id, coalesce(differing_fields(recorded, p_content), 'grace: now another');
end $function$;

CREATE OR REPLACE FUNCTION noshi.point_lines_balance()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare bad bigint;
begin
    select e.id into bad
    from (select distinct entry from new_rows) n join point_entry e on e.id = n.entry
    cross join lateral (
        select sum(l.amount) filter (where l.side = 'D') as debit, sum(l.amount) filter (where l.side = 'C') as credit,
               sum(case l.side when 'C' then l.amount else -l.amount end) filter (where l.account = 'user_points') as held
        from point_line l where l.entry = e.id) s
    where (s.debit, s.credit, s.held) is distinct from (abs(e.amount)::numeric, abs(e.amount)::numeric, e.amount::numeric)
    limit 1;
    if found then
        raise exception 'the ledger would not add up: debits, credits and amount of entry % differ', bad using errcode = 'NS001';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.point_lots_add_up()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare bad bigint;
begin
    select e.id into bad
    from (select distinct entry from new_rows) n join point_entry e on e.id = n.entry
    cross join lateral (
        select sum(l.amount) as amount,
               bool_or(l.user_id <> e.user_id or l.remaining <> l.amount or l.granted_at > e.at or l.expires_at < e.at) as strange
        from point_lot l where l.entry = e.id) s
    where s.amount <> e.amount or s.strange
    limit 1;
    if found then
        raise exception 'the ledger would not add up: the lots of entry % are not what it gives', bad using errcode = 'NS001';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.point_metrics(OUT expiry_late_seconds double precision, OUT due_lots bigint)
 RETURNS record
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select coalesce(extract(epoch from clock_timestamp() - (select min(l.expires_at) from point_lot l where l.open and l.expires_at <= clock_timestamp())), 0)::double precision,
           (select count(*) from (select from point_lot l where l.open and l.expires_at <= clock_timestamp() limit 10000) d)
$function$;

CREATE OR REPLACE FUNCTION noshi.point_refusal(p_outcome text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select case $1 when 'insufficient' then 'points_insufficient' when 'withdrawn' then 'user_withdrawn' when 'conflict' then 'points_conflict' end
$function$;

CREATE OR REPLACE FUNCTION noshi.points_expiring(p_user text, p_before timestamp with time zone, p_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(expires_at timestamp with time zone, area text, points bigint)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
    newest constant timestamptz := (select e.at from point_entry e where e.user_id = p_user order by e.seq desc limit 1);
    instant constant timestamptz := coalesce(p_at, greatest(clock_timestamp(), newest));
begin
    if instant >= newest then
        return query select l.expires_at, l.area, sum(l.remaining)::bigint from point_lot l
            where l.user_id = p_user and l.open and l.expires_at > instant and l.expires_at <= p_before
            group by l.expires_at, l.area order by l.expires_at, l.area nulls first;
    else
        return query select l.expires_at, l.area, sum(l.amount - coalesce(taken.amount, 0))::bigint
            from point_entry e join point_lot l on l.entry = e.id
            cross join lateral (
                select sum(a.amount) as amount from point_allocation a join point_entry t on t.id = a.entry where a.lot = l.id and t.at <= instant) taken
            where e.user_id = p_user and e.at <= instant and l.expires_at > instant and l.expires_at <= p_before
            group by l.expires_at, l.area having sum(l.amount - coalesce(taken.amount, 0)) > 0
            order by l.expires_at, l.area nulls first;
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.post_points(p_entries noshi.point_entry[], p_lots noshi.point_lot[], p_allocations noshi.point_allocation[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare posted bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'points are booked in read committed transactions: in others an operation would not see the one it waited for' using errcode = 'NS400';
    end if;
    with e as (
        insert into point_entry (id, key, digest, kind, user_id, seq, at, amount, balance, area, exercise, reverses, job)
        overriding system value
        select n.id, n.key, n.digest, n.kind, n.user_id, n.seq, n.at, n.amount, n.balance, n.area, n.exercise, n.reverses, n.job
        from unnest(p_entries) n on conflict do nothing returning id, kind, amount),
    line as (
        insert into point_line (entry, account, side, amount)
        select e.id, l.account, case when (l.account = 'user_points') = (e.amount > 0) then 'C' else 'D' end, abs(e.amount)
        from e cross join lateral unnest(array['user_points', point_contra(e.kind)]) as l(account) where e.amount <> 0),
    lot as (
        insert into point_lot (entry, user_id, amount, remaining, granted_at, expires_at, area)
        select n.entry, n.user_id, n.amount, n.amount, n.granted_at, n.expires_at, n.area from unnest(p_lots) n
        where (select count(*) from e) = cardinality(p_entries)),
    allocation as (
        insert into point_allocation (lot, entry, amount) select n.lot, n.entry, n.amount from unnest(p_allocations) n
        where (select count(*) from e) = cardinality(p_entries))
    select count(*) into posted from e;
    if posted <> cardinality(p_entries) then
        -- The owner's lock and a look at the key came first: only the same key for two users at the same moment gets here.
        raise exception 'another operation with the same key came at this very moment; nothing was booked, do it again' using errcode = '40001';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.proposal_digest(p noshi.proposal)
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
AS $function$
    select sha256(convert_to(jsonb_build_array(p.act, p.target, p.step, p.kind, p.key, p.at, p.in_doubt, p.restored_to, p.amount, p.currency, p.reason, p.proposed_by)::text, 'UTF8'))
$function$;

CREATE OR REPLACE FUNCTION noshi.proposal_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if tg_op = 'DELETE' or old.decision is not null
       or to_jsonb(new) - array['decision', 'decided_by', 'decided_at', 'decision_reason'] <> to_jsonb(old) - array['decision', 'decided_by', 'decided_at', 'decision_reason'] then
        raise exception 'a proposal is decided once, and does not change: % refused', lower(tg_op) using errcode = 'NS001';
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.proposal_open(p_proposal bigint, p_reason text)
 RETURNS noshi.proposal
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare p proposal;
begin
    select * into p from proposal where id = p_proposal for update;
    if not found then
        raise exception 'there is no proposal %', p_proposal using errcode = 'NS404', hint = '`noshi proposal list` shows them.';
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'say why: a reason is kept with every act' using errcode = 'NS400';
    end if;
    if p.decision is not null then
        raise exception 'proposal % is % already', p.id, p.decision using errcode = 'NS409';
    end if;
    return p;
end $function$;

CREATE OR REPLACE FUNCTION noshi.propose(p_act text, p_job bigint, p_step integer, p_to timestamp with time zone, p_reason text, OUT made bigint, OUT done text)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    p proposal;
    other proposal;
    j job;
    cap word_cap;
    unit bigint;
    spent bigint;
    proposed bigint;
begin
    perform must('operate');
    perform must_be_seen(p_reason);
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400';
    end if;
    if not exists (select from word_act w where w.act = p_act) or (p_act like 'restore%') <> (p_job is null) then
        raise exception '% is not proposed', coalesce(p_act, 'nothing') using errcode = 'NS400';
    end if;
    perform in_turn(who());
    p.act := p_act; p.reason := p_reason; p.proposed_by := who(); p.currency := ''; p.target := 'database'; p.restored_to := p_to;
    if p_job is not null then
        j := job_locked(p_job);
        perform must_be_askable(j, p_step, p_act);
        p.target := 'job/' || j.id; p.job := j.id; p.step := j.step; p.kind := j.kind; p.key := j.key; p.at := j.at; p.in_doubt := j.in_doubt;
        p.amount := worth(j.args);
        p.currency := case when p.amount is not null then coalesce(j.args -> 'value' ->> 'currency', '') else '' end;
    elsif p_act = 'restore_mark' and (p_to is null or not isfinite(p_to) or p_to > clock_timestamp()) then
        raise exception 'the point of a restore lies in the past' using errcode = 'NS400', hint = 'Nothing was changed.';
    elsif p_act = 'restore_mark' and p_to < installed_at() then
        raise exception 'noshi was installed here at %, so no database of it can have gone back to %', installed_at(), p_to using errcode = 'NS400',
            hint = 'Nothing was changed.';
    elsif p_act = 'restore_end' and not exists (select from server_seen where restored_to is not null) then
        raise exception 'no restore is marked' using errcode = 'NS409';
    end if;
    p.digest := proposal_digest(p);
    select * into other from proposal o where o.target = p.target and o.decision is null for update;
    if found then
        -- What has moved on, or got too old, is not in the way of another.
        if other.expires_at > clock_timestamp() and (p_job is null or other.step = j.step) then
            raise exception 'proposal % (% by %) waits for a second person already', other.id, other.act, other.proposed_by using errcode = 'NS409',
                hint = 'Another person confirms it, or anybody refuses it: `noshi proposal`.';
        end if;
        update proposal set decision = 'lapsed', decided_at = clock_timestamp() where id = other.id;
    end if;
    select * into cap from word_cap c where c.currency = p.currency order by c.id desc limit 1;
    unit := case when p.currency = '' then 1 else p.amount end;
    select coalesce(sum(case when d.currency = '' then d.jobs else d.amount end), 0) into spent from done_alone(who(), 'word') d where d.currency = p.currency;
    select coalesce(sum(case when o.currency = '' then 1 else o.amount end), 0) into proposed from proposal o
    where o.proposed_by = who() and o.currency = p.currency and o.proposed_at > clock_timestamp() - interval '24 hours' and coalesce(o.decision, 'open') not in ('refused', 'lapsed');
    if spent + proposed + unit > cap.most then
        raise exception 'this is more than you may propose within 24 hours (% of % %)', spent + proposed + unit, cap.most, coalesce(nullif(p.currency, ''), 'acts') using errcode = 'NS403';
    end if;
    if spent + unit <= cap.alone then
        insert into alone (who, what, target, jobs, currency, amount) values (who(), 'word', p.target, 1, p.currency, coalesce(p.amount, 0));
        done := carry_out(p, p_reason);
        return;
    end if;
    insert into proposal (act, target, job, step, kind, key, at, in_doubt, restored_to, amount, currency, reason, proposed_by, digest)
    values (p.act, p.target, p.job, p.step, p.kind, p.key, p.at, p.in_doubt, p.restored_to, p.amount, p.currency, p.reason, p.proposed_by, p.digest)
    returning id into made;
    perform record('proposal make', 'proposal/' || made, p_reason, case when p.job is not null then job_facts(j) end,
        jsonb_build_object('act', p.act, 'target', p.target, 'amount', p.amount, 'currency', nullif(p.currency, ''), 'digest', encode(p.digest, 'hex')));
end $function$;

CREATE OR REPLACE FUNCTION noshi.prove_past()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare spent integer;
begin
    with p as (update gift_past set proven_at = clock_timestamp() where job = new.id and proven_at is null returning owed)
    select count(*) filter (where p.owed) into spent from p;
    if spent > 0 then
        update server_seen set owed = greatest(0, owed - spent) where owed > 0;
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.prune(p_limit integer, p_older_than interval DEFAULT NULL::interval, p_after timestamp with time zone DEFAULT '-infinity'::timestamp with time zone, p_after_id bigint DEFAULT 0)
 RETURNS TABLE(looked_at integer, pruned integer, unarchived integer, after timestamp with time zone, after_id bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
    keep retention;
    before timestamptz;
    seen bigint[];
    gone bigint[];
begin
    perform must('operate');
    select * into strict keep from retention;
    if not lasts(p_older_than, '1 day', '100 years') then
        raise exception 'what was over within the last day is not pruned, and no age has a negative part, or more than 100 years' using errcode = 'NS400', hint = 'Nothing was pruned.';
    end if;
    if p_limit is null or p_limit not between 1 and 5000 then
        raise exception 'from 1 to 5000 jobs a transaction, not %', p_limit using errcode = 'NS400';
    end if;
    perform from turn where act = 'prune' for update skip locked;
    if not found then
        return;
    end if;
    before := clock_timestamp() - coalesce(p_older_than, keep.jobs_for);
    select array_agg(f.id), (array_agg(f.finished_at order by f.finished_at desc, f.id desc))[1], (array_agg(f.id order by f.finished_at desc, f.id desc))[1]
    into seen, after, after_id
    from (select j.id, j.finished_at from job j where j.finished_at < before and (j.finished_at, j.id) > (p_after, p_after_id)
          order by j.finished_at, j.id limit p_limit) f;
    select array_agg(o.id) into gone from (
        select j.id from job j
        where j.id = any(seen) and j.finished_at < before and j.status in ('completed', 'failed', 'cancelled')
          and not j.in_doubt and j.requested_act is null and j.worker is null
          and not exists (select from batch b where b.id = case when j.kind = 'bulk_grants' then (j.args ->> 'batch')::bigint else j.batch end
                          and coalesce(b.settled_at >= before, true))
        order by j.id for update of j skip locked) o;

    insert into tombstone (id, kind, key, fingerprint, status, outcome, code, detail, at, about, batch, row_no, created_at, finished_at)
    select j.id, j.kind, j.key, j.fingerprint, j.status, j.outcome, j.code, coalesce(j.state ->> 'detail', j.state ->> 'reason', j.detail), j.at,
           case j.kind when 'gift_issuance' then j.args ->> 'user' when 'point_grant' then j.args ->> 'user' when 'point_exchange' then j.args ->> 'user' when 'point_withdrawal' then j.args ->> 'user' when 'point_reversal' then j.args ->> 'exchange' when 'email' then j.args ->> 'reference' when 'store_creation' then j.args ->> 'public_id' end,
           j.batch, j.row_no, j.created_at, j.finished_at
    from job j where j.id = any(gone);
    insert into archived_job (id, job, journal)
    select j.id, to_jsonb(j), coalesce(e.lines, '[]')
    from job j left join lateral (
        select jsonb_agg(to_jsonb(e) - 'job' order by e.happened_at, e.step) as lines from job_event e where e.job = j.id) e on true
    where j.id = any(gone);
    delete from job_event e where e.job = any(gone);
    delete from job j where j.id = any(gone);

    delete from archived_job s where s.id in (
        select o.id from archived_job o where o.pruned_at < clock_timestamp() - archive_kept(keep) order by o.pruned_at limit p_limit for update skip locked);
    get diagnostics unarchived = row_count;
    after := coalesce(after, p_after);
    after_id := coalesce(after_id, p_after_id);
    looked_at := coalesce(cardinality(seen), 0);
    pruned := coalesce(cardinality(gone), 0);
    if p_older_than is not null and pruned > 0 then
        perform record('prune', 'jobs', null, null, jsonb_build_object('jobs', pruned, 'older_than', p_older_than));
    end if;
    return next;
end $function$;

CREATE OR REPLACE FUNCTION noshi.prune_is_due()
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform link_waiting_acts();
    update retention set begun_at = clock_timestamp() where begun_at < clock_timestamp() - every;
    return found;
end $function$;

CREATE OR REPLACE FUNCTION noshi.put_reading(p_reading bigint, p_worker bigint, p_take integer, p_number integer, p_key_id text, p_nonce bytea, p_ciphertext bytea)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform held_reading(p_reading, p_worker, p_take, true);
    if (select count(*) from noshi_sealed.reading_part p where p.reading = p_reading) >= 4 then
        return false;
    end if;
    insert into noshi_sealed.reading_part (reading, number, key_id, nonce, ciphertext) values (p_reading, p_number, p_key_id, p_nonce, p_ciphertext);
    perform pg_notify('noshi_answer', p_reading::text);
    return true;
end $function$;

CREATE OR REPLACE FUNCTION noshi.read_check(p_batch bigint, p_key text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare submitter text;
begin
    perform must('approve');
    select submitted_by into submitter from batch where id = p_batch;
    if not found then
        raise exception 'there is no batch %', p_batch using errcode = 'NS404';
    end if;
    -- Who may not approve it has no worker look at it either.
    if submitter = who() then
        raise exception 'batch % was submitted by %; another person must approve it', p_batch, submitter using errcode = 'NS403';
    end if;
    return open_reading('check', p_batch::text, 'approve', p_key);
end $function$;

CREATE OR REPLACE FUNCTION noshi.read_code(p_grant text, p_user text, p_reason text, p_key text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform from reveal_gift(p_grant, p_user, p_reason);
    return open_reading('code', p_grant, 'reveal', p_key);
end $function$;

CREATE OR REPLACE FUNCTION noshi.read_report(p_batch bigint, p_key text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform note_report(p_batch);
    return open_reading('report', p_batch::text, 'personal', p_key);
end $function$;

CREATE OR REPLACE FUNCTION noshi.reading_chunk(p_reading bigint, p_worker bigint, p_take integer, p_chunk integer)
 RETURNS TABLE(key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return query select s.key_id, s.nonce, s.ciphertext from noshi_sealed.sealed s
        where r.kind in ('report', 'check') and s.what = 'file' and s.subject = r.subject || '/' || p_chunk;
end $function$;

CREATE OR REPLACE FUNCTION noshi.reading_code(p_reading bigint, p_worker bigint, p_take integer)
 RETURNS TABLE(state jsonb, args jsonb, remembered double precision, key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return query
        with j as (
            select o.state, o.args from job o where r.kind = 'code' and o.kind = 'gift_issuance' and o.key = r.subject and o.at = 'issued'
            union all
            select s.job -> 'state', s.job -> 'args' from tombstone t join archived_job s on s.id = t.id
            where r.kind = 'code' and t.kind = 'gift_issuance' and t.key = r.subject and t.at = 'issued')
        select j.state, j.args,
            extract(epoch from t.started_at - clock_timestamp())::float8 + (j.state -> 'trade' -> 'contract' ->> 'horizon_seconds')::float8,
            s.key_id, s.nonce, s.ciphertext
        from j join gift_trade t on t.id = j.state -> 'trade' ->> 'id'
        left join noshi_sealed.sealed s on s.what = 'gift_code' and s.subject = t.id limit 1;
end $function$;

CREATE OR REPLACE FUNCTION noshi.reading_recipients(p_reading bigint, p_worker bigint, p_take integer, p_from integer, p_to integer)
 RETURNS TABLE(row_no integer, grant_id text, key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r reading := held_reading(p_reading, p_worker, p_take, false);
begin
    return query select n.row_no, s.grant_id, s.key_id, s.nonce, s.ciphertext from generate_series(p_from, p_to) n(row_no)
        join noshi_sealed.sealed s on s.what in ('recipient', 'contact') and s.subject = r.subject || '/' || n.row_no
        where r.kind = 'check' order by 1;
end $function$;

CREATE OR REPLACE FUNCTION noshi.readings_open()
 RETURNS TABLE(asked_by text, waiting bigint, taken bigint, oldest double precision)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select r.asked_by, count(*) filter (where r.worker is null), count(*) filter (where r.worker is not null),
        extract(epoch from clock_timestamp() - min(r.asked_at))::float8
    from reading r where r.ended_at is null and r.deadline > clock_timestamp() group by r.asked_by order by 4 desc
$function$;

CREATE OR REPLACE FUNCTION noshi.reason_given(p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'reason: an act on a schedule needs one' using errcode = 'NS400';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.receive_batch(p_kind text, p_mode text, p_digest bytea, p_file text, p_encoding text, p_campaign text, p_mails boolean, p_issues boolean)
 RETURNS TABLE(batch bigint, is_new boolean, submitted_by text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare b batch;
begin
    perform noshi.must('enqueue');
    perform must_be_named(p_file, p_campaign);
    select * into b from batch o where o.kind = p_kind and o.digest = p_digest and o.released_at is not null and o.cancelled_at is null;
    if not found then
        insert into batch (kind, mode, digest, file, encoding, campaign, mails, issues)
        values (p_kind, p_mode, p_digest, p_file, p_encoding, p_campaign, p_mails, p_issues)
        on conflict do nothing returning * into b;
        if found then
            perform batch_log(b.id, 'receive');
            return query select b.id, true, b.submitted_by;
            return;
        end if;
        select * into strict b from batch o
        where o.kind = p_kind and o.digest = p_digest and o.submitted_by = who() and o.invalid_at is null and o.cancelled_at is null;
    end if;
    if b.mode <> p_mode or b.encoding <> p_encoding or b.campaign is distinct from p_campaign or b.mails <> p_mails or b.issues <> p_issues then
        raise exception 'this file is batch % already, with other options (mode %, campaign %, mails %, issues %)',
            b.id, b.mode, coalesce(b.campaign, 'none'), b.mails, b.issues using errcode = 'NS409',
            hint = 'Cancel that batch first, if nothing of it was released.';
    end if;
    return query select b.id, false, b.submitted_by;
end $function$;

CREATE OR REPLACE FUNCTION noshi.record(p_act text, p_target text, p_reason text, p_before jsonb DEFAULT NULL::jsonb, p_after jsonb DEFAULT NULL::jsonb, p_who text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select noshi.must_be_seen($3);
    insert into audit (who, token, act, target, reason, before, after)
    select coalesce($6, noshi.who()), case when $6 is null then (select t.id from noshi.shown_token() t) end, $1, $2, $3, $4, $5;
    select pg_notify('noshi_act', '') where current_setting('max_prepared_transactions') <> '0';
    select set_config('idle_in_transaction_session_timeout', '10s', true);
$function$;

CREATE OR REPLACE FUNCTION noshi.record_email_event(p_id text, p_job bigint, p_event text, p_message text, p_happened_at timestamp with time zone, p_detail text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    insert into email_event (id, job, event, message, happened_at, detail)
    values (p_id, coalesce((select j.id from job j where j.id = p_job and j.kind = 'email'), (select t.id from tombstone t where t.id = p_job and t.kind = 'email')), p_event, p_message, p_happened_at, p_detail)
    on conflict do nothing;
    if not found then
        return false;
    end if;
    update job set run_at = clock_timestamp()
    where id = p_job and kind = 'email' and at = 'waiting' and status = 'scheduled' and run_at > clock_timestamp();
    if found then
        perform pg_notify('noshi', '');
    end if;
    return true;
end $function$;

CREATE OR REPLACE FUNCTION noshi.record_email_event(p_id text, p_job bigint, p_mark text, p_foreign boolean, p_unread boolean, p_event text, p_message text, p_happened_at timestamp with time zone, p_detail text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    ours boolean := false;
    alien boolean := p_foreign;
begin
    if p_job is not null and not alien then
        perform from job j where j.id = p_job and j.kind = 'email' and p_mark is null for no key update;
        select coalesce(p_mark = mail_mark(m.id, m.key, m.created_at), false) or (p_mark is null and p_message is not null and p_message = m.message),
               p_mark is not null and p_mark <> mail_mark(m.id, m.key, m.created_at)
            or p_mark is null and m.message is not null and p_message is distinct from m.message
        into ours, alien
        from (select j.id, j.key, j.created_at, j.state ->> 'message' as message from job j where j.id = p_job and j.kind = 'email'
              union all
              select t.id, t.key, t.created_at, (select coalesce((select y.job -> 'state' ->> 'message' from archived_job y where y.id = t.id),
                  (select e.message from email_event e where e.job = t.id and e.oddity is null and e.message is not null order by e.received_at limit 1))) from tombstone t where t.id = p_job and t.kind = 'email') m;
        if not found then
            ours := false;
            alien := p_mark is not null;
        end if;
    end if;
    insert into email_event (id, job, event, message, happened_at, detail, oddity, awaits)
    values (p_id, case when ours then p_job end, p_event, p_message, p_happened_at, cut(p_detail, 4000),
        case when alien then 'foreign' when p_unread or (p_job is not null and not ours) then 'unread' end,
        case when ours is not true and not alien and p_mark is null and p_message is not null then p_job end)
    on conflict do nothing;
    if not found then
        return 'again';
    end if;
    if ours then
        update job set run_at = clock_timestamp()
        where id = p_job and kind = 'email' and at = 'waiting' and status = 'scheduled' and run_at > clock_timestamp();
        if found then
            perform pg_notify('noshi', '');
        end if;
    end if;
    return case when alien then 'foreign' when ours then 'ours' else 'other' end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.redrive_answers(p_redrive bigint)
 RETURNS TABLE(unanswered bigint, bad bigint[])
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select count(*) filter (where j.requested_act is not null or j.status not in ('needs_operator', 'completed', 'failed', 'cancelled')),
           array_agg(w.job order by w.n) filter (where j.requested_act is null and (j.status = 'needs_operator' or (j.status = 'failed' and w.act = 'rerun')))
    from redrive_row w join job j on j.id = w.job where w.redrive = $1 and w.status = 'asked'
$function$;

CREATE OR REPLACE FUNCTION noshi.redrive_is_large(p_who text, p_jobs bigint, p_totals jsonb, p_but text DEFAULT NULL::text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    with added as (
        select jobs, currency, amount from done_alone($1, 'asked') where target is distinct from $4
        union all select $2, '', 0
        union all select 0, m.key, m.value::bigint from jsonb_each_text($3) m)
    select (select sum(jobs) from added) > c.jobs or exists (select from added where currency <> '' group by currency having sum(amount) > c.amount)
    from (select * from redrive_cap order by id desc limit 1) c
$function$;

CREATE OR REPLACE FUNCTION noshi.redrive_locked(p_redrive bigint, p_unapplied boolean, p_reason text)
 RETURNS noshi.redrive
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare r redrive;
begin
    select * into r from redrive where id = p_redrive for update;
    if not found then
        raise exception 'there is no re-drive %', p_redrive using errcode = 'NS404', hint = '`noshi redrive list` shows them.';
    end if;
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'say why: a reason is kept with every act' using errcode = 'NS400';
    end if;
    if r.cancelled_at is not null then
        raise exception 're-drive % is cancelled', r.id using errcode = 'NS409', hint = 'Plan again.';
    end if;
    if r.done_at is not null then
        raise exception 're-drive % is done: every job of it was asked', r.id using errcode = 'NS409';
    end if;
    if p_unapplied and r.applied_at is not null then
        raise exception 're-drive % was applied by % already', r.id, r.applied_by using errcode = 'NS409';
    end if;
    if p_unapplied and r.expires_at <= clock_timestamp() then
        raise exception 'the plan of re-drive % is too old to be applied: what it froze may have changed', r.id using errcode = 'NS410', hint = 'Plan again.';
    end if;
    return r;
end $function$;

CREATE OR REPLACE FUNCTION noshi.redrive_row_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if tg_op = 'DELETE' or old.status <> 'waiting' or new.status not in ('asked', 'drifted')
       or (new.redrive, new.n, new.job, new.step, new.act, new.amount, new.currency, new.lane, new.refusal)
          is distinct from (old.redrive, old.n, old.job, old.step, old.act, old.amount, old.currency, old.lane, old.refusal) then
        raise exception 'the rows of a re-drive are frozen: % refused', lower(tg_op) using errcode = 'NS001';
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.refuse_proposal(p_proposal bigint, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare p proposal;
begin
    perform must('operate');
    p := proposal_open(p_proposal, p_reason);
    update proposal set decision = 'refused', decided_by = who(), decided_at = clock_timestamp(), decision_reason = p_reason where id = p.id;
    perform record('proposal refuse', 'proposal/' || p.id, p_reason, null, jsonb_build_object('act', p.act, 'target', p.target, 'proposed_by', p.proposed_by));
end $function$;

CREATE OR REPLACE FUNCTION noshi.register_batch(p_batch bigint)
 RETURNS TABLE(code text, detail text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    b batch;
    against record;
begin
    -- Under an older snapshot what others registered meanwhile would not be seen.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a batch is registered in a transaction that is read committed' using errcode = 'NS400';
    end if;
    perform from turn where act = 'register_batch' for update;
    b := batch_locked(p_batch);
    if b.paused_at is not null then
        return query select 'paused', 'it is paused';
        return;
    end if;
    if b.registered_at is not null then
        return;
    end if;
    if b.kind = 'stores' or b.released_at is null then
        return query select 'batch_not_approved', 'it was not released';
        return;
    end if;
    select * into against from batch_hindrance(b);
    if found then
        update batch set refused_code = against.code, refused_detail = against.detail where id = b.id;
        perform batch_log(b.id, 'refuse', against.code, against.detail);
        return query select against.code, against.detail;
        return;
    end if;
    update batch set registered_at = clock_timestamp(), refused_code = null, refused_detail = null where id = b.id;
    perform count_batch(b, null);
    perform batch_log(b.id, 'register');
end $function$;

CREATE OR REPLACE FUNCTION noshi.release_batch(p_batch bigint, p_reason text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    b batch := batch_locked(p_batch);
    against record;
begin
    perform noshi.must('operate');
    if b.released_at is not null then
        return;
    end if;
    perform in_turn(t.turn) from (
        select noshi.who() as turn where b.kind <> 'stores'
        union select 'stores of ' || w from unnest(array[b.submitted_by, noshi.who()]) w where b.kind = 'stores' order by 1) t;
    select * into against from batch_hindrance(b);
    if found then
        raise exception 'batch % may not be released (%): %', b.id, against.code, against.detail using errcode = 'NS403';
    end if;
    begin
        update batch set released_by = noshi.who(), released_at = clock_timestamp() where id = b.id;
    exception when unique_violation then
        raise exception 'the file of batch % was let go already, as another batch', b.id using errcode = 'NS409',
            hint = 'Nothing was granted by this one. Cancel it: the other grants the same rows.';
    end;
    perform count_batch(b, noshi.who());
    perform batch_log(b.id, 'release', null, p_reason);
    insert into job (kind, key, fingerprint, args, batch, row_no, rank)
    select 'store_creation', r.key, sha256(convert_to(r.args::text, 'UTF8')), r.args, b.id, r.row_no,
           (select vtime from lane where name = '') + r.row_no
    from batch_row r where r.batch = b.id and b.kind = 'stores' order by r.key;
    perform guard_request(j.kind, j.key, j.args, j.batch) from job j where j.batch = b.id order by j.row_no;
    perform admit(array(select id from job j where j.batch = b.id));
    if b.kind = 'stores' and (select count(*) from job j where j.batch = b.id) <> b.rows then
        raise exception 'rows of batch % were asked for before, and are over', b.id using errcode = 'NS409';
    end if;
    insert into job (kind, key, fingerprint, args)
    select 'bulk_grants', 'batch/' || b.id, sha256(convert_to(a.args::text, 'UTF8')), a.args
    from (select jsonb_build_object('batch', b.id) as args) a where b.kind <> 'stores';
    perform pg_notify('noshi', '');
end $function$;

CREATE OR REPLACE FUNCTION noshi.remove_schedule(p_name text, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare was schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    was := schedule_locked(p_name);
    delete from schedule o where o.name = p_name;
    perform record('schedule remove', 'schedule/' || p_name, p_reason, schedule_facts(was) || jsonb_build_object('fired', was.fired, 'skipped', was.skipped));
end $function$;

CREATE OR REPLACE FUNCTION noshi.report_clock(p_worker bigint, p_ahead double precision, p_bound double precision)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare agree boolean;
begin
    update worker set clock_ahead = p_ahead where id = p_worker and abs(coalesce(clock_ahead, 1e9) - p_ahead) > 0.5;
    select count(*) filter (where abs(w.clock_ahead) <= p_bound) * 2 >= count(*) into agree
    from worker w where w.dead_at is null and w.stopped_at is null and w.clock_ahead is not null;
    return agree;
end $function$;

CREATE OR REPLACE FUNCTION noshi.request_fault(p_kind text, p_key text, p_args jsonb)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
AS $function$
begin
    return coalesce('id: ' || noshi.id_fault(p_key, 200), noshi.args_fault(p_kind, p_args), noshi.own_fault(p_kind, p_key, p_args));
end $function$;

CREATE OR REPLACE FUNCTION noshi.rerun_batch(p_batch bigint, p_reason text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    b batch;
    asked integer;
begin
    perform must('operate');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400';
    end if;
    b := batch_locked(p_batch);
    if b.cancelled_at is not null then
        raise exception 'batch % was cancelled', b.id using errcode = 'NS409', hint = 'Submit its rows again; a row whose gift or store was asked for needs a new id.';
    end if;
    if b.paused_at is not null then
        raise exception 'batch % is paused', b.id using errcode = 'NS409', hint = 'Resume it first.';
    end if;
    select count(coalesce(ask(j.id, j.step, 'rerun', p_reason), 0)) into asked from job j
    where j.status = 'failed' and j.requested_act is null and reruns(j.kind) and not j.in_doubt
      and (j.batch = b.id or (j.kind = 'bulk_grants' and j.key = 'batch/' || b.id));
    if asked > 0 then
        update batch set settled_at = null, totals = null, counted_at = null, refused_code = null, refused_detail = null where id = b.id;
        perform batch_log(b.id, 'rerun', null, p_reason);
    end if;
    return asked;
end $function$;

CREATE OR REPLACE FUNCTION noshi.reruns(p_kind text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$ select p_kind in ('bulk_grants', 'email', 'point_exchange', 'point_grant', 'store_creation') $function$;

CREATE OR REPLACE FUNCTION noshi.resume_batch(p_batch bigint, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    b batch := batch_locked(p_batch);
    against record;
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400';
    end if;
    perform noshi.must('operate');
    if b.paused_at is null then
        raise exception 'batch % is not paused', b.id using errcode = 'NS409';
    end if;
    if b.kind = 'stores' and exists (select from job j where j.batch = b.id and j.status = 'scheduled' and j.run_at = 'infinity') then
        perform in_turn(t.turn) from (select distinct 'stores of ' || w as turn from unnest(array[b.submitted_by, b.released_by, who()]) w order by 1) t;
        select * into against from batch_hindrance(b);
        if found then
            raise exception 'batch % may not go on (%): %', b.id, against.code, against.detail using errcode = 'NS403',
                hint = 'Nothing was changed: its rows stay set aside. Another person approves it (`noshi batch approve`), then resume it; or cancel it.';
        end if;
        perform count_batch(b, who());
    end if;
    update batch set paused_at = null, paused_code = null where id = b.id;
    perform batch_log(b.id, 'resume', b.paused_code, p_reason);
    update job set status = 'available', run_at = clock_timestamp(), waited = least(waited + greatest(clock_timestamp() - greatest(b.paused_at, entered_at), '0'), '1000 years')
    where batch = b.id and status = 'scheduled' and run_at = 'infinity';
    perform pg_notify('noshi', '');
end $function$;

CREATE OR REPLACE FUNCTION noshi.resume_lane(p_lane text, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare was jsonb;
begin
    perform must('operate');
    perform say_why(p_reason);
    was := lane_steered(p_lane);
    update lane_order set no = no + 1, opened = no + 1, paused = false where lane = p_lane;
    perform record('lane resume', 'lane/' || p_lane, p_reason, was, jsonb_build_object('paused', false));
    perform pg_notify('noshi', '');
end $function$;

CREATE OR REPLACE FUNCTION noshi.resume_redrive(p_redrive bigint, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    r redrive;
    w record;
begin
    perform must('operate');
    perform in_turn(who());
    r := redrive_locked(p_redrive, false, p_reason);
    if r.paused_at is null then
        raise exception 're-drive % is not paused', r.id using errcode = 'NS409';
    end if;
    if r.approved_by is null then
        for w in select distinct u.who from unnest(array[r.applied_by, who()]) as u(who) order by 1 loop
            if redrive_is_large(w.who, r.jobs, r.totals, 'redrive/' || r.id) then
                raise exception 're-drive % may not go on: with what % asked for alone in the last 24 hours it is too large for one person', r.id, w.who using errcode = 'NS403',
                    hint = 'Nothing was changed, and no further job is asked. Resume it later; or cancel it and plan its jobs again, which a second person approves.';
            end if;
            perform count_redrive(w.who, r.id, r.jobs, r.totals);
        end loop;
    end if;
    update redrive set paused_at = null, paused_code = null, paused_detail = null, next_at = clock_timestamp(),
        canary_at = case when r.paused_code = 'canary' then clock_timestamp() else canary_at end
    where id = r.id;
    perform record('redrive resume', 'redrive/' || r.id, p_reason, jsonb_build_object('paused', r.paused_code));
end $function$;

CREATE OR REPLACE FUNCTION noshi.resume_schedule(p_name text, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare was schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    was := schedule_locked(p_name);
    update schedule o set paused_by = null, paused_at = null, paused_reason = null, stuck = null where o.name = p_name;
    perform record('schedule resume', 'schedule/' || p_name, p_reason, schedule_facts(was), jsonb_build_object('paused', false));
    perform pg_notify('noshi', 'schedule');
end $function$;

CREATE OR REPLACE FUNCTION noshi.return_points(p_job bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    a jsonb := running_job(p_job, 'point_reversal');
    gift constant text := 'exchange/' || (a ->> 'exchange');
    returned record;
begin
    -- The gift asked for this in the commit that ended it, and a gift that ended so never begins again.
    if (not exists (select from job g where g.kind = 'gift_issuance' and g.key = gift and g.status = 'failed')
        and not exists (select from tombstone g where g.kind = 'gift_issuance' and g.key = gift and g.status = 'failed')) or live_gift(gift) is not null then
        return null;
    end if;
    select * into strict returned from book_reversal(clock_timestamp(), 'reverse:' || (a ->> 'exchange'), 'use:' || (a ->> 'exchange'),
        make_interval(days => coalesce((a ->> 'grace_days')::integer, 0)), p_job);
    return case when returned.outcome in ('posted', 'replayed') then returned.entry end;
end $function$;

CREATE OR REPLACE FUNCTION noshi.reveal_gift(p_grant text, p_user text, p_reason text)
 RETURNS TABLE(state jsonb, args jsonb, remembered double precision, key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    j record;
    trade text;
begin
    perform must('reveal');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'to reveal a gift needs a reason' using errcode = 'NS400';
    end if;
    select o.at, o.status::text, o.undo is not null as unwinding, o.requested_act, o.args, o.state into j
    from job o where o.kind = 'gift_issuance' and o.key = p_grant for share;
    if not found then
        select t.at, t.status::text, nullif(s.job -> 'undo', 'null') is not null as unwinding, null::text as requested_act,
               coalesce(s.job -> 'args', jsonb_build_object('user', t.about)) as args, s.job -> 'state' as state into j
        from tombstone t left join archived_job s on s.id = t.id where t.kind = 'gift_issuance' and t.key = p_grant;
    end if;
    if not found or j.args ->> 'user' is distinct from p_user then
        raise exception 'this user has no gift of grant %', p_grant using errcode = 'NS404';
    end if;
    if j.at <> 'issued' or j.status <> 'completed' or j.unwinding or j.requested_act is not null then
        raise exception 'the gift of grant % is not issued (it is % at %)', p_grant, j.status, j.at using errcode = 'NS409';
    end if;
    if j.state is null then
        raise exception 'the gift of grant % is so old that its journal is no longer kept', p_grant using errcode = 'NS410';
    end if;
    trade := j.state -> 'trade' ->> 'id';
    perform record('reveal', 'gift/' || p_grant, p_reason, null, jsonb_build_object('user', p_user, 'trade', trade));
    return query select j.state, j.args,
        extract(epoch from t.started_at - clock_timestamp())::float8 + (j.state -> 'trade' -> 'contract' ->> 'horizon_seconds')::float8,
        s.key_id, s.nonce, s.ciphertext
        from gift_trade t left join noshi_sealed.sealed s on s.what = 'gift_code' and s.subject = t.id
        where t.id = trade;
end $function$;

CREATE OR REPLACE FUNCTION noshi.reveals_counted()
 RETURNS TABLE(who text, codes integer, most integer)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select a.who, a.codes, max_codes(a.who) from asker a
    where a.codes_from > clock_timestamp() - interval '1 hour' and a.codes >= greatest(1, max_codes(a.who) * 0.8) order by 1
$function$;

CREATE OR REPLACE FUNCTION noshi.revoke_token(p_id text, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare t token;
begin
    perform say_why(p_reason);
    select * into t from token where id = p_id;
    if found and t.owner <> who() and person(t.created_by) <> person(session_user) and not pg_has_role(session_user, 'noshi_owner', 'member') then
        raise exception 'token % is %''s', p_id, t.owner using errcode = 'NS403',
            hint = 'Nothing was changed. Its owner revokes it, or the login that made it, or the one that owns the schema.';
    end if;
    update token set revoked_at = clock_timestamp(), revoked_by = who() where id = p_id and revoked_at is null;
    if not found then
        raise exception 'there is no token % to revoke', p_id using errcode = 'NS404';
    end if;
    perform record('token revoke', 'token/' || p_id, p_reason);
end $function$;

CREATE OR REPLACE FUNCTION noshi.revoked_code(p_kind text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select case p_kind when 'gift_issuance' then 'gift_revoked' when 'email' then 'mail_revoked' when 'store_creation' then 'store_revoked'
                       when 'point_grant' then 'points_revoked' end
$function$;

CREATE OR REPLACE FUNCTION noshi.ring_for(p_worker bigint, p_rings boolean)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
begin
    if not exists (select from worker w where w.id = p_worker and w.login = session_user) then
        raise exception 'worker % is of another login, or there is none', p_worker using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    if p_rings then
        insert into bell (worker, until) values (p_worker, clock_timestamp() + interval '10 seconds')
        on conflict (worker) do update set until = excluded.until;
    else
        delete from bell b where b.worker = p_worker or b.until < clock_timestamp() - interval '1 minute';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.row_goes_on(b noshi.batch, p_key text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select (exists (select from job j where j.kind = k.kind and j.key = p_key and j.status <> 'cancelled')
            or exists (select from tombstone t where t.kind = k.kind and t.key = p_key and t.status <> 'cancelled'))
        and not exists (select from batch_row o join batch ob on ob.id = o.batch
            where o.key = p_key and ob.kind = b.kind and ob.registered_at > b.registered_at)
    from (select case b.kind when 'points' then 'point_grant' when 'grants' then 'gift_issuance' else 'store_creation' end as kind) k
$function$;

CREATE OR REPLACE FUNCTION noshi.rows_otherwise(p_batch bigint, p_rows integer[], p_keys text[], p_args jsonb[])
 RETURNS TABLE(row_no integer, granted text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select f.row_no, coalesce(concat_ws(' ', r.key, nullif(r.user_id, ''), r.args ->> 'category', r.amount, r.currency), 'nothing')
    from batch b cross join unnest(p_rows, p_keys, p_args) f(row_no, key, args) left join batch_row r on r.batch = b.id and r.row_no = f.row_no
    where b.id = p_batch and (r.key is distinct from f.key or (case b.kind
        when 'grants' then asked_for('gift_issuance', r.args) is distinct from asked_for('gift_issuance', f.args)
        when 'points' then asked_for('point_grant', r.args) is distinct from asked_for('point_grant', f.args)
        else jsonb_strip_nulls(r.args - 'contact') is distinct from jsonb_strip_nulls(f.args - 'contact') end))
$function$;

CREATE OR REPLACE FUNCTION noshi.running_job(p_job bigint, p_kind text)
 RETURNS jsonb
 LANGUAGE sql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    -- Held by the transaction: the job cannot end beside it. Null where it has ended: whoever asks then has lost its lease, and its settle
    -- will be told so.
    select args from job where id = $1 and kind = $2 and status = 'running' for share
$function$;

CREATE OR REPLACE FUNCTION noshi.say_why(p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'an act needs a reason' using errcode = 'NS400', hint = 'Nothing was changed. Say why: it is kept with the act.';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.schedule_facts(s noshi.schedule)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select to_jsonb($1) - array['name', 'created_by', 'created_at', 'changed_by', 'changed_at', 'fired', 'skipped', 'last_job']
$function$;

CREATE OR REPLACE FUNCTION noshi.schedule_locked(p_name text)
 RETURNS noshi.schedule
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare s schedule;
begin
    select * into s from schedule where name = p_name for update;
    if not found then
        raise exception 'there is no schedule %', quote_literal(p_name) using errcode = 'NS404', hint = '`noshi schedule list` shows them.';
    end if;
    return s;
end $function$;

CREATE OR REPLACE FUNCTION noshi.sealed_contacts(p_job bigint, p_worker bigint)
 RETURNS TABLE(subject text, key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select s.subject, s.key_id, s.nonce, s.ciphertext
    from job j join noshi_sealed.sealed s on s.what = 'contact' and s.grant_id = j.args ->> 'public_id'
        and s.subject in (j.args ->> 'contact', (select t.contact from store t where t.public_id = j.args ->> 'public_id'))
    where j.id = p_job and j.kind = 'store_creation' and j.status = 'running' and j.worker = p_worker
      and exists (select from worker w where w.id = p_worker and w.dead_at is null and coalesce(w.login, session_user) = session_user)
      and exists (select from job_event e where e.job = j.id and e.lease = j.lease and e.worker = p_worker and e.event = 'claimed')
$function$;

CREATE OR REPLACE FUNCTION noshi.sealed_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if pg_has_role(session_user, 'noshi_owner', 'member') then
        return null;
    end if;
    perform from batch b where b.id in (select split_part(subject, '/', 1)::bigint from new_rows where what in ('file', 'recipient', 'contact') and subject ~ '^[0-9]{1,18}/') order by b.id for share;
    if exists (select from (select distinct what, split_part(subject, '/', 1) as batch from new_rows where what <> 'gift_code') n where not case
            when n.what = 'suppressed' then pg_has_role(session_user, 'noshi_webhook', 'member')
            else exists (
                select from batch b where b.id::text = n.batch and b.submitted_by = who() and b.validated_at is null and b.invalid_at is null and b.cancelled_at is null) end) then
        raise exception 'sealed values are taken with a batch that is being received, from whoever submits it' using errcode = 'NS403';
    end if;
    if exists (select from new_rows n where n.what = 'gift_code' and not exists (
            select from gift_trade t where t.id = n.subject and (t.grant_id, t.provider) = (n.grant_id, n.provider) and is_at_work(t.job))) then
        raise exception 'a code is taken with its gift, from the worker that issues it' using errcode = 'NS403';
    end if;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.sealed_keys()
 RETURNS SETOF text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    with recursive k as (
        select min(key_id) as id from noshi_sealed.sealed
        union all
        select (select min(key_id) from noshi_sealed.sealed where key_id > k.id) from k where k.id is not null)
    select id from k where id is not null
$function$;

CREATE OR REPLACE FUNCTION noshi.sealed_recipient(p_job bigint, p_worker bigint)
 RETURNS TABLE(grant_id text, key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select s.grant_id, s.key_id, s.nonce, s.ciphertext
    from job j join noshi_sealed.sealed s on s.what = 'recipient' and s.subject = j.args ->> 'recipient' and s.grant_id = j.args ->> 'reference'
    where j.id = p_job and j.kind = 'email' and j.status = 'running' and j.worker = p_worker
      and exists (select from worker w where w.id = p_worker and w.dead_at is null and coalesce(w.login, session_user) = session_user)
      and exists (select from job_event e where e.job = j.id and e.lease = j.lease and e.worker = p_worker and e.event = 'claimed')
$function$;

CREATE OR REPLACE FUNCTION noshi.see_clock(p_lease interval, p_trusted boolean)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    clock constant timestamptz := clock_timestamp();
    every constant interval := least(interval '1 second', p_lease / 10);
    s server_seen;
begin
    select * into s from server_seen;
    -- Once a second for the whole fleet, or as often as the lease time asks for.
    if clock >= s.clock_at + every or (p_trusted and clock >= s.trusted_at + every) or s.trusted_at > clock + interval '10 seconds' then
        select * into s from server_seen for update;
        update server_seen set
            seen_at = case when s.clock_at > '-infinity' and clock > s.clock_at + p_lease * 0.6 then clock else seen_at end,
            clock_at = greatest(clock_at, clock),
            trusted_at = case when p_trusted then clock else trusted_at end;
    end if;
    perform obey_orders();
end $function$;

CREATE OR REPLACE FUNCTION noshi.see_server()
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    s server_seen;
    here text := timeline();
    waits boolean := current_setting('synchronous_standby_names') <> '';
begin
    select * into s from server_seen;
    if s.server <> server() or (s.timeline = here and s.synchronous <> waits) then
        select * into s from server_seen for update;
        update server_seen set server = server(), synchronous = case when timeline = here then waits else synchronous end,
            seen_at = case when server <> server() then clock_timestamp() else seen_at end;
    end if;
    if s.timeline <> here then
        insert into failover (timeline, was, known_to)
        select here, s.timeline, least(clock_timestamp(), greatest(s.seen_at, max(w.seen_at))) from worker w where w.timeline <> here
        on conflict do nothing;
    end if;
    return s.timeline <> here;
end $function$;

CREATE OR REPLACE FUNCTION noshi.server()
 RETURNS text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select timeline() || ' ' || extract(epoch from pg_postmaster_start_time())
$function$;

CREATE OR REPLACE FUNCTION noshi.session(p_used boolean)
 RETURNS TABLE(id text, owner text, scopes text[], begun_at timestamp with time zone, ends_at timestamp with time zone)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if p_used then
        perform use_token();
    end if;
    return query select s.id, s.owner, s.scopes, s.created_at, s.expires_at from shown_token() s where s.parent is not null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.session_holds(p_parent text, p_last_used_at timestamp with time zone)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    select $1 is null or $2 > clock_timestamp() - interval '30 minutes' and exists (select from token p where p.id = $1
        and p.revoked_at is null and p.expires_at > clock_timestamp() and is_theirs(p.login, p.owner, p.as_operator))
$function$;

CREATE OR REPLACE FUNCTION noshi.set_lane(p_lane text, p_per interval, p_max integer, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    was jsonb;
    declared integer;
    as_kept interval;
    max_before integer;
begin
    perform must('operate');
    perform say_why(p_reason);
    was := lane_steered(p_lane);
    -- As the budget has it: equal spans are written in many ways.
    select b.declared_calls, b.per into declared, as_kept from lane_budget b where b.lane = p_lane and b.per = p_per;
    if not found then
        raise exception 'the lane % has no budget per %', quote_literal(p_lane), p_per using errcode = 'NS404';
    end if;
    p_per := as_kept;
    if p_max > declared then
        raise exception 'the settings declare % calls per % for %; more is for them to say', declared, p_per, quote_literal(p_lane) using errcode = 'NS403';
    end if;
    if p_max < 1 then
        raise exception 'a budget is one call or more' using errcode = 'NS400', hint = 'To stop a lane, pause it.';
    end if;
    select m.most into max_before from lane_limit m where m.lane = p_lane and m.per = p_per;
    insert into lane_limit values (p_lane, p_per, p_max) on conflict (lane, per) do update set most = excluded.most;
    update lane_order set no = no + 1, paused = (was ->> 'paused')::boolean where lane = p_lane;
    perform record('lane set', 'lane/' || p_lane, p_reason, jsonb_build_object('per', p_per, 'calls', least(declared, max_before)),
        jsonb_build_object('per', p_per, 'calls', coalesce(p_max, declared)));
end $function$;

CREATE OR REPLACE FUNCTION noshi.set_retention(p_jobs_for interval, p_archive_for interval, p_every interval, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    was retention;
    kept interval;
    shorter boolean;
begin
    perform must('operate');
    if coalesce(p_reason, '') !~ '[^[:space:]]' then
        raise exception 'a change of the retention needs a reason' using errcode = 'NS400';
    end if;
    if not (lasts(p_jobs_for, '1 day', '100 years') is not false and lasts(p_archive_for, '90 days', '100 years') is not false and lasts(p_every, '1 second', '100 years') is not false) then
        raise exception 'jobs are kept for a day at least, and archived jobs for 90 days; nothing for more than 100 years, nor with a negative part' using errcode = 'NS400',
            hint = 'Nothing was changed. A month counts as 28 of its days where it must not be too short: say it in days.';
    end if;
    select * into strict was from retention for update;
    if p_archive_for is not null then
        kept := archive_kept(was);
        shorter := clock_timestamp() - p_archive_for > clock_timestamp() - kept;
        update retention set archive_was = case when shorter then kept end, shortened_at = case when shorter then clock_timestamp() end;
    end if;
    update retention set jobs_for = coalesce(p_jobs_for, jobs_for), archive_for = coalesce(p_archive_for, archive_for), every = coalesce(p_every, every);
    perform record('retention', 'jobs', p_reason, to_jsonb(was) - 'one' - 'begun_at', (select to_jsonb(r) - 'one' - 'begun_at' from retention r));
end $function$;

CREATE OR REPLACE FUNCTION noshi.set_schedule(p_name text, p_kind text, p_key text, p_args jsonb, p_priority smallint, p_cron text, p_zone text, p_missed text, p_next timestamp with time zone, p_reason text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    was schedule;
    s schedule;
begin
    perform must('operate');
    perform reason_given(p_reason);
    if octet_length(p_cron) > 200 then
        raise exception 'cron: an expression has at most 200 bytes' using errcode = 'NS400', column = 'cron';
    end if;
    if is_zone(p_zone) is not true then
        raise exception 'zone: % is no time zone', coalesce(quote_literal(left(p_zone, 100)), 'null') using errcode = 'NS400', column = 'zone',
            hint = 'Nothing was changed. It is a name such as Asia/Tokyo.';
    end if;
    if octet_length(p_args::text) > 65536 then
        raise exception 'args: the arguments are larger than 64 KiB' using errcode = 'NS400', column = 'args', hint = 'Nothing was changed.';
    end if;
    if coalesce(p_name, '') !~ '^[a-z0-9][a-z0-9_.-]{0,62}$' then
        raise exception 'name: % is no name of a schedule', coalesce(quote_literal(p_name), 'null') using errcode = 'NS400',
            hint = 'Small letters, digits, and _ . - such as point-expiry.';
    end if;
    if not exists (select from schedule_kind k where k.kind = p_kind) then
        raise exception 'kind: jobs of the kind % are not for schedules', quote_nullable(p_kind) using errcode = 'NS403',
            hint = format('These are: %s. What gives value comes from producers or in batches; the schema''s owner may add a kind to noshi.schedule_kind.',
                (select string_agg(k.kind, ', ' order by k.kind) from schedule_kind k));
    end if;
    perform kind_guard(p_kind);
    if p_kind = 'probe' and coalesce(p_args ->> 'lane', 'probe') !~ '^probe(/|$)' then
        raise exception 'args.lane: the lane of a probe is probe, or begins with probe/' using errcode = 'NS400', column = 'args.lane';
    end if;
    if p_args ? 'contact' then
        raise exception 'args.contact: a schedule keeps nothing that is sealed' using errcode = 'NS400', column = 'args.contact';
    end if;
    if coalesce(strpos(p_key, '{due}'), 0) = 0 then
        raise exception 'args: without {due} two due times would be one job' using errcode = 'NS400';
    end if;
    if strpos(p_args ->> 'due', '{due}') > 0 and p_args ->> 'due' <> '{due}' then
        raise exception 'args.due: a due time is {due}, with nothing before or behind it' using errcode = 'NS400', column = 'args.due';
    end if;
    if p_next > clock_timestamp() + interval '100 years' then
        raise exception 'the next due time is over a hundred years away: %', p_next using errcode = 'NS400';
    end if;
    if p_priority is null or p_priority not in (0, 1) or coalesce(p_missed, '') not in ('every', 'latest', 'none') then
        raise exception 'priority is 0 or 1, and missed is every, latest or none' using errcode = 'NS400';
    end if;
    if p_next is null or p_next < clock_timestamp() - interval '1 minute' then
        raise exception 'the next due time lies in the past: %', coalesce(p_next::text, 'null') using errcode = 'NS400', hint = 'Try again.';
    end if;
    if coalesce(noshi.id_fault(replace(p_key, '{due}', instant(p_next)), 200),
                noshi.args_fault(p_kind, replace(p_args::text, '{due}', instant(p_next))::jsonb)) is not null then
        raise exception '%', coalesce('args: as an id, ' || noshi.id_fault(replace(p_key, '{due}', instant(p_next)), 200),
            noshi.args_fault(p_kind, replace(p_args::text, '{due}', instant(p_next))::jsonb)) using errcode = 'NS400';
    end if;
    insert into schedule (name, kind, key, args, priority, cron, zone, missed, next_due)
    values (p_name, p_kind, p_key, p_args, p_priority, p_cron, p_zone, p_missed, p_next)
    on conflict (name) do nothing returning * into s;
    if not found then
        was := schedule_locked(p_name);
        update schedule o set kind = p_kind, key = p_key, args = p_args, priority = p_priority, cron = p_cron, zone = p_zone, missed = p_missed,
            next_due = case when (o.cron, o.zone) = (p_cron, p_zone) then o.next_due else p_next end,
            stuck = null, changed_by = who(), changed_at = clock_timestamp()
        where o.name = p_name returning * into s;
    end if;
    perform record('schedule set', 'schedule/' || p_name, p_reason, case when was.name is not null then schedule_facts(was) end, schedule_facts(s));
    perform pg_notify('noshi', 'schedule');
    return was.name is null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.shown_token()
 RETURNS SETOF noshi.token
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare shown text := coalesce(current_setting('noshi.token', true), '');
begin
    if shown = '' then
        return;
    end if;
    if not coalesce((select r.rolsuper from pg_roles r where r.rolname = session_user), false)
        and (not pg_has_role(session_user, 'noshi_api', 'member') or pg_has_role(session_user, 'noshi_operator', 'member') or pg_has_role(session_user, 'noshi_producer', 'member')) then
        raise exception 'tokens are shown to the HTTP interface, and by its login alone' using errcode = 'NS401';
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'tokens are shown in read committed' using errcode = 'NS401', hint = 'An older snapshot does not see that one was revoked.';
    end if;
    return query select t.* from token t
        where t.id = split_part(shown, '.', 1) and shown ~ '^[a-z0-9]{12}[.][0-9a-f]{64}$'
          and t.digest = sha256(decode(split_part(shown, '.', 2), 'hex'))
          and t.revoked_at is null and t.expires_at > clock_timestamp() and is_theirs(t.login, t.owner, t.as_operator)
          and session_holds(t.parent, t.last_used_at);
    if not found then
        raise exception 'this token is unknown, expired or revoked' using errcode = 'NS401';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.span(p_span interval, p_month integer)
 RETURNS numeric
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    select (extract(year from $1) * 12 + extract(month from $1)) * $2 * 86400 + extract(day from $1) * 86400
        + extract(hour from $1) * 3600 + extract(minute from $1) * 60 + extract(second from $1)
$function$;

CREATE OR REPLACE FUNCTION noshi.spend_token(p_lane text, p_within interval, p_late interval)
 RETURNS TABLE(closed boolean, wait double precision, jitter double precision)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare
    l lane;
    clock timestamptz;
    here text := server();
    slot interval;
    patience interval;
begin
    perform must('reveal');
    perform obey_orders(p_lane);
    select * into l from lane o where o.name = p_lane for update;
    clock := clock_timestamp();
    if not found or l.paused or coalesce(l.closed_code, 'funds') <> 'funds' or l.closed_until > clock then
        return query select true, greatest(1, coalesce(extract(epoch from l.closed_until - clock), 60))::float8, 0::float8;
        return;
    end if;
    with budget as materialized (
        select b.per, e.late, f.jitter, i.emission, p.base, p.base - (b.burst - 1) * i.emission - clock as first
        from lane_budget b
        cross join lateral (select greatest(least(p_late, '1 minute'), lateness(b.late, b.late_at, clock)) as late) e
        cross join lateral (select greatest(b.jitter, e.late) as jitter) f
        cross join lateral (select (b.per + f.jitter) / (b.calls - b.burst + 1) as emission) i
        cross join lateral (select greatest(b.tat, clock, case when l.server not in ('', here)
            then clock + p_within + least(b.per, '1 second') end) as base) p
        where b.lane = p_lane
        for update of b),
    far as (select coalesce(max(first), '0') as first, min(b.jitter) as jitter from budget b),
    spent as (
        update lane_budget t set tat = b.base + b.emission,
            late = case when p_late > t.jitter and p_late >= b.late then b.late else t.late end,
            late_at = case when p_late > t.jitter and p_late >= b.late then clock else t.late_at end
        from budget b, far
        where t.lane = p_lane and t.per = b.per and far.first <= p_within)
    select first, far.jitter into slot, patience from far;
    if slot > p_within then
        return query select true, greatest(1, extract(epoch from slot))::float8, 0::float8;
        return;
    end if;
    update lane o set tokens = (o.tokens + 1) % 1000000000000000, server = here where o.name = p_lane;
    return query select false, greatest(0, extract(epoch from slot))::float8, coalesce(extract(epoch from patience), 3600)::float8;
end $function$;

CREATE OR REPLACE FUNCTION noshi.stick_schedule(p_name text, p_was timestamp with time zone, p_why text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$ update schedule set stuck = noshi.composed($3) where name = $1 and next_due = $2 $function$;

CREATE OR REPLACE FUNCTION noshi.still_operates(p_who text)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select exists (select from pg_roles r where person(r.rolname) = person($1) and may_log_in(r) and operates(r.oid))
        or exists (select from token t where t.owner = person($1) and 'operate' = any (t.scopes) and t.login is null
            and t.parent is null and t.revoked_at is null and t.expires_at > clock_timestamp())
$function$;

CREATE OR REPLACE FUNCTION noshi.suppress_address(p_id text, p_reason text, p_event text, p_key_id text, p_nonce bytea, p_ciphertext bytea)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    insert into suppression (id, key_id, reason, event) values (p_id, p_key_id, p_reason, p_event);
    insert into noshi_sealed.sealed (what, subject, grant_id, provider, key_id, nonce, ciphertext)
    values ('suppressed', p_id, p_id, '', p_key_id, p_nonce, p_ciphertext);
end $function$;

CREATE OR REPLACE FUNCTION noshi.take_due_schedule(p_kinds text[])
 RETURNS TABLE(name text, cron text, zone text, missed text, next_due timestamp with time zone, clock timestamp with time zone)
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select s.name, s.cron, s.zone, s.missed, s.next_due, clock_timestamp() from schedule s
    where s.paused_at is null and s.stuck is null and s.next_due <= clock_timestamp() and s.kind = any ($1)
    order by s.next_due, s.name limit 1 for update skip locked
$function$;

CREATE OR REPLACE FUNCTION noshi.take_point_turn(p_user text, p_at timestamp with time zone, p_job bigint, OUT at timestamp with time zone, OUT seq bigint, OUT balance bigint, OUT withdrawn boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
#variable_conflict use_column
declare last record;
begin
    if not clock_holds() then
        raise exception 'the server''s clock has jumped: points neither move nor expire until the fleet trusts it again' using errcode = '55000';
    end if;
    perform from point_owner o where o.user_id = p_user for update;
    if not found then
        insert into point_owner (user_id) values (p_user) on conflict do nothing;
        perform from point_owner o where o.user_id = p_user for update;
    end if;
    select e.at, e.seq, e.balance, e.kind into last from point_entry e where e.user_id = p_user order by e.seq desc limit 1;
    at := greatest(p_at, last.at);
    if last.balance > 0 and exists (select from point_lot l where l.user_id = p_user and l.open and l.expires_at <= greatest(p_at, last.at)) then
        perform book_due(array[p_user], at, null, p_job);
        select e.at, e.seq, e.balance, e.kind into last from point_entry e where e.user_id = p_user order by e.seq desc limit 1;
    end if;
    seq := coalesce(last.seq, 0);
    balance := coalesce(last.balance, 0);
    withdrawn := coalesce(last.kind = 'withdraw', false);
end $function$;

CREATE OR REPLACE FUNCTION noshi.take_reading(p_worker bigint, p_long boolean)
 RETURNS TABLE(reading bigint, take integer, kind text, subject text, public_key text, asked_by text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
declare r reading;
begin
    if not exists (select from noshi.reading) or not is_own_worker(p_worker) then
        return;
    end if;
    -- Whose asker is gone.
    delete from noshi.reading o where o.id in (
        select l.id from noshi.reading l where l.deadline < clock_timestamp() - interval '10 seconds' for update skip locked);
    select o.* into r from noshi.reading o
    where o.ended_at is null and o.deadline > clock_timestamp() and o.take - cardinality(o.left_by) < 3 and (p_long or o.kind = 'code') and p_worker <> all (o.left_by)
      and (o.worker is null or not exists (select from worker w where w.id = o.worker and w.dead_at is null and w.stopped_at is null))
      and (select count(*) from noshi.reading h where h.asked_by = o.asked_by and h.worker = p_worker and (h.kind = 'code') = (o.kind = 'code')
           and h.ended_at is null and h.deadline > clock_timestamp()) < case o.kind when 'code' then 2 else 1 end
    order by o.kind <> 'code', (select count(*) from noshi.reading h where h.asked_by = o.asked_by and h.worker is not null and h.ended_at is null),
        o.id limit 1 for update skip locked;
    if not found then
        return;
    end if;
    delete from noshi_sealed.reading_part p where p.reading = r.id;
    update noshi.reading o set worker = p_worker, take = o.take + 1 where o.id = r.id;
    return query select r.id, r.take + 1, r.kind, r.subject, r.public_key, r.asked_by;
end $function$;

CREATE OR REPLACE FUNCTION noshi.take_store_turn(p_public_id text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    perform from turn where act = 'store/' || (hashtextextended(p_public_id, 0) & 63) for update;
end $function$;

CREATE OR REPLACE FUNCTION noshi.testify(p_worker bigint, p_beats bigint, p_newest interval, p_overrun boolean, p_jobs bigint[], p_leases bigint[], p_kinds text[], p_keys text[], p_calls boolean[], p_ago interval[], p_settled bigint[], p_settled_leases bigint[], p_settled_steps integer[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
    here text := timeline();
    lost bigint;
    n bigint;
    newest timestamptz;
begin
    -- No worker remembers more (src/engine/witness.rs).
    if cardinality(p_jobs) > 100000 or cardinality(p_settled) > 1000 then
        raise exception 'worker % remembers more than a worker does', p_worker using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    -- Of a change of timeline that is there to be told of, by the login whose worker it was; a registration may be lost with the rest.
    if not pg_has_role(session_user, 'noshi_owner', 'member') and (not exists (select from failover f where f.timeline = here)
            or exists (select from worker w where w.id = p_worker and w.login is distinct from session_user)
            or exists (select from unnest(p_leases) l where l is null or l not between 1 and 1000000000)) then
        raise exception 'worker % has nothing to testify here', p_worker using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    perform wait_for_requests();
    insert into testimony
    select here, p_worker, c.job, c.lease, c.kind, c.key, c.calls, clock_timestamp() - c.ago
    from unnest(p_jobs, p_leases, p_kinds, p_keys, p_calls, p_ago) as c(job, lease, kind, key, calls, ago)
    where not exists (select from job_event e where e.job = c.job and e.lease = c.lease and e.worker = p_worker and e.event = 'claimed')
      and not exists (select from lost_call k where k.kind = c.kind and k.key = c.key and k.lease >= c.lease)
    on conflict do nothing;
    get diagnostics lost = row_count;

    insert into lost_call (kind, key, lease, called_at, timeline)
    select kind, key, max(lease), min(called_at), here from testimony t
    where t.timeline = here and t.worker = p_worker and calls group by kind, key order by kind, key
    on conflict (kind, key) do update set lease = greatest(lost_call.lease, excluded.lease),
        called_at = least(lost_call.called_at, excluded.called_at), timeline = excluded.timeline;

    -- A row that fell back to before its call is in doubt wherever it stands now; one that is over has ended without that call.
    with m as (
        select kind, key, max(lease) as lease, bool_or(calls) as calls, min(called_at) filter (where calls) as called_at
        from testimony t where t.timeline = here and t.worker = p_worker group by kind, key),
    d as (
        update job j set lease = greatest(j.lease, m.lease) + 1, in_doubt = j.in_doubt or m.calls,
            called_at = least(j.called_at, m.called_at), worker = null,
            status = case when j.status = 'running' then 'available' else j.status end,
            lane = case when m.calls and j.status <> 'needs_operator' then '' else j.lane end,
            reserved = j.reserved and not (m.calls and j.status <> 'needs_operator')
        from m where j.kind = m.kind and j.key = m.key and j.status in ('scheduled', 'available', 'running', 'retryable', 'needs_operator')
        returning j.id, j.lease, j.step, j.at, m.calls)
    insert into job_event (job, event, lease, step, became, detail)
    select id, 'timeline_changed', lease, step, at, case when calls then 'its claim for a call was lost' else 'its claim was lost' end from d;
    get diagnostics n = row_count;
    update job j set lease = m.lease + 1 from testimony m
    where m.timeline = here and m.worker = p_worker and j.id = m.job and j.lease <= m.lease and (j.kind, j.key) <> (m.kind, m.key)
      and j.status in ('scheduled', 'available', 'retryable', 'needs_operator');

    select lost + count(*) into lost
    from unnest(p_settled, p_settled_leases, p_settled_steps) as s(job, lease, step)
    where not exists (select from job_event e where e.job = s.job and e.lease = s.lease and e.step = s.step and e.worker = p_worker and e.event = 'settled');
    if not exists (select from worker w where w.id = p_worker and w.beats >= p_beats) then
        lost := lost + 1;
    end if;
    -- The newest that is here of this worker, by the database's own clock: a worker's word for it would hide a gap.
    select max(there.at) into newest from (
        select w.seen_at as at from worker w where w.id = p_worker
        union all select e.happened_at from unnest(p_settled, p_settled_leases) s(job, lease) join job_event e on e.job = s.job and e.lease = s.lease and e.worker = p_worker
        union all select e.happened_at from unnest(p_jobs, p_leases) c(job, lease) join job_event e on e.job = c.job and e.lease = c.lease and e.worker = p_worker) there;
    update failover f set missing = f.missing + lost, doubted = f.doubted + n, overrun = f.overrun or (p_overrun and lost > 0),
        -- Everything that was acknowledged to a witness is here: so is everything before it.
        known_to = case when lost = 0 and p_newest is not null
            -- Nor was anything missing when this was said before, and its answer was lost.
            and not exists (select from testimony t where t.timeline = here and t.worker = p_worker) then greatest(f.known_to, least(f.seen_at, clock_timestamp() - p_newest, newest)) else f.known_to end
    where f.timeline = here;
    update worker set timeline = here where id = p_worker;
    -- It is believed, since nobody else can know; so it is on record whose worker it was, also where it is the only one.
    if lost > 0 then
        perform record('restore loss', 'database', format('worker %s says that acknowledged writes are missing', p_worker), null,
            jsonb_build_object('timeline', here, 'missing', lost, 'in_doubt', n), session_user);
    end if;
    return lost;
end $function$;

CREATE OR REPLACE FUNCTION noshi.text_fault(p_text text, p_max integer)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET standard_conforming_strings TO 'on'
AS $function$
    select case
        when octet_length($1) > $2 then format('this has %s bytes; at most %s fit', octet_length($1), $2)
        when $1 collate "C" ~ '[\u0001-\u001f\u007f-\u009f\u061c\u200e-\u200f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufeff\ufffc-\uffff\U0001fffe-\U0001ffff\U0002fffe-\U0002ffff\U0003fffe-\U0003ffff\U0004fffe-\U0004ffff\U0005fffe-\U0005ffff\U0006fffe-\U0006ffff\U0007fffe-\U0007ffff\U0008fffe-\U0008ffff\U0009fffe-\U0009ffff\U000afffe-\U000affff\U000bfffe-\U000bffff\U000cfffe-\U000cffff\U000dfffe-\U000dffff\U000efffe-\U000effff\U000ffffe-\U000fffff\U0010fffe-\U0010ffff]' then format('this holds a control character, such as a tab, or one that no text may hold: U+%s',
            (select lpad(h, greatest(4, length(h)), '0') from upper(to_hex(ascii(substring($1 collate "C" from '[\u0001-\u001f\u007f-\u009f\u061c\u200e-\u200f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufeff\ufffc-\uffff\U0001fffe-\U0001ffff\U0002fffe-\U0002ffff\U0003fffe-\U0003ffff\U0004fffe-\U0004ffff\U0005fffe-\U0005ffff\U0006fffe-\U0006ffff\U0007fffe-\U0007ffff\U0008fffe-\U0008ffff\U0009fffe-\U0009ffff\U000afffe-\U000affff\U000bfffe-\U000bffff\U000cfffe-\U000cffff\U000dfffe-\U000dffff\U000efffe-\U000effff\U000ffffe-\U000fffff\U0010fffe-\U0010ffff]')))) h))
        when $1 collate "C" !~ '[^ \u0001-\u001f\u007f-\u00a0\u00ad\u034f\u0378-\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0590\u05ca-\u05cf\u05eb-\u05ee\u05f5-\u0605\u061c\u06dd\u070e-\u070f\u074b-\u074c\u07b2-\u07bf\u07fb-\u07fc\u082e-\u082f\u083f\u085c-\u085d\u085f\u086b-\u086f\u0890-\u0896\u08e2\u0984\u098d-\u098e\u0991-\u0992\u09a9\u09b1\u09b3-\u09b5\u09ba-\u09bb\u09c5-\u09c6\u09c9-\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4-\u09e5\u09ff-\u0a00\u0a04\u0a0b-\u0a0e\u0a11-\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a-\u0a3b\u0a3d\u0a43-\u0a46\u0a49-\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e\u0a92\u0aa9\u0ab1\u0ab4\u0aba-\u0abb\u0ac6\u0aca\u0ace-\u0acf\u0ad1-\u0adf\u0ae4-\u0ae5\u0af2-\u0af8\u0b00\u0b04\u0b0d-\u0b0e\u0b11-\u0b12\u0b29\u0b31\u0b34\u0b3a-\u0b3b\u0b45-\u0b46\u0b49-\u0b4a\u0b4e-\u0b52\u0b58-\u0b5b\u0b5e\u0b64-\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9\u0bce-\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a-\u0c3b\u0c45\u0c49\u0c4e-\u0c54\u0c57\u0c5b\u0c5e-\u0c5f\u0c64-\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4\u0cba-\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdb\u0cdf\u0ce4-\u0ce5\u0cf0\u0cf4-\u0cff\u0d0d\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64-\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe-\u0dbf\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0-\u0df1\u0df5-\u0e00\u0e3b-\u0e3e\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe-\u0ebf\u0ec5\u0ec7\u0ecf\u0eda-\u0edb\u0ee0-\u0eff\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce-\u10cf\u115f-\u1160\u1249\u124e-\u124f\u1257\u1259\u125e-\u125f\u1289\u128e-\u128f\u12b1\u12b6-\u12b7\u12bf\u12c1\u12c6-\u12c7\u12d7\u1311\u1316-\u1317\u135b-\u135c\u137d-\u137f\u139a-\u139f\u13f6-\u13f7\u13fe-\u13ff\u1680\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771\u1774-\u177f\u17b4-\u17b5\u17de-\u17df\u17ea-\u17ef\u17fa-\u17ff\u180b-\u180f\u181a-\u181f\u1879-\u187f\u18ab-\u18af\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e-\u196f\u1975-\u197f\u19ac-\u19af\u19ca-\u19cf\u19db-\u19dd\u1a1c-\u1a1d\u1a5f\u1a7d-\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae-\u1aaf\u1af1-\u1aff\u1b4d\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c8b-\u1c8f\u1cbb-\u1cbc\u1cc8-\u1ccf\u1cfb-\u1cff\u1f16-\u1f17\u1f1e-\u1f1f\u1f46-\u1f47\u1f4e-\u1f4f\u1f58\u1f5a\u1f5c\u1f5e\u1f7e-\u1f7f\u1fb5\u1fc5\u1fd4-\u1fd5\u1fdc\u1ff0-\u1ff1\u1ff5\u1fff-\u200f\u2028-\u202f\u205f-\u206f\u2072-\u2073\u20c5-\u20cf\u20f1-\u20ff\u218c-\u218f\u242a-\u243f\u244b-\u245f\u2800\u2b74-\u2b75\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e-\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e5f\u2e64-\u2e7f\u2e9a\u2ef4-\u2eff\u2fd6-\u2fef\u3000\u3040\u3097-\u3098\u3100-\u3104\u3130\u3164\u318f\u31e6-\u31ee\u321f\ua48d-\ua48f\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7de-\ua7e1\ua7e3-\ua7f0\ua82d-\ua82f\ua83a-\ua83f\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff\uaa37-\uaa3f\uaa4e-\uaa4f\uaa5a-\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07-\uab08\uab0f-\uab10\uab17-\uab1f\uab27\uab2f\uab6e-\uab6f\uabee-\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e-\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f\ufb42\ufb45\ufdd0-\ufdef\ufe00-\ufe0f\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffa0\uffbf-\uffc1\uffc8-\uffc9\uffd0-\uffd1\uffd8-\uffd9\uffdd-\uffdf\uffe7\uffef-\uffff\U0001000c\U00010027\U0001003b\U0001003e\U0001004e-\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7\U000103d6-\U000103ff\U0001049e-\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105bf\U000105f4-\U000105ff\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1\U000107c0-\U000107ff\U00010806-\U00010807\U00010809\U00010836\U00010839-\U0001083b\U0001083d-\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U0001095a-\U0001097f\U000109b8-\U000109bb\U000109d0-\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18\U00010a36-\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38\U00010b56-\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9\U00010d28-\U00010d2f\U00010d3a-\U00010d3f\U00010d66-\U00010d68\U00010d86-\U00010d8d\U00010d90-\U00010e5f\U00010e7f\U00010eaa\U00010eae-\U00010eaf\U00010eb2-\U00010ec1\U00010ec8\U00010eef\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f\U000111e0\U000111f5-\U000111ff\U00011212\U00011242-\U0001127f\U00011287\U00011289\U0001128e\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304\U0001130d-\U0001130e\U00011311-\U00011312\U00011329\U00011331\U00011334\U0001133a\U00011345-\U00011346\U00011349-\U0001134a\U0001134e-\U0001134f\U00011351-\U00011356\U00011358-\U0001135c\U00011364-\U00011365\U0001136d-\U0001136f\U00011375-\U0001137f\U0001138a\U0001138c-\U0001138d\U0001138f\U000113b6\U000113c1\U000113c3-\U000113c4\U000113c6\U000113cb\U000113d6\U000113d9-\U000113e0\U000113e3-\U000113ff\U0001145c\U00011462-\U0001147f\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6-\U000115b7\U000115de-\U000115ff\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf\U000116ca-\U000116cf\U000116e4-\U000116ff\U0001171b-\U0001171c\U0001172c-\U0001172f\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907-\U00011908\U0001190a-\U0001190b\U00011914\U00011917\U00011936\U00011939-\U0001193a\U00011947-\U0001194f\U0001195a-\U0001199f\U000119a8-\U000119a9\U000119d8-\U000119d9\U000119e5-\U000119ff\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011aff\U00011b0b-\U00011b5f\U00011b68-\U00011bbf\U00011be2-\U00011bef\U00011bfa-\U00011bff\U00011c09\U00011c37\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90-\U00011c91\U00011ca8\U00011cb7-\U00011cff\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f\U00011daa-\U00011daf\U00011ddc-\U00011ddf\U00011dea-\U00011def\U00011df2-\U00011edf\U00011ef9-\U00011eff\U00011f11\U00011f3b-\U00011f3d\U00011f5b-\U00011faf\U00011fb1-\U00011fbf\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U00012544-\U0001254f\U00012687-\U00012f8f\U00012ff3-\U00012fff\U00013430-\U0001343f\U00013441-\U00013442\U00013456-\U0001345f\U000143fb-\U000143ff\U00014647-\U000160ff\U0001613a-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d\U00016abf\U00016aca-\U00016acf\U00016aee-\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016d3f\U00016d7a-\U00016e3f\U00016e9b-\U00016e9f\U00016eb9-\U00016eba\U00016ed4-\U00016eff\U00016f4b-\U00016f4e\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe4-\U00016fef\U00016ff7-\U00016fff\U00018cdb-\U00018cfe\U00018d21-\U00018d7f\U00018df3-\U00018dff\U00019192-\U0001919f\U000191d3-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b129-\U0001b131\U0001b133-\U0001b14f\U0001b153-\U0001b154\U0001b156-\U0001b163\U0001b169-\U0001b16f\U0001b2fc-\U0001bbff\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a-\U0001bc9b\U0001bca0-\U0001cbff\U0001ccfd-\U0001ccff\U0001ceb4-\U0001ceb9\U0001ced1\U0001ced5-\U0001cedc\U0001cefe-\U0001ceff\U0001cf2e-\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff\U0001d0f6-\U0001d0ff\U0001d159\U0001d173-\U0001d17a\U0001d246-\U0001d24f\U0001d282-\U0001d2bf\U0001d2d4-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455\U0001d49d\U0001d4a0-\U0001d4a1\U0001d4a3-\U0001d4a4\U0001d4a7-\U0001d4a8\U0001d4ad\U0001d4ba\U0001d4bc\U0001d4c4\U0001d506\U0001d50b-\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a7\U0001d7cc-\U0001d7cd\U0001da8c-\U0001da9a\U0001daa0\U0001dab0-\U0001daff\U0001db1d-\U0001deff\U0001df82-\U0001df8f\U0001df97-\U0001dfcc\U0001e007\U0001e019-\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e02f\U0001e06e-\U0001e08e\U0001e090-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e-\U0001e13f\U0001e14a-\U0001e14d\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e4cf\U0001e4fa-\U0001e5cf\U0001e5fb-\U0001e5fe\U0001e600-\U0001e6bf\U0001e6df\U0001e6f6-\U0001e6fd\U0001e700-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5-\U0001e8c6\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25-\U0001ee26\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55-\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c\U0001ee5e\U0001ee60\U0001ee63\U0001ee65-\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af-\U0001f0b0\U0001f0c0\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1af-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6da-\U0001f6db\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f7dc-\U0001f7df\U0001f7ec-\U0001f7ef\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8af\U0001f8bc-\U0001f8bf\U0001f8c2-\U0001f8cf\U0001f8d9-\U0001f8ff\U0001fa58-\U0001fa5f\U0001fa6e-\U0001fa6f\U0001fa7d-\U0001fa7f\U0001fac7\U0001fac9-\U0001facb\U0001fade\U0001faec-\U0001faee\U0001fafb-\U0001faff\U0001fb93\U0001fbfb-\U0001ffff\U0002a6e0-\U0002a6ff\U0002b81f\U0002ceae-\U0002ceaf\U0002ebe1-\U0002ebef\U0002ee5e-\U0002f7ff\U0002fa1e-\U0002ffff\U0003134b-\U0003134f\U0003347a-\U0003cfff\U0003fc40-\U0010ffff]' then 'this must not be empty' end
$function$;

CREATE OR REPLACE FUNCTION noshi.timeline()
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare written text := '00000000';
begin
    begin
        written := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
    exception when feature_not_supported or object_not_in_prerequisite_state or insufficient_privilege or undefined_function then null;
    end;
    return written || coalesce((select '.' || s.era from server_seen s where s.era > 0), '');
end $function$;

CREATE OR REPLACE FUNCTION noshi.traceparent(given text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    select format('00-%s-%s-0%s', m[2], m[3], case when m[4] ~ '[13579bdf]$' then 1 else 0 end)
    from regexp_match(given, '^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$') m
    where m[1] <> 'ff' and (m[1] <> '00' or m[5] is null) and m[2] <> repeat('0', 32) and m[3] <> repeat('0', 16)
$function$;

CREATE OR REPLACE FUNCTION noshi.trade_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if not exists (select from gift_trade t where t.id = new.state -> 'trade' ->> 'id' and t.job = new.id and t.provider = new.state -> 'trade' ->> 'provider') then
        raise exception 'job % is called under no trade that was saved for it', new.id using errcode = 'NS403', hint = 'Nothing was written.';
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.trigger_schedule(p_name text, p_reason text)
 RETURNS TABLE(job bigint, id text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    s schedule;
    due timestamptz;
    fired_job bigint;
begin
    perform must('operate');
    perform reason_given(p_reason);
    s := schedule_locked(p_name);
    -- Under the lock, so that no two are at one instant.
    due := clock_timestamp();
    select j into fired_job from enqueue_scheduled(s, array[due]) j;
    update schedule o set last_job = fired_job, fired = o.fired + 1 where o.name = p_name;
    perform record('schedule trigger', 'schedule/' || p_name, p_reason, null, jsonb_build_object('due', instant(due), 'job', fired_job));
    return query select fired_job, replace(s.key, '{due}', instant(due));
end $function$;

CREATE OR REPLACE FUNCTION noshi.undigested_addresses(p_keys text[])
 RETURNS TABLE(id text, key_id text, nonce bytea, ciphertext bytea)
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
    with next as (
        select s.id from suppression s
        where s.digest is null and s.key_id = any(p_keys)
          and (s.tried_at is null or s.tried_at not between clock_timestamp() - interval '1 minute' and clock_timestamp())
        order by s.tried_at nulls first limit 100 for update skip locked),
    tried as (update suppression s set tried_at = clock_timestamp() from next where s.id = next.id returning s.id)
    select t.id, s.key_id, s.nonce, s.ciphertext
    from tried t join noshi_sealed.sealed s on s.what = 'suppressed' and s.subject = t.id
$function$;

CREATE OR REPLACE FUNCTION noshi.unopened_keys()
 RETURNS SETOF text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    with w as (select keys from worker where dead_at is null and stopped_at is null)
    select s.id from sealed_keys() s(id) where exists (select from w) and not exists (select from w where w.keys is null or s.id = any (w.keys))
$function$;

CREATE OR REPLACE FUNCTION noshi.unsettle_batch()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    update batch set settled_at = null, totals = null, counted_at = null where id = new.batch and settled_at is not null;
    return null;
end $function$;

CREATE OR REPLACE FUNCTION noshi.use_points(p_job bigint)
 RETURNS TABLE(entry bigint, code text, detail text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare a jsonb := running_job(p_job, 'point_exchange');
begin
    if a is null then
        return;
    end if;
    -- The gift is ordered in this very transaction: one that is there before any points were used is not this exchange's.
    if exists (select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || (a ->> 'exchange'))
       and not exists (select from point_entry e where e.key = 'use:' || (a ->> 'exchange')) then
        return query select null::bigint, 'points_conflict', 'a gift of this exchange is there, and no points were used for it';
        return;
    end if;
    return query select u.entry, point_refusal(u.outcome), u.detail
        from book_use(clock_timestamp(), 'use:' || (a ->> 'exchange'), a ->> 'user', (a ->> 'points')::bigint, a ->> 'area', p_job) u;
end $function$;

CREATE OR REPLACE FUNCTION noshi.use_token()
 RETURNS TABLE(id text, owner text, scopes text[], per_second integer)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
begin
    update token t set last_used_at = clock_timestamp() from shown_token() s
    where t.id = s.id and coalesce(t.last_used_at < clock_timestamp() - interval '1 minute', true);
    return query select s.id, s.owner, s.scopes, s.per_second from shown_token() s;
end $function$;

CREATE OR REPLACE FUNCTION noshi.validate_batch(p_batch bigint, p_rows integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET enable_seqscan TO 'on'
 SET enable_hashjoin TO 'on'
 SET work_mem TO '64MB'
AS $function$
declare
    b batch := batch_locked(p_batch);
    staged bigint;
    needed boolean;
begin
    perform noshi.must('enqueue');
    if b.validated_at is not null then
        return b.needs_approval;
    end if;
    if b.submitted_by <> noshi.who() then
        raise exception 'batch % was submitted by %', b.id, b.submitted_by using errcode = 'NS403';
    end if;
    if b.invalid_at is not null or b.cancelled_at is not null then
        raise exception 'batch % is not being received', b.id using errcode = 'NS409';
    end if;
    -- Rows that another session of the submitter has inserted and not committed hold its key: these are waited for, so that none comes after the judgement.
    perform from batch where id = b.id for update;
    select count(*) into staged from batch_row where batch = b.id;
    if exists (select from batch_row r where r.batch = b.id and ((b.kind <> 'stores') <> (r.amount is not null) or (b.kind = 'points') <> (r.currency is not distinct from 'PT')))
       or exists (select from batch_row r where r.batch = b.id group by r.key having count(*) > 1) then
        raise exception 'batch % has rows that are no %, or one id twice', b.id, b.kind using errcode = 'NS400';
    end if;
    if staged = 0 or staged is distinct from p_rows then
        raise exception 'batch % has % rows, not the % of its file', b.id, staged, p_rows using errcode = 'NS409';
    end if;
    needed := batch_is_large(b, noshi.who());
    update batch set rows = staged, validated_at = clock_timestamp(), needs_approval = needed, approval_digest = batch_covers(b, staged) where id = b.id;
    perform batch_log(b.id, 'validate', null, case when needed then 'a second person must approve' else 'below the threshold of approval' end);
    return needed;
end $function$;

CREATE OR REPLACE FUNCTION noshi.verify_audit()
 RETURNS TABLE(seq bigint, audit bigint, fault text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    r record;
    h audit_head;
    expected bytea := sha256('noshi');
    next bigint := 1;
begin
    for r in select l.seq, l.audit, l.hash, a as act from audit_link l left join audit a on a.id = l.audit order by l.seq loop
        if r.seq <> next then
            return query select next, null::bigint, 'a link is missing';
            next := r.seq;
        end if;
        if r.act is null then
            return query select r.seq, r.audit, 'its act is missing';
        elsif r.hash is distinct from audit_digest(expected, r.act) then
            return query select r.seq, r.audit, 'the act, or one before it, is not what was written';
        end if;
        expected := r.hash;
        next := next + 1;
    end loop;
    return query select null::bigint, a.id, 'it has no link' from audit a where not exists (select from audit_link l where l.audit = a.id) and not exists (select from audit_unlinked u where u.audit = a.id) order by a.id;
    select * into h from audit_head;
    if (h.seq, h.hash) is distinct from (next - 1, expected) then
        return query select h.seq, null::bigint, 'the head is not the last link';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION noshi.verify_exchanges()
 RETURNS TABLE(equation text, subject text, fault text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
    with x as (select e.id as entry, substr(e.key, 5) as id from point_entry e where e.kind = 'use' and e.job is not null and e.key like 'use:%')
    select 'no gift, so the points are back', format('exchange %s', x.id), 'its gift failed, and nothing returns its points'
    from x
    where exists (
            select from job g where g.kind = 'gift_issuance' and g.key = 'exchange/' || x.id and g.status = 'failed'
            union all
            select from tombstone g where g.kind = 'gift_issuance' and g.key = 'exchange/' || x.id and g.status = 'failed')
      and live_gift('exchange/' || x.id) is null
      and not exists (select from point_entry r where r.reverses = x.entry)
      and not exists (select from job r where r.kind = 'point_reversal' and r.key = x.id and r.status not in ('completed', 'failed', 'cancelled'))
    union all
    select 'the points are back, so there is no gift', format('exchange %s', x.id), format('its points are back, and its gift %s was issued and is not void', live_gift('exchange/' || x.id))
    from x where exists (select from point_entry r where r.reverses = x.entry) and live_gift('exchange/' || x.id) is not null
    union all
    select 'one live gift a grant', format('grant %s', l.grant_id), format('%s of its gifts are live', l.live)
    from (select t.grant_id, count(*) as live from gift_trade t join gift_outcome i on i.trade = t.id and i.outcome = 'issued'
          where t.generation > 0 or exists (select from gift_trade o where o.grant_id = t.grant_id and o.generation > t.generation)
          group by t.grant_id
          having count(*) filter (where not exists (select from gift_outcome v where v.trade = t.id and v.outcome = 'void')) > 1) l
$function$;

CREATE OR REPLACE FUNCTION noshi.verify_points()
 RETURNS TABLE(equation text, subject text, fault text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
 SET work_mem TO '64MB'
 SET standard_conforming_strings TO 'on'
AS $function$
    with last as materialized (select distinct on (user_id) user_id, balance, at from point_entry order by user_id, seq desc)
    select 'guards', format('trigger %s of %s', t.tgname, t.tgrelid::regclass), 'it is disabled'
    from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where c.relnamespace = 'noshi'::regnamespace and (c.relname like 'point\_%' or c.relname = 'benefit_exercise') and t.tgenabled <> 'O'
    union all
    select 'debits = credits = amount', format('entry %s', e.id),
           format('amount %s, debits %s, credits %s, users %s', e.amount, coalesce(s.debit, 0), coalesce(s.credit, 0), coalesce(s.held, 0))
    from point_entry e left join (
        select l.entry, sum(l.amount) filter (where l.side = 'D') as debit, sum(l.amount) filter (where l.side = 'C') as credit,
               sum(case l.side when 'C' then l.amount else -l.amount end) filter (where l.account = 'user_points') as held
        from point_line l group by l.entry) s on s.entry = e.id
    where (coalesce(s.debit, 0), coalesce(s.credit, 0), coalesce(s.held, 0)) is distinct from (abs(e.amount)::numeric, abs(e.amount)::numeric, e.amount::numeric)
    union all
    select 'accounts of its kind', format('entry %s', e.id), format('a %s on %s', e.kind, l.account)
    from point_line l join point_entry e on e.id = l.entry where l.account not in ('user_points', point_contra(e.kind))
    union all
    select 'amount = lots - allocations', format('entry %s', e.id),
           format('%s of %s, lots %s, allocations %s', e.kind, e.amount, coalesce(l.amount, 0), coalesce(a.amount, 0))
    from point_entry e
    left join (select entry, sum(amount) as amount from point_lot group by entry) l on l.entry = e.id
    left join (select entry, sum(amount) as amount from point_allocation group by entry) a on a.entry = e.id
    where coalesce(l.amount, 0) <> greatest(e.amount, 0) or coalesce(a.amount, 0) <> greatest(-e.amount, 0)
    union all
    select 'remaining = amount - allocations', format('lot %s', l.id),
           format('%s of %s remain, allocated are %s', l.remaining, l.amount, coalesce(a.amount, 0))
    from point_lot l left join (select lot, sum(amount) as amount from point_allocation group by lot) a on a.lot = l.id
    where l.remaining <> l.amount - coalesce(a.amount, 0)
    union all
    select 'balance = open lots', format('user %s', coalesce(e.user_id, l.user_id)),
           format('balance %s, open lots %s', coalesce(e.balance, 0), coalesce(l.remaining, 0))
    from last e full join (select user_id, sum(remaining) as remaining from point_lot where open group by user_id) l on l.user_id = e.user_id
    where coalesce(e.balance, 0) <> coalesce(l.remaining, 0)
    union all
    select 'entry follows entry', format('entry %s', e.id),
           format('number %s after %s, balance %s after %s and %s, at %s after %s', e.seq, coalesce(e.seq_before, 0), e.balance,
                  coalesce(e.balance_before, 0), e.amount, e.at, e.at_before)
    from (select id, seq, balance, amount, at, lag(seq) over w as seq_before, lag(balance) over w as balance_before, lag(at) over w as at_before
          from point_entry window w as (partition by user_id order by seq)) e
    where e.seq <> coalesce(e.seq_before, 0) + 1 or e.balance <> coalesce(e.balance_before, 0) + e.amount or e.at < e.at_before
    union all
    select 'lots of their entry', format('lot %s', l.id), format('of %s, granted at %s until %s, by a %s of %s at %s',
           l.user_id, l.granted_at, l.expires_at, e.kind, e.user_id, e.at)
    from point_lot l join point_entry e on e.id = l.entry
    where l.user_id <> e.user_id or l.granted_at > e.at or l.expires_at < e.at or (e.kind = 'grant' and l.granted_at <> e.at)
    union all
    select 'spent by its owner, in time, in its area', format('lot %s, entry %s', l.id, e.id),
           format('lot of %s until %s in %s, %s of %s at %s in %s', l.user_id, l.expires_at, coalesce(l.area, 'any area'),
                  e.kind, e.user_id, e.at, coalesce(e.area, 'no area'))
    from point_allocation a join point_lot l on l.id = a.lot join point_entry e on e.id = a.entry join point_entry g on g.id = l.entry
    where l.user_id <> e.user_id or e.at < g.at
       or case e.kind when 'expire' then l.expires_at <> e.at or e.key <> 'expire:' || l.id
                      when 'use' then l.expires_at <= e.at or l.area <> coalesce(e.area, '')
                      else l.expires_at <= e.at end
    union all
    select 'no entry overtakes an expiry', format('lot %s', l.id), format('due at %s, %s has an entry at %s', l.expires_at, l.user_id, e.at)
    from point_lot l join last e on e.user_id = l.user_id
    where l.open and l.expires_at < e.at
    union all
    select 'a use is taken back as it was', format('entry %s', r.id), format('%s of %s takes back %s of %s', r.amount, r.user_id, u.amount, u.user_id)
    from point_entry r join point_entry u on u.id = r.reverses
    where u.kind <> 'use' or r.user_id <> u.user_id or r.amount <> -u.amount
       or (select array_agg((l.amount, l.granted_at, l.area) order by l.amount, l.granted_at, l.area) from point_lot l where l.entry = r.id)
          is distinct from (select array_agg((a.amount, l.granted_at, l.area) order by a.amount, l.granted_at, l.area)
                            from point_allocation a join point_lot l on l.id = a.lot where a.entry = u.id)
    union all
    select 'a grant exercises a benefit', format('exercise %s', x.id), format('%s of %s by %s', x.benefit, x.source, x.user_id)
    from benefit_exercise x left join point_entry e on e.exercise = x.id
    where e.id is null or e.user_id <> x.user_id or e.at <> x.at
    union all
    select 'nothing after a withdrawal', format('user %s', w.user_id), format('withdrawn by entry %s, then entry %s', w.id, e.id)
    from (select distinct on (user_id) user_id, id, seq from point_entry where kind = 'withdraw' order by user_id, seq) w
    join point_entry e on e.user_id = w.user_id and e.seq > w.seq
    where e.kind in ('grant', 'use')
       or (e.kind <> 'withdraw' and not exists (select from point_entry n where n.user_id = e.user_id and n.seq > e.seq))
$function$;

CREATE OR REPLACE FUNCTION noshi.wait_for_audit_head()
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET lock_timeout TO '1s'
AS $function$
begin
    perform from audit_head for update;
    return true;
exception when lock_not_available then
    return false;
end $function$;

CREATE OR REPLACE FUNCTION noshi.wait_for_requests()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
 SET lock_timeout TO '1s'
AS $function$
begin
    lock table lost_call in access exclusive mode;
exception when lock_not_available then
end $function$;

CREATE OR REPLACE FUNCTION noshi.went_back()
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    s server_seen;
    start constant text := extract(epoch from pg_postmaster_start_time())::text;
begin
    select * into s from server_seen for update;
    -- Who comes second finds the change, and testifies for it.
    if s.timeline = timeline() then
        -- A copy is put in place beneath a server that is down. So nobody makes the fleet stop and look again and again.
        if s.era_of = start then
            raise exception 'of this start of the server that was said, and the fleet has dealt with it' using errcode = 'NS403',
                hint = 'Nothing was changed. This worker claims nothing: start it anew, and see who said it by `noshi doctor` and `noshi audit list`.';
        end if;
        update server_seen set era = greatest(s.era + 1, floor(extract(epoch from clock_timestamp()))::bigint), era_of = start;
        perform see_server();
        update failover set said_by = session_user where timeline = timeline();
        perform record('restore copy', 'database', 'a worker says that this database is older than what it acknowledged', null,
            jsonb_build_object('timeline', timeline()), session_user);
    end if;
    return server();
end $function$;

CREATE OR REPLACE FUNCTION noshi.who()
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if coalesce(current_setting('noshi.token', true), '') = '' then
        return person(session_user);
    end if;
    return (select t.owner from shown_token() t);
end $function$;

CREATE OR REPLACE FUNCTION noshi.withdraw_points(p_job bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
declare
    a jsonb := running_job(p_job, 'point_withdrawal');
    booked record;
begin
    if a is null then
        return null;
    end if;
    select * into strict booked from book_withdrawal(clock_timestamp(), 'withdraw:' || (a ->> 'user'), a ->> 'user', p_job);
    return booked.entry;
end $function$;

CREATE OR REPLACE FUNCTION noshi.word_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'noshi', 'pg_temp'
AS $function$
begin
    if exists (select from gift_outcome i where i.trade = new.trade and i.outcome = 'issued')
        and not exists (select from gift_outcome v where v.trade = new.trade and v.outcome = 'void') then
        raise exception 'trade % was issued: only its partner can say that it is void', new.trade using errcode = 'NS409';
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION noshi.worker_guard()
 RETURNS trigger
 LANGUAGE plpgsql
 SET "TimeZone" TO 'UTC'
AS $function$
begin
    if old.login = session_user and (old.dead_at is null or new.dead_at = old.dead_at)
            -- When it was heard is now: how much a failover lost is judged by it.
            and (new.seen_at = old.seen_at or new.seen_at between clock_timestamp() - interval '5 seconds' and clock_timestamp()) or (old.dead_at is null and new.dead_at is not null and old.seen_at < clock_timestamp() - interval '400 milliseconds'
        and (new.seen_at, new.stopped_at, new.beats, new.keys) is not distinct from (old.seen_at, old.stopped_at, old.beats, old.keys)) then
        return new;
    end if;
    raise exception 'worker % is of another login', old.id using errcode = 'NS403', hint = 'Nothing was written.';
end $function$;

CREATE OR REPLACE FUNCTION noshi.worth(args jsonb)
 RETURNS bigint
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
    return case when jsonb_path_exists($1, '$.value.amount ? (@.type() == "number" && @ >= 1 && @ <= 9000000000000000 && @ == @.floor())')
        then ($1 -> 'value' ->> 'amount')::numeric::bigint end;
end $function$;
