-- Ids that producers own (CloudEvents): one unique index over all of them, aged by when they arrived
-- in the ledger. Locks nothing that exists: all is new.

create table event_seen_by_id (
    -- BLAKE3 of tenant, source, producer and id, the upper four bits set: above all of log lines.
    identity uuid primary key
        constraint event_seen_by_id_identity check (identity >= 'f0000000-0000-0000-0000-000000000000'),
    part bigint not null,
    payload bigint not null,                     -- digest of what the event said
    chain integer not null,
    arrived_on date not null default (now() at time zone 'UTC')::date
);
create index event_seen_by_id_arrived on event_seen_by_id (arrived_on);

-- Deletes ids that arrived before this day, at most so many, and none that a floor may still need,
-- whatever the caller says. An event may lie 35 days back and 5 minutes ahead of its record, and the
-- floors of sources follow the watermark by the 3 days of log lines, so 32 days less; a day for the
-- minutes, and one since a process may still fold under the floor that it read a moment ago.
create function drop_event_seen_by_id_before(day date, rows_max integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    deleted integer;
    least_floor timestamptz;
begin
    select case when not bool_or(s.floor_at is null) then min(s.floor_at) end into least_floor
    from source s
    where s.retired_at is null and exists (select from chain c where c.source = s.id);
    if least_floor is null then
        return 0;
    end if;
    day := least(day, (least_floor at time zone 'UTC')::date - 34);
    delete from event_seen_by_id where identity = any (array(
        select e.identity from event_seen_by_id e where e.arrived_on < day
        limit rows_max for update skip locked
    ));
    get diagnostics deleted = row_count;
    return deleted;
end $$;
revoke all on function drop_event_seen_by_id_before(date, integer) from public;
