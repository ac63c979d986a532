-- Policies in force and the accounts of their limits. New tables; the two that exist get a column
-- without a default and a wider check: quick, but the lock waits for the batches under way, and batches
-- wait for it meanwhile.

-- The policy files that were put in force together; a version never changes.
create table policy_set (
    version bigint generated always as identity primary key,
    content text not null,                       -- the files with their names, in canonical form
    content_hash uuid not null,                  -- BLAKE3-128 of content
    origin text not null,                        -- where they came from, for people
    applied_at timestamptz not null default clock_timestamp()
);

-- The limits of a version that count from the log, and from when on each counts all of its use.
create table policy_limit (
    version bigint not null references policy_set,
    limit_id uuid not null,                      -- the identity of its counters
    policy text not null,
    attachment text not null,                    -- empty for the unnamed one
    name text not null,
    whole_from timestamptz not null,
    primary key (version, limit_id)
);

do $$
declare
    name text;
begin
    foreach name in array array['policy_set', 'policy_limit'] loop
        execute format('create trigger %I before update or delete on %I for each row '
            'execute function refuse_change()', name || '_append_only', name);
        execute format('create trigger %I before truncate on %I for each statement '
            'execute function refuse_change()', name || '_no_truncate', name);
    end loop;
end $$;

alter table in_force add column policies bigint references policy_set;

alter table applied_at_start
    drop constraint applied_at_start_kind,
    add constraint applied_at_start_kind check (kind in ('prices', 'sources', 'policies'));

-- What one origin counted for one key of a limit, by slot. Each chain's owner writes its own rows, in
-- the transaction of the batch. Derived from the journal and not hashed.
create table account (
    counter uuid not null,                       -- the key of the counter: limit, tenant and values
    chain integer not null,                      -- of the postings behind it; 0: the opening
    slot timestamptz not null,                   -- the slot's first instant
    counts_until timestamptz not null,           -- from then on it no longer counts
    sum numeric not null,                        -- whole units; of cost 10^-18 of the currency
    epoch bigint not null,                       -- with part: the revision
    part bigint not null,                        -- that changed it last; of the opening: policy_set
    limit_id uuid not null,
    origin text not null
        constraint account_origin check (origin in ('chain', 'opening', 'adjustment')),
    tenant text not null,
    key_values text[] not null,                  -- in the order of the limit's keys; null: missing
    primary key (counter, chain, slot),
    constraint account_opening check ((chain = 0) = (origin = 'opening'))
);
-- What changed since a part, for whoever follows.
create index account_changed on account (chain, part);
-- What no longer counts, to be deleted; it never changes.
create index account_counted on account (counts_until);

-- Up to which part each chain's accounts were sent to the feed, so that whoever owns the chain next
-- sends what came after it again; of the openings (chain 0) up to which version of the policies.
create table balance_mark (
    chain integer primary key,
    part bigint not null
) with (fillfactor = 50);

-- What one incarnation of an enforcer counted for one key of a limit whose window has an hour or
-- more; it writes what changed each second, so that a crash of all replicas forgets no more.
create table replica_account (
    counter uuid not null,
    replica bigint not null,                     -- its 64 bits
    counts_until timestamptz not null,           -- of its newest slot
    epoch bigint not null,
    number bigint not null,                      -- with epoch: the revision
    total numeric not null,                      -- all that it ever counted
    slots timestamptz[] not null,
    sums numeric[] not null,
    base bytea,                                  -- of a bucket: as the feed writes it
    limit_id uuid not null,
    tenant text not null,
    key_values text[] not null,
    primary key (counter, replica),
    constraint replica_account_slots check (cardinality(slots) = cardinality(sums))
) with (fillfactor = 50);

-- As of series: readers see the tenant that they name, or all with '*'.
alter table account enable row level security, force row level security;
create policy account_of_tenant on account using (
    current_setting('tollbook.tenant', true) in ('*', tenant)
);
alter table replica_account enable row level security, force row level security;
create policy replica_account_of_tenant on replica_account using (
    current_setting('tollbook.tenant', true) in ('*', tenant)
);

-- Deletes rows of accounts whose slots counted last more than an hour ago, of each table at most so
-- many; returns the greater number. Runs as its owner, since no service may delete.
create function delete_old_accounts(rows_max integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    of_chains integer;
    of_replicas integer;
    until timestamptz := clock_timestamp() - interval '1 hour';
begin
    delete from account where ctid = any (array(
        select a.ctid from account a where a.counts_until < until
        limit rows_max for update skip locked
    ));
    get diagnostics of_chains = row_count;
    delete from replica_account where ctid = any (array(
        select r.ctid from replica_account r where r.counts_until < until
        limit rows_max for update skip locked
    ));
    get diagnostics of_replicas = row_count;
    return greatest(of_chains, of_replicas);
end $$;
revoke all on function delete_old_accounts(integer) from public;
