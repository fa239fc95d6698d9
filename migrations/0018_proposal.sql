set role noshi_owner;
set local check_function_bodies = off;

-- The list of such acts, and the only one: the commands, the interface, the walk and the documents read it.
create table noshi.word_act (act text primary key, what text not null
);

-- What one person may do of these alone within 24 hours, and at most, with whomever; minor units of a currency, or acts where it is ''.
-- The latest row of a currency holds; the schema's owner adds one. Without a row a second person always confirms.
create table noshi.word_cap (
    id        bigint generated always as identity primary key,
    currency  text not null check (currency ~ '^([A-Z]{3})?$'),
    alone     bigint not null check (alone >= 0),
    most      bigint check (most >= alone),
    set_by    text not null default noshi.who(),
    set_at    timestamptz not null default clock_timestamp(),
    constraint times_are_sane check (set_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
);

create table noshi.proposal (
    id               bigint generated always as identity primary key,
    act              text not null references noshi.word_act (act),
    -- job/7, or database.
    target           text not null,
    -- What it was proposed for, as it stood then.
    job              bigint,
    step             integer,
    kind             text,
    key              text,
    at               text,
    in_doubt         boolean,
    restored_to      timestamptz,
    amount           bigint,
    currency         text not null,
    reason           text not null,
    proposed_by      text not null,
    proposed_at      timestamptz not null default clock_timestamp(),
    expires_at       timestamptz not null default clock_timestamp() + interval '24 hours',
    -- Of all of the above that says what will be done.
    digest           bytea not null check (octet_length(digest) = 32),
    decision         text check (decision in ('confirmed', 'alone', 'refused', 'lapsed')),
    decided_by       text,
    decided_at       timestamptz,
    decision_reason  text,
    check ((decision is null) = (decided_at is null)),
    check ((act like 'restore%') = (job is null)),
    check (decision <> 'confirmed' or decided_by <> proposed_by),
    constraint reasons_are_short check (octet_length(reason) <= 4000 and octet_length(decision_reason) <= 4000),
    constraint times_are_sane check ((restored_to is null or restored_to between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00')
        and proposed_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and expires_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'
        and (decided_at is null or decided_at between '1900-01-01 00:00:00+00' and '9999-12-31 00:00:00+00'))
);
create unique index proposal_open on noshi.proposal (target) where decision is null;
create index proposal_of_job on noshi.proposal (job) where job is not null;
create index proposal_of on noshi.proposal (proposed_by, proposed_at);

create function noshi.audit_word_cap() returns trigger language plpgsql security definer
set search_path = noshi, pg_temp
as $$
begin
    perform record('proposal cap', 'cap/word/' || new.currency, null, null, to_jsonb(new));
    return null;
end $$;

-- Carries a decided proposal out; what it says of that is told to whoever decided.
create function noshi.carry_out(p noshi.proposal, p_reason text) returns text language plpgsql
set search_path = noshi, pg_temp
as $$
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
end $$;

-- The second person, over the digest of what that person has read.
create function noshi.confirm_proposal(p_proposal bigint, p_digest bytea, p_reason text) returns text language plpgsql security definer
set search_path = noshi, pg_temp
as $$
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
end $$;

-- Nobody's word stands against a partner's: a gift that is known to have been issued is void when its partner says so.
create function noshi.known_issued(p_job bigint) returns text language sql stable
set search_path = noshi, pg_temp
as $$
    select t.id from gift_trade t join gift_outcome i on i.trade = t.id and i.outcome = 'issued'
    where t.job = $1 and not exists (select from gift_outcome v where v.trade = t.id and v.outcome = 'void') order by t.generation desc limit 1
$$;

-- The law, for exchanges: points come back where no gift is live. A gift is live that was issued, and that its partner has not called void.
create function noshi.live_gift(p_grant text) returns text language sql stable
set search_path = noshi, pg_temp
as $$
    select t.id from gift_trade t join gift_outcome i on i.trade = t.id and i.outcome = 'issued'
    where t.grant_id = $1 and not exists (select from gift_outcome v where v.trade = t.id and v.outcome = 'void' and v.reason is distinct from 'attested')
    order by t.generation desc limit 1
$$;

-- Whether this job may be asked for this act now, whoever asks.
create function noshi.must_be_askable(j noshi.job, p_step integer, p_act text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
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
end $$;

create function noshi.proposal_digest(p noshi.proposal) returns bytea language sql immutable
set search_path = noshi, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, YMD'
as $$
    select sha256(convert_to(jsonb_build_array(p.act, p.target, p.step, p.kind, p.key, p.at, p.in_doubt, p.restored_to, p.amount, p.currency, p.reason, p.proposed_by)::text, 'UTF8'))
$$;

-- A proposal is decided once, and nothing else of it changes.
create function noshi.proposal_guard() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if tg_op = 'DELETE' or old.decision is not null
       or to_jsonb(new) - array['decision', 'decided_by', 'decided_at', 'decision_reason'] <> to_jsonb(old) - array['decision', 'decided_by', 'decided_at', 'decision_reason'] then
        raise exception 'a proposal is decided once, and does not change: % refused', lower(tg_op) using errcode = 'NS001';
    end if;
    return new;
end $$;

create function noshi.proposal_open(p_proposal bigint, p_reason text) returns noshi.proposal language plpgsql
set search_path = noshi, pg_temp
as $$
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
end $$;

-- Proposes. Carried out at once where the owner's cap lets one person do so much alone; `made` is null then.
create function noshi.propose(p_act text, p_job bigint, p_step integer, p_to timestamptz, p_reason text, out made bigint, out done text)
language plpgsql security definer
set search_path = noshi, pg_temp
as $$
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
end $$;

-- By anybody who may operate; whoever made it takes it back so.
create function noshi.refuse_proposal(p_proposal bigint, p_reason text) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare p proposal;
begin
    perform must('operate');
    p := proposal_open(p_proposal, p_reason);
    update proposal set decision = 'refused', decided_by = who(), decided_at = clock_timestamp(), decision_reason = p_reason where id = p.id;
    perform record('proposal refuse', 'proposal/' || p.id, p_reason, null, jsonb_build_object('act', p.act, 'target', p.target, 'proposed_by', p.proposed_by));
end $$;

create function noshi.word_guard() returns trigger language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if exists (select from gift_outcome i where i.trade = new.trade and i.outcome = 'issued')
        and not exists (select from gift_outcome v where v.trade = new.trade and v.outcome = 'void') then
        raise exception 'trade % was issued: only its partner can say that it is void', new.trade using errcode = 'NS409';
    end if;
    return new;
end $$;

create trigger append_only before update or delete on noshi.word_cap for each row execute function noshi.journal_is_append_only();
create trigger no_truncate before truncate on noshi.word_cap for each statement execute function noshi.journal_is_append_only();
create trigger audited after insert on noshi.word_cap for each row execute function noshi.audit_word_cap();
create trigger frozen before update or delete on noshi.proposal for each row execute function noshi.proposal_guard();
create trigger no_truncate before truncate on noshi.proposal for each statement execute function noshi.journal_is_append_only();
create trigger word_is_not_against_a_fact before insert on noshi.gift_outcome for each row
    when (new.outcome = 'void' and new.reason = 'attested') execute function noshi.word_guard();

insert into noshi.word_act (act, what) values
    ('attest_void', 'says that a call had no effect and never will: what was paid for it is given back, or it is called again'),
    ('reissue', 'buys once more, under a new id'),
    ('adopt', 'keeps what could not be taken back'),
    ('restore_mark', 'says to which point the database went back: every unfinished write is in doubt'),
    ('restore_end', 'says that all is known again that was done after that point: gifts are bought without asking first');

revoke all on function noshi.audit_word_cap(), noshi.carry_out(noshi.proposal, text), noshi.confirm_proposal(bigint, bytea, text),
    noshi.known_issued(bigint), noshi.live_gift(text), noshi.must_be_askable(noshi.job, integer, text),
    noshi.proposal_digest(noshi.proposal), noshi.proposal_guard(), noshi.proposal_open(bigint, text),
    noshi.propose(text, bigint, integer, timestamptz, text), noshi.refuse_proposal(bigint, text), noshi.word_guard() from public;
grant execute on function noshi.confirm_proposal(bigint, bytea, text), noshi.propose(text, bigint, integer, timestamptz, text),
    noshi.refuse_proposal(bigint, text) to noshi_operator, noshi_api;
grant select on noshi.proposal, noshi.word_act, noshi.word_cap to noshi_operator, noshi_api;

reset role;
