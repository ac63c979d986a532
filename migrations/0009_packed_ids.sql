-- Ids of log lines, packed: a row holds those that one part took of one second of one source, where
-- a row and an index entry an id took half of Postgres's time. Moves what is there, under locks that keep
-- batches out for as long as that takes (some seconds for each million ids). Stop older processes before:
-- their statements fail from now on, as they should, since they would not see what newer ones take.

-- How often ids of a source were taken. Whoever takes some holds its row until the commit, so that
-- takings are numbered in the order of their commits.
create table event_seen_count (
    source integer primary key references source,
    number bigint not null constraint event_seen_count_number check (number >= 0)
) with (fillfactor = 50);

lock table event_seen in access exclusive mode;

create temporary table packed on commit drop as
with of_source as (
    select e.identity, e.chain, e.part,
        -- A retry takes ids of the source whose events it counts; all of one part are of one source.
        coalesce(c.source, (
            select rejected.source from rejection_resolved r join chain rejected on rejected.id = r.chain
            where r.adjustment_chain = e.chain and r.adjustment_part = e.part limit 1
        )) as source,
        -- The upper 48 bits are the event's millisecond.
        ('x' || left(replace(e.identity::text, '-', ''), 12))::bit(48)::bigint / 1000 as second
    from event_seen e join chain c on c.id = e.chain
), numbered as (
    select *, (row_number() over (partition by source, second, chain, part order by identity) - 1) / 250
        as piece
    from of_source
)
select to_timestamp(second) as stretch, source, chain, part,
    string_agg(uuid_send(identity), '' order by identity) as ids
from numbered group by source, second, chain, part, piece;

drop table event_seen;
drop function ensure_event_seen_day(date, uuid, uuid);

-- Ids of log lines, as they lie one after another: 48 bits of the event's millisecond, then 80 bits of
-- its hash. Aged out by dropping days.
create table event_seen (
    stretch timestamptz not null,                -- start of the second that the events began in
    number bigint not null,                      -- which taking of the source's ids
    source integer not null,
    chain integer not null,
    part bigint not null,
    ids bytea not null,                          -- 16 bytes each, ascending, each once
    constraint event_seen_stretch check (extract(epoch from stretch) % 1 = 0),
    -- No more than two rows to a page of 8 KiB, so that none is stored out of line.
    constraint event_seen_ids check (length(ids) between 16 and 4000 and length(ids) % 16 = 0)
) partition by range (stretch);
create index event_seen_stretch_of_source on event_seen (stretch, source, number);
-- Hashes: there is nothing to compress.
alter table event_seen alter column ids set storage plain;
create table event_seen_other partition of event_seen default;

-- Makes the partition of event_seen for a day of UTC, unless it exists.
create function ensure_event_seen_day(day date) returns void
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    starts timestamptz := day::timestamp at time zone 'UTC';
    ends timestamptz := (day + 1)::timestamp at time zone 'UTC';
    name text := 'event_seen_' || to_char(day, 'YYYYMMDD');
begin
    perform pg_advisory_xact_lock(hashtext('tollbook.partitions'));
    if to_regclass(name) is not null
       or exists (select from event_seen_other where stretch >= starts and stretch < ends) then
        return;
    end if;
    execute format('create table %I (like event_seen including defaults including constraints '
        'including storage)', name);
    execute format('alter table event_seen attach partition %I for values from (%L) to (%L)',
        name, starts, ends);
end $$;
revoke all on function ensure_event_seen_day(date) from public;

-- As before; and takes ids away that lie in the default partition.
create or replace function drop_event_seen_before(day date) returns integer
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    name text;
    dropped integer := 0;
    least_floor timestamptz;
begin
    if not pg_try_advisory_xact_lock(hashtext('tollbook.partitions')) then
        return 0;
    end if;
    select min(s.floor_at) into least_floor from source s where s.retired_at is null;
    day := least(day, (least_floor at time zone 'UTC')::date - 1);
    for name in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'event_seen'::regclass and c.relname ~ '^event_seen_\d{8}$'
          and right(c.relname, 8) < to_char(day, 'YYYYMMDD')
    loop
        execute format('drop table %I', name);
        dropped := dropped + 1;
    end loop;
    delete from event_seen_other where stretch < day::timestamp at time zone 'UTC';
    return dropped;
end $$;

do $$
declare
    day date;
begin
    -- The latest: of a log whose times are spread over decades the rest lies in the default partition.
    for day in
        select distinct (stretch at time zone 'UTC')::date from packed order by 1 desc limit 48
    loop
        perform ensure_event_seen_day(day);
    end loop;
end $$;
insert into event_seen (stretch, number, source, chain, part, ids)
select stretch, 0, source, chain, part, ids from packed;
