-- Which accounts each part changed, beside the accounts: while an index of `account` held the part, each
-- update moved the row and wrote all of its indexes. Now an update touches none where its page has room.
-- The new tables lock nothing; the rest waits for the batches under way, and batches wait for it meanwhile.

create table account_change (
    chain integer not null,                      -- as in account: 0 is the opening
    part bigint not null,
    counters uuid[] not null,                    -- whose accounts the part changed, each once
    written_at timestamptz not null default clock_timestamp(),
    primary key (chain, part)
);
-- Keys are hashes: there is nothing to compress.
alter table account_change alter column counters set storage external;

-- Up to which part the changes of a chain are gone: whoever knows less of it reads all of its accounts.
create table account_change_floor (
    chain integer primary key,
    part bigint not null
) with (fillfactor = 50);

drop index account_changed;
-- Room for the new versions of a page's rows.
alter table account set (fillfactor = 50);
-- Under the lock of the index's end, so that nothing is written in between.
insert into account_change_floor (chain, part) select chain, max(part) from account group by chain;

-- As before; and deletes notes of changes, after two minutes: readers look each ten seconds, and one that
-- is farther behind reads less where it reads all.
create or replace function delete_old_accounts(rows_max integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    of_chains integer;
    of_replicas integer;
    of_notes integer;
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
    with old as (
        select c.chain, c.part from account_change c
        where c.written_at < clock_timestamp() - interval '2 minutes'
        limit rows_max for update skip locked
    ), deleted as (
        delete from account_change c using old o where c.chain = o.chain and c.part = o.part
        returning c.chain, c.part
    ), floors as (
        insert into account_change_floor as known (chain, part)
        select chain, max(part) from deleted group by chain order by chain
        on conflict (chain) do update set part = greatest(known.part, excluded.part)
    )
    select count(*) into of_notes from deleted;
    return greatest(of_chains, of_replicas, of_notes);
end $$;
